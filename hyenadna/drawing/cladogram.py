"""A circular cladogram: a tree whose leaves lie on a circle, coloured by their group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from hyenadna.drawing.style import NONE, PALETTE, RULE, png_figure


class Branches(Protocol):
    """A node of a tree."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def length(self) -> float:
        """Length of the branch to its parent."""

    @property
    def children(self) -> Sequence[Branches]:
        """The nodes below it."""


_GAP = math.radians(8)
# Points on an arc, for each radian.
_ARC = 60


def cladogram(root: Branches, groups: Mapping[str, str], out: str | Path, *, unit: str) -> None:
    """Draw a tree with its root in the middle. The distance from there is the sum of the branches.

    Args:
        root: the tree.
        groups: group of each leaf, by its name. Groups have colours in the order in which they first stand there.
        out: the PNG to write.
        unit: what the lengths of branches count, for the scale.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    colours = {group: PALETTE[place % len(PALETTE)] for place, group in enumerate(dict.fromkeys(groups.values()))}
    order: list[Branches] = []
    radius: dict[int, float] = {}
    waiting = [(root, 0.0)]
    while waiting:
        node, distance = waiting.pop()
        order.append(node)
        radius[id(node)] = distance
        waiting += [(child, distance + child.length) for child in reversed(node.children)]
    leaves = [node for node in order if not node.children]
    step = (2 * math.pi - _GAP) / len(leaves)
    angle = {id(node): place * step for place, node in enumerate(leaves)}
    for node in reversed(order):
        if node.children:
            ends = [angle[id(child)] for child in node.children]
            angle[id(node)] = (min(ends) + max(ends)) / 2
    farthest = max(radius.values()) or 1.0
    with png_figure(out, width=8.0, height=7.2) as figure:
        axes = figure.add_subplot(projection="polar")
        for node in order:
            for child in node.children:
                turn, inner, outer = angle[id(child)], radius[id(node)], radius[id(child)]
                axes.plot([turn, turn], [inner, outer], color=RULE, linewidth=0.7)
            if len(node.children) > 1:
                ends = [angle[id(child)] for child in node.children]
                arc = np.linspace(min(ends), max(ends), 2 + int(_ARC * (max(ends) - min(ends))))
                axes.plot(arc, np.full_like(arc, radius[id(node)]), color=RULE, linewidth=0.7)
        for group, colour in colours.items():
            own = [leaf for leaf in leaves if groups.get(leaf.name) == group]
            places = [[angle[id(leaf)] for leaf in own], [radius[id(leaf)] for leaf in own]]
            axes.plot(*places, "o", color=colour, markersize=4, label=f"{group} ({len(own)})")
        others = [leaf for leaf in leaves if leaf.name not in groups]
        if others:
            axes.plot([angle[id(leaf)] for leaf in others], [radius[id(leaf)] for leaf in others], "o", color=NONE,
                      markersize=4, label=f"other ({len(others)})")  # fmt: skip
        axes.set_ylim(0, 1.05 * farthest)
        axes.set_xticks([])
        axes.spines["polar"].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_xlabel(f"distance from the root in {unit}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
