"""Configurations of ``far_field_conv`` for the resource test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyena_kernels.backends.triton import far_field_blocks, far_field_spectra
from hyena_kernels.backends.triton.far_field_conv import MAX_TILES, configs, points, transform_warps
from hyena_kernels.backends.triton.plan import RADIX
from hyena_kernels.backends.triton.support import BLOCK_SIZES, MAX_BLOCKS
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES
from hyena_kernels.testing.resources.triton_case import Case

NODES = 8

SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of an element."""

PARTS = {"bf16": 2, "fp16": 3, "fp32": 3}
"""Parts of a signal times its gate."""


def aot_cases() -> list[Case]:
    """The largest block in every dtype with all gates and results, the smaller in bfloat16, every transform."""
    cases = []
    h, largest = BLOCK_SIZES
    while h < largest:
        cases += _inside(h, "bf16")
        h *= 2
    for dtype in PARTS:
        cases += _inside(largest, dtype)
    size = points(1)
    while size <= points(MAX_BLOCKS):
        cases += _over(size)
        size *= 2
    return cases


def _inside(h: int, dtype: str) -> list[Case]:
    name = f"far_field {{}}, h = {h}, {dtype}"
    parts, order = (3, 2) if dtype == "fp32" else (2, 1)
    pair = {"X_PARTS": PARTS[dtype], "G_PARTS": PARTS[dtype]}
    alone: dict[str, Any] = dict.fromkeys(("g", "g_gate", "g_moments", "skip_sums")) | pair
    bare: dict[str, Any] = {"o2": None, "f2": None}
    near = {"PARTS": parts, "ORDER": order, "P": NODES}
    kernels: list[tuple[str, str, dict[str, Any]]] = [
        ("moments", "moments", {**alone, "P": NODES}),
        ("moments of both signals", "moments", {**pair, "P": NODES}),
        ("near", "near", {**bare, **near, "TRANSPOSED": False}),
        ("near, transposed", "near", {**near, "TRANSPOSED": True}),
        ("sums", "sums", pair),
    ]
    cases = []
    for label, kernel, constexprs in kernels:
        cases += block_cases(name.format(label), kernel, h, dtype, constexprs)
    # The sums of other dtypes are the same.
    if dtype == "bf16":
        for hopper in (True, False):
            piece = min(configs(hopper)["sums", SIZES[dtype]].piece, h)
            own = f"far_field diagonals, h = {h}, pieces of {piece}"
            case = _case(own, far_field_blocks.diagonals_kernel, dtype, {"H": h, "S": piece}, 8)
            if own not in [each.name for each in cases]:
                cases.append(case)
    return cases


def block_cases(name: str, kernel: str, h: int, dtype: str, constexprs: dict[str, Any]) -> list[Case]:
    """A kernel inside blocks of ``h``, with signals and results of one dtype, on Hopper and on other GPUs."""
    cases = []
    for hopper in (True, False):
        config = configs(hopper)[kernel, SIZES[dtype]]
        shape = {"H": h, "S": min(config.piece, h), "BLOCKS": config.blocks, "TILES": MAX_TILES}
        function = getattr(far_field_blocks, f"{kernel}_kernel")
        own = f"{name}, tiles of {config.blocks}"
        case = _case(own, function, dtype, {**shape, **constexprs}, config.warps)
        absent = tuple(arch for arch in ARCHITECTURES if (arch == 90) != hopper)
        cases.append(replace(case, maxnreg=config.registers, absent=absent))
    return cases


def _over(size: int) -> list[Case]:
    common: dict[str, Any] = {"P": size, "V": RADIX}
    warps = transform_warps(size)
    nodes, mix, spectra = (getattr(far_field_spectra, f"{name}_kernel") for name in ("nodes", "mix", "spectra"))
    return [
        _case(f"far_field spectra {size}", spectra, "fp32", {"SHIFT": 0, "x_point": 1, **common}, warps),
        _case(f"far_field mix {size}", mix, "fp32", {"TRANSPOSED": True, "R": 8, **common}, warps),
        _case(f"far_field nodes {size}", nodes, "fp32", {"R": 8, **common}, warps),
    ]


def _case(name: str, kernel: Any, dtype: str, constexprs: dict[str, Any], warps: int) -> Case:
    signals = ("x", "x_gate", "g", "g_gate", "gate", "o1", "f1", "o2", "f2")
    units = {argument: 1 for argument in kernel.arg_names if argument.endswith("_l") and argument not in constexprs}
    signature = dict.fromkeys(kernel.arg_names, "i32:16") | {"table": "*bf16", "skip_sums": "*fp64"}
    if kernel.arg_names[0] in ("x", "spectra", "x_spectra") and "V" in constexprs:
        signature |= dict.fromkeys(("x", "spectra", "filters", "far", "x_spectra", "g_spectra", "dnodes"), "*fp32")
        signature |= {"table": "*fp32", "inner": "i32", "D": "i32", "rows": "i32", "count": "i32"}
    else:
        signature |= dict.fromkeys(signals, f"*{dtype}")
        signature |= dict.fromkeys(("x_moments", "g_moments", "near_sums", "dnear", "near", "skip", "far"), "*fp32")
        signature |= {"spans": "i32"}
    constexprs = {**units, **constexprs}
    signature = {key: kind for key, kind in signature.items() if key in kernel.arg_names}
    return Case(name, kernel, signature | dict.fromkeys(constexprs, "constexpr"), constexprs, warps, num_stages=1)
