"""``fftconv`` on CUDA: one kernel if the transform fits on chip, three up to L = 2.6 M, cuFFT above.

The transform has P ≥ L points and is weighted. Modulo z^P - i, the product of two real polynomials of degree below P
keeps every coefficient of the linear convolution: the first P as real parts, the next P as imaginary parts. So nothing
is padded to 2L. A two-sided convolution takes its outputs from both parts, and the gradient of its result is a complex
row. So is a two-sided filter of more than P taps, of which there may be 2L - 1: the outputs that are kept meet no other
coefficient of the product.

On chip, P is 2^n, 3 · 2^n or 5 · 2^n up to 8192, and forward and backward are one launch each. Above, P = C · R. The
first launch transforms columns of C points from the tensors into scratch. The second transforms rows of R points there
and multiplies them. The third transforms the columns back. The gradient of the skip takes one launch more at every
length. The plans of all kernels are in ``csrc/cuda``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hyena_kernels.backends.cuda import device as _device, long_fftconv
from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvInputs

# Blocks that a launch should have for each multiprocessor, if the batch has enough chunks. A chunk of n batch entries
# transforms the filter once for n signals.
BLOCKS_PER_PROCESSOR = 4

# Scratch of the three launches. They take as many channels at a time as fit, or as many batch entries of one channel.
PASSES_SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True)
class _Plan:
    """How a call is computed."""

    points: int
    """Points of the transform, 0 if cuFFT has to compute it."""
    chunk: int
    """Batch entries of a block, which transforms the filter once for all of them."""
    passes: bool = False
    """Whether the transform takes three launches."""

    def launch(
        self,
        inputs: FftconvInputs,
        tap: int,
        *,
        dy: Tensor | None = None,
        result: Tensor | None = None,
        du: Tensor | None = None,
        dpre_gate: Tensor | None = None,
        sums: Tensor | None = None,
    ) -> None:
        """Write ``result``, ``du``, ``dpre_gate`` and ``sums``, each unless it is None.

        See ``csrc/cuda/fftconv_rows.h``. Without ``dy``, ``result`` is the convolution. With ``dy``, it is the gradient
        of ``post_gate``.
        """
        u, k, D, pre_gate, post_gate = inputs
        # The inverse transform multiplies the result with this factor.
        factor, post_gate = (post_gate, None) if dy is None else (dy, post_gate)
        if not self.passes:
            ops.fftconv_rows(
                result, du, dpre_gate, sums, u, pre_gate, k, D, dy, post_gate, factor, tap, self.points, self.chunk
            )
            return
        batch, channels = u.shape[:2]
        rows = _rows_of_channel(self.chunk, backward=dy is not None)
        rows *= min(channels, max(1, PASSES_SCRATCH_BYTES // (rows * _row_bytes(self.points))))
        scratch = u.new_empty((rows, 2 * self.points), dtype=torch.float32)
        for i, b in enumerate(sizes.slices(batch, self.chunk)):
            ops.fftconv_passes(
                _entries(result, b), _entries(du, b), _entries(dpre_gate, b), _entries(sums, slice(i, i + 1)),
                u[b], _entries(pre_gate, b), k, D, _entries(dy, b), _entries(post_gate, b), _entries(factor, b),
                scratch, tap, self.points,
            )  # fmt: skip


def forward(inputs: FftconvInputs, causal: bool) -> Tensor:
    """As ``hyena_kernels::fftconv_fwd``."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    forward_into(y, inputs, causal)
    return y


def forward_into(y: Tensor, inputs: FftconvInputs, causal: bool) -> None:
    """As :func:`forward`, into ``y``, which may have any strides."""
    u, k = inputs.u, inputs.k
    if not u.numel():
        return
    tap = sizes.centre(k.shape[1], causal)
    plan = _plan(u, k, backward=False, wants_filter=False)
    if plan.points:
        plan.launch(inputs, tap, result=y)
    else:
        long_fftconv.forward(y, inputs, tap)


def backward(dy: Tensor, inputs: FftconvInputs, causal: bool, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_bwd``."""
    grads = gradients_like(inputs, needs)
    backward_into(only_needed(grads, needs), dy, inputs, causal)
    return grads


def backward_into(grads: tuple[Tensor | None, ...], dy: Tensor, inputs: FftconvInputs, causal: bool) -> None:
    """As :func:`backward`, into those of the five ``grads`` that are not None, which may have any strides."""
    du, dk, dD, dpre_gate, dpost_gate = grads
    u, k = inputs.u, inputs.k
    if not u.numel():
        for grad in (dk, dD):
            if grad is not None:
                grad.zero_()
        return
    if dD is not None:
        _skip_gradient(dD, dy, inputs)
    others = du, dk, dpre_gate, dpost_gate
    if all(grad is None for grad in others):
        return
    tap = sizes.centre(k.shape[1], causal)
    plan = _plan(u, k, backward=True, wants_filter=dk is not None)
    if not plan.points:
        long_fftconv.backward(others, dy, inputs, tap)
        return
    chunks = -(-u.shape[0] // plan.chunk)
    channels, taps = k.shape
    direct = chunks == 1 and dk is not None and dk.dtype == torch.float32
    step = channels
    if dk is not None and not direct:
        step = max(1, min(channels, sizes.SCRATCH_BYTES_ELSEWHERE // (4 * taps * chunks)))
    for c in sizes.slices(channels, step):
        sums = None
        if dk is not None:
            rows = chunks, c.stop - c.start, taps
            sums = dk[c][None] if direct else u.new_empty(rows, dtype=torch.float32)
        plan.launch(
            inputs.part(slice(None), c),
            tap,
            dy=dy[:, c],
            result=_part(dpost_gate, c),
            du=_part(du, c),
            dpre_gate=_part(dpre_gate, c),
            sums=sums,
        )
        if dk is not None and sums is not None and not direct:
            # The sums of the chunks are added in this order.
            dk[c] = sums[0] if chunks == 1 else sums.sum(dim=0)


def _skip_gradient(dD: Tensor, dy: Tensor, inputs: FftconvInputs) -> None:
    """Write the gradient of the skip: the sum of ``dy``, ``u`` and the gates over batch and positions, in float64.

    A tap of the filter's gradient is the same number, but it has the rounding errors of the whole transform.
    """
    u, _, _, pre_gate, post_gate = inputs
    batch, channels, length = u.shape
    sums = u.new_empty((batch, channels, ops.fftconv_skip_spans(length)), dtype=torch.float64)
    ops.fftconv_skip(sums, dy, u, pre_gate, post_gate)
    dD.copy_(sums.view(channels) if sums.numel() == channels else sums.sum(dim=(0, 2)))


def _part(tensor: Tensor | None, channels: slice) -> Tensor | None:
    return None if tensor is None else tensor[:, channels]


def _entries(tensor: Tensor | None, first: slice) -> Tensor | None:
    return None if tensor is None else tensor[first]


def _row_bytes(points: int) -> int:
    """Bytes of scratch of a complex row."""
    return 8 * points


def _rows_of_channel(batch: int, *, backward: bool) -> int:
    """Rows of scratch for a channel: filter, signals and gradients."""
    return 1 + (2 if backward else 1) * batch


@lru_cache(maxsize=4096)
def _row_points(length: int, spectra: int, shared_bytes: int) -> int:
    """Points of the on-chip transform for a length, 0 if none fits beside ``spectra`` stored spectra."""
    points: int = ops.fftconv_row_points(length)
    return points if points and ops.fftconv_row_bytes(points, spectra) <= shared_bytes else 0


@lru_cache(maxsize=4096)
def _passes_points(length: int, spectra: int, shared_bytes: int) -> int:
    """Points of the transform in passes for a length, 0 if none fits beside ``spectra`` stored spectra."""
    points: int = ops.fftconv_passes_points(length)
    return points if points and ops.fftconv_passes_bytes(points, spectra) <= shared_bytes else 0


def _plan(u: Tensor, k: Tensor, *, backward: bool, wants_filter: bool) -> _Plan:
    """On chip if it fits, else in passes, else with cuFFT. Blocks take one batch entry each if no more fit."""
    if sizes.accumulator(u, k) == torch.float64:
        return _Plan(0, 1)
    batch, channels, length = u.shape
    shared_bytes = _device.shared_bytes(u.device)
    points = _row_points(length, 0, shared_bytes)
    if points:
        most = _chunk(batch, channels, points, _device.processors(u.device))
        # With one batch entry in a block, no sum over the batch is stored beside the spectrum of the signal.
        for chunk in (most, 1):
            points = _row_points(length, _spectra(chunk, wants_filter), shared_bytes)
            if points:
                return _Plan(points, chunk)
    points = _passes_points(length, 0, shared_bytes)
    if points:
        rows = PASSES_SCRATCH_BYTES // _row_bytes(points)
        most = min(batch, max(1, (rows - 1) // (2 if backward else 1)))
        for chunk in (most, 1):
            points = _passes_points(length, _spectra(chunk, wants_filter), shared_bytes)
            if points:
                return _Plan(points, chunk, passes=True)
    return _Plan(0, 1)


def _spectra(chunk: int, wants_filter: bool) -> int:
    """Spectra that a block stores: one of the signal, and one of the sum over the batch."""
    return 0 if not wants_filter else 1 if chunk == 1 else 2


def _chunk(batch: int, channels: int, points: int, processors: int) -> int:
    """Batch entries of a block, few enough to have blocks for every multiprocessor."""
    # Short rows share a block.
    blocks = -(-channels // max(1, 2048 // points))
    chunks = min(batch, -(-BLOCKS_PER_PROCESSOR * processors // blocks))
    return -(-batch // chunks)
