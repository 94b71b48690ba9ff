from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.cli import main as cli, probe as probe_module
from hyenadna.cli.probe import describe_probe, run_probe
from hyenadna.cli.probe_config import ProbeConfig
from hyenadna.common.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> ProbeConfig:
    """Two hundred windows of a contig, half of them over the half of another; four labels and some without one."""
    rng = np.random.default_rng(0)
    label = np.array(["gene"] * 80 + ["rRNA"] * 60 + ["tRNA"] * 50 + ["rare"] * 6 + [""] * 4)
    vectors = rng.normal(size=(200, 5)).astype(np.float32)
    for column, name in enumerate(("gene", "rRNA", "tRNA")):
        vectors[label == name, column] += 3
    start = rng.permutation(200) * 100
    columns = {"name": label, "contig": np.full(200, "c1"), "start": start, "end": start + 120, "label": label}
    np.savez(tmp_path / "e.npz", embedding=vectors, **columns)
    np.savez(tmp_path / "r.npz", embedding=rng.normal(size=(200, 5)).astype(np.float32), **columns)
    return ProbeConfig(tmp_path / "e.npz", tmp_path / "out", random=tmp_path / "r.npz", top_classes=3, trees=8, folds=3)


def test_a_folder_with_results(config: ProbeConfig) -> None:
    result = run_probe(config, progress=False)
    assert json.loads((config.out / "results.json").read_text()) == result
    assert (result["kind"], result["preset"], result["metric"]) == ("probe", None, "f1_weighted")
    assert (result["examples"], result["classes"]) == ({"test": 190}, ["gene", "rRNA", "tRNA"])
    assert result["counts"] == [80, 60, 50]
    assert result["majority"] == 80 / 190
    assert "published" not in result
    for name in ("neighbours", "logistic", "trees"):
        own, random = (result[key][name]["f1_macro"]["mean"] for key in ("classifiers", "random"))
        assert own > 0.75
        assert random < 0.5
    assert result["test"] == result["classifiers"]["neighbours"]
    values = [run["test"]["accuracy"] for run in result["runs"]]
    assert result["test"]["accuracy"] == {
        "mean": pytest.approx(np.mean(values)), "deviation": pytest.approx(np.std(values, ddof=1)), "runs": 3
    }  # fmt: skip
    with (config.out / "probe.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 2 * 3 * 3
    assert float(rows[0]["mean"]) == pytest.approx(result["test"]["f1_weighted"]["mean"], abs=1e-6)
    assert (config.out / "probe.png").read_bytes().startswith(b"\x89PNG")
    notes = "\n".join(result["notes"])
    assert "4 sequences without a label left out\n6 sequences of 1 rarer labels left out\n" in notes
    assert "windows overlap: " in notes
    assert "which is not XGBoost" in notes


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure takes most of the time."""
    monkeypatch.setattr(probe_module, "probe_figure", lambda *shown, **more: None)


@pytest.mark.usefixtures("undrawn")
def test_blocks_keep_overlaps_apart(config: ProbeConfig) -> None:
    result = run_probe(replace(config, folds_by="block", block=900, classifiers=["logistic"], trees=1000))
    assert result["split"] == {"by": "block", "folds": 3, "block": 900, "seed": 0}
    notes = "\n".join(result["notes"])
    assert "% of the sequences lie near the test of a fold" in notes
    assert "random folds" not in notes
    assert "XGBoost" not in notes


@pytest.mark.usefixtures("undrawn")
def test_the_published_probe(config: ProbeConfig) -> None:
    result = run_probe(replace(config, preset="biotypes", top_classes=0, random=None))
    assert result["published"] == {"f1_weighted": 0.72}
    assert result["test"] == result["classifiers"]["trees"]
    assert result["deviations"] == {"trees": [8, 1000]}
    assert result["classes"] == ["gene", "rRNA", "tRNA", "rare"]
    lines = describe_probe(result).splitlines()
    header = next(line for line in lines if "f1_weighted" in line)
    published = next(line for line in lines if line.startswith("published, HyenaDNA"))
    assert published.endswith("0.7200")
    assert len(published) == header.index("f1_weighted") + len("f1_weighted")
    assert "not as published: trees 8, there 1000" in lines


def change(path: Path, **columns: np.ndarray) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **arrays | columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifiers": []}, "`classifiers`: give at least one, and none twice"),
        ({"classifiers": ["trees", "trees"]}, "`classifiers`: give at least one, and none twice"),
        ({"classifiers": ["svm"]}, "`classifiers` svm: choose neighbours, logistic or trees"),
        ({"classifiers": ["logistic"]}, "`trees` 8: has no effect without `classifiers` trees"),
        ({"classifiers": ["trees"], "neighbours": 3}, "`neighbours` 3: has no effect without `classifiers` neigh"),
        ({"preset": "genes"}, "`preset` genes: choose biotypes"),
        ({"preset": "biotypes", "classifiers": ["logistic"], "trees": 1000}, "`preset` biotypes: its figures are of"),
        ({"top_classes": 1}, "`top_classes` 1: a probe needs at least two classes"),
        ({"folds": 1}, "`folds` 1: must be at least 2"),
        ({"block": 500}, "`block` 500: has no effect without `folds_by` block"),
        ({"embeddings": Path("absent.npz")}, "absent.npz: no such file; hyenadna embed writes one"),
    ],
)
def test_bad_options_are_refused(config: ProbeConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run_probe(replace(config, **change))
    assert str(caught.value).startswith(message)
    assert not config.out.exists()


def test_random_weights_must_be_of_the_same_sequences(config: ProbeConfig) -> None:
    assert config.random is not None
    change(config.random, start=np.arange(200))
    with pytest.raises(
        InputError, match=r"`random` .*r\.npz: its column start is not that of .*e\.npz; embed the same"
    ):
        run_probe(config)


def test_embeddings_without_labels_are_one_line(config: ProbeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    change(config.embeddings, label=np.full(200, ""))
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", "--embeddings", str(config.embeddings), "--out", str(config.out)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == ("error: the embeddings have no labels: embed a BED with names, or a table with --label_column\n")
