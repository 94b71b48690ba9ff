"""The ops as a user would write them in plain PyTorch. They can be differentiated any number of times."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _accumulator(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def reference_fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """``fftconv`` as HyenaDNA publishes it: transforms of size 2L in float32, or in float64 if an input has it.

    Products with gates are in ``u``'s dtype. :func:`hyena_kernels.fftconv` describes arguments and result.
    """
    length, dtype = u.shape[-1], _accumulator(u, k)
    size = 2 * length
    first = 0 if causal else (k.shape[-1] - 1) // 2
    x = (u if pre_gate is None else pre_gate * u).to(dtype)
    spectrum = torch.fft.rfft(x, n=size) * torch.fft.rfft(k.to(dtype), n=size)
    y = torch.fft.irfft(spectrum, n=size)[..., first : first + length]
    if D is not None:
        y = y + D[:, None].to(dtype) * x
    y = y.to(u.dtype)
    return y if post_gate is None else post_gate * y


def reference_short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``short_conv`` with ``torch.nn.functional.conv1d`` in float32, or in float64 if an input has it.

    :func:`hyena_kernels.short_conv` describes arguments and result.
    """
    dtype = _accumulator(x, weight)
    padded = F.pad(x.to(dtype), (weight.shape[1] - 1, 0))
    offset = None if bias is None else bias.to(dtype)
    return F.conv1d(padded, weight[:, None].to(dtype), offset, groups=x.shape[1]).to(x.dtype)


def reference_implicit_filter(
    z: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    t: Tensor | None = None,
    deltas: Tensor | None = None,
    shift: float = 0.0,
) -> Tensor:
    """``implicit_filter`` with a tensor of all positions for each layer.

    :func:`hyena_kernels.implicit_filter` describes arguments and result.
    """
    h = torch.sin(freq * F.linear(z, w_in, b_in))
    for weight, bias in zip(w_hidden, b_hidden, strict=True):
        h = torch.sin(freq * F.linear(h, weight, bias))
    k = F.linear(h, w_out)
    if t is not None and deltas is not None:
        k = k * (torch.exp(-t[:, None] * deltas.abs()) + shift)
    return k.t().contiguous()


def reference_hyena_mixer(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, k: Tensor, D: Tensor | None = None
) -> Tensor:
    """``hyena_mixer`` op by op, with every result in ``x``'s dtype.

    :func:`hyena_kernels.hyena_mixer` describes arguments and result.
    """
    return mixer_recurrence(x, short_weight, short_bias, k, D, reference_fftconv)


def _by_segment(op: Callable[..., Tensor], cu_seqlens: Tensor, *packed: Tensor | None) -> Tensor:
    """``op`` of every segment of tensors ``(…, T)``, side by side."""
    bounds = cu_seqlens.tolist()
    return torch.cat(
        [
            op(end - start, *(None if each is None else each[..., start:end] for each in packed))
            for start, end in itertools.pairwise(bounds)
        ],
        dim=-1,
    )


def reference_fftconv_varlen(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    fftconv: Callable[..., Tensor] = reference_fftconv,
) -> Tensor:
    """``fftconv_varlen`` with one :func:`reference_fftconv` a segment.

    :func:`hyena_kernels.fftconv_varlen` describes arguments and result.
    """

    def one(length: int, u: Tensor, pre_gate: Tensor | None, post_gate: Tensor | None) -> Tensor:
        gates = {"pre_gate": pre_gate, "post_gate": post_gate}
        return fftconv(u[None], k[:, :length], D, **{n: None if g is None else g[None] for n, g in gates.items()})[0]

    return _by_segment(one, cu_seqlens, u, pre_gate, post_gate)


def reference_hyena_mixer_varlen(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor,
    fftconv: Callable[..., Tensor] = reference_fftconv,
) -> Tensor:
    """``hyena_mixer_varlen`` with one :func:`reference_hyena_mixer` a segment.

    :func:`hyena_kernels.hyena_mixer_varlen` describes arguments and result.
    """

    def one(length: int, x: Tensor) -> Tensor:
        return mixer_recurrence(x.t()[None], short_weight, short_bias, k[..., :length], D, fftconv)[0].t()

    return _by_segment(one, cu_seqlens, x.t()).t().contiguous()


def reference_layer_norm(
    residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, dtype: torch.dtype | None = None
) -> Tensor:
    """``layer_norm`` with ``torch.nn.functional.layer_norm`` in float32, or in float64 if an input has it.

    :func:`hyena_kernels.layer_norm` describes arguments and result. Autocast does not change the dtype of the result.
    """
    wide = _accumulator(residual, weight, bias)
    y = F.layer_norm(residual.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return y.to(weight.dtype if dtype is None else dtype)


def reference_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """``add_layer_norm`` as a sum and :func:`reference_layer_norm`.

    :func:`hyena_kernels.add_layer_norm` describes arguments and results.
    """
    total = residual + x
    return reference_layer_norm(total, weight, bias, eps, dtype=dtype), total


def reference_gelu(x: Tensor) -> Tensor:
    """``gelu`` with ``torch.nn.functional.gelu``. :func:`hyena_kernels.gelu` describes argument and result."""
    return F.gelu(x, approximate="tanh")


def reference_embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """``embedding`` with ``torch.nn.functional.embedding``, whose gradient is summed in the dtype of the table.

    :func:`hyena_kernels.embedding` describes arguments and result.
    """
    return F.embedding(ids.long(), weight)


def reference_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """``linear_cross_entropy`` with the logits of all positions, in float32 or in float64.

    :func:`hyena_kernels.linear_cross_entropy` describes arguments and result.
    """
    dtype = _accumulator(hidden)
    logits = F.linear(hidden.to(dtype), weight.to(dtype)).reshape(-1, weight.shape[0])
    losses = F.cross_entropy(
        logits,
        targets.reshape(-1).long(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return losses.view(targets.shape) if reduction == "none" else losses


def mixer_recurrence(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None,
    long_conv: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """:func:`reference_hyena_mixer` with any long convolution ``(u, k, D) → y``."""
    *gates, v = reference_short_conv(x.transpose(1, 2), short_weight, short_bias).split(k.shape[1], dim=1)
    for o, gate in enumerate(reversed(gates[1:])):
        v = long_conv(v * gate, k[o], None if D is None else D[o])
    return (v * gates[0]).transpose(1, 2).contiguous()
