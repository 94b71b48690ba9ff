"""Sequences packed into rows without pads: which of them share a row, and the row as a model's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hyena_kernels import SegmentPlan
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.words import Words, as_tokens


def first_fit(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Distribute sequences over as few rows as a greedy rule finds: longest first, each into the first row with room.

    Args:
        lengths: tokens of each sequence.
        tokens: most tokens of a row. A longer sequence has a row of its own.

    Returns:
        The places of ``lengths`` that share a row, for each row, in the order in which they are packed.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((i for i, free in enumerate(room) if free >= lengths[place]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(tokens)
        rows[row].append(place)
        room[row] -= lengths[place]
    return rows


def in_order(lengths: Sequence[int], tokens: int) -> Iterator[slice]:
    """Fill rows one after another in the given order. Sorted by length, a row then holds sequences of similar length.

    Args:
        lengths: tokens of each sequence.
        tokens: most tokens of a row. A longer sequence has a row of its own.

    Yields:
        The part of ``lengths`` that shares a row.
    """
    first = total = 0
    for place, length in enumerate(lengths):
        if place > first and total + length > tokens:
            yield slice(first, place)
            first, total = place, 0
        total += length
    if first < len(lengths):
        yield slice(first, len(lengths))


def pack(
    rows: Sequence[np.ndarray], device: torch.device, *, n_to_pad: bool = True, words: Words | None = None
) -> tuple[Tensor, SegmentPlan]:
    """Sequences as one row.

    Args:
        rows: ids of bases of each sequence, ``(L,)`` with L at least 1.
        device: where the row and its plan go.
        n_to_pad: replace N by [PAD], where the model reads ids of bases.
        words: what the model reads in place of them.

    Returns:
        Token ids, int64 ``(1, T)``, and where the sequences begin.
    """
    rows = as_tokens(rows, words)
    ids = np.concatenate(rows)[None].astype(np.int64)
    if n_to_pad and words is None:
        ids[ids == N_ID] = PAD_ID
    borders = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return torch.from_numpy(ids).to(device), SegmentPlan(torch.from_numpy(borders)).to(device)
