"""Measure what packing brings to finetune, embed and score on genes of many lengths, and its peak memory.

Runs with pads and with packed rows alternate in one process. Times are those of the process, so other work on the
machine counts little. Memory is that of a model at equal tokens: rows of one length without a pad, and one packed row.

python -m bench.kernels.packed_commands --verb embed
python -m bench.kernels.packed_commands --verb memory
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.memory import peak_rss
from hyena_kernels import SegmentPlan
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.finetuning.train import FinetuneConfig, finetune
from hyenadna.inference.config import EmbedConfig, ScoreConfig
from hyenadna.inference.embed import embed
from hyenadna.inference.embeddings import Embeddings
from hyenadna.inference.score import score
from hyenadna.model.loading import without_transformers_bars

VERBS = ("finetune", "embed", "score", "memory")


def gene_lengths(count: int) -> list[int]:
    """Log-normal lengths of 60 to 4,000 bases with a median of 400, the same at every call."""
    drawn = np.random.default_rng(0).lognormal(np.log(400), 0.8, count)
    return [int(length) for length in drawn.clip(60, 4000)]


@without_transformers_bars()
def write_inputs(folder: Path, size: str, count: int) -> None:
    """Write a checkpoint with random weights, and random genes as FASTA and as a table of two classes."""
    torch.manual_seed(0)
    HyenaDNAForCausalLM(HyenaDNAConfig.named(size)).save_pretrained(folder / "model")
    rng = np.random.default_rng(1)
    genes = ["".join(rng.choice([*"ACGT"], length)) for length in gene_lengths(count)]
    (folder / "genes.fa").write_text("".join(f">g{i}\n{gene}\n" for i, gene in enumerate(genes)))
    with (folder / "genes.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["sequence", "label", "part"])
        table.writerows(
            [gene, i % 2, ("train", "train", "train", "valid", "test")[i % 5]] for i, gene in enumerate(genes)
        )


def run_verb(verb: str, folder: Path, pack_tokens: int, number: int) -> np.ndarray:
    """Run a command once, and return its numbers: losses, embeddings or log-likelihoods."""
    model, fasta = folder / "model", folder / "genes.fa"
    options: dict[str, Any] = {"device": "cpu", "pack_tokens": pack_tokens}
    if verb == "finetune":
        out = folder / f"out{number}"
        table = FinetuneConfig(
            folder / "genes.tsv", out, model, split_column="part", epochs=1, lr=1e-4, threads=1, **options
        )
        finetune(table, progress=False)
        return np.array(
            [float(text.split(",")[0]) for text in (out / "metrics.jsonl").read_text().split('"loss": ')[1:]]
        )
    if verb == "embed":
        embed(EmbedConfig(model, folder / f"out{number}.npz", fasta, **options), progress=False)
        return Embeddings.read(folder / f"out{number}.npz").vectors
    score(ScoreConfig(model, folder / f"out{number}.tsv", fasta, **options), progress=False)
    with (folder / f"out{number}.tsv").open(newline="") as file:
        return np.array([float(row["log_likelihood"]) for row in csv.DictReader(file, delimiter="\t")])


def times(verb: str, size: str, count: int, tokens: int, repeats: int) -> tuple[list[float], list[float], float]:
    """Seconds of the process with pads and with packed rows, and the greatest relative difference of the results."""
    seconds: tuple[list[float], list[float]] = [], []
    results: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder, size, count)
        for number in range(2 * repeats):
            started = time.process_time()
            results.append(run_verb(verb, folder, tokens * (number % 2), number))
            seconds[number % 2].append(time.process_time() - started)
    difference = np.abs(results[1] - results[0]).max() / np.abs(results[0]).max()
    return *seconds, float(difference)


def prepare(size: str, lengths: Sequence[int], mode: str, packed: bool) -> Callable[[], None]:
    """Make a model and what is to be measured: a step over padded rows, or over one row of packed sequences.

    Args:
        size: published configuration.
        lengths: tokens of the sequences. Padded, there are as many rows of the longest as have the same tokens.
        mode: "training", "checkpointed" or "inference".
        packed: whether the sequences share a row.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = HyenaDNAForCausalLM(HyenaDNAConfig.named(size)).train(mode != "inference")
    if mode == "checkpointed":
        model.activation_checkpointing_enable()
    total = sum(lengths)
    shape = (1, total) if packed else (total // max(lengths), max(lengths))
    ids = torch.randint(7, 11, shape)
    options: dict[str, Any] = {}
    if packed:
        options["cu_seqlens"] = SegmentPlan(torch.tensor([0, *lengths]).cumsum(0))

    def run() -> None:
        with torch.set_grad_enabled(mode != "inference"):
            output = model(ids, labels=ids, **options)
        if mode != "inference":
            output.loss.backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.packed_commands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--verb", default="embed", choices=VERBS, help="command, or memory (default: %(default)s)")
    parser.add_argument("--size", default="tiny-16k", help="published configuration (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=160, help="number of genes (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a packed row (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.verb == "memory":
        lengths = gene_lengths(args.sequences)
        # Whole rows of the longest, so that both have the same tokens.
        lengths.append(-sum(lengths) % max(lengths) or max(lengths))
        for mode in ("training", "checkpointed", "inference"):
            padded, packed = (peak_rss(prepare, args.size, lengths, mode, kind)[1] for kind in (False, True))
            print(f"{mode}, {sum(lengths):,} tokens: padded {padded / 1e6:,.0f} MB, packed {packed / 1e6:,.0f} MB")
        return
    padded_times, packed_times, difference = times(args.verb, args.size, args.sequences, args.tokens, args.repeats)
    before, after = statistics.median(padded_times), statistics.median(packed_times)
    print(
        f"{args.verb} of {args.sequences} genes: {before:.1f} s padded, {after:.1f} s in rows of {args.tokens:,}, "
        f"{before / after:.2f} times as fast; results differ by {difference:.1e} of the largest"
    )


if __name__ == "__main__":
    main()
