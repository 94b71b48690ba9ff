"""Splits of pairs of a phylogeny by whole clades, or by date. Pairs that are split at random are near-duplicates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hyenadna.common.errors import InputError

SPLITS = ("train", "valid", "test")


class Phylogeny:
    """The tree, or the trees, that pairs of ids make.

    Args:
        pairs: ids of parent and child, each child once.
        where: what the message of an error begins with.

    Attributes:
        order: the children, each behind its parent.

    Raises:
        InputError: a child has two parents, or is an ancestor of itself.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], where: str) -> None:
        self.parents: dict[str, str] = {}
        self.children: dict[str, list[str]] = {}
        for parent, child in pairs:
            before = self.parents.setdefault(child, parent)
            if child in self.children.get(parent, ()) or before != parent:
                raise InputError(
                    f"{where}: {child!r} is the child of {before!r} and again of {parent!r}; a tree has one branch to "
                    "each node. Rename it, or give the splits in a column `split`"
                )
            self.children.setdefault(parent, []).append(child)
        waiting = [name for name in self.children if name not in self.parents]
        self.order = []
        while waiting:
            below = self.children.get(waiting.pop(), [])
            self.order += below
            waiting += below
        if len(self.order) < len(self.parents):
            loop = next(name for name in self.parents if name not in {*self.order})
            raise InputError(f"{where}: {loop!r} is an ancestor of itself; correct the ids")

    def clade(self, top: str) -> list[str]:
        """A node and all below it."""
        found = [top]
        for name in found:
            found += self.children.get(name, [])
        return found

    def counts(self, kept: Mapping[str, bool]) -> dict[str, int]:
        """How many kept pairs end in the clade of each child."""
        counts = {name: int(kept[name]) for name in self.order}
        for name in reversed(self.order):
            if (parent := self.parents[name]) in counts:
                counts[parent] += counts[name]
        return counts


def by_subtree(
    tree: Phylogeny, kept: Mapping[str, bool], valid_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    """The split of every child: clades drawn at random, first large ones and then smaller ones to fill up.

    Args:
        tree: the phylogeny.
        kept: whether the pair of a child counts.
        valid_fraction: share of the pairs for validation. At most so many are taken.
        test_fraction: share for the test.
        seed: seed of the draw.
    """
    sizes = tree.counts(kept)
    total = sum(kept.values())
    drawn = [tree.order[place] for place in np.random.default_rng(seed).permutation(len(tree.order))]
    splits: dict[str, str] = {}
    above: set[str] = set()  # ancestors of clades that are taken
    for split, share in (("test", test_fraction), ("valid", valid_fraction)):
        left = round(share * total)
        for part in (0.3, 0.1, 0.03, 0.0):
            least = max(1, math.ceil(part * left))
            for top in drawn:
                if least <= sizes[top] <= left and top not in splits and top not in above:
                    splits |= dict.fromkeys(tree.clade(top), split)
                    left -= sizes[top]
                    while top in tree.parents:
                        top = tree.parents[top]
                        above.add(top)
    return {name: splits.get(name, "train") for name in tree.order}


def by_date(
    tree: Phylogeny,
    kept: Mapping[str, bool],
    dates: Mapping[str, str],
    valid_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    """The split of every child with a date: the newest are for the test, and those before them for validation.

    A node without a date gets the earliest of those below it, since it lived no later. Children of one date stay
    together. A child without any date gets no split.

    Args:
        tree: the phylogeny.
        kept: whether the pair of a child counts.
        dates: the dates that are known, in a form that sorts as text.
        valid_fraction: share of the pairs for validation. At least so many are taken.
        test_fraction: share for the test.
    """
    known = dict(dates)
    earliest: dict[str, str] = {}
    for name in reversed(tree.order):
        if name not in known and name in earliest:
            known[name] = earliest[name]
        if name in known:
            parent = tree.parents[name]
            earliest[parent] = min(known[name], earliest.get(parent, known[name]))
    dated = [name for name in tree.order if name in known]
    total = sum(kept[name] for name in dated)
    limits = {"test": test_fraction * total, "valid": valid_fraction * total}
    counted = dict.fromkeys(limits, 0)
    split_of = {}
    for date in sorted({known[name] for name in dated}, reverse=True):
        split = next((split for split, limit in limits.items() if counted[split] < limit), "train")
        split_of[date] = split
        if split in counted:
            counted[split] += sum(kept[name] for name in dated if known[name] == date)
    return {name: split_of[known[name]] for name in dated}


def dates_of(names: Sequence[str], pattern: str) -> dict[str, str]:
    """The dates in ids: the first group of a regular expression, where it is found."""
    found = ((name, re.search(pattern, name)) for name in names)
    return {name: match[1] for name, match in found if match and match[1]}
