from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.cli import demo
from hyenadna.common.errors import InputError
from hyenadna.data.synthetic import write_synthetic_genome

FIGURES = ["evaluation.png", "perplexity_by_position.png", "training.png"]


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("fasta") / "real.fa"
    path.write_text("".join(f">{name}\n{''.join(rng.choice(list('ACGT'), 12_000))}\n" for name in ("one", "two")))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo as it is, on shorter windows and a shorter synthetic genome."""
    monkeypatch.setattr(demo, "_LENGTH", 64)
    monkeypatch.setattr(demo, "_WINDOWS", 6)
    monkeypatch.setattr(demo, "write_synthetic_genome", partial(write_synthetic_genome, length=40_000, contigs=4))


def check_complete(out: Path) -> dict[str, Any]:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert [path.name for path in sorted((out / "evaluation").glob("*.png"))] == FIGURES
    for name in FIGURES:
        assert (out / "evaluation" / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "run" / "model" / "model.safetensors").is_file()
    content = json.loads((out / "demo.json").read_text())
    assert content["evaluation"] == json.loads((out / "evaluation" / "evaluation.json").read_text())
    facts = content["facts"]
    assert facts["checkpoint, saved and loaded again"] == "the score has the same bits"
    assert facts["held-out perplexity"] == content["evaluation"]["perplexity"]
    markov = content["evaluation"]["markov"]
    assert list(markov) == [str(order) for order in (*range(13), 16, 20, 24)]
    assert {score["count"] for score in markov.values()} == {content["evaluation"]["positions"]}
    assert f"best Markov model (order {min(markov, key=lambda k: markov[k]['perplexity'])})" in facts
    return content


def test_a_genome_of_ones_own(fasta: Path, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "demo"
    assert demo.run(out, fasta, steps=3) == out / "report.html"
    content = check_complete(out)
    assert content["facts"]["genome"].startswith("real.fa: 2 contigs, 24,000 nucleotides")
    assert "perplexity of the genome's own generator" not in content["facts"]
    assert {line.split()[3] for line in (out / "split.bed").read_text().splitlines()} == {"train", "valid", "test"}
    shown = capsys.readouterr().out
    assert [line[:4] for line in shown.splitlines() if line[1:2] == "/"] == ["1/5 ", "2/5 ", "3/5 ", "4/5 ", "5/5 "]
    assert shown.endswith(f"report: {out / 'report.html'}\n")


@pytest.mark.slow
def test_the_synthetic_genome_and_running_it_again(tmp_path: Path, small: None) -> None:
    demo.run(tmp_path, steps=2)
    first = check_complete(tmp_path)
    assert 1 < first["facts"]["perplexity of the genome's own generator"] < 4
    held_out = {line.split()[0]: line.split()[3] for line in (tmp_path / "split.bed").read_text().splitlines()}
    assert held_out == {"syn1": "train", "syn2": "train", "syn3": "valid", "syn4": "test"}
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "evaluation" / "stale.png").write_bytes(b"")

    demo.run(tmp_path, steps=3)
    second = check_complete(tmp_path)
    assert second["facts"]["training"].startswith("3 steps of 4 windows of 64 nucleotides")
    assert second["facts"]["genome"] == first["facts"]["genome"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["genome/index.json", "run/config.yaml", "thesis.txt"])
def test_a_folder_that_is_no_demo_is_refused(fasta: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="holds something else than a demo; choose another folder with OUT=…"):
        demo.run(tmp_path, fasta, steps=1)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


def test_a_file_in_the_place_of_the_folder_is_refused(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: holds something else than a demo"):
        demo.run(tmp_path / "out", fasta, steps=1)
    assert (tmp_path / "out").read_text() == "mine"


def test_bad_input_leaves_nothing_and_an_earlier_demo_as_it_was(tmp_path: Path, small: None) -> None:
    (tmp_path / "protein.fa").write_text(">p\nMEEPQ\n")
    for fasta, steps, message in (
        (tmp_path / "protein.fa", 1, "is not a nucleotide code"),
        (tmp_path / "absent.fa", 1, "no such file"),
        (None, 0, "`steps` 0: must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            demo.run(tmp_path / "new", fasta, steps=steps)
        assert not (tmp_path / "new").exists()

    demo.run(tmp_path / "old", steps=1)
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="is not a nucleotide code"):
        demo.run(tmp_path / "old", tmp_path / "protein.fa", steps=1)
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(InputError("two\nlines"), 2, "error: two lines"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_the_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(demo, "run", fail)
    monkeypatch.setattr(sys, "argv", ["demo", "--out", "x"])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_the_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run: Callable[..., None] = lambda out, fasta, steps: seen.append((out, fasta, steps))  # noqa: E731
    monkeypatch.setattr(demo, "run", run)
    for words, expected in (
        ([], (Path("demo-out"), None, 900)),
        (["--fasta", "g.fa", "--out", "o", "--steps", "5"], (Path("o"), Path("g.fa"), 5)),
    ):
        monkeypatch.setattr(sys, "argv", ["demo", *words])
        demo.main()
        assert seen[-1] == expected
