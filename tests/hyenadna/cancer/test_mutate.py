"""The tables of ``hyenadna mutate``: columns, balance, splits, and the same bytes whatever the order of rows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import yaml

from hyenadna.cancer import edits, mutate as module
from hyenadna.cancer.config import MutateConfig
from hyenadna.cancer.edits import Edits, Mutation
from hyenadna.cancer.lines import Line
from hyenadna.cancer.mutate import LineMutations, mutate
from hyenadna.cancer.report import describe
from hyenadna.common.errors import InputError
from hyenadna.data.genome import Genome
from tests.hyenadna.cancer.conftest import Study

COLUMNS = [
    "sequence", "label", "group", "patient", "contig", "start", "end", "anchor_pos", "anchor_in_sequence", "offset",
    "n_mutations", "n_dropped", "split", "reference",
]  # fmt: skip
SPLITS = ("train", "validation", "test", "rest")


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of all tables, with numbers."""
    rows = []
    for split in SPLITS:
        with (folder / f"{split}.tsv").open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                assert row["split"] == split
                rows.append({name: int(text) if text.isdecimal() else text for name, text in row.items()})
    return rows


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The tables and the report of a run."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tsv", ".json")}


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and its report."""
    folder = tmp_path_factory.mktemp("made") / "out"
    return folder, mutate(study.config(folder), progress=False)


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a small run. That of the fixture ``made`` has them."""
    monkeypatch.setattr(module, "write_page", lambda folder, report: None)


def test_files_and_columns(study: Study, made: tuple[Path, dict[str, Any]]) -> None:
    folder, report = made
    files = [*(f"{split}.tsv" for split in SPLITS), "report.json", "report.html", "config.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    assert all((folder / f"{split}.tsv").read_text().splitlines()[0].split("\t") == COLUMNS for split in SPLITS)
    assert json.loads((folder / "report.json").read_text()) == report
    options = yaml.safe_load((folder / "config.yaml").read_text())
    paths = {name: Path(options[name]) for name in ("fasta", "mutations", "models", "out_dir")}
    assert MutateConfig(**options | paths) == study.config(folder)
    page = (folder / "report.html").read_text()
    assert page.count("<img src") == 2
    assert all(text in page for text in ("contig too short", "Lines and sequences", "How many mutations a sequence"))


def test_lines_are_balanced_and_patients_on_one_side(made: tuple[Path, dict[str, Any]]) -> None:
    folder, report = made
    rows = read(folder)
    per_line = Counter((row["split"], row["label"], row["group"]) for row in rows)
    assert set(per_line.values()) == {report["per_line"]}
    lines = Counter((split, label) for split, label, _ in per_line)
    for label in "AB":
        assert [lines[split, label] for split in SPLITS[:3]] == [3, 1, 2]
    assert lines["rest", "A"] or lines["rest", "B"]
    assert len({line for _, _, line in per_line}) == len(per_line)
    sides = defaultdict(set)
    for row in rows:
        sides[row["patient"]].add(row["split"])
    assert all(len(splits - {"rest"}) <= 1 for splits in sides.values())


def test_sequences_are_those_of_the_rule(study: Study, made: tuple[Path, dict[str, Any]]) -> None:
    """Every row again, from the input alone."""
    folder, report = made
    of_line: dict[str, dict[str, list[Mutation]]] = defaultdict(lambda: defaultdict(list))
    with study.mutations.open() as file:
        for row in csv.DictReader(file):
            of_line[row["ModelID"]][row["Chrom"]].append(Mutation(int(row["Pos"]), row["Ref"], row["Alt"]))
    rows = read(folder)
    assert len(rows) == sum(one["sequences"] for one in report["lines"].values()) > 100
    shown = Counter[str]()
    for row in rows:
        contig = study.contigs[row["contig"]]
        assert 0 <= row["start"] < row["end"] <= len(contig)
        assert len(row["sequence"]) == len(row["reference"]) == 40
        assert row["reference"] in contig[row["start"] : row["end"]]
        mutations = of_line[row["group"]][row["contig"]]
        plans = []
        for anchor in (one for one in mutations if one.pos == row["anchor_pos"]):
            assert row["offset"] < 40
            offset = edits.draw_offset(anchor, 40, 0, row["group"], row["contig"])
            plan = edits.plan_window(anchor, Edits(one.edit for one in mutations), offset, 40, len(contig))
            assert not isinstance(plan, str)
            numbers = (plan.start, plan.end, plan.anchor_in_sequence, offset, plan.n_mutations, plan.n_dropped)
            plans.append((plan.sequence(lambda start, end, contig=contig: contig[start:end]), *numbers))
        names = ("start", "end", "anchor_in_sequence", "offset", "n_mutations", "n_dropped")
        assert (row["sequence"], *(row[name] for name in names)) in plans
        shown[row["label"], str(row["n_mutations"])] += 1
    for label in "AB":
        counts = report["classes"][label]["mutations_per_sequence"]
        assert counts == {number: count for (of, number), count in sorted(shown.items()) if of == label}
    assert sum(report["not_shown"].values()) == sum(row["n_dropped"] for row in rows)
    assert any(row["n_mutations"] > 1 for row in rows)


def test_anchors_of_a_line_differ(made: tuple[Path, dict[str, Any]]) -> None:
    rows = read(made[0])
    # Two mutations may have one position.
    assert len({(row["group"], row["contig"], row["anchor_pos"], row["sequence"]) for row in rows}) == len(rows)


def test_the_report(study: Study, made: tuple[Path, dict[str, Any]]) -> None:
    _, report = made
    rows = report["rows"]
    assert rows["in_file"] == len(study.mutations.read_text().splitlines()) - 1
    assert rows["usable"] + sum(rows["skipped"].values()) == rows["in_file"]
    # Of contig chr3, whose 30 bases are fewer than 40.
    assert rows["skipped"][edits.TOO_SHORT] == 64
    usable = {name: line["usable"] for name, line in report["lines"].items()}
    assert report["more_than"] == np.median([*usable.values()])
    for label in "AB":
        mine = [line["usable"] for line in report["lines"].values() if line["class"] == label]
        assert report["classes"][label]["mutations_per_line"] == {
            "lines": 16, "min": min(mine), "max": max(mine), "mean": np.mean(mine), "median": np.median(mine),
        }  # fmt: skip
    for line in report["lines"].values():
        assert line["usable"] + sum(line["skipped"].values()) == line["rows"]
        assert (line["split"] is not None) == (line["usable"] > report["more_than"]) == (line["sequences"] > 0)
    text = describe(report, Path("x"))
    assert "64 rows left out: contig too short" in text
    assert "patient" not in text


def test_the_order_of_rows_decides_nothing(study: Study, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for path in (study.mutations, study.models):
        header, *rows = path.read_text().splitlines()
        rows = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
        (tmp_path / path.name).write_text("\n".join([header, *rows]) + "\n")
    moved = study._replace(mutations=tmp_path / study.mutations.name, models=tmp_path / study.models.name)
    mutate(moved.config(tmp_path / "out"), progress=False)
    for split in SPLITS:
        name = f"{split}.tsv"
        assert (tmp_path / "out" / name).read_bytes() == (made[0] / name).read_bytes()


def test_the_seed_decides(study: Study, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    mutate(study.config(tmp_path / "out", seed=1), progress=False)
    assert (tmp_path / "out/train.tsv").read_bytes() != (made[0] / "train.tsv").read_bytes()


def test_more_sequences_hold_the_fewer(study: Study, tmp_path: Path) -> None:
    """A line's draw of more mutations holds its draw of fewer."""
    found = []
    for count in ("5", "9"):
        mutate(study.config(tmp_path / count, per_line=count, more_than="0", reference=False), progress=False)
        found.append({(row["group"], row["sequence"]) for row in read(tmp_path / count)})
    assert found[0] < found[1]
    assert (tmp_path / "5/train.tsv").read_text().splitlines()[0].split("\t") == COLUMNS[:-1]


def test_parquet(study: Study, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "parquet"}
    mutate(study.config(tmp_path / "out", **options), progress=False)
    for split in SPLITS:
        table = polars.read_parquet(tmp_path / "out" / f"{split}.parquet")
        assert not (tmp_path / "out" / f"{split}.tsv").exists()
        assert table.columns == COLUMNS
        assert table["start"].dtype == polars.Int64
        text = (made[0] / f"{split}.tsv").read_text()
        assert table.write_csv(separator="\t", quote_style="never") == text


def test_an_empty_table_has_its_header(study: Study, tmp_path: Path) -> None:
    for kind in ("tsv", "parquet"):
        options: dict[str, Any] = {"format": kind, "test_lines": 0, "validation_lines": 0}
        mutate(study.config(tmp_path / kind, **options), progress=False)
    for split in ("test", "validation"):
        assert (tmp_path / "tsv" / f"{split}.tsv").read_text().split() == COLUMNS
        assert polars.read_parquet(tmp_path / "parquet" / f"{split}.parquet").columns == COLUMNS


def test_patients_that_are_not_known(study: Study, tmp_path: Path) -> None:
    models = tmp_path / "sample_info.csv"
    rows = [line.split(",") for line in study.models.read_text().splitlines()[1:]]
    models.write_text("DepMap_ID,lineage\n" + "".join(f"{name},{label}\n" for name, _, label in rows))
    report = mutate(study._replace(models=models).config(tmp_path / "out"), progress=False)
    assert {row["patient"] for row in read(tmp_path / "out")} == {""}
    assert "no line has a patient, so lines of one patient may be on both sides" in describe(report, tmp_path)


def test_other_lines_are_counted(study: Study, tmp_path: Path) -> None:
    rows = study.models.read_text().splitlines()
    models = tmp_path / "Model.csv"
    models.write_text("\n".join([*rows[:-2], rows[-2].replace(",B", ",C")]) + "\n")
    report = mutate(study._replace(models=models).config(tmp_path / "out", more_than="0"), progress=False)
    assert report["other_lines"] == {
        "the line is of no chosen class": 1, "the line is not in the table of lines": 1,
    }  # fmt: skip
    assert report["rows"]["usable"] + sum(report["rows"]["skipped"].values()) == report["rows"]["in_file"]


def test_a_stopped_run_leaves_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_page", stop)
    with pytest.raises(KeyboardInterrupt):
        mutate(study.config(tmp_path / "far/out"), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_other_names(study: Study, tmp_path: Path) -> None:
    models = tmp_path / "Model.csv"
    models.write_text(study.models.read_text().replace("ACH-", "X"))
    with pytest.raises(InputError) as caught:
        mutate(study._replace(models=models).config(tmp_path / "out"), progress=False)
    assert "none of its lines (ACH-0, ACH-1, ACH-2, ACH-3, ACH-4, ...) is in " in str(caught.value)
    assert str(caught.value).endswith("which has X0, X1, X2, X3, X4, ...")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["A"]}, "`classes` A: give two or more different classes"),
        ({"classes": ["A", "A", "B"]}, "`classes` A,A,B: a class stands there twice"),
        ({"more_than": "mean"}, "`more_than` mean: must be median, or a number of 0 or more"),
        ({"more_than": "nan"}, "`more_than` nan: must be median, or a number of 0 or more"),
        ({"per_line": "0"}, "`per_line` 0: must be min, or a number of 1 or more"),
        ({"validation_lines": 4}, "`validation_lines` 4: are taken from the 4 of `train_lines`, and must be fewer"),
        ({"length": 1}, "`length` 1: must be at least 2"),
    ],
)
def test_options_that_are_refused(study: Study, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        study.config(tmp_path / "out", **options).check()
    assert str(caught.value) == message


def test_one_change_in_two_spellings_is_used_once(study: Study) -> None:
    contig = study.contigs["chr1"]
    base, behind = contig[9:11]
    other = "ACGT"["ACGT".index(behind) - 1]
    with Genome.open(study.genome) as genome:
        rows = [("chr1", 10, base + behind, base + other), ("chr1", 11, behind, other)]
        found = LineMutations(Line("L", "A", ""), rows, genome, 40, 0)
    assert [anchor.mutation.pos for anchor in found.anchors] == [10]
    assert found.skipped == {"the same mutation of the line again": 1}


@pytest.mark.slow
def test_workers_make_the_same_bytes(study: Study, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """By the command, so that the processes import neither torch nor transformers. Tasks are small, to be many."""
    script = tmp_path / "run.py"
    script.write_text(
        "import hyenadna_command\n"
        "from hyenadna.cancer import mutate\n"
        "mutate._TASK_BASES = 200\n"
        "mutate.write_page = lambda folder, report: None\n"
        "if __name__ == '__main__':\n"
        "    hyenadna_command.main()\n"
    )
    words = f"mutate --config {made[0] / 'config.yaml'} --out_dir out --workers 2".split()
    subprocess.run([sys.executable, str(script), *words], cwd=tmp_path, check=True, capture_output=True)
    assert bytes_of(tmp_path / "out") == bytes_of(made[0])
