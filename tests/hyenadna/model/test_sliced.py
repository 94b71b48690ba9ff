"""Blocks in slices against the plain modules, in float64 where values are compared."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from bench.common.memory import peak_rss, return_freed_memory
from bench.kernels import step_memory
from hyena_kernels import cache_filters, use_backend
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.model import layers, sliced
from hyenadna.model.sliced import Slices
from tests.ranks import run_ranks

LINEARS = ["in_proj", "out_proj", "fc1", "fc2"]


def model(**fields: Any) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"d_model": 16, "n_layer": 2, "max_seq_len": 64, "filter_order": 8, "embed_dropout": 0.0}
    made = HyenaDNAForCausalLM(HyenaDNAConfig(**(options | fields))).double().train()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def with_lora(made: Any, **fields: Any) -> Any:
    adapted = get_peft_model(made, LoraConfig(r=2, **({"target_modules": LINEARS, "lora_bias": True} | fields)))
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return adapted.double()


def random_ids(*shape: int) -> Tensor:
    return torch.randint(7, 11, shape, generator=torch.Generator().manual_seed(1))


def loss_and_gradients(made: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    made.zero_grad()
    loss = made(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert (found[0] - expected[0]).abs() <= 1e-12
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.abs().max() > 0, name
        assert (found[1][name] - gradient).abs().max() <= 1e-12 * max(1, gradient.abs().max()), name


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """Sets the widths of slices. Returns a list to which every block in slices adds a direction."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Tensor]:
        real = getattr(sliced, name)

        def call(*args: Any) -> Tensor:
            calls.append(name)
            return real(*args)

        return call

    for name in ("_compute", "_backward"):
        monkeypatch.setattr(sliced, name, counted(name))

    def set_widths(channels: int, rows: int) -> list[str]:
        monkeypatch.setattr(sliced, "slices_of", lambda *_: Slices(channels, rows))
        return calls

    return set_widths


BOTH_LAYERS = ["_compute", "_compute", "_backward", "_backward"]


@pytest.mark.parametrize(
    ("fields", "shape", "widths"),
    [
        ({}, (1, 64), (16, 10)),
        ({"tie_word_embeddings": True}, (2, 37), (5, 11)),
        ({"hyena_order": 3}, (2, 37), (5, 11)),
        ({"hyena_order": 3, "num_inner_mlps": 0, "use_bias": False}, (3, 1), (7, 2)),
        ({"train_freq": False, "short_filter_order": 5}, (1, 13), (16, 13)),
    ],
)
@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
def test_loss_and_gradients_are_those_of_plain_modules(
    fields: dict[str, Any], shape: tuple[int, int], widths: tuple[int, int], lora: bool, cut: Any
) -> None:
    made = with_lora(model(**fields)) if lora else model(**fields)
    ids = random_ids(*shape)
    if shape[1] == 1:
        ids = ids.repeat(1, 2)
    expected = loss_and_gradients(made, ids)
    made.activation_checkpointing_enable({"slices": False})
    assert_same(loss_and_gradients(made, ids), expected)
    made.activation_checkpointing_enable()
    calls = cut(*widths)
    assert_same(loss_and_gradients(made, ids), expected)
    assert calls == ([] if widths[0] == 16 and widths[1] >= ids.numel() else BOTH_LAYERS)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("widths", [(16, 9), (7, 9)])
def test_filters_that_are_given(order: int, widths: tuple[int, int], cut: Any) -> None:
    made = model(hyena_order=order)
    block = made.hyena.backbone.layers[0]
    residual = torch.randn(2, 31, 16, dtype=torch.float64, requires_grad=True)
    parameters = dict(block.named_parameters())

    def gradients(given: bool) -> list[Tensor]:
        filters = None
        if given:
            k, skip = block.mixer.filter_fn(None, 31)
            filters = k.view(order - 1, 16, 31), skip.view(order - 1, 16)
        result = block(residual) if filters is None else block(residual, filters=filters)
        return [result, *torch.autograd.grad(result.square().sum(), [residual, *parameters.values()])]

    expected = gradients(False)
    made.activation_checkpointing_enable()
    calls = cut(*widths)
    for given in (False, True):
        for name, one, other in zip(["y", "x", *parameters], gradients(given), expected, strict=True):
            assert (one - other).abs().max() <= 1e-12 * max(1, other.abs().max()), name
    assert calls == 2 * ["_compute", "_backward"]


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_inference_and_kept_filters(backend: str, cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(hyena_order=3).eval()
    ids = random_ids(2, 41)
    with torch.no_grad(), use_backend(backend):
        expected = made(ids, output_hidden_states=True).hidden_states
        calls = cut(5, 11)
        before = [state.clone() for state in expected]
        found = made(ids, output_hidden_states=True).hidden_states
        filters = []
        monkeypatch.setattr(sliced, "implicit_filter", lambda *_, **__: filters.append(1))
        with cache_filters(made):
            kept = [made(ids, output_hidden_states=True).hidden_states for _ in range(2)]
    assert calls == 6 * ["_compute"]
    assert not filters
    for states in (found, *kept):
        for one, other, old in zip(states, expected, before, strict=True):
            assert (one - other).abs().max() <= 1e-12
            assert torch.equal(other, old)


def hooked(made: Any, place: str) -> Any:
    made.hyena.backbone.layers[0].get_submodule(place).register_forward_hook(lambda *_: None)
    return made


def quantised(made: Any) -> Any:
    class Packed(nn.Parameter):
        pass

    layer = made.hyena.backbone.layers[0].mlp.fc1
    layer._parameters["weight"] = Packed(layer.weight.data)
    return made


def subclassed(made: Any) -> Any:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    layer = made.hyena.backbone.layers[0].mlp.fc1
    layer.__class__ = Own
    return made


@pytest.mark.parametrize(
    "change",
    [
        *(functools.partial(hooked, place=place) for place in ("norm1", "mixer", "norm2", "mlp", "mixer.filter_fn")),
        *(functools.partial(hooked, place=place) for place in ("mixer.in_proj", "mlp.fc2", "mixer.short_filter")),
        *(functools.partial(hooked, place=f"mixer.filter_fn.{name}") for name in ("pos_emb", "implicit_filter.2")),
        quantised,
        subclassed,
    ],
)
def test_blocks_with_other_code_in_them_are_computed_whole(change: Any, cut: Any) -> None:
    made = change(model())
    expected = loss_and_gradients(made, random_ids(1, 20))
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    assert_same(loss_and_gradients(made, random_ids(1, 20)), expected)
    assert calls == ["_compute", "_backward"]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (LoraConfig(r=2, target_modules=LINEARS), 2),
        (LoraConfig(r=2, target_modules=LINEARS, lora_dropout=0.1), 0),
        (LoraConfig(r=2, target_modules=LINEARS, use_dora=True), 0),
        (LoraConfig(r=2, target_modules=["implicit_filter.2"]), 0),
        (IA3Config(target_modules=["fc1"], feedforward_modules=[]), 0),
    ],
    ids=["lora", "dropout", "dora", "filter", "ia3"],
)
def test_which_adapters_are_sliced(config: Any, count: int, cut: Any) -> None:
    made = get_peft_model(model(), config).train()
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    loss_and_gradients(made, random_ids(1, 20))
    assert calls.count("_backward") == count
    if count:
        # An adapter begins with nothing to add, so that these are the base's own logits.
        with torch.no_grad():
            adapted = made(input_ids=random_ids(1, 20)).logits
            calls.clear()
            with made.disable_adapter():
                assert torch.equal(made(input_ids=random_ids(1, 20)).logits, adapted)
            assert calls == ["_compute"] * 2
            made.merge_adapter()
            assert (made(input_ids=random_ids(1, 20)).logits - adapted).abs().max() <= 1e-12
        assert calls == ["_compute"] * 2


def test_dropout_at_work_takes_the_path_of_plain_modules(cut: Any) -> None:
    made = model(hyena_dropout=0.3)
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    torch.manual_seed(5)
    found = loss_and_gradients(made, random_ids(1, 20))
    made.activation_checkpointing_disable()
    torch.manual_seed(5)
    assert_same(found, loss_and_gradients(made, random_ids(1, 20)))
    assert not calls
    with torch.no_grad():
        made.eval()(random_ids(1, 20))
    assert calls == ["_compute"] * 2


def test_transforms_and_fake_tensors_take_the_path_of_plain_modules(cut: Any) -> None:
    made = model()
    calls = cut(5, 7)
    ids = random_ids(2, 20)
    with torch.no_grad():
        rows = torch.vmap(lambda row: made(row[None]).logits[0])(ids)
        assert not calls
        assert (rows - made(ids).logits).abs().max() <= 1e-12
        calls.clear()
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert made(torch.zeros(2, 20, dtype=torch.long)).logits.shape == (2, 20, 16)
    assert not calls


@pytest.mark.slow
def test_compiled_models_take_the_path_of_plain_modules(cut: Any) -> None:
    made = model()
    expected = loss_and_gradients(made, random_ids(2, 20))
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    made.zero_grad()
    loss = compiled(random_ids(2, 20), labels=random_ids(2, 20)).loss
    loss.backward()
    assert_same((loss.detach(), {name: p.grad for name, p in made.named_parameters()}), expected)
    assert not calls


def test_functional_calls_hooks_and_states(cut: Any) -> None:
    made = model()
    ids = random_ids(2, 20)
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    other = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in made.named_parameters()}
    leaves = {name: tensor.requires_grad_() for name, tensor in other.items()}
    loss = torch.func.functional_call(made, leaves, (ids,), {"labels": ids}).loss
    # Backward runs when the module has its own tensors again.
    found = torch.autograd.grad(loss, list(leaves.values()))
    made.load_state_dict(other, strict=False)
    expected = loss_and_gradients(made, ids)
    assert_same((loss.detach(), dict(zip(leaves, found, strict=True))), expected)
    block = made.hyena.backbone.layers[1]
    seen: list[str] = []
    block.register_forward_hook(lambda *_: seen.append("forward"))
    block.register_full_backward_hook(lambda *_: seen.append("backward"))
    calls.clear()
    output = made(ids, labels=ids, output_hidden_states=True)
    states = output.hidden_states
    for state in states:
        state.retain_grad()
    output.loss.backward()
    assert seen == ["forward", "backward"]
    assert calls == BOTH_LAYERS
    assert all(state.grad is not None for state in states)


def test_nothing_of_the_caller_is_written_to(cut: Any) -> None:
    made = model(n_layer=1)
    made.activation_checkpointing_enable()
    cut(5, 7)
    block = made.hyena.backbone.layers[0]
    wide = torch.randn(2, 20, 32, dtype=torch.float64)
    residual = wide[..., ::2].requires_grad_()
    before = wide.clone()
    result = block(residual)
    gradient = torch.randn_like(result)
    kept = gradient.clone()
    first = torch.autograd.grad(result, [residual, *block.parameters()], gradient, retain_graph=True)
    second = torch.autograd.grad(result, [residual, *block.parameters()], gradient)
    assert torch.equal(wide, before)
    assert torch.equal(gradient, kept)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    (dx,) = torch.autograd.grad(block(residual).square().sum(), residual, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.usefixtures("one_thread")
def test_two_runs_have_the_same_bits(cut: Any) -> None:
    made = model().float()
    made.activation_checkpointing_enable()
    cut(5, 7)
    first, second = (loss_and_gradients(made, random_ids(2, 50)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
def test_sixteen_bits(kind: str, cut: Any) -> None:
    made = model().float() if kind == "autocast" else model().bfloat16()
    exact = loss_and_gradients(copy.deepcopy(made).double(), random_ids(2, 50))
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        plain = loss_and_gradients(made, random_ids(2, 50))
        made.activation_checkpointing_enable()
        calls = cut(5, 7)
        found = loss_and_gradients(made, random_ids(2, 50))
    assert calls == BOTH_LAYERS
    for name, gradient in found[1].items():
        assert gradient.dtype == made.get_parameter(name).dtype
        norm = exact[1][name].norm()
        errors = [(each.double() - exact[1][name]).norm() / norm for each in (gradient, plain[1][name])]
        # Slices are rounded to 16 bits before they are summed.
        assert errors[0] <= 2 * errors[1] + 2**-8, name


def test_arguments_of_checkpointing() -> None:
    made = model()
    block = made.hyena.backbone.layers[0]
    for wrong in (True, "no", 4, 0):
        with pytest.raises(InputError, match='slices must be "auto" or False, got'):
            made.activation_checkpointing_enable({"slices": wrong})
    with pytest.raises(InputError, match=r"cannot honour context_fn; set slices to False"):
        made.activation_checkpointing_enable({"slices": "auto", "use_reentrant": False, "context_fn": lambda: None})
    for options, in_slices in [
        (None, True),
        ({"slices": "auto"}, True),
        ({"slices": False}, False),
        ({"use_reentrant": True}, True),
        ({"use_reentrant": False, "preserve_rng_state": True, "determinism_check": "none"}, True),
        ({"use_reentrant": False, "debug": True}, False),
    ]:
        made.activation_checkpointing_enable(options)
        assert block.recomputation.in_slices is in_slices
        given = dict(options or {})
        given.pop("slices", None)
        assert block.recomputation.function.keywords == {"use_reentrant": False} | given
        copied = pickle.loads(pickle.dumps(copy.deepcopy(block)))
        assert copied.recomputation.function.keywords == block.recomputation.function.keywords
    made.activation_checkpointing_disable()
    assert not block.gradient_checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
def test_random_numbers_are_kept_only_for_dropout(reentrant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    real = layers.Recomputation

    def spied(function: Any, *args: Any) -> Any:
        def call(run: Any, *inputs: Any, **options: Any) -> Any:
            kept.append(options.get("preserve_rng_state", True))
            return function(run, *inputs, **options)

        return real(call, *args)

    monkeypatch.setattr("hyenadna.model.pretrained.Recomputation", spied)
    ids = random_ids(1, 20)
    for change, expected in [
        (lambda made: made, False),
        (lambda made: hooked(made, "mixer"), True),
        (lambda made: with_lora(made, lora_dropout=0.1), True),
    ]:
        made = change(model(n_layer=1))
        made.activation_checkpointing_enable({"use_reentrant": reentrant})
        loss_and_gradients(made, ids)
        assert kept.pop() is expected
    made = model(n_layer=1, hyena_dropout=0.1)
    made.activation_checkpointing_enable({"use_reentrant": reentrant, "preserve_rng_state": True})
    loss_and_gradients(made, ids)
    assert kept == [True]


@pytest.mark.parametrize(
    ("fields", "dtype", "shape", "expected"),
    [
        ({"d_model": 128}, torch.bfloat16, (1, 1 << 20, 128), (128, 1 << 20)),
        ({"d_model": 256}, torch.bfloat16, (1, 1 << 20, 256), (128, 1 << 19)),
        ({"d_model": 256}, torch.float32, (1, 1 << 10, 256), (256, 1 << 18)),
        ({"d_model": 256}, torch.float32, (1, 1 << 24, 256), (32, 1 << 18)),
    ],
)
def test_widths_follow_from_bytes(
    fields: dict[str, Any], dtype: torch.dtype, shape: tuple[int, ...], expected: tuple[int, int]
) -> None:
    with torch.device("meta"):
        block = layers.HyenaDNABlock(HyenaDNAConfig(max_seq_len=64, **fields)).to(dtype)
        assert sliced.slices_of(block, torch.empty(shape)) == expected


def test_short_inputs_are_not_sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(d_model=64, max_seq_len=1024).float()
    block = made.hyena.backbone.layers[0]
    assert sliced.plan(block, torch.empty(1, 1024, 64), None) is None
    assert sliced.plan(block, torch.empty(32, 1024, 64), None) == (64, 8192)
    assert sliced.plan(block, torch.empty(32, 1025, 64), None) is None
    with torch.no_grad():
        assert sliced.plan(block, torch.empty(32, 1024, 64), None) is None
    assert sliced.plan(block, torch.empty(64, 1024, 64), None) == (32, 8192)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_wrappers_for_several_processes(kind: str, cut: Any) -> None:
    made = model()
    ids = random_ids(2, 20)
    expected = loss_and_gradients(made, ids)
    made.activation_checkpointing_enable()
    calls = cut(5, 7)
    if kind == "ddp":
        # A parameter that autograd does not reach would raise in the second step.
        wrapped: Any = DistributedDataParallel(made)
        loss_and_gradients(wrapped, ids)
    else:
        mesh = dist.init_device_mesh("cpu", (1,))
        for block in made.hyena.backbone.layers:
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(made, mesh=mesh)
    calls.clear()
    loss, gradients = loss_and_gradients(wrapped, ids)
    whole = {
        name.removeprefix("module."): getattr(gradient, "full_tensor", lambda g=gradient: g)()
        for name, gradient in gradients.items()
    }
    assert_same((loss, whole), expected)
    assert calls == BOTH_LAYERS


def one_of_two_processes(rank: int) -> None:
    sliced.slices_of = lambda *_: Slices(5, 7)
    made = model()
    ids = random_ids(2, 20)
    expected = loss_and_gradients(made, ids)
    made.activation_checkpointing_enable()
    wrapped = DistributedDataParallel(made)
    for _ in range(2):
        _, gradients = loss_and_gradients(wrapped, ids[rank : rank + 1])
    assert_same((expected[0], {name.removeprefix("module."): g for name, g in gradients.items()}), expected)


@pytest.mark.slow
def test_two_processes_average_their_gradients() -> None:
    run_ranks(2, one_of_two_processes)


def prepared(fields: dict[str, Any], length: int, mode: str) -> Callable[[], None]:
    return_freed_memory()
    return step_memory.prepare(fields, length, mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "floats"),
    [
        # The input of the block, a byte of the embedding's dropout, and the four that stay in backward.
        ("training", 1 + 0.25 + 4),
        # The residual and the output of the mixer.
        ("inference", 2),
    ],
)
def test_memory_of_each_further_token(mode: str, floats: float) -> None:
    # No filters are kept, and slices have not come to their least width. Ids, logits, and transforms of a few channels
    # take the last 500 bytes: half of what one more tensor of the residual's size would take.
    lengths = (1 << 15, 1 << 16 if mode == "training" else 3 << 15)
    width = 256
    fields = {"d_model": width, "n_layer": 1, "max_seq_len": lengths[1]}
    short, long = (peak_rss(prepared, fields, length, mode)[1] for length in lengths)
    assert (long - short) / (lengths[1] - lengths[0]) <= floats * width * 4 + 500
