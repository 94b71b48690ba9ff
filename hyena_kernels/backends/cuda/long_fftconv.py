"""``fftconv`` on CUDA for the longest signals and for float64: cuFFT between fused elementwise kernels.

The transforms are ``torch.fft`` of complex rows of P points. P is the smallest even 2^a 3^b 5^c ≥ L. torch caches
cuFFT's plans, runs them on the current stream and allocates their workspace, so we need no plans of our own.
``norm="forward"`` leaves out the factor of the inverse transform, because ``fftconv_unweight`` multiplies anyway. There
is no ``out=``, which would copy the result.

One kernel each does the rest. Before a transform: gate, weight and padding. Between two: the product with a spectrum or
its conjugate, and the sum over the batch. After them: inverse weight, gate and rounding. Channels are taken in slices
whose complex rows stay within 256 MiB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cuda.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.inputs import FftconvInputs

# Complex rows that exist at a time for each row of the signal: before and after a transform, and cuFFT's workspace.
# Backward has rows of the gradient too. Rows of the filter are counted as if there were one batch entry.
_FORWARD_BUFFERS, _BACKWARD_BUFFERS = 4, 6


def _real(rows: Tensor) -> Tensor:
    """Complex ``(…, P)`` as a view ``(…, 2 P)``, which the kernels take."""
    return torch.view_as_real(rows).flatten(-2)


class _Transforms:
    """Size, dtype and slices of the transforms of a call."""

    def __init__(self, u: Tensor, k: Tensor, tap: int, buffers: int) -> None:
        self.batch, self.channels, self.length = u.shape
        self.tap = tap
        self.dtype = torch.complex128 if sizes.accumulator(u, k) == torch.float64 else torch.complex64
        self.points = sizes.fft_size(self.length, 1, 0)
        row_bytes = self.points * self.dtype.itemsize * buffers
        self.batch_step, self.channel_step = sizes.tile(self.batch, self.channels, row_bytes, u.device)

    def spectrum(self, signal: Tensor, gate: Tensor | None, D: Tensor | None = None, shift: int = 0) -> Tensor:
        """Complex ``(B, C, P)`` from ``(B, C, L)``."""
        rows = torch.empty((*signal.shape[:2], self.points), dtype=self.dtype, device=signal.device)
        ops.fftconv_weight(_real(rows), signal, gate, D, self.tap, shift)
        return torch.fft.fft(rows)

    def filter_spectrum(self, k: Tensor, D: Tensor | None) -> Tensor:
        """Complex ``(C, P)`` from ``(C, K)``."""
        return self.spectrum(k[None], None, D)[0]

    def signal(
        self, spectrum: Tensor, y: Tensor, factor: Tensor | None, y2: Tensor | None, factor2: Tensor | None, shift: int
    ) -> None:
        """Write ``y`` and ``y2``, ``(B, C, L)``: the signal times ``factor`` and times ``factor2``."""
        rows = torch.fft.ifft(spectrum, norm="forward")
        ops.fftconv_unweight(_real(rows), y, factor, y2, factor2, shift)


def _part(tensor: Tensor | None, b: slice, c: slice) -> Tensor | None:
    return None if tensor is None else tensor[b, c]


def _optional_real(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else _real(rows)


def forward(y: Tensor, inputs: FftconvInputs, tap: int) -> None:
    """Write the result of :func:`hyena_kernels.fftconv` into ``y``. ``tap`` is the index of the tap of zero lag."""
    transforms = _Transforms(inputs.u, inputs.k, tap, _FORWARD_BUFFERS)
    for c in sizes.slices(transforms.channels, transforms.channel_step):
        filter_spectrum = transforms.filter_spectrum(inputs.k[c], None if inputs.D is None else inputs.D[c])
        for b in sizes.slices(transforms.batch, transforms.batch_step):
            u, _, _, pre_gate, post_gate = inputs.part(b, c)
            spectrum = transforms.spectrum(u, pre_gate)
            ops.fftconv_product(_real(spectrum), None, _real(filter_spectrum), None, False, True, False)
            transforms.signal(spectrum, y[b, c], post_gate, None, None, tap)
            # Free it before the next slice allocates its own.
            del spectrum


def backward(grads: tuple[Tensor | None, ...], dy: Tensor, inputs: FftconvInputs, tap: int) -> None:
    """Write those of the gradients of ``u``, ``k`` and both gates that are not None. At least one is not."""
    du, dk, dpre_gate, dpost_gate = grads
    u, k, D, pre_gate, post_gate = inputs
    wants_filter = dk is not None
    wants_signal = du is not None or dpre_gate is not None
    wants_post = dpost_gate is not None
    transforms = _Transforms(u, k, tap, _BACKWARD_BUFFERS)
    for c in sizes.slices(transforms.channels, transforms.channel_step):
        filter_spectrum = None
        if wants_signal or wants_post:
            filter_spectrum = transforms.filter_spectrum(k[c], None if D is None else D[c])
        size = (c.stop - c.start, transforms.points)
        sums = torch.empty(size, dtype=transforms.dtype, device=u.device) if wants_filter else None
        for b in sizes.slices(transforms.batch, transforms.batch_step):
            signal = transforms.spectrum(u[b, c], _part(pre_gate, b, c)) if wants_filter or wants_post else None
            grad = None
            if wants_filter or wants_signal:
                grad = transforms.spectrum(dy[b, c], _part(post_gate, b, c), shift=tap)
            ops.fftconv_product(
                _optional_real(signal), _optional_real(grad), _optional_real(filter_spectrum), _optional_real(sums),
                b.start > 0, wants_post, wants_signal,
            )  # fmt: skip
            if dpost_gate is not None and signal is not None:
                transforms.signal(signal, dpost_gate[b, c], dy[b, c], None, None, tap)
            del signal
            if wants_signal and grad is not None:
                targets = [(du, pre_gate), (dpre_gate, u)]
                (y, factor), (y2, factor2) = targets if du is not None else targets[::-1]
                assert y is not None, "one of the two is wanted"
                transforms.signal(grad, y[b, c], _part(factor, b, c), _part(y2, b, c), _part(factor2, b, c), 0)
            del grad
        if dk is not None and sums is not None:
            transforms.signal(sums[None], dk[c][None], None, None, None, 0)
