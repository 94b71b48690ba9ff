"""``cache_filters``: a block in which the filters of a model are kept between calls of inference."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Filters = tuple[Tensor, Tensor | None]
"""The filters ``(D, L)`` of a module and its skip ``(D,)``."""

Kept = tuple[Tensor | None, ...]
"""What is kept of a module: its filters and its skip, or near taps, nodes and skip."""

AnyKept = TypeVar("AnyKept", bound=Kept)

_Key = tuple[int, Any, int | None]

MAX_BYTES = 256 << 20
"""Bytes that a block of :func:`cache_filters` keeps unless it is told otherwise."""


class _Kept(NamedTuple):
    states: Any
    filters: Kept
    alive: list[Tensor]
    """The tensors that the filters depend on. While they live, no other tensor can take their address."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.filters if tensor is not None)


class _Cache:
    """What one block keeps, for all modules in it and all threads.

    A fused optimizer changes parameters without a trace. So nothing of a module is kept while a parameter has a
    gradient, nor after a call with gradients.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        # By module, by what else the filters depend on, and by stream. The oldest come first.
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._nbytes = 0
        self._drops = 0
        self._trained: set[int] = set()

    def drop(self, module: nn.Module, *, trained: bool = False) -> None:
        """Forget the filters of a module. If it is being ``trained``, no new ones are kept."""
        with self._lock:
            self._drops += 1
            if trained:
                self._trained.add(id(module))
            for key in [key for key in self._kept if key[0] == id(module)]:
                self._nbytes -= self._kept.pop(key).nbytes

    def get(self, key: _Key, states: Any, compute: Callable[[], Kept], alive: Callable[[], list[Tensor]]) -> Kept:
        """The kept filters if the states are those of then, else those that ``compute`` returns."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.states == states:
                self._kept.move_to_end(key)
                return kept.filters
            drops = self._drops
        tensors = alive()
        # Other threads go on meanwhile. Two that compute the same filters get the same bits.
        filters = compute()
        with self._lock:
            if drops == self._drops and key[0] not in self._trained:
                self._keep(key, _Kept(states, filters, tensors))
        return filters

    def _keep(self, key: _Key, new: _Kept) -> None:
        outdated = [other for other, kept in self._kept.items() if other[0] == key[0] and kept.states != new.states]
        for other in {*outdated, key} & self._kept.keys():
            self._nbytes -= self._kept.pop(other).nbytes
        # Filters of the same length stay: if those of all layers do not fit, some are there at every call.
        for other in [other for other in self._kept if other[1] != key[1]]:
            if self._nbytes + new.nbytes <= self.max_bytes:
                break
            self._nbytes -= self._kept.pop(other).nbytes
        if self._nbytes + new.nbytes <= self.max_bytes:
            self._kept[key] = new
            self._nbytes += new.nbytes


# The blocks that each module is in, the innermost last. It stands outside the modules, so that copies and pickles of a
# module are in no block. Tuples are replaced and never changed: reading one needs no lock.
_blocks: weakref.WeakKeyDictionary[nn.Module, tuple[_Cache, ...]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_replacements: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def _count_replacement(module: nn.Module) -> None:
    _replacements[module] = replacements(module) + 1


def replacements(module: nn.Module) -> int:
    """How often weights have been loaded into a module of filters, or its tensors been moved."""
    return _replacements.get(module, 0)


class KeptFilters(nn.Module):
    """Base class of modules whose filters a block of :func:`cache_filters` keeps."""

    def filter_settings(self, *args: Any) -> Any:
        """What the filters depend on besides parameters and buffers, hashable; None if they must not be kept."""
        raise NotImplementedError

    def can_keep(self, nbytes: int) -> bool:
        """Whether this is in a block of :func:`cache_filters` that has room for so many bytes when it is empty."""
        blocks = _blocks.get(self)
        return blocks is not None and nbytes <= blocks[-1].max_bytes

    def train(self, mode: bool = True) -> Self:
        """Set training or inference. Either drops the filters that are kept."""
        _drop(self)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _drop(self)
        _count_replacement(self)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _drop(self)
        _count_replacement(self)
        super()._load_from_state_dict(*args, **kwargs)


@contextmanager
def cache_filters(module: nn.Module, max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Keep the filters of a model between calls of inference, inside a ``with`` block.

    Outside such a block every call computes its filters. Inside, calls in ``eval()`` and without gradients keep them,
    by length, for all threads. They are computed again after a change of a parameter or buffer, ``train()``,
    ``eval()``, ``load_state_dict()`` or a move to another device or dtype. At the end of the block they are freed.

    PyTorch does not count in-place writes into ``parameter.data``: inside the block, call ``eval()`` again after one.
    Layers with hooks, parametrizations or other classes than their own have their filters computed at every call. So
    have compiled and exported models, transforms of ``torch.func``, CUDA graphs and models in a process group.

    Args:
        module: a :class:`~hyena_kernels.HyenaOperator`, or any model that holds some.
        max_bytes: bound on what is kept, in bytes, for the whole model. When it is full, filters of other lengths make
            room. Filters that still do not fit are computed at every call.

    Raises:
        ValueError: there is no such module in ``module``, or ``max_bytes`` is negative.

    Example:
        >>> import torch
        >>> from hyena_kernels import HyenaOperator, cache_filters
        >>> layer, u = HyenaOperator(8, 100).eval(), torch.randn(1, 100, 8)
        >>> with torch.no_grad(), cache_filters(layer):
        ...     same = torch.equal(layer(u), layer(u))
        >>> same
        True
    """
    if max_bytes < 0:
        raise ValueError(f"cache_filters: max_bytes must be at least 0, got {max_bytes}")
    filters = [each for each in module.modules() if isinstance(each, KeptFilters)]
    if not filters:
        raise ValueError(f"cache_filters: {type(module).__name__} holds no HyenaFilter, there is nothing to keep")
    cache = _Cache(max_bytes)
    with _lock:
        for each in filters:
            _blocks[each] = (*_blocks.get(each, ()), cache)
    try:
        yield
    finally:
        with _lock:
            for each in filters:
                others = tuple(block for block in _blocks.get(each, ()) if block is not cache)
                if others:
                    _blocks[each] = others
                else:
                    _blocks.pop(each, None)


def _forget_blocks_of_parent() -> None:
    """Leave all blocks, in a process that was forked inside one. It may have been forked while a thread held a lock."""
    global _lock
    _lock = threading.Lock()
    _blocks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_blocks_of_parent)


def _drop(module: nn.Module, *, trained: bool = False) -> None:
    for cache in _blocks.get(module, ()):
        cache.drop(module, trained=trained)


def kept_or_new(module: nn.Module, args: tuple[Any, ...], compute: Callable[[], AnyKept]) -> AnyKept:
    """The filters that the innermost block keeps if they are up to date, else what ``compute`` returns.

    Not to be written into: they may be kept. ``args`` are those of :meth:`KeptFilters.filter_settings`.
    """
    if torch.compiler.is_compiling():
        return compute()
    blocks = _blocks.get(module)
    if blocks is None or not isinstance(module, KeptFilters):
        return compute()
    parameters, buffers = list(module.parameters()), list(module.buffers())
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        _drop(module, trained=True)
        return compute()
    settings = module.filter_settings(*args)
    states = None if settings is None else _states(module, parameters, buffers)
    if states is None:
        return compute()
    device = parameters[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    tensors = (*parameters, *buffers)
    kept = blocks[-1].get(
        (id(module), settings, stream), states, compute, lambda: [alias for t in tensors for alias in (t, t.detach())]
    )
    # The settings say what it was computed by.
    return cast("AnyKept", kept)


def tensor_states(module: nn.Module) -> tuple[Any, list[Tensor]]:
    """What tells one state of a module's parameters and buffers from another, and the tensors to keep alive with it.

    The first is None in training, and in all other cases in which :func:`cache_filters` keeps nothing. While the
    tensors live, no others can take their addresses.
    """
    parameters, buffers = list(module.parameters()), list(module.buffers())
    states = _states(module, parameters, buffers)
    if states is None:
        return None, []
    return states, [alias for tensor in (*parameters, *buffers) for alias in (tensor, tensor.detach())]


def _states(module: nn.Module, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> Any:
    """What tells one state of a module's tensors from another, or None if its filters must not be kept."""
    if module.training or torch.is_grad_enabled() or not parameters:
        return None
    if any(parameter.grad is not None for parameter in parameters):
        return None
    # Shards are gathered into a parameter without a trace.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return None
    # What runs under these is recorded, or computed on something else than values.
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return None
    if torch._C._get_tracing_state() is not None or forward_ad._current_level >= 0:
        return None
    # A CUDA graph would replay with filters that no longer exist.
    if parameters[0].device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None
    # Tensors of inference mode have no version, and fake tensors have no address.
    try:
        states = [(id(t), t._version, t.data_ptr(), t.dtype, t.device) for t in (*parameters, *buffers)]
    except RuntimeError:
        return None
    return None if any(device.type == "meta" for *_, device in states) else states
