"""The text that span corruption reads: genomes without N, cut into windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.common.choices import SPLITS
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.intervals import Interval, split_contigs, split_fraction


class Stretch(NamedTuple):
    """Positions ``[start, end)`` of a contig without N, 0-based."""

    genome: Genome
    contig: str
    start: int
    end: int


class Text:
    """Bases of some intervals, without N.

    Args:
        parts: genomes with their intervals.
        length: bases of a window.
        cut: windows end at N and at the end of a record. Without it what is left and right of them is joined, as
            published.

    Attributes:
        left_out: bases in stretches that are shorter than a window.
    """

    def __init__(self, parts: Sequence[tuple[Genome, Sequence[Interval]]], length: int, *, cut: bool) -> None:
        self.length = length
        self._stretches = [stretch for genome, intervals in parts for stretch in _stretches(genome, intervals)]
        sizes = np.array([stretch.end - stretch.start for stretch in self._stretches], dtype=np.int64)
        self._ends = np.cumsum(sizes)
        # A piece is what windows do not cross the ends of.
        pieces = sizes if cut else sizes.sum(keepdims=True)
        starts = np.concatenate(([0], np.cumsum(pieces)[:-1])) if len(pieces) else pieces
        fits = pieces >= length
        self.left_out = int(pieces[~fits].sum())
        self._starts, pieces = starts[fits], pieces[fits]
        # One window less than fits, so that all can be shifted by less than a window.
        self._counts = np.maximum(1, (pieces - length + 1) // length)
        self._room = pieces - self._counts * length
        self._last = np.cumsum(self._counts)

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._last[-1]) if len(self._last) else 0

    def bases(self) -> int:
        """Number of bases."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def window(self, number: int, shift: int = 0) -> np.ndarray:
        """Ids of the bases of a window, uint8 ``(length,)``.

        Args:
            number: 0 to ``len(self) - 1``.
            shift: bases by which all windows are shifted to the right. A piece that has no room for it shifts less.
        """
        piece = int(np.searchsorted(self._last, number, side="right"))
        within = number - int(self._last[piece] - self._counts[piece])
        start = int(self._starts[piece]) + within * self.length + shift % (int(self._room[piece]) + 1)
        return self._read(start, start + self.length)

    def segments(self) -> list[np.ndarray]:
        """Ids of all bases, a view for each stretch."""
        return [stretch.genome.tokens(stretch.contig, stretch.start, stretch.end) for stretch in self._stretches]

    def _read(self, start: int, end: int) -> np.ndarray:
        found = []
        while start < end:
            place = int(np.searchsorted(self._ends, start, side="right"))
            stretch = self._stretches[place]
            before = int(self._ends[place]) - (stretch.end - stretch.start)
            stop = min(end, int(self._ends[place]))
            first = stretch.start + start - before
            found.append(stretch.genome.tokens(stretch.contig, first, first + stop - start))
            start = stop
        return np.concatenate(found)


def _stretches(genome: Genome, intervals: Sequence[Interval]) -> list[Stretch]:
    """The parts of intervals that hold no N."""
    found = []
    for interval in intervals:
        tokens = genome.tokens(interval.contig, interval.start, interval.end)
        real = np.concatenate(([False], tokens != N_ID, [False]))
        borders = np.flatnonzero(real[1:] != real[:-1]) + interval.start
        found += [Stretch(genome, interval.contig, *map(int, pair)) for pair in borders.reshape(-1, 2)]
    return found


class Corpus(NamedTuple):
    """Genomes and their intervals by split."""

    parts: dict[str, list[tuple[Genome, list[Interval]]]]
    identity: dict[str, str]

    def text(self, split: str, length: int, *, cut: bool) -> Text:
        """The text of a split. See :class:`Text`."""
        return Text(self.parts[split], length, cut=cut)


def open_corpus(
    stack: ExitStack,
    genomes: Sequence[Path],
    valid_contigs: Sequence[str],
    test_contigs: Sequence[str],
    valid_fraction: float,
    test_fraction: float,
) -> Corpus:
    """Open genomes and divide them.

    Args:
        stack: closes them.
        genomes: FASTAs, or folders of ``hyenadna prepare``.
        valid_contigs: contigs held out for validation, of any of the genomes.
        test_contigs: contigs held out for the test.
        valid_fraction: share of each contig's end that is held out for validation, if no contigs are named.
        test_fraction: share of each contig's end that is held out for the test.

    Raises:
        InputError: a genome cannot be read, a contig is in none of them, or a split is empty.
    """
    opened = [stack.enter_context(open_genome(path)) for path in genomes]
    parts: dict[str, list[tuple[Genome, list[Interval]]]] = {name: [] for name in SPLITS}
    for name in (*valid_contigs, *test_contigs):
        if all(genome.resolve(name) is None for genome in opened):
            opened[0].contig(name)
    for genome in opened:
        if valid_contigs or test_contigs:
            own = ([name for name in names if genome.resolve(name)] for names in (valid_contigs, test_contigs))
            splits = split_contigs(genome, *own)
        else:
            splits = split_fraction(genome, valid_fraction, test_fraction)
        for name, intervals in splits.items():
            if intervals:
                parts[name].append((genome, intervals))
    if not parts["valid"]:
        raise InputError("nothing is held out for validation: name `valid_contigs`, or set a `valid_fraction`")
    described = repr(
        [
            (name, genome.fingerprint, [(i.contig, i.start, i.end) for i in intervals])
            for name, part in parts.items()
            for genome, intervals in part
        ]
    )
    return Corpus(parts, {"genomes": hashlib.sha256(described.encode()).hexdigest()})
