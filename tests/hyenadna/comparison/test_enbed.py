"""The tables of ENBED in the report, and that its results never stand in HyenaDNA's columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyenadna.common.errors import InputError
from hyenadna.comparison.config import ReportConfig
from hyenadna.comparison.enbed import study_tables
from hyenadna.comparison.report import describe, report
from hyenadna.comparison.results import find
from hyenadna.comparison.tables import beside, differences, grid, lines, sections
from hyenadna.drawing.report import Table
from hyenadna.published.enbed import BENCHMARKS, STUDIES
from tests.hyenadna.comparison.folders import put

GB, NT = (
    next(part for part in sections() if part.benchmark == BENCHMARKS[name])
    for name in ("genomic-benchmarks", "nucleotide-transformer")
)
TABLES: dict[str, list[dict[str, Any]]] = {
    "enbed-pretrain": [{"method": "model", "masked_accuracy": 0.42}, {"method": "majority", "masked_accuracy": 0.3}],
    "enbed-noise": [
        {"method": "6-mers", "f1": 0.9, "accuracy": 0.91, "rate": 0.06},
        {"method": "random", "f1": None, "accuracy": 0.5},
    ],
    "enbed-annotate": [{"method": "length alone", "macro_f1": 0.2, "weighted_f1": 0.4, "exact_match": 0.5}],
    "enbed-evolve": [
        {"method": "copy", "pairs": "all", "top1": 0.5, "top5": 0.5, "mean_distance": 1.0, "median_distance": 0.5}
    ],
}


def put_study(folder: Path, study: str, **more: Any) -> Path:
    """Write the results.json of a study."""
    folder.mkdir(parents=True)
    content = {"study": study, "data": "made up", "table": TABLES.get(study, []), "rows": []}
    (folder / "results.json").write_text(json.dumps(content | more))
    return folder


def table_of(tables: list[Table], title: str) -> Table:
    """The table whose title has these words."""
    (found,) = (table for table in tables if title in table.title)
    return found


def test_the_published_tables_stand_alone() -> None:
    sizes, *studies = study_tables()
    assert [row[0] for row in sizes.rows] == ["ENBED", "shallow", "decoder only"]
    assert sizes.rows[0][7:10] == ["1.2 billion", "728.5 million", "941.4 million"]
    assert len(studies) == len(STUDIES)
    noise, evolve = table_of(studies, "noise"), table_of(studies, "mutations")
    # It is not said whether they are F1, so neither column has them.
    assert noise.columns == ["whose", "method", "F1 or accuracy"]
    assert noise.rows[-1] == ["published", "ENBED", "97.1"]
    assert evolve.rows[2] == ["published", "ENBED", "76.9", "95.4", "2.3", "1"]
    assert evolve.rows[3][:2] == ["counted", "copy of the parent, 3,152 pairs of MutaGAN's tree"]
    assert evolve.rows[3][2:] == ["63.6", "", "0.645", "0"]
    assert all("ours" not in " ".join([*table.columns, table.note]) for table in studies)


def test_studies_stand_under_the_published_rows(tmp_path: Path) -> None:
    for study in TABLES:
        put_study(tmp_path / study, study)
    found = find([tmp_path])
    assert (found.results, found.ignored) == ([], [])
    tables = study_tables(found.studies, with_ours=True)
    noise = table_of(tables, "noise")
    assert noise.columns == [
        "whose", "method", "F1 or accuracy", "f1", "accuracy", "rate", "tested on", "folder or command",
    ]  # fmt: skip
    assert noise.rows[2:] == [
        ["published", "ENBED", "97.1", "", "", "", "", ""],
        ["ours", "6-mers", "", "90.00", "91.00", "0.06", "made up", str(tmp_path / "enbed-noise")],
        ["ours", "random", "", "", "50.00", "", "made up", str(tmp_path / "enbed-noise")],
    ]
    assert table_of(tables, "masked").rows[2][1:3] == ["model", "42.00"]
    assert table_of(tables, "biotypes").rows[-1][2:6] == ["", "20.00", "40.00", "50.00"]
    # Distances are no shares.
    assert table_of(tables, "mutations").rows[-1][:7] == ["ours", "copy", "50.00", "50.00", "1.00", "0.50", "all"]
    assert all("small models on other data" in table.note for table in tables[1:])


def test_data_may_be_counts_by_name(tmp_path: Path) -> None:
    put_study(
        tmp_path / "run", "enbed-noise", data={"source": "pairs.tsv", "equal": 12, "share": 0.123456789, "parts": {}}
    )
    (result,) = find([tmp_path]).studies
    assert result.data == "source pairs.tsv, equal 12, share 0.123457"


def test_a_study_that_was_not_run_has_an_empty_row(tmp_path: Path) -> None:
    result = find([put_study(tmp_path / "run", "enbed-noise")]).studies
    evolve = table_of(study_tables(result, with_ours=True), "mutations")
    assert evolve.rows[-1] == ["ours", "nothing was run", "", "", "", "", "", "hyenadna enbed evolve"]
    assert "small models" not in evolve.note


def test_fine_tuning_stands_beside_its_own_paper_alone(tmp_path: Path) -> None:
    enbed: dict[str, Any] = {"architecture": "enbed", "weights": "other"}
    reason = "no figure is published of the row enbed, and this is that of the row pretrained"
    put(tmp_path / "a", 0.90, preset="nt-H3", metric="mcc", method="scratch", **enbed, not_comparable=[reason])
    put(tmp_path / "b", 0.85, **enbed)
    put(tmp_path / "c", 0.80, **enbed | {"weights": "none"}, method="scratch")
    found = find([tmp_path])
    assert [(r.benchmark, r.dataset, r.row) for r in found.results] == [
        (NT.benchmark, "H3", "enbed"),
        (GB.benchmark, "nontata-promoters", "enbed-pretrained"),
        (GB.benchmark, "nontata-promoters", "enbed"),
    ]
    assert found.results[0].deviations == ""
    ours = {
        (section.source, line.row): (line.published, line.values)
        for section in sections()
        for line in lines(section, found.results)
        if line.ours and line.dataset == "nontata-promoters"
    }
    assert ours == {(GB.source, "enbed"): (0.834, [0.80]), (GB.source, "enbed-pretrained"): (0.972, [0.85])}
    (difference,) = (row for row in differences(found.results).rows if row[4])
    assert difference[:5] == [
        "ENBED on GenomicBenchmarks, fine-tuning", "pretraining of ENBED", "nontata-promoters", "+13.80",
        "+5.00 (+5.00 to +5.00, runs of both: 1)",
    ]  # fmt: skip
    assert "about a billion" in beside(GB, lines(GB, found.results)).note
    assert "about a billion" not in beside(GB, lines(GB, [])).note
    # The paper's accuracy and ours by Matthews' correlation share no column either.
    (h3,) = (line for line in lines(NT, found.results) if line.dataset == "H3" and line.row == "enbed-pretrained")
    assert (h3.published, h3.ours) == (0.906, None)
    (own,) = (line for line in lines(NT, found.results) if line.dataset == "H3" and line.row == "enbed")
    assert (own.published, own.metric, own.values) == (None, "mcc", [0.90])


def test_a_test_of_another_size_stands_apart_here_too(tmp_path: Path) -> None:
    (result,) = find([put(tmp_path / "run", 0.8, architecture="enbed", tested=1807)]).results
    assert result.apart == "its test has 1,807 sequences, the published one 9,034"


def test_mean_of_the_benchmarks_is_told() -> None:
    assert grid(GB).rows[-1] == ["mean, computed here", "", "77.08", "89.16"]
    assert grid(NT).highlight is None


@pytest.mark.parametrize("preset", ["species-32k", "nt-splice-all"])
def test_what_the_paper_has_no_figure_of_is_told(tmp_path: Path, preset: str) -> None:
    found = find([put(tmp_path / "run", 0.8, architecture="enbed", preset=preset)])
    assert [reason for _, reason in found.ignored] == [f"no published table of ENBED has the preset {preset}"]


@pytest.mark.parametrize(
    "table",
    [None, [], [1], [{"f1": 0.9}], [{"method": "a", "f1": "high"}], [{"method": "a"}], [{"method": 1, "f1": 1}]],
)
def test_a_damaged_study_is_refused_if_named_and_told_if_found(tmp_path: Path, table: Any) -> None:
    folder = put_study(tmp_path / "run", "enbed-noise", table=table)
    ((_, reason),) = find([tmp_path]).ignored
    assert reason.startswith("no results of hyenadna enbed noise (`table` is no list of methods with f1, accuracy)")
    with pytest.raises(InputError, match=r"run/results\.json: no results of hyenadna enbed noise"):
        find([folder])


def test_another_study_is_ignored(tmp_path: Path) -> None:
    ((_, reason),) = find([put_study(tmp_path / "run", "tides")]).ignored
    assert reason == "holds a study 'tides', and no published table is of one"


def test_the_page_has_them_all(tmp_path: Path) -> None:
    put_study(tmp_path / "runs" / "noise", "enbed-noise")
    config = ReportConfig(tmp_path / "out", [tmp_path / "runs"])
    found = report(config)
    assert describe(config, found).splitlines()[:2] == [
        f"{tmp_path}/runs/noise: ENBED: noise in telomeres",
        "1 study of ENBED beside the published tables.",
    ]
    markdown = (config.out / "report.md").read_text()
    assert markdown.count("\n## ENBED") == 2 + 1 + len(STUDIES)
    assert "| ours | 6-mers |  | 90.00 | 91.00 | 0.06 | made up |" in markdown
