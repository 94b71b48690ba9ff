"""Models whose sequences are split over processes give what one process gives, in forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from hyena_kernels.distributed import ContextShards, context_parallel, gather, sequence_shards
from hyena_kernels.testing.budgets import error_budget, relative_error
from hyenadna import (
    HyenaCache,
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
    InputError,
)
from hyenadna.model import sliced
from tests.ranks import run_ranks

# In float64, of the largest element.
EXACT = 1e-12

# Positions of each process, width, rows, and whether blocks are computed again in backward.
Case = tuple[tuple[int, ...], int, int, bool]
CASES: dict[int, list[Case]] = {
    2: [((300, 300), 32, 2, False), ((301, 96), 32, 2, False), ((5, 700), 31, 1, False), ((257, 256), 32, 1, True)],
    4: [
        ((128, 128, 128, 128), 32, 2, False),
        ((301, 3, 96, 200), 32, 2, False),
        ((64, 2, 9, 511), 30, 1, True),
        ((50, 60, 70, 80), 3, 1, False),
    ],
}


def made(kind: Any = HyenaDNAForCausalLM, dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
    torch.manual_seed(1)
    sizes = {"d_model": 8, "n_layer": 2, "filter_order": 8, "max_seq_len": 1024, "embed_dropout": 0.0}
    return kind(HyenaDNAConfig(**{**sizes, **fields})).to(dtype).train()


def batch(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, of which some do not count."""
    ids = torch.randint(7, 12, (rows, length + 1), generator=torch.Generator().manual_seed(2))
    return ids[:, :-1], ids[:, 1:].masked_fill(ids[:, 1:] == 11, -100)


def part(whole: Tensor, shards: ContextShards) -> Tensor:
    return whole[:, shards.offset : shards.offset + shards.length]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def summed(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of all processes, added up, on all of them."""
    own = gradients(model)
    flat = torch.cat([gradient.flatten() for gradient in own.values()])
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in own.values()])
    return {name: piece.view_as(gradient) for (name, gradient), piece in zip(own.items(), pieces, strict=True)}


def check_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], what: Any) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert difference(found[name], gradient) < EXACT, (what, name)


def adapted(d_model: int) -> Any:
    """Three convolutions in a layer, of some taps, with LoRA on dense layers and the networks of the filters."""
    model = made(d_model=d_model, n_layer=1, hyena_order=3, filter_length=20)
    get_peft_model(model, LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"]))
    for name, parameter in model.named_parameters():
        parameter.data = parameter.double()
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def check_equal_to_one_process(case: Case, make: Callable[..., Any] = made) -> None:
    lengths, width, rows, again = case
    shards = ContextShards(lengths)
    ids, targets = batch(rows, shards.total)
    model = make(d_model=width)
    if again:
        model.activation_checkpointing_enable()
    loss = model.next_token_loss(part(ids, shards), part(targets, shards), context=shards)
    loss.backward()
    found = summed(model)
    total = loss.detach()
    dist.all_reduce(total)
    with torch.no_grad():
        output = model(part(ids, shards), context=shards, output_hidden_states=True)
        assert output.logits.shape == (rows, shards.length, 16)
        whole = [gather(tensor, shards) for tensor in (output.logits, *output.hidden_states)]
    if shards.rank == 0:
        one = make(d_model=width)
        expected = one.next_token_loss(ids, targets)
        expected.backward()
        assert difference(total, expected) < EXACT, case
        check_gradients(found, gradients(one), case)
        with torch.no_grad():
            output = one(ids, output_hidden_states=True)
        for tensor, wanted in zip(whole, (output.logits, *output.hidden_states), strict=True):
            assert difference(tensor, wanted) < EXACT, case


def check_block_of_shards() -> None:
    """``context_parallel``, and a block that names the shards, for forward and backward."""
    shards = ContextShards((20, 41))
    ids, targets = batch(2, shards.total)
    model = made(dtype=torch.float32)
    model.activation_checkpointing_enable()
    names = list(model.state_dict())
    expected = model.next_token_loss(part(ids, shards), part(targets, shards), context=shards)
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    context_parallel(model)
    with pytest.raises(InputError, match=r"nothing says how this call's sequences are split; give context"):
        model(part(ids, shards))
    with sequence_shards(shards):
        loss = model.next_token_loss(part(ids, shards), part(targets, shards))
        loss.backward()
        with pytest.raises(InputError, match="generate: the sequences are split over 2 processes"):
            model.generate(ids)
        pooled = context_parallel(made(HyenaDNAForSequenceClassification))
        with pytest.raises(InputError, match=r"config.pooling 'mean': the sequences are split over 2 processes"):
            pooled(part(ids, shards))
        # The backbone alone, too, does not take the positions of a process for a whole sequence.
        alone = model.hyena.backbone(part(ids, shards), None, False).last_hidden_state
        assert torch.equal(alone, model.hyena(part(ids, shards)).last_hidden_state)
    assert torch.equal(loss, expected)
    assert list(model.state_dict()) == names
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in gradients(model).items())


def check_sixteen_bits() -> None:
    shards = ContextShards((150, 107))
    ids, targets = batch(1, shards.total)
    results = []
    for dtype, split, autocast in (
        (torch.float64, False, False),
        (torch.float32, False, True),
        (torch.float32, True, True),
    ):
        model = made(dtype=dtype, d_model=32)
        own = (part(ids, shards), part(targets, shards)) if split else (ids, targets)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            given = {"context": shards} if split else {}
            loss = model.next_token_loss(*own, **given)
            states = model.hyena(own[0], **given).last_hidden_state.detach()
        loss.backward()
        found = summed(model) if split else gradients(model)
        results.append({"states": gather(states, shards) if split else states, **found})
    oracle, one, many = results
    for name, value in oracle.items():
        # Weights are float32, but their gradients are of products in 16 bits.
        plain = one[name].bfloat16() if name == "states" else one[name]
        band = error_budget(plain, value) + torch.finfo(torch.bfloat16).eps
        assert relative_error(many[name], value) < band, name


class Loss(nn.Module):
    """What DistributedDataParallel wraps."""

    def __init__(self, model: HyenaDNAForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, shards: ContextShards) -> Tensor:
        return self.model.next_token_loss(ids, targets, context=shards)


def check_data_and_context() -> None:
    """Two rows of two processes: each row has other sequences, and splits them. Gradients are averages of all four."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    shards = ContextShards((33, 20), device_mesh=mesh["context"])
    ids, targets = batch(4, shards.total)
    rows = slice(None, 2) if mesh.get_local_rank("data") == 0 else slice(2, None)
    own_ids, own_targets = part(ids[rows], shards), part(targets[rows], shards)
    count = int((targets != -100).sum())
    one = made(d_model=3)
    (one.next_token_loss(ids, targets) / count).backward()
    expected = gradients(one)

    model = made(d_model=3)
    model.activation_checkpointing_enable()
    wrapped = DistributedDataParallel(Loss(model))
    (wrapped(own_ids, own_targets, shards) / count * dist.get_world_size()).backward()
    check_gradients(gradients(model), expected, "DDP")

    model = made(d_model=3)
    model.activation_checkpointing_enable()
    flat = mesh["data", "context"]._flatten()
    for block in model.hyena.backbone.layers:
        fully_shard(block, mesh=flat)
    fully_shard(model, mesh=flat)
    output = model(own_ids, shift_labels=own_targets, num_items_in_batch=count, context=shards)
    (output.loss * dist.get_world_size()).backward()
    found = {name: gradient.full_tensor() for name, gradient in gradients(model).items()}
    check_gradients(found, expected, "FSDP2")


def cut_small_blocks() -> None:
    """Let checkpointed blocks of any length be computed in slices, which those on split sequences must not be."""
    sliced._HIDDEN_BYTES = {"cpu": 64}


def check_two(rank: int) -> None:
    cut_small_blocks()
    for case in CASES[2]:
        check_equal_to_one_process(case)
    check_equal_to_one_process(((30, 41), 8, 2, False), adapted)
    check_block_of_shards()
    check_sixteen_bits()
    check_refused()
    check_token_classes()


def check_four(rank: int) -> None:
    cut_small_blocks()
    for case in CASES[4]:
        check_equal_to_one_process(case)
    check_data_and_context()


def check_token_classes() -> None:
    shards = ContextShards((7, 4))
    ids, labels = batch(2, shards.total)
    model = made(HyenaDNAForTokenClassification, num_labels=12)
    output = model(part(ids, shards), labels=part(labels, shards), num_items_in_batch=5, context=shards)
    expected = model(ids, labels=labels, num_items_in_batch=5)
    assert difference(output.logits, part(expected.logits, shards)) < EXACT
    total = output.loss.detach()
    dist.all_reduce(total)
    assert difference(total, expected.loss) < EXACT
    with pytest.raises(InputError, match="num_items_in_batch: a process counts only the labels of its own"):
        model(part(ids, shards), labels=part(labels, shards), context=shards)


def check_refused() -> None:
    shards = ContextShards((7, 4))
    ids, targets = (part(tensor, shards) for tensor in batch(1, shards.total))
    model = made(max_seq_len=11)
    ones = torch.ones_like(ids)
    # None of these waits for another process. A mask of ones says nothing.
    for words, arguments in (
        ("labels: a process does not hold the token after its last", {"labels": targets}),
        ("num_items_in_batch: a process counts only", {"shift_labels": targets}),
        ("cu_seqlens: the sequences of a packed row cannot be split", {"cu_seqlens": torch.tensor([0, ids.shape[1]])}),
        ("cu_seq_lens_q: the sequences of a packed row", {"cu_seq_lens_q": torch.tensor([0, 2, ids.shape[1]])}),
        ("position_ids: the positions of a process follow", {"position_ids": ones.cumsum(1) - 1}),
        ("use_cache: a cache continues", {"use_cache": True}),
        ("cache: a cache continues", {"cache": HyenaCache(model, batch=1, horizon=2)}),
        (
            "attention_mask: sequences that are split over processes have no pads on the left",
            {"attention_mask": ones.cumsum(1) > 1},
        ),
        (r"attention_mask \(1, 2\) must be \(B, L\)", {"attention_mask": ones[:, :2]}),
        ("a sequence of 12 tokens is longer than this model's max_seq_len of 11", {"context": ContextShards((7, 5))}),
        (
            r"context: process . of 2 holds . of 10 positions, and its input has",
            {"context": ContextShards((6, 4) if shards.rank == 0 else (7, 3))},
        ),
        ("context must be a hyena_kernels.distributed.ContextShards, got list", {"context": [7, 4]}),
    ):
        with pytest.raises(InputError, match=words):
            model(ids, **{"context": shards, **arguments})
    with pytest.raises(InputError, match="logits_to_keep 1: the last positions may be those of other processes"):
        model(ids, context=shards, logits_to_keep=1)
    with pytest.raises(InputError, match="generate: the sequences are split over 2 processes"):
        model.generate(ids, context=shards)
    with pytest.raises(InputError, match=r"config.pooling 'last': the sequences are split over 2 processes"):
        made(HyenaDNAForSequenceClassification, pooling="last")(ids, context=shards)
    expected = model(ids, context=shards).logits
    taken = {"attention_mask": ones, "use_cache": False, "logits_to_keep": torch.tensor([0, 2])}
    assert difference(model(ids, context=shards, **taken).logits, expected[:, [0, 2]]) < EXACT
    model.hyena.backbone.layers[1].mixer = nn.Identity()
    with pytest.raises(InputError, match="context: layer 1 has a Identity for a mixer"):
        model(ids, context=shards)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "check"), [(2, check_two), (4, check_four)])
def test_processes(count: int, check: Callable[[int], None]) -> None:
    run_ranks(count, check)


@pytest.mark.slow
def test_a_block_on_shards_is_one_graph() -> None:
    # A group whose other processes are imagined: nothing crosses, so results mean nothing. To load the compiler in each
    # of several processes would take ten times as long.
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=3)
    try:
        graphs: list[list[str]] = []

        def record(graph: Any, inputs: list[Any]) -> Any:
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return make_boxed_func(graph)

        block = made(n_layer=1).hyena.backbone.layers[0]
        block.compile(backend=aot_autograd(fw_compiler=record), fullgraph=True)
        shards = ContextShards((12, 21, 3))
        states = torch.randn(2, shards.length, 8, dtype=torch.float64, requires_grad=True)
        block(states, shards=shards).sum().backward()
        forward, backward = (" ".join(graph) for graph in graphs)
        assert forward.count("all_to_all_channels") == backward.count("all_to_all_channels") == 4
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("again", [False, True])
def test_one_process_has_the_same_bits(again: bool) -> None:
    ids, targets = batch(2, 40)
    shards = ContextShards((40,))
    results = []
    for parallel, given in ((False, {}), (False, {"context": shards}), (True, {"context": shards})):
        model = made(dtype=torch.float32)
        if again:
            model.activation_checkpointing_enable()
        if parallel:
            context_parallel(model)
        mask = {"attention_mask": torch.arange(40).expand(2, -1) > torch.tensor([[0], [3]])}
        loss = model.next_token_loss(ids, targets, **mask, **given)
        loss.backward()
        results.append({"loss": loss, **gradients(model)})
    for found in results[1:]:
        assert all(torch.equal(value, results[0][name]) for name, value in found.items())
    with pytest.raises(InputError, match=r"context: process 0 of 1 holds 40 of 40 positions, and its input has 39"):
        model(ids[:, 1:], context=shards)
    assert HyenaDNAModel(model.config)(ids, context=shards, cache=None).last_hidden_state.shape == (2, 40, 8)
