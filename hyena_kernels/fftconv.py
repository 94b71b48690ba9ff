"""``fftconv``: a long convolution of every channel with its own filter, with a skip and a gate on either side.

Only the inputs are saved for backward, which computes the spectra again. Keeping them would cost 2 GB a layer at
L = 2^20, D = 128. ``backends/torch/fftconv.py`` has the mathematics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import fftconv as torch_fftconv
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common import sizes
from hyena_kernels.common.inputs import FftconvInputs
from hyena_kernels.registration import checks, gates, library

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
    k_rev: Tensor | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
    truncate: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Gated long convolution ``y = post_gate * ((pre_gate * u) ⋆ k + D * (pre_gate * u))``, channel by channel.

    Causal: ``(x ⋆ k)[t] = sum_j k[j] x[t - j]`` for ``j`` in ``0 … K-1``, with ``x`` zero before its start.

    Two-sided (``causal=False``): ``(x ⋆ k)[t] = sum_j k[j] x[t - j + (K-1)//2]``, with ``x`` zero on both sides. So
    ``k[(K-1)//2]`` is the tap of lag 0, and the 2L - 1 lags that reach a result all fit. For K ≤ L this is
    ``scipy.signal.convolve(x, k, "same")``. The original HyenaDNA code calls something else bidirectional: the causal
    convolution delayed by L/2 with wrap-around.

    Two-sided from two filters (``k_rev``): ``(x ⋆ k)[t] + sum_j k_rev[j] x[t + j]``. Both filters have a tap of lag 0,
    and these two are added. In the spectrum this is ``rfft(k) + rfft(k_rev).conj()``.

    Every form takes one transform of each signal and each filter; on a CPU filters that are much shorter than the row
    are multiplied directly, or take transforms of blocks. Computed in float32, or in float64 if ``u`` or a filter is
    float64. The result equals the definition up to rounding at every L. Autocast casts the signal and the
    gates, but not the filters and ``D``. Differentiable once in every tensor. A NaN or an infinity can spoil
    its whole row, because a transform mixes all that it takes in. It spoils no other row.

    Filters of each sample are computed as those of ``B * D`` channels of one sample. For this ``u``, the filters and
    the gates become views of ``(1, B * D, …)`` if their strides allow, as those of contiguous tensors do. A tensor
    with other strides is copied, and so is a gate that is constant over samples or channels, but not over positions.

    Args:
        u: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        k: ``(D, K)`` filters, or ``(B, D, K)`` for filters of each sample; float32 or ``u``'s dtype. 1 ≤ K ≤ L, or
            1 ≤ K ≤ 2L - 1 with ``causal=False``.
        D: ``(D,)`` or ``(D, 1)`` skip weight, added to the filter's tap of zero lag; float32 or ``u``'s dtype.
        k_rev: ``(D, K')`` or ``(B, D, K')``, like ``k``, with 1 ≤ K' ≤ L: the taps of lags 0, -1, …, -(K'-1);
            float32 or ``u``'s dtype. Only with ``causal=True``.
        pre_gate: factor before the convolution, of any shape that broadcasts to ``(B, D, L)`` by torch's rules;
            ``u``'s dtype. Its gradient is computed for ``(B, D, L)`` and summed to its shape.
        post_gate: factor after the convolution, as ``pre_gate``.
        causal: whether an output depends on earlier inputs only. With ``k_rev`` it says this of ``k`` alone.
        truncate: whether to cut filters that are too long. The taps that are cut reach no output: those of lags from L
            on in either direction. Their gradient is 0. By default such a filter is refused.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above, or ``causal`` or ``truncate`` is not a
            bool.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, ``k_rev``
            comes with ``causal=False``, or ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3; ``fftconv`` of HyenaDNA
    (arXiv 2306.15794).
    """
    checks.rank("fftconv", "u", u, "(B, D, L)")
    if not isinstance(causal, bool):
        raise TypeError(f"fftconv: causal must be True or False, got {causal!r}")
    if not isinstance(truncate, bool):
        raise TypeError(f"fftconv: truncate must be True or False, got {truncate!r}")
    k = _checked_filter("k", k, u, causal, truncate)
    if k_rev is not None:
        if not causal:
            raise ValueError("fftconv: k_rev and causal=False exclude each other: k_rev makes a causal k two-sided")
        k_rev = _checked_filter("k_rev", k_rev, u, causal, truncate)
        if k_rev.dim() != k.dim():
            raise ValueError(
                f"fftconv: k has shape {tuple(k.shape)} and k_rev {tuple(k_rev.shape)}: both must be (D, K), or both "
                "(B, D, K)"
            )
    if D is not None:
        gates.check_skip("fftconv", D, u)
    if pre_gate is not None:
        gates.check_gate("fftconv", "pre_gate", pre_gate, u)
    if post_gate is not None:
        gates.check_gate("fftconv", "post_gate", post_gate, u)
    checks.same_device("fftconv", u=u, k=k, k_rev=k_rev, D=D, pre_gate=pre_gate, post_gate=post_gate)
    u = library.to_autocast(u)
    checks.filter_dtype("fftconv", "k", k, u)
    if D is not None:
        checks.filter_dtype("fftconv", "D", D, u)
        D = D if D.dim() == 1 else D[:, 0]
    each_sample = k.dim() == 3
    if pre_gate is not None:
        pre_gate = gates.like_signal("fftconv", "pre_gate", pre_gate, u, each_sample=each_sample)
    if post_gate is not None:
        post_gate = gates.like_signal("fftconv", "post_gate", post_gate, u, each_sample=each_sample)
    if k_rev is not None:
        checks.filter_dtype("fftconv", "k_rev", k_rev, u)
        k, causal = _two_sided(k, k_rev), False
    if not each_sample:
        result: Tensor = _fftconv_fwd(u, k, D, pre_gate, post_gate, causal, _backend.requested(backend))
        return result
    batch, channels, length = u.shape
    rows = batch * channels
    result = _fftconv_fwd(
        u.reshape(1, rows, length),
        k.reshape(rows, k.shape[2]),
        None if D is None else D.expand(batch, channels).reshape(rows),
        pre_gate,
        post_gate,
        causal,
        _backend.requested(backend),
    )
    return result.view(u.shape)


def _checked_filter(name: str, k: Tensor, u: Tensor, causal: bool, truncate: bool) -> Tensor:
    """A filter as it is, or cut if it is too long and ``truncate`` says so.

    Raises:
        TypeError: it is no tensor of a dtype that filters have.
        ValueError: its shape does not fit, or it is longer and not to be cut.
    """
    checks.floats("fftconv", name, k, "(D, K) or (B, D, K)")
    if not 2 <= k.dim() <= 3:
        raise ValueError(f"fftconv: {name} has shape {tuple(k.shape)}, expected (D, K) or (B, D, K)")
    batch, channels, length = u.shape
    *rows, taps = k.shape
    most = length if causal else 2 * length - 1
    fits = rows == ([channels] if len(rows) == 1 else [batch, channels])
    if fits and 1 <= taps <= most:
        return k
    meaning, same = ("(D, K)", "D") if len(rows) == 1 else ("(B, D, K)", "B and D")
    shapes = f"fftconv: u (B, D, L) has shape {tuple(u.shape)} and {name} {meaning} {tuple(k.shape)}: "
    if not fits or length < 1 or taps < 1:
        raise ValueError(shapes + f"both need the same {same}, L ≥ 1 and K ≥ 1")
    if not truncate:
        bound = "L" if causal else "2L-1 with causal=False"
        raise ValueError(shapes + f"K can be at most {bound}. truncate=True cuts the taps that reach no output")
    first = 0 if causal else sizes.centre(taps, causal) - (length - 1)
    return k[..., first : first + most]


def _two_sided(k: Tensor, k_rev: Tensor) -> Tensor:
    """The filter of lags -(n-1) … n-1 with n the longer of K and K', in float32 or float64. The middle has lag 0."""
    dtype = torch.promote_types(torch.promote_types(k.dtype, k_rev.dtype), torch.float32)
    k, k_rev = k.to(dtype), k_rev.to(dtype)
    taps = torch.cat((k_rev[..., 1:].flip(-1), k[..., :1] + k_rev[..., :1], k[..., 1:]), dim=-1)
    longer = k.shape[-1] - k_rev.shape[-1]
    return taps if longer == 0 else F.pad(taps, (longer, 0) if longer > 0 else (0, -longer))


# The package exports this function under the name of this module. The attribute keeps
# ``import hyena_kernels.fftconv as m; m.fftconv(...)`` working.
fftconv.fftconv = fftconv  # type: ignore[attr-defined]
