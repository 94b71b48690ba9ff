"""Which calls of an op may bypass torch's dispatcher, because it would do nothing but call the op.

The dispatcher takes some 50 µs to call an op that is registered from Python, and some 150 µs with a derivative. Kernels
of short sequences run no longer than that.

Everything else that the dispatcher does has a dispatch key: fake, functional and other wrapped tensors, subclasses,
``torch.func``, modes, tracing, conjugate and negative views, zero tensors, other devices. A call is plain if neither
its tensors nor its thread have such a key.
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
    """Keys of tensors on a device: outside and inside of inference mode."""
    backend, autograd, autocast = (DispatchKey.__members__[f"{kind}{device}"] for kind in ("", "Autograd", "Autocast"))
    return _bits(backend, autograd, autocast, DispatchKey.ADInplaceOrView), _bits(backend, autocast)


# None of this is public. No call is plain in a torch that lacks some of it or has other keys.
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

    False while a profiler runs, because the dispatcher tells it the names of ops.
    """
    if not AVAILABLE or _included().raw_repr() not in _THREADS or _profiling() or _with_function_mode():
        return False
    for arg in args:
        kind = type(arg)
        # A subclass may have a __torch_function__, which has no key.
        if kind is Tensor or kind is Parameter:
            if _tensor_keys(arg).raw_repr() not in _TENSORS:
                return False
        elif isinstance(arg, Tensor):
            return False
    return True


def recorded(args: tuple[Any, ...]) -> bool:
    """Whether autograd would record a plain call with these arguments."""
    return torch.is_grad_enabled() and _any_requires_grad(*args) and not _excluded(_AUTOGRAD)
