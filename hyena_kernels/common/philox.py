"""Masks of ``position_dropout``: constants of Philox 4x32-10, the threshold of a probability, the halves of a number.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 5.3.
"""

from __future__ import annotations

ROUNDS = 10

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""What words 0 and 2 of the counter are multiplied with in every round."""

WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to both halves of the key after every round."""

POSITIONS = 1 << 32
"""Positions of a sample: a position is one word of the counter."""


def threshold(p: float) -> int:
    """The number from 0 to 2^32 below which a word drops its element, with probability ``p``."""
    return round(p * 2**32)


def scale(p: float) -> float:
    """What kept elements are multiplied with: 1 / (1 - p), or 0 if none is kept."""
    return 1 / (1 - p) if p < 1 else 0.0


def halves(number: int) -> tuple[int, int]:
    """Low and high 32 bits of a number of 64 bits, each from 0 to 2^32 - 1. A negative one is its two's complement."""
    return number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
