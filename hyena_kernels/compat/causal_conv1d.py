"""The calls of causal-conv1d (Dao-AILab): ``causal_conv1d_fn``, ``causal_conv1d_update`` and states of packed rows.

Source: the docstrings, the reference functions and the kernels of the library, version 1.6.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from hyena_kernels import short_conv, short_conv_update
from hyena_kernels.compat.common import after_starts, convolved_again, for_signal, silu, without_autocast

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"]


@overload
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: Literal[False] = False,
    final_states_out: None = None,
    activation: str | None = None,
) -> Tensor: ...
@overload
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: None = None,
    initial_states: Tensor | None = None,
    *,
    return_final_states: Literal[True],
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``y[t] = activation(bias + sum_j weight[j] x[t - (W-1) + j])``: the last tap weights the present sample.

    What differs: W from 1 to 256 (there 2 to 4); ``seq_idx`` and states with any layout and any number of channels
    (there channel-last, multiples of 8); float64; on a CPU too. The result has the layout of ``x``. ``seq_idx`` costs a
    copy from the device to the host, and a graph breaks there.

    Args:
        x: ``(B, D, L)``.
        weight: ``(D, W)``.
        bias: ``(D,)``.
        seq_idx: ``(B, L)`` numbers of the sequences that are packed in a row. A tap counts where its number is that of
            the position. Results of positions with negative numbers are zero.
        initial_states: ``(B, D, W-1)`` samples before the first, the oldest first.
        return_final_states: whether to return the last ``W-1`` samples too.
        final_states_out: ``(B, D, W-1)``, written to and returned; with ``return_final_states``.
        activation: None, or ``"silu"``, which is also called ``"swish"``.

    Returns:
        ``(B, D, L)`` of ``x``'s dtype, or that and the final states ``(B, D, W-1)``.

    Raises:
        NotImplementedError: another activation.
        ValueError: ``seq_idx`` together with states, ``final_states_out`` without ``return_final_states``, or shapes do
            not fit.
        TypeError: as ``short_conv``.
    """
    act = silu("causal_conv1d_fn", activation)
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError("causal_conv1d_fn: seq_idx does not go together with initial_states or return_final_states")
    if final_states_out is not None and not return_final_states:
        raise ValueError("causal_conv1d_fn: final_states_out is written only with return_final_states=True")
    if seq_idx is not None and (x.dim() != 3 or seq_idx.shape != (x.shape[0], x.shape[2])):
        raise ValueError(
            f"causal_conv1d_fn: x (B, D, L) has shape {tuple(x.shape)}, and seq_idx (B, L) {tuple(seq_idx.shape)}"
        )
    with without_autocast(x):
        weight, bias = for_signal(weight, x), None if bias is None else for_signal(bias, x)
        if return_final_states:
            y, states = short_conv(
                x, weight, bias, activation=act, initial_state=initial_states, return_final_state=True
            )
            return y, states if final_states_out is None else final_states_out.copy_(states)
        y = short_conv(x, weight, bias, activation=act, initial_state=initial_states)
        if seq_idx is None:
            return y
        y = convolved_again(y, x, weight, bias, act, *after_starts(seq_idx, weight.shape[1]))
        # Unlike masked_fill, index_put keeps the layout.
        return y.mT.index_put((seq_idx < 0,), y.new_zeros(())).mT


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """One step, or several, of :func:`causal_conv1d_fn`; ``conv_state`` is updated in place.

    What differs: W from 1 to 256; any layout; on a CPU too. Without gradients, as there.

    Args:
        x: ``(B, D)``, or ``(B, D, L)`` for L steps.
        conv_state: ``(B, D, S)`` with S ≥ W-1, of ``x``'s dtype; the newest sample is the last.
        weight: ``(D, W)``.
        bias: ``(D,)``.
        activation: None, or ``"silu"``, which is also called ``"swish"``.
        cache_seqlens: ``(B,)`` samples seen before. The state is then a ring: sample n is at place ``n % S``.
        conv_state_indices: ``(B,)`` rows of a larger ``conv_state`` that belong to the rows of ``x``. A row with a
            negative one is padding: its result is zero, and no state changes.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        NotImplementedError: another activation.
        ValueError: shapes do not fit, S < W-1, or ``conv_state`` has another dtype than ``x``.
        TypeError: as ``short_conv``.
    """
    act = silu("causal_conv1d_update", activation)
    taps, size = weight.shape[-1], conv_state.shape[-1]
    ranks = x.dim() in (2, 3) and weight.dim() == 2 and conv_state.dim() == 3
    if not ranks or size < taps - 1 or conv_state.shape[1] != x.shape[1] or conv_state.dtype != x.dtype:
        raise ValueError(
            f"causal_conv1d_update: conv_state {tuple(conv_state.shape)} of {conv_state.dtype} does not fit "
            f"x {tuple(x.shape)} of {x.dtype} and weight {tuple(weight.shape)}"
        )
    with torch.no_grad(), without_autocast(x):
        weight, bias = for_signal(weight, x), None if bias is None else for_signal(bias, x)
        if x.dim() == 2 and cache_seqlens is None and conv_state_indices is None:
            return short_conv_update(x, conv_state, weight, bias, activation=act)
        new = x[..., None] if x.dim() == 2 else x
        rows = None if conv_state_indices is None else conv_state_indices.long()
        state = conv_state if rows is None else conv_state[rows.clamp(min=0)]
        if cache_seqlens is None:
            before = state[..., size - (taps - 1) :]
            after = torch.cat([state, new], dim=-1)[..., -size:] if size else state
        else:
            seen = cache_seqlens.long()[:, None]
            places = (seen + torch.arange(1 - taps, 0, device=x.device)) % size
            before = state.gather(2, places[:, None].expand(-1, x.shape[1], -1))
            # Of more steps than the ring has places only the last ones stay.
            steps = torch.arange(new.shape[-1], device=x.device)[-size:]
            places = (seen + steps) % size
            after = state.scatter(2, places[:, None].expand(-1, x.shape[1], -1), new[..., -size:])
        y = short_conv(new, weight, bias, activation=act, initial_state=before)
        if rows is None:
            conv_state.copy_(after)
        else:
            valid = rows >= 0
            # Padding rows write what is there: the row that a clamped number names, or what its own step wrote.
            conv_state[rows[valid]] = after[valid]
            y = y.masked_fill(~valid[:, None, None], 0)
    return y[..., 0] if x.dim() == 2 else y


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last ``state_len`` samples of each packed sequence, with zeros before a sequence that is shorter.

    What differs: differentiable; on a CPU too.

    Args:
        x: ``(T, D)`` packed samples.
        cu_seqlens: ``(S+1,)`` where the sequences start, and T.
        state_len: samples of a state.

    Returns:
        ``(S, D, state_len)`` of ``x``'s dtype, channel-last.
    """
    places = cu_seqlens[1:, None].long() + torch.arange(-state_len, 0, device=x.device)
    return (x[places.clamp(min=0)] * (places >= cu_seqlens[:-1, None])[..., None]).mT
