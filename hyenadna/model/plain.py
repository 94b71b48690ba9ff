"""Whether a module is what its class says, so that its computation may be done in another way."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from hyena_kernels.modules import is_plain


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is an ``nn.Linear`` without a bias, and nothing else is computed in it."""
    return isinstance(layer, nn.Linear) and is_plain(layer, nn.Linear) and layer.bias is None
