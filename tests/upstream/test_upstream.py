"""Other projects' suites, where they are asked for: they take minutes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif("HYENADNA_UPSTREAM" not in os.environ, reason="takes minutes: set HYENADNA_UPSTREAM=1 to run it")
@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_nothing_fails_but_the_named_exceptions(package: str) -> None:
    if importlib.util.find_spec("parameterized") is None:
        pytest.skip("needs parameterized: pip install parameterized")
    script = Path(__file__).with_name("run.py")
    done = subprocess.run([sys.executable, str(script), package], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif("HYENADNA_UPSTREAM" not in os.environ, reason="takes minutes: set HYENADNA_UPSTREAM=1 to run it")
@pytest.mark.parametrize("library", ["flash-fft-conv", "causal-conv1d"])
def test_nothing_fails_on_the_shims_but_what_has_a_reason(library: str) -> None:
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run([sys.executable, str(script), library], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
