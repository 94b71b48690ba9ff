from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.world import LostProcessError, SharedError, World, joined, world
from hyenadna.common.writers import one_writer
from hyenadna.parallel.processes import start_world
from tests.ranks import run_ranks


def join(rank: int, size: int, port: int) -> None:
    """Set the variables of torchrun."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


class Config:
    def __init__(self, out: Path) -> None:
        self.out = out


@one_writer()
def locks(config: Config) -> list[str]:
    world().barrier()
    found = sorted(os.listdir(config.out.parent))
    world().barrier()
    return found


def check_world(rank: int, port: int, folder: Path) -> list[str]:
    join(rank, 3, port)
    told = []
    with start_world("cpu", timeout=30) as made:
        assert world() is made
        assert (made.rank, made.size, made.is_first) == (rank, 3, rank == 0)
        assert made.gather(rank * 10) == [0, 10, 20]
        assert made.first(lambda: f"of {rank}") == "of 0"
        assert locks(Config(folder / "out")) == [".out.lock"]
        with made.agreed():
            pass
        assert not made.has_begun(folder / "out")
        made.barrier()
        made.first(lambda: made.begin(folder / "." / "out"))
        assert made.has_begun(folder / "out")
        assert not made.has_begun(folder / "other")
        for error in (InputError("bad"), OSError(28, "No space left on device")):

            def fail(error: Exception = error) -> None:
                raise error

            def fail_in_the_last(made: World = made, error: Exception = error) -> None:
                with made.agreed():
                    if rank == 2:
                        raise error

            for failing in (lambda fail=fail: made.first(fail), fail_in_the_last):
                with pytest.raises(SharedError) as caught:
                    failing()
                told.append(str(caught.value))
    assert world().size == 1
    return told


def test_processes_agree(tmp_path: Path, free_port: int) -> None:
    full = "[Errno 28] No space left on device"
    assert run_ranks(3, check_world, free_port, tmp_path, group=False) == [["bad", "bad", full, full]] * 3
    assert list(tmp_path.iterdir()) == []


def lose(rank: int, port: int, way: str) -> str:
    join(rank, 2, port)

    def work() -> None:
        with start_world("cpu", timeout=2 if way == "hang" else 30) as made:
            made.barrier()
            if rank and way == "hang":
                time.sleep(5)
            elif rank:
                os._exit(1)
            else:
                made.barrier()

    if rank:
        work()
        return ""
    with pytest.raises(LostProcessError) as lost:
        work()
    return str(lost.value)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["end", "hang"])
def test_a_process_that_ends_or_hangs_is_told(free_port: int, way: str) -> None:
    told = run_ranks(2, lose, free_port, way, group=False, may_end=way == "end")[0]
    seconds = 2 if way == "hang" else 30
    assert told.startswith(f"rank 0 of 2: another process has ended, or has not answered for {seconds} s (")
    assert told.endswith("); start all again with `resume`, or let torchrun do so with --max-restarts")
    assert "\n" not in told


def meet(rank: int, port: int) -> str:
    join(0, 2, port)
    with pytest.raises(InputError) as caught, start_world("cpu", timeout=2):
        pass
    return str(caught.value)


def test_a_port_that_is_taken_is_told(taken_port: int) -> None:
    (told,) = run_ranks(1, meet, taken_port, group=False)
    assert told.startswith(f"the 2 processes have not met at localhost:{taken_port} (")
    assert "another program may have the port" in told


def test_a_process_alone_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with start_world() as made:
        assert type(made) is World
        assert (made.gather(3), made.first(lambda: 4), made.is_first) == ([3], 4, True)
        with pytest.raises(InputError, match="own"), made.agreed():
            raise InputError("own")
    other = World()
    with joined(other):
        assert world() is other
    assert world() is not other


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0"])
def test_a_gpu_that_is_named_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match=f"`device` {device}: torchrun has started 2 processes"), start_world(device):
        pass
