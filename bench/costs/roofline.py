"""What a workload has to read, write and compute, counted from its shapes, and the time that ceilings make of it.

python -m bench.costs.roofline --workload fftconv --variant gated --batch 1 --width 128 --length 1048576 --dtype
bfloat16 python -m bench.costs.roofline --workload two_layer_model --variant checkpointed --direction both --length
65536 \
    --run bench/results/nvidia-h200/suite.json

prints the stages of a workload with the time predicted for each, on the ceilings of a run or, without one, on those
measured here. A stage takes at least as long as its bytes at the rate of a copy, its matrix products at the rate of a
large product, and its other arithmetic at the float32 rate; stages follow one another. So a measured time above the
predicted one is lost in some stage, and one below means that a cache held what is counted as moved.

What is counted: every op reads its inputs and writes its results once, weights included; tables of the transforms,
partial sums and the casts of autocast are not. Of the Triton kernels (``backend="triton"``) it is what their launches
move: the float32 scratch between the passes of a long convolution and the planes of the filter's backward pass too.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bench.common.run_file import ATTENTION, OURS, BadRun, read_run
from bench.costs.costs import (
    Convolution,
    Cost,
    Model,
    Stage,
    filter_backward,
    filter_forward,
    mixer_backward,
    mixer_forward,
    short_conv,
)

WORKLOADS = (
    "fftconv", "short_conv", "implicit_filter", "hyena_mixer", "hyena_operator", "two_layer_model", "hyenadna",
    "training_step",
)  # fmt: skip
COUNTED_PEERS = (OURS, *ATTENTION)
"""Peers whose cost is known: the others do the same work in ways of their own."""
# Prediction ----------------------------------------------------------------------------------------------------------


def stage_seconds(stage: Stage, ceilings: Mapping[str, float | None]) -> float:
    """Least time of a stage; see :func:`predict`."""
    matmul = ceilings.get("matmul_flops_per_s") or math.inf
    float32 = ceilings.get("float32_flops_per_s") or matmul
    # Three 16-bit products have the accuracy of one in float32.
    exact = math.inf if math.inf in (matmul, float32) else max(float32, matmul / 3)
    copy = ceilings["copy_bytes_per_s"]
    if not copy:
        raise ValueError("no time can be predicted without copy_bytes_per_s among the ceilings")
    return max(stage.bytes / copy, stage.products / matmul, stage.exact / exact, stage.vector / float32)


def predict(cost: Cost, ceilings: Mapping[str, float | None]) -> float:
    """Seconds of a workload whose every stage reaches the ceiling that binds it.

    Args:
        cost: what it moves and computes.
        ceilings: ``copy_bytes_per_s``, and ``matmul_flops_per_s`` and ``float32_flops_per_s`` where they are known;
            see :func:`measure_ceilings`. Arithmetic whose rate is not known takes no time.

    Raises:
        ValueError: the copy rate is missing.
    """
    return sum(stage_seconds(stage, ceilings) for stage in cost.stages)


# Ceilings ------------------------------------------------------------------------------------------------------------


def _best_seconds(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Least time of a call: other processes can only make it longer."""
    function()
    if device.type == "cuda":
        spans = []
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize(device)
            spans.append(begin.elapsed_time(end) / 1000)
        return min(spans)
    # As the suite: processor time where there is one thread, for with several it would add up their waiting.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    spans = []
    for _ in range(rounds):
        start = clock()
        function()
        spans.append(clock() - start)
    return max(min(spans), 1e-9)


def copy_bytes_per_s(device: torch.device | str, *, count: int | None = None, rounds: int = 10) -> float:
    """Bytes read and written a second by a copy of ``count`` bytes, which by default no cache holds."""
    place = torch.device(device)
    count = count or (1 << 30 if place.type == "cuda" else 1 << 28)
    source = torch.ones(count // 4, device=place)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), place, rounds)


def matmul_flops_per_s(
    device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, rounds: int = 5
) -> float:
    """FLOPs a second of the product of two square matrices."""
    place = torch.device(device)
    size = size or (8192 if place.type == "cuda" else 1024)
    a, b = (torch.ones(size, size, device=place, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * size**3 / _best_seconds(lambda: torch.mm(a, b, out=product), place, rounds)


def measure_ceilings(device: torch.device | str, dtype: torch.dtype) -> dict[str, float]:
    """The ceilings that :func:`predict` takes, measured now; one to three seconds.

    The float32 rate is that of a product in float32, which neither a processor nor, with TF32 off, a GPU computes
    otherwise than by fused multiply-adds.
    """
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        float32 = matmul_flops_per_s(device, torch.float32)
        matmul = float32 if dtype == torch.float32 else matmul_flops_per_s(device, dtype)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    return {
        "copy_bytes_per_s": copy_bytes_per_s(device),
        "matmul_flops_per_s": matmul,
        "float32_flops_per_s": float32,
    }


# All workloads -------------------------------------------------------------------------------------------------------


def cost(
    workload: str,
    variant: str,
    direction: str,
    *,
    batch: int,
    width: int,
    length: int,
    itemsize: int,
    order: int = 2,
    peer: str = OURS,
    backend: str | None = None,
    layers: int | None = None,
    checkpointed: bool | None = None,
) -> Cost:
    """Bytes and FLOPs of a workload of the suite.

    Args:
        workload: one of :data:`WORKLOADS`.
        variant: ``"gated"`` or ``"plain"`` of fftconv, ``"checkpointed"`` or ``"plain"`` of two_layer_model, the name
            of a configuration of hyenadna and training_step (which gives the number of layers).
        direction: ``"forward"``, or ``"both"`` with the gradients of all tensors that are trained.
        batch: batch size.
        width: channels; for hyena_mixer those of the result.
        length: of the sequence, and of the filters.
        itemsize: bytes of an element of the signals; filters and the residual of a model are float32.
        order: of the operator.
        peer: one of :data:`COUNTED_PEERS`: an attention stands for the Transformer of the same width and depth.
        backend: ``"triton"`` counts what its launches move; every other what no implementation can do without.
        layers: of a model; default 2 or the configuration's.
        checkpointed: whether a model computes its blocks again in backward; default by the variant.

    Raises:
        ValueError: a workload, direction, variant or peer that is not known.
    """
    if workload not in WORKLOADS:
        raise ValueError(f"no workload is called {workload!r}: choose one of {', '.join(WORKLOADS)}")
    if direction not in ("forward", "both"):
        raise ValueError(f"direction is {direction!r}: choose forward or both")
    if peer not in COUNTED_PEERS:
        raise ValueError(f"the cost of {peer!r} is not known: choose one of {', '.join(COUNTED_PEERS)}")
    if min(batch, width, length, itemsize) < 1 or order < 2:
        raise ValueError(
            f"batch {batch}, width {width}, length {length}, itemsize {itemsize} go from 1 and order {order} from 2"
        )
    is_model = workload in ("two_layer_model", "hyenadna", "training_step")
    if peer != OURS and not is_model:
        raise ValueError(f"{peer} has no {workload}: attention stands in models alone")
    triton = backend == "triton"
    backward = direction == "both"
    shape = batch, width, length, itemsize
    if workload == "fftconv":
        if variant not in ("gated", "plain"):
            raise ValueError(f"the variant of fftconv is {variant!r}: choose gated or plain")
        convolution = Convolution(*shape, variant == "gated", variant == "gated", triton)
        return Cost((convolution.forward(), *([convolution.backward()] if backward else ())))
    if workload == "short_conv":
        return Cost(tuple(short_conv(*shape, each) for each in ((False, True) if backward else (False,))))
    if workload == "implicit_filter":
        gradients = [filter_backward(width, length, triton)] if backward else []
        return Cost((filter_forward(width, length), *gradients))
    if workload == "hyena_mixer":
        return Cost(
            (
                *mixer_forward(*shape, order, triton),
                *(mixer_backward(*shape, order, triton) if backward else ()),
            )
        )
    if layers is None:
        layers = 2 if workload in ("two_layer_model", "hyena_operator") else _layers_of(variant)
    if checkpointed is None:
        checkpointed = variant == "checkpointed"
    model = Model(batch, width, length, itemsize, order, layers, triton, peer, checkpointed)
    if workload == "hyena_operator":
        return Cost((*model.operator(False), *(model.operator(True) if backward else ())))
    stages = [*model.forward(), *(model.backward() if backward else ())]
    if workload == "training_step":
        count = model.parameters()
        # Weight, gradient and two moments in; weight and moments out.
        stages.append(Stage("AdamW", 7 * 4 * count, vector=15 * count))
    return Cost(tuple(stages))


def _layers_of(configuration: str) -> int:
    # Imported here: of all this, only the published sizes need transformers.
    from hyenadna.model.sizes import PUBLISHED_SIZES

    if configuration not in PUBLISHED_SIZES:
        raise ValueError(
            f"no published configuration is called {configuration!r}: choose one of {', '.join(PUBLISHED_SIZES)}, or "
            "give layers"
        )
    return PUBLISHED_SIZES[configuration]["n_layer"]


# Command line --------------------------------------------------------------------------------------------------------


def _merged(stages: Iterable[Stage]) -> dict[str, list[Stage]]:
    found: dict[str, list[Stage]] = {}
    for stage in stages:
        found.setdefault(stage.name, []).append(stage)
    return found


def table(counted: Cost, ceilings: Mapping[str, float | None]) -> str:
    """Markdown table of the stages, the same ones of all layers added up."""
    total = predict(counted, ceilings)
    lines = ["| stage | times | GB | GFLOP | ms | share |", "|---|--:|--:|--:|--:|--:|"]
    for name, stages in _merged(counted.stages).items():
        seconds = sum(stage_seconds(stage, ceilings) for stage in stages)
        moved, flops = (sum(getattr(stage, what) for stage in stages) / 1e9 for what in ("bytes", "flops"))
        lines.append(
            f"| {name} | {len(stages)} | {moved:.4g} | {flops:.4g} | {1e3 * seconds:.4g} | {seconds / total:.1%} |"
        )
    lines.append(
        f"| all | {len(counted.stages)} | {counted.bytes / 1e9:.4g} | {counted.flops / 1e9:.4g} | {1e3 * total:.4g} | "
        "100.0% |"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.costs.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--variant", help="default: gated, checkpointed or tiny-1k, as the workload has it")
    parser.add_argument("--direction", choices=("forward", "both"), default="both")
    parser.add_argument("--peer", choices=COUNTED_PEERS, default=OURS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=1 << 16)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="float32")
    parser.add_argument("--backend", default=None, help="triton: what its launches move")
    parser.add_argument("--run", type=Path, metavar="JSON", help="take the ceilings of this run")
    options = parser.parse_args(arguments)
    dtype = getattr(torch, options.dtype)
    defaults = {
        "fftconv": "gated",
        "two_layer_model": "checkpointed",
        "hyenadna": "tiny-1k",
        "training_step": "tiny-1k",
    }
    variant = options.variant or defaults.get(options.workload, "")
    try:
        counted = cost(
            options.workload, variant, options.direction, batch=options.batch, width=options.width,
            length=options.length, itemsize=dtype.itemsize, peer=options.peer, backend=options.backend,
        )  # fmt: skip
        ceilings: Mapping[str, float | None]
        if options.run:
            ceilings = read_run(options.run).ceilings
        else:
            ceilings = measure_ceilings("cuda" if torch.cuda.is_available() else "cpu", dtype)
        print(", ".join(f"{name} {value:.4g}" for name, value in ceilings.items() if value is not None))
        print(table(counted, ceilings))
    except (ValueError, BadRun) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
