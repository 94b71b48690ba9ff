"""``hyena_mixer`` against its steps one by one, in float64 and in every dtype."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from hyena_kernels import fftconv, hyena_mixer, short_conv
from hyena_kernels.testing import check, hyena_mixer_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_products_need_not_fit, assert_refused

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("hyena_mixer")]


# (L, B, d): some hundred elements for every result, so that an error is no matter of chance.
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize(
    ("length", "batch", "channels"), [(1, 64, 32), (2, 64, 32), (3, 64, 32), (7, 32, 32), (100, 4, 32), (1023, 1, 32)]
)
def test_error_is_within_budget(length: int, batch: int, channels: int, order: int) -> None:
    check("hyena_mixer", hyena_mixer_inputs(batch, length, channels, order=order))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("length", "batch", "taps"), [(3, 64, 1), (100, 4, 3), (1023, 1, 3), (1023, 1, 600)])
def test_error_of_short_long_filters_is_within_budget(length: int, batch: int, taps: int, order: int) -> None:
    check("hyena_mixer", hyena_mixer_inputs(batch, length, 32, order=order, taps=taps))


def test_error_is_within_budget_at_a_prime_length() -> None:
    check("hyena_mixer", hyena_mixer_inputs(1, 4099, 4))


@pytest.mark.parametrize(("bias", "skip"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_bias_and_skip(dtype: torch.dtype, bias: bool, skip: bool) -> None:
    for filter_dtype in {dtype, torch.float32}:
        inputs = hyena_mixer_inputs(2, 100, 32, dtype=dtype, filter_dtype=filter_dtype, bias=bias, skip=skip)
        check("hyena_mixer", inputs)


@pytest.mark.parametrize("short_taps", [1, 2, 5, 8])
def test_short_filters(short_taps: int) -> None:
    check("hyena_mixer", hyena_mixer_inputs(8, 50, 32, short_taps=short_taps))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_is_what_its_docstring_says(order: int) -> None:
    inputs = hyena_mixer_inputs(2, 30, 3, order=order, dtype=torch.float64)
    p = short_conv(inputs["x"].transpose(1, 2), inputs["short_weight"], inputs["short_bias"])
    *x, v = p.chunk(order + 1, dim=1)
    for o in range(order - 1):
        v = fftconv(v * x[order - 1 - o], inputs["k"][o], inputs["D"][o])
    expected = (v * x[0]).transpose(1, 2)
    torch.testing.assert_close(hyena_mixer(**inputs), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_cost_one_rounding(dtype: torch.dtype) -> None:
    inputs = hyena_mixer_inputs(1, 200, 8, dtype=dtype, filter_dtype=dtype)
    wide = hyena_mixer(**{name: tensor.float() for name, tensor in inputs.items()})
    difference = (hyena_mixer(**inputs).float() - wide).abs()
    assert (difference <= wide.abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).tiny).all()


def test_is_causal() -> None:
    inputs = hyena_mixer_inputs(1, 40, 3)
    before = hyena_mixer(**inputs)
    inputs["x"] = inputs["x"].clone()
    inputs["x"][:, 25:] += 1
    after = hyena_mixer(**inputs)
    torch.testing.assert_close(after[:, :25], before[:, :25], rtol=0, atol=1e-5)
    assert (after[:, 25:] - before[:, 25:]).abs().max() > 0.1


def test_nan_stays_in_its_channel_and_batch_entry() -> None:
    inputs = hyena_mixer_inputs(3, 50, 4)
    dy = torch.randn(3, 50, 4)
    clean = value_and_gradients(hyena_mixer, inputs, dy)
    # Of the three projections of channel 2, x1.
    inputs["x"][1, 20, 4 + 2] = float("nan")
    results = value_and_gradients(hyena_mixer, inputs, dy)
    channel_of = torch.arange(12) % 4
    hit = {
        "y": torch.zeros(3, 50, 4, dtype=torch.bool).index_put(
            (torch.tensor(1), torch.arange(50), torch.tensor(2)), torch.tensor(True)
        ),
        "dx": (torch.arange(3) == 1)[:, None, None] & (channel_of == 2).expand(3, 50, 12),
        "dshort_weight": (channel_of == 2)[:, None].expand(12, 3),
        "dshort_bias": channel_of == 2,
        "dk": (torch.arange(4) == 2)[None, :, None].expand(1, 4, 50),
        "dD": (torch.arange(4) == 2)[None],
    }
    for name, value in results.items():
        assert value[hit[name]].isnan().any(), name
        assert torch.equal(value[~hit[name]], clean[name][~hit[name]]), name


@pytest.mark.parametrize("order", [2, 3])
def test_backward_gives_what_is_needed_and_nothing_else(order: int) -> None:
    tensors = tuple(hyena_mixer_inputs(2, 37, 3, order=order).values())
    dy = torch.randn(2, 37, 3)
    backward = torch.ops.hyena_kernels.hyena_mixer_bwd
    full = backward(dy, *tensors, [True] * 5, "torch")
    for needs in itertools.product([False, True], repeat=5):
        for grad, expected, needed in zip(backward(dy, *tensors, list(needs), "torch"), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


# Inverse transforms of order 2: the value, the gradient before the filter, the filter's gradient. Sums: per projection.
@pytest.mark.parametrize(
    ("needed", "inverse", "sums"),
    [(range(5), 3, 3), ([0], 2, 0), ([1], 2, 3), ([2], 2, 3), ([3], 1, 0), ([4], 0, 0), ([], 0, 0)],
    ids=["all", "x", "short_weight", "short_bias", "k", "D", "none"],
)
def test_backward_skips_what_is_not_needed(
    needed: Sequence[int], inverse: int, sums: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def counted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        return call

    mixer = sys.modules["hyena_kernels.backends.torch.mixer"]
    monkeypatch.setattr(torch.fft, "irfft", counted(torch.fft.irfft, "inverse"))
    monkeypatch.setattr(mixer, "taps_backward", counted(mixer.taps_backward, "sums"))
    tensors = hyena_mixer_inputs(2, 37, 3).values()
    needs = [index in needed for index in range(5)]
    torch.ops.hyena_kernels.hyena_mixer_bwd(torch.randn(2, 37, 3), *tensors, needs, "torch")
    assert (counts["inverse"], counts["sums"]) == (inverse, sums)


X, W, K = torch.zeros(2, 8, 9), torch.zeros(9, 3), torch.zeros(1, 3, 8)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x rank": ({"x": X[0]}, ValueError, "hyena_mixer: x has shape (8, 9), expected (B, L, (N+1)d)"),
    "width": ({"x": X[..., :8]}, ValueError, "x (B, L, (N+1)d) has shape (2, 8, 8) and k (N-1, d, K) (1, 3, 8)"),
    "order": ({"k": torch.zeros(2, 3, 8)}, ValueError, "k (N-1, d, K) (2, 3, 8): the width of x must be (N+1)d"),
    "no filter": ({"k": torch.zeros(0, 3, 8), "x": X[..., :6]}, ValueError, "k (N-1, d, K) (0, 3, 8)"),
    "K above L": (
        {"k": torch.zeros(1, 3, 9)},
        ValueError,
        "(1, 3, 9): the width of x must be (N+1)d, N ≥ 2, and 1 ≤ K ≤ L",
    ),
    "L of 0": ({"x": X[:, :0]}, ValueError, "has shape (2, 0, 9)"),
    "k rank": ({"k": K[0]}, ValueError, "hyena_mixer: k has shape (3, 8), expected (N-1, d, K)"),
    "short_weight": (
        {"short_weight": W[:8]},
        ValueError,
        "hyena_mixer: short_weight has shape (8, 3), expected ((N+1)d, Ks) = (9, 3)",
    ),
    "short_weight rank": ({"short_weight": W[:, None]}, ValueError, "hyena_mixer: short_weight has shape (9, 1, 3)"),
    "taps": (
        {"short_weight": torch.zeros(9, 9)},
        ValueError,
        "hyena_mixer: short_weight ((N+1)d, Ks) has shape (9, 9): expected 1 ≤ Ks ≤ 8",
    ),
    "short_bias": (
        {"short_bias": torch.zeros(3)},
        ValueError,
        "hyena_mixer: short_bias has shape (3,), expected ((N+1)d,) = (9,)",
    ),
    "D": ({"D": torch.zeros(3)}, ValueError, "hyena_mixer: D has shape (3,), expected (N-1, d)"),
    "D shape": ({"D": torch.zeros(1, 4)}, ValueError, "hyena_mixer: D has shape (1, 4), expected (N-1, d) = (1, 3)"),
    "D number": ({"D": 1.0}, TypeError, "hyena_mixer: D must be a tensor of shape (N-1, d), got float"),
    "x integer": ({"x": X.long()}, TypeError, "hyena_mixer: x (2, 8, 9) has dtype torch.int64"),
    "k dtype": ({"k": K.half()}, TypeError, "hyena_mixer: k (1, 3, 8) has dtype torch.float16, expected float32 or"),
    "D dtype": ({"D": torch.zeros(1, 3).half()}, TypeError, "hyena_mixer: D (1, 3) has dtype torch.float16"),
    "weight dtype": (
        {"short_weight": W.double()},
        TypeError,
        "hyena_mixer: short_weight (9, 3) has dtype torch.float64",
    ),
    "bias dtype": (
        {"short_bias": torch.zeros(9).bfloat16()},
        TypeError,
        "hyena_mixer: short_bias (9,) has dtype torch.bfloat16",
    ),
    "device": (
        {"k": K.to("meta")},
        ValueError,
        "hyena_mixer: all tensors must be on one device, got x (2, 8, 9) on cpu, short_weight (9, 3) on cpu, "
        "k (1, 3, 8) on meta",
    ),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(hyena_mixer, error, message, **{"x": X, "short_weight": W, "short_bias": None, "k": K, **change})


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype, order: int) -> None:
    assert_products_need_not_fit("hyena_mixer", dtype, order)


def test_projections_of_300_in_float16() -> None:
    """By hand: 300 · 300 · 300 · 0.001 = 27,000, and float16 has steps of 16 there."""
    x = torch.full((1, 4, 6), 300.0, dtype=torch.float16)
    y = hyena_mixer(x, torch.ones(6, 1), None, torch.full((1, 2, 1), 1e-3))
    assert y.tolist() == [[[27008.0] * 2] * 4]
