"""Pairs of parent and child from a tree, the reconstructed sequences of its inner nodes and the aligned leaves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.data.streams import read_bytes
from hyenadna.enbed.newick import parse


class Branch(NamedTuple):
    """A pair as it is read: ids and letters of parent and child, and the child's date, or ""."""

    parent_id: str
    parent_sequence: str
    child_id: str
    child_sequence: str
    date: str = ""


def read_tree(newick: Path, states: Path, tips: Path, start: int | None, end: int | None) -> list[Branch]:
    """The branches of a tree, with the columns ``[start, end)`` of the alignment.

    Args:
        newick: tree whose nodes all have names.
        states: ancestral sequences, a line each: name, blank, sequence.
        tips: aligned sequences of the leaves, as FASTA or PHYLIP.
        start: first column, from 0; None for the first one.
        end: one past the last column; None for the last one.

    Raises:
        InputError: a file cannot be read, a node has no name or no sequence, or sequences have different lengths.
    """
    root = parse(_text(newick), str(newick))
    sequences = {name: (letters, states) for name, letters in _lines(states)}
    for name, letters in _alignment(tips):
        if name in sequences:
            raise InputError(f"{tips}: {name!r} is there twice, or in {sequences[name][1]} too; rename one")
        sequences[name] = (letters, tips)
    _check_lengths(sequences)
    columns = len(next(iter(sequences.values()))[0])
    first, last = start or 0, columns if end is None else end
    if not first < last <= columns:
        raise InputError(f"{tips}: has {columns:,} columns, and [{first:,}, {last:,}) of `start` and `end` is no part")

    seen = set[str]()

    def letters_of(name: str) -> str:
        if not name:
            raise InputError(f"{newick}: a node has no name; give the tree with names of all inner nodes")
        if name not in sequences:
            raise InputError(f"{newick}: node {name!r} has no sequence in {states} or {tips}")
        return sequences[name][0][first:last]

    found = []
    for node in root.walk():
        if node.name in seen:
            raise InputError(f"{newick}: two nodes are called {node.name!r}; rename one")
        seen.add(node.name)
        found += [Branch(node.name, letters_of(node.name), one.name, letters_of(one.name)) for one in node.children]
    if not found:
        raise InputError(f"{newick}: the tree has no branch")
    return found


def _text(path: Path) -> str:
    try:
        return b"".join(read_bytes(path)).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8") from error


def _lines(path: Path, text: str | None = None) -> list[tuple[str, str]]:
    """Names and sequences, a line each."""
    found = []
    for number, line in enumerate((_text(path) if text is None else text).splitlines(), start=1):
        words = line.split()
        if words and len(words) < 2:
            raise InputError(f"{path}: line {number}: holds a name and no sequence; write both, with a blank between")
        if words:
            found.append((words[0], "".join(words[1:])))
    names = set[str]()
    for name, _ in found:
        if name in names:
            raise InputError(f"{path}: {name!r} is there twice; rename one")
        names.add(name)
    if not found:
        raise InputError(f"{path}: is empty; give a line for each sequence")
    return found


def _alignment(path: Path) -> list[tuple[str, str]]:
    """Names and sequences of a FASTA, or of a PHYLIP file with a line for each sequence."""
    text = _text(path)
    if not text.lstrip().startswith(">"):
        # The first line of PHYLIP holds two numbers.
        head, _, rest = text.partition("\n")
        return _lines(path, rest if all(word.isdigit() for word in head.split()) else text)
    parts = [record.partition("\n") for record in text.lstrip()[1:].split("\n>")]
    return _lines(path, "\n".join(f"{(head.split() or [''])[0]} {''.join(rest.split())}" for head, _, rest in parts))


def _check_lengths(sequences: dict[str, tuple[str, Path]]) -> None:
    first, (letters, _) = next(iter(sequences.items()))
    for name, (other, path) in sequences.items():
        if len(other) != len(letters):
            raise InputError(
                f"{path}: {name!r} has {len(other):,} columns, and {first!r} has {len(letters):,}; align them"
            )
