"""bench.common.machine and bench.common.json_io."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import pytest

from bench.common import json_io, machine


def test_folder_is_named_after_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "device_name", lambda device: "NVIDIA RTX 6000 Ada (24GB)")
    assert machine.folder_name() == "nvidia-rtx-6000-ada-24gb"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763 64-Core Processor"),
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "Intel Xeon Platinum 8370C"),
    ],
)
def test_a_processor_has_the_name_of_its_model(monkeypatch: pytest.MonkeyPatch, model: str, name: str) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: model)
    assert machine.device_name("cpu") == name


def test_a_processor_without_a_model_has_the_name_of_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: None)
    monkeypatch.setattr(machine, "_output", lambda command: None)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.device_name("cpu") == platform.machine()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (machine.ROOT / "bench" / "report" / "report.py", "bench/report/report.py"),
        (machine.ROOT / "bench" / "suite" / "__main__.py", "python -m bench.suite"),
        (machine.ROOT / ".venv" / "bin" / "pytest", "pytest"),
        ("/somewhere/else/pytest/__main__.py", "python -m pytest"),
        ("/somewhere/else/pytest", "pytest"),
    ],
)
def test_a_command_has_no_place_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, program: str | Path, named: str
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program), "--benchmark-only"])
    assert machine.describe("cpu")["command"] == f"{named} --benchmark-only"


def test_commit_without_git_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", lambda command: None)
    monkeypatch.setenv("HYENA_COMMIT", "abc123")
    assert machine.commit() == "abc123"


def test_results_go_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("real.json")
    json_io.write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text(encoding="utf-8")) == {"a": 1}
    json_io.write_json(Path(os.devnull), {"a": 1})
    assert Path(os.devnull).is_char_device()
    (tmp_path / "real.json").chmod(0o400)
    with pytest.raises(OSError, match="write-protected"):
        json_io.write_json(tmp_path / "real.json", {})


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    path.write_text("before", encoding="utf-8")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        json_io.write_json(path, {"a": 1})
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]
