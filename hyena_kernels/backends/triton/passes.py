"""Kernels of the long convolution: gates, transforms, product with the filter's spectrum and inverse transforms.

In reading order: loads and stores, one pass, several passes. :mod:`hyena_kernels.backends.triton.fftconv` launches
them, and :mod:`hyena_kernels.backends.triton.plan` explains the transform.

Rows of a batch are found by strides. With ``starts`` and ``lengths`` they are packed rows, which :func:`_place` finds.
Without, nothing of this is compiled. :mod:`hyena_kernels.backends.triton.packed` says how packed rows are launched.

The skip is added to a tap of the filter. A two-sided filter has taps of negative lag. In the weighted transform
``z^P = i``, so the tap of lag -j becomes ``-i`` times this tap at point P - j.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hyena_kernels.backends.triton import dft


@triton.jit
def _at(pointer, b, d, stride_b, stride_d):
    """Start of the row of batch b and channel d, in 64 bits."""
    return pointer + b.to(tl.int64) * stride_b + d.to(tl.int64) * stride_d


@triton.jit
def _place(starts, lengths, count, b, L):
    """What :func:`_at` takes as the batch entry of row b, and the row's length.

    Packed rows follow each other in every channel. Theirs is the position where the row starts, so the stride of the
    batch has to be that of positions. Rows from ``count`` on are empty. Without ``starts``, both are the arguments.
    """
    if starts is None:
        return b, L
    else:
        start = tl.load(starts + b, mask=b < count, other=0)
        return start, tl.load(lengths + b, mask=b < count, other=0).to(tl.int32)


@triton.jit
def _result(at, b, d, L, out_D, PACKED: tl.constexpr):
    """Where a row begins in a contiguous result: ``(B, out_D, L)``, or packed ``(D, out_D)``."""
    if PACKED:
        return d.to(tl.int64) * out_D + at
    else:
        return (b.to(tl.int64) * out_D + d) * L


@triton.jit
def _address(row, stride, n, g: tl.constexpr):
    """Addresses of the points of group g. The parts that are constants become immediate offsets."""
    return row + n[0].to(tl.int64) * stride + (n[1] + g * n[2]).to(tl.int64) * stride


@triton.jit
def _index(n, g: tl.constexpr):
    return n[0] + n[1] + g * n[2]


@triton.jit
def _load(row, stride, n, L, g: tl.constexpr):
    return tl.load(_address(row, stride, n, g), mask=_index(n, g) < L, other=0.0).to(tl.float32)


@triton.jit
def _gated(value, gate, stride, n, L, g: tl.constexpr):
    if gate is None:
        return value
    else:
        return value * _load(gate, stride, n, L, g)


@triton.jit
def _load_signal(row, stride, gate, gate_stride, n, L, G: tl.constexpr):
    """A signal times its gate, one tensor ``[V, M]`` for each group."""
    x = (_gated(_load(row, stride, n, L, 0), gate, gate_stride, n, L, 0),)
    for g in tl.static_range(1, G):
        x = x + (_gated(_load(row, stride, n, L, g), gate, gate_stride, n, L, g),)
    return x


@triton.jit
def _store_signal(row, stride, value, gate, gate_stride, n, L, G: tl.constexpr):
    """Store ``value * gate`` of every group, or ``value`` if there is no gate."""
    for g in tl.static_range(G):
        x = _gated(value[g], gate, gate_stride, n, L, g).to(row.dtype.element_ty)
        tl.store(_address(row, stride, n, g), x, mask=_index(n, g) < L)


@triton.jit
def _load_filter(row, stride, skip, n, K, shift, G: tl.constexpr):
    """Taps of lag ≥ 0 of each group, with the skip."""
    ahead = row + shift.to(tl.int64) * stride
    x = (_load(ahead, stride, n, K - shift, 0),)
    if skip is not None:
        x = (x[0] + tl.where(_index(n, 0) == 0, tl.load(skip).to(tl.float32), 0.0),)
    for g in tl.static_range(1, G):
        x = x + (_load(ahead, stride, n, K - shift, g),)
    return x


@triton.jit
def _behind(row, stride, n, shift, P: tl.constexpr, g: tl.constexpr):
    """Addresses and mask of the taps of negative lag, which are at the end of the points."""
    at = _index(n, g)
    return _address(row - (P - shift).to(tl.int64) * stride, stride, n, g), (at >= P - shift) & (at < P)


@triton.jit
def _load_behind(row, stride, n, shift, P: tl.constexpr, G: tl.constexpr):
    """Imaginary part of a two-sided filter: -i times the taps of negative lag."""
    at, keep = _behind(row, stride, n, shift, P, 0)
    x = (-tl.load(at, mask=keep, other=0.0).to(tl.float32),)
    for g in tl.static_range(1, G):
        at, keep = _behind(row, stride, n, shift, P, g)
        x = x + (-tl.load(at, mask=keep, other=0.0).to(tl.float32),)
    return x


@triton.jit
def _store_filter(row, re, n, K, shift, add, G: tl.constexpr):
    """Store the gradient of the taps that :func:`_load_filter` reads. ``add``: add it to the contiguous float32 row."""
    for g in tl.static_range(G):
        keep = _index(n, g) < K - shift
        at = _address(row + shift, 1, n, g)
        tl.store(at, re[g] + tl.load(at, mask=keep & add, other=0.0), mask=keep)


@triton.jit
def _store_behind(row, im, n, shift, add, P: tl.constexpr, G: tl.constexpr):
    """Store the gradient of the taps that :func:`_load_behind` reads, as :func:`_store_filter` does."""
    for g in tl.static_range(G):
        at, keep = _behind(row, 1, n, shift, P, g)
        tl.store(at, tl.load(at, mask=keep & add, other=0.0) - im[g], mask=keep)


@triton.jit
def _digit_weight(SINE: tl.constexpr, V: tl.constexpr):
    """``[V, 1]`` cosine or sine of ``π v / 16``, as constants in the code. Loading them would take registers."""
    v = tl.arange(0, V)[:, None]
    v = 8 - v if SINE else v
    low = tl.where(v == 0, 1.0, tl.where(v == 1, 0.9807852804032304, tl.where(v == 2, 0.9238795325112867, 0.0)))
    mid = tl.where(v == 3, 0.8314696123025452, tl.where(v == 4, 0.7071067811865476, low))
    high = tl.where(v == 5, 0.5555702330196022, tl.where(v == 6, 0.3826834323650898, mid))
    return tl.where(v == 7, 0.19509032201612825, high)


@triton.jit
def _factors(group, digit, q, G: tl.constexpr, V: tl.constexpr):
    """Weights of the digits ``[V, 1]`` in output group q, and of the input groups if there are several."""
    if G == 1:
        w = _digit_weight(False, V), _digit_weight(True, V)
    else:
        # Volatile loads stay where they are needed. In between, the spectra need the registers.
        v = tl.arange(0, V)
        digit += q * 2 * V
        group += q * 6
        re = tl.load(group, volatile=True), tl.load(group + 1, volatile=True), tl.load(group + 2, volatile=True)
        im = tl.load(group + 3, volatile=True), tl.load(group + 4, volatile=True), tl.load(group + 5, volatile=True)
        w = tl.load(digit + v, volatile=True)[:, None], tl.load(digit + V + v, volatile=True)[:, None], re, im
    return w


@triton.jit
def _combine(x, w):
    """Complex weighted input ``[V, M]`` of the transform of one group, from the real inputs of all groups."""
    if len(w) == 2:
        return x[0] * w[0], x[0] * w[1]
    else:
        re = x[0] * w[2][0] + x[1] * w[2][1] + x[2] * w[2][2]
        im = x[0] * w[3][0] + x[1] * w[3][1] + x[2] * w[3][2]
        return dft.times(re, im, w[0], w[1])


@triton.jit
def _combine_filter(row, stride, skip, w, n, K, shift, CAUSAL: tl.constexpr, P: tl.constexpr, G: tl.constexpr):
    """As :func:`_combine`, for a filter. A two-sided filter is complex."""
    re, im = _combine(_load_filter(row, stride, skip, n, K, shift, G), w)
    if not CAUSAL:
        ar, ai = _combine(_load_behind(row, stride, n, shift, P, G), w)
        re -= ai
        im += ar
    return re, im


@triton.jit
def _spread(re, im, w, P: tl.constexpr):
    """Contribution of one group's inverse transform to the results of all groups: real parts, divided by P."""
    zr, zi = dft.times(re * (1.0 / P), im * (1.0 / P), w[0], -w[1])
    if len(w) == 2:
        return (zr,)
    else:
        r, i = w[2], w[3]
        return zr * r[0] + zi * i[0], zr * r[1] + zi * i[1], zr * r[2] + zi * i[2]


@triton.jit
def _added(a, b):
    if len(a) == 1:
        return (a[0] + b[0],)
    else:
        return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@triton.jit
def _nothing(G: tl.constexpr, V: tl.constexpr, M: tl.constexpr):
    """A zero for each group, to add up results."""
    zero = tl.zeros([V, M], tl.float32)
    if G == 1:
        return (zero,)
    else:
        return zero, zero, zero


@triton.jit
def _points(first, N: tl.constexpr, C: tl.constexpr, STEP: tl.constexpr, V: tl.constexpr):
    """Index of the points of a tile of C columns from ``first`` on. Points of a column are ``STEP`` apart.

    Returns:
        Three parts whose sum is the index: by lane ``[1, M]``, by digit ``[V, 1]``, and for each group.
    """
    m = tl.arange(0, N * C // V)[None, :]
    return m // C * STEP + first + m % C, tl.arange(0, V)[:, None] * (N // V * STEP), N * STEP


@triton.jit
def _no_spectra(V: tl.constexpr, M: tl.constexpr):
    """Zeros for the backward pass: spectra of the filter, of a row's x and of the filter's gradient, re and im each."""
    zero = tl.zeros([V, M], tl.float32)
    return zero, zero, zero, zero, zero, zero


@triton.jit
def _filter_gradient(spectra, ROWS: tl.constexpr):
    """Spectrum of the filter's gradient, a sum over rows. That of a single row replaces its x, to save registers."""
    if ROWS == 1:
        return spectra[2], spectra[3]
    else:
        return spectra[4], spectra[5]


@triton.jit
def _backward_products(i, is_x, is_g, re, im, spectra, ROWS: tl.constexpr):
    """Products of the spectrum that step i of a backward pass has computed.

    Step 0 transforms the filter k. Two steps for each of ``ROWS`` rows transform x = pre_gate * u, then
    g = post_gate * dy. The last step transforms nothing.

    Args:
        i: the step.
        is_x: whether the step transforms an x.
        is_g: whether it transforms a g.
        re: ``[V, M]`` spectrum of this step, as ``im``.
        im: see ``re``.
        spectra: those of earlier steps, :func:`_no_spectra` at first.
        ROWS: number of rows.

    Returns:
        Real and imaginary part of what the step transforms back: ``k x`` for dpost, ``conj(k) g`` for dx, in the last
        step the sum of ``conj(x) g`` for dk; and the spectra, with that of this step.
    """
    kr, ki, xr, xi, sr, si = spectra
    if i == 0:
        kr = re
        ki = im
    elif is_x:
        xr = re
        xi = im
        re, im = dft.times(re, im, kr, ki)
    elif is_g:
        tr, ti = dft.times(re, im, xr, -xi)
        if ROWS == 1:
            xr = tr
            xi = ti
        else:
            sr += tr
            si += ti
        re, im = dft.times(re, im, kr, -ki)
    return re, im, (kr, ki, xr, xi, sr, si)


# Sizes and strides change from call to call. Only the innermost strides are worth a compilation of their own.
_SIZES = ["B", "D", "L", "K", "shift", "out_D", "count"]
_OUTER = [
    f"{name}_{axis}" for name in ("x", "y", "gate", "f1", "f2", "o1", "o2", "u", "dy", "pre", "post") for axis in "bd"
]
_OUTER += ["k_d"]


def _kernel(function):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    plain = [name for name in _SIZES + _OUTER if name in names]
    # Classes of packed rows begin anywhere in these.
    unaligned = [name for name in ("starts", "lengths") if name in names]
    return triton.jit(do_not_specialize=plain, do_not_specialize_on_alignment=unaligned)(function)


# One pass -----------------------------------------------------------------------------------------------------------


@_kernel
def row_forward(
    u, pre, post, k, skip, y, group, digit, table, starts, lengths, count, D, L, K, shift,
    u_b, u_d, u_l, pre_b, pre_d, pre_l, post_b, post_d, post_l, k_d, k_l, y_b, y_d, y_l,
    ROWS: tl.constexpr, CAUSAL: tl.constexpr, N: tl.constexpr, G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """``ROWS`` rows of one channel, or one row if ``G > 1``. They share one transform of the filter."""
    M: tl.constexpr = N // V
    P: tl.constexpr = G * N
    d = tl.program_id(0) % D
    first = tl.program_id(0) // D * ROWS
    n = _points(0, N, 1, 1, V)
    kr = tl.zeros([V, M], tl.float32)
    ki = kr
    out = _nothing(G, V, M)
    for q in range(G):
        twiddles = table + q * (dft.loops(N, V) * N)
        w = _factors(group, digit, q, G, V)
        for j in range(ROWS + 1):
            b = first + j - 1
            if j == 0:
                re, im = _combine_filter(
                    _at(k, b, d, 0, k_d), k_l, (None if skip is None else skip + d), w, n, K, shift, CAUSAL, P, G
                )
            else:
                at, length = _place(starts, lengths, count, b, L)
                gate = None if pre is None else _at(pre, at, d, pre_b, pre_d)
                re, im = _combine(_load_signal(_at(u, at, d, u_b, u_d), u_l, gate, pre_l, n, length, G), w)
            re, im = dft.forward(re, im, twiddles, N, 1, V)
            if j == 0:
                kr = re
                ki = im
            else:
                re, im = dft.times(re, im, kr, ki)
                re, im = dft.inverse(re, im, twiddles, N, 1, V)
                value = _spread(re, im, w, P)
                if G > 1:
                    out = _added(out, value)
                    value = out
                if q == G - 1:
                    at, length = _place(starts, lengths, count, b, L)
                    gate = None if post is None else _at(post, at, d, post_b, post_d)
                    _store_signal(_at(y, at, d, y_b, y_d), y_l, value, gate, post_l, n, length, G)


@_kernel
def row_backward(
    dy, u, pre, post, k, skip, du, dpre, dpost, dk, group, digit, table, starts, lengths, count, D, L, K, shift, out_D,
    dy_b, dy_d, dy_l, u_b, u_d, u_l, pre_b, pre_d, pre_l, post_b, post_d, post_l, k_d, k_l,
    ROWS: tl.constexpr, CAUSAL: tl.constexpr, N: tl.constexpr, G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Gradients of ``ROWS`` rows of one channel, or of one row if ``G > 1``. None for those that are not needed.

    ``du``, ``dpre`` and ``dpost`` are contiguous ``(B, D, L)``, or packed ``(D, out_D)``. ``dk`` is float32
    ``(B / ROWS, D, K)``.
    """
    M: tl.constexpr = N // V
    P: tl.constexpr = G * N
    SIGNAL: tl.constexpr = du is not None or dpre is not None
    FILTER: tl.constexpr = dk is not None
    POST: tl.constexpr = dpost is not None
    d = tl.program_id(0) % D
    chunk = tl.program_id(0) // D
    n = _points(0, N, 1, 1, V)
    out_x = _nothing(G, V, M)
    out_post = out_x
    for q in range(G):
        twiddles = table + q * (dft.loops(N, V) * N)
        spectra = _no_spectra(V, M)
        # One loop body for all transforms: of the filter, of x and g of every row, and the inverse of the sum.
        for i in range(2 * ROWS + 2):
            w = _factors(group, digit, q, G, V)
            b = chunk * ROWS + (i - 1) // 2
            is_x = (i % 2 == 1) & (i < 2 * ROWS)
            is_g = (i % 2 == 0) & (i > 0)
            # The last step has nothing to load: it transforms this back.
            re, im = _filter_gradient(spectra, ROWS)
            if i == 0:
                row = _at(k, chunk, d, 0, k_d)
                re, im = _combine_filter(row, k_l, (None if skip is None else skip + d), w, n, K, shift, CAUSAL, P, G)
            elif is_x:
                at, length = _place(starts, lengths, count, b, L)
                gate = None if pre is None else _at(pre, at, d, pre_b, pre_d)
                re, im = _combine(_load_signal(_at(u, at, d, u_b, u_d), u_l, gate, pre_l, n, length, G), w)
            elif is_g:
                at, length = _place(starts, lengths, count, b, L)
                gate = None if post is None else _at(post, at, d, post_b, post_d)
                re, im = _combine(_load_signal(_at(dy, at, d, dy_b, dy_d), dy_l, gate, post_l, n, length, G), w)
            if i <= 2 * ROWS:
                re, im = dft.forward(re, im, twiddles, N, 1, V)
            re, im, spectra = _backward_products(i, is_x, is_g, re, im, spectra, ROWS)
            if (is_x & POST) | (is_g & SIGNAL) | ((i == 2 * ROWS + 1) & FILTER):
                re, im = dft.inverse(re, im, twiddles, N, 1, V)
                w = _factors(group, digit, q, G, V)
                value = _spread(re, im, w, P)
                at, length = _place(starts, lengths, count, b, L)
                start = _result(at, b, d, L, out_D, starts is not None)
                if POST and is_x:
                    if G > 1:
                        out_post = _added(out_post, value)
                        value = out_post
                    if q == G - 1:
                        _store_signal(dpost + start, 1, value, _at(dy, at, d, dy_b, dy_d), dy_l, n, length, G)
                elif SIGNAL and is_g:
                    if G > 1:
                        out_x = _added(out_x, value)
                        value = out_x
                    if q == G - 1:
                        if du is not None:
                            gate = None if pre is None else _at(pre, at, d, pre_b, pre_d)
                            _store_signal(du + start, 1, value, gate, pre_l, n, length, G)
                        if dpre is not None:
                            _store_signal(dpre + start, 1, value, _at(u, at, d, u_b, u_d), u_l, n, length, G)
                elif FILTER:
                    row = dk + (chunk.to(tl.int64) * D + d) * K
                    _store_filter(row, value, n, K, shift, q > 0, G)
                    if not CAUSAL:
                        # The imaginary part of z is the real part of -i z.
                        _store_behind(row, _spread(im, -re, w, P), n, shift, q > 0, P, G)


@triton.jit
def _double(row, stride, t, L):
    return tl.load(row + t.to(tl.int64) * stride, mask=t < L, other=0.0).to(tl.float64)


@_kernel
def row_skip(
    dy, u, pre, post, dskip, D, L, spans, dy_b, dy_d, dy_l, u_b, u_d, u_l, pre_b, pre_d, pre_l, post_b, post_d,
    post_l, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the skip from a span of a row, to float64 ``(B, D, spans)``: the sum of ``dy``, ``u`` and gates.

    A tap of ``dk`` is the same number, but it has the rounding errors of the whole transform. Within ``row_backward``
    this sum would make registers spill.
    """
    row = tl.program_id(0) // spans
    d = row % D
    b = row // D
    total = tl.zeros([BLOCK], tl.float64)
    start = tl.program_id(0) % spans * SPAN
    end = tl.minimum(start + SPAN, L)
    # Not tl.range: the interpreter refuses bounds that are known only at run time.
    while start < end:
        t = start + tl.arange(0, BLOCK)
        product = _double(_at(dy, b, d, dy_b, dy_d), dy_l, t, L) * _double(_at(u, b, d, u_b, u_d), u_l, t, L)
        if pre is not None:
            product *= _double(_at(pre, b, d, pre_b, pre_d), pre_l, t, L)
        if post is not None:
            product *= _double(_at(post, b, d, post_b, post_d), post_l, t, L)
        total += product
        start += BLOCK
    tl.store(dskip + tl.program_id(0), tl.sum(total, axis=0))


# Several passes -----------------------------------------------------------------------------------------------------


@triton.jit
def _between(lane, column, q, first, N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr):
    """Twiddles between the columns and the rows, as :func:`dft.twist` takes them, for columns from ``first`` on."""
    M: tl.constexpr = N * C // V
    m = tl.arange(0, M)
    c = first + m % C
    at = lane + q * (2 * N // V * ROWS) + (m // C) * ROWS + c
    t = tl.load(at), tl.load(at + N // V * ROWS)
    _, w1, w2, w4 = dft.load_pairs(column + tl.arange(0, 8)[:, None] * ROWS + c[None, :])
    return t, dft.times(t[0], t[1], w1[0], w1[1]), w2, w4


@triton.jit
def _tile(row, q, first, N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr):
    """Addresses ``[V, M]`` of a tile of transformed columns in a scratch row ``(G, N, ROWS)``."""
    m = tl.arange(0, N * C // V)[None, :]
    v = tl.arange(0, V)[:, None]
    return row + q * N * ROWS + (m // C * ROWS + first + m % C) + v * (N // V * ROWS)


@triton.jit
def _row(row, N: tl.constexpr, V: tl.constexpr):
    """Addresses ``[V, N / V]`` of a row of N points."""
    return row + tl.arange(0, N // V)[None, :] + tl.arange(0, V)[:, None] * (N // V)


@_kernel
def columns_forward(
    x, gate, skip, scratch, group, digit, table, lane, column, starts, lengths, count, D, L, K, shift,
    x_b, x_d, x_l, gate_b, gate_d, gate_l,
    FILTER: tl.constexpr, CAUSAL: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """First pass: transform C weighted columns of ``gate * x``, or of a filter, to scratch ``(rows, 2, P)``."""
    M: tl.constexpr = N * C // V
    P: tl.constexpr = G * N * ROWS
    tile = tl.program_id(0) % (ROWS // C)
    row = tl.program_id(0) // (ROWS // C)
    b = row // D
    d = row % D
    first = tile * C
    n = _points(first, N, C, ROWS, V)
    b, L = _place(starts, lengths, count, b, L)
    start = _at(x, b, d, x_b, x_d)
    out = scratch + row.to(tl.int64) * (2 * P)
    for q in range(G):
        w = _factors(group, digit, q, G, V)
        if FILTER:
            re, im = _combine_filter(start, x_l, (None if skip is None else skip + d), w, n, K, shift, CAUSAL, P, G)
        else:
            re, im = _combine(
                _load_signal(start, x_l, (None if gate is None else _at(gate, b, d, gate_b, gate_d)), gate_l, n, L, G),
                w,
            )
        re, im = dft.forward(re, im, table + q * (dft.loops(N, V) * N), N, C, V)
        re, im = dft.twist(re, im, _between(lane, column, q, first, N, C, ROWS, V), 1, V, M)
        at = _tile(out, q, first, N, C, ROWS, V)
        tl.store(at, re)
        tl.store(at + P, im)


@_kernel
def rows_forward(
    signal, filter, table, D,
    BATCH: tl.constexpr, COLUMNS: tl.constexpr, N: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Second pass, in place: turn one row of the scratch of ``BATCH`` signals into its product with the filter's."""
    M: tl.constexpr = N // V
    P: tl.constexpr = COLUMNS * N
    r = tl.program_id(0) % COLUMNS
    d = tl.program_id(0) // COLUMNS
    kr = tl.zeros([V, M], tl.float32)
    ki = kr
    for j in range(BATCH + 1):
        row = filter + d.to(tl.int64) * (2 * P)
        if j > 0:
            row = signal + ((j - 1) * D + d).to(tl.int64) * (2 * P)
        at = _row(row + r * N, N, V)
        re, im = dft.forward(tl.load(at), tl.load(at + P), table, N, 1, V)
        if j == 0:
            kr = re
            ki = im
        else:
            re, im = dft.times(re, im, kr, ki)
            re, im = dft.inverse(re, im, table, N, 1, V)
            tl.store(at, re)
            tl.store(at + P, im)


@_kernel
def rows_backward(
    signal, grad, filter, filter_grad, table, D,
    SIGNAL: tl.constexpr, POST: tl.constexpr, ADD: tl.constexpr,
    BATCH: tl.constexpr, COLUMNS: tl.constexpr, N: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Second pass backward, in place: ``signal`` becomes dpost, ``grad`` becomes dx. Writes ``filter_grad`` too."""
    M: tl.constexpr = N // V
    P: tl.constexpr = COLUMNS * N
    FILTER: tl.constexpr = filter_grad is not None
    r = tl.program_id(0) % COLUMNS
    d = tl.program_id(0) // COLUMNS
    spectra = _no_spectra(V, M)
    for i in range(2 * BATCH + 2):
        b = (i - 1) // 2
        is_x = (i % 2 == 1) & (i < 2 * BATCH)
        is_g = (i % 2 == 0) & (i > 0)
        row = filter + d.to(tl.int64) * (2 * P)
        if is_x:
            row = signal + (b * D + d).to(tl.int64) * (2 * P)
        elif is_g:
            row = grad + (b * D + d).to(tl.int64) * (2 * P)
        at = _row(row + r * N, N, V)
        # The last step has nothing to load: it transforms this back.
        re, im = _filter_gradient(spectra, BATCH)
        if i <= 2 * BATCH:
            re, im = dft.forward(tl.load(at), tl.load(at + P), table, N, 1, V)
        re, im, spectra = _backward_products(i, is_x, is_g, re, im, spectra, BATCH)
        last = i == 2 * BATCH + 1
        if (is_x & POST) | (is_g & SIGNAL) | (last & FILTER):
            re, im = dft.inverse(re, im, table, N, 1, V)
            if FILTER:
                if last:
                    at = _row(filter_grad + d.to(tl.int64) * (2 * P) + r * N, N, V)
                    if ADD:
                        re += tl.load(at)
                        im += tl.load(at + P)
            tl.store(at, re)
            tl.store(at + P, im)


@_kernel
def columns_inverse(
    scratch, o1, f1, o2, f2, group, digit, table, lane, column, starts, lengths, count, D, L, K, shift,
    o1_b, o1_d, o1_l, f1_b, f1_d, f1_l, o2_b, o2_d, o2_l, f2_b, f2_d, f2_l,
    FILTER: tl.constexpr, CAUSAL: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Last pass: C columns of the scratch become ``o1 = f1 * z`` and ``o2 = f2 * z``, or a filter's gradient."""
    M: tl.constexpr = N * C // V
    P: tl.constexpr = G * N * ROWS
    tile = tl.program_id(0) % (ROWS // C)
    row = tl.program_id(0) // (ROWS // C)
    b = row // D
    d = row % D
    first = tile * C
    b, L = _place(starts, lengths, count, b, L)
    source = scratch + row.to(tl.int64) * (2 * P)
    n = _points(first, N, C, ROWS, V)
    out = _nothing(G, V, M)
    for q in range(G):
        w = _factors(group, digit, q, G, V)
        at = _tile(source, q, first, N, C, ROWS, V)
        between = _between(lane, column, q, first, N, C, ROWS, V)
        re, im = dft.twist(tl.load(at), tl.load(at + P), between, -1, V, M)
        re, im = dft.inverse(re, im, table + q * (dft.loops(N, V) * N), N, C, V)
        value = _spread(re, im, w, P)
        if FILTER:
            result = _at(o1, b, d, o1_b, o1_d)
            _store_filter(result, value, n, K, shift, q > 0, G)
            if not CAUSAL:
                _store_behind(result, _spread(im, -re, w, P), n, shift, q > 0, P, G)
        else:
            if G > 1:
                out = _added(out, value)
                value = out
            if q == G - 1:
                if o1 is not None:
                    factor = None if f1 is None else _at(f1, b, d, f1_b, f1_d)
                    _store_signal(_at(o1, b, d, o1_b, o1_d), o1_l, value, factor, f1_l, n, L, G)
                if o2 is not None:
                    factor = None if f2 is None else _at(f2, b, d, f2_b, f2_d)
                    _store_signal(_at(o2, b, d, o2_b, o2_d), o2_l, value, factor, f2_l, n, L, G)
