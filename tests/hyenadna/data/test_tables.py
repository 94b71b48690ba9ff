from __future__ import annotations

import errno
import gzip
import io
from pathlib import Path
from typing import Any

import polars
import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.tables import is_missing, partial_table, read_table


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tsv.gz", "t.parquet"])
def test_every_kind_of_table_is_text_by_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        polars.DataFrame({"seq": ["AC", None], "label": [1, 0], "lists": [[1], [2]]}).write_parquet(path)
    else:
        text = "seq\tlabel\nAC\t1\n\t0\n".replace("\t", "," if "csv" in name else "\t").encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert read_table(path, ["seq"]) == {"seq": ["AC", None], "label": ["1", "0"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.tsv", None, "no such file"),
        ("a.tsv", b"seq\tlabel\n", "holds a header and no rows"),
        ("a.tsv", b"dna\tlabel\nAC\t1\n", "has no column 'seq'; it has 'dna', 'label'"),
        ("a.tsv", b"", "cannot be read as a table"),
        ("a.parquet", b"no parquet", "cannot be read as a table"),
        ("a.tsv.gz", b"\x1f\x8bno gzip", "truncated gzip file"),
        ("a.tsv", b"seq\tseq\nAC\tAC\n", "several columns are called 'seq'"),
        ("a.tsv", b"seq,label\nAC,1\n", r"has no column 'seq'; it has 'seq,label'; is it comma-separated"),
        ("a.csv", b"seq\tlabel\nAC\t1\n", "is it tab-separated"),
        ("a.tsv", b"\xff\xfes\0e\0q\0\n\0", "is in UTF-16 or UTF-32; save it as UTF-8"),
        ("a.tsv", b"seq\tlabel\nAC\t\xe9\n", "cannot be read as a table .*save it as UTF-8"),
        ("a.tsv", b'seq\tlabel\n"AC\t1\nAC\t2\n', "cannot be read as a table"),
        ("a.tsv", b"seq\tlabel\nAC\t1\t2\n", "cannot be read as a table"),
        ("a.tsv.bz2", b"BZh91AY&SY", "is compressed with bzip2"),
        ("a.tsv", b"PK\x03\x04abcdefgh", "is a zip archive; unpack it"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path / name, ["seq"])
    assert "\n" not in str(caught.value)


def test_rows_appear_under_their_name_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    with partial_table(path, ["a", "b"]) as write:
        write([None, 0.5])
        write(['say "x"\t', 3])
        assert not path.exists()
    assert path.read_text() == 'a\tb\n\t0.500000\n"say ""x""\t"\t3\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [InputError("bad row"), OSError("full"), KeyboardInterrupt(), KeyboardInterrupt("x")])
def test_a_failure_keeps_the_rows_apart_and_names_them(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.tsv"
    path.write_text("old")

    def fail() -> None:
        with partial_table(path, ["a"]) as write:
            write([1])
            raise error

    with pytest.raises((InputError, KeyboardInterrupt), match=r"the 1 rows before that are in .*out\.tsv\.partial$"):
        fail()
    assert path.read_text() == "old"
    assert (tmp_path / "out.tsv.partial").read_text() == "a\n1\n"


def test_without_a_row_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^bad$"), partial_table(tmp_path / "out.tsv", ["a"]):
        raise InputError("bad")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be written"), partial_table(tmp_path / "no" / "out.tsv", ["a"]):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfseq\tname\nAC\tNA\nG\tx\n",
        b"seq\tname\r\nAC\tNA\r\nG\tx\r\n",
        b"seq\tname\rAC\tNA\rG\tx\r",
        b"seq\tname\nAC\tNA\nG\tx\n\n\n",
        b'"seq"\tname\n"AC"\tNA\nG\t"x"\n',
    ],
    ids=["byte-order-mark", "windows", "old-macintosh", "blank-lines-at-the-end", "quotes"],
)
def test_forms_of_one_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tsv").write_bytes(content)
    assert read_table(tmp_path / "t.tsv") == {"seq": ["AC", "G"], "name": ["NA", "x"]}


def test_quoted_cells_may_hold_tabs_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b'seq\tname\nAC\t"a\tb\r\nc"\n')
    assert read_table(tmp_path / "t.tsv") == {"seq": ["AC"], "name": ["a\tb\r\nc"]}


def test_words_for_missing_values_are_told_from_text() -> None:
    assert [text for text in (None, "", "NA", "n/a", "NaN", "N", "nano", "0", "no") if is_missing(text)] == [
        *(None, "", "NA", "n/a", "NaN"),
    ]


def write_rows(path: Path, header: list[str], rows: list[list[object]], then: Exception | None = None) -> None:
    with partial_table(path, header) as write:
        for row in rows:
            write(row)
        if then is not None:
            raise then


class FullDisk(io.FileIO):
    """A file on a disk with room for so many bytes."""

    room = 0

    def write(self, data: Any) -> int:
        free = self.room - self.tell()
        if free <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(data)[:free])


@pytest.mark.parametrize(("room", "kept"), [(0, 0), (3, 0), (4, 0), (9, 1), (15, 2), (16, 3)])
def test_rows_that_a_full_disk_took_are_the_ones_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: int
) -> None:
    out = tmp_path / "out.tsv"
    monkeypatch.setattr(FullDisk, "room", room)
    monkeypatch.setattr(Path, "open", lambda self, *_, **__: FullDisk(self, "w"))
    with pytest.raises(InputError) as caught:
        write_rows(out, ["a", "b"], [[row, "x"] for row in range(10)])
    monkeypatch.undo()
    assert "out.tsv: cannot be written (No space left on device)" in str(caught.value)
    if kept:
        assert str(caught.value).endswith(f"; the {kept} rows before that are in {out}.partial")
        assert Path(f"{out}.partial").read_text() == "a\tb\n" + "".join(f"{row}\tx\n" for row in range(kept))
    else:
        assert "rows before" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_rows_go_to_a_pipe_as_they_are(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with partial_table(Path("-"), ["a"]) as write:
        write([1])
    with pytest.raises(InputError, match=r"^bad; the 1 rows before that are written$"):
        write_rows(Path("/dev/stdout"), ["a"], [[2]], then=InputError("bad"))
    assert capfdbinary.readouterr().out == b"a\n1\na\n2\n"
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_table_stays(tmp_path: Path) -> None:
    (tmp_path / "real.tsv").write_text("old")
    (tmp_path / "link.tsv").symlink_to("real.tsv")
    with partial_table(tmp_path / "link.tsv", ["a"]) as write:
        write([1])
        assert (tmp_path / "real.tsv").read_text() == "old"
    assert (tmp_path / "link.tsv").is_symlink()
    assert (tmp_path / "real.tsv").read_text() == "a\n1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.tsv", "real.tsv"]
