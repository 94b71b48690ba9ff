"""A hash of what a Triton kernel does, which comments and the place in the file leave as it is."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import textwrap
from collections.abc import Iterator
from functools import cache
from types import CodeType, ModuleType
from typing import Any

import triton
import triton.language as tl

from hyena_kernels.testing.resources.triton_case import Case


def case_hash(case: Case, arch: int) -> str:
    """A hash of everything that decides what the compiler makes of a configuration.

    These are the kernel, all functions and constants that it uses, the arguments, the architecture and the compiler.
    """
    compiler = (triton.__version__, os.environ.get("TRITON_PTXAS_PATH"))
    options = (case.num_warps, case.num_stages, case.maxnreg)
    decides = [compiler, arch, options, sorted(case.signature.items()), sorted(case.constexprs.items())]
    return hashlib.sha256(repr([*map(repr, decides), *_code(case.kernel)]).encode()).hexdigest()


@cache
def _code(kernel: Any) -> tuple[str, ...]:
    return tuple(sorted(_parts(kernel, set())))


def _parts(kernel: Any, seen: set[int]) -> Iterator[str]:
    """The code of a kernel and of all that it calls, and the constants they use."""
    if id(kernel) in seen:
        return
    seen.add(id(kernel))
    function = kernel.fn
    yield ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield from _part(name, value, seen)
        elif value.__name__.startswith("hyena_kernels."):
            for attribute in names & vars(value).keys():
                yield from _part(f"{name}.{attribute}", vars(value)[attribute], seen)


def _part(name: str, value: Any, seen: set[int]) -> Iterator[str]:
    if inspect.isfunction(getattr(value, "fn", None)):
        yield from _parts(value, seen)
    elif isinstance(value, (bool, int, float, str, tuple, tl.constexpr, tl.dtype)):
        yield f"{name} = {value!r}"
    elif not isinstance(value, ModuleType):
        raise ValueError(f"{name}: a {type(value).__name__} in a kernel, of which there is no hash")


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
