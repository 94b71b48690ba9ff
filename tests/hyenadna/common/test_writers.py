from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyenadna.common import writers
from hyenadna.common.errors import InputError
from hyenadna.common.writers import one_writer, only_writer

ROOT = Path(__file__).resolve().parents[3]

HOLD = """
import sys
import hyenadna_command
from pathlib import Path
from hyenadna.common.writers import only_writer
with only_writer(Path(sys.argv[1]), inside=sys.argv[2] == "inside"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(out: Path, *, inside: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``out``."""
    words = [sys.executable, "-c", HOLD, str(out), "inside" if inside else "beside"]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("inside", [False, True])
def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path, inside: bool) -> None:
    out = tmp_path / "run"
    with other_process(out, inside=inside) as process:
        for path in (out, tmp_path / "x" / ".." / "run"):
            with pytest.raises(InputError) as caught, only_writer(path, inside=inside):
                pass
            assert str(caught.value) == (
                f"{path}: process {process.pid} on {socket.gethostname()} is writing there; wait until it has ended, "
                "or choose another `out`"
            )
        with only_writer(tmp_path / "other", inside=inside):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    # What the killed process left is no lock.
    assert (out / ".lock" if inside else tmp_path / ".run.lock").is_file()
    with only_writer(out, inside=inside):
        pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nothing_stays_behind(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    for inside, lock in ((False, tmp_path / "a" / ".b.lock"), (True, out / ".lock")):
        with only_writer(out, inside=inside):
            assert lock.is_file()
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), only_writer(out):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with only_writer(out, inside=True):
        (out / "kept").touch()
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_two_at_once_in_one_process_are_refused_too(tmp_path: Path) -> None:
    with only_writer(tmp_path / "run"):
        with pytest.raises(InputError, match=f"process {os.getpid()} on "), only_writer(tmp_path / "run"):
            pass
        # The lock is still held.
        with pytest.raises(InputError), only_writer(tmp_path / "run"):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_worker_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    with only_writer(tmp_path / "run"):
        child = os.fork()
        if not child:
            signal.pause()
        # Nor does it drop the lock.
        with pytest.raises(InputError, match=f"process {os.getpid()} on "), only_writer(tmp_path / "run"):
            pass
    try:
        with only_writer(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_pipes_and_devices_have_no_lock(tmp_path: Path) -> None:
    for place in (Path("-"), Path(os.devnull)):
        with only_writer(place), only_writer(place):
            pass


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writers, "_lock", fail)
    with only_writer(tmp_path / "run"):
        pass
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/run: the file system has no locks (No locks available); make sure that no other process "
        "writes there\n"
    )


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"), only_writer(tmp_path / "file", inside=True):
        pass


@dataclass
class Config:
    out: Path


def test_a_function_holds_the_lock_of_its_options(tmp_path: Path) -> None:
    @one_writer()
    def work(config: Config) -> list[str]:
        return [path.name for path in tmp_path.iterdir()]

    assert work(Config(tmp_path / "o.tsv")) == work(config=Config(tmp_path / "o.tsv")) == [".o.tsv.lock"]
    # No folder is made for a file.
    assert work(Config(tmp_path / "absent" / "o.tsv")) == []
