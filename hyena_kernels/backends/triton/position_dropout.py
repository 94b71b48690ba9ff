"""The Triton kernel of ``position_dropout``.

A program takes some positions of one row, and a block of channels. One call of Philox gives the words of four
neighbouring channels, which one thread holds. Backward is the same kernel on the gradient.

Predicted, 2^20 positions, D = 128, at 4.3 TB/s, in either direction: 1.07 GB and 0.25 ms in float32, 0.54 GB and 0.13
to 0.15 ms in 16 bits. There are 27 instructions an element, 20 of them Philox: 0.13 ms at four a cycle. It has not run
on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.common import philox
from hyena_kernels.common.inputs import PositionDropoutInputs

# Most channels of a tile, and its elements. Each of 128 threads has 16 of them.
COLUMNS = 128
ELEMENTS = 2048


@triton.jit(do_not_specialize=["key_low", "key_high", "offset", "threshold"])
def drop_kernel(  # type: ignore[no-untyped-def]
    x, samples, y, length, tiles, channels, x_b_stride, x_t_stride, x_d_stride, scale,
    key_low, key_high, offset, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``y (B, L, D)``, contiguous: ``x * scale``, or 0 where the word of an element is below ``threshold``.

    The last four arguments are 32 bits each, without a sign. They come as numbers with one.
    """
    b = (tl.program_id(0) // tiles).to(tl.int64)
    t = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1) * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sample = tl.load(samples + b)
    seed = (key_high.to(tl.uint32).to(tl.uint64) << 32) | key_low.to(tl.uint32).to(tl.uint64)
    position = offset.to(tl.uint32) + t.to(tl.uint32)
    low, high = (sample & 0xFFFFFFFF).to(tl.uint32), (sample >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, group.to(tl.uint32)[None, :], position[:, None], low, high, 10)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    inside = (t < length)[:, None] & (c < channels)[None, :]
    place = b * x_b_stride + (t.to(tl.int64) * x_t_stride)[:, None] + (c.to(tl.int64) * x_d_stride)[None, :]
    value = tl.load(x + place, mask=inside).to(tl.float32) * scale
    # A choice and not a product with 0 or 1: a dropped element is 0 even if it is infinite or NaN.
    value = tl.where(words >= threshold.to(tl.uint32), value, 0.0)
    tl.store(y + ((b * length + t) * channels)[:, None] + c[None, :], value.to(y.dtype.element_ty), mask=inside)


def _signed(word: int) -> int:
    """The number from -2^31 to 2^31 - 1 with the same 32 bits."""
    return word - (word >> 31 << 32)


def forward(inputs: PositionDropoutInputs, p: float, seed: int, offset: int) -> Tensor:
    """As ``hyena_kernels::position_dropout``, except float64."""
    x, samples = inputs
    batch, length, channels = x.shape
    threshold = philox.threshold(p)
    if threshold == 1 << 32:
        return torch.zeros_like(x, memory_format=torch.contiguous_format)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not y.numel():
        return y
    columns = min(COLUMNS, max(4, triton.next_power_of_2(channels)))
    rows = ELEMENTS // columns
    tiles = triton.cdiv(length, rows)
    args = x, samples.contiguous(), y, length, tiles, channels, *x.stride(), philox.scale(p)
    late = tuple(map(_signed, (*philox.halves(seed), offset, threshold)))
    with torch.cuda.device_of(x):
        grid = batch * tiles, triton.cdiv(channels, columns)
        launch(drop_kernel, grid, args, constants(ROWS=rows, COLUMNS=columns, num_warps=4), late)
    return y
