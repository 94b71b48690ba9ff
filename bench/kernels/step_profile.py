"""Profile one training step of the 2-layer model, and tell where its time goes, by kind of work.

    python -m bench.kernels.step_profile
    python -m bench.kernels.step_profile --length 4096 --device cpu

The step is forward with checkpointing, loss, backward and AdamW. On a GPU the time is that of the kernels. On a CPU it
is the wall time that each op spends itself, with the work of the profiler. The time of a step without the profiler is
printed too. The JSON file has every op and kernel.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.common import json_io, machine
from bench.common.format import length_text, seconds_text
from bench.common.run_file import OURS
from bench.common.timing import in_turns, spin, timer_for
from bench.costs.costs import VOCABULARY
from bench.suite.cases import Case
from bench.suite.workloads import make_model, make_optimizer

_WIDTH = 128
_ROUNDS = 5
_HEAD = "head, loss, embedding"
KINDS = ("mixer", "filter", "norm", "GEMM", "GELU", "adds", "casts", _HEAD, "optimizer", "other")
"""What the time of a step is divided into."""

# The first that any op of the chain matches, from the op itself outwards.
_INSIDE = {
    "optimizer": r"^Optimizer\.",
    "filter": r"^hyena_kernels::implicit_filter",
    "mixer": r"^hyena_kernels::(hyena_mixer|fftconv|short_conv)|attention|^flash_attn",
    "norm": r"layer_norm",
    _HEAD: r"embedding|nll_loss|log_softmax|cross_entropy",
}
# The first op of the chain that matches one, else other.
_OF_OP = {
    "GELU": r"^aten::gelu|^hyena_kernels::gelu",
    "casts": r"^aten::(_to_copy|to)$",
    "GEMM": r"^aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|^(Addmm|Mm|Linear)Backward0 sum$",
    "adds": r"^aten::add_?$|AccumulateGrad",
}
_IN_HEAD = ("casts", "GEMM", "adds")
"""Kinds that belong to the head if a tensor has as many rows or columns as there are tokens."""
_NODE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True)
class Event:
    """Time of an op without the ops that it calls, or of one kernel that it launches.

    Args:
        chain: names of the op and of those around it, from the inside out.
        shapes: shapes of the op's tensors.
        seconds: the time.
        kernel: name of the kernel; empty on a CPU.
    """

    chain: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    seconds: float
    kernel: str = ""


def kind_of(chain: Sequence[str], shapes: Iterable[Sequence[int]]) -> str:
    """The kind of an op, one of :data:`KINDS`; arguments as for :class:`Event`.

    Ops around a node of autograd say nothing about an op. Checkpointing computes a whole block again within one.
    """
    inner = []
    for name in chain:
        if name.startswith(_NODE):
            # The gradient of a bias is a sum in the node of its product.
            inner += [f"{name.removeprefix(_NODE)} sum"] if chain[0] == "aten::sum" else []
            break
        inner.append(name)
    for kind, pattern in _INSIDE.items():
        if any(re.search(pattern, name) for name in inner):
            return kind
    found = (kind for name in inner for kind, pattern in _OF_OP.items() if re.search(pattern, name))
    kind = next(found, "other")
    if kind in _IN_HEAD and any(VOCABULARY in shape for shape in shapes):
        return _HEAD
    return kind


def _chain(event: Any) -> tuple[str, ...]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return tuple(names)


def events_of(recorded: Iterable[Any], *, on_gpu: bool) -> list[Event]:
    """Events of a profile: kernels on a GPU, else ops.

    Args:
        recorded: events of ``torch.profiler.profile``.
        on_gpu: whether kernels count, not ops.
    """
    found, linked, total = [], 0.0, 0.0
    for event in recorded:
        if event.device_type != DeviceType.CPU:
            total += 0.0 if event.is_user_annotation else 1e-6 * event.time_range.elapsed_us()
            continue
        shapes = tuple(tuple(shape) for shape in event.input_shapes or () if isinstance(shape, list | tuple))
        if not on_gpu:
            if event.self_cpu_time_total > 0:
                found.append(Event(_chain(event), shapes, 1e-6 * event.self_cpu_time_total))
            continue
        for kernel in event.kernels:
            found.append(Event(_chain(event), shapes, 1e-6 * kernel.duration, kernel.name))
            linked += found[-1].seconds
    if on_gpu and total > linked:
        found.append(Event(("launched by no op",), (), total - linked))
    return found


def training_step(length: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """One step of the checkpointed 2-layer model with AdamW, under autocast to ``dtype``."""
    case = Case("two_layer_model", "checkpointed", OURS, "both", 1, _WIDTH, length)
    model = make_model(case, OURS, device)
    optimizer = make_optimizer(model)
    ids = torch.randint(VOCABULARY, (1, length), device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model.loss(ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(length: int, device: torch.device, dtype: torch.dtype) -> tuple[float, list[Event]]:
    """Median seconds of a step without the profiler, and the events of one with it."""
    step = training_step(length, device, dtype)
    spin(device, 0.2)
    timer = timer_for(device, is_op=False, cold=False)
    seconds = statistics.median(in_turns({"": step}, timer, _ROUNDS)[""])
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
    return seconds, events_of(profiler.events(), on_gpu=on_gpu)


def by_kind(events: Iterable[Event]) -> dict[str, dict[str, dict[str, float]]]:
    """Count and seconds by kind, then by op and kernel; in the order of :data:`KINDS`, longest first."""
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in KINDS}
    for event in events:
        name = f"{event.chain[0]}: {event.kernel}" if event.kernel else event.chain[0]
        entry = found[kind_of(event.chain, event.shapes)].setdefault(name, {"count": 0, "seconds": 0.0})
        entry["count"] += 1
        entry["seconds"] += event.seconds
    return {
        kind: dict(sorted(entries.items(), key=lambda item: -item[1]["seconds"])) for kind, entries in found.items()
    }


def table(kinds: dict[str, dict[str, dict[str, float]]], seconds: float, *, on_gpu: bool) -> str:
    """Markdown table of the kinds, and the time of the step."""
    sums = {kind: sum(entry["seconds"] for entry in entries.values()) for kind, entries in kinds.items()}
    total = sum(sums.values())
    lines = [f"| kind | ms | share | {'kernels' if on_gpu else 'ops'} | most of it |", "|---|--:|--:|--:|---|"]
    for kind, entries in kinds.items():
        count = sum(int(entry["count"]) for entry in entries.values())
        largest = next(iter(entries), "-").replace("|", "\\|")[:80]
        lines.append(f"| {kind} | {1e3 * sums[kind]:.3f} | {sums[kind] / total:.1%} | {count} | {largest} |")
    lines.append(f"| all | {1e3 * total:.3f} | 100.0% | | |")
    lines += ["", f"A step without the profiler takes {seconds_text(seconds)}."]
    if on_gpu and seconds > total:
        lines.append(f"The GPU waits for {seconds_text(seconds - total)} of it, if nothing runs in parallel.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, or 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.step_profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, help="length L (default: 1048576 on a GPU, 4096 on a CPU)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="device (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="dtype of autocast (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    parser.add_argument("--json", type=Path, help="JSON file (default: step_profile.json with this machine's results)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device: leave --device out, or choose --device cpu")
    length = (1 << 20 if on_gpu else 1 << 12) if options.length is None else options.length
    if length < 1:
        parser.error(f"--length {length}: give a length of 1 or more")
    dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    out = options.json or machine.ROOT / "bench" / "results" / machine.folder_name(device) / "step_profile.json"
    if not on_gpu:
        torch.set_num_threads(1)
    seconds, events = measure(length, device, getattr(torch, dtype))
    kinds = by_kind(events)
    content = {
        "machine": {"name": machine.device_name(device), **machine.describe(device)},
        "commit": machine.commit(),
        "length": length,
        "width": _WIDTH,
        "dtype": dtype,
        "step_seconds": seconds,
        "kinds": kinds,
    }
    json_io.write_json(out, content)
    shape = f"L = {length_text(length)}, D = {_WIDTH}, {dtype}"
    print(f"One step of the 2-layer model, {shape}, {machine.device_name(device)}\n")
    print(table(kinds, seconds, on_gpu=on_gpu))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
