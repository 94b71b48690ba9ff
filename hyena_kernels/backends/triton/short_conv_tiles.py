"""Pieces of the Triton kernels of ``short_conv``: tiles of a signal, their convolution and the sums of its gradients.

A tile is positions × channels, read at any strides. Each thread holds 8 neighbouring positions of one channel in its
registers, as 8 tensors. So the shifts of the filter are renamings, and sums over positions stay within a thread. A
signal stored channel-first is read and written in 128-bit pieces at any shift. One stored channel-last is transposed in
shared memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Tiles (positions, channels, warps). With these no kernel spills, and all transpose by stmatrix or ldmatrix. Wide
# tiles write whole cache lines. Narrow ones waste less where there are few channels, and they leave the backward
# kernel enough registers for several programs on one multiprocessor.
CONFIGS = {"wide": (64, 64, 8), "narrow": (32, 32, 4)}

# Programs of the backward kernel, each with its own partial sums. They fill a GPU several times over, so the last,
# partly filled wave matters little. Yet they are few enough to keep the sums small at any length.
PROGRAMS = 4096


@triton.jit
def _load_eight(x, t, t_stride, c_offset, in_range, length):  # type: ignore[no-untyped-def]
    """``x`` at ``t``, ``t + 1``, …, ``t + 7`` as a tuple of eight tiles, zero outside ``0 … length - 1``."""
    at = t[:, None] + tl.arange(0, 8)[None, :]
    mask = ((at >= 0) & (at < length))[:, None, :] & in_range[None, :, None]
    tile = tl.load(x + (at * t_stride)[:, None, :] + c_offset[None, :, None], mask=mask, other=0.0)
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1], 2, 2, 2)))
    even_0, even_1 = tl.split(even)
    odd_0, odd_1 = tl.split(odd)
    x0, x4 = tl.split(even_0)
    x2, x6 = tl.split(even_1)
    x1, x5 = tl.split(odd_0)
    x3, x7 = tl.split(odd_1)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _store_eight(y, values, t, t_stride, c_offset, in_range, length):  # type: ignore[no-untyped-def]
    """Inverse of :func:`_load_eight`: writes ``y`` where it is inside ``0 … length - 1``, rounded to its dtype."""
    even = tl.join(tl.join(values[0], values[4]), tl.join(values[2], values[6]))
    odd = tl.join(tl.join(values[1], values[5]), tl.join(values[3], values[7]))
    tile = tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1], 8))
    at = t[:, None] + tl.arange(0, 8)[None, :]
    mask = (at < length)[:, None, :] & in_range[None, :, None]
    tl.store(y + (at * t_stride)[:, None, :] + c_offset[None, :, None], tile.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _load_taps(weight, c_offset, k_stride, in_range, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tuple of the K taps by lag, lag 0 first. Each is a row over the channels of the tile."""
    taps = ()
    for lag in tl.static_range(K):
        tap = tl.load(weight + c_offset + (K - 1 - lag) * k_stride, mask=in_range, other=0.0)
        taps += (tap.to(tl.float32)[None, :],)  # type: ignore[assignment]
    return taps


@triton.jit
def _load_bias(bias, c_offset, in_range, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    if HAS_BIAS:
        return tl.load(bias + c_offset, mask=in_range, other=0.0).to(tl.float32)[None, :]
    else:
        return 0.0


@triton.jit
def _convolved(x, taps, bias, COUNT: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """``bias + sum_lag taps[lag] x[8 + i - lag]`` for ``i`` in ``0 … COUNT - 1``, in float32."""
    values = ()
    for i in tl.static_range(COUNT):
        value = taps[0] * x[8 + i].to(tl.float32) + bias
        for lag in tl.static_range(1, K):
            value += taps[lag] * x[8 + i - lag].to(tl.float32)
        values += (value,)  # type: ignore[assignment]
    return values


@triton.jit
def _left(t, length):  # type: ignore[no-untyped-def]
    """Number of positions from ``t`` on, a column for all channels of a tile. 32 bits are cheaper to compare."""
    return (length - t).to(tl.int32)[:, None]


@triton.jit
def _product(a, b, left, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """COUNT products of two tuples in float32. Those from ``left`` on are zero, even where a factor is NaN."""
    values = ()
    for i in tl.static_range(COUNT):
        values += (tl.where(left > i, a[i].to(tl.float32) * b[i], 0.0),)  # type: ignore[assignment]
    return values


@triton.jit
def _signal_gradient(grad, taps, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """``sum_lag taps[lag] grad[i + lag]`` for ``i`` in ``0 … 7``: the transpose of :func:`_convolved`."""
    values = ()
    for i in tl.static_range(8):
        value = taps[0] * grad[i].to(tl.float32)
        for lag in tl.static_range(1, K):
            value += taps[lag] * grad[i + lag].to(tl.float32)
        values += (value,)  # type: ignore[assignment]
    return values


@triton.jit
def _add_tap_gradients(totals, grad, x, left, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds ``sum_i grad[i + lag] x[i]`` to total ``lag`` for every lag, and ``sum_i grad[i]`` to total K."""
    sums = ()
    for lag in tl.static_range(K):
        total = totals[lag]
        for i in tl.static_range(8):
            # Gradients beyond the end are zero. A NaN in x must not be multiplied with them.
            total += tl.where(left > i + lag, grad[i + lag].to(tl.float32) * x[i].to(tl.float32), 0.0)
        sums += (total,)  # type: ignore[assignment]
    total = totals[K]
    for i in tl.static_range(8):
        total += grad[i].to(tl.float32)
    return sums + (total,)


@triton.jit
def _store_totals(sums, totals, c, stride, in_range, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes the totals over all positions of a program: the taps in the order of ``weight``, then the bias."""
    for lag in tl.static_range(K):
        tl.store(sums + (K - 1 - lag) * stride + c, tl.sum(totals[lag], axis=0), mask=in_range)
    tl.store(sums + K * stride + c, tl.sum(totals[K], axis=0), mask=in_range)
