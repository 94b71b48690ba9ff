"""The benchmark suite: it refuses a speed to what is wrong, and its file can be read whenever a run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from bench.baselines import packages
from bench.baselines.attention import error_at_some_queries
from bench.baselines.packages import Unavailable
from bench.common import stopwatch
from bench.common.run_file import OURS, read_run
from bench.costs.roofline import WORKLOADS
from bench.suite import suite
from bench.suite.accuracy import errors_on_channels, faults
from bench.suite.budget import Budget, TimeEstimator
from bench.suite.cases import Case, cases
from bench.suite.workloads import PreparedCase, build
from hyena_kernels.testing import fftconv_inputs, short_conv_inputs

ROOT = Path(__file__).resolve().parents[3]


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
    done = run(
        tmp_path / "suite.json", "-k", "gated-published or gated-hyena_kernels", "--bench-seconds=100", wrong=wrong
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {(record["implementation"], record["status"]) for record in read_run(tmp_path / "suite.json").records}
    assert found == {(OURS, "measured"), ("published", "failed_check")}
    records = read_run(tmp_path / "suite.json").records
    assert all(record["ratio"] is None for record in records)
    for record in records:
        assert (record["seconds"] is None) == (record["status"] == "failed_check")
        assert (record["error"] > record["error_budget"]) == (record["status"] == "failed_check")


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
    assert {(record["status"], record["seconds"]) for record in records} == {("timed_out", None)}


def test_attention_that_sees_the_future_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.baselines import attention

    cpu = torch.device("cpu")
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error <= budget
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention, "function_of", lambda implementation: right)
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error > budget


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_are_unlike_the_shortest_come_first_and_peers_stand_together(device: str) -> None:
    found = cases(device)
    lengths = [case.length for case in found]
    assert lengths == sorted(lengths)
    assert len(set(map(str, found))) == len(found)
    changes = sum(a.comparison != b.comparison for a, b in pairwise(found))
    assert changes + 1 == len({case.comparison for case in found})
    ours = {case.comparison for case in found if case.implementation == OURS}
    assert ours == {case.comparison for case in found}
    assert {case.workload for case in found} == set(WORKLOADS)


def test_peers_that_a_cpu_leaves_out_run_there_when_named() -> None:
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


def test_peers_are_timed_in_turns_and_a_slow_one_ends_earlier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    monkeypatch.setattr(suite, "stopwatch", lambda *_, **__: Counting())
    monkeypatch.setattr(suite.Suite, "_peak_bytes", lambda *_: None)
    monkeypatch.setattr(suite, "measure_peak_rates", lambda *_: {"copy_bytes_per_s": 1e9})
    options = {
        "--bench-device": "cpu", "--bench-json": tmp_path / "suite.json", "--bench-seconds": 100.0,
        "--bench-case-seconds": None, "--bench-l2": "cold", "--bench-threads": torch.get_num_threads(),
    }  # fmt: skip
    together = [
        Case("two_layer_model", "checkpointed", implementation, "both", 1, 128, 1024) for implementation in seconds
    ]
    run = suite.Suite(SimpleNamespace(getoption=options.get), together)
    rounds = {
        implementation: len(run.outcome(case).samples) for implementation, case in zip(seconds, together, strict=True)
    }
    assert rounds == {OURS: 5, "published": 4, "sdpa_flash": 1}
    # After the calls for warming up.
    timed = called[-sum(rounds.values()) :]
    assert timed == [*seconds, *3 * (OURS, "published"), OURS]
    # By the clock on the wall, not that of the calls: more of them would not have fitted.
    assert run.estimator.expect(together[2]) == (20.0, 0.0)
    ratios = {record["implementation"]: record["ratio"] for record in read_run(tmp_path / "suite.json").records}
    assert ratios == {OURS: None, "published": pytest.approx(1.2), "sdpa_flash": pytest.approx(200)}


def test_an_error_of_a_peer_is_a_reason_and_one_of_ours_a_failure() -> None:
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


def test_each_kind_of_case_keeps_its_share_and_long_calls_are_foreseen() -> None:
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
    learned = TimeEstimator()
    ours = Case("two_layer_model", "plain", OURS, "both", 1, 128, 1024)
    attention = replace(ours, implementation="sdpa_flash")
    assert learned.expect(ours) is None
    for case in (ours, attention):
        learned.learn(case, 1.0, 2.0)
    assert learned.expect(replace(attention, length=4096)) == (16.0, 32.0)
    call, other = learned.expect(replace(ours, length=4096)) or (0.0, 0.0)
    assert 4 <= call < 5
    assert other == 2 * call


def test_a_gpu_is_timed_by_events_that_wait_for_all_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("event")

        def elapsed_time(self, other: Event) -> float:
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: order.append("wait"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: order.append("synchronize"))
    monkeypatch.setattr(stopwatch, "FLUSH_BYTES", 64)
    cpu = torch.device("cpu")
    cold, warm = (stopwatch.EventStopwatch(cpu, cold=cold) for cold in (True, False))
    cold.flush.fill_(1)
    assert cold.time(lambda: order.append("call")) == 0.25
    assert order == ["wait", "event", "call", "event", "synchronize"]
    assert not cold.flush.any()
    order.clear()
    assert warm.time(lambda: order.append("call")) == 0.25
    assert order == ["wait", "call", "event", "call", "event", "synchronize"]


# Packages ------------------------------------------------------------------------------------------------------------


def fake(monkeypatch: pytest.MonkeyPatch, module: str, **content: object) -> None:
    made = ModuleType(module)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, module, made)


def causal(u: Tensor, k: Tensor) -> Tensor:
    size = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u.float(), size) * torch.fft.rfft(k.float(), size), size)[..., : u.shape[-1]]


class FakeFlashFFTConv:
    def __init__(self, seqlen: int, dtype: torch.dtype) -> None:
        assert seqlen & (seqlen - 1) == 0
        self.seqlen, self.dtype = seqlen, dtype

    def to(self, device: torch.device) -> FakeFlashFFTConv:
        return self

    def __call__(self, u: Tensor, k: Tensor, *gates: Tensor) -> Tensor:
        assert u.dtype == self.dtype
        assert k.dtype == torch.float32
        assert u.shape[-1] == k.shape[-1]
        assert u.shape[-1] % 2 == 0
        assert 2 * u.shape[-1] <= self.seqlen
        before, after = gates or (1, 1)
        return (causal(u * before, k) * after).to(u.dtype)


@pytest.mark.parametrize("implementation", ["flashfftconv", "cudnn_fft_causal_conv1d"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("length", [256, 301])
def test_packages_for_long_convolutions_give_the_op(
    monkeypatch: pytest.MonkeyPatch, implementation: str, gated: bool, length: int
) -> None:
    fake(monkeypatch, "flashfftconv", FlashFFTConv=FakeFlashFFTConv)
    fake(monkeypatch, "cudnn")
    fake(monkeypatch, "cudnn.ops", fft_causal_conv1d=lambda x, weight: causal(x, weight).to(x.dtype))
    workload, adapter = packages.ADAPTERS[implementation]
    filters = torch.bfloat16 if implementation in packages.FILTERS_LIKE_SIGNALS else torch.float32
    inputs = fftconv_inputs(1, 16, length, dtype=torch.bfloat16, filter_dtype=filters, pre_gate=gated, post_gate=gated)
    function = adapter(16, length, torch.bfloat16, torch.device("cpu"))
    errors = errors_on_channels(workload, inputs, torch.ones(1, 16, length, dtype=torch.bfloat16), range(16), function)
    assert not faults(errors)


def test_a_package_for_short_convolutions_gives_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
        assert activation is None
        taps = weight.shape[1]
        y = torch.nn.functional.conv1d(x, weight.unsqueeze(1), bias, padding=taps - 1, groups=x.shape[1])
        return y[..., : x.shape[-1]]

    fake(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    workload, adapter = packages.ADAPTERS["causal_conv1d"]
    function = adapter(16, 100, torch.float32, torch.device("cpu"))
    assert not faults(errors_on_channels(workload, short_conv_inputs(1, 16, 100), None, range(16), function))


@pytest.mark.parametrize("implementation", ["flash_attn", "flash_attn_3", "flash_attn_4"])
def test_versions_of_flash_attn_take_heads_last(monkeypatch: pytest.MonkeyPatch, implementation: str) -> None:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> object:
        assert causal
        assert q.shape[-2:] == (1, 64)
        heads_first = (t.transpose(1, 2) for t in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)
        return y if implementation == "flash_attn" else (y, None)

    for module in ("flash_attn", "flash_attn_interface", "flash_attn.cute"):
        fake(monkeypatch, module, flash_attn_func=flash_attn_func)
    error, budget = error_at_some_queries(implementation, 1, 64, 100, torch.device("cpu"), torch.float32)
    assert error <= budget


@pytest.mark.parametrize("implementation", [*packages.ADAPTERS, "flash_attn_3"])
def test_a_package_that_is_missing_or_has_no_such_op_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    workload = packages.ADAPTERS.get(implementation, ("two_layer_model", None))[0]
    case = Case(workload, "plain", implementation, "both", 1, 64, 100)
    monkeypatch.setattr(
        packages, "ADAPTERS", {implementation: (workload, lambda *_: packages.imported("torch", "no_such_op"))}
    )
    if implementation == "flash_attn_3":
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
        with pytest.raises(ImportError, match="flash_attn_interface"):
            build(case, torch.device("cpu"), torch.float32)
        return
    with pytest.raises(Unavailable, match="runs on CUDA devices alone"):
        build(case, torch.device("cpu"), torch.float32)
    with pytest.raises(ImportError, match=r"torch .* has no no_such_op"):
        build(case, torch.device("cuda"), torch.float32)


def test_flashfftconv_says_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "flashfftconv", FlashFFTConv=FakeFlashFFTConv)
    cpu = torch.device("cpu")
    for width, length, dtype, message in (
        (16, 64, torch.float32, "float16 and bfloat16"),
        (16, 1 << 22, torch.bfloat16, "4194304 points"),
        (8, 1 << 15, torch.bfloat16, "multiples of 16"),
    ):
        with pytest.raises(Unavailable, match=message):
            packages.flashfftconv(width, length, dtype, cpu)
