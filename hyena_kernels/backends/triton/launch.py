"""Launching a kernel again without what Triton does to find the compiled one: some 15 µs of processor time each.

``kernel[grid](...)`` binds the arguments, classes each as Triton specialises on it, writes options and classes into a
string and looks that up. :func:`launch` does so once for a kernel, its constants, and the dtypes, alignments and
integers of its arguments, and afterwards calls what Triton found the first time. Everywhere else it is
``kernel[grid](...)``: in the interpreter, with hooks (profilers of Triton), with a Triton whose compiled kernels are
called in a way that is not known here, under ``HYENA_AUTOTUNE=1``.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import triton
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

KNOWN_VERSIONS = ((3, 5), (3, 8))
"""First Triton whose compiled kernels are called as here, and the first of which that is not known: in 3.5.1, 3.6.0 and
3.7.1 ``JITFunction.run`` makes the same call of ``CompiledKernel.run``."""

MAX_KEPT = 4096
"""Launches that are remembered; a program that has more of them begins anew."""


class Constants:
    """Compile-time arguments and options of launches, such as ``num_warps``.

    Equal to itself alone: who makes one keeps it, as :func:`constants` does, or every launch with it is a new one.
    """

    __slots__ = ("values",)

    def __init__(self, **values: Any) -> None:
        self.values = values


constants = functools.lru_cache(maxsize=1024)(Constants)
"""The same :class:`Constants` for the same values."""

_Known = tuple[Any, Any, Any, tuple[Any, ...]]
"""How a compiled kernel is called: its launcher, function, metadata, and values of its compile-time arguments."""

_known: dict[tuple[Any, ...], _Known] = {}


def _is_known(version: str) -> bool:
    first, end = KNOWN_VERSIONS
    return first <= tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < end


_direct = _is_known(triton.__version__)


def launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: Constants) -> None:
    """``kernel[grid](*args, **constants.values)`` on the current device and stream.

    Args:
        kernel: a ``@triton.jit`` function, interpreted or tunable ones included.
        grid: one to three numbers.
        args: the arguments that are no compile-time ones, in their order, which come first; one is a tensor.
        constants: the others, and options.
    """
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    if (
        type(kernel) is not triton.JITFunction
        or kernel.pre_run_hooks
        or not _direct
        or any(hook is not None and getattr(hook, "calls", True) for hook in hooks)
    ):
        kernel[grid](*args, **constants.values)
        return
    # What Triton looks at, or more: an integer is 1, a multiple of 16 or neither, and of 32 or 64 bits.
    key: list[Any] = [kernel.fn, constants]
    values: list[Any] = []
    device = None
    for arg in args:
        if isinstance(arg, Tensor):
            pointer = arg.data_ptr()
            values.append(pointer)
            key.append(arg.dtype)
            key.append(pointer & 15 == 0)
            if device is None:
                device = arg.get_device()
                key.append(device)
        else:
            values.append(arg)
            key.append(float if arg.__class__ is float else arg)
    known = _known.get(place := tuple(key))
    if known is None:
        compiled = kernel[grid](*args, **constants.values)
        if isinstance(compiled, CompiledKernel):
            if len(_known) >= MAX_KEPT:
                _known.clear()
            rest = tuple(constants.values[name] for name in kernel.arg_names[len(args) :])
            _known[place] = compiled.run, compiled.function, compiled.packed_metadata, rest
        return
    run, function, metadata, rest = known
    x, y, z = (*grid, 1, 1)[:3]
    run(x, y, z, driver.active.get_current_stream(device), function, metadata, None, None, None, *values, *rest)
