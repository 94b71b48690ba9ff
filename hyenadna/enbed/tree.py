"""Trees of sequences by neighbour joining on Levenshtein distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyenadna.common.extras import require
from hyenadna.enbed.newick import Node


def levenshtein_distances(texts: Sequence[str]) -> np.ndarray:
    """Distances of all texts, float64 ``(N, N)``."""
    process = require("rapidfuzz.process")
    distance = require("rapidfuzz.distance.Levenshtein").distance
    return np.asarray(process.cdist(texts, texts, scorer=distance), dtype=np.float64)


def neighbour_joining(names: Sequence[str], distances: np.ndarray) -> Node:
    """Join the two nearest neighbours until two nodes are left, whose branch gets the root in its middle.

    Of equally near pairs the first is joined. Branches that would be shorter than 0 have the length 0.

    Source: Saitou and Nei, "The neighbor-joining method", 1987, with the criterion of Studier and Keppler, 1988.

    Args:
        names: names of the leaves, N of at least 2.
        distances: ``(N, N)``, symmetric, with 0 on the diagonal.
    """
    nodes = [Node(name) for name in names]
    between = np.array(distances, dtype=np.float64)
    while len(nodes) > 2:
        size = len(nodes)
        sums = between.sum(axis=1)
        criterion = (size - 2) * between - sums[:, None] - sums[None, :]
        np.fill_diagonal(criterion, np.inf)
        first, second = sorted(map(int, np.unravel_index(int(criterion.argmin()), criterion.shape)))
        apart = between[first, second]
        length = (apart + (sums[first] - sums[second]) / (size - 2)) / 2
        nodes[first].length, nodes[second].length = max(0.0, length), max(0.0, apart - length)
        to_new = (between[first] + between[second] - apart) / 2
        nodes[first] = Node(children=[nodes[first], nodes[second]])
        between[first], between[:, first] = to_new, to_new
        between[first, first] = 0.0
        between = np.delete(np.delete(between, second, axis=0), second, axis=1)
        del nodes[second]
    for node in nodes:
        node.length = max(0.0, between[0, -1] / len(nodes))
    return Node(children=nodes)
