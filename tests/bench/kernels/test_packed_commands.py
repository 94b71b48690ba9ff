"""bench.kernels.packed_commands: both ways of a command give the same numbers, and both kinds of a step run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.kernels import packed_commands


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "close"), [("embed", 1e-5), ("score", 1e-12)])
def test_a_command_gives_the_same_numbers_packed(verb: str, close: float, tmp_path: Path) -> None:
    packed_commands.write_inputs(tmp_path, "tiny-16k", 5)
    padded, packed = (
        packed_commands.run_verb(verb, tmp_path, tokens, number) for number, tokens in enumerate((0, 2048))
    )
    assert padded.shape == packed.shape
    assert np.abs(packed - padded).max() <= close * np.abs(padded).max()


def test_steps_of_equal_tokens() -> None:
    for mode in ("training", "checkpointed", "inference"):
        for packed in (False, True):
            packed_commands.prepare("tiny-1k", [8, 3, 5], mode, packed)()
