"""Read the variants of a VCF, and cut the reference and the alternative window around each."""

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
        line: line of the file, from 1.
        fields: the columns of the record as in the file, with ALT reduced to this allele.
        contig: its name in the genome; "" if the genome has no such contig.
        start: 0-based position of the first base of ``ref``.
        ref: token ids of the bases that the allele replaces, uint8. Ends common to both alleles are trimmed, so it may
            be empty.
        alt: token ids of the bases in their place, uint8; may be empty.
        problem: why the allele cannot be scored; "" if it can.
    """

    line: int
    fields: tuple[str, ...]
    contig: str
    start: int
    ref: np.ndarray
    alt: np.ndarray
    problem: str = ""


def read_header(path: Path) -> tuple[str, ...]:
    """The names of the columns of a VCF, from ``#CHROM`` on.

    Raises:
        InputError: the file is missing, damaged, or not a VCF.
    """
    for _, line in read_lines(path):
        if line.startswith("#CHROM"):
            columns = tuple(line.split("\t"))
            if columns[:5] != COLUMNS:
                raise InputError(
                    f"{path}: its columns are not those of a VCF: expected {' '.join(COLUMNS)}, separated by tabs"
                )
            return columns
        if not line.startswith("##"):
            break
    hint = "; turn BCF into VCF with bcftools view" if path.suffix == ".bcf" else ""
    raise InputError(f"{path}: is not a VCF: no line begins with #CHROM{hint}")


def read_vcf(path: Path, genome: Genome) -> Iterator[Variant]:
    """Yield every alternative allele in the order of the file. A record with several alleles gives several variants.

    Contigs are found with and without "chr". Symbolic alleles, breakends, ``*`` and ``.`` have a ``problem``. So has
    an allele whose REF differs from the genome.

    Raises:
        InputError: the file is not a VCF, or a record has no position or too few columns.
    """
    names = {alias: contig.name for contig in genome.contigs for alias in _aliases(contig.name)}
    names |= {contig.name: contig.name for contig in genome.contigs}
    read_header(path)
    for number, line in read_lines(path):
        if line.startswith("#") or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 5:
            raise InputError(
                f"{path}:{number}: is not a record of a VCF: expected {' '.join(COLUMNS)}, separated by tabs"
            )
        if not fields[1].isdecimal():
            raise InputError(f"{path}:{number}: POS {fields[1]!r} is not a number")
        contig = names.get(fields[0], "")
        for alt in fields[4].split(","):
            kept = (*fields[:4], alt, *fields[5:])
            yield _variant(number, kept, contig, int(fields[1]) - 1, fields[3], alt, genome)


def windows(variant: Variant, genome: Genome, size: int, *, reverse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Cut the reference and the alternative window around a variant.

    Both start at the same base, with the reference allele in the middle. They have equal length, so that their
    likelihoods are comparable: insertions are trimmed at the end, deletions extended. Windows are shorter near the
    ends of the contig. On the reverse strand, start and end change places.

    Args:
        variant: a variant without a problem, whose alleles are shorter than ``size``.
        genome: its genome.
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
    head = _shared_start(before, after)
    before, after = before[head:], after[head:]
    tail = _shared_start(before[::-1], after[::-1])
    return Variant(line, fields, contig, start + head, before[: len(before) - tail], after[: len(after) - tail])


def _shared_start(first: np.ndarray, second: np.ndarray) -> int:
    """Number of bases that both begin with."""
    shared = min(len(first), len(second))
    differs = np.flatnonzero(first[:shared] != second[:shared])
    return int(differs[0]) if differs.size else shared
