"""Which calls of an op may go past torch's dispatcher: those for which all that it would do is call the op.

On its way to an op that is registered from Python a call takes some 50 µs, and with a derivative some 150 µs, as long
as kernels of short sequences run. Everything else that the dispatcher is for has a dispatch key: fake, functional and
other wrapped tensors, subclasses, ``torch.func``, modes, tracing, conjugate and negative views, zero tensors, other
devices. A call without any such key, on its tensors or in its thread, is a plain one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def _bits(*keys: DispatchKey) -> int:
    found = DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return int(found.raw_repr())


def _of_tensors(device: str) -> tuple[int, int]:
    """Keys of tensors on a device: with those of autograd, and as inference mode makes them."""
    backend, autograd, autocast = (DispatchKey.__members__[f"{kind}{device}"] for kind in ("", "Autograd", "Autocast"))
    return _bits(backend, autograd, autocast, DispatchKey.ADInplaceOrView), _bits(backend, autocast)


# None of this is public. In a torch that lacks some of it no call is plain, and in one with other keys none either.
try:
    from torch._C import DispatchKey, DispatchKeySet

    _TENSORS = frozenset((*_of_tensors("CPU"), *_of_tensors("CUDA")))
    _THREADS = frozenset(
        (_bits(DispatchKey.BackendSelect, DispatchKey.ADInplaceOrView), _bits(DispatchKey.BackendSelect))
    )
    _AUTOGRAD = DispatchKey.AutogradFunctionality
    _tensor_keys = torch._C._dispatch_keys
    _included = torch._C._dispatch_tls_local_include_set
    _excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
    _profiling = torch._C._autograd._profiler_enabled
    _with_function_mode = torch._C._is_torch_function_mode_enabled
    _any_requires_grad = torch._C._any_requires_grad
    AVAILABLE = True
except (ImportError, AttributeError, KeyError):
    AVAILABLE = False


def plain(args: tuple[Any, ...]) -> bool:
    """Whether torch's dispatcher would do nothing but call an op with these arguments.

    Not while a profiler runs, which learns the names of ops from the dispatcher.
    """
    if not AVAILABLE or _included().raw_repr() not in _THREADS or _profiling() or _with_function_mode():
        return False
    for arg in args:
        kind = type(arg)
        # A subclass may have a __torch_function__, of which there is no key.
        if kind is Tensor or kind is Parameter:
            if _tensor_keys(arg).raw_repr() not in _TENSORS:
                return False
        elif isinstance(arg, Tensor):
            return False
    return True


def recorded(args: tuple[Any, ...]) -> bool:
    """Whether autograd would record a plain call with these arguments."""
    return torch.is_grad_enabled() and _any_requires_grad(*args) and not _excluded(_AUTOGRAD)
