"""Yardsticks of mutation generation: the parent, and the parent with the commonest mutations of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hyenadna.common.extras import require


class Mutation(NamedTuple):
    """An edit of one letter.

    Attributes:
        place: the position in the parent, from 0.
        before: the letter there; "" for an insertion before it.
        after: the letter that it becomes; "" for a deletion.
    """

    place: int
    before: str
    after: str

    def apply(self, text: str) -> str | None:
        """The text with the mutation, or None where it does not fit."""
        if self.place > len(text) or not text.startswith(self.before, self.place):
            return None
        return text[: self.place] + self.after + text[self.place + len(self.before) :]

    def __str__(self) -> str:
        return f"{self.before or '-'}{self.place}{self.after or '-'}"


def mutations(parent: str, child: str) -> list[Mutation]:
    """The fewest edits that lead from a parent to its child: substitutions alone, where no way is shorter."""
    if len(parent) == len(child):
        found = [Mutation(place, a, b) for place, (a, b) in enumerate(zip(parent, child, strict=True)) if a != b]
        if len(found) <= 1:
            return found
    edits = require("rapidfuzz.distance.Levenshtein").editops(parent, child)
    if len(parent) == len(child) and len(found) == len(edits):
        return found
    return [
        Mutation(
            edit.src_pos,
            "" if edit.tag == "insert" else parent[edit.src_pos],
            "" if edit.tag == "delete" else child[edit.dest_pos],
        )
        for edit in edits
    ]


def commonest(pairs: Iterable[tuple[str, str]]) -> list[tuple[Mutation, int]]:
    """All mutations with their counts, the commonest first. Of equal counts the smaller place is first, then A to T."""
    counts = Counter(mutation for parent, child in pairs for mutation in mutations(parent, child))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def copies(parent: str, known: Sequence[tuple[Mutation, int]], count: int) -> list[str]:
    """The parent, and then the parent with each of the commonest mutations that fit it: up to ``count`` texts."""
    found = [parent]
    for mutation, _ in known:
        if len(found) == count:
            break
        text = mutation.apply(parent)
        if text and text not in found:
            found.append(text)
    return found
