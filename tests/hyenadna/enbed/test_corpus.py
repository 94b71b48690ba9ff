from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import letters_of
from hyenadna.data.genome import Genome, prepare
from hyenadna.data.intervals import Interval
from hyenadna.enbed.corpus import Text, open_corpus

A, B = "ACGTACGTNNNNGGGGGTTTTT", "CCCCCNAAAAAAAA"


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    (tmp_path / "g.fa").write_text(f">a\n{A}\n>b\n{B}\n>c\nNNNN\n")
    return prepare(tmp_path / "g.fa", tmp_path / "g", progress=False)


def whole(genome: Genome) -> list[tuple[Genome, list[Interval]]]:
    return [(genome, [Interval(contig.name, 0, contig.length) for contig in genome.contigs])]


def test_windows_of_joined_records(genome: Genome) -> None:
    text = Text(whole(genome), 6, cut=False)
    joined = (A + B).replace("N", "")
    assert text.bases() == len(joined) == 31
    assert "".join(letters_of(part) for part in text.segments()) == joined
    # One window less than fits, so that all can be shifted.
    assert len(text) == 4
    for shift in (0, 1, 5):
        assert [letters_of(text.window(n, shift)) for n in range(4)] == [
            joined[start + shift : start + shift + 6] for start in range(0, 24, 6)
        ]


def test_windows_that_end_at_n(genome: Genome) -> None:
    text = Text(whole(genome), 6, cut=True)
    assert [letters_of(text.window(number)) for number in range(len(text))] == ["ACGTAC", "GGGGGT", "AAAAAA"]
    # A piece of eight bases has room for two shifts.
    assert {letters_of(text.window(0, shift)) for shift in range(6)} == {"ACGTAC", "CGTACG", "GTACGT"}
    assert text.left_out == 5


def test_a_text_without_bases_has_no_windows(genome: Genome) -> None:
    text = Text([(genome, [Interval("c", 0, 4)])], 2, cut=False)
    assert (len(text), text.bases()) == (0, 0)


def test_splits_of_several_genomes(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "h.fa").write_text(">x\nACGTACGTAC\n>y\nCCCCCCCC\n")
    with ExitStack() as stack:
        corpus = open_corpus(stack, [tmp_path / "g", tmp_path / "h.fa"], ["b", "y"], ["c"], 0.05, 0.05)
        assert corpus.text("valid", 2, cut=False).bases() == 13 + 8
        assert corpus.text("train", 2, cut=False).bases() == 18 + 10
        assert corpus.text("test", 2, cut=False).bases() == 0
        other = open_corpus(stack, [tmp_path / "g", tmp_path / "h.fa"], ["b"], ["c"], 0.05, 0.05)
        assert corpus.identity != other.identity
        with pytest.raises(InputError, match="unknown contig 'z'"):
            open_corpus(stack, [tmp_path / "g", tmp_path / "h.fa"], ["z"], [], 0.05, 0.05)
        with pytest.raises(InputError, match="nothing is held out"):
            open_corpus(stack, [tmp_path / "g"], [], ["b"], 0.05, 0.05)
        by_fraction = open_corpus(stack, [tmp_path / "g"], [], [], 0.25, 0.25)
        assert {
            name: len(np.concatenate(by_fraction.text(name, 2, cut=False).segments())) for name in by_fraction.parts
        }
