"""The Triton backend on a GPU: errors against float64, and its work together with other parts of torch.

All tests call the public functions and force the backend. Up to L = 4096 the oracle is the definition of the op in
float64, above it ``torch.fft`` in float64. Most time is spent compiling, so several processes of pytest-xdist, with
``-n 8``, may share a GPU. A test that loses the device ends its own process, but no other.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from bench.suite.accuracy import errors_on_channels, faults
from hyena_kernels import fftconv, hyena_mixer, use_backend
from hyena_kernels.testing import (
    OPS,
    Inputs,
    check,
    error_budget,
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    relative_error,
    short_conv_inputs,
    value_and_gradients,
)
from tests.hyena_kernels.gpu import (
    BF16,
    DEVICE,
    FP16,
    FP32,
    case,
    check_activation_checkpointing,
    check_graph,
    check_side_stream,
    gradient_of,
    leaves_of,
    result_shape,
    shape,
    step,
    strided,
)

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[4]
DEFINITION = 4096
"""Longest sequence for an oracle that takes O(L²) operations."""

LENGTHS = (
    *(1, 2, 31, 255, 256, 257, 1000, 1024, 3000, 4096, 4097, 6144, 6145),
    *(8192, 32768, 65537, 1_000_002, 1 << 20, 1 << 22),
)


# The process ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def triton_backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not let plain PyTorch round float32 to TF32, because it sets the budgets."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(autouse=True)
def working_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the process if a test has lost the device. All later tests in it would fail too."""
    yield
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        message = f"{request.node.nodeid} lost the device: {error}"
        if "PYTEST_XDIST_WORKER" not in os.environ:
            pytest.exit(message, returncode=3)
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(message, file=sys.stderr, flush=True)
        # pytest-xdist names the test and starts a new process.
        os._exit(3)


@pytest.fixture
def memory() -> Iterator[Callable[[float], None]]:
    """Skip if fewer GiB are free than a test needs. Of all processes, only one test uses it at a time."""
    with open(Path(tempfile.gettempdir()) / "hyena_kernels_gpu_memory.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def need(gib: float) -> None:
            free = torch.cuda.mem_get_info()[0] / 2**30
            if free < gib:
                pytest.skip(f"needs {gib:g} GiB of free device memory, there are {free:.0f}")

        yield need
        torch.cuda.empty_cache()


# Inputs and errors ---------------------------------------------------------------------------------------------------


def held(op: str, inputs: Inputs, dy: Tensor | None = None, **options: Any) -> None:
    """Compare the errors of values and gradients of an op with their budgets."""
    length = inputs["x"].shape[1] if op == "hyena_mixer" else result_shape(op, inputs)[-1]
    if dy is None and (length <= DEFINITION or op == "implicit_filter"):
        check(op, inputs, **options)
        return
    signal = next(tensor for tensor in inputs.values() if tensor is not None)
    if dy is None:
        dy = torch.randn(result_shape(op, inputs), device=DEVICE).to(signal.dtype)
    channels = range(result_shape(op, inputs)[-1 if op == "hyena_mixer" else -2])
    errors = errors_on_channels(op, inputs, dy, channels, **options)
    assert {"y", "dk" if "k" in inputs else "dweight"} <= errors.keys()
    assert not faults(errors)


def fftconv_case(length: int, taps: int | None = None, **options: Any) -> Inputs:
    batch, channels = shape(length)
    return fftconv_inputs(
        options.pop("batch", batch), options.pop("channels", channels), length, taps, device=DEVICE, **options
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_fftconv(length: int) -> None:
    held("fftconv", fftconv_case(length, dtype=BF16))


@pytest.mark.parametrize("length", [31, 1000, 3000, 4097, 6145, 65537, 1 << 20])
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_fftconv_in_other_dtypes(dtype: torch.dtype, length: int) -> None:
    held("fftconv", fftconv_case(length, dtype=dtype))


@pytest.mark.parametrize("length", [1000, 8192])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_fftconv_with_filters_of_16_bits(dtype: torch.dtype, length: int) -> None:
    held("fftconv", fftconv_case(length, dtype=dtype, filter_dtype=dtype))


@pytest.mark.parametrize(
    ("length", "taps"), [(257, 1), (1000, 2), (1000, 999), (3000, 129), (4097, 1000), (32768, 4096), (1_000_002, 1025)]
)
def test_fftconv_with_short_filters(length: int, taps: int) -> None:
    held("fftconv", fftconv_case(length, taps, dtype=BF16))


@pytest.mark.parametrize(
    ("length", "taps"),
    [
        (1, 1),
        (2, 2),
        (31, 31),
        (1000, 1000),
        (3000, 1000),
        (4097, 4096),
        (6145, 6145),
        (8192, 3),
        (65537, 65537),
        (1 << 20, 1 << 20),
        (2, 3),
        (1024, 2047),
        (6145, 12288),
        (65537, 131073),
    ],
)
def test_two_sided_fftconv(length: int, taps: int) -> None:
    held("fftconv", fftconv_case(length, taps, dtype=BF16), causal=False)


@pytest.mark.parametrize("length", [1000, 3000, 6145])
@pytest.mark.parametrize(
    "absent",
    [("pre_gate",), ("post_gate",), ("pre_gate", "post_gate"), ("pre_gate", "post_gate", "skip")],
    ids=["post alone", "pre alone", "no gate", "nothing"],
)
def test_fftconv_without_gates_and_skip(absent: tuple[str, ...], length: int) -> None:
    held("fftconv", fftconv_case(length, dtype=BF16, **dict.fromkeys(absent, False)))


# Rows share a program if there are some hundred, and slices share the scratch of several passes beyond its bound.
@pytest.mark.parametrize(
    ("batch", "channels", "length"),
    [(8, 300, 257), (7, 300, 1000), (12, 200, 2048), (5, 150, 3000), (16, 40, 8192), (11, 40, 65536), (9, 2, 1 << 20)],
)
def test_fftconv_of_many_rows(batch: int, channels: int, length: int) -> None:
    held("fftconv", fftconv_case(length, batch=batch, channels=channels, dtype=BF16))


@pytest.mark.parametrize("length", [257, 1000, 3000, 6145, 65537])
@pytest.mark.parametrize("layout", ["channel-last", "slice", "expanded"])
def test_fftconv_of_strided_tensors(layout: str, length: int) -> None:
    inputs = fftconv_case(length, dtype=BF16)
    for name in ("u", "pre_gate", "post_gate"):
        inputs[name] = strided(inputs[name], layout)
    inputs["k"] = inputs["k"].t().contiguous().t()
    inputs["D"] = torch.stack((inputs["D"], inputs["D"]), dim=1)[:, 0]
    held("fftconv", inputs, strided(torch.randn(inputs["u"].shape, device=DEVICE).to(BF16), layout))


@pytest.mark.parametrize("length", [1, 2, 31, 257, 1000, 4097, 65537, 1 << 20])
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
def test_short_conv(dtype: torch.dtype, length: int) -> None:
    held("short_conv", short_conv_inputs(*shape(length), length, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize("taps", [1, 2, 8])
def test_short_conv_of_other_taps(taps: int) -> None:
    held("short_conv", short_conv_inputs(2, 150, 1000, taps, dtype=BF16, device=DEVICE))


@pytest.mark.parametrize("layout", ["channel-last", "slice", "expanded"])
def test_short_conv_of_strided_tensors(layout: str) -> None:
    inputs = short_conv_inputs(2, 150, 4097, dtype=BF16, device=DEVICE)
    inputs["x"] = strided(inputs["x"], layout)
    held("short_conv", inputs, strided(torch.randn(2, 150, 4097, device=DEVICE).to(BF16), layout))


def mixer_case(length: int, **options: Any) -> Inputs:
    batch, channels = shape(length)
    return hyena_mixer_inputs(batch, length, channels, device=DEVICE, **{"dtype": BF16, **options})


@pytest.mark.parametrize("length", [1, 2, 31, 257, 1000, 3000, 4097, 8192, 65537, 1_000_002])
def test_hyena_mixer(length: int) -> None:
    held("hyena_mixer", mixer_case(length))


@pytest.mark.parametrize("length", [1000, 8192])
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_hyena_mixer_in_other_dtypes(dtype: torch.dtype, length: int) -> None:
    held("hyena_mixer", mixer_case(length, dtype=dtype))


@pytest.mark.parametrize(
    "options",
    [{"order": 3}, {"taps": 100}, {"bias": False, "skip": False}, {"short_taps": 4}],
    ids=["order 3", "short filters", "no bias and skip", "4 taps"],
)
def test_hyena_mixer_with(options: dict[str, Any]) -> None:
    held("hyena_mixer", mixer_case(3000, **options))


@pytest.mark.parametrize("layout", ["channel-first", "slice"])
def test_hyena_mixer_of_strided_tensors(layout: str) -> None:
    inputs = mixer_case(4097)
    dy = torch.randn(result_shape("hyena_mixer", inputs), device=DEVICE).to(BF16)
    if layout == "channel-first":
        inputs["x"] = inputs["x"].transpose(1, 2).contiguous().transpose(1, 2)
        dy = dy.transpose(1, 2).contiguous().transpose(1, 2)
    else:
        inputs["x"], dy = strided(inputs["x"], "slice"), strided(dy, "slice")
    held("hyena_mixer", inputs, dy)


@pytest.mark.parametrize("length", [1, 31, 257, 1000, 4097, 65537, 1 << 20])
def test_implicit_filter(length: int) -> None:
    inputs = implicit_filter_inputs(150 if length < 100_000 else 40, length, device=DEVICE)
    # The features of positions are not trained by default. A few positions have too few of them for a typical error.
    held("implicit_filter", inputs, frozen=("z", "t") if length < 100 or length > 100_000 else ())


@pytest.mark.parametrize("options", [{"layers": 0}, {"layers": 1}, {"window": False}, {"width": 32}], ids=str)
def test_implicit_filter_with(options: dict[str, Any]) -> None:
    held("implicit_filter", implicit_filter_inputs(150, 1000, device=DEVICE, **options))


def held_far(op: str, inputs: Inputs, dy: Tensor | None = None) -> None:
    """As :func:`held` for the ops of the far field. Long signals have plain PyTorch in float64 for an oracle."""
    length = inputs["u"].shape[2] if op == "far_field_conv" else inputs["x"].shape[1]
    # The definition has all taps of a channel in memory.
    if dy is None and inputs["near"].shape[-2] * length**2 <= 1 << 28:
        check(op, inputs)
        return
    dy = gradient_of(op, inputs) if dy is None else dy
    results = value_and_gradients(OPS[op].function, inputs, dy)
    wide = {name: tensor if tensor is None else tensor.double() for name, tensor in inputs.items()}
    with use_backend("torch"):
        plain = value_and_gradients(OPS[op].function, inputs, dy)
        oracle = value_and_gradients(OPS[op].function, wide, dy)
    assert results.keys() == plain.keys() >= {"y", "dnear", "dnodes"}
    for name, value in results.items():
        assert value.dtype == plain[name].dtype
        assert relative_error(value, oracle[name]) <= error_budget(plain[name], oracle[name]), name


FAR = pytest.mark.parametrize("op", ["far_field_conv", "hyena_mixer_far"])


@FAR
@pytest.mark.parametrize("length", [1, 100, 128, 1000, 4097, 65537, 1_000_002, 1 << 20])
def test_far_field(op: str, length: int) -> None:
    sizes = (2, 20) if length <= DEFINITION else None
    held_far(op, case(op, length, sizes))


@FAR
@pytest.mark.parametrize(("h", "p"), [(32, 2), (32, 8), (64, 12), (128, 8)])
def test_far_field_of_other_blocks(op: str, h: int, p: int) -> None:
    held_far(op, case(op, 20_011, (2, 30), h=h, p=p, spare=5))


@FAR
@pytest.mark.parametrize("length", [1000, 1 << 18])
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_far_field_in_other_dtypes(op: str, dtype: torch.dtype, length: int) -> None:
    held_far(op, case(op, length, (2, 20), dtype=dtype))


@FAR
@pytest.mark.parametrize("layout", ["channel-last", "slice"])
def test_far_field_of_strided_tensors(op: str, layout: str) -> None:
    inputs = case(op, 4097, (2, 40))
    for name in ("u", "pre_gate", "post_gate", "x"):
        if name in inputs:
            inputs[name] = strided(inputs[name], layout)
    held_far(op, inputs, strided(gradient_of(op, inputs), layout))


@pytest.mark.parametrize("absent", [("pre_gate",), ("pre_gate", "post_gate", "skip")], ids=["post alone", "nothing"])
def test_far_field_without_gates_and_skip(absent: tuple[str, ...]) -> None:
    held_far("far_field_conv", case("far_field_conv", 3000, (2, 40), **dict.fromkeys(absent, False)))


@FAR
def test_far_field_of_order_three_and_of_many_rows(op: str) -> None:
    held_far(op, case(op, 9000, (9, 100), **({"order": 3} if op == "hyena_mixer_far" else {})))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("length", [31, 1000, 3000, 4097, 8192, 65537])
def test_every_element_of_fftconv_is_written(length: int) -> None:
    held("fftconv", fftconv_case(length, dtype=BF16))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("length", [31, 1000, 8192])
@FAR
def test_every_element_of_the_far_field_is_written(op: str, length: int) -> None:
    held_far(op, case(op, length, (2, 40), spare=300))


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("length", [31, 1000, 8192])
@pytest.mark.parametrize("op", ["short_conv", "hyena_mixer", "implicit_filter"])
def test_every_element_is_written(op: str, length: int) -> None:
    held(op, case(op, length), **({"frozen": ("z", "t")} if op == "implicit_filter" else {}))


# Beyond 2^31 elements ------------------------------------------------------------------------------------------------


def drawn(*sizes: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> Tensor:
    """Normal numbers drawn on the device. A CPU would take minutes."""
    return torch.randn(sizes, dtype=dtype, device=DEVICE).mul_(scale)


@pytest.mark.parametrize(("channels", "length"), [(256, 4096), (16, 65536)], ids=["one pass", "several passes"])
def test_fftconv_beyond_32_bit_indices(channels: int, length: int, memory: Callable[[float], None]) -> None:
    memory(50)
    sizes = 2049, channels, length
    assert sizes[0] * channels * length > 2**31
    inputs = {"u": drawn(*sizes), "k": drawn(channels, length, dtype=FP32, scale=length**-0.5)}
    inputs |= {"D": drawn(channels, dtype=FP32), "pre_gate": drawn(*sizes), "post_gate": drawn(*sizes)}
    errors = errors_on_channels("fftconv", inputs, drawn(*sizes), [0, channels - 1])
    assert {"y", "du", "dk", "dpre_gate", "dpost_gate"} <= errors.keys()
    assert not faults(errors)


def test_short_conv_beyond_32_bit_indices(memory: Callable[[float], None]) -> None:
    memory(28)
    inputs = {"x": drawn(2049, 256, 4096), "weight": drawn(256, 3, dtype=FP32), "bias": drawn(256, dtype=FP32)}
    errors = errors_on_channels("short_conv", inputs, drawn(2049, 256, 4096), range(0, 256, 15))
    assert {"y", "dx", "dweight"} <= errors.keys()
    assert not faults(errors)


def test_hyena_mixer_beyond_32_bit_indices(memory: Callable[[float], None]) -> None:
    memory(40)
    length, channels = 1 << 20, 128
    inputs = {
        "x": drawn(6, length, 3 * channels),
        "short_weight": drawn(3 * channels, 3, dtype=FP32, scale=3**-0.5),
        "short_bias": drawn(3 * channels, dtype=FP32),
        "k": drawn(1, channels, length, dtype=FP32, scale=length**-0.5),
        "D": drawn(1, channels, dtype=FP32),
    }
    assert inputs["x"].numel() > 2**31
    errors = errors_on_channels("hyena_mixer", inputs, drawn(6, length, channels), [0, channels - 1])
    assert {"y", "dx", "dk"} <= errors.keys()
    assert not faults(errors)


def test_implicit_filter_beyond_32_bit_indices(memory: Callable[[float], None]) -> None:
    memory(40)
    inputs = implicit_filter_inputs(2100, 1 << 20, device=DEVICE)
    errors = errors_on_channels("implicit_filter", inputs, drawn(2100, 1 << 20, dtype=FP32), [0, 2099])
    assert {"y", "dw_out"} <= errors.keys()
    assert not faults(errors)


# NaN, repeats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [257, 1000, 3000, 8192, 65537])
def test_a_nan_reaches_no_other_row_of_fftconv(length: int) -> None:
    inputs = fftconv_case(length, batch=8, channels=80, dtype=BF16)
    dy = torch.randn(8, 80, length, device=DEVICE).to(BF16)
    clean = value_and_gradients(fftconv, inputs, dy)
    inputs["u"][3, 2, length // 2] = float("nan")
    results = value_and_gradients(fftconv, inputs, dy)
    assert results["y"][3, 2, length // 2].isnan()
    for name, value in results.items():
        others = torch.ones(value.shape[:2] if value.dim() == 3 else value.shape[:1], dtype=torch.bool, device=DEVICE)
        others[(3, 2) if value.dim() == 3 else 2] = False
        assert torch.equal(value[others], clean[name][others]), name
        assert clean[name].isfinite().all(), name


@pytest.mark.parametrize("length", [1000, 8192])
def test_a_nan_reaches_no_other_row_of_hyena_mixer(length: int) -> None:
    inputs = hyena_mixer_inputs(3, length, 70, dtype=BF16, device=DEVICE)
    dy = torch.randn(3, length, 70, device=DEVICE).to(BF16)
    clean = value_and_gradients(hyena_mixer, inputs, dy)
    inputs["x"][1, length // 2, 140 + 7] = float("nan")
    results = value_and_gradients(hyena_mixer, inputs, dy)
    assert results["y"][1, length // 2, 7].isnan()
    for name in ("y", "dx"):
        reached = (results[name] != clean[name]).nonzero()
        assert set(reached[:, 0].tolist()) <= {1}, name
        assert set((reached[:, 2] % 70).tolist()) <= {7}, name
    assert set((results["dk"] != clean["dk"]).nonzero()[:, 1].tolist()) == {7}


@pytest.mark.parametrize(
    ("op", "length"),
    [
        *(("fftconv", length) for length in (257, 1000, 3000, 8192, 65537, 1 << 20)),
        *(("short_conv", length) for length in (1000, 65537)),
        *(("hyena_mixer", length) for length in (1000, 8192)),
        *(("implicit_filter", length) for length in (1000, 65537)),
        *(("far_field_conv", length) for length in (1000, 1 << 20)),
        ("hyena_mixer_far", 8192),
    ],
)
def test_a_hundred_repeats_are_bitwise_equal(op: str, length: int) -> None:
    inputs = case(op, length)
    dy = torch.randn(result_shape(op, inputs), device=DEVICE)
    first = value_and_gradients(OPS[op].function, inputs, dy)
    different = dict.fromkeys(first, 0)
    for _ in range(100):
        for name, value in value_and_gradients(OPS[op].function, inputs, dy).items():
            different[name] += not torch.equal(value, first[name])
    assert not any(different.values()), {name: count for name, count in different.items() if count}


# Inside torch --------------------------------------------------------------------------------------------------------

EACH = pytest.mark.parametrize(
    ("op", "length"),
    [
        *(("fftconv", 1000), ("fftconv", 8192), ("short_conv", 1000), ("hyena_mixer", 3000), ("implicit_filter", 1000)),
        *(("far_field_conv", 3000), ("hyena_mixer_far", 3000)),
    ],
)


@EACH
def test_graph_is_captured_and_replayed_with_other_values(op: str, length: int) -> None:
    check_graph(op, case(op, length))


@EACH
def test_side_stream(op: str, length: int) -> None:
    check_side_stream(op, case(op, length))


@pytest.mark.parametrize(
    "op", ["fftconv", "short_conv", "hyena_mixer", "implicit_filter", "far_field_conv", "hyena_mixer_far"]
)
def test_dynamic_compilation_serves_every_length(op: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")

    def function(**tensors: Tensor | None) -> Tensor:
        return 2 * OPS[op].function(**tensors)

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    compilations = []
    for length in (300, 1000, 4097, 6145, 20011):
        inputs = case(op, length, sizes=(2, 50))
        dy = gradient_of(op, inputs)
        expected = value_and_gradients(function, inputs, dy)
        for name, value in value_and_gradients(compiled, inputs, dy).items():
            assert torch.equal(value, expected[name]), f"{name} at L = {length}"
        compilations.append(counter.frame_count)
    # A float argument makes dynamo restart once within the first call.
    assert compilations[0] in (1, 2)
    assert set(compilations) == {compilations[0]}


@EACH
def test_autocast(op: str, length: int) -> None:
    inputs = case(op, length, dtype=FP32)
    with torch.autocast("cuda", dtype=BF16):
        y = OPS[op].function(**inputs)
    # A filter stays in float32. A signal gives the same result as a signal that was cast before.
    signals = () if op == "implicit_filter" else ("u", "x", "pre_gate", "post_gate")
    cast = {name: tensor.to(BF16) if name in signals else tensor for name, tensor in inputs.items()}
    assert y.dtype == (FP32 if op == "implicit_filter" else BF16)
    assert torch.equal(y, OPS[op].function(**cast))


@EACH
def test_activation_checkpointing(op: str, length: int) -> None:
    check_activation_checkpointing(op, case(op, length))


@pytest.mark.parametrize(
    "op", ["fftconv", "short_conv", "hyena_mixer", "implicit_filter", "far_field_conv", "hyena_mixer_far"]
)
def test_peak_memory_at_a_million(op: str, memory: Callable[[float], None]) -> None:
    memory(16)
    length, channels = 1 << 20, 128
    if op == "implicit_filter":
        inputs = implicit_filter_inputs(channels, length, device=DEVICE)
    elif op == "hyena_mixer":
        inputs = {
            "x": drawn(1, length, 3 * channels),
            "short_weight": drawn(3 * channels, 3, dtype=FP32),
            "short_bias": drawn(3 * channels, dtype=FP32),
            "k": drawn(1, channels, length, dtype=FP32, scale=length**-0.5),
            "D": drawn(1, channels, dtype=FP32),
        }
    elif op == "short_conv":
        inputs = {"x": drawn(1, channels, length), "weight": drawn(channels, 3, dtype=FP32)}
    elif op in ("far_field_conv", "hyena_mixer_far"):
        inputs = case(op, length, (1, channels))
    else:
        inputs = {name: drawn(1, channels, length) for name in ("u", "pre_gate", "post_gate")}
        inputs["k"], inputs["D"] = drawn(channels, length, dtype=FP32, scale=1e-3), drawn(channels, dtype=FP32)
    frozen = ("z", "t", "deltas") if op == "implicit_filter" else ()
    for name, tensor in inputs.items():
        tensor.requires_grad_(name not in frozen)
    dy = gradient_of(op, inputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = OPS[op].function(**inputs)
    y.backward(dy)
    torch.cuda.synchronize()
    grads = sum(tensor.nbytes for tensor in inputs.values() if tensor.requires_grad)
    unavoidable = sum(tensor.nbytes for tensor in inputs.values()) + dy.nbytes + y.nbytes + grads
    extra = torch.cuda.max_memory_allocated() - before - y.nbytes - grads
    limit = unavoidable // 4 + (256 << 20)
    assert extra <= limit, (
        f"{extra / 2**20:.0f} MiB beyond {unavoidable / 2**20:.0f} MiB, allowed {limit / 2**20:.0f} MiB"
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@EACH
def test_second_gpu_while_the_first_is_current(op: str, length: int) -> None:
    inputs, dy = case(op, length), gradient_of(op, case(op, length))
    expected = step(op, leaves_of(inputs), dy)
    there = {name: None if tensor is None else tensor.to("cuda:1") for name, tensor in inputs.items()}
    with torch.cuda.device(0):
        results = step(op, leaves_of(there), dy.to("cuda:1"))
    assert {str(value.device) for value in results} == {"cuda:1"}
    for value, wanted in zip(results, expected, strict=True):
        # Two GPUs of one model give the same bits, but the two here may differ.
        torch.testing.assert_close(value.to("cuda:0"), wanted, rtol=2e-2, atol=2e-2 * wanted.abs().max().item())
