"""Which backend runs after Triton has failed on this machine."""

from __future__ import annotations

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hyena_kernels import BackendError, backend, use_backend
from hyena_kernels.backends import extension
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.testing import OPS
from tests.hyena_kernels.helpers import small_fftconv as call

pytestmark = pytest.mark.usefixtures("unforced")


@pytest.fixture
def failing_triton(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Put Triton first on the CPU. When called, it raises the first error of the list."""
    errors: list[Exception] = [RuntimeError("Failed to find C compiler.\nPlease specify via CC")]

    def fail(*args: object) -> object:
        raise errors[0]

    monkeypatch.setattr(triton_support, "obstacles", lambda device: [])
    monkeypatch.setitem(backend.PREFERENCE, "cpu", ("triton", "torch"))
    for op in (f"{op}_{suffix}" for op in OPS for suffix in ("fwd", "bwd")):
        monkeypatch.setitem(backend._implementations, (op, "triton"), fail)
        monkeypatch.setitem(backend._supports, (op, "triton"), lambda *args: None)
    return errors


def test_what_fails_to_compile_is_passed_over_and_told_once(
    failing_triton: list[Exception], recorded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hyena_kernels"):
        for _ in range(2):
            call().sum().backward()
    assert recorded == ["fftconv_fwd", "fftconv_bwd"] * 2
    told = [record for record in caplog.records if "runs on backend 'torch'" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING] * 2
    reason = "not on 'triton': failed to run here: RuntimeError: Failed to find C compiler. Please specify via CC"
    assert all(reason in record.message for record in told)
    assert "triton                   not for fftconv_bwd, fftconv_fwd: failed to run here" in backend.describe()
    with use_backend("triton"):
        assert "failed to run here" not in backend.describe()


def test_what_was_asked_for_is_not_passed_over(failing_triton: list[Exception], recorded: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Failed to find C compiler"):
            call("triton")
    with use_backend("triton"), pytest.raises(RuntimeError, match="Failed to find C compiler"):
        call()
    assert recorded == []


def test_threads_that_fail_at_the_same_time_all_take_the_next_backend(
    monkeypatch: pytest.MonkeyPatch, failing_triton: list[Exception], recorded: list[str]
) -> None:
    both = threading.Barrier(2)

    def fail(*args: object) -> object:
        both.wait(timeout=60)
        raise failing_triton[0]

    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "triton"), fail)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(call) for _ in range(2)]
        assert torch.equal(results[0].result(), results[1].result())
    assert recorded == ["fftconv_fwd"] * 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too much"),
        BackendError("no"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
    ids=["memory", "backend", "memory of Triton", "fault"],
)
def test_what_another_backend_would_not_mend_is_raised(
    failing_triton: list[Exception], recorded: list[str], error: Exception
) -> None:
    failing_triton[0] = error
    with pytest.raises(type(error), match=re.escape(str(error))):
        call()
    assert recorded == []
    failing_triton[0] = RuntimeError("Failed to find C compiler")
    call()
    assert recorded == ["fftconv_fwd"]


def test_the_backend_that_was_taken_instead_may_fail(
    monkeypatch: pytest.MonkeyPatch, failing_triton: list[Exception]
) -> None:
    def fail(*args: object) -> object:
        raise RuntimeError("wrong")

    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "torch"), fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="wrong"):
            call()


def test_an_error_of_another_backend_is_raised(monkeypatch: pytest.MonkeyPatch, recorded: list[str]) -> None:
    def fail(*args: object) -> object:
        raise RuntimeError("wrong")

    monkeypatch.setitem(backend._implementations, ("fftconv_fwd", "cpp"), fail)
    monkeypatch.setattr(extension, "obstacles", lambda backend, device: [])
    with pytest.raises(RuntimeError, match="wrong"):
        call()
    assert recorded == []
