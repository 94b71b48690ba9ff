"""Predict the time of a workload from the bytes and operations of its stages, and print them.

    python -m bench.costs.roofline --workload fftconv --width 128 --length 1048576 --dtype bfloat16
    python -m bench.costs.roofline --workload two_layer_model --length 65536 --run bench/results/nvidia-h200/suite.json

The peak rates are those of a run or, without --run, measured now. A stage takes at least as long as its bytes at the
rate of a copy, its matrix products at the rate of a large product, and its other arithmetic at the float32 rate. Stages
run one after another. If a measured time is longer, some stage is slower than its peak rate. If it is shorter, a cache
held bytes that are counted as moved.

Every op reads its inputs and writes its results once, weights included. Tables of the transforms, partial sums and the
casts of autocast are not counted, except for the cast behind a LayerNorm. With ``backend="triton"`` the bytes are those
that the launches move. These include the float32 scratch of a long convolution and the planes of the filter's backward
pass.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bench.common.run_file import ATTENTION, OURS, BadRun, read_run
from bench.common.timing import EventTimer, Timer, best_seconds, cpu_timer
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
COUNTED = (OURS, *ATTENTION)
"""Implementations whose cost is counted."""

# Prediction ----------------------------------------------------------------------------------------------------------


def stage_seconds(stage: Stage, peak_rates: Mapping[str, float | None]) -> float:
    """Shortest possible time of a stage; see :func:`predict`."""
    matmul = peak_rates.get("matmul_flops_per_s") or math.inf
    float32 = peak_rates.get("float32_flops_per_s") or matmul
    # Three 16-bit products can replace one of float32 accuracy.
    exact = math.inf if math.inf in (matmul, float32) else max(float32, matmul / 3)
    copy = peak_rates["copy_bytes_per_s"]
    if not copy:
        raise ValueError("no time can be predicted: the peak rates have no copy_bytes_per_s")
    return max(stage.bytes / copy, stage.products / matmul, stage.exact / exact, stage.vector / float32)


def predict(cost: Cost, peak_rates: Mapping[str, float | None]) -> float:
    """Seconds of a workload if every stage reaches its peak rate.

    Args:
        cost: bytes and FLOPs of the workload.
        peak_rates: rates from :func:`measure_peak_rates`. Arithmetic of unknown rate takes no time.

    Raises:
        ValueError: the copy rate is missing.
    """
    return sum(stage_seconds(stage, peak_rates) for stage in cost.stages)


# Peak rates ----------------------------------------------------------------------------------------------------------


def _timer(device: torch.device) -> Timer:
    return EventTimer(device, hold=False) if device.type == "cuda" else cpu_timer()


def _copy_rate(device: torch.device | str, *, count: int | None = None, rounds: int = 10) -> float:
    """Bytes read and written per second by a copy of ``count`` bytes. The default exceeds every cache."""
    place = torch.device(device)
    count = count or (1 << 30 if place.type == "cuda" else 1 << 28)
    source = torch.ones(count // 4, device=place)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), _timer(place), rounds)


def _product_rate(device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, rounds: int = 5) -> float:
    """FLOPs per second of the product of two square matrices."""
    place = torch.device(device)
    size = size or (8192 if place.type == "cuda" else 1024)
    # Random numbers: equal ones switch fewer transistors, so that a GPU at its power limit multiplies them faster.
    a, b = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * size**3 / best_seconds(lambda: torch.mm(a, b, out=product), _timer(place), rounds)


def measure_peak_rates(device: torch.device | str, dtype: torch.dtype) -> dict[str, float]:
    """Measure the rates that :func:`predict` takes; takes one to three seconds.

    The float32 rate is measured with a float32 product, which consists of fused multiply-adds when TF32 is off.

    Returns:
        ``copy_bytes_per_s``, ``matmul_flops_per_s`` in ``dtype``, ``float32_flops_per_s``.
    """
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        float32 = _product_rate(device, torch.float32)
        matmul = float32 if dtype == torch.float32 else _product_rate(device, dtype)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    return {
        "copy_bytes_per_s": _copy_rate(device),
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
    implementation: str = OURS,
    backend: str | None = None,
    layers: int | None = None,
    checkpointed: bool | None = None,
    fused_norm: bool = False,
) -> Cost:
    """Bytes and FLOPs of a workload of the suite.

    Args:
        workload: one of :data:`WORKLOADS`.
        variant: ``"gated"`` or ``"plain"`` for fftconv; ``"checkpointed"`` or ``"plain"`` for two_layer_model; the
            name of a configuration for hyenadna and training_step.
        direction: ``"forward"``, or ``"both"`` with the gradients of all trained tensors.
        batch: batch size.
        width: channels; for hyena_mixer, channels of the result.
        length: length of sequence and filters.
        itemsize: bytes of an element of the signals. Filters and the residual of a model are float32.
        order: order of the operator.
        implementation: one of :data:`COUNTED`. An attention means the Transformer of the same width and depth.
        backend: ``"triton"`` counts the bytes that its launches move, others the least that any implementation moves.
        layers: layers of a model; default 2, or those of the configuration.
        checkpointed: whether backward computes the blocks again; the default depends on the variant.
        fused_norm: whether a model adds and normalises in one pass, as ``bench.costs.costs.Model`` describes.

    Raises:
        ValueError: the workload, direction, variant or implementation is unknown.
    """
    if workload not in WORKLOADS:
        raise ValueError(f"no workload is called {workload!r}: choose one of {', '.join(WORKLOADS)}")
    if direction not in ("forward", "both"):
        raise ValueError(f"direction is {direction!r}: choose forward or both")
    if implementation not in COUNTED:
        raise ValueError(f"the cost of {implementation!r} is not known: choose one of {', '.join(COUNTED)}")
    if min(batch, width, length, itemsize) < 1 or order < 2:
        raise ValueError(
            f"batch {batch}, width {width}, length {length}, itemsize {itemsize} go from 1 and order {order} from 2"
        )
    is_model = workload in ("two_layer_model", "hyenadna", "training_step")
    if implementation != OURS and not is_model:
        raise ValueError(f"{implementation} has no {workload}: attention is part of models only")
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
    model = Model(batch, width, length, itemsize, order, layers, triton, implementation, checkpointed, fused_norm)
    if workload == "hyena_operator":
        return Cost((*model.operator(False), *(model.operator(True) if backward else ())))
    stages = [*model.forward(), *(model.backward() if backward else ())]
    if workload == "training_step":
        count = model.parameters()
        # Weight, gradient and two moments in; weight and moments out.
        stages.append(Stage("AdamW", 7 * 4 * count, vector=15 * count))
    return Cost(tuple(stages))


def _layers_of(configuration: str) -> int:
    # Imported on demand: only the published sizes need transformers.
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


def table(counted: Cost, peak_rates: Mapping[str, float | None]) -> str:
    """Markdown table of the stages. Equal stages of all layers are added up."""
    total = predict(counted, peak_rates)
    lines = ["| stage | times | GB | GFLOP | ms | fraction |", "|---|--:|--:|--:|--:|--:|"]
    for name, stages in _merged(counted.stages).items():
        seconds = sum(stage_seconds(stage, peak_rates) for stage in stages)
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
    """Run the command line; exit code 0, or 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.costs.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument(
        "--variant", help="variant (default: gated, checkpointed or tiny-1k, where the workload has one)"
    )
    parser.add_argument("--direction", choices=("forward", "both"), default="both")
    parser.add_argument("--implementation", choices=COUNTED, default=OURS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=1 << 16)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="float32")
    parser.add_argument(
        "--backend", default=None, help="triton: count what its launches move (default: what any implementation moves)"
    )
    parser.add_argument(
        "--norm",
        choices=("torch", "fused"),
        default="torch",
        help="the LayerNorms of a model: torch's, or fused with the addition before them (default: torch)",
    )
    parser.add_argument(
        "--run", type=Path, metavar="JSON", help="take the peak rates of this run (default: measure them)"
    )
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
            length=options.length, itemsize=dtype.itemsize, implementation=options.implementation,
            backend=options.backend, fused_norm=options.norm == "fused",
        )  # fmt: skip
        peak_rates: Mapping[str, float | None]
        if options.run:
            peak_rates = read_run(options.run).peak_rates
        else:
            peak_rates = measure_peak_rates("cuda" if torch.cuda.is_available() else "cpu", dtype)
        print(", ".join(f"{name} {value:.4g}" for name, value in peak_rates.items() if value is not None))
        print(table(counted, peak_rates))
    except (ValueError, BadRun) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
