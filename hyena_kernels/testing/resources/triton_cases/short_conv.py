"""Configurations of ``short_conv`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.short_conv import backward_kernel, forward_kernel
from hyena_kernels.backends.triton.short_conv_loop import (
    PLAIN,
    SILU,
    SLOPE,
    few_taps_backward_kernel,
    loop_kernel,
    tap_gradient_kernel,
)
from hyena_kernels.backends.triton.short_conv_tiles import CONFIGS
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


def loop_case(
    name: str,
    dtype: str,
    *,
    taps: int,
    finish: int = PLAIN,
    config: str = "wide",
    channel_last: bool = False,
    state: bool = False,
    flip: bool = False,
) -> Case:
    """A case of :func:`loop_kernel`. It writes the gradient of a convolution in float32, and reads it with ``flip``."""
    order = "c" if channel_last else "t"
    units = [f"x_{order}_stride", f"y_{order}_stride", "weight_k_stride"]
    pointers = {
        "x": "*fp32" if flip else dtype,
        "weight": "*fp32",
        "y": "*fp32" if finish == SLOPE else dtype,
    }
    constants: dict[str, Any] = {"K": taps, "HAS_BIAS": not flip, "HAS_STATE": state, "FLIP": flip, "FINISH": finish}
    optional = {"bias": ("*fp32", not flip), "state": (dtype, state), "dy": (dtype, finish == SLOPE)}
    units += [unit for unit, given in (("state_t_stride", state), ("dy_t_stride", finish == SLOPE)) if given]
    if not flip:
        units.append("bias_stride")
    _add_optional(optional, pointers, constants)
    return _case(name, loop_kernel, pointers, constants, units, config)


def few_taps_backward_case(
    name: str, dtype: str, *, taps: int, active: bool = True, channel_last: bool = False, state: bool = False
) -> Case:
    """A case of :func:`few_taps_backward_kernel` with all gradients."""
    order = "c" if channel_last else "t"
    units = [f"{tensor}_{order}_stride" for tensor in ("dy", "x", "dx")] + ["weight_k_stride", "bias_stride"]
    units += ["state_t_stride", "dstate_t_stride"] if state else []
    pointers = {"dy": dtype, "x": dtype, "weight": "*fp32", "bias": "*fp32", "dx": dtype, "sums": "*fp32"}
    constants: dict[str, Any] = {
        "K": taps,
        "HAS_BIAS": True,
        "HAS_STATE": state,
        "ACTIVE": active,
        "NEEDS_X": True,
        "NEEDS_STATE": state,
        "NEEDS_TAPS": True,
    }
    _add_optional({"state": (dtype, state), "dstate": (dtype, state)}, pointers, constants)
    return _case(name, few_taps_backward_kernel, pointers, constants, units, "narrow")


def tap_gradient_case(
    name: str, dtype: str, *, taps: int, grad: str | None = None, channel_last: bool = False, state: bool = False
) -> Case:
    """A case of :func:`tap_gradient_kernel`, with the dtype of the gradient of the convolution."""
    order = "c" if channel_last else "t"
    units = [f"x_{order}_stride", f"grad_{order}_stride"] + (["state_t_stride"] if state else [])
    pointers = {"grad": grad or dtype, "x": dtype, "sums": "*fp32"}
    constants: dict[str, Any] = {"K": taps, "HAS_STATE": state}
    _add_optional({"state": (dtype, state)}, pointers, constants)
    return _case(name, tap_gradient_kernel, pointers, constants, units, "narrow")


def _add_optional(optional: dict[str, tuple[str, bool]], pointers: dict[str, str], constants: dict[str, Any]) -> None:
    for name, (dtype, given) in optional.items():
        if given:
            pointers[name] = dtype
        else:
            constants[name] = None


def _case(
    name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], units: list[str], config: str
) -> Case:
    block_t, block_c, warps = CONFIGS[config]
    constexprs = {**constants, **dict.fromkeys(units, 1), "BLOCK_T": block_t, "BLOCK_C": block_c}
    signature = dict.fromkeys(kernel.arg_names, "i32:16") | pointers | dict.fromkeys(constexprs, "constexpr")
    # Arguments that launches do not specialise, and the stride of a weight, which is the number of taps.
    plain = ("batch", "groups", "parts", "weight_c_stride", "state_c_stride", "dstate_c_stride")
    signature |= {arg: "i32" for arg in plain if arg in signature}
    return Case(name, kernel, signature, constexprs, warps)


def aot_cases() -> list[Case]:
    """Short convolutions with 3 taps, as published. ``mixer.py`` has more of them."""
    return [
        *(forward_case(f"short_conv forward {config} bf16", "*bf16", config=config) for config in CONFIGS),
        forward_case("short_conv forward wide fp32", "*fp32", config="wide"),
        backward_case("short_conv backward bf16", "*bf16"),
        backward_case("short_conv backward channel-last bf16", "*bf16", channel_last=True),
        backward_case("short_conv backward channel-last fp32", "*fp32", channel_last=True),
        loop_case("short_conv silu forward bf16", "*bf16", taps=4, finish=SILU),
        loop_case("short_conv silu forward channel-last bf16", "*bf16", taps=4, finish=SILU, channel_last=True),
        loop_case(
            "short_conv silu forward narrow state bf16", "*bf16", taps=4, finish=SILU, state=True, config="narrow"
        ),
        loop_case("short_conv 256 taps bf16", "*bf16", taps=256),
        loop_case("short_conv 63 taps silu channel-last fp32", "*fp32", taps=63, finish=SILU, channel_last=True),
        loop_case("short_conv 256 taps slope bf16", "*bf16", taps=256, finish=SLOPE),
        loop_case(
            "short_conv 63 taps slope state channel-last fp32",
            "*fp32",
            taps=63,
            finish=SLOPE,
            channel_last=True,
            state=True,
        ),
        loop_case("short_conv 256 taps transposed bf16", "*bf16", taps=256, flip=True),
        loop_case("short_conv 63 taps transposed channel-last fp32", "*fp32", taps=63, flip=True, channel_last=True),
        few_taps_backward_case("short_conv silu backward bf16", "*bf16", taps=4),
        few_taps_backward_case("short_conv silu backward channel-last bf16", "*bf16", taps=4, channel_last=True),
        few_taps_backward_case("short_conv silu backward state 8 taps fp32", "*fp32", taps=8, state=True),
        few_taps_backward_case("short_conv backward state bf16", "*bf16", taps=4, active=False, state=True),
        tap_gradient_case("short_conv taps of 256 bf16", "*bf16", taps=256),
        tap_gradient_case(
            "short_conv taps of 63 state channel-last fp32", "*fp32", taps=63, channel_last=True, state=True
        ),
    ]
