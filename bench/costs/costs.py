"""Count bytes and FLOPs of ops and models from their shapes, stage by stage. ``roofline.py`` combines them.

Every op reads its inputs and writes its results once, weights included. Tables of the transforms, partial sums and the
casts of autocast are not counted, except for the cast behind a LayerNorm. With ``triton``, the bytes are those that the
launches of the Triton kernels move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bench.common.run_file import OURS
from hyena_kernels.backends.triton.plan import Plan, plan as plan_for

FILTER_ROWS = 64
"""Rows of a weight gradient per program of the filter's Triton kernels. Each program reads the other factor."""
INNER_BYTES = 4
"""Bytes of an element between projections and result of the mixer's Triton kernels: float32."""
_SINE_FLOPS = 40
"""Instructions of a sine of float32 accuracy: range reduction in three terms and a polynomial."""
VOCABULARY = 16
"""Rows of the embedding and of the head: 12 tokens, padded."""


@dataclass(frozen=True)
class Stage:
    """One part of a workload. Stages run one after another.

    Args:
        name: name in tables.
        bytes: bytes read and written.
        products: FLOPs of matrix products in the dtype of the signals.
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
        """All FLOPs."""
        return self.products + self.exact + self.vector


@dataclass(frozen=True)
class Cost:
    """The stages of a workload, in order."""

    stages: tuple[Stage, ...]

    @property
    def bytes(self) -> int:
        return sum(stage.bytes for stage in self.stages)

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)


# Ops -----------------------------------------------------------------------------------------------------------------


def _rows_together(batch: int, channels: int, plan: Plan) -> int:
    """Rows per program of the single-pass Triton kernels. They share the transform of the filter."""
    limit = min(8, max(1, batch * channels // 256)) if plan.groups == 1 else 1
    return next(divisor for divisor in range(min(batch, limit), 0, -1) if batch % divisor == 0)


@dataclass(frozen=True)
class Convolution:
    """``fftconv`` with filters as long as the signals and a skip. ``pre`` and ``post`` say which gates there are.

    ``item`` is the bytes of an element of the signal, the gates and their gradients. ``result`` is that of the result
    and its gradient, if it is another.
    """

    batch: int
    channels: int
    length: int
    item: int
    pre: bool
    post: bool
    triton: bool
    result: int | None = None

    def _row(self) -> tuple[int, int]:
        """Bytes of a row of the signal and of the result."""
        return self.item * self.length, (self.item if self.result is None else self.result) * self.length

    def forward(self) -> Stage:
        plan = plan_for(self.length)
        (signal, result), filter, scratch = self._row(), 4 * self.length, 8 * plan.size
        into, out = (1 + self.pre) * signal, result + self.post * signal
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
        (signal, result), filter, scratch = self._row(), 4 * self.length, 8 * plan.size
        factors = result + (1 + self.pre + self.post) * signal
        # Read dy, u and the gates; write the gradients of u and the gates.
        once = self.batch * (factors + (1 + self.pre + self.post) * signal) + 2 * filter
        programs = 1
        if self.triton and plan.columns == 1:
            programs = self.batch // _rows_together(self.batch, self.channels, plan)
            if programs > 1:
                # Each program reads the filter and writes a sum. The sums are added up and copied.
                once += (3 * programs + 3 - 2) * filter
        elif self.triton:
            # Signals and gates are read for the transforms. Factors of a result are read once more.
            into = factors + 2 * scratch
            once = self.batch * into + filter + scratch + self.batch * (3 + self.post) * scratch + 2 * scratch
            # One inverse gives du and dpre (factors pre_gate and u), another gives dpost (factor dy).
            once += self.batch * (scratch + (4 if self.pre else 1) * signal)
            once += self.batch * (scratch + signal + result) * self.post
            once += scratch + filter
        if self.triton:
            # The gradient of the skip is summed from all of them.
            once += self.batch * factors
        transforms = (3 + self.post) * self.batch + programs + 1
        points = (6 * (1 + self.post) + 8) * self.batch * plan.size
        points += 2 * self.batch * (self.pre + self.post) * self.length
        return Stage(
            "fftconv backward", self.channels * once, vector=self.channels * (transforms * _fft_flops(plan) + points)
        )


def _fft_flops(plan: Plan) -> int:
    """FLOPs of one complex transform, by the radix-2 convention."""
    return round(5 * plan.size * math.log2(plan.size)) if plan.size > 1 else 0


def _filter_bytes(channels: int, length: int, features: int = 5) -> int:
    """Bytes of making the filters: features, times and filters in float32."""
    return 4 * length * (features + 1 + channels)


def filter_forward(channels: int, length: int, width: int = 64, layers: int = 2, features: int = 5) -> Stage:
    """Forward pass of ``implicit_filter``: a network with ``layers`` hidden layers of ``width``, and its window."""
    products = 2 * length * width * (features + layers * width + channels)
    sines = length * (width * (layers + 1) + channels) * _SINE_FLOPS
    return Stage("implicit_filter", _filter_bytes(channels, length, features), exact=products, vector=sines)


def filter_backward(
    channels: int, length: int, triton: bool, width: int = 64, layers: int = 2, features: int = 5
) -> Stage:
    """Gradients of the trained tensors: weights and frequencies of the network."""
    network = features + layers * width
    # The network again, then the gradients of its signals and of its weights.
    products = 2 * length * width * (network + (layers * width + channels) + (network + channels))
    vector = length * (2 * width * (layers + 1) + channels) * _SINE_FLOPS
    count = _filter_bytes(channels, length, features)
    if triton:
        rows = -(-channels // FILTER_ROWS), -(-width // FILTER_ROWS)
        # Sines and gradients are written, and read for the sums. Cosines stay in the cache until they are read.
        planes = 2 * (layers + 1) + rows[0] + layers * (1 + rows[1]) + 1
        # Two kernels read the gradient of the filters, the times and the features.
        count = 2 * count + 4 * width * length * planes
    return Stage("implicit_filter backward", count, exact=products, vector=vector)


def short_conv(batch: int, channels: int, length: int, item: int, backward: bool, taps: int = 3) -> Stage:
    """``short_conv`` in one direction."""
    rows = batch * channels * length
    if not backward:
        return Stage("short_conv", 2 * rows * item, vector=2 * taps * rows)
    return Stage("short_conv backward", 3 * rows * item, vector=4 * taps * rows)


def mixer_forward(batch: int, channels: int, length: int, item: int, order: int, triton: bool) -> list[Stage]:
    """Forward pass of ``hyena_mixer``."""
    steps, row = order - 1, batch * channels * length * item
    inner = batch * channels * length * INNER_BYTES
    taps = 2 * 3 * batch * channels * length * (steps + 2)
    if not triton:
        # Nothing between the projections and the result needs memory.
        convolutions = [Convolution(batch, channels, length, item, False, True, False).forward()] * steps
        vector = taps + sum(stage.vector for stage in convolutions)
        return [Stage("hyena_mixer", (steps + 3) * row + 4 * steps * channels * length, vector=vector)]
    return [
        Stage("convolve, split, gate", (steps + 2) * row + (steps + 1) * inner, vector=taps),
        *[convolution.forward() for convolution in _convolutions(batch, channels, length, item, steps)],
        Stage("transpose", 2 * row),
    ]


def _convolutions(batch: int, channels: int, length: int, item: int, steps: int) -> list[Convolution]:
    """The long convolutions of ``hyena_mixer`` in Triton. Only the last one's result has the dtype of the signals."""
    inner = Convolution(batch, channels, length, INNER_BYTES, False, True, True)
    return [inner] * (steps - 1) + [replace(inner, result=item)]


def mixer_backward(batch: int, channels: int, length: int, item: int, order: int, triton: bool) -> list[Stage]:
    """Backward pass of ``hyena_mixer`` with all gradients."""
    steps, row = order - 1, batch * channels * length * item
    taps = 2 * 3 * batch * channels * length * (steps + 2)
    inner = batch * channels * length * INNER_BYTES
    if triton:
        convolutions = _convolutions(batch, channels, length, item, steps)
    else:
        convolutions = [Convolution(batch, channels, length, item, False, True, False)] * steps
    again = [convolution.forward() for convolution in convolutions[:-1]]
    backward = [convolution.backward() for convolution in convolutions]
    if not triton:
        vector = 3 * taps + sum(stage.vector for stage in (*again, *backward))
        # Read dy and the projections; write the gradients of the projections.
        count = (1 + 2 * (steps + 2)) * row + 2 * 4 * steps * channels * length
        return [Stage("hyena_mixer backward", count, vector=vector)]
    return [
        Stage("convolve, split, gate", (steps + 2) * row + (steps + 1) * inner, vector=taps),
        *again,
        Stage("transpose", 2 * row),
        *backward,
        # Read the gradients of gates and product, and the projections; write the gradients of the projections.
        Stage("gradient of gates and product", (steps + 1) * inner + 2 * (steps + 2) * row, vector=2 * taps),
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
class Model:
    """A language model of blocks: LayerNorm, mixer, LayerNorm, MLP. The residual is float32.

    ``fused_norm`` counts a LayerNorm that writes the dtype of the signals and adds a branch to the residual in the same
    pass. Otherwise it is torch's: under autocast it writes float32, and a cast follows.
    """

    batch: int
    width: int
    length: int
    item: int
    order: int
    layers: int
    triton: bool
    implementation: str
    checkpointed: bool
    fused_norm: bool = False

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def operator(self, backward: bool) -> list[Stage]:
        """The Hyena operator with its projections and filter, in one direction."""
        shape = self.batch, self.width, self.length, self.item
        into = _linear("in_proj", self.tokens, self.width, (self.order + 1) * self.width, self.item, backward)
        out = _linear("out_proj", self.tokens, self.width, self.width, self.item, backward)
        channels = self.width * (self.order - 1)
        if backward:
            filters = filter_backward(channels, self.length, self.triton)
            return [out, *mixer_backward(*shape, self.order, self.triton), filters, into]
        filters = filter_forward(channels, self.length)
        return [into, filters, *mixer_forward(*shape, self.order, self.triton), out]

    def _attention(self, backward: bool) -> list[Stage]:
        into = _linear("qkv", self.tokens, self.width, 3 * self.width, self.item, backward)
        out = _linear("out_proj", self.tokens, self.width, self.width, self.item, backward)
        middle = attention(
            self.batch, self.width, self.length, self.item, backward, scores=self.implementation == "sdpa_math"
        )
        return [out, middle, into] if backward else [into, middle, out]

    def _mixer(self, backward: bool) -> list[Stage]:
        return self.operator(backward) if self.implementation == OURS else self._attention(backward)

    @property
    def _elements(self) -> int:
        """Elements of the residual."""
        return self.tokens * self.width

    def _norm(self, backward: bool, *, last: bool = False) -> list[Stage]:
        """A LayerNorm of the residual. The last one has no other gradient to add."""
        count, vector = self._elements, (12 if backward else 8) * self._elements
        name = "LayerNorm backward" if backward else "LayerNorm"
        if self.fused_norm:
            # Backward reads the residual, the gradient of the result and that of the residual, and writes the sum.
            gradients = (4 if last else 8) if backward else 0
            return [Stage(name, count * (4 + self.item + gradients), vector=vector)]
        norm = Stage(name, count * (12 if backward else 8), vector=vector)
        if self.item == 4:
            return [norm]
        cast = Stage("cast of LayerNorm backward" if backward else "cast of LayerNorm", count * (4 + self.item))
        return [cast, norm] if backward else [norm, cast]

    def _add(self, backward: bool) -> list[Stage]:
        """A branch added to the residual."""
        count = self._elements
        if not backward:
            return [Stage("residual", count * (4 + self.item + 4), vector=count)]
        # The gradient of the branch, and the sum of both. A fused norm has the sum.
        return [Stage("residual backward", count * ((4 + self.item) + (0 if self.fused_norm else 12)), vector=count)]

    def _add_norm(self, backward: bool) -> list[Stage]:
        """A branch added to the residual, and a LayerNorm of the sum."""
        if not self.fused_norm:
            add, norm = self._add(backward), self._norm(backward)
            return [*norm, *add] if backward else [*add, *norm]
        count = self._elements
        if backward:
            # As the norm alone, and the gradient of the branch is written in the dtype of the signals.
            return [Stage("add and LayerNorm backward", count * (12 + 2 * self.item), vector=13 * count)]
        return [Stage("add and LayerNorm", count * (8 + 2 * self.item), vector=9 * count)]

    def _mlp(self, backward: bool) -> list[Stage]:
        elements = self.tokens * 4 * self.width
        first = _linear("fc1", self.tokens, self.width, 4 * self.width, self.item, backward)
        second = _linear("fc2", self.tokens, 4 * self.width, self.width, self.item, backward)
        if backward:
            return [second, Stage("GELU backward", 3 * elements * self.item, vector=30 * elements), first]
        return [first, Stage("GELU", 2 * elements * self.item, vector=20 * elements), second]

    def _block(self, backward: bool) -> list[Stage]:
        norm, add, both = (part(backward) for part in (self._norm, self._add, self._add_norm))
        if backward:
            return [*add, *self._mlp(True), *both, *self._mixer(True), *norm]
        return [*norm, *self._mixer(False), *both, *self._mlp(False), *add]

    def forward(self) -> list[Stage]:
        """Stages of the forward pass."""
        embedding = Stage("embedding", self.tokens * (8 + 4 * self.width))
        head = _linear("head", self.tokens, self.width, VOCABULARY, self.item, False)
        return [embedding, *self._block(False) * self.layers, *self._norm(False), head]

    def backward(self) -> list[Stage]:
        """Stages of the loss and the backward pass."""
        logits = 4 * self.tokens * VOCABULARY
        head = _linear("head", self.tokens, self.width, VOCABULARY, self.item, True)
        block = [*(self._block(False) if self.checkpointed else ()), *self._block(True)]
        return [
            # Logits to float32, to log probabilities, and the gradient back.
            Stage("loss", 4 * logits),
            head,
            *self._norm(True, last=True),
            *block * self.layers,
            Stage("embedding backward", self.tokens * (8 + 4 * self.width)),
        ]

    def parameters(self) -> int:
        """Trained parameters of the Hyena model."""
        width, projections, filters = self.width, (self.order + 1) * self.width, (self.order - 1) * self.width
        operator = (width + 1) * projections + (width + 1) * width + (3 + 1) * projections
        network = (5 + 1) * 64 + 2 * (64 + 1) * 64 + 64 * filters + 64 + filters
        mlp = (width + 1) * 4 * width + (4 * width + 1) * width
        # Two LayerNorms per block and one at the end. The head is not tied to the embedding.
        return self.layers * (operator + network + mlp + 4 * width) + 2 * width + 2 * VOCABULARY * width


def attention(batch: int, width: int, length: int, item: int, backward: bool, *, scores: bool = False) -> Stage:
    """Causal softmax attention, which computes half of the L² scores.

    Args:
        batch: batch size.
        width: width of all heads together.
        length: number of queries and of keys.
        item: bytes of an element.
        backward: the backward pass, which has five products instead of two and computes the scores again.
        scores: whether all L² scores go through memory, as with matrix products and a softmax.
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
    # Read q, k, v, y and dy; write dq, dk and dv.
    products = 4 * half * 2 if scores else 5 * half
    return Stage("attention backward", 8 * row + through, products=products, vector=8 * square // (1 if scores else 2))
