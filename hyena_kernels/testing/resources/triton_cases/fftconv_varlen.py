"""Configurations of ``fftconv_varlen`` for the resource test: kernels of ``fftconv`` that find packed rows."""

from __future__ import annotations

from dataclasses import replace

from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_cases import fftconv

CONFIGURATIONS = (
    "row_forward 1 × 256",
    "row_forward 1 × 4096",
    "row_forward 3 × 2048",
    "row_backward 1 × 256, several rows",
    "row_backward 1 × 1024, several rows",
    "row_backward 1 × 4096",
    "row_backward 3 × 2048",
    "columns_forward 1 × 4096, tile 2",
    "columns_forward 3 × 1024, tile 4",
    "columns_inverse 1 × 4096, tile 2",
    "columns_inverse 3 × 1024, tile 4",
)
"""The least and the most points of each kernel, and what has the fewest registers to spare."""

ROWS = {"starts": "*i64", "lengths": "*i64", "count": "i32"}
"""Arguments that are absent elsewhere."""


def aot_cases() -> list[Case]:
    """Some configurations of ``fftconv`` with packed rows. Transforms of scratch do not know of them."""
    return [_packed(case) for case in fftconv.aot_cases() if case.name in CONFIGURATIONS]


def _packed(case: Case) -> Case:
    constexprs = {name: value for name, value in case.constexprs.items() if name not in ROWS}
    return replace(case, name=f"packed {case.name}", signature=case.signature | ROWS, constexprs=constexprs)
