"""Windows of the reference with a cell line's mutations in them: the algorithm, on positions and letters alone.

Source: the thesis "Foundation models for cancer genomics with HyenaDNA", Algorithm 1. Its loop does not end as printed,
and it leaves insertions and the ends of contigs open. This is the same idea with every case decided.

Positions are 0-based and half-open, except ``Mutation.pos``, which counts from 1 as files do. One haplotype carries all
mutations of a line, whatever their genotypes, and the strand is the forward one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from operator import attrgetter
from typing import NamedTuple

SAME = "Ref is Alt"
NO_BASES = "Ref or Alt holds other letters than A, C, G and T"
OUTSIDE = "Ref is not within the contig"
MISMATCH = "Ref differs from the reference"
UNKNOWN = "the reference has N in place of Ref"
TOO_SHORT = "contig too short"
TOO_SHORT_AFTER = "contig too short after deletions"
UNSEEN = "no base beside the deletion is left to show it"

Read = Callable[[int, int], str]
"""The bases ``[start, end)`` of a contig, in upper case."""


class Mutation(NamedTuple):
    """A mutation as a VCF writes it: ``ref`` from position ``pos``, counted from 1, becomes ``alt``.

    An insertion or deletion holds the base before it in both alleles.
    """

    pos: int
    ref: str
    alt: str

    @property
    def first(self) -> int:
        """0-based position of the first base of ``ref``."""
        return self.pos - 1

    @property
    def edit(self) -> Edit:
        """What changes: without the bases that both alleles begin with.

        So a substitution of the base that anchors an insertion does not clash with the insertion.
        """
        shared, shortest = 0, min(len(self.ref), len(self.alt))
        while shared < shortest and self.ref[shared] == self.alt[shared]:
            shared += 1
        return Edit(self.first + shared, len(self.ref) - shared, self.alt[shared:])

    @property
    def kind(self) -> str:
        """``SNP``, ``DNP``, ``TNP``, ``ONP``, ``INS``, ``DEL`` or ``delins``, from the alleles alone."""
        edit = self.edit
        if len(self.ref) == len(self.alt):
            return {1: "SNP", 2: "DNP", 3: "TNP"}.get(len(self.ref), "ONP")
        if not edit.removed:
            return "INS"
        return "delins" if edit.inserted else "DEL"


class Edit(NamedTuple):
    """``removed`` bases from position ``start``, and what is put in their place. In the order of their places."""

    start: int
    removed: int
    inserted: str

    @property
    def end(self) -> int:
        """One past the last base that is removed."""
        return self.start + self.removed

    def overlaps(self, other: Edit) -> bool:
        """Whether not both can be made: they change one base, or insert at one point, or one inserts into the other."""
        is_one_point = self.start == other.start and not self.removed and not other.removed
        return is_one_point or (self.start < other.end and other.start < self.end)


class Edits:
    """The edits of one line in one contig, which are found by their places.

    Args:
        edits: the edits, in any order. Each is kept once.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        self._edits = sorted(set(edits))
        self._longest = max((edit.removed for edit in self._edits), default=0)
        self.shrinkage = sum(_shrinkage(edit) for edit in self._edits)
        """Bases by which the deletions together shorten the contig."""

    def touching(self, start: int, end: int) -> Iterator[Edit]:
        """The edits that change something within ``[start, end)``, in order."""
        window = Edit(start, end - start, "")
        for edit in self._edits[bisect_left(self._edits, start - self._longest, key=attrgetter("start")) :]:
            if edit.start >= end:
                return
            if edit.overlaps(window):
                yield edit


class Plan(NamedTuple):
    """How a mutated window is made of the reference.

    Attributes:
        start: first base of the window in the reference.
        end: one past its last base. ``end - start`` is above ``length`` where bases are deleted.
        length: bases of the sequence.
        edits: the edits in order, the anchor's among them.
        cut: bases that are left out at the start of the edited window. What exceeds the length is left out at its end.
        reference_start: first of ``length`` bases of the unmutated reference, which hold the anchor's position.
        anchor_in_sequence: place in the sequence of the first base that the anchor brings; for a deletion, of the base
            behind the gap.
        n_mutations: edits that the sequence shows, the anchor among them.
        n_overlapping: other edits that were left out because they overlap one before them.
        n_straddling: other edits that were left out because they pass an edge of the window.
        n_cut: other edits that lie in the part that was left out.
    """

    start: int
    end: int
    length: int
    edits: tuple[Edit, ...]
    cut: int
    reference_start: int
    anchor_in_sequence: int
    n_mutations: int
    n_overlapping: int
    n_straddling: int
    n_cut: int

    @property
    def n_dropped(self) -> int:
        """Other edits of the line in this window that the sequence does not show."""
        return self.n_overlapping + self.n_straddling + self.n_cut

    def sequence(self, read: Read) -> str:
        """The mutated bases, ``length`` of them."""
        window = read(self.start, self.end)
        pieces, position = list[str](), self.start
        for edit in self.edits:
            pieces += [window[position - self.start : edit.start - self.start], edit.inserted]
            position = edit.end
        pieces.append(window[position - self.start :])
        return "".join(pieces)[self.cut : self.cut + self.length]

    def reference(self, read: Read) -> str:
        """As many bases of the unmutated reference."""
        return read(self.reference_start, self.reference_start + self.length)


def problem(mutation: Mutation, read: Read, contig_length: int) -> str:
    """Why a mutation is left out altogether; "" if it is not."""
    if set(mutation.ref + mutation.alt) - set("ACGT"):
        return NO_BASES
    if not 0 <= mutation.first <= contig_length - max(1, len(mutation.ref)):
        return OUTSIDE
    if not (mutation.ref and mutation.alt):
        return NO_BASES
    if mutation.ref == mutation.alt:
        return SAME
    there = read(mutation.first, mutation.first + len(mutation.ref))
    if there == mutation.ref:
        return ""
    is_known = any(ref != base for ref, base in zip(mutation.ref, there, strict=True) if base != "N")
    return MISMATCH if is_known else UNKNOWN


def from_bare_alleles(start: int, ref: str, alt: str, read: Read) -> Mutation:
    """The mutation of a MAF's alleles, of which one may be empty: with the base before them, or else the one behind.

    Args:
        start: 0-based position of the first base of ``ref``, or of the base behind an insertion.
        ref: bases that are removed.
        alt: bases in their place.
        read: the contig.
    """
    if ref and alt:
        return Mutation(start + 1, ref, alt)
    if start > 0:
        base = read(start - 1, start)
        return Mutation(start, base + ref, base + alt)
    base = read(len(ref), len(ref) + 1)
    return Mutation(1, ref + base, alt + base)


def number(*parts: object) -> int:
    """A number from 0 to 2⁶⁴ - 1 that looks random, and depends on these values alone.

    So a choice depends on neither the order of rows nor the number of processes.
    """
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def draw_offset(mutation: Mutation, length: int, *seed: object) -> int:
    """The place of ``Ref`` in the window, from 0, drawn uniformly.

    The last place is not for a deletion: the gap would be behind the last base, and the sequence the reference.

    Args:
        mutation: the anchor.
        length: bases of the window, at least 2.
        seed: values that decide the draw.
    """
    return number("offset", *seed, *mutation) % (length - (mutation.kind == "DEL"))


def plan_window(anchor: Mutation, edits: Edits, offset: int, length: int, contig_length: int) -> Plan | str:
    """Plan the window of one mutation, the anchor, with the line's other mutations in it.

    1. The window begins ``offset`` bases before the anchor, or as far off as the contig's ends require.
    2. It takes the line's other edits that lie wholly in it, in the order of their places. One that overlaps an edit
       taken before is left out. The anchor is taken first.
    3. It grows at its end by as many bases as these edits remove, and at its start if the contig ends. Then it may
       hold further edits. So both steps are repeated until nothing changes. It never shrinks, so this comes to an end.
    4. What insertions add is cut off at the end, but not from the anchor's own bases: rather at the start.

    Args:
        anchor: a mutation without a :func:`problem`.
        edits: all edits of the line in this contig.
        offset: place of the anchor's ``ref`` in the window, as :func:`draw_offset` gives it.
        length: bases of the sequence, at least 2.
        contig_length: bases of the contig.

    Returns:
        The plan, or why there is none.
    """
    if contig_length < length:
        return TOO_SHORT
    first, grow = anchor.edit, 0
    start = min(max(anchor.first - offset, 0), contig_length - length)
    while True:
        # Of a substitution that begins at the last place, the window holds all bases.
        end = max(min(start + length + grow, contig_length), first.end)
        moved = max(0, min(start, contig_length - length - grow))
        if moved == start:
            taken, n_overlapping, n_straddling = _take(first, edits, start, end)
            need = sum(map(_shrinkage, taken))
            if need <= grow:
                break
            grow = need
        start = moved
    places = list(_places(taken, start))
    size = end - start + sum(len(edit.inserted) - edit.removed for edit in taken)
    if size < length:
        return TOO_SHORT_AFTER
    place = places[taken.index(first)]
    # Of a deletion, the base behind the gap has to stay.
    cut = max(0, place + max(1, len(first.inserted)) - length)
    shown = [_is_shown(edit, at - cut, min(length, size - cut)) for edit, at in zip(taken, places, strict=True)]
    if not shown[taken.index(first)]:
        return UNSEEN
    return Plan(
        start,
        end,
        length,
        tuple(taken),
        cut,
        max(start, anchor.first + 1 - length),
        max(0, place - cut),
        sum(shown),
        n_overlapping,
        n_straddling,
        len(shown) - sum(shown),
    )


def _shrinkage(edit: Edit) -> int:
    return max(0, edit.removed - len(edit.inserted))


def _take(anchor: Edit, edits: Edits, start: int, end: int) -> tuple[list[Edit], int, int]:
    """The edits that the window takes, in order, and how many overlap or pass its edges."""
    taken: list[Edit] = []
    n_overlapping = n_straddling = 0
    for edit in edits.touching(start, end):
        if edit == anchor:
            continue
        if edit.start < start or edit.end > end:
            n_straddling += 1
        elif edit.overlaps(anchor) or (taken and edit.overlaps(taken[-1])):
            n_overlapping += 1
        else:
            taken.append(edit)
    return sorted([*taken, anchor]), n_overlapping, n_straddling


def _places(edits: Iterable[Edit], start: int) -> Iterator[int]:
    """The place in the edited window of the first base that each edit brings, or of the base behind its gap."""
    added = 0
    for edit in edits:
        yield edit.start - start + added
        added += len(edit.inserted) - edit.removed


def _is_shown(edit: Edit, place: int, length: int) -> bool:
    """Whether a sequence holds a base that the edit brings, or for a deletion the bases on both sides of the gap."""
    if edit.inserted:
        return place < length and place + len(edit.inserted) > 0
    return 0 < place < length
