"""Inputs and checks that the GPU tests of several backends share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyena_kernels.testing import (
    OPS,
    Inputs,
    far_field_conv_inputs,
    fftconv_inputs,
    hyena_mixer_far_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    short_conv_inputs,
)

DEVICE = "cuda"
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def shape(length: int) -> tuple[int, int]:
    """Batch and channels that give every result some hundred elements and keep every test short."""
    if length <= 300:
        return 3, 400
    if length <= 10_000:
        return 2, 150
    return (2, 50) if length <= 100_000 else (1, max(4, (33 << 20) // length))


def case(op: str, length: int, sizes: tuple[int, int] | None = None, **options: Any) -> Inputs:
    """Inputs of any op, in bfloat16 by default. An implicit filter is in float32."""
    batch, channels = sizes or shape(length)
    if op == "implicit_filter":
        return implicit_filter_inputs(channels, length, device=DEVICE, **options)
    options = {"dtype": BF16, "device": DEVICE, **options}
    if op == "fftconv":
        return fftconv_inputs(batch, channels, length, **options)
    if op == "short_conv":
        return short_conv_inputs(batch, channels, length, **options)
    if op == "far_field_conv":
        return far_field_conv_inputs(batch, channels, length, **{"h": 128, "p": 6, **options})
    if op == "hyena_mixer_far":
        return hyena_mixer_far_inputs(batch, length, channels, **{"h": 128, "p": 6, **options})
    return hyena_mixer_inputs(batch, length, channels, **options)


def result_shape(op: str, inputs: Inputs) -> tuple[int, ...]:
    first = next(tensor for tensor in inputs.values() if tensor is not None)
    if op in ("hyena_mixer", "hyena_mixer_far"):
        return (*first.shape[:2], inputs["k" if op == "hyena_mixer" else "near"].shape[1])
    if op == "implicit_filter":
        return inputs["w_out"].shape[0], first.shape[0]
    return tuple(first.shape)


def gradient_of(op: str, inputs: Inputs) -> Tensor:
    first = next(tensor for tensor in inputs.values() if tensor is not None)
    return torch.randn(result_shape(op, inputs), device=DEVICE).to(first.dtype)


def strided(tensor: Tensor, layout: str) -> Tensor:
    """The same ``(B, D, L)``, in another memory layout."""
    batch, channels, length = tensor.shape
    if layout == "channel-last":
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    storage = torch.full((batch + 1, 2 * channels, 2 * length + 3), float("nan"), dtype=tensor.dtype, device=DEVICE)
    return storage[1:, 1::2, 3::2][..., :length].copy_(tensor)


def leaves_of(inputs: Inputs) -> Inputs:
    return {
        name: None if tensor is None else tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()
    }


def step(op: str, leaves: Inputs, dy: Tensor) -> list[Tensor]:
    """The result and every gradient."""
    y = OPS[op].function(**leaves)
    return [y.detach(), *torch.autograd.grad(y, [leaf for leaf in leaves.values() if leaf is not None], dy)]


def assert_equal(results: list[Tensor], expected: list[Tensor]) -> None:
    for index, (value, wanted) in enumerate(zip(results, expected, strict=True)):
        assert torch.equal(value, wanted), f"result {index} of {len(expected)}"


def check_graph(op: str, inputs: Inputs) -> None:
    """A CUDA graph is captured, and replays give the right results for other values."""
    leaves, dy = leaves_of(inputs), gradient_of(op, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(op, leaves, dy)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(op, leaves, dy)
    with torch.no_grad():
        for leaf in leaves.values():
            if leaf is not None:
                leaf.mul_(0.75)
        dy.mul_(-0.5)
    expected = step(op, leaves, dy)
    for _ in range(3):
        for tensor in captured:
            tensor.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert_equal(captured, expected)


def check_side_stream(op: str, inputs: Inputs) -> None:
    """Everything is launched on the current stream."""
    dy = gradient_of(op, inputs)
    expected = step(op, leaves_of(inputs), dy)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = {
            name: None if tensor is None else torch.full_like(tensor, float("nan")) for name, tensor in inputs.items()
        }
        # Some hundredths of a second. A launch on another stream finds NaN.
        torch.cuda._sleep(50_000_000)
        for name, tensor in late.items():
            if tensor is not None:
                tensor.copy_(inputs[name])
                tensor.requires_grad_()
        results = step(op, late, dy)
    stream.synchronize()
    assert_equal(results, expected)


def check_activation_checkpointing(op: str, inputs: Inputs) -> None:
    """Activation checkpointing changes no bit."""
    dy = gradient_of(op, inputs)
    expected = step(op, leaves_of(inputs), dy)
    leaves = leaves_of(inputs)
    names = list(leaves)

    def function(*tensors: Tensor | None) -> Tensor:
        return OPS[op].function(**dict(zip(names, tensors, strict=True)))

    y = checkpoint(function, *leaves.values(), use_reentrant=False)
    grads = torch.autograd.grad(y, [leaf for leaf in leaves.values() if leaf is not None], dy)
    assert_equal([y.detach(), *grads], expected)
