"""What a workload has to read, write and compute, counted from its shapes, and the time that ceilings make of it.

python -m bench.roofline --workload fftconv --variant gated --batch 1 --width 128 --length 1048576 --dtype bfloat16
python -m bench.roofline --workload two_layer_model --variant checkpointed --direction both --length 65536 \
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
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.run_file import ATTENTION, OURS, BadRun, read_run
from hyena_kernels.triton.plan import Plan, plan as plan_for

WORKLOADS = (
    "fftconv", "short_conv", "implicit_filter", "hyena_mixer", "hyena_operator", "two_layer_model", "hyenadna",
    "training_step",
)  # fmt: skip
COUNTED_PEERS = (OURS, *ATTENTION)
"""Peers whose cost is known: the others do the same work in ways of their own."""
FILTER_ROWS = 64
"""Rows of a weight gradient to a program of the filter's Triton kernels, each of which reads the other factor."""
SINE_FLOPS = 40
"""Instructions of a sine or cosine of float32 accuracy: range reduction in three terms and a polynomial."""
VOCABULARY = 16
"""Rows of the embedding and of the language model's head: 12 tokens, padded."""


@dataclass(frozen=True)
class Stage:
    """Part of a workload that runs before or after the others.

    Args:
        name: what it is.
        bytes: read and written.
        products: FLOPs of matrix products in the signals' dtype.
        exact: FLOPs of matrix products of float32 accuracy.
        vector: other FLOPs, in float32.
    """

    name: str
    bytes: int
    products: int = 0
    exact: int = 0
    vector: int = 0

    @property
    def flops(self) -> int:
        return self.products + self.exact + self.vector


@dataclass(frozen=True)
class Cost:
    """Stages of a workload, in order."""

    stages: tuple[Stage, ...]

    @property
    def bytes(self) -> int:
        return sum(stage.bytes for stage in self.stages)

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)


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


# Ops -----------------------------------------------------------------------------------------------------------------


def _rows_together(batch: int, channels: int, plan: Plan) -> int:
    """Rows that share a program and the filter's transform in it, in one pass of the Triton kernels."""
    limit = min(8, max(1, batch * channels // 256)) if plan.groups == 1 else 1
    return next(divisor for divisor in range(min(batch, limit), 0, -1) if batch % divisor == 0)


@dataclass(frozen=True)
class _Convolution:
    """``fftconv`` with filters as long as the signals; ``pre`` and ``post`` tell which gates there are."""

    batch: int
    channels: int
    length: int
    item: int
    pre: bool
    post: bool
    triton: bool

    def forward(self) -> Stage:
        plan = plan_for(self.length)
        signal, filter, scratch = self.item * self.length, 4 * self.length, 8 * plan.size
        into, out = (1 + self.pre) * signal, (1 + self.post) * signal
        programs = 1
        if self.triton and plan.columns == 1:
            programs = self.batch // _rows_together(self.batch, self.channels, plan)
        count = self.batch * (into + out) + programs * filter
        if self.triton and plan.columns > 1:
            # Columns of signal and filter, rows in place, columns back.
            count += self.batch * scratch + scratch + self.batch * 2 * scratch + scratch + self.batch * scratch
        transforms = 2 * self.batch + programs
        points = 6 * self.batch * plan.size + self.batch * (self.pre + self.post) * self.length
        return Stage("fftconv", self.channels * count, vector=self.channels * (transforms * _fft_flops(plan) + points))

    def backward(self) -> Stage:
        plan = plan_for(self.length)
        signal, filter, scratch = self.item * self.length, 4 * self.length, 8 * plan.size
        # dy, u and the gates in, their gradients but for dy out.
        once = self.batch * (3 + 2 * (self.pre + self.post)) * signal + 2 * filter
        programs = 1
        if self.triton and plan.columns == 1:
            programs = self.batch // _rows_together(self.batch, self.channels, plan)
            if programs > 1:
                # Each reads the filter and writes a sum of its own, which are added up and copied.
                once += (3 * programs + 3 - 2) * filter
        elif self.triton:
            # Signals and gates are read for the transforms, and those that are factors of a result once more.
            into = (2 + self.pre + self.post) * signal + 2 * scratch
            once = self.batch * into + filter + scratch + self.batch * (3 + self.post) * scratch + 2 * scratch
            # One inverse gives du and dpre, with pre_gate and u as factors; one gives dpost, with dy.
            once += self.batch * (scratch + (4 if self.pre else 1) * signal)
            once += self.batch * (scratch + 2 * signal) * self.post
            once += scratch + filter
        transforms = (3 + self.post) * self.batch + programs + 1
        points = (6 * (1 + self.post) + 8) * self.batch * plan.size
        points += 2 * self.batch * (self.pre + self.post) * self.length
        return Stage(
            "fftconv backward", self.channels * once, vector=self.channels * (transforms * _fft_flops(plan) + points)
        )


def _fft_flops(plan: Plan) -> int:
    """FLOPs of one complex transform, by the convention for radix 2."""
    return round(5 * plan.size * math.log2(plan.size)) if plan.size > 1 else 0


def fftconv_bytes(batch: int, channels: int, length: int, item: int) -> tuple[int, int]:
    """Bytes that the Triton kernels move in the gated forward pass, and in the backward pass with all gradients.

    Args:
        batch: batch size.
        channels: number of channels.
        length: length of signals and filters.
        item: bytes of an element of a signal; filters and scratch are float32.
    """
    convolution = _Convolution(batch, channels, length, item, True, True, True)
    return convolution.forward().bytes, convolution.backward().bytes


def filter_bytes(channels: int, length: int, features: int = 5) -> int:
    """Bytes that making the filters has to read and write: features, times and filters in float32."""
    return 4 * length * (features + 1 + channels)


def _filter_forward(channels: int, length: int, width: int = 64, layers: int = 2, features: int = 5) -> Stage:
    products = 2 * length * width * (features + layers * width + channels)
    sines = length * (width * (layers + 1) + channels) * SINE_FLOPS
    return Stage("implicit_filter", filter_bytes(channels, length, features), exact=products, vector=sines)


def _filter_backward(
    channels: int, length: int, triton: bool, width: int = 64, layers: int = 2, features: int = 5
) -> Stage:
    """Gradients of the network's weights and frequencies, which are what is trained."""
    network = features + layers * width
    # The network again, the gradients of its signals and of its weights.
    products = 2 * length * width * (network + (layers * width + channels) + (network + channels))
    vector = length * (2 * width * (layers + 1) + channels) * SINE_FLOPS
    count = filter_bytes(channels, length, features)
    if triton:
        rows = -(-channels // FILTER_ROWS), -(-width // FILTER_ROWS)
        planes = (layers + 1) + rows[0] + 2 + 3 * layers + layers * (1 + rows[1]) + 1
        # The filters' gradient and the times are read by two kernels, and so are the features.
        count = 2 * count + 4 * width * length * planes
    return Stage("implicit_filter backward", count, exact=products, vector=vector)


def _short_conv(batch: int, channels: int, length: int, item: int, backward: bool, taps: int = 3) -> Stage:
    rows = batch * channels * length
    if not backward:
        return Stage("short_conv", 2 * rows * item, vector=2 * taps * rows)
    return Stage("short_conv backward", 3 * rows * item, vector=4 * taps * rows)


def _mixer_forward(batch: int, channels: int, length: int, item: int, order: int, triton: bool) -> list[Stage]:
    steps, row = order - 1, batch * channels * length * item
    taps = 2 * 3 * batch * channels * length * (steps + 2)
    if not triton:
        # What is between the projections and the result has to be in no memory.
        convolutions = [_Convolution(batch, channels, length, item, False, True, False).forward()] * steps
        vector = taps + sum(stage.vector for stage in convolutions)
        return [Stage("hyena_mixer", (steps + 3) * row + 4 * steps * channels * length, vector=vector)]
    return [
        Stage("convolve, split, gate", (steps + 2 + steps + 1) * row, vector=taps),
        *[_Convolution(batch, channels, length, item, False, True, True).forward()] * steps,
        Stage("transpose", 2 * row),
    ]


def _mixer_backward(batch: int, channels: int, length: int, item: int, order: int, triton: bool) -> list[Stage]:
    steps, row = order - 1, batch * channels * length * item
    taps = 2 * 3 * batch * channels * length * (steps + 2)
    convolution = _Convolution(batch, channels, length, item, False, True, triton)
    again = [convolution.forward()] * (steps - 1)
    backward = [convolution.backward()] * steps
    if not triton:
        vector = 3 * taps + sum(stage.vector for stage in (*again, *backward))
        # dy and the projections in, their gradients out.
        count = (1 + 2 * (steps + 2)) * row + 2 * 4 * steps * channels * length
        return [Stage("hyena_mixer backward", count, vector=vector)]
    return [
        Stage("convolve, split, gate", (steps + 2 + steps + 1) * row, vector=taps),
        *again,
        Stage("transpose", 2 * row),
        *backward,
        Stage("gradient of gates and product", (3 * steps + 5) * row, vector=2 * taps),
    ]


# Models --------------------------------------------------------------------------------------------------------------


def _linear(name: str, tokens: int, inputs: int, outputs: int, item: int, backward: bool) -> Stage:
    products = 2 * tokens * inputs * outputs
    if not backward:
        return Stage(name, item * (tokens * (inputs + outputs) + inputs * outputs), products=products)
    # dx = dy W, dW = dyᵀ x and db = sum of dy.
    count = tokens * (3 * outputs + 2 * inputs) + 2 * inputs * outputs
    return Stage(f"{name} backward", item * count, products=2 * products)


@dataclass(frozen=True)
class _Model:
    """A language model of blocks: LayerNorm, mixer, LayerNorm, MLP; the residual is float32."""

    batch: int
    width: int
    length: int
    item: int
    order: int
    layers: int
    triton: bool
    peer: str
    checkpointed: bool

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def _operator(self, backward: bool) -> list[Stage]:
        shape = self.batch, self.width, self.length, self.item
        into = _linear("in_proj", self.tokens, self.width, (self.order + 1) * self.width, self.item, backward)
        out = _linear("out_proj", self.tokens, self.width, self.width, self.item, backward)
        channels = self.width * (self.order - 1)
        if backward:
            filters = _filter_backward(channels, self.length, self.triton)
            return [out, *_mixer_backward(*shape, self.order, self.triton), filters, into]
        filters = _filter_forward(channels, self.length)
        return [into, filters, *_mixer_forward(*shape, self.order, self.triton), out]

    def _attention(self, backward: bool) -> list[Stage]:
        into = _linear("qkv", self.tokens, self.width, 3 * self.width, self.item, backward)
        out = _linear("out_proj", self.tokens, self.width, self.width, self.item, backward)
        middle = attention(self.batch, self.width, self.length, self.item, backward, scores=self.peer == "sdpa_math")
        return [out, middle, into] if backward else [into, middle, out]

    def _mixer(self, backward: bool) -> list[Stage]:
        return self._operator(backward) if self.peer == OURS else self._attention(backward)

    def _norm(self, backward: bool) -> Stage:
        elements = self.tokens * self.width
        if backward:
            return Stage("LayerNorm backward", elements * (4 + self.item + 4), vector=12 * elements)
        return Stage("LayerNorm", elements * (4 + self.item), vector=8 * elements)

    def _add(self, backward: bool) -> Stage:
        elements = self.tokens * self.width
        if backward:
            # The branch's part of the gradient, and the sum of both.
            return Stage("residual backward", elements * ((4 + self.item) + 3 * 4), vector=elements)
        return Stage("residual", elements * (4 + self.item + 4), vector=elements)

    def _mlp(self, backward: bool) -> list[Stage]:
        elements = self.tokens * 4 * self.width
        first = _linear("fc1", self.tokens, self.width, 4 * self.width, self.item, backward)
        second = _linear("fc2", self.tokens, 4 * self.width, self.width, self.item, backward)
        if backward:
            return [second, Stage("GELU backward", 3 * elements * self.item, vector=30 * elements), first]
        return [first, Stage("GELU", 2 * elements * self.item, vector=20 * elements), second]

    def _block(self, backward: bool) -> list[Stage]:
        norm, add = self._norm(backward), self._add(backward)
        if backward:
            return [add, *self._mlp(True), norm, add, *self._mixer(True), norm]
        return [norm, *self._mixer(False), add, norm, *self._mlp(False), add]

    def forward(self) -> list[Stage]:
        embedding = Stage("embedding", self.tokens * (8 + 4 * self.width))
        head = _linear("head", self.tokens, self.width, VOCABULARY, self.item, False)
        return [embedding, *self._block(False) * self.layers, self._norm(False), head]

    def backward(self) -> list[Stage]:
        logits = 4 * self.tokens * VOCABULARY
        head = _linear("head", self.tokens, self.width, VOCABULARY, self.item, True)
        block = [*(self._block(False) if self.checkpointed else ()), *self._block(True)]
        return [
            # To float32, to log probabilities, and the gradient back from them.
            Stage("loss", 4 * logits),
            head,
            self._norm(True),
            *block * self.layers,
            Stage("embedding backward", self.tokens * (8 + 4 * self.width)),
        ]

    def parameters(self) -> int:
        """Trained parameters of the Hyena model."""
        width, projections, filters = self.width, (self.order + 1) * self.width, (self.order - 1) * self.width
        operator = (width + 1) * projections + (width + 1) * width + (3 + 1) * projections
        network = (5 + 1) * 64 + 2 * (64 + 1) * 64 + 64 * filters + 64 + filters
        mlp = (width + 1) * 4 * width + (4 * width + 1) * width
        # Two LayerNorms a block, one at the end; the head has a matrix of its own.
        return self.layers * (operator + network + mlp + 4 * width) + 2 * width + 2 * VOCABULARY * width


def attention(batch: int, width: int, length: int, item: int, backward: bool, *, scores: bool = False) -> Stage:
    """Causal softmax attention, which computes half of the L² scores; the width of a head does not matter.

    Args:
        batch: batch size.
        width: of all heads together.
        length: of queries and keys.
        item: bytes of an element.
        backward: five products instead of two, the scores computed again.
        scores: whether they go through memory, whole, as in the implementation of matrix products and a softmax.
    """
    row = batch * width * length * item
    heads = max(1, width // 64)
    half, square = batch * length * (length + 1) * width, batch * heads * length * length
    if not backward:
        # Scores written, masked, normalised and read.
        through = 6 * square * item if scores else 0
        products = 2 * half * (2 if scores else 1)
        return Stage("attention", 4 * row + through, products=products, vector=5 * square // (1 if scores else 2))
    through = 7 * square * item if scores else 0
    # q, k, v, y and dy in, dq, dk and dv out.
    products = 4 * half * 2 if scores else 5 * half
    return Stage("attention backward", 8 * row + through, products=products, vector=8 * square // (1 if scores else 2))


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
        convolution = _Convolution(*shape, variant == "gated", variant == "gated", triton)
        return Cost((convolution.forward(), *([convolution.backward()] if backward else ())))
    if workload == "short_conv":
        return Cost(tuple(_short_conv(*shape, each) for each in ((False, True) if backward else (False,))))
    if workload == "implicit_filter":
        gradients = [_filter_backward(width, length, triton)] if backward else []
        return Cost((_filter_forward(width, length), *gradients))
    if workload == "hyena_mixer":
        return Cost(
            (
                *_mixer_forward(*shape, order, triton),
                *(_mixer_backward(*shape, order, triton) if backward else ()),
            )
        )
    if layers is None:
        layers = 2 if workload in ("two_layer_model", "hyena_operator") else _layers_of(variant)
    if checkpointed is None:
        checkpointed = variant == "checkpointed"
    model = _Model(batch, width, length, itemsize, order, layers, triton, peer, checkpointed)
    if workload == "hyena_operator":
        return Cost((*model._operator(False), *(model._operator(True) if backward else ())))
    stages = [*model.forward(), *(model.backward() if backward else ())]
    if workload == "training_step":
        count = model.parameters()
        # Weight, gradient and two moments in; weight and moments out.
        stages.append(Stage("AdamW", 7 * 4 * count, vector=15 * count))
    return Cost(tuple(stages))


def _layers_of(configuration: str) -> int:
    # Imported here: of all this, only the published sizes need transformers.
    from hyenadna.config import PUBLISHED_SIZES

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
        prog="python -m bench.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
