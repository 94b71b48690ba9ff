"""``cache_filters``: what it keeps, when it computes anew, and that nothing is kept without it."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import re
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hyena_kernels import HyenaFilter, HyenaOperator, cache_filters, filter_cache
from hyena_kernels.filter_cache import _blocks

WIDTH, LENGTH = 4, 32
CALLS = 200


@pytest.fixture
def operator() -> HyenaOperator:
    return HyenaOperator(WIDTH, LENGTH, emb_dim=3, filter_order=8, lr_pos_emb=0.0).eval()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all filters that are computed."""
    lengths = []
    compute = HyenaFilter._fused_kernel

    def counted(self: HyenaFilter, L: int, backend: str | None) -> Tensor:
        lengths.append(L)
        return compute(self, L, backend)

    monkeypatch.setattr(HyenaFilter, "_fused_kernel", counted)
    return lengths


def u(length: int = LENGTH) -> Tensor:
    return torch.linspace(-1, 1, length * WIDTH).view(1, length, WIDTH)


@torch.no_grad()
def result(operator: HyenaOperator) -> Tensor:
    return operator(u())


@torch.no_grad()
def fresh(operator: HyenaOperator) -> Tensor:
    """The result of a copy, which is in no block."""
    return copy.deepcopy(operator)(u())


def test_nothing_is_kept_without_a_block(operator: HyenaOperator, computed: list[int]) -> None:
    result(operator)
    with torch.inference_mode():
        operator(u())
    assert computed == [LENGTH] * 2
    before = result(operator)
    operator.filter_fn.implicit_filter[0].weight.data.add_(0.1)
    after = result(operator)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(operator))


def test_filters_are_kept_by_length_inside_a_block(operator: HyenaOperator, computed: list[int]) -> None:
    expected = [result(operator), operator(u(7)).detach()]
    computed.clear()
    with torch.no_grad(), cache_filters(operator):
        for _ in range(3):
            assert torch.equal(operator(u()), expected[0])
            assert torch.equal(operator(u(7)), expected[1])
        with torch.inference_mode():
            assert torch.equal(operator(u()), expected[0])
        assert computed == [LENGTH, 7]
        operator.backend = "torch"
        operator(u())
        assert computed == [LENGTH, 7, LENGTH]
    result(operator)
    assert len(computed) == 4
    assert len(_blocks) == 0


def test_calls_with_gradients_compute_their_filters(operator: HyenaOperator, computed: list[int]) -> None:
    with cache_filters(operator):
        for _ in range(2):
            result(operator)
            operator(u()).sum().backward()
    assert len(computed) == 4
    frozen = copy.deepcopy(operator).requires_grad_(False)
    x = u().requires_grad_()
    computed.clear()
    with cache_filters(frozen):
        for _ in range(2):
            result(frozen)
            frozen(x).sum().backward()
    assert len(computed) == 3


CHANGES = [
    "in place",
    "data",
    "state_dict",
    "assign",
    "dtype",
    "buffer",
    "shift",
    "modulate",
    "use_bias",
    "skip",
    "eval",
]


@pytest.mark.parametrize("change", CHANGES)
def test_kept_filters_are_computed_again_after_a_change(operator: HyenaOperator, change: str) -> None:
    filters = operator.filter_fn
    weight = filters.implicit_filter[0].weight
    changed = {name: x + 0.1 for name, x in operator.state_dict().items()}
    with torch.no_grad(), cache_filters(operator):
        before = result(operator)
        if change == "in place":
            weight.add_(0.1)
        elif change == "data":
            weight.data = weight.data + 0.1
        elif change in ("state_dict", "assign"):
            operator.load_state_dict(changed, assign=change == "assign")
        elif change == "dtype":
            filters.double()
            filters.implicit_filter[0].bias.add_(0.1)
            filters.float()
        elif change == "buffer":
            filters.modulation.deltas.mul_(2)
        elif change == "shift":
            filters.modulation.shift = 0.5
        elif change == "modulate":
            filters.modulation.modulate = False
        elif change == "use_bias":
            filters.use_bias = False
        elif change == "skip":
            filters.bias.add_(0.1)
        else:
            weight.data.add_(0.1)
            operator.train().eval()
        after = result(operator)
        assert not torch.equal(after, before)
        assert torch.equal(after, fresh(operator))


@pytest.mark.parametrize("zero_grad", [False, True], ids=["gradients left", "gradients dropped"])
@pytest.mark.parametrize("looks", ["", "before the step", "in eval() after backward"])
@pytest.mark.parametrize("way", ["for-loop", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_kept_filters_are_computed_again_after_a_step(optimizer: Any, way: str, looks: str, zero_grad: bool) -> None:
    operator = HyenaOperator(WIDTH, LENGTH, emb_dim=3, filter_order=8).eval()
    stepper = optimizer(operator.parameters(), lr=0.1, **({} if way == "for-loop" else {way: True}))
    with cache_filters(operator):
        result(operator)
        loss = operator(u()).square().sum()
        if looks == "before the step":
            result(operator)
        loss.backward()
        if looks.startswith("in eval"):
            operator.eval()
            result(operator)
        stepper.step()
        if zero_grad:
            stepper.zero_grad()
        assert torch.equal(result(operator), fresh(operator))


def test_a_gradient_from_before_the_block_keeps_filters_from_being_kept(operator: HyenaOperator) -> None:
    """A fused step changes parameters without a trace."""
    stepper = torch.optim.AdamW(operator.parameters(), lr=0.1, fused=True)
    operator(u()).square().sum().backward()
    operator.eval()
    with cache_filters(operator):
        before = result(operator)
        stepper.step()
        stepper.zero_grad()
        after = result(operator)
        assert torch.equal(after, fresh(operator))
        assert not torch.equal(after, before)


def test_kept_filters_are_those_of_their_own_weights(operator: HyenaOperator) -> None:
    """New weights may have the addresses of deleted ones."""
    name = "filter_fn.implicit_filter.6.weight"
    base = operator.get_parameter(name).detach().clone()

    def of(i: int) -> Tensor:
        return torch.func.functional_call(operator, {name: base * (1 + i)}, (u(),))

    with torch.no_grad():
        with cache_filters(operator):
            found = [of(i) for i in range(50)]
        for i, one in enumerate(found):
            assert torch.equal(one, of(i)), i


def test_what_the_user_gets_is_never_what_is_kept(operator: HyenaOperator) -> None:
    filters = operator.filter_fn
    expected = result(operator)
    with torch.no_grad(), cache_filters(operator):
        result(operator)
        filters.filter(LENGTH).div_(2)
        filters.kernel(LENGTH).zero_()
        kernel, skip = filters(None, LENGTH)
        kernel.zero_()
        skip.zero_()
        assert torch.equal(result(operator), expected)
        seen: list[Any] = []
        with filters.register_forward_hook(lambda module, args, found: seen.append(found)):
            for _ in range(2):
                assert torch.equal(result(operator), expected)
                for tensor in seen.pop():
                    tensor.zero_()
        assert torch.equal(result(operator), expected)


def test_one_bound_holds_for_all_layers(computed: list[int]) -> None:
    layers = nn.Sequential(*(HyenaOperator(WIDTH, LENGTH, emb_dim=3, filter_order=8) for _ in range(4))).eval()
    one = (LENGTH * WIDTH + WIDTH) * 4
    with torch.no_grad(), cache_filters(layers, max_bytes=3 * one):
        cache = _blocks[layers[0].filter_fn][0]
        for _ in range(3):
            layers(u())
            assert cache._nbytes == 3 * one
        # Three layers are kept, and the fourth is computed at every call.
        assert len(computed) == 4 + 1 + 1
        computed.clear()
        for _ in range(2):
            layers(u(5))
        assert computed == [5] * 4
        assert cache._nbytes == sum(kept.nbytes for kept in cache._kept.values()) <= 3 * one
        layers.eval()
        assert cache._nbytes == 0
    computed.clear()
    with torch.no_grad(), cache_filters(layers, max_bytes=0):
        layers(u())
        layers(u())
    assert len(computed) == 8


def test_kept_filters_are_freed_after_the_block_and_by_a_move(operator: HyenaOperator) -> None:
    def tensors() -> list[weakref.ref[Tensor]]:
        (cache,) = _blocks[operator.filter_fn]
        return [weakref.ref(t) for kept in cache._kept.values() for t in kept.filters if t is not None]

    with cache_filters(operator):
        result(operator)
        first = tensors()
        operator.double()
        assert len(first) == 2
        assert all(one() is None for one in first)
        operator.float()
        result(operator)
        second = tensors()
    gc.collect()
    assert len(second) == 2
    assert all(one() is None for one in second)


def test_copies_pickles_and_replicas_are_in_no_block(operator: HyenaOperator, computed: list[int]) -> None:
    expected = result(operator)
    with torch.no_grad(), cache_filters(operator):
        result(operator)
        others = copy.deepcopy(operator), pickle.loads(pickle.dumps(operator)), replica_of(operator)
        for other in others:
            computed.clear()
            for _ in range(2):
                torch.testing.assert_close(other(u()), expected)
            assert len(computed) == 2


def replica_of(module: nn.Module) -> nn.Module:
    """A replica as ``nn.DataParallel`` makes it: its parameters are plain attributes."""
    replicas = {each: each._replicate_for_data_parallel() for each in module.modules()}
    copies = {parameter: parameter.detach() for parameter in module.parameters()}
    for each, replica in replicas.items():
        for name, parameter in each._parameters.items():
            setattr(replica, name, None if parameter is None else copies[parameter])
        for name, child in each._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
    return replicas[module]


@pytest.mark.parametrize("kind", ["hook", "wrapped", "parametrized", "method", "subclass"])
def test_filters_that_other_code_takes_part_in_are_not_kept(operator: HyenaOperator, kind: str) -> None:
    filters = operator.filter_fn
    factor = torch.ones(())
    if kind == "hook":
        filters.pos_emb.register_forward_hook(lambda module, args, found: (found[0] * factor, found[1]))
    elif kind == "wrapped":
        plain = filters.modulation.forward
        filters.modulation.forward = lambda t, x: factor * plain(t, x)
    elif kind == "parametrized":
        nn.utils.parametrize.register_parametrization(filters.implicit_filter[0], "weight", Times(factor))
    elif kind == "method":
        plain_filter = filters.filter
        filters.filter = lambda L: factor * plain_filter(L)
    else:
        filters.__class__ = type(
            "Halved", (HyenaFilter,), {"filter": lambda self, L: factor * self.kernel(L).t()[None]}
        )
    with cache_filters(operator):
        before = result(operator)
        factor.data.mul_(0.5)
        assert not torch.equal(result(operator), before)


class Times(nn.Module):
    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("mode", ["fake", "flops", "vmap", "compile", "forward AD"])
def test_nothing_is_kept_of_calls_that_are_recorded_or_transformed(
    operator: HyenaOperator, computed: list[int], mode: str
) -> None:
    expected = result(operator)
    with torch.no_grad(), cache_filters(operator):
        computed.clear()
        if mode == "fake":
            with FakeTensorMode(allow_non_fake_inputs=True):
                operator(u())
        elif mode == "flops":
            with FlopCounterMode(display=False):
                operator(u())
        elif mode == "vmap":
            torch.vmap(operator)(u()[None])
        elif mode == "compile":
            torch.compile(operator, backend="eager", fullgraph=True)(u())
        else:
            with torch.autograd.forward_ad.dual_level():
                operator(u())
        (cache,) = _blocks[operator.filter_fn]
        assert not cache._kept
        assert torch.equal(result(operator), expected)
        assert cache._kept


def test_blocks_of_parts_and_of_other_threads_end_on_their_own(operator: HyenaOperator, computed: list[int]) -> None:
    with torch.no_grad():
        with cache_filters(operator):
            operator(u())
            with cache_filters(operator.filter_fn):
                operator(u())
                operator(u())
            operator(u())
        assert len(computed) == 2
        # Not nested, as two threads may have them.
        first, second = cache_filters(operator), cache_filters(operator)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        computed.clear()
        operator(u())
        operator(u())
        assert len(computed) == 1
        second.__exit__(None, None, None)
        operator(u())
        assert len(computed) == 2
    assert len(_blocks) == 0


def test_what_was_dropped_during_a_computation_is_not_kept(
    operator: HyenaOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = HyenaFilter._fused_kernel

    def slow(self: HyenaFilter, *args: Any) -> Tensor:
        found = compute(self, *args)
        # As another thread may.
        self.implicit_filter[0].weight.data.add_(0.1)
        self.eval()
        return found

    with cache_filters(operator):
        with monkeypatch.context() as patch:
            patch.setattr(HyenaFilter, "_fused_kernel", slow)
            result(operator)
        assert torch.equal(result(operator), fresh(operator))


@pytest.mark.parametrize(
    ("module", "max_bytes", "message"),
    [
        (nn.Linear(2, 2), 1, "cache_filters: Linear holds no HyenaFilter, there is nothing to keep"),
        (HyenaFilter(2, seq_len=8), -1, "cache_filters: max_bytes must be at least 0, got -1"),
    ],
    ids=["no filter", "negative"],
)
def test_what_cannot_be_kept_is_refused(module: nn.Module, max_bytes: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)), cache_filters(module, max_bytes):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["without", "with cache"])
def test_many_threads_get_the_bits_of_one(cached: bool) -> None:
    operator = HyenaOperator(WIDTH, LENGTH, emb_dim=3, filter_order=8).eval()
    lengths = [*range(1, LENGTH + 1)]
    expected = {length: operator(u(length)).detach() for length in lengths}
    # The bound lets filters of few lengths stay, so threads evict and replace what others use.
    kept = cache_filters(operator, 6 * LENGTH * WIDTH * 4) if cached else contextlib.nullcontext()
    start = threading.Barrier(8)

    def run(seed: int) -> int:
        start.wait()
        wrong = 0
        with torch.inference_mode() if seed % 2 else torch.no_grad():
            for i in range(CALLS):
                length = lengths[(7 * i + 3 * seed) % LENGTH]
                wrong += not torch.equal(operator(u(length)), expected[length])
                if i % 50 == seed:
                    operator.eval()
        return wrong

    with kept, ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(run, range(8))) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_is_in_no_block_and_takes_no_lock_with_it(operator: HyenaOperator) -> None:
    torch.set_num_threads(1)
    with torch.no_grad(), cache_filters(operator):
        operator(u())
        with filter_cache._lock:
            child = os.fork()
            if child == 0:
                # The parent's test runner must not go on here.
                try:
                    operator.filter_fn.bias.data.mul_(3)
                    with cache_filters(operator):
                        same = torch.equal(operator(u()), copy.deepcopy(operator)(u()))
                    os._exit(0 if same else 2)
                except BaseException:
                    os._exit(3)
        end = time.monotonic() + 20
        ended = os.waitpid(child, os.WNOHANG)
        while ended[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)
            ended = os.waitpid(child, os.WNOHANG)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert ended == (child, 0)
