"""``causal_conv1d_fn`` and ``causal_conv1d_update`` against sums over their taps in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from hyena_kernels.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
from tests.hyena_kernels.compat.helpers import assert_means, assert_rounds_once, normal
from tests.hyena_kernels.helpers import assert_refused


def tap_by_tap(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """The last tap weights the present sample; a tap counts within its sequence."""
    taps, length = weight.shape[1], x.shape[2]
    before = x.new_zeros(*x.shape[:2], taps - 1) if initial_states is None else initial_states
    samples = torch.cat([before, x], dim=2)
    y = x.new_zeros(x.shape) + (0 if bias is None else bias[:, None])
    for tap in range(taps):
        term = weight[:, tap, None] * samples[..., tap : tap + length]
        if seq_idx is not None:
            source = torch.arange(length) - (taps - 1) + tap
            same = (seq_idx[:, source.clamp(min=0)] == seq_idx) & (source >= 0)
            term = term * same[:, None]
        y = y + term
    y = silu(y) if activation else y
    return y if seq_idx is None else y * (seq_idx >= 0)[:, None]


SEQUENCES = torch.tensor(
    [
        [0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3],  # one of a single sample
        [5, 5, 4, 5, 5, 5, 5, 4, 4, 4, -1, -1],  # a number that comes back, and padding
        [7] * 12,
    ],
    dtype=torch.int32,
)


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("taps", [1, 2, 4, 13])
def test_fn(taps: int, activation: str | None) -> None:
    inputs = {"x": normal(3, 2, 12), "weight": normal(2, taps), "bias": normal(2)}
    assert_means(causal_conv1d_fn, tap_by_tap, inputs, activation=activation)
    assert_means(causal_conv1d_fn, tap_by_tap, inputs, activation=activation, seq_idx=SEQUENCES)
    without_bias = {"x": normal(3, 12, 2).mT, "weight": normal(2, taps)}
    assert_means(causal_conv1d_fn, tap_by_tap, without_bias, activation=activation, seq_idx=SEQUENCES)
    states = inputs | {"initial_states": normal(3, 2, taps - 1)}
    assert_means(causal_conv1d_fn, tap_by_tap, states, activation=activation)


@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("given", [True, False], ids=["initial states", "zeros"])
def test_final_states_are_the_last_samples(length: int, given: bool) -> None:
    inputs = {"x": normal(2, 3, length), "weight": normal(3, 4)}
    inputs |= {"initial_states": normal(2, 3, 3, seed=1)} if given else {}

    def both(x: Tensor, weight: Tensor, initial_states: Tensor | None = None) -> Tensor:
        y, states = causal_conv1d_fn(x, weight, initial_states=initial_states, return_final_states=True)
        return torch.cat([y, states], dim=2)

    def expected(x: Tensor, weight: Tensor, initial_states: Tensor | None = None) -> Tensor:
        before = x.new_zeros(2, 3, 3) if initial_states is None else initial_states
        y = tap_by_tap(x, weight, initial_states=initial_states)
        return torch.cat([y, torch.cat([before, x], dim=2)[..., -3:]], dim=2)

    assert_means(both, expected, inputs)
    out = torch.empty(2, 3, 3, dtype=torch.float64)
    _, states = causal_conv1d_fn(**inputs, return_final_states=True, final_states_out=out)
    assert states is out
    assert torch.equal(out, both(**inputs)[..., length:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seq_idx", [None, SEQUENCES], ids=["rows", "packed"])
def test_rounds_once_and_ignores_autocast(seq_idx: Tensor | None, dtype: torch.dtype) -> None:
    inputs: dict[str, Any] = {"x": normal(3, 12, 8, dtype=dtype).mT, "bias": normal(8, dtype=torch.float32)}
    inputs["weight"] = normal(8, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        wide = causal_conv1d_fn(**inputs | {"x": inputs["x"].float()}, seq_idx=seq_idx)
        assert wide.dtype == torch.float32
        assert_rounds_once(causal_conv1d_fn, tap_by_tap, inputs, activation="silu", seq_idx=seq_idx)


def test_the_result_has_the_layout_of_the_signal() -> None:
    x, weight = normal(3, 12, 8).mT, normal(8, 4)
    for seq_idx in (None, SEQUENCES):
        assert causal_conv1d_fn(x, weight, seq_idx=seq_idx).mT.is_contiguous()
        assert causal_conv1d_fn(x.contiguous(), weight, seq_idx=seq_idx).is_contiguous()


def test_the_results_may_be_changed_in_place() -> None:
    """causal-conv1d's own tests do so, also with final states."""
    weight = normal(8, 4)
    for x in (normal(2, 12, 8).mT, normal(2, 8, 12)):
        x.requires_grad_()
        [expected] = torch.autograd.grad(2 * causal_conv1d_fn(x, weight).sum(), x)
        y, states = causal_conv1d_fn(x, weight, return_final_states=True)
        y *= 2
        states += 1
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)


def steps(x: Tensor, ring: list[list[Tensor]], weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
    """Each sample is appended to the history of its row, and weighted with those before it."""
    y = torch.empty_like(x)
    for row, history in enumerate(ring):
        for t in range(x.shape[2]):
            history.append(x[row, :, t])
            value = (torch.stack(history[-weight.shape[1] :], dim=1) * weight).sum(1) + bias
            y[row, :, t] = silu(value) if activation else value
    return y


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("indices", [None, [4, -1, 0]], ids=["", "indices"])
@pytest.mark.parametrize("ring", [False, True], ids=["rolled", "ring"])
@pytest.mark.parametrize(("size", "count"), [(3, 1), (5, 2), (3, 7)])
def test_update(size: int, count: int, ring: bool, indices: list[int] | None, activation: str | None) -> None:
    x, weight, bias = normal(3, 2, count), normal(2, 4), normal(2)
    rows = [0, 1, 2] if indices is None else indices
    seen = torch.tensor([0, 4, 11], dtype=torch.int32)
    state = normal(5 if indices else 3, 2, size)
    before = state.clone()
    # The samples of a row in the order in which they came.
    oldest = [int(n) % size if ring else 0 for n in seen]
    histories = [list(before[row].roll(-shift, -1).unbind(-1)) for row, shift in zip(rows, oldest, strict=True)]
    expected = steps(x, histories, weight, bias, activation)
    found = causal_conv1d_update(
        x if count > 1 else x[..., 0],
        state,
        weight,
        bias,
        activation,
        cache_seqlens=seen if ring else None,
        conv_state_indices=None if indices is None else torch.tensor(indices, dtype=torch.int32),
    )
    for number, row in enumerate(rows):
        if row < 0:
            expected[number] = 0
            continue
        last = torch.stack(histories[number][-size:], dim=1)
        before[row] = last.roll((oldest[number] + count) % size, -1) if ring else last
    torch.testing.assert_close(found.view_as(x), expected)
    assert torch.equal(state, before)


def test_a_step_needs_no_samples_before_it() -> None:
    x, state, weight = normal(2, 3), torch.empty(2, 3, 0, dtype=torch.float64), normal(3, 1)
    assert torch.equal(causal_conv1d_update(x, state, weight), x * weight[:, 0])


def test_states_of_packed_sequences() -> None:
    x, starts = normal(10, 3), torch.tensor([0, 2, 3, 10])
    found = causal_conv1d_varlen_states(x, starts, 4)
    assert found.shape == (3, 3, 4)
    assert found.mT.is_contiguous()
    for number, (start, end) in enumerate([(0, 2), (2, 3), (3, 10)]):
        kept = x[max(start, end - 4) : end].T
        assert torch.equal(found[number, :, 4 - kept.shape[1] :], kept)
        assert not found[number, :, : 4 - kept.shape[1]].any()


def test_compiles_as_a_whole(fresh_dynamo: None) -> None:
    compiled = torch.compile(causal_conv1d_fn, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (7, 12):
        x, weight = normal(2, 3, length, dtype=torch.float32), normal(3, 4, dtype=torch.float32)
        found = compiled(x, weight, activation="silu", return_final_states=True)
        for mine, other in zip(
            found, causal_conv1d_fn(x, weight, activation="silu", return_final_states=True), strict=True
        ):
            assert torch.equal(mine, other)


X, W, STATE = torch.zeros(2, 3, 8), torch.zeros(3, 4), torch.zeros(2, 3, 3)
NUMBERS = torch.zeros(2, 8, dtype=torch.int32)
REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "activation": (causal_conv1d_fn, {"activation": "gelu"}, NotImplementedError, "'silu' or 'swish', got 'gelu'"),
    "numbers and states": (
        causal_conv1d_fn,
        {"seq_idx": NUMBERS, "initial_states": STATE},
        ValueError,
        "seq_idx does not go together with initial_states",
    ),
    "unwritten": (causal_conv1d_fn, {"final_states_out": STATE}, ValueError, "only with return_final_states=True"),
    "numbers": (
        causal_conv1d_fn,
        {"seq_idx": NUMBERS[:, 1:]},
        ValueError,
        "shape (2, 3, 8), and seq_idx (B, L) (2, 7)",
    ),
    "step": (causal_conv1d_update, {"activation": "relu"}, NotImplementedError, "causal_conv1d_update: activation"),
    "short state": (
        causal_conv1d_update,
        {"conv_state": STATE[..., 1:]},
        ValueError,
        "conv_state (2, 3, 2) of torch.float32 does not fit x (2, 3, 8) of torch.float32 and weight (3, 4)",
    ),
    "state's dtype": (causal_conv1d_update, {"conv_state": STATE.half()}, ValueError, "of torch.float16 does not fit"),
}


@pytest.mark.parametrize(("function", "change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(
    function: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    base = {"x": X, "weight": W} | ({"conv_state": STATE} if function is causal_conv1d_update else {})
    assert_refused(function, error, message, **base | change)
