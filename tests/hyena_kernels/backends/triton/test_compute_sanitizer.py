"""The Triton kernels on a GPU under the tools of compute-sanitizer, at small sizes of every kind of launch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[4]

SANITIZED = """
import torch
from hyena_kernels import use_backend
from hyena_kernels.testing import (
    OPS, fftconv_inputs, hyena_mixer_inputs, implicit_filter_inputs, short_conv_inputs, value_and_gradients)

def run(op, inputs, **options):
    value_and_gradients(OPS[op].function, inputs, torch.ones((), device="cuda"), **options)

bf16 = {"dtype": torch.bfloat16, "device": "cuda"}
with use_backend("triton"):
    for length, taps, causal in ((200, 200, True), (700, 31, False), (1000, 1000, True), (6200, 6200, True),
                                 (9001, 100, False), (100_000, 100_000, True)):
        run("fftconv", fftconv_inputs(2, 2, length, taps, **bf16), causal=causal)
    run("short_conv", short_conv_inputs(2, 40, 130, **bf16))
    run("hyena_mixer", hyena_mixer_inputs(2, 130, 20, **bf16))
    run("hyena_mixer", hyena_mixer_inputs(1, 6200, 4, **bf16))
    run("implicit_filter", implicit_filter_inputs(70, 130, device="cuda"))
torch.cuda.synchronize()
print("finished")
"""


def sanitizer() -> str:
    beside = [Path(os.environ.get(name, "/usr/local/cuda")) / "bin" for name in ("CUDA_HOME", "CUDA_PATH")]
    found = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, beside)]))
    if found is None:
        pytest.skip("needs compute-sanitizer of the CUDA toolkit, which is neither on the PATH nor in CUDA_HOME/bin")
    return found


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    command = [sanitizer(), "--tool", tool, "--error-exitcode", "99", sys.executable, "-c", SANITIZED]
    # Each tensor has an allocation of its own, so an access beyond its end is an error.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"compute-sanitizer --tool {tool} took more than 300 s")
    output = done.stdout + done.stderr
    if "Device not supported" in output:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, output[-6000:]
    assert "finished" in done.stdout, output[-6000:]
