"""fla's convolutions against their formulas in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu, silu

from hyena_kernels.compat.fla import causal_conv1d, causal_conv1d_update, fft_conv
from tests.hyena_kernels.compat.helpers import assert_means, assert_rounds_once, normal
from tests.hyena_kernels.helpers import assert_refused


def by_formula(
    u: Tensor, k: Tensor, dropout_mask: Tensor | None, gelu: bool = True, k_rev: Tensor | None = None
) -> Tensor:
    size = 2 * u.shape[-1]
    k_f = torch.fft.rfft(k, n=size) + (0 if k_rev is None else torch.fft.rfft(k_rev, n=size).conj())
    out = torch.fft.irfft(torch.fft.rfft(u, n=size) * k_f, n=size)[..., : u.shape[-1]] + u
    out = exact_gelu(out) if gelu else out
    return out if dropout_mask is None else out * dropout_mask[..., None]


@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "no gelu"])
@pytest.mark.parametrize("taps", [9, 4, 14])
def test_long_convolution(taps: int, gelu: bool) -> None:
    inputs = {"u": normal(2, 3, 9), "k": normal(3, taps)}
    assert_means(fft_conv, by_formula, inputs, dropout_mask=None, gelu=gelu)
    both = inputs | {"k_rev": normal(3, taps, seed=1)}
    assert_means(fft_conv, by_formula, both, dropout_mask=normal(2, 3, seed=2), gelu=gelu)


def segment_by_segment(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    activation: str | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """The results ``(B, T, D)``, and the final states behind them as ``(B or 1, N·W, D)``."""
    taps = weight.shape[1]
    ends = [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    ys, states = [], []
    for number, (start, end) in enumerate(pairwise(ends)):
        part = x[:, start:end]
        if initial_state is None:
            before = x.new_zeros(x.shape[0], taps, x.shape[2])
        else:
            before = (initial_state if cu_seqlens is None else initial_state[number : number + 1]).mT
        samples = torch.cat([before, part], dim=1)
        y = (samples[:, 1:].unfold(1, taps, 1) * weight).sum(-1) + (0 if bias is None else bias)
        ys.append(silu(y) if activation else y)
        states.append(samples[:, -taps:])
    y = torch.cat(ys, dim=1)
    return torch.cat([y if residual is None else y + residual, *states], dim=1)


def joined(*args: Any, **options: Any) -> Tensor:
    """``causal_conv1d`` with its two results side by side."""
    y, state = causal_conv1d(*args, output_final_state=True, **options)
    assert state is not None
    rows = state.mT if y.shape[0] > 1 else state.mT.flatten(0, 1)[None]
    return torch.cat([y, rows], dim=1)


STARTS = torch.tensor([0, 1, 4, 5, 12])


@pytest.mark.parametrize("activation", [None, "swish"])
@pytest.mark.parametrize("more", [True, False], ids=["with everything", "alone"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "rows"])
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_short_convolution(taps: int, packed: bool, more: bool, activation: str | None) -> None:
    batch, count = (1, 4) if packed else (2, 2)
    inputs = {"x": normal(batch, 12, 2), "weight": normal(2, taps)}
    if more:
        inputs |= {"bias": normal(2), "residual": normal(batch, 12, 2, seed=1)}
        inputs["initial_state"] = normal(count, 2, taps, seed=2)
    starts = STARTS if packed else None
    assert_means(joined, segment_by_segment, inputs, activation=activation, cu_seqlens=starts)
    assert causal_conv1d(**inputs, cu_seqlens=starts)[1] is None


def test_rounds_once_ignores_autocast_and_flattens_heads() -> None:
    inputs: dict[str, Any] = {"x": normal(1, 12, 6, dtype=torch.bfloat16), "weight": normal(6, 4, dtype=torch.float32)}
    inputs["residual"] = normal(1, 12, 6, dtype=torch.bfloat16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert_rounds_once(joined, segment_by_segment, inputs, activation="silu", cu_seqlens=STARTS)
        heads = inputs | {name: inputs[name].unflatten(2, (2, 3)) for name in ("x", "residual")}
        y, _ = causal_conv1d(**heads, backend="cuda", cu_seqlens=STARTS)
    assert torch.equal(y.flatten(2), causal_conv1d(**inputs, cu_seqlens=STARTS)[0])


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 2), (1, 3, 2)], ids=str)
def test_a_step_is_the_next_sample(shape: tuple[int, ...]) -> None:
    x, weight, bias = normal(3, 7, 2), normal(2, 4), normal(2)
    whole, _ = causal_conv1d(x, weight, bias, activation="silu")
    _, cache = causal_conv1d(x[:, :6], weight, bias, output_final_state=True)
    assert cache is not None
    last = x[:, 6].reshape(shape)
    y, same = causal_conv1d_update(last, cache, last, weight, bias, "silu")
    assert same is cache
    torch.testing.assert_close(y, (whole[:, 6] + x[:, 6]).reshape(shape))
    assert torch.equal(cache, x[:, 3:].mT)


X, W = torch.zeros(2, 8, 3), torch.zeros(3, 4)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "weight": ({"weight": None}, ValueError, "weight (D, W) is missing"),
    "ranks": ({"x": X[0]}, ValueError, "x (B, T, D) has shape (8, 3) and weight (D, W) (3, 4)"),
    "context": ({"cp_context": object()}, NotImplementedError, "cp_context is not supported"),
    "backend": ({"backend": "torch"}, ValueError, "must be 'triton', 'cuda' or 'mix', got 'torch'"),
    "activation": ({"activation": "relu"}, NotImplementedError, "got 'relu'"),
    "rows": ({"cu_seqlens": STARTS}, ValueError, "cu_seqlens is for one row, got x (2, 8, 3)"),
    "numbers": ({"seq_idx": torch.zeros(2, 8)}, ValueError, "seq_idx needs cu_seqlens"),
    "unknown": ({"mask": None}, TypeError, "unknown arguments mask"),
    "state": ({"initial_state": torch.zeros(2, 3, 3)}, ValueError, "(2, 3, 3), expected (N, D, W) = (2, 3, 4)"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(causal_conv1d, error, message, **{"x": X, "weight": W} | change)


def test_a_step_refuses_what_does_not_fit() -> None:
    arguments = {"x": X[0], "cache": torch.zeros(8, 3, 3), "weight": W}
    assert_refused(causal_conv1d_update, ValueError, "do not fit: expected N rows", **arguments)
    assert_refused(causal_conv1d_update, ValueError, "weight (D, W) is missing", **arguments | {"weight": None})
