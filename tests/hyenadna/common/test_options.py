from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.options import InputFile, InputPath, NewFolder, Options, OutputFile


@dataclass
class Paths(Options):
    data: InputPath
    out: OutputFile
    more: InputFile | None = None
    others: list[Path] = field(default_factory=list)
    folder: NewFolder | None = None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("x")
    Path("model").mkdir()
    Path("model", "config.json").write_text("x")
    Path("hard").hardlink_to("in")
    Path("soft").symlink_to("in")
    Path("linked").symlink_to("model")
    os.mkfifo("pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Paths(Path("in"), Path("in")), "`data` in: is read, and would be written over as in"),
        (Paths(Path("in"), Path("model/../in")), "`data` in: is read"),
        (Paths(Path("in"), Path("soft")), "`data` in: is read, and would be written over as soft"),
        (Paths(Path("soft"), Path("in")), "`data` soft: is read"),
        (Paths(Path("in"), Path("hard")), "`data` in: is read"),
        (Paths(Path("in"), Path("new"), others=[Path("a"), Path("new")]), "`others` new: is read"),
        (Paths(Path("model"), Path("model/config.json")), "config.json: is a file of `data` model, which is read"),
        (Paths(Path("linked"), Path("model/config.json")), "config.json: is a file of `data` linked"),
        (Paths(Path("model"), Path("new"), folder=Path("linked")), "exists already; choose a folder"),
        (Paths(Path("in"), Path("new"), more=Path("new.partial")), "`more` new.partial: is read"),
        (Paths(Path("pipe"), Path("pipe")), "`data` pipe: is read"),
        (
            Paths(Path("pipe"), Path("new"), more=Path("pipe")),
            "`data` and `more`: both are pipe, which can be read only",
        ),
        (Paths(Path("in"), Path("new"), folder=Path("new")), "`folder` and `out` are both new"),
    ],
    ids=str,
)
def test_nothing_is_written_over_an_input(here: Path, options: Paths, message: str) -> None:
    (here / "new.partial").write_text("x")
    with pytest.raises(InputError) as caught:
        options.check()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        Paths(Path("in"), Path("new")),
        Paths(Path("model"), Path("model/new")),
        Paths(Path("model"), Path("new"), folder=Path("model/sub")),
        Paths(Path("pipe"), Path("-")),
        Paths(Path("/dev/null"), Path("/dev/null"), more=Path("/dev/null")),
    ],
    ids=str,
)
def test_other_paths_are_fine(here: Path, options: Paths) -> None:
    options.check()
