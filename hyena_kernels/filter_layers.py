"""Two layers of ``HyenaFilter``, the sine network and the window, and what all of its layers have in common.

All stay in float32 or wider. :func:`is_plain` tells whether a layer may be computed without its own call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor


def register(module: nn.Module, name: str, tensor: Tensor, lr: float | None) -> None:
    """Register a buffer if ``lr`` is 0, else a parameter whose ``_optim`` has this rate and no weight decay."""
    if lr == 0.0:
        module.register_buffer(name, tensor)
        return
    module.register_parameter(name, nn.Parameter(tensor))
    # Last: accelerate.init_empty_weights cannot register a parameter that has attributes.
    optim = {"weight_decay": 0.0} if lr is None else {"lr": lr, "weight_decay": 0.0}
    module.get_parameter(name)._optim = optim  # type: ignore[attr-defined]


def refuse(owner: str, **arguments: tuple[Any, Any]) -> None:
    """Raise NotImplementedError if an argument ``name=(given, supported)`` does not have the supported value."""
    for name, (given, supported) in arguments.items():
        if given != supported:
            raise NotImplementedError(
                f"{owner}: {name}={given!r} is not supported; every published HyenaDNA checkpoint uses "
                f"{name}={supported!r}"
            )


class Sin(nn.Module):
    """``sin(freq * x)`` with ``freq (1, dim)``, trainable unless ``train_freq`` is False."""

    freq: Tensor

    def __init__(self, dim: int, w: float = 10.0, train_freq: bool = True) -> None:
        super().__init__()
        freq = torch.full((1, dim), float(w), dtype=wide_dtype())
        if train_freq:
            self.freq = nn.Parameter(freq)
        else:
            self.register_buffer("freq", freq, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x (..., dim)`` → ``(..., dim)``."""
        return torch.sin(self.freq * x)


class AtLeastFloat32(nn.Module):
    """A module whose tensors stay in float32 or wider under ``.half()``, ``.bfloat16()`` and ``.to(dtype)``.

    16 bits cannot distinguish the positions of a long sequence, and the network multiplies its weights' rounding errors
    by frequencies of 10 and more in every layer.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def apply(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device, torch.float32) if is_narrow(moved) and not is_narrow(tensor) else moved

        return super()._apply(apply, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # With assign=True the module would take tensors of 16 bits as they are.
        if local_metadata.get("assign_to_params_buffers", False):
            for key, tensor in state_dict.items():
                if key.startswith(prefix) and isinstance(tensor, Tensor) and is_narrow(tensor):
                    state_dict[key] = tensor.detach().float()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def wide_dtype() -> torch.dtype:
    """The default dtype, but at least float32, for models made in bfloat16."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers of fewer than 32 bits."""
    dtype = tensor.dtype
    return dtype.itemsize < 4 and dtype.is_floating_point


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a layer runs ``kind.forward`` on plain tensors and nothing else.

    What else there can be: a wrapper, a subclass, hooks such as those of LoRA and FSDP, a parametrization, or weights
    of another class, such as quantized ones.
    """
    if type(layer).forward is not kind.forward or "forward" in layer.__dict__:
        return False
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    # A loop, because every call of an operator asks for all layers of its filter.
    for tensor in layer._parameters.values():
        if tensor is not None and type(tensor) not in PLAIN:
            return False
    return "parametrizations" not in layer._modules


# Fake and functional tensors stand for plain ones while a model is traced.
PLAIN = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)


def linspace(start: float, stop: float, steps: int) -> Tensor:
    """``torch.linspace`` in the default dtype, but at least in float32.

    The device is explicit: ``with torch.device("meta")`` does not work for ``torch.linspace`` after transformers has
    loaded a model. transformers replaces the function for a while, and torch remembers the replacement.
    """
    return torch.linspace(start, stop, steps, dtype=wide_dtype(), device=torch.get_default_device())


class SineNetwork(AtLeastFloat32, nn.Sequential):
    """Linear layers with a :class:`Sin` after each but the last. All sines share one ``freq``.

    Each sine has it under its own name, as in the published checkpoints. Moving the network and loading its weights
    keep it one tensor.
    """

    @classmethod
    def of_widths(cls, widths: Sequence[int], w: float, train_freq: bool) -> Self:
        """Make the network.

        Args:
            widths: number of features before and after each Linear layer.
            w: initial value of the frequencies.
            train_freq: whether ``freq`` is a parameter.
        """
        *pairs, last = itertools.pairwise(widths)
        layers: list[nn.Module] = []
        for before, after in pairs:
            layers += [nn.Linear(before, after, dtype=wide_dtype()), Sin(after, w, train_freq)]
        network = cls(*layers, nn.Linear(*last, bias=False, dtype=wide_dtype()))
        network.share_freq()
        return network

    def share_freq(self) -> None:
        """Give all sines the ``freq`` of the first, after something has set them one by one."""
        # Set past nn.Module: accelerate makes a new parameter of each that is registered.
        places = self._places_of_freq()
        for place in places[1:]:
            place["freq"] = places[0]["freq"]

    def _sines(self) -> dict[str, Sin]:
        return {name: layer for name, layer in self.named_children() if isinstance(layer, Sin)}

    def _places_of_freq(self) -> list[dict[str, Any]]:
        """The dictionaries of ``nn.Module`` that hold ``freq``, the first sine's first."""
        places = [place for sine in self._sines().values() for place in (sine._parameters, sine._buffers)]
        return [place for place in places if place.get("freq") is not None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # nn.Module would apply fn once for every name, and could make a new parameter for each.
        places = self._places_of_freq()
        shared = [place for place in places[1:] if place["freq"] is places[0]["freq"]]
        for place in shared:
            place["freq"] = None
        try:
            return super()._apply(fn, recurse)
        finally:
            for place in shared:
                place["freq"] = places[0]["freq"]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        *_, error_msgs = args
        keys = [f"{prefix}{name}.freq" for name, sine in self._sines().items() if "freq" in sine._parameters]
        given = [key for key in keys if key in state_dict]
        if given:
            # One name is enough. The module cannot hold several values.
            first = state_dict[given[0]]
            comparable = all(type(state_dict[key]) in PLAIN and not state_dict[key].is_meta for key in given)
            differing = [key for key in given if comparable and not _equal(state_dict[key], first)]
            if differing:
                error_msgs.append(f"{differing[0]} differs from {given[0]}: the sines of one filter share one freq.")
            assigned = local_metadata.get("assign_to_params_buffers", False)
            if assigned and (is_narrow(first) or not isinstance(first, nn.Parameter)):
                wide = first.detach().to(torch.promote_types(first.dtype, torch.float32))
                first = nn.Parameter(wide, self.get_parameter(given[0].removeprefix(prefix)).requires_grad)
            state_dict |= dict.fromkeys(keys, first)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool((one.to(other) == other).all()))


class ExponentialModulation(AtLeastFloat32):
    """The window ``exp(-t |deltas|) + shift``, with ``deltas (1, 1, d_model)`` evenly spaced between two decay rates.

    Args:
        d_model: number of channels.
        fast_decay_pct: fraction of ``seq_len`` after which the fastest channel has decayed to ``target``.
        slow_decay_pct: fraction of ``seq_len`` after which the slowest channel has decayed to ``target``.
        target: value to which a channel decays in that time.
        modulation_lr: learning rate of ``deltas``. 0 makes it a buffer.
        modulate: False leaves the filter without a window.
        shift: limit of the window at late positions.
    """

    deltas: Tensor

    def __init__(
        self,
        d_model: int,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        modulation_lr: float | None = 0.0,
        modulate: bool = True,
        shift: float = 0.05,
    ) -> None:
        super().__init__()
        self.modulate = modulate
        self.shift = shift
        self.decays = (math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct, d_model)
        register(self, "deltas", linspace(*self.decays)[None, None], modulation_lr)

    def reset_buffers(self) -> None:
        """Write the decay rates into ``deltas``, for modules made on the meta device."""
        with torch.no_grad():
            self.deltas.copy_(linspace(*self.decays)[None, None])

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``t (1, L, 1)``, ``x (1, L, d_model)`` → ``(1, L, d_model)``."""
        return x * (torch.exp(-t * self.deltas.abs()) + self.shift) if self.modulate else x
