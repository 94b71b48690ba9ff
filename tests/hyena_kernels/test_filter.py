"""The filters that ``HyenaFilter`` keeps for inference, and wrapped layers of filter and operator."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels import HyenaFilter, HyenaOperator
from hyena_kernels.operator import Sin


class Counted:
    """Counts how often the filters of a module are computed."""

    def __init__(self, filters: HyenaFilter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        compute = filters._computed_kernel

        def counted(*args: Any) -> torch.Tensor:
            self.calls += 1
            return compute(*args)

        monkeypatch.setattr(filters, "_computed_kernel", counted)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> tuple[HyenaFilter, Counted]:
    filters = HyenaFilter(4, emb_dim=3, order=8, seq_len=32).eval()
    return filters, Counted(filters, monkeypatch)


def test_filters_are_kept_for_inference(kept: tuple[HyenaFilter, Counted]) -> None:
    filters, counted = kept
    with torch.no_grad():
        first = filters.kernel(32)
        assert filters.kernel(32) is first
        assert counted.calls == 1
        filters.kernel(16)
        filters.kernel(16, "torch")
        assert counted.calls == 3
    with torch.inference_mode():
        filters.kernel(16, "torch")
    assert counted.calls == 3
    assert filters.kernel(32).requires_grad
    assert counted.calls == 4


@pytest.mark.parametrize("change", ["in place", "data", "state_dict", "dtype", "buffer", "shift", "modulate", "train"])
def test_kept_filters_are_dropped_when_something_changes(kept: tuple[HyenaFilter, Counted], change: str) -> None:
    filters, counted = kept
    first = filters.implicit_filter[0]
    with torch.no_grad():
        before = filters.kernel(32).clone()
    if change == "in place":
        with torch.no_grad():
            first.weight.add_(0.1)
    elif change == "data":
        first.weight.data = first.weight.data + 0.1
    elif change == "state_dict":
        filters.load_state_dict({name: x + 0.1 for name, x in filters.state_dict().items()})
    elif change == "dtype":
        filters.double()
    elif change == "buffer":
        with torch.no_grad():
            filters.modulation.deltas.mul_(2)
    elif change == "shift":
        filters.modulation.shift = 0.5
    elif change == "modulate":
        filters.modulation.modulate = False
    else:
        first.weight.data.add_(0.1)
        filters.train().eval()
    calls = counted.calls
    with torch.no_grad():
        after = filters.kernel(32)
    assert counted.calls == calls + 1
    if change == "dtype":
        assert after.dtype == torch.float64
    else:
        assert not torch.equal(after, before)


@pytest.mark.parametrize("zero_grad", [False, True], ids=["gradients left", "gradients dropped"])
@pytest.mark.parametrize("looks", [False, True], ids=["", "looked at before the step"])
@pytest.mark.parametrize("way", ["for-loop", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_kept_filters_are_dropped_by_an_optimizer(optimizer: Any, way: str, looks: bool, zero_grad: bool) -> None:
    filters = HyenaFilter(4, emb_dim=3, order=8, seq_len=32).eval()
    stepper = optimizer(filters.parameters(), lr=0.1, **({} if way == "for-loop" else {way: True}))
    with torch.no_grad():
        filters.kernel(32)
    loss = filters.kernel(32).square().sum()
    if looks:
        with torch.no_grad():
            filters.kernel(32)
    loss.backward()
    stepper.step()
    if zero_grad:
        stepper.zero_grad()
    with torch.no_grad():
        assert torch.equal(filters.kernel(32), copy.deepcopy(filters).kernel(32))


def test_kept_filters_are_those_of_their_own_weights() -> None:
    """New weights may have the addresses of deleted ones."""
    operator = HyenaOperator(8, 32, emb_dim=3, filter_order=16).eval()
    u, name = torch.randn(1, 32, 8), "filter_fn.implicit_filter.6.weight"
    base = operator.get_parameter(name).detach().clone()
    with torch.no_grad():
        found = [torch.func.functional_call(operator, {name: base * (1 + i)}, (u,)) for i in range(50)]
        for i, one in enumerate(found):
            operator.eval()
            assert torch.equal(one, torch.func.functional_call(operator, {name: base * (1 + i)}, (u,))), i


def test_filters_are_kept_again_after_eval(kept: tuple[HyenaFilter, Counted]) -> None:
    filters, counted = kept
    filters.kernel(32)
    with torch.no_grad():
        filters.kernel(32)
        filters.kernel(32)
    assert counted.calls == 3
    filters.eval()
    with torch.no_grad():
        filters.kernel(32)
        filters.kernel(32)
    assert counted.calls == 4


def test_filters_above_the_bound_are_not_kept(
    kept: tuple[HyenaFilter, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    filters, counted = kept
    monkeypatch.setattr(HyenaFilter, "CACHE_BYTES", 32 * 4 * 4 - 1)
    with torch.no_grad():
        filters.kernel(32)
        filters.kernel(32)
    assert counted.calls == 2


def test_kept_filters_are_neither_copied_nor_saved() -> None:
    filters = HyenaFilter(4, emb_dim=3, order=8, seq_len=32).eval()
    with torch.no_grad():
        filters.kernel(32)
    for other in (copy.deepcopy(filters), pickle.loads(pickle.dumps(filters))):
        assert other._cache.empty
    assert not filters._cache.empty


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
        # One Sin is all of them.
        for place in ("1", "3", "5") if name.endswith("5") else (name[-1],):
            other.set_submodule(name[:-1] + place, wrapped)
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
