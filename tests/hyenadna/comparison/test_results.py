"""Which published row a result folder belongs to, and why it may belong to none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyenadna.common.errors import InputError
from hyenadna.comparison.results import find
from tests.hyenadna.comparison.folders import put


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("genomic-benchmarks", "nontata-promoters", "pretrained")),
        ({"method": "scratch"}, ("genomic-benchmarks", "nontata-promoters", "scratch")),
        ({"method": "scratch", "ablation": "kmer"}, ("genomic-benchmarks", "nontata-promoters", "kmer")),
        ({"ablation": "gpt-pretrained"}, ("genomic-benchmarks", "nontata-promoters", "gpt-pretrained")),
        ({"method": "lora"}, ("genomic-benchmarks", "nontata-promoters", "lora")),
        ({"preset": "nt-H3K4me1", "metric": "mcc"}, ("nucleotide-transformer", "H3K4me1", "pretrained")),
        ({"preset": "deepsea-8k"}, ("chromatin", "8k", "pretrained")),
        ({"preset": "species-1m"}, ("species", "1m", "pretrained")),
        (
            {"preset": "cancer-32k-frozen", "method": "frozen", "classes": ["Lung", "Lymphoid"]},
            ("cancer", "32k-frozen", "frozen"),
        ),
    ],
)
def test_preset_and_ablation_name_the_row(tmp_path: Path, options: dict[str, Any], expected: tuple[str, ...]) -> None:
    (result,) = find([put(tmp_path / "run", 0.8, **options)]).results
    assert (result.benchmark, result.dataset, result.row) == expected
    assert result.apart == ""


def test_what_a_result_tells(tmp_path: Path) -> None:
    folder = put(tmp_path / "run", 0.8, 0.9, deviations={"batch_size": [32, 128]}, weights="other")
    (result,) = find([folder]).results
    # A metric without a value in some run has none.
    assert result.values == {"accuracy": [0.8, 0.9]}
    assert (result.runs, result.tested, result.parameters) == ([(0, 0), (1, 0)], 9_034, 436_610)
    assert (result.weights, result.deviations) == ("ours", "batch_size 32 (preset: 128)")
    assert result.epoch_chosen_on == "drawn from the training examples"


def test_what_else_differs_is_told_once(tmp_path: Path) -> None:
    reasons = [
        "the longest sequence has 300 bases, the published ones 251",
        "the model has d_model 8, the published one d_model 128",
        "other options than the preset's: lr",
    ]
    folder = put(tmp_path / "run", 0.8, deviations={"lr": [0.1, 0.2]}, not_comparable=reasons)
    (result,) = find([folder]).results
    assert result.deviations == f"lr 0.1 (preset: 0.2); {reasons[0]}"


def test_a_probe_of_biotypes_stands_apart(tmp_path: Path) -> None:
    probe = {
        "kind": "probe", "embeddings": "genes.npz", "deviations": {"trees": [10, 1000]}, "weights": None,
        "metric": "f1_weighted", "split": {"by": "random", "folds": 2}, "examples": {"test": 90},
        "runs": [{"fold": i, "test": {"f1_weighted": [0.7, 0.9][i], "accuracy": 0.8}} for i in range(2)],
    }  # fmt: skip
    for name in ("biotypes", "another"):
        (tmp_path / name).mkdir()
        summary = probe | {"preset": name if name == "biotypes" else None}
        (tmp_path / name / "results.json").write_text(json.dumps(summary))
    found = find([tmp_path])
    (result,) = found.results
    assert (result.benchmark, result.dataset, result.row) == ("biotypes", "biotypes", "pretrained")
    assert result.apart.startswith("a probe: its folds are its own")
    assert result.values["f1_weighted"] == [0.7, 0.9]
    assert (result.repeated, result.tested, result.deviations) == ("2 folds", 90, "trees 10 (preset: 1000)")
    ((folder, reason),) = found.ignored
    assert folder.name == "another"
    assert reason.startswith("is a probe without the preset biotypes")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"demonstration_split": True, "tested": 1807}, "demonstration split"),
        ({"folds": 5}, "cross-validation"),
        ({"tested": 1807}, "its test has 1,807 sequences, the published one 9,034"),
        ({"preset": "cancer-1k", "classes": ["a", "b"]}, "its classes are a, b, the published ones Lung and Lymphoid"),
    ],
)
def test_another_split_stands_apart(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    (result,) = find([put(tmp_path / "run", 0.8, **options)]).results
    assert result.apart.startswith(why)


def test_an_older_file_stands_apart(tmp_path: Path) -> None:
    folder = put(tmp_path / "run", 0.8)
    summary = json.loads((folder / "results.json").read_text())
    for key in ("demonstration_split", "deviations", "weights", "epoch_chosen_on", "ablation", "parameters"):
        del summary[key]
    (folder / "results.json").write_text(json.dumps(summary))
    (result,) = find([folder]).results
    assert result.apart.startswith("an older version wrote it")
    assert (result.row, result.weights, result.parameters) == ("pretrained", "", None)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"preset": None}, "was run without a preset"),
        ({"preset": "soft-prompt"}, "no published table has the preset soft-prompt"),
        ({"preset": "gb-flies"}, "no published table has the preset gb-flies"),
        ({"runs": [{"seed": 0, "test": {"accuracy": None}}]}, "no metric has a value in every run"),
        ({"runs": [{"seed": 0, "test": {"accuracy": float("nan")}}]}, "no metric has a value in every run"),
    ],
)
def test_what_has_no_row_is_ignored_with_its_reason(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    folder = put(tmp_path / "run", 0.8, **options)
    found = find([folder])
    assert found.results == []
    ((ignored, reason),) = found.ignored
    assert ignored == folder
    assert reason.startswith(why)


def test_a_demonstration_needs_no_preset(tmp_path: Path) -> None:
    (result,) = find([put(tmp_path / "run", 0.8, preset=None, demonstration_split=True)]).results
    assert (result.benchmark, result.dataset) == ("", "promoters.tsv")


def test_folders_are_searched_and_found_once(tmp_path: Path) -> None:
    folders = [put(tmp_path / name, 0.8) for name in ("b/deep/run", "a", ".hidden/run")]
    found = find([tmp_path, folders[0], tmp_path / "b"])
    assert [result.folder for result in found.results] == [folders[1], folders[0]]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metric": "accuracy", "examples": {}, "runs": [{"test": {}}]}'])
def test_damaged_results_end_it_if_named_and_are_told_if_found(tmp_path: Path, text: str) -> None:
    put(tmp_path / "good", 0.8)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text(text)
    found = find([tmp_path])
    assert len(found.results) == 1
    ((folder, reason),) = found.ignored
    assert folder == tmp_path / "bad"
    assert reason.startswith("no results of hyenadna finetune")
    with pytest.raises(InputError, match=r"bad/results\.json: no results of hyenadna finetune"):
        find([tmp_path / "bad"])


@pytest.mark.parametrize("shuffled", [False, True])
def test_controls_of_a_study_stand_apart(tmp_path: Path, shuffled: bool) -> None:
    lungs = {"preset": "cancer-1k", "classes": ["Lung", "Lymphoid"]}
    for name in ("cancer-1k", "cancer-1k-unmutated"):
        put(tmp_path / "study" / "rows" / name, 0.5, **lungs)
    rows = [
        {"kind": "yardstick", "name": "majority"},
        {"kind": "model", "inputs": "mutated", "folder": "rows/cancer-1k"},
        {"kind": "model", "inputs": "unmutated", "folder": "rows/cancer-1k-unmutated"},
    ]
    labels = {"tables": {"line": "Lung"}} if shuffled else {}
    (tmp_path / "study" / "results.json").write_text(json.dumps({"rows": rows, "shuffled_labels": labels}))
    found = find([tmp_path])
    words = "a control: its labels were shuffled"
    assert [result.apart for result in found.results] == (
        [words, words] if shuffled else ["", "a control: it read unmutated windows"]
    )
    assert [reason for _, reason in found.ignored] == [
        "holds a study of hyenadna cancer, whose rows are listed one by one"
    ]
    # The rows alone say the same.
    assert [result.apart for result in find([tmp_path / "study" / "rows"]).results] == [
        result.apart for result in found.results
    ]
