"""Kernels of the far field over blocks: transforms of moments and nodes, their products, and transforms back.

The convolution over blocks is causal, so it takes the weighted transform of :mod:`.plan`: P points for up to P blocks,
without padding to twice. A program transforms a row at once. Spectra are float32 ``(rows, 2, P)`` in the order in which
:func:`.dft.forward` leaves them. ``2 R - 1`` is the number of values at the nodes for each distance of two blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hyena_kernels.backends.triton import dft, passes


@triton.jit
def _weights(V: tl.constexpr):
    return passes._factors(None, None, 0, 1, V)


@triton.jit
def _load_spectrum(spectra, row, P: tl.constexpr, V: tl.constexpr):
    at = passes._row(spectra + row.to(tl.int64) * (2 * P), P, V)
    return tl.load(at), tl.load(at + P)


@triton.jit
def _place(P: tl.constexpr, V: tl.constexpr):
    """Index ``[V, P / V]`` of the points of a row."""
    return tl.arange(0, V)[:, None] * (P // V) + tl.arange(0, P // V)[None, :]


@triton.jit
def spectra_kernel(
    x, spectra, table, inner, count, x_outer, x_inner, x_point,
    SHIFT: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Transform a row of ``count`` values of ``x``, which begin at point ``SHIFT``. A row has two indices in ``x``."""
    row = tl.program_id(0)
    start = x + (row // inner).to(tl.int64) * x_outer + (row % inner).to(tl.int64) * x_inner
    n = _place(P, V) - SHIFT
    value = tl.load(start + n.to(tl.int64) * x_point, mask=(n >= 0) & (n < count), other=0.0)
    re, im = passes._combine((value,), _weights(V))
    re, im = dft.forward(re, im, table, P, 1, V)
    at = passes._row(spectra + row.to(tl.int64) * (2 * P), P, V)
    tl.store(at, re)
    tl.store(at + P, im)


@triton.jit
def mix_kernel(
    spectra, filters, far, table, D, blocks,
    TRANSPOSED: tl.constexpr, R: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """One row of ``far (rows, R, blocks)``: the convolution of moments with the nodes, or the transpose of it.

    ``spectra`` are those of the moments, R a row, and ``filters`` those of the nodes, ``2 R - 1`` a channel.
    """
    row = tl.program_id(0) // R
    own = tl.program_id(0) % R
    first = row % D * (2 * R - 1) + R - 1
    re = tl.zeros([V, P // V], tl.float32)
    im = re
    for other in range(R):
        mr, mi = _load_spectrum(spectra, row * R + other, P, V)
        fr, fi = _load_spectrum(filters, first + (other - own if TRANSPOSED else own - other), P, V)
        pr, pi = dft.times(mr, mi, fr, -fi if TRANSPOSED else fi)
        re += pr
        im += pi
    re, im = dft.inverse(re, im, table, P, 1, V)
    value = passes._spread(re, im, _weights(V), P)
    n = _place(P, V)
    tl.store(far + tl.program_id(0).to(tl.int64) * blocks + n, value[0], mask=n < blocks)


@triton.jit
def nodes_kernel(
    x_spectra, g_spectra, dnodes, table, D, rows, blocks, count,
    R: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Gradient of the nodes of one difference of one channel: a row of ``dnodes (D, 2 R - 1, count)``.

    It is the correlation of the moments of x with those of g, summed over the batch and over all pairs of nodes with
    this difference. What lies beyond the last block is zero.
    """
    d = tl.program_id(0) // (2 * R - 1)
    difference = tl.program_id(0) % (2 * R - 1) - (R - 1)
    re = tl.zeros([V, P // V], tl.float32)
    im = re
    row = d
    while row < rows:
        beta = tl.maximum(0, -difference)
        while beta < tl.minimum(R, R - difference):
            xr, xi = _load_spectrum(x_spectra, row * R + beta, P, V)
            gr, gi = _load_spectrum(g_spectra, row * R + beta + difference, P, V)
            pr, pi = dft.times(gr, gi, xr, -xi)
            re += pr
            im += pi
            beta += 1
        row += D
    re, im = dft.inverse(re, im, table, P, 1, V)
    value = passes._spread(re, im, _weights(V), P)
    n = _place(P, V) - 1
    at = dnodes + tl.program_id(0).to(tl.int64) * count + n
    tl.store(at, tl.where(n < blocks - 1, value[0], 0.0), mask=(n >= 0) & (n < count))
