"""Fixtures and collection rules shared by every test."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Let waiting threads sleep. By default they spin, and take the processor from parallel tests: test_mixer.py and
# test_short_conv.py took 76 s of processor time and now take 7 s, on two cores with other work beside. torch reads this
# when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

fcntl = None
with contextlib.suppress(ImportError):
    # Windows has none, and compiles nothing.
    import fcntl

ROOT = Path(__file__).resolve().parents[1]
SEED = 20230627

# Test tensors are small: more than a few threads cost more time than they save. Parallel test processes share the
# processors, so each takes two threads. With one thread, tests about threads would check nothing.
THREADS = 2 if "PYTEST_XDIST_WORKER" in os.environ else min(torch.get_num_threads(), 4)
torch.set_num_threads(THREADS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first, so that no process ends long after the others. Skip ``gpu`` without a CUDA device."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: torch.cuda.is_available() is False"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    """Several threads where ops run on the CPU. One elsewhere: idle threads of torch spin."""
    place = request.path.relative_to(ROOT / "tests").parts
    on_cpu = place[0] == "hyena_kernels" and not {"triton", "cuda"} & set(place)
    torch.set_num_threads(THREADS if on_cpu else 1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of genomes and reference checkpoints: ``HYENA_SHARED``, else ``../shared`` beside the repository."""
    folder = Path(os.environ.get("HYENA_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the folder of reference data, and {folder} is none: set HYENA_SHARED")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder by name, which the first of the test processes that asks for it fills. The others wait, and read it."""
    base = tmp_path_factory.getbasetemp()
    # Each process of xdist has a folder of its own in the one of the run.
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = place / f"once-{name}", place / f"once-{name}.done"
        with open(place / f"once-{name}.lock", "w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture
def nan_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uninitialised memory hold NaN, so that an element which an op forgets to write is seen.

    Covers floating-point and complex tensors from ``torch.empty``, ``torch.empty_like``, ``torch.empty_strided``,
    ``Tensor.new_empty`` and ``Tensor.new_empty_strided`` called from Python.
    """

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            out = allocate(*args, **kwargs)
            if out.is_floating_point() or out.is_complex():
                with torch.no_grad():
                    out.fill_(float("nan"))
            return out

        return empty

    for owner, name in [
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
        (torch.Tensor, "new_empty_strided"),
    ]:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
