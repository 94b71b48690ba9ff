"""Configurations of ``hyena_mixer_step`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.mixer_step import ROWS, WARPS, step_kernel
from hyena_kernels.backends.triton.support import MAX_WINDOW
from hyena_kernels.testing.resources.triton_case import Case


def aot_cases() -> list[Case]:
    """Published models, which have order 2 and 3 short taps, and the largest of everything."""
    return [
        _case("mixer_step bf16", "*bf16"),
        _case("mixer_step fp32", "*fp32"),
        _case("mixer_step bf16, t in memory", "*bf16", in_memory=True),
        _case("mixer_step fp32, order 3", "*fp32", order=3),
        _case("mixer_step bf16, order 4, 8 taps, window 128", "*bf16", order=4, taps=8, window=MAX_WINDOW),
        _case("mixer_step fp32, order 4, 8 taps, window 128", "*fp32", order=4, taps=8, window=MAX_WINDOW),
    ]


def _case(name: str, dtype: str, *, order: int = 2, taps: int = 3, window: int = 64, in_memory: bool = False) -> Case:
    units = [f"{tensor}_t_stride" for tensor in ("u", "future", "taps")]
    units += ["x_c_stride", "state_k_stride", "weight_k_stride", "bias_stride"]
    constexprs: dict[str, Any] = {"STEPS": order - 1, "TAPS": taps, "HAS_BIAS": True, "T_IN_MEMORY": in_memory}
    constexprs |= {"WINDOW": window, "ROWS": ROWS, **dict.fromkeys(units, 1)}
    signature = dict.fromkeys(step_kernel.arg_names, "i32:16")
    signature |= dict.fromkeys(("x", "short_state", "y"), dtype)
    signature |= dict.fromkeys(("weight", "bias", "u", "future", "taps"), "*fp32")
    # The strides of channels in the short state and in its weight are numbers of taps.
    signature |= {"state_c_stride": "i32", "weight_c_stride": "i32", "t": "*i64" if in_memory else "i32"}
    return Case(name, step_kernel, signature | dict.fromkeys(constexprs, "constexpr"), constexprs, WARPS)
