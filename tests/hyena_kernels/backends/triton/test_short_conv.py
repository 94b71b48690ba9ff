"""Triton kernels of ``short_conv`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hyena_kernels import short_conv, use_backend
from hyena_kernels.backends.triton import short_conv as kernels, short_conv_loop as loop_kernels
from hyena_kernels.common import sizes
from hyena_kernels.common.inputs import ShortConvInputs
from hyena_kernels.testing import check, short_conv_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_products_need_not_fit, check_short_conv_states

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Set positions and channels of every tile. The interpreter takes as long for a large tile as for a small one."""

    def choose(positions: int, channels: int) -> None:
        for name in kernels.CONFIGS:
            monkeypatch.setitem(kernels.CONFIGS, name, (positions, channels, 4))

    return choose


@pytest.mark.parametrize(("channels", "length"), [(20, 70), (70, 40)], ids=["narrow", "wide"])
def test_default_tiles(channels: int, length: int) -> None:
    check("short_conv", short_conv_inputs(1, channels, length))


# Lengths around the eight positions of a thread and around the end of a tile, with some hundred elements each.
@pytest.mark.parametrize(
    ("length", "taps"),
    [*itertools.product([1, 7, 8, 9, 16, 17], [3]), *itertools.product([2, 17], [8]), (17, 1)],
)
def test_error_is_within_budget(length: int, taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 512)
    check("short_conv", short_conv_inputs(1, 400, length, taps))


@pytest.mark.parametrize("taps", [2, 4, 5])
def test_other_numbers_of_taps(taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(32, 128)
    check("short_conv", short_conv_inputs(1, 100, 30, taps))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, bias: bool, tiles: Callable[[int, int], None]) -> None:
    tiles(64, 64)
    filter_dtype = dtype if bias else torch.float32
    check("short_conv", short_conv_inputs(1, 50, 60, dtype=dtype, filter_dtype=filter_dtype, bias=bias))


def strided(tensor: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    batch, channels, length = tensor.shape
    if layout == "channel-last":
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "slice":
        storage = torch.full((batch + 1, 3 * channels, 2 * length + 1), float("nan"))
        storage[1:, 1::3, 1::2] = tensor
        return storage[1:, 1::3, 1::2]
    return tensor[:1, :, :1].expand(batch, channels, length)


@pytest.mark.parametrize("layout", ["channel-last", "slice", "expanded"])
def test_strides_change_no_bit(layout: str, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    inputs = short_conv_inputs(2, 20, 20)
    inputs["x"] = strided(inputs["x"], layout)
    inputs["weight"] = inputs["weight"].t().contiguous().t()
    inputs["bias"] = torch.stack((inputs["bias"], inputs["bias"]), dim=1)[:, 0]
    dy = strided(torch.randn(2, 20, 20), layout)
    plain = value_and_gradients(short_conv, {name: tensor.contiguous() for name, tensor in inputs.items()}, dy.clone())
    for name, value in value_and_gradients(short_conv, inputs, dy).items():
        assert torch.equal(value, plain[name]), name


def test_offsets_beyond_two_to_the_31(tiles: Callable[[int, int], None]) -> None:
    tiles(64, 32)
    inputs = short_conv_inputs(1, 16, 34, dtype=torch.float16)
    dy = torch.randn(1, 16, 34)
    plain = value_and_gradients(short_conv, inputs, dy)
    # The system provides no memory for pages that are never touched.
    storage = torch.empty(34 << 26, dtype=torch.float16)
    inputs["x"] = storage.as_strided((1, 16, 34), (1, 1, 1 << 26)).copy_(inputs["x"])
    for name, value in value_and_gradients(short_conv, inputs, dy).items():
        assert torch.equal(value, plain[name]), name


def test_one_program_goes_over_many_tiles(monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    # There are two channel tiles, so two groups of programs take the five tiles of positions.
    monkeypatch.setattr(kernels, "PROGRAMS", 4)
    check("short_conv", short_conv_inputs(1, 40, 70))


@pytest.mark.parametrize("length", [16, 64])
def test_partial_sums_do_not_grow_with_length(
    length: int, monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None]
) -> None:
    tiles(8, 32)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    shapes = []
    allocate = torch.empty

    def empty(shape: tuple[int, ...], **options: object) -> Tensor:
        shapes.append(shape)
        return allocate(shape, **options)

    inputs = tuple(short_conv_inputs(1, 20, length).values())
    monkeypatch.setattr(torch, "empty", empty)
    kernels.backward(inputs[0], ShortConvInputs(*inputs), False, [False, True, False, False])
    assert shapes == [(2, 4, 20)]


def test_nan_stays_in_its_row_and_behind_its_position(tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    dy = torch.randn(2, 5, 20)
    for position in (14, 19):
        inputs = short_conv_inputs(2, 5, 20)
        clean = value_and_gradients(short_conv, inputs, dy)
        inputs["x"][1, 2, position] = float("nan")
        results = value_and_gradients(short_conv, inputs, dy)
        expected = torch.zeros(2, 5, 20, dtype=torch.bool)
        expected[1, 2, position : position + 3] = True
        assert torch.equal(results["y"].isnan(), expected)
        # Tap j multiplies x[s] in y[s + 2 - j], which must exist.
        met = torch.zeros(5, 3, dtype=torch.bool)
        met[2] = position + 2 - torch.arange(3) < 20
        assert torch.equal(results["dweight"].isnan(), met)
        assert torch.equal(results["dx"], clean["dx"])
        assert torch.equal(results["dbias"], clean["dbias"])


def test_nan_in_the_gradient_stays_in_its_row(tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    dy = torch.randn(2, 5, 20)
    dy[1, 2, 17] = float("nan")
    results = value_and_gradients(short_conv, short_conv_inputs(2, 5, 20), dy)
    expected = torch.zeros(2, 5, 20, dtype=torch.bool)
    expected[1, 2, 15:18] = True
    assert torch.equal(results["dx"].isnan(), expected)
    assert torch.equal(results["dbias"].isnan(), torch.arange(5) == 2)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    check("short_conv", short_conv_inputs(1, 40, 40))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_backward_gives_what_is_needed_and_nothing_else(bias: bool, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    x, weight, offset = short_conv_inputs(2, 5, 12, bias=bias).values()
    dy = torch.randn(2, 5, 12)
    full = kernels.backward(dy, ShortConvInputs(x, weight, offset), False, [True, True, bias, False])
    for needs in itertools.product([False, True], [False, True], [False, bias]):
        for grad, expected, needed in zip(
            kernels.backward(dy, ShortConvInputs(x, weight, offset), False, [*needs, False]),
            full,
            [*needs, False],
            strict=True,
        ):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channel_last", [False, True], ids=["channel-first", "channel-last"])
@pytest.mark.parametrize("length", [1000, 4097, 1 << 20])
def test_error_is_within_budget_on_a_gpu(length: int, channel_last: bool, dtype: torch.dtype) -> None:
    inputs = short_conv_inputs(2, 100, length, dtype=dtype, device="cuda")
    if channel_last:
        inputs["x"] = strided(inputs["x"], "channel-last")
    check("short_conv", inputs)


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = short_conv_inputs(2, 100, 100_003, dtype=torch.bfloat16, device="cuda")
    dy = torch.randn(2, 100, 100_003, device="cuda")
    first = value_and_gradients(short_conv, inputs, dy)
    for _ in range(100):
        for name, value in value_and_gradients(short_conv, inputs, dy).items():
            assert torch.equal(value, first[name]), name


def test_products_need_not_fit_the_dtype(tiles: Callable[[int, int], None]) -> None:
    tiles(64, 32)
    assert_products_need_not_fit("short_conv", torch.float16)


@pytest.mark.parametrize(
    ("taps", "length", "state", "activation"),
    [(1, 9, True, "silu"), (4, 17, True, "silu"), (4, 1, False, "silu"), (8, 7, True, None), (8, 17, False, "silu"),
     (9, 17, True, "silu"), (16, 9, False, None), (21, 5, True, None)],
)  # fmt: skip
def test_states_activation_and_many_taps(
    taps: int, length: int, state: bool, activation: str | None, tiles: Callable[[int, int], None]
) -> None:
    tiles(16, 512)
    check_short_conv_states(short_conv_inputs(1, 200, length, taps, state=state), activation=activation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("taps", [4, 10])
def test_dtypes_of_states_and_activation(dtype: torch.dtype, taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(32, 64)
    inputs = short_conv_inputs(2, 40, 12, taps, dtype=dtype, bias=taps == 4, state=True)
    check_short_conv_states(inputs, activation="silu")


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("taps", [3, 9])
def test_channel_last_is_kept_in_slices(
    taps: int, monkeypatch: pytest.MonkeyPatch, tiles: Callable[[int, int], None]
) -> None:
    tiles(16, 8)
    # Gradients of the convolution fit one row at a time.
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 4 * 12)
    monkeypatch.setattr(loop_kernels, "PROGRAMS", 2)
    inputs = short_conv_inputs(2, 3, 12, taps, state=True)
    dy = torch.randn(2, 3, 12)
    plain = value_and_gradients(short_conv, inputs, dy, activation="silu")
    inputs["x"] = strided(inputs["x"], "channel-last")
    results = value_and_gradients(short_conv, inputs, strided(dy, "channel-last"), activation="silu")
    assert results["y"].stride() == results["dx"].stride() == (12 * 3, 1, 3)
    for name, value in results.items():
        assert torch.equal(value, plain[name]), name


@pytest.mark.parametrize("taps", [4, 11])
def test_chunks_have_the_bits_of_the_whole(taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(16, 32)
    x, weight, bias = short_conv_inputs(1, 20, 40, taps).values()
    whole = short_conv(x, weight, bias, activation="silu")
    state, parts = None, []
    for chunk in x.split([3, 20, 17], dim=2):
        y, state = short_conv(chunk, weight, bias, activation="silu", initial_state=state, return_final_state=True)
        parts.append(y)
    assert torch.equal(torch.cat(parts, dim=2), whole)


@pytest.mark.parametrize("taps", [3, 9])
def test_nan_stays_behind_its_position_with_a_state(taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(32, 8)
    inputs = short_conv_inputs(2, 5, 20, taps, state=True)
    dy = torch.randn(2, 5, 20)
    clean = value_and_gradients(short_conv, inputs, dy, activation="silu")
    inputs["initial_state"][0, 1, -1] = float("nan")
    inputs["x"][1, 2, 19] = float("nan")
    results = value_and_gradients(short_conv, inputs, dy, activation="silu")
    expected = torch.zeros(2, 5, 20, dtype=torch.bool)
    expected[0, 1, : taps - 1] = True
    expected[1, 2, 19] = True
    assert torch.equal(results["y"].isnan(), expected)
    met = expected.any(dim=2)
    assert torch.equal(results["dx"][~met], clean["dx"][~met])
    assert torch.equal(results["dx"][1, 2, : 20 - taps], clean["dx"][1, 2, : 20 - taps])
    assert torch.equal(results["dx"][0, 1, taps - 1 :], clean["dx"][0, 1, taps - 1 :])


@pytest.mark.parametrize("taps", [3, 10])
def test_backward_with_a_state_gives_what_is_needed(taps: int, tiles: Callable[[int, int], None]) -> None:
    tiles(32, 8)
    inputs = ShortConvInputs(*short_conv_inputs(2, 5, 12, taps, state=True).values())
    dy = torch.randn(2, 5, 12)
    full = kernels.backward(dy, inputs, True, [True] * 4)
    for index in range(4):
        needs = [index == other for other in range(4)]
        for grad, expected, needed in zip(kernels.backward(dy, inputs, True, needs), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


@pytest.mark.gpu
@pytest.mark.parametrize("channel_last", [False, True], ids=["channel-first", "channel-last"])
@pytest.mark.parametrize(("taps", "length"), [(4, 4097), (8, 1000), (9, 1000), (64, 4097), (256, 20_000)])
def test_states_and_activation_are_within_budget_on_a_gpu(length: int, taps: int, channel_last: bool) -> None:
    inputs = short_conv_inputs(2, 100, length, taps, dtype=torch.bfloat16, state=True, device="cuda")
    if channel_last:
        inputs["x"] = strided(inputs["x"], "channel-last")
    check_short_conv_states(inputs, activation="silu")
