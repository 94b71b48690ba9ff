"""A run of the suite: implementations of a comparison are set up and checked, then timed in turns, and written down."""

from __future__ import annotations

import contextlib
import datetime
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.stats import Stats

from bench.common import json_io, machine
from bench.common.memory import peak_rss
from bench.common.run_file import FORMAT, OURS
from bench.common.stopwatch import Stopwatch, stopwatch
from bench.costs.roofline import COUNTED, cost, measure_peak_rates, predict
from bench.suite.budget import Budget, TimeEstimator
from bench.suite.cases import Case
from bench.suite.workloads import OP_NAMES, PreparedCase, Shared, Unavailable, build

CASE_SECONDS = {"cuda": 15.0, "cpu": 120.0}
"""Longest wall time of one call that is waited for; an implementation that is expected to take longer is stopped."""
ROUND_SECONDS = 0.5
"""Time for all rounds of an implementation."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 25
LONG_CALL = 5.0
"""Seconds of a call that needs no warm-up, and of which there are fewer rounds where time is short."""
OF_WHAT_IS_LEFT = 0.1
"""Part of the time left that the rounds of one implementation may take, but for one round."""
# Where nothing shorter was run: how many times as long as predicted a call takes, and its checks in calls.
OVER_PREDICTED, CHECK_CALLS = {OURS: 3.0}, 8.0
OVER_PREDICTED_OTHERS = 6.0


@dataclass
class Outcome:
    """What became of a case.

    Args:
        status: as records have it, or ``"failed"`` with an error that says nothing about speed.
        reason: why it has no time.
        samples: seconds of its rounds.
        facts: further fields of its record.
        error: that ended it.
    """

    status: str
    reason: str | None = None
    samples: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass
class _Runner:
    """An implementation that passed its check."""

    case: Case
    work: PreparedCase
    outcome: Outcome
    overhead: float
    waited: list[float] = field(default_factory=list)

    def time(self, watch: Stopwatch) -> float:
        """Seconds of a call; how long it was waited for goes to ``waited``, which a busy processor makes longer."""
        start = time.monotonic()
        seconds = watch.time(self.work.run)
        self.waited.append(time.monotonic() - start)
        return seconds

    def wanted(self, left: float) -> int:
        """Rounds in all, once it is known how long a call takes."""
        if not self.waited:
            return 1
        call = min(self.waited)
        rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(ROUND_SECONDS / max(call, 1e-6))))
        if call > LONG_CALL:
            rounds = min(rounds, max(1, int(left * OF_WHAT_IS_LEFT / call)))
        return rounds


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _setup(case: Case, device: str, dtype: str, threads: int) -> Callable[[], object]:
    """For a fresh process, which measures its memory."""
    torch.set_num_threads(threads)
    return build(case, torch.device(device), getattr(torch, dtype)).run


class Suite:
    """What the measurements of a run share.

    Args:
        config: pytest's, with the options of ``bench/conftest.py``.
        to_come: cases that the run is going to measure.
        spent: seconds that are gone of the time of the run.
    """

    def __init__(self, config: pytest.Config, to_come: Iterable[Case], *, spent: float = 0.0) -> None:
        option = config.getoption
        self.device = torch.device(device_of(config))
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.path: Path = option("--bench-json") or (
            machine.ROOT / "bench" / "results" / machine.folder_name(self.device) / "suite.json"
        )
        self.comparisons: dict[tuple[Any, ...], list[Case]] = {}
        for case in to_come:
            self.comparisons.setdefault(case.comparison, []).append(case)
        kinds = [_kind(cases[0]) for cases in self.comparisons.values()]
        self.budget = Budget(option("--bench-seconds") - spent, {kind: kinds.count(kind) for kind in kinds})
        self.case_seconds = option("--bench-case-seconds") or CASE_SECONDS[self.device.type]
        self.cold = option("--bench-l2") == "cold"
        if not self.on_gpu:
            torch.set_num_threads(option("--bench-threads"))
        self.estimator = TimeEstimator()
        self.watches: dict[bool, Stopwatch] = {}
        self.outcomes: dict[Case, Outcome] = {}
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "machine": {"name": machine.device_name(self.device), **machine.describe(self.device)},
            "commit": machine.commit(),
            "started": _now(),
            "finished": None,
            "settings": {
                "seconds": option("--bench-seconds"),
                "case_seconds": self.case_seconds,
                "dtype": str(self.dtype).removeprefix("torch."),
                "threads": None if self.on_gpu else torch.get_num_threads(),
                "l2": option("--bench-l2") if self.on_gpu else None,
            },
            "peak_rates": measure_peak_rates(self.device, self.dtype),
            "records": [],
        }

    # Measuring -------------------------------------------------------------------------------------------------------

    def outcome(self, case: Case) -> Outcome:
        """What became of a case; the first of a comparison measures all of it."""
        if case not in self.outcomes:
            self._compare(self.comparisons[case.comparison])
        return self.outcomes[case]

    def _compare(self, cases: Sequence[Case]) -> None:
        kind = _kind(cases[0])
        with self.budget.spending(kind):
            for case in self._within_time(cases, kind):
                self.outcomes[case] = Outcome("measured")
            try:
                self._measure([case for case in cases if self.outcomes[case].status == "measured"], kind)
            finally:
                self._free()
                for case in cases:
                    self._record(case, self.outcomes[case])
                json_io.write_json(self.path, self.content)

    def _within_time(self, cases: Sequence[Case], kind: str) -> list[Case]:
        """The cases that there is time for; the slowest implementations go first, ours last."""
        left = self.budget.left(kind)
        going: dict[Case, float] = {}
        for case in cases:
            call, other = self._expected(case) or (0.0, 0.0)
            if call > self.case_seconds:
                reason = f"about {call:.0f} s a call, above the {self.case_seconds:.0f} s of a case"
                self.outcomes[case] = Outcome("timed_out", reason)
            else:
                going[case] = call + other
        while going and (left <= 0 or sum(going.values()) > left):
            slowest = max(going, key=lambda case: (case.implementation != OURS, going[case]))
            reason = "the time of the suite was up"
            if left > 0:
                reason = f"about {sum(going.values()):.0f} s with its check, and {left:.0f} s were left of the suite"
            self.outcomes[slowest] = Outcome("timed_out", reason)
            del going[slowest]
        return list(going)

    def _expected(self, case: Case) -> tuple[float, float] | None:
        """Seconds of a call and of all else, from a shorter length or, of a model without one, as predicted."""
        known = self.estimator.expect(case)
        if known is not None or case.workload not in ("hyenadna", "training_step"):
            return known
        counted = predict(self._cost(case, OURS, None), self.content["peak_rates"])
        call = OVER_PREDICTED.get(case.implementation, OVER_PREDICTED_OTHERS) * counted
        return call, CHECK_CALLS * call

    def _measure(self, cases: Sequence[Case], kind: str) -> None:
        shared: Shared = {}
        runners = [runner for case in cases if (runner := self._ready(case, shared)) is not None]
        shared.clear()
        self._free()
        watch = self._watch(cases)
        for runner in runners:
            expected = self.estimator.expect(runner.case)
            # Compiles, fills caches, and tells how long a call takes.
            for _ in range(0 if expected is not None and expected[0] > LONG_CALL else 2):
                if not runner.waited or runner.waited[-1] < ROUND_SECONDS / FEWEST_ROUNDS:
                    with self._survived(runner):
                        runner.time(watch)
        runners = [runner for runner in runners if runner.outcome.status == "measured"]
        gc.collect()
        gc.disable()
        try:
            self._rounds(runners, watch, kind)
        finally:
            gc.enable()
        for runner in runners:
            if runner.outcome.status == "measured":
                call = statistics.median(runner.waited[-len(runner.outcome.samples) :])
                self.estimator.learn(runner.case, call, runner.overhead)
                with self._survived(runner):
                    runner.outcome.facts["peak_bytes"] = self._peak_bytes(runner, call, kind)

    def _rounds(self, runners: Sequence[_Runner], watch: Stopwatch, kind: str) -> None:
        """Rounds in which each implementation has its turn, as many as each of them wants."""
        number = 0
        while True:
            left = self.budget.left(kind)
            turn = [
                runner
                for runner in runners
                if runner.outcome.status == "measured"
                and len(runner.outcome.samples) == number
                and number < runner.wanted(left)
            ]
            if not turn:
                return
            for runner in turn:
                with self._survived(runner):
                    runner.outcome.samples.append(runner.time(watch))
            number += 1

    def _ready(self, case: Case, shared: Shared) -> _Runner | None:
        """An implementation that is built and passed its check; None, and an outcome, of any other."""
        outcome = self.outcomes[case]
        start = time.monotonic()
        try:
            work = build(case, self.device, self.dtype, shared)
            error, budget = work.check()
        except (Unavailable, ImportError) as failure:
            outcome.status, outcome.reason = "skipped", _text(failure)
        except Exception as failure:
            self._fail(case, outcome, failure)
        else:
            outcome.facts = {"error": error, "error_budget": budget, "backend": work.backend}
            if error <= budget:
                return _Runner(case, work, outcome, time.monotonic() - start)
            outcome.status, outcome.reason = "failed_check", f"error {error:.3g} above its budget of {budget:.3g}"
        self._free()
        return None

    @staticmethod
    def _fail(case: Case, outcome: Outcome, failure: Exception) -> None:
        """What an error means: memory, a kernel of an implementation that does not run here, or a fault of ours."""
        outcome.reason = _text(failure)
        if isinstance(failure, torch.OutOfMemoryError):
            outcome.status = "out_of_memory"
        elif case.implementation != OURS:
            # Some attention kernels refuse a dtype, a device or a build with an error.
            outcome.status = "skipped"
        else:
            outcome.status, outcome.error = "failed", failure

    @contextlib.contextmanager
    def _survived(self, runner: _Runner) -> Any:
        """What an implementation raises inside is its outcome, and does not end the others."""
        try:
            yield
        except Exception as failure:
            self._fail(runner.case, runner.outcome, failure)

    def _watch(self, cases: Sequence[Case]) -> Stopwatch:
        is_op = bool(cases) and cases[0].workload in OP_NAMES
        if is_op not in self.watches:
            self.watches[is_op] = stopwatch(self.device, is_op=is_op, cold=self.cold)
        return self.watches[is_op]

    def _peak_bytes(self, runner: _Runner, call: float, kind: str) -> int | None:
        """What one call holds beyond its inputs and weights; None where no time is left for it."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            runner.work.run()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        if call > self.budget.left(kind) or runner.case.implementation == "published_compiled":
            return None
        dtype = str(self.dtype).removeprefix("torch.")
        before, after = peak_rss(_setup, runner.case, self.device.type, dtype, torch.get_num_threads())
        return after - before

    def _free(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    # Writing down ----------------------------------------------------------------------------------------------------

    def _cost(self, case: Case, implementation: str, backend: str | None) -> Any:
        return cost(
            case.workload, case.variant, case.direction, batch=case.batch, width=case.width, length=case.length,
            itemsize=self.dtype.itemsize, implementation=implementation, backend=backend,
        )  # fmt: skip

    def _record(self, case: Case, outcome: Outcome) -> None:
        """Put a record in the file's content."""
        measured = outcome.status == "measured"
        # An error of ours fails its test, and an interrupted comparison has no figures.
        if outcome.status == "failed" or (measured and not outcome.samples):
            return
        made: dict[str, Any] = {
            **{name: getattr(case, name) for name in Case.__dataclass_fields__},
            "dtype": str(self.dtype).removeprefix("torch."),
            "backend": None,
            "status": outcome.status,
            "reason": outcome.reason,
            **dict.fromkeys(("error", "error_budget", "seconds", "seconds_min", "seconds_iqr", "rounds")),
            **dict.fromkeys(("ratio", "ratio_iqr")),
            "timer": self._watch([case]).name,
            **dict.fromkeys(("peak_bytes", "bytes", "flops", "predicted_seconds")),
            **outcome.facts,
        }
        if measured:
            made |= _figures("seconds", outcome.samples) | {"rounds": len(outcome.samples)}
            made |= self._ratios(case, outcome)
            if case.implementation in COUNTED:
                counted = self._cost(case, case.implementation, made["backend"])
                made |= {
                    "bytes": counted.bytes,
                    "flops": counted.flops,
                    "predicted_seconds": predict(counted, self.content["peak_rates"]),
                }
        self.content["records"].append(made)

    def _ratios(self, case: Case, outcome: Outcome) -> dict[str, float]:
        """Median and spread of an implementation's time over ours in the same round."""
        ours = next((each for each in self.comparisons[case.comparison] if each.implementation == OURS), None)
        if ours is None or ours == case or self.outcomes[ours].status != "measured":
            return {}
        mine = self.outcomes[ours].samples
        found = _figures("ratio", [a / b for a, b in zip(outcome.samples, mine, strict=False)])
        return {name: found[name] for name in ("ratio", "ratio_iqr")}

    def finish(self) -> None:
        """Write down that the run went to its end."""
        self.content["finished"] = _now()
        json_io.write_json(self.path, self.content)


def device_of(config: pytest.Config) -> str:
    """``"cuda"`` or ``"cpu"``: what was asked for, or what there is."""
    return config.getoption("--bench-device") or ("cuda" if torch.cuda.is_available() else "cpu")


def _figures(name: str, samples: Sequence[float]) -> dict[str, float]:
    """Median, least and interquartile range, as the table of pytest-benchmark has them."""
    stats = Stats()
    for sample in samples:
        stats.update(sample)
    return {name: stats.median, f"{name}_min": stats.min, f"{name}_iqr": stats.iqr}


def _kind(case: Case) -> str:
    return "headline" if case.is_headline else "rest"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
