"""Configurations of ``hyena_mixer_far`` for the resource test: those of its long convolutions that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyena_kernels.backends.triton.support import BLOCK_SIZES
from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_cases.far_field_conv import NODES, block_cases


def aot_cases() -> list[Case]:
    """Signals, gates and gradients that are float32 between projections and a result in bfloat16."""
    h = BLOCK_SIZES[1]
    near: dict[str, Any] = {"P": NODES, "o2": None, "f2": None}
    forward = {**near, "TRANSPOSED": False, "PARTS": 2, "ORDER": 1, "gate": None}
    backward = {**near, "TRANSPOSED": True, "PARTS": 3, "ORDER": 2, "f1": None}
    signals: dict[str, Any] = {"X_PARTS": 3, "G_PARTS": 3, "x_gate": None}
    kernels: list[tuple[str, str, dict[str, Any], str]] = [
        ("moments of both signals", "moments", {**signals, "P": NODES}, "g"),
        ("near", "near", forward, "o1"),
        ("near, transposed", "near", backward, "x"),
        ("sums", "sums", signals, "g"),
    ]
    return [
        replace(case, signature=case.signature | {narrow: "*bf16"})
        for label, kernel, constexprs, narrow in kernels
        for case in block_cases(f"hyena_mixer_far {label}, bf16", kernel, h, "fp32", constexprs)
    ]
