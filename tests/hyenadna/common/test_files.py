from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hyenadna.common.errors import InputError
from hyenadna.common.files import PartialFolder, atomic_dir, atomic_file, leftovers, write_files


def fail_on_the_second(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    write_bytes = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        write_bytes(self, data[:2])
        if ".new." in self.name:
            raise error
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write)


def test_writes_every_file_and_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    write_files({tmp_path / "a": b"after", tmp_path / "b": b""})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"after", "b": b""}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"before")
    fail_on_the_second(monkeypatch, error)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        write_files({old: b"after", new: b"after"})
    if isinstance(error, OSError):
        assert (
            str(caught.value)
            == f"{new}: cannot be written (No space left on device); free some space or choose another place"
        )
    else:
        assert caught.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert old.read_bytes() == b"before"


def test_refuses_a_missing_folder_unless_asked_to_make_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with pytest.raises(InputError, match=r"file: cannot be written \(No such file or directory\)"):
        write_files({path: b"x"})
    write_files({path: b"x"}, make_folders=True)
    assert path.read_bytes() == b"x"


def test_folders_that_were_made_go_again_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_the_second(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    folder = tmp_path / "a" / "b"
    with pytest.raises(InputError, match="free some space"):
        write_files({folder / "old": b"x", folder / "new": b"x"}, make_folders=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_complete_and_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    for name in ("before", "after"):
        with atomic_dir(target) as draft:
            (draft / name).write_bytes(b"x")
            assert not (target / name).exists()
        assert [path.name for path in target.iterdir()] == [name]
    with atomic_dir(target, merge=True) as draft:
        (draft / "more").write_bytes(b"x")
    assert sorted(path.name for path in target.iterdir()) == ["after", "more"]
    assert [path.name for path in target.parent.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space or choose another place"),
        (OSError(errno.EACCES, "Permission denied"), r"\(Permission denied\); choose another place"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), r"\(No space left on device\); free"),
        (InputError("bad row"), "^bad row$"),
    ],
)
def test_a_folder_or_file_that_fails_leaves_nothing(tmp_path: Path, error: Exception, message: str) -> None:
    def fail(draft: Path) -> None:
        (draft / "half" if draft.is_dir() else draft).write_bytes(b"x")
        raise error

    with pytest.raises(InputError, match=message), atomic_dir(tmp_path / "a" / "b") as draft:
        fail(draft)
    with pytest.raises(InputError, match=message), atomic_file(tmp_path / "c" / "d", make_folders=True) as draft:
        fail(draft)
    assert list(tmp_path.iterdir()) == []


def test_names_of_leftovers_are_told_from_others(tmp_path: Path) -> None:
    found: list[str] = []
    with atomic_dir(tmp_path / "model") as outer, atomic_dir(outer, merge=True) as inner, atomic_file(inner / "x") as x:
        found += [outer.name, inner.name]
        x.write_bytes(b"")
    assert all(leftovers("model").fullmatch(name) for name in found)
    assert not any(leftovers("model").fullmatch(name) for name in ("model", ".model.tmp", ".notes.partial"))
    assert not any(leftovers("run").fullmatch(name) for name in found)


def write(path: Path, content: bytes, *, to: str) -> None:
    """Write a file in one of the three ways."""
    if to == "atomic_file":
        with atomic_file(path) as draft:
            draft.write_bytes(content)
    elif to == "write_files":
        write_files({path: content})
    else:
        with atomic_dir(path.parent, merge=True) as folder:
            (folder / path.name).write_bytes(content)


@pytest.fixture(params=["atomic_file", "write_files", "atomic_dir"])
def to(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, to: str, is_dangling: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    target, link = tmp_path / "elsewhere" / "real", tmp_path / "here" / "link"
    if not is_dangling:
        target.write_bytes(b"before")
    link.symlink_to("../elsewhere/real")
    write(link, b"after", to=to)
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    assert [len(list(folder.iterdir())) for folder in (target.parent, link.parent)] == [1, 1]


def test_a_file_keeps_its_permissions(tmp_path: Path, to: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    path.chmod(0o640)
    write(path, b"after", to=to)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"after", 0o640)


def test_a_protected_file_is_refused(tmp_path: Path, to: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    path.chmod(0o440)
    with pytest.raises(InputError, match="a: is write-protected; choose another place"):
        write(path, b"after", to=to)
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pipe_is_written_to(tmp_path: Path, to: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = ThreadPoolExecutor().submit(pipe.read_bytes)
    write(pipe, b"content", to=to)
    assert read.result(timeout=10) == b"content"
    assert pipe.is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_standard_output_is_written_to(tmp_path: Path, name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    if name == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
    before = os.readlink("/dev/stdout")
    for content in (b"one ", b"two"):
        # The second must not empty a file that the first has gone to.
        write_files({tmp_path / name if name == "link" else Path(name): content})
    assert capfdbinary.readouterr().out == b"one two"
    assert os.readlink("/dev/stdout") == before


def test_devices_are_written_to(tmp_path: Path) -> None:
    write_files({Path(os.devnull): b"content"})
    assert Path(os.devnull).is_char_device()
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_files({Path("/dev/full"): b"content"})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "link"):
        with pytest.raises(InputError, match="is a folder; choose a file"):
            write_files({tmp_path / name: b"x"})


def test_a_run_that_writes_to_a_pipe_keeps_no_parts(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parts = PartialFolder(pipe, {}, resume=False)

    def fail() -> None:
        with parts.keep(lambda: "1 part"):
            parts.begin()
            raise InputError("bad")

    with pytest.raises(InputError, match=r"^bad$"):
        fail()
    assert not parts.folder.exists()
    assert list(tmp_path.iterdir()) == [pipe]
    with pytest.raises(InputError, match="`resume`"):
        PartialFolder(pipe, {}, resume=True)
