"""Configurations of ``short_conv`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.short_conv import CONFIGS, backward_kernel, forward_kernel
from hyena_kernels.testing.resources.triton_case import Case


def forward_case(
    name: str,
    dtype: str,
    *,
    config: str,
    taps: int = 3,
    channel_last: bool = False,
    pair: bool = False,
    result: str | None = None,
) -> Case:
    """A case of :func:`forward_kernel` with sizes and strides that are multiples of 16, and its result's dtype."""
    units = ["x_c_stride" if channel_last else "x_t_stride", "y_t_stride", "weight_k_stride", "bias_stride"]
    pointers = {"x": dtype, "weight": "*fp32", "bias": "*fp32", "y": result or dtype}
    constants = {"K": taps, "HAS_BIAS": True, "PAIR": pair}
    return _case(name, forward_kernel, pointers, constants, units, config)


def backward_case(
    name: str,
    dtype: str,
    *,
    taps: int = 3,
    channel_last: bool = False,
    pair: bool = False,
    needs_taps: bool = True,
    result: str | None = None,
) -> Case:
    """A case of :func:`backward_kernel` with sizes and strides that are multiples of 16, and its result's dtype."""
    units = [f"{tensor}_{'c' if channel_last else 't'}_stride" for tensor in ("x", "dx")]
    units += ["dy_t_stride", "weight_k_stride", "bias_stride"]
    pointers = {"dy": result or dtype, "x": dtype, "weight": "*fp32", "bias": "*fp32", "dx": dtype, "sums": "*fp32"}
    constants = {"K": taps, "HAS_BIAS": True, "PAIR": pair, "NEEDS_X": True, "NEEDS_TAPS": needs_taps}
    return _case(name, backward_kernel, pointers, constants, units, "narrow")


def _case(
    name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], units: list[str], config: str
) -> Case:
    block_t, block_c, warps = CONFIGS[config]
    # Marks of packed rows are absent. mixer_varlen.py has them.
    constexprs = {**constants, **dict.fromkeys(units, 1), "BLOCK_T": block_t, "BLOCK_C": block_c, "marks": None}
    signature = dict.fromkeys(kernel.arg_names, "i32:16") | pointers | dict.fromkeys(constexprs, "constexpr")
    # Arguments that launches do not specialise, and the stride of a weight, which is the number of taps.
    signature |= {arg: "i32" for arg in ("batch", "groups", "parts", "weight_c_stride") if arg in signature}
    return Case(name, kernel, signature, constexprs, warps)


def aot_cases() -> list[Case]:
    """Short convolutions with 3 taps, as published. ``mixer.py`` has more of them."""
    return [
        *(forward_case(f"short_conv forward {config} bf16", "*bf16", config=config) for config in CONFIGS),
        forward_case("short_conv forward wide fp32", "*fp32", config="wide"),
        backward_case("short_conv backward bf16", "*bf16"),
        backward_case("short_conv backward channel-last bf16", "*bf16", channel_last=True),
        backward_case("short_conv backward channel-last fp32", "*fp32", channel_last=True),
    ]
