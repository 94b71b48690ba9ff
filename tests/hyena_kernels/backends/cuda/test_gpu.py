"""The CUDA backend on a GPU: errors against float64, and its work together with other parts of torch.

Everything goes through the public functions with the backend forced. The oracle is the reference with ``torch.fft`` in
float64. What each kernel computes at small sizes is tested without a GPU, in test_emulation.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.suite.accuracy import errors_on_channels, faults
from hyena_kernels import fftconv, use_backend
from hyena_kernels.backends import extension
from hyena_kernels.testing import (
    OPS,
    Inputs,
    check,
    fftconv_inputs,
    value_and_gradients,
)
from tests.hyena_kernels.gpu import (
    BF16,
    DEVICE,
    FP16,
    FP32,
    FP64,
    assert_equal,
    case,
    check_activation_checkpointing,
    check_graph,
    check_side_stream,
    gradient_of,
    leaves_of,
    step,
    strided,
)

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[4]

ROW_LENGTHS = (1, 2, 31, 256, 257, 700, 1000, 1280, 1500, 2000, 2500, 3000, 4096, 5000, 6144, 8191, 8192)
LONG_LENGTHS = (8193, 10_000, 32768, 65537, 1_000_002, 1 << 20)


@pytest.fixture(autouse=True)
def cuda_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    reasons = extension.obstacles("cuda", torch.device("cuda"))
    if reasons:
        pytest.skip(f"backend 'cuda' {'; '.join(reasons)}")
    # Plain PyTorch sets the budgets, and the filter's backward pass uses torch's products. So neither may use TF32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    with use_backend("cuda"):
        yield
    torch.cuda.synchronize()


def held(op: str, inputs: Inputs, dy: Tensor | None = None, **options: Any) -> None:
    """Check the errors of an op and its gradients against their budgets."""
    if op == "implicit_filter":
        check(op, inputs, **options)
        return
    channels = inputs["k"].shape[-2] if "k" in inputs else inputs["x"].shape[1]
    dy = gradient_of(op, inputs) if dy is None else dy
    errors = errors_on_channels(op, inputs, dy, range(channels), **options)
    assert {"y", "dk" if "k" in inputs else "dweight"} <= errors.keys()
    assert not faults(errors)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [BF16, FP32, FP16], ids=str)
@pytest.mark.parametrize("length", [*ROW_LENGTHS, *LONG_LENGTHS])
def test_fftconv(length: int, dtype: torch.dtype) -> None:
    held("fftconv", case("fftconv", length, dtype=dtype))


@pytest.mark.parametrize("length", [1, 31, 300, 1000])
def test_fftconv_in_float64(length: int) -> None:
    check("fftconv", fftconv_inputs(2, 150, length, dtype=FP64, device=DEVICE))


@pytest.mark.parametrize(
    ("length", "taps"),
    [(2, 2), (31, 31), (257, 1), (1000, 999), (3000, 129), (4097, 4096), (8192, 8192), (8193, 3), (65537, 65537)],
)
@pytest.mark.parametrize("causal", [True, False])
def test_fftconv_with_other_filters(length: int, taps: int, causal: bool) -> None:
    held("fftconv", case("fftconv", length, taps=taps, filter_dtype=BF16 if causal else None), causal=causal)


@pytest.mark.parametrize("length", [1, 2, 300, 1024, 8192, 8193, 65537])
def test_fftconv_with_every_lag(length: int) -> None:
    """A two-sided filter longer than the transform."""
    held("fftconv", case("fftconv", length, taps=2 * length - 1), causal=False)


@pytest.mark.parametrize("length", [1000, 6145, 8193])
@pytest.mark.parametrize("absent", [("pre_gate",), ("post_gate",), ("pre_gate", "post_gate", "skip")], ids=str)
def test_fftconv_without_gates_and_skip(absent: tuple[str, ...], length: int) -> None:
    held("fftconv", case("fftconv", length, **dict.fromkeys(absent, False)))


@pytest.mark.parametrize(
    ("batch", "channels", "length"), [(33, 1, 200), (8, 300, 257), (16, 40, 8192), (11, 40, 65536), (9, 2, 1 << 20)]
)
def test_fftconv_of_many_rows(batch: int, channels: int, length: int) -> None:
    held("fftconv", case("fftconv", length, (batch, channels)))


@pytest.mark.parametrize("length", [257, 3000, 8193])
@pytest.mark.parametrize("layout", ["channel-last", "slice", "expanded"])
def test_fftconv_of_strided_tensors(layout: str, length: int) -> None:
    inputs = case("fftconv", length)
    for name in ("u", "pre_gate", "post_gate"):
        inputs[name] = strided(inputs[name], layout)
    inputs["k"] = inputs["k"].t().contiguous().t()
    held("fftconv", inputs, strided(gradient_of("fftconv", inputs), layout))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [BF16, FP32, FP16], ids=str)
@pytest.mark.parametrize(
    ("length", "taps"), [(1, 3), (31, 2), (257, 8), (1000, 1), (4097, 3), (65537, 3), (1 << 20, 4)]
)
def test_short_conv(length: int, taps: int, dtype: torch.dtype) -> None:
    held("short_conv", case("short_conv", length, taps=taps, dtype=dtype))


@pytest.mark.parametrize("layout", ["channel-last", "slice", "expanded"])
def test_short_conv_of_strided_tensors(layout: str) -> None:
    inputs = case("short_conv", 4097)
    inputs["x"] = strided(inputs["x"], layout)
    held("short_conv", inputs, strided(gradient_of("short_conv", inputs), layout))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("dtype", [BF16, FP32, FP16], ids=str)
@pytest.mark.parametrize("length", [1, 31, 257, 3000, 8193, 65537])
def test_hyena_mixer(length: int, dtype: torch.dtype) -> None:
    held("hyena_mixer", case("hyena_mixer", length, dtype=dtype))


@pytest.mark.parametrize(
    "options", [{"order": 3}, {"taps": 100}, {"bias": False, "skip": False}, {"short_taps": 4}], ids=str
)
def test_hyena_mixer_with(options: dict[str, Any]) -> None:
    held("hyena_mixer", case("hyena_mixer", 3000, **options))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("length", [1, 31, 257, 1000, 65537, 1 << 20])
def test_implicit_filter(length: int) -> None:
    inputs = case("implicit_filter", length, (1, 150 if length < 100_000 else 40))
    # A few positions have too few features for a typical error of their gradients. A million take too much memory.
    held("implicit_filter", inputs, frozen=("z", "t") if length < 100 or length > 100_000 else ())


@pytest.mark.parametrize("options", [{"layers": 0}, {"window": False}, {"width": 32}, {"width": 128}], ids=str)
def test_implicit_filter_with(options: dict[str, Any]) -> None:
    held("implicit_filter", case("implicit_filter", 1000, (1, 150), **options))


# NaN, repeats, memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [257, 1000, 8192, 8193])
def test_a_nan_reaches_no_other_row(length: int) -> None:
    inputs = case("fftconv", length, (8, 80))
    dy = gradient_of("fftconv", inputs)
    clean = value_and_gradients(fftconv, inputs, dy)
    inputs["u"][3, 2, length // 2] = float("nan")
    for name, value in value_and_gradients(fftconv, inputs, dy).items():
        others = torch.ones(value.shape[:2] if value.dim() == 3 else value.shape[:1], dtype=torch.bool, device=DEVICE)
        others[(3, 2) if value.dim() == 3 else 2] = False
        assert torch.equal(value[others], clean[name][others]), name


EACH = pytest.mark.parametrize(
    ("op", "length"),
    [
        ("fftconv", 257),
        ("fftconv", 8192),
        ("fftconv", 65537),
        ("short_conv", 1000),
        ("hyena_mixer", 3000),
        ("hyena_mixer", 8193),
        ("implicit_filter", 1000),
    ],
)


@EACH
def test_a_hundred_repeats_are_bitwise_equal(op: str, length: int) -> None:
    leaves, dy = leaves_of(case(op, length)), gradient_of(op, case(op, length))
    first = step(op, leaves, dy)
    for _ in range(100):
        assert_equal(step(op, leaves, dy), first)


@EACH
def test_graph_is_captured_and_replayed_with_other_values(op: str, length: int) -> None:
    check_graph(op, case(op, length))


@EACH
def test_side_stream(op: str, length: int) -> None:
    check_side_stream(op, case(op, length))


@EACH
def test_activation_checkpointing(op: str, length: int) -> None:
    check_activation_checkpointing(op, case(op, length))


@pytest.mark.parametrize("op", ["fftconv", "short_conv", "hyena_mixer", "implicit_filter"])
def test_dynamic_compilation_serves_every_length(op: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(OPS[op].function, fullgraph=True, dynamic=True)
    for length in (300, 1000, 4097, 8193):
        inputs = case(op, length, (2, 50))
        dy = gradient_of(op, inputs)
        expected = value_and_gradients(OPS[op].function, inputs, dy)
        for name, value in value_and_gradients(compiled, inputs, dy).items():
            assert torch.equal(value, expected[name]), f"{name} at L = {length}"


@pytest.mark.parametrize("length", [8192, 1 << 20])
def test_scratch_is_bounded(length: int) -> None:
    inputs = {name: torch.randn(1, 128, length, device=DEVICE, dtype=BF16) for name in ("u", "pre_gate", "post_gate")}
    inputs["k"] = torch.randn(128, length, device=DEVICE) * 1e-3
    for tensor in inputs.values():
        tensor.requires_grad_()
    dy = torch.randn(1, 128, length, device=DEVICE, dtype=BF16)
    # The first call makes cuFFT's plans.
    fftconv(**inputs).backward(dy)
    for tensor in inputs.values():
        tensor.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = fftconv(**inputs)
    y.backward(dy)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - y.nbytes - sum(tensor.nbytes for tensor in inputs.values())
    assert extra <= (256 << 20) + (64 << 20)


@pytest.mark.parametrize(("channels", "length"), [(256, 4096), (16, 65536)], ids=["on chip", "by cuFFT"])
def test_fftconv_beyond_32_bit_indices(channels: int, length: int) -> None:
    if torch.cuda.mem_get_info()[0] < 50 << 30:
        pytest.skip("needs 50 GiB of free device memory")
    sizes = 2049, channels, length
    inputs = {name: torch.randn(sizes, dtype=BF16, device=DEVICE) for name in ("u", "pre_gate", "post_gate")}
    inputs["k"] = torch.randn(channels, length, device=DEVICE) * length**-0.5
    errors = errors_on_channels("fftconv", inputs, torch.randn(sizes, dtype=BF16, device=DEVICE), [0, channels - 1])
    assert not faults(errors)


SANITIZED = """
import torch
from hyena_kernels import use_backend
from hyena_kernels.testing import (
    OPS, fftconv_inputs, hyena_mixer_inputs, implicit_filter_inputs, short_conv_inputs, value_and_gradients)

def run(op, inputs, **options):
    value_and_gradients(OPS[op].function, inputs, torch.ones((), device="cuda"), **options)

bf16 = {"dtype": torch.bfloat16, "device": "cuda"}
with use_backend("cuda"):
    for length, taps, causal in ((200, 200, True), (500, 31, False), (700, 700, True), (1100, 1100, True),
                                 (5000, 5000, False), (8192, 100, True), (9001, 100, False)):
        run("fftconv", fftconv_inputs(3, 3, length, taps, **bf16), causal=causal)
    run("short_conv", short_conv_inputs(2, 40, 130, **bf16))
    run("hyena_mixer", hyena_mixer_inputs(2, 130, 20, **bf16))
    run("hyena_mixer", hyena_mixer_inputs(1, 300, 4, order=3, device="cuda"))
    run("implicit_filter", implicit_filter_inputs(70, 130, device="cuda"))
torch.cuda.synchronize()
print("finished")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    beside = [Path(os.environ.get(name, "/usr/local/cuda")) / "bin" for name in ("CUDA_HOME", "CUDA_PATH")]
    found = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, beside)]))
    if found is None:
        pytest.skip("needs compute-sanitizer of the CUDA toolkit, which is neither on the PATH nor in CUDA_HOME/bin")
    command = [found, "--tool", tool, "--error-exitcode", "99", sys.executable, "-c", SANITIZED]
    # Each tensor has an allocation of its own, so an access beyond its end is an error.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    output = done.stdout + done.stderr
    if "Device not supported" in output:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, output[-6000:]
    assert "finished" in done.stdout, output[-6000:]
