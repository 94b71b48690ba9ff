"""Argument checks of the ops. Each message names the op, the argument and its shape."""

from __future__ import annotations

from typing import Any

import torch

from hyena_kernels.common.taps import MAX_TAPS

SIGNAL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def rank(op: str, name: str, tensor: Any, meaning: str) -> None:
    """Check that an argument is a dense floating-point tensor with the number of dimensions of ``meaning``.

    Args:
        op: name of the op, for the message.
        name: name of the argument, for the message.
        tensor: the argument.
        meaning: its shape in letters, such as ``"(B, D, L)"``. ``"(…, D)"`` stands for one dimension or more.

    Raises:
        TypeError: it is not a dense tensor of a dtype of :data:`SIGNAL_DTYPES`.
        ValueError: it has another number of dimensions.
    """
    if isinstance(tensor, torch.Tensor):
        dims = meaning.count(",") + 1 - meaning.endswith(",)")
        if tensor.dim() < 1 if meaning.startswith("(…") else tensor.dim() != dims:
            raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {meaning}")
    floats(op, name, tensor, meaning)


def floats(op: str, name: str, tensor: Any, meaning: str) -> None:
    """As :func:`rank` for a tensor of any number of dimensions."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor of shape {meaning}, got {type(tensor).__name__}")
    if tensor.dtype not in SIGNAL_DTYPES:
        raise TypeError(
            f"{op}: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}, expected float16, bfloat16, float32 or "
            "float64"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"{op}: {name} {tuple(tensor.shape)} has layout {tensor.layout}, expected a dense tensor")


def shape(op: str, name: str, tensor: Any, expected: tuple[int | torch.SymInt, ...], meaning: str) -> None:
    """As :func:`rank`. Raise ValueError too unless the shape is ``expected``, in letters ``meaning``."""
    rank(op, name, tensor, meaning)
    if tensor.shape != expected:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {meaning} = {tuple(expected)}")


def same_device(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise ValueError unless all tensors are on one device. None stands for an absent tensor."""
    device = None
    for tensor in tensors.values():
        if tensor is None:
            continue
        if device is not None and tensor.device != device:
            found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
            where = ", ".join(f"{name} {tuple(tensor.shape)} on {tensor.device}" for name, tensor in found.items())
            raise ValueError(f"{op}: all tensors must be on one device, got {where}")
        device = tensor.device


def filter_dtype(op: str, name: str, tensor: torch.Tensor, signal: torch.Tensor) -> None:
    """Raise TypeError unless a filter or bias is float32 or of the signal's dtype."""
    if tensor.dtype not in (torch.float32, signal.dtype):
        raise TypeError(
            f"{op}: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}, expected float32 or the signal's "
            f"{signal.dtype}"
        )


def integers(op: str, name: str, tensor: Any, meaning: str) -> None:
    """Raise TypeError unless an argument is a dense tensor of integers of any width, whatever its shape.

    Args:
        op: name of the op, for the message.
        name: name of the argument, for the message.
        tensor: the argument.
        meaning: its shape in letters, for the message.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor of integers {meaning}, got {type(tensor).__name__}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{op}: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}, expected integers")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{op}: {name} {tuple(tensor.shape)} has layout {tensor.layout}, expected a dense tensor")


def dtype(op: str, name: str, tensor: torch.Tensor, other: str, signal: torch.Tensor) -> None:
    """Raise TypeError unless a tensor has the dtype of the argument ``other``."""
    if tensor.dtype != signal.dtype:
        raise TypeError(
            f"{op}: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}, expected that of {other}: {signal.dtype}"
        )


def mixer_filters(
    op: str,
    width: int | torch.SymInt,
    steps: tuple[int | torch.SymInt, ...],
    short_weight: torch.Tensor,
    short_bias: torch.Tensor | None,
    D: torch.Tensor | None,
) -> None:
    """As :func:`shape` for the short filters and the skip of a mixer.

    Args:
        op: name of the op, for the message.
        width: (N+1) d of its input.
        steps: (N-1, d) of its long filters.
        short_weight: ``((N+1) d, Ks)`` with 1 ≤ Ks ≤ 8.
        short_bias: ``((N+1) d,)`` or None.
        D: ``(N-1, d)`` or None.
    """
    shape(op, "short_weight", short_weight, (width, short_weight.shape[1]), "((N+1)d, Ks)")
    if not 1 <= short_weight.shape[1] <= MAX_TAPS:
        raise ValueError(
            f"{op}: short_weight ((N+1)d, Ks) has shape {tuple(short_weight.shape)}: expected 1 ≤ Ks ≤ {MAX_TAPS}"
        )
    if short_bias is not None:
        shape(op, "short_bias", short_bias, (width,), "((N+1)d,)")
    if D is not None:
        shape(op, "D", D, steps, "(N-1, d)")


def near_and_nodes(op: str, near: torch.Tensor, nodes: torch.Tensor, signal: torch.Tensor) -> None:
    """Raise TypeError unless near taps and nodes are both float32, or both float64 with a signal of float64."""
    allowed = (torch.float32, torch.float64) if signal.dtype == torch.float64 else (torch.float32,)
    for name, tensor in (("near", near), ("nodes", nodes)):
        if tensor.dtype not in allowed or tensor.dtype != near.dtype:
            raise TypeError(
                f"{op}: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}: near and nodes must both be float32, or "
                f"both float64 with a signal of float64, and the signal has {signal.dtype}"
            )
