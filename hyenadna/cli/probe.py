"""``hyenadna probe``: how well classifiers tell the labels of embeddings apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyenadna.cli.probe_config import ProbeConfig
from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import RESULTS_FILE
from hyenadna.data.tables import tsv_line
from hyenadna.drawing.probe import probe_figure
from hyenadna.evaluation.folds import Folds, block_folds, stratified_folds
from hyenadna.evaluation.overlaps import overlaps
from hyenadna.evaluation.probe import CLASSIFIERS, PROBE_METRICS, TREES_DIFFER, Probed, classify
from hyenadna.evaluation.probe_presets import probe_preset
from hyenadna.inference.embeddings import Embeddings
from hyenadna.published.tables import ROWS

FOLDS = {"random": "random folds", "contig": "folds by contig", "block": "folds by blocks"}
"""Kinds of folds, in words."""
TABLE_FILE, FIGURE_FILE = "probe.tsv", "probe.png"


def read_embeddings(path: Path, least: int, purpose: str) -> Embeddings:
    """Embeddings that are all finite.

    Args:
        path: file of ``hyenadna embed``.
        least: fewest vectors.
        purpose: what they are for, for the message.

    Raises:
        InputError: there are too few, or one holds NaN or infinity.
    """
    found = Embeddings.read(path)
    if len(found) < least:
        raise InputError(f"{path}: holds {len(found)} vectors; {purpose} needs at least {least}")
    if damaged := int((~np.isfinite(found.vectors).all(axis=1)).sum()):
        raise InputError(
            f"{path}: {damaged:,} of {len(found):,} vectors hold NaN or infinity; embed with another checkpoint"
        )
    return found


def read_twin(path: Path, first: Embeddings, place: Path) -> Embeddings:
    """Other embeddings of the same sequences in the same order.

    Args:
        path: file of ``hyenadna embed``.
        first: the first embeddings.
        place: their file, for the message.

    Raises:
        InputError: the sequences differ, or a vector holds NaN or infinity.
    """
    found = read_embeddings(path, 1, "a comparison")
    for column in ("name", "contig", "start", "end"):
        if not np.array_equal(getattr(found, column), getattr(first, column)):
            raise InputError(
                f"`random` {path}: its column {column} is not that of {place}; embed the same sequences in the same "
                "order, with `random_weights`"
            )
    return found


def make_folds(
    by: str,
    labels: np.ndarray,
    found: Embeddings,
    rows: np.ndarray,
    *,
    folds: int = 5,
    block: int | None = None,
    seed: int = 0,
) -> Folds:
    """Folds of some rows of embeddings: random, by contig, or by blocks of the genome.

    Args:
        by: ``"random"``, ``"contig"`` or ``"block"``.
        labels: ``(n,)``, the classes of the rows.
        found: the embeddings.
        rows: int ``(n,)`` or bool, the rows.
        folds: number of folds.
        block: bases of a block, or None for ten windows.
        seed: seed of the folds.

    Raises:
        InputError: see :func:`hyenadna.evaluation.folds.block_folds`.
    """
    contig, start, end = found.contig[rows], found.start[rows], found.end[rows]
    if by == "block":
        return block_folds(labels, contig, start, end, width=block, folds=folds, seed=seed)
    groups = None if by == "random" else contig
    return stratified_folds(labels, groups, folds=folds, seed=seed, name=FOLDS[by])


def overlap_lines(found: Embeddings, rows: np.ndarray, *, seed: int, by: Sequence[str]) -> list[str]:
    """What to say of windows that overlap: nothing, if none does or none has a position.

    Args:
        found: the embeddings.
        rows: bool ``(n,)``, the rows that count.
        seed: seed of a draw of windows.
        by: how the folds of the figures are made, to warn of random ones.
    """
    rows = rows & (found.contig != "") & (found.end > found.start)
    if rows.sum() < 2:
        return []
    told = overlaps(found.vectors[rows], found.contig[rows], found.start[rows], found.end[rows], seed=seed)
    if not told.pairs:
        return []
    lines = [told.describe()]
    if "random" in by:
        lines.append(told.warning())
    return lines


def run_probe(config: ProbeConfig, *, progress: bool = True) -> dict[str, Any]:
    """Probe embeddings, write the folder of the results, and return the contents of its results.json.

    Raises:
        InputError: a file or option that does not fit.
        ImportError: a package is absent; the message names the extra.
    """
    config.check()
    used = config.with_preset()
    chosen = None if config.preset is None else probe_preset(config.preset)
    found = read_embeddings(used.embeddings, 2, "a probe")
    twin = None if used.random is None else read_twin(used.random, found, used.embeddings)
    rows, notes = _kept(found, used.top_classes)
    labels = found.label[rows]
    folds = make_folds(used.folds_by, labels, found, rows, folds=used.folds, block=used.block, seed=used.seed)
    if len(folds) < used.folds:
        notes.append(f"{len(folds)} folds, because a class or the groups have no more")
    if folds.dropped:
        notes.append(f"{folds.dropped:.1%} of the sequences lie near the test of a fold, and are in no part of it")
    if unseen := folds.unseen(labels):
        notes.append(f"{unseen:.1%} of the tests have a label that the training lacks")
    notes += overlap_lines(found, rows, seed=used.seed, by=[used.folds_by])
    if "trees" in used.classifiers:
        notes.append(TREES_DIFFER)
    classifier = used.classifiers[0] if chosen is None else chosen.classifier
    metric = PROBE_METRICS[0] if chosen is None else chosen.metric
    steps = len(folds) * len(used.classifiers) * (1 if twin is None else 2)
    with bar("probe", steps, "fit", progress=progress) as shown:
        done: Callable[[], object] = shown.update
        probed = {
            kind: classify(
                each.vectors[rows],
                labels,
                folds,
                used.classifiers,
                neighbours=used.neighbours,
                trees=used.trees,
                seed=used.seed,
                done=done,
            )
            for kind, each in (("embeddings", found), ("random weights", twin))
            if each is not None
        }
    own = probed["embeddings"]
    classes, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    tables = {kind: {name: _measured(each, name) for name in each.guessed} for kind, each in probed.items()}
    summary: dict[str, Any] = {
        "kind": "probe",
        "embeddings": str(used.embeddings),
        "preset": config.preset,
        "deviations": config.deviations(),
        "weights": None,
        "classifier": classifier,
        "metric": metric,
        "split": {"by": used.folds_by, "folds": len(folds), "block": used.block, "seed": used.seed},
        "examples": {"test": len(labels)},
        "classes": [str(name) for name in classes[order]],
        "counts": counts[order].tolist(),
        "majority": float(counts.max() / len(labels)),
        "notes": notes,
        "test": tables["embeddings"][classifier],
        "classifiers": tables["embeddings"],
        "runs": [{"fold": fold, "test": values} for fold, values in enumerate(own.scores(classifier))],
    }
    if twin is not None:
        summary["random"] = tables["random weights"]
    published: dict[str, float] = {}
    if chosen is not None:
        published = {figure.row: figure.value for figure in chosen.published}
        summary["published"] = {metric: published["pretrained"]}
    with atomic_dir(used.out, merge=True) as draft:
        (draft / RESULTS_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        (draft / TABLE_FILE).write_text("".join(_rows(tables)), encoding="utf-8")
        probe_figure(
            {
                CLASSIFIERS[name]: {kind: [fold[metric] for fold in each.scores(name)] for kind, each in probed.items()}
                for name in used.classifiers
            },
            own.confusion(classifier, list(classes[order])),
            summary["classes"],
            draft / FIGURE_FILE,
            metric=metric,
            classifier=CLASSIFIERS[classifier],
            published={f"published, {_name(row)}": value for row, value in published.items()},
        )
    return summary


def _kept(found: Embeddings, top: int) -> tuple[np.ndarray, list[str]]:
    """The rows whose label is one of the ``top`` most frequent, bool ``(n,)``, and what is left out."""
    rows, notes = found.label != "", list[str]()
    if not rows.any():
        raise InputError("the embeddings have no labels: embed a BED with names, or a table with `label_column`")
    if count := int((~rows).sum()):
        notes.append(f"{count:,} sequences without a label left out")
    names, counts = np.unique(found.label[rows], return_counts=True)
    if top and len(names) > top:
        most = names[np.argsort(-counts, kind="stable")[:top]]
        before = rows.sum()
        rows = rows & np.isin(found.label, most)
        notes.append(f"{before - rows.sum():,} sequences of {len(names) - top} rarer labels left out")
    return rows, notes


def _measured(probed: Probed, classifier: str) -> dict[str, dict[str, Any]]:
    """Mean, deviation and number of folds of every metric."""
    folds = probed.scores(classifier)
    found = {}
    for metric in PROBE_METRICS:
        values = [fold[metric] for fold in folds]
        found[metric] = {
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)),
            "runs": len(values),
        }
    return found


def _rows(tables: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    lines = [tsv_line(["vectors", "classifier", "metric", "mean", "deviation", "folds"])]
    for kind, by_classifier in tables.items():
        for name, metrics in by_classifier.items():
            lines += [tsv_line([kind, name, metric, *value.values()]) for metric, value in metrics.items()]
    return lines


def describe_probe(summary: dict[str, Any]) -> str:
    """The results for the terminal."""
    split = summary["split"]
    sequences = f"{summary['examples']['test']:,} sequences of {len(summary['classes'])} classes"
    header = f"{sequences}, {split['folds']} {FOLDS[split['by']]}"
    lines = [header, f"{'':<42}" + "".join(f"{metric:>13}" for metric in PROBE_METRICS)]
    for kind, key in (("", "classifiers"), (", random weights", "random")):
        for name, metrics in summary.get(key, {}).items():
            values = "".join(f"{metrics[metric]['mean']:>13.4f}" for metric in PROBE_METRICS)
            lines.append(f"{CLASSIFIERS[name] + kind:<42}{values}")
    lines.append(f"{'the most frequent class':<42}{'':>26}{summary['majority']:>13.4f}")
    if summary["preset"] is not None:
        for figure in probe_preset(summary["preset"]).published:
            place = 13 * (1 + PROBE_METRICS.index(figure.metric))
            lines.append(f"{'published, ' + _name(figure.row):<42}{figure.value:>{place}.4f}")
        for option, (value, wanted) in summary["deviations"].items():
            lines.append(f"not as published: {option} {value}, there {wanted}")
    return "\n".join([*lines, *(f"note: {note}" for note in summary["notes"])])


def _name(row: str) -> str:
    """The model of a published row, without its details."""
    return ROWS[row].partition(",")[0]
