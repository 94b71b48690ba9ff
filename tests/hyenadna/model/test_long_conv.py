"""Models whose long convolutions take the far field: the numbers of the exact route, whole and in slices."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from hyena_kernels import FarFieldError, cache_filters, far_field_plan as plans, long_conv
from hyena_kernels.distributed import ContextShards
from hyena_kernels.testing.budgets import relative_error
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.model import layers, sliced
from hyenadna.model.sliced import Slices
from tests.ranks import run_ranks

L = 1 << 10


def lowered(set_length: Callable[[str, int], None], set_plans: Callable[[str, Any], None]) -> None:
    set_length("cpu", L)
    set_plans("cost", lambda plan, length, network: 1e9 if plan is None else plan.h / plan.p)


@pytest.fixture(autouse=True)
def short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """``"auto"`` tries L positions, and blocks of 32 at any cost."""
    lowered(
        lambda device, length: monkeypatch.setitem(long_conv.MIN_LENGTH, device, length),
        lambda name, value: monkeypatch.setattr(plans, name, value),
    )
    monkeypatch.setattr(long_conv, "_announced", set())


def model(dtype: torch.dtype = torch.float32, **fields: Any) -> Any:
    """A model whose filters are smooth: they were made for more positions than L."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "d_model": 8,
        "n_layer": 2,
        "max_seq_len": 1 << 15,
        "filter_order": 8,
        "activation_freq": 1.0,
        "embed_dropout": 0.0,
    }
    before = torch.get_default_dtype()
    # The features of the positions keep the rounding of the dtype that they were made in.
    torch.set_default_dtype(dtype)
    try:
        made = HyenaDNAForCausalLM(HyenaDNAConfig(**(options | fields)))
    finally:
        torch.set_default_dtype(before)
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made.train()


def ids(rows: int = 2, length: int = L) -> Tensor:
    return torch.randint(7, 11, (rows, length), generator=torch.Generator().manual_seed(1))


def take(made: Any, route: str) -> None:
    """Gives every operator of a model a route by name."""
    for layer in made.modules():
        if hasattr(layer, "filter_fn"):
            layer.long_conv = route


def loss_and_gradients(made: Any, tokens: Tensor, **given: Any) -> dict[str, Tensor]:
    made.zero_grad()
    loss = made(input_ids=tokens, labels=tokens, **given).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float(relative_error(found[name], expected[name])) for name in expected)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[Any]]:
    """Sets the widths of slices. Returns a list to which every call of a block in slices adds its plan."""
    calls: list[Any] = []
    real = {name: getattr(sliced, name) for name in ("_compute", "_backward")}

    def counted(name: str) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            calls.append((name, next(arg for arg in args if isinstance(arg, sliced._Layout)).far))
            return real[name](*args)

        return call

    for name in real:
        monkeypatch.setattr(sliced, name, counted(name))

    def set_widths(channels: int, rows: int) -> list[Any]:
        monkeypatch.setattr(sliced, "slices_of", lambda *_: Slices(channels, rows))
        return calls

    return set_widths


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"hyena_order": 3, "use_bias": False, "num_inner_mlps": 0}], ids=["", "order"])
@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
def test_slices_and_whole_blocks_are_those_of_the_exact_route(fields: dict[str, Any], lora: bool, cut: Any) -> None:
    made = model(torch.float64, **fields)
    if lora:
        made = get_peft_model(made, LoraConfig(r=2, target_modules=["in_proj", "out_proj", "fc1", "fc2"])).double()
    tokens = ids(2, L - 7)
    take(made, "fft")
    exact = loss_and_gradients(made, tokens)
    take(made, "far_field")
    whole = loss_and_gradients(made, tokens)
    made.activation_checkpointing_enable()
    calls = cut(3, 300)
    in_slices = loss_and_gradients(made, tokens)
    assert [name for name, _ in calls] == ["_compute", "_compute", "_backward", "_backward"]
    assert None not in [plan for _, plan in calls]
    # The filters are held to 1e-11 of their rms.
    assert 0 < largest_error(whole, exact) < 1e-9
    assert largest_error(in_slices, whole) < 1e-12
    with torch.no_grad():
        calls.clear()
        logits = made(tokens).logits
        with cache_filters(made):
            kept = [made(tokens).logits for _ in range(2)]
        assert len(calls) == 6
        take(made, "fft")
        expected = made(tokens).logits
    for found in (logits, *kept):
        assert 0 < relative_error(found, expected) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "autocast", "bfloat16"])
def test_errors_in_slices_are_within_those_of_the_exact_route(kind: str, cut: Any) -> None:
    tokens, made = ids(), model()
    if kind == "bfloat16":
        made = made.bfloat16()
    exact = loss_and_gradients(model().to(made.dtype).double(), tokens)
    made.activation_checkpointing_enable()
    calls = cut(3, 300)
    errors = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        for route in ("fft", "auto"):
            take(made, route)
            found = loss_and_gradients(made, tokens)
            errors[route] = {name: float(relative_error(found[name].double(), exact[name])) for name in exact}
        again = loss_and_gradients(made, tokens)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert [plan is None for _, plan in calls] == [True] * 4 + [False] * 8
    unit = 2**-8 if kind != "float32" else 2**-22
    for name, error in errors["auto"].items():
        assert error <= 2 * errors["fft"][name] + unit, name


def test_filters_are_not_shared_where_no_taps_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tokens = model(), ids()
    made.activation_checkpointing_enable({"slices": False})
    asked: list[int] = []
    real = layers.HyenaOperator.filters
    monkeypatch.setattr(
        layers.HyenaOperator, "filters", lambda self, length: asked.append(length) or real(self, length)
    )
    loss_and_gradients(made, tokens)
    assert asked == []
    take(made, "fft")
    loss_and_gradients(made, tokens)
    assert asked == [L, L]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_those_of_each_alone(side: str) -> None:
    made = model(torch.float64).eval()
    take(made, "far_field")
    tokens, real = ids(2), torch.ones(2, L, dtype=torch.long)
    pads = slice(0, 100) if side == "left" else slice(L - 100, L)
    tokens[1, pads], real[1, pads] = made.config.pad_token_id, 0
    with torch.no_grad():
        batched = made(tokens, attention_mask=real).logits
        alone = made(tokens[1:, real[1].bool()]).logits
    assert relative_error(batched[1:, real[1].bool()], alone) < 1e-9


def test_packed_rows_take_the_exact_route() -> None:
    made = model().eval()
    tokens, borders = ids(1, L + 10), torch.tensor([0, L, L + 10])
    with torch.no_grad():
        found = made(tokens, cu_seqlens=borders).logits
        take(made, "fft")
        assert torch.equal(found, made(tokens, cu_seqlens=borders).logits)
        take(made, "far_field")
        with pytest.raises(FarFieldError, match="packed sequences"):
            made(tokens, cu_seqlens=borders)


def test_generation_computes_all_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model().eval()
    asked: list[int] = []
    real = layers.HyenaOperator.filters
    monkeypatch.setattr(
        layers.HyenaOperator, "filters", lambda self, length: asked.append(length) or real(self, length)
    )
    made.generate(ids(1, L), max_new_tokens=2, do_sample=False)
    assert len(asked) == 2
    assert min(asked) > L


def loss_and_gradients_of_part(rank: int) -> dict[str, Any]:
    """Those of the first or the second half of the positions, as arrays."""
    lowered(long_conv.MIN_LENGTH.__setitem__, lambda name, value: setattr(plans, name, value))
    shards = ContextShards((L // 2, L // 2))
    half = slice(shards.offset, shards.offset + shards.length)
    made, tokens = model(), ids(1, L + 1)
    loss = made.next_token_loss(tokens[:, :-1][:, half], tokens[:, 1:][:, half], context=shards)
    loss.backward()
    found = {name: p.grad for name, p in made.named_parameters()} | {"loss": loss.detach()}
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.slow
def test_shards_take_all_taps_and_equal_one_process_with_the_far_field(cut: Any) -> None:
    parts = run_ranks(2, loss_and_gradients_of_part)
    made, tokens = model(), ids(1, L + 1)
    made.activation_checkpointing_enable()
    calls = cut(3, 300)
    loss = made.next_token_loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert None not in [plan for _, plan in calls]
    one = {name: p.grad for name, p in made.named_parameters()} | {"loss": loss.detach()}
    assert largest_error({name: torch.as_tensor(sum(part[name] for part in parts)) for name in one}, one) < 1e-5


@pytest.mark.slow
def test_a_roughened_layer_changes_over_in_training(caplog: pytest.LogCaptureFixture, cut: Any) -> None:
    made, tokens = model(), ids(1)
    made.activation_checkpointing_enable()
    calls = cut(8, 300)
    with caplog.at_level(logging.INFO, logger="hyena_kernels"):
        loss_and_gradients(made, tokens)
        with torch.no_grad():
            made.hyena.backbone.layers[0].mixer.filter_fn.implicit_filter[0].weight.mul_(1e4)
        for _ in range(3):
            found = loss_and_gradients(made, tokens)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "have become too rough" in told[0]
    assert "the exact route from now on" in told[0]
    forward = [plan for name, plan in calls if name == "_compute"]
    assert forward[0] is not None
    assert forward[2::2] == [None, None, None]
    assert None not in forward[1::2]
    take(made, "fft")
    assert largest_error(found, loss_and_gradients(made, tokens)) < 1e-5


def test_the_field_is_saved_and_refused_if_it_is_no_route(tmp_path: Any) -> None:
    made = model(long_conv="fft")
    made.save_pretrained(tmp_path)
    loaded = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.long_conv == "fft"
    assert [layer.mixer.long_conv for layer in loaded.hyena.backbone.layers] == ["fft", "fft"]
    other = HyenaDNAForCausalLM.from_pretrained(tmp_path, long_conv="far_field")
    assert {layer.mixer.long_conv for layer in other.hyena.backbone.layers} == {"far_field"}
    with pytest.raises(InputError, match="long_conv must be 'auto', 'fft' or 'far_field', got 'quick'"):
        HyenaDNAConfig(long_conv="quick")
    assert HyenaDNAConfig.from_original(HyenaDNAConfig().to_original()).long_conv == "auto"
