"""Sizes and tables of the Triton transforms, which the kernels rely on."""

from __future__ import annotations

import math

import pytest
import torch

from hyena_kernels.backends.triton import plan as plans
from hyena_kernels.backends.triton.plan import RADIX, Plan, frequencies, tables, transform_size


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """Nothing here runs a kernel."""


def test_padding_is_at_most_a_third() -> None:
    for length in [*range(513, 3000), *range(3000, 200_000, 977), 2**20 + 1, 1_000_002, 2**24 - 1]:
        groups, power = transform_size(length)
        assert length <= groups * power < 1.5 * length + 1, length


@pytest.mark.parametrize("length", [1, 255, 256, 257, 512])
def test_short_lengths_take_a_power_of_two(length: int) -> None:
    assert transform_size(length) == (1, 256 if length <= 256 else 512)


@pytest.mark.parametrize(
    ("length", "groups", "power"),
    [(513, 3, 256), (768, 3, 256), (769, 1, 1024), (1024, 1, 1024), (1536, 3, 512), (1537, 1, 2048)],
)
def test_a_length_of_exactly_three_quarters_takes_the_factor_three(length: int, groups: int, power: int) -> None:
    assert transform_size(length) == (groups, power)


def test_the_longest_length() -> None:
    assert plans.plan(plans.MAX_LENGTH) == Plan(1, 4096, 4096)


@pytest.mark.parametrize("points", [16, 64, 128, 256, 2048, 4096])
def test_frequencies_are_a_permutation_with_digits_reversed(points: int) -> None:
    places = frequencies(points)
    assert torch.equal(places.sort().values, torch.arange(points))
    # The digit adds the upper bits of a place. The tables between passes rely on sums over bits.
    lanes = points // RADIX
    for digit in range(RADIX):
        bits = [bit for bit in (4, 2, 1) if digit & bit]
        assert torch.equal(
            places[digit * lanes : (digit + 1) * lanes], places[:lanes] + sum(int(places[b * lanes]) for b in bits)
        )


def stages(points: int, values: torch.Tensor, table: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The transform of dft.forward in complex128, from its docstring: butterfly, twiddles, rotation."""
    lanes = points // RADIX
    reverse = torch.tensor([0, 4, 2, 6, 1, 5, 3, 7])
    x = values.view(RADIX, lanes) * weight[:, None]
    for stage in range(table.shape[0]):
        x = torch.fft.fft(x, dim=0)[reverse]
        factors = torch.complex(table[stage, :4], table[stage, 4:]).to(torch.complex128)
        at = torch.arange(lanes) >> (3 * stage)
        digits = reverse[:, None]
        twiddle = (
            torch.where(digits & 1 == 1, factors[1][at], factors[0][at])
            * factors[2][at] ** (digits >> 1 & 1)
            * factors[3][at] ** (digits >> 2)
        )
        x = (x * twiddle).t().reshape(RADIX, lanes)
    last = points // RADIX ** table.shape[0]
    bits = last.bit_length() - 1
    reverse = torch.tensor([int(f"{q:0{bits}b}"[::-1], 2) if bits else 0 for q in range(last)])
    return torch.fft.fft(x.reshape(last, -1), dim=0)[reverse].reshape(-1)


@pytest.mark.parametrize("points", [16, 64, 256, 512, 1024, 4096])
@pytest.mark.parametrize("groups", [1, 3])
def test_tables_give_the_weighted_transform(points: int, groups: int) -> None:
    found = tables(Plan(groups, 1, points), torch.device("cpu"))
    x = torch.randn(groups * points, dtype=torch.complex128)
    n = torch.arange(groups * points)
    for q in range(groups):
        group = torch.complex(*found.group[q, :, :groups]).to(torch.complex128)
        digit = torch.complex(*found.digit[q]).to(torch.complex128)
        mixed = (x.view(groups, points) * group[:, None]).sum(0)
        spectrum = stages(points, mixed, found.weighted[q], digit)
        frequency = q + groups * frequencies(points)
        exact = (
            torch.exp(-2j * math.pi * torch.outer((4 * frequency[:8] - 1).double(), n.double()) / (4 * groups * points))
            @ x
        )
        assert (spectrum[:8] - exact).norm() < 1e-6 * exact.norm()


def test_tables_between_the_passes() -> None:
    plan = Plan(3, 16, 64)
    found = tables(plan, torch.device("cpu"))
    lanes = plan.columns // RADIX
    frequency = frequencies(plan.columns)
    column = torch.arange(plan.rows)
    bits = torch.complex(found.column[:4], found.column[4:])
    for q in range(plan.groups):
        lane = torch.complex(found.lane[q, 0], found.lane[q, 1])
        for place in range(plan.columns):
            digit, at = divmod(place, lanes)
            product = lane[at].to(torch.complex128)
            for slot, bit in enumerate((4, 2, 1), start=1):
                product = product * (bits[slot] if digit & bit else 1)
            turns = (4 * (q + plan.groups * frequency[place]) - 1) * column.double() / (4 * plan.size)
            assert (product - torch.exp(-2j * math.pi * turns)).abs().max() < 1e-6


def test_tables_are_made_once() -> None:
    assert tables(Plan(1, 1, 256), torch.device("cpu")) is tables(Plan(1, 1, 256), torch.device("cpu"))


def test_tables_do_not_depend_on_the_default_dtype() -> None:
    plan = Plan(3, 16, 128)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = plans._tables(plan)
    finally:
        torch.set_default_dtype(before)
    for table, other in zip(made, plans._tables(plan), strict=True):
        assert table.dtype == torch.float32
        assert torch.equal(table, other)
