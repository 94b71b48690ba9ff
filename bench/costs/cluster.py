"""Predict a training step of one sequence that is split over many GPUs: seconds, bytes that cross, memory a rank.

Nothing here has been measured on several GPUs. What one GPU takes is measured, and read from ``bench/results``. Rates
of the wire and of matrix products are assumed. :class:`Rates` says which is which. Bytes that cross are those of
``hyena_kernels.distributed``, which ``bench.kernels.cluster --check`` counts in real processes.

The sequence has L positions in contiguous shards, one a rank. Each layer sends its gated signal from shards of
positions to shards of channels, convolves whole rows there, and sends the result back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.common.run_file import CALLS, OURS, Run, read_run
from bench.costs.costs import Model, Stage, filter_backward, filter_forward
from hyena_kernels.backends.extension import MAX_FAST_LENGTH
from hyena_kernels.backends.triton.plan import MAX_LENGTH

RESULTS = Path(__file__).parents[1] / "results" / "nvidia-h200"
SUITE, BACKENDS = "suite.json", "backends.json"

MEASURED_LENGTH, MEASURED_WIDTH, MEASURED_LAYERS = 1 << 20, 128, 2
"""Shape of the measurements: one sequence in bfloat16, and a model of two layers that computes its blocks again."""

TAPS = 3
"""Taps of the short convolution, as in every published model."""
ITEM = 2
"""Bytes of an element of the signals: bfloat16."""
POSITION_BYTES = 24
"""Bytes of the features of a position: five columns and a time in float32, one set for all layers."""
ADAMW_BYTES = 16
"""Bytes of a parameter: weight, gradient and two moments in float32."""

KERNELS = {
    "today": f"CUDA C++ up to {MAX_FAST_LENGTH:,} positions, Triton up to {MAX_LENGTH:,}, cuFFT beyond",
    "blocks": "CUDA C++ at every length, with longer rows cut into blocks: not built",
}
FILTERS = {
    "best": "the faster of the two",
    "channels": "each rank makes its channels for all positions, and nothing crosses",
    "sequence": "each rank makes its positions for all channels, and they cross",
}
POSITIONS = {"whole": "every rank has the features of all positions", "own": "each rank has those of its shard"}


def _measured(unit: str, meaning: str, source: str) -> Any:
    return field(metadata={"unit": unit, "meaning": meaning, "source": source})


def _assumed(value: float, unit: str, meaning: str) -> Any:
    return field(default=value, metadata={"unit": unit, "meaning": meaning, "source": None})


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a prediction is made of. Metadata of a field: its unit, its meaning, and its source or None if assumed.

    Times in ms are of one op over ``MEASURED_LENGTH`` positions of ``MEASURED_WIDTH`` channels.
    """

    mixer_forward_ms: float = _measured("ms", "hyena_mixer forward, CUDA C++", SUITE)
    mixer_backward_ms: float = _measured("ms", "hyena_mixer backward, CUDA C++", SUITE)
    filter_forward_ms: float = _measured("ms", "implicit_filter forward", SUITE)
    filter_backward_ms: float = _measured("ms", "implicit_filter backward", SUITE)
    triton_forward: float = _measured("times", "the mixer in Triton over CUDA C++, forward", BACKENDS)
    triton_backward: float = _measured("times", "the mixer in Triton over CUDA C++, backward", BACKENDS)
    cufft_forward: float = _measured("times", "the mixer with its convolution by cuFFT over CUDA C++, forward", SUITE)
    cufft_backward: float = _measured("times", "the same, backward", SUITE)
    copy_gb_s: float = _measured("GB/s", "read and written by a copy: parts of an exchange, AdamW", SUITE)
    around_gb_s: float = _measured("GB/s", "norms, GELU, sums, casts, loss: what a step leaves for them", SUITE)
    launch_ms: float = _measured("ms", "a layer's launches from Python in a step of few positions", SUITE)
    memory_gb: float = _measured("GB", "memory of a GPU", SUITE)
    mixer_bytes: float = _measured("bytes", "peak of hyena_mixer backward, a channel and position", SUITE)
    cufft_bytes: float = _measured("bytes", "peak of a convolution by cuFFT, a channel and position", SUITE)
    dense_tflop_s: float = _assumed(350.0, "TFLOP/s", "matrix products in bfloat16")
    node_gpus: float = _assumed(8.0, "GPUs", "GPUs of a node")
    node_gb_s: float = _assumed(350.0, "GB/s", "sent by a GPU within its node")
    network_gb_s: float = _assumed(45.0, "GB/s", "sent by a GPU to other nodes")
    latency_us: float = _assumed(20.0, "µs", "start of an exchange")
    blocks_slower: float = _assumed(1.5, "times", "rows above 2^24 positions in blocks, with `--kernels blocks`")

    def __post_init__(self) -> None:
        for each in self.fields():
            value, least = getattr(self, each.name), 1.0 if each.name == "node_gpus" else 0.0
            may_be_least = each.name in ("node_gpus", "latency_us", "launch_ms")
            if not (least <= value < math.inf if may_be_least else least < value < math.inf):
                bound = f"{least:g} or more" if may_be_least else f"above {least:g}"
                raise ValueError(f"{each.name} is {value:g} {each.metadata['unit']}: it must be {bound}")

    @classmethod
    def committed(cls, folder: Path = RESULTS, **others: float | None) -> Rates:
        """The measured values of the committed files, and assumed ones; ``others`` replace some of either.

        Raises:
            BadRun: a file of a run cannot be read.
            LookupError: a measurement is missing.
        """
        given = {name: value for name, value in others.items() if value is not None}
        rates = {**_from_suite(read_run(folder / SUITE)), **_from_backends(folder / BACKENDS), **given}
        # What a step leaves depends on the rate of its products.
        if "around_gb_s" not in given:
            rates["around_gb_s"] = _around_rate(read_run(folder / SUITE), cls(**{**rates, "around_gb_s": 1.0}))
        return cls(**rates)

    @classmethod
    def fields(cls) -> Iterator[Field[float]]:
        """Fields with their metadata."""
        yield from fields(cls)


def _record(run: Run, workload: str, variant: str, direction: str, length: int, implementation: str = OURS) -> Any:
    for record in run.records:
        shape = record["batch"], record["width"], record["length"]
        named = record["workload"], record["variant"], record["direction"], record["implementation"], record["launch"]
        same = named == (workload, variant, direction, implementation, CALLS)
        if same and shape == (1, MEASURED_WIDTH, length) and record["status"] == "measured":
            return record
    raise LookupError(f"{run.path}: no time of {workload} {variant} {direction} of {implementation}, L = {length:,}")


def _pair(run: Run, workload: str, variant: str, implementation: str = OURS) -> tuple[float, float]:
    """Milliseconds forward and backward."""
    forward, both = (
        1e3 * _record(run, workload, variant, direction, MEASURED_LENGTH, implementation)["seconds"]
        for direction in ("forward", "both")
    )
    return forward, both - forward


def _from_suite(run: Run) -> dict[str, float]:
    points = MEASURED_WIDTH * MEASURED_LENGTH
    mixer, taps = _pair(run, "hyena_mixer", ""), _pair(run, "implicit_filter", "")
    conv, cufft = (_pair(run, "fftconv", "plain", each) for each in (OURS, "published"))
    steps = [
        record["seconds"]
        for record in run.records
        if (record["workload"], record["variant"], record["implementation"])
        == ("two_layer_model", "checkpointed", OURS)
        and record["status"] == "measured"
    ]
    copy = run.peak_rates.get("copy_bytes_per_s")
    if not copy:
        raise LookupError(f"{run.path}: no copy_bytes_per_s")
    peaks = [
        _record(run, *case)["peak_bytes"] / points
        for case in (
            ("hyena_mixer", "", "both", MEASURED_LENGTH),
            ("fftconv", "plain", "both", MEASURED_LENGTH, "published"),
        )
    ]
    return {
        "mixer_forward_ms": mixer[0],
        "mixer_backward_ms": mixer[1],
        "filter_forward_ms": taps[0],
        "filter_backward_ms": taps[1],
        "cufft_forward": 1 + (cufft[0] - conv[0]) / mixer[0],
        "cufft_backward": 1 + (cufft[1] - conv[1]) / mixer[1],
        "copy_gb_s": copy / 1e9,
        # The shortest time: a step of few positions takes as long as Python takes to launch it.
        "launch_ms": 1e3 * min(steps) / MEASURED_LAYERS,
        "memory_gb": float(run.machine["memory_gib"]) * 2**30 / 1e9,
        "mixer_bytes": peaks[0],
        "cufft_bytes": peaks[1],
    }


def _from_backends(path: Path) -> dict[str, float]:
    found = {
        (line["op"], line["L"], line["B"], line["D"]): line["ms"]
        for line in json.loads(path.read_text(encoding="utf-8"))
        if "ms" in line
    }
    try:
        mixer = found["hyena_mixer", MEASURED_LENGTH, 1, MEASURED_WIDTH]
    except KeyError as missing:
        raise LookupError(f"{path}: no times of {missing}") from None

    triton, cuda = (mixer[f"{each}_both_call"] - mixer[f"{each}_fwd_call"] for each in ("triton", "cuda"))
    return {"triton_forward": mixer["triton_fwd_call"] / mixer["cuda_fwd_call"], "triton_backward": triton / cuda}


def _around_rate(run: Run, rates: Rates) -> float:
    """Counted GB a second of all in the measured step that is neither mixer, filter nor product."""
    measured = _record(run, "two_layer_model", "checkpointed", "both", MEASURED_LENGTH)["seconds"]
    shape = Shape(MEASURED_WIDTH, MEASURED_LAYERS)
    parts = predict(MEASURED_LENGTH, 1, shape, rates).parts
    left = measured - parts["mixer"] - parts["filter"] - parts["dense"]
    if left <= 0:
        raise LookupError(f"{run.path}: the step is shorter than its parts: raise dense_tflop_s")
    return parts["around"] / left


# Shards --------------------------------------------------------------------------------------------------------------


def split(total: int, ranks: int) -> tuple[int, ...]:
    """``total`` in parts as even as possible, the larger ones first."""
    return tuple(total // ranks + (rank < total % ranks) for rank in range(ranks))


@dataclass(frozen=True)
class Shape:
    """The shape of a model; ``batch`` sequences of a rank, ``item`` bytes of an element on the wire."""

    width: int = 256
    layers: int = 8
    order: int = 2
    batch: int = 1
    item: int = ITEM
    filter_item: int = 4
    taps: int = TAPS


@dataclass(frozen=True)
class Sent:
    """Bytes that leave one rank in one layer: of signals, of the halo, and of the filters."""

    signals: int
    halo: int
    filters: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.signals + self.halo + self.filters


def sent(lengths: Sequence[int], rank: int, shape: Shape, *, backward: bool, filters: str = "channels") -> Sent:
    """Bytes that a rank sends in one direction of one layer. A recomputed block sends those of forward again.

    Args:
        lengths: positions of each rank.
        rank: whose bytes.
        shape: the model.
        backward: the gradients' way, which is the reverse of each exchange.
        filters: ``"channels"`` or ``"sequence"``, as in :data:`FILTERS`.
    """
    ranks, steps, total = len(lengths), shape.order - 1, sum(lengths)
    channels = split(shape.width, ranks)[rank]
    away = shape.width - channels
    # To the channels of all other ranks go the product and all gates but two, and one result comes back.
    to_channels, to_sequence = away * lengths[rank], channels * (total - lengths[rank])
    signals = to_channels + steps * to_sequence if backward else steps * to_channels + to_sequence
    halo = (shape.taps - 1) * (shape.order + 1) * shape.width * shape.batch * shape.item
    # Forward the last rank has no neighbour on its right, backward the first none on its left.
    ends = rank == (0 if backward else ranks - 1)
    taps = 0
    if filters == "sequence":
        # Taps are split evenly, whatever the shards are.
        part = split(total, ranks)[rank]
        taps = steps * (channels * (total - part) if backward else away * part)
    return Sent(shape.batch * signals * shape.item, 0 if ends else halo, taps * shape.filter_item)


@dataclass(frozen=True)
class Saved:
    """Bytes that one rank keeps for the backward pass of one Hyena operator of order 2."""

    signals: int
    """By position: what in_proj, the short convolution, the gates and out_proj were given."""
    rows: int
    """By channel: what the long convolution was given."""
    filters: int
    """The taps of the own channels."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.signals + self.rows + self.filters


def saved(lengths: Sequence[int], rank: int, shape: Shape) -> Saved:
    """Bytes that autograd keeps of a rank's operator, apart from what does not grow with the sequence."""
    ranks, width, own = len(lengths), shape.width, shape.batch * lengths[rank]
    rows = split(width, ranks)[rank] * sum(lengths)
    # The inputs of in_proj and out_proj, and the projections; with shards their short convolution and what comes back.
    of_position = (2 + 3) * width + (4 * width if ranks > 1 else 0)
    return Saved(
        own * of_position * shape.item,
        shape.batch * rows * shape.item if ranks > 1 else 0,
        rows * shape.filter_item,
    )


# Time and memory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A predicted training step of one sequence."""

    length: int
    gpus: int
    parts: Mapping[str, float]
    """Seconds by kind of work, one after the other."""
    launches: float
    """Seconds of Python. No step is shorter, unless it is a CUDA graph."""
    kernel: str
    """What convolves rows of this length: cuda, triton, cufft or blocks."""
    filters: str
    """How the filters are made: by channels or by sequence."""
    sent: Sent
    """Bytes that leave the first rank in a layer: forward, recomputation and backward."""
    memory: Mapping[str, float]
    """Bytes by what they are; their sum is the peak."""

    @property
    def wire(self) -> float:
        """Seconds of exchanges within the layers."""
        return self.parts["all-to-all"] + self.parts["halo"]

    def seconds(self, overlap: bool = False) -> float:
        """Seconds of the step; with ``overlap`` all exchanges run while the mixer computes, as far as it lasts."""
        total = sum(self.parts.values())
        return max(total - (min(self.parts["mixer"], self.wire) if overlap else 0.0), self.launches)

    @property
    def peak(self) -> float:
        """Bytes of memory."""
        return sum(self.memory.values())


def kernel_of(length: int, kernels: str) -> str:
    """Which kernels convolve rows of ``length`` on a GPU; ``kernels`` as in :data:`KERNELS`."""
    if length <= MAX_FAST_LENGTH:
        return "cuda"
    if kernels == "blocks":
        return "blocks"
    return "triton" if length <= MAX_LENGTH else "cufft"


def _slowdown(length: int, kernels: str, rates: Rates) -> tuple[float, float]:
    """Times of a point's convolution, forward and backward, over those measured at ``MEASURED_LENGTH``."""
    # The operations of a transform of a row and as many zeros.
    growth = math.log2(2 * length) / math.log2(2 * MEASURED_LENGTH)
    forward, backward = {
        "cuda": (1.0, 1.0),
        "triton": (rates.triton_forward, rates.triton_backward),
        "cufft": (rates.cufft_forward, rates.cufft_backward),
        "blocks": (rates.blocks_slower, rates.blocks_slower) if length > MAX_LENGTH else (1.0, 1.0),
    }[kernel_of(length, kernels)]
    return growth * forward, growth * backward


def _mixer(length: int, lengths: Sequence[int], shape: Shape, rates: Rates, kernels: str) -> tuple[float, float]:
    """Seconds of one layer forward and backward, between the projections, of the first rank."""
    slower, steps, ranks = _slowdown(length, kernels, rates), shape.order - 1, len(lengths)
    # Whole rows of its channels, of which the first rank has the most.
    rows = steps * shape.batch * split(shape.width, ranks)[0] * length / (MEASURED_WIDTH * MEASURED_LENGTH)
    # What is sent lies elsewhere than what is computed with: two exchanges, each copied on both sides.
    moved = 0 if ranks == 1 else 2 * 2 * 2 * steps * shape.batch * shape.width * lengths[0] * ITEM
    copies = moved / (rates.copy_gb_s * 1e9)
    ms = rates.mixer_forward_ms * slower[0], rates.mixer_backward_ms * slower[1]
    return ms[0] / 1e3 * rows + copies, ms[1] / 1e3 * rows + copies


def _operations(stage: Stage) -> int:
    return stage.exact + stage.vector


def _taps(positions: int, channels: int, rates: Rates) -> tuple[float, float]:
    """Seconds of a layer's filters, forward and backward, by their counted operations."""
    of = (filter_forward, lambda D, L: filter_backward(D, L, True))
    ms = rates.filter_forward_ms, rates.filter_backward_ms
    forward, backward = (
        each / 1e3 * _operations(count(channels, positions)) / _operations(count(MEASURED_WIDTH, MEASURED_LENGTH))
        for each, count in zip(ms, of, strict=True)
    )
    return forward, backward


def exchange_seconds(count: float, gpus: int, rates: Rates) -> float:
    """Seconds until ``count`` bytes have left each of ``gpus`` ranks, evenly to all others.

    Those to the own node and those to other nodes go at the same time.
    """
    if gpus == 1 or not count:
        return 0.0
    near = min(gpus, int(rates.node_gpus)) - 1
    each = count / (gpus - 1) / 1e9
    times = near * each / rates.node_gb_s, (gpus - 1 - near) * each / rates.network_gb_s
    return max(times) + rates.latency_us / 1e6


def predict(
    length: int,
    gpus: int,
    shape: Shape,
    rates: Rates,
    *,
    kernels: str = "today",
    filters: str = "best",
    recompute: bool = True,
    positions: str = "whole",
) -> Step:
    """Predict one training step of one sequence: forward, recomputation of the blocks, backward, AdamW.

    Args:
        length: positions of the sequence.
        gpus: ranks, each with one contiguous shard.
        shape: the model.
        rates: constants.
        kernels: one of :data:`KERNELS`.
        filters: one of :data:`FILTERS`.
        recompute: whether blocks are computed again in backward.
        positions: one of :data:`POSITIONS`.

    Raises:
        ValueError: an argument is not one of these, or there are fewer positions than a shard needs.
    """
    if min(shape.width, shape.layers, shape.batch) < 1:
        raise ValueError(f"width {shape.width}, layers {shape.layers} and batch {shape.batch} go from 1")
    if shape.order != 2:
        raise ValueError(f"order is {shape.order}: only the seconds and bytes of order 2 are predicted")
    for name, value, known in (
        ("kernels", kernels, KERNELS),
        ("filters", filters, FILTERS),
        ("positions", positions, POSITIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(known)}")
    if gpus < 1 or length < gpus * max(1, shape.taps - 1):
        raise ValueError(f"length {length} on {gpus} GPUs: each needs {max(1, shape.taps - 1)} positions or more")
    if filters == "best":
        both = [
            predict(length, gpus, shape, rates, kernels=kernels, filters=each, recompute=recompute, positions=positions)
            for each in ("channels", "sequence")
        ]
        return min(both, key=lambda step: sum(step.parts.values()))
    lengths, layers, passes = split(length, gpus), shape.layers, 1 + recompute
    own = lengths[0]
    # Both counts grow with the positions and with nothing else, so few are counted: transforms of long rows are not.
    counted = 1 << 10
    model = Model(shape.batch, shape.width, counted, ITEM, shape.order, layers, False, OURS, recompute)
    stages = [*model.forward(), *model.backward()]
    products = sum(stage.products for stage in stages) * own / counted
    mixing = ("hyena_mixer", "implicit_filter", "hyena_mixer backward", "implicit_filter backward")
    around = sum(stage.bytes for stage in stages if not stage.products and stage.name not in mixing) * own / counted
    mixer = _mixer(length, lengths, shape, rates, kernels)
    by_sequence = filters == "sequence"
    taps = _taps(
        own if by_sequence else length,
        (shape.order - 1) * (shape.width if by_sequence else split(shape.width, gpus)[0]),
        rates,
    )
    forward, backward = (sent(lengths, 0, shape, backward=each, filters=filters) for each in (False, True))
    # The first rank sends no halo backward. Those after it do.
    halo = forward.halo
    # Signals go there and back, in two exchanges, and filters in one.
    across = sum(
        times * exchange_seconds(count / times, gpus, rates)
        for way in (*[forward] * passes, backward)
        for times, count in ((2, way.signals), (1, way.filters))
    )
    edge = 0.0
    if gpus > 1:
        rate = rates.network_gb_s if gpus > rates.node_gpus else rates.node_gb_s
        edge = (passes + 1) * (halo / rate / 1e9 + rates.latency_us / 1e6)
    parameters = model.parameters()
    reduced = 0.0
    if gpus > 1:
        slowest = rates.network_gb_s if gpus > rates.node_gpus else rates.node_gb_s
        reduced = 2 * (gpus - 1) / gpus * 4 * parameters / slowest / 1e9 + rates.latency_us / 1e6
    parts = {
        "mixer": layers * (passes * mixer[0] + mixer[1]),
        "filter": layers * (passes * taps[0] + taps[1]),
        "dense": products / (rates.dense_tflop_s * 1e12),
        "around": around / (rates.around_gb_s * 1e9),
        "all-to-all": layers * across,
        "halo": layers * edge,
        "all-reduce": reduced,
        "optimizer": 7 * 4 * parameters / (rates.copy_gb_s * 1e9),
    }
    return Step(
        length,
        gpus,
        parts,
        layers * rates.launch_ms / 1e3,
        kernel_of(length, kernels),
        filters,
        Sent(
            passes * forward.signals + backward.signals,
            passes * forward.halo + backward.halo,
            passes * forward.filters + backward.filters,
        ),
        _memory(length, lengths, shape, rates, kernels, recompute, by_sequence, positions, parameters),
    )


def _memory(
    length: int,
    lengths: Sequence[int],
    shape: Shape,
    rates: Rates,
    kernels: str,
    recompute: bool,
    by_sequence: bool,
    positions: str,
    parameters: int,
) -> dict[str, float]:
    """Bytes of a rank at the peak of backward, by what they are."""
    width, own, inner = shape.width, lengths[0] * shape.batch, 4 * shape.width
    operator = saved(lengths, 0, shape)
    # Of the rest of a block: the residual in its middle, norm2's output, and the two of the hidden layer.
    of_mlp = own * (4 * width + ITEM * (width + 2 * inner))
    kept = 1 if recompute else shape.layers
    scratch = rates.cufft_bytes if kernel_of(length, kernels) == "cufft" else rates.mixer_bytes
    # In backward of the MLP: gradients of the residual and of the hidden layer, beside all that the block saved. In
    # backward of the mixer: the MLP's tensors are gone, the convolution works in scratch, and what crosses is there
    # twice, as it was sent and as it arrived.
    in_mlp = own * (4 * width + ITEM * inner)
    rows = split(width, len(lengths))[0] * length * shape.batch
    crossing = 0 if len(lengths) == 1 else 2 * own * width * ITEM
    if by_sequence and len(lengths) > 1:
        crossing += 2 * operator.filters
    in_mixer = own * 2 * 4 * width + scratch * rows + crossing - of_mlp
    return {
        "weights and AdamW": float((ADAMW_BYTES + (4 if len(lengths) > 1 else 0)) * parameters),
        "positions": float(POSITION_BYTES * (length if positions == "whole" else lengths[0])),
        # The inputs of all blocks, the last residual, and the mask of the embedding's dropout.
        "residuals": float((shape.layers + 1) * 4 * own * width + own * width),
        "blocks": float(kept * (operator.total - operator.filters + of_mlp)),
        "filters": float(kept * operator.filters),
        "backward": float(max(in_mlp, in_mixer)),
    }


def limits(step: Step, shape: Shape, rates: Rates) -> list[str]:
    """What is in the way of a step, in words: kernels, memory, numbers of 32 bits, launches."""
    found = []
    if step.kernel in ("triton", "cufft"):
        found.append(f"rows are longer than the {MAX_FAST_LENGTH:,} positions of the CUDA C++ kernels")
    if step.kernel == "cufft":
        found.append(
            f"rows are longer than the {MAX_LENGTH:,} positions of the Triton kernels, which leaves cuFFT: the mixer "
            f"takes {rates.cufft_forward:.1f} and {rates.cufft_backward:.1f} times as long, forward and backward"
        )
    if 2 * step.length >= 1 << 31:
        found.append("a transform of twice the length has 2^31 points or more, which no test has tried with cuFFT")
    if step.memory["positions"] >= 0.05 * rates.memory_gb * 1e9:
        found.append("the features of all positions take a twentieth of a GPU or more, on every rank")
    if (
        max(split(step.length, step.gpus)[0] * 4 * shape.width, split(shape.width, step.gpus)[0] * step.length)
        >= 1 << 31
    ):
        found.append(
            f"on {step.gpus} GPUs a tensor of a rank has 2^31 elements or more, which ops were tested with and no step"
        )
    if step.peak > rates.memory_gb * 1e9:
        found.append(f"memory is too small on {step.gpus} GPUs")
    if step.seconds() == step.launches:
        found.append(f"on {step.gpus} GPUs the GPU waits for Python, unless a step is one CUDA graph")
    return found
