"""Sequences as a model's input: their token ids, windows of long ones, and batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyenadna.common.choices import Keep
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, IUPAC_AMBIGUITY, N_ID, PAD_ID, UNK_ID
from hyenadna.data.packs import in_order
from hyenadna.model.words import Words, as_tokens

# Number of batches within which sequences are sorted by length.
_CHUNK_BATCHES = 16
# Positions after which such a group of batches ends: long sequences have many windows of one length anyway.
_CHUNK_POSITIONS = 1 << 20


class Window(NamedTuple):
    """Positions ``[start, end)`` that a model reads at once. Results are kept from position ``first`` on."""

    start: int
    end: int
    first: int


def encode(sequence: str | None, where: str) -> np.ndarray:
    """Token ids of a sequence, uint8 ``(L,)``.

    Args:
        sequence: its letters.
        where: its name in messages.

    Raises:
        InputError: the sequence is empty, or a letter is not a nucleotide code.
    """
    if not sequence:
        raise InputError(f"{where}: the sequence is empty")
    ids = BYTE_TO_ID[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
    if (wrong := np.flatnonzero(ids == UNK_ID)).size:
        raise InputError(
            f"{where}: {sequence[wrong[0]]!r} at position {wrong[0] + 1} is not a nucleotide code (ACGTU, N "
            f"or {IUPAC_AMBIGUITY})"
        )
    return ids


def kept(bases: int, length: int | None, keep: Keep) -> slice:
    """The bases that stay of a sequence that is cut to a length; all of them if it is not longer.

    Args:
        bases: length of the sequence.
        length: most bases that stay; None for all.
        keep: which ones. Of an odd rest the middle leaves the larger half at the end.
    """
    over = 0 if length is None else max(0, bases - length)
    first = {"start": 0, "middle": over // 2, "end": over}[keep]
    return slice(first, first + bases - over)


def check_windows(window: int | None, stride: int | None, max_length: int) -> None:
    """Raise InputError unless the windows overlap and fit a model that takes ``max_length`` tokens."""
    if (window is None) != (stride is None):
        raise InputError("`window` and `stride` go together: give both, or neither")
    if window is None or stride is None:
        return
    if not 2 <= window <= max_length:
        raise InputError(f"`window` {window}: must be 2 to {max_length}, the tokens that the model is made for")
    if not 1 <= stride <= window - 1:
        raise InputError(f"`stride` {stride}: must be at least 1 and below `window`, so that windows overlap")


def window_around(window: int | None, max_length: int) -> int:
    """Bases in the one window around a place: ``window``, or 1,024 or what the model takes if that is None.

    Raises:
        InputError: a window is shorter than 2 bases, or longer than the model takes.
    """
    size = min(1024, max_length) if window is None else window
    if not 2 <= size <= max_length:
        raise InputError(
            f"`window` {size}: must be 2 to {max_length}, the tokens that the model is made for; shorten it, or use a "
            "checkpoint made for longer sequences"
        )
    return size


def sliding_windows(length: int, max_length: int, window: int | None, stride: int | None, where: str) -> list[Window]:
    """The windows that a sequence is read in: one if it is short enough, otherwise overlapping ones.

    Each position is kept once, from the window that gives it the most context. The first window keeps all of its
    positions, every other one its last ``stride``.

    Args:
        length: bases of the sequence.
        max_length: tokens that the model is made for.
        window: bases of a window; None to refuse longer sequences.
        stride: bases between the starts of two windows.
        where: name of the sequence in messages.

    Raises:
        InputError: the sequence is longer than the model takes, and no window is given.
    """
    if length <= (max_length if window is None else window):
        return [Window(0, length, 0)]
    if window is None or stride is None:
        raise InputError(
            f"{where}: {length:,} bases are longer than the {max_length:,} that the model is made for: read it in "
            f"overlapping windows (`window` {max_length}, `stride` {max(1, max_length // 2)}), or use a checkpoint "
            "made for longer sequences"
        )
    windows = [Window(0, window, 0)]
    while windows[-1].end < length:
        before = windows[-1]
        start = before.start + stride
        windows.append(Window(start, min(start + window, length), before.end))
    return windows


def to_tensor(
    rows: Sequence[np.ndarray], device: torch.device, *, n_to_pad: bool = True, words: Words | None = None
) -> Tensor:
    """Bases as the input of a model.

    Args:
        rows: ids of bases ``(L,)`` of each sequence, on the strand and with the ends that the model is to see.
        device: where the tensor goes.
        n_to_pad: replace N by [PAD], where the model reads ids of bases.
        words: what the model reads in place of them, see :func:`hyenadna.model.words.words_of`.

    Returns:
        Token ids, int64 ``(B, L)``, padded on the right.

    Raises:
        InputError: a sequence is shorter than a word.
    """
    rows = as_tokens(rows, words)
    pad_id = PAD_ID if words is None else words.pad_id
    batch = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)
    for row, ids in zip(batch, rows, strict=True):
        row[: len(ids)] = ids
    # The id of N is that of a word.
    if n_to_pad and words is None:
        batch[batch == N_ID] = PAD_ID
    return torch.from_numpy(batch).to(device)


class Every:
    """Keeps the value of every position: ``(L, …)``.

    Args:
        length: positions of the sequence.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._values: np.ndarray | None = None

    def add(self, first: int, values: np.ndarray) -> None:
        """Take the values from position ``first`` on."""
        if self._values is None:
            self._values = np.empty((self._length, *values.shape[1:]), dtype=values.dtype)
        self._values[first : first + len(values)] = values

    def result(self) -> np.ndarray:
        """What was taken, once all of it was."""
        assert self._values is not None
        return self._values


class Mean(Every):
    """The mean over the positions, float64, from running sums: memory does not follow the length."""

    def add(self, first: int, values: np.ndarray) -> None:
        """Take the values from position ``first`` on."""
        total = values.sum(axis=0, dtype=np.float64)
        self._values = total if self._values is None else self._values + total

    def result(self) -> np.ndarray:
        """What was taken, once all of it was."""
        return super().result() / self._length


class Last(Every):
    """The value of the last position."""

    def add(self, first: int, values: np.ndarray) -> None:
        """Take the values from position ``first`` on."""
        if first + len(values) == self._length:
            self._values = values[-1].copy()


def per_position(
    sequences: Iterable[tuple[str, np.ndarray]],
    compute: Callable[[list[np.ndarray]], list[np.ndarray]],
    *,
    batch_size: int,
    pack_tokens: int = 0,
    max_length: int,
    window: int | None = None,
    stride: int | None = None,
    collect: Callable[[int], Every] = Every,
    computing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[np.ndarray]:
    """Compute values for every position of sequences. Long sequences are read in windows, and batched by length.

    Args:
        sequences: names for messages, and uint8 token ids ``(L,)`` with L at least 1.
        compute: takes some rows of ids, and returns an array ``(L, …)`` for each.
        batch_size: rows at a time.
        pack_tokens: tokens of all rows at a time, in place of ``batch_size``. A longer row comes alone. 0 is none.
        max_length: tokens that the model is made for.
        window: see :func:`sliding_windows`.
        stride: see :func:`sliding_windows`.
        collect: what is kept of a sequence's values. It takes the windows from left to right, whatever the batches.
        computing: makes a block around the batches between two pauses. The caller may do anything in a pause, such as
            train the model, so the block ends before.

    Yields:
        For each sequence what ``collect`` makes of its values, in order: ``(L, …)`` unless another is given.

    Raises:
        InputError: a sequence is longer than the model takes, and no window is given.
    """
    iterator = iter(sequences)
    positions = min(_CHUNK_POSITIONS, _CHUNK_BATCHES * pack_tokens) if pack_tokens else _CHUNK_POSITIONS
    most = None if pack_tokens else _CHUNK_BATCHES * batch_size
    while chunk := list(islice(_up_to(iterator, positions), most)):
        windows = [
            (row, part)
            for row, (name, ids) in enumerate(chunk)
            for part in sliding_windows(len(ids), max_length, window, stride, name)
        ]
        # Similar lengths share a batch, so that little is padded. Windows of one length stay in order, and the last
        # window of a sequence, which may be shorter, comes after its others.
        windows.sort(key=lambda entry: entry[1].end - entry[1].start, reverse=True)
        results = [collect(len(ids)) for _, ids in chunk]
        with computing():
            for places in batches([part.end - part.start for _, part in windows], batch_size, pack_tokens):
                group = windows[places]
                computed = compute([chunk[row][1][part.start : part.end] for row, part in group])
                for (row, part), values in zip(group, computed, strict=True):
                    results[row].add(part.first, values[part.first - part.start :])
        yield from (result.result() for result in results)


def batches(lengths: Sequence[int], batch_size: int, pack_tokens: int) -> Iterator[slice]:
    """Which sequences, sorted by length, are computed together: some of them, or as many tokens as make a packed row.

    Args:
        lengths: tokens of each sequence.
        batch_size: sequences at a time.
        pack_tokens: tokens at a time, see :func:`hyenadna.data.packs.in_order`; 0 goes by ``batch_size``.
    """
    if pack_tokens:
        return in_order(lengths, pack_tokens)
    return (slice(first, first + batch_size) for first in range(0, len(lengths), batch_size))


def _up_to(sequences: Iterator[tuple[str, np.ndarray]], positions: int) -> Iterator[tuple[str, np.ndarray]]:
    """The next sequences, until they have this many positions together."""
    total = 0
    while total < positions:
        found = next(sequences, None)
        if found is None:
            return
        total += len(found[1])
        yield found
