"""Noise identification: can a classifier tell sequences with a sequencer's errors from those without?

Source: Malusare et al. 2024 (arXiv 2311.02333), table 3. Its data, segments of TeloBase, cannot be had; telomeres are
made here, or windows of a FASTA are taken.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyenadna.common.errors import InputError
from hyenadna.common.files import PartialFolder, atomic_dir, write_files
from hyenadna.common.run_layout import MODEL_FOLDER, RESULTS_FILE, settings
from hyenadna.common.vocab import N_ID, letters_of
from hyenadna.common.writers import one_writer
from hyenadna.data.fasta import read_records
from hyenadna.data.tables import encoded, tsv_line
from hyenadna.drawing.enbed import dots
from hyenadna.drawing.report import Image, Table, write_report
from hyenadna.enbed.corruptor import NoiseRates, corrupt_to, diverge, source_length
from hyenadna.enbed.noise_config import NoiseConfig
from hyenadna.enbed.noise_scores import CLEAN, NOISY
from hyenadna.enbed.telomeres import telomeres
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.evaluation.baselines import fit_logistic, kmer_counts
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.results import read_results
from hyenadna.finetuning.train import finetune
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.published.enbed import STUDIES

ROWS_FOLDER = "rows"
"""Folder with one folder of ``hyenadna finetune`` for each row."""
TABLE_FILE = "noise.tsv"
STUDY = "enbed-noise"
"""Name of the study in results.json and among the published ones."""
SPLITS = ("train", "valid", "test")
NO_NOISE = NoiseRates(0.0, 0.0, 0.0)


@without_transformers_bars()
@one_writer(make_folders=True)
def study(config: NoiseConfig, *, progress: bool = True) -> dict[str, Any]:
    """Make the sequences of each setting, train the classifiers, write ``config.out``, and return its results.json.

    Raises:
        InputError: options, a FASTA or a checkpoint that do not fit. Finished runs are kept in ``OUT.partial``, and
            ``resume`` continues with the others.
    """
    config.check()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pick_device(config.device)
    parts = PartialFolder(config.out, _plain(config), resume=config.resume)
    cells = [(scale, divergence) for divergence in config.divergence for scale in config.scales]
    starts = ["scratch"] if config.model is None else ["pretrained", "scratch"]

    def finished() -> str:
        done = len([*parts.folder.glob(f"*/{ROWS_FOLDER}/*/{RESULTS_FILE}")])
        return f"{done} of {len(cells) * len(starts)} rows" if done else ""

    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {"valid": -1.0}
    with parts.keep(finished):
        parts.begin()
        for scale, divergence in cells:
            cell = parts.folder / _name(scale, divergence)
            cell.mkdir(exist_ok=True)
            sets = make_sets(config, scale, divergence)
            write_files({cell / TABLE_FILE: _table(sets)})
            common = {"scale": scale, "divergence": divergence, "noise": sum(_rates(config).scaled(scale))}
            rows += [{**row, **common} for row in yardsticks(sets, config.kmer)]
            for start in starts:
                tuned = _finetune_config(config, cell, start)
                if not (tuned.out / RESULTS_FILE).is_file():
                    if progress:
                        print(f"{_words(common)}: {start}", file=sys.stderr)
                    finetune(tuned, progress=progress)
                summary = read_results(tuned.out)
                runs = [run["test"] for run in summary["runs"]]
                row: dict[str, Any] = {"method": f"ENBED, {start}", "seeds": len(runs)}
                for name, metric in (("f1", "f1_binary"), ("accuracy", "accuracy")):
                    values = [float(run[metric]) for run in runs]
                    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                    row |= {name: float(np.mean(values)), f"{name}_deviation": spread, f"{name}_runs": values}
                rows.append({**row, **common})
                # The validation chooses: by the test, the figure of the chosen one would be too good.
                if (valid := max(run["valid"] for run in summary["runs"])) > best["valid"]:
                    folder = (tuned.out / MODEL_FOLDER).relative_to(parts.folder)
                    best = {"valid": valid, "folder": str(folder), "method": row["method"], **common}
        results = {
            "study": STUDY,
            "data": _data(config),
            "settings": _plain(config),
            "table": rows,
            "model": best,
        }
        with atomic_dir(config.out, merge=True) as draft:
            (draft / RESULTS_FILE).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            shutil.copytree(parts.folder / best["folder"], draft / MODEL_FOLDER)
            for scale, divergence in cells:
                name = _name(scale, divergence)
                shutil.copytree(parts.folder / name, draft / name)
            _write_page(results, draft)
        parts.remove()
    return results


def _plain(config: NoiseConfig) -> dict[str, Any]:
    return settings(config)


def _rates(config: NoiseConfig) -> NoiseRates:
    return NoiseRates(config.insertion, config.deletion, config.mismatch)


def _name(scale: float, divergence: float) -> str:
    return f"scale-{scale:g}-divergence-{divergence:g}"


def _words(row: dict[str, Any]) -> str:
    return f"noise {row['noise']:g} a base, divergence {row['divergence']:g}"


def _data(config: NoiseConfig) -> str:
    source = f"windows of {config.fasta.name}" if config.fasta else f"made telomeres ({', '.join(config.motifs)})"
    return f"{source} of {config.length:,} bases, {config.test_examples:,} in the test"


# The sequences


def make_sets(config: NoiseConfig, scale: float, divergence: float) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Sequences and labels of each split: clean ones and noisy ones of the same length, each from a source of its own.

    Sources of both classes have one length, and the same function cuts them: neither lengths nor ends say anything.

    Raises:
        InputError: the FASTA has too few windows.
    """
    rng = np.random.default_rng((config.seed, int(scale * 1e6), int(divergence * 1e6)))
    rates = _rates(config).scaled(scale)
    length = source_length(config.length, rates.deletion)
    sizes = [getattr(config, f"{name}_examples") for name in SPLITS]
    if config.fasta is None:
        sources = iter(telomeres(config.motifs, sum(sizes), length, rng))
    else:
        sources = windows(config.fasta, sum(sizes), length, rng)
    found: dict[str, list[tuple[np.ndarray, str]]] = {}
    for name, size in zip(SPLITS, sizes, strict=True):
        found[name] = []
        for is_noisy in rng.permutation(np.arange(size) % 2 == 1).tolist():
            ids = diverge(next(sources), divergence, rng)
            ids = corrupt_to(ids, config.length, rates if is_noisy else NO_NOISE, rng)
            found[name].append((ids, NOISY if is_noisy else CLEAN))
    return found


def windows(fasta: Path, count: int, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Windows of a FASTA that do not overlap and hold no N, in random order.

    Raises:
        InputError: there are fewer than ``count``.
    """
    found = [
        ids[start : start + length]
        for _, ids in read_records(fasta)
        for start in range(0, len(ids) - length + 1, length)
        if not (ids[start : start + length] == N_ID).any()
    ]
    if len(found) < count:
        raise InputError(
            f"{fasta}: has {len(found):,} windows of {length:,} bases without N, and {count:,} are asked for; ask "
            "for fewer or shorter ones (`train_examples`, `length`)"
        )
    return (found[place] for place in rng.permutation(len(found))[:count])


def _table(sets: dict[str, list[tuple[np.ndarray, str]]]) -> bytes:
    rows = [["sequence", "label", "split"]]
    rows += [[letters_of(ids), label, name] for name, part in sets.items() for ids, label in part]
    return encoded("".join(tsv_line(row) for row in rows))


# The methods


def _finetune_config(config: NoiseConfig, cell: Path, start: str) -> FinetuneConfig:
    fields: dict[str, Any] = {"method": "full", "model": config.model}
    if start == "scratch":
        shape = config.model_fields
        if config.model is not None:
            made = ENBEDForConditionalGeneration.from_pretrained(config.model).config
            shape = {name: getattr(made, name) for name in _SHAPE}
        fields = {"method": "scratch", "size": config.size, "model_fields": shape}
    return FinetuneConfig(
        cell / TABLE_FILE,
        cell / ROWS_FOLDER / start,
        architecture="enbed",
        split_column="split",
        metric="f1_binary",
        epochs=config.epochs,
        patience=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        seeds=config.seeds,
        jobs=config.jobs,
        resume=config.resume,
        device=config.device,
        threads=config.threads,
        **fields,
    )


_SHAPE = (
    "num_layers", "num_decoder_layers", "d_model", "d_kv", "d_ff", "num_heads", "local_radius", "first_local_radius",
    "first_local_layers", "global_block_size", "feed_forward_proj", "relative_attention_num_buckets",
    "relative_attention_max_distance", "dropout_rate",
)  # fmt: skip


def yardsticks(sets: dict[str, list[tuple[np.ndarray, str]]], k: int) -> list[dict[str, Any]]:
    """What needs no network: calling everything noisy, and logistic regression on counts of words of ``k`` bases."""
    labels = {name: np.array([label == NOISY for _, label in part]) for name, part in sets.items()}
    counts = {name: kmer_counts([ids for ids, _ in part], k) for name, part in sets.items()}
    fitted, best = fit_logistic(counts["train"], labels["train"], counts["valid"], labels["valid"])
    guesses = {
        "all noisy": np.ones_like(labels["test"]),
        f"logistic regression on {k}-mers": fitted[best].predict(counts["test"]),
    }
    return [
        {"method": name, "f1": _f1(guess, labels["test"]), "accuracy": float((guess == labels["test"]).mean())}
        for name, guess in guesses.items()
    ]


def _f1(guess: np.ndarray, truth: np.ndarray) -> float:
    right = int((guess & truth).sum())
    return 2 * right / max(1, int(guess.sum()) + int(truth.sum()))


# What people see


def describe(results: dict[str, Any]) -> str:
    """The table of the results, for the terminal."""
    lines = [results["data"], f"{'':<44} {'F1':>7} {'± s.d.':>7} {'accuracy':>9} {'± s.d.':>7}"]
    before = ""
    for row in results["table"]:
        if (words := _words(row)) != before:
            lines.append(words)
            before = words
        shown = f"{row['f1']:>7.4f} {_deviation(row, 'f1'):>7} {row['accuracy']:>9.4f} {_deviation(row, 'accuracy'):>7}"
        lines.append(f"  {row['method']:<42} {shown}".rstrip())
    return "\n".join([*lines, _chosen(results), NOTE])


def _published() -> str:
    """The published figures, and why they are not comparable."""
    (table,) = (study for study in STUDIES if study.name == STUDY)
    values = ", ".join(f"{method} {shown['']:g}" for method, shown in table.rows.items())
    return " ".join([f"Published ({table.published_as}, in percent): {values}.", *table.notes])


NOTE = _published()


def _deviation(row: dict[str, Any], metric: str) -> str:
    value = row.get(f"{metric}_deviation")
    return "" if value is None else f"{value:.4f}"


def _chosen(results: dict[str, Any]) -> str:
    """Which classifier is in the folder of the best."""
    best = results["model"]
    return f"{MODEL_FOLDER}/ has the best F1 on validation ({best['valid']:.4f}): {best['method']}, {_words(best)}"


def _write_page(results: dict[str, Any], folder: Path) -> None:
    tables, points = [], {}
    for words in dict.fromkeys(map(_words, results["table"])):
        rows = [row for row in results["table"] if _words(row) == words]
        cells: Sequence[Sequence[Any]] = [
            [
                row["method"],
                row["f1"],
                _deviation(row, "f1"),
                row["accuracy"],
                _deviation(row, "accuracy"),
                row.get("seeds", ""),
            ]
            for row in rows
        ]
        tables.append(Table(words, ["method", "F1 of noisy", "± s.d.", "accuracy", "± s.d.", "seeds"], cells))
        points[words] = {row["method"]: row.get("f1_runs", [row["f1"]]) for row in rows}
    dots(points, folder / "noise.png", label="F1 of the noisy class")
    write_report(
        folder,
        title="Noise identification",
        summary=NOTE,
        facts={
            "data": results["data"],
            "seeds": ", ".join(map(str, results["settings"]["seeds"])),
            "classifier": _chosen(results),
        },
        tables=tables,
        images=[Image(folder / "noise.png", "F1 of the noisy class in the test. A dot is a run.")],
    )
