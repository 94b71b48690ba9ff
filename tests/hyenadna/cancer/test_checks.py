"""Mutations against the reference: what is left out is counted, and another build is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars
import pytest

from hyenadna.cancer import checks, edits
from hyenadna.cancer.checks import Checked, check
from hyenadna.cancer.edits import Mutation
from hyenadna.cancer.mutations import Mutations
from hyenadna.common.errors import InputError
from hyenadna.data.genome import Genome

CONTIG = "ACGGTTCAAGCTTAGGNNTCCGATTACAGGTCCATGAACT"
FILE = Path("mutations.csv")


def checked(rows: Sequence[tuple[str, str, int, str, str]], genome: Genome, *, is_bare: bool = False) -> Checked:
    frame = polars.DataFrame(rows, schema=["line", "contig", "pos", "ref", "alt"], orient="row")
    return check(FILE, Mutations(frame, is_bare, len(rows)), genome, progress=False)


def good(count: int) -> list[tuple[str, str, int, str, str]]:
    """As many different mutations that fit."""
    return [
        (f"L{number}", "chr1", 1 + place, CONTIG[place], base)
        for number in range(count)
        for place in (number % 16,)
        for base in "ACGT"
        if base != CONTIG[place]
    ][:count]


def test_rows_that_are_left_out(make_genome: Callable[..., Genome]) -> None:
    rows = [
        *good(40),
        ("A", "chr1", 10, "G", "T"),
        ("A", "1", 10, "G", "T"),
        ("A", "chr1", 10, "G", "GT"),
        ("A", "chr9", 10, "G", "T"),
        ("B", "chr9", 10, "G", "T"),
        ("B", "chr1", 10, "G", "N"),
        ("B", "chr1", 10, "G", "G"),
        ("B", "chr1", 17, "A", "C"),
        ("B", "chr1", 10, "C", "T"),
        ("B", "chr1", 40, "TA", "T"),
        ("C", "2", 3, "AC", "A"),
    ]
    found = checked(rows, make_genome(chr1=CONTIG, chr2="GGACTT"))
    assert found.skipped == {
        ("A", checks.TWICE): 1,
        ("A", checks.UNKNOWN_CONTIG): 1,
        ("B", checks.UNKNOWN_CONTIG): 1,
        ("B", edits.NO_BASES): 1,
        ("B", edits.SAME): 1,
        ("B", edits.UNKNOWN): 1,
        ("B", edits.MISMATCH): 1,
        ("B", edits.OUTSIDE): 1,
    }
    assert found.compared == len(rows) - 2
    kept = found.frame.filter(~polars.col("line").str.starts_with("L"))
    assert kept.select("line", "contig", "pos", "ref", "alt").rows() == [
        ("A", "chr1", 10, "G", "GT"), ("A", "chr1", 10, "G", "T"), ("C", "chr2", 3, "AC", "A"),
    ]  # fmt: skip
    assert found.frame.height == 43


def test_each_row_is_judged_as_the_rule_says(make_genome: Callable[..., Genome]) -> None:
    """The rows that are compared together get what `edits.problem` gives one by one."""
    rng = np.random.default_rng(0)
    pieces = ["A", "C", "G", "T", "N", "R", "AC", "GG", "", "<DEL>"]
    rows = [("before", "chr1", 0, "A", "C"), ("behind", "chr1", len(CONTIG) + 1, "A", "C")]
    for number in range(600):
        pos = int(rng.integers(1, len(CONTIG) + 2))
        ref = str(rng.choice(pieces))
        if rng.random() < 0.985:
            ref = CONTIG.replace("N", "A")[max(0, pos - 1) : pos]
        rows.append((f"L{number}", "chr1", pos, ref, str(rng.choice(pieces))))
    expected = {}
    for line, _, *mutation in rows:
        if problem := edits.problem(Mutation(*mutation), lambda start, end: CONTIG[start:end], len(CONTIG)):
            expected[line] = problem
    found = checked(rows, make_genome(chr1=CONTIG))
    assert dict(found.skipped.keys()) == expected
    assert found.frame.height == len(rows) - len(expected)
    assert len(set(expected.values())) == 5


def test_another_build_is_refused(make_genome: Callable[..., Genome]) -> None:
    """Above 5 % of the rows, not at 5 %."""
    genome = make_genome(chr1=CONTIG)
    wrong = [("X", "chr1", 10, "C", "T"), ("X", "chr1", 41, "A", "C")]
    assert checked([*good(38), *wrong], genome).frame.height == 38
    with pytest.raises(InputError) as caught:
        checked([*good(37), *wrong], genome)
    assert str(caught.value) == (
        "mutations.csv: 2 of 39 mutations (5.1%) have another Ref than made.fa, such as chr1:10 C (the reference has "
        "G), chr1:41 A (the reference has no such position): is it another build of the genome? give the one that the "
        "mutations were called on"
    )


def test_no_contig_of_the_reference(make_genome: Callable[..., Genome]) -> None:
    with pytest.raises(InputError, match=r"none of its contigs \(7, 8\) is in the genome, which has chr1, chr2"):
        checked([("A", "7", 1, "A", "C"), ("A", "8", 1, "A", "C")], make_genome(chr1=CONTIG, chr2="ACGT"))


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "reason"),
    [
        (40, "", "TT", ""),
        (41, "", "TT", edits.OUTSIDE),
        (41, "A", "", edits.OUTSIDE),
        (10, "C", "", edits.MISMATCH),
        (10, "G", "", ""),
        (1, CONTIG, "", edits.NO_BASES),
        (10, "", "", edits.NO_BASES),
    ],
)
def test_bare_alleles(pos: int, ref: str, alt: str, reason: str, make_genome: Callable[..., Genome]) -> None:
    found = checked([*good(30), ("A", "chr1", pos, ref, alt)], make_genome(chr1=CONTIG), is_bare=True)
    assert found.skipped == ({("A", reason): 1} if reason else {})
