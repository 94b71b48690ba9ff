"""Perplexity and accuracy over held-out positions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What a model reaches on held-out positions: ``perplexity = exp(mean nats)``, ``accuracy`` of its first choice."""

    perplexity: float
    accuracy: float
    count: int
