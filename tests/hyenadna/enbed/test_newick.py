"""The reader and the writer of trees."""

from __future__ import annotations

import pytest

from hyenadna.common.errors import InputError
from hyenadna.enbed.newick import as_text, parse


def test_names_lengths_and_order() -> None:
    root = parse("((a:1,'b c':2.5)x:0.5,[a comment]d/2019:1e-2)root;")
    assert root.name == "root"
    assert [(node.name, node.length) for node in root.walk()][1:] == [
        ("x", 0.5), ("a", 1.0), ("b c", 2.5), ("d/2019", 0.01)
    ]  # fmt: skip
    assert [leaf.name for leaf in root.leaves()] == ["a", "b c", "d/2019"]


@pytest.mark.parametrize(
    "text", ["((a:1,'b''s c':2.5)x:0.5,d:0.01)r;", "a;", "(:1,:2);", "(((deep:1):1):1)top;"], ids=str
)
def test_what_is_written_is_what_was_read(text: str) -> None:
    assert as_text(parse(text)) == text
    assert parse(f"  {text.replace(',', ' ,' + chr(10))}") == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a,b", "character 5: the end cannot stand there; 1 brackets are open"),
        ("(a,b));", "character 6: '\\)' cannot stand there"),
        ("(a:x,b);", "character 4: 'x' is no length"),
        ("(a:nan,b);", "'nan' is no length"),
        ("(a b);", "character 4: 'b' cannot stand there"),
        ("(a,b):1:2;", "':' cannot stand there"),
        ("(a,'b);", "cannot stand there"),
        ("", "the end cannot stand there; a tree ends with ';'"),
    ],
)
def test_broken_trees_are_refused_with_their_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^file: .*{message}"):
        parse(text, "file")


def test_a_ladder_needs_no_recursion() -> None:
    text = "(" * 5000 + "a" + ")" * 5000 + ";"
    assert sum(1 for _ in parse(text).walk()) == 5001
