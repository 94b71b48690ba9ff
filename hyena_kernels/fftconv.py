"""``fftconv``: a long convolution of every channel with its own filter, with a skip and a gate on either side.

Only the inputs are saved for backward, which computes the spectra again. Keeping them would cost 2 GB a layer at
L = 2^20, D = 128. ``backends/torch/fftconv.py`` has the mathematics.
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

    Causal: ``(x ⋆ k)[t] = sum_j k[j] x[t - j]`` for ``j`` in ``0 … K-1``, with ``x`` zero before its start.
    Two-sided (``causal=False``): ``(x ⋆ k)[t] = sum_j k[j] x[t - j + (K-1)//2]``, with ``x`` zero on both sides. This
    is ``scipy.signal.convolve(x, k, "same")`` for K ≤ L. The original HyenaDNA code calls something else bidirectional:
    the causal convolution delayed by L/2 with wrap-around.

    Computed in float32, or in float64 if ``u`` or ``k`` is float64. The result equals the definition up to rounding at
    every L. Autocast casts the signal and the gates, but not ``k`` and ``D``. Differentiable once in every tensor. A
    NaN or an infinity spoils its whole row, because a transform mixes all of it, and no other row.

    Args:
        u: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        k: ``(D, K)`` filters with 1 ≤ K ≤ L; float32 or ``u``'s dtype.
        D: ``(D,)`` skip weight, added to the filter's tap of zero lag; float32 or ``u``'s dtype.
        pre_gate: ``(B, D, L)`` factor before the convolution; ``u``'s dtype.
        post_gate: ``(B, D, L)`` factor after the convolution; ``u``'s dtype.
        causal: whether an output depends on earlier inputs only.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above, or ``causal`` is not a bool.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
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
            "both need the same D, and 1 ≤ K ≤ L (a causal convolution uses only k[:, :L] of a longer filter)"
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


# The package exports this function under the name of this module. The attribute keeps
# ``import hyena_kernels.fftconv as m; m.fftconv(...)`` working.
fftconv.fftconv = fftconv  # type: ignore[attr-defined]
