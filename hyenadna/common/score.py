"""Perplexity and accuracy over held-out positions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A model's score on held-out positions.

    Attributes:
        perplexity: ``exp`` of the mean loss in nats.
        accuracy: fraction of positions where the likeliest base is the true one.
        count: number of positions.
    """

    perplexity: float
    accuracy: float
    count: int
