"""``short_conv``: causal depthwise convolution with a filter of a few taps.

In reading order: forward, backward, registration, public function. The taps are in the order of
``torch.nn.Conv1d`` with ``padding=K-1`` cut to L, the last one weighting the present position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import _check, _cuda_support, _library, _torch_fft, _triton_support, backend as _backend
from hyena_kernels._torch_taps import MAX_TAPS, taps_backward, taps_forward


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = _torch_fft.accumulator(x, weight)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    batch_step, channel_step = _torch_fft.tile(x.shape[0], x.shape[1], 3 * x.shape[2] * dtype.itemsize, x.device)
    for c in _torch_fft.slices(x.shape[1], channel_step):
        w, offset = weight[c].to(dtype), None if bias is None else bias[c].to(dtype)
        for b in _torch_fft.slices(x.shape[0], batch_step):
            y[b, c] = taps_forward(x[b, c].to(dtype), w, offset)
    return y


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _torch_fft.accumulator(x, weight)
    dx, dweight, dbias = grads = _gradients_like(x, weight, bias, needs)
    batch_step, channel_step = _torch_fft.tile(x.shape[0], x.shape[1], 5 * x.shape[2] * dtype.itemsize, x.device)
    for c in _torch_fft.slices(x.shape[1], channel_step):
        w = weight[c].to(dtype)
        weight_sum, bias_sum = torch.zeros_like(w), torch.zeros_like(w[:, 0])
        for b in _torch_fft.slices(x.shape[0], batch_step):
            signal, weight_part, bias_part = taps_backward(dy[b, c].to(dtype), x[b, c].to(dtype), w)
            weight_sum += weight_part
            bias_sum += bias_part
            if needs[0]:
                dx[b, c] = signal
        if needs[1]:
            dweight[c] = weight_sum
        if needs[2]:
            dbias[c] = bias_sum
    return grads


def _gradients_like(x: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised contiguous gradients; one of length 0 stands for each that is not needed."""

    def like(tensor: Tensor | None, needed: bool) -> Tensor:
        if tensor is None or not needed:
            return x.new_empty(0)
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    dx, dweight, dbias = map(like, (x, weight, bias), needs)
    return dx, dweight, dbias


_backend.register("short_conv_fwd", "torch", _forward)
_backend.register("short_conv_bwd", "torch", _backward)
_backend.register("short_conv_fwd", "triton", "hyena_kernels.triton.short_conv:forward", _triton_support.no_float64)
_backend.register("short_conv_bwd", "triton", "hyena_kernels.triton.short_conv:backward", _triton_support.no_float64)
_backend.register("short_conv_fwd", "cpp", "hyena_kernels.extension.short_conv:forward")
_backend.register("short_conv_bwd", "cpp", "hyena_kernels.extension.short_conv:backward")
_backend.register("short_conv_fwd", "cuda", "hyena_kernels.extension.cuda.short_conv:forward", _cuda_support.no_float64)
_backend.register(
    "short_conv_bwd", "cuda", "hyena_kernels.extension.cuda.short_conv:backward", _cuda_support.no_float64
)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(x, weight, bias, needs)


_short_conv_bwd = _library.define(
    "short_conv_bwd",
    "(Tensor dy, Tensor x, Tensor weight, Tensor? bias, bool[] needs, str backend) -> (Tensor, Tensor, Tensor)",
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias)


def _autograd(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    grads = _short_conv_bwd(dy, *ctx.saved_tensors, needs, ctx.backend)
    return *(grad if needed else None for grad, needed in zip(grads, needs, strict=True)), None


_short_conv_fwd = _library.define(
    "short_conv_fwd",
    "(Tensor x, Tensor weight, Tensor? bias, str backend) -> Tensor",
    _forward_fake,
    backward=_autograd,
    setup_context=_setup_context,
)


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """Causal depthwise convolution ``y[t] = bias + sum_j weight[j] x[t - (K-1) + j]``, ``x`` zero before its start.

    Accumulates in float32, or in float64 if ``x`` or ``weight`` has it. Under autocast ``x`` is cast to its dtype.
    Differentiable once in every tensor.

    Args:
        x: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides, any L ≥ 1.
        weight: ``(D, K)`` with 1 ≤ K ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32 or ``x``'s dtype.
        bias: ``(D,)``; float32 or ``x``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``; None takes the first that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not named above.
        ValueError: shapes do not fit (the message gives them), tensors lie on several devices, or ``backend`` is no
            backend's name.
        BackendError: ``backend`` cannot run here.

    Source: the short filter of Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.
    """
    _check.rank("short_conv", "x", x, "(B, D, L)")
    _check.rank("short_conv", "weight", weight, "(D, K)")
    if x.shape[2] < 1 or not 1 <= weight.shape[1] <= MAX_TAPS or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"short_conv: x (B, D, L) has shape {tuple(x.shape)} and weight (D, K) {tuple(weight.shape)}: "
            f"both need the same D, L ≥ 1 and 1 ≤ K ≤ {MAX_TAPS}"
        )
    if bias is not None:
        _check.shape("short_conv", "bias", bias, (x.shape[1],), "(D,)")
    _check.same_device("short_conv", x=x, weight=weight, bias=bias)
    x = _library.to_autocast(x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check.filter_dtype("short_conv", name, tensor, x)
    result: Tensor = _short_conv_fwd(x, weight, bias, _backend.requested(backend))
    return result


# The package exports this function under the module's own name; see the end of fftconv.py.
short_conv.short_conv = short_conv  # type: ignore[attr-defined]
