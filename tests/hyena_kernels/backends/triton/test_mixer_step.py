"""The Triton kernel of ``hyena_mixer_step`` against float64, in the interpreter unless marked ``gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import hyena_mixer_step, use_backend
from hyena_kernels.backends.triton.mixer_step import ROWS
from hyena_kernels.modules import StepGraph
from hyena_kernels.testing import Inputs, check, hyena_mixer_step_inputs

STATES = ("short_state", "u")


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with use_backend("triton"):
        yield


def check_step(inputs: Inputs, **options: Any) -> None:
    check("hyena_mixer_step", inputs, gradients=False, **options)


def number(inputs: Inputs) -> Inputs:
    """The same with ``t`` as a number."""
    return {**inputs, "t": int(inputs["t"])}


# Fewer channels than a program takes, as many, and several programs for each batch entry. A program takes 10 ms here.
@pytest.mark.parametrize(
    ("batch", "channels", "t", "order"),
    [(5, 1, 63, 2), (1, 40, 0, 2), (3, ROWS, 64, 3), (2, ROWS + 1, 100, 4)],
)
def test_error_is_within_budget(batch: int, channels: int, t: int, order: int) -> None:
    check_step(hyena_mixer_step_inputs(batch, 101, channels, t=t, order=order))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    for filter_dtype in {dtype, torch.float32}:
        inputs = hyena_mixer_step_inputs(1, 70, 33, dtype=dtype, filter_dtype=filter_dtype, bias=dtype != filter_dtype)
        check_step(inputs)


@pytest.mark.parametrize(("short_taps", "window"), [(1, 1), (2, 32), (8, 128)])
def test_short_filters_and_windows(short_taps: int, window: int) -> None:
    for t in (31, 200):
        check_step(hyena_mixer_step_inputs(2, 201, 13, t=t, short_taps=short_taps), window=window)


def test_a_number_and_a_tensor_give_the_same_bits() -> None:
    for t in (0, 1, 77):
        first, second = (hyena_mixer_step_inputs(2, 100, 6, t=t) for _ in range(2))
        assert torch.equal(hyena_mixer_step(**first), hyena_mixer_step(**number(second)))
        for name in STATES:
            assert torch.equal(first[name].nan_to_num(9), second[name].nan_to_num(9))


def test_only_the_states_change_and_nothing_outside_of_the_window_is_read() -> None:
    inputs, expected = (hyena_mixer_step_inputs(2, 100, 6, t=70, order=3) for _ in range(2))
    for name, kept in (("u", slice(64, 70)), ("future", slice(70, 71)), ("taps", slice(0, 7))):
        values = inputs[name][..., kept].clone()
        inputs[name].fill_(float("nan"))
        inputs[name][..., kept] = values
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    assert torch.equal(hyena_mixer_step(**inputs), hyena_mixer_step(**expected))
    assert torch.equal(inputs["u"][..., 70], expected["u"][..., 70])
    assert torch.equal(inputs["short_state"][..., 1], inputs["x"])
    assert torch.equal(inputs["short_state"][..., 0], before["short_state"][..., 1])
    inputs["u"][..., 70] = before["u"][..., 70]
    for name in inputs.keys() - {"short_state"}:
        assert torch.equal(inputs[name].nan_to_num(9), before[name].nan_to_num(9)), name


@pytest.mark.parametrize("t", [-1, 40, 1 << 40])
def test_a_step_out_of_range_gives_nan_and_writes_nothing(t: int) -> None:
    inputs, before = (hyena_mixer_step_inputs(2, 40, 6) for _ in range(2))
    inputs["t"].fill_(t)
    assert hyena_mixer_step(**inputs).isnan().all()
    for name in inputs.keys() - {"t"}:
        assert torch.equal(inputs[name].nan_to_num(9), before[name].nan_to_num(9)), name


def test_strides_change_no_bit() -> None:
    inputs, expected = (hyena_mixer_step_inputs(2, 80, 6, t=50, order=3, dtype=torch.bfloat16) for _ in range(2))

    def turned(tensor: Tensor) -> Tensor:
        order = tuple(reversed(range(tensor.dim())))
        return tensor.repeat_interleave(2, dim=0).permute(order).contiguous().permute(order)[::2]

    views = {name: turned(tensor) if tensor.dim() else tensor for name, tensor in inputs.items()}
    y = hyena_mixer_step(**views)
    assert y.is_contiguous()
    assert torch.equal(y, hyena_mixer_step(**expected))
    for name in STATES:
        assert torch.equal(views[name].nan_to_num(9), expected[name].nan_to_num(9))


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written() -> None:
    assert hyena_mixer_step(**hyena_mixer_step_inputs(2, 40, 2 * ROWS + 1)).isfinite().all()
    assert hyena_mixer_step(**hyena_mixer_step_inputs(0, 40, 3)).shape == (0, 3)


def test_offsets_beyond_two_to_the_31() -> None:
    """The system provides no memory for pages that are never touched."""
    inputs, expected = (hyena_mixer_step_inputs(2, 3, 2) for _ in range(2))
    for name in ("u", "future"):
        storage = torch.empty(5 << 29)
        inputs[name] = storage.as_strided((1, 2, 2, 3), (1, 1 << 31, 1 << 20, 1 << 10)).copy_(inputs[name])
    assert torch.equal(hyena_mixer_step(**inputs), hyena_mixer_step(**expected))
    assert torch.equal(inputs["u"][..., 2], expected["u"][..., 2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("batch", "channels", "order"), [(1, 256, 2), (64, 256, 2), (3, 131, 4)])
def test_error_is_within_budget_on_a_gpu(batch: int, channels: int, order: int, dtype: torch.dtype) -> None:
    for t in (0, 1000, 1023):
        inputs = hyena_mixer_step_inputs(batch, 1024, channels, t=t, order=order, dtype=dtype, device="cuda")
        check_step(inputs)
        check_step(inputs, window=128)


@pytest.mark.gpu
def test_repeats_are_bitwise_equal_on_a_gpu() -> None:
    inputs = hyena_mixer_step_inputs(64, 200, 256, device="cuda")
    first = hyena_mixer_step(**{name: tensor.clone() for name, tensor in inputs.items()})
    for _ in range(100):
        again = {name: tensor.clone() for name, tensor in inputs.items()}
        assert torch.equal(hyena_mixer_step(**again), first)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_graph_gives_the_bits_of_single_steps_on_a_gpu(backend: str) -> None:
    inputs = hyena_mixer_step_inputs(3, 100, 40, t=0, device="cuda")
    inputs["u"].zero_()
    states = {name: inputs[name] for name in STATES}
    fixed = {name: tensor for name, tensor in inputs.items() if name not in ("x", "t")}

    def step(x: Tensor, t: Tensor) -> Tensor:
        return hyena_mixer_step(x, **fixed, t=t, backend=backend)

    alone = {**fixed, **{name: tensor.clone() for name, tensor in states.items()}}
    graph = StepGraph(step, inputs["x"], [inputs["short_state"]], horizon=100)
    for t in range(100):
        x = torch.randn_like(inputs["x"])
        expected = hyena_mixer_step(x, **alone, t=torch.tensor(t, device="cuda"), backend=backend)
        assert torch.equal(graph(x, t), expected), t
    for name, state in states.items():
        assert torch.equal(state, alone[name])
