"""A run that is stopped, in whatever way, and resumed is the run that was never stopped."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hyenadna import DNATokenizer, HyenaDNAForCausalLM
from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import FINAL_KEY, plain, read_metrics
from hyenadna.common.writers import only_writer
from hyenadna.data.genome import prepare
from hyenadna.pretraining.train import PretrainConfig, PretrainResult, pretrain
from hyenadna.training.run_dir import RunFolder

ROOT = Path(__file__).resolve().parents[3]
STEPS = 12
TIMES = ("seconds", "tokens_per_second")
Run = tuple[PretrainConfig, PretrainResult]

pytestmark = pytest.mark.usefixtures("one_thread")

NO_WARMUP: dict[str, Any] = {"warmup_length": None, "warmup_length_steps": 1000}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs after it may touch the disk."""


@pytest.fixture
def tiny(tiny_config: Callable[..., PretrainConfig], tmp_path: Path) -> PretrainConfig:
    return tiny_config(tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing interrupted."""
    config = tiny_config(tmp_path_factory.mktemp("finished") / "run", threads=1)
    return config, pretrain(config, progress=False)


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(out / "metrics.jsonl")]


def assert_same_run(out: Path, finished: Run) -> None:
    reference = finished[0].out
    assert rows(out) == rows(reference)
    for name in ("model/model.safetensors", "model/config.json", f"step-{STEPS:08d}/model.safetensors"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in reference.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_trains_is_refused(tiny: PretrainConfig, resume: bool) -> None:
    message = rf"run: process {os.getpid()} on .* is writing there; wait until it has ended, or choose another `out`"
    with only_writer(tiny.out, inside=True), pytest.raises(InputError, match=message):
        pretrain(tiny, resume=resume, progress=False)
    assert not tiny.out.exists()
    # What a killed run leaves is no lock.
    tiny.out.mkdir()
    (tiny.out / ".lock").write_text("process 1 on elsewhere\n")
    with pytest.raises(InputError, match="`steps` 0"):
        pretrain(dataclasses.replace(tiny, steps=0), resume=resume, progress=False)
    pretrain(dataclasses.replace(tiny, steps=1), resume=resume, progress=False)
    assert not (tiny.out / ".lock").exists()


def test_a_finished_run_is_complete(finished: Run) -> None:
    config, result = finished
    names = ["config.yaml", "metrics.jsonl", "model", "splits.bed", "step-00000009", "step-00000012"]
    assert sorted(path.name for path in config.out.iterdir()) == names
    assert yaml.safe_load((config.out / "config.yaml").read_text()) == plain(config)
    assert result.model == config.out / "model"
    assert result.steps == STEPS
    assert DNATokenizer.from_pretrained(str(result.model)).model_max_length == 64
    assert HyenaDNAForCausalLM.from_pretrained(result.model).config.d_model == 16

    training = [row for row in rows(config.out) if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, STEPS + 1))
    assert [row["length"] for row in training] == [16] * 4 + [32] * 8
    assert [row["tokens"] for row in training] == [128 * step for step in range(1, STEPS + 1)]
    assert all(row["perplexity"] == math.exp(row["loss"]) for row in training)
    validations = [row for row in rows(config.out) if "valid_perplexity" in row]
    assert [(row["step"], FINAL_KEY in row) for row in validations] == [(5, False), (10, False), (12, True)]
    assert validations[-1][FINAL_KEY] == validations[-1]["valid_perplexity"] == result.valid.score.perplexity
    assert result.valid.score.count == 4 * 32


@pytest.mark.slow
def test_killed_with_sigkill_and_resumed_ends_with_the_same_bits(
    tiny: PretrainConfig, finished: Run, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(plain(tiny)))
    command = [sys.executable, "-m", "hyenadna", "pretrain", "--config", str(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=ROOT) as run,
    ):
        metrics = tiny.out / "metrics.jsonl"
        deadline = time.monotonic() + 100
        while run.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= 7:
                break
            time.sleep(0.002)
        run.kill()
    assert run.returncode == -signal.SIGKILL, log.read_text()
    assert not (tiny.out / "model").exists()
    pretrain(tiny, resume=True, progress=False)
    assert_same_run(tiny.out, finished)


def kill_after_log(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    log = RunFolder.log

    def dying(self: RunFolder, row: dict[str, Any]) -> None:
        log(self, row)
        if row["step"] == 2:
            with self.metrics.open("a") as file:
                file.write('{"step": 3, "lo')
            die()

    patch.setattr(RunFolder, "log", dying)


def kill_while_weights_are_written(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    def dying(self: HyenaDNAForCausalLM, folder: str, *args: Any, **kwargs: Any) -> None:
        path = Path(folder)
        (path / "config.json").write_text("{")
        path.with_name(f".{path.name}.{'0f' * 16}.tmp").mkdir()
        die()

    patch.setattr(HyenaDNAForCausalLM, "save_pretrained", dying)


def kill_while_the_state_is_written(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    write_bytes = Path.write_bytes
    count = 0

    def dying(self: Path, data: bytes) -> int:
        nonlocal count
        count += self.name == "state.pt"
        if count == 2:
            write_bytes(self, data[: len(data) // 2])
            die()
        return write_bytes(self, data)

    patch.setattr(Path, "write_bytes", dying)


def kill_before_the_checkpoint_gets_its_name(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        if target.name == "step-00000006":
            die()
        return rename(self, target)

    patch.setattr(Path, "rename", dying)


def kill_while_an_old_checkpoint_is_removed(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if target.name.startswith(".step-00000003.") and target.suffix == ".old":
            (target / "config.json").unlink()
            die()
        return moved

    patch.setattr(Path, "rename", dying)


def kill_while_the_model_is_written(patch: pytest.MonkeyPatch, die: Callable[[], None]) -> None:
    save = DNATokenizer.save_pretrained

    def dying(self: DNATokenizer, folder: str) -> Any:
        # Checkpoints have a tokenizer too.
        if Path(folder).name.startswith(".model."):
            die()
        return save(self, folder)

    patch.setattr(DNATokenizer, "save_pretrained", dying)


@pytest.mark.parametrize(
    ("kill", "checkpoints"),
    [
        (kill_after_log, []),
        (kill_while_weights_are_written, []),
        (kill_while_the_state_is_written, [3]),
        (kill_before_the_checkpoint_gets_its_name, [3]),
        (kill_while_an_old_checkpoint_is_removed, [6, 9]),
        (kill_while_the_model_is_written, [9, 12]),
    ],
)
def test_killed_anywhere_and_resumed_ends_with_the_same_bits(
    tiny: PretrainConfig,
    finished: Run,
    kill: Callable[[pytest.MonkeyPatch, Callable[[], None]], None],
    checkpoints: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def die() -> None:
            # The dead clean nothing up.
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
            raise Killed

        kill(patch, die)
        with pytest.raises(Killed):
            pretrain(tiny, progress=False)
    assert [int(path.name[5:]) for path in RunFolder(tiny.out).checkpoints()] == checkpoints
    torch.manual_seed(1)
    pretrain(tiny, resume=True, progress=False)
    assert_same_run(tiny.out, finished)


def test_sigterm_leaves_a_checkpoint_of_that_step(
    tiny: PretrainConfig,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    log = RunFolder.log

    def terminate(self: RunFolder, row: dict[str, Any]) -> None:
        log(self, row)
        if row["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(plain(tiny)))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", terminate)
        with pytest.raises(SystemExit) as ended:
            cli.main(["pretrain", "--config", str(tmp_path / "settings.yaml")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: stopped after step 7; continue with --resume\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert [path.name for path in RunFolder(tiny.out).checkpoints()] == ["step-00000006", "step-00000007"]
    pretrain(tiny, resume=True, progress=False)
    assert_same_run(tiny.out, finished)


def test_any_number_of_workers_gives_the_same_run(tiny: PretrainConfig, finished: Run) -> None:
    pretrain(dataclasses.replace(tiny, workers=2), progress=False)
    assert_same_run(tiny.out, finished)


def test_resuming_a_finished_run_changes_nothing(tiny: PretrainConfig, finished: Run) -> None:
    shutil.copytree(finished[0].out, tiny.out)
    again = pretrain(dataclasses.replace(tiny, log_every=5, keep=1, checkpoint_every=2), resume=True, progress=False)
    assert_same_run(tiny.out, finished)
    assert again.valid.score == finished[1].valid.score
    assert again.seconds == finished[1].seconds


def test_masks_by_position_may_take_over(
    tiny: PretrainConfig, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0].out, tiny.out)
    for path in (tiny.out / "model", tiny.out / "step-00000012"):
        shutil.rmtree(path)
    pretrain(dataclasses.replace(tiny, dropout_masks="position"), resume=True)
    assert "dropout: masks by position from here on, and by generator before" in capsys.readouterr().out
    assert rows(tiny.out)[:9] == rows(finished[0].out)[:9]
    last, reference = rows(tiny.out)[-1], rows(finished[0].out)[-1]
    assert last["step"] == STEPS
    assert last["valid_perplexity"] != reference["valid_perplexity"]
    # From then on the run has them, also where nobody asks for them.
    pretrain(tiny, resume=True)
    assert "masks" not in capsys.readouterr().out
    assert RunFolder(tiny.out).load_state(tiny.out / "step-00000012")["dropout_masks"] == "position"


def test_activation_checkpointing_changes_memory_only(tiny: PretrainConfig, finished: Run) -> None:
    pretrain(dataclasses.replace(tiny, gradient_checkpointing=True), progress=False)
    assert_same_run(tiny.out, finished)


def test_another_genome_or_bed_is_not_gone_on_with(tiny: PretrainConfig, tmp_path: Path) -> None:
    bed = tmp_path / "split.bed"
    bed.write_text("a\t0\t4000\ttrain\nb\t0\t900\tvalid\n")
    copy = shutil.copytree(tiny.genome, tmp_path / "genome")
    run = dataclasses.replace(
        tiny,
        genome=copy,
        bed=bed,
        valid_contigs=[],
        test_contigs=[],
        steps=1,
        warmup_length=None,
        warmup_length_steps=1000,
        eval_every=0,
    )
    pretrain(run, progress=False)
    bed.write_text("a\t0\t3000\ttrain\nb\t0\t900\tvalid\n")
    with pytest.raises(InputError, match=r"split\.bed: does not hold the intervals that the run in .* was started on"):
        pretrain(run, resume=True, progress=False)
    shutil.rmtree(copy)
    (tmp_path / "g.fa").write_text(f">a\n{'ACGT' * 1000}\n>b\n{'ACGT' * 225}\n")
    prepare(tmp_path / "g.fa", copy, progress=False)
    with pytest.raises(InputError, match=r"genome: is not the genome that the run in .* was started on"):
        pretrain(run, resume=True, progress=False)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    tiny: PretrainConfig, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "state.pt" and "00000009" in self.parent.name:
            write_bytes(self, data[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError) as caught:
            pretrain(tiny, progress=False)
    assert str(caught.value) == (
        f"{tiny.out}: cannot be written (No space left on device); free some space and continue with `resume`"
    )
    names = ["config.yaml", "metrics.jsonl", "splits.bed", "step-00000003", "step-00000006"]
    assert sorted(path.name for path in tiny.out.iterdir()) == names
    pretrain(tiny, resume=True, progress=False)
    assert_same_run(tiny.out, finished)


def test_ctrl_c_reaches_workers_too_and_the_step_is_saved(
    tiny: PretrainConfig, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunFolder.log

    def interrupt(self: RunFolder, row: dict[str, Any]) -> None:
        log(self, row)
        if row["step"] == 4:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", interrupt)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 4; continue with `resume`"):
            pretrain(dataclasses.replace(tiny, workers=1), progress=False)
    pretrain(tiny, resume=True, progress=False)
    assert_same_run(tiny.out, finished)
