"""Where a model and the Markov models differ: positions whose context the training part holds too, and the others.

    python examples/yeast/repeats.py runs/yeast/model yeast chrXVI chrM

Positions of chrXVI are divided by the 20 bases before them: whether they occur in the other contigs, chrM left out, on
either strand. Then the probabilities of the model and of the Markov model of order 24 are mixed. The two weights, one a
class, are fitted on the first half of the positions, and all are scored on the second half.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.vocab import NUCLEOTIDE_IDS
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import split_contigs
from hyenadna.data.windows import EvalWindows
from hyenadna.evaluation.backoff import probabilities
from hyenadna.evaluation.evaluate import fit_markov

FIRST = NUCLEOTIDE_IDS["A"]
WORD, BEST = 20, 24
GRID = np.linspace(0.01, 0.99, 99)


def of_model(folder: str, windows: EvalWindows) -> np.ndarray:
    """float64 (n,): the probability that the model gives to the nucleotide of each position."""
    model = HyenaDNAForCausalLM.from_pretrained(folder).eval()
    found = []
    for batch in windows.batches(16):
        ids = batch.ids.long()
        with torch.no_grad():
            chosen = model(ids[:, :-1]).logits.softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
        found.append(chosen[(ids[:, 1:] >= FIRST) & (ids[:, 1:] < FIRST + 4)].double().numpy())
    return np.concatenate(found)


def perplexity(chosen: np.ndarray) -> float:
    """Of the probabilities that the nucleotides got."""
    return float(np.exp(-np.log(chosen).mean())) if len(chosen) else float("nan")


def main() -> None:
    """Print both tables."""
    folder, genome, contig, left_out = sys.argv[1:]
    opened = Genome.open(genome)
    splits = split_contigs(opened, [left_out], [contig])
    length = min(1024, HyenaDNAForCausalLM.from_pretrained(folder).config.max_seq_len)
    windows = EvalWindows(opened, splits["test"], length)
    fitted = fit_markov(opened, splits["train"], windows, BEST)
    orders = fitted.counts.orders
    pieces = []
    for counts, targets in fitted.positions():
        by_order = [probabilities(counts, of_chain)[np.arange(len(targets)), targets] for of_chain in fitted.strengths]
        pieces.append(np.stack([*by_order, counts[orders.index(WORD)].sum(axis=1) > 0]))
    *by_order, known = np.concatenate(pieces, axis=1)
    chosen = {"model": of_model(folder, windows)} | {f"Markov {k}": p for k, p in zip(orders, by_order, strict=True)}
    classes = {"all": known >= 0, f"{WORD} bases known": known > 0, "not known": known == 0}
    print("\t".join(["perplexity", *(f"{name} ({rows.mean():.1%})" for name, rows in classes.items())]))
    for name, values in chosen.items():
        print("\t".join([name, *(f"{perplexity(values[rows]):.4f}" for rows in classes.values())]))

    first = np.arange(len(known)) < len(known) // 2
    mixed = chosen["model"].copy()
    for name, rows in list(classes.items())[1:]:
        pair = chosen["model"][rows], chosen[f"Markov {BEST}"][rows]
        losses = [perplexity((weight * pair[1] + (1 - weight) * pair[0])[first[rows]]) for weight in GRID]
        weight = GRID[int(np.nanargmin(losses))] if np.isfinite(losses).any() else 0.5
        mixed[rows] = weight * pair[1] + (1 - weight) * pair[0]
        print(f"weight of Markov {BEST}, {name}: {weight:g}")
    for name, values in {"model": chosen["model"], f"Markov {BEST}": chosen[f"Markov {BEST}"], "mixed": mixed}.items():
        print(f"second half, {name}: {perplexity(values[~first]):.4f}")


if __name__ == "__main__":
    main()
