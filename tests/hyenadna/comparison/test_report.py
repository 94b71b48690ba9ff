"""``hyenadna report`` as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyenadna.cli import main as cli
from hyenadna.comparison.config import ReportConfig
from hyenadna.comparison.report import report
from tests.hyenadna.comparison.folders import put

PICTURES = ("genomic-benchmarks", "not_comparable")


def test_nothing_but_the_published_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    cli.main(["report", "--results", f"[{tmp_path / 'empty'}]", "--out", str(out)])
    assert capsys.readouterr().out == (
        f"Nothing was run: the published tables stand alone.\nreport in {out}/report.html and report.md\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md"]
    for text in ((out / name).read_text() for name in ("report.html", "report.md")):
        assert "Nothing was run" in text
        assert "88.46" in text
        assert "ours" not in text.split("Nothing was run")[1]


def test_all_that_was_found_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    put(runs / "a", 0.92, 0.93, method="scratch")
    put(runs / "b", 0.84, method="scratch", demonstration_split=True, tested=1807)
    put(runs / "c", 0.84, preset=None)
    words = ["report", "--results", f"[{runs}]", "--out", str(out)]
    cli.main(words)
    assert capsys.readouterr().out.splitlines() == [
        f"{runs}/a: GenomicBenchmarks nontata-promoters scratch, 2 seeds",
        f"{runs}/b: GenomicBenchmarks nontata-promoters scratch, 1 seed; not comparable: demonstration split: its test "
        "was drawn from all examples",
        f"ignored {runs}/c: was run without a preset, so nothing says which published row it belongs to",
        "2 results: 1 beside the published tables, 1 not comparable with them.",
        f"report in {out}/report.html and report.md",
    ]
    assert {path.name for path in out.iterdir()} == {*(f"{name}.png" for name in PICTURES), "report.html", "report.md"}
    page, markdown = ((out / name).read_text() for name in ("report.html", "report.md"))
    for name in PICTURES:
        assert f"({name}.png)" in markdown
    assert page.count("<img ") == len(PICTURES)
    for title in ("GenomicBenchmarks, Table A.4: published and ours", "Like with like, in points", "Ignored folders"):
        assert f"## {title}\n" in markdown
        assert f">{title}</a>" in page
        assert f">{title}</h2>" in page
    row = "| nontata-promoters | scratch | accuracy | 0.933 | 0.9250 (0.9200 to 0.9300, 2 seeds) | 9,034 |"
    assert markdown.count(row) == 1
    assert "<td>0.9250 (0.9200 to 0.9300, 2 seeds)</td>" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "[nowhere]", "--out", "out"], "nowhere: no such folder"),
        (["--results", "[file]", "--out", "out"], "file: is a file; give its folder"),
        (["--out", "file"], "--out file: is a file; choose a folder"),
        (["--results", "[bad]", "--out", "out"], "bad/results.json: no results of hyenadna finetune"),
        (["--results", "[bad]", "--out", "bad"], "--results bad: is read, and would be written over"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("bad").mkdir()
    Path("bad/results.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *words])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not Path("out").exists()


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("old")
    (out / "mine.txt").write_text("kept")
    report(ReportConfig(out))
    assert (out / "report.md").read_text().startswith("# Published figures and ours")
    assert (out / "mine.txt").read_text() == "kept"
