from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.drawing.report import Command, Image, Table, as_markdown, markdown_table, write_report

HOSTILE = "<script>alert('x')</script> & \"$title\" $$ {0}"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """Texts by tag, and whether every tag that was opened was closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for owner, text in self.texts if owner == tag]


def test_everything_given_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    path = write_report(
        tmp_path,
        title="Demo",
        summary="3.60 against 3.82",
        facts={"parameters": 436_096, "reload": True, "seconds": 98.5, "folder": Path("run")},
        tables=[Table("Scores", ["model", "perplexity"], [["Markov 8", 3.8164], ["HyenaDNA", 3.5]], 1, "chrXVI")],
        images=[Image(tmp_path / "curve.png", "Training")],
        commands=[Command("Continue", "hyenadna pretrain --resume run")],
    )
    assert path == tmp_path / "report.html"
    page = Page(path)
    assert page.of("title") == page.of("h1") == ["Demo"]
    assert page.of("h2") == ["The run", "Scores", "Next steps"]
    assert page.of("p") == ["3.60 against 3.82", "chrXVI", "Continue"]
    assert page.of("td") == ["436,096", "yes", "98.5000", "run", "Markov 8", "3.8164", "HyenaDNA", "3.5000"]
    assert page.of("figcaption") == ["Training"]
    assert page.of("pre") == ["hyenadna pretrain --resume run"]
    assert [attrs.get("class") for tag, attrs in page.starts if tag == "tr"][-3:] == [None, None, "highlight"]
    assert [attrs.get("class") for tag, attrs in page.starts if tag == "td"][-2:] == [None, "number"]


def test_contents_link_to_the_tables_and_images_follow_them(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    tables = [
        Table("First", ["a"], [[1]], image=Image(tmp_path / "curve.png", "Dots")),
        Table("Second & last", ["a"], [[2]]),
    ]
    page = Page(write_report(tmp_path, title="t", facts={}, tables=tables, contents=True))
    assert page.of("a") == page.of("h2") == ["First", "Second & last"]
    targets = [str(attrs["href"]).removeprefix("#") for tag, attrs in page.starts if tag == "a"]
    assert targets == [attrs["id"] for tag, attrs in page.starts if tag == "h2"]
    order = [tag for tag, _ in page.starts if tag in ("table", "img")]
    assert order == ["table", "img", "table"]
    assert page.of("figcaption") == ["Dots"]


def test_the_same_as_markdown() -> None:
    table = Table("Scores", ["model", "n"], [["a|b", 1024], ["", 2]], 1, "a note", Image("there/curve.png", "Dots"))
    assert as_markdown("Demo", summary="Three.", facts={"seconds": 98.5, "reload": True}, tables=[table]) == (
        "# Demo\n\nThree.\n\n- seconds: 98.5000\n- reload: yes\n\n## Scores\n\n"
        "| model | n |\n| --- | --: |\n| a\\|b | 1,024 |\n|  | **2** |\n\na note\n\n![Dots](curve.png)\n"
    )
    assert as_markdown("Demo", facts={}) == "# Demo\n"
    with pytest.raises(InputError, match="2 columns, but a row of 1"):
        markdown_table(Table("Scores", ["a", "b"], [[1]]))


def test_every_value_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    path = write_report(
        tmp_path,
        title=HOSTILE,
        summary=HOSTILE,
        facts={HOSTILE: HOSTILE},
        tables=[Table(HOSTILE, [HOSTILE], [[HOSTILE]], note=HOSTILE)],
        images=[Image(tmp_path / "curve.png", HOSTILE)],
        commands=[Command(HOSTILE, HOSTILE)],
    )
    assert "<script" not in path.read_text()
    page = Page(path)
    for tag, count in {"title": 1, "h1": 1, "h2": 1, "th": 2, "td": 2, "p": 3, "figcaption": 1, "pre": 1}.items():
        assert page.of(tag).count(HOSTILE) == count, tag
    assert next(attrs["alt"] for tag, attrs in page.starts if tag == "img") == HOSTILE


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(PNG)
    text = write_report(tmp_path, title="t", facts={}, images=[Image(tmp_path / "curve.png", "c")]).read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert "http" not in text


def test_columns_of_numbers_are_aligned_right_also_as_text(tmp_path: Path) -> None:
    table = Table("t", ["a", "b", "c", "d"], [["1", "1,024", "35.6%", "-"], ["x", "2", "7%", "3"]])
    page = Page(write_report(tmp_path, title="t", facts={}, tables=[table]))
    assert [attrs.get("class") for tag, attrs in page.starts if tag == "th"] == [None, "number", "number", None]


def test_refuses_a_row_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report table 'Scores': 2 columns, but a row of 3"):
        write_report(tmp_path, title="t", facts={}, tables=[Table("Scores", ["a", "b"], [[1, 2, 3]])])
    assert not list(tmp_path.iterdir())


def test_refuses_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png: cannot be read"):
        write_report(tmp_path, title="t", facts={}, images=[Image(tmp_path / "absent.png", "c")])
    assert not list(tmp_path.iterdir())


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.html: cannot be written \(No such file or directory\)"):
        write_report(tmp_path / "absent", title="t", facts={})
