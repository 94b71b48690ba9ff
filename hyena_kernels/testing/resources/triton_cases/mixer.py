"""Configurations of ``mixer`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton.mixer import copy_kernel
from hyena_kernels.backends.triton.short_conv_tiles import CONFIGS
from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_cases.short_conv import backward_case, forward_case


def aot_cases() -> list[Case]:
    """The short convolution of the mixer with 3 taps, as published, and its copies.

    Projections are of the named dtype, the results of their short convolutions float32.
    """
    project = [("bf16", config) for config in CONFIGS] + [("fp32", "wide")]
    common: dict[str, Any] = {"channel_last": True, "pair": True, "result": "*fp32"}
    cases = [
        forward_case(f"hyena_mixer project {config} {dtype}", f"*{dtype}", config=config, **common)
        for dtype, config in project
    ]
    cases += [backward_case(f"hyena_mixer backward {dtype}", f"*{dtype}", **common) for dtype in ("bf16", "fp32")]
    block_t, block_c, warps = CONFIGS["wide"]
    for source, target in (("t", "c"), ("c", "t")):
        units = {f"source_{source}_stride": 1, f"target_{target}_stride": 1}
        constexprs = {**units, "BLOCK_T": block_t, "BLOCK_C": block_c}
        signature = dict.fromkeys(copy_kernel.arg_names, "i32:16") | {"source": "*bf16", "target": "*bf16"}
        signature |= dict.fromkeys(constexprs, "constexpr")
        cases.append(Case(f"hyena_mixer copy {source} to {target} bf16", copy_kernel, signature, constexprs, warps))
    return cases
