"""Keeps the filters of a module between calls of inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class _Kept(NamedTuple):
    dependencies: Any
    filters: Tensor
    alive: list[Tensor]
    """The tensors that the filters depend on. While they live, no other tensor can take their address."""


class FilterCache:
    """The last filters of one module, until a parameter, a buffer or a setting of it changes.

    Filters are kept only in ``eval()`` and without gradients. A fused optimizer changes parameters without a trace. So
    nothing is kept while a parameter has a gradient, nor after a call with gradients until :meth:`restart`. Nothing is
    kept in a process group, where shards are gathered into a parameter without a trace. Nothing is kept while a CUDA
    graph is captured either: the graph would replay with filters that no longer exist. Copies and pickles of a cache
    are empty. Several threads may use one cache.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._may_keep = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    @property
    def empty(self) -> bool:
        """Whether no filters are kept."""
        return self._kept is None

    def drop(self) -> None:
        """Forget the filters."""
        self._kept = None

    def restart(self) -> None:
        """Forget the filters, and the calls with gradients that kept new ones from being kept."""
        self._kept, self._may_keep = None, True

    def get(self, module: nn.Module, settings: Any, compute: Callable[[], Tensor], *, keep: bool) -> Tensor:
        """The kept filters if they are up to date, else what ``compute`` returns.

        Args:
            module: the module whose parameters and buffers the filters depend on.
            settings: what else they depend on, compared by ``==``.
            compute: computes the filters.
            keep: whether they may be kept, as far as the caller knows.
        """
        dependencies = self._dependencies(module, settings, keep=keep)
        if dependencies is None:
            return compute()
        # Another thread may replace or drop what is kept at any time, so it is read once.
        kept = self._kept
        if kept is None or kept.dependencies != dependencies:
            self._kept = None
            alive = [alias for t in (*module.parameters(), *module.buffers()) for alias in (t, t.detach())]
            self._kept = kept = _Kept(dependencies, compute(), alive)
        return kept.filters

    def _dependencies(self, module: nn.Module, settings: Any, *, keep: bool) -> Any:
        """Everything that the filters depend on, or None if they must not be kept."""
        if module.training or torch.compiler.is_compiling():
            return None
        parameters = list(module.parameters())
        # The replicas that nn.DataParallel runs have none.
        if not parameters:
            return None
        if torch.is_grad_enabled():
            if any(parameter.requires_grad for parameter in parameters):
                self._kept, self._may_keep = None, False
            return None
        if not (keep and self._may_keep) or any(parameter.grad is not None for parameter in parameters):
            return None
        on_gpu = parameters[0].device.type == "cuda"
        if on_gpu and torch.cuda.is_current_stream_capturing():
            return None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return None
        if torch._C._are_functorch_transforms_active():
            return None
        # Tensors of inference mode have no version, and fake tensors have no address.
        try:
            states = [(id(t), t._version, t.data_ptr(), t.dtype, t.device) for t in (*parameters, *module.buffers())]
        except RuntimeError:
            return None
        if any(device.type == "meta" for *_, device in states):
            return None
        stream = torch.cuda.current_stream(parameters[0].device).cuda_stream if on_gpu else None
        return settings, stream, states
