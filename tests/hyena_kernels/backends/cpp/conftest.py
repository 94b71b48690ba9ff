"""Fixtures of the tests of the CPU kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hyena_kernels import use_backend
from hyena_kernels.backends import extension

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def cpp() -> Iterator[None]:
    """Run every op on the C++ kernels."""
    reasons = extension.obstacles("cpp", torch.device("cpu"))
    if reasons:
        pytest.skip(f"backend 'cpp' {'; '.join(reasons)}")
    with use_backend("cpp"):
        yield


@pytest.fixture(params=["avx512", "avx2", "portable"])
def with_instruction_set(request: pytest.FixtureRequest, cpp: None) -> Callable[[str], str]:
    """Runs a script in a process with the kernels of one instruction set. Returns its output."""

    def run(script: str) -> str:
        environment = {**os.environ, "HYENA_CPU_ISA": request.param, "HYENA_BACKEND": "cpp"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        if "this processor has" in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
