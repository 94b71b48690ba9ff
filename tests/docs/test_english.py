"""The length of the sentences on every page: a long one has to be read twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "docs" / "LOG.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    # The entries of the log stay as they were written.
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path != LOG),
]
MOST_WORDS = 35
MOST_WORDS_ON_AVERAGE = 20

_NOT_PROSE = re.compile(
    r"^```.*?^```$|<!--.*?-->|^\|.*?$|^#.*?$|!\[[^\]]*\]\([^)]*\)|^:::.*?$", re.MULTILINE | re.DOTALL
)
# A paragraph, or one item of a list.
_BLOCK_ENDS = re.compile(r"\n\s*\n|\n\s*(?=(?:[-*]|\d+\.) )")


def sentences(markdown: str) -> list[str]:
    """The sentences of a page without code blocks, tables, headings, pictures and the targets of links."""
    text = _NOT_PROSE.sub("\n\n", markdown)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    found = []
    for block in _BLOCK_ENDS.split(text):
        words = " ".join(block.split())
        found += [part.strip() for part in re.split(r"(?<=[.!?])(?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)[)*\"]*\s+", words)]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def length(sentence: str) -> int:
    """Its words; signs between them do not count."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def test_sentences_are_found() -> None:
    prose = "# Heading\n\nOne two `a b c`. Three [four five](x.md) 0.5 six!\n\n- seven:\n- eight\n\n"
    page = prose + "```sh\nno\n```\n| no |\n"
    assert [length(sentence) for sentence in sentences(page)] == [3, 5, 1, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_is_long_and_the_average_is_short(page: Path) -> None:
    found = sentences(page.read_text(encoding="utf-8"))
    assert found, "no prose"
    long = [f"{length(sentence)} words: {sentence}" for sentence in found if length(sentence) > MOST_WORDS]
    assert not long, "\n".join(long)
    average = sum(map(length, found)) / len(found)
    assert average <= MOST_WORDS_ON_AVERAGE, f"{average:.1f} words a sentence"
