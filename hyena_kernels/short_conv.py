"""``short_conv``: causal depthwise convolution with a filter of a few taps.

The taps are in the order of ``torch.nn.Conv1d`` with ``padding=K-1`` and its output cut to L. The last tap weights the
present position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import short_conv as torch_short_conv
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.common.reasons import no_float64
from hyena_kernels.common.taps import MAX_TAPS
from hyena_kernels.registration import checks, library

_backend.register_op("short_conv", torch_short_conv, supports={"triton": no_float64, "cuda": no_float64})


def _fake(inputs: ShortConvInputs) -> Tensor:
    return torch.empty_like(inputs.x, memory_format=torch.contiguous_format)


_short_conv_fwd = library.define_op("short_conv", "Tensor x, Tensor weight, Tensor? bias", ShortConvInputs, _fake)


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """Causal depthwise convolution ``y[t] = bias + sum_j weight[j] x[t - (K-1) + j]`` with ``x`` zero before its start.

    Accumulates in float32, or in float64 if ``x`` or ``weight`` is float64. Autocast casts ``x`` only. Differentiable
    once in every tensor.

    Args:
        x: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        weight: ``(D, K)`` with 1 ≤ K ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32 or ``x``'s dtype.
        bias: ``(D,)``; float32 or ``x``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: the short filter of Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.
    """
    checks.rank("short_conv", "x", x, "(B, D, L)")
    checks.rank("short_conv", "weight", weight, "(D, K)")
    if x.shape[2] < 1 or not 1 <= weight.shape[1] <= MAX_TAPS or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"short_conv: x (B, D, L) has shape {tuple(x.shape)} and weight (D, K) {tuple(weight.shape)}: "
            f"both need the same D, L ≥ 1 and 1 ≤ K ≤ {MAX_TAPS}"
        )
    if bias is not None:
        checks.shape("short_conv", "bias", bias, (x.shape[1],), "(D,)")
    checks.same_device("short_conv", x=x, weight=weight, bias=bias)
    x = library.to_autocast(x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            checks.filter_dtype("short_conv", name, tensor, x)
    result: Tensor = _short_conv_fwd(x, weight, bias, _backend.requested(backend))
    return result


# See the end of fftconv.py.
short_conv.short_conv = short_conv  # type: ignore[attr-defined]
