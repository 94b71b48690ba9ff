"""Which blocks and nodes a far field takes: what they cost, and the error that they make with the filters at hand.

The error is measured, never assumed. How far a network is from a polynomial on two blocks depends on its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyena_kernels.common import far_field
from hyena_kernels.common.features import features_at


class Plan(NamedTuple):
    """Blocks of ``h`` positions with ``p`` nodes each."""

    h: int
    p: int


class Network(NamedTuple):
    """Parameters of implicit filters, as :func:`hyena_kernels.far_field_filter` takes them."""

    freq: Tensor
    w_in: Tensor
    b_in: Tensor
    w_hidden: Tensor
    b_hidden: Tensor
    w_out: Tensor
    deltas: Tensor | None
    shift: float
    seq_len: int


TOLERANCES = {torch.float16: 1e-5, torch.bfloat16: 1e-5, torch.float32: 1e-7, torch.float64: 1e-11}
"""Largest error of an interpolated tap that is allowed, relative to the root mean square of its filter, by dtype of the
signal. That of float64 is what its rounding leaves of a network with frequencies of 10."""

SAMPLES = 1024
"""Lags at which a plan is measured."""

# Lags that are enough to see that a plan is far from the tolerance.
_FIRST_SAMPLES = 64

# Those of a GPU are what its kernels take.
_BLOCKS = {"cpu": (32, 64, 128, 256), "cuda": (64, 128)}
# Equally spaced nodes amplify the rounding of what is stored at them. In float32 the convolution is off by 2.6e-7 with
# 6 nodes, as by transforms, by 4e-7 with 8, and by 1.2e-6 with 10.
_NODES = {torch.float64: (8, 10, 12), torch.float32: (6, 8), torch.bfloat16: (4, 6, 8), torch.float16: (4, 6, 8)}

# Nanoseconds of forward and backward together, from bench/kernels/far_field.py on one core of a Xeon with AVX-512
# (docs/far_field.md): of the convolution, for a position of a channel, by length and by block, and of the network
# for one product of weights at one position. A node takes float64. On other devices the ratios are a first guess.
_FFT_NS = {15: 11.0, 17: 13.3, 20: 23.0}
_FAR_NS = {32: 9.4, 64: 8.0, 128: 8.7, 256: 13.3}
_MORE_NODES = 0.05
_NETWORK_NS = 0.09
_NODE_NS = 0.17


def products(network: Network) -> int:
    """Products of weights for one position of a network, for all of its channels."""
    width, features = network.w_in.shape
    return int(width * (features + network.w_hidden.shape[0] * width + network.w_out.shape[0]))


def evaluations(plan: Plan, length: int) -> int:
    """Positions at which the network is computed for signals of ``length``."""
    return (2 * plan.p - 1) * (far_field.block_count(length, plan.h) - 1) + min(plan.h, length)


def cost(plan: Plan | None, length: int, network: Network) -> float:
    """Nanoseconds of a training step of the filters and one convolution of them. None is the exact route."""
    channels = network.w_out.shape[0]
    if plan is None:
        log = min(max(length.bit_length() - 1, 15), 20)
        lower = 15 if log < 17 else 17
        upper = 17 if log < 17 else 20
        part = (log - lower) / (upper - lower)
        convolution = _FFT_NS[lower] * (1 - part) + _FFT_NS[upper] * part
        return length * (products(network) * _NETWORK_NS + channels * convolution)
    convolution = _FAR_NS[plan.h] * (1 + _MORE_NODES * (plan.p - 6))
    return evaluations(plan, length) * products(network) * _NODE_NS + length * channels * convolution


def candidates(
    length: int, network: Network, dtype: torch.dtype, device: torch.device, *, any_cost: bool = False
) -> list[Plan]:
    """Plans to try, the cheapest first, none of which costs more than the exact route.

    Args:
        length: number of positions.
        network: gives the sizes.
        dtype: of the signals.
        device: of the parameters.
        any_cost: whether plans that cost more than the exact route are kept too.
    """
    plans = [Plan(h, p) for h in _BLOCKS.get(device.type, _BLOCKS["cpu"]) for p in _NODES[dtype]]
    exact = cost(None, length, network)
    costs = {plan: cost(plan, length, network) for plan in plans}
    return sorted((plan for plan in plans if any_cost or costs[plan] < exact), key=costs.__getitem__)


def _hidden(network: Network, lags: Tensor) -> Tensor:
    """The sines of the last hidden layer at lags ``(n,)``, ``(n, H)`` in float64."""
    freq, w_in, b_in, w_hidden, b_hidden = (tensor.detach().double() for tensor in network[:5])
    z = features_at(lags, network.seq_len, w_in.shape[1])
    h = torch.sin(freq * torch.addmm(b_in, z, w_in.t()))
    for weight, bias in zip(w_hidden, b_hidden, strict=True):
        h = torch.sin(freq * torch.addmm(bias, h, weight.t()))
    return h


def _window(network: Network, lags: Tensor) -> Tensor:
    """The window of every channel at lags ``(n,)``, ``(n, D)`` in float64, or ones."""
    if network.deltas is None:
        return torch.ones((len(lags), 1), dtype=torch.float64, device=lags.device)
    time = lags / max(network.seq_len - 1, 1)
    return torch.exp(-time[:, None] * network.deltas.detach().double().abs()) + network.shift


class Sample(NamedTuple):
    """Pairs of positions whose blocks are ``d`` apart, at ``a`` and ``b`` of them, each ``(n,)`` int64 on the CPU.

    The first ``adjacent`` pairs are of blocks next to each other. Each of the others has one part of the distances.
    """

    d: Tensor
    a: Tensor
    b: Tensor
    adjacent: int


def draw(plan: Plan, length: int, count: int, generator: torch.Generator) -> Sample:
    """Pairs of positions at random: a sixteenth of blocks next to each other, the others from all distances.

    The distances of two blocks have as many equal parts as there are other pairs, with one pair each. So any stretch of
    lags that is longer than two parts has a pair. A window decays, so it bends most between blocks next to each other:
    one that falls within a block is seen there, and nowhere else.
    """
    adjacent = max(count // 16, 1)
    distances, parts = far_field.block_count(length, plan.h) - 1, max(count - adjacent, 1)
    part = torch.rand(parts, generator=generator, dtype=torch.float64) + torch.arange(parts, dtype=torch.float64)
    d = (part * (distances / parts)).long().clamp_(max=distances - 1) + 1
    d = torch.cat((torch.ones(adjacent, dtype=torch.int64), d))
    a = torch.randint(plan.h, d.shape, generator=generator)
    b = torch.randint(plan.h, d.shape, generator=generator)
    return Sample(d, a, b, adjacent)


@torch.no_grad()
def error_at(network: Network, plan: Plan, length: int, sample: Sample, shortest: int | None = None) -> Tensor:
    """Largest error of the far field at some pairs of positions, relative to the rms of each filter: a float64 number.

    It is the largest of three. The first is the error of the filters. The second is a tenth of what it could be at
    other lags: the errors of the sines of the last layer, without the chance that they cancel. A sine network is as
    rough at one lag as at another, but its last layer may be such that the sines cancel at almost all lags. So the
    filter may have one sharp tap that no sample meets. Of the sines all samples tell. A tenth, because such taps are
    few: less than two parts of the lags in a thousand, a share of 0.05 of the filter's norm.

    The third is a tenth of the root mean square error of these sines. They are the gradient of the last layer, whose
    weights may be zero.

    The rms is that of ``length`` taps. With ``shortest`` it is a bound below those of all numbers of taps from there to
    ``length``: that of a filter whose taps from ``shortest`` on are zeros.

    NaN where a filter is not finite.
    """
    device = network.w_in.device
    basis = far_field.basis(plan.h, plan.p, device=device)
    d, a, b = (each.to(device, non_blocking=True) for each in sample[:3])
    count = len(sample.d)
    step = (plan.h - 1) / (plan.p - 1)
    shifts = torch.arange(1 - plan.p, plan.p, dtype=torch.float64, device=device) * step
    lags = (d * plan.h + a - b).double()
    near = torch.arange(min(plan.h, length), dtype=torch.float64, device=device)
    at_nodes = (d[:, None] * plan.h + shifts).flatten()
    positions = torch.cat((lags, near, at_nodes))
    hidden = _hidden(network, positions)
    w_out = network.w_out.detach().double()
    values = (hidden @ w_out.t()) * _window(network, positions)
    exact, taps = values[:count], values[count : count + len(near)]
    # The weight of node m for a pair: products of two bases, summed along α - β = m.
    node = torch.arange(plan.p, device=device)
    pairs = basis[a][:, :, None] * basis[b][:, None, :]
    weights = pairs.new_zeros((count, 2 * plan.p - 1))
    weights.index_add_(1, (node[:, None] - node + plan.p - 1).flatten(), pairs.flatten(1))

    def interpolated(columns: Tensor) -> Tensor:
        return torch.einsum("nm,nmc->nc", weights, columns[-count * (2 * plan.p - 1) :].unflatten(0, (count, -1)))

    error = (interpolated(values) - exact).abs()
    of_sines = (interpolated(hidden) - hidden[:count]).abs()
    uncancelled = of_sines @ w_out.abs().t() * _window(network, ((d - 1) * plan.h).double())
    # The first part counts for nothing: where a filter falls within it, one lag would stand for too many.
    parts = count - sample.adjacent
    counted = lags[sample.adjacent + 1 :, None] < (length if shortest is None else shortest)
    others = (exact[sample.adjacent + 1 :].square() * counted).sum(0) * (max(length - len(near), 0) / parts)
    rms = ((taps.square().sum(0) + others) / length).sqrt()
    worst = torch.maximum(error, uncancelled / 10).amax(0)
    # A filter of zeros has no error. Any other error without a filter is infinite.
    relative = torch.where((worst == 0) & (rms == 0), 0.0, worst / rms).amax()
    return torch.maximum(relative, of_sines.square().mean(1).sqrt().amax() / 10)


def measured_error(
    network: Network,
    plan: Plan,
    length: int,
    *,
    samples: int = SAMPLES,
    generator: torch.Generator | None = None,
    shortest: int | None = None,
) -> float:
    """The error of :func:`error_at` at ``samples`` random pairs of positions. 0 if one block holds all positions.

    Args:
        network: the filters.
        plan: blocks and nodes.
        length: number of positions.
        samples: number of pairs.
        generator: of random numbers, on the CPU. By default one with a fixed seed, so that the answer is always the
            same.
        shortest: of signals of this many positions and up to ``length``, the error is not larger.
    """
    if far_field.block_count(length, plan.h) < 2:
        return 0.0
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    return float(error_at(network, plan, length, draw(plan, length, samples, generator), shortest))


def measured(
    network: Network,
    length: int,
    dtype: torch.dtype,
    generator: torch.Generator,
    *,
    any_cost: bool = False,
    shortest: int | None = None,
) -> Iterator[tuple[Plan, float]]:
    """Every candidate with its measured error, the cheapest first.

    The error of a plan that some lags refuse is that at these. A plan within the tolerance was measured at all of
    :data:`SAMPLES`.
    """
    for plan in candidates(length, network, dtype, network.w_in.device, any_cost=any_cost):
        error = measured_error(network, plan, length, samples=_FIRST_SAMPLES, generator=generator, shortest=shortest)
        if error <= TOLERANCES[dtype]:
            error = measured_error(network, plan, length, generator=generator, shortest=shortest)
        yield plan, error
