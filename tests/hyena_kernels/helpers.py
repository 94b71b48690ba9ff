"""Checks that the tests of several ops share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import fftconv, short_conv
from hyena_kernels.testing import (
    OPS,
    Inputs,
    Op,
    check,
    error_budget,
    fftconv_inputs,
    hyena_mixer_inputs,
    reference_short_conv_states,
    relative_error,
    short_conv_inputs,
    value_and_gradients,
)


def small_fftconv(backend: str | None = None) -> Tensor:
    """Result of a small ``fftconv`` whose signal needs a gradient."""
    inputs = fftconv_inputs(1, 2, 8)
    return fftconv(inputs["u"].requires_grad_(), inputs["k"], backend=backend)


def assert_same(results: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The results have the same names and the same bits."""
    assert results.keys() == expected.keys()
    for name, value in results.items():
        assert torch.equal(value, expected[name]), name


def _with_final_state(function: Callable[..., tuple[Tensor, Tensor]], **more: Any) -> Callable[..., Tensor]:
    return lambda *args, **options: torch.cat(function(*args, **options, **more), dim=-1)


def check_short_conv_states(inputs: Inputs, activation: str | None = None) -> None:
    """``check`` of a ``short_conv`` and its final state, side by side."""
    reference = _with_final_state(reference_short_conv_states)
    op = Op(_with_final_state(short_conv, return_final_state=True), reference, reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPS, "short_conv_states", op)
        check("short_conv_states", inputs, activation=activation)


def assert_refused(function: Callable[..., Tensor], error: type[Exception], message: str, **arguments: Any) -> None:
    """The function raises ``error`` with one line that contains ``message``."""
    with pytest.raises(error, match=re.escape(message)) as raised:
        function(**arguments)
    assert "\n" not in str(raised.value)


def assert_threads_do_not_matter(function: Callable[..., Tensor], inputs: Inputs, dy: Tensor) -> None:
    """One, two and three threads give the same result and gradients, bit for bit."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(function, inputs, dy))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(other, results[0])


def assert_computed_in_float32(op: str, inputs: Inputs, frozen: Collection[str] = ()) -> None:
    """An op of 16-bit tensors errs no more than one in float32 whose results are rounded once."""
    function, reference, oracle = OPS[op].function, OPS[op].reference, OPS[op].oracle
    narrow = {name: None if tensor is None else tensor.float() for name, tensor in inputs.items()}
    wide = {name: None if tensor is None else tensor.double() for name, tensor in inputs.items()}
    dy = torch.randn(function(**inputs).shape).to(next(iter(inputs.values())).dtype)
    ours = value_and_gradients(function, inputs, dy, frozen=frozen)
    plain = value_and_gradients(reference, narrow, dy, frozen=frozen)
    exact = value_and_gradients(oracle, wide, dy, frozen=frozen)
    for name, value in ours.items():
        error, budget = relative_error(value, exact[name]), error_budget(plain[name].to(value.dtype), exact[name])
        # Written so that a NaN fails.
        assert error <= budget < math.inf, (name, error, budget)


def assert_products_need_not_fit(op: str, dtype: torch.dtype, order: int = 2, channels: int = 16) -> None:
    """An op computes in float32 where its results fit 16 bits and what is between them does not.

    Products of projections, gates, gated convolutions and gradients of those lie above 65504, the end of float16.
    """
    if op == "short_conv":
        inputs = short_conv_inputs(2, channels, 40, dtype=dtype)
        # Each of the two products is near 90000. Their sum fits, also where x begins.
        inputs["x"] = (inputs["x"] + 300) * torch.linspace(1 / 3, 1, 3).to(dtype)[torch.arange(40).clamp(max=2)]
        inputs["weight"] = torch.tensor([0.0, -299.0, 300.0]).expand(channels, 3).contiguous()
        assert_computed_in_float32("short_conv", inputs)
    elif op == "fftconv":
        inputs = fftconv_inputs(2, channels, 40, dtype=dtype)
        inputs["u"] = 300 + inputs["u"]
        inputs["pre_gate"] = 300 + inputs["pre_gate"]
        inputs["post_gate"] = 1e-3 * inputs["post_gate"]
        # The gradient of post_gate is the convolution itself, which does not fit.
        assert_computed_in_float32("fftconv", inputs, frozen={"post_gate"})
        inputs["k"] = inputs["k"] * 1e-5
        inputs["D"] = inputs["D"] * 1e-5
        inputs["post_gate"] = 300 + inputs["post_gate"]
        assert_computed_in_float32("fftconv", inputs)
    else:
        inputs = hyena_mixer_inputs(1, 40, channels, order=order, dtype=dtype)
        inputs["x"] = 300 + 30 * inputs["x"]
        weight = torch.zeros_like(inputs["short_weight"])
        weight[:, -1] = 1
        # Gate 0 is 90000.
        weight[:channels, -1] = 300
        inputs["short_weight"], inputs["short_bias"] = weight, None
        for name in ("k", "D"):
            inputs[name] = inputs[name].clone()
            inputs[name][-1] *= 1e-6 / 300 ** (order - 2)
        assert_computed_in_float32("hyena_mixer", inputs)
