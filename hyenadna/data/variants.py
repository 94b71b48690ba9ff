"""Variants: one form for every spelling of a variant, and the reference and alternative windows around it.

The form is the fully-justified one of SPDI and GA4GH VRS. Source: Holmes et al., "SPDI: data model for variants and
applications at NCBI", Bioinformatics 36(6), 2020, the "Variant Overprecision Correction Algorithm"; GA4GH VRS,
"Fully-Justified Allele Normalization".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hyenadna.common.vocab import BYTE_TO_ID, N_ID, UNK_ID, reverse_complement
from hyenadna.data.genome import Genome

MISMATCH = "REF differs from the genome"
OUTSIDE = "REF is not within the contig"
MISMATCHES = (MISMATCH, OUTSIDE)
"""Problems that a VCF of another assembly has."""

AMBIGUOUS = "an allele holds N or another ambiguity code"
UNKNOWN_REF = "the genome has N in place of REF"
NO_DNA = "an allele is no DNA"
SYMBOLIC = "symbolic allele"
TOO_LONG = "an allele is longer than half the window"
TOO_REPETITIVE = "the bases it can be shifted over are longer than half the window"
TOO_FEW = "too few bases stand behind it to compare"
NO_CONTEXT = "no base stands before it"

HAS_N = "N within the window"
IS_SHORT = "the contig ends within the window"
UNSCORED_ALLELE = "Tumor_Seq_Allele1 is a third allele, which is not scored"

_FIRST_STEP = 64


@dataclass(frozen=True)
class VariantRecord:
    """One record of a file of variants.

    Attributes:
        where: the file and the place in it, for messages.
        fields: its columns, as in the file.
        contig: the contig's name in the file.
        start: 0-based position of the first base of ``ref``; -1 for a telomere's POS 0.
        ref: the reference allele; "" for the insertion of a MAF.
        alts: the alternative alleles; "" for the deletion of a MAF.
        alt_column: the column that holds all of ``alts``, and in the row of an allele that allele alone; None if rows
            keep their columns as they are.
        remark: what a score of the record leaves out; "" if nothing.
    """

    where: str
    fields: tuple[str, ...]
    contig: str
    start: int
    ref: str
    alts: tuple[str, ...]
    alt_column: int | None = None
    remark: str = ""

    def row(self, allele: int) -> tuple[str, ...]:
        """The columns in the row of an allele."""
        if self.alt_column is None or len(self.alts) == 1:
            return self.fields
        return (*self.fields[: self.alt_column], self.alts[allele], *self.fields[self.alt_column + 1 :])


@dataclass(frozen=True)
class Variant:
    """One alternative allele of one record.

    Attributes:
        contig: its name in the genome; "" if the genome has no such contig.
        start: 0-based position of the first base of ``ref``.
        ref: token ids of the bases that the allele replaces, uint8. Ends common to both alleles are trimmed, so it may
            be empty.
        alt: token ids of the bases in their place, uint8; may be empty.
        problem: why the allele cannot be scored; "" if it can.
    """

    contig: str
    start: int
    ref: np.ndarray
    alt: np.ndarray
    problem: str = ""


def alleles(record: VariantRecord, genome: Genome) -> list[Variant]:
    """The alternative alleles of a record, compared with the genome and trimmed.

    An allele has a ``problem`` if it is symbolic, a breakend, ``*`` or ``.``, if it holds N or another ambiguity code,
    or if REF differs from the genome. A base of REF over an N of the genome is unknown, which is no difference.
    """
    contig = genome.resolve(record.contig)
    problem = f"the genome has no contig {record.contig}" if contig is None else _ref_problem(record, contig, genome)
    return [_allele(record, alt, contig or "", problem, genome) for alt in record.alts]


def justify(variant: Variant, genome: Genome, most: int | None = None) -> Variant:
    """The one form of a variant, whichever way it is spelled.

    An insertion or deletion grows on both sides over all bases that it could be shifted over. ``ref`` is then this
    whole region, and ``alt`` the region with the change: ``CA[A>]AG`` becomes ``AA > A``. Other variants are kept. On
    the other strand the form is the reverse complement. No insertion or deletion is shifted over N.

    Args:
        variant: a variant without a problem.
        genome: its genome.
        most: bases to grow by on either side before the search stops; None for all.
    """
    if len(variant.ref) and len(variant.alt):
        return variant
    unit = variant.ref if len(variant.ref) else variant.alt
    start, end = variant.start, variant.start + len(variant.ref)
    length = genome.contig(variant.contig).length
    first, last = (0, length) if most is None else (max(0, start - most), min(length, end + most))
    before = genome.tokens(variant.contig, first, start)
    behind = genome.tokens(variant.contig, end, last)
    before = before[len(before) - _repeats(unit[::-1], before[::-1]) :]
    behind = behind[: _repeats(unit, behind)]
    ref, alt = (np.concatenate([before, middle, behind]) for middle in (variant.ref, variant.alt))
    return replace(variant, start=start - len(before), ref=ref, alt=alt)


@dataclass(frozen=True)
class Windows:
    """The windows of a variant on one strand, in reading direction.

    Attributes:
        reference: token ids, uint8 ``(L,)``.
        changed: the same with the alternative allele. It has equally many scored bases, that is, bases which are not N
            and not the first of the window.
        before: bases before the alleles, the same in both.
        longest: length of the longer allele.
        problem: why there is nothing to compare; "" if there is.
        remarks: what makes the score differ from that of a full window without N.
    """

    reference: np.ndarray
    changed: np.ndarray
    before: int
    longest: int
    problem: str
    remarks: tuple[str, ...]


def windows(variant: Variant, genome: Genome, size: int, *, reverse: bool = False) -> Windows:
    """Cut the reference and the alternative window around a variant.

    Both begin at the same base, with the longer allele in the middle, and hold ``size`` bases. So the window with the
    shorter allele reaches further. Both are then cut to equally many scored bases: N is not scored, and the contig may
    end. On the reverse strand, start and end change places, so that windows are those of the reverse complement.

    Args:
        variant: a variant without a problem, in the form of `justify`.
        genome: its genome.
        size: bases in a window.
        reverse: read the other strand.
    """
    start, end = variant.start, variant.start + len(variant.ref)
    length = genome.contig(variant.contig).length
    longest = max(len(variant.ref), len(variant.alt))
    if longest > size // 2:
        empty = np.empty(0, dtype=np.uint8)
        return Windows(empty, empty, 0, longest, TOO_REPETITIVE, ())
    flank = (size - longest) // 2
    shared = min(flank, length - end if reverse else start)
    further = size - shared - min(len(variant.ref), len(variant.alt))
    if reverse:
        before = genome.tokens(variant.contig, end, end + shared)
        behind = genome.tokens(variant.contig, max(0, start - further), start)
        before, ref, alt, behind = map(reverse_complement, (before, variant.ref, variant.alt, behind))
    else:
        before = genome.tokens(variant.contig, start - shared, start)
        behind = genome.tokens(variant.contig, end, min(length, end + further))
        ref, alt = variant.ref, variant.alt
    pair = [np.concatenate([before, allele, behind])[:size] for allele in (ref, alt)]
    remarks = (
        *([HAS_N] if any((ids == N_ID).any() for ids in pair) else []),
        *([IS_SHORT] if shared < flank or min(map(len, pair)) < size else []),
    )
    # The first base of a window is not scored.
    places = [np.flatnonzero(ids[1:] != N_ID) + 1 for ids in pair]
    count = min(map(len, places))
    reference, changed = (ids[: place[count - 1] + 1 if count else 1] for ids, place in zip(pair, places, strict=True))
    # The longer allele is scored whole, and equally many bases in the place of the shorter one.
    needed = int((before[1:] != N_ID).sum()) + longest - (not shared)
    problem = "" if count and count >= needed else TOO_FEW
    return Windows(reference, changed, shared, longest, problem, remarks)


def _repeats(unit: np.ndarray, bases: np.ndarray) -> int:
    """How many of the bases go on repeating ``unit``. Reads them in pieces, because few do."""
    done, step = 0, _FIRST_STEP
    while done < len(bases):
        piece = bases[done : done + step]
        differs = np.flatnonzero(piece != unit[np.arange(done, done + len(piece)) % len(unit)])
        if differs.size:
            return done + int(differs[0])
        done, step = done + len(piece), 2 * step
    return done


def _ids(text: str) -> np.ndarray:
    return BYTE_TO_ID[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]


def _ref_problem(record: VariantRecord, contig: str, genome: Genome) -> str:
    """Why no allele of the record can be scored; "" if nothing speaks against it."""
    ref = _ids(record.ref)
    if (ref == UNK_ID).any():
        return NO_DNA
    if record.start < 0:
        return "POS 0 stands before the first base"
    if record.start + len(ref) > genome.contig(contig).length:
        return OUTSIDE
    there = genome.tokens(contig, record.start, record.start + len(ref))
    differs = ref != there
    if not differs.any():
        return ""
    if (differs & (ref != N_ID) & (there != N_ID)).any():
        return MISMATCH
    # A known base over an N of the genome matters in the changed bases alone, see `_allele`.
    return AMBIGUOUS if (differs & (ref == N_ID)).any() else ""


def _allele(record: VariantRecord, alt: str, contig: str, problem: str, genome: Genome) -> Variant:
    def refused(problem: str) -> Variant:
        none = np.empty(0, dtype=np.uint8)
        return Variant(contig, record.start, none, none, problem)

    if problem:
        return refused(problem)
    if alt == ".":
        return refused("no alternative allele")
    if alt == "*" or alt[:1] in ("<", ".") or alt.endswith(".") or "[" in alt or "]" in alt:
        return refused(SYMBOLIC)
    ref_text, alt_text = (text.upper().replace("U", "T") for text in (record.ref, alt))
    if ref_text == alt_text:
        return refused("ALT equals REF")
    if (_ids(alt_text) == UNK_ID).any():
        return refused(NO_DNA)
    # Ends are compared as letters: R and Y are both N to the model, and not the same.
    letters = [np.frombuffer(text.encode("ascii"), np.uint8) for text in (ref_text, alt_text)]
    head = _shared_start(*letters)
    tail = _shared_start(*(text[head:][::-1] for text in letters))
    ref, alt_ids = (BYTE_TO_ID[text[head : len(text) - tail]] for text in letters)
    start = record.start + head
    if (alt_ids == N_ID).any():
        return refused(AMBIGUOUS)
    if (genome.tokens(contig, start, start + len(ref)) == N_ID).any():
        return refused(UNKNOWN_REF)
    return Variant(contig, start, ref, alt_ids)


def _shared_start(first: np.ndarray, second: np.ndarray) -> int:
    """Number of letters that both begin with."""
    shared = min(len(first), len(second))
    differs = np.flatnonzero(first[:shared] != second[:shared])
    return int(differs[0]) if differs.size else shared
