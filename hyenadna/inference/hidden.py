"""Hidden states of sequences: their mean, the last one, or all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from hyenadna.common.errors import InputError
from hyenadna.data.sequences import per_position, to_tensor
from hyenadna.model.modeling import HyenaDNAForCausalLM, HyenaDNAModel


def hidden_states(
    model: HyenaDNAModel | HyenaDNAForCausalLM,
    sequences: Iterable[tuple[str, np.ndarray]],
    *,
    batch_size: int = 16,
    window: int | None = None,
    stride: int | None = None,
    n_to_pad: bool = True,
) -> Iterator[np.ndarray]:
    """States after the final LayerNorm of every base.

    Args:
        model: in ``eval()``; a language model lends its backbone.
        sequences: a name for messages, and uint8 token ids ``(L,)``.
        batch_size: windows at a time; it changes no state beyond rounding.
        window: windows that longer sequences are read in, see :func:`hyenadna.data.sequences.cut`.
        stride: bases between their starts.
        n_to_pad: N is shown to the model as [PAD], as in its pretraining.

    Yields:
        For each sequence, in order, ``(L, D)`` in the model's dtype.

    Raises:
        InputError: a sequence is longer than the model takes, or the model gives no finite numbers.
    """
    backbone = model.base_model

    def compute(rows: list[np.ndarray]) -> list[np.ndarray]:
        ids = to_tensor(rows, model.device, n_to_pad=n_to_pad)
        with torch.no_grad():
            states = backbone(ids).last_hidden_state
        if not states.isfinite().all():
            raise InputError("the model gives no finite states: its weights are damaged; use another checkpoint")
        found: np.ndarray = states.to(torch.promote_types(states.dtype, torch.float32)).cpu().numpy()
        return [state[: len(row)] for state, row in zip(found, rows, strict=True)]

    return per_position(
        sequences,
        compute,
        batch_size=batch_size,
        longest=model.config.max_seq_len,
        window=window,
        stride=stride,
    )


def mean_states(
    model: HyenaDNAModel | HyenaDNAForCausalLM,
    sequences: Iterable[tuple[str, np.ndarray]],
    *,
    batch_size: int = 16,
    n_to_pad: bool = True,
) -> Iterator[np.ndarray]:
    """Mean of :func:`hidden_states` over the bases, float64 ``(D,)`` for each sequence."""
    for states in hidden_states(model, sequences, batch_size=batch_size, n_to_pad=n_to_pad):
        yield states.mean(axis=0, dtype=np.float64)
