"""Measure every configuration of the long convolution's kernels on this GPU and write the fastest into the table.

    python -m bench.kernels.tune_triton --out bench/results/<machine>/tune.json --write-table
    python -m bench.kernels.tune_triton --from-results tune.json     # write the table from a run on another machine
    python -m bench.kernels.tune_triton --dry-run

The lengths come in order of use. At each length a forward and a backward pass are run. Every configuration of every new
kernel in them is timed on its arguments, as the sum over its launches. Several processes compile the configurations
ahead. Then the whole op is timed against plain PyTorch, for the table's choice of algorithm. The JSON file is complete
after every kernel, so a run that was stopped can be continued. With --write-table the entries of this GPU's device
class are replaced in hyena_kernels/backends/triton/table.py. Entries that were not measured stay as they are. The
file names only the entries that differ from the formula.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.common import json_io, machine
from bench.common.compile_pool import CompilePool
from bench.common.timing import EventTimer, in_turns
from hyena_kernels.backends.triton import autotune, table
from hyena_kernels.backends.triton.autotune import Launch, Measurement
from hyena_kernels.backends.triton.plan import MAX_LENGTH, plan as plan_for
from hyena_kernels.backends.triton.table import Config, Key
from hyena_kernels.common.inputs import FftconvInputs

_TABLE = Path(table.__file__)

_PUBLISHED = (1_000_002, 32_770, 1_026, 160_002, 450_002, 16_386)
"""Training lengths of the published HyenaDNA models, with their two special tokens."""

POINTS = 1 << 27
"""Most points of one signal: the longest signals must fit a GPU too."""


def _all_lengths() -> list[int]:
    sizes = sorted(size for bits in range(8, 25) for size in (3 << (bits - 2), 1 << bits) if size >= 256)
    common = [size for size in sizes if 1024 <= size <= 1 << 20]
    return list(dict.fromkeys((*_PUBLISHED, *common, *sizes)))


LENGTHS = tuple(length for length in _all_lengths() if length <= MAX_LENGTH)


@dataclass(frozen=True)
class Work:
    """The measurements at one length."""

    length: int
    batch: int
    channels: int
    keys: tuple[Key, ...]
    """Entries of the table that no earlier length has."""


def work(lengths: Iterable[int], width: int) -> list[Work]:
    """The lengths in order, each with its new entries and a batch size as in training."""
    found = []
    seen: set[Key] = set()
    for length in lengths:
        fresh = tuple(key for key in table.keys(plan_for(length)) if key not in seen)
        seen.update(fresh)
        channels = max(1, min(width, POINTS // length))
        batch = 1 << max(0, min(4, 17 - (length - 1).bit_length()))
        found.append(Work(length, batch, channels, fresh))
    return found


def label(key: Key) -> str:
    """Name of an entry in the JSON file."""
    kernel, groups, points = key
    return f"{kernel} {groups} x {points}"


def options_of(key: Key, shared: int) -> list[Config]:
    """Configurations to measure: first the present entry, then the candidates."""
    kernel, _, points = key
    present = table.TABLES[shared][key]
    return list(dict.fromkeys((present, *autotune.candidates(kernel, points))))


# Launches ------------------------------------------------------------------------------------------------------------


def _install() -> None:
    """Pass every launch to the current handler. Imports the kernels."""
    from hyena_kernels.backends.triton import passes

    autotune.install(passes)


def _pass(item: Work, device: torch.device) -> None:
    """One forward and one backward pass with all inputs and all gradients."""
    from hyena_kernels.backends.triton import fftconv

    torch.manual_seed(0)
    shape = (item.batch, item.channels, item.length)
    u, pre, post, dy = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(4))
    k = torch.randn(item.channels, item.length, device=device) * item.length**-0.5
    D = torch.randn(item.channels, device=device)
    inputs = FftconvInputs(u, k, D, pre, post)
    fftconv.forward(inputs, True)
    fftconv.backward(dy, inputs, True, [True] * 5)


def _signature(launch: Launch) -> tuple[Any, ...]:
    kinds = tuple(arg.dtype if isinstance(arg, torch.Tensor) else type(arg) for arg in launch.args)
    return launch.grid, kinds, tuple(sorted((name, str(value)) for name, value in launch.constants.items()))


def recorded(item: Work, device: torch.device) -> dict[Key, list[tuple[Launch, int]]]:
    """The different launches at a length by entry, each with its count."""
    launches: dict[Key, dict[tuple[Any, ...], tuple[Launch, int]]] = {}

    def record(launch: Launch) -> Any:
        kinds = launches.setdefault(launch.key, {})
        first, count = kinds.get(_signature(launch), (launch, 0))
        kinds[_signature(launch)] = first, count + 1
        return launch.run()

    with autotune.handling(record):
        _pass(item, device)
    return {key: list(kinds.values()) for key, kinds in launches.items()}


def _compile(item: Work, configs: Mapping[Key, Sequence[Config]], rank: int, processes: int) -> None:
    """Compile the configurations of one process into Triton's cache. Nothing is launched."""
    _install()
    seen: set[tuple[Any, ...]] = set()

    def compile_own(launch: Launch) -> None:
        for config in configs.get(launch.key, ()):
            place = launch.key, _signature(launch), config
            mine = len(seen) % processes == rank and place not in seen
            seen.add(place)
            if mine:
                # An error comes up again, and is recorded, when the configuration is measured.
                with contextlib.suppress(Exception):
                    launch.with_config(config).compile()

    with autotune.handling(compile_own):
        _pass(item, torch.device("cuda"))
    # This process keeps no memory while others measure.
    torch.cuda.empty_cache()


def time_backends(item: Work, device: torch.device) -> dict[str, float]:
    """Median milliseconds of a forward and a backward pass of the op, with the Triton kernels and in plain PyTorch."""
    from hyena_kernels import fftconv

    torch.manual_seed(0)
    shape = (item.batch, item.channels, item.length)
    u, pre, post, dy = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(4))
    k = torch.randn(item.channels, item.length, device=device) * item.length**-0.5
    leaves = [tensor.requires_grad_() for tensor in (u, pre, post, k)]

    def run(backend: str) -> None:
        y = fftconv(u, k, pre_gate=pre, post_gate=post, backend=backend)
        torch.autograd.grad(y, leaves, dy)

    calls = {backend: functools.partial(run, backend) for backend in ("triton", "torch")}
    samples = in_turns(calls, EventTimer(device, hold=False), rounds=7)
    return {backend: 1000 * statistics.median(seconds) for backend, seconds in samples.items()}


# Results -------------------------------------------------------------------------------------------------------------


def _from_json(entry: Mapping[str, Any]) -> list[Measurement]:
    return [Measurement(**{**each, "config": Config(**each["config"])}) for each in entry["candidates"]]


def chosen(results: Mapping[str, Any], shared: int) -> dict[Key, Config]:
    """The fastest configuration of every entry that has been measured."""
    entries = {}
    for key in _keys():
        entry = results.get("kernels", {}).get(label(key))
        if entry is None:
            continue
        default = options_of(key, shared)[0]
        best = autotune.best(default, _from_json(entry))
        if best is not None:
            entries[key] = best.config
    return entries


def _keys() -> list[Key]:
    return [(kernel, groups, points) for (kernel, groups), sizes in table.SIZES.items() for points in sizes]


def torch_faster(results: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Ranges of lengths, up to a transform's size each, at which plain PyTorch was faster."""
    sizes = sorted({plan_for(length).size for length in LENGTHS})
    ranges: list[tuple[int, int]] = []
    slower = {
        plan_for(int(length)).size
        for length, times in results.get("algorithm", {}).items()
        if times["torch"] * autotune.GAIN < times["triton"]
    }
    for before, size in zip((0, *sizes), sizes, strict=False):
        if size not in slower:
            continue
        if ranges and ranges[-1][1] == before:
            ranges[-1] = ranges[-1][0], size
        else:
            ranges.append((before + 1, size))
    return tuple(ranges)


def _config_source(config: Config) -> str:
    tile = "" if config.tile == 1 else f", tile={config.tile}"
    registers = "" if config.registers is None else f", registers={config.registers}"
    return f"Config({config.warps}{tile}{registers})"


def block(shared: int, entries: Mapping[Key, Config], ranges: Sequence[tuple[int, int]], origin: str) -> str:
    """The lines of ``table.py`` for one device class, first and last line included: entries unlike the formula."""
    lines = [
        f"# Table for {shared} KB, written by bench.kernels.tune_triton.",
        *(f"# {line}" for line in origin.splitlines()),
    ]
    different = [
        f'    ("{kernel}", {groups}, {points}): {_config_source(config)},'
        for (kernel, groups, points), config in entries.items()
        if config != table.formula(kernel, points)
    ]
    # As ruff formats it, and the ranges below too.
    table_name = f"_TABLE_{shared}: dict[Key, Config] ="
    lines += [f"{table_name} {{", *different, "}"] if different else [f"{table_name} {{}}"]
    name = f"_TORCH_FASTER_{shared}: tuple[tuple[int, int], ...] ="
    if len(ranges) < 2:
        lines.append(f"{name} {tuple(map(tuple, ranges))!r}")
    else:
        lines += [f"{name} (", *(f"    ({first}, {last})," for first, last in ranges), ")"]
    lines.append(f"# End of the table for {shared} KB.")
    return "\n".join(lines)


def rewritten(
    source: str, shared: int, entries: Mapping[Key, Config], ranges: Sequence[tuple[int, int]], origin: str
) -> str:
    """The source of ``table.py`` with another table for a device class.

    Raises:
        ValueError: the source has no such table, or would not be Python any more.
    """
    first, last = f"# Table for {shared} KB, written", f"# End of the table for {shared} KB."
    start, end = source.find(first), source.find(last)
    if start < 0 or end < start or source.count(first) != 1 or source.count(last) != 1:
        raise ValueError(f"there is no table between {first!r} and {last!r}")
    text = source[:start] + block(shared, entries, ranges, origin) + source[end + len(last) :]
    compile(text, "table.py", "exec")
    return text


def write_table(path: Path, results: Mapping[str, Any], shared: int) -> int:
    """Put what was measured into ``table.py``; how many entries were."""
    measured = chosen(results, shared)
    entries = {**{key: options_of(key, shared)[0] for key in _keys()}, **measured}
    host = results["machine"]
    lacking = len(entries) - len(measured)
    origin = f"Measured on {host['device']} with torch {host['torch']} and triton {host['triton']}."
    if lacking:
        origin += f"\n{lacking} of {len(entries)} entries have not been measured and are as before."
    ranges = torch_faster(results) if "algorithm" in results else table.TORCH_FASTER[shared]
    json_io.write(path, rewritten(path.read_text(encoding="utf-8"), shared, entries, ranges, origin))
    return len(measured)


# Run -----------------------------------------------------------------------------------------------------------------


def _kernels_hash() -> str:
    """Hash of the source files of the measured kernels."""
    sources = (_TABLE.with_name(f"{name}.py").read_bytes() for name in ("dft", "passes", "plan"))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


def _load(path: Path, shared: int) -> dict[str, Any]:
    """Results so far, if GPU, versions and kernels are the same."""
    host = {**machine.describe(), "kernels": _kernels_hash()}
    fresh = {"machine": host, "shared_kb": shared, "kernels": {}, "algorithm": {}}
    if not path.exists():
        return fresh
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        same = all(results["machine"][fact] == host[fact] for fact in ("device", "torch", "triton", "kernels"))
        if same and results["shared_kb"] == shared:
            print(f"{path}: continued with {len(results['kernels'])} kernels measured")
            return results
        reason = "from another GPU, other versions or other kernels"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"not readable ({error})"
    kept = path.with_suffix(".before.json")
    path.replace(kept)
    print(f"{path}: {reason}, kept as {kept.name}")
    return fresh


def _device_works() -> bool:
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


class _Run:
    """One run of the command: its results, its file and its deadline."""

    def __init__(self, out: Path, device: torch.device, seconds: float, processes: int) -> None:
        shared = table.device_class(device)
        self.out = out
        self.shared = shared
        self.deadline = time.monotonic() + seconds
        self.results = _load(out, shared)
        self.compilers = CompilePool(processes)
        self.device = device
        self.failures = 0

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def _compile_ahead(self, item: Work, configs: Mapping[Key, Sequence[Config]]) -> None:
        count = self.compilers.count
        jobs = [(item, configs, rank, count) for rank in range(count)] if configs else []
        self.compilers.run(_compile, jobs, self.left())

    def tune(self, item: Work) -> None:
        """Measure the kernels of a length that were not measured yet."""
        todo = [key for key in item.keys if label(key) not in self.results["kernels"]]
        if not todo:
            return
        self._compile_ahead(item, {key: options_of(key, self.shared) for key in todo})
        launches = recorded(item, self.device)
        for key in todo:
            if key not in launches:
                print(f"  {label(key)}: not launched at this length", flush=True)
                continue
            start = time.monotonic()
            measured = []
            for config in options_of(key, self.shared):
                if self.left() <= 0:
                    return
                measured.append(autotune.measure(launches[key], config))
            self.keep(item, key, launches[key], measured, time.monotonic() - start)

    def keep(
        self, item: Work, key: Key, launches: list[tuple[Launch, int]], measured: list[Measurement], seconds: float
    ) -> None:
        self.results["kernels"][label(key)] = {
            "length": item.length,
            "batch": item.batch,
            "channels": item.channels,
            "launches": sum(count for _, count in launches),
            "candidates": [asdict(each) for each in measured],
        }
        json_io.write_json(self.out, self.results)
        best = autotune.best(measured[0].config, measured)
        text = "nothing can be launched" if best is None else f"{_config_source(best.config)} {best.ms:.4f} ms"
        present = "none" if measured[0].ms is None else f"{measured[0].ms:.4f} ms"
        spilling = sum(each.ms is not None and not each.usable for each in measured)
        print(
            f"  {label(key)}: {text}, entry so far {present}; {len(measured)} measured, {spilling} of them spill, "
            f"{seconds:.0f} s",
            flush=True,
        )

    def compare(self, item: Work) -> None:
        """Time the op with the best configurations against plain PyTorch."""
        if str(item.length) in self.results["algorithm"]:
            return
        entries = chosen(self.results, self.shared)
        configs = {
            key: (entries.get(key) or options_of(key, self.shared)[0],) for key in table.keys(plan_for(item.length))
        }
        self._compile_ahead(item, configs)
        with autotune.handling(lambda launch: launch.with_config(configs[launch.key][0]).run()):
            times = time_backends(item, self.device)
        self.results["algorithm"][str(item.length)] = times
        json_io.write_json(self.out, self.results)
        print(f"  forward and backward: triton {times['triton']:.3f} ms, torch {times['torch']:.3f} ms", flush=True)

    def all(self, items: Sequence[Work]) -> None:
        """First the kernels of every length, then the comparisons, until the time is over."""
        steps = [(self.tune, item) for item in items if item.keys] + [(self.compare, item) for item in items]
        for number, (step, item) in enumerate(steps, start=1):
            if self.left() <= 0:
                print(f"the time is over with {len(steps) - number + 1} steps left; run again to continue", flush=True)
                return
            print(
                f"[{number}/{len(steps)}] L = {item.length}, B = {item.batch}, D = {item.channels}, {step.__name__}"
                f"{' ' if step == self.tune else ''}{', '.join(map(label, item.keys)) if step == self.tune else ''}; "
                f"{self.left():.0f} s left",
                flush=True,
            )
            try:
                step(item)
            except Exception as error:
                self.failures += 1
                print(f"  failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}", flush=True)
                if not _device_works():
                    print("the device does not respond to this process any more: run again to continue", flush=True)
                    return
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def dry_run(items: Sequence[Work], shared: int) -> None:
    """Print what would be measured. Needs no GPU."""
    total = 0
    for item in items:
        counts = [len(options_of(key, shared)) for key in item.keys]
        total += sum(counts)
        names = ", ".join(f"{label(key)} ({count})" for key, count in zip(item.keys, counts, strict=True))
        print(f"L = {item.length:>8}, B = {item.batch:>2}, D = {item.channels:>3}: {names or 'no new kernel'}")
    covered = {key for item in items for key in item.keys}
    print(f"{total} configurations of {len(covered)} kernels and sizes, device class {shared} KB")
    unused = [label(key) for key in _keys() if key not in covered]
    if unused:
        print(f"in the table but not used by these lengths: {', '.join(unused)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if something failed, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.tune_triton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="JSON file (default: bench/results/<machine>/tune.json)")
    parser.add_argument(
        "--write-table", action="store_true", help="replace the entries in hyena_kernels/backends/triton/table.py"
    )
    parser.add_argument(
        "--from-results", type=Path, metavar="FILE", help="write the table from FILE and measure nothing"
    )
    parser.add_argument("--table", type=Path, default=_TABLE, help=argparse.SUPPRESS)
    parser.add_argument("--time-limit", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="L")
    parser.add_argument("--width", type=int, default=128, help="channels D")
    parser.add_argument(
        "--processes", type=int, default=min(8, os.cpu_count() or 1), help="processes that compile ahead (1: none)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the work; needs no GPU")
    options = parser.parse_args(arguments)
    wrong = [length for length in options.lengths if not 1 <= length <= MAX_LENGTH]
    if wrong or options.width < 1:
        parser.error(f"lengths go from 1 to {MAX_LENGTH} and the width from 1: {wrong or options.width}")
    if options.from_results is not None:
        try:
            results = json.loads(options.from_results.read_text(encoding="utf-8"))
            count = write_table(options.table, results, results["shared_kb"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"cannot write the table from {options.from_results}: {type(error).__name__}: {error}")
        print(f"{options.table}: {count} entries for devices of {results['shared_kb']} KB are measured ones")
        return 0
    items = work(options.lengths, options.width)
    if options.dry_run:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dry_run(items, table.device_class(device))
        return 0
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run needs none")
    device = torch.device("cuda", torch.cuda.current_device())
    out = options.out or machine.ROOT / "bench" / "results" / machine.folder_name() / "tune.json"
    _install()
    run = _Run(out, device, options.time_limit, options.processes)
    try:
        run.all(items)
    finally:
        run.compilers.close()
    json_io.write_json(out, run.results)
    measured = len(run.results["kernels"])
    print(f"{out}: {measured} kernels and sizes measured")
    if options.write_table:
        count = write_table(options.table, run.results, run.shared)
        print(f"{options.table}: {count} entries for devices of {run.shared} KB are measured ones")
    return int(run.failures > 0 or not measured)


if __name__ == "__main__":
    sys.exit(main())
