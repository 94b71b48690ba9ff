from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.parts import NumberedParts, tell_idle
from hyenadna.common.streams import copied_streams, regular_file
from hyenadna.common.world import World, joined


def compute(out: Path, inputs: int, *, resume: bool = False) -> tuple[list[int], list[str]]:
    """Write parts of four inputs, and return the numbers of those that were written, and the names of all."""
    parts = NumberedParts(out, {}, ending=".txt", resume=resume)
    left = iter(range(inputs))
    written = []

    def write(number: int, chunk: Iterable[int]) -> int:
        if found := list(chunk):
            parts.begin()
            parts.place(number, len(found)).write_text(f"{found}")
            written.append(number)
        return len(found)

    parts.compute(lambda: islice(left, 4), write, lambda _: None)
    return written, [file.name for file in parts.files()]


def test_only_missing_parts_are_written(tmp_path: Path) -> None:
    names = ["part-00000000-4.txt", "part-00000001-4.txt", "part-00000002-1.txt"]
    assert compute(tmp_path / "o", 9) == ([0, 1, 2], names)
    (tmp_path / "o.partial" / names[1]).unlink()
    assert compute(tmp_path / "o", 9, resume=True) == ([1], names)
    assert (tmp_path / "o.partial" / names[1]).read_text() == "[4, 5, 6, 7]"
    parts = NumberedParts(tmp_path / "o", {}, ending=".txt", resume=True)
    assert (parts.done(), parts.inputs()) == (9, {0: 4, 1: 4, 2: 1})


@pytest.mark.parametrize(
    ("now", "removed", "message"),
    [
        (
            7,
            None,
            r"part-00000001-4\.txt: is the result of 4 inputs, and 3 are at its place now: the input has changed",
        ),
        (4, 1, r"o\.partial: holds more parts than the input has now"),
    ],
)
def test_parts_of_another_input_are_refused(tmp_path: Path, now: int, removed: int | None, message: str) -> None:
    compute(tmp_path / "o", 9)
    if removed is not None:
        (tmp_path / "o.partial" / f"part-{removed:08}-4.txt").unlink()
    with pytest.raises(InputError, match=message):
        compute(tmp_path / "o", now, resume=True)


class _Several(World):
    """One of four processes that have nothing to say."""

    size = 4

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank


def test_parts_that_the_first_process_does_not_see_are_told(tmp_path: Path) -> None:
    # Nobody writes the parts of the other three.
    with joined(_Several()), pytest.raises(InputError, match=r"the first process does not see part 1, which another"):
        compute(tmp_path / "o", 17)


def test_a_folder_that_another_process_does_not_see_is_told(tmp_path: Path) -> None:
    class Elsewhere(_Several):
        def first(self, work):  # type: ignore[no-untyped-def]
            found = work()
            (tmp_path / "o.partial" / "settings.json").unlink(missing_ok=True)
            return found

    message = r"o\.partial: process 2 does not see this folder of the first process; all processes need one file system"
    with joined(Elsewhere(2)), pytest.raises(InputError, match=message):
        compute(tmp_path / "o", 17)


def test_a_restart_of_torchrun_resumes(tmp_path: Path) -> None:
    compute(tmp_path / "o", 9)
    with pytest.raises(InputError, match="continue it with `resume`"):
        compute(tmp_path / "o", 9)

    class Again(_Several):
        places: ClassVar[set[Path]] = set()

        def begin(self, place: Path) -> None:
            self.places.add(place)

        def has_begun(self, place: Path) -> bool:
            return place in self.places

    # What was refused is refused again.
    for _ in range(2):
        with joined(Again()), pytest.raises(InputError, match="continue it with `resume`"):
            compute(tmp_path / "o", 9)
    for resume in (True, False):
        with joined(Again()):
            assert compute(tmp_path / "o", 9, resume=resume)[0] == []


def test_processes_that_have_nothing_to_do_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    for rank, parts in ((0, 4), (1, 1)):
        with joined(_Several(rank)):
            tell_idle(parts, "part", "lower part_size")
    assert capsys.readouterr().err == ""
    with joined(_Several()):
        tell_idle(1, "part", "lower part_size")
        tell_idle(3, "batch", "lower batch_size")
    assert capsys.readouterr().err == (
        "note: 1 part for 4 processes: the others have nothing to do; lower part_size\n"
        "note: 3 batches for 4 processes: the others have nothing to do; lower batch_size\n"
    )


def test_a_stream_is_read_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with copied_streams(), pytest.raises(InputError, match=r"^-: is no file, and 2 processes cannot all read it; save"):
        regular_file(Path("-"))
