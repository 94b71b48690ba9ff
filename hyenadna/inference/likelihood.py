"""Log-likelihood of sequences under a language model, base by base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.baselines import loading
from hyenadna.baselines.loading import LanguageModel, keep_filters
from hyenadna.common.choices import Precision
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID
from hyenadna.data.packs import pack
from hyenadna.data.sequences import per_position, to_tensor
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars


@without_transformers_bars()
def load_language_model(path: Path, device: str, precision: Precision) -> LanguageModel:
    """Load a language model in ``eval()``: a HyenaDNA or a GPT.

    Args:
        path: the checkpoint.
        device: as for `pick_device`.
        precision: ``"float64"`` or ``"float32"``.

    Raises:
        InputError: there is no such checkpoint or device, or the checkpoint has no language-model head.
    """
    place = pick_device(device)
    model: Any = loading.load_language_model(path, dtype=getattr(torch, precision))
    moved: LanguageModel = model.to(place)
    return moved


@dataclass
class LogLikelihoodScorer:
    """Log-probability of every base given the bases before it.

    In float64, the default of ``hyenadna score``, scores depend on the batch size and on packing by rounding only.

    Attributes:
        model: a language model in ``eval()``.
        batch_size: windows at a time.
        pack_tokens: tokens of a row into which windows are packed without pads, in place of ``batch_size``; 0 pads the
            windows of a batch.
        window: length of the windows of long sequences, see :func:`hyenadna.data.sequences.sliding_windows`.
        stride: bases between the starts of two windows.
        n_to_pad: show N to the model as [PAD], as in pretraining.
    """

    model: LanguageModel
    batch_size: int = 16
    pack_tokens: int = 0
    window: int | None = None
    stride: int | None = None
    n_to_pad: bool = True

    def __call__(self, sequences: Iterable[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """Nats of each base, for each sequence in order.

        Args:
            sequences: names for messages, and uint8 token ids ``(L,)``.

        Yields:
            float64 ``(L,)``. The first base, which has no context, and every N are NaN.

        Raises:
            InputError: a sequence is longer than the model takes, or the outputs are not finite.
        """
        yield from per_position(
            sequences,
            self._score,
            batch_size=self.batch_size,
            pack_tokens=self.pack_tokens,
            max_length=self.model.config.max_seq_len,
            window=self.window,
            stride=self.stride,
            computing=lambda: keep_filters(self.model),
        )

    def _score(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        if self.pack_tokens:
            ids, plan = pack(rows, self.model.device, n_to_pad=self.n_to_pad)
        else:
            ids, plan = to_tensor(rows, self.model.device, n_to_pad=self.n_to_pad), None
        with torch.no_grad():
            packed = {} if plan is None else {"cu_seqlens": plan}
            logits = self.model(ids, **packed).logits[:, :-1]
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
            nats = wide.gather(2, ids[:, 1:, None])[..., 0].double().cpu().numpy()
        scores = []
        for row, values in zip(rows, nats if plan is None else np.split(nats[0], plan.starts[1:]), strict=True):
            score = np.concatenate([[np.nan], values[: len(row) - 1]])
            if not np.isfinite(score[1:]).all():
                raise InputError(
                    "the model's likelihoods are not finite: its weights are damaged; use another checkpoint"
                )
            score[row == N_ID] = np.nan
            scores.append(score)
        return scores
