"""Configurations of ``embedding`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.embedding import (
    BACKWARD_TILES,
    COLUMNS,
    ELEMENTS,
    FORWARD_TILES,
    TOKENS,
    gather_kernel,
    sum_kernel,
)
from hyena_kernels.testing.resources.triton_case import Case

ROWS = ELEMENTS // COLUMNS


def aot_cases() -> list[Case]:
    """A vocabulary of 16 and 128 columns, with ids of 8 bytes or of one."""
    forward: dict[str, Any] = {"ROWS": ROWS * FORWARD_TILES, "weight_d_stride": 1}
    backward: dict[str, Any] = {"ROWS": ROWS, "TILES": BACKWARD_TILES, "TOKENS": TOKENS, "dy_d_stride": 1}
    return [
        _case("embedding forward fp32", gather_kernel, {"weight": "*fp32", "y": "*fp32"}, forward),
        _case("embedding forward bf16", gather_kernel, {"weight": "*bf16", "y": "*bf16"}, forward),
        _case("embedding backward fp32", sum_kernel, {"dy": "*fp32"}, backward),
        _case("embedding backward bf16", sum_kernel, {"dy": "*bf16"}, backward),
        _case("embedding backward fp32, ids of one byte", sum_kernel, {"dy": "*fp32", "ids": "*u8"}, backward),
    ]


def _case(name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Case:
    constexprs = {**constants, "COLUMNS": COLUMNS, "ids_t_stride": 1}
    signature = dict.fromkeys(kernel.arg_names, "i32:16") | {"ids": "*i64", "sums": "*fp32"} | pointers
    # Arguments that launches do not specialise.
    signature |= dict.fromkeys(("tiles", "batch", "groups", "vocabulary"), "i32")
    signature |= dict.fromkeys(constexprs, "constexpr")
    names = kernel.arg_names
    return Case(name, kernel, {key: kind for key, kind in signature.items() if key in names}, constexprs)
