"""Compile the CUDA kernels with nvcc beside the other tests."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyena_kernels.testing.resources import cuda as _resources

ROOT = Path(__file__).resolve().parents[4]


ARCHS = (80, 90)

_SCRIPT = f"""
import pickle, sys
from hyena_kernels.testing.resources import cuda as _resources
sys.stdout.buffer.write(pickle.dumps(_resources.measure({ARCHS}, workers=1)))
"""
_compilation = pytest.StashKey[subprocess.Popen[bytes]]()


def _waits(item: pytest.Item) -> bool:
    return "cuda_resources" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that waits for nvcc behind the others."""
    items.sort(key=_waits)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to compile beside the other tests, which leave a core idle: alone it would take a minute and a half."""
    if session.config.option.collectonly or not any(map(_waits, session.items)) or _resources.find_nvcc() is None:
        return
    session.stash[_compilation] = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: os.nice(10),
    )  # fmt: skip


@pytest.fixture
def cuda_resources(request: pytest.FixtureRequest) -> dict[str, dict[int, Any]]:
    """What ``_resources.measure`` says of every kernel on :data:`ARCHS`."""
    process = request.session.stash[_compilation]
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-4000:]
    table: dict[str, dict[int, Any]] = pickle.loads(output)
    return table


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing running behind, whatever ended the session."""
    process = session.stash.get(_compilation, None)
    if process is not None and process.poll() is None:
        process.kill()
