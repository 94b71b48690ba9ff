"""Triton kernels of ``linear_cross_entropy``.

A tile is positions × columns of the hidden states. The logits of its positions are in registers. Forward writes the
loss of each position, or one sum for each program. Backward computes the logits again, and reads a tile twice: the
second time from a cache. Matrix products run on tensor
cores as products of TF32 parts, which is about as exact as float32. Operands of 16 bits are a single part.

Predicted, bfloat16, 2^20 positions, D = 128, V = 16, targets of 8 bytes, at 4.3 TB/s: forward 0.28 GB, 0.06 ms;
backward 0.55 GB, 0.13 ms. It has not run on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton.embedding import load_tokens
from hyena_kernels.backends.triton.filter_kernels import split_tf32
from hyena_kernels.backends.triton.launch import Constants, constants, launch
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import LinearCrossEntropyInputs
from hyena_kernels.common.vocabulary import padded

# Positions of a tile for 16 tokens by the dtype of the hidden states, half as many for 32; columns of a tile; warps.
ROWS = {torch.bfloat16: 64, torch.float16: 32, torch.float32: 32}
COLUMNS = 64
WARPS = 4

# Programs of each kernel, each with its own partial sums. Backward has two or three of them on a multiprocessor of an
# H200, which has 132, so these fill it twice or three times over without a rest. Constants, so that results do not
# depend on the GPU.
PROGRAMS = {"forward": 8192, "backward": 792}


@triton.jit
def _product(a, b, added):  # type: ignore[no-untyped-def]
    """``a @ b + added`` for float32 ``a``, by products of the parts of the operands, the small ones first.

    A 16-bit ``b`` is one part. The two parts of ``a`` have 22 bits, or 16 beside bfloat16.
    """
    if b.dtype == tl.bfloat16:
        a_high = a.to(tl.bfloat16)
        a_low = (a - a_high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(a_high, b, tl.dot(a_low, b, added))
    elif b.dtype == tl.float16:
        # TF32 has the range of float32, which small gradients need, and the bits of float16.
        a_high, a_low = split_tf32(a)
        wide = b.to(tl.float32)
        product = tl.dot(a_low, wide, added, input_precision="tf32")
        return tl.dot(a_high, wide, product, input_precision="tf32")
    else:
        a_high, a_low = split_tf32(a)
        b_high, b_low = split_tf32(b)
        product = tl.dot(a_low, b_high, added, input_precision="tf32")
        product = tl.dot(a_high, b_low, product, input_precision="tf32")
        return tl.dot(a_high, b_high, product, input_precision="tf32")


@triton.jit
def _load_weight(weight, c, columns, vocabulary, v_stride, d_stride, TOKENS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns ``c`` of ``weight``, ``(TOKENS, …)``, zero outside of V × D."""
    v = tl.arange(0, TOKENS)
    inside = (v < vocabulary)[:, None] & (c < columns)[None, :]
    return tl.load(weight + v[:, None] * v_stride + c[None, :] * d_stride, mask=inside, other=0.0)


@triton.jit
def _load_targets(targets, inside, vocabulary, ignore_index):  # type: ignore[no-untyped-def]
    """Tokens, and whether a position counts."""
    counted = inside & (tl.load(targets, mask=inside, other=0).to(tl.int64) != ignore_index)
    return load_tokens(targets, inside, vocabulary), counted


@triton.jit
def _softmax(  # type: ignore[no-untyped-def]
    hidden, weight, counted, columns, vocabulary, hidden_d_stride, weight_v_stride, weight_d_stride,
    TILES: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Logits ``(positions, TOKENS)`` less the largest of each position, and their log-sum-exp. From V on they are -inf.

    ``hidden`` points to the first state of each position. States of one that does not count are 0, and not read.
    """
    logits = tl.zeros((counted.shape[0], TOKENS), tl.float32)
    for tile in tl.static_range(TILES):
        c = tile * COLUMNS + tl.arange(0, COLUMNS)
        states = tl.load(
            hidden[:, None] + (c * hidden_d_stride)[None, :], mask=counted[:, None] & (c < columns)[None, :], other=0.0
        )
        w = _load_weight(weight, c, columns, vocabulary, weight_v_stride, weight_d_stride, TOKENS)
        if states.dtype != tl.float32:
            logits = tl.dot(states, tl.trans(w), logits)
        else:
            logits = _product(states, tl.trans(w), logits)
    logits = tl.where((tl.arange(0, TOKENS) < vocabulary)[None, :], logits, float("-inf"))
    logits -= tl.max(logits, axis=1)[:, None]
    return logits, tl.log(tl.sum(tl.exp(logits), axis=1))


@triton.jit(do_not_specialize=["tiles", "batch", "vocabulary", "ignore_index"])
def forward_kernel(  # type: ignore[no-untyped-def]
    hidden, weight, targets, losses, smoothing, length, tiles, batch, columns, vocabulary, ignore_index,
    hidden_b_stride, hidden_t_stride, hidden_d_stride, weight_v_stride, weight_d_stride, targets_b_stride,
    targets_t_stride, EVERY: tl.constexpr, SMOOTHED: tl.constexpr, ROWS: tl.constexpr,
    TILES: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """The loss of each position, ``(B, L)``, or the sum over the positions of each program."""
    program = tl.program_id(0)
    v = tl.arange(0, TOKENS)
    total = tl.zeros((ROWS,), tl.float32)
    tile = program
    # Not tl.range: the interpreter refuses bounds that are known only at run time.
    while tile < tiles * batch:
        b = (tile // tiles).to(tl.int64)
        t = (tile % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        token, counted = _load_targets(
            targets + b * targets_b_stride + t * targets_t_stride, t < length, vocabulary, ignore_index
        )
        logits, norm = _softmax(
            hidden + b * hidden_b_stride + t * hidden_t_stride, weight, counted, columns, vocabulary, hidden_d_stride,
            weight_v_stride, weight_d_stride, TILES, COLUMNS, TOKENS,
        )  # fmt: skip
        loss = norm - tl.sum(tl.where(v[None, :] == token[:, None], logits, 0.0), axis=1)
        if SMOOTHED:
            mean = tl.sum(tl.where((v < vocabulary)[None, :], logits, 0.0), axis=1) / vocabulary
            loss = (1 - smoothing) * loss + smoothing * (norm - mean)
        loss = tl.where(counted, tl.where(token >= 0, loss, float("nan")), 0.0)
        if EVERY:
            tl.store(losses + b * length + t, loss, mask=t < length)
        total += loss
        tile += tl.num_programs(0)
    if not EVERY:
        tl.store(losses + program, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["tiles", "batch", "vocabulary", "ignore_index"])
def backward_kernel(  # type: ignore[no-untyped-def]
    dy, hidden, weight, targets, dhidden, sums, smoothing, length, tiles, batch, columns, vocabulary, ignore_index,
    dy_b_stride, dy_t_stride, hidden_b_stride, hidden_t_stride, hidden_d_stride, weight_v_stride, weight_d_stride,
    targets_b_stride, targets_t_stride, SMOOTHED: tl.constexpr, ROWS: tl.constexpr,
    TILES: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """``dhidden (B, L, D)``, contiguous, and the sums ``(programs, V, D)`` for ``dweight``; None where not needed."""
    program = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, TOKENS)
    totals = (tl.zeros((TOKENS, COLUMNS), tl.float32),) * TILES
    tile = program
    while tile < tiles * batch:
        b = tile // tiles
        t = tile % tiles * ROWS + tl.arange(0, ROWS)
        token, counted = _load_targets(
            targets + b * targets_b_stride + t * targets_t_stride, t < length, vocabulary, ignore_index
        )
        states_of = hidden + b * hidden_b_stride + t * hidden_t_stride
        logits, norm = _softmax(
            states_of, weight, counted, columns, vocabulary, hidden_d_stride, weight_v_stride, weight_d_stride, TILES,
            COLUMNS, TOKENS,
        )  # fmt: skip
        expected = tl.where(v[None, :] == token[:, None], 1.0, 0.0)
        if SMOOTHED:
            even = tl.where(v < vocabulary, smoothing / vocabulary, 0.0)
            expected = (1 - smoothing) * expected + even[None, :]
        grad = tl.load(dy + b * dy_b_stride + t * dy_t_stride, mask=counted, other=0.0)
        grad = tl.where(token >= 0, grad, float("nan"))[:, None] * (tl.exp(logits - norm[:, None]) - expected)
        grad = tl.where(counted[:, None], grad, 0.0)
        added = ()
        for part in tl.static_range(TILES):
            c = part * COLUMNS + tl.arange(0, COLUMNS)
            inside = c < columns
            if dhidden is not None:
                w = _load_weight(weight, c, columns, vocabulary, weight_v_stride, weight_d_stride, TOKENS)
                zero = tl.zeros((ROWS, COLUMNS), tl.float32)
                result = _product(grad, w, zero)
                place = ((b * length + t) * columns)[:, None] + c[None, :]
                tl.store(dhidden + place, result, mask=(t < length)[:, None] & inside[None, :])
            if sums is not None:
                # From a cache: the logits have read them.
                states = tl.load(
                    states_of[:, None] + (c * hidden_d_stride)[None, :], mask=counted[:, None] & inside[None, :],
                    other=0.0,
                )  # fmt: skip
                added += (_product(tl.trans(grad), states, totals[part]),)  # type: ignore[assignment]
        if sums is not None:
            totals = added
        tile += tl.num_programs(0)
    if sums is not None:
        for part in tl.static_range(TILES):
            c = part * COLUMNS + tl.arange(0, COLUMNS)
            place = (program * vocabulary + v[:, None]) * columns + c[None, :]
            tl.store(sums + place, totals[part], mask=(v < vocabulary)[:, None] & (c < columns)[None, :])


class _Launch(NamedTuple):
    """What both directions launch with: tensors as rows and positions, sizes, constants."""

    inputs: LinearCrossEntropyInputs
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    programs: int
    constants: Constants


def _launch(
    direction: str, inputs: LinearCrossEntropyInputs, ignore_index: int, smoothing: float, **more: bool
) -> _Launch:
    """For tensors ``(B, L, D)`` and ``(B, L)`` with at least one position."""
    hidden, weight, targets = inputs
    batch, length, width = hidden.shape
    columns = min(COLUMNS, max(16, triton.next_power_of_2(width)))
    tokens = padded(weight.shape[0])
    rows = ROWS[hidden.dtype] * 16 // tokens
    tiles = triton.cdiv(length, rows)
    own = constants(
        **more,
        SMOOTHED=smoothing > 0,
        ROWS=rows,
        TILES=triton.cdiv(width, columns),
        COLUMNS=columns,
        TOKENS=tokens,
        num_warps=WARPS,
    )
    strides = *hidden.stride(), *weight.stride(), *targets.stride()
    amounts = length, tiles, batch, width, weight.shape[0], ignore_index
    return _Launch(inputs, amounts, strides, min(PROGRAMS[direction], tiles * batch), own)


def forward(
    inputs: LinearCrossEntropyInputs, ignore_index: int, label_smoothing: float, every_position: bool
) -> Tensor:
    """``linear_cross_entropy_fwd``: shapes, dtypes and result of :func:`hyena_kernels.linear_cross_entropy`.

    Except float64, and widths and vocabularies beyond those of ``support.py``.
    """
    hidden, weight, targets = inputs
    if not targets.numel():
        return hidden.new_zeros(targets.shape if every_position else (), dtype=torch.float32)
    hidden, targets = sizes.as_rows((hidden, 1), (targets, 0))
    rows = LinearCrossEntropyInputs(hidden, weight, targets)
    call = _launch("forward", rows, ignore_index, label_smoothing, EVERY=every_position)
    losses = hidden.new_empty(inputs.targets.shape if every_position else call.programs, dtype=torch.float32)
    args = *call.inputs, losses, label_smoothing, *call.sizes, *call.strides
    with torch.cuda.device_of(hidden):
        launch(forward_kernel, (call.programs,), args, call.constants)
        return losses if every_position else losses.sum()


def backward(
    dy: Tensor,
    inputs: LinearCrossEntropyInputs,
    ignore_index: int,
    label_smoothing: float,
    every_position: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """``linear_cross_entropy_bwd``: contiguous gradients of ``hidden`` and ``weight``, of length 0 where not needed.

    It takes 792 times (``PROGRAMS``) the size of ``weight`` in float32.
    """
    grads = gradients_like(inputs, needs)
    dhidden, dweight, _ = grads
    hidden, weight, targets = inputs
    if not targets.numel():
        dweight.zero_()
    elif any(needs):
        dy = dy.expand(targets.shape)
        hidden, targets, dy = sizes.as_rows((hidden, 1), (targets, 0), (dy, 0))
        rows = LinearCrossEntropyInputs(hidden, weight, targets)
        call = _launch("backward", rows, ignore_index, label_smoothing)
        sums = hidden.new_empty((call.programs, *weight.shape), dtype=torch.float32) if needs[1] else None
        args = (
            dy, *call.inputs, dhidden if needs[0] else None, sums, label_smoothing, *call.sizes, *dy.stride(),
            *call.strides,
        )  # fmt: skip
        with torch.cuda.device_of(hidden):
            launch(backward_kernel, (call.programs,), args, call.constants)
            if sums is not None:
                dweight.copy_(sums.sum(dim=0))
    return grads
