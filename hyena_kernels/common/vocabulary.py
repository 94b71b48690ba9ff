"""Small vocabularies, such as that of DNA."""

from __future__ import annotations

MAX_VOCABULARY = 64
"""Largest number of tokens for which there are kernels of their own."""


def padded(tokens: int) -> int:
    """A number of tokens rounded up to one that tensor cores take: a power of two from 16 on."""
    return max(16, 1 << (tokens - 1).bit_length())
