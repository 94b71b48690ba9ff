"""``fftconv``: a long convolution of every channel with its own filter, with a skip and a gate on either side.

In reading order: registration, fake, autograd, public function. The mathematics is the convolution theorem:
with transforms of a size N at which nothing wraps around, ``y = irfft(rfft(u) * rfft(k))``, the gradient of ``u`` is
the correlation of ``dy`` with ``k`` and the gradient of ``k`` that of ``dy`` with ``u``, summed over the batch. Only
inputs are saved for backward; spectra are computed again: keeping them would cost 2 GB a layer at L = 2^20, D = 128.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import fftconv as torch_fftconv
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import FftconvInputs
from hyena_kernels.registration import checks, library

_backend.register_op("fftconv", torch_fftconv, supports={"triton": triton_support.fftconv})


def _fake(inputs: FftconvInputs, causal: bool) -> Tensor:
    return torch.empty_like(inputs.u, memory_format=torch.contiguous_format)


_fftconv_fwd = library.define_op(
    "fftconv",
    "Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, bool causal",
    FftconvInputs,
    _fake,
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
    checks.rank("fftconv", "u", u, "(B, D, L)")
    checks.rank("fftconv", "k", k, "(D, K)")
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
        checks.shape("fftconv", "D", D, (channels,), "(D,)")
    for name, gate in gates.items():
        if gate is not None:
            checks.shape("fftconv", name, gate, tuple(u.shape), "(B, D, L)")
    checks.same_device("fftconv", u=u, k=k, D=D, **gates)
    u = library.to_autocast(u)
    pre_gate, post_gate = (None if gate is None else library.to_autocast(gate) for gate in gates.values())
    for name, tensor in (("k", k), ("D", D)):
        if tensor is not None:
            checks.filter_dtype("fftconv", name, tensor, u)
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
