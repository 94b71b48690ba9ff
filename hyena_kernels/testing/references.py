"""The ops as a user would write them in plain PyTorch. They can be differentiated any number of times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
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
    k_rev: Tensor | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
    truncate: bool = False,
) -> Tensor:
    """``fftconv`` as HyenaDNA publishes it: transforms of size 2L in float32, or in float64 if an input has it.

    A two-sided filter longer than L takes transforms of L + K - 1. Products with gates are in ``u``'s dtype.
    :func:`hyena_kernels.fftconv` describes arguments and result.
    """
    length, dtype = u.shape[-1], _accumulator(u, k)
    if truncate:
        k, k_rev = cut_filters(length, k, k_rev, causal)
    size = max(2 * length, length + k.shape[-1] - 1)
    first = 0 if causal else (k.shape[-1] - 1) // 2
    x = (u if pre_gate is None else pre_gate * u).to(dtype)
    filter_f = torch.fft.rfft(k.to(dtype), n=size)
    if k_rev is not None:
        filter_f = filter_f + torch.fft.rfft(k_rev.to(dtype), n=size).conj()
    y = torch.fft.irfft(torch.fft.rfft(x, n=size) * filter_f, n=size)[..., first : first + length]
    if D is not None:
        y = y + D.reshape(-1, 1).to(dtype) * x
    y = y.to(u.dtype)
    return y if post_gate is None else post_gate * y


def cut_filters(length: int, k: Tensor, k_rev: Tensor | None, causal: bool) -> tuple[Tensor, Tensor | None]:
    """``k`` and ``k_rev`` without the taps of lags from ``length`` on, in either direction."""
    centre = 0 if causal else (k.shape[-1] - 1) // 2
    k = k[..., max(0, centre - length + 1) : centre + length]
    return k, None if k_rev is None else k_rev[..., :length]


def reference_short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
) -> Tensor:
    """``short_conv`` with ``torch.nn.functional.conv1d`` in float32, or in float64 if an input has it.

    :func:`hyena_kernels.short_conv` describes arguments and result.
    """
    dtype = _accumulator(x, weight)
    if initial_state is None:
        padded = F.pad(x.to(dtype), (weight.shape[1] - 1, 0))
    else:
        padded = torch.cat((initial_state, x), dim=-1).to(dtype)
    offset = None if bias is None else bias.to(dtype)
    y = F.conv1d(padded, weight[:, None].to(dtype), offset, groups=x.shape[1])
    return (F.silu(y) if activation == "silu" else y).to(x.dtype)


def reference_short_conv_states(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`reference_short_conv` and the final state, as ``short_conv`` with ``return_final_state`` gives them."""
    before = weight.shape[1] - 1
    past = x.new_zeros((*x.shape[:2], before)) if initial_state is None else initial_state
    samples = torch.cat((past, x), dim=-1)
    y = reference_short_conv(x, weight, bias, activation=activation, initial_state=initial_state)
    return y, samples[..., samples.shape[-1] - before :]


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


def lagrange(h: int, p: int, at: Tensor) -> Tensor:
    """Polynomials that are 1 at one of p equally spaced nodes of ``[0, h-1]`` and 0 at the others: ``(n, p)``."""
    node = torch.linspace(0, h - 1, p, dtype=torch.float64, device=at.device)
    rows = [torch.stack([(at - node[o]) / (node[a] - node[o]) for o in range(p) if o != a]).prod(0) for a in range(p)]
    return torch.stack(rows, dim=1)


def reference_far_field_conv(
    u: Tensor,
    near: Tensor,
    nodes: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
) -> Tensor:
    """``far_field_conv`` with one transform for every pair of nodes, in float32 or in float64.

    Products with gates are in ``u``'s dtype. :func:`hyena_kernels.far_field_conv` describes arguments and result.
    """
    (batch, channels, length), h, dtype = u.shape, near.shape[1], _accumulator(u, near)
    p, blocks = (nodes.shape[1] + 1) // 2, -(-length // h)
    gated = (u if pre_gate is None else pre_gate * u).to(dtype)
    x = F.pad(gated, (0, blocks * h - length)).view(batch, channels, blocks, h)
    basis = lagrange(h, p, torch.arange(h, dtype=torch.float64, device=u.device)).to(dtype)
    padded = F.pad(near.to(dtype), (h - 1, 0))
    # Row a holds the taps of lags a, a-1, …: those of a block's positions from the first one on.
    toeplitz = padded.unfold(1, h, 1).flip(2)
    moments = torch.fft.rfft(x @ basis, n=2 * blocks, dim=2)
    filters = torch.fft.rfft(F.pad(nodes[..., : blocks - 1].to(dtype), (1, 0)), n=2 * blocks)
    far = []
    for alpha in range(p):
        spectrum = sum(filters[:, alpha - beta + p - 1] * moments[..., beta] for beta in range(p))
        far.append(torch.fft.irfft(spectrum, n=2 * blocks)[..., :blocks])
    y = x @ toeplitz.transpose(1, 2) + torch.stack(far, dim=-1) @ basis.t()
    y = y.flatten(2)[..., :length]
    if D is not None:
        y = y + D.reshape(-1, 1).to(dtype) * gated
    y = y.to(u.dtype)
    return y.contiguous() if post_gate is None else post_gate * y


def reference_hyena_mixer_far(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    near: Tensor,
    nodes: Tensor,
    D: Tensor | None = None,
    *,
    far_field_conv: Callable[..., Tensor] = reference_far_field_conv,
) -> Tensor:
    """``hyena_mixer_far`` op by op, with every result in ``x``'s dtype.

    :func:`hyena_kernels.hyena_mixer_far` describes arguments and result.
    """
    pairs = list(zip(near, nodes, strict=True))
    return mixer_recurrence(x, short_weight, short_bias, pairs, D, lambda u, pair, skip: far_field_conv(u, *pair, skip))


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


def reference_position_dropout(x: Tensor, p: float, *, seed: int, samples: Tensor, offset: int = 0) -> Tensor:
    """``position_dropout`` with a mask from NumPy.

    :func:`hyena_kernels.position_dropout` describes arguments and result.

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 5.3.
    """
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    number = samples.cpu().numpy().view(np.uint64)[:, None, None]
    channels = np.arange(x.shape[2], dtype=np.uint64)
    positions = np.arange(offset, offset + x.shape[1], dtype=np.uint64)[:, None]
    words = [channels // np.uint64(4), positions, number & low, number >> half]
    key = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)]
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [second >> half ^ words[1] ^ key[0], second & low, first >> half ^ words[3] ^ key[1], first & low]
        key = [key[0] + np.uint64(0x9E3779B9) & low, key[1] + np.uint64(0xBB67AE85) & low]
    # Of each block, the word of the channel.
    word = np.choose(np.arange(x.shape[2]) % 4, np.broadcast_arrays(*words)) if x.shape[2] else words[0]
    kept = torch.from_numpy(word >= np.uint64(round(p * 2**32))).to(x.device)
    return torch.where(kept, x.contiguous() / (1 - p) if p < 1 else x, 0.0)


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
    k: Sequence[Any] | Tensor,
    D: Tensor | None,
    long_conv: Callable[[Tensor, Any, Tensor | None], Tensor],
) -> Tensor:
    """:func:`reference_hyena_mixer` with any long convolution ``(u, k, D) → y`` and a filter ``k`` for each step."""
    *gates, v = reference_short_conv(x.transpose(1, 2), short_weight, short_bias).chunk(len(k) + 2, dim=1)
    for o, gate in enumerate(reversed(gates[1:])):
        v = long_conv(v * gate, k[o], None if D is None else D[o])
    return (v * gates[0]).transpose(1, 2).contiguous()
