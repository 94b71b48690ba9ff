"""Logits of a classifier for a batch of sequences, on one strand or on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyenadna.common.vocab import reverse_complement
from hyenadna.data.packs import pack
from hyenadna.data.sequences import to_tensor
from hyenadna.model.words import words_of


def batch_logits(model: Any, sequences: Sequence[np.ndarray], device: torch.device, *, both_strands: bool) -> Tensor:
    """Logits of B sequences.

    Args:
        model: a classifier, in ``eval()``.
        sequences: ids of bases ``(L,)`` of each.
        device: device of the model.
        both_strands: average the logits of a sequence and of its reverse complement.

    Returns:
        ``(B, columns)``, or ``(B, L, columns)`` of a token classifier, in float32.
    """
    words = words_of(getattr(model, "config", None))
    with torch.no_grad():
        logits: Tensor = model(to_tensor(sequences, device, words=words)).logits.float()
        if both_strands:
            turned = [reverse_complement(ids) for ids in sequences]
            logits = (logits + model(to_tensor(turned, device, words=words)).logits.float()) / 2
    return logits


def packed_logits(
    model: Any, sequences: Sequence[np.ndarray], device: torch.device, *, both_strands: bool
) -> list[Tensor]:
    """As :func:`batch_logits`, from one packed row without pads.

    Returns:
        For each sequence ``(columns,)``, or ``(L, columns)`` of a token classifier, in float32 on the CPU.
    """

    def compute(rows: Sequence[np.ndarray]) -> Tensor:
        ids, segments = pack(rows, device, words=words_of(model.config))
        logits: Tensor = model(ids, cu_seqlens=segments).logits
        return logits.float()

    with torch.no_grad():
        logits = compute(sequences)
        if both_strands:
            logits = (logits + compute([reverse_complement(ids) for ids in sequences])) / 2
    found = logits.cpu()
    return list(found[0].split([len(ids) for ids in sequences]) if found.dim() == 3 else found)
