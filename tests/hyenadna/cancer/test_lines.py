"""Tables of cell lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyenadna.cancer.lines import Line, of_classes, read_models
from hyenadna.common.errors import InputError

MODEL = """ModelID,PatientID,CellLineName,OncotreeLineage,OncotreePrimaryDisease,Sex
ACH-2,PT-1,X,Lung,Cancer,Female
ACH-1,PT-1,Y,Lung,Cancer,Female
ACH-3,,Z,Lymphoid,,Male
ACH-4,PT-3,W,,Cancer,Male
"""
SAMPLE_INFO = "DepMap_ID,cell_line_name,lineage,primary_disease\nACH-1,Y,lung,x\nACH-3,Z,lymphocyte,y\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "Model.csv"
    path.write_text(text)
    return path


def test_both_tables(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL)
    models = read_models(path)
    assert [*models.values()] == [
        ("ACH-2", "Lung", "PT-1"), ("ACH-1", "Lung", "PT-1"), ("ACH-3", "Lymphoid", ""), ("ACH-4", "", "PT-3"),
    ]  # fmt: skip
    chosen = of_classes(path, models, ["Lymphoid", "Lung"])
    assert [line.name for line in chosen] == ["ACH-3", "ACH-1", "ACH-2"]
    assert [line.side for line in chosen] == ["line ACH-3", "patient PT-1", "patient PT-1"]
    assert read_models(path, "Sex")["ACH-4"].label == "Male"
    older = read_models(write(tmp_path, SAMPLE_INFO))
    assert [*older.values()] == [("ACH-1", "lung", ""), ("ACH-3", "lymphocyte", "")]


def test_a_line_that_stands_there_twice(tmp_path: Path) -> None:
    again = MODEL + "ACH-1,PT-1,other,Lung,Other,Female\n"
    assert read_models(write(tmp_path, again))["ACH-1"] == Line("ACH-1", "Lung", "PT-1")
    with pytest.raises(InputError, match="ACH-1 stands there twice, as 'Lung' and 'Skin'"):
        read_models(write(tmp_path, MODEL + "ACH-1,PT-1,Y,Skin,Cancer,Female\n"))


def test_bad_tables(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL)
    with pytest.raises(InputError, match=r"no line is of the class 'Skin'; it has lines of Lung \(2\), Lymphoid \(1\)"):
        of_classes(path, read_models(path), ["Lung", "Skin"])
    with pytest.raises(InputError, match="has no column 'lineage'"):
        read_models(path, "lineage")
    with pytest.raises(InputError, match="no column with the line, which is called ModelID or DepMap_ID"):
        read_models(write(tmp_path, MODEL.replace("ModelID", "ID")))
    with pytest.raises(InputError, match=r"no column with the class.* or name it with `class_column`"):
        read_models(write(tmp_path, MODEL.replace("Lineage", "")))
