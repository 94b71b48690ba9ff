"""Ops with one set of C++ kernels for each instruction set, in a process for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SCRIPT = """
import torch
from hyena_kernels import position_dropout
from hyena_kernels.testing import (
    add_layer_norm_inputs, check, hyena_mixer_step_inputs, position_dropout_inputs, reference_position_dropout
)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    # Rows shorter than a vector, of whole vectors, and with an end of each kind.
    for width in (1, 7, 16, 33, 100, 256):
        check("add_layer_norm", add_layer_norm_inputs(max(2, 600 // width), width, dtype=dtype))
        x, samples = position_dropout_inputs(2, 3, 5 * width, dtype=dtype).values()
        options = {"seed": (1 << 64) - 5, "samples": samples, "offset": (1 << 32) - 3}
        y = position_dropout(x, 0.5, backend="cpp", **options)
        assert torch.equal(y, reference_position_dropout(x, 0.5, **options))
    # Windows too.
    for t in (0, 3, 4, 15, 16, 17, 30, 63):
        check("hyena_mixer_step", hyena_mixer_step_inputs(3, 64, 70, t=t, order=3, dtype=dtype), gradients=False)
print("done")
"""


@pytest.mark.slow
def test_every_instruction_set(with_instruction_set: Callable[[str], str]) -> None:
    assert with_instruction_set(SCRIPT) == "done\n"
