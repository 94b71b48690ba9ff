"""Whether a module is what its class says, so that its computation may be done in another way."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

# Fake and functional tensors stand for plain ones while a model is traced.
_PLAIN = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a layer runs ``kind.forward`` on plain tensors and nothing else.

    What else there can be: a wrapper, a subclass with its own forward, hooks such as those of LoRA and FSDP, a
    parametrization, or weights of another class, such as quantized ones.
    """
    if type(layer).forward is not kind.forward or "forward" in layer.__dict__ or layer._modules:
        return False
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    return all(tensor is None or type(tensor) in _PLAIN for tensor in layer._parameters.values())


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is an ``nn.Linear`` without a bias, and nothing else is computed in it."""
    return isinstance(layer, nn.Linear) and is_plain(layer, nn.Linear) and layer.bias is None


def is_plain_embedding(layer: nn.Module) -> bool:
    """Whether a layer is an ``nn.Embedding`` without options, and nothing else is computed in it."""
    return (
        isinstance(layer, nn.Embedding)
        and is_plain(layer, nn.Embedding)
        and layer.padding_idx is None
        and layer.max_norm is None
        and not layer.scale_grad_by_freq
        and not layer.sparse
    )
