"""The synthetic mutations of cell lines, and the script that measures ``hyenadna mutate`` on them."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from hyenadna.cancer import mutate
from hyenadna.cli import main as cli

EXAMPLE = Path(__file__).parents[2] / "examples/cancer"
MOTIF = "TTAGGCAT"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "r.fa"
    path.write_text("".join(f">c{size}\n{''.join(rng.choice(list('ACGT'), size))}\n" for size in (2000, 600)))
    return path


def test_nothing_but_the_inserted_bases_tells_the_classes_apart(fasta: Path, tmp_path: Path) -> None:
    write = runpy.run_path(str(EXAMPLE / "synthetic.py"))["write"]
    for place in ("one", "two"):
        write(fasta, tmp_path / place, 12, 60, MOTIF, 0.5, 7)
    for name in ("mutations.csv", "Model.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with (tmp_path / "one/Model.csv").open() as file:
        models = {row["ModelID"]: row for row in csv.DictReader(file)}
    assert Counter(row["OncotreeLineage"] for row in models.values()) == {"A": 12, "B": 12}
    # The tenth line of a class is the second one of a patient.
    of_patient = defaultdict(set)
    for row in models.values():
        of_patient[row["PatientID"]].add(row["OncotreeLineage"])
    assert len(of_patient) == 22
    assert all(len(labels) == 1 for labels in of_patient.values())

    bases = dict(record.split() for record in fasta.read_text().split(">")[1:])
    kinds: dict[str, Counter[str]] = {"A": Counter(), "B": Counter()}
    inserted: dict[str, set[str]] = {"A": set(), "B": set()}
    with (tmp_path / "one/mutations.csv").open() as file:
        for row in csv.DictReader(file):
            label, start = models[row["ModelID"]]["OncotreeLineage"], int(row["Pos"]) - 1
            assert bases[row["Chrom"]][start : start + len(row["Ref"])] == row["Ref"]
            assert row["Ref"] != row["Alt"]
            kinds[label][row["VariantType"]] += 1
            if row["VariantType"] == "INS":
                inserted[label].add(row["Alt"][1:])
    assert inserted["A"] == {MOTIF}
    assert MOTIF not in inserted["B"]
    assert len(inserted["B"]) > 100
    assert {"".join(sorted(text)) for text in inserted["B"]} == {"".join(sorted(MOTIF))}
    for one in kinds.values():
        # Four standard deviations.
        assert abs(one["INS"] - one.total() / 2) < 2 * one.total() ** 0.5
        assert set(one) == {"INS", "SNP", "DNP", "DEL"}


def test_the_cost_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def in_this_process(command: list[str], cwd: Path, check: bool) -> None:
        assert command[:2] == [sys.executable, "-c"]
        monkeypatch.chdir(cwd)
        cli.main(command[3:])

    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(subprocess, "run", in_this_process)
    # Figures take most of the time of a small run.
    monkeypatch.setattr(mutate, "write_page", lambda folder, report: None)
    words = ["--bases", "48000", "--lines", "2", "--mutations", "20", "--length", "64", "--per_line", "3"]
    monkeypatch.setattr(sys, "argv", ["cost.py", *words])
    runpy.run_path(str(EXAMPLE / "cost.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "12 sequences of 64 bases from 4 lines" in told
    assert "s of processor time" in told.splitlines()[-1]
