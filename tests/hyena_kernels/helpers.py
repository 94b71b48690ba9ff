"""Checks that the tests of several ops share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import fftconv
from hyena_kernels.testing import Inputs, fftconv_inputs, value_and_gradients


def small_fftconv(backend: str | None = None) -> Tensor:
    """Result of a small ``fftconv`` whose signal needs a gradient."""
    inputs = fftconv_inputs(1, 2, 8)
    return fftconv(inputs["u"].requires_grad_(), inputs["k"], backend=backend)


def assert_same(results: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The results have the same names and the same bits."""
    assert results.keys() == expected.keys()
    for name, value in results.items():
        assert torch.equal(value, expected[name]), name


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
