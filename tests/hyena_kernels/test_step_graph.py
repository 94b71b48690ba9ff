"""A captured decoding step. Without a GPU, what would be captured runs on the CPU in the place of the graph.

``backends/triton/test_mixer_step.py`` has the test of a real graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import hyena_mixer_step, step_graph
from hyena_kernels.modules import StepGraph
from hyena_kernels.testing import Inputs, hyena_mixer_step_inputs

HORIZON = 20


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm up as for a graph. A launch runs the step again and writes to the result of the capture."""

    def capture(step: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
        step()
        result = torch.full_like(step(), float("nan"))
        return lambda: result.copy_(step()), result

    monkeypatch.setattr(step_graph, "_is_cuda", lambda tensor: True)
    monkeypatch.setattr(step_graph, "_capture", capture)


def make() -> tuple[Inputs, Callable[[Tensor, Any], Tensor]]:
    """The inputs of a mixer, and its step as a function of ``x`` and ``t``. A window is 4 steps."""
    inputs = hyena_mixer_step_inputs(2, HORIZON, 3, t=0)
    fixed = {name: tensor for name, tensor in inputs.items() if name not in ("x", "t")}
    return inputs, lambda x, t: hyena_mixer_step(x, **fixed, t=t, window=4)


@pytest.mark.usefixtures("stand_in")
def test_one_graph_serves_every_step() -> None:
    inputs, step = make()
    others, other_step = make()
    graph = StepGraph(step, inputs["x"], [inputs["short_state"]], HORIZON)
    assert torch.equal(inputs["short_state"], others["short_state"])
    for t in range(HORIZON):
        x = torch.randn(2, 9)
        assert torch.equal(graph(x, t), other_step(x, t))
        if t % 4 == 3 and t + 1 < HORIZON:
            # A tile, which is not in the graph. All that matters here is that the graph reads what it wrote.
            for each in (inputs, others):
                each["future"][..., t + 1 :] += each["u"][..., t, None]
    for name in ("u", "short_state"):
        assert torch.equal(inputs[name], others[name])


@pytest.mark.usefixtures("stand_in")
def test_the_result_is_overwritten_and_the_inputs_are_copied() -> None:
    inputs, step = make()
    graph = StepGraph(step, inputs["x"], [inputs["short_state"]], HORIZON)
    x = torch.randn(2, 9)
    first = graph(x, 0)
    kept = first.clone()
    x.zero_()
    assert graph(x, 1) is first
    assert not torch.equal(first, kept)


@pytest.mark.usefixtures("stand_in")
def test_states_are_as_before_if_the_capture_fails() -> None:
    inputs, step = make()
    before = inputs["short_state"].clone()

    def failing(x: Tensor, t: Tensor) -> Tensor:
        step(x, t)
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        StepGraph(failing, inputs["x"], [inputs["short_state"]], HORIZON)
    assert torch.equal(inputs["short_state"], before)


@pytest.mark.usefixtures("stand_in")
def test_refuses_what_was_not_captured() -> None:
    inputs, step = make()
    graph = StepGraph(step, inputs["x"], [inputs["short_state"]], HORIZON)
    with pytest.raises(ValueError, match=r"inputs \(1, 9\) of torch.float32 are not the captured \(2, 9\)"):
        graph(inputs["x"][:1], 0)
    with pytest.raises(ValueError, match=r"of torch\.float64 are not the captured"):
        graph(inputs["x"].double(), 0)
    for t in (-1, HORIZON):
        with pytest.raises(IndexError, match=f"StepGraph: t is {t}, expected 0 ≤ t < G = {HORIZON}"):
            graph(inputs["x"], t)


def test_needs_a_cuda_device() -> None:
    inputs, step = make()
    with pytest.raises(ValueError, match="StepGraph: inputs are on cpu: a CUDA graph needs a CUDA device"):
        StepGraph(step, inputs["x"], [], HORIZON)


def test_the_step_is_warmed_up_twice_before_it_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for all of ``torch.cuda`` that a capture uses."""
    events: list[str] = []

    @contextlib.contextmanager
    def entered(name: str, *args: Any, **options: Any) -> Iterator[None]:
        events.append(name)
        yield
        events.append(f"/{name}")

    class Stream:
        def __init__(self, device: Any = None) -> None:
            pass

        def wait_stream(self, other: Any) -> None:
            events.append("wait")

    def replay() -> None:
        events.append("replay")

    fakes = {
        "device": lambda device: entered("device"),
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: entered("stream"),
        "graph": lambda graph, **options: entered("graph"),
        "CUDAGraph": lambda: SimpleNamespace(replay=replay),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    results = [torch.zeros(1) for _ in range(3)]

    def step() -> Tensor:
        events.append("step")
        return results[events.count("step") - 1]

    launch, result = step_graph._capture(step, torch.device("cuda", 0))
    launch()
    assert result is results[2]
    assert " ".join(events) == "device wait stream step step /stream wait graph step /graph /device replay"
