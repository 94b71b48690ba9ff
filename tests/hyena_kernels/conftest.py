"""Fixtures for the tests of the ops: their backends, an unforced choice of backends, a fresh compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hyena_kernels import backend as _backend, use_backend
from hyena_kernels.backends import extension


@pytest.fixture(params=["torch", "cpp"])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test on plain PyTorch, and on the C++ kernels if they are built."""
    if request.param == "cpp":
        cpu = torch.device("cpu")
        reasons = "; ".join(extension.obstacles("cpp", cpu))
        marker = request.node.get_closest_marker("op")
        if marker is None:
            # A test of several ops has the op as a parameter, or a case that begins with it.
            params = request.node.callspec.params
            op = params["op"] if "op" in params else params["case"][0] if "case" in params else None
        else:
            [op] = marker.args
        if op is not None:
            # An op without a derivative has no directions.
            name = op if (op, "torch") in _backend._implementations else f"{op}_fwd"
            reasons = reasons or _backend._reasons(name, "cpp", cpu)
        if reasons:
            pytest.skip(f"backend 'cpp' {reasons}")
    with use_backend(request.param):
        yield


@pytest.fixture
def fresh_dynamo() -> None:
    """Forget the compilations of other tests and the sizes that they saw."""
    torch._dynamo.reset()


@pytest.fixture
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a forced backend, an interpreter or log entries, and restore everything."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(_backend, "_forced", None)
    monkeypatch.setattr(_backend, "_announced", set())
    for registry in ("_implementations", "_supports", "_broken", "_failed"):
        monkeypatch.setattr(_backend, registry, dict(getattr(_backend, registry)))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the registered ops as their plain PyTorch implementations are called."""
    calls: list[str] = []
    for (op, name), function in _backend._implementations.items():
        if name == "torch":

            def record(*args: object, op: str = op, function: _backend.Implementation = function) -> object:
                calls.append(op)
                return function(*args)

            monkeypatch.setitem(_backend._implementations, (op, name), record)
    return calls
