"""Which route an operator takes: plans whose error was measured, adversarial filters, training, and what is told."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyena_kernels import (
    FarFieldError,
    HyenaOperator,
    backend,
    cache_filters,
    far_field_conv,
    far_field_filter,
    far_field_plan as plans,
    fftconv,
    implicit_filter,
    long_conv,
)
from hyena_kernels.common.features import features_at
from hyena_kernels.far_field_plan import Network, Plan

L = 1 << 14
TOLERANCE = plans.TOLERANCES[torch.float32]


def operator(**options: Any) -> HyenaOperator:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "d_model": 2,
        "l_max": L,
        "filter_order": 16,
        "emb_dim": 5,
        "w": 10.0,
        "lr_pos_emb": 0.0,
    }
    return HyenaOperator(**settings | options)


def smooth(**options: Any) -> HyenaOperator:
    """An operator whose filters hold the tolerance at L positions."""
    return operator(w=1.0, **options)


@pytest.fixture(autouse=True)
def short_enough(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``"auto"`` tries L positions, at any cost, and nothing has been logged."""
    monkeypatch.setitem(long_conv.MIN_LENGTH, "cpu", L)
    monkeypatch.setattr(plans, "cost", lambda plan, length, network: 1e9 if plan is None else plan.p / plan.h)
    monkeypatch.setattr(long_conv, "_announced", set())
    long_conv._decisions.clear()
    yield
    long_conv._decisions.clear()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def exact_filter(network: Network, length: int) -> Tensor:
    """All taps in float64, at the positions of the formula."""
    *tensors, deltas, shift, seq_len = network
    z = features_at(torch.arange(length, dtype=torch.float64), seq_len, network.w_in.shape[1])
    window = (None, None) if deltas is None else (z[:, 0].contiguous(), deltas.double())
    with torch.no_grad():
        return implicit_filter(z, *(tensor.double() for tensor in tensors), *window, shift)


def error_of(op: HyenaOperator, plan: Plan, length: int) -> float:
    """Relative L2 error of the far field with this plan, computed in float64, of the worst channel."""
    network = op.filter_fn.network()
    u = torch.randn(1, len(network.w_out), length, dtype=torch.float64)
    exact = fftconv(u, exact_filter(network, length))
    with torch.no_grad():
        filters = far_field_filter(
            *network[:8], length=length, seq_len=network.seq_len, h=plan.h, p=plan.p, dtype=torch.float64
        )
    far = far_field_conv(u, *filters)
    norm = exact.norm(dim=-1)
    return float(torch.where(norm == 0, 0.0, (far - exact).norm(dim=-1) / norm).max())


def scale_weights(factor: float) -> Callable[[HyenaOperator], Any]:
    def change(op: HyenaOperator) -> None:
        for parameter in op.filter_fn.implicit_filter.parameters():
            parameter.mul_(factor)

    return change


def set_frequency(value: float) -> Callable[[HyenaOperator], Any]:
    return lambda op: op.filter_fn.network().freq.fill_(value)


def one_sharp_tap(op: HyenaOperator) -> None:
    """Rough sines whose sum in the last layer cancels everywhere but at one lag."""
    set_frequency(60.0)(op)
    network = op.filter_fn.network()
    hidden = plans._hidden(network, torch.arange(L, dtype=torch.float64))
    target = torch.zeros(L, dtype=torch.float64)
    target[L // 3 + 7] = 1.0
    network.w_out.copy_(torch.linalg.lstsq(hidden, target).solution)


def rough_channel(op: HyenaOperator) -> None:
    """Half of the sines are rough, and one channel alone takes them."""
    network = op.filter_fn.network()
    layers = [layer for layer in op.filter_fn.implicit_filter if isinstance(layer, torch.nn.Linear)]
    half = network.w_out.shape[1] // 2
    layers[0].weight[half:].mul_(2000.0)
    for layer in layers[1:-1]:
        layer.weight[:half, half:] = 0.0
        layer.weight[half:, :half] = 0.0
    network.w_out[0, half:] = 0.0
    network.w_out[1, :half] = 0.0


def rough_later(op: HyenaOperator) -> None:
    """The phase of the first layer hardly moves at early lags, and fast at a quarter of the period."""
    weight = op.filter_fn.network().w_in
    weight.zero_()
    weight[:, 2] = torch.linspace(2000.0, 4000.0, len(weight))


def set_entry(value: float) -> Callable[[HyenaOperator], Any]:
    return lambda op: op.filter_fn.network().w_in[0].fill_(value)


def set_decay(value: float) -> Callable[[HyenaOperator], Any]:
    return lambda op: op.filter_fn.modulation.deltas.fill_(value)


def random_positions(op: HyenaOperator) -> None:
    op.filter_fn.pos_emb.z.uniform_(-1, 1)


def other_times(op: HyenaOperator) -> None:
    op.filter_fn.pos_emb.t.mul_(0.5)


def slightly_other_positions(op: HyenaOperator) -> None:
    op.filter_fn.pos_emb.z[0, L // 2, 1] += 1e-4


ADVERSARIAL: dict[str, tuple[dict[str, Any], Callable[[HyenaOperator], Any] | None]] = {
    "weights x 30": ({}, scale_weights(30.0)),
    "weights x 3": ({"w": 1.0}, scale_weights(3.0)),
    "weights x 1.5": ({"w": 1.0}, scale_weights(1.5)),
    "frequencies of 1,000": ({}, set_frequency(1000.0)),
    "frequencies of 100": ({}, set_frequency(100.0)),
    "one sharp tap": ({}, one_sharp_tap),
    "one rough channel": ({"w": 1.0}, rough_channel),
    "rough at late lags": ({"w": 1.0}, rough_later),
    "random positions": ({"w": 1.0}, random_positions),
    "slightly other positions": ({"w": 1.0}, slightly_other_positions),
    "other times": ({"w": 1.0}, other_times),
    "trained positions": ({"w": 1.0, "lr_pos_emb": 1e-5}, None),
    "tiny": ({"w": 1.0}, lambda op: op.filter_fn.network().w_out.mul_(1e-30)),
    "zeros": ({"w": 1.0}, lambda op: op.filter_fn.network().w_out.zero_()),
    "not a number": ({"w": 1.0}, set_entry(float("nan"))),
    "infinite": ({"w": 1.0}, set_entry(float("inf"))),
    "a window of one block": ({"w": 1.0}, set_decay(1e4)),
    "a window of some blocks": ({"w": 1.0, "shift": 0.0}, set_decay(300.0)),
    "no limit of the window": ({"w": 1.0, "shift": 0.0}, None),
    "no window": ({"w": 1.0, "modulate": False}, None),
    "made for more positions": ({"l_max": 1 << 20}, None),
    "one channel, order 3": ({"d_model": 1, "order": 3, "w": 1.0}, None),
    "many features": ({"emb_dim": 33, "w": 1.0}, None),
    "no hidden layer": ({"num_inner_mlps": 0}, None),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_filter_is_within_the_tolerance_or_takes_the_exact_route(name: str) -> None:
    options, change = ADVERSARIAL[name]
    op = operator(**options).requires_grad_(False)
    if options.get("lr_pos_emb"):
        op.filter_fn.pos_emb.z.requires_grad_(True)
    if change is not None:
        change(op)
    plan = op.far_field_plan(L, torch.float32)
    exact = {"weights x 30", "frequencies of 1,000", "one sharp tap", "one rough channel", "rough at late lags"}
    exact |= {"random positions", "slightly other positions", "other times", "trained positions"}
    exact |= {"not a number", "infinite", "a window of one block"}
    smooth_ones = {"tiny", "zeros", "no window", "no limit of the window", "made for more positions"}
    if name in exact:
        assert plan is None
    elif name in smooth_ones:
        assert plan is not None
    if plan is not None:
        assert error_of(op, plan, L) <= TOLERANCE
        assert plan == op.far_field_plan(L, torch.float32)


def test_a_sharp_tap_that_no_sample_meets_is_found_by_the_sines_of_the_last_layer() -> None:
    op = operator().requires_grad_(False)
    one_sharp_tap(op)
    network = op.filter_fn.network()
    k = exact_filter(network, L)
    peak, others = k.abs().amax(), k.abs().median()
    assert peak > 20 * others
    # With the sines replaced by their sum, nothing but luck would find the tap.
    assert plans.measured_error(network, Plan(32, 8), L) > 1e-3


def test_the_far_field_gives_the_numbers_of_the_exact_route() -> None:
    op, u = smooth(order=3), torch.randn(2, L, 2)
    found = {}
    for route in ("fft", "far_field"):
        op.long_conv = route  # type: ignore[assignment]
        y = op(u)
        found[route] = [y, *torch.autograd.grad(y.square().sum(), list(op.parameters()))]
    for one, other in zip(found["far_field"], found["fft"], strict=True):
        # Two routes, and the float32 network of the exact one.
        assert (one - other).norm() <= 2e-5 * other.norm()
    assert not torch.equal(found["far_field"][0], found["fft"][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    # Positions too are of float64 where the signals are.
    with default_dtype(torch.float64 if dtype == torch.float64 else torch.float32):
        op = smooth().to(dtype)
    assert (op.far_field_plan(L, dtype) is None) == (dtype == torch.float64), "float64 takes it by name alone"
    op.long_conv = "far_field"
    plan = op.far_field_plan(L, dtype)
    assert plan is not None
    assert error_of(op, plan, L) <= plans.TOLERANCES[dtype]
    u = torch.randn(1, L, 2, dtype=dtype)
    with torch.no_grad():
        far = op(u)
        op.long_conv = "fft"
        exact = op(u)
    assert (far - exact).norm() <= (0.01 if dtype == torch.bfloat16 else 1e-10) * exact.norm()


def test_dropout_and_wrapped_short_filters_take_it_step_by_step() -> None:
    op, u = smooth(dropout=0.3), torch.randn(1, L, 2)
    results = []
    for route in ("fft", "far_field"):
        op.long_conv = route  # type: ignore[assignment]
        torch.manual_seed(1)
        results.append(op(u))
    assert (results[0] - results[1]).norm() <= 1e-5 * results[0].norm()


@pytest.mark.parametrize(
    ("options", "call", "reason"),
    [
        ({"bidirectional": True}, {}, "a bidirectional operator"),
        ({"filter_length": 64}, {}, "filter_length=64"),
        ({"lr_pos_emb": 1e-5}, {}, "are parameters"),
        ({"backend": "cuda"}, {}, "backend 'cuda' has no kernels"),
        ({}, {"given": True}, "filters with all taps are given"),
        ({}, {"packed": True}, "packed sequences"),
    ],
)
def test_what_cannot_take_it_is_refused_by_name_and_exact_otherwise(
    options: dict[str, Any], call: dict[str, Any], reason: str
) -> None:
    op = operator(**{"w": 1.0} | options)
    assert op.far_field_plan(L, torch.float32, **call) is None
    op.long_conv = "far_field"
    with pytest.raises(FarFieldError, match=reason):
        op.far_field_plan(L, torch.float32, **call)


def test_hooks_transforms_and_tracing_take_the_exact_route() -> None:
    op, u = smooth(), torch.randn(1, L, 2)
    assert op.far_field_plan(L, torch.float32) is not None
    seen: list[Any] = []

    def look(x: Tensor) -> Tensor:
        seen.append(op.far_field_plan(L, torch.float32))
        return x

    torch.func.vmap(look)(u)
    handle = op.filter_fn.implicit_filter[0].register_forward_hook(lambda *_: None)
    seen.append(op.far_field_plan(L, torch.float32))
    handle.remove()
    assert seen == [None, None]
    assert op.far_field_plan(L, torch.float32) is not None


def test_by_name_it_raises_with_the_measured_error() -> None:
    op = operator(long_conv="far_field")
    with torch.no_grad():
        scale_weights(30.0)(op)
    with pytest.raises(FarFieldError, match=r"too rough .* the error of the best plan is \d.* and 1e-07 is allowed"):
        op(torch.randn(1, L, 2))


def test_a_setting_of_the_environment_is_the_word_of_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    op = smooth()
    monkeypatch.setattr(long_conv, "_environment", "fft")
    assert op.far_field_plan(L, torch.float32) is None
    op.long_conv = "far_field"
    assert op.far_field_plan(L, torch.float32) is not None
    op.long_conv = "auto"
    monkeypatch.setattr(long_conv, "_environment", "quick")
    with pytest.raises(ValueError, match="HYENA_LONG_CONV: long_conv='quick' is unknown: choose one of 'auto', 'fft'"):
        op(torch.randn(1, 8, 2))
    with pytest.raises(ValueError, match="HyenaOperator: long_conv='quick' is unknown"):
        operator(long_conv="quick")


def test_the_error_is_measured_once_for_each_state_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    op, measured = smooth().eval(), []
    count = plans.measured
    monkeypatch.setattr(plans, "measured", lambda *args, **kwargs: measured.append(1) or count(*args, **kwargs))
    with torch.no_grad():
        for _ in range(3):
            op.far_field_plan(L, torch.float32)
        assert len(measured) == 1
        op.filter_fn.implicit_filter[0].weight.mul_(1.01)
        op.far_field_plan(L, torch.float32)
    assert len(measured) == 2


def test_training_does_not_touch_the_random_state() -> None:
    op, u = smooth(), torch.randn(1, L, 2)
    before = torch.get_rng_state()
    op(u).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_a_filter_that_is_roughened_in_training_changes_over_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    op, u = smooth(), torch.randn(1, L, 2)
    optimizer = torch.optim.SGD(op.parameters(), lr=1e-3)
    routes = []
    with caplog.at_level(logging.WARNING, logger="hyena_kernels"):
        for step in range(6):
            if step == 3:
                with torch.no_grad():
                    scale_weights(30.0)(op)
            optimizer.zero_grad()
            op(u).square().mean().backward()
            optimizer.step()
            routes.append(next(reversed(long_conv._decisions.values())))
    lines = [record.getMessage() for record in caplog.records if "long convolutions" in record.getMessage()]
    assert len(lines) == 1
    assert "have become too rough for blocks of" in lines[0]
    assert "the exact route from now on" in lines[0]
    assert "the exact route" not in routes[2]


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_takes_the_route_of_the_forward_pass(reentrant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    op, u = smooth(), torch.randn(1, L, 2, requires_grad=True)
    op(u)
    asked: list[int] = []
    count = plans.measured_error
    monkeypatch.setattr(plans, "measured_error", lambda *args, **kwargs: asked.append(1) or count(*args, **kwargs))
    loss = checkpoint(op, u, use_reentrant=reentrant).sum()
    before = len(asked)
    loss.backward()
    assert (before, len(asked)) == (1, 1), "backward measures nothing"


def test_kept_filters_and_copies() -> None:
    op, u = smooth().eval(), torch.randn(1, L, 2)
    with torch.no_grad():
        plain = op(u)
        with cache_filters(op):
            assert torch.equal(op(u), plain)
            first = op.far_field_filters(L, Plan(32, 8))
            assert op.far_field_filters(L, Plan(32, 8))[0].data_ptr() == first[0].data_ptr()
        assert torch.equal(copy.deepcopy(op)(u), plain)
    near, nodes, D = op.far_field_filters(L, Plan(64, 6))
    assert near.shape == (1, 2, 64)
    assert nodes.shape == (1, 2, 11, L // 64 - 1)
    assert D is not None
    assert D.shape == (1, 2)


def test_a_gpu_is_read_one_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of it, with a device that says ``cuda`` and an event that is done when it is told."""

    class Event:
        done = False

        def record(self, stream: None) -> None:
            """Nothing waits here."""

        def query(self) -> bool:
            return Event.done

    class Filters:
        def __init__(self) -> None:
            self.bias = type("Bias", (), {"device": torch.device("cuda")})()

        def network(self) -> None:
            """The error below needs none."""

    error = torch.tensor(1e-9, dtype=torch.float64)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda *shape, dtype, pin_memory: torch.zeros(*shape, dtype=dtype))
    monkeypatch.setattr(plans, "error_at", lambda *args: error)
    known = long_conv._Known()
    known.plan, known.decided = Plan(128, 6), True
    check: Any = long_conv._checked
    assert check(Filters(), known, L) is None, "the first answer is under way"
    assert check(Filters(), known, L) is None, "the GPU has not come so far"
    Event.done = True
    error = torch.tensor(1.0, dtype=torch.float64)
    assert check(Filters(), known, L) == pytest.approx(1e-9)
    assert check(Filters(), known, L) == 1.0


def test_describe_tells_the_setting_and_the_last_routes() -> None:
    smooth()(torch.randn(1, L, 2))
    text = backend.describe()
    assert "long convolutions: long_conv='auto'; auto tries the far field from 16,384 positions on cpu" in text
    assert "16,384 positions in float32: blocks of" in text
