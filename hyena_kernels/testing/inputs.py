"""Random arguments of the ops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor | None]
"""Tensors of an op by name, in the order of its signature. An optional one that is absent is None."""


class _Draw:
    """Random numbers drawn in float64 on the CPU. So they agree in every dtype and on every device."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, dtype=torch.float64, generator=self.generator) * scale
        return values.to(device=self.device, dtype=dtype)

    def uniform(self, *shape: int, dtype: torch.dtype, bound: float) -> Tensor:
        values = torch.rand(shape, dtype=torch.float64, generator=self.generator) * (2 * bound) - bound
        return values.to(device=self.device, dtype=dtype)

    def integers(self, *shape: int, end: int, dtype: torch.dtype) -> Tensor:
        values = torch.randint(end, shape, generator=self.generator)
        return values.to(device=self.device, dtype=dtype)


def _filter_dtype(dtype: torch.dtype, filter_dtype: torch.dtype | None) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if filter_dtype is None else filter_dtype


def fftconv_inputs(
    batch: int,
    channels: int,
    length: int,
    taps: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    skip: bool = True,
    pre_gate: bool = True,
    post_gate: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``fftconv``, scaled so that results are of the order of 1.

    Args:
        batch: batch size B.
        channels: number of channels D.
        length: length L.
        taps: filter length K, by default L.
        dtype: dtype of signal and gates.
        filter_dtype: dtype of ``k`` and ``D``, by default float32, or float64 if ``dtype`` is float64.
        skip: whether there is a ``D``.
        pre_gate: whether there is one.
        post_gate: whether there is one.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``u (B, D, L)``, ``k (D, K)``, ``D (D,)``, ``pre_gate (B, D, L)`` and ``post_gate (B, D, L)``.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    taps = length if taps is None else taps
    return {
        "u": draw.normal(batch, channels, length, dtype=dtype),
        "k": draw.normal(channels, taps, dtype=wide, scale=taps**-0.5),
        "D": draw.normal(channels, dtype=wide) if skip else None,
        "pre_gate": draw.normal(batch, channels, length, dtype=dtype) if pre_gate else None,
        "post_gate": draw.normal(batch, channels, length, dtype=dtype) if post_gate else None,
    }


def short_conv_inputs(
    batch: int,
    channels: int,
    length: int,
    taps: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    state: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``short_conv``: ``x (B, D, L)``, ``weight (D, K)`` and ``bias (D,)``.

    With ``state`` there is an ``initial_state (B, D, K-1)`` too.

    Args:
        batch: batch size B.
        channels: number of channels D.
        length: length L.
        taps: filter length K.
        dtype: dtype of the signal.
        filter_dtype: dtype of ``weight`` and ``bias``, by default float32, or float64 if ``dtype`` is float64.
        bias: whether there is one.
        state: whether there is an initial state.
        seed: seed of the random numbers.
        device: device of the tensors.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    inputs: Inputs = {
        "x": draw.normal(batch, channels, length, dtype=dtype),
        "weight": draw.normal(channels, taps, dtype=wide, scale=taps**-0.5),
        "bias": draw.normal(channels, dtype=wide) if bias else None,
    }
    if state:
        inputs["initial_state"] = draw.normal(batch, channels, taps - 1, dtype=dtype)
    return inputs


def implicit_filter_inputs(
    channels: int,
    length: int,
    *,
    features: int = 5,
    width: int = 64,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    window: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Arguments of ``implicit_filter``: positions and decay rates as published, random weights, frequencies near 10.

    Args:
        channels: number of channels D.
        length: length L.
        features: number of features of a position E, odd.
        width: width of the network H.
        layers: number of hidden layers M.
        dtype: dtype of all tensors, float32 or float64.
        window: whether there are ``t`` and ``deltas``.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``z (L, E)``, ``freq (H,)``, ``w_in (H, E)``, ``b_in (H,)``, ``w_hidden (M, H, H)``, ``b_hidden (M, H)``,
        ``w_out (D, H)``, ``t (L,)`` and ``deltas (D,)``.
    """
    draw = _Draw(seed, device)
    bands = (features - 1) // 2
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    phase = (2 * math.pi / length) * torch.outer(
        torch.arange(length, dtype=torch.float64), torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    )
    z = torch.cat((t[:, None], phase.cos(), -phase.sin()), dim=1)
    deltas = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels, dtype=torch.float64)
    return {
        "z": z.to(device=device, dtype=dtype),
        "freq": 10 + draw.normal(width, dtype=dtype),
        "w_in": draw.uniform(width, features, dtype=dtype, bound=features**-0.5),
        "b_in": draw.uniform(width, dtype=dtype, bound=features**-0.5),
        "w_hidden": draw.uniform(layers, width, width, dtype=dtype, bound=width**-0.5),
        "b_hidden": draw.uniform(layers, width, dtype=dtype, bound=width**-0.5),
        "w_out": draw.uniform(channels, width, dtype=dtype, bound=width**-0.5),
        "t": t.to(device=device, dtype=dtype) if window else None,
        "deltas": deltas.to(device=device, dtype=dtype) if window else None,
    }


def hyena_mixer_inputs(
    batch: int,
    length: int,
    channels: int,
    *,
    order: int = 2,
    taps: int | None = None,
    short_taps: int = 3,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    skip: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``hyena_mixer``.

    Args:
        batch: batch size B.
        length: length L.
        channels: width d of the operator.
        order: order N of the recurrence.
        taps: length K of the long filters, by default L.
        short_taps: length Ks of the short filters.
        dtype: dtype of ``x``.
        filter_dtype: dtype of all other tensors, by default float32, or float64 if ``dtype`` is float64.
        bias: whether there is a ``short_bias``.
        skip: whether there is a ``D``.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``x (B, L, (N+1) d)``, ``short_weight ((N+1) d, Ks)``, ``short_bias ((N+1) d,)``, ``k (N-1, d, K)`` and
        ``D (N-1, d)``.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    taps = length if taps is None else taps
    return {
        "x": draw.normal(batch, length, (order + 1) * channels, dtype=dtype),
        "short_weight": draw.normal((order + 1) * channels, short_taps, dtype=wide, scale=short_taps**-0.5),
        "short_bias": draw.normal((order + 1) * channels, dtype=wide) if bias else None,
        "k": draw.normal(order - 1, channels, taps, dtype=wide, scale=taps**-0.5),
        "D": draw.normal(order - 1, channels, dtype=wide) if skip else None,
    }


def _near_and_nodes(
    draw: _Draw, *rows: int, length: int, h: int, p: int, spare: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    count, scale = -(-length // h) - 1 + spare, length**-0.5
    near = draw.normal(*rows, h, dtype=dtype, scale=scale)
    return near, draw.normal(*rows, 2 * p - 1, count, dtype=dtype, scale=scale)


def far_field_conv_inputs(
    batch: int,
    channels: int,
    length: int,
    *,
    h: int = 8,
    p: int = 4,
    spare: int = 0,
    dtype: torch.dtype = torch.float32,
    skip: bool = True,
    pre_gate: bool = True,
    post_gate: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``far_field_conv``, scaled so that results are of the order of 1.

    Nodes are as random as taps. The op is linear in both, so a smooth filter would test less.

    Args:
        batch: batch size B.
        channels: number of channels D.
        length: length L.
        h: positions of a block.
        p: nodes of a block.
        spare: nodes beyond the ⌈L / h⌉ - 1 that the length needs.
        dtype: dtype of signal and gates. Filters are float32, or float64 if it is float64.
        skip: whether there is a ``D``.
        pre_gate: whether there is one.
        post_gate: whether there is one.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``u (B, D, L)``, ``near (D, h)``, ``nodes (D, 2 p - 1, N)``, ``D (D,)``, ``pre_gate (B, D, L)`` and ``post_gate
        (B, D, L)``.
    """
    draw, wide = _Draw(seed, device), torch.promote_types(dtype, torch.float32)
    u = draw.normal(batch, channels, length, dtype=dtype)
    near, nodes = _near_and_nodes(draw, channels, length=length, h=h, p=p, spare=spare, dtype=wide)
    return {
        "u": u,
        "near": near,
        "nodes": nodes,
        "D": draw.normal(channels, dtype=wide) if skip else None,
        "pre_gate": draw.normal(batch, channels, length, dtype=dtype) if pre_gate else None,
        "post_gate": draw.normal(batch, channels, length, dtype=dtype) if post_gate else None,
    }


def hyena_mixer_far_inputs(
    batch: int,
    length: int,
    channels: int,
    *,
    order: int = 2,
    h: int = 8,
    p: int = 4,
    spare: int = 0,
    short_taps: int = 3,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    skip: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``hyena_mixer_far``: those of :func:`hyena_mixer_inputs` with other long filters.

    Args:
        batch: batch size B.
        length: length L.
        channels: width d of the operator.
        order: order N of the recurrence.
        h: positions of a block.
        p: nodes of a block.
        spare: nodes beyond the ⌈L / h⌉ - 1 that the length needs.
        short_taps: length Ks of the short filters.
        dtype: dtype of ``x``. ``near`` and ``nodes`` are float32, or float64 if it is float64.
        filter_dtype: dtype of the other tensors, by default float32, or float64 if ``dtype`` is float64.
        bias: whether there is a ``short_bias``.
        skip: whether there is a ``D``.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``x (B, L, (N+1) d)``, ``short_weight ((N+1) d, Ks)``, ``short_bias ((N+1) d,)``, ``near (N-1, d, h)``, ``nodes
        (N-1, d, 2 p - 1, n)`` and ``D (N-1, d)``.
    """
    made = hyena_mixer_inputs(
        batch,
        length,
        channels,
        order=order,
        short_taps=short_taps,
        dtype=dtype,
        filter_dtype=filter_dtype,
        bias=bias,
        skip=skip,
        seed=seed,
        device=device,
    )
    draw, wide = _Draw(seed + 1, device), torch.promote_types(dtype, torch.float32)
    near, nodes = _near_and_nodes(draw, order - 1, channels, length=length, h=h, p=p, spare=spare, dtype=wide)
    first = ("x", "short_weight", "short_bias")
    return {**{name: made[name] for name in first}, "near": near, "nodes": nodes, "D": made["D"]}


def _packed(inputs: Inputs, lengths: Sequence[int], device: torch.device | str) -> Inputs:
    """Inputs of a batch of one as packed rows, with the boundaries of segments of these lengths."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(device)
    names = ("u", "x", "pre_gate", "post_gate")
    packed = {n: tensor[0] if n in names and tensor is not None else tensor for n, tensor in inputs.items()}
    return {**packed, "cu_seqlens": bounds}


def fftconv_varlen_inputs(
    lengths: Sequence[int],
    channels: int,
    taps: int | None = None,
    *,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Inputs:
    """Random arguments of ``fftconv_varlen``: those of :func:`fftconv_inputs`, packed, and ``cu_seqlens (S + 1,)``.

    Args:
        lengths: lengths of the segments.
        channels: number of channels D.
        taps: filter length K, by default that of the longest segment.
        device: device of the tensors.
        options: further options of :func:`fftconv_inputs`.
    """
    taps = max(lengths) if taps is None else taps
    return _packed(fftconv_inputs(1, channels, sum(lengths), taps, device=device, **options), lengths, device)


def hyena_mixer_varlen_inputs(
    lengths: Sequence[int],
    channels: int,
    taps: int | None = None,
    *,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Inputs:
    """As :func:`fftconv_varlen_inputs` for ``hyena_mixer_varlen``, with options of :func:`hyena_mixer_inputs`."""
    taps = max(lengths) if taps is None else taps
    made = hyena_mixer_inputs(1, sum(lengths), channels, taps=taps, device=device, **options)
    return _packed(made, lengths, device)


def hyena_mixer_step_inputs(
    batch: int,
    horizon: int,
    channels: int,
    *,
    t: int | None = None,
    order: int = 2,
    short_taps: int = 3,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``hyena_mixer_step``, scaled so that results are of the order of 1.

    Args:
        batch: batch size B.
        horizon: number of steps G.
        channels: width d of the operator.
        t: the step, by default the last one.
        order: order N of the recurrence.
        short_taps: length Ks of the short filters.
        dtype: dtype of ``x`` and ``short_state``.
        filter_dtype: dtype of ``short_weight`` and ``short_bias``, by default float32, or float64 if ``dtype`` is
            float64.
        bias: whether there is a ``short_bias``.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``x (B, (N+1) d)``, ``short_state (B, (N+1) d, Ks-1)``, ``short_weight ((N+1) d, Ks)``, ``short_bias
        ((N+1) d,)``, ``u (N-1, B, d, G)``, ``future (N-1, B, d, G)``, ``taps (N-1, d, G)``, and ``t`` as a tensor.
        ``u`` is NaN from ``t`` on, where no step has written it.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    states = torch.promote_types(dtype, torch.float32)
    width, t = (order + 1) * channels, horizon - 1 if t is None else t
    u = draw.normal(order - 1, batch, channels, horizon, dtype=states)
    u[..., t:] = math.nan
    return {
        "x": draw.normal(batch, width, dtype=dtype),
        "short_state": draw.normal(batch, width, short_taps - 1, dtype=dtype),
        "short_weight": draw.normal(width, short_taps, dtype=wide, scale=short_taps**-0.5),
        "short_bias": draw.normal(width, dtype=wide) if bias else None,
        "u": u,
        "future": draw.normal(order - 1, batch, channels, horizon, dtype=states),
        "taps": draw.normal(order - 1, channels, horizon, dtype=states, scale=horizon**-0.5),
        "t": torch.tensor(t, device=device),
    }


def gelu_inputs(
    *shape: int,
    dtype: torch.dtype = torch.float32,
    scale: float = 2.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``gelu``: ``x`` of the given shape.

    Args:
        shape: shape of ``x``.
        dtype: dtype of ``x``.
        scale: standard deviation of ``x``.
        seed: seed of the random numbers.
        device: device of the tensor.
    """
    return {"x": _Draw(seed, device).normal(*shape, dtype=dtype, scale=scale)}


def position_dropout_inputs(
    batch: int,
    length: int,
    channels: int,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``position_dropout``: ``x (B, L, D)`` and ``samples (B,)`` of up to 40 bits.

    Args:
        batch: batch size B.
        length: length L.
        channels: number of channels D.
        dtype: dtype of ``x``.
        seed: seed of the random numbers.
        device: device of the tensors.
    """
    draw = _Draw(seed, device)
    return {
        "x": draw.normal(batch, length, channels, dtype=dtype),
        "samples": draw.integers(batch, end=1 << 40, dtype=torch.int64),
    }


def layer_norm_inputs(
    *shape: int,
    dtype: torch.dtype = torch.float32,
    weight_dtype: torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``layer_norm``: ``residual`` of the given shape, ``weight (D,)`` and ``bias (D,)``.

    Every row has a mean of its own, of the order of its deviation.

    Args:
        shape: shape of the residual, D last.
        dtype: dtype of the residual.
        weight_dtype: dtype of ``weight`` and ``bias``, by default float32, or float64 if ``dtype`` is float64.
        seed: seed of the random numbers.
        device: device of the tensors.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, weight_dtype)
    residual = draw.normal(*shape, dtype=torch.float64) + draw.normal(*shape[:-1], 1, dtype=torch.float64)
    return {
        "residual": residual.to(dtype),
        "weight": draw.normal(shape[-1], dtype=wide),
        "bias": draw.normal(shape[-1], dtype=wide),
    }


def add_layer_norm_inputs(
    *shape: int,
    dtype: torch.dtype = torch.float32,
    x_dtype: torch.dtype | None = None,
    weight_dtype: torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``add_layer_norm``: ``x``, and what :func:`layer_norm_inputs` makes of the other arguments.

    Args:
        shape: shape of the residual and of ``x``, D last.
        dtype: dtype of the residual.
        x_dtype: dtype of ``x``, by default that of the residual.
        weight_dtype: as for :func:`layer_norm_inputs`.
        seed: seed of the random numbers.
        device: device of the tensors.
    """
    rest = layer_norm_inputs(*shape, dtype=dtype, weight_dtype=weight_dtype, seed=seed, device=device)
    return {"x": _Draw(seed + 1, device).normal(*shape, dtype=x_dtype or dtype), **rest}


def embedding_inputs(
    *shape: int,
    tokens: int = 16,
    width: int = 32,
    dtype: torch.dtype = torch.float32,
    id_dtype: torch.dtype = torch.int64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``embedding``: ``ids (…)`` and ``weight (V, D)``.

    Args:
        shape: shape of the ids.
        tokens: size V of the vocabulary.
        width: number of columns D.
        dtype: dtype of ``weight``.
        id_dtype: dtype of ``ids``.
        seed: seed of the random numbers.
        device: device of the tensors.
    """
    draw = _Draw(seed, device)
    return {
        "ids": draw.integers(*shape, end=tokens, dtype=id_dtype),
        "weight": draw.normal(tokens, width, dtype=dtype),
    }


def linear_cross_entropy_inputs(
    *shape: int,
    tokens: int = 16,
    width: int = 32,
    dtype: torch.dtype = torch.float32,
    target_dtype: torch.dtype = torch.int64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``linear_cross_entropy``, scaled so that logits are of the order of 1.

    Args:
        shape: shape of the targets.
        tokens: size V of the vocabulary.
        width: number of columns D.
        dtype: dtype of ``hidden`` and ``weight``.
        target_dtype: dtype of ``targets``.
        seed: seed of the random numbers.
        device: device of the tensors.

    Returns:
        ``hidden (…, D)``, ``weight (V, D)`` and ``targets (…)``, none of which is -100.
    """
    draw = _Draw(seed, device)
    return {
        "hidden": draw.normal(*shape, width, dtype=dtype),
        "weight": draw.normal(tokens, width, dtype=dtype, scale=width**-0.5),
        "targets": draw.integers(*shape, end=tokens, dtype=target_dtype),
    }
