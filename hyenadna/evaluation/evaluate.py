"""Perplexity and accuracy of a model over held-out intervals, with Markov models as the baseline."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hyenadna.baselines.loading import keep_filters, load_language_model
from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.parts import tell_idle
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import METRICS_FILE, SPLITS_FILE, read_metrics
from hyenadna.common.score import Score
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.common.world import SharedError, world
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import Interval, read_bed, split_bed, split_contigs
from hyenadna.data.windows import EvalBatch, EvalWindows
from hyenadna.drawing import figures as plot
from hyenadna.evaluation import markov
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.model import locate
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.parallel.layout import Layout

# exp of more overflows float64.
_MOST_NATS = 700.0
EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on held-out windows.

    Attributes:
        score: perplexity, accuracy and number of positions.
        position_nats: float64 ``(L,)``, mean loss in nats at each position of the window; NaN where none was scored.
    """

    score: Score
    position_nats: np.ndarray


def evaluate_windows(
    model: torch.nn.Module,
    windows: EvalWindows,
    *,
    batch_size: int,
    progress: bool = True,
    layout: Layout | None = None,
) -> Evaluation:
    """Score every position of ``windows`` that is not N exactly once. Losses are summed in float64.

    The model is in ``eval()`` meanwhile. Its weights and the random states do not change.

    The processes of a world take the batches in turn, and all get the result. A batch is the same in any number of
    processes, and the sums of batches are added in one order. So is the result, to the last bit, if each batch is
    computed in one process.

    Args:
        model: returns ``.logits (B, L, V)`` for ids ``(B, L)``. If processes divide windows, it also takes ``context``.
        windows: the windows to score.
        batch_size: windows at a time in each process.
        progress: show a progress bar.
        layout: how processes divide the work. The default lets each take whole batches.

    Raises:
        InputError: every position is N, windows are longer than the model takes, or the loss is not finite.
    """
    device = next(model.parameters()).device
    layout = layout or Layout.of_rows()
    together = world()
    progress = progress and together.is_first
    nats, hits, count = (torch.zeros(windows.longest, dtype=torch.float64, device=device) for _ in range(3))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), bar("evaluate", len(windows), "window", progress=progress) as shown:
            for batch, counts in _read_together(windows.dealt(batch_size, *layout.data)):
                sums = _sums_by_position(model, batch, layout, device)
                # A window that is too short to be divided is computed by all, and counted once.
                counts = counts and (not batch.is_whole or layout.context[0] == 0)
                own = (batch.offset, sums if together.size == 1 else sums.cpu(), len(batch.windows)) if counts else None
                for part in together.gather(own):
                    if part is None:
                        continue
                    offset, added, rows = part
                    place = slice(offset, offset + added.shape[1])
                    for sums_of_all, values in zip((nats, hits, count), added.to(device), strict=True):
                        sums_of_all[place] += values
                    shown.update(rows if offset == 0 else 0)
    finally:
        model.train(was_training)
    total = float(count.sum())
    # All processes have the same sums, and so the same errors.
    if total == 0:
        raise SharedError("the held-out intervals hold only N; choose others")
    mean = float(nats.sum()) / total
    if not mean < _MOST_NATS:
        raise SharedError(
            f"the model's mean loss on the held-out windows is {mean:g} nats: its weights are damaged or have "
            "diverged; use another checkpoint, or train with a lower `lr`"
        )
    score = Score(perplexity=math.exp(mean), accuracy=float(hits.sum()) / total, count=int(total))
    return Evaluation(score, (nats / count).cpu().numpy())


def _read_together(dealt: Iterator[tuple[EvalBatch, bool]]) -> Iterator[tuple[EvalBatch, bool]]:
    """The batches of this process. If one cannot read its batch, all raise the error."""
    while True:
        with world().agreed():
            batch = next(dealt, None)
        if batch is None:
            return
        yield batch


def _sums_by_position(model: torch.nn.Module, batch: EvalBatch, layout: Layout, device: torch.device) -> torch.Tensor:
    """Sums over the rows of a batch at each of its positions: nats, hits and scored targets, float64 (3, L)."""
    ids = batch.ids.to(device, torch.long)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    scored = (targets != PAD_ID) & (targets != N_ID)
    shards = None if batch.is_whole else layout.shards(batch.total)
    logits = (model(inputs) if shards is None else model(inputs, context=shards)).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double()
    right = logits.argmax(dim=-1) == targets
    return torch.stack([(losses * scored).sum(dim=0), (right & scored).sum(dim=0), scored.sum(dim=0)])


def fit_and_score_markov(
    genome: Genome, train: Sequence[Interval], windows: EvalWindows, max_order: int
) -> dict[int, Score]:
    """Fit Markov models of order 0 to ``max_order`` on ``train`` and its reverse complement, and score them.

    They are scored on the same positions as a model on these ``windows``. The bases before a window serve as further
    context, so that the baseline does not depend on the borders of windows.
    """
    models = markov.fit((genome.tokens(i.contig, i.start, i.end) for i in train), max_order)
    return markov.evaluate(models, _with_context(genome, windows, max_order), first_target=max_order + 1)


def _with_context(genome: Genome, windows: EvalWindows, context: int) -> Iterator[np.ndarray]:
    """Each window with ``context`` tokens before it. [PAD] stands for tokens before the start of the contig."""
    for batch in windows.batches(1024):
        for contig, start in batch.windows:
            first = max(0, start - context)
            tokens = genome.tokens(contig, first, start + batch.total + 1)
            yield np.pad(tokens, (context - (start - first), 0), constant_values=PAD_ID)


@without_transformers_bars()
def evaluate(config: EvaluateConfig, *, progress: bool = True) -> dict[str, Any]:
    """Evaluate the model that ``config`` names, write ``evaluation.json`` and PNGs, and return the JSON's content.

    Several processes share out the batches, see :func:`hyenadna.common.world.world`.

    Raises:
        InputError: a checkpoint, genome, contig, BED or folder does not fit.
    """
    progress = progress and world().is_first
    with world().agreed():
        config.check()
        # Before the splits, which may lie next to the model.
        locate.check_checkpoint(config.model)
        genome = Genome.open(config.genome, config.aliases)
        train, held_out = _read_splits(config, genome)
        beside = config.model.parent / METRICS_FILE
        metrics = config.metrics or (beside if beside.is_file() else None)
        curves = read_metrics(metrics) if metrics is not None else []
        device = pick_device(config.device)
        model: Any = load_language_model(config.model)
        model.to(device)
        max_length = model.config.max_seq_len
        length = min(1024, max_length) if config.length is None else config.length
        if length > max_length:
            raise InputError(
                f"`length` {length}: the model in {config.model} is made for {max_length} tokens; shorten it"
            )
        windows = EvalWindows(genome, held_out, length, n_to_pad=config.n_to_pad, max_windows=config.max_windows)
    tell_idle(-(-len(windows) // config.batch_size), "batch", "lower batch_size")
    with keep_filters(model):
        result = evaluate_windows(model, windows, batch_size=config.batch_size, progress=progress)

    def finish() -> dict[str, Any]:
        baselines: dict[int, Score] = {}
        if config.markov_order >= 0:
            baselines = fit_and_score_markov(genome, train, windows, config.markov_order)
        row: dict[str, Any] = {
            "model": str(config.model),
            "genome": genome.source,
            "held_out": [f"{i.contig}:{i.start}-{i.end}" for i in held_out],
            "length": length,
            "windows": len(windows),
            "perplexity": result.score.perplexity,
            "accuracy": result.score.accuracy,
            "positions": result.score.count,
            "markov": {str(order): asdict(score) for order, score in baselines.items()},
        }
        _write(config.out, row, result, baselines, curves)
        return row

    # Counting words is cheap beside the model, so the first process alone does it, as it writes the files.
    return world().first(finish)


def _write(
    out: Path,
    row: dict[str, Any],
    result: Evaluation,
    baselines: dict[int, Score],
    curves: list[dict[str, Any]],
) -> None:
    """Write the figures and ``evaluation.json``."""
    best = min((score.perplexity for score in baselines.values()), default=None)
    lines = {order: score.perplexity for order, score in baselines.items()}
    with tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        plot.perplexity_by_position(np.exp(result.position_nats), folder / "perplexity_by_position.png", best)
        if baselines:
            plot.evaluation_bars(result.score, baselines, folder / "evaluation.png")
        if curves:
            plot.training_curves(curves, folder / "training.png", lines)
        contents = {out / file.name: file.read_bytes() for file in folder.iterdir()}
    contents[out / EVALUATION_FILE] = (json.dumps(row, indent=1) + "\n").encode()
    write_files(contents, make_folders=True)


def _read_splits(config: EvaluateConfig, genome: Genome) -> tuple[list[Interval], list[Interval]]:
    """The intervals that Markov models are fitted on, and the held-out ones."""
    beside = config.model.parent / SPLITS_FILE
    bed = config.bed or (beside if beside.is_file() and not config.contigs else None)
    if bed is not None:
        config.refuse_unused(("exclude",), f"`contigs`: the splits are those of {bed}")
        splits = split_bed(read_bed(bed, genome))
        if not splits[config.split]:
            raise InputError(f"{bed}: no interval is of the split {config.split!r}; choose another `split`")
        return splits["train"], splits[config.split]
    if not config.contigs:
        raise InputError("nothing to score on: name the held-out `contigs`, or a `bed` with a split column")
    splits = split_contigs(genome, config.exclude, config.contigs)
    return splits["train"], splits["test"]
