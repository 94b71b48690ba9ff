"""How noisy a classifier of ``hyenadna enbed noise`` takes sequences to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.baselines.loading import load_sequence_classifier
from hyenadna.common.errors import InputError
from hyenadna.data.sequences import encode
from hyenadna.inference.logits import batch_logits
from hyenadna.model.loading import without_transformers_bars

NOISY = "noisy"
CLEAN = "clean"


@without_transformers_bars()
def noise_probability(
    folder: Path, sequences: Sequence[str], device: torch.device, *, batch_size: int = 32
) -> np.ndarray:
    """The probability that each sequence is noisy, float64 ``(n,)``.

    Args:
        folder: the model of a classifier with the classes clean and noisy.
        sequences: letters of bases.
        device: where to compute.
        batch_size: sequences at a time. It does not change the results but for rounding.

    Raises:
        InputError: the folder holds no such classifier, or a letter is no nucleotide code.
    """
    model: Any = load_sequence_classifier(folder, dtype=torch.float32)
    model.to(device)
    names = {label: int(number) for number, label in model.config.id2label.items()}
    if {*names} != {CLEAN, NOISY}:
        raise InputError(f"{folder}: tells {', '.join(names)} apart, and not {CLEAN} from {NOISY}")
    model.eval()
    ids = [encode(text, f"sequence {number}") for number, text in enumerate(sequences, start=1)]
    found = [
        batch_logits(model, ids[first : first + batch_size], device, both_strands=False)
        for first in range(0, len(ids), batch_size)
    ]
    if not found:
        return np.empty(0)
    return torch.cat(found).double().softmax(-1)[:, names[NOISY]].cpu().numpy()
