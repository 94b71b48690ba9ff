"""``long_conv``: what stands in the way of the far field, when its error is measured again, and what is kept of it."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyena_kernels import (
    FarFieldError,
    HyenaFilter,
    HyenaOperator,
    backend,
    far_field_plan as plans,
    long_conv,
    operator as operator_file,
)
from hyena_kernels.far_field_plan import Plan

WIDTH, L_MAX, LENGTH = 4, 16_384, 1000
OF_ROUTE = {"hyena_mixer_far": "far_field", "far_field_conv": "far_field", "hyena_mixer": "fft", "fftconv": "fft"}


def make(**options: Any) -> HyenaOperator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"l_max": L_MAX, "filter_order": 8, "emb_dim": 3, "lr_pos_emb": 0.0, **options}
        return HyenaOperator(WIDTH, **settings)


def signal(length: int = LENGTH, **options: Any) -> Tensor:
    return torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(1)).to(**options)


def relative(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def roughen(layer: HyenaOperator, factor: float = 30.0) -> None:
    for module in layer.filter_fn.implicit_filter:
        if isinstance(module, nn.Linear):
            module.weight.mul_(factor)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short signals are long enough, and nothing is known of other tests."""
    monkeypatch.setitem(long_conv.MIN_LENGTH, "cpu", 500)
    monkeypatch.setattr(long_conv, "_environment", "auto")
    long_conv._decisions.clear()
    long_conv._announced.clear()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes that ran, in order."""
    routes: list[str] = []
    for name, route in OF_ROUTE.items():
        op = getattr(operator_file, name)

        def recorded(*args: Any, op: Callable[..., Any] = op, route: str = route, **options: Any) -> Any:
            routes.append(route)
            return op(*args, **options)

        monkeypatch.setattr(operator_file, name, recorded)
    return routes


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans of which an error was measured at all lags."""
    found: list[Plan] = []
    measure = plans.measured_error

    def recorded(*args: Any, samples: int = plans.SAMPLES, **options: Any) -> float:
        if samples == plans.SAMPLES:
            found.append(args[1])
        return measure(*args, samples=samples, **options)

    monkeypatch.setattr(plans, "measured_error", recorded)
    return found


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "hyena_kernels")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, LENGTH),
        ({"order": 3}, 777),
        ({"bias": False}, 501),
        ({"l_max": LENGTH}, LENGTH),
        ({"modulate": False}, 600),
    ],
    ids=["order 2", "order 3", "no skip", "L = l_max", "no window"],
)
def test_the_far_field_is_the_exact_route_up_to_rounding(options: Any, length: int, ran: list[str]) -> None:
    results = []
    for route in ("auto", "far_field", "fft"):
        layer, u = make(long_conv=route, **options), signal(length).requires_grad_()
        y = layer(u)
        y.square().mean().backward()
        results.append([y, u.grad, *(each.grad for each in layer.parameters() if each.grad is not None)])
    assert ran == ["far_field", "far_field", "fft"]
    for found, by_name, exact in zip(*results, strict=True):
        assert_same(found, by_name)
        assert relative(found, exact) < 3e-5, found.shape


def test_short_sequences_and_float64_take_the_exact_route(ran: list[str]) -> None:
    layer = make()
    layer(signal(499))
    layer.double()(signal(dtype=torch.float64))
    assert ran == ["fft", "fft"]


def test_float64_takes_the_far_field_by_name(ran: list[str]) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        layer = make(long_conv="far_field")
    finally:
        torch.set_default_dtype(torch.float32)
    u = signal(dtype=torch.float64)
    found = layer(u)
    layer.long_conv = "fft"
    assert relative(found, layer(u)) < 1e-10
    assert ran == ["far_field", "fft"]
    # The exact route of this one reads positions that are rounded to float32.
    rounded = make(long_conv="far_field").double()
    with pytest.raises(FarFieldError, match="not those of the formula, up to the rounding of float64"):
        rounded(u)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_signals_of_16_bits_take_a_coarser_plan(dtype: torch.dtype, ran: list[str]) -> None:
    layer = make().to(dtype)
    found = layer(signal(dtype=dtype))
    narrow, wide = layer.far_field_plan(LENGTH, dtype), layer.far_field_plan(LENGTH, torch.float32)
    assert narrow
    assert wide
    assert narrow.p <= wide.p
    layer.long_conv = "fft"
    assert relative(found, layer(signal(dtype=dtype))) < {torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    with torch.autocast("cpu", dtype):
        layer.float().long_conv = "auto"
        layer(signal())
    assert ran == ["far_field", "fft", "far_field"]


def test_a_wrapped_short_filter_takes_the_far_field(ran: list[str]) -> None:
    layer = make(order=3)
    layer.short_filter.register_forward_hook(lambda *_: None)
    found = layer(signal())
    layer.long_conv = "fft"
    assert relative(found, layer(signal())) < 1e-5
    assert ran == ["far_field"] * 2 + ["fft"] * 2


# Why the far field cannot be taken.


def _random_z(layer: HyenaOperator) -> None:
    layer.filter_fn.pos_emb.z += 1e-4 * torch.randn_like(layer.filter_fn.pos_emb.z)


def _other_t(layer: HyenaOperator) -> None:
    layer.filter_fn.pos_emb.t.mul_(0.999)


def _nan_in_z(layer: HyenaOperator) -> None:
    layer.filter_fn.pos_emb.z[0, -1] = float("nan")


class Other(HyenaFilter):
    def kernel(self, L: int, backend: str | None = None) -> Tensor:
        return super().kernel(L, backend) * 2


def _subclass(layer: HyenaOperator) -> None:
    layer.filter_fn.__class__ = Other


def _method(layer: HyenaOperator) -> None:
    layer.filter_fn.filter = lambda L: torch.ones(1, L, WIDTH)  # type: ignore[method-assign]


def _hook(layer: HyenaOperator) -> None:
    layer.filter_fn.implicit_filter[0].register_forward_hook(lambda *_: None)


def _parametrization(layer: HyenaOperator) -> None:
    nn.utils.parametrizations.weight_norm(layer.filter_fn.implicit_filter[0])


def _nan(layer: HyenaOperator) -> None:
    layer.filter_fn.implicit_filter[0].weight.data[0, 0] = float("nan")


def _nothing(layer: HyenaOperator) -> None:
    pass


OBSTACLES: dict[str, tuple[dict[str, Any], Callable[[HyenaOperator], None], dict[str, Any], str]] = {
    "z is trained": ({"lr_pos_emb": 1e-5}, _nothing, {}, "the features of its positions are parameters"),
    "z is random": ({}, _random_z, {}, "not those of the formula"),
    "t is another": ({}, _other_t, {}, "not those of the formula"),
    "z has a NaN": ({}, _nan_in_z, {}, "not those of the formula"),
    "hook": ({}, _hook, {}, "not made by plain layers: a hook"),
    "parametrization": ({}, _parametrization, {}, "not made by plain layers"),
    "method": ({}, _method, {}, "not made by plain layers"),
    "subclass": ({}, _subclass, {}, "filter_fn is a Other"),
    "bidirectional": ({"bidirectional": True}, _nothing, {}, "a bidirectional operator"),
    "published": ({"bidirectional": "published"}, _nothing, {}, "a bidirectional operator"),
    "filter_length": ({"filter_length": 700}, _nothing, {}, "filter_length=700 makes the filters short"),
    "packed": ({}, _nothing, {"cu_seqlens": torch.tensor([0, 400, LENGTH])}, "packed sequences"),
    "rough": ({}, roughen, {}, r"too rough .* 1,000 positions: .* is \d\.\de[+-]\d\d .* 1e-07 is allowed"),
    "NaN": ({}, _nan, {}, "too rough"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_way_is_named(name: str, ran: list[str]) -> None:
    options, change, arguments, message = OBSTACLES[name]
    layer = make(**options)
    change(layer)
    u = signal()
    with torch.no_grad():
        found = layer(u, **arguments)
        if name != "subclass":
            assert " positions in float32: the exact route: " in backend.describe()
        layer.long_conv = "fft"
        assert_same(found, layer(u, **arguments))
        assert "far_field" not in ran
        layer.long_conv = "far_field"
        with pytest.raises(FarFieldError, match=message):
            layer(u, **arguments)


def test_given_filters_are_taken(ran: list[str]) -> None:
    layer = make()
    layer(signal(), filters=layer.filters(LENGTH))
    assert ran == ["fft"]
    layer.long_conv = "far_field"
    with pytest.raises(FarFieldError, match="filters with all taps are given"):
        layer(signal(), filters=layer.filters(LENGTH))


def test_transforms_take_the_exact_route(ran: list[str]) -> None:
    layer, u = make().eval().requires_grad_(False), signal()
    torch.func.vmap(layer)(u[None])
    torch.func.vjp(layer, u)
    assert set(ran) == {"fft"}
    layer.long_conv = "far_field"
    with pytest.raises(FarFieldError, match=r"a transform of torch\.func"):
        torch.func.vmap(layer)(u[None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_traced_and_compiled_models_take_the_exact_route(ran: list[str]) -> None:
    layer, u = make().eval().requires_grad_(False), signal()
    torch.jit.trace(layer, u, check_trace=False)
    assert ran == ["fft"]
    compiled = torch.compile(layer, backend="eager", fullgraph=True)(u)
    layer.long_conv = "fft"
    assert_same(compiled, layer(u))


# When it is measured.


def test_inference_measures_once_for_each_state_of_the_parameters(measured: list[Plan], ran: list[str]) -> None:
    layer, u = make().eval(), signal()

    def measurements() -> int:
        before = len(measured)
        with torch.no_grad():
            layer(u)
            layer(u)
        return len(measured) - before

    assert measurements() == 1
    assert measurements() == 0
    weight = layer.filter_fn.implicit_filter[0].weight
    with torch.no_grad():
        weight.mul_(1.01)
    assert measurements() == 1
    layer.filter_fn.implicit_filter[0].weight = nn.Parameter(weight.detach() * 1.01)
    assert measurements() == 1
    layer.load_state_dict(layer.state_dict())
    assert measurements() == 1
    layer.filter_fn.modulation.shift = 0.0
    assert measurements() == 1
    assert measurements() == 0
    assert set(ran) == {"far_field"}
    roughen(layer)
    assert measurements() == 0, "some lags refuse every plan"
    assert ran[-2:] == ["fft", "fft"]


def test_a_fused_optimizer_leaves_no_trace_and_is_seen(ran: list[str]) -> None:
    # In eval() all the time, and trained at a length at which no route is to be decided.
    layer = make().eval()
    with torch.no_grad():
        layer(signal())
    optimizer = torch.optim.SGD(layer.filter_fn.implicit_filter.parameters(), lr=1e6, fused=True)
    weight = layer.filter_fn.implicit_filter[0].weight
    version = weight._version
    layer(signal(50)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert weight._version == version
    with torch.no_grad():
        layer(signal())
    assert ran == ["far_field", "fft", "fft"]


def test_parameters_at_the_address_of_others_are_measured_again(measured: list[Plan]) -> None:
    layer = make().eval()
    linear = layer.filter_fn.implicit_filter[0]
    with torch.no_grad():
        for _ in range(5):
            layer(signal())
            value = linear.weight.detach().clone()
            del linear.weight
            linear.weight = nn.Parameter(value)
    assert len(measured) == 5


def test_a_filter_that_is_roughened_changes_over_and_says_so_once(
    ran: list[str], warnings_of: Callable[[], list[str]]
) -> None:
    layer, u = make(), signal()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    for step in range(6):
        if step == 3:
            roughen(layer)
        y = layer(u)
        with torch.no_grad():
            exact = copy.deepcopy(layer)
            exact.long_conv = "fft"
            assert relative(y, exact(u)) < 1e-5, step
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
    assert ran == ["far_field", "fft"] * 3 + ["fft"] * 6
    (line,) = warnings_of()
    assert line.startswith("long convolutions of 1,000 positions in float32: the filters have become too rough for ")
    assert line.endswith("1e-07 is allowed, the exact route from now on")
    assert line.partition(": ")[2] in backend.describe()
    # New weights are tried again.
    layer.load_state_dict(make().state_dict())
    layer(u)
    assert ran[-1] == "far_field"


def test_a_filter_that_is_rougher_takes_a_finer_plan_first(
    ran: list[str], warnings_of: Callable[[], list[str]]
) -> None:
    layer = make()
    before = after = layer.far_field_plan(LENGTH, torch.float32)
    while after == before:
        with torch.no_grad():
            layer.filter_fn.implicit_filter[1].freq.mul_(1.5)
        layer(signal())
        after = layer.far_field_plan(LENGTH, torch.float32)
    assert before
    assert after
    assert after.h / after.p < before.h / before.p
    assert set(ran) == {"far_field"}
    (line,) = warnings_of()
    assert line.endswith(f"blocks of {after.h} with {after.p} nodes from now on")


def test_by_name_a_filter_that_is_roughened_raises(ran: list[str]) -> None:
    layer = make(long_conv="far_field")
    layer(signal())
    roughen(layer)
    for _ in range(2):
        with pytest.raises(FarFieldError, match=r"too rough for it at 1,000 positions: .* is \d\.\de[+-]\d\d"):
            layer(signal())
    assert ran == ["far_field"]


def test_copies_and_pickles_know_nothing_and_nothing_keeps_a_module_alive(measured: list[Plan]) -> None:
    layer = make().eval()
    with torch.no_grad():
        layer(signal())
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            before = len(measured)
            other(signal())
            assert len(measured) == before + 1
    gone = weakref.ref(layer.filter_fn)
    del layer
    gc.collect()
    assert gone() is None


def test_only_the_last_lengths_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_conv, "_MOST_KNOWN", 2)
    layer = make().eval()
    for length in (600, 601, 602):
        layer.far_field_plan(length, torch.float32)
    assert [length for length, *_ in long_conv._known[layer.filter_fn]] == [601, 602]


def test_threads_share_what_is_known(measured: list[Plan]) -> None:
    layer, u = make().eval(), signal()

    def run(_: int) -> Tensor:
        with torch.no_grad():
            return layer(u)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(run, range(8))
    for other in others:
        assert_same(first, other)
    assert len(measured) == 1


def test_describe_tells_the_setting_and_the_last_decisions() -> None:
    text = backend.describe()
    assert "long convolutions: long_conv='auto'; auto tries the far field from 500 positions on cpu" in text
    layer = make()
    layer(signal())
    plan = layer.far_field_plan(LENGTH, torch.float32)
    assert plan is not None
    line = f"  1,000 positions in float32: blocks of {plan.h} with {plan.p} nodes: the error of the far field is "
    assert line in backend.describe()
    for length in range(500, 520):
        layer.far_field_plan(length, torch.float32)
    assert backend.describe().count(" positions in float32: ") == 8
