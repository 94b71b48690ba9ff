"""The benchmark suite: it refuses a speed to what is wrong, and its file can be read whenever a run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.baselines.attention import error_at_some_queries
from bench.run_file import OURS, read_run
from bench.test_suite import cases
from bench.workloads import Case, build

ROOT = Path(__file__).resolve().parents[2]


def command(path: Path, *options: str) -> list[str]:
    found = [sys.executable, "-m", "pytest", "bench/", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    return [*found, "--bench-device=cpu", f"--bench-json={path}", "--bench-max-length=1024", *options]


def run(path: Path, *options: str, wrong: str = "") -> subprocess.CompletedProcess[str]:
    """The suite in a process of its own, on one op; ``wrong`` is code that runs in it first."""
    environment = {**os.environ}
    if wrong:
        (path.parent / "sabotage.py").write_text(wrong)
        options = ("-p", "sabotage", *options)
        environment["PYTHONPATH"] = os.pathsep.join([str(path.parent), str(ROOT)])
    return subprocess.run(
        command(path, "--bench-workload=fftconv", *options), cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def test_a_peer_that_returns_wrong_values_is_refused_a_speed(tmp_path: Path) -> None:
    wrong = """
from bench.baselines import published

right = published.published_fftconv
published.published_fftconv = lambda u, k, D: 1.001 * right(u, k, D)
"""
    done = run(tmp_path / "suite.json", wrong=wrong)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {(record["peer"], record["status"]) for record in read_run(tmp_path / "suite.json").records}
    assert found == {(OURS, "measured"), ("published", "refused")}
    for record in read_run(tmp_path / "suite.json").records:
        assert (record["seconds"] is None) == (record["status"] == "refused")
        assert (record["error"] > record["error_budget"]) == (record["status"] == "refused")


def test_a_killed_run_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    process = subprocess.Popen(
        command(path, "--bench-workload=fftconv,hyena_mixer"), cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = read_run(path)
    assert found.records
    assert found.finished is None


def test_what_the_time_is_up_for_is_stopped_and_said_so(tmp_path: Path) -> None:
    done = run(tmp_path / "suite.json", "--bench-seconds=0")
    assert done.returncode == 0, done.stdout
    records = read_run(tmp_path / "suite.json").records
    assert len(records) == 8
    assert {(record["status"], record["seconds"]) for record in records} == {("stopped", None)}


def test_attention_that_sees_the_future_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.baselines import attention

    cpu = torch.device("cpu")
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error <= budget
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention, "function_of", lambda peer: right)
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error > budget


@pytest.mark.parametrize("on_gpu", [False, True])
def test_lengths_come_shortest_first(on_gpu: bool) -> None:
    lengths = [case.length for case in cases(on_gpu)]
    assert lengths == sorted(lengths)
    assert len(set(map(str, cases(on_gpu)))) == len(lengths)


def test_every_workload_of_ours_passes_its_check() -> None:
    cpu = torch.device("cpu")
    for case in cases(False):
        if case.length == 1024 and case.peer == OURS:
            small = Case(case.workload, case.variant, case.peer, case.direction, 1, 32, 100)
            work = build(small, cpu, torch.float32)
            error, budget = work.check()
            assert error <= budget, case
            assert work.run() is not None
