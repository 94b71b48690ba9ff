"""Features of the positions, from which ``HyenaFilter`` computes its filters, and models whose layers share them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyena_kernels.common import sizes
from hyena_kernels.common.features import features_at
from hyena_kernels.filter_layers import AtLeastFloat32, linspace, register, wide_dtype

# Above it float32 cannot tell a position from the next.
_MOST_IN_FLOAT32 = 1 << 24

# Positions computed at a time in float64.
_POSITIONS = 1 << 18

_NAMES = ("z", "t")

# The features that were made in a block of ``one_set_of_positions``, by their settings.
_made: ContextVar[dict[Any, PositionalEmbedding] | None] = ContextVar("made", default=None)


# What ``differs`` has found: the state of the tensors then, and weak references to them, because another tensor may
# take the address of one that is gone. It stands outside the modules, so that copies have none.
_checked: weakref.WeakKeyDictionary[PositionalEmbedding, tuple[Any, list[weakref.ref[Tensor]], str | None]] = (
    weakref.WeakKeyDictionary()
)


class PositionalEmbedding(AtLeastFloat32):
    """Features of the positions ``0 … seq_len-1``: ``z (1, seq_len, emb_dim)`` and time ``t (1, seq_len, 1)``.

    Columns of ``z``: ``[t, cos(f w) …, -sin(f w) …]`` with ``t = linspace(0, 1, seq_len)``, ``w = 2πn / seq_len`` and
    ``(emb_dim - 1) / 2`` frequencies ``f = linspace(1e-4, bands - 1, bands)``.

    They are computed in float32, as for the published weights, and for more than 2^24 positions in float64.

    The layers of one model may hold the same two tensors (:class:`SharesPositions`). Nothing here writes into a tensor
    that others hold too, unless the values stay. Code that does so changes all of these layers.
    """

    z: Tensor
    t: Tensor

    shared = False
    """Whether other modules may hold the same tensors."""

    def __init__(self, emb_dim: int, seq_len: int, lr_pos_emb: float | None = 1e-5) -> None:
        super().__init__()
        self.emb_dim = emb_dim
        self.seq_len = seq_len
        made = _made.get() if lr_pos_emb == 0.0 else None
        device = torch.get_default_device()
        # On the meta device there is nothing to save, and loaders set one tensor after the other.
        if made is None or device.type == "meta":
            z, t = self._features()
        else:
            first = made.setdefault((emb_dim, seq_len, wide_dtype(), device), self)
            self.shared = True
            z, t = self._features() if first is self else (first.z, first.t)
        register(self, "z", z, lr_pos_emb)
        register(self, "t", t, 0.0)

    def _features(self) -> tuple[Tensor, Tensor]:
        if self.seq_len > _MOST_IN_FLOAT32:
            return self._features_from_float64()
        # The published weights were trained with features computed in float32 and in this order of operations. The last
        # bits matter, because z is multiplied by frequencies of 10 and more before a sine.
        t = linspace(0, 1, self.seq_len)[None, :, None]
        position = linspace(0, self.seq_len - 1, self.seq_len)[None, :, None]
        w = 2 * math.pi * position / self.seq_len
        bands = (self.emb_dim - 1) // 2
        f = linspace(1e-4, bands - 1, bands)[None, None]
        phase = torch.exp(-1j * f * w)
        return torch.cat((t, phase.real, phase.imag), dim=-1), t

    def _features_from_float64(self) -> tuple[Tensor, Tensor]:
        dtype, device = wide_dtype(), torch.get_default_device()
        z = torch.empty(1, self.seq_len, self.emb_dim, dtype=dtype, device=device)
        for rows in sizes.slices(0 if z.is_meta else self.seq_len, _POSITIONS):
            z[0, rows] = features_in_float64(rows.start, rows.stop, self.seq_len, self.emb_dim)
        return z, z[:, :, :1].contiguous()

    def reset_buffers(self) -> None:
        """Write the features into ``z`` and ``t``, for modules made on the meta device."""
        with torch.no_grad():
            for name, value in zip(_NAMES, self._features(), strict=True):
                self._leave(name, value)
                getattr(self, name).copy_(value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        if not local_metadata.get("assign_to_params_buffers", False):
            for name in _NAMES:
                if prefix + name in state_dict:
                    self._leave(name, state_dict[prefix + name])
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _leave(self, name: str, value: Any) -> None:
        """Take a copy of a tensor that others may hold too, if another value is to be written into it."""
        own = self._buffers.get(name)
        if self.shared and own is not None and not own.is_meta and not _same_bits(value, own):
            self._buffers[name] = own.clone()

    def differs(self) -> str | None:
        """Why ``z`` and ``t`` are not what their formulas say up to rounding, or None if they are.

        The answer is kept until a tensor changes. Features may differ by a few units of the last place of their dtype
        for each band. That of float32 is 1.2e-7, and 2e-6 are allowed for each. So they have to be made in float64 in a
        model of float64.
        """
        if any(isinstance(getattr(self, name), nn.Parameter) for name in _NAMES):
            return "the features of its positions are parameters"
        tensors = (self.z, self.t)
        # Tensors of inference mode have no version.
        state = tuple((0 if x.is_inference() else x._version, x.data_ptr(), x.dtype) for x in tensors)
        known = _checked.get(self)
        if known is None or known[0] != state or any(ref() is not x for ref, x in zip(known[1], tensors, strict=True)):
            known = state, [weakref.ref(x) for x in tensors], self._difference()
            _checked[self] = known
        return known[2]

    @torch.no_grad()
    def _difference(self) -> str | None:
        rounding = 16 * max(torch.finfo(tensor.dtype).eps for tensor in (self.z, self.t))
        bound = rounding * max(1, (self.emb_dim - 1) // 2 - 1)
        for rows in sizes.slices(self.seq_len, _POSITIONS):
            position = torch.arange(rows.start, rows.stop, dtype=torch.float64, device=self.z.device)
            expected = features_at(position, self.seq_len, self.emb_dim)
            # Written so that a NaN is a difference.
            same_z = ((self.z[0, rows] - expected).abs() <= bound).all()
            same_t = ((self.t[0, rows] - expected[:, :1]).abs() <= bound).all()
            if not bool(same_z & same_t):
                dtype = str(self.z.dtype).removeprefix("torch.")
                return f"the features of its positions are not those of the formula, up to the rounding of {dtype}"
        return None

    def forward(self, L: int) -> tuple[Tensor, Tensor]:
        """Return ``z (1, L, emb_dim)`` and ``t (1, L, 1)`` of the first L positions."""
        return self.z[:, :L], self.t[:, :L]


def features_in_float64(start: int, stop: int, seq_len: int, emb_dim: int) -> Tensor:
    """Columns of ``z`` for the positions ``start … stop-1`` of ``seq_len``, ``(stop - start, emb_dim)`` in float64."""
    position = torch.arange(start, stop, dtype=torch.float64, device=torch.get_default_device())
    return features_at(position, seq_len, emb_dim)


@contextmanager
def one_set_of_positions() -> Iterator[None]:
    """Modules that are made inside a ``with`` block share ``z`` and ``t`` if they have the same settings."""
    before = _made.set({})
    try:
        yield
    finally:
        _made.reset(before)


def _same_bits(one: Any, other: Tensor) -> bool:
    """Whether ``other.copy_(one)`` would leave ``other`` as it is. False where that cannot be told."""
    if one is other:
        return True
    if not all(isinstance(x, Tensor) and type(x) in (Tensor, nn.Parameter) and not x.is_meta for x in (one, other)):
        return False
    if one.shape != other.shape or not other.is_floating_point():
        return False
    as_integers = torch.int64 if other.dtype == torch.float64 else torch.int32
    one, other = (x.detach().to(other).contiguous().view(as_integers) for x in (one, other))
    return torch.equal(one, other)


class SharesPositions(nn.Module):
    """Base class of models whose layers hold one ``z`` and ``t`` while these have the same bits in all of them.

    Every layer has them under its own name in ``state_dict()``, as in the published checkpoints. Moving the model and
    loading weights keep them shared. A layer whose loaded values differ gets its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_share_after_loading)

    def share_positions(self) -> None:
        """Let all layers with the same features hold the same tensors, after something has set them one by one."""
        kept: list[PositionalEmbedding] = []
        for module in self._positions():
            first = next((other for other in kept if _same_features(module, other)), None)
            if first is None:
                kept.append(module)
            else:
                _share(module, first)

    def make_positions(self, device: torch.device | str) -> None:
        """Give layers on the meta device their features of the positions: one set for all with the same settings.

        Args:
            device: where they go. They are computed on the CPU, as in a model that is made there and then moved.
        """
        made: dict[Any, PositionalEmbedding] = {}
        for module in self._positions():
            first = made.setdefault((module.emb_dim, module.seq_len, module.z.dtype), module)
            if first is module:
                features = (value.to(device, module.z.dtype) for value in module._features())
                module._buffers |= dict(zip(_NAMES, features, strict=True))
            else:
                _share(module, first)

    @contextmanager
    def positions_apart(self) -> Iterator[None]:
        """Give every layer its own tensors inside a ``with`` block, for formats that know no shared ones."""
        groups = [(first, other) for first, *others in self._groups() for other in others]
        for _, other in groups:
            other._buffers |= {name: getattr(other, name).clone() for name in _NAMES}
        try:
            yield
        finally:
            for first, other in groups:
                _share(other, first)

    def _positions(self) -> Iterable[PositionalEmbedding]:
        for module in self.modules():
            if type(module) is PositionalEmbedding and all(module._buffers.get(name) is not None for name in _NAMES):
                yield module

    def _groups(self) -> list[list[PositionalEmbedding]]:
        """The modules that hold the same tensors, by these tensors."""
        groups: dict[tuple[int, int], list[PositionalEmbedding]] = {}
        for module in self._positions():
            groups.setdefault((id(module.z), id(module.t)), []).append(module)
        return list(groups.values())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # nn.Module would apply fn once for every layer, which makes a tensor for each.
        groups = self._groups()
        for _, *others in groups:
            for other in others:
                other._buffers |= dict.fromkeys(_NAMES)
        try:
            return super()._apply(fn, recurse)
        finally:
            for first, *others in groups:
                for other in others:
                    _share(other, first)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        if local_metadata.get("assign_to_params_buffers", False):
            return
        # If all layers get the same, it may be written into the tensor that they share.
        names = {module: name for name, module in self.named_modules()}
        for group in self._groups():
            for name in _NAMES:
                own = getattr(group[0], name)
                given = [state_dict.get(f"{prefix}{names[module]}.{name}") for module in group]
                if len(group) > 1 and all(value is not None and _equal(value, given[0], own) for value in given):
                    with torch.no_grad():
                        own.copy_(given[0])


def _equal(one: Any, first: Any, own: Tensor) -> bool:
    """Whether two values make the same tensor of ``own``."""
    if not (isinstance(first, Tensor) and first.shape == own.shape):
        return False
    return _same_bits(one, first.detach().to(own))


def _same_features(one: PositionalEmbedding, other: PositionalEmbedding) -> bool:
    settings = [(m.emb_dim, m.seq_len, m.z.dtype, m.z.device, m.t.dtype, m.t.device) for m in (one, other)]
    if settings[0] != settings[1]:
        return False
    return all(_same_bits(getattr(one, name), getattr(other, name)) for name in _NAMES)


def _share(module: PositionalEmbedding, first: PositionalEmbedding) -> None:
    module._buffers |= {name: first._buffers[name] for name in _NAMES}
    module.shared = first.shared = True


def _share_after_loading(module: SharesPositions, incompatible_keys: Any) -> None:
    module.share_positions()
