"""``HyenaOperator`` under FSDP and DDP. A gloo group of one process has the hooks of a larger one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hyena_kernels import HyenaOperator, cache_filters
from hyena_kernels.filter_cache import _blocks
from tests.ranks import run_ranks


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
    with torch.no_grad(), cache_filters(operator):
        operator(torch.randn(1, 20, 6))
        (cache,) = _blocks[operator.filter_fn]
        assert not cache._kept


@pytest.mark.usefixtures("one_process")
def test_a_policy_that_narrows_filters_is_named() -> None:
    sharded = model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (1,)), mp_policy=policy)
    with pytest.raises(TypeError, match=r"filters need float32: a policy of mixed precision such as MixedPrecision"):
        sharded(torch.randn(2, 20, 6))


def check_filters_with_a_policy_of_their_own(ranks: int) -> None:
    """Train with filters in float32 and all else in bfloat16, and compare with one process in float32."""
    torch.manual_seed(0)
    plain = model()
    sharded = copy.deepcopy(plain)
    mesh = dist.init_device_mesh("cpu", (ranks,))
    for operator in sharded:
        fully_shard(operator.filter_fn, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
    fully_shard(sharded, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    filters: list[Tensor] = []
    for operator in sharded:
        operator.filter_fn.register_forward_hook(lambda module, args, found: filters.append(found[0].detach().clone()))
    u = torch.randn(2, 20, 6)
    loss = sharded(u).float().square().mean()
    for operator, found in zip(plain, filters, strict=True):
        assert torch.equal(found, operator.filter_fn.kernel(20))
    expected = plain(u).square().mean()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    loss.backward()
    expected.backward()
    for (name, shard), own in zip(sharded.named_parameters(), plain.parameters(), strict=True):
        gradient, exact = shard.grad.full_tensor(), own.grad
        assert gradient.dtype == torch.float32
        assert torch.linalg.vector_norm(gradient - exact) <= 0.05 * torch.linalg.vector_norm(exact), name
    torch.optim.AdamW(sharded.parameters(), lr=0.01).step()
    assert sharded(u).float().square().mean() < loss


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_filters_with_a_policy_of_their_own_stay_in_float32() -> None:
    check_filters_with_a_policy_of_their_own(1)


def one_of_two_processes(rank: int) -> None:
    check_filters_with_a_policy_of_their_own(2)


@pytest.mark.slow
def test_filters_with_a_policy_of_their_own_stay_in_float32_in_two_processes() -> None:
    run_ranks(2, one_of_two_processes)


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
