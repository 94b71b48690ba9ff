"""Run everything that needs a GPU: its tests, a profiled step, the suite, the tuning of the table, the targets.

python -m bench.kernels.gpu --time 1500

Each step has a fraction of the time, plus the time that earlier steps left. Logs and JSON files go to a folder named
after the GPU. If a step fails or runs out of time, the next one still runs. The exit code is then 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.common import machine

FRACTIONS = {"test": 0.29, "profile": 0.04, "suite": 0.29, "tune": 0.19, "targets": 0.19}
"""Fraction of the time for each step."""
SPARE = 20.0
"""Seconds that a step may take after its own time limit, to write its results."""


@dataclass(frozen=True)
class Step:
    """A command and the log of its output."""

    name: str
    command: list[str]
    log: Path


def _workers() -> int:
    """Number of test processes. Compiling takes most of the time, and each holds some gigabytes on the GPU."""
    by_memory = 1
    if torch.cuda.is_available():
        by_memory = int(torch.cuda.get_device_properties(0).total_memory // (12 << 30))
    return max(1, min(8, (os.cpu_count() or 1) // 2, by_memory))


def step(name: str, folder: Path, seconds: float) -> Step:
    """The command of a step that may take ``seconds``."""
    python = [sys.executable, "-u", "-m"]
    limit = f"{max(1.0, seconds - SPARE):.0f}"
    if name == "test":
        command = [*python, "pytest", "-m", "gpu", "tests/hyena_kernels", "-v", "-rs", "--durations=25"]
        command += [f"--junitxml={folder / 'tests.xml'}", "-p", "no:cacheprovider"]
        workers = _workers()
        if workers > 1 and importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(workers)]
    elif name == "tune":
        command = [*python, "bench.kernels.tune_triton", "--out", str(folder / "tune.json"), "--write-table"]
        command += ["--time-limit", limit]
    elif name == "profile":
        command = [*python, "bench.kernels.step_profile", "--json", str(folder / "step_profile.json")]
    else:
        module = {"suite": "bench.suite", "targets": "bench.kernels.targets"}[name]
        command = [*python, module, "--json", str(folder / f"{name}.json"), "--seconds", limit]
    return Step(name, command, folder / f"{name}.log")


def run(item: Step, seconds: float) -> int:
    """Run a step with its output on the terminal and in its log; its exit code, or 124 if its time ran out."""
    ended = threading.Event()
    with open(item.log, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            item.command, cwd=machine.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip

        def end() -> None:
            ended.set()
            # The whole session: pytest and the benchmarks start processes too.
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return 124 if ended.is_set() else status


def run_all(names: Sequence[str], folder: Path, seconds: float) -> dict[str, int]:
    """Run the steps one after another within ``seconds``; the exit code of each."""
    deadline = time.monotonic() + seconds
    status = {}
    for index, name in enumerate(names):
        left = deadline - time.monotonic()
        allowed = left * FRACTIONS[name] / sum(FRACTIONS[each] for each in names[index:])
        if allowed < 2 * SPARE:
            print(f"== {name}: no time is left for it", flush=True)
            status[name] = 124
            continue
        item = step(name, folder, allowed)
        print(f"== {name}, up to {allowed:.0f} s: {' '.join(item.command)}", flush=True)
        start = time.monotonic()
        status[name] = run(item, allowed)
        print(f"== {name}: exit code {status[name]} after {time.monotonic() - start:.0f} s", flush=True)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if a step failed, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time", type=float, default=1500, metavar="SECONDS", help="seconds for all steps together")
    parser.add_argument("--steps", nargs="+", choices=tuple(FRACTIONS), default=tuple(FRACTIONS), help="steps to run")
    parser.add_argument(
        "--results", type=Path, default=machine.ROOT / "bench" / "results", help="where the GPU's folder goes"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands; needs no GPU")
    options = parser.parse_args(arguments)
    folder = (options.results / machine.folder_name()).resolve()
    if options.dry_run:
        total = sum(FRACTIONS[name] for name in options.steps)
        for name in options.steps:
            item = step(name, folder, options.time * FRACTIONS[name] / total)
            print(f"{' '.join(item.command)} > {item.log}")
        return 0
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device: torch.cuda.is_available() is False; --dry-run prints the commands")
    folder.mkdir(parents=True, exist_ok=True)
    # Ending this process also ends its step.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = run_all(options.steps, folder, options.time)
    failed = [name for name, code in status.items() if code]
    print(f"== results in {folder}; {'failed: ' + ', '.join(failed) if failed else 'all steps passed'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
