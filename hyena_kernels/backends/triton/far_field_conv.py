"""``far_field_conv`` in Triton: which kernels run, over which slices of channels.

Forward:

1. ``moments_kernel`` reads the gated signal and writes the moments of its blocks.
2. ``spectra_kernel`` transforms the moments, and the filter's values at the nodes, over blocks.
3. ``mix_kernel`` multiplies the spectra and transforms back: the far field at the nodes of every block.
4. ``near_kernel`` reads the gated signal again. It adds the near field and the far field, which it expands.

Backward runs 1 on both gated signals, and transforms both moments. ``nodes_kernel`` multiplies their spectra to the
gradient of the nodes. ``sums_kernel`` sums products of both signals, and ``diagonals_kernel`` adds these up to the
gradient of the near taps. Steps 3 and 4 give the gradient of ``post_gate``, and their transposes those of ``u`` and
``pre_gate``. Sums are taken in a fixed order and without atomics, so results are bitwise reproducible.

The bytes and the products of every kernel are in docs/kernels/triton.md.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyena_kernels.backends.triton import far_field_blocks, far_field_spectra, table
from hyena_kernels.backends.triton.launch import Constants, constants, launch
from hyena_kernels.backends.triton.plan import RADIX, SCRATCH_BYTES, Plan, tables
from hyena_kernels.common import far_field, sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FarFieldConvInputs

NODES = far_field_blocks.NODES.value
"""Rows of the table of the basis."""

PROGRAMS = 512
"""Programs that occupy a large GPU. Spans of a row are the longer, the more rows there are."""

MAX_TILES = 32
"""Most tiles of a program, a power of two. Each power is a kernel to compile."""

LEAST_POINTS = 256
"""Points of the smallest transform over blocks."""


class Config(NamedTuple):
    """How a kernel inside blocks is launched."""

    piece: int
    """Most positions of a piece of a block."""
    blocks: int
    """Blocks of a tile."""
    warps: int = 4
    registers: int | None = None
    """Bound on the registers of a thread."""


CONFIGS = {
    ("moments", 2): Config(32, 32),
    ("moments", 4): Config(16, 32, registers=128),
    ("sums", 2): Config(32, 16),
    ("sums", 4): Config(32, 16),
    ("near", 2): Config(32, 32),
    ("near", 4): Config(32, 16, registers=168),
}
"""By kernel and bytes of an element of the signals and gates. None of them spills registers.

Products of fewer than 64 rows take no tensor memory on compute capability 10.0. It has 512 columns, and Triton takes 64
for each product that is not in a loop.
"""

HOPPER_CONFIGS = {
    ("moments", 2): Config(32, 64, registers=168),
    ("moments", 4): Config(16, 64),
    ("sums", 2): Config(64, 32),
    ("sums", 4): Config(64, 32),
    ("near", 2): Config(64, 64),
    ("near", 4): Config(32, 64),
}
"""The same on compute capability 9.0, whose warps multiply 64 rows together."""


def configs(hopper: bool) -> dict[tuple[str, int], Config]:
    """The configurations on devices of compute capability 9.0, or on others."""
    return HOPPER_CONFIGS if hopper else CONFIGS


def points(blocks: int) -> int:
    """Points of the transform over so many blocks: a power of two."""
    return max(LEAST_POINTS, 1 << (blocks - 1).bit_length())


def transform_warps(size: int) -> int:
    """Warps of a program that transforms ``size`` points: eight points a thread."""
    return max(1, size // 256)


# Never freed, because a captured CUDA graph may hold its address.
@cache
def basis_table(h: int, p: int, device: torch.device) -> Tensor:
    """``(3, 16, h)`` bfloat16: parts of the basis, with zeros from node p on.

    Raises:
        RuntimeError: it is needed for the first time while a CUDA graph is captured.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the basis of blocks of {h} is copied to the device when it is first used, which cannot be part of a CUDA "
            "graph: run the op once before capturing it"
        )
    with torch.device("cpu"):
        rest = torch.zeros(NODES, h, dtype=torch.float64)
        rest[:p] = far_field.basis(h, p).T
        parts = []
        for _ in range(3):
            parts.append(rest.bfloat16())
            rest = rest - parts[-1]
        return torch.stack(parts).to(device)


_BITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
"""Bits of a mantissa."""


class _Signal(NamedTuple):
    """A signal ``(B, C, L)`` and its gate."""

    values: Tensor
    gate: Tensor | None

    @property
    def parts(self) -> int:
        """Parts of bfloat16 that hold a gated value as exactly as float32 does."""
        bits = sum(_BITS[each.dtype] for each in self if each is not None)
        return min(3, -(-bits // 8))


class _Wanted(NamedTuple):
    """Which results of ``moments_kernel`` are wanted."""

    x: bool = False
    g: bool = False
    skip: bool = False


class _Moments(NamedTuple):
    """Results of ``moments_kernel``, None where not wanted."""

    x: Tensor | None
    g: Tensor | None
    skip: Tensor | None


class _Inside(NamedTuple):
    """A launch of a kernel inside blocks."""

    rows: int
    spans: int
    """Programs of a row."""
    piece: int
    constants: Constants

    @property
    def grid(self) -> tuple[int]:
        """One program for each span of each row."""
        return (self.rows * self.spans,)


class _Output(NamedTuple):
    """A result of ``near_kernel`` and its factor. None: not wanted, and a factor of 1."""

    result: Tensor | None
    factor: Tensor | None = None


_NO_OUTPUT = _Output(None)


class _Call:
    """Sizes, tables and constants of one size of a call. It holds no tensor of the call itself."""

    def __init__(self, h: int, p: int, length: int, device: torch.device) -> None:
        self.h, self.p, self.length, self.device = h, p, length, device
        self.blocks = far_field.block_count(length, h)
        self.points = points(self.blocks)
        self.configs = configs(table.is_hopper(device))
        self.basis = basis_table(h, p, device)
        self.weighted = tables(Plan(1, 1, self.points), device).weighted

    def inside(self, kernel: str, x: _Signal, g: _Signal | None = None, **others: Any) -> _Inside:
        """How a kernel inside blocks is launched on one or two signals."""
        read = (*x, *(g or ()))
        config = self.configs[kernel, max(each.element_size() for each in read if each is not None)]
        rows = x.values.shape[0] * x.values.shape[1]
        tiles = -(-self.blocks // config.blocks)
        wanted = -(-tiles // max(1, PROGRAMS // rows))
        of_span = min(MAX_TILES, 1 << (wanted - 1).bit_length())
        piece = min(config.piece, self.h)
        bound = {} if config.registers is None else {"maxnreg": config.registers}
        own = constants(
            **others, H=self.h, S=piece, BLOCKS=config.blocks, TILES=of_span, num_warps=config.warps, num_stages=1,
            **bound,
        )  # fmt: skip
        return _Inside(rows, -(-tiles // of_span), piece, own)

    def over(self, **others: Any) -> Constants:
        """Constants of the kernels over blocks."""
        return constants(**others, P=self.points, V=RADIX, num_warps=transform_warps(self.points), num_stages=1)

    def channel_bytes(self, batch: int, spectra: int, planes: int) -> int:
        """Scratch of a channel with spectra of its nodes, of ``spectra`` moments and ``planes`` rows over blocks."""
        of_nodes = 8 * self.points * (2 * self.p - 1)
        return of_nodes + batch * self.p * (8 * self.points * spectra + 4 * self.blocks * planes)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def moments(self, x: _Signal, g: _Signal | None, wanted: _Wanted) -> _Moments:
        """Launch ``moments_kernel`` on x and g. Without g, only moments of x may be wanted."""
        own = self.inside("moments", x, g, X_PARTS=x.parts, G_PARTS=1 if g is None else g.parts, P=self.p)
        batch, channels, _ = x.values.shape
        results = _Moments(
            self.empty(own.rows, self.p, self.blocks) if wanted.x else None,
            self.empty(own.rows, self.p, self.blocks) if wanted.g else None,
            self.empty(batch, channels, own.spans, dtype=torch.float64) if wanted.skip else None,
        )
        pair = (*x, *((None, None) if g is None else g))
        args = (*pair, *results, self.basis, channels, self.length, self.blocks, own.spans, *_strides(*pair))
        launch(far_field_blocks.moments_kernel, own.grid, args, own.constants)
        return results

    def spectra(self, x: Tensor, shift: int) -> Tensor:
        """Spectra ``(outer * inner, 2, P)`` of the rows of ``x (outer, inner, ≥ count)`` from point ``shift`` on."""
        outer, inner, _ = x.shape
        result = self.empty(outer * inner, 2, self.points)
        args = (x, result, self.weighted, inner, self.blocks - shift, *x.stride())
        launch(far_field_spectra.spectra_kernel, (outer * inner,), args, self.over(SHIFT=shift))
        return result

    def mixed(self, moments: Tensor, nodes: Tensor, channels: int, *, transposed: bool) -> Tensor:
        """The far field at the nodes of every block, ``(rows, p, blocks)``, from spectra."""
        rows = moments.shape[0] // self.p
        far = self.empty(rows, self.p, self.blocks)
        args = (moments, nodes, far, self.weighted, channels, self.blocks)
        launch(far_field_spectra.mix_kernel, (rows * self.p,), args, self.over(TRANSPOSED=transposed, R=self.p))
        return far

    def near(
        self,
        x: _Signal,
        near: Tensor,
        skip: Tensor | None,
        far: Tensor,
        first: _Output,
        second: _Output = _NO_OUTPUT,
        *,
        transposed: bool,
    ) -> None:
        """Launch ``near_kernel``."""
        narrow = all(each.result is None or each.result.element_size() == 2 for each in (first, second))
        order = 1 if narrow else 2
        own = self.inside("near", x, TRANSPOSED=transposed, PARTS=min(x.parts, order + 1), ORDER=order, P=self.p)
        args = (
            *x, near, skip, far, self.basis, *first, *second, x.values.shape[1], self.length, self.blocks, own.spans,
            *_strides(*x), *near.stride(), *_strides(*first, *second),
        )  # fmt: skip
        launch(far_field_blocks.near_kernel, own.grid, args, own.constants)

    def near_gradient(self, dnear: Tensor, x: _Signal, g: _Signal) -> None:
        """Write the gradient of the near taps of some channels, contiguous."""
        own = self.inside("sums", x, g, X_PARTS=x.parts, G_PARTS=g.parts)
        channels, piece = dnear.shape[0], own.piece
        sums = self.empty(own.rows, own.spans, self.h // piece, piece, piece)
        args = (*x, *g, sums, channels, self.length, own.spans, *_strides(*x, *g))
        launch(far_field_blocks.sums_kernel, own.grid, args, own.constants)
        args = sums, dnear, channels, own.rows, own.spans
        diagonals = constants(H=self.h, S=piece, num_warps=8, num_stages=1)
        launch(far_field_blocks.diagonals_kernel, (channels * (self.h // piece),), args, diagonals)

    def node_gradient(self, dnodes: Tensor, x: Tensor, g: Tensor) -> None:
        """Write the gradient of the nodes of some channels, contiguous, from the spectra of the moments."""
        channels, differences, count = dnodes.shape
        dnodes[..., self.points - 1 :].zero_()
        args = x, g, dnodes, self.weighted, channels, x.shape[0] // self.p, self.blocks, count
        launch(far_field_spectra.nodes_kernel, (channels * differences,), args, self.over(R=self.p))


_call = lru_cache(maxsize=256)(_Call)


def _strides(*tensors: Tensor | None) -> list[int]:
    return [stride for tensor in tensors for stride in ((0, 0, 0) if tensor is None else tensor.stride())]


def _part(tensor: Tensor | None, c: slice) -> Tensor | None:
    return None if tensor is None else tensor[:, c]


def forward(inputs: FarFieldConvInputs, *, scratch_bytes: int = SCRATCH_BYTES) -> Tensor:
    """Op ``far_field_conv_fwd``; :func:`hyena_kernels.far_field_conv` describes its arguments and its result.

    Args:
        inputs: the op's tensors.
        scratch_bytes: bound of the scratch. It always holds one channel.
    """
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    forward_into(y, inputs, scratch_bytes=scratch_bytes)
    return y


def forward_into(y: Tensor, inputs: FarFieldConvInputs, *, scratch_bytes: int = SCRATCH_BYTES) -> None:
    """As :func:`forward`, into ``y`` of any strides. Dtypes of ``y``, ``u`` and the gates may differ."""
    u, near, nodes, D, pre, post = inputs
    if not y.numel():
        return
    batch, channels, length = u.shape
    call = _call(*far_field.settings_of(near, nodes), length, u.device)
    step = max(1, scratch_bytes // call.channel_bytes(batch, 1, 2))
    with torch.cuda.device_of(u):
        for c in sizes.slices(channels, step):
            x = _Signal(u[:, c], _part(pre, c))
            moments = call.moments(x, None, _Wanted(x=True)).x
            assert moments is not None
            far = call.mixed(call.spectra(moments, 0), call.spectra(nodes[c], 1), x.values.shape[1], transposed=False)
            skip = None if D is None else D[c].contiguous()
            call.near(x, near[c], skip, far, _Output(y[:, c], _part(post, c)), transposed=False)


def backward(
    dy: Tensor, inputs: FarFieldConvInputs, needs: list[bool], *, scratch_bytes: int = SCRATCH_BYTES
) -> tuple[Tensor, ...]:
    """Op ``far_field_conv_bwd``: gradients of ``u``, ``near``, ``nodes``, ``D``, ``pre_gate`` and ``post_gate``.

    Args:
        dy: ``(B, D, L)`` gradient of the result.
        inputs: as in :func:`forward`.
        needs: which of the six gradients are wanted.
        scratch_bytes: as in :func:`forward`.

    Returns:
        Contiguous tensors like the inputs, of length 0 where not wanted.
    """
    grads = gradients_like(inputs, needs)
    backward_into(Gradients(*only_needed(grads, needs)), dy, inputs, scratch_bytes=scratch_bytes)
    return grads


class Gradients(NamedTuple):
    """Gradients that :func:`backward_into` writes, each like its input; None for those not wanted.

    Those of near taps and nodes are contiguous in every channel.
    """

    u: Tensor | None = None
    near: Tensor | None = None
    nodes: Tensor | None = None
    D: Tensor | None = None
    pre_gate: Tensor | None = None
    post_gate: Tensor | None = None


def backward_into(
    grads: Gradients, dy: Tensor, inputs: FarFieldConvInputs, *, scratch_bytes: int = SCRATCH_BYTES
) -> None:
    """As :func:`backward`, with gradients that the caller has allocated. Dtypes of signals may differ."""
    u, near, nodes, D, pre, post = inputs
    if not u.numel():
        for tensor in (grads.near, grads.nodes, grads.D):
            if tensor is not None:
                tensor.zero_()
        return
    wants_signal = grads.u is not None or grads.pre_gate is not None
    wants_post, wants_nodes = grads.post_gate is not None, grads.nodes is not None
    wanted = _Wanted(wants_nodes or wants_post, wants_nodes or wants_signal, grads.D is not None)
    batch, channels, length = u.shape
    call = _call(*far_field.settings_of(near, nodes), length, u.device)
    step = max(1, scratch_bytes // call.channel_bytes(batch, wanted.x + wanted.g, 4))
    with torch.cuda.device_of(u):
        for c in sizes.slices(channels, step):
            part = Gradients(*(None if grad is None else grad[:, c] if grad.dim() == 3 else grad[c] for grad in grads))
            part = part._replace(nodes=None if grads.nodes is None else grads.nodes[c])
            x, g = _Signal(u[:, c], _part(pre, c)), _Signal(dy[:, c], _part(post, c))
            _backward_slice(call, part, x, g, near[c], nodes[c], None if D is None else D[c].contiguous(), wanted)


def _backward_slice(
    call: _Call,
    grads: Gradients,
    x: _Signal,
    g: _Signal,
    near: Tensor,
    nodes: Tensor,
    skip: Tensor | None,
    wanted: _Wanted,
) -> None:
    """Gradients of some channels."""
    channels = near.shape[0]
    if grads.near is not None:
        call.near_gradient(grads.near, x, g)
    if not any(wanted):
        return
    moments = call.moments(x, g, wanted)
    if grads.D is not None and moments.skip is not None:
        grads.D.copy_(moments.skip.sum(dim=(0, 2)))
    x_spectra = None if moments.x is None else call.spectra(moments.x, 0)
    g_spectra = None if moments.g is None else call.spectra(moments.g, 0)
    wants_signal = grads.u is not None or grads.pre_gate is not None
    filters = call.spectra(nodes, 1) if wants_signal or grads.post_gate is not None else None
    if grads.nodes is not None and x_spectra is not None and g_spectra is not None:
        call.node_gradient(grads.nodes, x_spectra, g_spectra)
    if grads.post_gate is not None and x_spectra is not None and filters is not None:
        far = call.mixed(x_spectra, filters, channels, transposed=False)
        call.near(x, near, skip, far, _Output(grads.post_gate, g.values), transposed=False)
    if wants_signal and g_spectra is not None and filters is not None:
        far = call.mixed(g_spectra, filters, channels, transposed=True)
        outputs = _Output(grads.u, x.gate), _Output(grads.pre_gate, x.values)
        call.near(g, near, skip, far, *outputs, transposed=True)
