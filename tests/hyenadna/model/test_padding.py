"""Pads beside sequences: each row gives what it gives alone, in every head and in ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from hyenadna import (
    DNATokenizer,
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
)
from hyenadna.model import modeling

LENGTHS = [3, 900, 31, 64, 65, 127, 128, 200, 255, 256, 257, 400, 511, 512, 700, 899]
PAD, SEP = 4, 1


def tiny(kind: Any = HyenaDNAForCausalLM, **fields: Any) -> Any:
    """A float64 model away from its start values, so that every part of it matters."""
    torch.manual_seed(0)
    config = HyenaDNAConfig(**{"d_model": 8, "filter_order": 8, "max_seq_len": 1026, "embed_dropout": 0.0} | fields)
    model = kind(config).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def prompts(lengths: list[int] = LENGTHS) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(7, 11, (length,)) for length in lengths]


def left(rows: list[Tensor], value: int = PAD) -> Tensor:
    width = max(map(len, rows))
    return torch.stack([F.pad(row, (width - len(row), 0), value=value) for row in rows])


def masked(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"input_ids": left(rows), "attention_mask": left([torch.ones_like(row) for row in rows], 0)}


def largest_difference(batched: Tensor, rows: list[Tensor]) -> float:
    """Over the rows, relative to the largest value of each. The values of a row are the last ones of its batch row."""
    found = (batched[i, -len(row) :] for i, row in enumerate(rows))
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, rows, strict=True))


@torch.no_grad()
def test_sixteen_left_padded_rows_equal_each_alone() -> None:
    rows, model = prompts(), tiny(n_layer=2)
    output = model(**masked(rows), output_hidden_states=True)
    alone = [model(row[None], output_hidden_states=True) for row in rows]
    assert largest_difference(output.logits, [one.logits[0] for one in alone]) < 1e-13
    assert len(output.hidden_states) == 3
    for i, states in enumerate(output.hidden_states):
        assert states.isfinite().all()
        assert largest_difference(states, [one.hidden_states[i][0] for one in alone]) < 1e-13
    backbone = model.hyena(**masked(rows))
    assert torch.equal(backbone.last_hidden_state, output.hidden_states[-1])
    assert torch.equal(model(**masked(rows), logits_to_keep=2).logits, model.lm_head(output.hidden_states[-1][:, -2:]))


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
@torch.no_grad()
def test_class_scores_of_left_padded_rows_equal_each_alone(pooling: str) -> None:
    rows, model = prompts(), tiny(HyenaDNAForSequenceClassification, pooling=pooling, num_labels=3)
    scores = model(**masked(rows)).logits
    assert largest_difference(scores[:, None], [model(row[None]).logits for row in rows]) < 1e-13


@torch.no_grad()
def test_token_classes_of_left_padded_rows_equal_each_alone() -> None:
    rows, model = prompts([3, 40, 17]), tiny(HyenaDNAForTokenClassification, num_labels=3)
    labels = [row % 3 for row in rows]
    output = model(**masked(rows), labels=left(labels, 0))
    alone = [model(row[None], labels=label[None]) for row, label in zip(rows, labels, strict=True)]
    assert largest_difference(output.logits, [one.logits[0] for one in alone]) < 1e-13
    by_hand = sum(one.loss * len(row) for one, row in zip(alone, rows, strict=True)) / sum(map(len, rows))
    assert abs(output.loss - by_hand) < 1e-13


@pytest.mark.slow
@torch.no_grad()
def test_sixteen_left_padded_prompts_continue_like_each_alone() -> None:
    rows, model = prompts(), tiny()
    greedy = {"max_new_tokens": 5, "do_sample": False}
    batched = model.generate(**masked(rows), **greedy)
    assert torch.equal(batched[:, :900], left(rows))
    for row, found in zip(rows, batched, strict=True):
        assert torch.equal(found[900:], model.generate(row[None], **greedy)[0, len(row) :])
    assert len(batched[:, 900:].unique()) > 3


def test_left_padded_rows_of_a_published_checkpoint(shared: Path) -> None:
    model = HyenaDNAForCausalLM.from_pretrained(shared / "fixtures" / "tiny-1k-L1024" / "hf").double()
    rows = prompts([3, 150, 64, 300])
    with torch.no_grad():
        logits = model(**masked(rows)).logits
        assert largest_difference(logits, [model(row[None]).logits[0] for row in rows]) < 1e-13
    greedy = {"max_new_tokens": 4, "do_sample": False}
    batched = model.generate(**masked(rows), **greedy)
    for row, found in zip(rows, batched, strict=True):
        assert torch.equal(found[300:], model.generate(row[None], **greedy)[0, len(row) :])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_of_left_padded_rows_are_those_of_right_padded_ones(checkpointing: bool) -> None:
    rows, model = prompts([3, 20, 11]), tiny(max_seq_len=64).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    terms = [F.cross_entropy(model(row[None]).logits[0, :-1], row[1:], reduction="sum") for row in rows]
    mean = sum(terms) / sum(len(row) - 1 for row in rows)
    expected = torch.autograd.grad(mean, list(model.parameters()))
    for labels in (left(rows, -100), left(rows, -100).int()):
        loss = model(**masked(rows), labels=labels).loss
        assert abs(loss - mean) < 1e-13
        for one, other in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
            assert (one - other).abs().max() < 1e-12
    assert abs(model(**masked(rows), labels=left(rows, -100), num_items_in_batch=5).loss - sum(terms) / 5) < 1e-13
    # Pads count unless they are -100, on either side.
    right = torch.stack([F.pad(row, (0, 20 - len(row)), value=PAD) for row in rows])
    one, other = (model(ids, attention_mask=(ids != PAD).long(), labels=ids).loss for ids in (right, left(rows)))
    assert abs(one - other) < 1e-13


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_masks_of_every_dtype_and_embeddings(dtype: torch.dtype) -> None:
    rows, model = prompts([3, 12]), tiny(HyenaDNAModel, max_seq_len=64)
    inputs = masked(rows)
    expected = model(**inputs).last_hidden_state
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    mask = inputs["attention_mask"].to(dtype)
    assert torch.equal(model(inputs["input_ids"], attention_mask=mask).last_hidden_state, expected)
    assert torch.equal(model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, expected)


@torch.no_grad()
def test_rows_in_order_are_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of ones, right pads and rows of nothing but pads."""
    model, ids = tiny(HyenaDNAModel, max_seq_len=64), torch.randint(7, 11, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[2] = 0
    expected = model(ids).last_hidden_state
    monkeypatch.setattr(torch, "argsort", None)
    assert torch.equal(model(ids, attention_mask=mask).last_hidden_state, expected)
    assert torch.equal(model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state, expected)
    with pytest.raises(TypeError):
        model(ids, attention_mask=mask.flip(1))


HOLES = [[1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 1]]


@pytest.mark.parametrize("kind", [HyenaDNAModel, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification])
@pytest.mark.parametrize("hole", HOLES)
def test_a_mask_with_holes_is_refused(kind: Any, hole: list[int]) -> None:
    model, ids = tiny(kind, max_seq_len=64), torch.randint(7, 11, (2, 5))
    with pytest.raises(InputError, match=r"zeros between ones: .*pad on the left for generation"):
        model(ids, attention_mask=torch.tensor([[1] * 5, hole]))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 4), r"attention_mask \(2, 4\) must be \(B, L\), here \(2, 5\)"),
        (torch.ones(2, 1, 5, 5), r"attention_mask \(2, 1, 5, 5\) must be \(B, L\)"),
        (2 * torch.ones(2, 5, dtype=torch.long), "must hold 1 at real positions and 0 at pads"),
        (torch.full((2, 5), float("-inf")), "must hold 1 at real positions and 0 at pads"),
        (torch.full((2, 5), 0.5), "must hold 1 at real positions and 0 at pads"),
    ],
)
@pytest.mark.parametrize("way", ["forward", "classes", "generate"])
def test_other_masks_are_refused(mask: Tensor, words: str, way: str) -> None:
    ids = torch.randint(7, 11, (2, 5))
    model = tiny(HyenaDNAForSequenceClassification if way == "classes" else HyenaDNAForCausalLM, max_seq_len=64)
    call = model.generate if way == "generate" else model
    with pytest.raises(InputError, match=words):
        call(ids, attention_mask=mask)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_a_soft_prompt_goes_before_left_padded_rows(task: str) -> None:
    """peft puts it in front of the pads: 1 1 1 0 0 1 1."""
    kind = {"CAUSAL_LM": HyenaDNAForCausalLM, "SEQ_CLS": HyenaDNAForSequenceClassification}[task]
    base = tiny(kind, max_seq_len=64, num_labels=2)
    model = get_peft_model(base, PromptTuningConfig(task_type=task, num_virtual_tokens=3)).double().eval()
    rows = prompts([3, 12, 7])
    alone = [model(row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows]
    logits = model(**masked(rows)).logits
    if task == "SEQ_CLS":
        assert largest_difference(logits[:, None], alone) < 1e-13
        return
    assert largest_difference(logits, [one[0, 3:] for one in alone]) < 1e-13
    # The first base of each row follows the prompt's last vector.
    terms = [F.cross_entropy(one[0, 2:-1], row, reduction="sum") for one, row in zip(alone, rows, strict=True)]
    loss = model(**masked(rows), labels=left(rows, -100)).loss
    assert abs(loss - sum(terms) / sum(map(len, rows))) < 1e-13
    loss.backward()
    assert model.prompt_encoder.default.embedding.weight.grad.abs().max() > 0
    greedy = {"max_new_tokens": 4, "do_sample": False}
    batched = model.generate(**masked(rows), **greedy)
    for row, found in zip(rows, batched, strict=True):
        assert torch.equal(found[12:], model.generate(input_ids=row[None], **greedy)[0, len(row) :])


@torch.no_grad()
def test_masks_under_transforms_of_torch() -> None:
    model = tiny(HyenaDNAModel, max_seq_len=64)
    embedded = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1] * 5]).expand(3, -1, -1).contiguous()
    holes = mask.clone()
    holes[2, 1] = torch.tensor([1, 0, 1, 0, 1])

    def states(embedded: Tensor, mask: Tensor) -> Tensor:
        return model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state

    expected = torch.stack([states(*pair) for pair in zip(embedded, mask, strict=True)])
    assert (torch.vmap(states)(embedded, mask) - expected).abs().max() < 1e-13
    with pytest.raises(InputError, match="zeros between ones"):
        torch.vmap(states)(embedded, holes)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = states(mode.from_tensor(embedded[0]), mode.from_tensor(mask[0]))
    assert fake.shape == (2, 5, 8)
    meta = HyenaDNAModel(model.config).to("meta")
    assert meta(inputs_embeds=embedded[0].float().to("meta"), attention_mask=mask[0].to("meta"))[0].shape == (2, 5, 8)


@pytest.mark.slow
def test_masks_of_compiled_models() -> None:
    model, ids = tiny(max_seq_len=64, n_layer=1), torch.randint(7, 11, (2, 5))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for rows in ([[0, 0, 1, 1, 1], [1] * 5], [[1] * 5, [1, 1, 0, 0, 0]]):
        mask = torch.tensor(rows)
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
        one, other = compiled(**inputs), model(**inputs)
        assert (one.logits - other.logits).abs().max() < 1e-13
        assert abs(one.loss - other.loss) < 1e-13
    with pytest.raises(RuntimeError, match="zeros between ones"):
        compiled(input_ids=ids, attention_mask=torch.tensor(HOLES[:2]), labels=ids)


@pytest.mark.slow
def test_an_exported_model_takes_masks_of_other_sizes() -> None:
    model, ids = tiny(max_seq_len=64, n_layer=1), torch.randint(7, 11, (2, 20))
    sizes = {0: torch.export.Dim("B", max=8), 1: torch.export.Dim("L", min=2, max=64)}
    exported = torch.export.export(
        model,
        (ids,),
        kwargs={"attention_mask": torch.ones_like(ids)},
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    ).module()
    rows = prompts([31, 5, 18])
    inputs = masked(rows)
    found = exported(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert largest_difference(found, [model(row[None]).logits[0] for row in rows]) < 1e-13


ENDINGS = {
    "SEP": ([7, 8, 9, 10, SEP], None),
    "right pads": ([7, 8, 9, 10, PAD, PAD], [1, 1, 1, 1, 0, 0]),
    "SEP and right pads": ([7, 8, 9, 10, SEP, PAD], [1, 1, 1, 1, 1, 0]),
    "SEP and right pads, no mask": ([7, 8, 9, 10, SEP, PAD, PAD], None),
    "left pads and SEP": ([PAD, 7, 8, 9, 10, SEP], [0, 1, 1, 1, 1, 1]),
    "left pads and SEP, no mask": ([PAD, 7, 8, 9, 10, SEP], None),
    "pads on both sides": ([PAD, 7, 8, 9, 10, PAD], [0, 1, 1, 1, 1, 0]),
}


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True}, {"use_cache": False}])
def test_a_prompt_is_continued_behind_its_last_base(name: str, how: dict[str, Any]) -> None:
    model = tiny(max_seq_len=64)
    ids, mask = ENDINGS[name]
    settings = {"max_new_tokens": 6, "do_sample": False} | how
    torch.manual_seed(2)
    bare = model.generate(torch.tensor([[7, 8, 9, 10]]), **settings)
    torch.manual_seed(2)
    found = model.generate(
        torch.tensor([ids]), attention_mask=None if mask is None else torch.tensor([mask]), **settings
    )
    assert torch.equal(found, F.pad(bare, (len(ids) - 4, 0), value=PAD))


def test_prompts_as_a_tokenizer_gives_them(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(max_seq_len=64)
    texts = ["ACGT", "GATTACAGG", "TT"]
    greedy = {"max_new_tokens": 6, "do_sample": False}
    bare = [model.generate(torch.tensor([[7 + "ACGT".index(c) for c in text]]), **greedy) for text in texts]
    expected = torch.cat([row[:, -6:] for row in bare])
    assert caplog.messages == []
    modeling._say_once.cache_clear()
    for side in ("left", "right"):
        batch = DNATokenizer(padding_side=side)(texts, padding=True, return_tensors="pt")
        assert torch.equal(model.generate(**batch, **greedy)[:, 10:], expected)
        assert torch.equal(model.generate(batch.input_ids, **greedy)[:, 10:], expected)
    assert [message[:20] for message in caplog.messages] == ["generate: the [SEP] "]
    # [CLS] is a part of what the model reads.
    wrapped = DNATokenizer(add_cls_token=True)("ACGT", return_tensors="pt").input_ids
    assert torch.equal(model.generate(wrapped, **greedy)[:, 6:], model.generate(wrapped[:, :5], **greedy)[:, 5:])


def test_pads_inside_a_prompt_stand_for_n() -> None:
    model = tiny(max_seq_len=64)
    ids = torch.tensor([[7, PAD, 9, PAD, 10]])
    found = model.generate(ids, max_new_tokens=1, do_sample=False)
    assert found[0, -1] == model(ids).logits[0, -1].argmax()


def test_a_closed_prompt_may_fill_the_model() -> None:
    """The place of [SEP] is free for a base."""
    model = tiny(max_seq_len=16)
    ids = torch.tensor([[7, 8, 9, 10] * 3 + [7, 8, 9, SEP]])
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 18)
    with pytest.raises(InputError, match="sequence of 17 tokens"):
        model.generate(ids[:, :-1], max_new_tokens=3, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize(
    ("ids", "mask"), [([SEP], None), ([PAD, PAD], None), ([PAD, SEP], [0, 1]), ([7, 8], [0, 0]), ([SEP, PAD], [1, 0])]
)
def test_an_empty_prompt_is_refused(ids: list[int], mask: list[int] | None) -> None:
    with pytest.raises(InputError, match="row 1 of the prompts is empty"):
        tiny(max_seq_len=64).generate(
            torch.tensor([[7] * len(ids), ids]),
            attention_mask=None if mask is None else torch.tensor([[1] * len(ids), mask]),
            max_new_tokens=2,
        )


def test_embedded_prompts_with_left_pads_and_with_their_ids() -> None:
    model, rows = tiny(max_seq_len=64), prompts([3, 12, 7])
    inputs = masked(rows)
    embedded = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    greedy = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**inputs, **greedy)
    mask = {"attention_mask": inputs["attention_mask"]}
    assert torch.equal(model.generate(**embedded, **mask, **greedy), expected[:, 12:])
    assert torch.equal(model.generate(inputs["input_ids"], **embedded, **mask, **greedy), expected)


def test_vectors_without_a_mask_are_all_real() -> None:
    """``inputs_embeds`` alone say nothing of pads, so that every position is pooled."""
    model = tiny(HyenaDNAForSequenceClassification, pooling="mean")
    vectors = torch.randn(2, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        alone = model(inputs_embeds=vectors).logits
        masked = model(inputs_embeds=vectors, attention_mask=torch.ones(2, 9, dtype=torch.long)).logits
        states = model.hyena(inputs_embeds=vectors).last_hidden_state
    torch.testing.assert_close(alone, masked, rtol=0, atol=0)
    torch.testing.assert_close(alone, model.score(states.mean(dim=1)), rtol=0, atol=1e-12)
