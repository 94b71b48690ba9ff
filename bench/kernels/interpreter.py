"""Make Triton's interpreter faster and let it round like a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Convert float32 to bfloat16 by rounding, multiply matrices of it, and do once what is done at every step.

    The interpreter truncates where a GPU rounds to nearest, and multiplies the bits of bfloat16 as integers. It also
    patches thousands of functions of the language at every call of a device function, and never restores them. This
    context restores them at its end. Types are compared and named in every operation: here a shape's are made once.
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
        ExitStack() as types,
    ):
        for owner, name, function in _types_made_once():
            types.enter_context(mock.patch.object(owner, name, function))
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


def _types_made_once() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Faster constructors of Triton's tensors, their types and its tuples, which take most of the interpreter's time.

    A version of Triton that is built otherwise stays as it is, and slower.
    """
    from triton.language import core

    if not hasattr(core, "_type_for_tuple_values") or not hasattr(core.tuple, "__getattr__"):
        return
    make_tensor, make_block, make_tuple = core.tensor.__init__, core.block_type.__init__, core.tuple.__init__
    get_of_tuple, type_of_values = core.tuple.__getattr__, core._type_for_tuple_values
    shapes: dict[Any, dict[str, Any]] = {}
    # With the type of the elements, so that its id stays its own.
    blocks: dict[Any, tuple[Any, dict[str, Any]]] = {}

    def tensor(self: Any, handle: Any, type: Any) -> None:
        shape = tuple(type.shape) if type.is_block() else ()
        if shape in shapes:
            self.__dict__.update(shapes[shape], handle=handle, type=type, dtype=type.scalar)
            return
        make_tensor(self, handle, type)
        shapes[shape] = {name: value for name, value in vars(self).items() if name not in ("handle", "type", "dtype")}

    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        key = id(element_ty), *(getattr(size, "value", size) for size in shape)
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = element_ty, dict(vars(self))
        self.__dict__.update(blocks[key][1])

    def tuple_of_values(self: Any, args: Any, type: Any = None) -> None:
        if type is None:
            self.values = list(args)
        else:
            make_tuple(self, args, type)

    def get(self: Any, name: str) -> Any:
        if name != "type":
            return get_of_tuple(self, name)
        self.type = type_of_values(self.values)
        return self.type

    yield core.tensor, "__init__", tensor
    yield core.block_type, "__init__", block_type
    yield core.tuple, "__init__", tuple_of_values
    yield core.tuple, "__getattr__", get


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
