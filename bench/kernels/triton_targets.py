"""The kernels against the published op sequence and FlashFFTConv, with bytes moved and predicted times.

python -m bench.kernels.triton_targets --backend triton --out bench/results/<machine>/triton_aims.json

Every ratio is of medians taken in alternation in one process, with CUDA events. Each op is first held against float64
at the shape at which it is timed, on some of its channels; the speed of one that fails is not printed. Times are those
of a CUDA graph's replay with a cold L2 cache, where the shape is small enough for launches to matter, and of the calls
themselves; ratios are of the former where there are both. The JSON file is complete after every line. On a CPU
(TRITON_INTERPRET=1, --device cpu --lengths 256) everything runs in the interpreter, to see that it does: such times say
nothing about speed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.baselines.published import ExactFilter, published_fftconv
from bench.common import json_io as records, machine
from bench.common.clock import Clock, compare, reason_of, refused
from bench.costs.costs import fftconv_bytes, filter_bytes
from bench.costs.roofline import copy_bytes_per_s, cost
from bench.suite.accuracy import MIN_ELEMENTS, errors_on_channels, faults
from hyena_kernels import HyenaOperator, fftconv, implicit_filter
from hyena_kernels.backends.triton.plan import MAX_LENGTH, plan as plan_for
from hyena_kernels.testing import error_budget, implicit_filter_inputs, reference_implicit_filter, relative_error

MILLION = 1 << 20
LENGTHS = (*(1 << bits for bits in range(10, 21)), 3000, 5000, 1_000_002)
SHAPES = ((1, 128), (4, 256))
WHOLE = (32768, MILLION)
"""Lengths at which the filter and the operator are measured, besides fftconv."""
OPS = ("fftconv", "implicit_filter", "operator")

GRAPH_POINTS = 1 << 26
"""Points of a signal up to which a CUDA graph is timed too; beyond, launches take no part of the time that matters."""
CHECKED_POINTS = 1 << 27
"""Points of a signal that are checked in float64: whole channels, of which that many are taken."""
GRADIENTS = ("u", "k", "D", "pre_gate", "post_gate")


@dataclass(frozen=True)
class Line:
    """An op at a shape."""

    op: str
    batch: int
    channels: int
    length: int
    backend: str | None = None

    def __str__(self) -> str:
        return f"{self.op}, B = {self.batch}, D = {self.channels}, L = {self.length}"


def lines(ops: Sequence[str], shapes: Sequence[tuple[int, int]], lengths: Sequence[int]) -> list[Line]:
    """What is measured, the shortest lengths first."""
    whole = [length for length in lengths if length in WHOLE] or [max(lengths)]
    found = [
        # A filter has no batch.
        Line(op, 1 if op == "implicit_filter" else batch, channels, length)
        for length in sorted(lengths)
        for op in ops
        for batch, channels in shapes
        if op == "fftconv" or length in whole
    ]
    return list(dict.fromkeys(found))


def _watched(batch: int, channels: int, length: int) -> list[int]:
    """Channels to check, spread over all of them."""
    count = max(1, min(channels, CHECKED_POINTS // (batch * length)))
    return sorted({index * (channels - 1) // max(1, count - 1) for index in range(count)})


# Ops -----------------------------------------------------------------------------------------------------------------


def _flash(line: Line, dtype: torch.dtype, device: torch.device) -> tuple[Any, str]:
    """FlashFFTConv's module for a shape, or None and the reason."""
    if device.type != "cuda":
        return None, "runs on GPUs only"
    try:
        from flashfftconv import FlashFFTConv  # type: ignore[import-not-found]
    except Exception as error:
        return None, f"not importable: {reason_of(error)}"
    size = 1 << (2 * line.length - 1).bit_length()
    if line.length % 2 or not 256 <= size <= 4 << 20 or dtype == torch.float32:
        return None, "takes even lengths, transforms of 256 to 4M points, and 16-bit signals only"
    try:
        return FlashFFTConv(size, dtype=dtype).to(device), ""
    except Exception as error:
        return None, refused(error)


def _forward_alone(function: Callable[[], Tensor]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return function()

    return run


def measure_fftconv(line: Line, clock: Clock, dtype: torch.dtype, copy_rate: float | None) -> dict[str, Any]:
    """Gated fftconv against the published op sequence and FlashFFTConv."""
    generator = torch.Generator(clock.device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=clock.device).mul_(scale).to(dtype)

    shape = line.batch, line.channels, line.length
    inputs = {
        "u": normal(*shape, dtype=dtype),
        "k": normal(line.channels, line.length, scale=line.length**-0.5),
        "D": normal(line.channels),
        "pre_gate": normal(*shape, dtype=dtype),
        "post_gate": normal(*shape, dtype=dtype),
    }
    dy = normal(*shape, dtype=dtype)
    watched = _watched(*shape)
    errors = errors_on_channels("fftconv", inputs, dy, watched, backend=line.backend)
    result: dict[str, Any] = {"errors": errors, "faults": faults(errors)}
    if result["faults"]:
        return result

    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    u, k, D, pre, post = (leaves[name] for name in GRADIENTS)
    flash, refusal = _flash(line, dtype, clock.device)

    def ours() -> Tensor:
        return fftconv(u, k, D, pre_gate=pre, post_gate=post, backend=line.backend)

    def published() -> Tensor:
        return published_fftconv(u * pre, k, D) * post

    def flashed() -> Tensor:
        return flash(u, k, pre, post)

    contenders: dict[str, Callable[[], Tensor]] = {"ours": ours, "published": published}
    if flash is not None:
        try:
            with torch.no_grad():
                plain = published_fftconv(u * pre, k, torch.zeros_like(D)) * post
                distance = relative_error(flashed(), plain)
        except Exception as error:
            refusal = refused(error)
        else:
            result["flash_error"] = distance
            if distance < 0.05:
                contenders["flash"] = flashed
            else:
                refusal = f"its result is {distance:.2g} off"

    def with_gradients(name: str, function: Callable[[], Tensor]) -> Callable[[], object]:
        wanted = (u, k, pre, post) if name == "flash" else (u, k, D, pre, post)
        return lambda: torch.autograd.grad(function(), wanted, dy)

    graphs = line.batch * line.channels * line.length <= GRAPH_POINTS
    passes = {
        "forward": {name: _forward_alone(function) for name, function in contenders.items()},
        "both": {name: with_gradients(name, function) for name, function in contenders.items()},
    }
    forward, backward = fftconv_bytes(line.batch, line.channels, line.length, dtype.itemsize)
    for name, functions in passes.items():
        result[name] = compare(clock, functions, graphs=graphs)
        if flash is None or refusal:
            result[name]["reasons"]["flash"] = refusal
        _add_bytes(result[name], forward if name == "forward" else forward + backward, copy_rate)
    return result


def _add_bytes(result: dict[str, Any], count: int, copy_rate: float | None) -> None:
    result["bytes"] = count
    if result.get("ms") and copy_rate is not None:
        result["gb_s"] = count / result["ms"] / 1e6
        result["predicted_ms"] = count / copy_rate / 1e6


def measure_implicit_filter(line: Line, clock: Clock, dtype: torch.dtype, copy_rate: float | None) -> dict[str, Any]:
    """implicit_filter against the same network in plain PyTorch, with gradients of all parameters in ``both``."""
    inputs: dict[str, Any] = implicit_filter_inputs(line.channels, line.length, device=clock.device)
    dk = torch.randn(line.channels, line.length, device=clock.device)
    watched = _watched(1, line.channels, line.length)
    errors = errors_on_channels("implicit_filter", inputs, dk, watched, backend=line.backend)
    result: dict[str, Any] = {"errors": errors, "faults": faults(errors)}
    if result["faults"]:
        return result
    trained = [name for name in inputs if name not in ("z", "t", "deltas")]
    leaves = {name: inputs[name].requires_grad_() for name in trained}
    functions = {
        "ours": lambda: implicit_filter(**inputs, backend=line.backend),
        "published": lambda: reference_implicit_filter(**inputs),
    }

    def with_gradients(function: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(), list(leaves.values()), dk)

    graphs = line.channels * line.length <= GRAPH_POINTS
    result["forward"] = compare(
        clock, {name: _forward_alone(function) for name, function in functions.items()}, graphs=graphs
    )
    _add_bytes(result["forward"], filter_bytes(line.channels, line.length), copy_rate)
    result["both"] = compare(
        clock, {name: with_gradients(function) for name, function in functions.items()}, graphs=False
    )
    return result


def _parameters_and_input(module: torch.nn.Module, x: Tensor) -> dict[str, Tensor]:
    named = {name.removeprefix("operator."): tensor for name, tensor in module.named_parameters()}
    return {"x": x, **named}


def _operator_results(
    module: torch.nn.Module, x: Tensor, dy: Tensor, context: Callable[[], contextlib.AbstractContextManager[Any]]
) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    leaves = _parameters_and_input(module, x)
    with context():
        y = module(x)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype), allow_unused=True)
    results = {"y": y.detach()}
    results.update({f"d{name}": grad for name, grad in zip(leaves, grads, strict=True) if grad is not None})
    return {name: value.cpu() for name, value in results.items()}


def measure_operator(line: Line, clock: Clock, dtype: torch.dtype, copy_rate: float | None) -> dict[str, Any]:
    """HyenaOperator against the published op sequence: forward and backward, time and memory."""
    torch.manual_seed(0)
    operator = HyenaOperator(
        line.channels, line.length, emb_dim=5, w=10, lr_pos_emb=0.0, backend=line.backend
    ).to(clock.device)  # fmt: skip
    theirs = ExactFilter(operator)
    x = torch.randn(line.batch, line.length, line.channels, device=clock.device).to(dtype)
    dy = torch.randn(line.batch, line.length, line.channels, device=clock.device).to(dtype)

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with torch.autocast(clock.device.type, dtype=dtype, enabled=dtype != torch.float32):
            yield

    ours_results = _operator_results(operator, x, dy, context)
    plain = _operator_results(theirs, x, dy, context)
    exact = copy.deepcopy(operator).double()
    # Plain PyTorch in float64 that keeps little: the published op sequence would not fit.
    exact.backend = "torch"
    oracle = _operator_results(exact, x.double(), dy.double(), contextlib.nullcontext)
    del exact
    errors = {
        name: (relative_error(value, oracle[name]), error_budget(plain[name], oracle[name]))
        for name, value in ours_results.items()
        if value.numel() >= MIN_ELEMENTS
    }
    result: dict[str, Any] = {"errors": errors, "faults": faults(errors)}
    del ours_results, plain, oracle
    if clock.on_gpu:
        torch.cuda.empty_cache()
    if result["faults"]:
        return result

    x.requires_grad_()

    def step(module: torch.nn.Module) -> Callable[[], object]:
        leaves = [tensor for name, tensor in _parameters_and_input(module, x).items()]

        def run() -> object:
            with context():
                y = module(x)
            return torch.autograd.grad(y, leaves, dy.to(y.dtype), allow_unused=True)

        return run

    functions = {"ours": step(operator), "published": step(theirs)}
    result["both"] = compare(clock, dict(functions), graphs=False)
    shape = {"batch": line.batch, "width": line.channels, "length": line.length, "itemsize": dtype.itemsize}
    _add_bytes(result["both"], cost("hyena_operator", "", "both", backend="triton", **shape).bytes, copy_rate)
    memory: dict[str, int] = {}
    for name, function in functions.items():
        try:
            extra = clock.extra_memory(function)
        except Exception as error:
            result["both"]["reasons"][f"{name}, memory"] = refused(error)
        else:
            if extra is not None:
                memory[name] = extra
    result["extra_bytes"] = memory
    if len(memory) == len(functions):
        result["memory_share"] = memory["ours"] / memory["published"]
    return result


MEASURES = {"fftconv": measure_fftconv, "implicit_filter": measure_implicit_filter, "operator": measure_operator}


# Report --------------------------------------------------------------------------------------------------------------

HEADER = (
    "| op | B | D | L | pass | ours ms | against published | against FlashFFTConv | calls: ours ms | calls: against "
    "published | GB counted | GB/s | predicted ms |"
)


def _figure(value: float | None, form: str = "{:.3f}") -> str:
    return "-" if value is None else form.format(value)


def rows(record: dict[str, Any]) -> list[str]:
    """The lines of the Markdown table for one op at one shape."""
    head = f"| {record['op']} | {record['batch']} | {record['channels']} | {record['length']} |"
    if "error" in record:
        return [f"{head} failed: {record['error']} |" + 8 * " |"]
    if record["faults"]:
        return [f"{head} wrong, so no speed: {'; '.join(record['faults'])} |" + 8 * " |"]
    found = []
    for name in ("forward", "both"):
        if name not in record:
            continue
        each = record[name]
        calls = each["calls_ms"]
        against = calls["published"] / calls["ours"] if {"ours", "published"} <= calls.keys() else None
        cells = [
            "forward" if name == "forward" else "forward + backward",
            _figure(each["ms"]),
            _figure(each["ratios"].get("published"), "{:.2f}×"),
            _figure(each["ratios"].get("flash"), "{:.2f}×"),
            _figure(calls.get("ours")),
            _figure(against, "{:.2f}×"),
            _figure(each["bytes"] / 1e9 if "bytes" in each else None),
            _figure(each.get("gb_s"), "{:.0f}"),
            _figure(each.get("predicted_ms")),
        ]
        found.append(f"{head} {' | '.join(cells)} |")
    return found


def aims(results: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each aim: what it asks for, and the figure that is furthest from it."""
    good = [record for record in results if "error" not in record and not record["faults"]]
    wrong = len(results) - len(good)

    def worst(op: str, name: str, rival: str, least: float, what: str) -> str:
        found = [
            (record[name]["ratios"][rival], record)
            for record in good
            if record["op"] == op and rival in record.get(name, {}).get("ratios", {})
        ]
        if not found:
            return f"- {what}: at least {least:g}×; not measured"
        ratio, record = min(found, key=lambda each: each[0])
        verdict = "met" if ratio >= least else "NOT met"
        place = f"B = {record['batch']}, D = {record['channels']}, L = {record['length']}"
        return f"- {what}: at least {least:g}×; {verdict}, the least of {len(found)} is {ratio:.2f}× at {place}"

    def at_most(value: float | None, limit: float, unit: str, what: str) -> str:
        if value is None:
            return f"- {what}: at most {limit:g}{unit}; not measured"
        return f"- {what}: at most {limit:g}{unit}; {'met' if value <= limit else 'NOT met'}, {value:.3f}{unit}"

    def at(op: str) -> dict[str, Any]:
        place = {"op": op, "batch": 1, "channels": 128, "length": MILLION}
        return next((record for record in good if place.items() <= record.items()), {})

    million = at("fftconv")
    forward, both = (million.get(name, {}).get("calls_ms", {}).get("ours") for name in ("forward", "both"))
    shares = [record["memory_share"] for record in good if "memory_share" in record]
    found = [
        worst("fftconv", "forward", "published", 5, "gated fftconv against the published op sequence, forward"),
        worst("fftconv", "both", "published", 4, "the same, forward + backward"),
        worst("fftconv", "forward", "flash", 2, "gated fftconv against FlashFFTConv, forward"),
        worst("fftconv", "both", "flash", 2, "the same, forward + backward"),
        at_most(forward, 2.0, " ms", "gated forward at L = 2^20, D = 128"),
        at_most(None if both is None else both - forward, 4.0, " ms", "gated backward at L = 2^20, D = 128"),
        at_most(
            at("implicit_filter").get("forward", {}).get("ms"), 0.6, " ms", "implicit_filter at L = 2^20, D = 128"
        ),
        worst("operator", "both", "published", 6, "HyenaOperator against the published one, forward + backward"),
        at_most(max(shares, default=None), 0.25, "", "HyenaOperator's extra memory as a share of the published one's"),
    ]  # fmt: skip
    if wrong:
        found.append(f"- {wrong} of {len(results)} lines failed or were wrong, and count for nothing above")
    return found


# Run -----------------------------------------------------------------------------------------------------------------


def _compile_line(line: Line, dtype: torch.dtype) -> None:
    """Run an op once, for what Triton leaves in its cache on disk; with few channels where they make no difference."""
    device = torch.device("cuda")
    channels = line.channels if plan_for(line.length).columns == 1 or line.op != "fftconv" else 2
    if line.op == "fftconv":
        u, pre, post, dy = (torch.randn(line.batch, channels, line.length, device=device).to(dtype) for _ in range(4))
        k, D = torch.randn(channels, line.length, device=device), torch.randn(channels, device=device)
        leaves = [tensor.requires_grad_() for tensor in (u, k, D, pre, post)]
        torch.autograd.grad(fftconv(u, k, D, pre_gate=pre, post_gate=post, backend="triton"), leaves, dy)
    elif line.op == "operator":
        operator = HyenaOperator(channels, line.length, emb_dim=5, w=10, lr_pos_emb=0.0, backend="triton").to(device)
        x = torch.randn(line.batch, line.length, channels, device=device).to(dtype)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            operator(x).sum().backward()
    torch.cuda.synchronize()


def compile_ahead(items: Sequence[Line], dtype: torch.dtype, processes: int, seconds: float) -> None:
    """Fill Triton's cache in several processes before anything is timed: they would disturb the clocks."""
    start = time.monotonic()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    workers: list[Any] = []
    try:
        jobs = {pool.submit(_compile_line, line, dtype): line for line in items if line.op != "implicit_filter"}
        workers = list((getattr(pool, "_processes", None) or {}).values())
        done, left = wait(jobs, timeout=seconds)
        for job in done:
            error = job.exception()
            if error is not None:
                print(f"compiling ahead, {jobs[job]}: {reason_of(error)}", file=sys.stderr)
        print(f"compiled ahead in {time.monotonic() - start:.0f} s, {len(left)} shapes left", file=sys.stderr)
    except BrokenProcessPool as error:
        print(f"compiling ahead is given up: {error}", file=sys.stderr)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.terminate()
            process.join()


def run(
    items: Sequence[Line], device: torch.device, dtype: torch.dtype, out: Path | None, deadline: float
) -> dict[str, Any]:
    """Measure one line after another until the time is up; everything is in the JSON file after each."""
    clock = Clock(device)
    copy_rate = copy_bytes_per_s(device) / 1e9 if clock.on_gpu else None
    results: dict[str, Any] = {
        "machine": machine.describe(device),
        "dtype": str(dtype),
        "backend": items[0].backend if items else None,
        "no_speed": device.type != "cuda",
        "copy_gb_s": copy_rate,
        "lines": [],
        "not_run": [],
    }
    if results["no_speed"]:
        print(
            "No GPU, interpreted kernels: this shows that everything runs. The times below are NO measure of speed.\n"
        )
    else:
        print(f"{results['machine']['device']}, copy {copy_rate:.0f} GB/s, {dtype}\n")
    print(f"{HEADER}\n{'|---' * HEADER.count(' | ')}|---|", flush=True)
    for number, line in enumerate(items):
        if time.monotonic() > deadline:
            results["not_run"] = [str(each) for each in items[number:]]
            break
        start = time.monotonic()
        record: dict[str, Any] = {"op": line.op, "batch": line.batch, "channels": line.channels, "length": line.length}
        if line.op == "fftconv":
            plan = plan_for(line.length)
            record["plan"] = [plan.groups, plan.columns, plan.rows]
        try:
            record.update(MEASURES[line.op](line, clock, dtype, copy_rate))
        except Exception as error:
            record["error"] = reason_of(error)
        record["seconds"] = time.monotonic() - start
        results["lines"].append(record)
        print("\n".join(rows(record)), flush=True)
        lost = None
        if clock.on_gpu:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                lost = reason_of(error)
                results["not_run"] = [str(each) for each in items[number + 1 :]]
        if out is not None:
            records.write_json(out, results)
        if lost is not None:
            print(f"\nthe device is lost to this process: {lost}")
            break
    results["machine_after"] = machine.describe(device)
    results["aims"] = aims(results["lines"])
    if out is not None:
        records.write_json(out, results)
    return results


def _shape(text: str) -> tuple[int, int]:
    batch, _, channels = text.partition("x")
    try:
        shape = int(batch), int(channels)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not BxD, such as 1x128") from None
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: batch and channels go from 1")
    return shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where everything was right, 1 where a line failed, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.triton_targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file (default: bench/results/<machine>/triton_aims.json on a GPU)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="L")
    parser.add_argument("--shapes", type=_shape, nargs="+", metavar="BxD", help="default: 1x128 4x256, on a CPU 1x2")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: bfloat16, on a CPU float32"
    )
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--backend", choices=("triton", "cuda"), help="default: what runs where nobody asks for one")
    parser.add_argument("--time-limit", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--processes", type=int, default=8, help="that compile ahead (1: none do)")
    parser.add_argument("--dry-run", action="store_true", help="list the lines; needs no GPU")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    wrong = [length for length in options.lengths if not 1 <= length <= MAX_LENGTH]
    if wrong:
        parser.error(f"lengths go from 1 to {MAX_LENGTH}: {wrong}")
    items = lines(options.ops, options.shapes or (SHAPES if on_gpu else ((1, 2),)), options.lengths)
    backend = options.backend or (None if on_gpu else "triton")
    items = [dataclasses.replace(line, backend=backend) for line in items]
    if options.dry_run:
        for line in items:
            print(line)
        return 0
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device: --device cpu runs in the interpreter, --dry-run lists the lines")
    deadline = time.monotonic() + options.time_limit
    dtype = getattr(torch, options.dtype or ("bfloat16" if on_gpu else "float32"))
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    out = options.out
    if out is None and on_gpu:
        out = machine.ROOT / "bench" / "results" / machine.folder_name() / "triton_aims.json"
    if on_gpu and options.processes > 1 and options.backend == "triton":
        compile_ahead(items, dtype, options.processes, 0.3 * options.time_limit)
    results = run(items, device, dtype, out, deadline)
    if results["not_run"]:
        print(f"\nNot run: {'; '.join(results['not_run'])}")
    if results["no_speed"]:
        print("\nAgain: interpreted kernels on a CPU, no measure of speed.")
    else:
        print("\nAims:\n" + "\n".join(results["aims"]))
    if out is not None:
        print(f"\n{out}")
    return int(any("error" in record or record["faults"] for record in results["lines"]))


if __name__ == "__main__":
    sys.exit(main())
