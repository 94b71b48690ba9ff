"""Plans of the far field: the error that is measured of each holds for the convolution, whatever the filters are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyena_kernels import (
    FarFieldError,
    far_field_filter,
    far_field_plan as plans,
    fftconv,
    implicit_conv,
    implicit_filter,
)
from hyena_kernels.common.features import features_at
from hyena_kernels.far_field_conv import far_field_conv
from hyena_kernels.far_field_plan import Network, Plan

LENGTH = 4000
CPU = torch.device("cpu")


def network(*, width: int = 8, channels: int = 3, features: int = 5, layers: int = 2, seq_len: int = 50_000) -> Network:
    """Filters as a new model has them, for more positions than :data:`LENGTH`: they are smooth."""
    draw = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1) / math.sqrt(shape[-1])

    return Network(
        torch.full((width,), 10.0, dtype=torch.float64),
        weights(width, features),
        weights(1, width)[0],
        weights(layers, width, width),
        weights(layers, width),
        weights(channels, width),
        torch.linspace(3.0, 15.0, channels, dtype=torch.float64),
        0.05,
        seq_len,
    )


def scaled(factor: float, *names: str) -> Network:
    made = network()
    return made._replace(**{name: getattr(made, name) * factor for name in names})


def cosines(steps: list[float], *, at: int = 3333) -> Network:
    """One channel: the sum of ``cos(step (n - at))``, from units without hidden layers."""
    made = network(width=len(steps), channels=1, features=3, layers=0, seq_len=LENGTH)
    step = torch.tensor(steps, dtype=torch.float64)
    w_in = torch.zeros_like(made.w_in)
    w_in[:, 0] = step * (LENGTH - 1)
    return made._replace(
        freq=torch.ones_like(step), w_in=w_in, b_in=math.pi / 2 - step * at, w_out=torch.ones_like(made.w_out),
        deltas=None,
    )  # fmt: skip


def cancelled() -> Network:
    """Smooth sines that cancel at almost all lags, as well as float64 lets them: a bump is left."""
    made = network(width=32, channels=1, layers=1)
    lags = torch.arange(LENGTH, dtype=torch.float64)
    sines = plans._hidden(made, lags)
    bump = torch.exp(-(((lags - 3333) / 5) ** 2))
    return made._replace(w_out=torch.linalg.lstsq(sines, bump[:, None]).solution.t().contiguous(), deltas=None)


def late() -> Network:
    """A phase that hardly moves at first, and goes by more than one at each of the last lags."""
    made = network(features=5, layers=0, seq_len=4 * LENGTH)
    w_in = made.w_in.clone()
    w_in[:, 2] = 600.0
    return made._replace(w_in=w_in)


def one_rough(factor: float) -> Network:
    """A unit of high frequency takes part in the last channel, by ``factor``."""
    made = network()
    freq, w_out = made.freq.clone(), made.w_out.clone()
    freq[0], w_out[:, 0], w_out[-1, 0] = 3000.0, 0.0, factor
    return made._replace(freq=freq, w_out=w_out)


def with_value(name: str, value: float) -> Network:
    made = network()
    tensor = getattr(made, name).clone()
    tensor[-1] = value
    return made._replace(**{name: tensor})


def decaying(lags: float, *, shift: float = 0.0) -> Network:
    """A window that falls to 1/e within so many lags."""
    made = network()
    return made._replace(deltas=torch.full((3,), (made.seq_len - 1) / lags, dtype=torch.float64), shift=shift)


FAR, EXACT, EITHER = "far", "exact", "either"
# What has to be taken with signals of float32.
FILTERS: dict[str, tuple[Callable[[], Network], str]] = {
    "new": (network, FAR),
    "no window": (lambda: network()._replace(deltas=None), FAR),
    "one channel": (lambda: network(channels=1), FAR),
    "no hidden layer": (lambda: network(layers=0), FAR),
    "made for far more positions": (lambda: network(seq_len=10**7), FAR),
    "made for as many positions": (lambda: network(seq_len=LENGTH), EITHER),
    "weights x 1.5": (lambda: scaled(1.5, "w_in", "w_hidden", "w_out"), EITHER),
    "frequencies x 2": (lambda: scaled(2, "freq"), EITHER),
    "weights x 30": (lambda: scaled(30, "w_in", "w_hidden", "w_out"), EXACT),
    "frequencies of 1,000": (lambda: scaled(100, "freq"), EXACT),
    "one tap by frequencies": (lambda: cosines([math.pi * i / 64 for i in range(64)]), EXACT),
    "wide bump by frequencies": (lambda: cosines([math.pi * i / 65536 for i in range(32)]), EITHER),
    "one bump by cancellation": (cancelled, EXACT),
    "one rough channel": (lambda: one_rough(1.0), EXACT),
    "one rough unit of weight 1e-6": (lambda: one_rough(1e-6), EXACT),
    "rough at late lags": (late, EXACT),
    "rms of 1e-30": (lambda: scaled(1e-30, "w_out"), FAR),
    "rms of 1e30": (lambda: scaled(1e30, "w_out"), FAR),
    "zeros": (lambda: scaled(0.0, "w_out"), FAR),
    "zeros of rough sines": (lambda: scaled(0.0, "w_out")._replace(freq=torch.full((8,), 1e3).double()), EXACT),
    "NaN": (lambda: with_value("w_out", float("nan")), EXACT),
    "infinite weight": (lambda: with_value("w_in", float("inf")), EXACT),
    "infinite decay": (lambda: with_value("deltas", float("inf")), EITHER),
    "window of 3 lags": (lambda: decaying(3), EITHER),
    "window of 20 lags": (lambda: decaying(20), EXACT),
    "window of 20 lags and a limit": (lambda: decaying(20, shift=0.01), EXACT),
    "window of 1,000 lags": (lambda: decaying(1000), EITHER),
}  # fmt: skip


def taps_of(filters: Network, length: int = LENGTH) -> Tensor:
    z = features_at(torch.arange(length, dtype=torch.float64), filters.seq_len, filters.w_in.shape[1])
    time = None if filters.deltas is None else z[:, 0].contiguous()
    return implicit_filter(z, *filters[:6], time, filters.deltas, filters.shift)


def nodes_of(filters: Network, plan: Plan, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    return far_field_filter(
        *filters[:8], length=length, seq_len=filters.seq_len, h=plan.h, p=plan.p, dtype=torch.float64
    )


def relative(found: Tensor, exact: Tensor) -> float:
    """The largest relative error of a channel's norm. A channel without a norm must have no error."""
    error, norm = (found - exact).norm(dim=-1), exact.norm(dim=-1)
    return float(torch.where((error == 0) & (norm == 0), 0.0, error / norm).amax())


@pytest.mark.parametrize("name", FILTERS)
def test_no_plan_within_tolerance_has_a_convolution_beyond_it(name: str) -> None:
    make, expected = FILTERS[name]
    filters = make()
    k = taps_of(filters)
    u = torch.randn(1, k.shape[0], LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = fftconv(u, k) if k.isfinite().all() else None
    taken: dict[torch.dtype, list[Plan]] = {dtype: [] for dtype in plans.TOLERANCES}
    errors: dict[Plan, float] = {}
    convolutions: dict[Plan, float] = {}
    for dtype, tolerance in plans.TOLERANCES.items():
        for plan in plans.candidates(LENGTH, filters, dtype, CPU, any_cost=True):
            if plan not in errors:
                errors[plan] = plans.measured_error(filters, plan, LENGTH)
            if not errors[plan] <= tolerance:
                continue
            assert exact is not None, f"{plan} has an error, and the filters are not finite"
            taken[dtype].append(plan)
            if plan not in convolutions:
                convolutions[plan] = relative(far_field_conv(u, *nodes_of(filters, plan)), exact)
            assert convolutions[plan] <= tolerance, (dtype, plan)
    if expected != EITHER:
        assert bool(taken[torch.float32]) == (expected == FAR), taken


@pytest.mark.parametrize("seed", range(5))
def test_the_few_lags_of_a_training_step_see_what_all_would(seed: int) -> None:
    # Within a factor of ten, for filters near the tolerance and for others.
    for factor in (0.5, 1.0, 2.0, 4.0):
        filters, plan = scaled(factor, "freq"), Plan(32, 6)
        few = plans.measured_error(filters, plan, LENGTH, samples=32, generator=torch.Generator().manual_seed(seed))
        many = plans.measured_error(filters, plan, LENGTH)
        assert few <= 10 * many
        assert many <= 10 * few


@pytest.mark.parametrize("plan", [Plan(32, 6), Plan(64, 8), Plan(128, 6)])
def test_every_part_of_the_distances_has_a_pair(plan: Plan) -> None:
    sample = plans.draw(plan, 1 << 20, 1024, torch.Generator().manual_seed(0))
    distances = (1 << 20) // plan.h - 1
    assert len(sample.d) == 1024
    assert sample.adjacent == 64
    assert (sample.d[:64] == 1).all()
    assert sample.d.amax() <= distances
    assert sample.d[64:].diff().amax() <= 2 * math.ceil(distances / 960)
    assert sample.a.amin() >= 0
    assert sample.a.amax() < plan.h


def test_the_error_is_the_same_at_every_call_and_takes_no_number_of_torch() -> None:
    state = torch.random.get_rng_state()
    first = plans.measured_error(network(), Plan(32, 6), LENGTH)
    assert first == plans.measured_error(network(), Plan(32, 6), LENGTH)
    assert first != plans.measured_error(network(), Plan(32, 6), LENGTH, generator=torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_one_block_has_no_far_field() -> None:
    assert plans.measured_error(scaled(100, "freq"), Plan(32, 6), 32) == 0.0
    assert plans.measured_error(scaled(100, "freq"), Plan(32, 6), 33) > 0.0


def test_candidates_are_cheaper_than_the_exact_route() -> None:
    filters = network(width=64, channels=128)
    found = plans.candidates(1 << 20, filters, torch.float32, CPU)
    costs = [plans.cost(plan, 1 << 20, filters) for plan in found]
    assert costs
    assert costs == sorted(costs)
    assert costs[-1] < plans.cost(None, 1 << 20, filters)
    everything = plans.candidates(256, filters, torch.float32, CPU, any_cost=True)
    cheap = plans.candidates(256, filters, torch.float32, CPU)
    assert set(cheap) < set(everything)


def test_evaluations_are_those_of_the_filter() -> None:
    for plan in (Plan(32, 6), Plan(64, 8)):
        near, nodes = nodes_of(network(), plan)
        assert plans.evaluations(plan, LENGTH) == near.shape[1] + nodes[0].numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_implicit_conv_measures_its_plan(dtype: torch.dtype) -> None:
    filters = network(channels=2)
    u = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = implicit_conv(u, *filters[:6], deltas=filters.deltas, shift=filters.shift, seq_len=filters.seq_len)
    exact = fftconv(u.double(), taps_of(filters, 3000))
    assert relative(y.double(), exact) < {torch.float64: 1e-11, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]


def test_implicit_conv_refuses_rough_filters_with_the_error() -> None:
    filters = scaled(100, "freq")
    u = torch.randn(1, 3, 3000)
    with pytest.raises(FarFieldError, match=r"implicit_conv: .* 3,000 positions: .* is \d\.\de[+-]\d\d .* 1e-07 is"):
        implicit_conv(u, *filters[:6], deltas=filters.deltas, seq_len=filters.seq_len)
    implicit_conv(u, *filters[:6], deltas=filters.deltas, seq_len=filters.seq_len, h=32, p=6)
    with pytest.raises(ValueError, match="both h and p or neither, got h=32 and p=None"):
        implicit_conv(u, *filters[:6], h=32)
