"""Batches for training: their order, the random changes to sequences, and the labels as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyena_kernels import SegmentPlan
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID, reverse_complement
from hyenadna.data.dataset import LabelledDataset
from hyenadna.data.packs import first_fit, pack
from hyenadna.data.sequences import to_tensor
from hyenadna.model.words import Words

IGNORED = -100
"""Label of positions that have no part in a loss."""


def draw_examples(dataset: LabelledDataset, count: int, seed: int) -> LabelledDataset:
    """Some examples of a split, as evenly from its classes as these have some, in random order.

    Args:
        dataset: the split.
        count: number of examples; 0 takes all as they are.
        seed: draws them.

    Raises:
        InputError: there are fewer.
    """
    if not count:
        return dataset
    if count > len(dataset):
        raise InputError(
            f"`train_examples` {count:,}: there are {len(dataset):,} for training; take fewer, or 0 for all"
        )
    order = np.random.default_rng(seed).permutation(len(dataset))
    if isinstance(dataset.labels, np.ndarray) and dataset.labels.ndim == 1:
        labels = dataset.labels[order]
        turn = np.zeros(len(order), dtype=np.int64)
        for label in np.unique(labels):
            turn[labels == label] = np.arange((labels == label).sum())
        order = order[np.argsort(turn, kind="stable")]
    return dataset.take(order[:count])


def epoch_batches(
    dataset: LabelledDataset, batch_size: int, rng: np.random.Generator, *, balanced: bool
) -> list[np.ndarray]:
    """The rows of each batch of one epoch, in random order. Batches differ by at most one row in size.

    Args:
        dataset: the training split.
        batch_size: greatest number of rows of a batch.
        rng: draws the order.
        balanced: draw every class equally often, with replacement. Without it every row comes once.
    """
    if balanced:
        labels = np.asarray(dataset.labels)
        weights = 1.0 / np.bincount(labels)[labels]
        order = rng.choice(len(dataset), len(dataset), p=weights / weights.sum())
    else:
        order = rng.permutation(len(dataset))
    return np.array_split(order, math.ceil(len(order) / batch_size))


def augment(
    sequences: list[np.ndarray], rng: np.random.Generator, *, both_strands: bool, crop: int, most: int | None = None
) -> list[np.ndarray]:
    """Sequences as training sees them.

    Args:
        sequences: token ids ``(L,)`` of each.
        rng: draws the strands and the crops.
        both_strands: replace about half of the sequences with their reverse complements.
        crop: greatest number of bases that are cut from each end.
        most: greatest number of bases that a random part of a longer sequence has after this; None keeps all.
    """
    if both_strands:
        turned = rng.random(len(sequences)) < 0.5
        sequences = [reverse_complement(ids) if turn else ids for ids, turn in zip(sequences, turned, strict=True)]
    if crop:
        sequences = [random_crop(ids, crop, rng) for ids in sequences]
    if most is not None:
        starts = rng.integers([max(1, len(ids) - most + 1) for ids in sequences])
        sequences = [ids[start : start + most] for ids, start in zip(sequences, starts, strict=True)]
    return sequences


def random_crop(ids: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Cut 0 to ``most`` bases from each end. At least one base stays."""
    left, right = rng.integers(0, min(most, (len(ids) - 1) // 2), 2, endpoint=True)
    return ids[left : len(ids) - right]


class Part(NamedTuple):
    """What a step computes at a time: a micro-batch of padded sequences, or a row of packed ones.

    Attributes:
        ids: int64 ``(B, L)``, padded on the right, or ``(1, T)``.
        labels: see :func:`label_tensor`; of a packed row int64 ``(1, T)`` for tokens.
        segments: the sequences of a packed row; None of padded ones.
        share: share of the step's labels that are here.
        lm_share: share of the step's next tokens that are here.
    """

    ids: Tensor
    labels: Tensor
    segments: SegmentPlan | None
    share: float
    lm_share: float


def parts(
    dataset: LabelledDataset,
    rows: np.ndarray,
    sequences: Sequence[np.ndarray],
    device: torch.device,
    pack_tokens: int = 0,
    words: Words | None = None,
    *,
    accumulate: int = 1,
) -> Iterator[Part]:
    """A step's sequences, made into tensors one part after another.

    Args:
        dataset: the training split.
        rows: the examples of the step.
        sequences: ids of bases ``(L,)`` of each, as training sees them.
        device: where the tensors go.
        pack_tokens: most tokens of a packed row; 0 pads.
        words: what the model reads in place of ids of bases.
        accumulate: micro-batches of a step without packing. The sequences of each are padded to one length.
    """
    if not pack_tokens and accumulate == 1:
        yield Part(to_tensor(sequences, device, words=words), label_tensor(dataset, rows, device), None, 1.0, 1.0)
        return
    # A loss counts bases, or examples; the next token is counted as mean_next_token_loss does.
    sizes = [len(ids) if isinstance(dataset.labels, list) else 1 for ids in sequences]
    targets = [int(np.isin(ids[1:], (PAD_ID, N_ID), invert=True).sum()) for ids in sequences]
    lengths = [len(ids) for ids in sequences]
    divided = first_fit(lengths, pack_tokens) if pack_tokens else _micro_batches(lengths, accumulate)
    for places in divided:
        here, chosen = [sequences[place] for place in places], rows[places]
        segments = None
        if pack_tokens:
            ids, segments = pack(here, device, words=words)
        else:
            ids = to_tensor(here, device, words=words)
        if pack_tokens and isinstance(dataset.labels, list):
            labels = torch.from_numpy(np.concatenate([dataset.labels[row] for row in chosen])).to(device)[None]
        else:
            labels = label_tensor(dataset, chosen, device)
        share, lm_share = (sum(counts[place] for place in places) / max(1, sum(counts)) for counts in (sizes, targets))
        yield Part(ids, labels, segments, share, lm_share)


def _micro_batches(lengths: Sequence[int], count: int) -> list[list[int]]:
    """The places of each micro-batch. Sequences of similar length share one, so that few pads are needed."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return [part.tolist() for part in np.array_split(np.array(order), min(count, len(order)))]


def label_tensor(dataset: LabelledDataset, rows: Sequence[int] | np.ndarray, device: torch.device) -> Tensor:
    """Labels of a batch of B rows.

    Returns:
        int64 ``(B,)`` classes, float32 ``(B, outputs)``, or for tokens int64 ``(B, L)`` with -100 at pads.
    """
    labels = dataset.labels
    if not isinstance(labels, list):
        return torch.from_numpy(labels[list(rows)]).to(device)
    chosen = [torch.from_numpy(labels[row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=IGNORED).to(device)
