"""A HyenaDNA model with a cache: the prompts in one forward pass, then a token at a time. ``cache.py`` explains it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena_kernels import HyenaOperator, fftconv, hyena_mixer_step, short_conv
from hyena_kernels.modules import is_plain
from hyenadna.common.errors import InputError
from hyenadna.model import layers, padding
from hyenadna.model.arguments import check_length
from hyenadna.model.cache import CacheState, HyenaCache, HyenaDNAOutput, refusal
from hyenadna.model.layers import (
    HyenaDNABackbone,
    HyenaDNABlock,
    HyenaDNAEmbeddings,
    HyenaDNALayerNorm,
    TokenEmbedding,
)

# Bytes of signals that the prompt takes at a time, of some channels.
_PROMPT_BYTES = 1 << 28


@torch.compiler.disable
def run(
    backbone: HyenaDNABackbone,
    cache: HyenaCache,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    output_hidden_states: bool,
) -> HyenaDNAOutput:
    """``HyenaDNAModel.forward`` with a cache, for inputs that it has checked."""
    given = input_ids if inputs_embeds is None else inputs_embeds
    assert given is not None
    if reason := refusal(backbone):
        raise InputError(f"HyenaCache: {reason}; generate with use_cache=False")
    with torch.no_grad():
        if not cache.is_initialized:
            return _prefill(
                backbone, cache, input_ids, inputs_embeds, attention_mask, position_ids, output_hidden_states
            )
        batch, new = given.shape[:2]
        if batch != cache.batch_size:
            raise InputError(f"HyenaCache: it has {cache.batch_size} rows, and the new tokens {batch}")
        cache.check_room(new)
        _check_step(cache, attention_mask, position_ids, new)
        embedded = _embedded_tokens(backbone, input_ids, inputs_embeds)
        # Layers are written one by one: a step that fails leaves some of them ahead of the others.
        cache.interrupted = True
        steps = [_step(backbone, cache, embedded[:, i : i + 1], output_hidden_states) for i in range(new)]
        cache.interrupted = False
    if new == 1:
        return steps[0]
    states = None
    if output_hidden_states:
        by_step: Any = [s.hidden_states for s in steps]
        states = tuple(torch.cat(of_layer, dim=1) for of_layer in zip(*by_step, strict=True))
    lasts: Any = [s.last_hidden_state for s in steps]
    last = torch.cat(lasts, dim=1)
    return HyenaDNAOutput(last_hidden_state=last, hidden_states=states, cache=cache)


def _check_step(cache: HyenaCache, attention_mask: Tensor | None, position_ids: Tensor | None, new: int) -> None:
    """Raise InputError unless mask and positions are those of new tokens behind what the cache has seen."""
    if attention_mask is not None:
        seen = cache.get_seq_length()
        if attention_mask.dim() != 2 or attention_mask.shape[1] not in (new, seen + new):
            raise InputError(
                f"attention_mask {tuple(attention_mask.shape)} must be (B, {seen + new}): all positions so far, or "
                f"(B, {new}): the new ones"
            )
        padding.require(
            attention_mask[:, -new:] == 1, "attention_mask must be 1 at tokens behind a prompt: they cannot be pads"
        )
    if position_ids is not None:
        assert cache.state is not None
        ids = position_ids.to(cache.state.lengths.device)
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2 or ids.shape[1] != new or ids.shape[0] not in (1, cache.batch_size):
            raise InputError(f"position_ids {tuple(position_ids.shape)} must be (B, {new}), those of the new tokens")
        after = torch.arange(cache.step, cache.step + new, device=ids.device)
        counts = (ids == cache.columns + after).all(dim=1) | (ids == cache.state.lengths[:, None] + after).all(dim=1)
        padding.require(counts, "position_ids must go on counting behind the prompt")


def _embedded(backbone: HyenaDNABackbone, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    residual = backbone.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
    return residual.to(torch.promote_types(residual.dtype, torch.float32)).contiguous()


def _prefill(
    backbone: HyenaDNABackbone,
    cache: HyenaCache,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    output_hidden_states: bool,
) -> HyenaDNAOutput:
    given = input_ids if inputs_embeds is None else inputs_embeds
    assert given is not None
    shape, device = given.shape[:2], given.device
    padding.check_positions(position_ids, attention_mask, shape, device)
    rows = padding.row_order(attention_mask, shape, device, soft_prompt=inputs_embeds is not None)
    if attention_mask is None:
        lengths = torch.full(shape[:1], shape[1], device=device)
    else:
        lengths = padding.real_positions(attention_mask, shape, device).sum(dim=1)
    width = int(lengths.max())
    if width == 0:
        raise InputError("attention_mask has no 1: the prompts are empty")
    check_length(width, cache.max_seq_len)
    if rows is not None:
        input_ids, inputs_embeds = (x if x is None else rows.to_front(x) for x in (input_ids, inputs_embeds))
    ids, vectors = (x if x is None else x[:, :width] for x in (input_ids, inputs_embeds))
    residual = _embedded(backbone, ids, vectors)
    pads = (torch.arange(width, device=device) >= lengths[:, None])[:, None]
    ragged = pads if bool(pads.any()) else None
    states = [residual] if output_hidden_states else []
    try:
        blocks: Any = backbone.layers
        for i, block in enumerate(blocks):
            normed = block._normed(block.norm1, residual)
            projected = block.mixer.in_proj(normed)
            if i == 0:
                wide = torch.float64 if projected.dtype == torch.float64 else torch.float32
                state = cache.allocate(lengths, shape[1], wide, projected.dtype)
            mixed = _mix_prompt(block.mixer, projected, state, i, lengths, ragged)
            residual = _add_mlp(block, residual + mixed)
            if output_hidden_states:
                states.append(residual)
        last = backbone.ln_f(residual)
    except BaseException:
        # A prompt that was read in part is of no use.
        cache.reset()
        raise
    kept = [*states[:-1], last] if output_hidden_states else [last]
    placed = [_placed(state, shape[1], rows) for state in kept]
    return HyenaDNAOutput(
        last_hidden_state=placed[-1], hidden_states=tuple(placed) if output_hidden_states else None, cache=cache
    )


def _placed(state: Tensor, columns: int, rows: padding.RowOrder | None) -> Tensor:
    """States ``(B, width, D)`` where their positions are among all columns."""
    if state.shape[1] < columns:
        state = F.pad(state, (0, 0, 0, columns - state.shape[1]))
    return state if rows is None else rows.back(state)


def _add_mlp(block: HyenaDNABlock, residual: Tensor) -> Tensor:
    """As the block without gradients: some positions at a time, since the hidden layer is wide."""
    if block._mlp_has_hooks():
        return block._add_mlp(residual)
    most = layers._MLP_POSITIONS_CUDA if residual.is_cuda else layers._MLP_POSITIONS
    for rows in residual.view(-1, residual.shape[-1]).split(most):
        rows += block.mlp(block._normed(block.norm2, rows))
    return residual


def _mix_prompt(
    mixer: HyenaOperator, x: Tensor, state: CacheState, layer: int, lengths: Tensor, pads: Tensor | None
) -> Tensor:
    """The mixer of a layer on the projections ``x (B, P, (N+1) D)`` of the prompts; it fills the state.

    ``pads (B, 1, P)`` is True behind the end of shorter prompts, or None.
    """
    width, horizon = x.shape[1], state.taps.shape[-1]
    size, dtype = width + horizon, state.taps.dtype
    k, skip = mixer.filters(min(size, mixer.longest))
    # Fewer than the horizon in a partial convolution; the others are zeros.
    state.taps[layer, ..., : k.shape[-1]] = k[..., :horizon]
    if skip is not None and horizon:
        state.taps[layer, ..., 0] += skip
    before = state.short.shape[-1]
    places = lengths[:, None] + torch.arange(before, device=x.device)
    padded = F.pad(x, (0, 0, before, 0))
    state.short[layer] = padded.gather(1, places[..., None].expand(-1, -1, x.shape[2])).transpose(1, 2)
    places = lengths[:, None, None] + torch.arange(horizon, device=x.device)
    weight, bias = mixer.short_filter.weight.squeeze(1).to(dtype), mixer.short_filter.bias
    parts = (mixer.order + 1, mixer.d_model)
    y = x.new_empty((*x.shape[:2], mixer.d_model))
    # Signals and transforms of a channel, in about eight tensors.
    step = max(_PROMPT_BYTES // (8 * (mixer.order + 1) * x.shape[0] * size * dtype.itemsize), 1)
    with torch.autocast(x.device.type, enabled=False):
        for first in range(0, mixer.d_model, step):
            c = slice(first, min(first + step, mixer.d_model))
            signals = x.unflatten(2, parts)[..., c].flatten(2).transpose(1, 2).to(dtype)
            of_part = weight.unflatten(0, parts)[:, c].flatten(0, 1)
            offset = None if bias is None else bias.to(dtype).unflatten(0, parts)[:, c].flatten()
            p = short_conv(signals, of_part, offset, backend=mixer.backend)
            *gates, v = p.unflatten(1, (mixer.order + 1, -1)).unbind(1)
            for o in range(mixer.order - 1):
                u = v * gates[mixer.order - 1 - o]
                if pads is not None:
                    u = u.masked_fill(pads, 0)
                found = fftconv(
                    F.pad(u, (0, horizon)),
                    k[o, c].to(dtype),
                    None if skip is None else skip[o, c].to(dtype),
                    backend=mixer.backend,
                )
                # No input lies there, so the skip adds nothing.
                state.future[layer, o, :, c] = found.gather(2, places.expand(-1, c.stop - c.start, -1))
                v = found[..., :width]
            y[..., c] = (v * gates[0]).transpose(1, 2)
    mixed: Tensor = mixer.out_proj(mixer.activation(y))
    return mixed


# For one position the calls of our own ops take five times as long as their work.


def _normed(block: HyenaDNABlock, norm: nn.LayerNorm, residual: Tensor, autocasts: bool) -> Tensor:
    """As the block does it, the quickest way."""
    if autocasts or norm.weight.dtype != residual.dtype or not is_plain(norm, HyenaDNALayerNorm):
        return block._normed(norm, residual)
    return F.layer_norm(residual, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _last_norm(norm: nn.LayerNorm, residual: Tensor, autocasts: bool) -> Tensor:
    """As the backbone does it, the quickest way."""
    if autocasts or norm.weight.dtype != residual.dtype or not is_plain(norm, HyenaDNALayerNorm):
        normed: Tensor = norm(residual)
        return normed
    return F.layer_norm(residual, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _embedded_tokens(backbone: HyenaDNABackbone, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """As :func:`_embedded`, the quickest way for few tokens."""
    table = backbone.embeddings.word_embeddings
    plain = is_plain(backbone.embeddings, HyenaDNAEmbeddings) and is_plain(table, TokenEmbedding)
    if input_ids is None or not plain or table.max_norm is not None or table.weight.itemsize < 4:
        return _embedded(backbone, input_ids, inputs_embeds)
    return F.embedding(input_ids.long(), table.weight)


def _step(
    backbone: HyenaDNABackbone, cache: HyenaCache, residual: Tensor, output_hidden_states: bool
) -> HyenaDNAOutput:
    """One token: ``residual (B, 1, D)`` of the embedding."""
    assert cache.state is not None
    t, tensors = cache.step, cache.state[:4]
    cache.state.tiles.add(cache.state.u, cache.state.future, t)
    states = [residual]
    autocasts = torch.is_autocast_enabled(residual.device.type)
    blocks: Any = backbone.layers
    for block, u, future, short, taps in zip(blocks, *(each.unbind(0) for each in tensors), strict=True):
        mixer = block.mixer
        x = mixer.in_proj(_normed(block, block.norm1, residual, autocasts))
        weight, bias = mixer.short_filter.weight.squeeze(1), mixer.short_filter.bias
        y = hyena_mixer_step(x[:, 0], short, weight, bias, u, future, taps, t, window=cache.window)
        residual = residual + mixer.out_proj(mixer.activation(y[:, None]))
        residual = residual + block.mlp(_normed(block, block.norm2, residual, autocasts))
        states.append(residual)
    last = _last_norm(backbone.ln_f, residual, autocasts)
    cache.step = t + 1
    hidden = (*states[:-1], last) if output_hidden_states else None
    return HyenaDNAOutput(last_hidden_state=last, hidden_states=hidden, cache=cache)
