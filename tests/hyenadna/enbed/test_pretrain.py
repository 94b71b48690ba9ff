from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.data.genome import prepare
from hyenadna.enbed.corpus import open_corpus
from hyenadna.enbed.pretrain import TrainBatches, held_out_windows, pretrain, yardsticks
from hyenadna.enbed.pretrain_config import PretrainConfig
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration

TINY: dict[str, Any] = {
    "num_layers": 2, "num_decoder_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "local_radius": 6,
    "first_local_radius": 3, "first_local_layers": 1,
}  # fmt: skip
FEW: dict[str, Any] = {
    "valid_contigs": ["b"], "test_contigs": ["c"], "model_fields": TINY, "length": 24, "mean_span": 2.0,
    "batch_size": 4, "steps": 6, "lr": 1e-2, "log_every": 1, "eval_every": 2, "eval_windows": 2, "final_windows": 4,
    "markov_orders": [1, 2], "checkpoint_every": 2, "device": "cpu", "threads": 1,
}  # fmt: skip


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = {"a": 900, "b": 200, "c": 150}
    text = "".join(f">{name}\n{''.join(rng.choice([*'ACGT'], size))}\n" for name, size in sizes.items())
    (tmp_path / "g.fa").write_text(text)
    prepare(tmp_path / "g.fa", tmp_path / "genome", progress=False)
    return tmp_path / "genome"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(ENBEDForConditionalGeneration.from_pretrained(folder / "model").state_dict())


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_and_its_results(genome: Path, tmp_path: Path) -> None:
    results = pretrain(PretrainConfig([genome], tmp_path / "run", **FEW), progress=False)
    assert [row["method"] for row in results["table"]] == ["model", "majority", "Markov 1", "Markov 2"]
    assert results["data"] == "test: 16 masked bases of 4 windows"
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "valid_masked_accuracy" in row] == [2, 4, 6]
    # A linear schedule that ends at zero.
    rates = [row["lr"] for row in rows if "loss" in row]
    assert rates == pytest.approx([0.01, 0.01, 0.0075, 0.005, 0.0025, 0.0])
    assert (tmp_path / "run" / "training.png").stat().st_size > 1000


def test_a_stopped_run_ends_with_the_same_bits(genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig([genome], tmp_path / "whole", **FEW | {"model_fields": TINY | {"dropout_rate": 0.2}})
    whole = pretrain(config, progress=False)
    calls = TrainBatches.__call__

    def stop_at_five(self: TrainBatches, step: int) -> Any:
        if step == 5:
            raise RuntimeError("killed")
        return calls(self, step)

    again = dataclasses.replace(config, out=tmp_path / "again")
    monkeypatch.setattr(TrainBatches, "__call__", stop_at_five)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(again, progress=False)
    monkeypatch.undo()
    with pytest.raises(InputError, match="already holds a run"):
        pretrain(again, progress=False)
    assert pretrain(again, resume=True, progress=False)["table"] == whole["table"]
    assert equal(weights(tmp_path / "again"), weights(tmp_path / "whole"))
    # Micro-batches and recomputation change nothing but rounding; a finished run is loaded.
    assert pretrain(again, resume=True, progress=False)["table"] == whole["table"]


@pytest.mark.slow
def test_sigkill_loses_no_more_than_the_steps_since_a_checkpoint(genome: Path, tmp_path: Path) -> None:
    options = {"model_fields": json.dumps(TINY), "steps": 120, "checkpoint_every": 1}
    words = [f"--{name}={value if not isinstance(value, list) else json.dumps(value)}" for name, value in
             (FEW | options).items()]  # fmt: skip
    command = [sys.executable, "-m", "hyenadna", "enbed", "pretrain", "--genomes", f"[{genome}]", *words]
    run = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stdout=subprocess.DEVNULL)
    while not [*(tmp_path / "run").glob("step-*")]:
        assert run.poll() is None
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    left = max(int(path.name[5:]) for path in (tmp_path / "run").glob("step-*"))
    assert left < 120
    config = {**FEW, "steps": 120, "checkpoint_every": 1}
    stopped = PretrainConfig([genome], tmp_path / "run", **config)
    assert pretrain(stopped, resume=True, progress=False)["loss"] > 0
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 120


def test_another_genome_is_not_resumed_on(genome: Path, tmp_path: Path) -> None:
    config = PretrainConfig([genome], tmp_path / "run", **FEW | {"steps": 2})
    pretrain(config, progress=False)
    (tmp_path / "run" / "model" / "config.json").unlink()
    for file in (tmp_path / "run" / "model").iterdir():
        file.unlink()
    (tmp_path / "run" / "model").rmdir()
    (tmp_path / "g.fa").write_text((tmp_path / "g.fa").read_text().replace("A", "C", 3))
    prepare(tmp_path / "g.fa", genome, overwrite=True, progress=False)
    with pytest.raises(InputError, match="was started on other data"):
        pretrain(config, resume=True, progress=False)


def test_markov_yardsticks_see_the_true_bases_before(genome: Path) -> None:
    config = PretrainConfig([genome], Path("out"), **FEW | {"markov_orders": [1]})
    with ExitStack() as stack:
        corpus = open_corpus(stack, [genome], ["b"], ["c"], 0.0, 0.0)
        texts = [corpus.text(name, 24, cut=False) for name in ("train", "test")]
        found = {row["method"]: row["masked_accuracy"] for row in yardsticks(*texts, config, None)}
        # By hand: the commonest base, and the commonest one after each base, on both strands.
        train = texts[0].segments()[0].astype(int) - 7
        both = [train, 3 - train[::-1]]
        counts = np.zeros((4, 4))
        for strand in both:
            np.add.at(counts, (strand[:-1], strand[1:]), 1)
        right = [0, 0, 0]
        for ids, mask in held_out_windows(texts[1], config, None):
            digits = ids.astype(int) - 7
            for place in np.flatnonzero(mask):
                right[0] += 1
                right[1] += digits[place] == np.bincount(np.concatenate(both)).argmax()
                right[2] += digits[place] == counts[digits[place - 1]].argmax()
    assert found == {"majority": right[1] / right[0], "Markov 1": right[2] / right[0]}


BAD = [
    ("--genomes [gone.fa]", "gone.fa: no such file"),
    ("--genomes []", "--genomes: give at least one FASTA"),
    ("--length 16384 --mean_span 4", "sentinels, and there are 125"),
    ("--length 400", "no stretch of the valid part is as long"),
    ("--valid_contigs [z]", "unknown contig 'z'"),
    ("--autocast float16", "--autocast float16: has no number as low"),
    ("--size enbed-huge", "--size enbed-huge: no ENBED has this size"),
    ('--model_fields {"d_modle":8}', "--model_fields: an ENBED has no field d_modle"),
    ('--model_fields {"global_block_size":20}', "global_block_size must be a power of two"),
    ("--valid_fraction 0.1", "--valid_fraction 0.1: has no effect"),
    ("--init_from nowhere", "nowhere"),
    ("--density 1", "--density 1.0: must be above 0 and below 1"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line(
    words: str, message: str, genome: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(genome.parent)
    given = {
        "--genomes": "[genome]",
        "--valid_contigs": "[b]",
        "--out": "run",
        "--size": "enbed-tiny",
        "--length": "24",
    }
    argv = [word for pair in (given | dict(zip(*[iter(words.split())] * 2, strict=True))).items() for word in pair]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["enbed", "pretrain", *argv])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not Path("run").exists()
