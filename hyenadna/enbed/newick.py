"""Trees in the Newick format: a reader and a writer.

Read are names, plain or in single quotes, lengths of branches, and comments in square brackets, which are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hyenadna.common.errors import InputError

_TOKEN = re.compile(r"\s*(?:\[[^\]]*\]\s*)*([(),:;]|'(?:[^']|'')*'|[^\s()\[\],:;']+|$)")
_PLAIN = re.compile(r"[^\s()\[\],:;']+")


@dataclass
class Node:
    """A node of a tree.

    Attributes:
        name: its name, or "".
        length: length of the branch to its parent.
        children: the nodes below it.
    """

    name: str = ""
    length: float = 0.0
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, each before its children."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)

    def leaves(self) -> list[Node]:
        """The nodes without children, in the order of the text."""
        return [node for node in self.walk() if not node.children]


def parse(text: str, where: str = "Newick") -> Node:
    """The root of a tree.

    Args:
        text: the tree, up to its semicolon.
        where: what the message of an error begins with.

    Raises:
        InputError: the text is no tree; the message says at which character.
    """
    path = [Node()]  # from the root to the node that is being read
    before, position = "", 0
    while True:
        found = _TOKEN.match(text, position)
        token = found[1] if found else text[position]
        place = f"{where}: character {found.start(1) + 1 if found else position + 1}"
        position = found.end() if found else position + 1
        is_word = bool(found) and bool(token) and token not in "(),:;"
        if token == "(" and before in ("", "(", ","):
            path[-1].children.append(Node())
            path.append(path[-1].children[-1])
        elif token in (",", ")") and len(path) > 1:
            path.pop()
            if token == ",":
                path[-1].children.append(Node())
                path.append(path[-1].children[-1])
        elif token == ":" and before not in (":", "length"):
            pass
        elif token == ";" and len(path) == 1 and before:
            return path[0]
        elif is_word and before == ":":
            path[-1].length = _number(token, place)
        elif is_word and before in ("", "(", ",", ")"):
            path[-1].name = token[1:-1].replace("''", "'") if token[0] == "'" else token
        else:
            lacks = f"{len(path) - 1} brackets are open" if len(path) > 1 else "a tree ends with ';'"
            raise InputError(f"{place}: {'the end' if not token else repr(token)} cannot stand there; {lacks}")
        before = ("length" if before == ":" else "name") if is_word else token


def as_text(root: Node) -> str:
    """A tree in the Newick format, with lengths of branches below the root."""
    parts: dict[int, str] = {}
    for node in reversed(list(root.walk())):
        inner = f"({','.join(parts.pop(id(child)) for child in node.children)})" if node.children else ""
        plain = not node.name or _PLAIN.fullmatch(node.name)
        name = node.name if plain else "'" + node.name.replace("'", "''") + "'"
        parts[id(node)] = f"{inner}{name}" + ("" if node is root else f":{node.length:g}")
    return parts[id(root)] + ";"


def _number(token: str, place: str) -> float:
    try:
        value = float(token)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: {token!r} is no length of a branch")
    return value
