"""The suite: pytest bench/ --benchmark-only

Each test is one workload of one peer at one length, the shortest first. It is held against float64 at that shape before
it is timed, and a peer that fails gets no time.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from bench.conftest import Suite
from bench.memory import peak_rss
from bench.run_file import ATTENTION, OURS
from bench.workloads import Case, Unavailable, Work, build

GPU_LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1_000_002, 1 << 20)
LENGTHS_OF_OPS = (1 << 10, 5000, 1 << 14, 1 << 16, 1 << 20)
"""At the others the models alone are measured."""
CPU_LENGTHS = (1 << 10, 1 << 11, 1 << 12, 5000, 1 << 13, 1 << 14, 1 << 15)
WIDTH = 128
ROUND_SECONDS = 0.5
"""Time for the rounds of a case; there are at least 3, or one of a call that takes longer than this alone."""
MOST_ROUNDS = 15


def _peers(workload: str, variant: str, length: int, on_gpu: bool) -> tuple[str, ...]:
    ours = (OURS, "published")
    if workload != "two_layer_model" or length == 1_000_002:
        return ours
    if not on_gpu:
        return (*ours, "sdpa_flash", *(("sdpa_math",) if variant == "plain" else ()))
    names = tuple(name for name in ATTENTION if name != "sdpa_math")
    return (*ours, *(names if variant == "checkpointed" else names[:1]))


def cases(on_gpu: bool) -> list[Case]:
    """All of the suite on a GPU or a CPU, the shortest lengths first."""
    found = []
    for length in GPU_LENGTHS if on_gpu else CPU_LENGTHS:
        for workload, variant, directions in (
            ("two_layer_model", "checkpointed", ("both",)),
            ("two_layer_model", "plain", ("both",)),
            ("fftconv", "gated", ("forward", "both")),
            ("fftconv", "plain", ("forward", "both")),
            ("hyena_mixer", "", ("forward", "both")),
            ("implicit_filter", "", ("forward", "both")),
            ("hyena_operator", "", ("forward", "both")),
        ):
            if workload == "two_layer_model":
                # An odd length says nothing new of it where time is short.
                if length == 5000:
                    continue
            elif length not in LENGTHS_OF_OPS:
                continue
            found += [
                Case(workload, variant, peer, direction, 1, WIDTH, length)
                for direction in directions
                for peer in _peers(workload, variant, length, on_gpu)
            ]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, of those that the options ask for."""
    option = metafunc.config.getoption
    on_gpu = (option("--bench-device") or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    wanted, peers = (set(filter(None, option(f"--bench-{name}").split(","))) for name in ("workload", "peer"))
    longest = option("--bench-max-length") or max(GPU_LENGTHS if on_gpu else CPU_LENGTHS)
    chosen = [
        case
        for case in cases(on_gpu)
        if option("--bench-min-length") <= case.length <= longest
        and (not wanted or case.workload in wanted)
        and (not peers or case.peer in peers)
    ]
    metafunc.parametrize("case", chosen, ids=str)


def _stop(suite: Suite, case: Case, status: str, reason: str, **fields: Any) -> None:
    suite.record(case, status, reason, **fields)
    pytest.skip(reason)


def _setup(case: Case, device: str, dtype: str) -> Any:
    """For a fresh process, which measures its memory."""
    torch.set_num_threads(1)
    return build(case, torch.device(device), getattr(torch, dtype)).run


def _peak_bytes(suite: Suite, case: Case, work: Work) -> int | None:
    """What one call holds beyond its inputs."""
    if suite.on_gpu:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work.run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if case.workload != "two_layer_model" or case.variant == "plain":
        return None
    before, after = peak_rss(_setup, case, suite.device.type, str(suite.dtype).removeprefix("torch."))
    return after - before


def _measure(case: Case, suite: Suite, benchmark: Any) -> None:
    if suite.deadline < suite.clock():
        _stop(suite, case, "stopped", "the time of the suite was up")
    expected = suite.predicted(case)
    if expected is not None and expected > suite.case_seconds:
        _stop(suite, case, "stopped", f"about {expected:.0f} s a call, above the {suite.case_seconds:.0f} s of a case")
    try:
        work = build(case, suite.device, suite.dtype)
    except (Unavailable, ImportError) as error:
        _stop(suite, case, "skipped", str(error))
    try:
        error, budget = work.check()
    except RuntimeError as failure:
        if isinstance(failure, torch.OutOfMemoryError) or case.peer == OURS:
            raise
        # Some attention kernels refuse a dtype, a device or a build with this.
        _stop(suite, case, "skipped", " ".join(str(failure).split())[:200])
    facts = {"error": error, "error_budget": budget, "backend": work.backend}
    if not error <= budget:
        suite.record(case, "refused", f"error {error:.3g} above its budget of {budget:.3g}", **facts)
        pytest.fail(f"{case}: error {error:.3g} is above its budget of {budget:.3g}, so there is no speed")

    # Compiles, fills caches, and tells how long a call takes.
    for _ in range(2 if expected is None or expected < ROUND_SECONDS else 1):
        start = suite.timer()
        work.run()
        first = suite.timer() - start
    rounds = 1 if first > ROUND_SECONDS else max(3, min(MOST_ROUNDS, int(ROUND_SECONDS / max(first, 1e-6))))
    benchmark.pedantic(work.run, rounds=rounds, iterations=1, warmup_rounds=0)
    stats = benchmark.stats.stats
    suite.record(
        case, "measured", seconds=stats.median, seconds_min=stats.min, seconds_iqr=stats.iqr, rounds=stats.rounds,
        peak_bytes=_peak_bytes(suite, case, work), **facts,
    )  # fmt: skip


@pytest.mark.benchmark(disable_gc=True, warmup=False)
def test_suite(case: Case, suite: Suite, benchmark: Any) -> None:
    """Check a case, time it, and write it down."""
    benchmark._timer = suite.timer
    try:
        _measure(case, suite, benchmark)
    except torch.OutOfMemoryError as error:
        _stop(suite, case, "out_of_memory", " ".join(str(error).split())[:160])
    finally:
        gc.collect()
        if suite.on_gpu:
            torch.cuda.empty_cache()
