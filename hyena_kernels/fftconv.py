"""``fftconv``: a long convolution of every channel with its own filter, with a skip and a gate on either side.

In reading order: forward, backward, registration, public function. The mathematics is the convolution theorem:
with transforms of a size N at which nothing wraps around, ``y = irfft(rfft(u) * rfft(k))``, the gradient of ``u`` is
the correlation of ``dy`` with ``k`` and the gradient of ``k`` that of ``dy`` with ``u``, summed over the batch. Only
inputs are saved for backward; spectra are computed again: keeping them would cost 2 GB a layer at L = 2^20, D = 128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import _check, _library, _torch_fft, _triton_support, backend as _backend


def _row_bytes(size: int, dtype: torch.dtype, buffers: int) -> int:
    return size * dtype.itemsize * buffers


def _forward(
    u: Tensor, k: Tensor, D: Tensor | None, pre_gate: Tensor | None, post_gate: Tensor | None, causal: bool
) -> Tensor:
    batch, channels, length = u.shape
    dtype = _torch_fft.accumulator(u, k)
    tap = _torch_fft.centre(k.shape[1], causal)
    size = _torch_fft.fft_size(length, k.shape[1], tap)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    batch_step, channel_step = _torch_fft.tile(batch, channels, _row_bytes(size, dtype, 3), u.device)
    for c in _torch_fft.slices(channels, channel_step):
        filter_f = _torch_fft.filter_spectrum(k[c], None if D is None else D[c], size, tap, dtype)
        for b in _torch_fft.slices(batch, batch_step):
            x = u[b, c].to(dtype)
            if pre_gate is not None:
                x = x * pre_gate[b, c]
            signal_f = torch.fft.rfft(x, n=size).mul_(filter_f)
            out = torch.fft.irfft(signal_f, n=size)[..., :length]
            y[b, c] = out if post_gate is None else out.mul_(post_gate[b, c])
    return y


def _backward(
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    pre_gate: Tensor | None,
    post_gate: Tensor | None,
    causal: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels, length = u.shape
    dtype = _torch_fft.accumulator(u, k)
    tap = _torch_fft.centre(k.shape[1], causal)
    size = _torch_fft.fft_size(length, k.shape[1], tap)
    du, dk, dD, dpre, dpost = grads = _gradients_like(u, k, D, pre_gate, post_gate, needs)
    needs_filter = needs[1] or needs[2]
    needs_signal = needs[0] or needs[3]
    batch_step, channel_step = _torch_fft.tile(batch, channels, _row_bytes(size, dtype, 6), u.device)
    for c in _torch_fft.slices(channels, channel_step):
        filter_f = _torch_fft.filter_spectrum(k[c], None if D is None else D[c], size, tap, dtype)
        # A lazy conjugate inside a registered op gives wrong results under torch.compile.
        filter_f_conj = torch.conj_physical(filter_f) if needs_signal else filter_f
        filter_grad_f = torch.zeros_like(filter_f) if needs_filter else filter_f
        for b in _torch_fft.slices(batch, batch_step):
            signal = u[b, c].to(dtype)
            x = signal if pre_gate is None else signal * pre_gate[b, c]
            grad = dy[b, c].to(dtype)
            signal_f = torch.fft.rfft(x, n=size) if needs_filter or needs[4] else filter_f
            if needs[4]:
                dpost[b, c] = torch.fft.irfft(signal_f * filter_f, n=size)[..., :length].mul_(grad)
            if post_gate is not None:
                grad = grad * post_gate[b, c]
            if not (needs_filter or needs_signal):
                continue
            grad_f = torch.fft.rfft(grad, n=size)
            if needs_filter:
                filter_grad_f += signal_f.conj_physical_().mul_(grad_f).sum(dim=0)
            if needs_signal:
                dx = torch.fft.irfft(grad_f.mul_(filter_f_conj), n=size)[..., :length]
                if needs[3]:
                    dpre[b, c] = dx * signal
                if needs[0]:
                    du[b, c] = dx if pre_gate is None else dx.mul_(pre_gate[b, c])
        if needs_filter:
            taps = _torch_fft.filter_gradient(filter_grad_f, size, tap, k.shape[1])
            if needs[1]:
                dk[c] = taps
            if needs[2]:
                dD[c] = taps[:, tap]
    return grads


def _gradients_like(
    u: Tensor, k: Tensor, D: Tensor | None, pre_gate: Tensor | None, post_gate: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised contiguous gradients; one of length 0 stands for each that is not needed."""

    def like(tensor: Tensor | None, needed: bool) -> Tensor:
        if tensor is None or not needed:
            return u.new_empty(0)
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    du, dk, dD, dpre, dpost = map(like, (u, k, D, pre_gate, post_gate), needs)
    return du, dk, dD, dpre, dpost


_backend.register("fftconv_fwd", "torch", _forward)
_backend.register("fftconv_bwd", "torch", _backward)
_backend.register("fftconv_fwd", "triton", "hyena_kernels.triton.fftconv:forward", _triton_support.fftconv)
_backend.register("fftconv_bwd", "triton", "hyena_kernels.triton.fftconv:backward", _triton_support.fftconv)
_backend.register("fftconv_fwd", "cpp", "hyena_kernels.extension.fftconv:forward")
_backend.register("fftconv_bwd", "cpp", "hyena_kernels.extension.fftconv:backward")
_backend.register("fftconv_fwd", "cuda", "hyena_kernels.extension.cuda.fftconv:forward")
_backend.register("fftconv_bwd", "cuda", "hyena_kernels.extension.cuda.fftconv:backward")


def _forward_fake(
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    pre_gate: Tensor | None,
    post_gate: Tensor | None,
    causal: bool,
    backend: str,
) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


def _backward_fake(dy: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, k, D, pre_gate, post_gate, _, needs, _ = inputs
    return _gradients_like(u, k, D, pre_gate, post_gate, needs)


_fftconv_bwd = _library.define(
    "fftconv_bwd",
    "(Tensor dy, Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, bool causal, bool[] needs, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:5])
    grads = _fftconv_bwd(dy, *tensors, ctx.causal, needs, ctx.backend)
    return *(grad if needed else None for grad, needed in zip(grads, needs, strict=True)), None, None


_fftconv_fwd = _library.define(
    "fftconv_fwd",
    "(Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, bool causal, str backend) -> Tensor",
    _forward_fake,
    backward=_autograd,
    setup_context=_setup_context,
)


def fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Gated long convolution ``y = post_gate * ((pre_gate * u) ⋆ k + D * (pre_gate * u))``, channel by channel.

    Causal: ``(x ⋆ k)[t] = sum_j k[j] x[t - j]`` for ``j`` in ``0 … K-1`` with ``x`` zero before its start.
    Two-sided (``causal=False``): ``(x ⋆ k)[t] = sum_j k[j] x[t - j + (K-1)//2]`` with ``x`` zero on both sides, as
    ``scipy.signal.convolve(x, k, "same")`` for K ≤ L. This is not what the original HyenaDNA code calls bidirectional
    (the causal convolution delayed by L/2 with wrap-around).

    Computed in float32, or in float64 if ``u`` or ``k`` has it, whatever the signal's dtype; equal to the definition
    up to rounding at every L. Under autocast signal and gates are cast to its dtype, ``k`` and ``D`` are left alone.
    Differentiable once in every tensor. A NaN or an infinity spoils all of its row, for transforms take a row whole,
    and no other.

    Args:
        u: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides, any L ≥ 1.
        k: ``(D, K)`` filters with 1 ≤ K ≤ L; float32 or ``u``'s dtype.
        D: ``(D,)`` skip weight, added to the filter's tap of zero lag; float32 or ``u``'s dtype.
        pre_gate: ``(B, D, L)``, multiplied in before the convolution; ``u``'s dtype.
        post_gate: ``(B, D, L)``, multiplied in after it; ``u``'s dtype.
        causal: whether outputs see only earlier inputs.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``; None takes the first that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError: an argument is no tensor, sparse or of a dtype that is not named above, or ``causal`` is no bool.
        ValueError: shapes do not fit (the message gives them), tensors lie on several devices, or ``backend`` is no
            backend's name.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3; ``fftconv`` of HyenaDNA
    (arXiv 2306.15794).
    """
    _check.rank("fftconv", "u", u, "(B, D, L)")
    _check.rank("fftconv", "k", k, "(D, K)")
    channels, length = u.shape[1], u.shape[2]
    if length < 1 or not 1 <= k.shape[1] <= length or k.shape[0] != channels:
        raise ValueError(
            f"fftconv: u (B, D, L) has shape {tuple(u.shape)} and k (D, K) {tuple(k.shape)}: "
            "both need the same D, and 1 ≤ K ≤ L (of a longer filter k[:, :L] is all that counts if it is causal)"
        )
    if not isinstance(causal, bool):
        raise TypeError(f"fftconv: causal must be True or False, got {causal!r}")
    gates = {"pre_gate": pre_gate, "post_gate": post_gate}
    if D is not None:
        _check.shape("fftconv", "D", D, (channels,), "(D,)")
    for name, gate in gates.items():
        if gate is not None:
            _check.shape("fftconv", name, gate, tuple(u.shape), "(B, D, L)")
    _check.same_device("fftconv", u=u, k=k, D=D, **gates)
    u = _library.to_autocast(u)
    pre_gate, post_gate = (None if gate is None else _library.to_autocast(gate) for gate in gates.values())
    for name, tensor in (("k", k), ("D", D)):
        if tensor is not None:
            _check.filter_dtype("fftconv", name, tensor, u)
    for name, gate in (("pre_gate", pre_gate), ("post_gate", post_gate)):
        if gate is not None and gate.dtype != u.dtype:
            raise TypeError(
                f"fftconv: {name} {tuple(gate.shape)} has dtype {gate.dtype}, expected the signal's {u.dtype}"
            )
    result: Tensor = _fftconv_fwd(u, k, D, pre_gate, post_gate, causal, _backend.requested(backend))
    return result


# The package exports this function under the module's own name; the attribute keeps
# ``import hyena_kernels.fftconv as m; m.fftconv(...)`` working all the same.
fftconv.fftconv = fftconv  # type: ignore[attr-defined]
