"""Fourier transforms of power-of-two length inside one Triton program, forward and backward, in float32.

A state of N points of C independent columns is a pair (re, im) of tensors ``[V, M]`` with ``M = N C / V``. Triton
distributes dimensions from the last one, so the second dimension lies across the threads and the first in the registers
of each thread. A butterfly over the first dimension therefore moves no data. A transposition between two stages is one
exchange through shared memory.

Stages follow the constant-geometry ("Pease") transform of radix V: butterfly over the first dimension, product with the
twiddles, rotation of the digits. All stages are alike, so they are the body of a loop. Then the graph that Triton
compiles does not grow with N, which keeps compilation at seconds. The last stage has the remaining radix N / V^(S-1). A
forward transform takes natural order and leaves the frequencies in the order of its digits. The inverse is its exact
mirror image and takes them in that order, so nothing is ever sorted. :mod:`hyena_kernels.backends.triton.plan` has the
tables and says which frequency is where.

Source: M. C. Pease, "An adaptation of the fast Fourier transform for parallel processing", JACM 15 (1968).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def log2(n):
    """Base-2 logarithm of a power of two."""
    return n.bit_length() - 1


@triton.constexpr_function
def loops(N, V):
    """Stages of radix V before the last one."""
    return -(-log2(N) // log2(V)) - 1


@triton.constexpr_function
def last_radix(N, V):
    """Radix of the last stage."""
    return N // V ** loops(N, V)


@triton.jit
def times(ar, ai, br, bi):
    """Product of two complex tensors."""
    return ar * br - ai * bi, ar * bi + ai * br


@triton.jit
def _turn(re, im, LO: tl.constexpr, SIGN: tl.constexpr):
    """``[HI, LO, M]`` times ``exp(SIGN πi lo / LO)``. Selections cost nothing, unlike products with 0 and 1."""
    if LO == 1:
        return re, im
    lo = tl.arange(0, LO)[None, :, None]
    quarter = lo == LO // 2
    turned = tl.where(quarter, -SIGN * im, re), tl.where(quarter, SIGN * re, im)
    if LO == 2:
        return turned
    c: tl.constexpr = 0.7071067811865476
    sign = tl.where(lo == 1, c, -c)
    return (
        tl.where(lo % 2 == 1, re * sign - im * (SIGN * c), turned[0]),
        tl.where(lo % 2 == 1, im * sign + re * (SIGN * c), turned[1]),
    )


@triton.jit
def _halves(x, V: tl.constexpr, M: tl.constexpr, LO: tl.constexpr):
    return tl.split(x.reshape(V // (2 * LO), 2, LO, M).permute(0, 2, 3, 1))


@triton.jit
def _whole(a, b, V: tl.constexpr, M: tl.constexpr):
    return tl.join(a, b).permute(0, 3, 1, 2).reshape(V, M)


@triton.jit
def _step(re, im, V: tl.constexpr, M: tl.constexpr, LO: tl.constexpr, SIGN: tl.constexpr):
    """One radix-2 step on a bit of the first dimension: decimation in frequency forward, in time backward."""
    ar, br = _halves(re, V, M, LO)
    ai, bi = _halves(im, V, M, LO)
    if SIGN > 0:
        br, bi = _turn(br, bi, LO, SIGN)
        return _whole(ar + br, ar - br, V, M), _whole(ai + bi, ai - bi, V, M)
    dr, di = _turn(ar - br, ai - bi, LO, SIGN)
    return _whole(ar + br, dr, V, M), _whole(ai + bi, di, V, M)


@triton.jit
def _butterfly(re, im, R: tl.constexpr, V: tl.constexpr, M: tl.constexpr, SIGN: tl.constexpr):
    """Transforms of R points over the upper ``log2(R)`` bits of the first dimension, results in bit-reversed order."""
    re = re.reshape(R, V // R * M)
    im = im.reshape(R, V // R * M)
    for step in tl.static_range(log2(R)):
        re, im = _step(re, im, R, V // R * M, 1 << step if SIGN > 0 else R >> (step + 1), SIGN)
    return re.reshape(V, M), im.reshape(V, M)


@triton.jit
def twist(re, im, w, SIGN: tl.constexpr, V: tl.constexpr, M: tl.constexpr):
    """Products with the twiddles of every digit, bit by bit. An array of all twiddles would take 2 V registers.

    Args:
        re: ``[V, M]``, as ``im``.
        im: see ``re``.
        w: four complex tensors ``[M]``. A digit with the bits ``(b2, b1, b0)`` takes the product of some: the second if
            b2 is set, else the first; the third if b1 is set; the fourth if b0 is set.
        SIGN: 1 for these factors, -1 for their conjugates.
        V: 8.
        M: number of lanes.
    """
    ar, br = _halves(re, V, M, 4)
    ai, bi = _halves(im, V, M, 4)
    ar, ai = times(ar, ai, w[0][0][None, None, :], SIGN * w[0][1][None, None, :])
    br, bi = times(br, bi, w[1][0][None, None, :], SIGN * w[1][1][None, None, :])
    re = _whole(ar, br, V, M)
    im = _whole(ai, bi, V, M)
    for bit in tl.static_range(2):
        ar, br = _halves(re, V, M, 2 >> bit)
        ai, bi = _halves(im, V, M, 2 >> bit)
        br, bi = times(br, bi, w[2 + bit][0][None, None, :], SIGN * w[2 + bit][1][None, None, :])
        re = _whole(ar, br, V, M)
        im = _whole(ai, bi, V, M)
    return re, im


@triton.jit
def load_pairs(pointers):
    """Four complex tensors ``[M]`` from pointers ``[8, M]`` to their real and imaginary parts, in one load."""
    x = tl.load(pointers)
    M: tl.constexpr = x.shape[1]
    re, im = tl.split(x.reshape(2, 2, 2, M).permute(1, 2, 3, 0))
    re02, re13 = tl.split(re.permute(0, 2, 1))
    im02, im13 = tl.split(im.permute(0, 2, 1))
    r0, r2 = tl.split(re02.permute(1, 0))
    r1, r3 = tl.split(re13.permute(1, 0))
    i0, i2 = tl.split(im02.permute(1, 0))
    i1, i3 = tl.split(im13.permute(1, 0))
    return (r0, i0), (r1, i1), (r2, i2), (r3, i3)


@triton.jit
def _twiddles(table, stage, N: tl.constexpr, C: tl.constexpr, V: tl.constexpr):
    place = tl.arange(0, N * C // V) // C >> (stage * log2(V))
    rows = table + stage * (8 * (N // V)) + tl.arange(0, 8)[:, None] * (N // V)
    return load_pairs(rows + place[None, :])


@triton.jit
def _rotate(x, C: tl.constexpr, V: tl.constexpr, M: tl.constexpr):
    return x.reshape(V, M // C, C).permute(1, 0, 2).reshape(V, M)


@triton.jit
def _rotate_back(x, C: tl.constexpr, V: tl.constexpr, M: tl.constexpr):
    return x.reshape(M // C, V, C).permute(1, 0, 2).reshape(V, M)


@triton.jit
def forward(re, im, table, N: tl.constexpr, C: tl.constexpr, V: tl.constexpr):
    """``sum_n x[n] exp(-2πi n q / N)`` of every column.

    Args:
        re: ``[V, N C / V]``, point ``n = digit N/V + lane // C`` of column ``lane % C``.
        im: as ``re``.
        table: twiddles of ``plan._stage_tables``. In the first stage they may include a weight of the points.
        N: number of points, a power of two greater than V.
        C: number of columns, a power of two.
        V: 8.

    Returns:
        The transform. At place ``digit N/V + lane // C`` it has the frequency that ``plan.frequencies(N)`` names.
    """
    M: tl.constexpr = N * C // V
    for stage in range(loops(N, V)):
        re, im = _butterfly(re, im, V, V, M, -1)
        re, im = twist(re, im, _twiddles(table, stage, N, C, V), 1, V, M)
        re = _rotate(re, C, V, M)
        im = _rotate(im, C, V, M)
    return _butterfly(re, im, last_radix(N, V), V, M, -1)


@triton.jit
def inverse(re, im, table, N: tl.constexpr, C: tl.constexpr, V: tl.constexpr):
    """``N`` times the inverse of :func:`forward`, with the same arguments. It inverts the weights too."""
    M: tl.constexpr = N * C // V
    re, im = _butterfly(re, im, last_radix(N, V), V, M, 1)
    for i in range(loops(N, V)):
        stage = loops(N, V) - 1 - i
        re = _rotate_back(re, C, V, M)
        im = _rotate_back(im, C, V, M)
        re, im = twist(re, im, _twiddles(table, stage, N, C, V), -1, V, M)
        re, im = _butterfly(re, im, V, V, M, 1)
    return re, im
