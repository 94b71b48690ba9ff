from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.cli import main as cli
from hyenadna.enbed.annotate import annotate, describe, f1_by_class, scores, yardsticks
from hyenadna.enbed.annotate_config import AnnotateConfig
from hyenadna.enbed.gtf import examples_of_table

TINY: dict[str, Any] = {
    "num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "local_radius": 4,
    "first_local_radius": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two biotypes that words tell apart, and lengths do not. One in three is of the second."""
    rng = np.random.default_rng(0)
    rows = ["sequence\ttarget\tsplit\tcontig\tstart\tend\tstrand\tgene_id"]
    for place, (split, count) in enumerate((("train", 60), ("valid", 15), ("test", 30))):
        for row in range(count):
            is_second = row % 3 == 0
            text = "".join(rng.choice([*("CG" if is_second else "AT")], 24))
            rows.append(
                f"{text}\t{'tRNA' if is_second else 'CDS'}\t{split}\tchr{place}\t{row + 1}\t{row + 24}\t+\tg{row}"
            )
    path = tmp_path_factory.mktemp("annotate") / "table.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_scores_by_hand() -> None:
    truth = ["a", "a", "a", "b"]
    # F1 of a: precision 1, recall 2/3; of b: precision 1/1, recall 1. The text that is no class is wrong.
    found = scores(truth, ["a", "a", "ab", "b"])
    assert found == pytest.approx({"exact_match": 0.75, "macro_f1": (0.8 + 1) / 2, "weighted_f1": (3 * 0.8 + 1) / 4})
    assert f1_by_class(truth, ["a", "a", "ab", "b"], ["a", "b"]) == pytest.approx({"a": 0.8, "b": 1.0})
    assert scores(truth, ["zz"] * 4) == {"exact_match": 0.0, "macro_f1": 0.0, "weighted_f1": 0.0}


def test_yardsticks_know_what_they_may_know(table: Path) -> None:
    examples = examples_of_table(table, 512)
    truth = [row.target for row in examples.of("test")]
    found = {name: scores(truth, guesses)["exact_match"] for name, guesses in yardsticks(examples, 2).items()}
    assert found["commonest"] == pytest.approx(2 / 3)
    # All have one length, so that it tells no more than the commonest.
    assert found["length alone (tree of depth 6)"] == found["commonest"]
    assert found["logistic regression on 2-mers"] == 1.0


@pytest.mark.slow
def test_a_run_from_a_table(table: Path, tmp_path: Path) -> None:
    config = AnnotateConfig(
        tmp_path / "run", table=table, model_fields=TINY, steps=3, batch_size=4, beams=2, kmer=2, device="cpu",
        threads=1, checkpoint_every=2,
    )  # fmt: skip
    results = annotate(config, progress=False)
    assert json.loads((config.out / "results.json").read_text()) == results
    assert {"model", "confusion.png", "report.html", "examples.tsv"} <= {path.name for path in config.out.iterdir()}
    assert results["classes"] == {"CDS": 20, "tRNA": 10}
    with (config.out / "predictions.tsv").open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) == 30
    right = np.mean([row["ENBED"] == row["target"] for row in rows])
    assert results["table"][0] == {"method": "ENBED", **scores([row["target"] for row in rows],
                                                               [row["ENBED"] for row in rows])}  # fmt: skip
    assert results["table"][0]["exact_match"] == right
    assert all(text in describe(results) for text in ("commonest", "length alone", "macro", "74.1"))
    # The written examples are a table for another run, and a finished run is loaded.
    assert len(examples_of_table(config.out / "examples.tsv", 512).rows) == 105
    assert annotate(config, resume=True, progress=False) == results


BAD = [
    ("", "give either --gtf or --table"),
    ("--gtf genes.gtf", "--gtf genes.gtf: needs the --genome"),
    ("--gtf genes.gtf --genome a.fa --valid_contigs [a]", "--test_contigs: name at least one contig"),
    ("--gtf genes.gtf --genome a.fa --valid_contigs [a] --test_contigs [a]", "contig 'a' is both for validation"),
    ("--gtf genes.gtf --genome a.fa --valid_contigs [a] --test_contigs [b] --pattern tRNA", "--pattern tRNA: has no"),
    ("--gtf genes.gtf --genome a.fa --valid_contigs [a] --test_contigs [b] --pattern (", "is no regular expression"),
    ("--gtf genes.gtf --genome a.fa --valid_contigs [a] --test_contigs [b] --length 600", "--length 600: exceeds"),
    ("--table none.tsv", "none.tsv: no such file"),
    ("--table columns.tsv", "columns.tsv"),
    ("--table columns.tsv --feature gene", "--feature"),
    ("--table split.tsv", "split.tsv:2: 'dev' in the column split"),
    ("--table long.tsv --most 3", "long.tsv:2: a sequence of 4 bytes exceeds --most 3"),
    ("--table empty.tsv", "empty.tsv:2: the target is empty"),
    ("--table split.tsv --size tiny-1k", "--size tiny-1k: no ENBED has this size"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("genes.gtf").write_text("#\n")
    Path("a.fa").write_text(">a\nACGT\n")
    Path("columns.tsv").write_text("sequence\ttarget\nACGT\tCDS\n")
    Path("split.tsv").write_text("sequence\ttarget\tsplit\nACGT\tCDS\tdev\n")
    Path("long.tsv").write_text("sequence\ttarget\tsplit\nACGT\tCDS\ttrain\n")
    Path("empty.tsv").write_text("sequence\ttarget\tsplit\nACGT\t\ttrain\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["enbed", "annotate", "--out", "new", *words.split()])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
