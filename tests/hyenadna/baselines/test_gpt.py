"""The GPT-2 baseline: its published size, causality, pads, losses, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification
from hyenadna.baselines.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)
from hyenadna.baselines.loading import load_backbone, load_language_model, load_sequence_classifier
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import PAD_ID

TINY: dict[str, Any] = {"d_model": 16, "n_head": 2, "n_layer": 2, "max_seq_len": 24, "embed_dropout": 0.0}
BASES = torch.tensor([[7, 9, 10, 8, 7, 7, 10, 9], [10, 8, 8, 7, 9, 10, 7, 8]])


def tiny(kind: Any = GPTForCausalLM, **fields: Any) -> Any:
    torch.manual_seed(0)
    model = kind(GPTConfig(**TINY | fields)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_the_default_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = GPTForCausalLM(GPTConfig())
        longer = GPTForCausalLM(GPTConfig(max_seq_len=1026))
    assert sum(parameter.numel() for parameter in model.parameters()) == 529_920
    assert sum(parameter.numel() for parameter in longer.parameters()) == 529_920 + 2 * 128


def test_it_computes_what_transformers_does() -> None:
    ours = tiny()
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=24)).eval()
    weights = {key.replace("gpt.backbone.", "transformer."): value for key, value in ours.state_dict().items()}
    assert not any(theirs.load_state_dict(weights))
    with torch.no_grad():
        torch.testing.assert_close(ours(BASES).logits, theirs(BASES).logits)


@pytest.mark.parametrize("kind", [GPTForCausalLM, GPTForTokenClassification])
def test_a_position_sees_itself_and_those_before_it(kind: Any) -> None:
    model = tiny(kind)
    changed = BASES.clone()
    changed[:, 5] = 8
    with torch.no_grad():
        moved = (model(BASES).logits - model(changed).logits).abs().amax(dim=(0, 2))
    assert (moved[:5] == 0).all()
    assert (moved[5:] > 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_pads_by_mask_change_nothing(side: str, pooling: str) -> None:
    model = tiny(GPTForSequenceClassification, pooling=pooling, num_labels=3)
    left, right = (3, 0) if side == "left" else (0, 3)
    padded = F.pad(BASES, (left, right), value=7)
    mask = F.pad(torch.ones_like(BASES), (left, right))
    # The other row has no pads, and a mask of its own.
    longer = torch.randint(7, 11, (1, padded.shape[1]), generator=torch.Generator().manual_seed(0))
    both = torch.cat([padded, longer]), torch.cat([mask, torch.ones_like(longer)])
    with torch.no_grad():
        wanted = torch.cat([model(BASES).logits, model(longer).logits])
        torch.testing.assert_close(model(both[0], attention_mask=both[1]).logits, wanted)
        # Without a mask [PAD] says what is real. Causal states need no more where it stands on the right.
        if side == "right":
            ids = both[0].masked_fill(both[1] == 0, PAD_ID)
            torch.testing.assert_close(model(ids).logits[:2], wanted[:2])


def test_head_pooling_and_loss_are_those_of_hyenadna() -> None:
    gpt = tiny(GPTForSequenceClassification, num_labels=3, problem_type="single_label_classification")
    config = HyenaDNAConfig(d_model=16, n_layer=1, filter_order=8, max_seq_len=24, num_labels=3)
    hyena = HyenaDNAForSequenceClassification(config).eval()
    hyena.score.load_state_dict(gpt.score.state_dict())
    ids = F.pad(BASES, (0, 2), value=PAD_ID)
    hidden = gpt.gpt(ids).last_hidden_state
    hyena.hyena.forward = lambda *args, **kwargs: BaseModelOutput(last_hidden_state=hidden)
    labels = torch.tensor([2, 0])
    ours, theirs = gpt(ids, labels=labels), hyena(ids, labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    with pytest.raises(InputError, match="labels hold the id 3"):
        gpt(ids, labels=torch.tensor([3, 0]))


def test_losses_of_the_next_token_agree() -> None:
    model = tiny()
    with torch.no_grad():
        output = model(BASES, labels=BASES)
        wanted = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), BASES[:, 1:].flatten())
        torch.testing.assert_close(output.loss, wanted)
        summed = model.next_token_loss(BASES[:, :-1], BASES[:, 1:], ignored=(PAD_ID,))
        torch.testing.assert_close(summed, wanted * BASES[:, 1:].numel())
        padded = F.pad(BASES, (2, 0), value=PAD_ID)
        labels = F.pad(BASES, (2, 0), value=-100)
        left = model(padded, attention_mask=(padded != PAD_ID).long(), labels=labels)
        torch.testing.assert_close(left.loss, wanted)


def test_a_folder_is_the_same_model_again(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "lm")
    again = load_language_model(tmp_path / "lm", attn_implementation="eager")
    assert isinstance(again, GPTForCausalLM)
    assert again.lm_head.weight is again.gpt.backbone.wte.weight
    with torch.no_grad():
        torch.testing.assert_close(again(BASES).logits, model(BASES).logits)
        states = model(BASES, output_hidden_states=True).hidden_states
        backbone = load_backbone(tmp_path / "lm")
        assert isinstance(backbone, GPTModel)
        assert torch.equal(backbone(BASES).last_hidden_state, states[-1])
    classifier = load_sequence_classifier(
        tmp_path / "lm", num_labels=3, pooling="last", train_length=20, train_keep="end"
    )
    assert (classifier.config.train_length, classifier.config.train_keep) == (20, "end")
    assert isinstance(classifier, GPTForSequenceClassification)
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(InputError, match="has no language head"):
        load_language_model(tmp_path / "classifier")
    with pytest.raises(InputError, match="model_type is 'hyenadna-gpt2'"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path / "lm")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: model(torch.full((1, 25), 7)),
            "25 tokens is longer than the 24 positions .* adds 16",
        ),
        (lambda model: model(torch.full((1, 5), 16)), "the embedding has 16 rows"),
        (lambda model: model(BASES, cu_seqlens=torch.tensor([0, 8])), "cu_seqlens: the GPT baseline"),
        (lambda model: model.next_token_loss(BASES, BASES, context=1), "context: the GPT baseline"),
        (lambda model: model.next_token_loss(BASES, BASES[:, 1:]), "must be \\(B, L\\)"),
        (lambda model: GPTConfig(d_model=20, n_head=8), "n_head 8 does not divide d_model 20"),
        (lambda model: GPTConfig(embed_dropout=2), "embed_dropout must be"),
    ],
)
def test_what_it_cannot_do_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tiny())
