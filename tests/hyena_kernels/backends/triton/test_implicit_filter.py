"""Triton kernels of ``implicit_filter`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import implicit_filter, use_backend
from hyena_kernels.backends.triton import implicit_filter as kernels
from hyena_kernels.common.inputs import ImplicitFilterInputs
from hyena_kernels.testing import check, implicit_filter_inputs, value_and_gradients

Tiles = Callable[[int, int], None]


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Tiles:
    """Set the positions of every tile and of every tile of a sum. Long tiles cost the interpreter nothing."""

    def choose(positions: int, summed: int) -> None:
        for width, config in kernels.CONFIGS.items():
            monkeypatch.setitem(kernels.CONFIGS, width, kernels.Config(positions, summed, config.warps))

    return choose


@pytest.mark.slow
def test_default_tiles() -> None:
    check("implicit_filter", implicit_filter_inputs(70, 70), shift=0.05)


# Channels around the end of a group of 64.
@pytest.mark.parametrize(("channels", "length"), [(64, 127), (65, 128)])
def test_error_is_within_budget(channels: int, length: int, tiles: Tiles) -> None:
    tiles(128, 64)
    check("implicit_filter", implicit_filter_inputs(channels, length, width=16, layers=1), shift=0.05)


def test_length_changes_no_bit(tiles: Tiles) -> None:
    """A filter that ends in a tile, or with one, equals the start of a longer one whose dk is zero after that.

    Not for gradients of the window: torch sums them in an order that depends on the length.
    """
    tiles(64, 32)
    window = ("t", "deltas")
    inputs = implicit_filter_inputs(10, 80, width=8, layers=1)
    for length in (1, 65):
        dk = torch.randn(10, 80)
        dk[:, length:] = 0
        long = value_and_gradients(implicit_filter, inputs, dk, frozen=window)
        start = {**inputs, "z": inputs["z"][:length], "t": inputs["t"][:length]}
        expected = {**long, "y": long["y"][:, :length], "dz": long["dz"][:length]}
        for name, value in value_and_gradients(implicit_filter, start, dk[:, :length], frozen=window).items():
            assert torch.equal(value, expected[name]), (length, name)


@pytest.mark.slow
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
@pytest.mark.parametrize(("features", "width", "layers"), [(3, 16, 2), (17, 40, 0), (5, 7, 3), (9, 100, 1)])
def test_shapes_of_the_network(features: int, width: int, layers: int, window: bool, tiles: Tiles) -> None:
    tiles(256, 256)
    inputs = implicit_filter_inputs(32, 250, features=features, width=width, layers=layers, window=window)
    check("implicit_filter", inputs)


@pytest.mark.usefixtures("nan_empty")
def test_slices_and_programs_with_many_tiles(monkeypatch: pytest.MonkeyPatch, tiles: Tiles) -> None:
    tiles(64, 32)
    # Three slices of two tiles, the last of them not full. Two programs take the four summed tiles of a slice.
    monkeypatch.setattr(kernels, "SCRATCH", 2 * 2 * 16 * 128)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    inputs = implicit_filter_inputs(20, 300, width=16, layers=1)
    check("implicit_filter", inputs, shift=0.05)


@pytest.mark.parametrize("length", [1, 64, 1000, 65536, 65537, 1 << 24])
@pytest.mark.parametrize("layers", [0, 2, 1000])
def test_slices_cover_all_positions_within_the_scratch(length: int, layers: int) -> None:
    pieces = kernels.slices(length, layers, 64, 64)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == length
    longest = max(piece.stop - piece.start for piece in pieces)
    assert all(piece.start % 64 == 0 for piece in pieces)
    assert 2 * (layers + 1) * 64 * longest <= kernels.SCRATCH


def test_tiles_of_sums_divide_tiles_of_planes() -> None:
    assert all(config.positions % config.summed == 0 for config in kernels.CONFIGS.values())


@pytest.mark.parametrize(
    ("capability", "bounded"), [((8, 0), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)]
)
def test_registers_are_bounded_where_products_take_operands_from_shared_memory(
    capability: tuple[int, int], bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    multiplies = kernels._multiplies_by_warpgroups.__wrapped__
    assert multiplies(torch.device("cuda", 0)) is bounded
    assert multiplies(torch.device("cpu")) is False
    own = kernels._signals_constants(64, 16, kernels.CONFIGS[64], True, bounded)
    assert own.values.get("maxnreg") == (168 if bounded else None)


@pytest.mark.usefixtures("nan_empty")
def test_gradients_of_some_layers_alone_with_many_blocks_of_channels(tiles: Tiles) -> None:
    """Backward stops at the lowest layer that has a gradient: the last, a hidden one or the first."""
    tiles(64, 32)
    inputs = implicit_filter_inputs(70, 100, width=16, layers=2)
    tensors = ImplicitFilterInputs(*inputs.values())
    dk = torch.randn(70, 100)
    full = dict(zip(inputs, kernels.backward(dk, tensors, 0.05, [True] * 9), strict=True))
    for wanted in (("w_out",), ("w_hidden", "b_hidden"), ("b_in",)):
        grads = kernels.backward(dk, tensors, 0.05, [name in wanted for name in inputs])
        for name, grad in zip(inputs, grads, strict=True):
            assert torch.equal(grad, full[name]) if name in wanted else grad.numel() == 0, name


def _strided(tensor: Tensor) -> Tensor:
    """The same values, none next to another in memory."""
    storage = torch.full([2 * size + 1 for size in tensor.shape], float("nan"))
    view = storage[tuple(slice(1, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def test_strides_change_no_bit(tiles: Tiles) -> None:
    tiles(64, 64)
    inputs = implicit_filter_inputs(10, 100, width=12, layers=1)
    dk = torch.randn(10, 100)
    plain = value_and_gradients(implicit_filter, inputs, dk)
    strided = {name: _strided(tensor) for name, tensor in inputs.items() if tensor is not None}
    for name, value in value_and_gradients(implicit_filter, strided, _strided(dk)).items():
        assert torch.equal(value, plain[name]), name


def test_an_expanded_gradient_changes_no_bit(tiles: Tiles) -> None:
    tiles(64, 64)
    inputs = implicit_filter_inputs(10, 100, width=12, layers=0)
    full = value_and_gradients(implicit_filter, inputs, torch.ones(10, 100))
    for name, value in value_and_gradients(implicit_filter, inputs, torch.ones(())).items():
        assert torch.equal(value, full[name]), name


def test_backward_gives_what_is_needed_and_nothing_else(tiles: Tiles) -> None:
    tiles(64, 64)
    inputs = implicit_filter_inputs(3, 40, width=5, layers=1)
    tensors = ImplicitFilterInputs(*inputs.values())
    dk = torch.randn(3, 40)
    full = kernels.backward(dk, tensors, 0.05, [True] * 9)
    for index, name in enumerate(inputs):
        needs = [other == index for other in range(9)]
        for grad, expected, needed in zip(kernels.backward(dk, tensors, 0.05, needs), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), name
    assert all(grad.shape == (0,) for grad in kernels.backward(dk, tensors, 0.05, [False] * 9))


def test_nan_stays_with_its_position(tiles: Tiles) -> None:
    tiles(64, 32)
    inputs = implicit_filter_inputs(4, 50, width=8, layers=1)
    dk = torch.randn(4, 50)
    clean = value_and_gradients(implicit_filter, inputs, dk)
    inputs["z"][20, 1] = float("nan")
    results = value_and_gradients(implicit_filter, inputs, dk)
    others = torch.arange(50) != 20
    for name, value, expected in (
        ("y", results["y"].t(), clean["y"].t()),
        ("dz", results["dz"], clean["dz"]),
        ("dt", results["dt"], clean["dt"]),
    ):
        assert torch.equal(value[others], expected[others]), name
        assert value[20].isnan().all(), name


def test_nan_in_the_gradient_stays_with_its_position_or_channel(tiles: Tiles) -> None:
    tiles(64, 32)
    inputs = implicit_filter_inputs(4, 50, width=8, layers=1)
    dk = torch.randn(4, 50)
    clean = value_and_gradients(implicit_filter, inputs, dk)
    dk[1, 20] = float("nan")
    results = value_and_gradients(implicit_filter, inputs, dk)
    for name, place, count in (("dz", 20, 50), ("dt", 20, 50), ("dw_out", 1, 4), ("ddeltas", 1, 4)):
        others = torch.arange(count) != place
        assert torch.equal(results[name][others], clean[name][others]), name
        assert results[name][place].isnan().all(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "error"), [(math.pi / 2, 1.8e-7), (40.0, 1.8e-7), (1000.0, 1.8e-7), (2.0**16, 1.2e-6)], ids=str
)
def test_sine_and_cosine(bound: float, error: float, tiles: Tiles) -> None:
    """``sin(z)`` by a network with weights of 1, without hidden layers and bias. Here without fused multiply-add."""
    tiles(4096, 4096)
    one = torch.ones(1)
    draw = torch.rand(8000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = ((2 * draw - 1) * bound).float()
    inputs = {
        "z": x[:, None],
        "freq": one,
        "w_in": one[:, None],
        "b_in": 0 * one,
        "w_hidden": torch.empty(0, 1, 1),
        "b_hidden": torch.empty(0, 1),
        "w_out": one[:, None],
    }
    results = value_and_gradients(implicit_filter, inputs, torch.ones(()), frozen=inputs.keys() - {"z"})
    assert (results["y"][0] - x.double().sin()).abs().max() <= error
    assert (results["dz"][:, 0] - x.double().cos()).abs().max() <= error


@pytest.mark.parametrize(
    ("features", "width", "message"),
    [
        (5, 129, "networks of a width H up to 128 and up to 64 features E, got H = 129 and E = 5"),
        (65, 8, "networks of a width H up to 128 and up to 64 features E, got H = 8 and E = 65"),
    ],
)
def test_refuses_large_networks(features: int, width: int, message: str) -> None:
    inputs = implicit_filter_inputs(2, 3, features=features, width=width)
    with pytest.raises(ValueError, match=re.escape(message)):
        kernels.forward(ImplicitFilterInputs(*inputs.values()), 0.0)
    with pytest.raises(ValueError, match=re.escape(message)):
        kernels.backward(torch.ones(2, 3), ImplicitFilterInputs(*inputs.values()), 0.0, [True] * 9)


POSITIONS = {"z", "t"}
"""Inputs with a gradient for each position, which is not a sum over positions."""


def position_by_position(z: Tensor, **others: Any) -> Tensor:
    """``implicit_filter`` by a call of length 1 for each position.

    The gradient of ``t`` at a position is a sum over channels of terms of both signs. The terms cancel in part, but
    their errors do not, and plain PyTorch, which sets the budget, may be lucky. So error and budget of one element are
    both chance (docs/LOG.md). Those of many positions are not, and here no call is longer than one position.
    """
    t = others.pop("t")
    calls = [implicit_filter(z[n : n + 1], t=t[n : n + 1], **others) for n in range(len(z))]
    return torch.cat(calls, dim=1)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
@pytest.mark.parametrize("length", [1, 1000, 4097, 200_000, 1 << 20])
def test_error_is_within_budget_on_a_gpu(length: int, window: bool) -> None:
    # One position has only one number of dt and five of dz: see `position_by_position` and the test after this.
    frozen = POSITIONS if length == 1 else ()
    inputs = implicit_filter_inputs(128, length, window=window, device="cuda")
    check("implicit_filter", inputs, frozen=frozen, shift=0.05)


@pytest.mark.gpu
def test_gradients_of_single_positions_on_a_gpu() -> None:
    inputs = implicit_filter_inputs(128, 300, device="cuda")
    check("implicit_filter", inputs, function=position_by_position, frozen=inputs.keys() - POSITIONS, shift=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("features", "width", "layers"), [(3, 16, 2), (17, 40, 0), (5, 7, 3), (9, 100, 1), (33, 128, 2)]
)
def test_shapes_of_the_network_on_a_gpu(features: int, width: int, layers: int) -> None:
    inputs = implicit_filter_inputs(200, 3000, features=features, width=width, layers=layers, device="cuda")
    check("implicit_filter", inputs)


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = implicit_filter_inputs(128, 100_003, device="cuda")
    dk = torch.randn(128, 100_003, device="cuda")
    first = value_and_gradients(implicit_filter, inputs, dk)
    for _ in range(100):
        for name, value in value_and_gradients(implicit_filter, inputs, dk).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.gpu
def test_memory_beside_the_filters_does_not_grow_with_length_on_a_gpu() -> None:
    beside = []
    for length in (1 << 18, 1 << 20):
        inputs = implicit_filter_inputs(128, length, device="cuda")
        dk = torch.ones(128, length, device="cuda")
        needs = [False, *[True] * 6, False, False]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kernels.backward(dk, ImplicitFilterInputs(*inputs.values()), 0.05, needs)
        beside.append(torch.cuda.max_memory_allocated() - before)
    assert beside[1] <= beside[0] + (1 << 20)
    assert beside[1] <= 4 * kernels.SCRATCH + (64 << 20)
