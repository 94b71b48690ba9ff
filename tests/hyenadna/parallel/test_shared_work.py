"""Verbs whose work several processes share out: the bytes of one process, and what is told and kept after an error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna import HyenaDNAForSequenceClassification
from hyenadna.common.errors import InputError
from hyenadna.common.world import world
from hyenadna.drawing import figures
from hyenadna.evaluation.evaluate import EvaluateConfig, evaluate
from hyenadna.finetuning import train as finetune_module
from hyenadna.finetuning.train import FinetuneConfig, finetune
from hyenadna.inference import embed as embed_module
from hyenadna.inference.embed import EmbedConfig, embed
from hyenadna.inference.predict import PredictConfig, predict
from hyenadna.inference.score import ScoreConfig, score
from hyenadna.parallel.processes import start_world
from tests.hyenadna.parallel.test_processes import join
from tests.ranks import run_ranks

RANKS = 2


@pytest.fixture(scope="module")
def inputs(
    tiny_fasta: Path, tiny_genome: Path, tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with models, sequences, variants, labelled sequences and a link to a genome."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model().save_pretrained(folder / "lm")
    tiny_model(HyenaDNAForSequenceClassification, num_labels=2).save_pretrained(folder / "classifier")
    (folder / "genome").symlink_to(tiny_genome)
    (folder / "genome.fa").symlink_to(tiny_fasta)
    bases = tiny_fasta.read_text().split(">b\n")[1].split("\n")[0]
    rows = [bases[i * 20 : i * 20 + 20 + i % 7] for i in range(14)]
    (folder / "s.fa").write_text("".join(f">s{i}\n{row}\n" for i, row in enumerate(rows)) + ">none\n")
    records = [f"b\t{i + 1}\t.\t{bases[i]}\t{'CA'[bases[i] == 'C']}\t.\t.\t.\n" for i in range(60, 69)]
    (folder / "v.vcf").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(records)
    )
    rng = np.random.default_rng(0)
    lines = [
        f"{''.join(rng.choice(list('GCAT'[2 * (i % 2) :]), 12))}\t{i % 2}\t{['train', 'valid', 'test'][i // 2 % 3]}\n"
        for i in range(24)
    ]
    (folder / "t.tsv").write_text("sequence\tlabel\tsplit\n" + "".join(lines))
    return folder


def works(inputs: Path, out: Path) -> list[tuple[Callable[..., Any], Any]]:
    lm: dict[str, Any] = {"model": inputs / "lm", "device": "cpu"}
    fasta = inputs / "s.fa"
    many: dict[str, Any] = {"fasta": fasta, "part_size": 3}
    return [
        (embed, EmbedConfig(out=out / "e.npz", **lm, **many)),
        (embed, EmbedConfig(out=out / "e.parquet", pooling="token", **lm, **many)),
        (score, ScoreConfig(out=out / "s.tsv", **lm, **many)),
        (
            score,
            ScoreConfig(out=out / "v.vcf.gz", vcf=inputs / "v.vcf", genome=inputs / "genome.fa", part_size=4, **lm),
        ),
        (predict, PredictConfig(inputs / "classifier", out=out / "p.tsv", fasta=fasta, batch_size=2, device="cpu")),
        (
            evaluate,
            EvaluateConfig(
                genome=inputs / "genome",
                out=out / "v",
                contigs=["b"],
                exclude=["c"],
                markov_order=1,
                batch_size=2,
                **lm,
            ),
        ),
        (
            finetune,
            FinetuneConfig(
                data=inputs / "t.tsv", out=out / "f", seeds=[0, 1, 2], epochs=1, batch_size=12, threads=1, **lm
            ),
        ),
    ]


def contents(folder: Path) -> dict[str, Any]:
    """What all files hold. The time that a fine-tuning took may differ."""
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    found["f/results.json"] = untimed(json.loads(found["f/results.json"]))
    return found


def untimed(result: Any) -> Any:
    if isinstance(result, dict) and "runs" in result:
        return result | {"runs": [{**run, "seconds": 0} for run in result["runs"]]}
    return result


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures hold what they would show. To draw them takes longer than all the rest."""

    def note(*args: Any) -> None:
        (place,) = (value for value in args if isinstance(value, Path))
        place.write_text(repr([untimed(value) for value in args if not isinstance(value, Path)]))

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((figures, "perplexity_by_position"), (figures, "evaluation_bars")):
            patch.setattr(owner, name, note)
        patch.setattr(finetune_module, "draw_curves", note)
        yield


def failing(work: Callable[..., Any], config: Any) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        work(config, progress=False)
    return type(caught.value).__name__, str(caught.value)


def wait_for(file: Path) -> None:
    until = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def share(rank: int, port: int, inputs: Path, out: Path, stopped: Path) -> tuple[list[Any], list[tuple[str, str]]]:
    join(rank, RANKS, port)
    told = []
    with undrawn(), start_world("cpu", timeout=None):
        results = [untimed(work(config, progress=False)) for work, config in works(inputs, out)]

        compute = embed_module._embed_part

        def fail_in_the_first(*args: Any) -> Any:
            if rank == 0:
                raise InputError("rank 0 fails")
            return compute(*args)

        # Part 0 is missing then, and part 1 is there.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embed_module, "_embed_part", fail_in_the_first)
            told.append(failing(embed, works(inputs, stopped)[0][1]))

        train = finetune_module.train

        def fail_in_the_second(*args: Any) -> Any:
            if rank == 1:
                wait_for(stopped / "started")
                raise InputError("seed 1 fails")
            (stopped / "started").touch()
            wait_for(stopped / "f.partial" / "stopped")
            return train(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finetune_module, "train", fail_in_the_second)
            told.append(failing(finetune, works(inputs, stopped)[-1][1]))

        # What one process has begun, several finish.
        embed(replace(works(inputs, stopped)[1][1], resume=True), progress=False)
        absent = replace(works(inputs, stopped)[2][1], fasta=inputs / ("s.fa" if rank else "absent.fa"))
        told.append(failing(score, absent))
    return results, told


@pytest.mark.slow
def test_processes_share_work_and_write_the_same_bytes(
    inputs: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, several, stopped = (tmp_path / name for name in ("one", "several", "stopped"))
    for folder in (one, several, stopped):
        folder.mkdir()
    with undrawn():
        expected = [untimed(work(config, progress=False)) for work, config in works(inputs, one)]
    compute, calls = embed_module._embed_part, []

    def counting(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise InputError("too much")
        return compute(*args)

    monkeypatch.setattr(embed_module, "_embed_part", counting)
    assert failing(embed, works(inputs, stopped)[1][1])[1].startswith("too much; 6 sequences are finished and kept in")

    found = run_ranks(RANKS, share, free_port, inputs, several, stopped, group=False)

    assert [results for results, _ in found] == [expected] * RANKS
    assert contents(several) == contents(one)
    absent = f"{inputs / 'absent.fa'}: no such file"
    assert found[1][1] == [("SharedError", text) for text in ("rank 0 fails", "seed 1 fails", absent)]
    embedding, tuning, last = found[0][1]
    assert (embedding[0], tuning[0], last) == ("InputError", "InputError", ("SharedError", absent))
    assert embedding[1].startswith("rank 0 fails; 3 sequences are finished and kept in ")
    assert tuning[1].startswith("seed 1 fails; 1 of 3 runs are finished and kept in ")
    assert [path.name for path in (stopped / "f.partial").glob("seed-*")] == ["seed-0"]
    assert [path.name for path in (stopped / "e.npz.partial").glob("part-*")] == ["part-00000001-3.npz"]

    # One process finishes what several have begun, and computes nothing again.
    calls = [1] * 3
    with undrawn():
        for place in (0, -1):
            work, config = works(inputs, stopped)[place]
            assert untimed(work(replace(config, resume=True), progress=False)) == expected[place]
    assert len(calls) == 3 + 5 - 1
    whole = contents(one)
    assert {name: whole[name] for name in contents(stopped)} == contents(stopped)
    assert {path.name for path in stopped.iterdir()} == {"e.npz", "e.parquet", "f", "started"}
    assert world().size == 1
