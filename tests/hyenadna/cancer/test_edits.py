"""The algorithm on worked examples, on every case of its edges, and against ``bcftools consensus``."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hyenadna.cancer import edits as E
from hyenadna.cancer.edits import Edit, Edits, Mutation, Plan

CONTIG = "ACGGTTCAAGCTTAGGCATCCGATTACAGGTCCATGAACT"

# Name, mutations (the anchor first), offset, length, window, sequence.
EXAMPLES = [
    ("SNP", [(10, "G", "T")], 4, 10, (5, 15), "TCAATCTTAG"),
    ("DNP", [(10, "GC", "TA")], 4, 10, (5, 15), "TCAATATTAG"),
    ("TNP", [(10, "GCT", "AAA")], 4, 10, (5, 15), "TCAAAAATAG"),
    ("INS, cut right", [(10, "G", "GTTT")], 4, 10, (5, 15), "TCAAGTTTCT"),
    ("INS at the last place, cut left", [(10, "G", "GTTT")], 9, 10, (0, 10), "GTTCAAGTTT"),
    ("DEL", [(10, "GCT", "G")], 4, 10, (5, 17), "TCAAGTAGGC"),
    ("growth reaches a DEL, whose growth reaches a SNP", [(10, "GCT", "G"), (15, "GG", "G"), (18, "A", "T")], 4, 10,
     (5, 18), "TCAAGTAGCT"),
    ("the same neighbours out of reach of a SNP", [(10, "G", "A"), (15, "GG", "G"), (18, "A", "T")], 4, 10,
     (5, 15), "TCAAACTTAG"),
    ("contig start", [(2, "C", "T")], 7, 10, (0, 10), "ATGGTTCAAG"),
    ("contig end", [(38, "A", "G")], 1, 10, (30, 40), "TCCATGAGCT"),
    ("DEL at the contig end includes a SNP before it", [(34, "ATGA", "A"), (29, "G", "C")], 3, 10, (27, 40),
     "ACGTCCAACT"),
    ("overlap", [(10, "G", "T"), (9, "AG", "CC"), (12, "T", "G")], 4, 10, (5, 15), "TCAATCGTAG"),
    ("SNP on the anchor base of an INS", [(10, "G", "GTT"), (10, "G", "A")], 4, 10, (5, 15), "TCAAATTCTT"),
    ("INS left of the anchor", [(12, "T", "A"), (8, "A", "ACCC")], 5, 6, (6, 12), "CCAGCA"),
    ("neighbour whose Ref is not there", [(10, "G", "T"), (12, "A", "C")], 4, 10, (5, 15), "TCAATCTTAG"),
    ("straddling DEL", [(10, "G", "T"), (14, "AGG", "A")], 4, 10, (5, 15), "TCAATCTTAG"),
]  # fmt: skip


def read(start: int, end: int) -> str:
    assert 0 <= start <= end <= len(CONTIG)
    return CONTIG[start:end]


def plan(mutations: list[tuple[int, str, str]], offset: int, length: int) -> Plan | str:
    usable = [Mutation(*one) for one in mutations if not E.problem(Mutation(*one), read, len(CONTIG))]
    return E.plan_window(usable[0], Edits(one.edit for one in usable), offset, length, len(CONTIG))


def made(mutations: list[tuple[int, str, str]], offset: int, length: int) -> Plan:
    result = plan(mutations, offset, length)
    assert isinstance(result, Plan), result
    assert len(result.sequence(read)) == len(result.reference(read)) == length
    return result


@pytest.mark.parametrize(("mutations", "offset", "length", "window", "sequence"), [e[1:] for e in EXAMPLES],
                         ids=[e[0] for e in EXAMPLES])  # fmt: skip
def test_worked_example(
    mutations: list[tuple[int, str, str]], offset: int, length: int, window: tuple[int, int], sequence: str
) -> None:
    result = made(mutations, offset, length)
    assert (result.start, result.end) == window
    assert result.sequence(read) == sequence


# Name, mutations, offset, sequence, place of the anchor, and edits that are shown, overlap, pass an edge, are cut off.
EDGES = [
    ("TNP at the last place", [(10, "GCT", "AAA")], 9, "GGTTCAAAAA", 7, (1, 0, 0, 0)),
    ("delins at the last place", [(10, "GCT", "TA")], 9, "CGGTTCAATA", 8, (1, 0, 0, 0)),
    ("DEL at its last place", [(10, "GCT", "G")], 8, "CGGTTCAAGT", 9, (1, 0, 0, 0)),
    ("INS longer than the window", [(10, "G", "GTTTTCCCCAAAA")], 4, "TTCCCCAAAA", 0, (1, 0, 0, 0)),
    ("SNP that an INS pushes out", [(10, "G", "GTTT"), (15, "G", "C")], 4, "TCAAGTTTCT", 5, (1, 0, 0, 1)),
    # The growth by the DEL admits the ONP, which then takes the place of the DEL.
    ("growth that is not needed in the end", [(10, "G", "T"), (13, "TA", "T"), (13, "TAGG", "CCTT")], 4, "TCAATCTCCT",
     4, (2, 1, 0, 0)),
    ("two INS at one point", [(10, "G", "GTT"), (10, "G", "GA")], 4, "TCAAGTTCTT", 5, (1, 1, 0, 0)),
    ("INS within a DEL", [(10, "GCT", "G"), (11, "C", "CAA")], 4, "TCAAGTAGGC", 5, (1, 1, 0, 0)),
    ("INS at the end of a DEL", [(10, "GCT", "G"), (12, "T", "TAA")], 4, "TCAAGAATAG", 5, (2, 0, 0, 0)),
    ("straddling DEL on either side", [(10, "G", "T"), (14, "AGG", "A"), (4, "GTT", "G")], 4, "TCAATCTTAG", 4,
     (1, 0, 2, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("mutations", "offset", "sequence", "place", "counts"), [e[1:] for e in EDGES],
                         ids=[e[0] for e in EDGES])  # fmt: skip
def test_edges(
    mutations: list[tuple[int, str, str]], offset: int, sequence: str, place: int, counts: tuple[int, ...]
) -> None:
    result = made(mutations, offset, 10)
    assert result.sequence(read) == sequence
    assert result.anchor_in_sequence == place
    assert (result.n_mutations, result.n_overlapping, result.n_straddling, result.n_cut) == counts
    assert result.n_dropped == sum(counts[1:])


def test_reference_holds_the_place_of_the_anchor() -> None:
    """Where a deletion behind the anchor moves the window far to the left, too."""
    result = made([(40, "T", "A"), (30, CONTIG[29:38], CONTIG[29])], 3, 10)
    assert (result.start, result.end, result.reference_start) == (22, 40, 30)
    assert result.sequence(read) == CONTIG[22:30] + "CA"
    assert made([(10, "GCT", "G")], 4, 10).reference(read) == CONTIG[5:15]


def test_no_window() -> None:
    contig = "ACGTTGCAACGTACGGTTCA"
    deletion = Mutation(3, contig[2:15], "G")
    edits = Edits([deletion.edit, Mutation(18, "T", "A").edit])
    assert edits.shrinkage == 12
    assert E.plan_window(deletion, edits, 4, 9, 20) == E.TOO_SHORT_AFTER
    assert E.plan_window(deletion, Edits([]), 4, 21, 20) == E.TOO_SHORT
    assert isinstance(E.plan_window(deletion, edits, 4, 8, 20), Plan)
    # The contig ends with the gap, or the window begins with it.
    assert plan([(38, "ACT", "A")], 3, 10) == E.UNSEEN
    assert plan([(10, "GCT", "G"), (9, "AG", "A")], 0, 10) == E.UNSEEN


@pytest.mark.parametrize(
    ("mutation", "problem"),
    [
        ((10, "G", "T"), ""),
        ((10, "G", "R"), E.NO_BASES),
        ((10, "G", "<DEL>"), E.NO_BASES),
        ((10, "G", ""), E.NO_BASES),
        ((10, "g", "t"), E.NO_BASES),
        ((10, "GC", "GC"), E.SAME),
        ((0, "G", "T"), E.OUTSIDE),
        ((40, "TA", "T"), E.OUTSIDE),
        ((40, "T", "TA"), ""),
        ((10, "C", "T"), E.MISMATCH),
        ((10, "GG", "T"), E.MISMATCH),
        ((2, "CG", "T"), E.UNKNOWN),
        ((2, "GG", "T"), E.MISMATCH),
    ],
)
def test_problem(mutation: tuple[int, str, str], problem: str) -> None:
    contig = CONTIG[:2] + "N" + CONTIG[3:]
    assert E.problem(Mutation(*mutation), lambda start, end: contig[start:end], len(contig)) == problem


@pytest.mark.parametrize(
    ("start", "ref", "alt", "expected"),
    [
        (9, "G", "T", (10, "G", "T")),
        (10, "", "TTT", (10, "G", "GTTT")),
        (10, "CT", "", (10, "GCT", "G")),
        (0, "AC", "", (1, "ACG", "G")),
        (0, "", "TT", (1, "A", "TTA")),
    ],
)
def test_alleles_that_may_be_empty(start: int, ref: str, alt: str, expected: tuple[int, str, str]) -> None:
    mutation = E.from_bare_alleles(start, ref, alt, read)
    assert mutation == expected
    assert not E.problem(mutation, read, len(CONTIG))


def test_kinds() -> None:
    alleles = {
        "SNP": ("G", "T"), "DNP": ("GC", "TA"), "TNP": ("GCT", "AAA"), "ONP": ("GCTT", "AAAA"), "INS": ("G", "GTTT"),
        "DEL": ("GCT", "G"), "delins": ("GCT", "TA"),
    }  # fmt: skip
    assert {Mutation(10, *pair).kind: pair for pair in alleles.values()} == alleles


def test_offsets() -> None:
    """Every place is as likely as any other, and the last one is not for a deletion."""
    snp, deletion = Mutation(10, "G", "T"), Mutation(10, "GCT", "G")
    drawn = Counter(E.draw_offset(snp, 5, 0, f"line {seed}") for seed in range(5000))
    assert sorted(drawn) == [0, 1, 2, 3, 4]
    # Four standard deviations.
    assert all(abs(count - 1000) < 4 * (1000 * 0.8) ** 0.5 for count in drawn.values())
    assert {E.draw_offset(deletion, 5, seed) for seed in range(200)} == {0, 1, 2, 3}


def test_numbers_are_the_same_everywhere() -> None:
    """Those of b2sum -l 64, with bytes of 0 between the values."""
    numbers = [E.number("offset", 0, "ACH-1", "chr7"), E.number("a", "b"), E.number("ab", "")]
    assert [f"{number:016x}" for number in numbers] == ["4c0388f0ad59a3b2", "ffc151170352baa3", "df129fe81742a343"]


@pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is not installed")
def test_like_bcftools(tmp_path: Path) -> None:
    """1,000 random cases, a contig each: the sequence is a part of the contig into which bcftools puts the edits."""
    rng = np.random.default_rng(5)
    # One contig for bcftools, in which N stands between the cases: it is slow with many contigs.
    reference, records = "", []
    cases: list[tuple[str, Plan]] = []
    while len(cases) < 1000:
        contig = "".join(rng.choice(list("ACGT"), rng.integers(8, 80)))
        anchor, *others = _random_mutations(rng, contig)
        length = int(rng.integers(2, len(contig) + 1))
        offset = E.draw_offset(anchor, length, len(cases))
        planned = E.plan_window(anchor, Edits(one.edit for one in (anchor, *others)), offset, length, len(contig))
        if isinstance(planned, Plan):
            cases.append((contig, planned))
            records += [
                f"c\t{len(reference) + pos}\t.\t{ref}\t{alt}\t.\t.\t.\n"
                for pos, ref, alt in _records(planned.edits, contig)
            ]
            reference += f"{contig}N"
    header = "##fileformat=VCFv4.2\n##contig=<ID=c>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "reference.fa").write_text(f">c\n{reference}\n")
    (tmp_path / "edits.vcf").write_text(header + "".join(records))
    for command in ("view -Ob -o edits.bcf edits.vcf", "index edits.bcf", "consensus -f reference.fa edits.bcf"):
        words = ["bcftools", *command.split()]
        told = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert f"Applied {len(records)} variants" in told.stderr
    changed = "".join(told.stdout.split()[1:]).split("N")
    assert sum(len(planned.edits) for _, planned in cases) > 2500
    for (contig, planned), whole in zip(cases, changed, strict=False):
        sequence = planned.sequence(lambda start, end, contig=contig: contig[start:end])
        assert len(sequence) == planned.length
        assert sequence == whole[planned.start + planned.cut :][: planned.length]


def _random_mutations(rng: np.random.Generator, contig: str) -> list[Mutation]:
    def bases(count: int) -> str:
        return "".join(rng.choice(list("ACGT"), count))

    found = []
    for _ in range(rng.integers(1, 12)):
        first = int(rng.integers(0, len(contig)))
        ref = contig[first : first + int(rng.choice([1, 1, 1, 2, 3, 6]))]
        alt = [bases(len(ref)), ref[0] + bases(int(rng.integers(0, 6))), bases(int(rng.integers(1, 4)))]
        mutation = Mutation(first + 1, ref, str(rng.choice(alt)))
        if mutation.ref != mutation.alt:
            found.append(mutation)
    return found or [Mutation(1, contig[0], "A" if contig[0] != "A" else "C")]


def _records(edits: tuple[Edit, ...], contig: str) -> list[tuple[int, str, str]]:
    """Edits as records of a VCF. Those side by side are one record, because a record needs the base before it."""
    joined: list[tuple[int, int, str]] = []
    for edit in edits:
        if joined and joined[-1][1] == edit.start:
            start, _, inserted = joined.pop()
            joined.append((start, edit.end, inserted + edit.inserted))
        else:
            joined.append((edit.start, edit.end, edit.inserted))
    records = []
    for start, end, inserted in joined:
        first = start - (start == end or not inserted)
        records.append((first + 1, contig[first:end], contig[first:start] + inserted))
    return records
