"""Everything that waits for a GPU, in one go: its tests, the benchmark suite, the tuning of the table, the aims.

python -m bench.kernels.gpu --time 1500

Each step has its share of the time, and what the steps before it left over. Logs and JSON go to a folder named after
the GPU. A step that fails or runs out of time does not stop the next one; the command ends with 1 then.
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

SHARES = {"test": 0.3, "suite": 0.3, "tune": 0.2, "aims": 0.2}
"""Part of the time of each step."""
SPARE = 20.0
"""Seconds that a step has to write its results down after its own time limit."""


@dataclass(frozen=True)
class Step:
    """A command and where its output goes."""

    name: str
    command: list[str]
    log: Path


def _workers() -> int:
    """Test processes: compiling is what takes long, and every one holds some gigabytes on the device."""
    by_memory = 1
    if torch.cuda.is_available():
        by_memory = int(torch.cuda.get_device_properties(0).total_memory // (12 << 30))
    return max(1, min(8, (os.cpu_count() or 1) // 2, by_memory))


def step(name: str, folder: Path, seconds: float) -> Step:
    """The command of a step that is to take ``seconds``."""
    python = [sys.executable, "-u", "-m"]
    limit = ["--time-limit", f"{max(1.0, seconds - SPARE):.0f}"]
    if name == "test":
        command = [*python, "pytest", "-m", "gpu", "tests/hyena_kernels", "-v", "-rs", "--durations=25"]
        command += [f"--junitxml={folder / 'tests.xml'}", "-p", "no:cacheprovider"]
        workers = _workers()
        if workers > 1 and importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(workers)]
    elif name == "suite":
        command = [*python, "pytest", "bench/", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
        command += [f"--bench-json={folder / 'suite.json'}", f"--bench-seconds={max(1.0, seconds - SPARE):.0f}"]
    elif name == "tune":
        command = [*python, "bench.kernels.tune_triton", "--out", str(folder / "tune.json"), "--write-table", *limit]
    else:
        command = [*python, "bench.kernels.triton_targets", "--out", str(folder / "triton_aims.json"), *limit]
    return Step(name, command, folder / f"{name}.log")


def run(item: Step, seconds: float) -> int:
    """Run a step, its output on the terminal and in its log; its exit status, or 124 if it had to be ended."""
    ended = threading.Event()
    with open(item.log, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            item.command, cwd=machine.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip

        def end() -> None:
            ended.set()
            # The whole session: pytest and the benchmarks have processes of their own.
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
    """Exit status of every step, one after another within ``seconds`` in all."""
    deadline = time.monotonic() + seconds
    status = {}
    for index, name in enumerate(names):
        left = deadline - time.monotonic()
        share = left * SHARES[name] / sum(SHARES[each] for each in names[index:])
        if share < 2 * SPARE:
            print(f"== {name}: no time is left for it", flush=True)
            status[name] = 124
            continue
        item = step(name, folder, share)
        print(f"== {name}, up to {share:.0f} s: {' '.join(item.command)}", flush=True)
        start = time.monotonic()
        status[name] = run(item, share)
        print(f"== {name}: exit status {status[name]} after {time.monotonic() - start:.0f} s", flush=True)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where every step went well, 1 where one did not, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time", type=float, default=1500, metavar="SECONDS", help="for all steps together")
    parser.add_argument("--steps", nargs="+", choices=tuple(SHARES), default=tuple(SHARES))
    parser.add_argument("--results", type=Path, default=machine.ROOT / "bench" / "results", help="folder of the folder")
    parser.add_argument("--dry-run", action="store_true", help="print the commands; needs no GPU")
    options = parser.parse_args(arguments)
    folder = (options.results / machine.folder_name()).resolve()
    if options.dry_run:
        total = sum(SHARES[name] for name in options.steps)
        for name in options.steps:
            item = step(name, folder, options.time * SHARES[name] / total)
            print(f"{' '.join(item.command)} > {item.log}")
        return 0
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device: torch.cuda.is_available() is False; --dry-run prints the commands")
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever ends this process ends the step as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = run_all(options.steps, folder, options.time)
    failed = [name for name, code in status.items() if code]
    print(f"== results in {folder}; {'failed: ' + ', '.join(failed) if failed else 'all steps went well'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
