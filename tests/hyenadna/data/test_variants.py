from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.vocab import LETTERS, N_ID, reverse_complement
from hyenadna.data.genome import Genome, prepare
from hyenadna.data.sequences import encode
from hyenadna.data.variants import (
    AMBIGUOUS,
    HAS_N,
    IS_SHORT,
    MISMATCH,
    NO_DNA,
    OUTSIDE,
    SYMBOLIC,
    TOO_FEW,
    TOO_REPETITIVE,
    UNKNOWN_REF,
    Variant,
    VariantRecord,
    Windows,
    alleles,
    justify,
    windows,
)

MakeGenome = Callable[..., Genome]


@pytest.fixture
def make_genome(tmp_path: Path) -> MakeGenome:
    def make(**contigs: str) -> Genome:
        name = f"{len(list(tmp_path.iterdir()))}"
        fasta = tmp_path / f"{name}.fa"
        fasta.write_text("".join(f">{contig}\n{bases}\n" for contig, bases in contigs.items()))
        return prepare(fasta, tmp_path / name, progress=False)

    return make


def text(ids: np.ndarray) -> str:
    return "".join(LETTERS[i] for i in ids.tolist())


def turn(bases: str) -> str:
    """Reverse complement."""
    return text(reverse_complement(encode(bases, ""))) if bases else ""


def read(genome: Genome, start: int, ref: str, alt: str, contig: str = "a") -> Variant:
    (found,) = alleles(VariantRecord("x", (), contig, start, ref, (alt,)), genome)
    return found


def form(genome: Genome, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    variant = read(genome, start, ref, alt)
    assert not variant.problem
    variant = justify(variant, genome)
    return variant.start, text(variant.ref), text(variant.alt)


def spellings(bases: str, start: int, ref: str, alt: str) -> set[tuple[int, str, str]]:
    """Every way to write the change within a few bases: shifted, and padded on both sides."""
    changed = bases[:start] + alt + bases[start + len(ref) :]
    shift = len(changed) - len(bases)
    found = set()
    for first in range(max(0, start - 12), min(len(bases), start + 12)):
        for last in range(first + max(0, -shift), min(len(bases), first + len(ref) + 20) + 1):
            if bases[:first] == changed[:first] and bases[last:] == changed[last + shift :]:
                found.add((first, bases[first:last], changed[first : last + shift]))
    return found


def test_the_form_of_an_indel_is_the_whole_region_it_can_be_shifted_over(make_genome: MakeGenome) -> None:
    genome = make_genome(a="GGTCAAAAGCACACATT")
    assert form(genome, 3, "CA", "C") == (4, "AAAA", "AAA")
    assert form(genome, 6, "AA", "A") == (4, "AAAA", "AAA")
    assert form(genome, 7, "A", "AAA") == (4, "AAAA", "AAAAAA")
    assert form(genome, 9, "CACA", "CA") == (9, "CACACA", "CACA")
    assert form(genome, 8, "GCACACAT", "GCACACACAT") == (9, "CACACA", "CACACACA")
    # A part of a unit counts: ACA in GCACACATT may begin with either base.
    assert form(genome, 10, "ACA", "A") == (9, "CACACA", "CACA")
    # What is no insertion or deletion keeps its changed bases.
    assert form(genome, 2, "TCA", "TGA") == (3, "C", "G")
    assert form(genome, 2, "TCAAA", "TGAC") == (3, "CAAA", "GAC")


def test_every_spelling_of_random_variants_has_one_form_on_both_strands(make_genome: MakeGenome) -> None:
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("AC"), 60)) + "".join(rng.choice(list("ACGT"), 30))
    genome, turned = make_genome(a=bases), make_genome(a=turn(bases))
    several = 0
    for _ in range(15):
        start, width = int(rng.integers(0, 80)), int(rng.integers(0, 5))
        ref, alt = bases[start : start + width], "".join(rng.choice(list("AC"), rng.integers(0, 5)))
        if ref == alt:
            continue
        ways = spellings(bases, start, ref, alt)
        forms = {form(genome, *way) for way in ways}
        forms_there = {form(turned, len(bases) - first - len(r), turn(r), turn(a)) for first, r, a in ways}
        assert len(forms) == len(forms_there) == 1
        (first, r, a), (second, r_there, a_there) = *forms, *forms_there
        assert (r_there, a_there, second) == (turn(r), turn(a), len(bases) - first - len(r))
        several += len(ways) > 30
        # By definition: the region reaches over everything that both ends of the haplotypes share.
        changed = bases[:start] + alt + bases[start + len(ref) :]
        head = next(
            (i for i, (x, y) in enumerate(zip(bases, changed, strict=False)) if x != y), min(len(bases), len(changed))
        )
        tail = next(
            (i for i, (x, y) in enumerate(zip(bases[::-1], changed[::-1], strict=False)) if x != y),
            min(len(bases), len(changed)),
        )
        low, high = min(head, min(len(bases), len(changed)) - tail), max(head, len(bases) - tail)
        assert first == low
        assert first + len(r) == max(high, head + max(0, len(bases) - len(changed)))
    assert several > 3


def test_shifts_stop_at_n_and_do_not_see_case(make_genome: MakeGenome) -> None:
    genome = make_genome(a="CCAAaaNAAaaTT")
    assert form(genome, 3, "Aa", "A") == (2, "AAAA", "AAA")
    assert form(genome, 8, "a", "aa") == (7, "AAAA", "AAAAA")
    # Left-aligned before the N, as bcftools norm writes it.
    assert form(genome, 6, "N", "NA") == (7, "AAAA", "AAAAA")
    assert form(genome, 6, "NA", "N") == (7, "AAAA", "AAA")


def test_a_long_repeat_is_searched_in_large_steps_and_up_to_a_limit(make_genome: MakeGenome) -> None:
    genome = make_genome(a="G" + "CA" * 500_000 + "C", b="A" * 10)
    variant = read(genome, 500_001, "CA", "")
    begun = time.perf_counter()
    whole = justify(variant, genome)
    assert time.perf_counter() - begun < 0.5
    assert (whole.start, len(whole.ref), len(whole.alt)) == (1, 1_000_001, 999_999)
    part = justify(variant, genome, 100)
    assert len(part.ref) == 202
    # The repeat ends with the contig on both sides.
    whole = justify(read(genome, 4, "A", "AA", "b"), genome)
    assert (whole.start, len(whole.ref), len(whole.alt)) == (0, 10, 11)


@pytest.mark.parametrize(
    ("start", "ref", "alt", "problem"),
    [
        (0, "A", "N", AMBIGUOUS),
        (0, "A", "R", AMBIGUOUS),
        (0, "AC", "ACN", AMBIGUOUS),
        (0, "N", "C", AMBIGUOUS),
        (0, "NC", "NT", AMBIGUOUS),
        (0, "R", "RA", AMBIGUOUS),
        (4, "N", "A", UNKNOWN_REF),
        (4, "G", "A", UNKNOWN_REF),
        (3, "TGA", "TA", UNKNOWN_REF),
        (0, "C", "A", MISMATCH),
        (3, "CN", "C", MISMATCH),
        (-1, "N", "A", "POS 0 stands before the first base"),
        (9, "AA", "A", OUTSIDE),
        (10**17, "A", "C", OUTSIDE),
        (0, "A", "A", "ALT equals REF"),
        (0, "a", "A", "ALT equals REF"),
        (0, "A", ".", "no alternative allele"),
        (0, "A", "<NON_REF>", SYMBOLIC),
        (0, "A", "*", SYMBOLIC),
        (0, "A", "A[chr1:5[", SYMBOLIC),
        (0, "A", "]chr1:5]A", SYMBOLIC),
        (0, "A", "A.", SYMBOLIC),
        (0, "A", ".A", SYMBOLIC),
        (0, "A", "E", NO_DNA),
        (0, "A?", "A", NO_DNA),
        (0, "A", "é€", NO_DNA),
    ],
)
def test_what_cannot_be_scored_says_why(make_genome: MakeGenome, start: int, ref: str, alt: str, problem: str) -> None:
    genome = make_genome(a="ACGTNACGTA")
    assert read(genome, start, ref, alt).problem == problem


def test_a_base_of_ref_over_an_n_that_both_alleles_keep_changes_nothing(make_genome: MakeGenome) -> None:
    genome = make_genome(a="ACGTRACGTA")
    # VCF asks for A where the genome has R.
    assert form(genome, 4, "AA", "AC") == (5, "A", "C")
    assert form(genome, 4, "NA", "NC") == (5, "A", "C")
    assert form(genome, 5, "a", "u") == (5, "A", "T")


def test_windows_hold_the_longer_allele_in_the_middle_of_equally_many_bases(make_genome: MakeGenome) -> None:
    rng = np.random.default_rng(1)
    bases = "".join(rng.choice(list("ACGT"), 100))
    bases = bases[:50] + "TGACTG" + bases[56:]
    genome = make_genome(a=bases)
    deletion = justify(read(genome, 51, "GAC", ""), genome)
    assert (deletion.start, len(deletion.ref)) == (51, 3)
    cut = windows(deletion, genome, 21)
    assert text(cut.reference) == bases[42:63]
    assert text(cut.changed) == bases[42:51] + bases[54:66]
    assert (cut.before, cut.longest, cut.problem, cut.remarks) == (9, 3, "", ())
    back = windows(deletion, genome, 21, reverse=True)
    assert text(back.reference) == turn(bases[42:63])
    assert text(back.changed) == turn(bases[39:51] + bases[54:63])
    insertion = justify(read(genome, 51, "", "CCC"), genome)
    cut = windows(insertion, genome, 20)
    assert text(cut.reference) == bases[43:63]
    assert text(cut.changed) == bases[43:51] + "CCC" + bases[51:60]


def scored(ids: np.ndarray) -> int:
    return int((ids[1:] != N_ID).sum())


def test_both_windows_have_equally_many_scored_bases_wherever_n_stands(make_genome: MakeGenome) -> None:
    rng = np.random.default_rng(2)
    bases = "".join(rng.choice(list("ACGT"), 200))
    for at in (60, 90, 97, 103, 108, 115, 125):
        for run in (1, 4, 40):
            genome = make_genome(a=bases[:at] + "N" * run + bases[at + run :])
            for ref, alt in ((bases[98:102], ""), ("", "GATTACA"), (bases[98], "A" if bases[98] != "A" else "C")):
                variant = read(genome, 98, ref, alt)
                if variant.problem:
                    assert variant.problem == UNKNOWN_REF
                    continue
                variant = justify(variant, genome)
                for reverse in (False, True):
                    cut = windows(variant, genome, 50, reverse=reverse)
                    assert scored(cut.reference) == scored(cut.changed)
                    if cut.problem:
                        continue
                    assert HAS_N in cut.remarks or not (windowed(genome, variant, reverse) == N_ID).any()
                    for ids in (cut.reference, cut.changed):
                        assert (ids[cut.before :] != N_ID).sum() >= cut.longest


def windowed(genome: Genome, variant: Variant, reverse: bool) -> np.ndarray:
    """The bases of the genome that either window of 50 may reach."""
    length = max(len(variant.ref), len(variant.alt))
    flank = (50 - length) // 2
    reach = 50 - flank - min(len(variant.ref), len(variant.alt))
    left, right = (reach, flank) if reverse else (flank, reach)
    return genome.tokens("a", variant.start - left, variant.start + len(variant.ref) + right)


@pytest.mark.parametrize(
    ("start", "ref", "alt", "forward", "backward"),
    [
        # What stands behind it, in reading direction, must be as long as the deletion.
        (37, "CTG", "", TOO_FEW, "short"),
        (37, "", "AAA", "", "short"),
        (40, "", "AAA", TOO_FEW, "short"),
        (0, "", "GG", "short", TOO_FEW),
        (0, "AC", "", "short", TOO_FEW),
        (0, "A", "G", "short", "short"),
    ],
)
def test_at_the_ends_of_a_contig(
    make_genome: MakeGenome, start: int, ref: str, alt: str, forward: str, backward: str
) -> None:
    genome = make_genome(a="ACGATTGCATCCGATCTTAGCATGCAATCGGATTGCACTG")
    variant = justify(read(genome, start, ref, alt), genome)
    for reverse, expected in ((False, forward), (True, backward)):
        cut = windows(variant, genome, 20, reverse=reverse)
        assert cut.problem == (expected if expected == TOO_FEW else "")
        assert IS_SHORT in cut.remarks
        if not cut.problem:
            assert len(cut.reference) == len(cut.changed)
            assert not np.array_equal(cut.reference, cut.changed)


def test_one_base_leaves_nothing_to_compare(make_genome: MakeGenome) -> None:
    genome = make_genome(a="A")
    for ref, alt in (("A", "C"), ("A", "AC"), ("", "T"), ("A", "")):
        variant = justify(read(genome, 0, ref, alt), genome)
        for reverse in (False, True):
            assert windows(variant, genome, 20, reverse=reverse).problem == TOO_FEW


def test_a_region_must_leave_half_the_window(make_genome: MakeGenome) -> None:
    genome = make_genome(a="CGTG" * 20 + "A" * 10 + "CGTG" * 20)

    def cut(size: int) -> Windows:
        return windows(justify(read(genome, 80, "A", ""), genome), genome, size)

    assert cut(20).problem == ""
    assert cut(19).problem == TOO_REPETITIVE
    assert windows(justify(read(genome, 80, "A", "", "a"), genome, 19), genome, 19).problem == TOO_REPETITIVE


def test_a_windows_of_the_other_strand_are_the_same_bases(make_genome: MakeGenome) -> None:
    rng = np.random.default_rng(3)
    bases = "".join(rng.choice(list("ACGT"), 120)) + "N" * 9 + "".join(rng.choice(list("ACGT"), 31))
    genome, turned = make_genome(a=bases), make_genome(a=turn(bases))
    for start in (0, 3, 40, 81, 110, 118, 150, 158):
        for width, alt in ((1, ""), (0, "AC"), (2, "GGTT"), (5, "")):
            ref = bases[start : start + width]
            here = read(genome, start, ref, alt)
            there = read(turned, len(bases) - start - len(ref), turn(ref), turn(alt))
            if here.problem:
                assert here.problem == there.problem
                continue
            here, there = justify(here, genome), justify(there, turned)
            for size in (24, 25):
                for reverse in (False, True):
                    one, other = (
                        windows(here, genome, size, reverse=reverse),
                        windows(there, turned, size, reverse=not reverse),
                    )
                    np.testing.assert_array_equal(one.reference, other.reference)
                    np.testing.assert_array_equal(one.changed, other.changed)
                    assert (one.problem, one.remarks, one.before) == (other.problem, other.remarks, other.before)


@pytest.mark.parametrize(
    ("bases", "start", "ref", "alt", "problem"),
    [
        # Without context the first base of the alleles is not scored: GG has one place, and so has the other window.
        ("AC", 0, "", "GG", ""),
        # With context of one scored base, three places are needed: AC|G has two, AC|GA has three.
        ("ACTTG", 2, "TT", "", TOO_FEW),
        ("ACTTGA", 2, "TT", "", ""),
    ],
)
def test_the_alleles_need_as_many_places_as_the_longer_one(
    make_genome: MakeGenome, bases: str, start: int, ref: str, alt: str, problem: str
) -> None:
    genome = make_genome(a=bases)
    cut = windows(justify(read(genome, start, ref, alt), genome), genome, 20)
    assert (cut.longest, cut.problem) == (2, problem)
