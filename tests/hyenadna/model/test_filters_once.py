"""Gradient checkpointing computes the filters of a layer once a step, if they fit and no other code takes part."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from hyena_kernels import HyenaOperator
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.model import layers as model_layers

LAYERS, WIDTH, LENGTH = 2, 8, 50
# Filters of all layers, in bytes.
NBYTES = LAYERS * WIDTH * LENGTH * 4


class Calls(TorchDispatchMode):
    """Counts how often a filter is computed, forward."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.hyena_kernels.implicit_filter_fwd.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def model() -> HyenaDNAForCausalLM:
    config = HyenaDNAConfig(d_model=WIDTH, n_layer=LAYERS, max_seq_len=64, filter_order=8)
    return HyenaDNAForCausalLM(config).train()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(7, 11, (2, LENGTH))


def checkpointed(model: HyenaDNAForCausalLM, **options: Any) -> HyenaDNAForCausalLM:
    other = copy.deepcopy(model)
    other.activation_checkpointing_enable(options or None)
    return other


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def step(model: nn.Module, ids: Tensor, times: int = 1) -> tuple[int, list[Tensor]]:
    """How often filters are computed in a step, and its losses and gradients. All calls come before any backward."""
    torch.manual_seed(0)
    with Calls() as calls:
        outputs = [model(ids, labels=ids, output_hidden_states=True) for _ in range(times)]
        sum(output.loss + output.hidden_states[1].square().mean() for output in outputs).backward()
    gradients = [whole(p.grad) for p in model.parameters() if p.grad is not None]
    return calls.count, [*(output.loss.detach() for output in outputs), *gradients]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """The same but for the order in which the gradients of one tensor are added."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "computed"),
    [({}, LAYERS), ({"use_reentrant": False}, LAYERS), ({"use_reentrant": True}, 2 * LAYERS)],
    ids=["default", "not reentrant", "reentrant"],
)
def test_a_step_is_that_without_checkpointing(
    model: HyenaDNAForCausalLM, ids: Tensor, options: dict[str, Any], computed: int
) -> None:
    count, expected = step(model, ids)
    assert count == LAYERS
    count, found = step(checkpointed(model, **options), ids)
    assert count == computed
    (assert_close if options.get("use_reentrant") else assert_same)(found, expected)


def test_several_calls_before_one_backward(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    _, expected = step(model, ids, times=3)
    count, found = step(checkpointed(model), ids, times=3)
    assert count == 3 * LAYERS
    assert_same(found, expected)


def test_backward_may_run_twice(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    model = checkpointed(model)
    loss = model(ids, labels=ids).loss
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    assert_same([parameter.grad for parameter in model.parameters()], [2 * gradient for gradient in once])


def test_under_autocast(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        _, expected = step(model, ids)
        count, found = step(checkpointed(model), ids)
    assert count == LAYERS
    assert_same(found, expected)


def test_frozen_filters(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    for layer in model.hyena.backbone.layers:
        layer.mixer.filter_fn.requires_grad_(False)
    _, expected = step(model, ids)
    count, found = step(checkpointed(model), ids)
    assert count == LAYERS
    assert_same(found, expected)


@pytest.mark.parametrize(("missing", "computed"), [(0, LAYERS), (1, 2 * LAYERS)])
def test_filters_above_the_budget_are_computed_again(
    model: HyenaDNAForCausalLM, ids: Tensor, missing: int, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = step(model, ids)
    monkeypatch.setattr(model_layers, "_FILTER_BYTES_CPU", NBYTES - missing)
    count, found = step(checkpointed(model), ids)
    assert count == computed
    assert_same(found, expected)


def test_budget_of_a_gpu() -> None:
    with torch.device("meta"):
        model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=128, n_layer=2, max_seq_len=8)).train()
        model.activation_checkpointing_enable()
        backbone = model.hyena.backbone
        assert backbone._layers_that_share(torch.empty(1, 1 << 20, 128)) == list(backbone.layers)
        assert backbone._layers_that_share(torch.empty(1, (1 << 20) + 1, 128)) == []


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OtherMixer(nn.Module):
    """A mixer that takes nothing but its input."""

    def __init__(self, mixer: HyenaOperator) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x)


def doubled(layer: model_layers.HyenaDNABlock) -> None:
    layer.mixer.filter_fn.implicit_filter[0].__class__ = Doubled


def other_mixer(layer: model_layers.HyenaDNABlock) -> None:
    layer.mixer = OtherMixer(layer.mixer)


def hook_on(name: str) -> Callable[[nn.Module], None]:
    def add(layer: nn.Module) -> None:
        layer.get_submodule(name).register_forward_hook(lambda *_: None)

    return add


@pytest.mark.parametrize("change", [doubled, other_mixer, *map(hook_on, ("", "mixer", "mixer.filter_fn"))])
def test_where_other_code_takes_part_a_layer_computes_its_own(
    model: HyenaDNAForCausalLM, ids: Tensor, change: Callable[[nn.Module], None]
) -> None:
    changed = model.hyena.backbone.layers[0]
    change(changed)
    _, expected = step(model, ids)
    other = checkpointed(model)
    count, found = step(other, ids)
    # The network of a layer of another class is computed by its modules.
    assert count == (LAYERS - 1 if change is doubled else LAYERS + 1)
    assert_same(found, expected)


@pytest.mark.parametrize("every_layer", [False, True])
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_shards(model: HyenaDNAForCausalLM, ids: Tensor, every_layer: bool, tmp_path: Path) -> None:
    _, expected = step(model, ids)
    other = checkpointed(model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        for layer in other.hyena.backbone.layers if every_layer else ():
            fully_shard(layer, mesh=mesh)
        fully_shard(other, mesh=mesh)
        _, found = step(other, ids)
        assert_close(found, expected)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_compiled_once_for_all_lengths() -> None:
    config = HyenaDNAConfig(d_model=WIDTH, n_layer=1, max_seq_len=64, filter_order=8, embed_dropout=0.0)
    backbone = checkpointed(HyenaDNAForCausalLM(config).train()).hyena.backbone
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(backbone, fullgraph=True, backend=counter, dynamic=True)
    inputs = [torch.randint(7, 11, (2, length)) for length in (LENGTH, 33)]

    def gradients(function: nn.Module) -> list[Tensor]:
        losses = (function(ids, None, False).last_hidden_state.square().mean() for ids in inputs)
        return [x for loss in losses for x in torch.autograd.grad(loss, list(backbone.parameters()))]

    # Uncompiled, the MLP's backward pass is written out.
    assert_close(gradients(compiled), gradients(backbone))
    assert counter.frame_count == 1
