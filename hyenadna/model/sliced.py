"""A block in slices: channels at a time in the mixer, positions at a time in everything else.

The projections of a block, its taps and the hidden layer of its MLP take 17 times the bytes of the residual. Slices of
them are computed into tensors that stay, so that no other tensor of all positions is made than

* in forward: the residual and the result, in whose memory the output of the mixer stands first;
* in backward: the residual, its gradient before and after, the output of the mixer, and the gradient of norm1's output
  (if there is more than one slice of channels).

Backward starts from the residual alone. It runs in_proj twice more where there are several slices of channels, and
everything else once more, as any checkpointing does. The slices are summed in one order, so that two runs agree bit by
bit. Sums over slices are in float32 or better.

:func:`plan` says whether a block can be sliced and is worth it. Everything that it declines takes the path of plain
modules.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hyena_kernels import (
    HyenaFilter,
    HyenaOperator,
    SegmentPlan,
    add_layer_norm,
    backend as _backend,
    far_field_filter,
    hyena_mixer,
    hyena_mixer_far,
    hyena_mixer_varlen,
    implicit_filter,
    layer_norm,
)
from hyena_kernels.distributed import ContextShards
from hyena_kernels.modules import Filters, Plan, evaluations, is_plain, node_backend

# Bytes of what forward makes of one slice of channels. Backward makes as much again. On a GPU with 16 bits, 2^20
# positions of width 128 are one slice, and of width 256 two.
_CHANNEL_BYTES = {"cpu": 64 << 20}
_CHANNEL_BYTES_ELSEWHERE = 2 << 30
_FEWEST_CHANNELS = 32
_CHANNEL_MULTIPLE = 16

# Bytes of the hidden layer of the MLP in one slice of positions. On a CPU it should stay in the cache.
_HIDDEN_BYTES = {"cpu": 8 << 20}
_HIDDEN_BYTES_ELSEWHERE = 1 << 30


# Fake and functional tensors stand for plain ones while a model is traced. They are not cut.
_PLAIN = (nn.Parameter, Tensor)


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


class Block(Protocol):
    """What a block is made of: ``x += mixer(norm1(x)); x += mlp(norm2(x))``."""

    @property
    def norm1(self) -> nn.LayerNorm:
        """The norm before the mixer."""

    @property
    def mixer(self) -> HyenaOperator:
        """The Hyena operator."""

    @property
    def norm2(self) -> nn.LayerNorm:
        """The norm before the MLP."""

    @property
    def mlp(self) -> Any:
        """Linear layers ``fc1`` and ``fc2``, and a tanh GELU between them."""

    def has_own_layers(self) -> bool:
        """Whether norms and MLP compute what this file does, with nothing attached."""


class Slices(NamedTuple):
    """How a block is cut."""

    channels: int
    """Channels of a slice of the mixer."""
    rows: int
    """Positions, of all sequences, of a slice of everything else."""


def slices_of(block: Block, residual: Tensor, taps: int | None = None) -> Slices:
    """The widths of slices for ``residual (B, L, D)``, from the bytes that they take.

    Args:
        block: gives the widths of its layers.
        residual: gives the shape and the device.
        taps: length of the filters; None is L.
    """
    device = residual.device.type
    width = residual.shape[2]
    order = block.mixer.order
    wide = torch.promote_types(residual.dtype, torch.float32).itemsize
    narrow = compute_dtype(block, device).itemsize
    # Of a channel: projections and result, and taps.
    signals = (order + 2) * narrow * residual.shape[0]
    each = residual.shape[1] * signals + (taps or residual.shape[1]) * (order - 1) * wide
    most = _CHANNEL_BYTES.get(device, _CHANNEL_BYTES_ELSEWHERE) // max(each, 1)
    most = max(most // _CHANNEL_MULTIPLE * _CHANNEL_MULTIPLE, _FEWEST_CHANNELS)
    if most < width:
        # As even as they can be.
        pieces = -(-width // most)
        most = -(-width // (pieces * _CHANNEL_MULTIPLE)) * _CHANNEL_MULTIPLE
    hidden = block.mlp.fc1.out_features * narrow
    rows = max(_HIDDEN_BYTES.get(device, _HIDDEN_BYTES_ELSEWHERE) // hidden, 1)
    return Slices(min(most, width), rows)


def compute_dtype(block: Block, device: str) -> torch.dtype:
    """The dtype of a block's signals on a device, after autocast."""
    dtype = block.norm1.weight.dtype
    if dtype == torch.float64 or not _autocasts(device):
        return dtype
    return torch.get_autocast_dtype(device)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def plan(
    block: Block,
    residual: Tensor,
    filters: Filters | None,
    segments: SegmentPlan | None = None,
    shards: ContextShards | None = None,
) -> Slices | None:
    """How to cut a block, or None where the path of plain modules is to be taken.

    That is so where everything is one slice, in a bidirectional model, and where sequences are split over processes.
    It is also so where something listens to a module, replaces it or needs the whole: hooks, quantised and other
    weights than plain tensors, dropout that is at work, functional transforms, ``torch.compile``, ``torch.export`` and
    tracing. LoRA layers of peft are sliced.
    """
    if torch.compiler.is_compiling() or type(residual) not in _PLAIN or residual.dim() != 3:
        return None
    # A mixer of another class has no such widths, and a subclass may compute its filters in another way.
    if type(block.mixer) is not HyenaOperator or block.mixer.bidirectional:
        return None
    # Sequences that are split over processes. A mixer with a context finds the shards itself.
    if block.mixer.context is not None if shards is None else shards.size > 1:
        return None
    length = _longest(residual, segments)
    cut = slices_of(block, residual, block.mixer.taps(length))
    # Without gradients the plain modules hold no more than one slice of channels, and are a little faster.
    all_rows = residual.shape[:2].numel() <= cut.rows or not torch.is_grad_enabled()
    if (all_rows and cut.channels == residual.shape[2]) or not runs_plainly() or not 1 <= length <= block.mixer.longest:
        return None
    return cut if _can_be_cut(block, filters) else None


def _longest(residual: Tensor, segments: SegmentPlan | None) -> int:
    """Positions of the rows, or of the longest segment of a packed row."""
    return residual.shape[1] if segments is None else segments.longest


def runs_plainly() -> bool:
    """Whether nothing records this call or computes on something else than values."""
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return torch._C._get_tracing_state() is None and forward_ad._current_level < 0


def _can_be_cut(block: Block, filters: Filters | None) -> bool:
    """Whether the layers of a block are those of this package, with nothing attached."""
    mixer, mlp = block.mixer, block.mlp
    dropout = mixer.dropout
    parts: list[tuple[nn.Module, Any]] = [
        (mixer, HyenaOperator),
        (mixer.activation, nn.Identity),
        (mixer.short_filter, nn.Conv1d),
        (dropout, nn.Dropout),
    ]
    if not block.has_own_layers() or not all(is_plain(layer, kind) for layer, kind in parts):
        return False
    if mixer.return_state or (dropout.p > 0 and dropout.training):
        return False
    if filters is None:
        if not _can_compute_taps(mixer.filter_fn):
            return False
    elif not all(tensor is None or type(tensor) in _PLAIN for tensor in filters):
        return False
    return all(_adapters(layer) is not None for layer in (mixer.in_proj, mixer.out_proj, mlp.fc1, mlp.fc2))


def _can_compute_taps(found: nn.Module) -> bool:
    if type(found) is not HyenaFilter or not is_plain(found, HyenaFilter) or found.filter_settings(1, None) is None:
        return False
    return all(tensor.itemsize >= 4 for tensor in (*found.parameters(), *found.buffers()))


class _Adapter(NamedTuple):
    """A low-rank addition to a Linear."""

    down: nn.Linear
    up: nn.Linear
    scale: float


def _adapters(layer: nn.Module) -> list[_Adapter] | None:
    """The adapters of a Linear, empty for a plain one; None where it is something else than these."""
    if is_plain(layer, nn.Linear):
        return []
    peft = sys.modules.get("peft.tuners.lora.layer")
    if peft is None or type(layer) is not peft.Linear or not is_plain(layer, peft.Linear):
        return None
    lora: Any = layer
    # Variants, such as DoRA, compute something else. Merged adapters are part of the base's weight.
    if lora.merged or getattr(lora, "lora_variant", None) or not is_plain(lora.base_layer, nn.Linear):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in lora.modules()):
        return None
    found = []
    for name in () if lora.disable_adapters else lora.active_adapters:
        if name not in lora.lora_A:
            continue
        down, up, drop = lora.lora_A[name], lora.lora_B[name], lora.lora_dropout[name]
        idle = isinstance(drop, nn.Identity) or (isinstance(drop, nn.Dropout) and not (drop.p > 0 and drop.training))
        if not (idle and is_plain(down, nn.Linear) and is_plain(up, nn.Linear)):
            return None
        if not getattr(lora, "cast_input_dtype_enabled", True):
            return None
        found.append(_Adapter(down, up, lora.scaling[name]))
    return found


_Tensors = dict[str, Tensor]
"""The tensors of a block by name, without those that are absent."""


class _Layout(NamedTuple):
    """All of a block that is no tensor. Backward uses this and saved tensors, because modules may have others then."""

    cut: Slices
    width: int
    order: int
    backend: str | None
    """The backend that was asked for in forward, where one was."""
    eps: tuple[float, float]
    scales: dict[str, tuple[float, ...]]
    """Of each Linear, the scales of its adapters."""
    taps: int
    """Taps of the long filters."""
    hidden: int | None
    """Hidden layers of the filters' network; None where the filters are given."""
    modulate: bool
    shift: float
    segments: SegmentPlan | None
    """The segments of a packed row."""
    far: Plan | None
    """Blocks and nodes of the long filters; None where they have all taps."""
    length: int
    """Positions of a row, or of the longest segment."""
    seq_len: int
    """Positions that the filters were made for."""


def _take_apart(
    block: Block,
    filters: Filters | None,
    cut: Slices,
    length: int,
    segments: SegmentPlan | None,
    far: Plan | None,
    far_filters: tuple[Tensor, Tensor, Tensor | None] | None,
) -> tuple[_Layout, _Tensors]:
    mixer, mlp = block.mixer, block.mlp
    found: dict[str, Tensor | None] = {}
    for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
        found |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    scales = {}
    linears = {"in_proj": mixer.in_proj, "out_proj": mixer.out_proj, "fc1": mlp.fc1, "fc2": mlp.fc2}
    for name, layer in linears.items():
        adapters = _adapters(layer)
        assert adapters is not None
        base: Any = layer if type(layer) is nn.Linear or is_plain(layer, nn.Linear) else layer.base_layer
        found |= {f"{name}.weight": base.weight, f"{name}.bias": base.bias}
        for i, (down, up, _) in enumerate(adapters):
            found |= {f"{name}.{i}.down": down.weight, f"{name}.{i}.down_bias": down.bias}
            found |= {f"{name}.{i}.up": up.weight, f"{name}.{i}.up_bias": up.bias}
        scales[name] = tuple(adapter.scale for adapter in adapters)
    found |= {"short.weight": mixer.short_filter.weight, "short.bias": mixer.short_filter.bias}
    modulate, shift, hidden = False, 0.0, None
    if far_filters is not None:
        found["near"], found["nodes"], found["skip"] = far_filters
    elif filters is None:
        own = mixer.filter_fn
        layers: list[Any] = list(own.implicit_filter)
        linear = layers[::2]
        hidden = len(linear) - 2
        found |= {"filter.in.weight": linear[0].weight, "filter.in.bias": linear[0].bias}
        for i, layer in enumerate(linear[1:-1]):
            found |= {f"filter.{i}.weight": layer.weight, f"filter.{i}.bias": layer.bias}
        found["filter.out"] = linear[-1].weight
        modulate, shift = own.modulation.modulate, own.modulation.shift
        found["filter.freq"] = layers[1].freq
        if modulate:
            found["filter.deltas"] = own.modulation.deltas
        if far is None:
            z, t = own.pos_emb(mixer.taps(length))
            found |= {"filter.z": z, "filter.t": t if modulate else None}
        found["skip"] = own.bias if own.use_bias else None
    else:
        found["taps"], found["skip"] = filters
    requested = _backend.requested(mixer.backend)
    layout = _Layout(
        cut=cut,
        width=mixer.d_model,
        order=mixer.order,
        backend=None if requested == _backend.AUTO else requested,
        eps=(block.norm1.eps, block.norm2.eps),
        scales=scales,
        taps=mixer.taps(length),
        hidden=hidden,
        modulate=modulate,
        shift=shift,
        segments=segments,
        far=far,
        length=length,
        seq_len=mixer.filter_fn.seq_len,
    )
    return layout, {name: tensor for name, tensor in found.items() if tensor is not None}


def _linear(x: Tensor, tensors: _Tensors, name: str, scales: Sequence[float]) -> Tensor:
    y = F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
    added = _low_rank(x, tensors, name, scales)
    return y if added is None else (y + added).to(y.dtype)


def _low_rank(x: Tensor, tensors: _Tensors, name: str, scales: Sequence[float]) -> Tensor | None:
    """What the adapters of a Linear add to its result."""
    total = None
    for i, scale in enumerate(scales):
        down, up = tensors[f"{name}.{i}.down"], tensors[f"{name}.{i}.up"]
        low = F.linear(x.to(down.dtype), down, tensors.get(f"{name}.{i}.down_bias"))
        added = F.linear(low, up, tensors.get(f"{name}.{i}.up_bias")) * scale
        total = added if total is None else total + added
    return total


def _tail(residual: Tensor, y: Tensor, tensors: _Tensors, layout: _Layout) -> Tensor:
    """From the mixer's output before out_proj to the block's, for some positions."""
    mixed = _linear(y, tensors, "out_proj", layout.scales["out_proj"])
    weight, bias = tensors["norm2.weight"], tensors["norm2.bias"]
    h, residual = add_layer_norm(mixed, residual, weight, bias, layout.eps[1], backend=layout.backend)
    h = F.gelu(_linear(h, tensors, "fc1", layout.scales["fc1"]), approximate="tanh")
    return residual + _linear(h, tensors, "fc2", layout.scales["fc2"])


# Tensors with a row for each channel: of every part of the projection, or of every order.
_OF_PROJECTIONS = re.compile(r"in_proj\.(weight|bias|\d+\.up|\d+\.up_bias)|short\.(weight|bias)")
_OF_FILTERS = re.compile(r"filter\.out|filter\.deltas|taps|near|nodes|skip")
_LAST_DIMS = {"filter.deltas": 0, "skip": 0, "nodes": 2}


def _by_channel(name: str, tensor: Tensor, layout: _Layout) -> Tensor | None:
    """A tensor that has rows for each channel as ``(parts, D, …)``, a view if it is contiguous; None of another."""
    if _OF_PROJECTIONS.fullmatch(name):
        return tensor.reshape(layout.order + 1, layout.width, *tensor.shape[1:])
    if _OF_FILTERS.fullmatch(name):
        last = tensor.dim() - _LAST_DIMS.get(name, 1)
        return tensor.reshape(layout.order - 1, layout.width, *tensor.shape[last:])
    return None


def _of_channels(tensors: _Tensors, c: slice, layout: _Layout) -> _Tensors:
    """All that the mixer needs for some channels. The rows of several parts follow each other."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(("in_proj.", "short.", "filter.", "taps", "near", "nodes", "skip")):
            rows = _by_channel(name, tensor, layout)
            found[name] = tensor if rows is None else rows[:, c].flatten(0, 1)
    return found


def _rows(residual: Tensor, layout: _Layout) -> Iterator[slice]:
    return _slices(residual.shape[0] * residual.shape[1], layout.cut.rows)


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _norm1(residual: Tensor, tensors: _Tensors, layout: _Layout) -> Tensor:
    return layer_norm(residual, tensors["norm1.weight"], tensors["norm1.bias"], layout.eps[0], backend=layout.backend)


def _projected(residual: Tensor, tensors: _Tensors, part: _Tensors, layout: _Layout) -> Tensor:
    """Projections ``(B, L, (order + 1) d)`` of the channels of ``part``."""
    x = None
    for rows in _rows(residual, layout):
        h = _norm1(_flat(residual)[rows], tensors, layout)
        some = _linear(h, part, "in_proj", layout.scales["in_proj"])
        if x is None:
            x = some.new_empty((*residual.shape[:2], some.shape[-1]))
        _flat(x)[rows] = some
    assert x is not None
    return x


def _long_filters(part: _Tensors, layout: _Layout) -> tuple[Tensor, ...]:
    """Filters of the channels of ``part``: taps ``(order - 1, d, K)``, or near taps and nodes by a plan."""
    steps = layout.order - 1
    if "near" in part:
        return tuple(part[name].unflatten(0, (steps, -1)) for name in ("near", "nodes"))
    if layout.hidden is None:
        return (part["taps"].view(steps, -1, layout.taps),)
    w_in, w_out = part["filter.in.weight"], part["filter.out"]
    dtype, width = w_in.dtype, w_out.shape[-1]
    weights = [part[f"filter.{i}.weight"].to(dtype) for i in range(layout.hidden)]
    biases = [part[f"filter.{i}.bias"].to(dtype) for i in range(layout.hidden)]
    network = (
        part["filter.freq"].squeeze(0).to(dtype),
        w_in,
        part["filter.in.bias"].to(dtype),
        torch.stack(weights) if weights else w_in.new_empty((0, width, width)),
        torch.stack(biases) if biases else w_in.new_empty((0, width)),
        w_out.to(dtype),
    )
    deltas = part["filter.deltas"].to(dtype) if layout.modulate else None
    if layout.far is not None:
        near_and_nodes = far_field_filter(
            *network,
            deltas,
            layout.shift,
            length=layout.length,
            seq_len=layout.seq_len,
            h=layout.far.h,
            p=layout.far.p,
            dtype=dtype,
            backend=node_backend(layout.backend, w_in.device),
        )
        return tuple(tensor.unflatten(0, (steps, -1)) for tensor in near_and_nodes)
    k = implicit_filter(
        part["filter.z"].squeeze(0).to(dtype),
        *network,
        part["filter.t"].to(dtype).flatten() if layout.modulate else None,
        deltas,
        layout.shift,
        backend=layout.backend,
    )
    return (k.view(steps, -1, layout.taps),)


def _filters_of(part: _Tensors, long: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Short filters, their bias, the long filters and the skip, as ``hyena_mixer`` or ``hyena_mixer_far`` take them."""
    skip = part.get("skip")
    skip = None if skip is None else skip.view(long[0].shape[:2])
    return part["short.weight"].squeeze(1), part.get("short.bias"), *long, skip


def _mixed(x: Tensor, part: _Tensors, long: tuple[Tensor, ...], layout: _Layout) -> Tensor:
    """The mixer of some channels, of each row or of each segment of a packed one."""
    filters = _filters_of(part, long)
    if layout.far is not None:
        return hyena_mixer_far(x, *filters, backend=layout.backend)
    if layout.segments is None:
        return hyena_mixer(x, *filters, backend=layout.backend)
    return hyena_mixer_varlen(x[0], *filters, cu_seqlens=layout.segments, backend=layout.backend)[None]


def _mixed_backward(
    dy: Tensor, x: Tensor, part: _Tensors, long: tuple[Tensor, ...], needs: list[bool], layout: _Layout
) -> tuple[Tensor, ...]:
    """The derivative of :func:`_mixed` in x and the filters, those that are needed.

    ``needs`` has one entry for all long filters.
    """
    ops, backend = torch.ops.hyena_kernels, layout.backend or _backend.AUTO
    filters = _filters_of(part, long)
    if layout.segments is None:
        op = ops.hyena_mixer_bwd if layout.far is None else ops.hyena_mixer_far_bwd
        *others, of_long, of_skip = needs
        found: tuple[Tensor, ...] = op.default(dy, x, *filters, [*others, *[of_long] * len(long), of_skip], backend)
        return found
    rows = layout.segments.rows, layout.segments.host_rows
    dx, *grads = ops.hyena_mixer_varlen_bwd.default(dy[0], x[0], *filters, *rows, [*needs, False, False], backend)
    return dx[None], *grads[:4]


def _channels(layout: _Layout) -> list[slice]:
    return list(_slices(layout.width, layout.cut.channels))


def _into(y: Tensor | None, c: slice, some: Tensor, width: int) -> Tensor:
    """``y`` with the channels ``c`` written, made if there is none."""
    if y is None:
        y = some.new_empty((*some.shape[:2], width))
    y[..., c] = some
    return y


def _compute(residual: Tensor, tensors: _Tensors, layout: _Layout) -> Tensor:
    """The block's output."""
    y = None
    for c in _channels(layout):
        part = _of_channels(tensors, c, layout)
        long = _long_filters(part, layout)
        x = _projected(residual, tensors, part, layout)
        y = _into(y, c, _mixed(x, part, long, layout), layout.width)
        del x, long
    assert y is not None
    result = y if y.dtype == residual.dtype else torch.empty_like(residual)
    for rows in _rows(residual, layout):
        _flat(result)[rows] = _tail(_flat(residual)[rows], _flat(y)[rows], tensors, layout)
    return result


class _Sums:
    """Gradients of the tensors, added up in float32 or better."""

    def __init__(self, tensors: _Tensors, needed: set[str], layout: _Layout) -> None:
        self._tensors = tensors
        self._totals: _Tensors = {}
        self._layout = layout
        self.needed = needed

    def add(self, name: str, gradient: Tensor, c: slice | None = None) -> None:
        """Add to the gradient of a tensor, or of its rows of some channels."""
        if name not in self.needed:
            return
        total = self._totals.get(name)
        if total is None:
            tensor = self._tensors[name]
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            total = self._totals[name] = torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
        rows = None if c is None else _by_channel(name, total, self._layout)
        place = total if rows is None else rows[:, c]
        place += gradient.view(place.shape)

    def of(self, name: str) -> Tensor | None:
        """The sum, in the tensor's dtype; None where it is not needed or nothing was added."""
        total = self._totals.get(name)
        return None if total is None else total.to(self._tensors[name].dtype)


def _leaves(tensors: _Tensors, needed: set[str]) -> _Tensors:
    """The same values outside of any graph, of which those that are needed begin one."""
    return {name: tensor.detach().requires_grad_(name in needed) for name, tensor in tensors.items()}


def _differentiate(
    result: Tensor | Sequence[Tensor],
    gradient: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    leaves: _Tensors,
    sums: _Sums,
    c: slice | None = None,
) -> list[Tensor | None]:
    """Gradients of ``inputs``; those of the leaves that ``result`` depends on are added to ``sums``."""
    results = (result,) if isinstance(result, Tensor) else result
    names = [name for name, leaf in leaves.items() if leaf.requires_grad]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not any(each.requires_grad for each in results) or not (names or wanted):
        return [None] * len(inputs)
    found = list(torch.autograd.grad(result, [*wanted, *(leaves[name] for name in names)], gradient, allow_unused=True))
    for name, grad in zip(names, found[len(wanted) :], strict=True):
        if grad is not None:
            sums.add(name, grad, c)
    of_inputs = iter(found[: len(wanted)])
    return [next(of_inputs) if tensor.requires_grad else None for tensor in inputs]


def _linear_backward(
    dy: Tensor, x: Tensor, tensors: _Tensors, name: str, scales: Sequence[float], sums: _Sums, c: slice, needs_dx: bool
) -> Tensor | None:
    """The derivative of :func:`_linear` without its result."""
    if f"{name}.weight" in sums.needed:
        sums.add(f"{name}.weight", dy.t() @ x, c)
    if f"{name}.bias" in sums.needed:
        sums.add(f"{name}.bias", dy.sum(dim=0, dtype=torch.promote_types(dy.dtype, torch.float32)), c)
    dx = dy @ tensors[f"{name}.weight"] if needs_dx else None
    if scales:
        leaves = _leaves({key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}, sums.needed)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(needs_dx)
            added = _low_rank(leaf, leaves, name, scales)
        assert added is not None
        (more,) = _differentiate(added, dy.to(added.dtype), [leaf], leaves, sums, c)
        if dx is not None and more is not None:
            dx = dx + more
    return dx


def _backward(
    g: Tensor, residual: Tensor, tensors: _Tensors, sums: _Sums, layout: _Layout, needs_residual: bool
) -> Tensor:
    """The gradient of ``residual``. Those of the tensors go into ``sums``."""
    pieces = _channels(layout)
    # 1. The mixer again. What its derivative needs stays if there is one slice of channels.
    y = kept = None
    for c in pieces:
        part = _of_channels(tensors, c, layout)
        long = _long_filters(part, layout)
        x = _projected(residual, tensors, part, layout)
        y = _into(y, c, _mixed(x, part, long, layout), layout.width)
        kept = (x, long) if len(pieces) == 1 else None
        del x, long
    assert y is not None

    # 2. From out_proj on, some positions at a time. The gradient of y takes y's place.
    dresidual = torch.empty_like(residual)
    behind = ("out_proj.", "norm2.", "fc1.", "fc2.")
    leaves = _leaves({name: tensor for name, tensor in tensors.items() if name.startswith(behind)}, sums.needed)
    for rows in _rows(residual, layout):
        with torch.enable_grad():
            before, mixed = (_flat(tensor)[rows].detach().requires_grad_() for tensor in (residual, y))
            result = _tail(before, mixed, leaves, layout)
        found = _differentiate(result, _flat(g)[rows], [before, mixed], leaves, sums)
        for whole, some in zip((dresidual, y), found, strict=True):
            assert some is not None
            _flat(whole)[rows] = some
        del before, mixed, result, found, some
    dy = y

    # 3. The mixer, in_proj and norm1, some channels at a time.
    of_norm1 = needs_residual or not sums.needed.isdisjoint(("norm1.weight", "norm1.bias"))
    of_projection = of_norm1 or any(name.startswith("in_proj.") for name in sums.needed)
    of_taps = any(name.startswith(("filter.", "taps")) for name in sums.needed)
    needs = [of_projection, "short.weight" in sums.needed, "short.bias" in sums.needed, of_taps, "skip" in sums.needed]
    if not any(needs):
        return dresidual
    norm1 = _leaves({name: tensor for name, tensor in tensors.items() if name.startswith("norm1.")}, sums.needed)
    dh = torch.empty_like(residual) if of_norm1 and len(pieces) > 1 else None
    for c in pieces:
        part = _of_channels(tensors, c, layout)
        if kept is None:
            x, long = _projected(residual, tensors, part, layout), _long_filters(part, layout)
        else:
            (x, long), kept = kept, None
        dx, *dfilters = _mixed_backward(dy[..., c], x, part, long, needs, layout)
        del x, long
        _add_filters(dfilters, part, sums, c, layout)
        del dfilters
        if not of_projection:
            continue
        first, last = c is pieces[0], c is pieces[-1]
        for rows in _rows(residual, layout):
            with torch.set_grad_enabled(of_norm1 and last):
                before = _flat(residual)[rows].detach().requires_grad_()
                h = _norm1(before, norm1, layout)
            some = _linear_backward(
                _flat(dx)[rows], h.detach(), part, "in_proj", layout.scales["in_proj"], sums, c, of_norm1
            )
            if some is None:
                continue
            if dh is not None and not first:
                some = _flat(dh)[rows].add_(some)
            elif dh is not None:
                _flat(dh)[rows] = some
            if last:
                (some,) = _differentiate(h, some.to(h.dtype), [before], norm1, sums)
                assert some is not None
                _flat(dresidual)[rows] += some
        del dx
    return dresidual


def _add_filters(found: Sequence[Tensor], part: _Tensors, sums: _Sums, c: slice, layout: _Layout) -> None:
    """Add the gradients of the short filters, the long filters and the skip of some channels."""
    dweight, dbias, *dlong, dskip = found
    for name, gradient in (("short.weight", dweight), ("short.bias", dbias), ("taps", dlong[0]), ("skip", dskip)):
        if name in sums.needed:
            sums.add(name, gradient, c)
    if not any(name.startswith("filter.") for name in sums.needed):
        return
    leaves = _leaves({name: tensor for name, tensor in part.items() if name.startswith("filter.")}, sums.needed)
    with torch.enable_grad():
        long = _long_filters(leaves, layout)
    _differentiate(long, dlong, (), leaves, sums, c)


class _Sliced(torch.autograd.Function):
    """The block of :func:`_compute`, of which only the input is saved."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, names: Sequence[str], residual: Tensor, *tensors: Tensor) -> Tensor:
        """``residual (B, L, D)`` to the same shape and dtype."""
        ctx.layout, ctx.names = layout, names
        device = residual.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), True) if _autocasts(device) else (device, None, False)
        ctx.save_for_backward(residual, *tensors)
        return _compute(residual, dict(zip(names, tensors, strict=True)), layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the residual and of the tensors."""
        residual, *saved = ctx.saved_tensors
        tensors = dict(zip(ctx.names, saved, strict=True))
        _, _, needs_residual, *needs = ctx.needs_input_grad
        needed = {name for name, need in zip(ctx.names, needs, strict=True) if need}
        sums = _Sums(tensors, needed, ctx.layout)
        device, dtype, enabled = ctx.autocast
        # Not cached: casts of these leaves would stay until the end of backward.
        with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            dresidual = _backward(g.contiguous(), residual, tensors, sums, ctx.layout, needs_residual)
        return None, None, dresidual if needs_residual else None, *(sums.of(name) for name in ctx.names)


def run(
    block: Block, residual: Tensor, filters: Filters | None, cut: Slices, segments: SegmentPlan | None = None
) -> Tensor:
    """The output of a block for ``residual (B, L, D)``, in the slices of :func:`plan`.

    Args:
        block: the block. Its parameters are inputs of the recorded function, so that hooks on their gradients run.
        residual: ``(B, L, D)``, not written to.
        filters: taps ``(order - 1, D, K)`` and skip ``(order - 1, D)``. None computes those of a slice at a time, or
            in a block of ``cache_filters`` takes the kept ones.
        cut: the widths.
        segments: the segments of a packed row, with B = 1; L of the filters is then the length of the longest.

    Returns:
        ``(B, L, D)``, a new tensor of the residual's dtype.
    """
    training, mixer = torch.is_grad_enabled(), block.mixer
    if segments is not None:
        segments = segments.to(residual.device)
    length = _longest(residual, segments)
    dtype = compute_dtype(block, residual.device.type)
    far = mixer.far_field_plan(length, dtype, given=filters is not None, packed=segments is not None)
    far_filters = None
    if filters is None and not training:
        filter_fn = mixer.filter_fn
        positions = mixer.taps(length) if far is None else evaluations(far, length)
        if filter_fn.can_keep(filter_fn.bias.nbytes * positions):
            if far is None:
                filters = mixer.filters(length)
            else:
                far_filters = mixer.far_field_filters(length, far)
    layout, tensors = _take_apart(block, filters, cut, length, segments, far, far_filters)
    residual = residual.contiguous()
    if training:
        result: Tensor = _Sliced.apply(layout, tuple(tensors), residual, *tensors.values())
        return result
    return _compute(residual, tensors, layout)
