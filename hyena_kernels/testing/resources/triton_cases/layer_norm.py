"""Configurations of ``layer_norm`` and ``add_layer_norm`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.layer_norm import (
    COLUMNS,
    SUMMED,
    backward_kernel,
    forward_kernel,
    sums_kernel,
    tile,
)
from hyena_kernels.testing.resources.triton_case import Case


def aot_cases() -> list[Case]:
    """Rows of float32 with all results, of published widths and of the widest. The rest is bfloat16, as in training."""
    cases = [case for width in (128, 256, 768, 1024, 4096) for case in _cases_of_width(width)]
    return [*cases, _case("forward 128, no sum", forward_kernel, 128, {"x": None, "total": None})]


def _cases_of_width(width: int) -> list[Case]:
    sums = {"SUMMED": SUMMED, "COLUMNS": COLUMNS}
    return [
        _case(f"forward {width}", forward_kernel, width),
        _case(f"backward {width}", backward_kernel, width),
        _case(f"backward {width}, no sum", backward_kernel, width, {"dsum": None, "copied": None}),
        Case(f"layer_norm sums {width}", sums_kernel, _signature(sums_kernel, {"WIDTH": width, **sums}),
             {"WIDTH": width, **sums}),
    ]  # fmt: skip


def _case(name: str, kernel: Any, width: int, absent: dict[str, Any] | None = None) -> Case:
    constexprs = {**tile(width, backward=kernel is backward_kernel).values, **(absent or {})}
    warps, registers = constexprs.pop("num_warps"), constexprs.pop("maxnreg")
    return Case(f"layer_norm {name}", kernel, _signature(kernel, constexprs), constexprs, warps, maxnreg=registers)


def _signature(kernel: Any, constexprs: dict[str, Any]) -> dict[str, str]:
    signature = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(("x", "y", "dy", "copied"), "*bf16")
    signature |= dict.fromkeys(("residual_stride", "x_stride", "dy_stride", "dsum_stride"), "i32:16")
    signature |= {"rows": "i32", "programs": "i32", "eps": "fp32"} | dict.fromkeys(constexprs, "constexpr")
    return {name: kind for name, kind in signature.items() if name in kernel.arg_names}
