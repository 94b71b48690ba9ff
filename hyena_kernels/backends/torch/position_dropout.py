"""``position_dropout`` in plain PyTorch: Philox 4x32-10 with 64-bit integers."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels.common import philox, sizes
from hyena_kernels.common.inputs import PositionDropoutInputs

# Scratch of an element of the result. Fewer bytes give longer slices, whose words leave the caches: on a CPU with 2 MB
# of L2, 128 took 79 ms where 32 took 105 and 512 took 93.
_SCRATCH_BYTES = 128

_LOW = 0xFFFFFFFF


def random_words(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10: four random words for each counter, 32-bit numbers in int64.

    Args:
        counter: its four words, as 32-bit numbers in int64 whose shapes broadcast.
        seed: both words of the key, the first one low.
    """
    c0, c1, c2, c3 = counter
    key = philox.halves(seed)
    for _ in range(philox.ROUNDS):
        # A product of 64 bits wraps around, and keeps its bits. Those above the lower 32 are cleared once, before the
        # next product.
        product0, product2 = c0 * philox.MULTIPLIERS[0], c2 * philox.MULTIPLIERS[1]
        c0, c1 = ((product2 >> 32) ^ c1 ^ key[0]) & _LOW, product2
        c2, c3 = ((product0 >> 32) ^ c3 ^ key[1]) & _LOW, product0
        key = (key[0] + philox.WEYL[0]) & _LOW, (key[1] + philox.WEYL[1]) & _LOW
    return c0, c1 & _LOW, c2, c3 & _LOW


def _kept(samples: Tensor, positions: Tensor, channels: int, p: float, seed: int) -> Tensor:
    """Mask ``(B, L, D)`` of the elements that are not dropped, for ``samples (B,)`` and ``positions (L,)``."""
    groups = torch.arange((channels + 3) // 4, device=samples.device)
    samples = samples[:, None, None]
    counter = groups, positions[:, None], samples & _LOW, (samples >> 32) & _LOW
    drop = philox.threshold(p)
    return torch.stack([word >= drop for word in random_words(counter, seed)], dim=-1).flatten(2)[..., :channels]


def forward(inputs: PositionDropoutInputs, p: float, seed: int, offset: int) -> Tensor:
    """As ``hyena_kernels::position_dropout``."""
    x, samples = inputs
    batch, length, channels = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    positions = torch.arange(offset, offset + length, device=x.device)
    scratch = sizes.SCRATCH_BYTES.get(x.device.type, sizes.SCRATCH_BYTES_ELSEWHERE)
    step = max(1, scratch // (_SCRATCH_BYTES * max(channels, 1)))
    for rows, part in sizes.blocks(batch, length, step):
        kept = _kept(samples[rows], positions[part], channels, p, seed)
        scaled = x[rows, part].to(sizes.accumulator(x)) * philox.scale(p)
        # Not a product with 0 or 1: a dropped element is 0 even if it is infinite or NaN.
        y[rows, part] = torch.where(kept, scaled, 0.0)
    return y
