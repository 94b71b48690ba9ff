"""The ops as a user would write them in plain PyTorch. They can be differentiated any number of times."""

from __future__ import annotations

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


def reference_hyena_mixer_step(
    x: Tensor,
    short_state: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    u: Tensor,
    future: Tensor,
    taps: Tensor,
    t: int | Tensor,
    *,
    window: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """``hyena_mixer_step`` without states: it returns the result, and what ``short_state`` and ``u`` become.

    :func:`hyena_kernels.hyena_mixer_step` describes arguments and result.
    """
    t, dtype = int(t), u.dtype
    start = t - t % window
    history = torch.cat([short_state, x[:, :, None]], dim=2)
    projections = torch.einsum("bck,ck->bc", history.to(dtype), short_weight.to(dtype))
    if short_bias is not None:
        projections = projections + short_bias
    *gates, v = projections.split(taps.shape[1], dim=1)
    signals = []
    for o, gate in enumerate(reversed(gates[1:])):
        signals.append((v * gate)[:, :, None])
        window_u = torch.cat([u[o, :, :, start:t], signals[o]], dim=2)
        v = future[o, :, :, t] + torch.einsum("bds,ds->bd", window_u, taps[o, :, : t - start + 1].flip(1))
    after = torch.cat([u[..., :t], torch.stack(signals), u[..., t + 1 :]], dim=3)
    return (v * gates[0]).to(x.dtype), history[:, :, 1:], after


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
