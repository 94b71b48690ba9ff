"""Triton kernels of ``hyena_mixer`` against float64, in the interpreter unless marked ``gpu``.

Most tests take the long convolutions of plain PyTorch, because the interpreter is slow and the Triton ones have their
own tests. Only the tests of everything together use both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import hyena_mixer, use_backend
from hyena_kernels.backends.torch import fftconv as plain
from hyena_kernels.backends.triton import mixer as kernels, short_conv as short_conv_kernels
from hyena_kernels.common.inputs import MixerInputs
from hyena_kernels.testing import check, hyena_mixer_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_products_need_not_fit

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def triton_backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture
def plain_fftconv(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward_into(grads: Any, dy: torch.Tensor, inputs: Any, causal: bool) -> None:
        needs = [grad is not None for grad in grads]
        for grad, result in zip(grads, plain.backward(dy, inputs, causal, needs), strict=True):
            if grad is not None:
                grad.copy_(result)

    def forward_into(y: Tensor, inputs: Any, causal: bool) -> None:
        y.copy_(plain.forward(inputs, causal))

    stand_in = SimpleNamespace(forward=plain.forward, forward_into=forward_into, backward_into=backward_into)
    monkeypatch.setattr(kernels, "fftconv", stand_in)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Set positions and channels of every tile. The interpreter takes as long for a large tile as for a small one."""

    def choose(positions: int, channels: int) -> None:
        for name in kernels.CONFIGS:
            monkeypatch.setitem(kernels.CONFIGS, name, (positions, channels, 4))

    return choose


@pytest.fixture
def projections(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often the projections of every slice of channels are convolved, by its first channel."""
    calls: Counter[int] = Counter()
    project = kernels._project

    def counted(*args: Any) -> Tensor:
        calls[args[-1].start] += 1
        return project(*args)

    monkeypatch.setattr(kernels, "_project", counted)
    return calls


def test_everything_together(tiles: Callable[[int, int], None]) -> None:
    tiles(32, 32)
    check("hyena_mixer", hyena_mixer_inputs(1, 60, 2, taps=30))


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty")
def test_everything_together_in_slices_of_strided_projections(
    monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None], projections: Counter[int]
) -> None:
    tiles(32, 32)
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(kernels, "SLICE_STEP", 3)
    inputs = hyena_mixer_inputs(2, 37, 4, order=3, dtype=torch.bfloat16)
    storage = torch.full((3, 75, 33), float("nan"), dtype=torch.bfloat16)
    inputs["x"] = storage[1:, 1::2, 1::2].copy_(inputs["x"])
    check("hyena_mixer", inputs)
    assert projections == {0: 2, 3: 2}


@pytest.mark.usefixtures("plain_fftconv")
@pytest.mark.parametrize("channels", [20, 40], ids=["narrow", "wide"])
def test_default_tiles(channels: int) -> None:
    check("hyena_mixer", hyena_mixer_inputs(1, 40, channels))


# Lengths around the eight positions of a thread and around the end of a tile, with some hundred elements each.
@pytest.mark.usefixtures("plain_fftconv")
@pytest.mark.parametrize(("length", "short_taps"), [(1, 3), (8, 3), (9, 3), (17, 3), (2, 8), (17, 8), (17, 1)])
def test_error_is_within_budget(length: int, short_taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 256)
    check("hyena_mixer", hyena_mixer_inputs(1, length, 200, short_taps=short_taps))


@pytest.mark.usefixtures("plain_fftconv")
def test_order_four(tiles: Callable[[int, int], None]) -> None:
    tiles(64, 32)
    check("hyena_mixer", hyena_mixer_inputs(1, 60, 20, order=4))


@pytest.mark.usefixtures("plain_fftconv")
@pytest.mark.parametrize(("bias", "skip"), [(True, True), (False, False)], ids=["bias and skip", "neither"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_dtypes_bias_and_skip(dtype: torch.dtype, bias: bool, skip: bool, tiles: Callable[[int, int], None]) -> None:
    tiles(64, 64)
    filter_dtype = dtype if bias else torch.float32
    inputs = hyena_mixer_inputs(1, 60, 50, dtype=dtype, filter_dtype=filter_dtype, bias=bias, skip=skip)
    check("hyena_mixer", inputs)


# The first one with the long convolutions of Triton too.
@pytest.mark.parametrize(("dtype", "order"), [(torch.float16, 2), (torch.bfloat16, 3)], ids=str)
def test_products_need_not_fit_the_dtype(
    dtype: torch.dtype, order: int, tiles: Callable[[int, int], None], request: pytest.FixtureRequest
) -> None:
    tiles(64, 32)
    if order == 3:
        request.getfixturevalue("plain_fftconv")
    assert_products_need_not_fit("hyena_mixer", dtype, order, channels=4)


@pytest.mark.usefixtures("plain_fftconv")
def test_strides_change_no_bit(tiles: Callable[[int, int], None]) -> None:
    tiles(32, 32)
    inputs = hyena_mixer_inputs(2, 20, 10)
    dy = torch.randn(2, 10, 20).transpose(1, 2)
    plain = value_and_gradients(hyena_mixer, inputs, dy.contiguous())
    storage = torch.full((3, 45, 70), float("nan"))
    storage[1:, 1:41:2, 1:61:2] = inputs["x"]
    inputs["x"] = storage[1:, 1:41:2, 1:61:2]
    inputs["short_weight"] = inputs["short_weight"].t().contiguous().t()
    inputs["short_bias"] = torch.stack((inputs["short_bias"], inputs["short_bias"]), dim=1)[:, 0]
    inputs["k"] = inputs["k"].transpose(1, 2).contiguous().transpose(1, 2)
    for name, value in value_and_gradients(hyena_mixer, inputs, dy).items():
        assert torch.equal(value, plain[name]), name


@pytest.mark.usefixtures("plain_fftconv", "nan_empty")
def test_slices_of_channels_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None], projections: Counter[int]
) -> None:
    tiles(32, 32)
    inputs = hyena_mixer_inputs(1, 20, 32, order=3)
    dy = torch.randn(1, 20, 32)
    whole = value_and_gradients(hyena_mixer, inputs, dy)
    projections.clear()
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 0)
    for name, value in value_and_gradients(hyena_mixer, inputs, dy).items():
        assert torch.equal(value, whole[name]), name
    assert projections == {0: 2, 16: 2}


@pytest.mark.parametrize("length", [1000, 1 << 20])
@pytest.mark.parametrize("batch", [1, 4])
def test_temporary_memory_is_bounded(length: int, batch: int) -> None:
    x = torch.empty((1, 1, 1), dtype=torch.bfloat16).expand(batch, length, 3 * 256)
    # Four tensors in float32 and one in bfloat16, as backward has them.
    channel_bytes = 18 * batch * length
    widths = [c.stop - c.start for c in kernels._slices(x, 256, channel_bytes)]
    assert sum(widths) == 256
    assert all(width % 16 == 0 for width in widths)
    assert max(widths) * channel_bytes <= (512 << 20) + x.nbytes // 4
    assert len(widths) == 1 if length == 1000 else min(widths) >= 16


@pytest.mark.usefixtures("plain_fftconv")
def test_one_program_goes_over_many_tiles(monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 64)
    monkeypatch.setattr(short_conv_kernels, "PROGRAMS", 2)
    check("hyena_mixer", hyena_mixer_inputs(1, 40, 50))


@pytest.mark.usefixtures("plain_fftconv")
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_go_where_plain_pytorch_has_them(bad: float, tiles: Callable[[int, int], None]) -> None:
    tiles(32, 32)
    inputs = hyena_mixer_inputs(2, 20, 4)
    dy = torch.randn(2, 20, 4)
    clean = value_and_gradients(hyena_mixer, inputs, dy)
    for part in range(3):
        inputs["x"][1, 19, 4 * part + part] = bad
    results = value_and_gradients(hyena_mixer, inputs, dy)
    with use_backend("torch"):
        plain = value_and_gradients(hyena_mixer, inputs, dy)
    for name, value in results.items():
        finite = plain[name].isfinite()
        assert finite.any(), name
        assert not finite.all(), name
        assert torch.equal(value.isnan(), plain[name].isnan()), name
        assert torch.equal(value.isinf(), plain[name].isinf()), name
        assert torch.equal(value[finite], clean[name][finite]), name


@pytest.mark.usefixtures("plain_fftconv")
def test_backward_gives_what_is_needed_and_nothing_else(tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    tensors = tuple(hyena_mixer_inputs(1, 12, 3, order=3).values())
    dy = torch.randn(1, 12, 3)
    full = kernels.backward(dy, MixerInputs(*tensors), [True] * 5)
    for needs in [[False] * 5, [True, False, True, False, True], [False, True, False, True, False]]:
        for grad, expected, needed in zip(kernels.backward(dy, MixerInputs(*tensors), needs), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


# Order 2: launches of the backward kernel of the short convolution, and gradients requested of the long convolution.
@pytest.mark.usefixtures("plain_fftconv")
@pytest.mark.parametrize(
    ("needed", "launches", "asked"),
    [
        (range(5), 2, [True, True, True, False, True]),
        ([0], 2, [True, False, False, False, True]),
        ([2], 2, [True, False, False, False, True]),
        ([3], 0, [False, True, False, False, False]),
        ([4], 0, [False, False, True, False, False]),
        ([], 0, None),
    ],
    ids=["all", "x", "short_bias", "k", "D", "none"],
)
def test_backward_skips_what_is_not_needed(
    needed: list[int],
    launches: int,
    asked: list[bool] | None,
    monkeypatch: pytest.MonkeyPatch,
    tiles: Callable[[int, int], None],
) -> None:
    tiles(16, 32)
    calls: list[Any] = []
    long, short = kernels.fftconv.backward_into, kernels.convolve_backward

    def long_backward(grads: Any, *args: Any) -> Any:
        calls.append([grad is not None for grad in grads])
        return long(grads, *args)

    def short_backward(*args: Any, **options: Any) -> Any:
        calls.append("short")
        return short(*args, **options)

    monkeypatch.setattr(kernels.fftconv, "backward_into", long_backward)
    monkeypatch.setattr(kernels, "convolve_backward", short_backward)
    tensors = hyena_mixer_inputs(1, 12, 3).values()
    kernels.backward(torch.randn(1, 12, 3), MixerInputs(*tensors), [index in needed for index in range(5)])
    assert calls == ([] if asked is None else [asked]) + ["short"] * launches


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "batch", "channels"), [(1000, 2, 128), (4097, 1, 100), (1 << 16, 1, 8)])
def test_error_is_within_budget_on_a_gpu(length: int, batch: int, channels: int, dtype: torch.dtype) -> None:
    check("hyena_mixer", hyena_mixer_inputs(batch, length, channels, dtype=dtype, device="cuda"))


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = hyena_mixer_inputs(2, 100_003, 100, dtype=torch.bfloat16, device="cuda")
    dy = torch.randn(2, 100_003, 100, device="cuda")
    first = value_and_gradients(hyena_mixer, inputs, dy)
    for _ in range(100):
        for name, value in value_and_gradients(hyena_mixer, inputs, dy).items():
            assert torch.equal(value, first[name]), name
