from __future__ import annotations

import csv
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAForCausalLM
from hyenadna.cli.plot import draw_embeddings, draw_mutagenesis, draw_training
from hyenadna.cli.plot_config import EmbeddingsPlot, MutagenesisPlot, TrainingPlot
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID
from hyenadna.data.genome import Genome
from hyenadna.inference.embeddings import COLUMNS
from hyenadna.inference.likelihood import LogLikelihoodScorer
from hyenadna.inference.mutagenesis import saturation_mutagenesis


@pytest.fixture
def config(tmp_path: Path) -> EmbeddingsPlot:
    rng = np.random.default_rng(0)
    label = np.repeat(["gene", "other"], 30)
    start = np.tile(np.arange(30) * 10, 2)
    vectors = rng.normal(size=(60, 6)).astype(np.float32)
    vectors[:30, :2] += 5
    columns = {"name": label, "contig": np.repeat(["c1", "c2"], 30), "start": start, "end": start + 10, "label": label}
    np.savez(tmp_path / "e.npz", embedding=vectors, **{name: columns[name] for name in COLUMNS})
    return EmbeddingsPlot(out=tmp_path / "p.png", embeddings=tmp_path / "e.npz")


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.parametrize("colour", ["label", "contig", "position"])
def test_a_map_comes_with_a_number(config: EmbeddingsPlot, colour: str) -> None:
    line = draw_embeddings(replace(config, colour=colour))
    classes = 10 if colour == "position" else 2
    assert line.startswith(f"60 sequences of {classes} classes, 5 folds: nearest neighbours ")
    assert line.endswith(f"figure in {config.out}")
    assert is_png(config.out)
    assert draw_embeddings(replace(config, colour=colour, probe=False)) == f"60 sequences; figure in {config.out}"


def test_the_probe_says_why_there_is_no_number(config: EmbeddingsPlot) -> None:
    line = draw_embeddings(replace(config, colour="contig", probe_by_contig=True))
    assert line.startswith("a probe needs two classes in every fold: the groups hold one class each")


def change(config: EmbeddingsPlot, **columns: np.ndarray) -> None:
    with np.load(config.embeddings) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(config.embeddings, **arrays | columns)


def test_what_has_no_label_is_no_class_of_the_probe(config: EmbeddingsPlot) -> None:
    change(config, label=np.array(["gene"] * 20 + [""] * 20 + ["other"] * 20))
    line = draw_embeddings(config)
    assert line.startswith("40 sequences of 2 classes, 5 folds: ")
    assert "; 20 without a label left out; figure in " in line


def test_overlaps_and_every_kind_of_folds_are_told(config: EmbeddingsPlot, tmp_path: Path) -> None:
    """Sixty windows of 30 bases, each 10 after the one before; vectors tell the place, and through it the label."""
    rng = np.random.default_rng(1)
    start = np.arange(60) * 10
    label = np.repeat(rng.choice(["gene", "other"], 20), 3)
    # Windows that overlap have nearly the same vector.
    vectors = np.repeat(rng.normal(size=(20, 6)), 3, axis=0) + 0.01 * rng.normal(size=(60, 6))
    change(config, embedding=vectors.astype(np.float32), start=start, end=start + 30, label=label)
    lines = draw_embeddings(config).splitlines()
    assert lines[0].startswith("60 sequences of 2 classes, 5 folds: nearest neighbours ")
    # 29 pairs of neighbours and 28 with one between, on each of two contigs.
    assert lines[1].startswith("windows overlap: 114 of 1,770 pairs (6.44%), and ")
    assert lines[2].startswith("figures with random folds are inflated: windows of the test share bases")
    assert lines[3] == f"figure in {config.out}"

    with np.load(config.embeddings) as file:
        arrays = {name: file[name] for name in file.files}
    other = tmp_path / "r.npz"
    np.savez(other, **arrays | {"embedding": rng.normal(size=(60, 6)).astype(np.float32)})
    both = replace(config, probe_by=["random", "contig", "block"], probe_block=50, random=other)
    lines = draw_embeddings(both).splitlines()
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        "random folds", "folds by contig", "folds by blocks of 50 bases"
    ]  # fmt: skip
    assert all("; with random weights: nearest neighbours 0." in line for line in lines[:3])
    assert "% left out of a fold, because they lie near its test" in lines[2]
    alone = draw_embeddings(replace(config, probe_by=["block"]))
    assert alone.startswith("folds by blocks of 300 bases: 60 sequences of 2 classes, 4 folds: ")
    assert "inflated" not in alone


def test_bins_of_few_windows_and_classes_that_training_lacks_are_told(config: EmbeddingsPlot) -> None:
    start = np.r_[np.arange(57) * 10, 1000, 1010, 1020]
    change(config, contig=np.full(60, "c1"), start=start, end=start + 10)
    bins = replace(config, colour="bin", bin_width=190)
    line = draw_embeddings(bins)
    assert line.startswith("57 sequences of 3 classes, 5 folds: ")
    assert "; 3 in bins with fewer than 5 left out; figure in " in line
    line = draw_embeddings(replace(bins, probe_by=["block"], probe_block=190))
    assert "; 100.0% of the tests have a class that the training lacks" in line


def test_vectors_that_are_no_numbers_are_refused(config: EmbeddingsPlot) -> None:
    vectors = np.ones((60, 6), dtype=np.float32)
    vectors[3, 1], vectors[5] = np.nan, np.inf
    change(config, embedding=vectors)
    with pytest.raises(InputError, match=r"e\.npz: 2 of 60 vectors hold NaN or infinity; embed with another"):
        draw_embeddings(config)


class Umap:
    """Stands for umap-learn, which compiles for many seconds: what it is asked for."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **arguments: Any) -> None:
        self.asked.append(arguments)

    def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
        return vectors[:, :2]


def nearest(distances: np.ndarray, most: int, metric: str, *arguments: Any, **more: Any) -> tuple[np.ndarray, ...]:
    """Stands for the search of umap-learn among distances."""
    assert metric == "precomputed"
    order = np.argsort(distances, axis=1)[:, :most]
    return order, np.take_along_axis(distances, order, axis=1), None


def fake_umap() -> types.ModuleType:
    module = types.ModuleType("umap")
    for name, value in {
        "UMAP": Umap,
        "umap_": types.SimpleNamespace(nearest_neighbors=nearest),
        "distances": types.SimpleNamespace(named_distances={"euclidean": "euclidean"}),
    }.items():
        setattr(module, name, value)
    return module


def test_umap_has_a_panel_for_every_pair_of_settings(config: EmbeddingsPlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", fake_umap())
    config = replace(config, method="umap", neighbors=[5, 15], min_dist=[0.1, 0.5, 0.9])
    draw_embeddings(config)
    assert is_png(config.out)
    pairs = [(a["n_neighbors"], a["min_dist"]) for a in Umap.asked]
    assert pairs == [(n, d) for n in (5, 15) for d in (0.1, 0.5, 0.9)]
    # The neighbours are looked for once, and each panel gets as many as it asks for.
    with np.load(config.embeddings) as file:
        vectors = file["embedding"]
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)
    far = np.sqrt(((scaled[:, None] - scaled) ** 2).sum(-1))
    for asked in Umap.asked:
        indices, distances, _ = asked["precomputed_knn"]
        assert indices.shape == (60, asked["n_neighbors"])
        np.testing.assert_allclose(distances, np.sort(far, axis=1)[:, : asked["n_neighbors"]], atol=1e-3)
        np.testing.assert_allclose(np.take_along_axis(far, indices, axis=1), distances, atol=1e-3)
    with pytest.raises(InputError, match="`neighbors` 60: must be below the 60 vectors"):
        draw_embeddings(replace(config, neighbors=[60]))


def test_umap_where_it_is_absent_names_the_extra(config: EmbeddingsPlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"this needs umap .*: pip install '\.\[dna,umap\]' in a checkout"):
        draw_embeddings(replace(config, method="umap"))


def test_training_curves(tmp_path: Path) -> None:
    rows = ['{"step": 1, "perplexity": 4.0, "tokens": 10}', '{"step": 2, "perplexity": 3.9, "tokens": 20}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    draw_training(TrainingPlot(out=tmp_path / "p.png", metrics=tmp_path / "metrics.jsonl"))
    assert is_png(tmp_path / "p.png")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.2)


def test_mutation_map(folder: Path, tiny_genome: Path, tmp_path: Path) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float64)
    genome = Genome.open(tiny_genome)
    effects = saturation_mutagenesis(LogLikelihoodScorer(model, batch_size=4), genome, "a", 995, 1003, 32)
    region = genome.tokens("a", 995, 1003)
    window = np.array(genome.tokens("a", 983, 1015))
    assert np.isnan(effects[:, region == N_ID]).all()
    for column, base in enumerate(region[:5]):
        assert effects[base - 7, column] == 0

    def total(ids: np.ndarray) -> float:
        return float(np.nansum(next(LogLikelihoodScorer(model)([("x", ids)]))))

    for row, column in ((0, 1), (3, 4)):
        changed = window.copy()
        changed[12 + column] = 7 + row
        assert effects[row, column] == pytest.approx(total(changed) - total(window), abs=1e-9)

    # At the start of a contig the window begins with it.
    begin = np.array(genome.tokens("a", 0, 32))
    at_start = saturation_mutagenesis(LogLikelihoodScorer(model), genome, "a", 0, 8, 32)
    for column in (1, 7):
        changed = begin.copy()
        changed[column] = 7 + (begin[column] - 7 + 1) % 4
        assert at_start[changed[column] - 7, column] == pytest.approx(total(changed) - total(begin), abs=1e-9)

    # The first base of a window has no likelihood of its own to change.
    for start in (0, 100):
        first = saturation_mutagenesis(LogLikelihoodScorer(model), genome, "a", start, start + 8, 8)
        assert np.isnan(first[:, 0]).all()
        assert np.isfinite(first[:, 1:]).all()

    config = MutagenesisPlot(
        out=tmp_path / "m.png", model=folder, genome=tiny_genome, region="a:996-1,003", window=32, device="cpu"
    )
    assert draw_mutagenesis(config, progress=False).startswith("24 changes of a:996-1003; figure in ")
    assert is_png(config.out)
    with (tmp_path / "m.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["base"] for row in rows] == ["ACGTN"[i - 7] for i in region]
    assert (rows[1]["contig"], rows[1]["position"], rows[1]["A"]) == ("a", "997", f"{effects[0, 1]:.6f}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "mds"}, "`method` mds: choose pca, umap or tsne"),
        ({"colour": "x"}, "`colour` x: choose label, contig, position or bin"),
        ({"bin_width": 5}, "`bin_width` 5: has no effect without `colour` bin; leave it out"),
        ({"colour": "bin", "bin_width": 5, "position_bins": 3}, "give one of `position_bins` and `bin_width`"),
        ({"colour": "position", "top": 3}, "`top` 3: has no effect without another `colour`"),
        ({"top": 21}, "`top` 21: must be from 1 to 20"),
        ({"probe_by": []}, "`probe_by`: give at least one kind of folds, and none twice"),
        ({"probe_by": ["block", "block"]}, "`probe_by`: give at least one kind of folds, and none twice"),
        ({"probe_by": ["block"], "probe_by_contig": True}, "give one of `probe_by_contig` and `probe_by`"),
        ({"probe_block": 5}, "`probe_block` 5: has no effect without `probe_by` block"),
        ({"probe": False, "probe_by": ["block"]}, "`probe_by` ['block']: has no effect without `probe`"),
        ({"neighbors": [1]}, "`neighbors` 1: must be at least 2"),
        ({"neighbors": []}, "`neighbors`: give at least one number"),
        ({"min_dist": [0.1, -0.1]}, "`min_dist` -0.1: must be at least 0 and finite"),
        ({"neighbors": [5]}, "`neighbors` [5]: has no effect without `method` umap; leave it out"),
        ({"min_dist": [0.5]}, "`min_dist` [0.5]: has no effect without `method` umap; leave it out"),
        ({"position_bins": 3}, "`position_bins` 3: has no effect without `colour` position; leave it out"),
        ({"probe": False, "probe_by_contig": True}, "`probe_by_contig` True: has no effect without `probe`"),
        ({"seed": -1}, "`seed` -1: must be at least 0"),
        ({"position_bins": 0}, "`position_bins` 0: must be at least 1"),
        ({"embeddings": Path("absent.npz")}, "absent.npz: no such file"),
        ({"out": Path("b.xyz")}, "`out` b.xyz: must end in .png"),
    ],
)
def test_bad_input_is_refused(config: EmbeddingsPlot, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        draw_embeddings(replace(config, **change))
    assert str(caught.value).startswith(message)
    assert not config.out.exists()


def test_curves_go_into_a_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`out` b: must end in \.png"):
        draw_training(TrainingPlot(out=Path("b"), metrics=tmp_path / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("a", "`region` a: expected a contig and its first and last position, counted from 1"),
        ("a:5", "`region` a:5: expected"),
        ("a:0-10", "`region` a:0-10: expected a contig and its first and last position, counted from 1"),
        ("z:1-5", "unknown contig 'z'"),
        ("b:899-901", "`region` b:899-901: b ends at 900"),
        ("b:1-100", "`region` b:1-100: holds 100 bases, more than the 64 of the window"),
        ("b:9-5", "`region` b:9-5: expected"),
    ],
)
def test_regions_that_cannot_be_drawn(
    folder: Path, tiny_genome: Path, tmp_path: Path, region: str, message: str
) -> None:
    config = MutagenesisPlot(out=tmp_path / "m.png", model=folder, genome=tiny_genome, region=region, device="cpu")
    with pytest.raises(InputError) as caught:
        draw_mutagenesis(config, progress=False)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []
