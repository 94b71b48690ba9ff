from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.cancer import study as study_module, study_page
from hyenadna.cancer.rows import plan_rows
from hyenadna.cancer.study import study
from hyenadna.cancer.study_config import CancerConfig, typed_options
from hyenadna.cancer.study_data import read_study
from hyenadna.common.errors import InputError
from hyenadna.data.tables import read_table
from hyenadna.finetuning import train as finetuning
from tests.hyenadna.cancer.study_tables import make_rows, write_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"), make_rows())


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(d_model=8, short_filter_order=4)


@pytest.fixture
def config(tables: Path, model: Path, tmp_path: Path) -> CancerConfig:
    options = {"epochs": 2, "batch_size": 16, "lr": 1e-2}
    return CancerConfig(
        [tables], tmp_path / "out", [model], settings=["frozen"], options=options, device="cpu", threads=1
    )


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a tiny study."""
    monkeypatch.setattr(finetuning, "draw_curves", lambda curves, summary, out: None)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_page, "write_files", lambda results, folder: None)


@pytest.mark.slow
def test_a_study_from_tables_to_the_page(config: CancerConfig, tables: Path) -> None:
    results = study(replace(config, settings=["full"], seeds=[0, 1]), progress=False)
    assert json.loads((config.out / "results.json").read_text()) == results
    assert not config.out.with_name("out.partial").exists()
    rows = {(row["name"], row["inputs"]): row for row in results["rows"]}
    assert list(rows) == [
        ("majority", "none"), ("number of mutations", "none"), ("position", "none"), ("5-mers", "mutated"),
        ("5-mers", "unmutated"), ("full", "mutated"), ("full", "unmutated"),
    ]  # fmt: skip
    # The saved model is the best of two seeds on validation, and says of the test what fine-tuning says.
    for inputs in ("mutated", "unmutated"):
        row = rows["full", inputs]
        tuned = json.loads((config.out / row["folder"] / "results.json").read_text())
        best = max(tuned["runs"], key=lambda run: run["valid"])
        assert (row["seed"], row["best_epoch"]) == (best["seed"], best["best_epoch"])
        for name in ("accuracy", "mcc", "auroc"):
            value, low, high = row["sequence"][name]
            assert value == pytest.approx(best["test"][name], abs=1e-6)
            assert low <= value <= high
        assert row["over_seeds"]["accuracy"]["runs"] == 2
    row = rows["full", "mutated"]
    gain = row["gain"]["line"]["accuracy"][0]
    assert gain == pytest.approx(row["line"]["accuracy"][0] - rows["full", "unmutated"]["line"]["accuracy"][0])
    assert len(row["lines"]) == 6
    line = row["lines"]["L013"]
    assert (line["label"], line["patient"], line["sequences"]) == ("Lung", "P013", 6)
    assert line["predicted"] == max(line["log_odds"], key=line["log_odds"].get)
    assert sum(map(sum, row["confusion"]["line"])) == 6
    assert row["line"]["accuracy"][0] == np.trace(row["confusion"]["line"]) / 6
    with (config.out / "lines.tsv").open() as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    assert len(written) == 7 * 6
    assert {row["line"] for row in written} == {f"L{number:03}" for number in range(13, 19)}
    page = (config.out / "report.html").read_text()
    for text in ("position leak", "0.5462", "per line, by majority vote", "mutated less unmutated"):
        assert text in page
    assert page.count("<img") == 3
    text = study_page.describe(results)
    assert "test of 3 Lung, 3 Lymphoid lines with 36 sequences" in text
    assert "full, unmutated" in text


@pytest.mark.usefixtures("no_page")
def test_a_stopped_study_resumes_with_the_rows_that_are_left(
    config: CancerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    finetune = study_module.finetune

    def stopping(tuned: Any, **more: Any) -> Any:
        trained.append(tuned.out.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return finetune(tuned, **more)

    monkeypatch.setattr(study_module, "finetune", stopping)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 rows are finished and kept in"):
        study(config, progress=False)
    with pytest.raises(InputError, match="continue it with `resume`"):
        study(config, progress=False)
    with pytest.raises(InputError, match=r"other options \(seed: 0 there, 1 now\)"):
        study(replace(config, resume=True, seed=1), progress=False)
    results = study(replace(config, resume=True), progress=False)
    assert trained == ["frozen", "frozen-unmutated", "frozen-unmutated"]
    assert [row["name"] for row in results["rows"]][-2:] == ["frozen", "frozen"]
    assert sorted(path.name for path in (config.out / "rows").iterdir()) == ["frozen", "frozen-unmutated"]


@pytest.mark.usefixtures("no_page")
def test_three_classes_and_no_unmutated_windows(config: CancerConfig, tmp_path: Path) -> None:
    rows = make_rows(("Lung", "Lymphoid", "Skin"))
    columns = tuple(name for name in rows["test"][0] if name != "reference")
    results = study(replace(config, data=[write_tables(tmp_path / "three", rows, columns)]), progress=False)
    model, control = results["rows"][-2:]
    assert np.shape(model["confusion"]["sequence"]) == (3, 3)
    assert control["sequence"] is None
    assert "hyenadna mutate writes it" in control["note"]
    assert (results["rows"][0]["line"]["auroc"][0], results["rows"][0]["line"]["mcc"][0]) == (0.5, 0.0)
    assert control["note"] in study_page.describe(results)


@pytest.mark.usefixtures("no_page")
def test_shuffled_labels_reach_training_and_leave_the_test(
    config: CancerConfig, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[str | None, str | None]]] = {}
    finetune = study_module.finetune

    def noted(tuned: Any, **more: Any) -> Any:
        for file in sorted(tuned.data.iterdir()):
            table = read_table(file)
            seen[file.stem] = list(zip(table["sequence"], table["label"], strict=True))
        return finetune(tuned, **more)

    monkeypatch.setattr(study_module, "finetune", noted)
    results = study(replace(config, shuffle_labels=True, unmutated=False), progress=False)
    (given,) = results["shuffled_labels"].values()
    for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        table = read_table(tables / f"{name}.tsv")
        labels = [given.get(str(line), label) for line, label in zip(table["group"], table["label"], strict=True)]
        assert seen[split] == list(zip(table["sequence"], labels, strict=True))
        changed = sum(new != old for new, old in zip(labels, table["label"], strict=True))
        assert changed == (0 if split == "test" else len(labels) // 2)
    assert "shuffled" in results["data"][0]["notes"][0]
    assert results["data"][0]["folder"] == str(tables)


def test_scratch_has_the_shape_of_the_checkpoint(config: CancerConfig, tmp_path: Path) -> None:
    data = [read_study(config.data[0])]
    both = replace(config, settings=["full", "scratch"], unmutated=False)
    full, scratch = (row.config for row in plan_rows(both, data, tmp_path))
    assert (full.model, scratch.model, scratch.method) == (config.model[0], None, "scratch")
    assert (scratch.d_model, scratch.n_layer, scratch.max_seq_len) == (8, 1, 64)
    assert scratch.model_fields == {"d_inner": 32, "filter_order": 8, "short_filter_order": 4}
    other = replace(both, options={"d_model": 4, "epochs": 1})
    full, scratch = (row.config for row in plan_rows(other, data, tmp_path))
    assert (scratch.d_model, scratch.n_layer, full.d_model, full.epochs) == (4, None, None, 1)


def test_a_row_takes_the_checkpoint_for_the_shortest_sequences_that_fits(
    config: CancerConfig, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    data = [read_study(config.data[0])]
    long, short = (tiny_checkpoint(max_seq_len=length) for length in (4096, 20))
    several = replace(config, model=[long, short, *config.model])
    assert {row.config.model for row in plan_rows(several, data, tmp_path)} == {config.model[0]}
    with pytest.raises(InputError, match=r"have 40 bases, and .* is made for 20: give a `model` for longer"):
        plan_rows(replace(config, model=[short]), data, tmp_path)


def test_a_published_setting_takes_the_windows_of_its_length(
    config: CancerConfig, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    published = replace(config, settings=["cancer-1k"])
    published.check()
    data = [read_study(config.data[0])]
    with pytest.raises(InputError, match=r"needs windows of 1,024 bases, .* has 40: make them with hyenadna mutate"):
        plan_rows(published, data, tmp_path)
    long = replace(data[0], length=1024)
    many = replace(published, data=[*config.data, tmp_path], model=[tiny_checkpoint(max_seq_len=1026)])
    rows = plan_rows(many, [data[0], long], tmp_path)
    assert [(row.number, row.config.preset, row.config.method) for row in rows] == [(1, "cancer-1k", "full")] * 2
    full = plan_rows(replace(many, settings=["full"]), [data[0], long], tmp_path)
    assert [row.config.out.name for row in full] == [
        "full-40", "full-40-unmutated", "full-1024", "full-1024-unmutated"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": ["best"]}, "`settings` best: choose full, frozen, lora"),
        ({"settings": []}, "`settings`: give at least one"),
        ({"settings": ["full", "full"]}, "`settings` full, full: one of them is there twice"),
        ({"model": []}, "`settings` frozen: needs a `model` to start from; without one take scratch"),
        ({"options": {"method": "lora"}}, "`options`: method cannot be set there"),
        ({"options": {"epoch": 3}}, "`options`: hyenadna finetune has no option epoch"),
        ({"options": {"epochs": "many"}}, "`options`: epochs cannot be 'many', see hyenadna finetune --help"),
        ({"options": {"epochs": 0}}, "`epochs` 0: must be at least 1"),
        ({"options": {"d_model": 8}}, "`options`: d_model has no effect without the setting scratch"),
        ({"options": {"lora_rank": 8}}, "`options`: lora_rank has no effect without the setting lora"),
    ],
)
def test_options_that_do_not_fit_are_refused(config: CancerConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        replace(config, **change).check()
    assert str(error.value).startswith(message)


def test_options_are_typed_as_on_the_command_line() -> None:
    found = typed_options({"lr": "6e-4", "epochs": 3, "balanced": True, "model_fields": {"filter_order": 8}})
    assert found == {"lr": 6e-4, "epochs": 3, "balanced": True, "model_fields": {"filter_order": 8}}


def test_folders_with_other_classes_are_studied_apart(config: CancerConfig, tmp_path: Path) -> None:
    other = write_tables(tmp_path / "skin", make_rows(("Lung", "Skin")))
    with pytest.raises(InputError, match=r"has the classes Lung, Skin, and .* has Lung, Lymphoid: study them apart"):
        study(replace(config, data=[*config.data, other]), progress=False)
