"""Variants of a VCF as pairs of windows: the reference's bases, and the same with the alternative allele in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, UNK_ID, reverse_complement
from hyenadna.data.genome import Genome
from hyenadna.data.streams import read_lines

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT")
MISMATCH = "REF differs from the genome"
_MITOCHONDRIA = ("M", "MT")


@dataclass(frozen=True)
class Variant:
    """One alternative allele of one record.

    Attributes:
        line: of the file, from 1.
        fields: the record's columns as they are in the file, ALT reduced to this allele.
        contig: the name that the genome has for it; "" where it has none.
        start: 0-based position of the first base of ``ref``.
        ref: token ids of the bases that the allele replaces, common ends trimmed; uint8, possibly empty.
        alt: token ids of the bases in their place; uint8, possibly empty.
        problem: why there is nothing to score; "" otherwise.
    """

    line: int
    fields: tuple[str, ...]
    contig: str
    start: int
    ref: np.ndarray
    alt: np.ndarray
    problem: str = ""


def read_header(path: Path) -> tuple[str, ...]:
    """The columns of a VCF, from ``#CHROM`` on.

    Raises:
        InputError: no such file, damaged, or no VCF.
    """
    for _, line in read_lines(path):
        if line.startswith("#CHROM"):
            columns = tuple(line.split("\t"))
            if columns[:5] != COLUMNS:
                raise InputError(
                    f"{path}: its columns are not those of a VCF: expected {' '.join(COLUMNS)}, tabs between"
                )
            return columns
        if not line.startswith("##"):
            break
    hint = "; turn BCF into VCF with bcftools view" if path.suffix == ".bcf" else ""
    raise InputError(f"{path}: is no VCF: no line begins with #CHROM{hint}")


def read_vcf(path: Path, genome: Genome) -> Iterator[Variant]:
    """Every alternative allele, in the order of the file; a record with several gives several.

    Contigs are found with and without "chr". Symbolic alleles, breakends, ``*`` and ``.`` come with a ``problem``, and
    so does a REF that is not what the genome holds there.

    Raises:
        InputError: no VCF, or a record without position or with too few columns.
    """
    names = {alias: contig.name for contig in genome.contigs for alias in _aliases(contig.name)}
    names |= {contig.name: contig.name for contig in genome.contigs}
    read_header(path)
    for number, line in read_lines(path):
        if line.startswith("#") or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 5:
            raise InputError(f"{path}:{number}: is no record of a VCF: expected {' '.join(COLUMNS)}, tabs between")
        if not fields[1].isdecimal():
            raise InputError(f"{path}:{number}: POS {fields[1]!r} is no number")
        contig = names.get(fields[0], "")
        for alt in fields[4].split(","):
            kept = (*fields[:4], alt, *fields[5:])
            yield _variant(number, kept, contig, int(fields[1]) - 1, fields[3], alt, genome)


def windows(variant: Variant, genome: Genome, size: int, *, reverse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Reference and alternative window around a variant, of equally many bases, as a model reads them.

    Both begin at the same base, with the variant's reference allele in the middle. What an insertion adds is taken off
    the end, and what a deletion lacks is added there, so that the likelihoods of two windows compare; near an end of
    the contig windows are shorter. On the reverse strand begin and end change places.

    Args:
        variant: one without a problem, its alleles shorter than ``size``.
        genome: the genome it belongs to.
        size: bases in a window.
        reverse: read the other strand.

    Returns:
        Two arrays of token ids, uint8 ``(L,)`` with L ≤ size.
    """
    end = variant.start + len(variant.ref)
    flank = (size - len(variant.ref)) // 2
    span = size + max(0, len(variant.ref) - len(variant.alt))
    length = genome.contig(variant.contig).length
    if reverse:
        last = min(length, end + flank)
        first = max(0, last - span)
    else:
        first = max(0, variant.start - flank)
        last = min(length, first + span)
    reference = genome.tokens(variant.contig, first, last)
    changed = np.concatenate([reference[: variant.start - first], variant.alt, reference[end - first :]])
    if reverse:
        reference, changed = reverse_complement(reference), reverse_complement(changed)
    common = min(len(reference), len(changed), size)
    return reference[:common], changed[:common]


def _aliases(name: str) -> list[str]:
    bare = name.removeprefix("chr")
    alike = _MITOCHONDRIA if bare in _MITOCHONDRIA else (bare,)
    return [alias for other in alike for alias in (other, f"chr{other}")]


def _variant(
    line: int, fields: tuple[str, ...], contig: str, start: int, ref: str, alt: str, genome: Genome
) -> Variant:
    def refused(problem: str) -> Variant:
        none = np.empty(0, dtype=np.uint8)
        return Variant(line, fields, contig, start, none, none, problem)

    if not contig:
        return refused(f"the genome has no contig {fields[0]}")
    if alt in (".", "*", "") or alt[0] == "<" or "[" in alt or "]" in alt:
        return refused("symbolic allele" if alt not in (".", "") else "no alternative allele")
    before, after = (BYTE_TO_ID[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)] for text in (ref, alt))
    if not len(before) or (before == UNK_ID).any() or (after == UNK_ID).any():
        return refused("an allele is no DNA")
    if not 0 <= start <= genome.contig(contig).length - len(before):
        return refused(MISMATCH)
    if not np.array_equal(genome.tokens(contig, start, start + len(before)), before):
        return refused(MISMATCH)
    if np.array_equal(before, after):
        return refused("ALT equals REF")
    shared = min(len(before), len(after))
    differs = np.flatnonzero(before[:shared] != after[:shared])
    head = int(differs[0]) if differs.size else shared
    before, after = before[head:], after[head:]
    shared = min(len(before), len(after))
    differs = np.flatnonzero(before[::-1][:shared] != after[::-1][:shared])
    tail = int(differs[0]) if differs.size else shared
    return Variant(line, fields, contig, start + head, before[: len(before) - tail], after[: len(after) - tail])
