"""What transformers, its Trainer and peft may pass to ``forward`` and ``generate``: it works, or an error says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch.nn import functional as F

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
)

CLASSES = [
    HyenaDNAModel,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
]


def small(kind: Any = HyenaDNAForCausalLM, **fields: Any) -> Any:
    return kind(HyenaDNAConfig(**{"d_model": 8, "n_layer": 1, "filter_order": 8, "max_seq_len": 64} | fields)).eval()


IDS = torch.tensor([[7, 8, 9, 10, 8, 8], [9, 9, 7, 10, 7, 8]])
RESTARTS = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("past_key_values", ((IDS, IDS),), "past_key_values: the model keeps no keys .* prompt tuning"),
        ("cache", object(), "cache: the model keeps no keys"),
        ("cache_position", torch.arange(6), "cache_position: the model keeps no keys"),
        ("use_cache", True, "use_cache: the model keeps no keys"),
        ("output_attentions", True, "output_attentions: the model has no attention"),
        ("head_mask", torch.ones(1), "head_mask: the model has no attention"),
        ("is_causal", False, "is_causal: the model is causal"),
        ("position_ids", RESTARTS, "position_ids must count from 0 .* pack several sequences"),
        ("position_ids", RESTARTS[1] + 3, "position_ids must count from 0"),
        ("position_ids", RESTARTS[:, :4], r"position_ids \(2, 4\) must be \(B, L\), here \(2, 6\)"),
        ("cu_seq_lens_q", torch.tensor([0, 3, 6]), r"cu_seq_lens_q: a packed batch is one row \(1, T\), here \(2, 6\)"),
        ("cu_seqlens", torch.tensor([0, 3, 6]), "cu_seqlens: a packed batch is one row"),
        ("max_length_q", 3, "max_length_q: a packed batch is one row"),
        ("seq_idx", IDS * 0, "seq_idx: a packed batch is one row"),
        ("token_type_ids", IDS * 0 + 1, "token_type_ids must be 0"),
    ],
)
def test_what_cannot_be_honoured_is_refused(kind: Any, name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(kind)(IDS, **{name: value})


@pytest.mark.parametrize("kind", CLASSES)
def test_an_unknown_argument_is_a_type_error(kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"{kind.__name__}.forward\(\) got an unexpected keyword argument 'atention"):
        small(kind)(IDS, atention_mask=torch.ones_like(IDS))


@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_arguments_that_change_nothing_are_taken(kind: Any) -> None:
    model = small(kind)
    expected = model(IDS)[0]
    names = ["past_key_values", "cache", "cache_position", "head_mask", "seq_idx", "cu_seq_lens_q", "token_type_ids"]
    neutral = dict.fromkeys(names) | {"use_cache": False, "output_attentions": False, "is_causal": True}
    assert torch.equal(model(IDS, **neutral)[0], expected)
    assert torch.equal(model(IDS, token_type_ids=IDS * 0, num_items_in_batch=torch.tensor(3))[0], expected)
    for positions in (torch.arange(6), torch.arange(6)[None], torch.arange(6).expand(2, -1)):
        assert torch.equal(model(IDS, position_ids=positions)[0], expected)


@pytest.mark.parametrize("at_pads", [0, 1])
def test_positions_may_count_the_bases_of_left_padded_rows(at_pads: int) -> None:
    model = small()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, at_pads)
    assert model(IDS, attention_mask=mask, position_ids=positions).logits.isfinite().all()
    model.generate(IDS, attention_mask=mask, position_ids=positions, max_new_tokens=2)
    positions[0, 4:] = torch.tensor([0, 1])
    for call in (model, model.generate):
        with pytest.raises(InputError, match="position_ids must count from 0"):
            call(IDS, attention_mask=mask, position_ids=positions)


def test_attention_weights_asked_for_in_the_config_are_refused() -> None:
    with pytest.raises(InputError, match=r"config\.output_attentions: the model has no attention"):
        small(output_attentions=True, attn_implementation="eager")(IDS)


def test_shifted_labels_are_the_targets_of_their_positions() -> None:
    model = small()
    shifted = F.pad(IDS[:, 1:], (0, 1), value=-100)
    expected = model(IDS, labels=IDS).loss
    assert torch.equal(model(IDS, shift_labels=shifted).loss, expected)
    assert torch.equal(model(IDS, labels=IDS, shift_labels=shifted).loss, expected)
    assert abs(model(IDS, shift_labels=shifted, num_items_in_batch=4).loss - expected * 10 / 4) < 1e-6
    with pytest.raises(InputError, match=r"shift_labels \(2, 5\) must have the shape of input_ids \(2, 6\)"):
        model(IDS, shift_labels=IDS[:, 1:])


def test_prefix_tuning_is_refused() -> None:
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=1, token_dim=8, num_attention_heads=1
    )
    model = get_peft_model(small(), config)
    with pytest.raises(InputError, match=r"past_key_values: .* train a prompt with prompt tuning"):
        model(input_ids=IDS, labels=IDS)
    with pytest.raises(InputError, match=r"past_key_values: .* train a prompt with prompt tuning"):
        model.generate(input_ids=IDS, max_new_tokens=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 6])}, "cu_seq_lens_q: several sequences"),
        ({"seq_idx": IDS * 0}, "seq_idx: several sequences"),
        ({"position_ids": RESTARTS}, "position_ids must count"),
        ({"is_causal": False}, "is_causal: the model is causal"),
        ({"output_attentions": True}, "output_attentions: the model has no attention"),
        ({"cache": object()}, "cache: the model keeps no keys and values, but a HyenaCache"),
        ({"lenght": 3}, "not used by the model"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation is not supported"),
    ],
)
def test_generate_refuses_what_it_cannot_honour(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small().generate(IDS, max_new_tokens=2, **arguments)
