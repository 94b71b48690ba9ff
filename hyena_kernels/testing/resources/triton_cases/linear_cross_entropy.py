"""Configurations of ``linear_cross_entropy`` for the resource test."""

from __future__ import annotations

from typing import Any

import torch

from hyena_kernels.backends.triton.linear_cross_entropy import COLUMNS, ROWS, WARPS, backward_kernel, forward_kernel
from hyena_kernels.testing.resources.triton_case import Case

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def aot_cases() -> list[Case]:
    """The widths of the published models with a vocabulary of 16, and the largest vocabularies and heads.

    Those in float32 have the loss of every position, smoothed.
    """
    return [
        _case(forward_kernel, "bf16", 128, 16),
        _case(forward_kernel, "fp32", 128, 16, milder=True),
        _case(forward_kernel, "fp32", 256, 16),
        _case(forward_kernel, "fp32", 128, 32),
        _case(backward_kernel, "bf16", 128, 16, milder=True),
        _case(backward_kernel, "bf16", 256, 16),
        _case(backward_kernel, "fp16", 256, 16),
        _case(backward_kernel, "fp32", 128, 16, milder=True),
        _case(backward_kernel, "fp32", 256, 16),
        _case(backward_kernel, "bf16", 128, 32, milder=True),
        _case(backward_kernel, "fp16", 128, 32, milder=True),
        _case(backward_kernel, "fp32", 128, 32),
    ]


def _case(kernel: Any, dtype: str, width: int, tokens: int, *, milder: bool = False) -> Case:
    direction = "forward" if kernel is forward_kernel else "backward"
    full = dtype == "fp32"
    constexprs = {
        "EVERY": full,
        "SMOOTHED": full,
        "ROWS": ROWS[DTYPES[dtype]] * 16 // tokens,
        "TILES": width // COLUMNS,
    }
    constexprs |= {"COLUMNS": COLUMNS, "TOKENS": tokens, "hidden_d_stride": 1, "weight_d_stride": 1}
    constexprs |= {"targets_t_stride": 1}
    signature = dict.fromkeys(kernel.arg_names, "i32:16") | {"targets": "*i64", "smoothing": "fp32"}
    signature |= dict.fromkeys(("hidden", "weight", "dhidden"), f"*{dtype}")
    signature |= dict.fromkeys(("dy", "losses", "sums"), "*fp32")
    # Arguments that launches do not specialise.
    signature |= dict.fromkeys(("tiles", "batch", "vocabulary", "ignore_index"), "i32")
    signature |= dict.fromkeys(constexprs, "constexpr")
    names = kernel.arg_names
    return Case(
        f"linear_cross_entropy {direction}, D = {width}, V = {tokens}, {dtype}",
        kernel,
        {name: kind for name, kind in signature.items() if name in names},
        {name: value for name, value in constexprs.items() if name in names},
        WARPS,
        milder=milder,
    )
