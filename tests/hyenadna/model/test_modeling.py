from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
)
from hyenadna.model import layers as model_layers

MICRO = "micro-L128"
SOURCES = [
    f"{MICRO}/hf",
    f"{MICRO}/orig",
    f"{MICRO}/hf/model.safetensors",
    f"{MICRO}/orig/weights.ckpt",
    f"{MICRO}/orig/weights_omegaconf.ckpt",
    "tiny-1k-L1024/hf",
    "tiny-1k-L1024/orig",
]


def small(**fields: Any) -> HyenaDNAConfig:
    return HyenaDNAConfig(**{"d_model": 16, "max_seq_len": 64, "embed_dropout": 0.0, **fields})


def language_model(**fields: Any) -> HyenaDNAForCausalLM:
    """A float64 model away from its start values, so that every part of it matters."""
    model = HyenaDNAForCausalLM(small(**fields)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def random_ids(*shape: int) -> Tensor:
    return torch.randint(7, 12, shape)


@pytest.mark.parametrize("shift", [0.05, 0.0])
@pytest.mark.parametrize("source", SOURCES)
def test_published_code_is_reproduced(shared: Path, source: str, shift: float) -> None:
    folder = shared / "fixtures" / source.split("/")[0]
    reference = load_file(folder / "io.safetensors")
    prefix = f"shift{round(100 * shift):03}."
    ids = reference["input_ids"]
    model = HyenaDNAForCausalLM.from_pretrained(shared / "fixtures" / source, modulation_shift=shift)
    with torch.no_grad():
        assert (model(ids).logits - reference[prefix + "logits_fp32"]).abs().max() <= 2e-3
        model.double()
        output = model(ids, labels=ids, output_hidden_states=True)
        filters = model.hyena.backbone.layers[0].mixer.filter_fn.filter(ids.shape[1])[0].t()
    assert (output.logits - reference[prefix + "logits_fp64"]).abs().max() <= 1e-8
    assert (filters - reference[prefix + "filter0_fp64"]).abs().max() <= 1e-8
    assert all(state.dtype == torch.float64 for state in output.hidden_states)
    if prefix + "hidden_fp64" in reference:
        assert (output.hidden_states[-1] - reference[prefix + "hidden_fp64"]).abs().max() <= 1e-8
    if prefix + "loss_fp64" in reference:
        assert abs(output.loss - reference[prefix + "loss_fp64"]) <= 1e-8


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["hf", "orig"])
def test_published_gradients_are_reproduced(shared: Path, layout: str, tied: bool) -> None:
    folder = shared / "fixtures" / MICRO
    reference = load_file(folder / "io.safetensors")
    ids = reference["input_ids"]
    model = HyenaDNAForCausalLM.from_pretrained(folder / layout, tie_word_embeddings=tied).double()
    model(ids, labels=ids).loss.backward()
    gradients = {name.removeprefix("hyena."): p.grad for name, p in model.named_parameters()}
    if not tied:
        # The original ties the two, so its one gradient is the sum of theirs.
        gradients["backbone.embeddings.word_embeddings.weight"] += gradients.pop("lm_head.weight")
    expected = {key.removeprefix("grad_fp64."): grad for key, grad in reference.items() if key.startswith("grad_fp64.")}
    assert gradients.keys() == expected.keys()
    for name, grad in expected.items():
        assert (gradients[name] - grad).abs().max() <= 1e-8 * grad.abs().max(), name


def test_initialisation() -> None:
    config = HyenaDNAConfig(d_model=64, n_layer=3, max_seq_len=100)
    model = HyenaDNAForCausalLM(config)
    small_std = 0.02 / math.sqrt(6)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            expected = small_std if name.endswith(("out_proj", "fc2")) else 0.02
            # 6 standard errors of a standard deviation estimated from so many values.
            assert module.weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * module.weight.numel()))
            assert getattr(module, "bias", None) is None or not module.bias.any()
        elif isinstance(module, nn.Conv1d):
            bound = 1 / math.sqrt(3)
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert 0.9 * bound < module.bias.abs().max() <= bound
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert module.eps == 1e-5
    n, d = torch.arange(100), 64
    t = n / 99
    w = 2 * math.pi * n / 100
    z = torch.stack([t, torch.cos(1e-4 * w), torch.cos(w), -torch.sin(1e-4 * w), -torch.sin(w)], dim=1)
    for layer in model.hyena.backbone.layers:
        filters = layer.mixer.filter_fn
        assert filters.bias.std().item() == pytest.approx(1, rel=0.5)
        assert (filters.implicit_filter[1].freq == 10).all()
        assert filters.implicit_filter[5].freq is filters.implicit_filter[1].freq
        torch.testing.assert_close(filters.pos_emb.z[0], z, rtol=0, atol=1e-6)
        torch.testing.assert_close(filters.pos_emb.t[0, :, 0], t, rtol=0, atol=1e-6)
        deltas = torch.linspace(-3.0701134573, -15.350567286, d)
        torch.testing.assert_close(filters.modulation.deltas[0, 0], deltas, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_residual_and_filters_wide(tmp_path: Path, dtype: torch.dtype) -> None:
    reference = HyenaDNAForCausalLM(small()).eval()
    reference.save_pretrained(tmp_path)
    model = HyenaDNAForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    ids = random_ids(2, 64)
    with torch.no_grad():
        output = model(ids, labels=ids, output_hidden_states=True)
        expected = reference(ids, labels=ids)
    assert model.lm_head.weight.dtype == output.logits.dtype == dtype
    assert {state.dtype for state in output.hidden_states[:-1]} == {torch.float32}
    assert output.loss.dtype == torch.float32
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.dtype == (torch.float32 if "filter_fn" in name else dtype), name
    filters, exact = (m.hyena.backbone.layers[0].mixer.filter_fn.filter(64) for m in (model, reference))
    assert torch.equal(filters, exact)
    assert abs(output.loss - expected.loss) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_do_not_depend_on_the_dtype_a_model_is_made_in(dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_config(small(), dtype=dtype)
    positions = model.hyena.backbone.layers[0].mixer.filter_fn.pos_emb
    expected = HyenaDNAModel(small()).backbone.layers[0].mixer.filter_fn.pos_emb
    assert torch.equal(positions.z, expected.z)
    assert torch.equal(positions.t, expected.t)


def test_autocast_keeps_the_residual_in_float32() -> None:
    model = HyenaDNAForCausalLM(small()).eval()
    ids = random_ids(2, 64)
    with torch.no_grad():
        expected = model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            output = model(ids, labels=ids, output_hidden_states=True)
    assert {state.dtype for state in output.hidden_states} == {torch.float32}
    assert output.loss.dtype == torch.float32
    assert (output.logits - expected).abs().max() < 0.02


def test_right_pads_change_nothing() -> None:
    model = language_model()
    ids = random_ids(1, 40)
    padded = F.pad(ids, (0, 20), value=4)
    mask = (padded != 4).long()
    with torch.no_grad():
        alone, batched = model(ids).logits, model(padded, attention_mask=mask).logits
    assert (batched[:, :40] - alone).abs().max() < 1e-12


def test_mlp_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    ids = random_ids(3, 50)
    whole = model(ids, output_hidden_states=True)
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS", 7)
    with torch.no_grad():
        pieces = model(ids, output_hidden_states=True)
    assert whole.logits.requires_grad
    for one, other in zip(whole.hidden_states, pieces.hidden_states, strict=True):
        assert (one - other).abs().max() < 1e-12


def gradients(model: HyenaDNAForCausalLM, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def calls_of_mlps(model: HyenaDNAForCausalLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of every call of an MLP from now on."""
    positions: list[int] = []
    forward = model_layers.HyenaDNAMLP.forward

    def counted(self: model_layers.HyenaDNAMLP, x: torch.Tensor) -> torch.Tensor:
        positions.append(x.shape[:-1].numel())
        return forward(self, x)

    monkeypatch.setattr(model_layers.HyenaDNAMLP, "forward", counted)
    return positions


class OtherLinear(torch.nn.Linear):
    """As a layer with an adapter: not plain."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_mlp_computed_anew_in_backward_changes_no_gradient(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language_model().train()
    for layer in model.hyena.backbone.layers:
        layer.mlp.fc1.__class__ = OtherLinear
    ids = random_ids(3, 50)
    expected = gradients(model, ids)
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS_CPU", 70)
    if checkpointing:
        model.gradient_checkpointing_enable()
    calls = calls_of_mlps(model, monkeypatch)
    for name, grad in gradients(model, ids).items():
        assert (grad - expected[name]).abs().max() <= 1e-12, name
    layers = len(model.hyena.backbone.layers)
    assert calls[: 3 * layers] == [70, 70, 10] * layers
    assert set(calls[3 * layers :]) == {70, 10}


def test_mlp_computed_anew_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HyenaDNAForCausalLM(small()).train()
    ids = random_ids(2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model, ids)
        monkeypatch.setattr(model_layers, "_MLP_POSITIONS_CPU", 60)
        found = gradients(model, ids)
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 0.02 * expected[name].norm(), name


@pytest.mark.parametrize("where", ["mlp", "mlp.fc2", "norm2"])
def test_hooks_see_all_positions_of_the_mlp_at_once(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS_CPU", 7)
    model = language_model().train()
    shapes = []
    hooked = model.hyena.backbone.layers[0].get_submodule(where)
    hooked.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[:2]))
    gradients(model, random_ids(2, 50))
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS", 7)
    with torch.no_grad():
        model(random_ids(2, 50))
    assert shapes == 2 * [(2, 50)]


def test_gradients_by_torch_func(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    ids = random_ids(2, 50)
    expected = gradients(model, ids)
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS_CPU", 7)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (ids,), {"labels": ids}).loss

    for name, grad in torch.func.grad(loss)(parameters).items():
        assert (grad - expected[name]).abs().max() <= 1e-12, name


@pytest.mark.slow
def test_gradients_of_compiled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    ids = random_ids(2, 50)
    expected = gradients(model, ids)
    monkeypatch.setattr(model_layers, "_MLP_POSITIONS_CPU", 7)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    compiled(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() <= 1e-12, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dropout_of_the_embedding_is_that_of_torch(dtype: torch.dtype) -> None:
    model = language_model(embed_dropout=0.3).train().to(dtype)
    backbone, ids = model.hyena.backbone, random_ids(2, 50)
    saved: list[torch.dtype] = []
    results = []
    for plain in (False, True):
        handle = backbone.embed_dropout.register_forward_hook(lambda *args: None) if plain else None
        torch.manual_seed(0)
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.dtype) or t, lambda t: t):
            results.append(gradients(model, ids))
        assert (torch.bool in saved) != plain
        if handle is not None:
            handle.remove()
    for name, grad in results[0].items():
        assert torch.equal(grad, results[1][name]), name


def test_hidden_states_are_embedding_blocks_and_norm() -> None:
    model = language_model(n_layer=3)
    ids = random_ids(1, 20)
    with torch.no_grad():
        output = model.hyena(ids, output_hidden_states=True)
        first = model.hyena.backbone.layers[0](output.hidden_states[0])
    assert len(output.hidden_states) == 4
    assert torch.equal(output.hidden_states[0], model.get_input_embeddings()(ids))
    assert torch.equal(output.hidden_states[1], first)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert model.hyena(ids).hidden_states is None


def test_loss_is_next_token_cross_entropy() -> None:
    model = language_model()
    ids = random_ids(2, 30)
    labels = ids.clone()
    labels[0, 10:] = -100
    labels[1, 5] = 4
    output = model(ids, labels=labels)
    terms = [
        -output.logits[b, i].log_softmax(0)[labels[b, i + 1]]
        for b in range(2)
        for i in range(29)
        if labels[b, i + 1] != -100
    ]
    assert len(terms) == 9 + 29
    assert abs(output.loss - sum(terms) / len(terms)) < 1e-12
    assert abs(model(ids, labels=labels, num_items_in_batch=7).loss - sum(terms) / 7) < 1e-12


def test_inputs_and_outputs_in_other_forms() -> None:
    model = language_model()
    ids = random_ids(2, 30)
    with torch.no_grad():
        logits = model(ids).logits
        assert torch.equal(model(ids.to(torch.uint8)).logits, logits)
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, logits)
        assert torch.allclose(model(ids, logits_to_keep=3).logits, logits[:, -3:], rtol=0, atol=1e-12)
        assert torch.allclose(model(ids, logits_to_keep=torch.tensor([4, 9])).logits, logits[:, [4, 9]], atol=1e-12)
        loss, first = model(ids, labels=ids, return_dict=False)
    assert torch.equal(first, logits)
    assert loss.dim() == 0


@pytest.mark.parametrize("method", ["gradient_checkpointing_enable", "activation_checkpointing_enable"])
def test_checkpointing_changes_no_gradient(method: str) -> None:
    model = language_model().train()
    ids = random_ids(2, 30)
    model(ids, labels=ids).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    getattr(model, method)()
    calls = []
    model.hyena.backbone.layers[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    model(ids, labels=ids).loss.backward()
    assert len(calls) == 2
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() <= 1e-12, name


def test_generation() -> None:
    model = language_model()
    prompt = random_ids(2, 5)
    expected = prompt
    with torch.no_grad():
        for _ in range(8):
            expected = torch.cat((expected, model(expected).logits[:, -1:].argmax(-1)), dim=1)
    greedy = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(prompt, **greedy), expected)
    embedded = model.get_input_embeddings()(prompt)
    assert torch.equal(model.generate(inputs_embeds=embedded, **greedy), expected[:, 5:])
    sampled = [model.generate(prompt, max_new_tokens=8, do_sample=True, top_k=4) for _ in range(2)]
    assert sampled[0].shape == (2, 13)
    assert not torch.equal(*sampled)
    assert model.generate(prompt, num_beams=2, **greedy).shape == (2, 13)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"input_ids": torch.tensor([[7, 16]])}, "id 16: the embedding has 16 rows, ids 0 to 15"),
        ({"input_ids": torch.tensor([[7, -1]])}, "id -1"),
        ({"input_ids": torch.full((1, 65), 7)}, "sequence of 65 tokens is longer than this model's max_seq_len of 64"),
        ({"inputs_embeds": torch.zeros(1, 65, 16)}, "sequence of 65 tokens"),
        ({"inputs_embeds": torch.zeros(1, 5, 8)}, r"must be \(B, L, 16\), got shape \(1, 5, 8\)"),
        ({"input_ids": torch.tensor([7, 8])}, r"must be \(B, L\)"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "not empty"),
        ({"input_ids": torch.ones(1, 3)}, "must be integers, got torch.float32"),
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": random_ids(1, 3), "inputs_embeds": torch.zeros(1, 3, 16)}, "not both"),
        ({"input_ids": random_ids(1, 3), "labels": random_ids(1, 4)}, r"labels \(1, 4\)"),
        ({"input_ids": random_ids(1, 3), "labels": random_ids(1, 3), "logits_to_keep": 1}, "logits_to_keep"),
        ({"input_ids": random_ids(1, 3), "logits_to_keep": -1}, "logits_to_keep -1: must be at least 0"),
        ({"input_ids": random_ids(1, 3), "labels": torch.tensor([[7, -100, 16]])}, "labels hold the id 16: .*0 to 15"),
        ({"input_ids": random_ids(1, 3), "labels": torch.tensor([[7, -1, 8]])}, "labels hold the id -1"),
    ],
)
def test_bad_input_is_refused(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HyenaDNAForCausalLM(small())(**inputs)


def test_ids_and_labels_are_checked_only_where_they_have_values() -> None:
    model = language_model()
    ids = random_ids(3, 20)
    rows = torch.vmap(lambda row: model(row[None]).logits[0])(ids)
    assert (rows - model(ids).logits).abs().max() < 1e-12
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.zeros(2, 20, dtype=torch.long)
        assert HyenaDNAForCausalLM(small())(fake, labels=fake).logits.shape == (2, 20, 16)
    traced = make_fx(lambda row: model(row).logits)(ids)
    assert (traced(ids) - model(ids).logits).abs().max() < 1e-12


def test_vocabulary_padding_is_in_range() -> None:
    assert HyenaDNAForCausalLM(small())(torch.tensor([[0, 15]])).logits.shape == (1, 2, 16)


def classifier(**fields: Any) -> HyenaDNAForSequenceClassification:
    return HyenaDNAForSequenceClassification(small(**fields)).double().eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_pooling_is_over_real_positions(pooling: str, side: str) -> None:
    model = classifier(pooling=pooling, num_labels=3)
    ids = random_ids(2, 12)
    ids[0, 8:] = 4
    if side == "left":
        ids[0] = ids[0].flip(0)
    mask = (ids != 4).long()

    def expected_of(hidden: Tensor) -> Tensor:
        pooled = []
        for row, real in zip(hidden, mask.bool(), strict=True):
            row = row[real]
            pooled.append({"mean": row.mean(0), "last": row[-1], "first": row[0]}[pooling])
        return model.score(torch.stack(pooled))

    # Without a mask [PAD] is read where it stands: it may be an N.
    assert (model(ids).logits - expected_of(model.hyena(ids).last_hidden_state)).abs().max() < 1e-12
    expected = expected_of(model.hyena(ids, attention_mask=mask).last_hidden_state)
    logits = model(ids, attention_mask=mask).logits
    assert logits.shape == (2, 3)
    assert (logits - expected).abs().max() < 1e-12
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask)
    assert (embedded.logits - expected).abs().max() < 1e-12
    with pytest.raises(InputError, match="attention_mask"):
        model(ids, attention_mask=mask[:, 1:])


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_pooling_of_one_base_and_of_nothing_but_n(pooling: str) -> None:
    """N is a base like others: what is unknown has a place, unlike a pad."""
    model = classifier(pooling=pooling, num_labels=3)
    ids = torch.full((2, 6), 4)
    ids[0, 0] = 7
    ids[1] = 11
    [one, unknown] = model(ids).logits
    position = {"mean": slice(None), "last": slice(5, 6), "first": slice(0, 1)}[pooling]
    expected = model.score(model.hyena(ids[1:]).last_hidden_state[0, position].mean(0))
    assert (unknown - expected).abs().max() < 1e-12
    assert (one - model.score(model.hyena(ids[:1, :1]).last_hidden_state[0, 0])).abs().max() < 1e-12
    for row, real in ((one, ids[:1, :1]), (unknown, ids[1:])):
        assert (model(real).logits[0] - row).abs().max() < 1e-12


def test_right_pads_do_not_change_a_prediction() -> None:
    model = classifier(num_labels=3)
    ids = random_ids(1, 12)
    assert (model(F.pad(ids, (0, 9), value=4)).logits - model(ids).logits).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("labels", "fields", "loss"),
    [
        (torch.tensor([2, 0]), {"num_labels": 3}, F.cross_entropy),
        (torch.tensor([[1.0, 0, 1], [0, 0, 1]]), {"num_labels": 3}, F.binary_cross_entropy_with_logits),
        (torch.tensor([0.5, -1.0]), {"num_labels": 1}, lambda x, y: F.mse_loss(x[:, 0], y)),
        (torch.randn(2, 3), {"num_labels": 3, "problem_type": "regression"}, F.mse_loss),
    ],
    ids=["classes", "several labels", "regression", "several regressions"],
)
def test_classification_losses(labels: Tensor, fields: dict[str, Any], loss: Any) -> None:
    model = classifier(**fields)
    labels = labels.double() if labels.is_floating_point() else labels
    output = model(random_ids(2, 12), labels=labels)
    assert abs(output.loss - loss(output.logits, labels)) < 1e-12
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_a_class_that_is_no_column_is_refused(problem_type: str | None) -> None:
    model = classifier(num_labels=3, problem_type=problem_type)
    with pytest.raises(InputError, match="labels hold the id 3: the logits have 3 columns, ids 0 to 2"):
        model(random_ids(2, 12), labels=torch.tensor([2, 3]))
    assert model(random_ids(2, 12), labels=torch.tensor([2, -100])).loss.isfinite()


@pytest.mark.parametrize("positions", [True, False])
def test_auto_classes_refuse_another_max_seq_len(tmp_path: Path, positions: bool) -> None:
    HyenaDNAForCausalLM(small()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    kept = {key: tensor for key, tensor in weights.items() if not key.endswith(("pos_emb.z", "pos_emb.t"))}
    assert len(kept) < len(weights)
    save_file(weights if positions else kept, file, metadata={"format": "pt"})
    for length in (32, 128):
        with pytest.raises(InputError, match=f"max_seq_len is 64 and cannot be {length}"):
            AutoModelForCausalLM.from_pretrained(tmp_path, max_seq_len=length)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, max_seq_len=64).config.max_seq_len == 64


def test_auto_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HyenaDNAForCausalLM(small(modulation_shift=0.0)).eval()
    model.save_pretrained(tmp_path)
    ids = random_ids(1, 20)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, HyenaDNAConfig)
    assert config.modulation_shift == 0.0
    assert type(AutoModelForCausalLM.from_config(config)) is HyenaDNAForCausalLM
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is HyenaDNAForCausalLM
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        other = AutoModelForCausalLM.from_pretrained(tmp_path, modulation_shift=0.05)
        assert not torch.equal(other(ids).logits, model(ids).logits)
        backbone = AutoModel.from_pretrained(tmp_path)
        assert type(backbone) is HyenaDNAModel
        assert torch.equal(backbone(ids).last_hidden_state, model.hyena(ids).last_hidden_state)
    assert caplog.messages == []
    head = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert type(head) is HyenaDNAForSequenceClassification
    assert head.score.weight.shape == (5, 16)
    assert head.score.weight.std() > 0
    assert not head.score.bias.any()
    assert caplog.messages == [f"{tmp_path}: new weights, to be trained before use: score.bias, score.weight"]


def token_classifier(**fields: Any) -> HyenaDNAForTokenClassification:
    return HyenaDNAForTokenClassification(small(**fields)).double().eval()


def test_token_classes_are_a_linear_head_on_every_position(tmp_path: Path) -> None:
    model = token_classifier(num_labels=3)
    ids = random_ids(2, 12)
    labels = torch.randint(0, 3, (2, 12))
    labels[0, 3] = -100
    output = model(ids, labels=labels, output_hidden_states=True)
    assert output.logits.shape == (2, 12, 3)
    assert torch.equal(output.logits, model.score(model.hyena(ids).last_hidden_state))
    assert len(output.hidden_states) == 3
    real = labels != -100
    assert abs(output.loss - F.cross_entropy(output.logits[real], labels[real])) < 1e-12
    summed = F.cross_entropy(output.logits[real], labels[real], reduction="sum")
    assert abs(model(ids, labels=labels, num_items_in_batch=torch.tensor(7)).loss - summed / 7) < 1e-12
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    model.save_pretrained(tmp_path)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert type(loaded) is HyenaDNAForTokenClassification
    assert torch.equal(loaded(ids).logits, output.logits)
    with pytest.raises(InputError, match=r"labels \(2, 11\) must be \(B, L\), here \(2, 12\)"):
        model(ids, labels=labels[:, 1:])
    with pytest.raises(InputError, match="labels hold the id 3: the logits have 3 columns"):
        model(ids, labels=labels + 1)


def test_pads_have_no_part_in_the_loss_of_tokens() -> None:
    model = token_classifier(num_labels=3)
    ids, labels = random_ids(1, 12), torch.randint(0, 3, (1, 12))
    padded, padded_labels = F.pad(ids, (0, 5), value=4), F.pad(labels, (0, 5), value=0)
    loss = model(padded, attention_mask=(padded != 4).long(), labels=padded_labels).loss
    assert abs(loss - model(ids, labels=labels).loss) < 1e-12


def test_a_language_model_lends_its_backbone_to_token_classes(tmp_path: Path) -> None:
    source = HyenaDNAForCausalLM(small()).eval()
    source.save_pretrained(tmp_path)
    model = HyenaDNAForTokenClassification.from_pretrained(tmp_path, num_labels=4)
    ids = random_ids(1, 9)
    assert torch.equal(model.hyena(ids).last_hidden_state, source.hyena(ids).last_hidden_state)
    assert model.score.weight.shape == (4, 16)


def test_classifier_saves_and_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HyenaDNAForSequenceClassification(small(num_labels=4, pooling="last")).eval()
    model.save_pretrained(tmp_path)
    loaded = HyenaDNAForSequenceClassification.from_pretrained(tmp_path)
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert (loaded.config.num_labels, loaded.config.pooling) == (4, "last")
    with pytest.raises(InputError, match=r"score\.bias has shape \(4,\).*.*1 more key"):
        HyenaDNAForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    other = HyenaDNAForSequenceClassification.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
    assert other.score.weight.shape == (2, 16)


def test_loading_touches_no_random_state(tmp_path: Path) -> None:
    HyenaDNAForCausalLM(small()).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("tied", [True, False])
def test_fixed_frequencies_save_and_load(tmp_path: Path, tied: bool) -> None:
    model = HyenaDNAForCausalLM(small(train_freq=False, activation_freq=7, tie_word_embeddings=tied)).eval()
    model.save_pretrained(tmp_path)
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(1, 20)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert (loaded.hyena.backbone.layers[0].mixer.filter_fn.implicit_filter[1].freq == 7).all()


@pytest.mark.slow
def test_what_is_exported_without_gradients_can_be_called_with_them() -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, d_inner=16, max_seq_len=32)).eval()
    ids = torch.randint(7, 11, (1, 16))
    with torch.no_grad():
        exported = torch.export.export(model, (ids,)).module()
    torch.testing.assert_close(exported(ids).logits, model(ids).logits)
    exported(ids).logits.square().sum().backward()
    model(ids).logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in exported.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification])
def test_classifiers_give_the_states_of_their_backbone(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(small()).eval()
    ids = torch.tensor([[7, 8, 9, 10, 11, 7]])
    with torch.no_grad():
        found = model(ids, output_hidden_states=True).hidden_states
        expected = model.hyena(ids, output_hidden_states=True).hidden_states
        assert model(ids).hidden_states is None
    assert len(found) == len(expected) > 1
    assert all(map(torch.equal, found, expected))
