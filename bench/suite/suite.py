"""A run of the suite: prepare and check the implementations of a comparison, time them in turns, record the results.

Every implementation has its turn in every round, and ratios are taken within a round. A change of the machine's speed
between rounds then affects them all. An implementation that fails its check is not timed.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bench.baselines.packages import Unavailable
from bench.common import json_io, machine
from bench.common.compile_pool import CompilePool
from bench.common.memory import peak_cuda_bytes, peak_rss
from bench.common.run_file import CALLS, FORMAT, GRAPH, OURS
from bench.common.timing import Timer, captured, spin, timer_for
from bench.costs.roofline import COUNTED, WORKLOADS, cost, measure_peak_rates, predict
from bench.suite.budget import Budget, TimeEstimator
from bench.suite.cases import Case
from bench.suite.options import Options
from bench.suite.workloads import OP_NAMES, PreparedCase, Shared, build
from hyena_kernels.backends.triton.plan import plan

_ROUND_SECONDS = 0.5
"""Time for all rounds of an implementation."""
_MIN_ROUNDS, _MAX_ROUNDS = 3, 25
_LONG_CALL = 5.0
"""From this many seconds a call has fewer rounds if time is short, and no warm-up on a CPU, or as a graph."""
_SPIN_SECONDS, _SPIN_AGAIN_SECONDS = 0.2, 0.05
"""How long a GPU multiplies matrices before the run, and before each comparison: idle, it has lowered its clocks."""
_WARM_UP_TO = 1 << 16
"""Longest sequence of the calls that warm up a run."""
_ROUNDS_FRACTION = 0.1
"""Fraction of the time left that the rounds of an implementation may take. One round is always allowed."""
_COMPILE_FRACTION = 0.3
"""Fraction of the run's time for compiling ahead."""
# Without a shorter length, a call is taken to last this many times the prediction, and its check this many calls.
_OVER_PREDICTED = {OURS: 3.0}
_OVER_PREDICTED_OTHERS, _CHECK_CALLS = 6.0, 8.0
_GRAPH_CALLS = 4.0
"""Calls before the rounds of a CUDA graph: one before the capture, its check against another, two to warm up."""


@dataclass
class Outcome:
    """The outcome of a case.

    Args:
        status: a status of records, or ``"failed"`` if hyena_kernels raised an error.
        reason: why there is no time.
        samples: seconds of each round.
        facts: further fields of the record.
        error: the error of a failed case.
    """

    status: str
    reason: str | None = None
    samples: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.samples)


@dataclass
class _Runner:
    """An implementation that passed its check.

    Args:
        case: the case.
        prepared: what was built.
        outcome: the outcome so far.
        overhead: seconds of building and checking.
        call: the function that is timed.
        waited: wall seconds of each call. On a busy processor they exceed the time that the timer gives.
    """

    case: Case
    prepared: PreparedCase
    outcome: Outcome
    overhead: float
    call: Callable[[], object]
    waited: list[float] = field(default_factory=list)

    def time(self, timer: Timer) -> float:
        """Seconds of a call."""
        start = time.monotonic()
        seconds = timer.time(self.call)
        self.waited.append(time.monotonic() - start)
        return seconds

    def wanted(self, left: float) -> int:
        """Number of rounds, once the time of a call is known."""
        if not self.waited:
            return 1
        call = min(self.waited)
        rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(_ROUND_SECONDS / max(call, 1e-6))))
        if call > _LONG_CALL:
            rounds = min(rounds, max(1, int(left * _ROUNDS_FRACTION / call)))
        return rounds


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _setup(case: Case, device: str, dtype: str, threads: int) -> Callable[[], object]:
    """Build a case in the fresh process that measures its memory."""
    torch.set_num_threads(threads)
    return build(case, torch.device(device), getattr(torch, dtype)).run


def _compile(case: Case, dtype: str) -> None:
    """Run a case once in a process of the pool, so that Triton's cache has its kernels."""
    build(case, torch.device("cuda"), getattr(torch, dtype)).run()
    torch.cuda.synchronize()


class Suite:
    """A run of the suite.

    Args:
        options: options of the run.
        to_come: the cases that will be asked for.
        spent: seconds of the run's time that are already over.
    """

    def __init__(self, options: Options, to_come: Iterable[Case], *, spent: float = 0.0) -> None:
        self.options = options
        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.on_gpu = self.device.type == "cuda"
        self.comparisons: dict[tuple[Any, ...], list[Case]] = {}
        for case in to_come:
            self.comparisons.setdefault(case.comparison, []).append(case)
        # Graphs are skipped on a CPU, in no time.
        kinds = [_kind(cases[0]) for cases in self.comparisons.values() if self.on_gpu or not cases[0].is_graph]
        self.budget = Budget(options.seconds - spent, {kind: kinds.count(kind) for kind in kinds})
        if not self.on_gpu:
            torch.set_num_threads(options.threads)
        self.estimator = TimeEstimator()
        self.timers: dict[bool, Timer] = {}
        self.outcomes: dict[Case, Outcome] = {}
        spin(self.device, _SPIN_SECONDS)
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "machine": {"name": machine.device_name(self.device), **machine.describe(self.device)},
            "commit": machine.commit(),
            "started": _now(),
            "finished": None,
            "settings": {
                "seconds": options.seconds,
                "case_seconds": options.case_seconds,
                "dtype": options.dtype,
                "threads": None if self.on_gpu else torch.get_num_threads(),
                "l2": options.l2 if self.on_gpu else None,
                "launch": "graph" if self.on_gpu and options.launch == "graph" else None,
                "backend": os.environ.get("HYENA_BACKEND"),
                "cpu_isa": None if self.on_gpu else os.environ.get("HYENA_CPU_ISA"),
                "interpreted": os.environ.get("TRITON_INTERPRET") == "1" or None,
            },
            "peak_rates": measure_peak_rates(self.device, self.dtype),
            "records": [],
        }
        if self.content["settings"]["interpreted"]:
            print("TRITON_INTERPRET=1: times of interpreted kernels are not a measure of speed.", flush=True)
        if self.on_gpu and options.processes > 1:
            self._compile_ahead()
        if self.on_gpu:
            self._warm_up()

    # Measuring -------------------------------------------------------------------------------------------------------

    def outcome(self, case: Case) -> Outcome:
        """The outcome of a case. The first case of a comparison measures all of its cases."""
        if case not in self.outcomes:
            self._compare(self.comparisons[case.comparison])
        return self.outcomes[case]

    def _compile_ahead(self) -> None:
        ours = [
            replace(case, launch=CALLS)
            for cases in self.comparisons.values()
            for case in cases
            if case.implementation == OURS
        ]
        # Kernels that work on columns do not depend on the number of channels.
        small = [
            replace(case, width=2) if case.workload == "fftconv" and plan(case.length).columns > 1 else case
            for case in ours
        ]
        pool = CompilePool(self.options.processes)
        try:
            jobs = [(case, self.options.dtype) for case in dict.fromkeys(small)]
            pool.run(_compile, jobs, _COMPILE_FRACTION * self.options.seconds)
        finally:
            pool.close()

    def _warm_up(self) -> None:
        """Call the shortest cases of each workload once: the first case shall not pay for the start of libraries."""
        first: dict[str, Sequence[Case]] = {}
        for cases in self.comparisons.values():
            if cases[0].length <= _WARM_UP_TO and not cases[0].is_graph:
                first.setdefault(cases[0].workload, cases)
        for case in (each for cases in first.values() for each in cases if each.implementation != "published_compiled"):
            # An error comes up again where the case is measured.
            with contextlib.suppress(Exception):
                build(case, self.device, self.dtype).run()
        self._free()

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
                json_io.write_json(self.options.json, self.content)

    def _within_time(self, cases: Sequence[Case], kind: str) -> list[Case]:
        """The cases that there is time for. The slowest implementations are dropped first, ours last."""
        left, case_seconds = self.budget.left(kind), self.options.case_seconds
        going: dict[Case, float] = {}
        for case in cases:
            call, other = self._estimate(case) or (0.0, 0.0)
            if call > case_seconds:
                reason = f"about {call:.0f} s per call, the limit is {case_seconds:.0f} s"
                self.outcomes[case] = Outcome("timed_out", reason)
            else:
                going[case] = call + other
        while going and (left <= 0 or sum(going.values()) > left):
            slowest = max(going, key=lambda case: (case.implementation != OURS, going[case]))
            reason = "the time of the run was over"
            if left > 0:
                reason = f"about {sum(going.values()):.0f} s with its check, {left:.0f} s of the run were left"
            self.outcomes[slowest] = Outcome("timed_out", reason)
            del going[slowest]
        return list(going)

    def _estimate(self, case: Case) -> tuple[float, float] | None:
        """Seconds of a call and of everything else: from a shorter length or, for whole models, from the prediction."""
        known = self._known_seconds(case)
        if known is not None or case.workload not in ("hyenadna", "training_step"):
            return known
        predicted = predict(self._cost(case, OURS, None), self.content["peak_rates"])
        call = _OVER_PREDICTED.get(case.implementation, _OVER_PREDICTED_OTHERS) * predicted
        return call, _CHECK_CALLS * call

    def _known_seconds(self, case: Case) -> tuple[float, float] | None:
        """Seconds of a call and of everything else: of a graph from the same calls, else from a shorter length."""
        calls = self._as_calls(case)
        if calls is not None and calls.samples:
            return calls.median, _GRAPH_CALLS * calls.median
        return self.estimator.estimate(case)

    def _as_calls(self, case: Case) -> Outcome | None:
        """For a graph, the outcome of the same function launched by calls, if it has been measured in this run."""
        found = self.outcomes.get(replace(case, launch=CALLS)) if case.is_graph else None
        return found if found is not None and found.status == "measured" else None

    def _measure(self, cases: Sequence[Case], kind: str) -> None:
        shared: Shared = {}
        runners = [runner for case in cases if (runner := self._prepare(case, shared)) is not None]
        shared.clear()
        self._free()
        timer = self._timer(cases)
        if runners:
            spin(self.device, _SPIN_AGAIN_SECONDS)
        for runner in runners:
            expected = self._known_seconds(runner.case)
            # Warm-up: compiles, fills caches, and shows how long a call takes. The check of a graph has replayed it.
            warm = expected is not None and expected[0] > _LONG_CALL and (not self.on_gpu or runner.case.is_graph)
            for _ in range(0 if warm else 2):
                if not runner.waited or runner.waited[-1] < _ROUND_SECONDS / _MIN_ROUNDS:
                    with self._catching(runner):
                        runner.time(timer)
        runners = [runner for runner in runners if runner.outcome.status == "measured"]
        gc.collect()
        gc.disable()
        try:
            self._rounds(runners, timer, kind)
        finally:
            gc.enable()
        for runner in runners:
            if runner.outcome.status == "measured":
                call = statistics.median(runner.waited[-len(runner.outcome.samples) :])
                self.estimator.observe(runner.case, call, runner.overhead)
                with self._catching(runner):
                    runner.outcome.facts["peak_bytes"] = self._peak_bytes(runner, call, kind)

    def _rounds(self, runners: Sequence[_Runner], timer: Timer, kind: str) -> None:
        """Time in turns, for as many rounds as each implementation wants."""
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
                with self._catching(runner):
                    runner.outcome.samples.append(runner.time(timer))
            number += 1

    def _prepare(self, case: Case, shared: Shared) -> _Runner | None:
        """Build and check a case; None, with the outcome set, if it cannot be timed."""
        outcome = self.outcomes[case]
        start = time.monotonic()
        try:
            prepared = build(case, self.device, self.dtype, shared)
            error, budget = self._known_error(case) or prepared.check()
            outcome.facts = {"error": error, "error_budget": budget, "backend": prepared.backend}
            call = prepared.run
            if error <= budget and self._launch(case) == GRAPH:
                call, outcome.facts["error"] = self._as_graph(prepared.run, error)
                error = outcome.facts["error"]
            if error <= budget:
                return _Runner(case, prepared, outcome, time.monotonic() - start, call)
            outcome.status, outcome.reason = "failed_check", f"error {error:.3g} above its budget of {budget:.3g}"
        except (Unavailable, ImportError) as failure:
            outcome.status, outcome.reason = "skipped", _text(failure)
        except Exception as failure:
            self._fail(case, outcome, failure)
        self._free()
        return None

    def _launch(self, case: Case) -> str:
        """How a case is launched: ops as the option says, all else as the case does."""
        as_graph = case.is_graph or (self.on_gpu and case.workload in OP_NAMES and self.options.launch == GRAPH)
        return GRAPH if as_graph else CALLS

    def _known_error(self, case: Case) -> tuple[float, float] | None:
        """Error and budget of a graph's function, if the same function passed its check as calls in this run."""
        calls = self._as_calls(case)
        return None if calls is None else (calls.facts["error"], calls.facts["error_budget"])

    def _as_graph(self, run: Callable[[], Any], error: float) -> tuple[Callable[[], object], float]:
        """The replay of a call as a CUDA graph, and its error: the call's, or its distance to the call if larger.

        Raises:
            Unavailable: the call cannot be captured.
        """
        try:
            replay, found = captured(run, self.device, calls_before=1)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as failure:
            raise Unavailable(f"cannot be captured as a CUDA graph: {_text(failure)}") from failure
        replay()
        distance = _distance(found, run())
        # A NaN is larger than any error.
        return replay, error if distance <= error else distance

    @staticmethod
    def _fail(case: Case, outcome: Outcome, failure: Exception) -> None:
        """Set the outcome after an error."""
        outcome.reason = _text(failure)
        if isinstance(failure, torch.OutOfMemoryError):
            outcome.status = "out_of_memory"
        elif case.implementation != OURS:
            # Some attention kernels raise an error for a dtype, a device or a build that they do not support.
            outcome.status = "skipped"
        else:
            outcome.status, outcome.error = "failed", failure

    @contextlib.contextmanager
    def _catching(self, runner: _Runner) -> Iterator[None]:
        """Turn an error of one implementation into its outcome. The others go on."""
        try:
            yield
        except Exception as failure:
            self._fail(runner.case, runner.outcome, failure)

    def _timer(self, cases: Sequence[Case]) -> Timer:
        is_op = bool(cases) and cases[0].workload in OP_NAMES
        if is_op not in self.timers:
            self.timers[is_op] = timer_for(self.device, is_op=is_op, cold=self.options.l2 == "cold")
        return self.timers[is_op]

    def _peak_bytes(self, runner: _Runner, call: float, kind: str) -> int | None:
        """Peak bytes of one call beyond inputs and weights; None if there is no time to measure them.

        Nor are those of a graph measured: its memory is allocated once, when it is captured.
        """
        if runner.case.is_graph:
            return None
        if self.on_gpu:
            return peak_cuda_bytes(runner.prepared.run, self.device)
        if call > self.budget.left(kind) or runner.case.implementation == "published_compiled":
            return None
        before, after = peak_rss(
            _setup, runner.case, self.device.type, self.options.dtype, torch.get_num_threads()
        )  # fmt: skip
        return after - before

    def _free(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    # Recording -------------------------------------------------------------------------------------------------------

    def _cost(self, case: Case, implementation: str, backend: str | None) -> Any:
        return cost(
            case.workload, case.variant, case.direction, batch=case.batch, width=case.width, length=case.length,
            itemsize=self.dtype.itemsize, implementation=implementation, backend=backend,
            fused_norm=implementation == OURS,
        )  # fmt: skip

    def _record(self, case: Case, outcome: Outcome) -> None:
        """Append the record of a case to the content of the file."""
        measured = outcome.status == "measured"
        # A failed case has no record: its run ends with an error. Nor has an interrupted comparison.
        if outcome.status == "failed" or (measured and not outcome.samples):
            return
        made: dict[str, Any] = {
            **{name: getattr(case, name) for name in Case.__dataclass_fields__},
            "launch": self._launch(case),
            "dtype": self.options.dtype,
            "backend": None,
            "status": outcome.status,
            "reason": outcome.reason,
            **dict.fromkeys(("error", "error_budget", "seconds", "seconds_min", "seconds_iqr", "rounds")),
            **dict.fromkeys(("ratio", "ratio_iqr")),
            "timer": self._timer([case]).name,
            **dict.fromkeys(("peak_bytes", "bytes", "flops", "predicted_seconds")),
            **outcome.facts,
        }
        if measured:
            made |= _statistics("seconds", outcome.samples) | {"rounds": len(outcome.samples)}
            made |= self._ratios(case, outcome)
            if case.implementation in COUNTED and case.workload in WORKLOADS:
                counted = self._cost(case, case.implementation, made["backend"])
                made |= {
                    "bytes": counted.bytes,
                    "flops": counted.flops,
                    "predicted_seconds": predict(counted, self.content["peak_rates"]),
                }
        self.content["records"].append(made)

    def _ratios(self, case: Case, outcome: Outcome) -> dict[str, float]:
        """Median and interquartile range of an implementation's time over ours in the same round."""
        ours = next((each for each in self.comparisons[case.comparison] if each.implementation == OURS), None)
        if ours is None or ours == case or self.outcomes[ours].status != "measured":
            return {}
        mine = self.outcomes[ours].samples
        found = _statistics("ratio", [a / b for a, b in zip(outcome.samples, mine, strict=False)])
        return {name: found[name] for name in ("ratio", "ratio_iqr")}

    def finish(self) -> None:
        """Record that the run is complete."""
        self.content["finished"] = _now()
        json_io.write_json(self.options.json, self.content)


def _statistics(name: str, samples: Sequence[float]) -> dict[str, float]:
    """Median, minimum and interquartile range."""
    low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
    return {name: median, f"{name}_min": min(samples), f"{name}_iqr": high - low}


def _distance(found: Any, expected: Any) -> float:
    """Relative L2 distance of the tensors of two results, all together. NaN if one is not finite."""
    pairs = [(found, expected)] if isinstance(found, torch.Tensor) else list(zip(found, expected, strict=True))
    norms = [
        (torch.linalg.vector_norm(a - b, dtype=torch.float32), torch.linalg.vector_norm(b, dtype=torch.float32))
        for a, b in pairs
    ]
    off, size = (math.hypot(*(float(norm) for norm in column)) for column in zip(*norms, strict=True))
    return off / size if size else off


def _kind(case: Case) -> str:
    return "graphed" if case.is_graph else "headline" if case.is_headline else "rest"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
