"""The demonstration of the ablations: its split, and the commands that it runs."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hyenadna.cli.main import VERBS
from tests.docs.test_commands import check_options, help_of_verb

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablations_example", ROOT / "examples/ablations/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def promoters(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["seq\tlabel", *("".join(rng.choice(list("ACGT"), 20)) + f"\t{number % 2}" for number in range(80))]
    path = tmp_path / "promoters.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_split_is_even_apart_and_the_same_again(
    example: ModuleType, promoters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "SIZES", {"train": 40, "valid": 10, "test": 20})
    for name in ("a", "b"):
        example.write_split(promoters, tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    with (tmp_path / "a").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len({row["seq"] for row in rows}) == len(rows) == 70
    for split, size in example.SIZES.items():
        labels = [row["label"] for row in rows if row["split"] == split]
        assert labels.count("0") == labels.count("1") == size // 2


def test_every_row_takes_the_better_rate_and_exists(
    example: ModuleType, promoters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, ...]] = []

    def pretended(*words: str) -> None:
        said.append(words)
        folder = Path(words[words.index("--out") + 1])
        if words[0] == "finetune":
            value = 0.9 if words[words.index("--lr") + 1] == "2e-3" else 0.8
            test = {name: {"mean": value, "deviation": 0.01} for name in ("accuracy", "auroc")}
            summary = {
                "test": test,
                "runs": [{"valid": value, "seconds": 3.0}],
                "parameters": 7,
                "baseline": {"5-mers": 0.5},
            }
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(summary))

    monkeypatch.setattr(example, "hyenadna", pretended)
    monkeypatch.setattr(sys, "argv", ["run.py", str(promoters), "genome.fa", "--out", str(tmp_path / "out")])
    example.main()
    rates = {words[words.index("--out") + 1].rsplit("/", 1)[1]: words for words in said if words[0] == "finetune"}
    assert len(rates) == 3 * len(example.ROWS) == 24
    for row in example.ROWS:
        final = rates[row]
        assert final[final.index("--lr") + 1] == "2e-3"
        assert final[final.index("--seeds") + 1] == "[1, 2, 3]"
        assert rates[f"{row}-6e-4"][final.index("--seeds") + 1] == "[0]"
    assert "| gpt-pretrained | 7 | 2e-3 | 0.9000 ± 0.0100 |" in (tmp_path / "out/table.md").read_text()
    shown = {verb: help_of_verb(verb) for verb in ("prepare", "pretrain", "finetune")}
    for words in said:
        assert words[0] in VERBS
        if words[0] in shown:
            check_options(list(words[1:]), shown[words[0]], " ".join(words))
    count = len(said)
    example.main()
    # What is there is not trained again.
    assert {words[0] for words in said[count:]} == {"prepare", "pretrain", "plot"}
