"""Argument checks shared by the ops: one clear line with the names and shapes at fault."""

from __future__ import annotations

import torch

SIGNAL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shape(name: str, tensor: torch.Tensor, expected: tuple[int | torch.SymInt, ...], meaning: str) -> None:
    """Raise ValueError unless ``tensor`` has the ``expected`` shape; ``meaning`` is the shape in letters."""
    if tensor.dim() != len(expected) or any(have != want for have, want in zip(tensor.shape, expected, strict=True)):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {meaning} = {tuple(expected)}")


def rank(op: str, name: str, tensor: torch.Tensor, meaning: str) -> None:
    """Raise unless ``tensor`` is a floating-point tensor of as many dimensions as ``meaning`` names."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor of shape {meaning}, got {type(tensor).__name__}")
    if tensor.dim() != meaning.count(",") + 1 - meaning.endswith(",)"):
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {meaning}")
    if tensor.dtype not in SIGNAL_DTYPES:
        raise TypeError(f"{op}: {name} has dtype {tensor.dtype}, expected float16, bfloat16, float32 or float64")


def same_device(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise ValueError unless all the tensors given are on one device."""
    found = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(found.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in found.items())
        raise ValueError(f"{op}: all tensors must be on one device, got {where}")


def filter_dtype(op: str, name: str, tensor: torch.Tensor, signal: torch.Tensor) -> None:
    """Raise TypeError unless a filter or bias is float32 or of the signal's dtype."""
    if tensor.dtype not in (torch.float32, signal.dtype):
        raise TypeError(f"{op}: {name} has dtype {tensor.dtype}, expected float32 or the signal's {signal.dtype}")
