"""``StepGraph``: one decoding step of a whole model as a CUDA graph.

A step computes little, so a GPU waits for Python, which takes longer to launch a kernel than the kernel takes to run. A
graph holds all launches of a step, and repeats them at once on the same memory.

:func:`hyena_kernels.hyena_mixer_step` fits into one if its ``t`` is a tensor: the kernel reads ``t`` and finds the
window itself, so one graph serves every step. Tiles are no part of it. The tile before step ``t``, if ``t`` is a
multiple of the window, transforms ``t & -t`` positions: another size each time. It runs on its own, between two
launches of the graph, so a window of 64 steps costs 64 launches of the graph and one tile.

Source: PyTorch's notes on CUDA graphs, "Whole-network capture".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyena_kernels.common.steps import check_step


class StepGraph:
    """Capture ``step(inputs, t)`` as a CUDA graph, and launch it for other inputs and steps.

    ``step`` may read the values of no tensor in Python, and change memory only in place: what it allocates is the
    graph's. It is called twice to warm up, and once to be captured, all at step 0. Afterwards ``states`` are as they
    were before. Capture before the first step, or when step 0 has been written anew: ``u[..., 0]`` of a mixer is
    written here, and need not be among the states.

    Args:
        step: from ``inputs`` and ``t``, an int64 tensor without dimensions, to the result, such as the logits.
        inputs: an example on the CUDA device, such as token ids ``(B,)``. Its values do not matter to the capture, but
            have to be valid.
        states: tensors that ``step`` changes and that it reads at the next step, such as each layer's ``short_state``.
        horizon: number of steps G. ``t`` has to be below.

    Raises:
        ValueError: ``inputs`` is not on a CUDA device.
        RuntimeError: CUDA cannot capture the step, for example because it waits for the device.

    Example:
        >>> graph = StepGraph(step, ids, shorts, horizon)  # doctest: +SKIP
        >>> for t in range(horizon):  # doctest: +SKIP
        ...     tiles.add(u, future, t)
        ...     logits = graph(ids, t)
        ...     ids = logits.argmax(-1)
    """

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, states: Sequence[Tensor], horizon: int
    ) -> None:
        if inputs.device.type != "cuda":
            raise ValueError(
                f"StepGraph: inputs are on {inputs.device}: a CUDA graph needs everything on a CUDA device"
            )
        self.horizon = horizon
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = inputs.clone()
            self._t = torch.zeros((), dtype=torch.int64, device=inputs.device)
            before = [state.clone() for state in states]
            try:
                self._launch, self._result = _capture(lambda: step(self._inputs, self._t), inputs.device)
            finally:
                for state, value in zip(states, before, strict=True):
                    state.copy_(value)

    def __call__(self, inputs: Tensor, t: int) -> Tensor:
        """Launch the step.

        Args:
            inputs: of the example's shape and dtype, on any device.
            t: the step.

        Returns:
            What ``step`` returned, in memory that the next call overwrites.

        Raises:
            ValueError: the shape or the dtype of ``inputs`` is another one.
            IndexError: there is no step ``t``.
        """
        if inputs.shape != self._inputs.shape or inputs.dtype != self._inputs.dtype:
            raise ValueError(
                f"StepGraph: inputs {tuple(inputs.shape)} of {inputs.dtype} are not the captured "
                f"{tuple(self._inputs.shape)} of {self._inputs.dtype}: capture another graph"
            )
        check_step("StepGraph", t, self.horizon)
        with torch.no_grad():
            self._inputs.copy_(inputs)
            self._t.fill_(t)
        self._launch()
        return self._result


def _capture(step: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Warm up and capture a step. Returns what launches it, and the tensor that each launch fills."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            # Libraries set themselves up and kernels are compiled, which a capture does not allow.
            step()
            step()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
            result = step()
    return graph.replay, result
