from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError

from hyenadna.common.errors import InputError
from hyenadna.common.options import Options
from hyenadna.common.run_layout import FINAL_KEY, plain, read_metrics
from hyenadna.training.run_dir import RunFolder

FULL = OSError(errno.ENOSPC, "No space left on device")


@dataclass
class Config(Options):
    lr: float = 1e-3
    names: list[str] = field(default_factory=lambda: ["1", "b"])
    bed: Path | None = None
    workers: int = 0
    out: Path = Path("run")
    runtime = ("workers", "out")


class Weights:
    """What a model is to the folder."""

    def __init__(self, content: bytes = b"weights", error: Exception | None = None) -> None:
        self.content, self.error = content, error

    def save_pretrained(self, save_directory: str, /) -> None:
        (Path(save_directory) / "model.safetensors").write_bytes(self.content)
        if self.error:
            raise self.error


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "one")
    assert folder.start(Config(), resume=False) is None
    return folder


def tree(folder: RunFolder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}


def test_a_new_run_has_its_configuration_and_nothing_else(folder: RunFolder) -> None:
    assert list(tree(folder)) == ["config.yaml"]
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == {
        "lr": 1e-3,
        "names": ["1", "b"],
        "bed": None,
        "workers": 0,
        "out": "run",
    }


def test_resume_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        assert RunFolder(tmp_path / name).start(Config(), resume=True) is None
        assert (tmp_path / name / "config.yaml").is_file()


def test_an_existing_run_needs_resume(folder: RunFolder) -> None:
    before = tree(folder)
    with pytest.raises(InputError, match=r"one: already holds a run; continue with `resume`, or choose another `out`"):
        folder.start(Config(), resume=False)
    assert tree(folder) == before


def test_resume_refuses_another_configuration_and_names_the_fields(folder: RunFolder) -> None:
    with pytest.raises(InputError) as caught:
        folder.start(Config(lr=0.5, names=["1"]), resume=True)
    where = folder.path / "config.yaml"
    assert str(caught.value) == (
        f"{folder.path}: holds a run of another configuration (lr: 0.001 there, 0.5 now; "
        f"names: ['1', 'b'] there, ['1'] now): to continue it, pass `config` {where} and leave out `lr`, `names`; "
        "or choose another `out`"
    )


def test_free_fields_may_change_on_resume(folder: RunFolder) -> None:
    changed = dataclasses.replace(Config(), workers=3, out=Path("elsewhere"))
    assert folder.start(changed, resume=True) is None


@pytest.mark.parametrize("content", [b"", b"a: [", b"- 1\n", b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_refused(folder: RunFolder, content: bytes) -> None:
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml: damaged, holds no configuration"):
        folder.start(Config(), resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("part", ["metrics.jsonl", "model", "step-00000003"])
def test_parts_of_a_run_without_its_configuration_are_refused(tmp_path: Path, part: str, resume: bool) -> None:
    (tmp_path / part).mkdir()
    with pytest.raises(InputError, match=r"holds files, but no run to resume \(config\.yaml is missing\)"):
        RunFolder(tmp_path).start(Config(), resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [part]


def test_resume_refuses_a_folder_of_other_files_and_a_new_run_leaves_them(tmp_path: Path) -> None:
    (tmp_path / ".notes.partial").write_text("mine")
    with pytest.raises(InputError, match="no run to resume"):
        RunFolder(tmp_path).start(Config(), resume=True)
    assert RunFolder(tmp_path).start(Config(), resume=False) is None
    assert (tmp_path / ".notes.partial").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"run: cannot be written \(.*\); choose another `out`"):
            RunFolder(tmp_path / "run").start(Config(), resume=resume)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("is_new", [True, False])
def test_what_a_kill_left_half_written_is_removed(tmp_path: Path, is_new: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    tmp, old = f"{'0f' * 16}.tmp", f"{'a1' * 16}.old"
    leftovers = [
        f".step-00000003.{tmp}",
        f"..step-00000003.{tmp}.{tmp}",
        f".step-00000001.{old}",
        f".model.{tmp}",
        f".model.{old}",
        f"..model.{tmp}.{tmp}",
    ]
    for name in leftovers:
        (folder.path / name).mkdir(parents=True)
        (folder.path / name / "state.pt").write_bytes(b"half")
    (folder.path / f".config.yaml.{'0f' * 16}.tmp").write_bytes(b"half")
    (folder.path / f".metrics.jsonl.{'0f' * 16}.tmp").write_bytes(b"half")
    if not is_new:
        (folder.path / "config.yaml").write_text(yaml.safe_dump(plain(Config())))
    assert folder.start(Config(), resume=True) is None
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_checkpoints_are_kept_read_and_found_again(folder: RunFolder) -> None:
    for step in (2, 4, 100_000_000):
        state = {"step": step, "random": {"cpu": torch.get_rng_state()}, "optimizer": {"state": {0: torch.ones(2)}}}
        assert folder.save(step, Weights(), state, keep=2) == folder.path / f"step-{step:08d}"
    assert [path.name for path in folder.checkpoints()] == ["step-00000004", "step-100000000"]
    newest = folder.start(Config(), resume=True)
    assert newest == folder.path / "step-100000000"
    assert (newest / "model.safetensors").read_bytes() == b"weights"
    loaded = folder.load_state(newest)
    assert loaded["step"] == 100_000_000
    torch.set_rng_state(loaded["random"]["cpu"])
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "step-00000004", "step-100000000"]


def caused_by(cause: Exception) -> InputError:
    error = InputError("cannot write it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        caused_by(FULL),
        caused_by(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_full_disk_leaves_earlier_checkpoints_whole(folder: RunFolder, error: Exception) -> None:
    folder.save(2, Weights(), {"step": 2}, keep=1)
    before = tree(folder)
    for write in (
        lambda: folder.save(4, Weights(error=error), {"step": 4}, keep=1),
        lambda: folder.save_model(Weights(), Weights(error=error)),
    ):
        with pytest.raises(InputError) as caught:
            write()
        assert str(caught.value) == (
            f"{folder.path}: cannot be written (No space left on device); free some space and continue with `resume`"
        )
        assert tree(folder) == before


def test_a_full_disk_while_the_state_is_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(2, Weights(), {"step": 2}, keep=1)
    before = tree(folder)
    write_bytes = Path.write_bytes

    def write_half(self: Path, data: bytes) -> int:
        if self.name != "state.pt":
            return write_bytes(self, data)
        write_bytes(self, data[: len(data) // 2])
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(InputError, match="free some space and continue with `resume`"):
        folder.save(4, Weights(), {"step": 4}, keep=1)
    assert tree(folder) == before


def test_a_full_disk_while_metrics_are_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.log({"step": 1})

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise FULL

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="free some space and continue with `resume`"):
        folder.log({"step": 2})
    monkeypatch.undo()
    assert read_metrics(folder.metrics) == [{"step": 1}]


def test_what_is_no_failure_to_write_is_not_called_one(folder: RunFolder) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        folder.save(4, Weights(error=RuntimeError("a bug")), {"step": 4}, keep=1)
    assert list(tree(folder)) == ["config.yaml"]


def test_the_model_is_replaced_as_a_whole(folder: RunFolder) -> None:
    folder.save_model(Weights(b"old"), Weights(b"old"))
    (folder.model / "extra").write_bytes(b"")
    assert folder.save_model(Weights(), Weights()) == folder.model
    assert list(tree(folder)) == ["config.yaml", "model/model.safetensors"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", None])
def test_a_damaged_state_is_refused(folder: RunFolder, content: bytes | None) -> None:
    path = folder.save(2, Weights(), {"step": 2}, keep=1)
    (path / "state.pt").unlink()
    if content is not None:
        (path / "state.pt").write_bytes(content)
    with pytest.raises(
        InputError, match=r"state\.pt: damaged \(\w+\); remove .*step-00000002 to continue from an earlier"
    ):
        folder.load_state(path)


def test_a_state_that_would_run_code_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = folder.save(2, Weights(), {"step": Evil()}, keep=1)
    with pytest.raises(InputError, match="damaged"):
        folder.load_state(path)
    assert not (tmp_path / "ran").exists()


def test_metrics_are_rewound_to_a_step(folder: RunFolder) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.5},
        {"step": 2},
        {"step": 2, "valid_perplexity": 3.9},
        {"step": 3},
    ]
    for row in rows:
        folder.log(row)
    folder.log({"step": 2, FINAL_KEY: 3.8})
    folder.rewind_metrics(2)
    assert read_metrics(folder.metrics) == rows[:3]
    folder.rewind_metrics(0)
    assert read_metrics(folder.metrics) == []


def test_rewinding_needs_no_metrics(folder: RunFolder) -> None:
    folder.rewind_metrics(5)
    assert not folder.metrics.exists()


def test_metrics_are_strict_json(folder: RunFolder) -> None:
    folder.log({"step": 1, "grad_norm": float("inf"), "loss": 0.5})

    def refuse(text: str) -> Any:
        raise AssertionError(text)

    assert json.loads(folder.metrics.read_text(), parse_constant=refuse) == {"step": 1, "grad_norm": None, "loss": 0.5}


def test_a_line_that_a_kill_cut_short_is_left_out(folder: RunFolder) -> None:
    folder.log({"step": 1})
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_metrics(folder.metrics) == [{"step": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"step": 1\n{"step": 2}\n', r"metrics\.jsonl:1: is not JSON"),
        (b'{"step": 1}\n5\n', r"metrics\.jsonl:2: is not a row of metrics"),
        (b'{"loss": 1}\n', r"metrics\.jsonl:1: is not a row of metrics"),
        (b"\x89PNG\xff\n\xff\n", r"metrics\.jsonl:1: is not JSON"),
    ],
)
def test_what_is_no_metrics_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_metrics(tmp_path / "metrics.jsonl")


def test_missing_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_none_half(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(path: Path, **kwargs: Any) -> None:
        if path.name.endswith(".old"):
            (path / "model.safetensors").unlink()
            raise Killed

    folder.save(2, Weights(), {"step": 2}, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(Killed):
            folder.save(4, Weights(), {"step": 4}, keep=1)
    assert folder.start(Config(), resume=True) == folder.path / "step-00000004"
    for checkpoint in folder.checkpoints():
        assert sorted(path.name for path in checkpoint.iterdir()) == ["model.safetensors", "state.pt"]


def test_a_kill_while_a_model_is_replaced_leaves_none_half(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(path: Path, **kwargs: Any) -> None:
        if path.name.endswith(".old"):
            (path / "model.safetensors").unlink()
            raise Killed

    before = tree(folder)
    folder.save_model(Weights(b"old"), Weights(b"old"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(Killed):
            folder.save_model(Weights(), Weights())
    folder.start(Config(), resume=True)
    assert tree(folder) == before | {"model/model.safetensors": b"weights"}
