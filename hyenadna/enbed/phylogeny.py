"""A synthetic phylogeny: a tree that grows, and sequences that mutate along its branches at hot spots and elsewhere.

The tree is a Yule process: at each step a leaf, drawn uniformly, gets two children. The root's sequence is uniform.
Along a branch every site changes at most once, by substitution, independently of the others, given the parent:

- A hot spot is two neighbouring sites, x and y, of which each holds one of two bases that a transition joins (A and G,
  or C and T). One of the two is called 0, and the other 1. What changes depends on both: x where x = y, and otherwise
  y. So the spot goes around 00, 10, 11, 01 and 00 again. It makes its step with the probability ``REST`` from 00, and
  with ``HOT`` from the three others.
- Any other site changes with the probability ``COLD``: by its transition with ``BIAS / (BIAS + 2)``, and otherwise to
  one of the two other bases, equally often.

A step takes 1 / P branches in the mean. So a spot makes 4 steps in ``1 / REST + 3 / HOT`` branches, and 3 of 4 of them
can be foreseen by who sees both bases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.enbed.newick import Node

HOT = 0.9
"""Probability of a hot spot's step from 10, 11 and 01."""
REST = 0.05
"""Probability of its step from 00."""
COLD = 0.0005
"""Probability that another site changes."""
BIAS = 4.0
"""How much more often such a site makes its transition than each of its two transversions."""

_LETTERS = "ACGT"
# Bases are 0 to 3, in the order of _LETTERS. Their transitions are A-G and C-T.
_FIRST_YEAR = 2000


class Simulation(NamedTuple):
    """A tree with the sequence of every node.

    Attributes:
        tree: its root. Leaves are called Synthetic/NUMBER/YEAR; a year is 2000 plus the branches from the root.
        sequences: by the names of the nodes.
        spots: the first sites of the hot spots, from 0.
    """

    tree: Node
    sequences: dict[str, str]
    spots: list[int]


def simulate(pairs: int, length: int, spots: int, seed: int) -> Simulation:
    """Grow a tree.

    Args:
        pairs: its branches.
        length: bases of a sequence.
        spots: hot spots. No two of them touch.
        seed: seed of everything.

    Raises:
        InputError: the sequences are too short for so many hot spots.
    """
    if length < 4 * spots + 2:
        raise InputError(f"`length` {length}: has no room for {spots} hot spots; they need {4 * spots + 2}")
    rng = np.random.default_rng(seed)
    # Neither at the ends nor next to each other: of so many places, spread by three more for each spot before.
    places = np.sort(rng.choice(length - 3 * spots - 1, size=spots, replace=False)) + 1 + 3 * np.arange(spots)
    root = Node()
    states = {id(root): rng.integers(0, 4, size=length)}
    depths = {id(root): 0}
    zeros = states[id(root)][np.stack([places, places + 1])]
    leaves = [root]
    grown = 0
    while grown < pairs:
        parent = leaves.pop(int(rng.integers(len(leaves))))
        for _ in range(min(2, pairs - grown)):
            child = Node(length=1.0)
            parent.children.append(child)
            states[id(child)] = _mutated(states[id(parent)], places, zeros, rng)
            depths[id(child)] = depths[id(parent)] + 1
            leaves.append(child)
            grown += 1
    sequences = {}
    for number, node in enumerate(root.walk()):
        year = _FIRST_YEAR + depths[id(node)]
        node.name = f"node_{number:04d}" if node.children else f"Synthetic/{number:04d}/{year}"
        sequences[node.name] = "".join(_LETTERS[base] for base in states[id(node)])
    return Simulation(root, sequences, places.tolist())


def _mutated(parent: np.ndarray, places: np.ndarray, zeros: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The child of a sequence of bases, int64 ``(L,)``; ``zeros`` are the bases 0 of the spots, ``(2, spots)``."""
    child = parent.copy()
    is_cold = np.ones(len(parent), dtype=bool)
    is_cold[places] = is_cold[places + 1] = False
    changes = is_cold & (rng.random(len(parent)) < COLD)
    is_transition = rng.random(len(parent)) < BIAS / (BIAS + 2)
    other = rng.integers(0, 2, size=len(parent))
    # The transition of a base is two letters on; its transversions are one and three on.
    child[changes] = (parent + np.where(is_transition, 2, 1 + 2 * other))[changes] % 4
    x, y = parent[places] != zeros[0], parent[places + 1] != zeros[1]
    steps = rng.random(len(places)) < np.where(x | y, HOT, REST)
    moved = np.where(x == y, places, places + 1)[steps]
    child[moved] = (parent[moved] + 2) % 4
    return child
