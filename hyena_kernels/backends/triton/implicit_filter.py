"""``implicit_filter`` on Triton: launchers of ``filter_kernels.py`` and ``filter_sums.py``.

Forward is ``filter_kernel``: of its tiles nothing but the filters goes to memory. Backward goes over slices of the
positions. What it keeps of one between its kernels, planes ``(H, slice)`` with the arguments of the sines and their
gradients, has a bounded size.

Predicted for L = 2^20, D = 128, E = 5, H = 64, M = 2 on an H200 at 4.3 TB/s:

- Forward moves 0.56 GB, 0.13 ms. Instructions bound it: 189 of a warp for each position, 0.21 ms at four a cycle and
  0.38 ms at the two or so that are usual. Its 105 GFLOP on tensor cores (three times 35) run beside them.
- Backward of all parameters moves 5.9 GB, 1.4 ms, where the second level cache holds none of the planes, and takes
  720 instructions for each position, 0.8 ms at four a cycle: ``arguments_kernel`` 0.8 GB, ``signal_kernel`` 1.1 GB for
  the filters and 0.8 GB for each hidden layer, ``weights_kernel`` 1.1 GB for the filters and 0.5 GB for each hidden
  layer, ``inputs_kernel`` 0.3 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from hyena_kernels.backends.triton.filter_kernels import (
    arguments_kernel,
    filter_kernel,
    inputs_kernel,
    pack_kernel,
    signal_kernel,
    weights_kernel,
)
from hyena_kernels.backends.triton.filter_sums import parameters_kernel
from hyena_kernels.backends.triton.launch import constants, launch
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import ImplicitFilterInputs


@dataclass(frozen=True)
class Config:
    """Tiles of the kernels for one padded width of the network.

    Args:
        positions: positions of a tile.
        summed: positions of a tile of the kernels that sum over positions.
        warps: warps of a program.
    """

    positions: int
    summed: int
    warps: int


# By width, padded to a power of two. Larger tiles spill registers, and weights of wider networks leave no room for a
# tile in shared memory.
CONFIGS = {
    16: Config(64, 32, 4),
    32: Config(64, 32, 4),
    64: Config(64, 32, 4),
    128: Config(32, 16, 8),
}

MAX_WIDTH = max(CONFIGS)
"""Widest network H that the kernels take."""

MAX_FEATURES = 64
"""Largest number of features E of a position that the kernels take."""

# Channels computed at a time.
CHANNELS = 64

# Rows of weights packed at a time; divides every padded width.
PACKED_ROWS = 16

# Programs that sum over positions, each with its own partial sums: one for each multiprocessor, about, of which the
# grids have two or more rows. A constant, so that results do not depend on the GPU.
PROGRAMS = 128

# Elements of the planes that backward keeps: 2^16 positions of the published network, 96 MiB.
SCRATCH = 3 << 23


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _power_of_two(value: int) -> int:
    return max(16, triton.next_power_of_2(value))


class _Network:
    """The network's tensors as the kernels take them: vectors contiguous, weights packed; sizes and tiles."""

    def __init__(self, inputs: ImplicitFilterInputs, *, transposed: bool) -> None:
        z, freq, w_in, b_in, w_hidden, b_hidden, w_out, _, _ = inputs
        self.width, self.features = w_in.shape
        self.layers, self.channels = w_hidden.shape[0], w_out.shape[0]
        if self.width > MAX_WIDTH or self.features > MAX_FEATURES:
            raise ValueError(
                f"implicit_filter: the Triton kernels take networks of a width H up to {MAX_WIDTH} and up to "
                f"{MAX_FEATURES} features E, got H = {self.width} and E = {self.features}"
            )
        self.freq, self.w_in, self.b_in = freq.contiguous(), w_in.contiguous(), b_in.contiguous()
        self.w_hidden, self.b_hidden, self.w_out = w_hidden.contiguous(), b_hidden.contiguous(), w_out.contiguous()
        self.H, self.E = _power_of_two(self.width), _power_of_two(self.features)
        self.config = CONFIGS[self.H]
        self.channels_padded = _round_up(self.channels, CHANNELS)
        square, outer = self.layers * self.H * self.H, self.channels_padded * self.H
        sizes = [self.H * self.E, *([square, outer] if transposed else [])]
        self.packed = z.new_empty((2, sum(sizes)))
        self.halves = z.new_empty((2, square + outer), dtype=torch.float16)
        self.scales = z.new_empty((square + outer) // self.H)
        grid = ((self.H * (1 + self.layers) + self.channels_padded) // PACKED_ROWS,)
        args = (
            self.w_in, self.w_hidden, self.w_out, self.freq, self.packed, self.halves, self.scales, self.low,
            self.halves.stride(0), self.width, self.features, self.layers, self.channels, self.channels_padded,
        )  # fmt: skip
        own = constants(H=self.H, E=self.E, ROWS=PACKED_ROWS, TRANSPOSED=transposed, num_warps=4)
        launch(pack_kernel, grid, args, own)
        if transposed:
            hidden, self.out_transposed = self.packed[0].split(sizes)[1:]
            self.hidden_transposed = hidden.view(self.layers, self.H, self.H)

    @property
    def low(self) -> int:
        """Elements between the two parts of a packed weight."""
        return self.packed.stride(0)


def _filter(network: _Network, z: Tensor, t: Tensor | None, deltas: Tensor | None, shift: float) -> Tensor:
    k = z.new_empty((network.channels, z.shape[0]))
    tiles = -(-z.shape[0] // network.config.positions)
    # A short filter has few tiles of positions: then each group of channels has a program that repeats the network.
    groups = network.channels_padded // CHANNELS if tiles < PROGRAMS else 1
    args = (
        z, network.freq, network.b_in, network.b_hidden, network.packed, network.halves, network.scales, t, deltas, k,
        shift, network.low, network.halves.stride(0), z.shape[0], network.width, network.features, network.layers,
        network.channels, *z.stride(), 1 if t is None else t.stride(0),
    )  # fmt: skip
    own = constants(
        H=network.H,
        E=network.E,
        HAS_WINDOW=t is not None,
        POSITIONS=network.config.positions,
        CHANNELS=CHANNELS,
        REPEATS=network.channels_padded // CHANNELS // groups,
        num_warps=network.config.warps,
    )
    launch(filter_kernel, (tiles, groups), args, own)
    return k


def _window_arguments(
    t: Tensor | None, deltas: Tensor | None, shift: float
) -> tuple[Tensor | None, Tensor | None, float]:
    """Time, contiguous rates and what is added to the window; None, None and 1 if there is none."""
    if t is None or deltas is None:
        return None, None, 1.0
    return t, deltas.contiguous(), shift


def forward(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    """``implicit_filter_fwd``: ``(D, L)``, contiguous; float32 only.

    Raises:
        ValueError: the network is wider than :data:`MAX_WIDTH`, or a position has more features than
            :data:`MAX_FEATURES`.
    """
    z = inputs.z
    t, deltas, shift = _window_arguments(inputs.t, inputs.deltas, shift)
    with torch.cuda.device_of(z):
        network = _Network(inputs, transposed=False)
        return _filter(network, z, t, deltas, shift)


class _Sums:
    """Sums over positions of the gradients of one layer after another, one row for each program; not yet defined."""

    def __init__(self, network: _Network, z: Tensor, programs: int) -> None:
        H, layers = network.H, network.layers
        sizes = [H * network.E, H, layers * H * H, layers * H, network.channels * H]
        partial = z.new_empty((programs, sum(sizes)))
        self.parts = self.w_in, self.b_in, self.w_hidden, self.b_hidden, self.w_out = partial.split(sizes, dim=1)
        self.programs = programs
        self.stride = partial.stride(0)


def slices(length: int, layers: int, width: int, tile: int) -> list[slice]:
    """Slices of the positions, whole numbers of tiles but for the last, so that the planes of one fit ``SCRATCH``.

    Slices of one tile are the shortest, whatever their planes take.
    """
    longest = max(tile, SCRATCH // (2 * (layers + 1) * width) // tile * tile)
    step = _round_up(triton.cdiv(length, triton.cdiv(length, longest)), tile)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def backward(dk: Tensor, inputs: ImplicitFilterInputs, shift: float, needs: list[bool]) -> tuple[Tensor, ...]:
    """``implicit_filter_bwd``: gradients of the nine tensors, contiguous; an empty one for each that is not needed.

    Two runs give the same bits. Beside the gradients it takes the planes of one slice (``SCRATCH``), ``PROGRAMS``
    times the size of the parameters, and, for the gradients of ``t`` and ``deltas``, twice the filters of one slice.

    Raises:
        ValueError: as in :func:`forward`.
    """
    z = inputs.z
    grads = gradients_like(inputs, needs)
    if not any(needs):
        return grads
    t, deltas, shift = _window_arguments(inputs.t, inputs.deltas, shift)
    with torch.cuda.device_of(z):
        network = _Network(inputs, transposed=True)
        tile = max(network.config.positions, network.config.summed)
        pieces = slices(z.shape[0], network.layers, network.H, tile)
        columns = _round_up(pieces[0].stop, tile)
        sums = _Sums(network, z, min(PROGRAMS, columns // network.config.summed))
        planes = z.new_empty((2, network.layers + 1, network.H, columns))
        dt, ddeltas = grads[7:]
        if needs[8]:
            ddeltas.zero_()
        for piece in pieces:
            dk_piece, z_piece, t_piece = dk[:, piece], z[piece], None if t is None else t[piece]
            if any(needs[:7]):
                dz_piece = grads[0][piece]
                first = piece is pieces[0]
                _slice_backward(
                    network, sums, planes, dk_piece, z_piece, t_piece, deltas, shift, needs, dz_piece, first=first
                )
            if t_piece is not None and deltas is not None and (needs[7] or needs[8]):
                exponent = _filter(network, z_piece, t_piece, deltas, 0.0).mul_(dk_piece)
                if needs[7]:
                    torch.sum(exponent * deltas.abs()[:, None], dim=0, out=dt[piece]).neg_()
                if needs[8]:
                    ddeltas -= exponent.mul_(t_piece).sum(dim=1)
        if needs[8] and deltas is not None:
            ddeltas *= deltas.sign()
        if any(needs[1:7]):
            _write_parameter_gradients(network, sums, grads, needs)
    return grads


def _slice_backward(
    network: _Network,
    sums: _Sums,
    planes: Tensor,
    dk: Tensor,
    z: Tensor,
    t: Tensor | None,
    deltas: Tensor | None,
    shift: float,
    needs: list[bool],
    dz: Tensor,
    *,
    first: bool,
) -> None:
    """Adds the part of a slice of positions to the sums, which the first one begins, and writes its ``dz``."""
    x, dx = planes
    layers, length, columns = network.layers, z.shape[0], planes.shape[3]
    needs_z, needs_freq, needs_w_in, needs_b_in, needs_w_hidden, needs_b_hidden, needs_w_out = needs[:7]
    needs_first = needs_z or needs_freq or needs_w_in or needs_b_in
    needs_hidden = layers > 0 and (needs_freq or needs_w_hidden or needs_b_hidden)
    tiles = -(-length // network.config.positions)
    positions, summed = network.config.positions, network.config.summed
    sizes = {"H": network.H, "num_warps": network.config.warps}
    args: tuple[Any, ...] = (
        z, network.freq, network.b_in, network.b_hidden, network.packed, network.halves, network.scales, x,
        network.low, network.halves.stride(0), length, network.width, network.features, layers, columns, *z.stride(),
    )  # fmt: skip
    launch(arguments_kernel, (tiles,), args, constants(**sizes, E=network.E, POSITIONS=positions))
    # What the kernels take of dk and of a plane: window and shift, rows, strides, constants.
    dk_rows, dk_strides = network.channels, (*dk.stride(), 1 if t is None else t.stride(0))
    of_dk = {**sizes, "OUTPUT": True, "HAS_WINDOW": t is not None, "ROWS": CHANNELS}
    plane_strides = columns, 1, 1
    of_plane = {**sizes, "OUTPUT": False, "HAS_WINDOW": False, "ROWS": min(network.H, CHANNELS)}
    if needs_w_out:
        args = (
            dk, t, deltas, x[-1], sums.w_out, None, shift, dk_rows, length, int(first), columns, sums.stride,
            *dk_strides,
        )  # fmt: skip
        grid = sums.programs, -(-network.channels // CHANNELS), 1
        launch(weights_kernel, grid, args, constants(**of_dk, POSITIONS=summed))
    if needs_first or needs_hidden:
        args = (
            dk, network.out_transposed, t, deltas, x[-1], dx[-1], shift, network.low, dk_rows, length, columns,
            network.channels_padded, *dk_strides,
        )  # fmt: skip
        launch(signal_kernel, (tiles,), args, constants(**of_dk, POSITIONS=positions))
    for layer in range(layers, 0 if needs_first else 1, -1):
        args = (
            dx[layer], network.hidden_transposed[layer - 1], None, None, x[layer - 1], dx[layer - 1], 1.0, network.low,
            network.H, length, columns, network.H, *plane_strides,
        )  # fmt: skip
        launch(signal_kernel, (tiles,), args, constants(**of_plane, POSITIONS=positions))
    if needs_hidden:
        args = (
            dx[1:], None, None, x, sums.w_hidden, sums.b_hidden, 1.0, network.H, length, int(first), columns,
            sums.stride, *plane_strides,
        )  # fmt: skip
        grid = sums.programs, -(-network.H // CHANNELS), layers
        launch(weights_kernel, grid, args, constants(**of_plane, POSITIONS=summed))
    if needs_first:
        args = (
            dx[0], z, network.freq, network.w_in, dz, sums.w_in, sums.b_in, length, int(first), network.width,
            network.features, columns, sums.stride, *z.stride(),
        )  # fmt: skip
        own = constants(**sizes, E=network.E, NEEDS_Z=needs_z, POSITIONS=summed)
        launch(inputs_kernel, (sums.programs,), args, own)


def _write_parameter_gradients(network: _Network, sums: _Sums, grads: tuple[Tensor, ...], needs: list[bool]) -> None:
    """Gradients of ``freq`` and of all weights and biases from the sums, in one launch."""
    wanted = (grad if needed else None for grad, needed in zip(grads[1:7], needs[1:7], strict=True))
    args = (
        *sums.parts, network.freq, network.w_in, network.b_in, network.w_hidden, network.b_hidden, *wanted,
        sums.programs, network.width, network.features, network.layers, sums.stride,
    )  # fmt: skip
    own = constants(H=network.H, E=network.E, PROGRAMS=triton.next_power_of_2(sums.programs), num_warps=4)
    launch(parameters_kernel, (network.width + (network.channels if needs[6] else 0),), args, own)
