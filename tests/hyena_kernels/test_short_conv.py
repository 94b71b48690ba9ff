"""``short_conv`` against its definition, ``torch.nn.Conv1d`` and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from hyena_kernels import BackendError, backend as _backend, short_conv, short_conv_update
from hyena_kernels.testing import check, short_conv_inputs, value_and_gradients
from tests.hyena_kernels.helpers import (
    assert_products_need_not_fit,
    assert_refused,
    assert_same,
    assert_threads_do_not_matter,
    check_short_conv_states,
)

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("short_conv")]


@pytest.mark.parametrize(("length", "batch"), [(1, 64), (2, 64), (3, 64), (7, 32), (64, 8), (1000, 2), (4097, 1)])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 8])
def test_error_is_within_budget(length: int, batch: int, taps: int) -> None:
    check("short_conv", short_conv_inputs(batch, 32, length, taps))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, bias: bool) -> None:
    for filter_dtype in {dtype, torch.float32}:
        check("short_conv", short_conv_inputs(2, 64, 100, dtype=dtype, filter_dtype=filter_dtype, bias=bias))


@pytest.mark.parametrize("length", [1, 2, 5, 20])
@pytest.mark.parametrize("taps", [1, 3, 8])
def test_takes_the_weights_of_conv1d(length: int, taps: int) -> None:
    conv = nn.Conv1d(6, 6, taps, padding=taps - 1, groups=6, dtype=torch.float64)
    x = torch.randn(2, 6, length, dtype=torch.float64)
    torch.testing.assert_close(
        short_conv(x, conv.weight[:, 0], conv.bias), conv(x)[..., :length], rtol=1e-13, atol=1e-14
    )


def test_is_the_convolution_of_numpy_with_taps_reversed() -> None:
    x, weight = torch.randn(1, 1, 30, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    expected = np.convolve(x[0, 0], weight[0].flip(0))[:30]
    np.testing.assert_allclose(short_conv(x, weight)[0, 0], expected, rtol=0, atol=1e-14)


def test_by_hand() -> None:
    x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[100.0, 10.0, 1.0]])
    assert short_conv(x, weight).tolist() == [[[1.0, 12.0, 123.0]]]
    assert short_conv(x, weight, torch.tensor([0.5])).tolist() == [[[1.5, 12.5, 123.5]]]


def test_nan_stays_in_its_row_and_behind_its_position() -> None:
    inputs = short_conv_inputs(3, 5, 50)
    dy = torch.randn(3, 5, 50)
    clean = value_and_gradients(short_conv, inputs, dy)
    inputs["x"][1, 2, 20] = float("nan")
    results = value_and_gradients(short_conv, inputs, dy)
    expected = torch.zeros(3, 5, 50, dtype=torch.bool)
    expected[1, 2, 20:23] = True
    assert torch.equal(results["y"].isnan(), expected)
    assert torch.equal(results["dx"], clean["dx"])
    assert torch.equal(results["dweight"].isnan().any(dim=1).nonzero(), torch.tensor([[2]]))
    assert torch.equal(results["dbias"], clean["dbias"])


X, W = torch.zeros(2, 3, 8), torch.zeros(3, 3)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x rank": ({"x": X[0]}, ValueError, "short_conv: x has shape (3, 8), expected (B, D, L)"),
    "weight rank": ({"weight": W[:, None]}, ValueError, "short_conv: weight has shape (3, 1, 3), expected (D, K)"),
    "channels": ({"weight": W[:2]}, ValueError, "x (B, D, L) has shape (2, 3, 8) and weight (D, K) (2, 3)"),
    "K of 257": (
        {"weight": torch.zeros(3, 257)},
        ValueError,
        "weight (D, K) (3, 257): both need the same D, L ≥ 1 and 1 ≤ K ≤ 256",
    ),
    "K of 0": ({"weight": W[:, :0]}, ValueError, "weight (D, K) (3, 0)"),
    "L of 0": ({"x": X[..., :0]}, ValueError, "has shape (2, 3, 0)"),
    "bias shape": ({"bias": torch.zeros(2)}, ValueError, "short_conv: bias has shape (2,), expected (D,) = (3,)"),
    "bias number": ({"bias": 0.0}, TypeError, "short_conv: bias must be a tensor of shape (D,), got float"),
    "x integer": ({"x": X.int()}, TypeError, "short_conv: x (2, 3, 8) has dtype torch.int32"),
    "weight dtype": ({"weight": W.bfloat16()}, TypeError, "short_conv: weight (3, 3) has dtype torch.bfloat16"),
    "bias dtype": ({"bias": torch.zeros(3).double()}, TypeError, "short_conv: bias (3,) has dtype torch.float64"),
    "device": ({"weight": W.to("meta")}, ValueError, "got x (2, 3, 8) on cpu, weight (3, 3) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
    "activation": (
        {"activation": "gelu"},
        ValueError,
        "short_conv: activation is 'gelu', expected None or 'silu'",
    ),
    "state shape": (
        {"initial_state": torch.zeros(2, 3, 3)},
        ValueError,
        "short_conv: initial_state has shape (2, 3, 3), expected (B, D, K-1) = (2, 3, 2)",
    ),
    "state dtype": (
        {"initial_state": torch.zeros(2, 3, 2).half()},
        TypeError,
        "short_conv: initial_state (2, 3, 2) has dtype torch.float16, expected that of x: torch.float32",
    ),
    "state device": (
        {"initial_state": torch.zeros(2, 3, 2, device="meta")},
        ValueError,
        "initial_state (2, 3, 2) on meta",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(short_conv, error, message, **{"x": X, "weight": W, **change})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype) -> None:
    assert_products_need_not_fit("short_conv", dtype)


def channel_last(x: Tensor) -> Tensor:
    """The same values in the order ``(B, L, D)`` of memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(("taps", "length"), [(1, 5), (3, 1), (3, 67), (8, 7), (9, 1), (9, 300), (64, 31), (256, 270)])
def test_states_and_activation_are_within_budget(taps: int, length: int, activation: str | None) -> None:
    for state in (False, True):
        inputs = short_conv_inputs(2, 40, length, taps, state=state)
        check_short_conv_states(inputs, activation)
        check_short_conv_states({**inputs, "x": channel_last(inputs["x"])}, activation=activation)


@pytest.mark.parametrize("taps", [4, 33])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_of_states_and_activation(dtype: torch.dtype, taps: int) -> None:
    for filter_dtype in {dtype, torch.float32}:
        inputs = short_conv_inputs(2, 64, 60, taps, dtype=dtype, filter_dtype=filter_dtype, state=True)
        check_short_conv_states(inputs, activation="silu")


def test_silu_of_large_values_is_finite() -> None:
    x = torch.tensor([[[-1e4, -100.0, -20.0, 20.0, 100.0, 1e4, float("inf")]]])
    results = value_and_gradients(short_conv, {"x": x, "weight": torch.ones(1, 1)}, torch.ones(()), activation="silu")
    assert results["y"][0, 0].tolist() == pytest.approx(F.silu(x)[0, 0].tolist(), rel=1e-6, abs=1e-30)
    slopes = [0, 0, torch.sigmoid(torch.tensor(-20.0)).item() * -19, 1, 1, 1]
    assert results["dx"][0, 0, :6].tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize(("taps", "length"), [(4, 9), (4, 2), (12, 3), (2, 1), (1, 3)])
def test_gradients_of_both_states(taps: int, length: int) -> None:
    made = short_conv_inputs(2, 2, length, taps, dtype=torch.float64, state=True)
    x, weight, bias, state = (tensor.requires_grad_() for tensor in made.values())

    def both(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv(x, weight, bias, initial_state=state, return_final_state=True, activation="silu")

    # A second run inside gradcheck compares bit for bit.
    assert torch.autograd.gradcheck(both, (x, weight, bias, state))
    if taps > 1:
        assert torch.autograd.gradcheck(lambda *tensors: both(*tensors)[1], (x, weight, bias, state))


def test_final_state_is_the_last_samples() -> None:
    for taps, length in ((3, 9), (5, 4), (9, 2), (1, 3)):
        x, weight, bias, state = short_conv_inputs(2, 3, length, taps, state=True).values()
        _, final = short_conv(channel_last(x), weight, bias, initial_state=state, return_final_state=True)
        assert torch.equal(final, torch.cat((state, x), dim=-1)[..., length:])
        assert final.is_contiguous()
        _, final = short_conv(x, weight, return_final_state=True)
        assert torch.equal(final, torch.cat((torch.zeros_like(state), x), dim=-1)[..., length:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("taps", [1, 3, 8, 40])
def test_chunks_have_the_bits_of_the_whole(taps: int, dtype: torch.dtype) -> None:
    x, weight, bias = short_conv_inputs(2, 20, 700, taps, dtype=dtype).values()
    # The last bit of torch's SiLU depends on the place of an element in memory.
    activation = None if _backend.requested(None) == "torch" else "silu"
    for signal in (x, channel_last(x)):
        whole, last = short_conv(signal, weight, bias, activation=activation, return_final_state=True)
        state, parts = None, []
        for chunk in signal.split([1, 2, 30, 517, 150], dim=2):
            y, state = short_conv(
                chunk, weight, bias, activation=activation, initial_state=state, return_final_state=True
            )
            parts.append(y)
        if taps > 8:
            # Nor does torch's convolution of many taps promise the last bit.
            assert_same_values(torch.cat(parts, dim=2), whole)
        else:
            assert torch.equal(torch.cat(parts, dim=2), whole)
        assert torch.equal(state, last)


def test_gradients_of_chunks_are_those_of_the_whole() -> None:
    inputs = short_conv_inputs(2, 3, 50, 5, dtype=torch.float64)
    dy = torch.randn(2, 3, 50, dtype=torch.float64)

    def in_chunks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        state, parts = None, []
        for chunk in x.split([3, 7, 40], dim=2):
            y, state = short_conv(chunk, weight, bias, activation="silu", initial_state=state, return_final_state=True)
            parts.append(y)
        return torch.cat(parts, dim=2)

    whole = value_and_gradients(short_conv, inputs, dy, activation="silu")
    for name, value in value_and_gradients(in_chunks, inputs, dy).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=1e-12)


def assert_same_values(value: Tensor, other: Tensor) -> None:
    """Equal bits, or nearly equal values on torch, whose SiLU and convolution depend on the order of memory."""
    if _backend.requested(None) == "torch":
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(value, other)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("taps", [3, 20])
def test_channel_last_is_kept(taps: int, activation: str | None) -> None:
    inputs = short_conv_inputs(2, 21, 150, taps)
    dy = torch.randn(2, 21, 150)
    plain = value_and_gradients(short_conv, inputs, dy, activation=activation)
    inputs["x"] = channel_last(inputs["x"])
    for grad in (dy, channel_last(dy)):
        results = value_and_gradients(short_conv, inputs, grad, activation=activation)
        for name in ("y", "dx"):
            assert results[name].stride() == inputs["x"].stride() == (150 * 21, 1, 21)
            assert_same_values(results[name], plain[name])
    # Some channels of a projection
    part = short_conv(inputs["x"][:, 5:9], inputs["weight"][5:9], inputs["bias"][5:9], activation=activation)
    assert part.stride() == (150 * 4, 1, 4)
    assert_same_values(part, plain["y"][:, 5:9])


@pytest.mark.usefixtures("fresh_dynamo")
def test_channel_last_and_states_are_compiled() -> None:
    compiled = torch.compile(short_conv, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (33, 64, 47):
        x, weight, bias, state = short_conv_inputs(2, 5, length, 4, state=True).values()
        x = channel_last(x).requires_grad_()
        state.requires_grad_()
        options = {"activation": "silu", "initial_state": state, "return_final_state": True}
        expected = short_conv(x, weight, bias, **options)
        found = compiled(x, weight, bias, **options)
        for value, other in zip(found, expected, strict=True):
            assert_same_values(value, other)
            assert value.stride() == other.stride()
        loss, other_loss = (sum(part.square().sum() for part in results) for results in (found, expected))
        gradients = torch.autograd.grad(loss, (x, state))
        for value, other in zip(gradients, torch.autograd.grad(other_loss, (x, state)), strict=True):
            assert_same_values(value, other)
            assert value.stride() == other.stride()


@pytest.mark.slow
def test_states_pass_opcheck() -> None:
    x, weight, bias, state = short_conv_inputs(2, 3, 2, 4, dtype=torch.float64, state=True).values()
    tensors = [tensor.requires_grad_() for tensor in (channel_last(x), weight, bias, state)]
    torch.library.opcheck(torch.ops.hyena_kernels.short_conv_states_fwd.default, (*tensors, True, "auto"))


def side_by_side(**tensors: Tensor) -> Tensor:
    return torch.cat(short_conv(**tensors, activation="silu", return_final_state=True), dim=-1)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_of_states_is_written() -> None:
    for taps, length in ((3, 1), (5, 40), (20, 3), (20, 70)):
        for view in (Tensor.contiguous, channel_last):
            inputs = short_conv_inputs(2, 19, length, taps, state=True)
            inputs["x"] = view(inputs["x"])
            results = value_and_gradients(side_by_side, inputs, torch.ones(()))
            for name, value in results.items():
                assert not value.isnan().any(), (taps, length, name)


def test_nan_stays_behind_its_position_with_states_and_many_taps() -> None:
    for taps in (3, 20):
        inputs = short_conv_inputs(2, 20, 60, taps, state=True)
        dy = torch.randn(2, 20, 60)
        clean = value_and_gradients(short_conv, inputs, dy, activation="silu")
        inputs["initial_state"][1, 2, -1] = float("nan")
        inputs["x"][0, 3, 50] = float("nan")
        results = value_and_gradients(short_conv, inputs, dy, activation="silu")
        expected = torch.zeros(2, 20, 60, dtype=torch.bool)
        expected[1, 2, : taps - 1] = True
        expected[0, 3, 50 : 50 + taps] = True
        assert torch.equal(results["y"].isnan(), expected)
        # The slope of the activation is NaN there, so is what a sample gets from it.
        met = expected.any(dim=2)
        assert torch.equal(results["dx"][~met], clean["dx"][~met])
        assert torch.equal(results["dx"][0, 3, : 51 - taps], clean["dx"][0, 3, : 51 - taps])
        assert torch.equal(results["dinitial_state"].isnan().any(dim=2).nonzero(), torch.tensor([[1, 2]]))
        assert torch.equal(results["dweight"].isnan().any(dim=1).nonzero(), torch.tensor([[2], [3]]))


def test_autocast_casts_the_state_too() -> None:
    x, weight, bias, state = short_conv_inputs(2, 3, 20, 4, state=True).values()
    with torch.autocast("cpu", torch.bfloat16):
        y, final = short_conv(x, weight, bias, initial_state=state, return_final_state=True)
    assert y.dtype == final.dtype == torch.bfloat16
    assert torch.equal(y, short_conv(x.bfloat16(), weight, bias, initial_state=state.bfloat16()))


def test_repeats_have_the_same_bits_with_many_taps() -> None:
    inputs = short_conv_inputs(2, 20, 300, 70, state=True)
    dy = torch.randn(2, 20, 300)
    first = value_and_gradients(short_conv, inputs, dy, activation="silu")
    for _ in range(5):
        assert_same(value_and_gradients(short_conv, inputs, dy, activation="silu"), first)


def test_threads_do_not_matter() -> None:
    inputs = short_conv_inputs(1, 100, 2000, 20)
    assert_threads_do_not_matter(short_conv, inputs, torch.randn(1, 100, 2000))
    inputs["x"] = channel_last(inputs["x"])
    assert_threads_do_not_matter(short_conv, inputs, torch.randn(1, 100, 2000))


def test_cuda_refuses_by_name_what_its_kernels_lack() -> None:
    state = torch.zeros(2, 3, 2)
    with pytest.raises(BackendError, match=r"short_conv_fwd.*has no kernel with an activation"):
        short_conv(X, W, activation="silu", backend="cuda")
    with pytest.raises(BackendError, match=r"short_conv_states_fwd.*has no kernel with an initial_state"):
        short_conv(X, W, initial_state=state, return_final_state=True, backend="cuda")
    with pytest.raises(BackendError, match=r"short_conv_fwd.*takes up to 8 taps, the weight has more"):
        short_conv(X, torch.zeros(3, 9), backend="cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("taps", "columns"), [(4, 3), (4, 6), (1, 0), (1, 2), (20, 19)])
def test_update_is_a_step(taps: int, columns: int, dtype: torch.dtype) -> None:
    x, weight, bias = short_conv_inputs(40, 20, 9, taps, dtype=dtype).values()
    state = torch.randn(40, 20, columns).to(dtype)
    before = state.clone()
    inputs = {"x": x, "weight": weight, "bias": bias, "initial_state": before[..., columns - taps + 1 :]}
    steps = [short_conv_update(x[..., t], state, weight, bias, activation="silu") for t in range(9)]
    assert torch.equal(state, torch.cat((before, x), dim=-1)[..., 9:])
    check(
        "short_conv",
        inputs,
        function=lambda **tensors: torch.stack(steps, dim=-1),
        gradients=False,
        activation="silu",
    )


def test_update_takes_strided_states_and_autocast() -> None:
    storage = torch.randn(2, 8, 3)
    state, expected = storage.transpose(1, 2)[..., 2:7], storage.transpose(1, 2)[..., 2:7].contiguous()
    x, weight = torch.randn(2, 3), torch.randn(3, 4)
    assert torch.equal(short_conv_update(x, state, weight), short_conv_update(x, expected, weight))
    assert torch.equal(state, expected)
    state = state.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert short_conv_update(x, state, weight).dtype == torch.bfloat16


@pytest.mark.usefixtures("fresh_dynamo")
def test_update_is_compiled() -> None:
    x, weight, bias = torch.randn(2, 3), torch.randn(3, 4), torch.randn(3)
    compiled = torch.compile(short_conv_update, backend="aot_eager", fullgraph=True)
    states = [torch.ones(2, 3, 5) for _ in range(2)]
    for _ in range(3):
        assert torch.equal(compiled(x, states[0], weight, bias), short_conv_update(x, states[1], weight, bias))
        assert torch.equal(*states)
    arguments = (x, torch.randn(2, 3, 5), weight, bias, True, "auto")
    torch.library.opcheck(torch.ops.hyena_kernels.short_conv_update.default, arguments)


S = torch.zeros(2, 3, 2)
UPDATE_REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x rank": ({"x": X}, ValueError, "short_conv_update: x has shape (2, 3, 8), expected (B, D)"),
    "short state": ({"state": S[..., :1]}, ValueError, "state (B, D, S) (2, 3, 1) and weight (D, K) (3, 3)"),
    "batch": ({"state": S[:1]}, ValueError, "all need the same D, x and state the same B, 1 ≤ K ≤ 256 and S ≥ K - 1"),
    "bias": ({"bias": torch.zeros(2)}, ValueError, "short_conv_update: bias has shape (2,), expected (D,) = (3,)"),
    "dtype": ({"state": S.double()}, TypeError, "state (2, 3, 2) has dtype torch.float64, expected that of x"),
    "activation": ({"activation": "relu"}, ValueError, "activation is 'relu', expected None or 'silu'"),
    "gradient": ({"weight": W.clone().requires_grad_()}, NotImplementedError, "call it under torch.no_grad()"),
    "backend": ({"backend": "cuda"}, BackendError, "cannot run short_conv_update"),
}


@pytest.mark.parametrize(("change", "error", "message"), UPDATE_REFUSED.values(), ids=list(UPDATE_REFUSED))
def test_update_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(short_conv_update, error, message, **{"x": X[..., 0], "state": S.clone(), "weight": W, **change})


def test_update_refuses_transforms() -> None:
    x, state = torch.randn(2, 3), torch.zeros(2, 3, 2)
    for refused in (
        lambda: torch.func.jvp(lambda x: short_conv_update(x, state, W), (x,), (x,)),
        lambda: torch.vmap(lambda x, state: short_conv_update(x, state, W))(x[None], state[None]),
        lambda: torch.func.grad(lambda x: short_conv_update(x, state, W).sum())(x),
    ):
        with pytest.raises(NotImplementedError, match="short_conv_update"):
            refused()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="short_conv_update has no derivative"):
        short_conv_update(forward_ad.make_dual(x, x), state, W)
    with torch.inference_mode():
        short_conv_update(x, torch.zeros(2, 3, 2), W.clone())
