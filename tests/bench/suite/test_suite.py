"""The benchmark suite: wrong results have no time, and the file can be read whenever a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.common.run_file import OURS, read_run
from bench.common.timing import Timer
from bench.costs.roofline import WORKLOADS
from bench.suite import __main__ as command, suite
from bench.suite.budget import Budget, TimeEstimator
from bench.suite.cases import Case, cases
from bench.suite.options import Options
from bench.suite.workloads import PreparedCase, build
from hyena_kernels import backend

ROOT = Path(__file__).resolve().parents[3]


def quick(path: Path, *options: str) -> list[str]:
    """Options of a quick run; the number of threads stays as it is in this process."""
    return ["--device=cpu", f"--json={path}", "--max-length=1024", f"--threads={torch.get_num_threads()}", *options]


@pytest.fixture
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the measurements that take seconds and that no test looks at."""
    monkeypatch.setattr(suite, "measure_peak_rates", lambda *_: {"copy_bytes_per_s": 1e9})
    monkeypatch.setattr(suite, "peak_rss", lambda *_: (0, 1))
    monkeypatch.setattr(suite.machine, "describe", lambda *_: {})
    monkeypatch.setattr(suite.machine, "commit", lambda: "unknown")


@pytest.mark.slow
def test_pytest_runs_the_suite_and_a_wrong_implementation_has_no_time(tmp_path: Path) -> None:
    wrong = """
from bench.baselines import published

right = published.published_fftconv
published.published_fftconv = lambda u, k, D: 1.001 * right(u, k, D)
"""
    (tmp_path / "sabotage.py").write_text(wrong)
    command = [sys.executable, "-m", "pytest", "bench/", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "sabotage", "-k", "gated-published or gated-hyena_kernels", f"--benchmark-json={tmp_path}/b.json"]
    command += [option.replace("--", "--bench-", 1) for option in quick(tmp_path / "suite.json", "--workload=fftconv")]
    # In a process of xdist, and in what it starts, pytest-benchmark measures nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    records = read_run(tmp_path / "suite.json").records
    found = {(record["implementation"], record["status"]) for record in records}
    assert found == {(OURS, "measured"), ("published", "failed_check")}
    assert all(record["ratio"] is None for record in records)
    for record in records:
        assert (record["seconds"] is None) == (record["status"] == "failed_check")
        assert (record["error"] > record["error_budget"]) == (record["status"] == "failed_check")
    # The table of pytest-benchmark shows the rounds of the run.
    shown = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    medians = sorted(record["seconds"] for record in records if record["seconds"])
    assert sorted(each["stats"]["median"] for each in shown) == pytest.approx(medians)


@pytest.mark.slow
def test_a_killed_run_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.suite", *quick(path, "--workload=fftconv,hyena_mixer")], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
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


@pytest.mark.slow
@pytest.mark.usefixtures("no_machine")
@pytest.mark.parametrize("chosen", ["suite", "targets"])
def test_cases_without_time_are_recorded_as_timed_out(
    chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--workload=fftconv", "--seconds=0", f"--cases={chosen}")
    assert command.main(quick(tmp_path / "suite.json", *options)) == 0
    found = read_run(tmp_path / "suite.json")
    assert len(found.records) == 8
    assert {(record["status"], record["seconds"]) for record in found.records} == {("timed_out", None)}
    assert found.finished is not None
    printed = capsys.readouterr().out
    assert "[8/8] fftconv-" in printed
    assert "timed out: the time of the run was over" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("no_machine")
@pytest.mark.parametrize("fault", [lambda y: y * 1.0001, lambda y: y.fill_(float("nan"))], ids=["off", "NaN"])
def test_no_time_is_given_for_a_wrong_op_of_ours(
    fault: Callable[[torch.Tensor], torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = backend._implementations["fftconv_fwd", "torch"]
    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "torch"), lambda *args: fault(right(*args)))
    options = ("--workload=fftconv", f"--implementation={OURS}", "--cases=targets", "--max-length=1000")
    with backend.use_backend("torch"):
        assert command.main(quick(tmp_path / "suite.json", *options)) == 1
    records = read_run(tmp_path / "suite.json").records
    assert {(record["direction"], record["status"], record["seconds"]) for record in records} == {
        ("forward", "failed_check", None), ("both", "failed_check", None),
    }  # fmt: skip
    assert "failed check: error" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("no_machine")
def test_an_error_of_ours_fails_the_run_and_the_next_case_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("kernel launch failed")

    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "torch"), fail)
    with backend.use_backend("torch"):
        code = command.main(quick(tmp_path / "suite.json", "--workload=fftconv,short_conv", f"--implementation={OURS}"))
    assert code == 1
    found = {(record["workload"], record["status"]) for record in read_run(tmp_path / "suite.json").records}
    assert found == {("short_conv", "measured")}
    assert "failed: kernel launch failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--workload=fft"], "no case matches"), (["--l2=hot"], "invalid choice"), (["--device=tpu"], "invalid choice")],
)
def test_wrong_options_end_with_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(quick(tmp_path / "suite.json", *options))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "suite.json").exists()


@pytest.mark.usefixtures("no_machine")
def test_ops_can_be_timed_as_cuda_graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = Case("fftconv", "gated", OURS, "forward", 1, 128, 1024)
    result = torch.ones(3)
    replayed: list[object] = []
    monkeypatch.setattr(suite, "build", lambda *_: PreparedCase(lambda: result, lambda: (0.1, 0.2), None))
    monkeypatch.setattr(suite, "captured", lambda run, *_, **__: (lambda: replayed.append(run), result.clone()))
    for launch, workload, captured in (
        ("graph", "fftconv", True),
        ("calls", "fftconv", False),
        ("graph", "hyena_operator", False),
    ):
        made = suite.Suite(run_options(tmp_path / "suite.json", launch=launch), [case])
        made.on_gpu = True
        monkeypatch.setattr(made, "_free", lambda: None)
        each = replace(case, workload=workload)
        made.outcomes[each] = suite.Outcome("measured")
        runner = made._prepare(each, {})
        assert runner is not None
        assert replayed == ([runner.prepared.run] if captured else [])
        assert (runner.call is runner.prepared.run) == (not captured)
        assert made._launch(each) == ("graph" if captured else "calls")
        replayed.clear()


HEADLINE = Case("two_layer_model", "checkpointed", OURS, "both", 1, 128, 1024)


@pytest.mark.usefixtures("no_machine")
@pytest.mark.parametrize(
    ("off", "status"), [(0.0, "measured"), (0.15, "measured"), (0.3, "failed_check"), (float("nan"), "failed_check")]
)
def test_a_graph_is_held_against_its_call_and_knows_its_error(
    off: float, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case, exact = replace(HEADLINE, launch="graph"), (torch.ones(3), torch.zeros(2))
    checked: list[str] = []

    def check() -> tuple[float, float]:
        checked.append("check")
        return 0.1, 0.2

    monkeypatch.setattr(suite, "build", lambda *_: PreparedCase(lambda: exact, check, None))
    monkeypatch.setattr(suite.Suite, "_free", lambda *_: None)
    monkeypatch.setattr(suite, "captured", lambda *_, **__: (lambda: None, (exact[0] + off, exact[1])))
    made = suite.Suite(run_options(tmp_path / "suite.json"), [case])
    made.outcomes[HEADLINE] = suite.Outcome("measured", samples=[1.0, 2.0, 3.0])
    made.outcomes[HEADLINE].facts = {"error": 0.1, "error_budget": 0.2}
    outcome = made.outcomes[case] = suite.Outcome("measured")
    runner = made._prepare(case, {})
    assert (outcome.status, runner is None) == (status, status != "measured")
    assert outcome.facts["error"] == pytest.approx(max(0.1, off) if off == off else off, nan_ok=True)
    # The same function passed its check as calls.
    assert checked == []
    assert made._known_seconds(case) == (2.0, 8.0)
    del made.outcomes[HEADLINE]
    made._prepare(case, {})
    assert checked == ["check"]


@pytest.mark.usefixtures("no_machine")
def test_what_cannot_be_captured_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    case = replace(HEADLINE, launch="graph")
    monkeypatch.setattr(suite, "build", lambda *_: PreparedCase(lambda: None, lambda: (0.1, 0.2), None))
    monkeypatch.setattr(suite, "captured", fail)
    monkeypatch.setattr(suite.Suite, "_free", lambda *_: None)
    made = suite.Suite(run_options(tmp_path / "suite.json"), [case])
    outcome = made.outcomes[case] = suite.Outcome("measured")
    assert made._prepare(case, {}) is None
    assert outcome.status == "skipped"
    assert outcome.reason == "cannot be captured as a CUDA graph: operation not permitted when stream is capturing"


@pytest.mark.usefixtures("no_machine")
def test_graphs_are_skipped_on_a_cpu_and_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    graphs = [case for case in cases("cpu", workloads={"two_layer_model"}) if case.is_graph and case.length == 1024]
    assert {case.implementation for case in graphs} == {OURS, "sdpa_flash"}
    monkeypatch.setattr(suite.Suite, "_free", lambda *_: None)
    made = suite.Suite(run_options(path), graphs)
    for case in graphs:
        assert made.outcome(case).status == "skipped"
    records = read_run(path).records
    assert {record["launch"] for record in records} == {"graph"}
    assert {record["reason"] for record in records} == {"is a CUDA graph, which needs a GPU"}
    # They keep no time from the others.
    assert made.budget.left("rest") > 500


@pytest.mark.usefixtures("no_machine")
@pytest.mark.parametrize(
    ("on_gpu", "launch", "warm_ups"), [(True, "calls", 1), (False, "calls", 0), (True, "graph", 0)]
)
def test_a_long_call_is_warmed_up_on_a_gpu(
    on_gpu: bool, launch: str, warm_ups: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, case = [0.0], replace(HEADLINE, launch=launch)

    def run() -> None:
        now[0] += 9.0

    made = suite.Suite(run_options(tmp_path / "suite.json"), [case])
    made.on_gpu = on_gpu
    made.estimator.observe(replace(case, length=512), 8.0, 0.0)
    outcome = made.outcomes[case] = suite.Outcome("measured")
    runner = suite._Runner(case, PreparedCase(run, lambda: (0.1, 0.2), None), outcome, 0.0, run)
    timer = Timer("counted", lambda: now[0])
    for name, value in {"_prepare": runner, "_timer": timer, "_free": None, "_peak_bytes": None}.items():
        monkeypatch.setattr(made, name, lambda *_, value=value: value)
    monkeypatch.setattr(suite, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(suite.gc, "collect", lambda: 0)
    made._measure([case], "headline")
    assert outcome.samples
    assert set(outcome.samples) == {9.0}
    assert len(runner.waited) == warm_ups + len(outcome.samples)


@pytest.mark.usefixtures("no_machine")
def test_a_run_on_a_gpu_begins_with_the_shortest_case_of_each_workload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Case] = []

    def fail(case: Case, *_: object) -> PreparedCase:
        built.append(case)
        raise RuntimeError("is told where it is measured")

    monkeypatch.setattr(suite, "build", fail)
    monkeypatch.setattr(suite.Suite, "_free", lambda *_: None)
    to_come = cases("cuda", workloads={"two_layer_model", "fftconv"})
    made = suite.Suite(run_options(tmp_path / "suite.json"), to_come)
    assert built == []
    made._warm_up()
    assert {(case.workload, case.length, case.launch) for case in built} == {
        ("two_layer_model", 1024, "calls"), ("fftconv", 1024, "calls"),
    }  # fmt: skip
    assert built[0].implementation == OURS


def run_options(path: Path, **changes: object) -> Options:
    return replace(command.read_options(command.make_parser("x", None), quick(path)), **changes)


@pytest.mark.usefixtures("no_machine")
def test_kernels_are_compiled_ahead_with_few_channels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Pool:
        def __init__(self, count: int) -> None:
            assert count == 4

        def run(self, function: Callable[..., object], jobs: list[tuple[Case, str]], seconds: float) -> None:
            compiled.extend(jobs)
            assert function is suite._compile
            assert seconds == 30

        def close(self) -> None:
            compiled.append("closed")

    compiled: list[object] = []
    monkeypatch.setattr(suite, "CompilePool", Pool)
    case = Case("fftconv", "gated", OURS, "both", 4, 256, 1024)
    to_come = [case, replace(case, length=1 << 20), replace(case, implementation="published")]
    made = suite.Suite(run_options(tmp_path / "suite.json", processes=4, seconds=100.0), to_come)
    made._compile_ahead()
    assert compiled == [(case, "float32"), (replace(case, length=1 << 20, width=2), "float32"), "closed"]


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_differ_come_shortest_first_and_are_grouped_by_comparison(device: str, targets: bool) -> None:
    found = cases(device, targets=targets)
    order = [(case.is_graph, case.length) for case in found]
    assert order == sorted(order)
    graphs = {(case.workload, case.variant) for case in found if case.is_graph}
    assert graphs == (set() if targets else {("two_layer_model", "checkpointed")})
    # Every graph has the same function as calls before it.
    assert {replace(case, launch="calls") for case in found if case.is_graph} <= set(found)
    assert len(set(map(str, found))) == len(found)
    changes = sum(a.comparison != b.comparison for a, b in pairwise(found))
    assert changes + 1 == len({case.comparison for case in found})
    ours = {case.comparison for case in found if case.implementation == OURS}
    assert ours == {case.comparison for case in found}
    if not targets:
        assert {case.workload for case in found} == set(WORKLOADS)


def test_implementations_that_a_cpu_leaves_out_run_there_when_named() -> None:
    assert {case.implementation for case in cases("cpu")} == {OURS, "published", "sdpa_flash", "sdpa_math"}
    assert {case.implementation for case in cases("cpu", {"published_compiled"})} == {"published_compiled"}
    assert {case.implementation for case in cases("cpu", {"flashfftconv", OURS})} == {"flashfftconv", OURS}


def small(case: Case) -> Case:
    if case.workload in ("hyenadna", "training_step"):
        return replace(case, batch=1, length=100)
    return replace(case, width=32, length=100)


def test_every_workload_of_ours_passes_its_check_and_runs() -> None:
    cpu = torch.device("cpu")
    found = {
        (case.workload, case.variant, case.direction): case
        for case in cases("cpu")
        if case.implementation == OURS and (case.workload != "hyenadna" or case.variant == "tiny-1k")
        if not case.is_graph
    }
    for case in found.values():
        work = build(small(case), cpu, torch.float32)
        error, budget = work.check()
        assert error <= budget, case
        assert work.run() is not None


def test_a_training_step_changes_the_weights() -> None:
    case = Case("training_step", "tiny-1k", "published", "both", 1, 128, 64)
    work = build(case, torch.device("cpu"), torch.float32)
    error, budget = work.check()
    assert error <= budget
    before, after = work.run(), work.run()
    assert after < before


@pytest.mark.slow
@pytest.mark.usefixtures("no_machine")
def test_implementations_are_timed_in_turns_and_a_slow_one_ends_earlier(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seconds = {OURS: 0.05, "published": 0.06, "sdpa_flash": 10.0}
    called: list[str] = []

    def made(case: Case, *_: object) -> PreparedCase:
        return PreparedCase(lambda: called.append(case.implementation), lambda: (0.1, 0.2), None)

    now = [0.0]

    class Counting:
        name = "counted"

        def time(self, run: Callable[[], object]) -> float:
            run()
            # Half of the time that it is waited for, as on a busy processor.
            now[0] += 2 * seconds[called[-1]]
            return seconds[called[-1]]

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(suite, "time", clock)
    monkeypatch.setattr(suite, "Budget", lambda *arguments: Budget(*arguments, clock=clock.monotonic))

    monkeypatch.setattr(suite, "build", made)
    monkeypatch.setattr(suite, "timer_for", lambda *_, **__: Counting())
    monkeypatch.setattr(suite.Suite, "_peak_bytes", lambda *_: None)
    together = [
        Case("two_layer_model", "checkpointed", implementation, "both", 1, 128, 1024) for implementation in seconds
    ]
    run = suite.Suite(run_options(tmp_path / "suite.json", seconds=100.0), together)
    rounds = {
        implementation: len(run.outcome(case).samples) for implementation, case in zip(seconds, together, strict=True)
    }
    assert rounds == {OURS: 5, "published": 4, "sdpa_flash": 1}
    # After the calls for warming up.
    timed = called[-sum(rounds.values()) :]
    assert timed == [*seconds, *3 * (OURS, "published"), OURS]
    # The estimate is wall time: by the time of the calls alone, more of them would have seemed to fit.
    assert run.estimator.estimate(together[2]) == (20.0, 0.0)
    ratios = {record["implementation"]: record["ratio"] for record in read_run(tmp_path / "suite.json").records}
    assert ratios == {OURS: None, "published": pytest.approx(1.2), "sdpa_flash": pytest.approx(200)}


def test_an_error_of_another_implementation_is_a_reason_and_one_of_ours_a_failure() -> None:
    case = Case("two_layer_model", "plain", "sdpa_cudnn", "both", 1, 128, 1024)
    found = []
    for each, error in (
        (case, RuntimeError("No available kernel")),
        (case, torch.OutOfMemoryError("too large")),
        (replace(case, implementation=OURS), torch.OutOfMemoryError("too large")),
        (replace(case, implementation=OURS), RuntimeError("a fault")),
    ):
        outcome = suite.Outcome("measured")
        suite.Suite._fail(each, outcome, error)
        found.append((outcome.status, outcome.reason, outcome.error is error))
    assert found == [
        ("skipped", "No available kernel", False),
        ("out_of_memory", "too large", False),
        ("out_of_memory", "too large", False),
        ("failed", "a fault", True),
    ]


def test_each_kind_of_case_keeps_its_fraction_and_long_calls_are_estimated() -> None:
    now = [0.0]
    budget = Budget(100.0, {"headline": 1, "rest": 2}, lambda: now[0])
    assert budget.left("rest") == budget.left("headline") == 50
    with budget.spending("rest"):
        now[0] = 30.0
    assert budget.left("rest") == 20
    assert budget.left("headline") == 50
    with budget.spending("headline"):
        now[0] = 40.0
    # No more of the headline is to come.
    assert budget.left("rest") == 60
    estimator = TimeEstimator()
    ours = Case("two_layer_model", "plain", OURS, "both", 1, 128, 1024)
    attention = replace(ours, implementation="sdpa_flash")
    assert estimator.estimate(ours) is None
    for case in (ours, attention):
        estimator.observe(case, 1.0, 2.0)
    assert estimator.estimate(replace(attention, length=4096)) == (16.0, 32.0)
    call, other = estimator.estimate(replace(ours, length=4096)) or (0.0, 0.0)
    assert 4 <= call < 5
    assert other == 2 * call
