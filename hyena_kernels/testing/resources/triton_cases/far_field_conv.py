"""Configurations of ``far_field_conv`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton import far_field_blocks, far_field_spectra
from hyena_kernels.backends.triton.far_field_conv import MAX_TILES, config, points, transform_warps
from hyena_kernels.backends.triton.plan import RADIX
from hyena_kernels.backends.triton.support import BLOCK_SIZES, MAX_BLOCKS
from hyena_kernels.testing.resources.triton_case import Case

SETTINGS = {16: 6, 32: 8, 64: 8, 128: 6, 256: 8}
"""Nodes by positions of a block."""

PARTS = {"bf16": 2, "fp16": 3, "fp32": 3}
"""Parts of a signal times its gate."""


def aot_cases() -> list[Case]:
    """Every size of a block in bfloat16 with all gates and results, the largest in other dtypes, every transform."""
    cases = []
    for h in SETTINGS:
        cases += _inside(h, "bf16")
    for dtype in ("fp16", "fp32"):
        cases += _inside(BLOCK_SIZES[1], dtype)
    size = points(1)
    while size <= points(MAX_BLOCKS):
        cases += _over(size)
        size *= 2
    return cases


def _inside(h: int, dtype: str) -> list[Case]:
    own = config(h)
    shape: dict[str, Any] = {"H": h, "S": own.piece, "P": SETTINGS[h], "BLOCKS": own.blocks, "TILES": MAX_TILES}
    name = f"far_field {{}}, h = {h}, {dtype}"
    bare: dict[str, Any] = {"o2": None, "f2": None}
    parts, order = (3, 2) if dtype == "fp32" else (2, 1)
    pairs = {"X_PARTS": PARTS[dtype], "G_PARTS": PARTS[dtype]}
    alone: dict[str, Any] = dict.fromkeys(("g", "g_gate", "g_moments", "near_sums", "skip_sums")) | pairs
    near, moments = far_field_blocks.near_kernel, far_field_blocks.moments_kernel
    forward, backward = ({"TRANSPOSED": transposed, "PARTS": parts, "ORDER": order} for transposed in (False, True))
    return [
        _case(name.format("moments"), moments, dtype, {**shape, **alone}, own.warps),
        _case(name.format("moments and sums"), moments, dtype, {**shape, **pairs}, own.warps),
        _case(name.format("near"), near, dtype, {**shape, **bare, **forward}, own.warps),
        _case(name.format("near, transposed"), near, dtype, {**shape, **backward}, own.warps),
        _case(name.format("diagonals"), far_field_blocks.diagonals_kernel, dtype, {"H": h, "S": own.piece}, 4),
    ]


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
