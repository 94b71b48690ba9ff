"""Configurations of ``hyena_mixer_far`` for the resource test: those of its long convolutions that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyena_kernels.backends.triton.support import BLOCK_SIZES
from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_cases.far_field_conv import NODES, block_case


def aot_cases() -> list[Case]:
    """Signals, gates and gradients that are float32 between projections and a result in bfloat16."""
    h = BLOCK_SIZES[1]
    near: dict[str, Any] = {"GROUP": 1, "P": NODES, "o2": None, "f2": None}
    forward = {**near, "TRANSPOSED": False, "PARTS": 2, "ORDER": 1, "gate": None}
    backward = {**near, "TRANSPOSED": True, "PARTS": 3, "ORDER": 2, "f1": None}
    signals: dict[str, Any] = {"X_PARTS": 3, "G_PARTS": 3, "x_gate": None}
    moments = block_case("hyena_mixer_far moments, bf16", "moments", h, "fp32", {**signals, "P": NODES})
    return [
        _with(moments, g="*bf16"),
        _with(block_case("hyena_mixer_far near, bf16", "near", h, "fp32", forward), o1="*bf16"),
        _with(block_case("hyena_mixer_far near, transposed, bf16", "near", h, "fp32", backward), x="*bf16"),
        _with(block_case("hyena_mixer_far sums, bf16", "sums", h, "fp32", signals), g="*bf16"),
    ]


def _with(case: Case, **types: str) -> Case:
    return replace(case, signature=case.signature | types)
