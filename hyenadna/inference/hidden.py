"""Hidden states of sequences: of every base, or their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hyenadna.baselines.loading import Backbone, LanguageModel, keep_filters
from hyenadna.common.errors import InputError
from hyenadna.data.packs import pack
from hyenadna.data.sequences import Every, Mean, per_position, to_tensor
from hyenadna.model.words import Words, words_of


def hidden_states(
    model: Backbone | LanguageModel,
    sequences: Iterable[tuple[str, np.ndarray]],
    *,
    batch_size: int = 16,
    pack_tokens: int = 0,
    window: int | None = None,
    stride: int | None = None,
    n_to_pad: bool = True,
    collect: Callable[[int], Every] = Every,
) -> Iterator[np.ndarray]:
    """States after the final norm of every base, or of every word of a k-mer model. Of an ENBED, the encoder's.

    Args:
        model: a model in ``eval()``; only the backbone of a language model is used.
        sequences: names for messages, and uint8 ids of bases ``(L,)``.
        batch_size: windows at a time. It changes states by rounding only.
        pack_tokens: tokens of a row into which windows are packed without pads, in place of ``batch_size``. It changes
            states by rounding only. 0 pads the windows of a batch.
        window: length of the windows of long sequences, see :func:`hyenadna.data.sequences.sliding_windows`; in words
            of a k-mer model.
        stride: bases between the starts of two windows.
        n_to_pad: show N to the model as [PAD], as in pretraining. An ENBED reads the letter.
        collect: what is kept of a sequence's states, see :func:`hyenadna.data.sequences.per_position`.

    Yields:
        ``(L, D)`` for each sequence, in order, in the model's dtype, or in float32 if that is narrower; or what
        ``collect`` makes of it.

    Raises:
        InputError: a sequence is longer than the model takes, or shorter than a word of it, or the states are not
            finite.
    """
    backbone: Any = model.base_model
    if (words := words_of(model.config)) is not None:
        # The id of N is that of a word.
        sequences, n_to_pad = _words(sequences, words), False

    def compute(rows: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            if pack_tokens:
                ids, plan = pack(rows, model.device, n_to_pad=n_to_pad)
                states = backbone(ids, cu_seqlens=plan).last_hidden_state[0]
            else:
                ids = to_tensor(rows, model.device, n_to_pad=n_to_pad)
                # A causal model needs no mask of pads on the right. For the other an N at an end must not be a pad, and
                # the pads may be no pads among its words.
                mask = _mask(rows, ids) if getattr(model.config, "bidirectional", False) else None
                states = backbone(ids, attention_mask=mask).last_hidden_state
        if not states.isfinite().all():
            raise InputError("the model's states are not finite: its weights are damaged; use another checkpoint")
        found: np.ndarray = states.to(torch.promote_types(states.dtype, torch.float32)).cpu().numpy()
        if pack_tokens:
            return np.split(found, plan.starts[1:])
        return [state[: len(row)] for state, row in zip(found, rows, strict=True)]

    yield from per_position(
        sequences,
        compute,
        batch_size=batch_size,
        pack_tokens=pack_tokens,
        max_length=model.config.max_seq_len,
        window=window,
        stride=stride,
        collect=collect,
        computing=lambda: keep_filters(backbone),
    )


def _words(sequences: Iterable[tuple[str, np.ndarray]], words: Words) -> Iterator[tuple[str, np.ndarray]]:
    for name, ids in sequences:
        try:
            tokens = words.ids(ids)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        yield name, tokens


def _mask(rows: Sequence[np.ndarray], ids: torch.Tensor) -> torch.Tensor:
    """1 at the tokens of each row, and 0 at the pads behind them."""
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()


def mean_states(
    model: Backbone | LanguageModel,
    sequences: Iterable[tuple[str, np.ndarray]],
    *,
    batch_size: int = 16,
    n_to_pad: bool = True,
) -> Iterator[np.ndarray]:
    """Mean of :func:`hidden_states` over the bases, float64 ``(D,)`` for each sequence."""
    return hidden_states(model, sequences, batch_size=batch_size, n_to_pad=n_to_pad, collect=Mean)
