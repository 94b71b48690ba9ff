"""``HyenaOperator`` under FSDP and DDP. A gloo group of one process has the same sharding and hooks as a larger one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hyena_kernels import HyenaOperator


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Module:
    layers = (HyenaOperator(6, 32, emb_dim=3, filter_order=8) for _ in range(2))
    return nn.Sequential(*layers)


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, u: Tensor) -> list[Tensor]:
    """Losses before and after a step, and the result of inference after it."""
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = module(u).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    module.eval()
    with torch.no_grad():
        return [*losses, module(u), module(u)]


@pytest.mark.usefixtures("one_process")
def test_no_filters_are_kept_where_shards_may_change_them() -> None:
    operator = HyenaOperator(6, 32, emb_dim=3, filter_order=8).eval()
    with torch.no_grad():
        operator(torch.randn(1, 20, 6))
    assert operator.filter_fn._cache.empty


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp, each layer", "fsdp, each linear"])
def test_steps_are_those_of_one_process(kind: str) -> None:
    plain = model()
    other = copy.deepcopy(plain)
    u = torch.randn(2, 20, 6)
    expected = steps(plain, torch.optim.AdamW(plain.parameters(), lr=0.01), u)
    if kind == "ddp":
        other = DistributedDataParallel(other)
    else:
        mesh = dist.init_device_mesh("cpu", (1,))
        wrapped = {"fsdp": (), "fsdp, each layer": (HyenaOperator,), "fsdp, each linear": (HyenaOperator, nn.Linear)}
        for layer in reversed(list(other.modules())):
            if isinstance(layer, wrapped[kind]):
                fully_shard(layer, mesh=mesh)
        fully_shard(other, mesh=mesh)
    found = steps(other, torch.optim.AdamW(other.parameters(), lr=0.01), u)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
