"""Which backend runs, what forces one, and what is said where it cannot run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import hyena_kernels
from hyena_kernels import BackendError, backend, fftconv, set_backend, use_backend
from hyena_kernels.testing import OPS, fftconv_inputs

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
# What runs on every machine without a compiled extension for the op; the others are refused on CPU tensors.
ABSENT = ["triton", "cuda"]


@pytest.fixture(autouse=True)
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a forced backend and with nothing logged yet, and leave no trace."""
    monkeypatch.setattr(backend, "_forced", None)
    monkeypatch.setattr(backend, "_announced", set())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the registered ops as their plain PyTorch implementations are called."""
    calls: list[str] = []
    for (op, name), function in backend._implementations.items():
        if name == "torch":

            def record(*args: object, op: str = op, function: backend.Implementation = function) -> object:
                calls.append(op)
                return function(*args)

            monkeypatch.setitem(backend._implementations, (op, name), record)
    return calls


def call(name: str | None = None) -> torch.Tensor:
    inputs = fftconv_inputs(1, 2, 8)
    return fftconv(inputs["u"].requires_grad_(), inputs["k"], backend=name)


@pytest.mark.parametrize("name", ABSENT)
def test_an_explicit_choice_raises_with_the_reason_and_never_falls_back(name: str, recorded: list[str]) -> None:
    reason = f"backend '{name}' was asked for and cannot run fftconv_fwd: runs on CUDA devices only"
    with pytest.raises(BackendError, match=re.escape(reason)):
        call(name)
    with use_backend(name), pytest.raises(BackendError, match=re.escape(reason)):
        call()
    set_backend(name)
    with pytest.raises(BackendError, match=re.escape(reason)):
        call()
    assert recorded == []


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize("op", OPS)
def test_every_op_refuses_a_backend_that_cannot_run(op: str, name: str) -> None:
    for suffix in ("fwd", "bwd"):
        with pytest.raises(BackendError, match=f"cannot run {op}_{suffix}"):
            backend.resolve(f"{op}_{suffix}", CPU, name)
        assert backend.resolve(f"{op}_{suffix}", CPU, "torch") == "torch"


def test_a_backend_without_an_implementation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(backend._implementations, ("fftconv_fwd", "cpp"), raising=False)
    with pytest.raises(BackendError, match=f"cannot run fftconv_fwd: hyena_kernels {hyena_kernels.__version__} has no"):
        call("cpp")
    # Without a request, the next one in the order of preference runs.
    assert backend.resolve("fftconv_fwd", CPU) == "torch"


def test_the_fastest_that_can_run_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    marker = torch.full((1, 2, 8), 7.0)
    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "cpp"), lambda *args: marker)
    assert torch.equal(call(), marker)
    assert not torch.equal(call("torch"), marker)


def test_a_device_without_backends_of_its_own_runs_torch() -> None:
    assert backend.resolve("fftconv_fwd", torch.device("xpu")) == "torch"


def test_unknown_names_are_refused_where_they_are_given() -> None:
    expected = "unknown backend 'fast': choose one of 'triton', 'cuda', 'cpp', 'torch'"
    with pytest.raises(ValueError, match=expected):
        set_backend("fast")
    with pytest.raises(ValueError, match=expected), use_backend("fast"):
        pytest.fail("the block must not run")
    with pytest.raises(ValueError, match=expected):
        call("fast")
    assert backend.requested(None) == backend.AUTO


def test_the_argument_goes_before_what_is_forced() -> None:
    set_backend("triton")
    assert backend.requested("torch") == "torch"
    assert call("torch").shape == (1, 2, 8)


def test_use_backend_ends_with_its_block() -> None:
    set_backend("torch")
    with use_backend("cuda"):
        assert backend.requested(None) == "cuda"
        with use_backend(None):
            assert backend.requested(None) == backend.AUTO
        assert backend.requested(None) == "cuda"
    assert backend.requested(None) == "torch"
    with pytest.raises(RuntimeError, match="inside"), use_backend("cuda"):
        raise RuntimeError("inside")
    assert backend.requested(None) == "torch"
    set_backend(None)
    assert backend.requested(None) == backend.AUTO


def test_use_backend_holds_in_other_threads() -> None:
    with use_backend("cuda"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(backend.requested, None).result() == "cuda"


def test_backward_runs_on_the_backend_of_its_forward(recorded: list[str]) -> None:
    with use_backend("torch"):
        y = call()
    with use_backend("triton"):
        y.sum().backward()
    assert recorded == ["fftconv_fwd", "fftconv_bwd"]


def test_one_log_line_for_each_choice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        backend.describe()
        assert caplog.messages == []
        for _ in range(3):
            call().sum().backward()
    name = backend.resolve("fftconv_fwd", CPU)
    assert caplog.messages == [f"fftconv_{suffix} on cpu runs on backend {name!r}" for suffix in ("fwd", "bwd")]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_describe_names_every_op_and_backend() -> None:
    text = backend.describe()
    for op in OPS:
        for suffix in ("fwd", "bwd"):
            assert re.search(rf"^  {op}_{suffix} +(cpp|torch)$", text, re.MULTILINE)
    for name in ABSENT:
        assert re.search(rf"^  {name} +not: runs on CUDA devices only", text, re.MULTILINE)
    for part in (hyena_kernels.__version__, torch.__version__, "triton", "C++ extension", "no backend is forced"):
        assert part in text


def test_describe_tells_what_a_forced_backend_will_do() -> None:
    set_backend("triton")
    text = backend.describe()
    assert "backend 'triton' is forced" in text
    assert re.search(r"^  fftconv_fwd +raises: triton runs on CUDA devices only", text, re.MULTILINE)


def python(*arguments: str, forced: str) -> str:
    environment = {**os.environ, "HYENA_BACKEND": forced}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_module_prints_the_description_and_the_environment_forces() -> None:
    printed = python("-m", "hyena_kernels", forced="triton")
    set_backend("triton")
    assert printed.strip() == backend.describe()


WRONG_ENVIRONMENT = """
import importlib, os, sys, torch, hyena_kernels
from hyena_kernels import backend, fftconv
assert "hyena_kernels.testing" not in sys.modules
u, k = torch.ones(1, 1, 2), torch.ones(1, 2)
print(backend.describe().splitlines()[-1])
try:
    fftconv(u, k)
except ValueError as error:
    print(error)
print(fftconv(u, k, backend="torch").flatten().round().tolist())
hyena_kernels.set_backend(None)
print(fftconv(u, k).flatten().round().tolist())
os.environ["HYENA_BACKEND"] = ""
print(importlib.reload(backend).requested(None))
"""


def test_wrong_environment_is_named_and_can_be_overruled() -> None:
    described, error, *results = python("-c", WRONG_ENVIRONMENT, forced="fast").splitlines()
    assert error.startswith("unknown backend 'fast' in the environment variable HYENA_BACKEND: choose one of 'triton',")
    assert described == f"every op raises: {error}"
    assert results == ["[1.0, 2.0]", "[1.0, 2.0]", backend.AUTO]
