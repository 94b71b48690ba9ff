"""Configurations of ``hyena_mixer_varlen`` for the resource test: short convolutions that stop where a row starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_cases.short_conv import backward_case, forward_case


def aot_cases() -> list[Case]:
    """Those of the mixer in bfloat16 with 3 taps, as published."""
    common: dict[str, Any] = {"channel_last": True, "result": "*fp32"}
    return [
        _packed(forward_case("hyena_mixer project wide bf16", "*bf16", config="wide", pair=True, **common)),
        _packed(backward_case("hyena_mixer backward bf16", "*bf16", pair=True, **common)),
        _packed(backward_case("hyena_mixer backward of a gate bf16", "*bf16", **common)),
    ]


def _packed(case: Case) -> Case:
    constexprs = {name: value for name, value in case.constexprs.items() if name != "marks"}
    return replace(case, name=f"packed {case.name}", signature=case.signature | {"marks": "*u8"}, constexprs=constexprs)
