"""Operators of a model on shards of sequences."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from hyena_kernels import HyenaOperator
from hyena_kernels.distributed import ContextShards, context_parallel, gather, sequence_shards, shard
from hyena_kernels.testing import relative_error
from tests.hyena_kernels.distributed.test_exchange import poison
from tests.hyena_kernels.distributed.test_shards import raises
from tests.ranks import run_ranks


def operator(D: int, l_max: int = 800, **options: Any) -> HyenaOperator:
    """The same operator on every rank, in float64, without a tensor of zeros."""
    torch.manual_seed(3)
    options = {"emb_dim": 5, "filter_order": 8} | options
    made = HyenaOperator(D, l_max, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    made.filter_fn.reset_buffers()
    return made


def whole_gradients(module: nn.Module, u: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The result and all gradients of one process."""
    leaf = u.clone().requires_grad_()
    y = module(leaf)
    y.backward(weights)
    return {"y": y.detach(), "u": leaf.grad, **of_parameters(module)}


def of_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters that take part: without a skip its weights do not."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def sharded_gradients(module: nn.Module, u: Tensor, weights: Tensor, shards: ContextShards) -> dict[str, Tensor]:
    """The same of shards, put together."""
    leaf = shard(u, shards).clone().requires_grad_()
    y = module(leaf, shards=shards)
    y.backward(shard(weights, shards))
    found = {"y": gather(y.detach(), shards), "u": gather(leaf.grad, shards)}
    found |= of_parameters(module)
    for name in of_parameters(module):
        dist.all_reduce(found[name])
    return found


def closeness(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], expected[name]) for name in expected)


CASES = [
    ((301, 3, 96, 200), 16, 2, {}),
    ((50, 60, 70, 80), 3, 1, {"order": 3, "activation": "gelu"}),
    ((5, 2, 9, 400), 6, 1, {"filter_length": 100, "l_max": 300, "bias": False}),
    ((9, 1, 7, 20), 2, 1, {"short_filter_order": 1, "filter_length": 2, "modulate": False, "num_inner_mlps": 0}),
]
"""Positions of every rank, channels, samples, and arguments of the operator."""


def check_equal_to_one_process(rank: int) -> None:
    for lengths, D, batch, options in CASES:
        shards = ContextShards(lengths)
        plain = operator(D, **options)
        u, weights = (torch.randn(batch, shards.total, D, dtype=torch.float64) for _ in range(2))
        expected = whole_gradients(plain, u, weights)
        for filters, chunks in (("channels", 2), ("sequence", 3)):
            module = context_parallel(operator(D, **options), filters=filters, chunks=chunks)
            assert module.state_dict().keys() == plain.state_dict().keys()
            found = sharded_gradients(module, u, weights, shards)
            assert closeness(found, expected) < 1e-12, (lengths, filters)
            with torch.no_grad(), sequence_shards(shards):
                again = module(shard(u, shards))
            assert torch.equal(gather(again, shards), found["y"])


def check_layers_that_are_not_plain(rank: int) -> None:
    """A hook on a layer of the filter, or a filter of a class of one's own: every rank computes it whole."""

    class Louder(type(operator(4).filter_fn)):  # type: ignore[misc]
        def kernel(self, L: int, backend: str | None = None) -> Tensor:
            return 2 * super().kernel(L, backend)

    shards = ContextShards((9, 4, 5, 6))
    u, weights = (torch.randn(2, shards.total, 6, dtype=torch.float64) for _ in range(2))
    for change in ("hook", "class"):
        modules = [operator(6, order=3) for _ in range(3)]
        for module in modules:
            if change == "hook":
                module.filter_fn.implicit_filter[0].register_forward_hook(lambda module, args, result: 2 * result)
            else:
                module.filter_fn.__class__ = Louder
        expected = whole_gradients(modules[0], u, weights)
        for module, filters in zip(modules[1:], ("channels", "sequence"), strict=True):
            context_parallel(module, filters=filters)
            assert closeness(sharded_gradients(module, u, weights, shards), expected) < 1e-12


def check_wrappers(rank: int) -> None:
    """DDP needs a gradient of every parameter on every rank, and FSDP runs hooks at a call of the filter."""
    shards = ContextShards((9, 4, 5, 6))
    u, weights = (torch.randn(2, shards.total, 3, dtype=torch.float64) for _ in range(2))
    expected = whole_gradients(operator(3), u, weights)
    for filters in ("channels", "sequence"):
        module = context_parallel(operator(3), filters=filters)
        ddp = DistributedDataParallel(module)
        mesh = dist.init_device_mesh("cpu", (4,))
        sharded = context_parallel(operator(3), filters=filters)
        fully_shard(sharded.filter_fn, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for wrapped, inner in ((ddp, module), (sharded, sharded)):
            y = wrapped(shard(u, shards), shards=shards)
            y.backward(shard(weights, shards))
            found = {"y": gather(y.detach(), shards)}
            for name, parameter in inner.named_parameters():
                gradient = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
                # Both give the mean over the ranks.
                found[name] = 4 * gradient
            assert closeness(found, {name: value for name, value in expected.items() if name != "u"}) < 1e-12


def check_two_groups(rank: int) -> None:
    """A mesh of data × context: each row of it has its own sequences."""
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    shards = ContextShards((20, 13), device_mesh=mesh["context"])
    module = context_parallel(operator(5), mesh["context"])
    u, weights = (torch.randn(4, 33, 5, dtype=torch.float64) for _ in range(2))
    expected = whole_gradients(operator(5), u, weights)
    row = slice(2 * (rank // 2), 2 * (rank // 2) + 2)
    found = sharded_gradients(module, u[row], weights[row], shards)
    expected["y"], expected["u"] = expected["y"][row], expected["u"][row]
    assert closeness(found, expected) < 1e-12
    raises(
        ValueError,
        "the shards are of the group .* and the context is of",
        module,
        u[:, :9],
        shards=ContextShards.even(36),
    )


def check_computed_again_in_backward(rank: int) -> None:
    """With a checkpoint the collectives of forward run again, in the same order on all ranks, also under autocast."""
    shards = ContextShards((30, 8, 7, 12))
    module = context_parallel(operator(6)).float()
    u = shard(torch.randn(2, shards.total, 6), shards)
    gradients = []
    for again in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = checkpoint(module, u, shards=shards, use_reentrant=False) if again else module(u, shards=shards)
            assert y.dtype == torch.bfloat16
            y.float().square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def check_refusals(rank: int) -> None:
    shards = ContextShards((9, 4, 5, 6))
    u = shard(torch.randn(1, shards.total, 3, dtype=torch.float64), shards)
    module = operator(3)
    raises(
        NotImplementedError,
        r"shards does not go with packed sequences \(cu_seqlens\)",
        module,
        u,
        shards=shards,
        cu_seqlens=torch.tensor([0, 5]),
    )
    raises(
        NotImplementedError, "with given filters: leave them out", module, u, shards=shards, filters=module.filters(24)
    )
    raises(NotImplementedError, r"with dropout=0\.5 in training", operator(3, dropout=0.5), u, shards=shards)
    operator(3, dropout=0.5).eval()(u, shards=shards)
    module.short_filter.register_forward_hook(lambda module, args, result: result)
    raises(NotImplementedError, "with a wrapped short_filter", module, u, shards=shards)
    # Refused before anything is sent, so that ranks may differ in it.
    raises(
        ValueError,
        r"the shards \(9, 4, 5, 6\) have 24 positions, which is outside 1 … 20",
        operator(3, 20),
        u,
        shards=shards,
    )
    more = torch.cat([u] * 3)
    more = more[:, 1:] if rank == 2 else more
    raises(ValueError, "the ranks do not fit together", operator(3), more, shards=shards)


def check_compiled(rank: int) -> None:
    module = context_parallel(operator(3, num_inner_mlps=1).float())
    counter = CompileCounterWithBackend("aot_eager")
    # The other process need not be compiled, once it has compared what both pass.
    compiled = torch.compile(module, backend=counter, fullgraph=True) if rank == 0 else module
    shards = ContextShards((9, 4))
    u = shard(torch.randn(1, shards.total, 3), shards)
    found = []
    for function in (module, compiled):
        module.zero_grad()
        y = function(u, shards=shards)
        y.square().sum().backward()
        found.append([y.detach(), *(parameter.grad.clone() for parameter in module.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert counter.frame_count == (rank == 0)


def checks(rank: int) -> None:
    poison()
    for check in (
        check_equal_to_one_process,
        check_layers_that_are_not_plain,
        check_wrappers,
        check_two_groups,
        check_computed_again_in_backward,
        check_refusals,
    ):
        torch.manual_seed(4)
        check(rank)


@pytest.mark.slow
def test_operators_of_four_processes() -> None:
    run_ranks(4, checks, timeout=240)


@pytest.mark.slow
def test_an_operator_compiles_with_shards() -> None:
    run_ranks(2, check_compiled, timeout=240)


def test_a_context_without_shards_is_an_error() -> None:
    module = nn.Sequential(operator(4), operator(4))
    assert context_parallel(module) is module
    u = torch.randn(1, 30, 4, dtype=torch.float64)
    raises(ValueError, "has set a context, and the call has no shards: pass shards=", module, u)
    shards = ContextShards.even(30)
    expected = operator(4)(u)
    with sequence_shards(shards):
        assert torch.equal(module[0](u), expected)
    assert torch.equal(module[1](u, shards=shards), expected)
    assert torch.equal(operator(4)(u, shards=shards), expected)
    raises(ValueError, "expected the 30 positions of the shards", module[0], u[:, 1:], shards=shards)
    raises(ValueError, "have 801 positions, which is outside 1 … 800", module[0], u, shards=ContextShards.even(801))


def test_a_model_with_a_context_is_copied_and_saved() -> None:
    module = context_parallel(operator(4), chunks=3, wire=torch.bfloat16)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert other.context == module.context


def test_other_values_are_refused() -> None:
    raises(ValueError, "filters is 'both', expected one of", context_parallel, operator(4), filters="both")
    raises(ValueError, "chunks must be at least 1", context_parallel, operator(4), chunks=0)
    raises(TypeError, "wire is torch.int8", context_parallel, operator(4), wire=torch.int8)
    raises(ValueError, "Linear holds no HyenaOperator", context_parallel, nn.Linear(2, 2))


def test_a_part_of_a_filter_is_a_part_of_the_whole() -> None:
    module = operator(6, order=3).filter_fn
    k, D = module(None, 20)
    rows = [slice(1, 3), slice(7, 9)]
    part, skip = module(None, 20, channels=rows, positions=slice(4, 11))
    torch.testing.assert_close(part, torch.cat([k[each] for each in rows])[:, 4:11], rtol=1e-13, atol=1e-15)
    assert torch.equal(skip, torch.cat([D[each] for each in rows]))
    raises(ValueError, "length 801 is outside 1 … 800", module, None, 801, channels=rows)
    for channels, positions in (([slice(3, 3)], slice(0, 20)), (None, slice(20, 20)), ([slice(3, 3)], slice(5, 5))):
        part, skip = module(None, 20, channels=channels, positions=positions)
        rows = 12 if channels is None else 0
        assert part.shape == (rows, positions.stop - positions.start)
        assert skip.shape == (rows,)
        module.zero_grad()
        (part.sum() + skip.sum()).backward()
        expected = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        if channels is None:
            expected["bias"] += 1
        assert all(torch.equal(p.grad, expected[name]) for name, p in module.named_parameters())
