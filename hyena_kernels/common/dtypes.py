"""Dtypes that some backends refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def no_float64(*args: Any) -> str | None:
    """The reason why an op's arguments cannot be taken, if one of them is a float64 tensor."""
    if any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args):
        return "has no float64 kernels, the inputs are float64"
    return None
