"""Compares mutations with the reference, and keeps those that can be put into it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyenadna.cancer import edits
from hyenadna.cancer.edits import Mutation, Read
from hyenadna.cancer.mutations import Mutations
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.progress import bar
from hyenadna.common.vocab import BASES, BYTE_TO_ID, letters_of
from hyenadna.data.genome import Genome

UNKNOWN_CONTIG = "the reference has no such contig"
TWICE = "the same mutation of the line again"

_MOST_MISMATCHES = 0.05
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Checked:
    """Mutations that the reference has a place for.

    Attributes:
        frame: a polars frame in the order of lines and places: ``line``, ``contig`` (the reference's own name),
            ``place`` (of the contig in the reference), ``pos``, ``ref``, ``alt``. No row is there twice.
        skipped: how many rows are not in it, by line and reason.
        compared: rows on contigs of the reference.
    """

    frame: Any
    skipped: dict[tuple[str, str], int]
    compared: int


def reader(genome: Genome, contig: str) -> Read:
    """Reads the letters of a contig."""

    def read(start: int, end: int) -> str:
        return letters_of(genome.tokens(contig, start, end))

    return read


def check(path: Path, found: Mutations, genome: Genome, *, progress: bool = True) -> Checked:
    """Find each mutation's contig, bring a MAF's alleles into the form of a VCF, and compare Ref with the reference.

    Args:
        path: the file of the mutations, for messages.
        found: the mutations.
        genome: the reference.
        progress: show a progress bar over the rows.

    Raises:
        InputError: the reference has none of the contigs, or Ref differs from it in more than 5 % of the rows.
    """
    polars = require("polars")
    frame = found.frame
    names = frame["contig"].unique(maintain_order=True).to_list()
    genome.check_any(names, path)
    own = {name: genome.resolve(name) for name in names}
    place = {contig.name: number for number, contig in enumerate(genome.contigs)}
    places = {name: place[contig] for name, contig in own.items() if contig is not None}
    frame = frame.with_columns(
        contig=polars.col("contig").replace_strict(own, return_dtype=polars.String),
        place=polars.col("contig").replace_strict(places, default=None, return_dtype=polars.Int64),
    )
    skipped = Counter[tuple[str, str]]()
    _count(skipped, frame.filter(polars.col("place").is_null()), UNKNOWN_CONTIG)
    frame = frame.drop_nulls("place").sort("place")
    compared = frame.height
    kept = []
    examples: list[str] = []
    with bar("check mutations", compared, "row", progress=progress) as shown:
        for part in frame.partition_by("place", maintain_order=True):
            part, problems = _check_contig(part, genome, found.is_bare, examples)
            for reason in filter(None, np.unique(problems).tolist()):
                _count(skipped, part.filter(polars.Series(problems == reason)), reason)
            kept.append(part.filter(polars.Series(problems == "")))
            shown.update(part.height)
            # The pages of the next contig take the place of these.
            genome.close()
    mismatches = sum(n for (_, reason), n in skipped.items() if reason in (edits.MISMATCH, edits.OUTSIDE))
    if mismatches > _MOST_MISMATCHES * compared:
        raise InputError(
            f"{path}: {mismatches:,} of {compared:,} mutations ({mismatches / compared:.1%}) have another Ref than "
            f"{genome.source}, such as {', '.join(examples)}: is it another build of the genome? give the one that the "
            "mutations were called on"
        )
    frame = polars.concat(kept)
    once = frame.unique()
    twice = frame.group_by("line").len().join(once.group_by("line").len(), on="line")
    for line, before, after in twice.iter_rows():
        if before > after:
            skipped[line, TWICE] += before - after
    return Checked(once.sort("line", "place", "pos", "ref", "alt"), dict(skipped), compared)


def _count(skipped: Counter[tuple[str, str]], rows: Any, reason: str) -> None:
    for line, count in rows.group_by("line").len().iter_rows():
        skipped[line, reason] += count


def _check_contig(part: Any, genome: Genome, is_bare: bool, examples: list[str]) -> tuple[Any, np.ndarray]:
    """The rows of one contig with anchored alleles, and the problem of each as text; "" for none."""
    polars = require("polars")
    contig = part["contig"][0]
    length = genome.contig(contig).length
    read = reader(genome, contig)
    problems = np.full(part.height, "", dtype=object)
    # Most rows replace one base by another, and are compared together. The rule for all others is `edits.problem`.
    is_snp = (
        part["ref"].is_in(list(BASES)) & part["alt"].is_in(list(BASES)) & (part["ref"] != part["alt"])
        & part["pos"].is_between(1, length)
    ).to_numpy()  # fmt: skip
    first = part["pos"].to_numpy()[is_snp] - 1
    refs = np.frombuffer("".join(part["ref"].to_numpy()[is_snp]).encode(), np.uint8)
    slow = np.ones(part.height, dtype=bool)
    slow[is_snp] = BYTE_TO_ID[refs] != genome.tokens(contig)[first]
    anchored = []
    rows = np.flatnonzero(slow)
    for row, (pos, ref, alt) in zip(rows.tolist(), part[rows].select("pos", "ref", "alt").iter_rows(), strict=True):
        mutation = _anchored(pos, ref, alt, read, length) if is_bare else Mutation(pos, ref, alt)
        problem = edits.problem(mutation, read, length)
        problems[row] = problem
        if problem in (edits.MISMATCH, edits.OUTSIDE) and len(examples) < _MOST_SHOWN:
            examples.append(_example(contig, mutation, read, length))
        anchored.append((row, *mutation))
    if is_bare and anchored:
        changes = polars.DataFrame(
            anchored,
            schema={"row": polars.UInt32, "pos": polars.Int64, "ref": polars.String, "alt": polars.String},
            orient="row",
        )
        part = part.with_row_index("row").update(changes, on="row").drop("row")
    return part, problems


def _anchored(pos: int, ref: str, alt: str, read: Read, length: int) -> Mutation:
    """A mutation of a MAF with a base in both alleles. Where the contig has no such base, the alleles stay."""
    start = pos if not ref else pos - 1
    if (ref and alt) or not 0 <= start <= length - len(ref) or not (ref or alt):
        return Mutation(pos, ref, alt)
    if start == 0 and len(ref) == length:
        return Mutation(pos, ref, alt)
    return edits.from_bare_alleles(start, ref, alt, read)


def _example(contig: str, mutation: Mutation, read: Read, length: int) -> str:
    """``chr7:1000010 G (the reference has T)``."""
    there = read(min(max(mutation.first, 0), length), min(max(mutation.first, 0) + len(mutation.ref), length))
    return f"{contig}:{mutation.pos} {mutation.ref} (the reference has {there or 'no such position'})"
