from __future__ import annotations

import errno
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, COMPLEMENT
from hyenadna.data.synthetic import SyntheticGenome, write_synthetic_genome
from hyenadna.evaluation import markov

LENGTH, CONTIGS = 800_000, 4


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> SyntheticGenome:
    return write_synthetic_genome(tmp_path_factory.mktemp("synthetic") / "syn.fa", length=LENGTH, contigs=CONTIGS)


@pytest.fixture(scope="module")
def contigs(genome: SyntheticGenome) -> dict[str, np.ndarray]:
    records = genome.fasta.read_text().split(">")[1:]
    parts = {record.split("\n", 1)[0]: record.split("\n", 1)[1].replace("\n", "") for record in records}
    return {name: BYTE_TO_ID[np.frombuffer(text.encode(), dtype=np.uint8)] for name, text in parts.items()}


@pytest.fixture(scope="module")
def planted(genome: SyntheticGenome) -> list[tuple[str, int, int, str, str, str]]:
    rows = (line.split("\t") for line in genome.bed.read_text().splitlines())
    return [(c, int(start), int(end), *name.split(";"), strand) for c, start, end, name, _, strand in rows]  # type: ignore[misc]


def agreement(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean(np.concatenate([a == b for a, b in pairs])))


def test_fasta_is_well_formed(genome: SyntheticGenome, contigs: dict[str, np.ndarray]) -> None:
    lines = genome.fasta.read_text().split("\n")
    assert lines[-1] == ""
    assert {len(line) for line in lines[:-1] if not line.startswith(">")} <= {60, LENGTH // CONTIGS % 60}
    assert set("".join(line for line in lines if not line.startswith(">"))) == set("ACGT")
    assert {name: len(ids) for name, ids in contigs.items()} == genome.contigs
    assert genome.contigs == {f"syn{number}": LENGTH // CONTIGS for number in range(1, CONTIGS + 1)}


def test_truth_file_says_what_is_returned(genome: SyntheticGenome) -> None:
    expected = asdict(genome) | {"fasta": "syn.fa", "bed": "syn.planted.bed", "truth": "syn.truth.json"}
    assert json.loads(genome.truth.read_text()) == expected


def test_same_seed_same_bytes_other_seed_other_law(tmp_path: Path) -> None:
    first, again, other = (
        write_synthetic_genome(tmp_path / name / "g.fa", seed=seed, length=40_000, contigs=2)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
        if (tmp_path / name).mkdir() is None
    )
    for attribute in ("fasta", "bed", "truth"):
        assert getattr(first, attribute).read_bytes() == getattr(again, attribute).read_bytes()
        assert getattr(first, attribute).read_bytes() != getattr(other, attribute).read_bytes()


def test_elements_are_sorted_apart_and_inside(
    genome: SyntheticGenome, planted: list[tuple[str, int, int, str, str, str]]
) -> None:
    for name, length in genome.contigs.items():
        spans = [(start, end) for contig, start, end, *_ in planted if contig == name]
        assert len(spans) > 500
        assert spans[0][0] >= 0
        assert spans[-1][1] <= length
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_tandem_repeats_repeat(
    contigs: dict[str, np.ndarray], planted: list[tuple[str, int, int, str, str, str]]
) -> None:
    pairs = []
    for contig, start, end, kind, note, _ in planted:
        if kind == "tandem_repeat":
            period = int(note.removeprefix("period="))
            assert (end - start) % period == 0
            repeat = contigs[contig][start:end]
            pairs.append((repeat[period:], np.resize(repeat[:period], end - start - period)))
    assert agreement(pairs) == pytest.approx(0.97, abs=0.005)


def test_copies_resemble_their_source(
    contigs: dict[str, np.ndarray], planted: list[tuple[str, int, int, str, str, str]]
) -> None:
    pairs = []
    for contig, start, end, kind, note, _ in planted:
        if kind == "copy":
            source = int(note.removeprefix("source="))
            assert 200 <= start - source <= 900
            assert 100 <= end - start <= start - source
            pairs.append((contigs[contig][start:end], contigs[contig][source : source + end - start]))
    assert agreement(pairs) == pytest.approx(0.97, abs=0.005)


def test_stems_pair(contigs: dict[str, np.ndarray], planted: list[tuple[str, int, int, str, str, str]]) -> None:
    pairs = []
    for contig, start, end, kind, note, _ in planted:
        if kind == "inverted_repeat":
            stem = int(note.removeprefix("stem="))
            assert 4 <= end - start - 2 * stem <= 10
            pairs.append((contigs[contig][end - stem : end], COMPLEMENT[contigs[contig][start : start + stem][::-1]]))
    assert agreement(pairs) == pytest.approx(0.97, abs=0.01)


def test_motif_halves_belong_together_on_both_strands(
    contigs: dict[str, np.ndarray], planted: list[tuple[str, int, int, str, str, str]]
) -> None:
    halves: dict[tuple[str, str], list[np.ndarray]] = {}
    for contig, start, end, kind, note, strand in planted:
        if kind == "motif":
            assert 12 <= end - start - 16 <= 20
            window = contigs[contig][start:end]
            window = window if strand == "+" else COMPLEMENT[window[::-1]]
            halves.setdefault((note, strand), []).append(np.concatenate([window[:8], window[-8:]]))
    consensus = {key: np.median(np.stack(seen), axis=0) for key, seen in halves.items()}
    assert len(consensus) == 8
    for note in {note for note, _ in consensus}:
        np.testing.assert_array_equal(consensus[note, "+"], consensus[note, "-"])
    assert len({tuple(consensus[note, "+"]) for note, _ in consensus}) == 4


def test_fractions_are_those_of_the_bed(
    genome: SyntheticGenome, planted: list[tuple[str, int, int, str, str, str]]
) -> None:
    predictable = dict.fromkeys(genome.fractions, 0)
    for _, start, end, kind, note, _ in planted:
        number = int(note.split("=")[1])
        predictable[kind] += {
            "tandem_repeat": end - start - number,
            "copy": end - start,
            "inverted_repeat": number,
            "motif": 8,
        }[kind]
    assert genome.fractions == {kind: bases / LENGTH for kind, bases in predictable.items()}
    assert genome.fractions["tandem_repeat"] == pytest.approx(0.17, abs=0.02)
    assert genome.fractions["copy"] == pytest.approx(0.12, abs=0.02)


@pytest.mark.parametrize(("lag", "neighbours"), [(21, (20, 22)), (33, (32, 34)), (303, (301, 302))])
def test_coding_and_helical_states_last(contigs: dict[str, np.ndarray], lag: int, neighbours: tuple[int, int]) -> None:
    def at(distance: int) -> float:
        return agreement([(ids[distance:], ids[:-distance]) for ids in contigs.values()])

    assert at(lag) > max(map(at, neighbours)) + 0.005


def test_isochores_differ_in_gc(contigs: dict[str, np.ndarray]) -> None:
    gc = np.concatenate([np.isin(ids, (8, 9)).reshape(-1, 500).mean(axis=1) for ids in contigs.values()])
    assert gc.std() > 5 * np.sqrt(0.25 / 500)


def test_context_pays_beyond_every_markov_order(genome: SyntheticGenome, contigs: dict[str, np.ndarray]) -> None:
    *train, held_out = contigs.values()
    scores = markov.evaluate(markov.fit(train), [held_out])
    best = min(score.perplexity for score in scores.values())
    assert 3.6 < best < 3.95
    assert best < scores[0].perplexity - 0.05
    assert genome.floor_perplexity < 0.7 * best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 39_999, "contigs": 4}, "each contig needs at least 10000 bases"),
        ({"contigs": 0}, "each contig needs at least"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_refuses_bad_arguments(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_synthetic_genome(tmp_path / "g.fa", **arguments)
    assert not list(tmp_path.iterdir())


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_synthetic_genome(tmp_path / "absent" / "g.fa", length=10_000, contigs=1)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def write_half(self: Path, data: bytes) -> int:
        if ".fa." in self.name:
            write_bytes(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(InputError, match=r"g\.fa: cannot be written \(No space left on device\); free some space"):
        write_synthetic_genome(tmp_path / "g.fa", length=10_000, contigs=1)
    assert not list(tmp_path.iterdir())
