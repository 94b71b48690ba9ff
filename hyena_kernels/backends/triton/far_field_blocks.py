"""Kernels of the far field inside blocks: moments, near field and expansion, and sums for the near taps.

All of them are products on tensor cores. A factor is multiplied by a power of two and split into two parts of float16,
which hold 22 of its bits. Three products of parts with sums in float32 are about as exact as float32. A signal of 16
bits without a gate needs one part alone. The power of two takes the largest value of a tile to 2^14 … 2^15, so float16
neither overflows nor loses bits of large values. Tensor cores multiply float16 twice as fast as TF32.

A block of H positions is cut into pieces of S. Two pieces of a block that are j apart see the same ``S × S`` tile of
the Toeplitz matrix of the near taps, so only H / S different tiles exist, and no product with its empty half is made.

Rows are found by strides. :mod:`hyena_kernels.backends.triton.far_field_conv` launches the kernels, and
:mod:`hyena_kernels.backends.torch.far_field` has the mathematics.
"""

from __future__ import annotations

import triton
import triton.language as tl

NODES: tl.constexpr = tl.constexpr(16)
"""Nodes of a block in the products, whatever p is: the least that tensor cores take."""

BASIS_SCALE: tl.constexpr = tl.constexpr(64.0)
"""Factor of the table of the basis. No value of a basis of up to 12 nodes is above 512."""


@triton.jit
def _scale(largest):
    """The power of two that takes ``largest`` to 2^14 … 2^15, and its inverse. Both are normal numbers."""
    exponent = largest.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 15), 254)
    up = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    return up, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _parts(x, ONE: tl.constexpr):
    """``x`` as a sum of parts in float16. ``ONE``: the first is exact, because x has at most 11 bits."""
    high = x.to(tl.float16)
    if ONE:
        return (high,)
    else:
        return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _add_product(total, a, b):
    """``total + a @ b`` of parts, the small products first. That of both rests is below 2^-22 of the largest."""
    if len(a) == 2:
        total = tl.dot(a[1], b[0], total)
    if len(b) == 2:
        total = tl.dot(a[0], b[1], total)
    return tl.dot(a[0], b[0], total)


@triton.jit
def _transposed(parts):
    if len(parts) == 1:
        return (tl.trans(parts[0]),)
    else:
        return tl.trans(parts[0]), tl.trans(parts[1])


@triton.jit
def _start(pointer, b, d, stride_b, stride_d):
    return pointer + b.to(tl.int64) * stride_b + d.to(tl.int64) * stride_d


@triton.jit
def _places(block, piece: tl.constexpr, H: tl.constexpr, S: tl.constexpr, BLOCKS: tl.constexpr):
    """Positions ``[BLOCKS, S]`` of a piece of each block of a tile."""
    return (block + tl.arange(0, BLOCKS))[:, None] * H + (piece * S + tl.arange(0, S))[None, :]


@triton.jit
def _load(row, stride, n, L):
    return tl.load(row + n.to(tl.int64) * stride, mask=n < L, other=0.0).to(tl.float32)


@triton.jit
def _gated(value, gate, stride, n, L):
    if gate is None:
        return value
    else:
        return value * _load(gate, stride, n, L)


@triton.jit
def _pieces(
    row, stride, gate, gate_stride, block, L, H: tl.constexpr, S: tl.constexpr, BLOCKS: tl.constexpr
):  # fmt: skip
    """A signal times its gate in a tile of blocks: a tensor ``[BLOCKS, S]`` for each piece, and the largest value."""
    n = _places(block, 0, H, S, BLOCKS)
    x = _gated(_load(row, stride, n, L), gate, gate_stride, n, L)
    pieces = (x,)
    largest = tl.max(tl.abs(x))
    for piece in tl.static_range(1, H // S):
        n = _places(block, piece, H, S, BLOCKS)
        x = _gated(_load(row, stride, n, L), gate, gate_stride, n, L)
        pieces = pieces + (x,)
        largest = tl.maximum(largest, tl.max(tl.abs(x)))
    return pieces, largest


@triton.jit
def _split(pieces, up, ONE: tl.constexpr):
    """The parts of every piece times ``up``."""
    parts = (_parts(pieces[0] * up, ONE),)
    for piece in tl.static_range(1, len(pieces)):
        parts = parts + (_parts(pieces[piece] * up, ONE),)
    return parts


@triton.jit
def _basis(table, piece: tl.constexpr, H: tl.constexpr, S: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Parts of the basis at a piece of a block: ``[NODES, S]``, or its transpose."""
    alpha = tl.arange(0, NODES)
    a = piece * S + tl.arange(0, S)
    at = a[:, None] + alpha[None, :] * H if TRANSPOSED else alpha[:, None] * H + a[None, :]
    return tl.load(table + at), tl.load(table + NODES * H + at)


@triton.jit
def _store_moments(
    moments, parts, down, table, row, block, blocks, H: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Moments of a tile of blocks of one row, to ``(rows, P, blocks)``."""
    total = tl.zeros([BLOCKS, NODES], tl.float32)
    for piece in tl.static_range(len(parts)):
        total = _add_product(total, parts[piece], _basis(table, piece, H, S, True))
    alpha = tl.arange(0, NODES)[None, :]
    j = (block + tl.arange(0, BLOCKS))[:, None]
    at = moments + row.to(tl.int64) * (P * blocks) + alpha * blocks + j
    tl.store(at, total * down * (1.0 / BASIS_SCALE), mask=(alpha < P) & (j < blocks))


@triton.jit
def _added(a, b):
    return b if a is None else a + b


@triton.jit
def moments_kernel(
    x, x_gate, g, g_gate, x_moments, g_moments, near_sums, skip_sums, table, D, L, blocks, spans,
    x_b, x_d, x_l, x_gate_b, x_gate_d, x_gate_l, g_b, g_d, g_l, g_gate_b, g_gate_d, g_gate_l,
    X_ONE: tl.constexpr, G_ONE: tl.constexpr, H: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    BLOCKS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What a pass over the gated signals x and g gives, each if wanted, for ``TILES`` tiles of blocks of one row.

    ``x_moments`` and ``g_moments`` are float32 ``(rows, P, blocks)``. ``near_sums`` is float32 ``(rows, spans, H / S,
    S, S)``: at ``[…, j, b, a]`` the sum of ``x[n] g[n + j S + a - b]`` over all n at place b of a piece.
    ``skip_sums`` is float64 ``(rows, spans)``, the sum of ``x g``. Without ``g`` only ``x_moments`` is computed.
    """
    row = tl.program_id(0) // spans
    span = tl.program_id(0) % spans
    b = row // D
    d = row % D
    PAIR: tl.constexpr = near_sums is not None or skip_sums is not None
    zero = tl.zeros([S, S], tl.float32)
    sums = (zero,)
    for _ in tl.static_range(1, H // S):
        sums = sums + (zero,)
    top_x = 0.0
    top_g = 0.0
    skip = tl.zeros([1], tl.float64)
    for tile in range(TILES):
        block = (span * TILES + tile) * BLOCKS
        if x_moments is not None or PAIR:
            gate = None if x_gate is None else _start(x_gate, b, d, x_gate_b, x_gate_d)
            xs, x_largest = _pieces(_start(x, b, d, x_b, x_d), x_l, gate, x_gate_l, block, L, H, S, BLOCKS)
        if g_moments is not None or PAIR:
            gate = None if g_gate is None else _start(g_gate, b, d, g_gate_b, g_gate_d)
            gs, g_largest = _pieces(_start(g, b, d, g_b, g_d), g_l, gate, g_gate_l, block, L, H, S, BLOCKS)
        if skip_sums is not None:
            for piece in tl.static_range(H // S):
                # Sums of a few products in float32, and of those in float64.
                skip += tl.sum(tl.sum(xs[piece] * gs[piece], axis=1).to(tl.float64), axis=0)
        if near_sums is not None:
            # The sums keep the scale of the largest value so far. What came before shrinks with it.
            x_largest = tl.maximum(x_largest, top_x)
            g_largest = tl.maximum(g_largest, top_g)
            shrink = _scale(x_largest)[0] * _scale(top_x)[1] * (_scale(g_largest)[0] * _scale(top_g)[1])
            top_x = x_largest
            top_g = g_largest
        if x_moments is not None or near_sums is not None:
            up, down = _scale(x_largest)
            xs = _split(xs, up, X_ONE)
            if x_moments is not None:
                _store_moments(x_moments, xs, down, table, row, block, blocks, H, S, P, BLOCKS)
        if g_moments is not None or near_sums is not None:
            up, down = _scale(g_largest)
            gs = _split(gs, up, G_ONE)
            if g_moments is not None:
                _store_moments(g_moments, gs, down, table, row, block, blocks, H, S, P, BLOCKS)
        if near_sums is not None:
            new = ()
            for j in tl.static_range(H // S):
                total = sums[j] * shrink
                for piece in tl.static_range(j, H // S):
                    total = _add_product(total, _transposed(xs[piece - j]), gs[piece])
                new = new + (total,)
            sums = new
    if near_sums is not None:
        at = near_sums + tl.program_id(0).to(tl.int64) * (H * S)
        at += tl.arange(0, S)[:, None] * S + tl.arange(0, S)[None, :]
        for j in tl.static_range(H // S):
            tl.store(at + j * S * S, sums[j] * _scale(top_x)[1] * _scale(top_g)[1])
    if skip_sums is not None:
        tl.store(skip_sums + tl.program_id(0) + tl.arange(0, 1), skip)


@triton.jit
def diagonals_kernel(near_sums, dnear, D, rows, spans, H: tl.constexpr, S: tl.constexpr):
    """Gradients ``(D, H)`` of S near taps of one channel: sums along diagonals of all ``near_sums`` of the channel."""
    pieces: tl.constexpr = H // S
    d = tl.program_id(0) // pieces
    lag = tl.program_id(0) % pieces * S + tl.arange(0, S)
    b = tl.arange(0, S)[:, None]
    a = lag[None, :] + b
    at = near_sums + a // S * (S * S) + b * S + a % S
    total = tl.zeros([S, S], tl.float32)
    row = d
    # Not tl.range: the interpreter refuses bounds that are known only at run time.
    while row < rows:
        span = 0
        while span < spans:
            total += tl.load(at + (row.to(tl.int64) * spans + span) * (H * S), mask=a < H, other=0.0)
            span += 1
        row += D
    tl.store(dnear + d * H + lag, tl.sum(total, axis=0))


@triton.jit
def _toeplitz(row, stride, skip, up, j: tl.constexpr, S: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Parts of the tile ``[S, S]`` by which a piece contributes to the one j after it, or before it if transposed."""
    into = tl.arange(0, S)[None, :]
    out = tl.arange(0, S)[:, None]
    lag = j * S + (out - into if TRANSPOSED else into - out)
    taps = tl.load(row + lag.to(tl.int64) * stride, mask=lag >= 0, other=0.0)
    if j == 0:
        if skip is not None:
            taps += tl.where(lag == 0, skip, 0.0)
    return _parts(taps * up, False)


@triton.jit
def near_kernel(
    x, gate, near, skip, far, table, o1, f1, o2, f2, D, L, blocks, spans,
    x_b, x_d, x_l, gate_b, gate_d, gate_l, near_d, near_l, o1_b, o1_d, o1_l, f1_b, f1_d, f1_l, o2_b, o2_d, o2_l,
    f2_b, f2_d, f2_l,
    TRANSPOSED: tl.constexpr, ONE: tl.constexpr, H: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    BLOCKS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """``o1 = f1 z`` and ``o2 = f2 z`` in ``TILES`` tiles of blocks of one row: near field plus expanded far field.

    ``z`` is the convolution of ``gate x`` with the near taps ``(D, H)`` and the skip inside of each block, and the
    basis times ``far``, float32 ``(rows, P, blocks)``. With ``TRANSPOSED`` it is the transpose of this convolution.
    """
    row = tl.program_id(0) // spans
    span = tl.program_id(0) % spans
    b = row // D
    d = row % D
    PIECES: tl.constexpr = H // S
    taps = near + d.to(tl.int64) * near_d
    tap = None if skip is None else tl.load(skip + d).to(tl.float32)
    n = tl.arange(0, H)
    largest = tl.load(taps + n.to(tl.int64) * near_l)
    if skip is not None:
        largest += tl.where(n == 0, tap, 0.0)
    near_up, near_down = _scale(tl.max(tl.abs(largest)))
    toeplitz = (_toeplitz(taps, near_l, tap, near_up, 0, S, TRANSPOSED),)
    for j in tl.static_range(1, PIECES):
        toeplitz = toeplitz + (_toeplitz(taps, near_l, tap, near_up, j, S, TRANSPOSED),)
    start = _start(x, b, d, x_b, x_d)
    factor = None if gate is None else _start(gate, b, d, gate_b, gate_d)
    for tile in range(TILES):
        block = (span * TILES + tile) * BLOCKS
        xs, largest = _pieces(start, x_l, factor, gate_l, block, L, H, S, BLOCKS)
        up, down = _scale(largest)
        xs = _split(xs, up, ONE)
        alpha = tl.arange(0, NODES)[None, :]
        j = (block + tl.arange(0, BLOCKS))[:, None]
        at = far + row.to(tl.int64) * (P * blocks) + alpha * blocks + j
        values = tl.load(at, mask=(alpha < P) & (j < blocks), other=0.0)
        far_up, far_down = _scale(tl.max(tl.abs(values)))
        values = _parts(values * far_up, False)
        for piece in tl.static_range(PIECES):
            total = tl.zeros([BLOCKS, S], tl.float32)
            for j in tl.static_range(PIECES):
                if TRANSPOSED:
                    if piece + j < PIECES:
                        total = _add_product(total, xs[piece + j], toeplitz[j])
                elif piece >= j:
                    total = _add_product(total, xs[piece - j], toeplitz[j])
            expanded = _add_product(tl.zeros([BLOCKS, S], tl.float32), values, _basis(table, piece, H, S, False))
            total = total * near_down * down + expanded * (far_down * (1.0 / BASIS_SCALE))
            n = _places(block, piece, H, S, BLOCKS)
            if o1 is not None:
                first = None if f1 is None else _start(f1, b, d, f1_b, f1_d)
                at = _start(o1, b, d, o1_b, o1_d) + n.to(tl.int64) * o1_l
                tl.store(at, _gated(total, first, f1_l, n, L).to(o1.dtype.element_ty), mask=n < L)
            if o2 is not None:
                second = None if f2 is None else _start(f2, b, d, f2_b, f2_d)
                at = _start(o2, b, d, o2_b, o2_d) + n.to(tl.int64) * o2_l
                tl.store(at, _gated(total, second, f2_l, n, L).to(o2.dtype.element_ty), mask=n < L)
