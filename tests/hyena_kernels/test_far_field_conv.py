"""``far_field_conv`` against the sum over all pairs of positions in float64, and against ``fftconv``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyena_kernels import far_field_conv, fftconv
from hyena_kernels.common import far_field
from hyena_kernels.testing import check, far_field_conv_inputs, relative_error, value_and_gradients
from tests.hyena_kernels.helpers import assert_computed_in_float32, assert_refused, assert_same

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("far_field_conv")]


# (L, B, D, h, p): some hundred elements for every result, so that an error is no matter of chance.
@pytest.mark.parametrize(
    ("length", "batch", "channels", "h", "p"),
    [
        (1, 64, 64, 8, 4),
        (1, 64, 64, 2, 2),
        (2, 64, 64, 2, 2),
        (3, 64, 64, 2, 2),
        (7, 32, 64, 8, 4),
        (8, 32, 64, 8, 4),
        (9, 32, 64, 8, 4),
        (16, 16, 64, 8, 8),
        (17, 16, 64, 8, 3),
        (100, 4, 64, 16, 6),
        (127, 4, 64, 64, 6),
        (509, 1, 32, 32, 8),
        (512, 1, 32, 5, 3),
    ],
)
def test_error_is_within_budget(length: int, batch: int, channels: int, h: int, p: int) -> None:
    check("far_field_conv", far_field_conv_inputs(batch, channels, length, h=h, p=p))


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "no skip"])
@pytest.mark.parametrize("gates", ["none", "pre", "post", "both"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_gates_and_skip(dtype: torch.dtype, gates: str, skip: bool) -> None:
    options = {"pre_gate": gates in ("pre", "both"), "post_gate": gates in ("post", "both"), "skip": skip}
    check("far_field_conv", far_field_conv_inputs(2, 32, 53, dtype=dtype, **options))


def test_float64_signals_with_filters_of_float32() -> None:
    inputs = far_field_conv_inputs(1, 3, 40, dtype=torch.float64)
    mixed = {name: each.float() if name in ("near", "nodes", "D") else each for name, each in inputs.items()}
    wide = {name: each.double() for name, each in mixed.items()}
    dy = torch.randn(1, 3, 40, dtype=torch.float64)
    expected = value_and_gradients(far_field_conv, wide, dy)
    for name, value in value_and_gradients(far_field_conv, mixed, dy).items():
        assert value.dtype == (torch.float32 if name in ("dnear", "dnodes", "dD") else torch.float64)
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gates_that_broadcast(dtype: torch.dtype) -> None:
    inputs = far_field_conv_inputs(3, 16, 37, dtype=dtype)
    for shapes in (((1, 16, 1), (3, 1, 37)), ((37,), (16, 37)), ((16, 1), (3, 1, 1))):
        pre_gate, post_gate = (torch.randn(shape).to(dtype) for shape in shapes)
        D = inputs["D"][:, None]
        check("far_field_conv", {**inputs, "D": D, "pre_gate": pre_gate, "post_gate": post_gate})


def taps_to_nodes(k: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """Near taps and nodes of filters ``(D, K)`` with one node at each position: nothing is interpolated."""
    blocks = far_field.block_count(k.shape[1], h)
    padded = F.pad(k, (0, blocks * h - k.shape[1]))
    lags = far_field.node_lags(h, h, blocks).long()
    return padded[:, :h], padded[:, lags]


@pytest.mark.parametrize("length", [5, 6, 7, 40])
def test_a_node_at_every_position_is_any_filter_exactly(length: int) -> None:
    inputs = far_field_conv_inputs(2, 3, length, dtype=torch.float64)
    del inputs["near"], inputs["nodes"]
    inputs["k"] = torch.randn(3, length, dtype=torch.float64)

    def by_nodes(k: Tensor, **others: Tensor) -> Tensor:
        near, nodes = taps_to_nodes(k, 6)
        return far_field_conv(near=near, nodes=nodes, **others)

    dy = torch.randn(2, 3, length, dtype=torch.float64)
    expected = value_and_gradients(fftconv, inputs, dy)
    for name, value in value_and_gradients(by_nodes, inputs, dy).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("p", [2, 3, 5])
def test_polynomials_of_the_lag_are_exact(p: int) -> None:
    h, length = 16, 100

    def f(lag: Tensor) -> Tensor:
        return (lag / 50 - 0.7) ** (p - 1) - 0.3

    near = f(torch.arange(h, dtype=torch.float64))
    nodes = f(far_field.node_lags(h, p, far_field.block_count(length, h)))
    u = torch.randn(1, 1, length, dtype=torch.float64)
    expected = fftconv(u, f(torch.arange(length, dtype=torch.float64))[None])
    torch.testing.assert_close(far_field_conv(u, near[None], nodes[None]), expected, rtol=1e-11, atol=1e-11)


def test_by_hand() -> None:
    """Blocks of 2 with nodes on both positions: the nodes are the taps of lags 2 d - 1, 2 d and 2 d + 1."""
    u, near, nodes, D, pre_gate, post_gate = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([[[1, 2, 3]]], [[1, 10]], [[[10], [100], [0]]], [7], [[[1, 0.5, 2]]], [[[3, 1, -1]]])
    )
    assert far_field_conv(u, near, nodes).flatten().tolist() == pytest.approx([1, 12, 123], rel=1e-13)
    # The gated signal is 1, 1, 6. Its convolution is 1, 11, 116, and 8, 18, 158 with the skip.
    y = far_field_conv(u, near, nodes, D, pre_gate=pre_gate, post_gate=post_gate)
    assert y.flatten().tolist() == pytest.approx([24, 18, -158], rel=1e-13)


@pytest.mark.parametrize("length", [8, 30])
def test_spare_nodes_are_not_read_and_have_no_gradient(length: int) -> None:
    inputs = far_field_conv_inputs(2, 3, length)
    dy = torch.randn(2, 3, length)
    expected = value_and_gradients(far_field_conv, inputs, dy)
    nodes = inputs["nodes"]
    inputs["nodes"] = torch.cat((nodes, torch.full((3, 7, 2), float("nan"))), dim=2)
    results = value_and_gradients(far_field_conv, inputs, dy)
    spare = results["dnodes"][..., nodes.shape[2] :]
    assert torch.equal(spare, torch.zeros_like(spare))
    results["dnodes"] = results["dnodes"][..., : nodes.shape[2]]
    assert_same(results, expected)


def test_is_causal() -> None:
    inputs = far_field_conv_inputs(1, 2, 60, dtype=torch.float64)
    before = far_field_conv(**inputs)
    inputs["u"] = inputs["u"].clone()
    inputs["u"][..., 35:] += 1
    after = far_field_conv(**inputs)
    torch.testing.assert_close(after[..., :35], before[..., :35], rtol=0, atol=1e-13)
    assert (after[..., 35:] - before[..., 35:]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_cost_one_rounding(dtype: torch.dtype) -> None:
    inputs = far_field_conv_inputs(1, 4, 300, dtype=dtype)
    wide = {name: tensor.float() for name, tensor in inputs.items()}
    difference = (far_field_conv(**inputs).float() - far_field_conv(**wide)).abs()
    assert (difference <= far_field_conv(**wide).abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype) -> None:
    """The gated signal, and then the gated gradient, is near 90,000."""
    inputs = far_field_conv_inputs(2, 16, 40, dtype=dtype)
    inputs["u"] = 300 + inputs["u"]
    inputs["pre_gate"] = 300 + inputs["pre_gate"]
    inputs["post_gate"] = 1e-3 * inputs["post_gate"]
    # The gradient of post_gate is the convolution itself, which does not fit.
    assert_computed_in_float32("far_field_conv", inputs, frozen={"post_gate"})
    for name in ("near", "nodes", "D"):
        inputs[name] = inputs[name] * 1e-5
    inputs["post_gate"] = 300 + inputs["post_gate"]
    assert_computed_in_float32("far_field_conv", inputs)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_are_not_rounded_where_torch_may_round_them(precision: str) -> None:
    """``medium`` lets a CPU with the instructions for it round operands to bfloat16."""
    inputs = far_field_conv_inputs(2, 4, 700, h=64, p=6)
    dy = torch.randn(2, 4, 700)
    expected = value_and_gradients(far_field_conv, inputs, dy)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        results = value_and_gradients(far_field_conv, inputs, dy)
    finally:
        torch.set_float32_matmul_precision(before)
    for name, value in results.items():
        assert relative_error(value, expected[name]) < 1e-6, name


def test_nan_stays_in_its_row() -> None:
    inputs = far_field_conv_inputs(3, 5, 50)
    dy = torch.randn(3, 5, 50)
    clean = value_and_gradients(far_field_conv, inputs, dy)
    inputs["u"][1, 2, 20] = float("nan")
    results = value_and_gradients(far_field_conv, inputs, dy)
    for name, value in results.items():
        # What has a batch is hit in one row, what is summed over the batch in one channel.
        hit = (1, 2) if name in ("y", "du", "dpre_gate", "dpost_gate") else (2,)
        kept = torch.ones_like(value, dtype=torch.bool)
        kept[hit] = False
        assert torch.equal(value[kept], clean[name][kept]), name
    for name, hit in (("y", (1, 2)), ("dnear", (2,)), ("dnodes", (2,)), ("dD", (2,))):
        assert results[name][hit].isnan().any(), name


def test_gradients_of_the_filter_are_summed_over_the_batch() -> None:
    inputs = far_field_conv_inputs(4, 3, 40, dtype=torch.float64)
    dy = torch.randn(4, 3, 40, dtype=torch.float64)
    whole = value_and_gradients(far_field_conv, inputs, dy)
    signals = ("u", "pre_gate", "post_gate")
    parts = [
        value_and_gradients(
            far_field_conv, {n: t[b : b + 1] if n in signals else t for n, t in inputs.items()}, dy[b : b + 1]
        )
        for b in range(4)
    ]
    for name in ("dnear", "dnodes", "dD"):
        torch.testing.assert_close(whole[name], sum(part[name] for part in parts), rtol=1e-11, atol=1e-12)


def test_backward_gives_what_is_needed_and_nothing_else() -> None:
    tensors = tuple(far_field_conv_inputs(2, 3, 37).values())
    dy = torch.randn(2, 3, 37)
    backward = torch.ops.hyena_kernels.far_field_conv_bwd
    full = backward(dy, *tensors, [True] * 6, "auto")
    for needs in itertools.product([False, True], repeat=6):
        for grad, expected, needed in zip(backward(dy, *tensors, list(needs), "auto"), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


def test_checkpoints_give_the_same_gradients() -> None:
    inputs = far_field_conv_inputs(2, 3, 50)
    dy = torch.randn(2, 3, 50)

    def again(**tensors: Tensor) -> Tensor:
        result = checkpoint(lambda: far_field_conv(**tensors).square(), use_reentrant=False)
        assert isinstance(result, Tensor)
        return result

    expected = value_and_gradients(lambda **tensors: far_field_conv(**tensors).square(), inputs, dy)
    assert_same(value_and_gradients(again, inputs, dy), expected)


U, NEAR, NODES = torch.zeros(2, 3, 20), torch.zeros(3, 8), torch.zeros(3, 7, 2)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "u rank": ({"u": U[0]}, ValueError, "far_field_conv: u has shape (3, 20), expected (B, D, L)"),
    "near rank": ({"near": NEAR[0]}, ValueError, "far_field_conv: near has shape (8,), expected (D, h)"),
    "nodes rank": ({"nodes": NODES[0]}, ValueError, "far_field_conv: nodes has shape (7, 2), expected (D, 2p-1, N)"),
    "channels": (
        {"near": NEAR[:2]},
        ValueError,
        "u (B, D, L) has shape (2, 3, 20), near (D, h) (2, 8) and nodes (D, 2p-1, N) (3, 7, 2): all need the same D",
    ),
    "even rows": ({"nodes": NODES[:, :6]}, ValueError, "nodes (D, 2p-1, N) (3, 6, 2)"),
    "one node": ({"nodes": NODES[:, :1]}, ValueError, "(3, 1, 2): all need the same D, L ≥ 1, 2 ≤ p ≤ h and"),
    "p above h": ({"near": NEAR[:, :3]}, ValueError, "near (D, h) (3, 3) and nodes (D, 2p-1, N) (3, 7, 2)"),
    "too few": ({"nodes": NODES[..., :1]}, ValueError, "(3, 7, 1): all need the same D, L ≥ 1, 2 ≤ p ≤ h and N ≥"),
    "L of 0": ({"u": U[..., :0]}, ValueError, "u (B, D, L) has shape (2, 3, 0)"),
    "D shape": ({"D": torch.zeros(2)}, ValueError, "far_field_conv: D has shape (2,), expected (D,) = (3,) or (D, 1)"),
    "gate shape": (
        {"pre_gate": U[:, :2]},
        ValueError,
        "far_field_conv: pre_gate has shape (2, 2, 20), expected one that broadcasts to (B, D, L) = (2, 3, 20)",
    ),
    "gate dtype": ({"post_gate": U.half()}, TypeError, "far_field_conv: post_gate (2, 3, 20) has dtype torch.float16"),
    "u integer": ({"u": U.long()}, TypeError, "far_field_conv: u (2, 3, 20) has dtype torch.int64"),
    "near dtype": (
        {"near": NEAR.bfloat16(), "nodes": NODES.bfloat16(), "u": U.bfloat16()},
        TypeError,
        "far_field_conv: near (3, 8) has dtype torch.bfloat16: near and nodes must both be float32, or both float64",
    ),
    "two dtypes": (
        {"nodes": NODES.double(), "u": U.double()},
        TypeError,
        "far_field_conv: nodes (3, 7, 2) has dtype torch.float64: near and nodes must both be float32",
    ),
    "float64": (
        {"nodes": NODES.double(), "near": NEAR.double()},
        TypeError,
        "both float64 with a signal of float64, and the signal has torch.float32",
    ),
    "D dtype": ({"D": torch.zeros(3).half()}, TypeError, "far_field_conv: D (3,) has dtype torch.float16"),
    "device": ({"near": NEAR.to("meta")}, ValueError, "u (2, 3, 20) on cpu, near (3, 8) on meta"),
    "nodes array": (
        {"nodes": NODES.numpy()},
        TypeError,
        "far_field_conv: nodes must be a tensor of shape (D, 2p-1, N)",
    ),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(far_field_conv, error, message, **{"u": U, "near": NEAR, "nodes": NODES, **change})
