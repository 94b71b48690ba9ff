"""Wrapped, hooked and quantized layers of filter and operator; the frequency that the sines of a filter share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels import HyenaFilter, HyenaOperator
from hyena_kernels.operator import Sin


class Wrapped(nn.Module):
    """A layer that adds to its output, as LoRA does. A plain attribute switches that on and off."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.weight = layer.weight
        self.bias = layer.bias
        self.added = nn.Parameter(torch.tensor(0.25, dtype=layer.weight.dtype))
        self.active = True

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.added if self.active else self.layer(x)


@pytest.mark.parametrize("wrapped", ["filter_fn.implicit_filter.0", "filter_fn.implicit_filter.6", "short_filter"])
def test_layers_that_were_wrapped_compute_what_they_say(wrapped: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double().eval()
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        plain = operator(u)
        layer = Wrapped(operator.get_submodule(wrapped))
        operator.set_submodule(wrapped, layer)
        changed = operator(u)
        assert (changed - plain).abs().max() > 1e-3
        layer.active = False
        assert (operator(u) - plain).abs().max() < 1e-12
        layer.active = True
        assert torch.equal(operator(u), changed)
    operator(u).sum().backward()
    assert layer.added.grad is not None
    assert layer.added.grad.abs() > 0


class Doubled(nn.Linear):
    """A layer of another class, as in loralib."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledConv(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledSin(Sin):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _doubled(layer: nn.Module, way: str) -> None:
    """Double the output of a layer. With "hook before", double its input."""
    plain = layer.forward
    if way == "subclass":
        kinds: dict[type, type] = {nn.Linear: Doubled, nn.Conv1d: DoubledConv, Sin: DoubledSin}
        layer.__class__ = kinds[type(layer)]
    elif way == "hook":
        layer.register_forward_hook(lambda module, args, result: 2 * result)
    elif way == "hook before":
        layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    else:
        layer.forward = lambda x: 2 * plain(x)


@pytest.mark.parametrize("way", ["subclass", "hook", "hook before", "replaced"])
@pytest.mark.parametrize("name", ["filter_fn.implicit_filter.0", "filter_fn.implicit_filter.5", "short_filter"])
def test_layers_that_were_changed_compute_what_they_say(name: str, way: str) -> None:
    operator = HyenaOperator(8, 32, emb_dim=5, filter_order=16).double().eval()
    other = copy.deepcopy(operator)
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        before = operator(u)
        _doubled(operator.get_submodule(name), way)
        parts = other.get_submodule(name), Scaled()
        wrapped = nn.Sequential(*(reversed(parts) if way == "hook before" else parts))
        other.set_submodule(name, wrapped)
        torch.testing.assert_close(operator(u), other(u), rtol=1e-12, atol=1e-12)
        assert not torch.equal(operator(u), before)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_wrapped_layer_gives_the_filter_of_the_layer_that_it_equals() -> None:
    filters = HyenaFilter(8, emb_dim=5, order=16, seq_len=32, lr_pos_emb=0.0)
    filters.implicit_filter[0] = Wrapped(filters.implicit_filter[0])
    by_layers = filters.kernel(20)
    with torch.no_grad():
        filters.implicit_filter[0].layer.bias += 0.25
    filters.implicit_filter[0] = filters.implicit_filter[0].layer
    expected = filters.kernel(20)
    assert by_layers.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(by_layers, expected, rtol=0, atol=1e-6)
