"""The command bench.kernels.cluster: its page, its picture, and bytes counted in processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

from bench.kernels import cluster, cluster_check
from bench.kernels.cluster_check import CASES, Count
from bench.report import plots, simulation
from tests.bench.drawings import assert_same_drawing
from tests.ranks import run_ranks

ROOT = Path(__file__).resolve().parents[3]
PAGE, PICTURE = ROOT / "docs" / "simulation.md", ROOT / "docs" / "simulation.svg"


def test_the_page_is_what_the_command_makes(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "picture.svg"
    before = PAGE.read_text(encoding="utf-8")
    head, _, rest = before.partition(simulation.BEGIN)
    page.write_text(f"{head}{simulation.BEGIN}\nold\n{simulation.END}{rest.partition(simulation.END)[2]}")
    assert cluster.main(["--page", str(page), "--picture", str(picture)]) == 0
    again = "run: python -m bench.kernels.cluster --page docs/simulation.md --picture docs/simulation.svg"
    assert page.read_text(encoding="utf-8") == before, again
    stored, made = PICTURE.read_text(encoding="utf-8"), picture.read_text(encoding="utf-8")
    if plots.matplotlib_of(stored) != matplotlib.__version__:
        pytest.skip(f"the tables are equal; matplotlib {plots.matplotlib_of(stored)} drew the picture")
    assert_same_drawing(stored, made)


def test_every_constant_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--lengths", "1048576", "--gpus", "8", "--parts", "1048576/8"]
    assert cluster.main([*few, "--network-gb-s", "0.5", "--node-gpus", "1", "--latency-us", "0"]) == 0
    slow = capsys.readouterr().out
    assert "| `--network-gb-s` | 0.5 GB/s |" in slow
    assert "| **assumed** |" in slow
    assert cluster.main(few) == 0
    assert capsys.readouterr().out != slow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "1048576"], "give LENGTH/GPUS"),
        (["--lengths", "0"], "numbers go from 1"),
        (["--lengths", "9", "--gpus", "8"], "each needs 2 positions"),
        (["--dense-tflop-s", "1"], "raise dense_tflop_s"),
        (["--network-gb-s", "0"], "network_gb_s is 0 GB/s: it must be above 0"),
        (["--node-gpus", "0.5"], "node_gpus is 0.5 GPUs: it must be 1 or more"),
        (["--latency-us", "nan"], "latency_us is nan"),
        (["--width", "0"], "width"),
        (["--page", "missing.md"], "missing.md"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cluster.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_page_without_marks_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(SystemExit):
        cluster.main(["--page", str(page)])
    assert page.read_text() == "text\n"


def test_processes_send_and_keep_what_the_formulas_say() -> None:
    results = run_ranks(4, cluster_check.count)
    assert cluster_check.differences(results) == []
    # One byte more of anything is found.
    (once, twice), *others = results[1]
    for name in ("forward", "backward", "kept"):
        wrong: tuple[Count, Count] = (once, twice)
        if name == "kept":
            wrong = (once, replace(twice, kept=twice.kept + 1))
        else:
            wrong = (replace(once, **{name: getattr(once, name) + 1}), twice)
        lines = cluster_check.differences([results[0], [wrong, *others], *results[2:]])
        assert len(lines) == 1
        assert f"{CASES[0]}, rank 1, {name}: counted" in lines[0]
