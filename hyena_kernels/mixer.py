"""``hyena_mixer``: everything of the Hyena operator between the products of in_proj and out_proj.

In reading order: forward, backward, registration, public function. A slice of channels is read from the
channel-last projections, convolved with the short filters, carried through the recurrence of gates and long
convolutions, and written channel-last; nothing of the size of the input is made on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import _check, _cuda_support, _library, _torch_fft, _triton_support, backend as _backend
from hyena_kernels._torch_taps import MAX_TAPS, taps_backward, taps_forward, taps_signal_gradient


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, part: int, channels: int, b: slice, c: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Projection ``part`` of one slice, ``(B, D, L)``, before and after the short convolution."""
    rows = slice(part * channels + c.start, part * channels + c.stop)
    signal = x[b, :, rows].transpose(1, 2).to(dtype, memory_format=torch.contiguous_format, copy=True)
    offset = None if bias is None else bias[rows].to(dtype)
    return signal, taps_forward(signal, weight[rows].to(dtype), offset)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, k: Tensor, D: Tensor | None) -> Tensor:
    batch, length, _ = x.shape
    steps, channels = k.shape[0], k.shape[1]
    dtype = _torch_fft.accumulator(x, weight, k)
    size = _torch_fft.fft_size(length, k.shape[2], 0)
    y = x.new_empty((batch, length, channels))
    row_bytes = (3 * size + 2 * length) * dtype.itemsize
    batch_step, channel_step = _torch_fft.tile(batch, channels, row_bytes, x.device)
    for c in _torch_fft.slices(channels, channel_step):
        filters_f = [
            _torch_fft.filter_spectrum(k[o, c], None if D is None else D[o, c], size, 0, dtype) for o in range(steps)
        ]
        for b in _torch_fft.slices(batch, batch_step):
            _, v = _project(x, weight, bias, steps + 1, channels, b, c, dtype)
            for o in range(steps):
                v = v.mul_(_project(x, weight, bias, steps - o, channels, b, c, dtype)[1])
                v = torch.fft.irfft(torch.fft.rfft(v, n=size).mul_(filters_f[o]), n=size)[..., :length]
            y[b, :, c] = v.mul_(_project(x, weight, bias, 0, channels, b, c, dtype)[1]).transpose(1, 2)
    return y


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, k: Tensor, D: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length, width = x.shape
    steps, channels = k.shape[0], k.shape[1]
    dtype = _torch_fft.accumulator(x, weight, k)
    size = _torch_fft.fft_size(length, k.shape[2], 0)
    dx, dweight, dbias, dk, dD = grads = _gradients_like(x, weight, bias, k, D, needs)
    needs_taps = needs[1] or needs[2]
    needs_projections = needs[0] or needs_taps
    needs_filters = needs[3] or needs[4]
    if not (needs_projections or needs_filters):
        return grads
    weight_sum = torch.zeros_like(weight, dtype=dtype)
    bias_sum = torch.zeros(width, dtype=dtype, device=x.device)
    row_bytes = ((4 + 2 * steps) * size + (4 + 4 * steps) * length) * dtype.itemsize
    batch_step, channel_step = _torch_fft.tile(batch, channels, row_bytes, x.device)
    for c in _torch_fft.slices(channels, channel_step):
        filters_f = [
            _torch_fft.filter_spectrum(k[o, c], None if D is None else D[o, c], size, 0, dtype) for o in range(steps)
        ]
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        filters_f_conj = [torch.conj_physical(filter_f) for filter_f in filters_f]
        filter_grads_f = [torch.zeros_like(filter_f) for filter_f in filters_f] if needs_filters else []
        for b in _torch_fft.slices(batch, batch_step):
            signals, gates = zip(
                *(_project(x, weight, bias, part, channels, b, c, dtype) for part in range(steps + 2)), strict=True
            )
            values, spectra = [gates[steps + 1]], []
            for o in range(steps):
                spectrum = torch.fft.rfft(values[o] * gates[steps - o], n=size)
                if needs_filters:
                    spectra.append(spectrum)
                # The last value is the partner of gate 0 in the result: only that gate's gradient needs it.
                if needs_projections or o < steps - 1:
                    values.append(torch.fft.irfft(spectrum * filters_f[o], n=size)[..., :length])
            grad = dy[b, :, c].transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
            gate_grads = {0: values[steps].mul_(grad)} if needs_projections else {}
            grad = grad * gates[0]
            for o in reversed(range(steps)):
                grad_f = torch.fft.rfft(grad, n=size)
                if needs_filters:
                    filter_grads_f[o] += spectra[o].conj_physical_().mul_(grad_f).sum(dim=0)
                if not needs_projections and o == 0:
                    break
                grad = torch.fft.irfft(grad_f.mul_(filters_f_conj[o]), n=size)[..., :length]
                if needs_projections:
                    gate_grads[steps - o] = grad * values[o]
                grad = grad.mul_(gates[steps - o])
            if needs_projections:
                gate_grads[steps + 1] = grad
            for part, gate_grad in gate_grads.items():
                rows = slice(part * channels + c.start, part * channels + c.stop)
                taps = weight[rows].to(dtype)
                if needs_taps:
                    signal_grad, weight_part, bias_part = taps_backward(gate_grad, signals[part], taps)
                    weight_sum[rows] += weight_part
                    bias_sum[rows] += bias_part
                else:
                    signal_grad = taps_signal_gradient(gate_grad, taps)
                if needs[0]:
                    dx[b, :, rows] = signal_grad.transpose(1, 2)
        for o, filter_grad_f in enumerate(filter_grads_f):
            filter_grad = _torch_fft.filter_gradient(filter_grad_f, size, 0, k.shape[2])
            if needs[3]:
                dk[o, c] = filter_grad
            if needs[4]:
                dD[o, c] = filter_grad[:, 0]
    if needs[1]:
        dweight.copy_(weight_sum)
    if needs[2]:
        dbias.copy_(bias_sum)
    return grads


def _gradients_like(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: Tensor, D: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised contiguous gradients; one of length 0 stands for each that is not needed."""

    def like(tensor: Tensor | None, needed: bool) -> Tensor:
        if tensor is None or not needed:
            return x.new_empty(0)
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    dx, dweight, dbias, dk, dD = map(like, (x, weight, bias, k, D), needs)
    return dx, dweight, dbias, dk, dD


_backend.register("hyena_mixer_fwd", "torch", _forward)
_backend.register("hyena_mixer_bwd", "torch", _backward)
_backend.register("hyena_mixer_fwd", "triton", "hyena_kernels.triton.mixer:forward", _triton_support.hyena_mixer)
_backend.register("hyena_mixer_bwd", "triton", "hyena_kernels.triton.mixer:backward", _triton_support.hyena_mixer)
_backend.register("hyena_mixer_fwd", "cpp", "hyena_kernels.extension.mixer:forward")
_backend.register("hyena_mixer_bwd", "cpp", "hyena_kernels.extension.mixer:backward")
_backend.register("hyena_mixer_fwd", "cuda", "hyena_kernels.extension.cuda.mixer:forward", _cuda_support.no_float64)
_backend.register("hyena_mixer_bwd", "cuda", "hyena_kernels.extension.cuda.mixer:backward", _cuda_support.no_float64)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, k: Tensor, D: Tensor | None, backend: str) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], k.shape[1]))


def _backward_fake(dy: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, weight, bias, k, D, needs, _ = inputs
    return _gradients_like(x, weight, bias, k, D, needs)


_hyena_mixer_bwd = _library.define(
    "hyena_mixer_bwd",
    "(Tensor dy, Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D, bool[] needs, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads = _hyena_mixer_bwd(dy, *ctx.saved_tensors, needs, ctx.backend)
    return *(grad if needed else None for grad, needed in zip(grads, needs, strict=True)), None


_hyena_mixer_fwd = _library.define(
    "hyena_mixer_fwd",
    "(Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D, str backend) -> Tensor",
    _forward_fake,
    backward=_autograd,
    setup_context=_setup_context,
)


def hyena_mixer(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Short convolution, split, and the recurrence of gates and long convolutions of a Hyena operator of order N.

    With ``p = short_conv(x)`` split along its channels into ``x_0 | x_1 | … | x_{N-1} | v``::

        for o in 0 … N-2:  v = k[o] ⋆ (v * x_{N-1-o}) + D[o] * (v * x_{N-1-o})
        y = v * x_0

    For order 2, as HyenaDNA uses it: ``y = x_0 * (k ⋆ (v * x_1) + D * (v * x_1))``. Convolutions are causal. Computed
    in float32, or in float64 if an input has it; only the inputs are saved for backward. Under autocast ``x`` is cast
    to its dtype. Differentiable once in every tensor.

    Args:
        x: ``(B, L, (N+1) d)``, the output of in_proj; float16, bfloat16, float32 or float64; any strides, any L ≥ 1.
        short_weight: ``((N+1) d, Ks)`` short filters with 1 ≤ Ks ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32
            or ``x``'s dtype.
        short_bias: ``((N+1) d,)`` or None; float32 or ``x``'s dtype.
        k: ``(N-1, d, K)`` long filters with K ≤ L, in the order in which the recurrence takes them; float32 or
            ``x``'s dtype.
        D: ``(N-1, d)`` skip weights or None; float32 or ``x``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``; None takes the first that can run.

    Returns:
        ``(B, L, d)``, contiguous, of ``x``'s dtype: the input of out_proj.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not named above.
        ValueError: shapes do not fit (the message gives them), tensors lie on several devices, or ``backend`` is no
            backend's name.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), definition 3.1 and algorithm 3.
    """
    _check.rank("hyena_mixer", "x", x, "(B, L, (N+1)d)")
    _check.rank("hyena_mixer", "short_weight", short_weight, "((N+1)d, Ks)")
    _check.rank("hyena_mixer", "k", k, "(N-1, d, K)")
    width, length = x.shape[2], x.shape[1]
    if width != (k.shape[0] + 2) * k.shape[1] or k.shape[0] < 1 or length < 1 or not 1 <= k.shape[2] <= length:
        raise ValueError(
            f"hyena_mixer: x (B, L, (N+1)d) has shape {tuple(x.shape)} and k (N-1, d, K) {tuple(k.shape)}: "
            "the width of x must be (N+1)d, N ≥ 2, and 1 ≤ K ≤ L"
        )
    _check.shape("hyena_mixer", "short_weight", short_weight, (width, short_weight.shape[1]), "((N+1)d, Ks)")
    if not 1 <= short_weight.shape[1] <= MAX_TAPS:
        raise ValueError(
            f"hyena_mixer: short_weight ((N+1)d, Ks) has shape {tuple(short_weight.shape)}: "
            f"expected 1 ≤ Ks ≤ {MAX_TAPS}"
        )
    if short_bias is not None:
        _check.shape("hyena_mixer", "short_bias", short_bias, (width,), "((N+1)d,)")
    if D is not None:
        _check.shape("hyena_mixer", "D", D, tuple(k.shape[:2]), "(N-1, d)")
    filters = {"short_weight": short_weight, "short_bias": short_bias, "k": k, "D": D}
    _check.same_device("hyena_mixer", x=x, **filters)
    x = _library.to_autocast(x)
    for name, tensor in filters.items():
        if tensor is not None:
            _check.filter_dtype("hyena_mixer", name, tensor, x)
    result: Tensor = _hyena_mixer_fwd(x, short_weight, short_bias, k, D, _backend.requested(backend))
    return result
