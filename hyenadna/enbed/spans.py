"""Span corruption: spans of a sequence are taken out, and are to be predicted.

Source: Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 21
(2020), section 3.1.4, and the ``random_spans_noise_mask`` of its code. ENBED masks 15 % of the bytes in spans of 20 on
average.
"""

from __future__ import annotations

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.encoder_decoder.tokens import EOS, FIRST_SENTINEL, SENTINELS


def noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many tokens of a sequence are masked, and in how many spans.

    Args:
        length: tokens of the sequence, at least 2.
        density: share of them that is masked. At least one is, and at least one is not.
        mean_span: mean length of a span.

    Raises:
        InputError: the sequence is too short, or it would have more spans than there are sentinels.
    """
    if length < 2:
        raise InputError(f"a sequence of {length} bytes is too short: one byte is masked and one is not")
    noise = min(max(round(length * density), 1), length - 1)
    spans = max(1, round(noise / mean_span))
    spans = min(spans, noise, length - noise)
    if spans > SENTINELS:
        raise InputError(
            f"`length` {length}: masking {noise:,} bytes in spans of {mean_span:g} takes {spans} sentinels, and there "
            f"are {SENTINELS}; raise `mean_span`, or take shorter inputs"
        )
    return noise, spans


def noise_mask(length: int, density: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """Which tokens are masked, bool ``(length,)``.

    Both the masked and the other tokens are split at random into as many parts as there are spans, each division being
    equally likely. The parts take turns, and the first is not masked.

    Raises:
        InputError: as :func:`noise_counts`.
    """
    noise, spans = noise_counts(length, density, mean_span)
    masked, others = _parts(noise, spans, rng), _parts(length - noise, spans, rng)
    lengths = np.stack([others, masked], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _parts(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` as a sum of ``parts`` numbers of at least 1, all divisions being equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def corrupt(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of a sequence.

    Args:
        ids: int64 ``(L,)`` ids of bytes.
        mask: bool ``(L,)``, True where a token is masked.

    Returns:
        The input, each masked span of which is one sentinel, and the target, in which each sentinel is followed by its
        span. Both are int64 and end with eos. The first span has ``<extra_id_0>``.
    """
    starts = mask & ~np.concatenate(([False], mask[:-1]))
    sentinels = FIRST_SENTINEL + np.cumsum(starts) - 1
    source = np.where(starts, sentinels, ids)[~mask | starts]
    spans = np.flatnonzero(starts)
    places = np.flatnonzero(mask)
    target = np.insert(ids[places], np.searchsorted(places, spans), sentinels[spans])
    return np.append(source, EOS), np.append(target, EOS)


def joined(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The sequence that :func:`corrupt` was given."""
    spans: dict[int, list[int]] = {}
    for token in target[:-1].tolist():
        if token >= FIRST_SENTINEL:
            spans[token] = []
            last = spans[token]
        else:
            last.append(token)
    pieces = [spans[token] if token >= FIRST_SENTINEL else [token] for token in source[:-1].tolist()]
    return np.array([token for piece in pieces for token in piece], dtype=np.int64)
