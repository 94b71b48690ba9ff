"""Kernels of the far field inside blocks: moments, near field and expansion, and sums for the near taps.

All of them are products on tensor cores. A factor is a sum of up to three parts in bfloat16, which has the range of
float32, so nothing has to be scaled. Parts of 8 bits: one holds a number of bfloat16 exactly, two a product of two such
numbers or a number of float16, three a float32. Sums are float32. ``ORDER`` says which products of parts are made:
those of parts i and j with ``i + j ≤ ORDER``. What ``ORDER = 2`` leaves out is below the rounding of float32. ``ORDER =
1`` errs by 2^-17, which is enough for a result that is rounded to 16 bits.

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


@triton.jit
def _parts(x, COUNT: tl.constexpr):
    """``x`` as a sum of parts in bfloat16."""
    first = x.to(tl.bfloat16)
    if COUNT == 1:
        return (first,)
    else:
        rest = x - first.to(tl.float32)
        second = rest.to(tl.bfloat16)
        if COUNT == 2:
            return first, second
        else:
            return first, second, (rest - second.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _add_product(total, a, b, ORDER: tl.constexpr):
    """``total + a @ b`` of parts, the small products first."""
    for k in tl.static_range(ORDER + 1):
        for i in tl.static_range(len(a)):
            if i <= ORDER - k:
                if ORDER - k - i < len(b):
                    total = tl.dot(a[i], b[ORDER - k - i], total)
    return total


@triton.jit
def _transposed(parts):
    result = (tl.trans(parts[0]),)
    for i in tl.static_range(1, len(parts)):
        result = result + (tl.trans(parts[i]),)
    return result


@triton.jit
def _start(pointer, b, d, stride_b, stride_d):
    return pointer + b.to(tl.int64) * stride_b + d.to(tl.int64) * stride_d


@triton.jit
def _places(block, piece, H: tl.constexpr, S: tl.constexpr, BLOCKS: tl.constexpr):
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
def _signal(row, stride, gate, gate_stride, block, L, piece, H: tl.constexpr, S: tl.constexpr,
            BLOCKS: tl.constexpr):  # fmt: skip
    """A piece ``[BLOCKS, S]`` of each block of a tile, of a signal times its gate."""
    n = _places(block, piece, H, S, BLOCKS)
    return _gated(_load(row, stride, n, L), gate, gate_stride, n, L)


@triton.jit
def _basis(table, piece, COUNT: tl.constexpr, H: tl.constexpr, S: tl.constexpr, BY_NODE: tl.constexpr):
    """Parts of the basis at a piece of a block: ``[NODES, S]`` if ``BY_NODE``, else ``[S, NODES]``."""
    alpha = tl.arange(0, NODES)
    a = piece * S + tl.arange(0, S)
    at = alpha[:, None] * H + a[None, :] if BY_NODE else a[:, None] + alpha[None, :] * H
    parts = (tl.load(table + at),)
    for i in tl.static_range(1, COUNT):
        parts = parts + (tl.load(table + i * NODES * H + at),)
    return parts


@triton.jit
def _store_moments(moments, total, row, block, blocks, P: tl.constexpr, BLOCKS: tl.constexpr):
    """Store moments of a tile of blocks of one row, to ``(rows, P, blocks)``."""
    alpha = tl.arange(0, NODES)[None, :]
    j = (block + tl.arange(0, BLOCKS))[:, None]
    at = moments + row.to(tl.int64) * (P * blocks) + alpha * blocks + j
    tl.store(at, total, mask=(alpha < P) & (j < blocks))


@triton.jit
def moments_kernel(
    x, x_gate, g, g_gate, x_moments, g_moments, skip_sums, table, D, L, blocks, spans,
    x_b, x_d, x_l, x_gate_b, x_gate_d, x_gate_l, g_b, g_d, g_l, g_gate_b, g_gate_d, g_gate_l,
    X_PARTS: tl.constexpr, G_PARTS: tl.constexpr, H: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    BLOCKS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Moments of the gated signals x and g, if wanted, for ``TILES`` tiles of blocks of one row.

    ``x_moments`` and ``g_moments`` are float32 ``(rows, P, blocks)``. ``skip_sums`` is float64 ``(rows, spans)``, the
    sum of ``x g``. Without ``g`` only ``x_moments`` is computed.
    """
    row = tl.program_id(0) // spans
    span = tl.program_id(0) % spans
    b = row // D
    d = row % D
    SKIP: tl.constexpr = skip_sums is not None
    x_start = _start(x, b, d, x_b, x_d)
    x_factor = None if x_gate is None else _start(x_gate, b, d, x_gate_b, x_gate_d)
    g_start = None if g is None else _start(g, b, d, g_b, g_d)
    g_factor = None if g_gate is None else _start(g_gate, b, d, g_gate_b, g_gate_d)
    skip = tl.zeros([BLOCKS], tl.float64)
    for tile in range(TILES):
        block = (span * TILES + tile) * BLOCKS
        mx = tl.zeros([BLOCKS, NODES], tl.float32)
        mg = mx
        # Not unrolled: loads of several pieces would take too many registers.
        for piece in range(H // S):
            if x_moments is not None or SKIP:
                value = _signal(x_start, x_l, x_factor, x_gate_l, block, L, piece, H, S, BLOCKS)
            if g_moments is not None or SKIP:
                grad = _signal(g_start, g_l, g_factor, g_gate_l, block, L, piece, H, S, BLOCKS)
            if SKIP:
                skip += tl.sum(value.to(tl.float64) * grad.to(tl.float64), axis=1)
            if x_moments is not None:
                mx = _add_product(mx, _parts(value, X_PARTS), _basis(table, piece, 3, H, S, False), 2)
            if g_moments is not None:
                mg = _add_product(mg, _parts(grad, G_PARTS), _basis(table, piece, 3, H, S, False), 2)
        if x_moments is not None:
            _store_moments(x_moments, mx, row, block, blocks, P, BLOCKS)
        if g_moments is not None:
            _store_moments(g_moments, mg, row, block, blocks, P, BLOCKS)
    if SKIP:
        tl.store(skip_sums + tl.program_id(0), tl.sum(skip, axis=0))


@triton.jit
def sums_kernel(
    x, x_gate, g, g_gate, near_sums, D, L, spans,
    x_b, x_d, x_l, x_gate_b, x_gate_d, x_gate_l, g_b, g_d, g_l, g_gate_b, g_gate_d, g_gate_l,
    X_PARTS: tl.constexpr, G_PARTS: tl.constexpr, H: tl.constexpr, S: tl.constexpr, BLOCKS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """Sums of products for the near taps, over ``TILES`` tiles of blocks of one row.

    ``near_sums`` is float32 ``(rows, spans, H / S, S, S)``: at ``[…, j, b, a]`` the sum of ``x[n] g[n + j S + a - b]``
    over all n at place b of a piece that has a piece j after it in its block.
    """
    row = tl.program_id(0) // spans
    span = tl.program_id(0) % spans
    b = row // D
    d = row % D
    x_start = _start(x, b, d, x_b, x_d)
    x_factor = None if x_gate is None else _start(x_gate, b, d, x_gate_b, x_gate_d)
    g_start = _start(g, b, d, g_b, g_d)
    g_factor = None if g_gate is None else _start(g_gate, b, d, g_gate_b, g_gate_d)
    zero = tl.zeros([S, S], tl.float32)
    sums = (zero,)
    for _ in tl.static_range(1, H // S):
        sums = sums + (zero,)
    for tile in range(TILES):
        block = (span * TILES + tile) * BLOCKS
        xs = ()
        for piece in tl.static_range(H // S):
            value = _signal(x_start, x_l, x_factor, x_gate_l, block, L, piece, H, S, BLOCKS)
            xs = xs + (_transposed(_parts(value, X_PARTS)),)
            grad = _signal(g_start, g_l, g_factor, g_gate_l, block, L, piece, H, S, BLOCKS)
            g_parts = _parts(grad, G_PARTS)
            new = ()
            for j in tl.static_range(piece + 1):
                new = new + (_add_product(sums[j], xs[piece - j], g_parts, 2),)
            for j in tl.static_range(piece + 1, H // S):
                new = new + (sums[j],)
            sums = new
    at = near_sums + tl.program_id(0).to(tl.int64) * (H * S)
    at += tl.arange(0, S)[:, None] * S + tl.arange(0, S)[None, :]
    for j in tl.static_range(H // S):
        tl.store(at + j * S * S, sums[j])


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
def _load_far(far, row, block, blocks, P: tl.constexpr, BLOCKS: tl.constexpr):
    """Values ``[BLOCKS, NODES]`` of the far field at the nodes of a tile of blocks."""
    alpha = tl.arange(0, NODES)[None, :]
    j = (block + tl.arange(0, BLOCKS))[:, None]
    at = far + row.to(tl.int64) * (P * blocks) + alpha * blocks + j
    return tl.load(at, mask=(alpha < P) & (j < blocks), other=0.0)


@triton.jit
def _store(row, stride, value, factor, factor_stride, n, L):
    """Store a factor times a value."""
    value = _gated(value, factor, factor_stride, n, L)
    tl.store(row + n.to(tl.int64) * stride, value.to(row.dtype.element_ty), mask=n < L)


@triton.jit
def _toeplitz(
    row, stride, skip, j: tl.constexpr, COUNT: tl.constexpr, S: tl.constexpr, TRANSPOSED: tl.constexpr
):  # fmt: skip
    """Parts of the tile ``[S, S]`` by which a piece contributes to the one j after it, or before it if transposed."""
    into = tl.arange(0, S)[None, :]
    out = tl.arange(0, S)[:, None]
    lag = j * S + (out - into if TRANSPOSED else into - out)
    taps = tl.load(row + lag.to(tl.int64) * stride, mask=lag >= 0, other=0.0)
    if j == 0:
        if skip is not None:
            taps += tl.where(lag == 0, tl.load(skip).to(tl.float32), 0.0)
    return _parts(taps, COUNT)


@triton.constexpr_function
def _piece(step, pieces, transposed):
    """The piece of a step. A piece goes to itself and to those after it in its block, or before it if transposed."""
    return pieces - 1 - step if transposed else step


@triton.jit
def near_kernel(
    x, gate, near, skip, far, table, o1, f1, o2, f2, D, L, blocks, spans,
    x_b, x_d, x_l, gate_b, gate_d, gate_l, near_d, near_l, o1_b, o1_d, o1_l, f1_b, f1_d, f1_l, o2_b, o2_d, o2_l,
    f2_b, f2_d, f2_l,
    TRANSPOSED: tl.constexpr, PARTS: tl.constexpr, ORDER: tl.constexpr, H: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, BLOCKS: tl.constexpr, TILES: tl.constexpr,
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
    tap = None if skip is None else skip + d
    toeplitz = (_toeplitz(taps, near_l, tap, 0, ORDER + 1, S, TRANSPOSED),)
    for j in tl.static_range(1, PIECES):
        toeplitz = toeplitz + (_toeplitz(taps, near_l, tap, j, ORDER + 1, S, TRANSPOSED),)
    start = _start(x, b, d, x_b, x_d)
    factor = None if gate is None else _start(gate, b, d, gate_b, gate_d)
    for tile in range(TILES):
        block = (span * TILES + tile) * BLOCKS
        values = _parts(_load_far(far, row, block, blocks, P, BLOCKS), ORDER + 1)
        for step in tl.static_range(PIECES):
            piece = _piece(step, PIECES, TRANSPOSED)
            total = tl.zeros([BLOCKS, S], tl.float32)
            total = _add_product(total, values, _basis(table, piece, ORDER + 1, H, S, True), ORDER)
            # What comes before is loaded again, from the cache. Keeping it would take too many registers.
            for j in tl.static_range(step + 1):
                other = _piece(step - j, PIECES, TRANSPOSED)
                parts = _parts(_signal(start, x_l, factor, gate_l, block, L, other, H, S, BLOCKS), PARTS)
                total = _add_product(total, parts, toeplitz[j], ORDER)
            n = _places(block, piece, H, S, BLOCKS)
            if o1 is not None:
                first = None if f1 is None else _start(f1, b, d, f1_b, f1_d)
                _store(_start(o1, b, d, o1_b, o1_d), o1_l, total, first, f1_l, n, L)
            if o2 is not None:
                second = None if f2 is None else _start(f2, b, d, f2_b, f2_d)
                _store(_start(o2, b, d, o2_b, o2_d), o2_l, total, second, f2_l, n, L)
