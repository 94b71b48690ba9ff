"""Triton kernels of ``implicit_filter``: their pieces first, then the kernels in the order in which they run.

A tile is features × positions, so a layer is ``weight @ tile`` and the filter comes out as ``(D, L)``. Matrix products
run on tensor cores as three products of parts, which is about as exact as float32. Products with sines, which are at
most 1, take float16 parts. Products with features or gradients take TF32 parts (tf32x3). ``pack_kernel`` splits the
weights into parts once. ``implicit_filter.py`` launches the kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _reduced(x):
    """``r`` in ``[-π/2, π/2]`` with ``x = n π + r`` for an integer n, and n's parity in the top bit of an int32.

    Adding 1.5 · 2^23 rounds to an integer and leaves it in the lowest bits. π is subtracted in two parts. The first has
    8 bits, so its product with n is exact up to |x| = 2^17, even without fused multiply-add. The error of the second,
    ``2e-12 |x|``, is small compared with the rounding of x itself, ``6e-8 |x|``. So no third part is needed.
    """
    shifted = tl.fma(x, 0.3183098861837907, 12582912.0)
    n = shifted - 12582912.0
    r = tl.fma(n, -3.140625, x)
    r = tl.fma(n, -0.0009676535897932385, r)
    return r, shifted.to(tl.int32, bitcast=True) << 31


@triton.jit
def _with_sign(value, sign):
    return (value.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _sine(x):
    """``sin(x)`` to 1.4e-7 + 2e-12 |x| on a GPU, in 12 instructions. ``tl.sin`` takes 104 and a stack.

    The polynomial is the best of degree 9 on ``[-π/2, π/2]``, with an error of 5e-9. Beyond |x| = 2^22 π neighbouring
    float32 numbers are more than 1 apart. There n is not rounded to an integer, and the result is not bounded. It is
    NaN for an infinity.
    """
    r, sign = _reduced(x)
    square = r * r
    p = tl.fma(square, 2.599747404019581e-06, -0.00019806476484518498)
    p = tl.fma(square, p, 0.008333015255630016)
    p = tl.fma(square, p, -0.16666656732559204)
    return _with_sign(tl.fma(r * square, p, r), sign)


@triton.jit
def _cosine(x):
    """``cos(x)``, as :func:`_sine`, with a polynomial of degree 10 and an error of 3e-10."""
    r, sign = _reduced(x)
    square = r * r
    p = tl.fma(square, -2.6074187076119415e-07, 2.4761728127487004e-05)
    p = tl.fma(square, p, -0.0013888400280848145)
    p = tl.fma(square, p, 0.04166664183139801)
    p = tl.fma(square, p, -0.5)
    return _with_sign(tl.fma(square, p, 1.0), sign)


@triton.jit
def split_tf32(x):
    """``x`` rounded to the 11 bits of TF32, and the rest. Tensor cores read 11 bits of that too.

    Products of infinities are NaN here. The ``tf32x3`` of ``tl.dot`` handles them and takes more instructions.
    """
    high = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _product(a_high, a_low, b):
    """``a @ b`` as the sum of three products, the small ones first. The product of both rests is below 2^-22."""
    b_high, b_low = split_tf32(b)
    product = tl.dot(a_low, b_high, input_precision="tf32")
    product = tl.dot(a_high, b_low, product, input_precision="tf32")
    return tl.dot(a_high, b_high, product, input_precision="tf32")


@triton.jit
def _dot(a, b):
    a_high, a_low = split_tf32(a)
    return _product(a_high, a_low, b)


@triton.jit
def _packed_dot(packed, low, b):
    """Product of a matrix that :func:`pack_kernel` has written to ``packed`` (pointers) and ``b``."""
    return _product(tl.load(packed), tl.load(packed + low), b)


@triton.jit
def _store_packed(packed, low, value):
    high, rest = split_tf32(value)
    tl.store(packed, high)
    tl.store(packed + low, rest)


@triton.jit
def _halves(x):
    """``x`` rounded to float16, and the rest in float16, for ``|x|`` up to 2^15. Float16 has 11 bits, as TF32 has.

    The error of a sine is at most 2^-24, twice the error of float32 just below 1.
    """
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _half_dot(halves, low, sine):
    """Product of rows that :func:`_store_halves` has written to ``halves`` (pointers) and :func:`_halves` of sines."""
    a_high = tl.load(halves)
    b_high, b_low = sine
    product = tl.dot(tl.load(halves + low), b_high)
    product = tl.dot(a_high, b_low, product)
    return tl.dot(a_high, b_high, product)


@triton.jit
def _store_halves(halves, low, scale, value):
    """Write the halves of rows, multiplied by a power of two, and the inverse of that power to ``scale``.

    The power takes the largest value of a row to 2^13 … 2^14. The rest of an infinity is NaN, and so are its products.
    """
    exponent = tl.max(tl.abs(value), axis=1).to(tl.int32, bitcast=True) >> 23
    exponent = tl.maximum(exponent - 13, 1)
    up = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    high, rest = _halves(value * up[:, None])
    tl.store(halves, high)
    tl.store(halves + low, rest)
    tl.store(scale, (exponent << 23).to(tl.float32, bitcast=True))


@triton.jit(do_not_specialize=["width", "features", "layers", "channels", "channels_padded"])
def pack_kernel(
    w_in, w_hidden, w_out, freq, packed, halves, scales, low, halves_low, width, features, layers, channels,
    channels_padded,
    H: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Pad all weights with zeros and split them for products, so that no other program has to.

    ``packed`` holds ``w_in (H, E)`` for :func:`_packed_dot`. If TRANSPOSED it also holds the weights that take
    gradients back through a layer: ``(freq w_hidden)^T (M, H, H)``, and ``w_out^T`` in blocks of BLOCK channels,
    ``(D / BLOCK, H, BLOCK)``. ``halves`` and ``scales`` hold ``w_hidden (M, H, H)`` and ``w_out (D, H)`` for
    :func:`_half_dot`. The second parts lie ``low`` and ``halves_low`` elements after the first. A program writes ROWS
    rows.
    """
    first = tl.program_id(0) * ROWS
    column = tl.arange(0, H)[None, :]
    hidden_transposed = packed + H * E
    out_transposed = hidden_transposed + layers * H * H
    if first < H:
        input_row = first + tl.arange(0, ROWS)[:, None]
        e = tl.arange(0, E)[None, :]
        entry = tl.load(w_in + input_row * features + e, mask=(input_row < width) & (e < features), other=0.0)
        _store_packed(packed + input_row * E + e, low, entry)
    elif first < H + layers * H:
        layer = first // H - 1
        row = first % H + tl.arange(0, ROWS)[:, None]
        inside = (row < width) & (column < width)
        value = tl.load(w_hidden + (layer * width + row) * width + column, mask=inside, other=0.0)
        place = first - H + tl.arange(0, ROWS)
        _store_halves(halves + place[:, None] * H + column, halves_low, scales + place, value)
        if TRANSPOSED:
            value *= tl.load(freq + row, mask=row < width, other=0.0)
            _store_packed(hidden_transposed + (layer * H + column) * H + row, low, value)
    else:
        row = first - H - layers * H + tl.arange(0, ROWS)[:, None]
        inside = (row < channels) & (column < width)
        value = tl.load(w_out + row * width + column, mask=inside, other=0.0)
        place = first - H + tl.arange(0, ROWS)
        _store_halves(halves + place[:, None] * H + column, halves_low, scales + place, value)
        if TRANSPOSED:
            _store_packed(out_transposed + (row // BLOCK * H + column) * BLOCK + row % BLOCK, low, value)


@triton.jit
def _first_argument(
    z, freq, b_in, packed, low, position, length, width, features, z_l_stride, z_e_stride,
    H: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """``freq (w_in @ z + b_in)``: arguments of the sines of the first layer."""
    row = tl.arange(0, H)
    e = tl.arange(0, E)
    inside = (e < features)[:, None] & (position < length)[None, :]
    offset = position.to(tl.int64)[None, :] * z_l_stride + e[:, None] * z_e_stride
    value = tl.load(z + offset, mask=inside, other=0.0)
    linear = _packed_dot(packed + row[:, None] * E + e[None, :], low, value)
    f = tl.load(freq + row, mask=row < width, other=0.0)
    b = tl.load(b_in + row, mask=row < width, other=0.0)
    return linear * f[:, None] + (f * b)[:, None]


@triton.jit
def _next_argument(sine, freq, b_hidden, halves, scales, low, layer, width, H: tl.constexpr):
    """``freq (w_hidden @ h + b_hidden)`` of a hidden layer, from the halves of ``h``."""
    row = tl.arange(0, H)
    linear = _half_dot(halves + (layer * H + row[:, None]) * H + row[None, :], low, sine)
    f = tl.load(freq + row, mask=row < width, other=0.0)
    b = tl.load(b_hidden + layer * width + row, mask=row < width, other=0.0)
    scale = f * tl.load(scales + layer * H + row)
    return linear * scale[:, None] + (f * b)[:, None]


@triton.jit
def _window(t, deltas, shift, position, channel, length, channels, t_stride, HAS_WINDOW: tl.constexpr):
    """``(channels, positions)`` window ``exp(-t |delta|) + shift``, or ``shift`` if there is no window."""
    if HAS_WINDOW:
        time = tl.load(t + position.to(tl.int64) * t_stride, mask=position < length, other=0.0)
        rate = tl.load(deltas + channel, mask=channel < channels, other=0.0)
        return tl.exp2((tl.abs(rate) * -1.4426950408889634)[:, None] * time[None, :]) + shift
    else:
        return shift


@triton.jit(do_not_specialize=["width", "features", "layers", "channels"])
def filter_kernel(
    z, freq, b_in, b_hidden, packed, halves, scales, t, deltas, k, shift, low, halves_low, length, width, features,
    layers, channels, z_l_stride, z_e_stride, t_stride,
    H: tl.constexpr, E: tl.constexpr, HAS_WINDOW: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
    REPEATS: tl.constexpr,
):  # fmt: skip
    """Filters ``k (D, L)``: one program computes a tile of positions for REPEATS times CHANNELS channels.

    The loop over channels has a constant end. With an end known at run time, Triton would prepare the operands of
    ``h`` before the loop instead of in it, and spill registers on an A100.
    """
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    row = tl.arange(0, H)
    x = _first_argument(z, freq, b_in, packed, low, position, length, width, features, z_l_stride, z_e_stride, H, E)
    sine = _halves(_sine(x))
    layer = 0
    while layer < layers:
        sine = _halves(_sine(_next_argument(sine, freq, b_hidden, halves, scales, halves_low, layer, width, H)))
        layer += 1
    out = halves + layers * H * H
    for repeat in tl.range(REPEATS, num_stages=1):
        channel = (tl.program_id(1) * REPEATS + repeat) * CHANNELS + tl.arange(0, CHANNELS)
        window = _window(t, deltas, shift, position, channel, length, channels, t_stride, HAS_WINDOW)
        scale = tl.load(scales + layers * H + channel)
        value = _half_dot(out + channel[:, None] * H + row[None, :], halves_low, sine) * scale[:, None] * window
        offset = channel.to(tl.int64)[:, None] * length + position[None, :]
        tl.store(k + offset, value, mask=(channel < channels)[:, None] & (position < length)[None, :])


@triton.jit
def _filter_gradient(dk, channel, start, channels, length, dk_row_stride, dk_l_stride, POSITIONS: tl.constexpr):
    """Gradients of filters before their window, ``(channels, POSITIONS)``, and zero beyond the last of either.

    A whole tile has no mask along its positions, so that a load takes four of them.
    """
    position = start + tl.arange(0, POSITIONS)
    source = dk + channel.to(tl.int64)[:, None] * dk_row_stride + position.to(tl.int64)[None, :] * dk_l_stride
    inside = (channel < channels)[:, None]
    if start + POSITIONS <= length:
        value = tl.load(source, mask=inside, other=0.0)
    else:
        value = tl.load(source, mask=inside & (position < length)[None, :], other=0.0)
    return value


@triton.jit(do_not_specialize=["length", "width", "features", "layers", "channels", "blocks", "lowest"])
def signals_kernel(
    dk, z, freq, b_in, b_hidden, packed, halves, scales, t, deltas, h, dx, shift, low, halves_low, length, width,
    features, layers, channels, blocks, lowest, columns, dk_row_stride, dk_l_stride, z_l_stride, z_e_stride, t_stride,
    H: tl.constexpr, E: tl.constexpr, HAS_WINDOW: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Sines of all layers, ``h``, and gradients of their arguments, ``dx``, from layer ``lowest`` on.

    A program takes a tile of positions through the network and back. Until the gradients of a layer are there, their
    place in ``dx`` holds the cosines. The tile reads these again soon, so they should still be in the L2 cache. What no
    program of this kernel reads again is written to leave the cache first.

    Planes ``h`` and ``dx`` are ``(M + 1, columns / POSITIONS, H, POSITIONS)``, so that a tile is whole and its elements
    are at constant distances. Positions from ``length`` on mean nothing in ``h``, and are zero in ``dx``.
    """
    start = tl.program_id(0) * POSITIONS
    position = start + tl.arange(0, POSITIONS)
    row = tl.arange(0, H)
    plane = H * columns
    tile = tl.program_id(0).to(tl.int64) * (H * POSITIONS)
    place = tile + row[:, None] * POSITIONS + tl.arange(0, POSITIONS)[None, :]
    x = _first_argument(z, freq, b_in, packed, low, position, length, width, features, z_l_stride, z_e_stride, H, E)
    layer = 0
    while layer < layers:
        sine = _sine(x)
        tl.store(h + layer * plane + place, sine, eviction_policy="evict_first")
        tl.store(dx + layer * plane + place, _cosine(x))
        x = _next_argument(_halves(sine), freq, b_hidden, halves, scales, halves_low, layer, width, H)
        layer += 1
    tl.store(h + layers * plane + place, _sine(x), eviction_policy="evict_first")
    tl.store(dx + layers * plane + place, _cosine(x))

    hidden = packed + H * E
    weight = hidden + layers * H * H + row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    dh = tl.zeros((H, POSITIONS), tl.float32)
    block = 0
    while block < blocks:
        channel = block * BLOCK + tl.arange(0, BLOCK)
        grad = _filter_gradient(dk, channel, start, channels, length, dk_row_stride, dk_l_stride, POSITIONS)
        grad *= _window(t, deltas, shift, position, channel, length, channels, t_stride, HAS_WINDOW)
        dh += _packed_dot(weight + block * H * BLOCK, low, grad)
        block += 1
    # Another thread may have written what a thread reads next.
    tl.debug_barrier()
    while layer >= lowest:
        grad = dh * tl.load(dx + layer * plane + place)
        tl.store(dx + layer * plane + place, grad, eviction_policy="evict_first")
        layer -= 1
        if layer >= lowest:
            square = hidden + layer * H * H + row[:, None] * H
            if H <= ROWS:
                dh = _packed_dot(square + row[None, :], low, grad)
            else:
                # Some rows at a time: shared memory has no room for all weights.
                tl.debug_barrier()
                dh = tl.zeros((H, POSITIONS), tl.float32)
                for first in tl.static_range(0, H, ROWS):
                    some = first + tl.arange(0, ROWS)
                    source = dx + (layer + 1) * plane + tile + some[:, None] * POSITIONS
                    rows = tl.load(source + tl.arange(0, POSITIONS)[None, :])
                    dh += _packed_dot(square + some[None, :], low, rows)


@triton.jit
def _plane(plane, row, start, H: tl.constexpr, TILE: tl.constexpr, POSITIONS: tl.constexpr):
    """POSITIONS positions of some rows of a plane ``(columns / TILE, H, TILE)`` of :func:`signals_kernel`."""
    first = tl.multiple_of(start // TILE * (H * TILE) + start % TILE, POSITIONS)
    return tl.load(plane + first + row[:, None] * TILE + tl.arange(0, POSITIONS)[None, :])


@triton.jit
def _factors(
    dy, h, row, column, start, rows, length, dy_row_stride, dy_l_stride,
    H: tl.constexpr, OUTPUT: tl.constexpr, TILE: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Tiles of ``dy`` and ``h``: the gradients of filters before their window if OUTPUT, else of a plane."""
    if OUTPUT:
        grad = _filter_gradient(dy, row, start, rows, length, dy_row_stride, dy_l_stride, POSITIONS)
    else:
        grad = _plane(dy, row, start, H, TILE, POSITIONS)
    return grad, _plane(h, column, start, H, TILE, POSITIONS)


@triton.jit(do_not_specialize=["rows", "length", "first"])
def weights_kernel(
    dy, t, deltas, h, dweight, dbias, shift, rows, length, first, columns, sums_stride,
    dy_row_stride, dy_l_stride, t_stride,
    H: tl.constexpr, OUTPUT: tl.constexpr, HAS_WINDOW: tl.constexpr, TILE: tl.constexpr, POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Add the part of a slice to the sums ``dy @ h^T (rows, H)`` and, unless OUTPUT, ``dy @ 1 (rows,)``.

    One program goes over every n-th tile of positions for some rows of one layer, and has its own sums. It loads a tile
    while it computes with the one before.
    """
    column = tl.arange(0, H)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    layer = tl.program_id(2)
    dy += layer * H * columns
    h += layer * H * columns
    total = tl.zeros((H, ROWS), tl.float32)
    bias_total = tl.zeros((ROWS,), tl.float32)
    start = tl.program_id(0) * POSITIONS
    grad, sine = _factors(
        dy, h, row, column, start, rows, length, dy_row_stride, dy_l_stride, H, OUTPUT, TILE, POSITIONS
    )
    while start < length:
        following = start + tl.num_programs(0) * POSITIONS
        # After the last tile this is the same tile once more.
        ahead = tl.multiple_of(tl.where(following < length, following, start), POSITIONS)
        next_grad, next_sine = _factors(
            dy, h, row, column, ahead, rows, length, dy_row_stride, dy_l_stride, H, OUTPUT, TILE, POSITIONS
        )  # fmt: skip
        if OUTPUT:
            position = start + tl.arange(0, POSITIONS)
            grad *= _window(t, deltas, shift, position, row, length, rows, t_stride, HAS_WINDOW)
        else:
            bias_total += tl.sum(grad, axis=1)
        total += _dot(sine, tl.trans(grad))
        grad, sine, start = next_grad, next_sine, following
    program = tl.program_id(0).to(tl.int64) * sums_stride
    inside = (row < rows)[None, :]
    sums = dweight + program + layer * H * H + row[None, :] * H + column[:, None]
    # Sums are uninitialised before the first slice, which sets them. A helper for this took a register more on sm_90.
    tl.store(sums, tl.load(sums, mask=inside & (first == 0), other=0.0) + total, mask=inside)
    if not OUTPUT:
        bias_sums = dbias + program + layer * H + row
        tl.store(bias_sums, tl.load(bias_sums, mask=(row < rows) & (first == 0), other=0.0) + bias_total)


@triton.jit(do_not_specialize=["length", "first", "width", "features"])
def inputs_kernel(
    dx, z, freq, w_in, dz, dweight, dbias, length, first, width, features, sums_stride,
    z_l_stride, z_e_stride,
    H: tl.constexpr, E: tl.constexpr, NEEDS_Z: tl.constexpr, TILE: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """As :func:`weights_kernel`, for the first layer: ``dx @ z (H, E)`` and ``dx @ 1 (H,)``. Writes ``dz`` too."""
    row = tl.arange(0, H)
    e = tl.arange(0, E)
    total = tl.zeros((H, E), tl.float32)
    bias_total = tl.zeros((H,), tl.float32)
    start = tl.program_id(0) * POSITIONS
    while start < length:
        position = start + tl.arange(0, POSITIONS)
        inside = (position < length)[:, None] & (e < features)[None, :]
        offset = position.to(tl.int64)[:, None]
        grad = _plane(dx, row, start, H, TILE, POSITIONS)
        value = tl.load(z + offset * z_l_stride + e[None, :] * z_e_stride, mask=inside, other=0.0)
        bias_total += tl.sum(grad, axis=1)
        total += _dot(grad, value)
        if NEEDS_Z:
            mask = (row < width)[:, None] & (e < features)[None, :]
            weight = tl.load(w_in + row[:, None] * features + e[None, :], mask=mask, other=0.0)
            weight *= tl.load(freq + row, mask=row < width, other=0.0)[:, None]
            tl.store(dz + offset * features + e[None, :], _dot(tl.trans(grad), weight), mask=inside)
        start += tl.num_programs(0) * POSITIONS
    program = tl.program_id(0).to(tl.int64) * sums_stride
    sums = dweight + program + row[:, None] * E + e[None, :]
    later = (row < H) & (first == 0)
    tl.store(sums, tl.load(sums, mask=later[:, None], other=0.0) + total)
    bias_sums = dbias + program + row
    tl.store(bias_sums, tl.load(bias_sums, mask=later, other=0.0) + bias_total)
