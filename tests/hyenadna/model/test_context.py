"""Models whose sequences are split over processes give what one process gives, in forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hyena_kernels.distributed import ContextShards
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from tests.ranks import run_ranks

# float64, relative to the largest element.
EXACT = 1e-12

CASES: dict[int, list[tuple[tuple[int, ...], int, int, bool]]] = {
    2: [
        ((300, 300), 32, 2, False),
        ((301, 96), 32, 2, False),
        ((5, 700), 31, 1, False),
        ((257, 256), 32, 1, True),
    ],
    4: [
        ((128, 128, 128, 128), 32, 2, False),
        ((301, 3, 96, 200), 32, 2, False),
        ((64, 2, 9, 511), 30, 1, True),
        ((50, 60, 70, 80), 3, 1, False),
    ],
}


def made(kind: Any = HyenaDNAForCausalLM, **fields: Any) -> Any:
    torch.manual_seed(1)
    sizes = {"d_model": 16, "n_layer": 2, "filter_order": 8, "max_seq_len": 1024, "embed_dropout": 0.0}
    return kind(HyenaDNAConfig(**{**sizes, **fields})).double().train()


def batch(rows: int, length: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(7, 12, (rows, length + 1), generator=torch.Generator().manual_seed(2))
    return ids[:, :-1], ids[:, 1:]


def own(whole: Tensor, shards: ContextShards) -> Tensor:
    return whole[:, shards.offset : shards.offset + shards.length]


def gradients(model: Any, *, summed: bool) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    for gradient in found.values():
        if summed:
            dist.all_reduce(gradient)
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def check_one_process(lengths: tuple[int, ...], width: int, rows: int, *, checkpointing: bool) -> None:
    shards = ContextShards(lengths)
    ids, targets = batch(rows, shards.total)
    one, split = made(d_model=width), made(d_model=width)
    expected = one.next_token_loss(ids, targets)
    expected.backward()
    if checkpointing:
        split.gradient_checkpointing_enable()
    loss = split.next_token_loss(own(ids, shards), own(targets, shards), context=shards)
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)
    assert difference(total, expected.detach()) < EXACT
    wanted = gradients(one, summed=False)
    for name, gradient in gradients(split, summed=True).items():
        assert difference(gradient, wanted[name]) < EXACT, (lengths, name)
    with torch.no_grad():
        logits = split(own(ids, shards), context=shards).logits
        assert difference(logits, own(one(ids).logits, shards)) < EXACT


def check_all(rank: int) -> None:
    for lengths, width, rows, checkpointing in CASES[dist.get_world_size()]:
        check_one_process(lengths, width, rows, checkpointing=checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes(count: int) -> None:
    run_ranks(count, check_all)
