"""Triton kernels of ``far_field_conv`` against float64, in the interpreter. Its time grows with the number of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import BackendError, far_field_conv, use_backend
from hyena_kernels.backends.triton import far_field_conv as kernels, support
from hyena_kernels.common.inputs import FarFieldConvInputs
from hyena_kernels.testing import check, far_field_conv_inputs, value_and_gradients

Tiles = Callable[[int, int], None]


@pytest.fixture(autouse=True)
def triton_backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Tiles:
    """Set the positions of a piece, and the blocks of a tile."""

    def choose(piece: int, blocks: int) -> None:
        for name in kernels.CONFIGS:
            monkeypatch.setitem(kernels.CONFIGS, name, kernels.Config(piece, blocks))

    return choose


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program take several tiles."""
    monkeypatch.setattr(kernels, "PROGRAMS", 4)


# Less than a block, many blocks with a partial one at the end, and blocks of two pieces.
@pytest.mark.parametrize(("length", "h", "p"), [(60, 64, 2), (250, 32, 2), (300, 64, 3)])
def test_error_is_within_budget(length: int, h: int, p: int, tiles: Tiles) -> None:
    tiles(32, 16)
    check("far_field_conv", far_field_conv_inputs(1, 1, length, h=h, p=p))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_default_tiles(dtype: torch.dtype) -> None:
    check("far_field_conv", far_field_conv_inputs(1, 1, 700, h=128, p=6, spare=3, dtype=dtype))


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty", "few_programs")
def test_several_tiles_of_strided_signals(tiles: Tiles) -> None:
    tiles(32, 16)
    inputs = far_field_conv_inputs(2, 1, 1250, h=32, p=2, spare=300)
    for name in ("u", "pre_gate", "post_gate"):
        storage = torch.full((3, 3, 2503), float("nan"))
        inputs[name] = storage[1:, 1::2, 3::2].copy_(inputs[name])
    for name in ("near", "nodes", "D"):
        inputs[name] = inputs[name].movedim(0, -1).contiguous().movedim(-1, 0)
    check("far_field_conv", inputs)


@pytest.mark.parametrize(
    ("dtype", "absent"),
    [
        (torch.bfloat16, ("pre_gate", "post_gate")),
        (torch.float16, ("pre_gate", "post_gate", "skip")),
        (torch.bfloat16, ("post_gate",)),
        (torch.float32, ("pre_gate",)),
    ],
    ids=str,
)
def test_without_gates_and_skip(dtype: torch.dtype, absent: tuple[str, ...], tiles: Tiles) -> None:
    tiles(16, 16)
    check("far_field_conv", far_field_conv_inputs(1, 1, 200, h=32, p=2, dtype=dtype, **dict.fromkeys(absent, False)))


@pytest.mark.parametrize(
    ("dtype", "gated", "parts"),
    [
        (torch.bfloat16, False, 1),
        (torch.bfloat16, True, 2),
        (torch.float16, False, 2),
        (torch.float16, True, 3),
        (torch.float32, False, 3),
    ],
    ids=str,
)
def test_parts_hold_a_signal_and_its_gate(dtype: torch.dtype, gated: bool, parts: int) -> None:
    x, gate = torch.randn(2, 1000).to(dtype)
    assert kernels._Signal(x, gate if gated else None).parts == parts
    rest = x.float() * gate.float() if gated else x.float()
    for _ in range(parts):
        rest = rest - rest.bfloat16().float()
    assert rest.abs().max() <= 1e-7


@pytest.mark.slow
def test_slices_of_channels_change_no_bit(tiles: Tiles) -> None:
    tiles(16, 16)
    inputs = FarFieldConvInputs(*far_field_conv_inputs(1, 2, 40, h=32, p=2).values())
    dy = torch.randn(1, 2, 40)
    assert torch.equal(kernels.forward(inputs, scratch_bytes=0), kernels.forward(inputs))
    whole = kernels.backward(dy, inputs, [True] * 6)
    for value, expected in zip(kernels.backward(dy, inputs, [True] * 6, scratch_bytes=0), whole, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.slow
def test_backward_gives_what_is_needed_and_nothing_else(tiles: Tiles) -> None:
    tiles(16, 16)
    inputs = FarFieldConvInputs(*far_field_conv_inputs(1, 1, 40, h=32, p=2).values())
    dy = torch.randn(1, 1, 40)
    full = kernels.backward(dy, inputs, [True] * 6)
    for wanted in ((), (0,), (1,), (2,), (3,), (4, 3), (5,)):
        needs = [index in wanted for index in range(6)]
        for grad, expected, needed in zip(kernels.backward(dy, inputs, needs), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_spoils_its_row_and_no_other(bad: float, tiles: Tiles) -> None:
    tiles(16, 16)
    inputs = far_field_conv_inputs(1, 2, 60, h=32, p=2)
    dy = torch.randn(1, 2, 60)
    clean = value_and_gradients(far_field_conv, inputs, dy)
    inputs["u"][0, 1, 30] = bad
    results = value_and_gradients(far_field_conv, inputs, dy)
    assert not results["y"][0, 1].isfinite().any()
    for name, value in results.items():
        row = (0, 1) if value.dim() == 3 and name != "dnodes" else (1,)
        others = torch.ones(value.shape[: len(row)], dtype=torch.bool)
        others[row] = False
        assert torch.equal(value[others], clean[name][others]), name


@pytest.mark.parametrize("shape", [(0, 2, 40), (1, 0, 40)], ids=str)
def test_empty(shape: tuple[int, int, int]) -> None:
    inputs = far_field_conv_inputs(*shape, h=32, p=2)
    results = value_and_gradients(far_field_conv, inputs, torch.empty(shape))
    assert results["y"].shape == shape
    assert not results["dnear"].any()
    assert not results["dnodes"].any()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": torch.float64}, "has no float64 kernels"),
        ({"h": 16}, "takes blocks h of a power of two from 32 to 128"),
        ({"h": 48}, "takes blocks h of a power of two from 32 to 128"),
        ({"h": 256}, "takes blocks h of a power of two from 32 to 128"),
        ({"h": 32, "p": 13}, "with up to 12 nodes p"),
        ({"length": 32 * 8192 + 1}, "takes up to 8192 blocks"),
    ],
    ids=str,
)
def test_what_the_kernels_cannot_run_is_refused(options: dict[str, Any], reason: str) -> None:
    inputs = far_field_conv_inputs(1, 1, **{"length": 40, "h": 32, "p": 2} | options)
    with pytest.raises(BackendError, match=reason):
        far_field_conv(**inputs)
    with pytest.raises(BackendError, match=reason):
        value_and_gradients(far_field_conv, inputs, torch.ones(()), backend=None)


@pytest.mark.parametrize("rows", [1, 128, 5000])
@pytest.mark.parametrize("length", [1, 4097, 1 << 20])
def test_spans_cover_every_block_once(rows: int, length: int) -> None:
    call = kernels._Call(128, 6, length, torch.device("cpu"))
    signal = torch.empty(()).expand(1, rows, length)
    inside = call.inside("near", kernels._Signal(signal, None))
    tiles, blocks = inside.constants.values["TILES"], inside.constants.values["BLOCKS"]
    assert tiles <= kernels.MAX_TILES
    assert inside.spans * tiles * blocks >= call.blocks > (inside.spans - 1) * tiles * blocks
    assert inside.grid == (rows * inside.spans,)


def test_the_basis_is_a_sum_of_its_parts() -> None:
    for p in range(2, support.MAX_NODES + 1):
        table = kernels.basis_table(64, p, torch.device("cpu"))
        whole: Tensor = table.double().sum(dim=0)
        expected = kernels.far_field.basis(64, p).T
        torch.testing.assert_close(whole[:p], expected, rtol=0, atol=2**-24 * expected.abs().max().item())
        assert not whole[p:].any()
