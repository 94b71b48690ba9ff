from __future__ import annotations

import gzip
from pathlib import Path

import polars
import pytest

from hyenadna.common.errors import InputError
from hyenadna.data.tables import partial_table, read_table


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
        ("a.tsv.gz", b"\x1f\x8bno gzip", "cannot be read as a table"),
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
