"""Markov models of orders up to 24 with fitted prior strengths: the yardstick of ``hyenadna evaluate``.

Low orders have tables of all contexts, at most to order 11 (`hyenadna.evaluation.markov`). Above them only the contexts
that are looked up are counted: those before a position to score, or to fit on. So memory grows with these positions and
not with the genome.

Each order k has a chain of its own: ``p_j = (counts + s_j * p_{j-1}) / (sum(counts) + s_j)`` over the orders j of
`orders_up_to` (k). The strengths of a chain are fitted together, so that an order that only adds noise gets a high one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from hyenadna.common.score import Score
from hyenadna.evaluation import markov

MOST_BYTES = 4 << 30
"""Most memory that the counts of all orders together may take, in bytes."""

Segments = Callable[[], Iterable[np.ndarray]]
"""Gives token ids, integer ``(length,)`` each, and the same ones at every call."""

_ORDERS = (*range(13), 16, 20, 24)
_MOST_DENSE = 11
_PIECE = 1 << 15
# Arrays of a block of the genome, or of the positions that strengths are fitted on.
_BLOCK_BYTES = 384 << 20
_STRENGTHS = (1e-3, 1e6)
_FIRST_STRENGTH = 16.0


@dataclass(frozen=True)
class MarkovScore(Score):
    """The score of one order.

    Attributes:
        prior_strength: weight, in observations, of the next shorter order of the chain against this one's counts.
        prior_strengths: the same of every order of the chain, its own last.
    """

    prior_strength: float
    prior_strengths: dict[int, float]


@dataclass(frozen=True)
class Plan:
    """Which orders fit into the memory.

    Attributes:
        orders: the orders that are fitted, in order.
        dense: greatest order with a table of all contexts.
        left_out: those that would take more than ``most_bytes``.
        needed: bytes that all of them together would take, at most.
        most_bytes: the bound.
    """

    orders: tuple[int, ...]
    dense: int
    left_out: tuple[int, ...]
    needed: int
    most_bytes: int

    def describe(self) -> str:
        """One line about the orders that are left out; empty if there is none."""
        if not self.left_out:
            return ""
        names = ", ".join(map(str, self.left_out))
        return (
            f"Markov models of order {names} are left out: they would need {self.needed / 2**30:.1f} GiB with the "
            f"others, and {self.most_bytes / 2**30:.1f} GiB are allowed; score fewer windows (`max_windows`)"
        )


def orders_up_to(max_order: int) -> tuple[int, ...]:
    """The orders of a chain that ends at ``max_order``: all to 12, then 16, 20 and 24, and ``max_order`` itself."""
    return (*(order for order in _ORDERS if order < max_order), max_order)


def plan(max_order: int, positions: int, most_bytes: int = MOST_BYTES) -> Plan:
    """Leave out the highest orders until the rest fits, before anything is counted.

    Args:
        max_order: greatest order that is asked for.
        positions: positions to score and to fit on, together. Each may have a context of its own.
        most_bytes: the bound. Tables of all contexts take the same memory for any genome and are never left out.
    """
    orders = orders_up_to(max_order)
    # An order has at most as many contexts as there are positions. So a longer table would be mostly idle.
    dense = min(max_order, _MOST_DENSE, int(np.log2(max(positions, 1)) / 2))
    needed = [_bytes(orders[: n + 1], dense, positions) for n in range(len(orders))]
    fitting = sum(order <= dense or size <= most_bytes for order, size in zip(orders, needed, strict=True))
    return Plan(orders[:fitting], dense, orders[fitting:], needed[-1], most_bytes)


def _bytes(orders: Sequence[int], dense: int, positions: int) -> int:
    """At most so many bytes are in use at once.

    A table of order k has ``4**(k + 1)`` counts of 8 bytes. There are the totals, what is added to them, the other
    strand, and the shorter orders of all. Each sparse order has sorted contexts (8) and counts (32), and the first one
    a row number for each possible context. Sorting takes three more arrays of all positions.
    """
    sparse = [order for order in orders if order > dense]
    if not sparse:
        return _BLOCK_BYTES + 6 * 8 * 4 ** (dense + 1)
    rows = sum(min(4**order, positions) for order in sparse)
    return _BLOCK_BYTES + 6 * 8 * 4 ** (dense + 1) + 4 * 4 ** (dense + 1) + 40 * rows + 33 * positions


class Counts:
    """How often each nucleotide follows the contexts of some positions, for several orders.

    Args:
        plan: orders that fit.
        positions: segments with the positions that will be looked up.
        first_target: index of the first such position in each of these segments.
    """

    def __init__(self, plan: Plan, positions: Iterable[Segments], first_target: int) -> None:
        self.orders = plan.orders
        self.reach = self.orders[-1]
        self._dense = plan.dense
        self._tables: list[np.ndarray] = []
        self._contexts: dict[int, np.ndarray] = {}
        self._counts: dict[int, np.ndarray] = {}
        sparse = [order for order in self.orders if order > self._dense]
        if not sparse:
            return
        segments = chain.from_iterable(read() for read in positions)
        codes, depths = _joined(_windows(segments, self.reach, first_target))
        codes >>= 2
        for order in sparse:
            self._contexts[order] = contexts = _distinct(codes[depths >= order] & _mask(order))
            self._counts[order] = np.zeros((len(contexts), 4), dtype=np.int64)
        # Most windows of a genome have no context that is looked up. One access tells.
        self._first = sparse[0]
        self._rows = np.full(4**self._first, -1, dtype=np.int32)
        self._rows[self._contexts[self._first]] = np.arange(len(self._contexts[self._first]))

    def add(self, segments: Segments) -> None:
        """Count the windows of the segments and of their reverse complement.

        Raises:
            InputError: the segments hold no A, C, G or T.
        """
        added = list(markov.fit(segments(), min(self.reach, self._dense)).counts)
        for total, more in zip(self._tables, added, strict=bool(self._tables)):
            total += more
        self._tables = self._tables or added
        if not self._contexts:
            return
        strands = (
            _windows(segments(), self.reach, 0),
            _windows((segment[::-1] for segment in segments()), self.reach, 0, complement=True),
        )
        for codes, depths in chain.from_iterable(strands):
            self._add_windows(codes, depths)

    def _add_windows(self, codes: np.ndarray, depths: np.ndarray) -> None:
        for order, contexts in self._contexts.items():
            if not len(contexts):
                # No position has so many bases before it, and so none has more.
                return
            wanted = (codes >> 2) & _mask(order)
            if order == self._first:
                rows = self._rows[wanted]
                found = (rows >= 0) & (depths >= order)
            else:
                rows = _search(contexts, wanted)
                found = (np.take(contexts, rows, mode="clip") == wanted) & (depths >= order)
            # A context that is not looked up has no longer one that is.
            codes, depths, rows = codes[found], depths[found], rows[found]
            if not len(rows):
                return
            np.add.at(self._counts[order].reshape(-1), rows.astype(np.int64) * 4 + (codes & 3), 1)

    def look_up(self, codes: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """int64 ``(orders, n, 4)``: how often A, C, G and T follow the contexts of n windows.

        Where fewer bases than the order come before, the counts are 0. So the next shorter order decides.
        """
        found = np.zeros((len(self.orders), len(codes), 4), dtype=np.int64)
        for place, order in enumerate(self.orders):
            context = (codes >> 2) & _mask(order)
            if order <= self._dense:
                rows, table = context, self._tables[order]
            else:
                rows, table = _search(self._contexts[order], context), self._counts[order]
            deep = depths >= order
            found[place, deep] = table[rows[deep]]
        return found

    def read(self, segments: Segments, first_target: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Look up every A, C, G or T at index ``first_target`` or later of its segment, in pieces.

        Yields:
            Counts as from `look_up`, and the nucleotides that stand there, int64 ``(n,)``, 0 to 3.
        """
        for codes, depths in _windows(segments(), self.reach, first_target):
            for start in range(0, len(codes), _PIECE):
                piece = slice(start, start + _PIECE)
                yield self.look_up(codes[piece], depths[piece]), codes[piece] & 3

    def read_all(self, segments: Segments, first_target: int) -> tuple[np.ndarray, np.ndarray]:
        """Look up as `read` does, but keep only how often the nucleotide that stands there follows, and how often any.

        Returns:
            float64 ``(orders, n)`` twice.
        """
        hits, totals = [np.zeros((len(self.orders), 0))], [np.zeros((len(self.orders), 0))]
        for found, targets in self.read(segments, first_target):
            hits.append(np.take_along_axis(found, targets[None, :, None], axis=2)[..., 0].astype(np.float64))
            totals.append(found.sum(axis=2).astype(np.float64))
        return np.concatenate(hits, axis=1), np.concatenate(totals, axis=1)


def fit_strengths(hits: np.ndarray, totals: np.ndarray) -> list[np.ndarray]:
    """Prior strengths of the chain to each order, of the greatest likelihood on some positions.

    Args:
        hits: float64 ``(orders, n)``, how often the nucleotide of a position follows its context.
        totals: the same for any nucleotide.

    Returns:
        For each order float64 ``(its place + 1,)``, between 0.001 and 1,000,000. All are 1 if there is no position.
    """
    if not hits.size:
        return [np.ones(place + 1) for place in range(len(hits))]
    fitted: list[np.ndarray] = []
    start = np.zeros(0)
    for place in range(len(hits)):
        start = _minimise(hits[: place + 1], totals[: place + 1], np.append(start, np.log(_FIRST_STRENGTH)))
        fitted.append(np.exp(start))
    return fitted


def _minimise(hits: np.ndarray, totals: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Logarithms of the strengths with the least loss, from ``start``, by L-BFGS."""
    low, high = np.log(_STRENGTHS)
    logs = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    # The loss is a sum over all positions.
    search = torch.optim.LBFGS(
        [logs], max_iter=60, tolerance_grad=1e-5, tolerance_change=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        with torch.no_grad():
            logs.clamp_(low, high)
        loss, gradient = _loss(hits, totals, np.exp(logs.detach().numpy()))
        logs.grad = torch.from_numpy(gradient)
        return loss

    search.step(closure)
    return logs.detach().clamp(low, high).numpy().copy()


def _loss(hits: np.ndarray, totals: np.ndarray, strengths: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss in nats over all positions, and its gradient by the logarithm of each strength.

    It is written out with NumPy, whose sums do not depend on the number of threads.
    """
    mixed = [np.full(hits.shape[1], 0.25)]
    for hit, total, strength in zip(hits, totals, strengths, strict=True):
        mixed.append((hit + strength * mixed[-1]) / (total + strength))
    gradient = np.zeros(len(strengths))
    slope = -1.0 / mixed[-1]
    for place in reversed(range(len(strengths))):
        slope = slope * (strengths[place] / (totals[place] + strengths[place]))
        gradient[place] = (slope * (mixed[place] - mixed[place + 1])).sum()
    return float(-np.log(mixed[-1]).sum()), gradient


def probabilities(counts: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """float64 ``(n, 4)``: probabilities of A, C, G and T by the chain of ``len(strengths)`` orders; rows sum to 1."""
    mixed = np.full(counts.shape[1:], 0.25)
    for count, strength in zip(counts, strengths, strict=False):
        mixed = (count + strength * mixed) / (count.sum(axis=1, keepdims=True) + strength)
    return mixed


def score(
    counts: Counts, strengths: Sequence[np.ndarray], segments: Segments, first_target: int
) -> dict[int, MarkovScore]:
    """Score the chain of each order on the same positions, in float64.

    Raises:
        InputError: there is nothing to score.
    """
    nats, hits, positions = np.zeros(len(strengths)), np.zeros(len(strengths), dtype=np.int64), 0
    for found, targets in counts.read(segments, first_target):
        positions += len(targets)
        for place, of_chain in enumerate(strengths):
            mixed = probabilities(found, of_chain)
            nats[place] -= np.log(np.take_along_axis(mixed, targets[:, None], axis=1)).sum()
            hits[place] += int((mixed.argmax(axis=1) == targets).sum())
    if not positions:
        raise markov.nothing_to_score()
    return {
        order: MarkovScore(
            perplexity=float(np.exp(nats[place] / positions)),
            accuracy=float(hits[place] / positions),
            count=positions,
            prior_strength=float(of_chain[-1]),
            prior_strengths=dict(zip(counts.orders, of_chain.tolist(), strict=False)),
        )
        for place, (order, of_chain) in enumerate(zip(counts.orders, strengths, strict=True))
    }


def _mask(bases: int) -> int:
    return 4**bases - 1


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted. np.unique would copy once more."""
    values.sort()
    new = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return values[new]


def _search(contexts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """As np.searchsorted, which is faster in order: neighbours then take the same path through memory."""
    order = np.argsort(wanted)
    rows = np.empty(len(wanted), dtype=np.int64)
    rows[order] = np.searchsorted(contexts, wanted[order])
    return rows


def _joined(pieces: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    found = list(pieces)
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    return np.concatenate([codes for codes, _ in found]), np.concatenate([depths for _, depths in found])


def _windows(
    segments: Iterable[np.ndarray], reach: int, first_target: int, *, complement: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of ``reach + 1`` bases that end at each A, C, G or T from ``first_target`` on, in blocks.

    Yields:
        int64 ``(n,)``, the bases as digits in base 4, the last one lowest; and uint8 ``(n,)``, how many of the bases
        before it are of the window's contig without a break. Digits beyond them mean nothing.
    """
    for bases, wanted in markov.blocks(segments, reach, first_target):
        index = np.arange(len(bases))
        is_break = bases == markov.BREAK
        depths = np.minimum(index - 1 - np.maximum.accumulate(np.where(is_break, index, -1)), reach)
        digits = np.where(is_break, 0, 3 - bases if complement else bases).astype(np.int64)
        chosen = wanted & ~is_break
        yield _codes(digits, reach + 1)[chosen], depths[chosen].astype(np.uint8)


def _codes(digits: np.ndarray, length: int) -> np.ndarray:
    """int64 ``(n,)``: the last ``length`` digits up to each place, the newest lowest. It doubles, so few passes do."""
    code, done = np.zeros_like(digits), 0
    run, width = digits, 1
    while True:
        if length & width:
            code |= _later(run, done) << 2 * done
            done += width
        if done == length:
            return code
        run, width = run | _later(run, width) << 2 * width, 2 * width


def _later(values: np.ndarray, places: int) -> np.ndarray:
    moved = np.zeros_like(values)
    moved[places:] = values[: max(0, len(values) - places)]
    return moved
