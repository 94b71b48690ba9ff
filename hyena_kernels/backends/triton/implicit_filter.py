"""``implicit_filter`` on Triton: launchers of ``filter_kernels.py`` and ``filter_sums.py``.

Forward is ``filter_kernel``, which writes nothing but the filters to memory. Backward goes over slices of positions.
``signals_kernel`` takes a tile of them through the network and back. It leaves planes with the sines of all layers and
the gradients of their arguments, whose size is bounded. ``weights_kernel`` and ``inputs_kernel`` sum over positions.

Predicted for L = 2^20, D = 128, E = 5, H = 64, M = 2 on an H200 at 4.3 TB/s:

- Forward moves 0.56 GB in 0.13 ms. Instructions bound it: a warp takes 189 for each position. That is 0.21 ms at four
  a cycle, and 0.38 ms at two or so, which is usual. Its 105 GFLOP on tensor cores (three times 35) run in parallel.
- Backward of all parameters moves 4.6 GB in 1.1 ms. It takes 600 instructions for each position: 0.7 ms at four a
  cycle, 1.4 ms at two. ``signals_kernel`` has 390 of them and moves 2.2 GB. ``weights_kernel`` has 110 for the filters
  and 76 for the hidden layers, and moves 1.1 GB for each of the two. ``inputs_kernel`` has 27 and moves 0.3 GB. This
  counts no cosines, which ``signals_kernel`` writes and soon reads again: 1.6 GB if the L2 cache holds none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hyena_kernels.backends.triton.filter_kernels import (
    filter_kernel,
    inputs_kernel,
    pack_kernel,
    signals_kernel,
    weights_kernel,
)
from hyena_kernels.backends.triton.filter_sums import parameters_kernel
from hyena_kernels.backends.triton.launch import Constants, constants, launch
from hyena_kernels.backends.triton.support import MAX_FILTER_FEATURES, MAX_FILTER_WIDTH
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import ImplicitFilterInputs


@dataclass(frozen=True)
class Config:
    """Tiles of the kernels for one padded width of the network.

    Args:
        positions: positions of a tile.
        summed: positions of a tile in kernels that sum over positions. It divides ``positions``.
        warps: warps of a program.
        registers: bound on the registers of a thread of ``signals_kernel`` on Hopper and Blackwell, or None. It makes
            room for three programs in place of two on a multiprocessor, and nothing spills.
    """

    positions: int
    summed: int
    warps: int
    registers: int | None = None


# By width, padded to a power of two, up to MAX_FILTER_WIDTH. Larger tiles spill registers. The weights of wider
# networks leave no room for a tile in shared memory.
CONFIGS = {
    16: Config(64, 32, 4),
    32: Config(64, 32, 4),
    64: Config(64, 32, 4, registers=168),
    128: Config(32, 16, 8),
}

# Channels computed at a time: of filters, and of their gradients on the way back. The second divides the first.
CHANNELS = 64
BLOCK = 32

# Rows of weights that a program packs. It divides every padded width.
PACKED_ROWS = 16

# Programs that sum over positions, each with its own partial sums. That is about one for each multiprocessor, and the
# grids have two or more rows of them. A constant, so that results do not depend on the GPU.
PROGRAMS = 128

# Elements of the planes that backward keeps. The published network takes 96 MiB for 2^16 positions.
SCRATCH = 3 << 23


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@lru_cache
def _multiplies_by_warpgroups(device: torch.device) -> bool:
    """Whether operands of matrix products are in shared memory there: compute capability 9 and 10."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


def _power_of_two(value: int) -> int:
    return max(16, triton.next_power_of_2(value))


class _Network:
    """The network as the kernels take it: contiguous vectors, packed weights, sizes and tiles."""

    def __init__(self, inputs: ImplicitFilterInputs, *, transposed: bool) -> None:
        z, freq, w_in, b_in, w_hidden, b_hidden, w_out, _, _ = inputs
        self.width, self.features = w_in.shape
        self.layers, self.channels = w_hidden.shape[0], w_out.shape[0]
        if self.width > MAX_FILTER_WIDTH or self.features > MAX_FILTER_FEATURES:
            raise ValueError(
                f"implicit_filter: the Triton kernels take networks of a width H up to {MAX_FILTER_WIDTH} and up to "
                f"{MAX_FILTER_FEATURES} features E, got H = {self.width} and E = {self.features}"
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
        # Elements between the two parts of a packed weight.
        self.low, self.halves_low = self.packed.stride(0), self.halves.stride(0)
        grid = ((self.H * (1 + self.layers) + self.channels_padded) // PACKED_ROWS,)
        args = (
            self.w_in, self.w_hidden, self.w_out, self.freq, self.packed, self.halves, self.scales, self.low,
            self.halves_low, self.width, self.features, self.layers, self.channels, self.channels_padded,
        )  # fmt: skip
        own = constants(H=self.H, E=self.E, ROWS=PACKED_ROWS, BLOCK=BLOCK, TRANSPOSED=transposed, num_warps=4)
        launch(pack_kernel, grid, args, own)
        # Arguments of the kernels that compute the network.
        self.weights = self.freq, self.b_in, self.b_hidden, self.packed, self.halves, self.scales


class _Window(NamedTuple):
    """The window of the filters: ``exp(-t |deltas|) + shift``, or ``shift`` if the tensors are None."""

    t: Tensor | None
    deltas: Tensor | None
    shift: float

    @classmethod
    def of(cls, inputs: ImplicitFilterInputs, shift: float) -> _Window:
        """With contiguous rates. Without a window the factor is 1."""
        if inputs.t is None or inputs.deltas is None:
            return _NO_WINDOW
        return cls(inputs.t, inputs.deltas.contiguous(), shift)


_NO_WINDOW = _Window(None, None, 1.0)


def _filter(network: _Network, z: Tensor, window: _Window) -> Tensor:
    k = z.new_empty((network.channels, z.shape[0]))
    tiles = -(-z.shape[0] // network.config.positions)
    # A short filter has few tiles of positions. Then each group of channels has its own program, which repeats the
    # network.
    groups = network.channels_padded // CHANNELS if tiles < PROGRAMS else 1
    t, deltas, shift = window
    args = (
        z, *network.weights, t, deltas, k, shift, network.low, network.halves_low, z.shape[0], network.width,
        network.features, network.layers, network.channels, *z.stride(), 1 if t is None else t.stride(0),
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


def forward(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    """``implicit_filter_fwd``: ``(D, L)``, contiguous; float32 only.

    Raises:
        ValueError: the network is wider than :data:`.support.MAX_FILTER_WIDTH`, or a position has more features than
            :data:`.support.MAX_FILTER_FEATURES`.
    """
    with torch.cuda.device_of(inputs.z):
        return _filter(_Network(inputs, transposed=False), inputs.z, _Window.of(inputs, shift))


class _Sums:
    """Memory for sums over positions of the gradients of all layers, a row for each program. Uninitialised."""

    def __init__(self, network: _Network, z: Tensor, programs: int) -> None:
        H, layers = network.H, network.layers
        sizes = [H * network.E, H, layers * H * H, layers * H, network.channels * H]
        partial = z.new_empty((programs, sum(sizes)))
        self.parts = self.w_in, self.b_in, self.w_hidden, self.b_hidden, self.w_out = partial.split(sizes, dim=1)
        self.programs = programs
        self.stride = partial.stride(0)


def slices(length: int, layers: int, width: int, tile: int) -> list[slice]:
    """Slices of the positions. The planes of one slice fit ``SCRATCH``, unless it has only one tile.

    All but the last have a whole number of tiles.
    """
    longest = max(tile, SCRATCH // (2 * (layers + 1) * width) // tile * tile)
    step = _round_up(triton.cdiv(length, triton.cdiv(length, longest)), tile)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def backward(dk: Tensor, inputs: ImplicitFilterInputs, shift: float, needs: list[bool]) -> tuple[Tensor, ...]:
    """``implicit_filter_bwd``: contiguous gradients of the nine tensors, of length 0 where not needed.

    Two runs give the same bits. Besides the gradients it takes the planes of one slice (``SCRATCH``) and ``PROGRAMS``
    times the size of the parameters. Gradients of ``t`` and ``deltas`` also take twice the filters of one slice.

    Raises:
        ValueError: as in :func:`forward`.
    """
    z = inputs.z
    grads = gradients_like(inputs, needs)
    if not any(needs):
        return grads
    needs_t, needs_deltas = needs[7:]
    window = _Window.of(inputs, shift)
    t, deltas = window.t, window.deltas
    with torch.cuda.device_of(z):
        network = _Network(inputs, transposed=True)
        tile = network.config.positions
        pieces = slices(z.shape[0], network.layers, network.H, tile)
        columns = _round_up(pieces[0].stop, tile)
        sums = _Sums(network, z, min(PROGRAMS, columns // network.config.summed))
        planes = z.new_empty((2, network.layers + 1, network.H, columns))
        dt, ddeltas = grads[7:]
        if needs_deltas:
            ddeltas.zero_()
        for piece in pieces:
            dk_piece, z_piece, t_piece = dk[:, piece], z[piece], None if t is None else t[piece]
            if any(needs[:7]):
                part = _Slice(network, sums, planes, z_piece.shape[0], first=piece is pieces[0])
                own = _Window(t_piece, deltas, window.shift)
                _slice_backward(part, dk_piece, z_piece, own, grads[0][piece], needs)
            if t_piece is not None and deltas is not None and (needs_t or needs_deltas):
                exponent = _filter(network, z_piece, _Window(t_piece, deltas, 0.0)).mul_(dk_piece)
                if needs_t:
                    torch.sum(exponent * deltas.abs()[:, None], dim=0, out=dt[piece]).neg_()
                if needs_deltas:
                    ddeltas -= exponent.mul_(t_piece).sum(dim=1)
        if needs_deltas and deltas is not None:
            ddeltas *= deltas.sign()
        if any(needs[1:7]):
            _write_parameter_gradients(network, sums, grads, needs)
    return grads


def rows_at_a_time(H: int) -> int:
    """Rows of a hidden layer that ``signals_kernel`` multiplies at a time. All at once if shared memory has room."""
    return H if H <= CHANNELS else BLOCK


@lru_cache(maxsize=256)
def _signals_constants(H: int, E: int, config: Config, has_window: bool, bounded: bool) -> Constants:
    """Constants of ``signals_kernel``, with a bound on registers if ``bounded``."""
    options = {"maxnreg": config.registers} if bounded else {}
    return Constants(
        H=H,
        E=E,
        HAS_WINDOW=has_window,
        POSITIONS=config.positions,
        BLOCK=BLOCK,
        ROWS=rows_at_a_time(H),
        num_warps=config.warps,
        **options,
    )


@lru_cache(maxsize=256)
def _weights_constants(H: int, config: Config, of_filters: bool, has_window: bool) -> Constants:
    """Constants of ``weights_kernel``. Keyword arguments would make each look-up slower."""
    return Constants(
        H=H,
        TILE=config.positions,
        POSITIONS=config.summed,
        ROWS=CHANNELS if of_filters else min(H, CHANNELS),
        OUTPUT=of_filters,
        HAS_WINDOW=has_window,
        num_warps=config.warps,
    )


class _Slice:
    """Backward pass of a slice of the positions: the launches of its kernels.

    Args:
        network: the network.
        sums: the sums that the first slice sets, and to which the others add.
        planes: ``(2, M + 1, H, columns)`` for the sines and the gradients of their arguments, tile by tile.
        length: number of positions.
        first: whether it is the first slice.
    """

    def __init__(self, network: _Network, sums: _Sums, planes: Tensor, length: int, *, first: bool) -> None:
        self.network, self.sums, self.length, self.first = network, sums, length, int(first)
        self.h, self.dx = planes
        self.columns = planes.shape[3]

    def compute_signals(self, dk: Tensor, z: Tensor, window: _Window, lowest: int) -> None:
        """Compute the sines of all layers, and the gradients of their arguments from layer ``lowest`` on."""
        network, (t, deltas, shift) = self.network, window
        blocks = network.channels_padded // BLOCK if lowest <= network.layers else 0
        args = (
            dk, z, *network.weights, t, deltas, self.h, self.dx, shift, network.low, network.halves_low, self.length,
            network.width, network.features, network.layers, network.channels, blocks, lowest, self.columns,
            *dk.stride(), *z.stride(), 1 if t is None else t.stride(0),
        )  # fmt: skip
        config = network.config
        bounded = config.registers is not None and _multiplies_by_warpgroups(z.device)
        own = _signals_constants(network.H, network.E, config, t is not None, bounded)
        launch(signals_kernel, (-(-self.length // config.positions),), args, own)

    def sum_output(self, dk: Tensor, window: _Window) -> None:
        """The sums ``(dk window) @ h^T`` of the last layer."""
        network, (t, deltas, shift) = self.network, window
        args = (
            dk, t, deltas, self.h[-1], self.sums.w_out, None, shift, network.channels, self.length, self.first,
            self.columns, self.sums.stride, *dk.stride(), 1 if t is None else t.stride(0),
        )  # fmt: skip
        grid = self.sums.programs, -(-network.channels // CHANNELS)
        launch(weights_kernel, grid, args, _weights_constants(network.H, network.config, True, t is not None))

    def sum_hidden(self) -> None:
        """The sums ``dx @ h^T`` and ``dx @ 1`` of all hidden layers."""
        network, sums = self.network, self.sums
        args = (
            self.dx[1:], None, None, self.h, sums.w_hidden, sums.b_hidden, 1.0, network.H, self.length, self.first,
            self.columns, sums.stride, 1, 1, 1,
        )  # fmt: skip
        grid = sums.programs, -(-network.H // CHANNELS), network.layers
        launch(weights_kernel, grid, args, _weights_constants(network.H, network.config, False, False))

    def sum_inputs(self, z: Tensor, dz: Tensor, *, needs_z: bool) -> None:
        """The sums of the first layer, and ``dz``."""
        network, sums = self.network, self.sums
        args = (
            self.dx[0], z, network.freq, network.w_in, dz, sums.w_in, sums.b_in, self.length, self.first, network.width,
            network.features, sums.stride, *z.stride(),
        )  # fmt: skip
        config = network.config
        own = constants(
            H=network.H,
            E=network.E,
            NEEDS_Z=needs_z,
            TILE=config.positions,
            POSITIONS=config.summed,
            num_warps=config.warps,
        )
        launch(inputs_kernel, (sums.programs,), args, own)


def _slice_backward(part: _Slice, dk: Tensor, z: Tensor, window: _Window, dz: Tensor, needs: list[bool]) -> None:
    """Add the part of a slice of positions to the sums, and write its ``dz``."""
    layers = part.network.layers
    needs_z, needs_freq, needs_w_in, needs_b_in, needs_w_hidden, needs_b_hidden, needs_w_out = needs[:7]
    needs_first = needs_z or needs_freq or needs_w_in or needs_b_in
    needs_hidden = layers > 0 and (needs_freq or needs_w_hidden or needs_b_hidden)
    lowest = 0 if needs_first else 1 if needs_hidden else layers + 1
    part.compute_signals(dk, z, window, lowest)
    if needs_w_out:
        part.sum_output(dk, window)
    if needs_hidden:
        part.sum_hidden()
    if needs_first:
        part.sum_inputs(z, dz, needs_z=needs_z)


def _write_parameter_gradients(network: _Network, sums: _Sums, grads: tuple[Tensor, ...], needs: list[bool]) -> None:
    """Gradients of ``freq`` and of all weights and biases from the sums, in one launch."""
    wanted = only_needed(grads, needs)[1:7]
    args = (
        *sums.parts, network.freq, network.w_in, network.b_in, network.w_hidden, network.b_hidden, *wanted,
        sums.programs, network.width, network.features, network.layers, sums.stride,
    )  # fmt: skip
    own = constants(H=network.H, E=network.E, PROGRAMS=triton.next_power_of_2(sums.programs), num_warps=4)
    launch(parameters_kernel, (network.width + (network.channels if needs[6] else 0),), args, own)
