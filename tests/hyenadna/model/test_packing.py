"""A packed row gives what each of its sequences gives alone, in every head, loss and way of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import DataCollatorForLanguageModeling, DataCollatorWithFlattening, Trainer, TrainingArguments

from hyena_kernels import SegmentPlan
from hyenadna import (
    DNATokenizer,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
)
from hyenadna.model import layers, sliced
from hyenadna.model.packing import pool_segments

LENGTHS = [5, 1, 17, 64, 3, 31]
CU = torch.tensor([0, 5, 6, 23, 87, 90, 121])
ROW = torch.randint(7, 12, (1, 121), generator=torch.Generator().manual_seed(0))
ROW[0, [2, 22, 89]] = 4  # [PAD] stands for N, and is not pooled.
HEADS = [HyenaDNAModel, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification]

Maker = Callable[..., Any]


@pytest.fixture
def make(tiny_model: Maker) -> Maker:
    """Makes a float64 model of two layers, without dropout, for sequences of 64 tokens."""
    fields = {"noise": 0.1, "n_layer": 2, "embed_dropout": 0.0, "num_labels": 3}
    return lambda kind=HyenaDNAForCausalLM, **more: tiny_model(kind, **fields | more).double()


def alone(model: Any, row: Tensor = ROW) -> list[Tensor]:
    return [model(ids)[0] for ids in row.split(LENGTHS, 1)]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Any, expected: Any, relative: float = 1e-12) -> None:
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert_close(tensor, expected[name], relative)
    else:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("kind", HEADS)
def test_each_sequence_gives_what_it_gives_alone(make: Maker, kind: Any, order: int) -> None:
    """Values and every gradient. The row is longer than max_seq_len, a sequence as long, and another one base."""
    model = make(kind, hyena_order=order)
    found = model(ROW, cu_seqlens=CU)[0]
    expected = torch.cat(alone(model), dim=0 if kind is HyenaDNAForSequenceClassification else 1)
    assert_close(found, expected)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    assert_close(gradients(model, (found * weights).sum()), gradients(model, (expected * weights).sum()))


@pytest.mark.parametrize("pooling", ["last", "first"])
@torch.no_grad()
def test_pooling_by_segment(make: Maker, pooling: str) -> None:
    """A sequence of nothing but pads pools as it does alone."""
    model = make(HyenaDNAForSequenceClassification, pooling=pooling)
    row = ROW.clone()
    row[:, 87:90] = 4
    assert_close(model(row, cu_seqlens=CU).logits, torch.cat(alone(model, row)))


@pytest.mark.parametrize("how", ["mean", "last", "first"])
def test_a_pooled_vector_depends_on_its_segment_alone(how: str) -> None:
    hidden = torch.randn(1, 121, 8)
    real = ROW != 4
    clean = pool_segments(hidden, real, how, SegmentPlan(CU))
    hidden[:, 23:87] = torch.nan
    found = pool_segments(hidden, real, how, SegmentPlan(CU))
    assert found[3].isnan().all()
    others = [0, 1, 2, 4, 5]
    assert torch.equal(found[others], clean[others])


def flattened(**options: Any) -> dict[str, Any]:
    rows = [{"input_ids": ids[0].tolist()} for ids in ROW.split(LENGTHS, 1)]
    return dict(DataCollatorWithFlattening(**options)(rows))


WAYS: dict[str, dict[str, bool]] = {
    "positions": {},
    "borders": {"return_position_ids": False, "return_flash_attn_kwargs": True},
    "numbers": {"return_position_ids": False, "return_seq_idx": True},
    "all": {"return_flash_attn_kwargs": True, "return_seq_idx": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_whatever_the_flattening_collator_says(make: Maker, kind: Any, way: str) -> None:
    model, batch = make(kind), flattened(**WAYS[way])
    batch.pop("labels")
    assert torch.equal(model(**batch)[0], model(ROW, cu_seqlens=CU)[0])


@torch.no_grad()
def test_one_sequence_is_a_row_as_ever(make: Maker) -> None:
    model, ids = make(), ROW[:, :64]
    expected = model(ids).logits
    for way in ({"cu_seqlens": torch.tensor([0, 64])}, {"seq_idx": ids * 0}, {"position_ids": torch.arange(64)[None]}):
        assert torch.equal(model(ids, **way).logits, expected)
    assert_close(model(ids, cu_seqlens=torch.tensor([0, 64]), logits_to_keep=1).logits, expected[:, -1:])


POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
OTHER = torch.tensor([0, 5, 6, 23, 86, 90, 121])


@pytest.mark.parametrize("kind", [HyenaDNAModel, HyenaDNAForSequenceClassification])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cu_seqlens": CU[:-1]}, "cu_seqlens: the sequences end at 90, and the row .* at 121"),
        ({"cu_seqlens": CU + 1}, "cu_seqlens: SegmentPlan: cu_seqlens begins with 1"),
        ({"cu_seqlens": CU.float()}, "cu_seqlens: SegmentPlan: cu_seqlens must be a tensor of int32 or int64"),
        ({"cu_seqlens": torch.tensor([0, 90, 121])}, "cu_seqlens: a sequence of 90 tokens .* max_seq_len of 64"),
        ({"cu_seqlens": CU, "cu_seq_lens_q": OTHER}, "cu_seq_lens_q does not agree with cu_seqlens"),
        ({"cu_seq_lens_q": CU, "cu_seq_lens_k": OTHER}, "cu_seq_lens_k does not agree with cu_seq_lens_q"),
        ({"cu_seq_lens_q": CU, "cu_seq_lens_k": CU[:-1]}, "cu_seq_lens_k does not agree with cu_seq_lens_q"),
        ({"cu_seq_lens_q": CU, "max_length_q": 63}, "max_length_q 63: the longest sequence of cu_seq_lens_q has 64"),
        ({"max_length_k": 64}, "max_length_k needs cu_seq_lens_q"),
        ({"cu_seqlens": CU, "seq_idx": ROW * 0}, "seq_idx does not agree with cu_seqlens"),
        ({"cu_seqlens": CU, "seq_idx": ROW[:, 1:]}, r"seq_idx \(1, 120\) must be \(1, T\)"),
        ({"cu_seqlens": OTHER, "position_ids": POSITIONS}, "position_ids must count from 0 .* agree with cu_seqlens"),
        ({"position_ids": POSITIONS + 2}, r"position_ids: SegmentPlan: position_ids\[0\] is 2, expected 0"),
        ({"position_ids": POSITIONS, "attention_mask": (ROW != 4).long()}, "attention_mask: a packed row has no pads"),
        ({"cu_seqlens": CU, "attention_mask": (ROW != 4).long()}, "attention_mask: a packed row has no pads"),
        ({"cu_seqlens": CU, "use_cache": True}, "use_cache: the model keeps no keys and values"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Maker, kind: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(kind)(ROW, **given)


def test_generate_and_last_logits_are_refused(make: Maker) -> None:
    model = make()
    with pytest.raises(InputError, match=r"logits_to_keep 1: a packed row has no last positions; give indices"):
        model(ROW, cu_seqlens=CU, logits_to_keep=1)
    last = model(ROW, cu_seqlens=CU, logits_to_keep=CU[1:] - 1).logits
    assert_close(last, torch.cat([logits[:, -1:] for logits in alone(model)], dim=1))
    with pytest.raises(InputError, match="cu_seqlens: several sequences in one row cannot be continued"):
        model.generate(ROW, cu_seqlens=CU, max_new_tokens=2)


def test_a_first_token_is_never_a_target(make: Maker) -> None:
    """Labels, those of the collator, shifted ones that cross borders, and targets cut by the caller."""
    model = make()
    pieces = [ids for ids in ROW.split(LENGTHS, 1) if ids.shape[1] > 1]
    total = sum(F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum") for ids in pieces)
    count = sum(ids.shape[1] - 1 for ids in pieces)
    shifted = F.pad(ROW[:, 1:], (0, 1), value=-100)
    batch = flattened()
    for loss in (
        model(ROW, labels=ROW, cu_seqlens=CU).loss,
        model(ROW, shift_labels=shifted, cu_seqlens=CU).loss,
        model(**batch).loss,
        model(ROW, labels=ROW, cu_seqlens=CU, num_items_in_batch=torch.tensor(count)).loss,
    ):
        assert_close(loss, total / count)
    cut = {
        "input_ids": torch.cat([ids[:, :-1] for ids in pieces], 1),
        "targets": torch.cat([i[:, 1:] for i in pieces], 1),
    }
    borders = torch.tensor([0, *[ids.shape[1] - 1 for ids in pieces]]).cumsum(0)
    assert_close(model.next_token_loss(**cut, cu_seqlens=borders), total)


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, torch.tensor([0, 2, 1, 0, 1, 2])),
        ({"problem_type": "multi_label_classification"}, torch.eye(3).repeat(2, 1).double()),
        ({"num_labels": 1, "problem_type": "regression"}, torch.arange(6).double()),
    ],
    ids=["classes", "several labels", "regression"],
)
def test_labels_of_sequences_have_a_row_each(make: Maker, fields: dict[str, Any], labels: Tensor) -> None:
    model = make(HyenaDNAForSequenceClassification, **fields)
    padded = torch.full((6, 64), 4)
    for row, ids in zip(padded, ROW.split(LENGTHS, 1), strict=True):
        row[: ids.shape[1]] = ids
    assert_close(model(ROW, labels=labels, cu_seqlens=CU).loss, model(padded, labels=labels).loss)


def test_labels_of_tokens_stay_in_their_row(make: Maker) -> None:
    model = make(HyenaDNAForTokenClassification)
    labels = ROW % 3
    expected = F.cross_entropy(torch.cat(alone(model), 1)[0], labels[0])
    assert_close(model(ROW, labels=labels, cu_seqlens=CU).loss, expected)


@torch.no_grad()
def test_nan_in_one_segment_leaves_the_bits_of_the_others(make: Maker, one_thread: None) -> None:
    for kind in HEADS:
        model = make(kind).float()
        embedded = model.get_input_embeddings()(ROW)
        clean = model(inputs_embeds=embedded, cu_seqlens=CU)[0]
        embedded[:, 23:87] = torch.nan
        found = model(inputs_embeds=embedded, cu_seqlens=CU)[0]
        dirty = 3 if kind is HyenaDNAForSequenceClassification else slice(23, 87)
        if kind is not HyenaDNAForSequenceClassification:
            found, clean = found[0], clean[0]
        assert found[dirty].isnan().all()
        found[dirty] = clean[dirty]
        assert torch.equal(found, clean)


@torch.no_grad()
def test_permuted_segments_give_permuted_bits(make: Maker, one_thread: None) -> None:
    model, order = make().float(), [3, 0, 5, 1, 4, 2]
    rows = ROW.split(LENGTHS, 1)
    borders = torch.tensor([0, *[LENGTHS[i] for i in order]]).cumsum(0)
    expected = model(ROW, cu_seqlens=CU).logits.split(LENGTHS, 1)
    found = model(torch.cat([rows[i] for i in order], 1), cu_seqlens=borders).logits
    assert torch.equal(found, torch.cat([expected[i] for i in order], 1))


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[SegmentPlan | None]:
    """Blocks are cut into slices of 3 channels and 7 positions where they can be. The segments of each are noted."""
    noted: list[SegmentPlan | None] = []
    run = sliced.run

    def noting(block: Any, residual: Tensor, filters: Any, cut: Any, segments: SegmentPlan | None = None) -> Tensor:
        noted.append(segments)
        return run(block, residual, filters, cut, segments)

    monkeypatch.setattr(sliced, "run", noting)
    monkeypatch.setattr(sliced, "slices_of", lambda *_: sliced.Slices(3, 7))
    return noted


@pytest.mark.parametrize(("slices", "kept"), [("auto", 1 << 20), ("auto", 0), (False, 1 << 20)])
def test_checkpointing_changes_no_gradient(
    make: Maker, slices: Any, kept: int, cuts: list[SegmentPlan | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices and whole, with filters of the longest segment that are made once a step, or made again in backward."""
    model = make(hyena_order=3).train()
    expected = gradients(model, model(ROW, labels=ROW, cu_seqlens=CU).loss)
    model.activation_checkpointing_enable({"slices": slices, "use_reentrant": False})
    monkeypatch.setattr(layers, "_FILTER_BYTES_CPU", kept)
    made: list[int] = []
    mixer = type(model.hyena.backbone.layers[0].mixer)
    filters = mixer.filters
    monkeypatch.setattr(mixer, "filters", lambda self, length: (made.append(length), filters(self, length))[1])
    assert_close(gradients(model, model(ROW, labels=ROW, cu_seqlens=CU).loss), expected)
    assert made == ([64, 64] if kept else [])
    assert len(cuts) == (2 if slices else 0)


@torch.no_grad()
def test_inference_in_slices(make: Maker, cuts: list[SegmentPlan | None]) -> None:
    model = make(n_layer=1)
    found = model(ROW, cu_seqlens=CU).logits
    assert len(cuts) == 1
    assert_close(found, torch.cat(alone(model), 1))


def test_lora_and_autocast(make: Maker) -> None:
    """In bfloat16 the error against float64 is that of the same sequences alone, within rounding."""
    model = make()
    with torch.no_grad():
        exact = model(ROW, cu_seqlens=CU).logits
        with torch.autocast("cpu", torch.bfloat16):
            narrow = make().float()
            found, single = narrow(ROW, cu_seqlens=CU).logits, torch.cat(alone(narrow), 1)
    error, least = ((logits.double() - exact).abs().max() for logits in (found, single))
    assert error <= 2 * least + torch.finfo(torch.bfloat16).eps * exact.abs().max()
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert_close(peft(input_ids=ROW, cu_seqlens=CU).logits, torch.cat(alone(peft), 1))


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_model_takes_a_plan(make: Maker) -> None:
    """After the first batch one graph serves all others, whatever their number of sequences and their lengths."""
    model = make(HyenaDNAForSequenceClassification, n_layer=1)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for borders in (CU, torch.tensor([0, 7, 50, 64, 120]), torch.tensor([0, 7, 50, 64, 100, 118])):
        row = ROW[:, : borders[-1]]
        assert_close(compiled(row, cu_seqlens=SegmentPlan(borders)).logits, model(row, cu_seqlens=borders).logits)
    assert counter.frame_count == 2


@pytest.mark.parametrize(("dtype", "optimizer"), [(torch.float64, "adamw_torch"), (torch.float32, "sgd")])
def test_the_trainer_learns_the_same_from_flattened_and_from_padded_batches(
    make: Maker, tmp_path: Path, dtype: torch.dtype, optimizer: str
) -> None:
    """AdamW turns a rounding of a gradient near 0 into a step, so float32 goes by SGD."""
    tokenizer = DNATokenizer()
    data = [tokenizer(text) for text in ("ACGTTGCA", "GATTACA", "T", "CCCCCACGTACGT", "ACG", "TTTTTTAG")]
    weights = []
    for collator in (DataCollatorForLanguageModeling(tokenizer, mlm=False), DataCollatorWithFlattening()):
        model = make(n_layer=1).to(dtype).train()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        settings = TrainingArguments(
            str(tmp_path), report_to="none", save_strategy="no", logging_strategy="no", use_cpu=True, max_steps=6,
            disable_tqdm=True, per_device_train_batch_size=3, learning_rate=0.1, optim=optimizer,
        )  # fmt: skip
        Trainer(model, settings, train_dataset=data, data_collator=collator).train()
        weights.append([parameter.detach() for parameter in model.parameters()])
    for first, padded, packed in zip(before, *weights, strict=True):
        assert (packed - padded).abs().max() < 1e-6
        assert (padded - first).abs().max() > 1e-4
