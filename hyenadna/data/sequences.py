"""Sequences for a model that only reads them: tokens from files, windows of long ones, batches by length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, IUPAC_AMBIGUITY, N_ID, PAD_ID, UNK_ID

# Sequences are sorted by length within so many batches.
_CHUNK_BATCHES = 16


class Piece(NamedTuple):
    """Positions ``[start, end)`` of a sequence, which a model sees at once, and ``first``, the first that counts."""

    start: int
    end: int
    first: int


def encode(sequence: str | None, where: str) -> np.ndarray:
    """Token ids of a sequence, uint8 ``(L,)``; ``where`` names it in messages.

    Raises:
        InputError: it is empty, or holds what is no nucleotide code.
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


def check_windows(window: int | None, stride: int | None, longest: int) -> None:
    """Raise InputError unless ``--window`` and ``--stride`` cover a sequence and fit a model of length ``longest``."""
    if (window is None) != (stride is None):
        raise InputError("--window and --stride go together: give both, or neither")
    if window is None or stride is None:
        return
    if not 2 <= window <= longest:
        raise InputError(f"--window {window}: must be within 2 and the {longest} tokens that the model is made for")
    if not 1 <= stride <= window - 1:
        raise InputError(f"--stride {stride}: must be at least 1 and below --window, so that windows overlap")


def cut(length: int, longest: int, window: int | None, stride: int | None, where: str) -> list[Piece]:
    """The windows that a sequence is read in: itself if the model can take it, else overlapping ones.

    Every position counts once, in the window in which most stands before it: the last ``stride`` of each window but
    the first, in which all do.

    Raises:
        InputError: the sequence is longer than the model takes and no window is given.
    """
    if length <= (longest if window is None else window):
        return [Piece(0, length, 0)]
    if window is None or stride is None:
        raise InputError(
            f"{where}: {length:,} bases are longer than the {longest:,} that the model is made for: read it in "
            f"overlapping windows (--window {longest} --stride {max(1, longest // 2)}), or use a checkpoint made for "
            "longer sequences"
        )
    pieces = [Piece(0, window, 0)]
    while pieces[-1].end < length:
        before = pieces[-1]
        start = before.start + stride
        pieces.append(Piece(start, min(start + window, length), before.end))
    return pieces


def to_tensor(rows: Sequence[np.ndarray], device: torch.device, *, n_to_pad: bool = True) -> Tensor:
    """Token ids of different lengths as int64 ``(B, L)``, padded on the right; N becomes [PAD] if asked."""
    batch = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for row, ids in zip(batch, rows, strict=True):
        row[: len(ids)] = ids
    if n_to_pad:
        batch[batch == N_ID] = PAD_ID
    return torch.from_numpy(batch).to(device)


def per_position(
    sequences: Iterable[tuple[str, np.ndarray]],
    compute: Callable[[list[np.ndarray]], list[np.ndarray]],
    *,
    batch_size: int,
    longest: int,
    window: int | None = None,
    stride: int | None = None,
) -> Iterator[np.ndarray]:
    """What ``compute`` gives for every position of sequences, in windows where they are long, batched by length.

    Args:
        sequences: a name for messages, and uint8 token ids ``(L,)``, L at least 1.
        compute: at most ``batch_size`` rows of ids to one array ``(L, …)`` for each.
        batch_size: rows at a time.
        longest: length that the model is made for.
        window: see :func:`cut`.
        stride: see :func:`cut`.

    Yields:
        For each sequence, in order, ``(L, …)``.

    Raises:
        InputError: a sequence is longer than the model takes, and no window is given.
    """
    iterator = iter(sequences)
    while chunk := list(islice(iterator, _CHUNK_BATCHES * batch_size)):
        pieces = [
            (row, piece)
            for row, (name, ids) in enumerate(chunk)
            for piece in cut(len(ids), longest, window, stride, name)
        ]
        # Like lengths side by side, so that little is padded.
        pieces.sort(key=lambda entry: entry[1].end - entry[1].start, reverse=True)
        results: list[np.ndarray | None] = [None] * len(chunk)
        for first in range(0, len(pieces), batch_size):
            group = pieces[first : first + batch_size]
            computed = compute([chunk[row][1][piece.start : piece.end] for row, piece in group])
            for (row, piece), values in zip(group, computed, strict=True):
                whole = results[row]
                if whole is None:
                    whole = results[row] = np.empty((len(chunk[row][1]), *values.shape[1:]), dtype=values.dtype)
                whole[piece.first : piece.end] = values[piece.first - piece.start :]
        yield from (whole for whole in results if whole is not None)
