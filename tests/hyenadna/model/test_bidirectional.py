"""Bidirectional models: pads change nothing, every way of calling them agrees, and causal uses refuse them.

tests/hyenadna/parallel/test_sharding.py has them in several processes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from hyena_kernels.distributed import ContextShards
from hyenadna import (
    HyenaCache,
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
    make_graphed_step,
)
from hyenadna.model import sliced
from hyenadna.model.sliced import Slices

PAD = 4
KINDS: list[Any] = [True, "published"]
FIELDS: dict[str, Any] = {"d_model": 8, "filter_order": 8, "max_seq_len": 64, "embed_dropout": 0.0, "num_labels": 3}


def made(kind: Any = True, head: Any = HyenaDNAForSequenceClassification, **fields: Any) -> Any:
    """A float64 model away from its start values, so that every part of it matters."""
    torch.manual_seed(0)
    model = head(HyenaDNAConfig(**FIELDS | {"bidirectional": kind} | fields)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def tokens(length: int) -> Tensor:
    return torch.randint(7, 11, (length,), generator=torch.Generator().manual_seed(length))


def padded() -> tuple[list[Tensor], list[int], Tensor, Tensor]:
    """Rows of several lengths, where each begins in its row of the batch, their batch and its mask."""
    rows, starts = [tokens(17), tokens(9), tokens(4), tokens(1), tokens(8)], [0, 8, 0, 16, 5]
    batch = torch.full((5, 17), PAD)
    for row, (start, ids) in enumerate(zip(starts, rows, strict=True)):
        batch[row, start : start + len(ids)] = ids
    return rows, starts, batch, batch != PAD


# Pads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [2, 3])
@torch.no_grad()
def test_states_of_real_positions_are_those_without_pads(order: int, kind: Any) -> None:
    model = made(kind, HyenaDNAModel, hyena_order=order)
    rows, starts, batch, mask = padded()
    for given in ({}, {"attention_mask": mask}, {"attention_mask": mask.float()}):
        found = model(batch, output_hidden_states=True, **given).hidden_states
        for row, (start, ids) in enumerate(zip(starts, rows, strict=True)):
            alone = model(ids[None], output_hidden_states=True).hidden_states
            for state, expected in zip(found, alone, strict=True):
                torch.testing.assert_close(state[row, start : start + len(ids)], expected[0], rtol=0, atol=1e-12)
    # A pad on the left is as good as one on the right, bit for bit.
    turned = [model(torch.cat(parts)[None])[0] for parts in ((rows[1], batch[3, :8]), (batch[3, :8], rows[1]))]
    assert torch.equal(turned[0][0, :9], turned[1][0, 8:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_classifiers_pool_what_is_real(pooling: str, kind: Any) -> None:
    model = made(kind, pooling=pooling)
    rows, _, batch, mask = padded()
    with torch.no_grad():
        alone = torch.cat([model(ids[None]).logits for ids in rows])
        torch.testing.assert_close(model(batch).logits, alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(model(batch, attention_mask=mask).logits, alone, rtol=0, atol=1e-12)
    labels = torch.tensor([0, 1, 2, 1, 0])
    gradients = torch.autograd.grad(model(batch, labels=labels).loss, list(model.parameters()))
    losses = [model(ids[None], labels=labels[row : row + 1]).loss for row, ids in enumerate(rows)]
    for found, expected in zip(gradients, torch.autograd.grad(sum(losses) / 5, list(model.parameters())), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_an_unknown_base_is_no_pad_if_a_mask_says_so() -> None:
    """[PAD] also stands for N. Inside a sequence it is real in any case."""
    model, ids = made(head=HyenaDNAForTokenClassification), tokens(9)
    ids[[0, 4]] = PAD
    inside = torch.cat((torch.tensor([PAD]), ids[1:])) != PAD
    with torch.no_grad():
        known = model(ids[None], attention_mask=torch.ones(1, 9)).logits
        assert not torch.allclose(known, model(ids[None]).logits)
        torch.testing.assert_close(model(ids[None]).logits[0, 1:], model(ids[None, 1:]).logits[0], rtol=0, atol=1e-12)
        with pytest.raises(InputError, match="zeros between ones"):
            model(ids[None], attention_mask=inside[None])


# Ways of calling, training and keeping a model


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_and_slices_change_nothing(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    model, (_, _, batch, _) = made(kind), padded()
    labels = torch.tensor([0, 1, 2, 1, 0])
    monkeypatch.setattr(sliced, "slices_of", lambda *_: Slices(3, 7))

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(batch, labels=labels).loss, list(model.parameters()))

    expected = gradients()
    model.train()
    for options in ({"slices": False, "use_reentrant": False}, {"slices": "auto"}):
        model.activation_checkpointing_enable(options)
        for found, one in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=0, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch).logits, made(kind)(batch).logits, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_again(tmp_path: Path, kind: Any) -> None:
    model, (_, _, batch, _) = made(kind).float(), padded()
    model.save_pretrained(tmp_path)
    again = HyenaDNAForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.bidirectional == kind
    with torch.no_grad():
        logits = model(batch).logits
        assert torch.equal(again(batch).logits, logits)
        assert torch.equal(copy.deepcopy(model)(batch).logits, logits)
        backbone = HyenaDNAModel.from_pretrained(tmp_path)
        assert torch.equal(backbone(batch)[0], model.hyena(batch)[0])
    with pytest.raises(InputError, match=f"bidirectional is {kind!r} and cannot be False"):
        HyenaDNAForSequenceClassification.from_pretrained(tmp_path, bidirectional=False)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: bidirectional is {kind!r}")) as raised:
        HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


def test_new_weights_are_those_of_a_causal_model() -> None:
    """But for the last layer of the filters, which has twice the rows of the same spread."""
    for kind in KINDS:
        torch.manual_seed(0)
        model: Any = HyenaDNAModel(HyenaDNAConfig(d_model=64, bidirectional=kind))
        own = model.backbone.layers[1].mixer.filter_fn
        last = own.implicit_filter[-1].weight
        assert last.shape == (128 if kind is True else 64, 64)
        assert last.std().item() == pytest.approx(0.02, rel=0.05)
        assert own.bias.std().item() == pytest.approx(1.0, rel=0.3)
        # The layers share the features of the positions.
        assert own.pos_emb.z is model.backbone.layers[0].mixer.filter_fn.pos_emb.z
        causal = HyenaDNAModel(HyenaDNAConfig(d_model=64))
        assert [name for name, _ in causal.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_adapters_find_their_layers() -> None:
    model, (_, _, batch, _) = made(), padded()
    before = model(batch).logits
    settings = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", exclude_modules=["score"], r=2)
    adapted = get_peft_model(model, settings)
    ups = {name.split(".lora_B")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_B" in name}
    assert ups == {"in_proj", "out_proj", "fc1", "fc2", "0", "2", "4", "6"}
    torch.testing.assert_close(adapted.eval()(batch).logits, before, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_model_takes_pads_of_all_kinds() -> None:
    torch._dynamo.reset()
    model, (_, _, batch, _) = made(n_layer=1), padded()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for rows in (batch, torch.stack([tokens(17)] * 5), batch.flip(1)):
            torch.testing.assert_close(compiled(rows).logits, model(rows).logits, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_an_exported_model_takes_other_sizes() -> None:
    model, (rows, _, batch, _) = made(n_layer=1), padded()
    sizes = {0: torch.export.Dim("B", max=8), 1: torch.export.Dim("L", min=3, max=64)}
    with torch.no_grad():
        exported = torch.export.export(model, (batch,), dynamic_shapes=(sizes,)).module()
        for given in (batch, rows[0][None, :4], batch[:2, :9]):
            torch.testing.assert_close(exported(given).logits, model(given).logits, rtol=0, atol=1e-12)


# What is learnt


def learnt(kind: Any) -> float:
    """How often a model tells the last base at the first position, once it has been trained to."""
    torch.manual_seed(0)
    fields = {"d_model": 16, "n_layer": 1, "d_inner": 32, "max_seq_len": 9, "modulation_shift": 1.0, "num_labels": 4}
    config = HyenaDNAConfig(**FIELDS | fields | {"bidirectional": kind, "initializer_range": 0.1})
    model = HyenaDNAForTokenClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    draws = torch.Generator().manual_seed(1)
    for _ in range(60):
        ids = torch.randint(7, 11, (64, 9), generator=draws)
        labels = torch.full_like(ids, -100)
        labels[:, 0] = ids[:, -1] - 7
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ids = torch.randint(7, 11, (500, 9), generator=draws)
    with torch.no_grad():
        found = model.eval()(ids).logits[:, 0].argmax(-1)
    return (found == ids[:, -1] - 7).double().mean().item()


def test_the_first_position_learns_what_the_last_is() -> None:
    """A causal model cannot: it stays at chance, a quarter, give or take five deviations."""
    assert learnt(True) > 0.95
    assert abs(learnt(False) - 0.25) < 5 * (0.25 * 0.75 / 500) ** 0.5


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "last"}, "config: pooling 'last' takes the position that has seen all others"),
        ({"filter_length": 4}, "takes no filter_length, got 4"),
    ],
)
def test_fields_of_causal_models(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(kind, **fields)


def test_values_and_original_configurations() -> None:
    with pytest.raises(InputError, match=re.escape("config: bidirectional must be False, True or 'published', got 1")):
        HyenaDNAConfig(bidirectional=1)  # type: ignore[arg-type]
    original = HyenaDNAConfig(**FIELDS).to_original()
    original["layer"]["bidirectional"] = True
    with pytest.raises(InputError, match=re.escape("asks for layer.bidirectional = True; only False is supported")):
        HyenaDNAConfig.from_original(original)
    with pytest.raises(InputError, match="a bidirectional model has no form of the original"):
        HyenaDNAConfig(**FIELDS, bidirectional="published").to_original()


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_language_model(kind: Any) -> None:
    with pytest.raises(
        InputError, match=f"config: bidirectional is {kind!r}, and such a model sees the token"
    ) as raised:
        made(kind, HyenaDNAForCausalLM)
    assert "\n" not in str(raised.value)


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "cache": (lambda model: HyenaCache(model, 1, 4), "HyenaCache: the model is bidirectional, and has no cache"),
    "cache of another": (
        lambda model: model(tokens(9)[None], cache=HyenaCache(made(False, HyenaDNAModel), 1, 4)),
        "cache: the model is bidirectional, and has no cache",
    ),
    "use_cache": (lambda model: model(tokens(9)[None], use_cache=True), "use_cache: the model is bidirectional"),
    "packed row": (
        lambda model: model(tokens(9)[None], cu_seqlens=torch.tensor([0, 4, 9])),
        "cu_seqlens: the model is bidirectional, and takes no packed rows",
    ),
    "positions that restart": (
        lambda model: model(tokens(4)[None], position_ids=torch.tensor([[0, 1, 0, 1]])),
        "the model is bidirectional, and takes no packed rows",
    ),
    "is_causal": (lambda model: model(tokens(4)[None], is_causal=True), "is_causal: the model is bidirectional"),
    "graphed step": (
        lambda model: make_graphed_step(model, None, tokens(9)[None]),  # type: ignore[arg-type]
        "the model is bidirectional, and the step predicts the next token",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_causal_models(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        call(made(head=HyenaDNAModel))
    assert "\n" not in str(raised.value)


def test_sequences_over_processes() -> None:
    model, shards = made(head=HyenaDNAModel), ContextShards([9])
    whole = model(tokens(9)[None], is_causal=False)[0]
    assert torch.equal(model(tokens(9)[None], context=shards)[0], whole)
    shards.size = 2
    with pytest.raises(InputError, match="context: the model is bidirectional"):
        model(tokens(9)[None], context=shards)
