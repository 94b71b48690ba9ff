"""``make demo``: from a FASTA to a trained, evaluated and reloaded model, with a report, in minutes.

Without a FASTA it writes a synthetic genome first. Context pays there, and the best possible score is known.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path

import torch

from hyena_kernels.backend import describe
from hyenadna.cli.main import one_line_errors
from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.launch import check_processes
from hyenadna.common.run_layout import CONFIG_FILE
from hyenadna.data import genome as genomes
from hyenadna.data.intervals import Interval, read_bed, split_bed, split_fraction, write_bed
from hyenadna.data.synthetic import SyntheticGenome, write_synthetic_genome
from hyenadna.data.windows import EvalWindows
from hyenadna.drawing.report import REPORT_FILE, Command, Image, Table, write_report
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.evaluation.evaluate import evaluate, evaluate_windows
from hyenadna.model.device import autocast, pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.pretraining.train import pretrain

_LENGTH = 512
_HELD_OUT = 0.1
_WINDOWS = 400
# A folder with this file in it may be replaced.
_MARKER = ".hyenadna-demo"


def _write_split(genome: genomes.Genome, synthetic: bool, path: Path) -> dict[str, list[Interval]]:
    """Write a BED with the splits, and read it back.

    A synthetic genome holds out its last two contigs, a real one the end of every contig.
    """
    if synthetic:
        names = {genome.names[-2]: "valid", genome.names[-1]: "test"}
        rows = [Interval(c.name, 0, c.length, names.get(c.name, "train")) for c in genome.contigs]
    else:
        parts = split_fraction(genome, _HELD_OUT / 2, _HELD_OUT / 2)
        rows = [interval for part in parts.values() for interval in part]
    write_bed(rows, path)
    return split_bed(read_bed(path, genome))


@without_transformers_bars()
def run(out: Path, fasta: Path | None = None, *, steps: int = 900, threads: int | None = None) -> Path:
    """Run the demo into ``out`` and return the path of its report.

    Args:
        out: folder for everything. An earlier demo in it is replaced.
        fasta: a genome, or None for the synthetic one.
        steps: optimizer steps.
        threads: CPU threads; None leaves PyTorch's number.

    Raises:
        InputError: the FASTA cannot be read, or the folder cannot be written to or holds something else.
    """
    started = time.perf_counter()
    config = PretrainConfig(
        genome=out / "genome",
        out=out / "run",
        bed=out / "split.bed",
        d_model=64,
        n_layer=2,
        max_seq_len=_LENGTH + 2,
        embed_dropout=0.0,
        length=_LENGTH,
        batch_size=4,
        steps=steps,
        # At 3e-3 the run stops in the middle of a transition, where rounding decides on tenths of the perplexity.
        lr=1e-3,
        min_lr_factor=0.0,
        lr_warmup=0.05,
        eval_every=max(1, steps // 6),
        eval_windows=40,
        final_windows=_WINDOWS,
        checkpoint_every=max(1, steps // 3),
        threads=threads,
    )
    config.check_values()
    is_new = not out.exists()
    marker = out / _MARKER
    if not is_new and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: holds something else than a demo; choose another folder with OUT=…")
    write_files({marker: b"The next demo replaces the files in this folder.\n"}, make_folders=True)

    print(f"1/5  genome: {fasta or 'a synthetic one, with planted repeats, motifs and copies'}", flush=True)
    synthetic: SyntheticGenome | None = None
    try:
        if fasta is None:
            synthetic = write_synthetic_genome(out / "genome.fa")
        genome = genomes.prepare(fasta or out / "genome.fa", out / "genome", overwrite=True)
        print(f"     {genome.describe()}", flush=True)
        splits = _write_split(genome, synthetic is not None, out / "split.bed")
    except InputError:
        if is_new:
            shutil.rmtree(out)
        raise
    for folder in (out / "run", out / "evaluation"):
        shutil.rmtree(folder, ignore_errors=True)
    for page in (out / "demo.json", out / REPORT_FILE):
        page.unlink(missing_ok=True)

    print(f"2/5  pretrain: {steps} steps", flush=True)
    trained = pretrain(config)

    print("3/5  evaluate on held-out sequence, with Markov models as the baseline", flush=True)
    score = evaluate(
        EvaluateConfig(
            model=trained.model,
            genome=out / "genome",
            bed=out / "split.bed",
            length=_LENGTH,
            max_windows=_WINDOWS,
            out=out / "evaluation",
        )
    )

    print("4/5  load the checkpoint again", flush=True)
    reloaded = HyenaDNAForCausalLM.from_pretrained(trained.model)
    windows = EvalWindows(genome, splits["valid"], _LENGTH, max_windows=_WINDOWS)
    device = pick_device(config.device)
    with autocast(config.autocast, device):
        again = evaluate_windows(reloaded.to(device), windows, batch_size=config.batch_size, progress=False)
    if again.score != trained.valid.score:
        raise RuntimeError(f"the reloaded model scores {again.score}, the trained one {trained.valid.score}")

    print("5/5  report", flush=True)
    markov = {int(order): values for order, values in score["markov"].items()}
    best = min(markov, key=lambda order: markov[order]["perplexity"])
    gain = markov[best]["perplexity"] - score["perplexity"]
    parameters = sum(p.numel() for p in reloaded.parameters())
    facts = {
        "genome": genome.describe(),
        "model": f"HyenaDNA, {reloaded.config.n_layer} layers of width {reloaded.config.d_model}, {parameters:,} "
        "parameters",
        "training": f"{trained.steps:,} steps of {config.batch_size} windows of {_LENGTH} nucleotides, "
        f"{trained.seconds:.0f} s",
        "held-out perplexity": score["perplexity"],
        f"best Markov model (order {best})": markov[best]["perplexity"],
        "checkpoint, saved and loaded again": "the score has the same bits",
        "whole demo": f"{time.perf_counter() - started:.0f} s on {torch.get_num_threads()} CPU threads "
        f"({platform.machine()})",
    }
    if synthetic is not None:
        facts["perplexity of the genome's own generator"] = synthetic.floor_perplexity
    rows = [[f"Markov, order {order}", values["perplexity"], values["accuracy"]] for order, values in markov.items()]
    rows.append(["HyenaDNA", score["perplexity"], score["accuracy"]])
    verdict = f"{gain:.4f} below" if gain > 0 else f"{-gain:.4f} above (train longer to change that)"
    figures = {
        "training.png": "Perplexity in training and validation. The lines are Markov models on the test part.",
        "evaluation.png": "The model and the Markov models on the same held-out positions.",
        "perplexity_by_position.png": "Perplexity by position in the window, which shows the gain from context.",
    }
    options = f"--config {out / 'run' / CONFIG_FILE} --out {out / 'longer'} --steps {10 * steps}"
    report = write_report(
        out,
        title="HyenaDNA demo",
        summary=f"Held-out perplexity {score['perplexity']:.4f}, against {markov[best]['perplexity']:.4f} of the best "
        f"Markov model: {verdict}.",
        facts=facts,
        tables=[Table("Held-out score", ["model", "perplexity", "accuracy"], rows, highlight=len(rows) - 1)],
        images=[Image(out / "evaluation" / name, caption) for name, caption in figures.items()],
        commands=[
            Command("Train longer, in a run of its own", f"hyenadna pretrain {options}"),
            Command("Your own genome", "make demo FASTA=path/to/genome.fa.gz"),
            Command("Which backend runs", "python -m hyena_kernels"),
        ],
    )
    write_files({out / "demo.json": (json.dumps({"facts": facts, "evaluation": score}, indent=1) + "\n").encode()})
    print(f"\n{describe().splitlines()[0]}")
    baseline = f"best Markov model (order {best}) {markov[best]['perplexity']:.4f}"
    print(f"held-out perplexity {score['perplexity']:.4f}, {baseline}")
    print(f"report: {report}")
    return report


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(
        prog="python -m hyenadna.cli.demo",
        description=__doc__,
        epilog="example: python -m hyenadna.cli.demo --out demo-out",
    )
    parser.add_argument("--fasta", type=Path, help="a genome, FASTA, plain, gzip or bgzip; default a synthetic one")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything")
    parser.add_argument("--steps", type=int, default=900, help="optimizer steps")
    args = parser.parse_args()
    with one_line_errors("the demo"):
        check_processes("demo")
        run(args.out, args.fasta, steps=args.steps)


if __name__ == "__main__":
    main()
