"""Run the Triton kernels on CPU tensors in Triton's interpreter, without effect on other tests.

The environment variable ``TRITON_INTERPRET`` decides whether a kernel is interpreted or compiled, when its module is
imported. Torch imports Triton before any file here is collected. So Triton's own functions, such as ``tl.sum``, are
compiled ones, and interpreted kernels cannot call them. The context manager :func:`interpreting` sets the variable and
replaces these functions, but only while a file here is imported or a test here runs.

With a GPU the kernels are compiled: tests marked ``gpu`` run, and the others are skipped. With ``TRITON_INTERPRET=1``
it is the other way round.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels.interpreter import as_on_a_gpu
from hyena_kernels.backends.triton import support as triton_support

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = not torch.cuda.is_available() or triton_support.interpreting()


class Untested(pytest.File):
    """Stands for a test file whose imports would fail."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip("needs triton, which is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Skip every file where there is no Triton."""
    return None if HAS_TRITON else Untested.from_parent(parent, path=module_path)


@contextmanager
def interpreting() -> Iterator[None]:
    """Interpret kernels that are imported in this context, and run those that were imported in it."""
    import triton.language
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    modules = [module for name, module in sys.modules.items() if name.split(".")[:2] == ["triton", "language"]]
    # By identity, because a JITFunction is hashed by its source and all functions that it calls.
    twins: dict[int, InterpretedFunction] = {}
    classes = (triton.language.tensor, triton.language.core.tensor_descriptor_base)
    with pytest.MonkeyPatch.context() as patch, unchanged(*modules, *classes):
        patch.setenv("TRITON_INTERPRET", "1")
        for owner in (*modules, triton.language.tensor):
            for name, function in list(vars(owner).items()):
                if isinstance(function, JITFunction):
                    twin = twins.setdefault(id(function), InterpretedFunction(function.fn))
                    # Python passes the tensor to a method only if the method is a function.
                    patch.setattr(owner, name, _function(twin) if owner is triton.language.tensor else twin)
        with as_on_a_gpu():
            yield


@contextmanager
def unchanged(*owners: Any) -> Iterator[None]:
    """Give modules and classes their attributes back at the end.

    The interpreter exchanges functions of ``triton.language`` at every call of a function within a kernel, and leaves
    some of them so. Kernels that another test compiles in this process would call those. New attributes of modules
    stay, because functions that the interpreter has rewritten need them.
    """
    before = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in before:
            for name in vars(owner).keys() - attributes.keys() if isinstance(owner, type) else ():
                delattr(owner, name)
            for name, value in attributes.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def _function(interpreted: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: interpreted(*args, **kwargs)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Import the test files and their kernels to be interpreted."""
    if not HAS_TRITON or not INTERPRETED:
        return (yield)
    with interpreting():
        return (yield)


@pytest.fixture(autouse=True)
def interpreter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Interpret the kernels that a test calls. Files whose tests call none override it."""
    on_gpu = request.node.get_closest_marker("gpu") is not None
    if on_gpu and INTERPRETED:
        pytest.skip("needs compiled kernels, and TRITON_INTERPRET=1 has them interpreted: unset it")
    if on_gpu:
        yield
        return
    if not INTERPRETED:
        pytest.skip("needs interpreted kernels, and a process with a GPU compiles them: set TRITON_INTERPRET=1")
    with interpreting():
        yield
