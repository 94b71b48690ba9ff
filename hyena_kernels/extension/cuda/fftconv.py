"""``fftconv`` on CUDA: one kernel for lengths whose transform fits on chip, cuFFT between fused kernels above.

The transform has P ≥ L points and is weighted: modulo z^P - i the product of two real polynomials of degree below P
keeps every coefficient of the linear convolution, the first P as real parts and the next P as imaginary ones. So
nothing is padded to 2L, a two-sided convolution takes its outputs from both parts, and the gradient of its result goes
in as a complex row. On chip P is 2^n, 3 · 2^n or 5 · 2^n up to 8192, and forward and backward are one launch each.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hyena_kernels import _torch_fft
from hyena_kernels.extension.cuda import device as _device, long_fftconv
from hyena_kernels.extension.cuda.schemas import ops
from hyena_kernels.fftconv import _gradients_like

# Blocks that a launch should have for each multiprocessor, if the batch has as many chunks; a chunk of n entries
# transforms the filter once for n signals.
BLOCKS_PER_PROCESSOR = 4


def forward(
    u: Tensor, k: Tensor, D: Tensor | None, pre_gate: Tensor | None, post_gate: Tensor | None, causal: bool
) -> Tensor:
    """As ``hyena_kernels::fftconv_fwd``."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    if not u.numel():
        return y
    tap = _torch_fft.centre(k.shape[1], causal)
    points = _row_points(u, k, 0)
    if points:
        chunk = _chunk(u, points)
        ops.fftconv_rows(y, None, None, None, u, pre_gate, k, D, None, None, post_gate, tap, points, chunk)
    else:
        long_fftconv.forward(y, u, k, D, pre_gate, post_gate, tap)
    return y


def backward(
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    pre_gate: Tensor | None,
    post_gate: Tensor | None,
    causal: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``hyena_kernels::fftconv_bwd``."""
    grads = _gradients_like(u, k, D, pre_gate, post_gate, needs)
    inputs = (u, k, D, pre_gate, post_gate)
    wanted = [
        grad if needed and tensor is not None else None
        for grad, needed, tensor in zip(grads, needs, inputs, strict=True)
    ]
    du, dk, dD, dpre_gate, dpost_gate = wanted
    if not u.numel():
        for grad in (dk, dD):
            if grad is not None:
                grad.zero_()
        return grads
    if all(grad is None for grad in wanted):
        return grads
    tap = _torch_fft.centre(k.shape[1], causal)
    wants_filter = dk is not None or dD is not None
    points, chunk = _backward_plan(u, k, wants_filter)
    if not points:
        long_fftconv.backward(du, dk, dD, dpre_gate, dpost_gate, dy, u, k, D, pre_gate, post_gate, tap)
        return grads
    chunks = -(-u.shape[0] // chunk)
    channels, taps = k.shape
    step = channels
    if wants_filter:
        step = max(1, min(channels, _torch_fft.SCRATCH_BYTES_ELSEWHERE // (4 * taps * chunks)))
    for c in _torch_fft.slices(channels, step):
        sums = None
        if wants_filter:
            direct = chunks == 1 and dk is not None and dk.dtype == torch.float32
            size = (chunks, c.stop - c.start, taps)
            sums = dk[c][None] if direct and dk is not None else u.new_empty(size, dtype=torch.float32)
        ops.fftconv_rows(
            _part(dpost_gate, c), _part(du, c), _part(dpre_gate, c), sums, u[:, c], _part(pre_gate, c), k[c],
            None if D is None else D[c], dy[:, c], _part(post_gate, c), dy[:, c], tap, points, chunk,
        )  # fmt: skip
        if sums is not None:
            filter_gradients(sums, tap, None if dk is None else dk[c], None if dD is None else dD[c])
    return grads


def filter_gradients(sums: Tensor, tap: int, dk: Tensor | None, dD: Tensor | None) -> None:
    """Write the gradients of filter and skip.

    Args:
        sums: ``(chunks, D, K)`` gradients of parts of the batch, in the order in which they are added.
        tap: index of the tap of zero lag, to which the skip was added.
        dk: ``(D, K)``; may be ``sums[0]``.
        dD: ``(D,)``.
    """
    total = sums[0] if sums.shape[0] == 1 else sums.sum(dim=0)
    if dk is not None and dk.data_ptr() != total.data_ptr():
        dk.copy_(total)
    if dD is not None:
        dD.copy_(total[:, tap])


def _part(tensor: Tensor | None, channels: slice) -> Tensor | None:
    return None if tensor is None else tensor[:, channels]


@lru_cache(maxsize=4096)
def _points(length: int, spectra: int, shared_bytes: int) -> int:
    """Points of the on-chip transform for a length, 0 if none fits with so many spectra put aside."""
    points: int = ops.fftconv_row_points(length)
    return points if points and ops.fftconv_row_bytes(points, spectra) <= shared_bytes else 0


def _row_points(u: Tensor, k: Tensor, spectra: int) -> int:
    if _torch_fft.accumulator(u, k) == torch.float64:
        return 0
    return _points(u.shape[2], spectra, _device.shared_bytes(u.device))


def _backward_plan(u: Tensor, k: Tensor, wants_filter: bool) -> tuple[int, int]:
    """Points of the on-chip transform, 0 if it does not fit, and batch entries of a block."""
    chunk = _chunk(u, u.shape[2])
    points = _row_points(u, k, 0 if not wants_filter else 1 if chunk == 1 else 2)
    if points or chunk == 1:
        return points, chunk
    # With an entry to a block, the sum over the batch needs no room beside the spectrum of the signal.
    return _row_points(u, k, 1), 1


def _chunk(u: Tensor, points: int) -> int:
    """Batch entries of a block: few enough that there are blocks for every multiprocessor."""
    batch, channels = u.shape[:2]
    # Short rows share a block.
    blocks = -(-channels // max(1, 2048 // points))
    chunks = min(batch, -(-BLOCKS_PER_PROCESSOR * _device.processors(u.device) // blocks))
    return -(-batch // chunks)
