"""The synthetic phylogeny follows the formula of its module."""

from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.enbed import phylogeny
from hyenadna.enbed.phylogeny import BIAS, COLD, HOT, REST, simulate


@pytest.fixture(scope="module")
def branches() -> tuple[np.ndarray, np.ndarray, list[int], str]:
    """Letters of parents and children ``(N, L)``, the hot spots, and the sequence of the root."""
    found = simulate(4000, 60, 4, 3)
    pairs = [
        (found.sequences[node.name], found.sequences[child.name])
        for node in found.tree.walk()
        for child in node.children
    ]
    parents, children = (np.array([[*text] for text in texts]) for texts in zip(*pairs, strict=True))
    return parents, children, found.spots, found.sequences[found.tree.name]


def test_the_tree_has_the_pairs_and_names_with_years() -> None:
    found = simulate(21, 20, 1, 0)
    nodes = [*found.tree.walk()]
    assert len(nodes) == 22 == len(found.sequences)
    assert {len(node.children) for node in nodes} <= {0, 1, 2}
    assert all(leaf.name.startswith("Synthetic/") and leaf.name[-5:-3] == "/2" for leaf in found.tree.leaves())


def test_one_seed_makes_one_phylogeny() -> None:
    first, second, other = (simulate(30, 30, 2, seed) for seed in (1, 1, 2))
    assert first.sequences == second.sequences
    assert first.sequences != other.sequences


def test_spots_do_not_touch() -> None:
    for seed in range(20):
        spots = simulate(10, 18, 4, seed).spots
        assert min(np.diff(spots)) >= 3
        assert spots[0] >= 1
        assert spots[-1] + 1 < 17


def test_hot_spots_go_around_at_their_rates(branches: tuple[np.ndarray, np.ndarray, list[int], str]) -> None:
    parents, children, spots, root = branches
    steps: dict[tuple[int, int], list[bool]] = {}
    for place in spots:
        zero = root[place : place + 2]
        for before, after in zip(parents[:, place : place + 2], children[:, place : place + 2], strict=True):
            x, y = (int(letter != base) for letter, base in zip(before, zero, strict=True))
            moved = (before != after).tolist()
            assert moved in ([False, False], [x == y, x != y])
            steps.setdefault((x, y), []).append(any(moved))
    assert len(steps) == 4
    for state, found in steps.items():
        rate = REST if state == (0, 0) else HOT
        assert abs(np.mean(found) - rate) < 4 * np.sqrt(rate * (1 - rate) / len(found)), state


def test_other_sites_change_rarely_and_rather_by_transitions(
    branches: tuple[np.ndarray, np.ndarray, list[int], str],
) -> None:
    parents, children, spots, _ = branches
    cold = np.delete(np.arange(parents.shape[1]), [*spots, *(place + 1 for place in spots)])
    changed = parents[:, cold] != children[:, cold]
    assert abs(changed.mean() - COLD) < 4 * np.sqrt(COLD / changed.size)
    transition = {"A": "G", "G": "A", "C": "T", "T": "C"}
    found = [
        transition[a] == b for a, b in zip(parents[:, cold][changed], children[:, cold][changed], strict=True)
    ]  # fmt: skip
    share = BIAS / (BIAS + 2)
    assert abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / len(found))


def test_spots_need_room() -> None:
    with pytest.raises(InputError, match="`length` 17: has no room for 4 hot spots; they need 18"):
        simulate(10, 17, 4, 0)
    assert phylogeny.simulate(10, 2, 0, 0).spots == []
