"""``hyena_mixer_far`` against its steps one by one, and against ``hyena_mixer`` with the same filters."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyena_kernels import far_field_conv, far_field_filter, hyena_mixer, hyena_mixer_far, implicit_filter, short_conv
from hyena_kernels.common.features import features_at
from hyena_kernels.testing import (
    check,
    hyena_mixer_far_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    relative_error,
    value_and_gradients,
)
from tests.hyena_kernels.helpers import assert_computed_in_float32, assert_refused, assert_same

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("hyena_mixer_far")]


# (L, B, d, h, p): some hundred elements for every result, so that an error is no matter of chance.
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    ("length", "batch", "channels", "h", "p"),
    [
        (1, 64, 32, 8, 4),
        (7, 32, 32, 8, 4),
        (8, 32, 32, 8, 4),
        (9, 32, 32, 8, 4),
        (100, 4, 32, 16, 6),
        (257, 1, 32, 32, 8),
    ],
)
def test_error_is_within_budget(length: int, batch: int, channels: int, h: int, p: int, order: int) -> None:
    check("hyena_mixer_far", hyena_mixer_far_inputs(batch, length, channels, order=order, h=h, p=p))


@pytest.mark.parametrize(("bias", "skip"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_bias_and_skip(dtype: torch.dtype, bias: bool, skip: bool) -> None:
    for filter_dtype in {dtype, torch.float32}:
        inputs = hyena_mixer_far_inputs(2, 53, 32, dtype=dtype, filter_dtype=filter_dtype, bias=bias, skip=skip)
        check("hyena_mixer_far", inputs)


@pytest.mark.parametrize("short_taps", [1, 2, 8])
def test_short_filters(short_taps: int) -> None:
    check("hyena_mixer_far", hyena_mixer_far_inputs(8, 30, 32, short_taps=short_taps))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_is_what_its_docstring_says(order: int) -> None:
    inputs = hyena_mixer_far_inputs(2, 30, 3, order=order, dtype=torch.float64)
    p = short_conv(inputs["x"].transpose(1, 2), inputs["short_weight"], inputs["short_bias"])
    *x, v = p.chunk(order + 1, dim=1)
    for o in range(order - 1):
        v = far_field_conv(v * x[order - 1 - o], inputs["near"][o], inputs["nodes"][o], inputs["D"][o])
    torch.testing.assert_close(hyena_mixer_far(**inputs), (v * x[0]).transpose(1, 2), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_smooth_filters_are_those_of_hyena_mixer(order: int) -> None:
    """Values and every gradient, down to the parameters of the filters' network, in float64."""
    length, channels, h, p = 700, 3, 16, 8
    steps = order - 1
    network = implicit_filter_inputs(steps * channels, 2, width=16, dtype=torch.float64)
    del network["z"], network["t"]
    # At this length, frequencies of 10 would be rough.
    network["freq"] = network["freq"] / 10
    z = features_at(torch.arange(length, dtype=torch.float64), length, 5)
    mixer = hyena_mixer_inputs(2, length, channels, order=order, dtype=torch.float64)
    del mixer["k"]
    inputs = {**mixer, **network}

    def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {name: tensors[name] for name in mixer}, {name: tensors[name] for name in network}

    def exact(**tensors: Tensor) -> Tensor:
        signals, parameters = split(tensors)
        k = implicit_filter(z, t=z[:, 0].contiguous(), **parameters)
        return hyena_mixer(k=k.unflatten(0, (steps, channels)), **signals)

    def far(**tensors: Tensor) -> Tensor:
        signals, parameters = split(tensors)
        made = far_field_filter(**parameters, length=length, seq_len=length, h=h, p=p, dtype=torch.float64)
        near, nodes = (each.unflatten(0, (steps, channels)) for each in made)
        return hyena_mixer_far(near=near, nodes=nodes, **signals)

    dy = torch.randn(2, length, channels, dtype=torch.float64)
    expected = value_and_gradients(exact, inputs, dy)
    results = value_and_gradients(far, inputs, dy)
    assert results.keys() == expected.keys() == {"y", *(f"d{name}" for name in inputs)}
    for name, value in results.items():
        assert relative_error(value, expected[name]) < 1e-10, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_cost_one_rounding(dtype: torch.dtype) -> None:
    inputs = hyena_mixer_far_inputs(1, 100, 8, dtype=dtype)
    wide = hyena_mixer_far(**{name: tensor.float() for name, tensor in inputs.items()})
    difference = (hyena_mixer_far(**inputs).float() - wide).abs()
    assert (difference <= wide.abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype, order: int) -> None:
    inputs = hyena_mixer_far_inputs(1, 40, 16, order=order, dtype=dtype)
    inputs["x"] = 300 + 30 * inputs["x"]
    weight = torch.zeros_like(inputs["short_weight"])
    weight[:, -1] = 1
    # Gate 0 is 90000.
    weight[:16, -1] = 300
    inputs["short_weight"], inputs["short_bias"] = weight, None
    for name in ("near", "nodes", "D"):
        inputs[name] = inputs[name].clone()
        inputs[name][-1] *= 3e-7 / 300 ** (order - 2)
    assert_computed_in_float32("hyena_mixer_far", inputs)


def test_is_causal() -> None:
    inputs = hyena_mixer_far_inputs(1, 60, 3, dtype=torch.float64)
    before = hyena_mixer_far(**inputs)
    inputs["x"] = inputs["x"].clone()
    inputs["x"][:, 35:] += 1
    after = hyena_mixer_far(**inputs)
    torch.testing.assert_close(after[:, :35], before[:, :35], rtol=0, atol=1e-12)
    assert (after[:, 35:] - before[:, 35:]).abs().max() > 0.1


def test_nan_stays_in_its_channel_and_batch_entry() -> None:
    inputs = hyena_mixer_far_inputs(3, 50, 4)
    dy = torch.randn(3, 50, 4)
    clean = value_and_gradients(hyena_mixer_far, inputs, dy)
    # Of the three projections of channel 2, x1.
    inputs["x"][1, 20, 4 + 2] = float("nan")
    results = value_and_gradients(hyena_mixer_far, inputs, dy)
    of_channel, of_entry = torch.arange(12) % 4 == 2, torch.arange(3) == 1
    channel = torch.arange(4) == 2
    hit = {
        "y": of_entry[:, None, None] & channel,
        "dx": of_entry[:, None, None] & of_channel,
        "dshort_weight": of_channel[:, None],
        "dshort_bias": of_channel,
        "dnear": channel[:, None],
        "dnodes": channel[:, None, None],
        "dD": channel,
    }
    for name, value in results.items():
        rows = hit[name].expand_as(value)
        assert value[rows].isnan().any(), name
        assert torch.equal(value[~rows], clean[name][~rows]), name


@pytest.mark.parametrize("order", [2, 3])
def test_backward_gives_what_is_needed_and_nothing_else(order: int) -> None:
    tensors = tuple(hyena_mixer_far_inputs(2, 37, 3, order=order).values())
    dy = torch.randn(2, 37, 3)
    backward = torch.ops.hyena_kernels.hyena_mixer_far_bwd
    full = backward(dy, *tensors, [True] * 6, "auto")
    for needs in itertools.product([False, True], repeat=6):
        for grad, expected, needed in zip(backward(dy, *tensors, list(needs), "auto"), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


def test_spare_nodes_are_not_read_and_have_no_gradient() -> None:
    inputs = hyena_mixer_far_inputs(2, 30, 3)
    dy = torch.randn(2, 30, 3)
    expected = value_and_gradients(hyena_mixer_far, inputs, dy)
    nodes = inputs["nodes"]
    inputs["nodes"] = torch.cat((nodes, torch.full((1, 3, 7, 2), float("nan"))), dim=3)
    results = value_and_gradients(hyena_mixer_far, inputs, dy)
    spare = results["dnodes"][..., nodes.shape[3] :]
    assert torch.equal(spare, torch.zeros_like(spare))
    results["dnodes"] = results["dnodes"][..., : nodes.shape[3]]
    assert_same(results, expected)


def test_checkpoints_give_the_same_gradients() -> None:
    inputs = hyena_mixer_far_inputs(2, 50, 3)
    dy = torch.randn(2, 50, 3)

    def again(**tensors: Tensor) -> Tensor:
        result = checkpoint(lambda: hyena_mixer_far(**tensors).square(), use_reentrant=False)
        assert isinstance(result, Tensor)
        return result

    expected = value_and_gradients(lambda **tensors: hyena_mixer_far(**tensors).square(), inputs, dy)
    assert_same(value_and_gradients(again, inputs, dy), expected)


X, W, NEAR, NODES = torch.zeros(2, 20, 9), torch.zeros(9, 3), torch.zeros(1, 3, 8), torch.zeros(1, 3, 7, 2)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x rank": ({"x": X[0]}, ValueError, "hyena_mixer_far: x has shape (20, 9), expected (B, L, (N+1)d)"),
    "near rank": ({"near": NEAR[0]}, ValueError, "hyena_mixer_far: near has shape (3, 8), expected (N-1, d, h)"),
    "nodes rank": (
        {"nodes": NODES[0]},
        ValueError,
        "hyena_mixer_far: nodes has shape (3, 7, 2), expected (N-1, d, 2p-",
    ),
    "width": (
        {"x": X[..., :8]},
        ValueError,
        "x (B, L, (N+1)d) has shape (2, 20, 8), near (N-1, d, h) (1, 3, 8) and nodes (N-1, d, 2p-1, n) (1, 3, 7, 2): "
        "the width of x must be (N+1)d with the d of both",
    ),
    "order": ({"near": torch.zeros(2, 3, 8)}, ValueError, "near (N-1, d, h) (2, 3, 8)"),
    "no filter": ({"near": NEAR[:0], "nodes": NODES[:0], "x": X[..., :6]}, ValueError, "near (N-1, d, h) (0, 3, 8)"),
    "even rows": ({"nodes": NODES[:, :, :6]}, ValueError, "nodes (N-1, d, 2p-1, n) (1, 3, 6, 2)"),
    "p above h": ({"near": NEAR[..., :3]}, ValueError, "N ≥ 2, 2 ≤ p ≤ h and n ≥ ⌈L/h⌉ - 1"),
    "too few": ({"nodes": NODES[..., :1]}, ValueError, "nodes (N-1, d, 2p-1, n) (1, 3, 7, 1)"),
    "L of 0": ({"x": X[:, :0]}, ValueError, "has shape (2, 0, 9)"),
    "short_weight": ({"short_weight": W[:8]}, ValueError, "hyena_mixer_far: short_weight has shape (8, 3), expected ("),
    "taps": ({"short_weight": torch.zeros(9, 9)}, ValueError, "hyena_mixer_far: short_weight ((N+1)d, Ks) has shape"),
    "short_bias": ({"short_bias": torch.zeros(3)}, ValueError, "hyena_mixer_far: short_bias has shape (3,), expected"),
    "D": ({"D": torch.zeros(3)}, ValueError, "hyena_mixer_far: D has shape (3,), expected (N-1, d)"),
    "D dtype": ({"D": torch.zeros(1, 3).half()}, TypeError, "hyena_mixer_far: D (1, 3) has dtype torch.float16"),
    "x integer": ({"x": X.long()}, TypeError, "hyena_mixer_far: x (2, 20, 9) has dtype torch.int64"),
    "near dtype": (
        {"near": NEAR.bfloat16(), "nodes": NODES.bfloat16(), "x": X.bfloat16()},
        TypeError,
        "hyena_mixer_far: near (1, 3, 8) has dtype torch.bfloat16: near and nodes must both be float32",
    ),
    "device": ({"nodes": NODES.to("meta")}, ValueError, "nodes (1, 3, 7, 2) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"x": X, "short_weight": W, "short_bias": None, "near": NEAR, "nodes": NODES}
    assert_refused(hyena_mixer_far, error, message, **{**given, **change})
