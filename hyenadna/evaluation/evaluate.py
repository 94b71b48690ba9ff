"""Perplexity and accuracy of a model over held-out intervals, with Markov models as the baseline."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from hyenadna.evaluation import backoff
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.model import locate
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.parallel.layout import Layout

# exp of more overflows float64.
_MOST_NATS = 700.0
# Windows of 1,024 that prior strengths are fitted on.
_MOST_FITTED = 256
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


@dataclass(frozen=True)
class FittedMarkov:
    """Markov models that can score the positions of some windows.

    Attributes:
        counts: what follows the contexts of these positions in the training part.
        strengths: prior strengths of the chain to each order.
        segments: the windows with the bases before them.
        first_target: index of the first position to score in each segment.
        strengths_on: the intervals that the prior strengths are fitted on.
        held_back: whether these were held back from training, as there is no validation part. Afterwards they count.
        left_out: one line about the orders that would take too much memory; empty if there is none.
    """

    counts: backoff.Counts
    strengths: list[np.ndarray]
    segments: backoff.Segments
    first_target: int
    strengths_on: list[Interval]
    held_back: bool
    left_out: str

    def scores(self) -> dict[int, backoff.MarkovScore]:
        """Score each order. See `backoff.score`."""
        return backoff.score(self.counts, self.strengths, self.segments, self.first_target)

    def positions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Counts and nucleotides of the positions, in the order of the windows' batches. See `backoff.Counts.read`."""
        return self.counts.read(self.segments, self.first_target)


def fit_markov(
    genome: Genome,
    train: Sequence[Interval],
    windows: EvalWindows,
    max_order: int,
    *,
    valid: Sequence[Interval] = (),
    most_bytes: int = backoff.MOST_BYTES,
) -> FittedMarkov:
    """Fit Markov models of order 0 to ``max_order`` on ``train`` and its reverse complement.

    They score the same positions as a model on these ``windows``. The bases before a window serve as further
    context, so that the baseline does not depend on the borders of windows.

    Args:
        genome: the prepared genome.
        train: intervals that are counted: those that the model was trained on.
        windows: the windows to score.
        max_order: greatest order, 0 to 24. See `backoff.orders_up_to` for the orders below it.
        valid: intervals for the prior strengths, at most 256 windows of 1,024 of them. They are not counted, as the
            model did not train on them. If none is given, a tenth of ``train`` is held back for it. It is counted
            afterwards.
        most_bytes: bound of the memory. Orders that would take more are left out.

    Raises:
        InputError: there is no A, C, G or T to count.
    """
    held_back = not any(len(interval) > 1 for interval in valid)
    train = [interval for interval in train if _has_bases(genome, interval)]
    rest, fitted_on = _hold_back(train) if held_back and train else (train, list(valid))
    if held_back:
        # The end of a contig may be nothing but N.
        rest, fitted_on = ([i for i in part if _has_bases(genome, i)] for part in (rest, fitted_on))
    usable = any(len(interval) > 1 for interval in fitted_on)
    judged = EvalWindows(genome, fitted_on, 1024, max_windows=_MOST_FITTED) if usable else None
    targets = windows.n_targets + (judged.n_targets if judged else 0)
    plan = backoff.plan(max_order, targets, most_bytes)
    first_target = plan.orders[-1] + 1

    def read(some: EvalWindows | None) -> backoff.Segments:
        return lambda: _with_context(genome, some, first_target - 1) if some else iter(())

    def segments(intervals: Sequence[Interval]) -> backoff.Segments:
        return lambda: (genome.tokens(i.contig, i.start, i.end) for i in intervals)

    counts = backoff.Counts(plan, [read(judged), read(windows)], first_target)
    counts.add(segments(rest))
    strengths = backoff.fit_strengths(*counts.read_all(read(judged), first_target))
    if held_back and fitted_on and rest != train:
        counts.add(segments(fitted_on))
    return FittedMarkov(counts, strengths, read(windows), first_target, fitted_on, held_back, plan.describe())


def _has_bases(genome: Genome, interval: Interval) -> bool:
    """Whether there is anything but N."""
    return bool((genome.tokens(interval.contig, interval.start, interval.end) != N_ID).any())


def _hold_back(train: Sequence[Interval]) -> tuple[list[Interval], list[Interval]]:
    """Divide the training part into what is counted, and about a tenth that prior strengths are fitted on.

    It is the whole interval whose length is nearest to a tenth. Whole contigs share less with the others than parts of
    them. If none has between a twentieth and a fifth of all, it is the last tenth of every interval.
    """
    total = sum(map(len, train))
    nearest = min(train, key=lambda interval: abs(10 * len(interval) - total))
    if total <= 20 * len(nearest) <= 4 * total:
        return [interval for interval in train if interval is not nearest], [nearest]
    borders = [(interval, interval.end - len(interval) // 10) for interval in train]
    kept = [Interval(i.contig, i.start, border) for i, border in borders]
    return kept, [Interval(i.contig, border, i.end) for i, border in borders if border < i.end]


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
        train, valid, held_out = _read_splits(config, genome)
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
        fitted = (
            fit_markov(genome, train, windows, config.markov_order, valid=valid) if config.markov_order >= 0 else None
        )
        baselines = fitted.scores() if fitted else {}
        row: dict[str, Any] = {
            "model": str(config.model),
            "genome": genome.source,
            "held_out": _names(held_out),
            "length": length,
            "windows": len(windows),
            "perplexity": result.score.perplexity,
            "accuracy": result.score.accuracy,
            "positions": result.score.count,
            "markov": {str(order): _readable(score) for order, score in baselines.items()},
        }
        if fitted:
            row["markov_strengths"] = {
                "fitted_on": _names(fitted.strengths_on),
                "held_back_from_training": fitted.held_back,
                "left_out": fitted.left_out,
            }
        _write(config.out, row, result, baselines, curves)
        return row

    # Counting words is cheap beside the model, so the first process alone does it, as it writes the files.
    return world().first(finish)


def _names(intervals: Sequence[Interval]) -> list[str]:
    return [f"{i.contig}:{i.start}-{i.end}" for i in intervals]


def _readable(score: backoff.MarkovScore) -> dict[str, Any]:
    strengths = {str(order): strength for order, strength in score.prior_strengths.items()}
    return asdict(score) | {"prior_strengths": strengths}


def _write(
    out: Path,
    row: dict[str, Any],
    result: Evaluation,
    baselines: Mapping[int, Score],
    curves: list[dict[str, Any]],
) -> None:
    """Write the figures and ``evaluation.json``."""
    best = min((score.perplexity for score in baselines.values()), default=None)
    # All of them would hide the curves.
    lines = {
        order: score.perplexity
        for order, score in baselines.items()
        if order % 4 == 0 or order == max(baselines) or score.perplexity == best
    }
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


def _read_splits(config: EvaluateConfig, genome: Genome) -> tuple[list[Interval], list[Interval], list[Interval]]:
    """The intervals that Markov models count, those for their prior strengths (perhaps none), and the held-out ones."""
    beside = config.model.parent / SPLITS_FILE
    bed = config.bed or (beside if beside.is_file() and not config.contigs else None)
    if bed is not None:
        config.refuse_unused(("exclude",), f"`contigs`: the splits are those of {bed}")
        splits = split_bed(read_bed(bed, genome))
        if not splits[config.split]:
            raise InputError(f"{bed}: no interval is of the split {config.split!r}; choose another `split`")
        # What is scored must not be fitted on, and neither must the test part.
        return splits["train"], splits["valid"] if config.split == "test" else [], splits[config.split]
    if not config.contigs:
        raise InputError("nothing to score on: name the held-out `contigs`, or a `bed` with a split column")
    splits = split_contigs(genome, config.exclude, config.contigs)
    return splits["train"], [], splits["test"]
