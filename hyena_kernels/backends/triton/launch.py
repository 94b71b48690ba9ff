"""Launch a compiled kernel again without Triton's search for it, which takes some 15 µs of processor time.

``kernel[grid](...)`` binds the arguments, finds the class on which Triton specialises for each, writes options and
classes into a string and looks that up. :func:`launch` does this once for a kernel, its constants, and the dtypes,
alignments and integers of its arguments. Later it calls the compiled kernel directly. In four cases it always runs
``kernel[grid](...)``: in the interpreter, with hooks of Triton's profilers, under ``HYENA_AUTOTUNE=1``, and with a
version of Triton that is not known to call compiled kernels in the same way.
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
"""First Triton that calls compiled kernels as this module does, and the first later one that has not been checked.

In 3.5.1, 3.6.0 and 3.7.1 ``JITFunction.run`` calls ``CompiledKernel.run`` in the same way.
"""

MAX_KEPT = 4096
"""Number of launches that are remembered. All are forgotten when there are more."""


class Constants:
    """Compile-time arguments and options of launches, such as ``num_warps``.

    An object equals only itself, so keep one for repeated launches, as :func:`constants` does.
    """

    __slots__ = ("values",)

    def __init__(self, **values: Any) -> None:
        self.values = values


constants = functools.lru_cache(maxsize=1024)(Constants)
"""The same :class:`Constants` for the same values."""

_Known = tuple[Any, Any, Any, tuple[Any, ...]]
"""All that a call of a compiled kernel takes: launcher, function, metadata, values of the compile-time arguments."""

_known: dict[tuple[Any, ...], _Known] = {}


def _is_known(version: str) -> bool:
    first, end = KNOWN_VERSIONS
    return first <= tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < end


_direct = _is_known(triton.__version__)


def _is_called(hook: Any) -> bool:
    """Whether a hook of Triton does anything: a chain of functions may be empty."""
    return hook is not None and bool(getattr(hook, "calls", True))


def launch(
    kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: Constants, late: tuple[int, ...] = ()
) -> None:
    """``kernel[grid](*args, *late, **constants.values)`` on the current device and stream.

    Args:
        kernel: a ``@triton.jit`` function. It may be interpreted or tunable.
        grid: one to three numbers.
        args: the run-time arguments, which come first, in their order. At least one is a tensor.
        constants: the compile-time arguments and the options.
        late: integers for the run-time arguments after ``args``, which the kernel names in ``do_not_specialize``. They
            may differ from launch to launch: all launches are remembered as one.
    """
    if (
        type(kernel) is not triton.JITFunction
        or kernel.pre_run_hooks
        or not _direct
        or _is_called(knobs.runtime.launch_enter_hook)
        or _is_called(knobs.runtime.launch_exit_hook)
    ):
        kernel[grid](*args, *late, **constants.values)
        return
    # All that Triton specialises on, and more: of an integer it only asks whether it is 1 or a multiple of 16, and
    # whether it fits 32 bits.
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
    for number in late:
        values.append(number)
        key.append(number.bit_length() > 31)
    known = _known.get(place := tuple(key))
    if known is None:
        compiled = kernel[grid](*args, *late, **constants.values)
        if isinstance(compiled, CompiledKernel):
            if len(_known) >= MAX_KEPT:
                _known.clear()
            rest = tuple(constants.values[name] for name in kernel.arg_names[len(values) :])
            _known[place] = compiled.run, compiled.function, compiled.packed_metadata, rest
        return
    run, function, metadata, rest = known
    x, y, z = (*grid, 1, 1)[:3]
    run(x, y, z, driver.active.get_current_stream(device), function, metadata, None, None, None, *values, *rest)
