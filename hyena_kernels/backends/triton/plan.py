"""How a length is transformed: sizes, tiles and tables of the Triton convolution.

A causal convolution of real signals of length L is one complex circular convolution of any length P ≥ L, if the points
are weighted with ``w[n] = exp(iπ n / 2P)``: the real part of the unweighted result holds outputs 0 … P-1 of the linear
convolution, its imaginary part the next P. The transform of weighted points is the transform at the shifted
frequencies q - 1/4::

    X[q] = sum_n x[n] exp(-2πi n (4q - 1) / 4P)

P is 2^n or 3 · 2^n, so beyond L = 256 at most a third of it is padding. Up to :data:`MAX_ROW` points a program
transforms a row at once, and ``P = groups · rows``. Above, ``P = groups · columns · rows``: kernels first transform the
columns of a matrix of ``groups · columns`` by ``rows`` points, then its rows, with a scratch in memory in between. The
factor 3 is the outermost in both cases. Every output group q of ``groups`` is a transform of combined inputs, and a
loop computes one group after another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

# With eight values a thread has registers for the four states of the backward pass.
RADIX = 8
MAX_LENGTH = 1 << 24
"""Longest sequence that the long convolutions take."""
MAX_ROW = 3 * 2048
COLUMN_BITS = (4, 8, 10, 12)
"""Columns have 16, 256, 1024 or 4096 points: few sizes, because each is a kernel to compile."""
SCRATCH_BYTES = 256 << 20
"""Bound of the scratch of a call. It always holds one row of each kind: 512 MiB backward at L = 2^24."""


@dataclass(frozen=True)
class Plan:
    """Factors of a transform of ``size = groups * columns * rows`` points. ``columns`` is 1 for one pass."""

    groups: int
    columns: int
    rows: int

    @property
    def size(self) -> int:
        """Number of points P."""
        return self.groups * self.columns * self.rows


def transform_size(length: int) -> tuple[int, int]:
    """The smallest P ≥ ``length`` of the form ``groups * 2^n``, at least 256, as (groups, 2^n)."""
    power = max(256, 1 << (length - 1).bit_length())
    # P = 384 = 3 * 128 would leave half a warp idle.
    if power >= 1024 and 3 * power // 4 >= length:
        return 3, power // 4
    return 1, power


@lru_cache(maxsize=1024)
def plan(length: int) -> Plan:
    """The transform of signals of ``length``, from 1 to :data:`MAX_LENGTH`."""
    groups, power = transform_size(length)
    if groups * power <= MAX_ROW and power <= 4096:
        return Plan(groups, 1, power)
    bits = power.bit_length() - 1
    # Rows have 256 to 4096 points, and as many as possible: rows are read and written in whole lines, and a tile holds
    # more columns if they are short.
    column_bits = next(column for column in COLUMN_BITS if bits - column <= 12)
    return Plan(groups, 1 << column_bits, 1 << (bits - column_bits))


def _bit_reversed(value: Tensor, size: int) -> Tensor:
    result, bits = torch.zeros_like(value), size.bit_length() - 1
    for bit in range(bits):
        result |= ((value >> bit) & 1) << (bits - 1 - bit)
    return result


def _stages(points: int) -> int:
    return -(-(points.bit_length() - 1) // (RADIX.bit_length() - 1))


def frequencies(points: int) -> Tensor:
    """``(points,)`` int64: the frequency at every place of a transform by :func:`.dft.forward`."""
    stages = _stages(points)
    rest = torch.arange(points)
    frequency = torch.zeros_like(rest)
    # From the lowest place on: the digits of stages S-1 … 1, then the digit of the last stage, which may be smaller.
    for stage in reversed(range(stages - 1)):
        frequency += _bit_reversed(rest % RADIX, RADIX) * RADIX**stage
        rest = rest // RADIX
    return frequency + _bit_reversed(rest, points // RADIX ** (stages - 1)) * RADIX ** (stages - 1)


def _unit(turns: Tensor) -> Tensor:
    """``exp(-2πi turns)`` as a real tensor with a first dimension of two, from float64 to float32."""
    return torch.stack((torch.cos(2 * math.pi * turns), -torch.sin(2 * math.pi * turns))).float()


def _stage_tables(points: int, groups: int | None) -> Tensor:
    """Factors that :func:`hyena_kernels.backends.triton.dft.forward` takes between its stages.

    Args:
        points: N of the transform.
        groups: G of a weighted transform of G N points, with a table for each group. None for a plain transform.

    Returns:
        ``(G, S - 1, 8, N / 8)``. At place m are the real, then the imaginary parts of four factors: the weight w of the
        lane, ``w W^m``, ``W^2m`` and ``W^4m``. Here ``W = exp(-2πi / N_s)``, and stage s has ``N_s`` points left.
    """
    loops, lanes = _stages(points) - 1, points // RADIX
    table = torch.zeros(groups or 1, loops, 2, 4, lanes, dtype=torch.float32)
    for stage in range(loops):
        left = points // RADIX**stage
        m = torch.arange(left // RADIX, dtype=torch.float64)
        for group in range(groups or 1):
            weight = (4 * group - 1) / (4 * groups * points) if groups and stage == 0 else 0.0
            table[group, stage, :, 0, : len(m)] = _unit(m * weight)
            table[group, stage, :, 1, : len(m)] = _unit(m * (weight + 1 / left))
            table[group, stage, :, 2, : len(m)] = _unit(m * 2 / left)
            table[group, stage, :, 3, : len(m)] = _unit(m * 4 / left)
    return table.flatten(2, 3)


def _group_tables(groups: int) -> tuple[Tensor, Tensor]:
    """Weights of the groups and of the digits of a weighted transform. The stage tables have the rest.

    Returns:
        ``(G, 2, G)`` factor of input group g in output group q, and ``(G, 2, 8)`` factor of the digit.
    """
    q = torch.arange(groups, dtype=torch.float64)[:, None]
    inputs = _unit((4 * q - 1) * torch.arange(groups) / (4 * groups)).transpose(0, 1)
    digits = _unit((4 * q - 1) * torch.arange(RADIX) / (4 * groups * RADIX)).transpose(0, 1)
    return inputs.contiguous(), digits.contiguous()


@dataclass(frozen=True)
class Tables:
    """Tables of one plan on one device, float32."""

    group: Tensor
    """``(G, 2, G)``"""
    digit: Tensor
    """``(G, 2, 8)``"""
    weighted: Tensor
    """``(G, S - 1, 8, N / 8)`` stage tables of the first pass: N = columns, or N = rows for one pass."""
    plain: Tensor
    """``(1, S - 1, 8, rows / 8)`` stage tables of the rows. Empty for one pass."""
    lane: Tensor
    """``(G, 2, columns / 8, rows)`` twiddles between the passes for digit 0. Empty for one pass."""
    column: Tensor
    """``(8, rows)`` factors for the bits of other digits, real parts, then imaginary parts. Empty for one pass."""


# Never freed, because a captured CUDA graph may hold their addresses.
@cache
def tables(plan: Plan, device: torch.device) -> Tables:
    """The tables of ``plan``, computed in float64 on the CPU once for each device.

    Raises:
        RuntimeError: they are needed for the first time while a CUDA graph is captured.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the tables for transforms of {plan.size} points are copied to the device when a length is first used, "
            "which cannot be part of a CUDA graph: run the op once before capturing it"
        )
    with torch.device("cpu"):
        made = _tables(plan)
    return Tables(*(table.to(device) for table in made))


def _tables(plan: Plan) -> tuple[Tensor, ...]:
    first = plan.rows if plan.columns == 1 else plan.columns
    group, digit = _group_tables(plan.groups)
    weighted = _stage_tables(first, plan.groups)
    plain = lane = column = torch.zeros(0, dtype=torch.float32)
    if plan.columns > 1:
        plain = _stage_tables(plan.rows, None)
        frequency = frequencies(plan.columns)
        point = torch.arange(plan.rows, dtype=torch.float64)
        q = torch.arange(plan.groups)[:, None] + plan.groups * frequency[: plan.columns // RADIX]
        lane = _unit((4 * q - 1)[:, :, None] * point / (4 * plan.size)).transpose(0, 1).contiguous()
        # The digit is the upper part of a place, and the frequency is a sum over the bits of the place.
        bits = plan.groups * frequency[torch.tensor([4, 2, 1]) * (plan.columns // RADIX)]
        column = torch.zeros(2, 4, plan.rows, dtype=torch.float32)
        column[:, 1:] = _unit(bits[:, None] * point / plan.size)
        column = column.flatten(0, 1)
    return group, digit, weighted, plain, lane, column
