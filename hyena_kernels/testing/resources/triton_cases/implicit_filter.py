"""Configurations of ``implicit_filter`` for the resource test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyena_kernels.backends.triton.filter_kernels import (
    filter_kernel,
    inputs_kernel,
    pack_kernel,
    signals_kernel,
    weights_kernel,
)
from hyena_kernels.backends.triton.filter_sums import parameters_kernel
from hyena_kernels.backends.triton.implicit_filter import (
    BLOCK,
    CHANNELS,
    CONFIGS,
    PACKED_ROWS,
    PROGRAMS,
    rows_at_a_time,
)
from hyena_kernels.testing.resources.triton_case import Case


def aot_cases() -> list[Case]:
    """Networks of every width with a window and 5 features, as in the published models."""
    return [case for width in CONFIGS for case in _cases_of_width(width)]


def _cases_of_width(H: int) -> list[Case]:
    config, E = CONFIGS[H], 16
    tile = {"H": H, "POSITIONS": config.positions}
    summed = {"H": H, "TILE": config.positions, "POSITIONS": config.summed}
    window = {"HAS_WINDOW": True, "t_stride": 1}
    filters = {"OUTPUT": True, "dy_l_stride": 1, "ROWS": CHANNELS, **window}
    plane: dict[str, Any] = {
        "OUTPUT": False,
        "dy_row_stride": 1,
        "dy_l_stride": 1,
        "ROWS": min(H, CHANNELS),
        "HAS_WINDOW": False,
        "t_stride": 1,
    }
    plane |= {"t": None, "deltas": None}
    features = {"E": E, "z_e_stride": 1}
    kernels: list[tuple[str, Any, dict[str, Any]]] = [
        ("pack", pack_kernel, {"H": H, "E": E, "ROWS": PACKED_ROWS, "BLOCK": BLOCK, "TRANSPOSED": True}),
        ("forward", filter_kernel, {**features, "CHANNELS": CHANNELS, "REPEATS": 2, **tile, **window}),
        ("gradient of the output weights", weights_kernel, {"dbias": None, **summed, **filters}),
        ("gradient of hidden weights", weights_kernel, {**summed, **plane}),
        ("gradient of the input weights", inputs_kernel, {**features, "NEEDS_Z": False, **summed}),
        ("gradients of the parameters", parameters_kernel, {"H": H, "E": E, "PROGRAMS": PROGRAMS}),
    ]
    cases = [
        _case(f"H = {H}, {name}", kernel, constexprs, config.warps, milder=H < 64)
        for name, kernel, constexprs in kernels
    ]
    name = f"H = {H}, gradients of the signals"
    signals = {**features, **tile, **window, "BLOCK": BLOCK, "ROWS": rows_at_a_time(H), "dk_l_stride": 1}
    case = _case(name, signals_kernel, signals, config.warps, milder=H < 64)
    if config.registers is None:
        return [*cases, case]
    bounded = replace(case, name=f"{case.name}, bounded", maxnreg=config.registers, absent=(80,))
    return [*cases, replace(case, absent=(90, 100)), bounded]


def _case(name: str, kernel: Any, constexprs: dict[str, Any], warps: int, *, milder: bool) -> Case:
    """A case with sizes as in a launch: strides of the tensors that the launchers allocate are multiples of 16."""
    counts = ("width", "features", "layers", "channels", "channels_padded", "blocks", "rows", "programs")
    multiples = ("low", "halves_low", "length", "columns", "sums_stride", "dy_row_stride", "dk_row_stride")
    unspecialised = {name for name in ("length",) if kernel is not filter_kernel}
    signature = dict.fromkeys(kernel.arg_names, "*fp32") | {"shift": "fp32", "halves": "*fp16"}
    signature |= dict.fromkeys((*counts, "lowest", "first", "z_l_stride", *unspecialised), "i32")
    signature |= dict.fromkeys(set(multiples) - unspecialised, "i32:16") | dict.fromkeys(constexprs, "constexpr")
    signature = {name: kind for name, kind in signature.items() if name in kernel.arg_names}
    return Case(f"implicit_filter {name}", kernel, signature, constexprs, warps, milder=milder)
