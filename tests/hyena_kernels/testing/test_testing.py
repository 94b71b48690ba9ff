"""The oracles are right, the references can be differentiated twice, and the error check finds what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyena_kernels import testing
from hyena_kernels.testing import OPS, Inputs, check, direct_conv, fftconv_inputs, relative_error

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
TINY: dict[str, Inputs] = {
    "fftconv": fftconv_inputs(1, 2, 3, **DOUBLE),
    "short_conv": testing.short_conv_inputs(1, 2, 3, **DOUBLE),
    "implicit_filter": testing.implicit_filter_inputs(2, 3, features=3, width=2, layers=1, **DOUBLE),
    "hyena_mixer": testing.hyena_mixer_inputs(1, 3, 2, **DOUBLE),
    "hyena_mixer_step": testing.hyena_mixer_step_inputs(2, 3, 2, **DOUBLE),
    "far_field_conv": testing.far_field_conv_inputs(1, 2, 5, h=3, p=2, spare=1, **DOUBLE),
    "hyena_mixer_far": testing.hyena_mixer_far_inputs(1, 3, 2, h=2, p=2, **DOUBLE),
    "fftconv_varlen": testing.fftconv_varlen_inputs([2, 1], 2, **DOUBLE),
    "hyena_mixer_varlen": testing.hyena_mixer_varlen_inputs([2, 1], 2, **DOUBLE),
    "gelu": testing.gelu_inputs(2, 3, **DOUBLE),
    "position_dropout": testing.position_dropout_inputs(2, 3, 5, **DOUBLE),
    "layer_norm": testing.layer_norm_inputs(2, 3, **DOUBLE),
    "add_layer_norm": testing.add_layer_norm_inputs(2, 3, **DOUBLE),
    "embedding": testing.embedding_inputs(3, tokens=2, width=2, **DOUBLE),
    "linear_cross_entropy": testing.linear_cross_entropy_inputs(3, tokens=2, width=2, **DOUBLE),
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [4, 256])
@pytest.mark.parametrize(("length", "taps"), [(1, 1), (7, 3), (7, 4), (7, 7), (300, 1), (300, 299), (513, 513)])
def test_direct_convolution_is_that_of_numpy(length: int, taps: int, block: int, causal: bool) -> None:
    x, k = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    first = 0 if causal else (taps - 1) // 2
    expected = [[np.convolve(x[b, d], k[d])[first : first + length] for d in range(3)] for b in range(2)]
    np.testing.assert_allclose(direct_conv(x, k, causal=causal, block=block), expected, rtol=0, atol=1e-12)


def test_direct_convolution_uses_no_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("an FFT is no oracle of an FFT")

    monkeypatch.setattr(torch.fft, "rfft", refuse)
    monkeypatch.setattr(torch.fft, "irfft", refuse)
    for op in ("fftconv", "hyena_mixer", "far_field_conv", "hyena_mixer_far"):
        assert OPS[op].oracle(**TINY[op]).isfinite().all()
        with pytest.raises(AssertionError, match="no oracle"):
            OPS[op].reference(**TINY[op])


def test_direct_convolution_has_the_right_gradient() -> None:
    x, k = torch.randn(2, 2, 9, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    leaves = (x.requires_grad_(), k.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, k: direct_conv(x, k, causal=False, block=4), leaves)


@pytest.mark.parametrize("op", OPS)
def test_references_have_second_derivatives(op: str) -> None:
    names = [name for name, tensor in TINY[op].items() if tensor is not None and tensor.is_floating_point()]

    def function(*tensors: Tensor) -> Tensor:
        return OPS[op].reference(**TINY[op] | dict(zip(names, tensors, strict=True)))

    leaves = [TINY[op][name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("op", OPS)
def test_references_and_oracles_agree_with_the_op(op: str) -> None:
    expected = OPS[op].function(**TINY[op])
    for function in (OPS[op].reference, OPS[op].oracle):
        y = function(**TINY[op])
        assert y.is_contiguous() == expected.is_contiguous()
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    # What the message of a second derivative names is there.
    assert inspect.unwrap(OPS[op].reference) is getattr(testing, f"reference_{op}")


def test_inputs_are_the_same_in_every_dtype() -> None:
    wide, narrow = (fftconv_inputs(1, 2, 5, dtype=dtype) for dtype in (torch.float64, torch.float16))
    assert torch.equal(wide["u"].half(), narrow["u"])
    assert narrow["k"].dtype == torch.float32
    assert not torch.equal(fftconv_inputs(1, 2, 5, seed=1)["u"], fftconv_inputs(1, 2, 5)["u"])


def test_relative_error() -> None:
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == 0.1
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.ones(2), torch.zeros(2)) == float("inf")
    assert relative_error(torch.empty(0), torch.empty(0)) == 0


def test_budget_is_twice_the_error_of_plain_pytorch_and_one_rounding() -> None:
    plain, oracle = torch.tensor([3.0, 4.5]).half(), torch.tensor([3.0, 4.0])
    assert testing.error_budget(plain, oracle) == 2 * (0.1 + 2**-11)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: y * 0, r"y has the relative error 1, above its budget"),
        (lambda y: y * (1 + 2e-6), r"y has the relative error [12][.\d]*e-06, above its budget of \d\.\d+e-07; du has"),
        (lambda y: torch.where(torch.arange(y.shape[-1]) < 99, y, float("nan")), r"y has the relative error nan"),
        (lambda y: y.double(), r"y is torch.float64 \(2, 8, 100\), expected torch.float32 \(2, 8, 100\)"),
        (lambda y: y.detach().requires_grad_(), r"gives \['y'\], plain PyTorch \['dD', 'dk'"),
    ],
    ids=["zeros", "inexact", "nan", "dtype", "no gradients"],
)
def test_check_finds_what_is_wrong(wrong: Callable[[Tensor], Tensor], message: str) -> None:
    inputs = fftconv_inputs(2, 8, 100)
    check("fftconv", inputs)
    with pytest.raises(AssertionError, match=message):
        check("fftconv", inputs, function=lambda **tensors: wrong(OPS["fftconv"].function(**tensors)))


def test_check_finds_a_wrong_float64_result() -> None:
    """It has a float64 budget, not a float32 budget."""
    inputs = fftconv_inputs(2, 8, 100, **DOUBLE)
    with pytest.raises(AssertionError, match=r"y has the relative error \d.*e-15, above its budget of \d.*e-16"):
        check("fftconv", inputs, function=lambda **tensors: (1 + 4e-15) * OPS["fftconv"].function(**tensors))


def test_check_returns_errors_and_budgets() -> None:
    figures = check("short_conv", testing.short_conv_inputs(2, 64, 100), frozen=("bias",))
    assert figures.keys() == {"y", "dx", "dweight"}
    for error, budget in figures.values():
        assert 0 < error <= budget < 1e-5
