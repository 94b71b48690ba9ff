"""Transform sizes and dtypes, and slices that bound scratch memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes of scratch that one slice of rows may take. On a CPU it should stay in the last-level cache; elsewhere this only
# bounds memory. docs/LOG.md has the measurements.
SCRATCH_BYTES = {"cpu": 24 << 20}
SCRATCH_BYTES_ELSEWHERE = 256 << 20


def accumulator(*tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype in which transforms are computed: float64 if any tensor has it, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def centre(filter_length: int, causal: bool) -> int:
    """Index of the filter tap of zero lag."""
    return 0 if causal else (filter_length - 1) // 2


def fft_size(length: int, filter_length: int, tap: int) -> int:
    """Smallest even size ``2^a 3^b 5^c`` at which no wrap-around reaches the kept outputs of a linear convolution.

    Args:
        length: length L of the signal and of the output.
        filter_length: length K of the filter.
        tap: index of the filter's tap of zero lag. It is also the index of the first output kept.
    """
    needed = max(length + filter_length - 1 - tap, length + tap, 2)
    best = 1 << (needed - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            quotient = -(-needed // three)
            size = three << max(1, (quotient - 1).bit_length())
            best = min(best, size)
            three *= 3
        five *= 5
    return best


def class_length(length: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, … that is no less than ``length``: the row that a packed segment gets."""
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power >= 4 and length <= power * 3 // 4 else power


def slices(total: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover ``range(total)``."""
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def tile(batch: int, channels: int, row_bytes: int, device: torch.device) -> tuple[int, int]:
    """How many batch entries and channels to transform at a time so that scratch stays bounded.

    Args:
        batch: batch size B.
        channels: number of channels D.
        row_bytes: scratch of one row (one channel of one batch entry).
        device: device of the tensors.
    """
    rows = max(1, SCRATCH_BYTES.get(device.type, SCRATCH_BYTES_ELSEWHERE) // row_bytes)
    channel_step = max(1, min(channels, rows // max(batch, 1)))
    return max(1, min(batch, rows // channel_step)), channel_step


def as_rows(*tensors: tuple[Tensor, int]) -> tuple[Tensor, ...]:
    """Tensors of the same leading dimensions, each with two of them: rows and positions ``(B, L, …)``.

    They are views where at most two dimensions lead, and one row where the strides of all allow it. Tensors with more
    dimensions may be copied.

    Args:
        tensors: each with its number of trailing dimensions, 0 or 1.
    """
    leading = [tensor.dim() - trailing for tensor, trailing in tensors]
    if leading[0] > 2:
        views = [tensor.flatten(0, count - 1)[None] for (tensor, _), count in zip(tensors, leading, strict=True)]
    else:
        views = [tensor[(None,) * (2 - count)] for (tensor, _), count in zip(tensors, leading, strict=True)]
        if all(view.stride(0) == view.shape[1] * view.stride(1) for view in views):
            views = [view.flatten(0, 1)[None] for view in views]
    return tuple(views)


def blocks(batch: int, length: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of positions that cover ``batch`` rows of ``length`` positions, about ``step`` at a time."""
    for rows in slices(batch, max(1, step // max(length, 1))):
        for positions in slices(length, step):
            yield rows, positions
