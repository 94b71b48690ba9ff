"""Function annotation: a sequence in, the name of its biotype out, letter by letter.

Source: Malusare et al. 2024 (arXiv 2311.02333), table 4.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.common.extras import require
from hyenadna.common.files import write_files
from hyenadna.common.run_layout import RESULTS_FILE, settings
from hyenadna.common.vocab import BYTE_TO_ID
from hyenadna.common.writers import one_writer
from hyenadna.data.genome import open_genome
from hyenadna.data.tables import encoded, tsv_line
from hyenadna.drawing.cancer import confusions
from hyenadna.drawing.report import Image, Table, write_report
from hyenadna.enbed.annotate_config import AnnotateConfig
from hyenadna.enbed.gtf import COLUMNS, Example, Examples, examples_of_gtf, examples_of_table
from hyenadna.enbed.seq2seq import Pair, generate, make_model, train_pairs
from hyenadna.enbed.training import Training
from hyenadna.evaluation.baselines import fit_logistic, kmer_counts
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars

UNKNOWN = "(other text)"
"""Stands in tables for a text that is no biotype."""
NOTE = (
    "Published (F1): DNABERT 63.2, Nucleotide Transformer 67.5, HyenaDNA 72.8, ENBED 74.1, on sequences of Ensembl. "
    "The paper does not say whether its F1 is macro or weighted, and lists nine biotypes where it says ten."
)


@without_transformers_bars()
@one_writer(inside=True, make_folders=True)
def annotate(config: AnnotateConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train a model to write the biotype of a sequence, and measure it on held-out contigs beside yardsticks.

    Args:
        config: the examples, the model and the training.
        resume: continue from the newest checkpoint in ``config.out``, or start if there is none yet.
        progress: show progress bars.

    Returns:
        The contents of results.json.

    Raises:
        InputError: a GTF, table, genome, checkpoint or option that does not fit.
    """
    config.check()
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    examples = _read(config)
    if progress:
        print("\n".join([*examples.notes, _sizes(examples)]))
    train = _pairs(_balanced(examples.of("train")) if config.balanced else examples.of("train"))
    longest = max(len(row.sequence) for row in examples.rows) + 1
    model = make_model(config.model, config.size, seed=config.seed, max_seq_len=longest, **config.model_fields)
    training = Training(
        config.steps,
        config.batch_size,
        config.lr,
        checkpoint_every=config.checkpoint_every,
        eval_every=config.checkpoint_every,
        seed=config.seed,
    )
    model = train_pairs(
        model,
        train,
        _pairs(examples.of("valid"))[:512],
        training,
        config,
        config.out,
        device=device,
        resume=resume,
        progress=progress,
        name="enbed annotate",
    )
    test = examples.of("test")
    texts = generate(
        model,
        [row.sequence for row in test],
        beams=config.beams,
        candidates=1,
        most=max(len(row.target.encode()) for row in examples.rows),
        progress=progress,
        name="annotate the test",
    )
    guesses = {"ENBED": [found[0].text for found in texts]} | yardsticks(examples, config.kmer)
    truth = [row.target for row in test]
    classes = sorted({row.target for row in examples.rows})
    results: dict[str, Any] = {
        "study": "enbed-annotate",
        "data": f"{(config.gtf or config.table or Path()).name}: {_sizes(examples)}",
        "notes": examples.notes,
        "settings": settings(config),
        "classes": {name: sum(target == name for target in truth) for name in classes},
        "table": [{"method": name, **scores(truth, found)} for name, found in guesses.items()],
        "by_class": {name: f1_by_class(truth, found, classes) for name, found in guesses.items()},
    }
    _write(config.out, results, examples, test, guesses, classes)
    return results


def _read(config: AnnotateConfig) -> Examples:
    if config.table is not None:
        return examples_of_table(config.table, config.most)
    assert config.genome is not None
    with ExitStack() as stack:
        return examples_of_gtf(config, stack.enter_context(open_genome(config.genome, config.aliases)))


def _pairs(rows: Sequence[Example]) -> list[Pair]:
    return [Pair(row.sequence, row.target) for row in rows]


def _balanced(rows: Sequence[Example]) -> list[Example]:
    """The rows, with those of rarer classes several times, so that each class has as many."""
    by_class: dict[str, list[Example]] = {}
    for row in rows:
        by_class.setdefault(row.target, []).append(row)
    most = max(map(len, by_class.values()))
    return [part[place % len(part)] for part in by_class.values() for place in range(most)]


def _sizes(examples: Examples) -> str:
    counts = Counter(row.split for row in examples.rows)
    return ", ".join(f"{counts[name]:,} {name}" for name in ("train", "valid", "test"))


def scores(truth: Sequence[str], guesses: Sequence[str]) -> dict[str, float]:
    """Exact matches, and macro and weighted F1 over the classes of the truth. Any other text counts as wrong."""
    f1_score = require("sklearn.metrics").f1_score
    classes = sorted({*truth})
    found = {"exact_match": float(np.mean([one == two for one, two in zip(truth, guesses, strict=True)]))}
    for average in ("macro", "weighted"):
        value = f1_score(truth, guesses, labels=classes, average=average, zero_division=0.0)
        found[f"{average}_f1"] = float(value)
    return found


def f1_by_class(truth: Sequence[str], guesses: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """F1 of each class."""
    f1_score = require("sklearn.metrics").f1_score
    values = f1_score(truth, guesses, labels=list(classes), average=None, zero_division=0.0)
    return dict(zip(classes, map(float, values), strict=True))


def yardsticks(examples: Examples, k: int) -> dict[str, list[str]]:
    """Guesses for the test without a network: the commonest biotype, the length alone, and counts of words."""
    train, valid, test = (examples.of(name) for name in ("train", "valid", "test"))
    commonest = Counter(row.target for row in train).most_common(1)[0][0]
    tree = require("sklearn.tree").DecisionTreeClassifier(max_depth=6, random_state=0)
    tree.fit(_lengths(train), [row.target for row in train])
    targets = [np.array([row.target for row in part]) for part in (train, valid)]
    counts = [kmer_counts([_ids(row.sequence) for row in part], k) for part in (train, valid, test)]
    fitted, best = fit_logistic(counts[0], targets[0], counts[1], targets[1])
    return {
        "commonest": [commonest] * len(test),
        "length alone (tree of depth 6)": [str(name) for name in tree.predict(_lengths(test))],
        f"logistic regression on {k}-mers": [str(name) for name in fitted[best].predict(counts[2])],
    }


def _lengths(rows: Sequence[Example]) -> np.ndarray:
    return np.array([[len(row.sequence)] for row in rows])


def _ids(text: str) -> np.ndarray:
    return BYTE_TO_ID[np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8)]


def describe(results: dict[str, Any]) -> str:
    """The table of the results, for the terminal."""
    lines = [results["data"], f"{'':<36} {'exact':>7} {'macro F1':>9} {'weighted F1':>12}"]
    lines += [
        f"{row['method']:<36} {row['exact_match']:>7.4f} {row['macro_f1']:>9.4f} {row['weighted_f1']:>12.4f}"
        for row in results["table"]
    ]
    return "\n".join([*lines, NOTE])


def _write(
    folder: Path,
    results: dict[str, Any],
    examples: Examples,
    test: Sequence[Example],
    guesses: dict[str, list[str]],
    classes: Sequence[str],
) -> None:
    """Write results.json, the tables, the figure and the page."""
    rows: list[list[object]] = [list(COLUMNS), *map(list, examples.rows)]
    predictions: list[list[object]] = [[*COLUMNS, *guesses]]
    predictions += [[*row, *(found[place] for found in guesses.values())] for place, row in enumerate(test)]
    write_files({
        folder / RESULTS_FILE: (json.dumps(results, indent=1) + "\n").encode(),
        folder / "examples.tsv": encoded("".join(tsv_line(row) for row in rows)),
        folder / "predictions.tsv": encoded("".join(tsv_line(row) for row in predictions)),
    })  # fmt: skip
    names = [*classes, UNKNOWN]
    places = {name: place for place, name in enumerate(names)}
    shown = {}
    for method, found in guesses.items():
        table = np.zeros((len(names), len(names)), dtype=np.int64)
        for row, guess in zip(test, found, strict=True):
            table[places[row.target], places.get(guess, len(classes))] += 1
        shown[method] = [list(map(int, line)) for line in table]
    confusions(shown, names, folder / "confusion.png")
    table_rows = [[row["method"], row["exact_match"], row["macro_f1"], row["weighted_f1"]] for row in results["table"]]
    by_class = [
        [name, count, *(results["by_class"][method][name] for method in guesses)]
        for name, count in results["classes"].items()
    ]
    write_report(
        folder,
        title="Function annotation",
        summary=NOTE,
        facts={"data": results["data"]} | {f"note {i}": note for i, note in enumerate(results["notes"], start=1)},
        tables=[
            Table("Test", ["", "exact match", "macro F1", "weighted F1"], table_rows, None, "Other texts are wrong."),
            Table("F1 by biotype", ["biotype", "in the test", *guesses], by_class),
        ],
        images=[Image(folder / "confusion.png", "Biotypes of the test by what was written.")],
    )
