"""Hold a shim against a few lines that say what the original means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.testing import error_budget, relative_error, value_and_gradients

Inputs = Mapping[str, Tensor | None]


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Random numbers that depend on the shape and the seed alone."""
    generator = torch.Generator().manual_seed(sum(shape) + 1000 * seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_means(
    function: Callable[..., Tensor], transcript: Callable[..., Tensor], inputs: Inputs, **options: Any
) -> None:
    """In float64 the values and every gradient are those of the transcript.

    Args:
        function: the shim.
        transcript: called with the same arguments.
        inputs: float64 tensors by name.
        options: further arguments.
    """
    with torch.no_grad():
        dy = torch.randn(transcript(**inputs, **options).shape, dtype=torch.float64)
    expected = value_and_gradients(transcript, inputs, dy, **options)
    found = value_and_gradients(function, inputs, dy, **options)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = float(torch.linalg.vector_norm(expected[name]))
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12 * scale)


def assert_rounds_once(
    function: Callable[..., Tensor], transcript: Callable[..., Tensor], inputs: Inputs, **options: Any
) -> None:
    """With 16-bit signals the error is within the budget of a result in float32 that is rounded once."""
    wide = {name: None if each is None else each.double() for name, each in inputs.items()}
    narrow = {name: None if each is None else each.float() for name, each in inputs.items()}
    with torch.no_grad():
        exact, plain = (transcript(**each, **options) for each in (wide, narrow))
        found = function(**inputs, **options)
    error, budget = relative_error(found, exact), error_budget(plain.to(found.dtype), exact)
    # Written so that a NaN fails.
    assert error <= budget < math.inf, (error, budget)


def on_circle(u: Tensor, k: Tensor, size: int) -> Tensor:
    """``y[t] = sum_s k[(t - s) mod size] u[s]``: the direct sum of a convolution on a circle."""
    places = torch.arange(u.shape[-1])
    taps = torch.nn.functional.pad(k, (0, max(0, size - k.shape[-1])))[..., (places[:, None] - places) % size]
    return torch.einsum("...hts,...hs->...ht", taps, u)
