"""Make Triton's interpreter faster and let it round like a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Convert float32 to bfloat16 by rounding, multiply matrices of it, and patch Triton's language once.

    The interpreter truncates where a GPU rounds to nearest, and multiplies the bits of bfloat16 as integers. It also
    patches thousands of functions of the language at every call of a device function, and never restores them. This
    context restores them at its end.
    """
    from triton.runtime import interpreter

    scopes: dict[int, Any] = {}

    def call(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in scopes:
            scopes[module] = interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    rounding = _rounding(interpreter._convert_float)
    builder = interpreter.InterpreterBuilder
    with (
        mock.patch.object(builder, "create_dot", _of_values(builder.create_dot)),
        mock.patch.object(interpreter, "_convert_float", rounding),
        mock.patch.object(interpreter.InterpretedFunction, "__call__", call),
    ):
        try:
            yield
        finally:
            for scope in reversed(list(scopes.values())):
                scope.restore()


def _rounding(convert: Callable[..., Any]) -> Callable[..., Any]:
    import triton.language as tl

    def converted(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(values, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(values).view(np.float32)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    return converted


def _of_values(multiply: Callable[..., Any]) -> Callable[..., Any]:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def product(self: Any, a: Any, b: Any, *args: Any) -> Any:
        return multiply(self, widened(a), widened(b), *args)

    return product
