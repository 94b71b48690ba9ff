"""``position_dropout`` on the C++ kernels of ``csrc/cpu``."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import philox
from hyena_kernels.common.inputs import PositionDropoutInputs


def forward(inputs: PositionDropoutInputs, p: float, seed: int, offset: int) -> Tensor:
    """As ``hyena_kernels::position_dropout``."""
    x, samples = inputs
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    ops.position_dropout(y, x, samples.contiguous(), seed, offset, philox.threshold(p), philox.scale(p))
    return y
