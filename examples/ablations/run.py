"""The ablations of HyenaDNA on human promoters: eight rows, three seeds each, on two CPU cores.

    python examples/ablations/run.py promoters.tsv sacCer3.fa.gz --out runs/ablations

``promoters.tsv`` has the columns ``seq`` and ``label``, see examples/promoters. Every row sees the same sequences in
the same split, for as many epochs, in batches of one size. Each takes the better of two learning rates: with another
seed and half of the epochs, by accuracy on the validation split. The two pretrained rows come from one number of steps
on the same windows of the yeast genome. A run that was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Rows that take longest come first, so that both cores are busy to the end.
ROWS: dict[str, list[str]] = {
    "gpt-pretrained": ["--ablation", "gpt", "--model", "{out}/language-model-gpt/model"],
    "gpt": ["--ablation", "gpt"],
    "bidirectional": ["--ablation", "bidirectional"],
    "bidirectional-published": ["--ablation", "bidirectional-published"],
    "pretrained": ["--model", "{out}/language-model-hyena/model"],
    "scratch": ["--ablation", "scratch"],
    "kmer": ["--ablation", "kmer"],
    "cnn": ["--ablation", "cnn", "--baseline", "true"],
}
IN_ORDER = ("pretrained", "gpt-pretrained", *(row for row in ROWS if "pretrained" not in row))
RATES = ("6e-4", "2e-3")
SEEDS = (1, 2, 3)
SIZES = {"train": 1600, "valid": 400, "test": 2500}
EPOCHS, BATCH = 5, 16
PRETRAINING = [
    *("--valid_contigs", "[chrXVI]", "--test_contigs", "[chrM]", "--length", "512", "--batch_size", "8"),
    *("--embed_dropout", "0", "--lr_warmup", "0.02", "--min_lr_factor", "0", "--eval_length", "1024"),
    *("--eval_every", "400", "--eval_windows", "60", "--final_windows", "200", "--threads", "1"),
]
PRETRAINING_RATES = {"gpt": "2e-3", "hyena": "2e-3"}


def main() -> None:
    """Make the split, pretrain, fine-tune every row, and write the picture and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promoters", type=Path)
    parser.add_argument("genome", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200, help="of the two pretrainings")
    given = parser.parse_args()
    out: Path = given.out
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "split.tsv").is_file():
        write_split(given.promoters, out / "split.tsv")
    if not (out / "genome").is_dir():
        hyenadna("prepare", str(given.genome), "--out", str(out / "genome"))
    with ThreadPoolExecutor(2) as cores:
        list(cores.map(lambda architecture: pretrain(architecture, out, given.steps), PRETRAINING_RATES))
        list(cores.map(lambda row: train_row(row, out), ROWS))
    names = ", ".join(str(out / row) for row in IN_ORDER)
    hyenadna("plot", "results", "--results", f"[{names}]", "--out", str(out / "rows.png"))
    text = table(out)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{(time.monotonic() - started) / 60:.1f} minutes in all")


def hyenadna(*words: str) -> None:
    """Run one command, and print it first."""
    print("hyenadna", *words, flush=True)
    subprocess.run([sys.executable, "-m", "hyenadna", *words], check=True, stdout=subprocess.DEVNULL)


def write_split(promoters: Path, path: Path) -> None:
    """Draw the splits, each with as many promoters as other sequences. No sequence is in two of them."""
    with promoters.open(newline="", encoding="utf-8") as file:
        rows = {row["seq"]: row["label"] for row in csv.DictReader(file, delimiter="\t")}
    draw = random.Random(0)
    parts: list[tuple[str, str, str]] = []
    for label in sorted({*rows.values()}):
        sequences = sorted(sequence for sequence, of in rows.items() if of == label)
        draw.shuffle(sequences)
        for split, size in SIZES.items():
            taken, sequences = sequences[: size // 2], sequences[size // 2 :]
            parts += [(sequence, label, split) for sequence in taken]
    lines = ["seq\tlabel\tsplit", *("\t".join(part) for part in parts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pretrain(architecture: str, out: Path, steps: int) -> None:
    """Train a language model of the yeast genome, if it is not there yet."""
    folder = out / f"language-model-{architecture}"
    if not (folder / "model").is_dir():
        resume = ["--resume"] if folder.is_dir() else []
        hyenadna(
            *("pretrain", "--genome", str(out / "genome"), "--out", str(folder), "--architecture", architecture),
            *("--lr", PRETRAINING_RATES[architecture], "--steps", str(steps), *PRETRAINING, *resume),
        )


def train_row(row: str, out: Path) -> None:
    """Choose the rate of a row, and train its seeds with it."""
    for rate in RATES:
        finetune(row, out, out / "rates" / f"{row}-{rate}", rate, seeds=(0,), epochs=EPOCHS // 2)
    finetune(row, out, out / row, best_rate(row, out), seeds=SEEDS, epochs=EPOCHS)


def best_rate(row: str, out: Path) -> str:
    """The rate with the better validation; the smaller of equal ones."""
    return max(RATES, key=lambda rate: results(out / "rates" / f"{row}-{rate}")["runs"][0]["valid"])


def finetune(row: str, out: Path, folder: Path, rate: str, *, seeds: tuple[int, ...], epochs: int) -> None:
    """Train a row, if it is not there yet."""
    if (folder / "results.json").is_file():
        return
    resume = ["--resume", "true"] if folder.with_name(f"{folder.name}.partial").is_dir() else []
    hyenadna(
        *("finetune", "--data", str(out / "split.tsv"), "--sequence_column", "seq", "--split_column", "split"),
        *("--out", str(folder), "--lr", rate, "--epochs", str(epochs), "--patience", str(epochs)),
        *("--batch_size", str(BATCH), "--seeds", str(list(seeds)), "--threads", "1"),
        *(word.format(out=out) for word in ROWS[row]),
        *resume,
    )


def results(folder: Path) -> dict[str, Any]:
    """The contents of a results.json."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def table(out: Path) -> str:
    """The rows as Markdown."""
    lines = [
        "| row | parameters | learning rate | accuracy, mean ± s.d. of 3 seeds | AUROC | seconds a seed |",
        "|---|---|---|---|---|---|",
    ]
    for row in IN_ORDER:
        found = results(out / row)
        accuracy, auroc = (found["test"][name] for name in ("accuracy", "auroc"))
        seconds = sum(run["seconds"] for run in found["runs"]) / len(found["runs"])
        lines.append(
            f"| {row} | {found['parameters']:,} | {best_rate(row, out)} | {accuracy['mean']:.4f} ± "
            f"{accuracy['deviation']:.4f} | {auroc['mean']:.4f} ± {auroc['deviation']:.4f} | {seconds:.0f} |"
        )
    lines += [f"| {name} | | | {value:.4f} | | |" for name, value in results(out / "cnn")["baseline"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
