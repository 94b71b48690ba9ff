"""``FlashFFTConv`` against the direct sum on a circle, and ``FlashDepthWiseConv1d`` against ``Conv1d``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels.compat.flashfftconv import FlashDepthWiseConv1d, FlashFFTConv
from tests.hyena_kernels.compat.helpers import assert_means, assert_rounds_once, normal, on_circle
from tests.hyena_kernels.helpers import assert_refused


@pytest.mark.parametrize(
    ("seqlen", "length", "taps"),
    [
        (32, 16, 16),  # causal, as in a language model
        (32, 16, 5),
        (32, 10, 32),  # two-sided: the last taps have negative lags
        (32, 16, 32),
        (32, 16, 17),  # one tap more, at lag -16, which reaches nothing
        (32, 32, 32),  # circular
        (32, 32, 3),  # causal but for the start, where the end comes around
        (32, 24, 20),  # between both
        (30, 17, 40),  # more taps than points
        (7, 5, 6),
        (1, 1, 1),
    ],
)
def test_is_the_convolution_on_a_circle(seqlen: int, length: int, taps: int) -> None:
    inputs = {name: normal(2, 3, length, seed=i) for i, name in enumerate(("u", "pregate", "postgate"))}
    inputs["k"] = normal(3, taps)

    def transcript(u: Tensor, pregate: Tensor, postgate: Tensor, k: Tensor) -> Tensor:
        return postgate * on_circle(pregate * u, k[:, :seqlen], seqlen)

    assert_means(FlashFFTConv(seqlen), transcript, inputs)


def test_without_gates_and_with_one() -> None:
    u, gate, k = normal(2, 3, 8), normal(2, 3, 8, seed=1), normal(3, 8)
    module = FlashFFTConv(16, dtype=torch.bfloat16).eval()
    torch.testing.assert_close(module(u, k), on_circle(u, k, 16))
    torch.testing.assert_close(module(u, k[None], postgate=gate), gate * on_circle(u, k, 16))


def test_loads_a_checkpoint_of_the_library() -> None:
    model = nn.ModuleDict({"flashfftconv": FlashFFTConv(1024), "out": nn.Linear(2, 2)})
    assert set(model.state_dict()) == {"out.weight", "out.bias"}
    tables = {"flashfftconv.f_sqrt_N_fft": torch.zeros(32, 32, 2), "flashfftconv.twiddle_factors_fft": torch.zeros(2)}
    model.load_state_dict(model.state_dict() | tables)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"other\""):
        model.load_state_dict(model.state_dict() | tables | {"other": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounds_once_in_16_bits(dtype: torch.dtype) -> None:
    inputs: dict[str, Any] = {name: normal(2, 3, 40, dtype=dtype, seed=i) for i, name in enumerate(("u", "g", "h"))}
    inputs["k"] = normal(3, 80, dtype=torch.float32)
    module = FlashFFTConv(80, dtype=dtype)
    assert_rounds_once(lambda u, g, h, k: module(u, k, g, h), lambda u, g, h, k: h * on_circle(g * u, k, 80), inputs)


@pytest.mark.parametrize("bhl", [True, False], ids=["bhl", "blh"])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (3, 2), (4, 0), (5, 7), (1, 0), (1, 2)])
def test_depthwise_is_conv1d(taps: int, padding: int, bhl: bool) -> None:
    conv = nn.Conv1d(4, 4, taps, padding=padding, groups=4, dtype=torch.float64)
    ours = FlashDepthWiseConv1d(4, taps, padding, conv.weight, conv.bias, is_bhl=bhl, dtype=torch.float64)
    x = normal(2, 4, 9).requires_grad_()
    expected, found = conv(x), ours(x) if bhl else ours(x.mT).mT
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    dy = normal(*expected.shape)
    gradients = torch.autograd.grad(expected, (x, conv.weight, conv.bias), dy)
    dx, dweights, dbias = torch.autograd.grad(found, (x, ours.weights, ours.bias), dy)
    assert ours.weights.shape == ((4, taps) if bhl else (taps, 4))
    for mine, other in zip((dx, dweights if bhl else dweights.T, dbias), gradients, strict=True):
        torch.testing.assert_close(mine, other.view_as(mine), rtol=1e-13, atol=1e-13)


def test_depthwise_takes_signals_of_another_dtype_and_keeps_its_weights() -> None:
    conv = nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False)
    for weights in (torch.float32, torch.float16, torch.bfloat16):
        ours = FlashDepthWiseConv1d(4, 3, 1, conv.weight.to(weights), None)
        assert ours.weights.dtype == weights
        for signal in (torch.float32, torch.float16, torch.bfloat16):
            x = normal(2, 4, 9, dtype=signal)
            with torch.autocast("cpu", torch.bfloat16):
                found = ours(x)
            assert found.dtype == signal
            exact = nn.functional.conv1d(x.double(), ours.weights[:, None].double(), padding=1, groups=4)
            torch.testing.assert_close(found, exact.to(signal), rtol=torch.finfo(signal).eps, atol=1e-6)
    ours.weights.data.zero_()
    assert conv.weight.abs().min() > 0


U, K = torch.zeros(2, 3, 8), torch.zeros(3, 8)
REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "longer": (FlashFFTConv(4), {"u": U, "k": K}, ValueError, "u (2, 3, 8) is longer than seqlen = 4"),
    "seqlen": (FlashFFTConv, {"seqlen": 0}, ValueError, "seqlen must be positive, got 0"),
    "dtype": (FlashFFTConv, {"seqlen": 4, "dtype": torch.float32}, TypeError, "torch.bfloat16, got torch.float32"),
    "channels": (FlashFFTConv(16), {"u": U, "k": K[:2]}, ValueError, "k (D, K) (2, 8)"),
    "weights": (
        FlashDepthWiseConv1d,
        {"channels": 3, "kernel_size": 5, "padding": 1, "weights": torch.zeros(3, 1, 3), "bias": None},
        ValueError,
        "weights have shape (3, 1, 3), expected (3, 1, 5)",
    ),
    "weights' dtype": (
        FlashDepthWiseConv1d,
        {"channels": 3, "kernel_size": 8, "padding": 1, "weights": K, "bias": None, "dtype": torch.float16},
        ValueError,
        "dtype torch.float16 is not that of the weights, torch.float32",
    ),
    "too short": (
        FlashDepthWiseConv1d(3, 8, 1, K, None),
        {"input": U[..., :4]},
        ValueError,
        "input (2, 3, 4) with 1 zeros on both sides is shorter than 8 taps",
    ),
}


@pytest.mark.parametrize(("function", "arguments", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(
    function: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    assert_refused(function, error, message, **arguments)
