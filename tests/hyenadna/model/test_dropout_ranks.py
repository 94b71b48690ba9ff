"""``dropout_by_position`` in several processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.model.dropout import dropout_by_position
from tests.ranks import run_ranks


def make_model() -> HyenaDNAForCausalLM:
    torch.manual_seed(1)
    config = HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=64, embed_dropout=0.3)
    return HyenaDNAForCausalLM(config).double().train()


def loss(model: nn.Module, ids: Tensor, samples: Tensor) -> Tensor:
    with dropout_by_position(model, 5, samples):
        return model(ids).logits.square().sum()


def check_ranks(rank: int) -> None:
    ids, samples = torch.arange(4 * 24).view(4, 24) % 4 + 7, torch.tensor([3, 1 << 40, 8, 0])
    plain = make_model()
    loss(plain, ids, samples).backward()
    rows = slice(2 * rank, 2 * rank + 2)
    for sharded in (False, True):
        model = make_model()
        if sharded:
            for module in (*model.hyena.backbone.layers, model):
                fully_shard(module)
        # Kept until backward is over: it sums the gradients.
        wrapped = model if sharded else DistributedDataParallel(model)
        (2 * loss(wrapped, ids[rows], samples[rows])).backward()
        for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
            if expected.grad is not None:
                grad = found.grad.full_tensor() if isinstance(found.grad, DTensor) else found.grad
                torch.testing.assert_close(grad, expected.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_process_in_ddp_and_under_fsdp() -> None:
    run_ranks(2, check_ranks)
