"""``dropout_by_position``: a model's masks follow from the samples, however the batches are cut up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from hyena_kernels import position_dropout
from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.model.dropout import dropout_by_position
from hyenadna.model.layers import HyenaDNABackbone

SEED = 5
SAMPLES = torch.tensor([3, 1 << 40, 8, 0])


@pytest.fixture
def model(tiny_model: Callable[..., Any]) -> HyenaDNAForCausalLM:
    made: HyenaDNAForCausalLM = tiny_model(noise=0.1, n_layer=2, embed_dropout=0.3).double().train()
    return made


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(7, 11, (4, 24), generator=torch.Generator().manual_seed(1))


def backbone_of(model: nn.Module) -> HyenaDNABackbone:
    return next(module for module in model.modules() if isinstance(module, HyenaDNABackbone))


def loss(model: nn.Module, ids: Tensor, samples: Tensor) -> Tensor:
    """The sum over all positions but the first."""
    with dropout_by_position(model, SEED, samples):
        logits = model(ids).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def gradients(model: nn.Module, ids: Tensor, parts: list[list[int]]) -> dict[str, Tensor]:
    """Gradients of the loss, accumulated over parts of the batch, and the loss itself."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for rows in parts:
        part = loss(model, ids[rows], SAMPLES[rows])
        part.backward()
        total += part.detach()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None} | {"loss": total}


def test_loss_and_gradients_in_parts_are_those_of_the_whole(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    before = torch.get_rng_state()
    whole = gradients(model, ids, [[0, 1, 2, 3]])
    assert len(whole) == 1 + sum(1 for p in model.parameters() if p.requires_grad)
    for parts in ([[3], [0, 2], [1]], [[2, 1, 0, 3]]):
        found = gradients(model, ids, parts)
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)
    with dropout_by_position(model, SEED + 1, SAMPLES):
        assert model(ids, labels=ids).loss.isfinite()
    assert not torch.equal(loss(model, ids, SAMPLES + 1), whole["loss"])


def test_checkpointed_blocks_have_the_same_gradients(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    whole = gradients(model, ids, [[0, 1, 2, 3]])
    model.gradient_checkpointing_enable()
    for name, value in gradients(model, ids, [[0, 1], [2, 3]]).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-11, atol=1e-12)


def test_the_mask_is_that_of_the_op_and_positions_have_an_offset(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    backbone = backbone_of(model)
    embedded = backbone.embeddings(ids)
    expected = position_dropout(embedded, 0.3, seed=SEED, samples=SAMPLES)
    with dropout_by_position(model, SEED, SAMPLES):
        states = model(ids, output_hidden_states=True).hidden_states
        assert torch.equal(states[0], expected)
        given = model(inputs_embeds=embedded, output_hidden_states=True).hidden_states
        assert torch.equal(given[0], expected)
        assert torch.equal(backbone._dropped(embedded[:, 7:], 7), expected[:, 7:])


def test_without_dropout_nothing_changes(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    plain = model.eval()(ids).logits
    with dropout_by_position(model, SEED, SAMPLES[:1]):
        assert torch.equal(model(ids).logits, plain)
    backbone_of(model).embed_dropout.p = 0.0
    with dropout_by_position(model.train(), SEED, SAMPLES):
        assert torch.equal(model(ids).logits, plain)


def test_the_innermost_block_counts_and_what_was_before_comes_back(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    outer, inner = loss(model, ids, SAMPLES), loss(model, ids, SAMPLES + 1)
    with dropout_by_position(model, SEED, SAMPLES):
        assert torch.equal(loss(model, ids, SAMPLES + 1), inner)
        with pytest.raises(KeyError), dropout_by_position(model, SEED, SAMPLES + 1):
            raise KeyError
        after = model(ids).logits
    with dropout_by_position(model, SEED, SAMPLES):
        assert torch.equal(model(ids).logits, after)
    assert not torch.equal(outer, inner)
    assert backbone_of(model).dropped_by_position is None
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert model.state_dict().keys() == HyenaDNAForCausalLM(model.config).state_dict().keys()


def test_backbones_are_found_in_wrappers(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    expected = loss(model, ids, SAMPLES)
    assert torch.equal(loss(nn.ModuleDict({"module": model})["module"], ids, SAMPLES), expected)
    outer = nn.ModuleDict({"module": model})
    with dropout_by_position(outer, SEED, SAMPLES):
        assert backbone_of(outer).dropped_by_position is not None
    adapted = get_peft_model(model, LoraConfig(target_modules=["fc1"], r=2))
    torch.testing.assert_close(loss(adapted, ids, SAMPLES), expected)


@pytest.mark.slow
def test_a_compiled_model_takes_other_samples_without_compiling_again(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    backbone = backbone_of(model)
    # The blocks take long to compile, and know nothing of dropout.
    backbone.layers = nn.ModuleList()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for shift in range(3):
        torch.testing.assert_close(loss(compiled, ids, SAMPLES + shift), loss(model, ids, SAMPLES + shift))
    assert counter.frame_count == 1


def refused(message: str, model: nn.Module, ids: Tensor, samples: Tensor = SAMPLES, seed: int = SEED) -> None:
    with pytest.raises(InputError, match=message) as raised, dropout_by_position(model, seed, samples):
        model(ids)
    assert "\n" not in str(raised.value)


def test_refuses_what_it_cannot_do(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    refused("the batch has 4 rows and samples 3 numbers: give one for each row", model, ids, SAMPLES[:3])
    refused("samples are torch.int32 .4,.: pass an int64 tensor", model, ids, SAMPLES.int())
    refused("seed 18446744073709551616 has more than 64 bits: pass one from 0", model, ids, seed=1 << 64)
    refused("Linear contains no HyenaDNA backbone: pass the model", nn.Linear(2, 2), ids)
    model.hyena.backbone.layers[1].mixer.dropout.p = 0.1
    refused("layers.1.mixer.dropout drops with p = 0.1 in training, .*: set hyena_dropout", model, ids)
    with dropout_by_position(model.eval(), SEED, SAMPLES):
        model(ids)
    model.train().hyena.backbone.layers[1].mixer.dropout.p = 0.0
    handle = model.hyena.backbone.embed_dropout.register_forward_hook(lambda *args: None)
    refused("embed_dropout of the model has hooks", model, ids)
    handle.remove()
    loss(model, ids, SAMPLES)


def test_dropout_of_adapters_is_refused(model: HyenaDNAForCausalLM, ids: Tensor) -> None:
    adapted = get_peft_model(model, LoraConfig(target_modules=["fc1"], r=2, lora_dropout=0.2))
    refused("lora_dropout.default drops with p = 0.2", adapted, ids)
