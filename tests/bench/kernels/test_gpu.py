"""bench.kernels.gpu without a GPU: steps, time limits and commands."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bench.kernels import gpu


def fake_steps(monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
    def step(name: str, folder: Path, seconds: float) -> gpu.Step:
        return gpu.Step(name, [sys.executable, "-S", "-u", "-c", scripts[name]], folder / f"{name}.log")

    monkeypatch.setattr(gpu, "step", step)


def test_steps_go_on_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_steps(monkeypatch, {"test": "print('red'); raise SystemExit(1)", "targets": "print('measured')"})
    assert gpu.run_all(["test", "targets"], tmp_path, 600) == {"test": 1, "targets": 0}
    assert (tmp_path / "test.log").read_text(encoding="utf-8") == "red\n"
    assert (tmp_path / "targets.log").read_text(encoding="utf-8") == "measured\n"
    assert "measured" in capfd.readouterr().out


def test_a_step_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    item = gpu.Step("test", [sys.executable, "-S", "-c", script], tmp_path / "test.log")
    start = time.monotonic()
    assert gpu.run(item, 1.5) == 124
    assert time.monotonic() - start < 8
    child = Path("/proc") / item.log.read_text(encoding="utf-8").strip() / "stat"
    for _ in range(50):
        # A process that ended, and whose exit code was not read, is a zombie.
        if not child.exists() or child.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


def test_no_step_begins_without_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "step", None)
    assert gpu.run_all(["tune", "targets"], tmp_path, 10) == {"tune": 124, "targets": 124}


def test_gpu_dry_run_prints_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry-run", "--time", "1000", "--results", str(tmp_path)]) == 0
    test, profile, suite, tune, targets = capsys.readouterr().out.splitlines()
    assert "pytest -m gpu tests/hyena_kernels" in test
    assert f"bench.kernels.step_profile --json {tmp_path}" in profile
    assert gpu.FRACTIONS["profile"] * 1500 >= 2 * gpu.SPARE
    assert sum(gpu.FRACTIONS.values()) == pytest.approx(1)
    assert f"bench.suite --json {tmp_path}" in suite
    assert suite.partition(" > ")[0].endswith(f"--seconds {1000 * gpu.FRACTIONS['suite'] - gpu.SPARE:.0f}")
    assert f"--time-limit {1000 * gpu.FRACTIONS['tune'] - gpu.SPARE:.0f}" in tune
    assert "--write-table" in tune
    assert f"bench.kernels.targets --json {tmp_path}" in targets
    assert list(tmp_path.iterdir()) == []
