"""Features of the positions: of more than 2^24, and shared by the layers of a model."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels import HyenaOperator, positions
from hyena_kernels.positions import PositionalEmbedding, SharesPositions, features_in_float64, one_set_of_positions

LENGTH, LAYERS = 32, 3


class Layers(SharesPositions):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        with one_set_of_positions():
            self.layers = nn.ModuleList(
                HyenaOperator(4, LENGTH, emb_dim=5, filter_order=8, **{"lr_pos_emb": 0.0, **options})
                for _ in range(LAYERS)
            )

    def forward(self, u: Tensor) -> Tensor:
        for layer in self.layers:
            u = u + layer(u)
        return u

    @property
    def features(self) -> list[PositionalEmbedding]:
        return [layer.filter_fn.pos_emb for layer in self.layers]


def tensors(model: Layers) -> tuple[int, int]:
    """How many tensors ``z`` and ``t`` the layers hold."""
    return len({id(each.z) for each in model.features}), len({id(each.t) for each in model.features})


def key(layer: int, name: str = "z") -> str:
    return f"layers.{layer}.filter_fn.pos_emb.{name}"


def unpickled(model: Layers) -> Layers:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: Layers = torch.load(buffer, weights_only=False)
    return loaded


def loaded(model: Layers, assign: bool, clone: bool) -> Layers:
    other = Layers()
    weights = {name: tensor.clone() if clone else tensor for name, tensor in model.state_dict().items()}
    other.load_state_dict(weights, assign=assign)
    return other


WAYS: dict[str, Callable[[Layers], Layers]] = {
    "new": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": unpickled,
    "double": lambda model: model.double(),
    "half": lambda model: model.half(),
    "inside another": lambda model: nn.Sequential(model).double()[0],
    "meta": lambda model: model.to("meta"),
    "load": lambda model: loaded(model, assign=False, clone=True),
    "assign": lambda model: loaded(model, assign=True, clone=False),
    "assign copies": lambda model: loaded(model, assign=True, clone=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_hold_one_set(way: str) -> None:
    model = WAYS[way](Layers())
    assert tensors(model) == (1, 1)
    state = model.state_dict()
    for layer in range(LAYERS):
        assert state[key(layer)].shape == (1, LENGTH, 5)
        assert state[key(layer, "t")].shape == (1, LENGTH, 1)
    alone = PositionalEmbedding(5, LENGTH, 0.0)
    if way not in ("meta", "double", "inside another"):
        assert torch.equal(model.features[-1].z, alone.z)
        assert torch.equal(model.features[-1].t, alone.t)


@pytest.mark.slow
def test_a_model_made_on_meta_shares_after_loading() -> None:
    with torch.device("meta"):
        model = Layers()
    model.to_empty(device="cpu").load_state_dict(Layers().state_dict())
    assert tensors(model) == (1, 1)
    with torch.device("meta"):
        model = Layers()
    for each in model.to_empty(device="cpu").features:
        each.reset_buffers()
    model.share_positions()
    assert tensors(model) == (1, 1)
    assert torch.equal(model.features[0].z, PositionalEmbedding(5, LENGTH, 0.0).z)


def test_other_settings_and_trained_features_are_not_shared() -> None:
    assert tensors(Layers(lr_pos_emb=1e-5))[0] == LAYERS
    with one_set_of_positions():
        made = [PositionalEmbedding(*sizes, 0.0) for sizes in ((3, 8), (5, 8), (3, 9), (3, 8))]
    assert [each.z is made[0].z for each in made] == [True, False, False, True]
    assert PositionalEmbedding(3, 8, 0.0).z is not made[0].z


def test_a_function_is_applied_once() -> None:
    model = Layers()
    before = model.features[0].z.clone()
    model._apply(lambda tensor: 2 * tensor)
    assert tensors(model) == (1, 1)
    assert torch.equal(model.features[0].z, 2 * before)


@pytest.mark.parametrize("assign", [False, True])
def test_layers_of_other_values_get_their_own(assign: bool) -> None:
    model, whole = Layers(), Layers()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state[key(1)] += 1e-3
    model.load_state_dict(state, assign=assign)
    assert model.features[0].z is model.features[2].z
    assert tensors(model) == (2, 1) or tensors(model) == (2, 2)
    for layer, each in enumerate(model.features):
        assert torch.equal(each.z, state[key(layer)])
    # Moving keeps what is shared and what is not.
    model.double()
    assert model.features[0].z is model.features[2].z
    assert torch.equal(model.features[1].z, state[key(1)].double())
    model.load_state_dict(whole.state_dict())
    assert tensors(model)[0] == 1


def test_one_layer_loaded_alone_leaves_the_others() -> None:
    model = Layers()
    before = model.features[0].z.clone()
    state = {name: 2 * tensor for name, tensor in model.layers[1].state_dict().items()}
    model.layers[1].load_state_dict(state)
    model.load_state_dict({key(2): 3 * before}, strict=False)
    for each, factor in zip(model.features, (1, 2, 3), strict=True):
        assert torch.equal(each.z, factor * before)
    model.features[1].reset_buffers()
    for each, factor in zip(model.features, (1, 1, 3), strict=True):
        assert torch.equal(each.z, factor * before)


def test_new_values_of_all_layers_are_written_in_place() -> None:
    model = Layers()
    own = model.features[0].z
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    assert all(each.z is own for each in model.features)
    assert torch.equal(own, PositionalEmbedding(5, LENGTH, 0.0).z + 1)


def test_the_sign_of_zero_is_kept() -> None:
    model = Layers()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state[key(1)][0, 0, 0] = -0.0
    model.load_state_dict(state)
    assert [math.copysign(1, float(each.z[0, 0, 0])) for each in model.features] == [1, -1, 1]


def test_apart_for_a_while() -> None:
    model = Layers()
    with model.positions_apart():
        assert tensors(model) == (LAYERS, LAYERS)
        assert torch.equal(model.features[0].z, model.features[1].z)
    assert tensors(model) == (1, 1)


def test_results_and_gradients_are_those_of_layers_apart() -> None:
    model, u = Layers(), torch.randn(2, 20, 4)
    results = []
    for apart in (False, True):
        if apart:
            for each in model.features:
                each.z = each.z.clone()
        y = model(u)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("seq_len", [(1 << 24) + 1, 100_000_003])
@pytest.mark.parametrize("emb_dim", [3, 5])
def test_late_positions_are_rounded_once(seq_len: int, emb_dim: int) -> None:
    start = seq_len - 50
    found = features_in_float64(start, seq_len, seq_len, emb_dim)
    bands = (emb_dim - 1) // 2
    for row, n in zip(found.tolist(), range(start, seq_len), strict=True):
        # Whole turns are left out in integers.
        phases = [
            f * 2 * math.pi * n / seq_len if f % 1 else 2 * math.pi * (f * n % seq_len) / seq_len
            for f in (1e-4, *range(1, bands))
        ]
        expected = [n / (seq_len - 1), *map(math.cos, phases), *(-math.sin(phase) for phase in phases)]
        assert row == pytest.approx(expected, rel=0, abs=1e-14)


def test_features_in_float64_are_taken_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PositionalEmbedding(5, LENGTH, 0.0)
    monkeypatch.setattr(positions, "_MOST_IN_FLOAT32", LENGTH)
    assert torch.equal(PositionalEmbedding(5, LENGTH, 0.0).z, before.z)
    monkeypatch.setattr(positions, "_MOST_IN_FLOAT32", LENGTH - 1)
    monkeypatch.setattr(positions, "_POSITIONS", 10)
    above = PositionalEmbedding(5, LENGTH, 0.0)
    assert above.z.dtype == above.t.dtype == torch.float32
    exact = features_in_float64(0, LENGTH, LENGTH, 5)
    assert torch.equal(above.z[0], exact.float())
    assert torch.equal(above.t[0], exact[:, :1].float())
    torch.testing.assert_close(above.z, before.z, rtol=0, atol=1e-6)
    with torch.device("meta"):
        assert PositionalEmbedding(5, LENGTH, 0.0).z.is_meta
