from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyenadna.cli.plot import draw_results
from hyenadna.cli.plot_config import ResultsPlot
from hyenadna.common.errors import InputError
from hyenadna.finetuning.results import compare


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a folder of results with the accuracy of each run, and changes to the rest."""

    def make(name: str, accuracies: list[float | None], **changes: Any) -> Path:
        summary = {
            "metric": "accuracy",
            "examples": {"train": 8, "valid": 1, "test": 2},
            "classes": ["0", "1"],
            "split": {"split_seed": 0},
            "runs": [{"test": {"accuracy": value}} for value in accuracies],
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(summary | changes))
        return tmp_path / name

    return make


def test_rows_are_means_and_deviations_beside_the_baselines(write: Any, tmp_path: Path) -> None:
    folders = [write("full", [0.8, 0.9], baseline={"majority class": 0.5}), write("frozen", [0.7, None])]
    text = draw_results(ResultsPlot(out=tmp_path / "p.png", results=folders))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][-4:] == ["mean", "±", "s.d.", "runs"]
    assert rows[1] == ["full", "0.8500", "0.0707", "2"]
    # One run has no deviation.
    assert rows[2] == ["frozen", "0.7000", "1"]
    assert rows[3] == ["majority", "class", "0.5000"]
    assert rows[4] == ["figure", "in", str(tmp_path / "p.png")]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "mcc"}, "other has the metric mcc, others accuracy: not comparable"),
        ({"examples": {"train": 9, "valid": 1, "test": 2}}, "other has the examples {'train': 9"),
        ({"classes": ["a", "b"]}, "other has the classes"),
        ({"runs": [{"test": {}}]}, "other: accuracy has no value in any run"),
        ({"split": {"split_seed": 1}}, "other has the split {'split_seed': 1}, others {'split_seed': 0}"),
        ({"baseline": {"majority class": 0.6}}, "other: majority class reached 0.6, others 0.5: other data"),
        ({"runs": [{"test": {"accuracy": 0.5}}, {}]}, "no results of hyenadna finetune"),
        ({"runs": []}, "no results of hyenadna finetune"),
    ],
)
def test_what_cannot_be_compared_is_refused(write: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folders = [write("first", [0.8], baseline={"majority class": 0.5}), write("other", [0.7], **changes)]
    with pytest.raises(InputError) as caught:
        compare(folders, tmp_path / "p.png")
    assert message in str(caught.value)
    assert not (tmp_path / "p.png").exists()


def test_folders_without_results_or_of_one_name_are_refused(write: Any, tmp_path: Path) -> None:
    folder = write("first", [0.8])
    with pytest.raises(InputError, match=r"nothing/results\.json: no results of hyenadna finetune"):
        compare([folder, tmp_path / "nothing"], tmp_path / "p.png")
    with pytest.raises(InputError, match="a folder is there twice"):
        compare([folder, folder], tmp_path / "p.png")
