"""bench.kernels.tune_triton without a GPU: what it measures, chooses and writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common import json_io, machine
from bench.kernels import tune_triton
from hyena_kernels.backends.triton import table
from hyena_kernels.backends.triton.autotune import Measurement
from hyena_kernels.backends.triton.plan import plan
from hyena_kernels.backends.triton.table import Config

SOURCE = Path(table.__file__)
CPU = torch.device("cpu")


def test_every_length_of_use_and_every_entry_in_use_is_tuned() -> None:
    items = tune_triton.work(tune_triton.LENGTHS, 128)
    assert [item.length for item in items[:2]] == [1_000_002, 32_770]
    found = [key for item in items for key in item.keys]
    assert len(found) == len(set(found))
    assert set(found) == {key for length in tune_triton.LENGTHS for key in table.keys(plan(length))}
    for item in items:
        assert item.channels * item.length <= tune_triton.POINTS
        assert item.batch & (item.batch - 1) == 0 < item.channels


def test_options_begin_with_the_present_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.TABLES[164], ("row_forward", 1, 1024), Config(1, registers=168))
    options = tune_triton.options_of(("row_forward", 1, 1024), 164)
    assert options[0] == Config(1, registers=168)
    assert len(set(options)) == len(options)


def load(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "table"}
    # dataclasses look their module up by its name.
    sys.modules["table"] = type(sys)("table")
    try:
        exec(compile(source, "table.py", "exec"), names)
    finally:
        del sys.modules["table"]
    return names


def test_table_is_rewritten_for_one_class_alone() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    entries = dict(table.TABLES[227])
    entries["columns_forward", 3, 256] = Config(4, tile=8, registers=96)
    text = tune_triton.rewritten(source, 227, entries, [(1, 256), (4097, 6144)], "Measured on a GPU.\nAll of it.")
    names = load(text)
    found = names["TABLES"][227]["columns_forward", 3, 256]
    assert (found.warps, found.tile, found.registers) == (4, 8, 96)
    assert names["TABLES"][227].keys() == entries.keys()
    assert names["TORCH_FASTER"] == {99: (), 164: (), 227: ((1, 256), (4097, 6144))}
    for shared in (99, 164):
        assert {key: str(entry) for key, entry in names["TABLES"][shared].items()} == {
            key: str(entry) for key, entry in table.TABLES[shared].items()
        }
    assert "# Measured on a GPU.\n# All of it.\n" in text
    # Of all entries only those that differ from the formula are written.
    assert len(names["_TABLE_227"]) == 1 + len(table._TABLE_227)
    assert {key: names["_TABLE_227"][key].warps for key in table._TABLE_227} == {
        key: entry.warps for key, entry in table._TABLE_227.items()
    }
    # What was rewritten can be rewritten again.
    again = tune_triton.rewritten(text, 227, entries, [(1, 256), (4097, 6144)], "Measured on a GPU.\nAll of it.")
    assert again == text


@pytest.mark.skipif(shutil.which("ruff") is None, reason="needs ruff")
@pytest.mark.parametrize("ranges", [[], [(1, 256)], [(1 << bits, 3 << bits) for bits in range(12)]], ids=len)
def test_rewritten_table_is_formatted(ranges: list[tuple[int, int]]) -> None:
    entries = {key: Config(32, tile=4096, registers=128) for key in table.TABLES[99]} if ranges else table._FORMULA
    text = tune_triton.rewritten(SOURCE.read_text(encoding="utf-8"), 99, entries, ranges, "Measured.")
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            ["ruff", *command, "--stdin-filename", str(SOURCE), "-"],
            cwd=machine.ROOT, input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_without_the_table_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "table.py"
    path.write_text("nothing\n", encoding="utf-8")
    results = {"machine": {"device": "GPU", "torch": "2", "triton": "3"}, "shared_kb": 227, "kernels": {}}
    with pytest.raises(ValueError, match="there is no table between"):
        tune_triton.write_table(path, results, 227)
    assert path.read_text(encoding="utf-8") == "nothing\n"
    assert list(tmp_path.iterdir()) == [path]


def entry(*measured: Measurement) -> dict[str, Any]:
    return {"candidates": [tune_triton.asdict(each) for each in measured]}


def test_chosen_is_fastest_without_spills_and_what_was_not_measured_stays(tmp_path: Path) -> None:
    key, other = ("row_forward", 1, 1024), ("rows_forward", 1, 4096)
    results = {
        "machine": {"device": "NVIDIA H200", "torch": "2.11.0", "triton": "3.6.0"},
        "shared_kb": 227,
        "kernels": {
            tune_triton.label(key): entry(
                Measurement(table.TABLES[227][key], 1.0),
                Measurement(Config(2, registers=96), 0.8),
                Measurement(Config(4, registers=96), 0.5, spills=8),
                Measurement(Config(8), None, reason="OutOfResources"),
            ),
            tune_triton.label(other): entry(Measurement(table.TABLES[227][other], None, reason="PTXASError")),
        },
        "algorithm": {"1000": {"triton": 2.0, "torch": 1.0}, "2048": {"triton": 1.0, "torch": 2.0}},
    }
    results = json.loads(json.dumps(results))
    assert tune_triton.chosen(results, 227) == {key: Config(2, registers=96)}
    path, stored = tmp_path / "table.py", tmp_path / "tune.json"
    shutil.copy(SOURCE, path)
    stored.write_text(json.dumps(results), encoding="utf-8")
    assert tune_triton.main(["--from-results", str(stored), "--table", str(path)]) == 0
    names = load(path.read_text(encoding="utf-8"))
    assert str(names["TABLES"][227][key]) == str(Config(2, registers=96))
    assert str(names["TABLES"][227][other]) == str(table.TABLES[227][other])
    # 1000 is transformed as 1024, and 768 is the transform before it.
    assert names["TORCH_FASTER"][227] == ((769, 1024),)
    assert "NVIDIA H200" in path.read_text(encoding="utf-8")


def test_neighbouring_ranges_become_one() -> None:
    slower = {"triton": 2.0, "torch": 1.0}
    results = {
        "algorithm": {"300": slower, "400": slower, "256": slower, "8192": slower, "5000": dict(slower, torch=1.99)}
    }
    assert tune_triton.torch_faster(results) == ((1, 512), (6145, 8192))


def test_results_of_another_machine_are_kept_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tune.json"
    for content in ('{"machine": {"device": "another"}}', "no JSON"):
        path.write_text(content, encoding="utf-8")
        assert tune_triton._load(path, 99)["kernels"] == {}
        assert (tmp_path / "tune.before.json").read_text(encoding="utf-8") == content
        assert "kept as tune.before.json" in capsys.readouterr().out
    fresh = tune_triton._load(path, 99)
    fresh["kernels"]["row_forward 1 x 256"] = {}
    json_io.write_json(path, fresh)
    assert tune_triton._load(path, 99)["kernels"] == fresh["kernels"]
    assert tune_triton._load(path, 227)["kernels"] == {}


def test_tuning_stops_when_the_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tune_triton._Run(tmp_path / "tune.json", CPU, 0, 1)
    run.all(tune_triton.work([1024, 2048], 8))
    assert "the time is over with 4 steps left" in capsys.readouterr().out


def test_tuning_goes_on_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(item: tune_triton.Work, device: torch.device) -> None:
        raise RuntimeError("out of something")

    monkeypatch.setattr(tune_triton, "recorded", fail)
    monkeypatch.setattr(tune_triton, "time_backends", lambda item, device: {"triton": 1.0, "torch": 3.0})
    run = tune_triton._Run(tmp_path / "tune.json", CPU, 100, 1)
    run.all(tune_triton.work([1024, 2048], 8))
    assert run.failures == 2
    assert capsys.readouterr().out.count("failed: RuntimeError: out of something") == 2
    stored = json.loads((tmp_path / "tune.json").read_text(encoding="utf-8"))
    assert stored["algorithm"] == {"1024": {"triton": 1.0, "torch": 3.0}, "2048": {"triton": 1.0, "torch": 3.0}}


def test_tune_dry_run_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_triton.main(["--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("L =  1000002")
    assert all(tune_triton.label(key) in text for key in tune_triton._keys())


def test_a_length_that_is_too_long_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tune_triton.main(["--dry-run", "--lengths", "1024", "16777217"])
    assert ended.value.code == 2
    assert "16777217" in capsys.readouterr().err
