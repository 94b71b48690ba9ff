from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    LongT5Config,
    LongT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from hyenadna.common.errors import InputError
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification, ENBEDForTokenClassification
from hyenadna.encoder_decoder.modeling import ENBEDEncoder, ENBEDForConditionalGeneration
from hyenadna.encoder_decoder.sizes import ENBED_SIZES

SMALL: dict[str, Any] = {
    "num_layers": 4, "num_decoder_layers": 1, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "dropout_rate": 0.0,
}  # fmt: skip
ONE = SMALL | {"local_radius": 5, "first_local_radius": 5}
TWO = SMALL | {"local_radius": 16, "first_local_radius": 8, "first_local_layers": 2}


def make(kind: Any, fields: dict[str, Any], *, scale: float = 1.0, **more: Any) -> Any:
    torch.manual_seed(0)
    model = kind(ENBEDConfig(**fields | more)).double().eval()
    for parameter in model.parameters():
        parameter.data *= scale
    return model


def letters(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.tensor([68, 70, 74, 87])[torch.randint(4, shape, generator=rng)]


def test_one_radius_is_bit_equal_to_transformers(tmp_path: Path) -> None:
    model = make(ENBEDForConditionalGeneration, ONE)
    stock = LongT5ForConditionalGeneration(
        LongT5Config(**SMALL, vocab_size=384, local_radius=5, encoder_attention_type="transient-global",
                     feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    ).double().eval()  # fmt: skip
    assert stock.state_dict().keys() == model.state_dict().keys()
    stock.load_state_dict(model.state_dict())
    source, target = letters(2, 70), letters(2, 9)
    ours, theirs = (each(source, labels=target) for each in (model, stock))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    ours.loss.backward()
    theirs.loss.backward()
    for own, other in zip(model.parameters(), stock.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("kind", [ENBEDForConditionalGeneration, ENBEDForSequenceClassification])
@pytest.mark.parametrize("fields", [ONE, TWO])
def test_random_weights_are_those_of_longt5(kind: Any, fields: dict[str, Any]) -> None:
    """By their deviations, which tests with copied weights cannot see."""
    wide = {"d_model": 96, "d_kv": 32, "d_ff": 160, "num_heads": 4}
    stock = LongT5ForConditionalGeneration(
        LongT5Config(**SMALL | wide, vocab_size=384, encoder_attention_type="transient-global",
                     feed_forward_proj="gated-gelu")
    )  # fmt: skip
    wanted = {name: float(weight.detach().std()) for name, weight in stock.named_parameters()}
    # The first layer of the second radius has biases too.
    wanted |= {name.replace("block.0.", "block.2."): value for name, value in wanted.items() if "relative" in name}
    wanted["score.weight"] = 96**-0.5
    checked = set()
    for name, weight in make(kind, fields | wide).named_parameters():
        if weight.dim() == 2:
            assert float(weight.detach().std()) == pytest.approx(wanted[name], rel=0.3), name
            checked.add(name.split(".")[-2])
    assert {"shared", "q", "k", "v", "o", "relative_attention_bias", "wi_0", "wi_1", "wo"} <= checked


def test_files_of_one_radius_are_those_of_transformers(tmp_path: Path) -> None:
    model = make(ENBEDForConditionalGeneration, ONE)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "longt5"
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(stock) is LongT5ForConditionalGeneration
    again = ENBEDForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    source, target = letters(1, 40), letters(1, 5)
    logits = model(source, labels=target).logits
    assert torch.equal(stock(source, labels=target).logits, logits)
    assert torch.equal(again(source, labels=target).logits, logits)


def test_files_of_transformers_are_read(tmp_path: Path) -> None:
    config = LongT5Config(**SMALL, vocab_size=384, local_radius=7, encoder_attention_type="transient-global",
                          decoder_start_token_id=0, tie_word_embeddings=False)  # fmt: skip
    stock = LongT5ForConditionalGeneration(config).eval()
    stock.save_pretrained(tmp_path)
    model = ENBEDForConditionalGeneration.from_pretrained(tmp_path)
    assert [model.config.radius_of(layer) for layer in range(4)] == [7] * 4
    # Without tied embeddings of T5 the decoder's output is not scaled. The field must survive both files.
    assert model.config.scale_decoder_outputs is False
    source, target = letters(1, 40), letters(1, 5)
    assert torch.equal(model(source, labels=target).logits, stock(source, labels=target).logits)
    model.save_pretrained(tmp_path / "again")
    again = ENBEDForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(again(source, labels=target).logits, stock(source, labels=target).logits)


def test_files_of_two_radii_are_ours(tmp_path: Path) -> None:
    model = make(ENBEDForConditionalGeneration, TWO)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(again) is ENBEDForConditionalGeneration
    source, target = letters(2, 50), letters(2, 5)
    assert torch.equal(again(source, labels=target).logits, model(source, labels=target).logits)


def reached(model: ENBEDEncoder, length: int, place: int) -> list[list[int]]:
    """First and last position that changes after each layer when one byte changes."""
    ids = letters(1, length)
    other = ids.clone()
    other[0, place] = 81
    found = []
    states = [model(each, output_hidden_states=True).hidden_states for each in (ids, other)]
    # The last ones are normalised, which changes no position that was equal.
    for one, two in zip(*states, strict=True):
        moved = (one != two).any(-1)[0].nonzero().flatten()
        found.append([int(moved[0]), int(moved[-1])])
    return found


def test_layers_without_globals_see_one_radius_and_then_the_other() -> None:
    # Weights are small so that the softmax is never so sharp that a far byte counts nothing.
    model = make(ENBEDEncoder, TWO, scale=0.3, global_block_size=1024)
    assert reached(model, 200, 100) == [[100, 100], [92, 108], [84, 116], [68, 132], [52, 148]]


def test_globals_carry_every_byte_to_all() -> None:
    model = make(ENBEDEncoder, TWO, scale=0.3, global_block_size=16)
    assert reached(model, 200, 100)[1] == [0, 199]


@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 47])
@pytest.mark.parametrize("fields", [ONE, TWO])
def test_pads_on_the_right_change_nothing(fields: dict[str, Any], length: int) -> None:
    model = make(ENBEDForConditionalGeneration, fields)
    ids, target = letters(1, length), letters(1, 4)
    alone = model(ids, labels=target).logits
    assert alone.isfinite().all()
    batch = torch.cat([torch.nn.functional.pad(ids, (0, 60 - length)), letters(1, 60)])
    together = model(batch, labels=target.expand(2, -1)).logits[:1]
    # The same sums in another order.
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    # A mask says the same as the ids.
    masked = model(batch, (batch != 0).long(), labels=target.expand(2, -1)).logits[:1]
    assert torch.equal(masked, together)


def test_classifiers_pool_real_bytes_alone() -> None:
    ids = letters(1, 21)
    padded = torch.nn.functional.pad(ids, (0, 30))
    for pooling in ("mean", "first", "last"):
        model = make(ENBEDForSequenceClassification, TWO, pooling=pooling, num_labels=3)
        torch.testing.assert_close(model(padded).logits, model(ids).logits, rtol=1e-12, atol=1e-12)
    tokens = make(ENBEDForTokenClassification, TWO, num_labels=3)
    torch.testing.assert_close(tokens(padded).logits[:, :21], tokens(ids).logits, rtol=1e-12, atol=1e-12)
    loss = tokens(ids, labels=torch.ones(1, 21, dtype=torch.long)).loss
    padded_labels = torch.nn.functional.pad(torch.ones(1, 21, dtype=torch.long), (0, 30), value=-100)
    torch.testing.assert_close(tokens(padded, labels=padded_labels).loss, loss, rtol=1e-12, atol=1e-12)


def test_a_classifier_takes_the_encoder_of_a_checkpoint(tmp_path: Path) -> None:
    model = make(ENBEDForConditionalGeneration, ONE)
    model.save_pretrained(tmp_path)
    classifier = ENBEDForSequenceClassification.from_pretrained(tmp_path, num_labels=2, dtype=torch.float64)
    assert torch.equal(classifier.encoder(letters(1, 30))[0], model.encoder(letters(1, 30))[0])
    classifier.save_pretrained(tmp_path / "tuned")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned", dtype=torch.float64).eval()
    assert type(again) is ENBEDForSequenceClassification
    assert torch.equal(again(letters(1, 30)).logits, classifier(letters(1, 30)).logits)


def test_beams_come_sorted_and_gradients_are_recomputed() -> None:
    model = make(ENBEDForConditionalGeneration, TWO)
    output = model.generate(
        letters(2, 30), num_beams=5, num_return_sequences=5, max_new_tokens=6, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    scores = output.sequences_scores.view(2, 5)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    ids, target = letters(2, 40), letters(2, 4)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(ids, labels=target).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert all(gradient is not None for gradient in gradients[0])


def test_bfloat16_is_near_float32() -> None:
    model = make(ENBEDForConditionalGeneration, TWO).float()
    ids, target = letters(2, 40), letters(2, 4)
    exact = model(ids, labels=target).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = model(ids, labels=target).loss
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_block_size": 20}, "global_block_size must be a power of two, got 20"),
        ({"local_radius": 0}, "local_radius must be an integer of at least 1, got 0"),
        ({"first_local_layers": -1}, "first_local_layers must be an integer of at least 0"),
        ({"encoder_attention_type": "local"}, "encoder_attention_type must be 'transient-global'"),
        ({"pooling": "max"}, "pooling must be one of mean, last, first, got 'max'"),
        ({"vocab_size": 12}, "vocab_size must be at least 384, got 12"),
        ({"num_global_tokens": 0}, "num_global_tokens must be an integer of at least 1"),
    ],
)
def test_impossible_fields_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        ENBEDConfig(**SMALL | change)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 68, 70]], "pads stand before a sequence"),
        ([[68, 0, 70]], "pads stand before a sequence"),
        ([[384]], "ids 0 to 383"),
        ([[]], "not empty"),
        ([[68] * 65], "longer than the 64"),
    ],
)
def test_inputs_that_cannot_be_computed_are_refused(ids: list[list[int]], message: str) -> None:
    model = make(ENBEDForConditionalGeneration, TWO, max_seq_len=64)
    with pytest.raises(InputError, match=message):
        model(torch.tensor(ids, dtype=torch.long), labels=letters(1, 2))


def test_float16_is_refused() -> None:
    with pytest.raises(InputError, match="float16 has no number as low"):
        make(ENBEDEncoder, TWO).half()(letters(1, 5))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        ENBEDForConditionalGeneration.from_pretrained(tmp_path / "none")
    T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a model of type 't5', and no ENBED"):
        ENBEDForConditionalGeneration.from_pretrained(tmp_path)


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path: Path) -> None:
    model = make(ENBEDForConditionalGeneration, TWO)
    weights = model.state_dict()
    weights.pop("encoder.block.2.layer.0.TransientGlobalSelfAttention.relative_attention_bias.weight")
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(InputError, match=r"missing: .*relative_attention_bias"):
        ENBEDForConditionalGeneration.from_pretrained(tmp_path)


def test_the_number_of_globals_sets_their_size() -> None:
    config = ENBEDConfig(**SMALL, max_seq_len=16_384, num_global_tokens=64)
    assert config.global_block_size == 256
    # At most so many, and the size stays a power of two.
    assert ENBEDConfig(**SMALL, max_seq_len=1000, num_global_tokens=9).global_block_size == 128


@pytest.mark.parametrize(("size", "millions"), [("enbed-tiny", 0.165), ("enbed-small", 6.79), ("enbed-large", 941.4)])
def test_sizes(size: str, millions: float) -> None:
    assert list(ENBED_SIZES) == ["enbed-tiny", "enbed-small", "enbed-base", "enbed-large"]
    with torch.device("meta"):
        model = ENBEDForConditionalGeneration(ENBEDConfig.of_size(size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=5e-3)
