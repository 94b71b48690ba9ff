"""Configurations of ``position_dropout`` for the resource test."""

from __future__ import annotations

from hyena_kernels.backends.triton.position_dropout import COLUMNS, ELEMENTS, drop_kernel
from hyena_kernels.testing.resources.triton_case import Case


def aot_cases() -> list[Case]:
    """128 channels of a contiguous tensor, and signals with any strides."""
    cases = [_case(f"position_dropout {dtype}", dtype, {"x_d_stride": 1}) for dtype in ("fp32", "bf16", "fp16")]
    return [*cases, _case("position_dropout fp32, any strides", "fp32", {})]


def _case(name: str, dtype: str, unit: dict[str, int]) -> Case:
    constexprs = {"ROWS": ELEMENTS // COLUMNS, "COLUMNS": COLUMNS, **unit}
    signature = dict.fromkeys(drop_kernel.arg_names, "i32:16") | dict.fromkeys(("x", "y"), f"*{dtype}")
    signature |= {"samples": "*i64", "tiles": "i32", "scale": "fp32"}
    # Arguments that launches do not specialise.
    signature |= dict.fromkeys(("key_low", "key_high", "offset", "threshold"), "i32")
    return Case(name, drop_kernel, signature | dict.fromkeys(constexprs, "constexpr"), constexprs)
