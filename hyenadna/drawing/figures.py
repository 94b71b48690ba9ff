"""Figures of a training run and of its evaluation, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import FINAL_KEY
from hyenadna.common.score import Score
from hyenadna.drawing.style import BASELINE, BEST, DASHES, LABEL_SIZE, MODEL, RULE, TITLE_SIZE, TRAIN, png_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANCE = Score(perplexity=4.0, accuracy=0.25, count=0)
"""The score of a random choice among four nucleotides."""


def training_curves(
    metrics: Sequence[Mapping[str, Any]], out: str | Path, baselines: Mapping[int, float] | None = None
) -> Path:
    """Draw training and validation perplexity against optimizer steps, with the Markov models as horizontal lines.

    Args:
        metrics: the rows of a run's JSONL log, in order, each with its ``step``. ``perplexity`` gives the training
            curve, ``valid_perplexity`` the validation curve, and ``final_valid_perplexity`` a point of its own. If
            rows have ``tokens`` (tokens so far), an axis on top shows them. Other keys are ignored.
        out: the PNG to write.
        baselines: perplexity of the Markov models by order.

    Raises:
        InputError: no row has a perplexity, or ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    train = _curve(metrics, "perplexity")
    # The last validation has more windows than the others, so it is a point apart.
    valid = _curve([row for row in metrics if FINAL_KEY not in row], "valid_perplexity")
    final = _curve(metrics, FINAL_KEY)
    if not train.size and not valid.size and not final.size:
        raise InputError(f"{out}: nothing to plot, the metrics have no perplexity yet; train for some steps first")
    baselines = baselines or {}
    from matplotlib.ticker import MaxNLocator

    with png_figure(out, width=8.0, height=4.6) as figure:
        axes = figure.subplots()
        labels: list[tuple[float, str, str]] = []
        seen = [np.array(list(baselines.values()))]
        best = min(baselines, key=lambda order: baselines[order]) if baselines else None
        for order, perplexity in baselines.items():
            colour = BEST if order == best else BASELINE
            axes.axhline(perplexity, color=colour, linewidth=0.8, linestyle=DASHES, zorder=1)
            name = f"Markov {order} (best)" if order == best else f"Markov {order}"
            labels.append((perplexity, f"{name}: {perplexity:.4f}", colour))
        if train.size:
            smooth = _smooth(train[:, 1])
            axes.plot(*train.T, color=TRAIN, linewidth=0.5, alpha=0.35, zorder=2)
            axes.plot(train[:, 0], smooth, color=TRAIN, linewidth=1.6, label="training (smoothed)", zorder=3)
            # The first steps fall from the size of the vocabulary. With them, all other steps would look flat.
            seen.append(smooth[len(smooth) // 10 :])
        if valid.size:
            axes.plot(*valid.T, color=MODEL, linewidth=1.8, marker="o", markersize=3.5, label="validation", zorder=4)
            seen.append(valid[len(valid) // 10 :, 1])
            if not final.size:
                labels.append((valid[-1, 1], f"validation: {valid[-1, 1]:.4f}", MODEL))
        if final.size:
            axes.plot(*final.T, "D", color=MODEL, markersize=6, label="at the end", clip_on=False, zorder=5)
            seen.append(final[:, 1])
            labels.append((final[-1, 1], f"at the end: {final[-1, 1]:.4f}", MODEL))
        _show_all(axes, seen, 0.04)
        last_step = max(float(curve[-1, 0]) for curve in (train, valid, final) if curve.size)
        axes.set_xlim(0, last_step or 1)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel("perplexity")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Not over the curves.
        figure.legend(loc="outside lower left", ncols=3)
        _token_axis(axes, metrics)
        _label_right(figure, axes, labels)
    return Path(out)


def evaluation_bars(model_score: Score, markov_scores: Mapping[int, Score], out: str | Path) -> Path:
    """Draw perplexity and accuracy of the Markov models and of the model, as bars that start at chance (4 and 25%).

    Args:
        model_score: score of the neural model.
        markov_scores: scores of the Markov models by order, on the same positions.
        out: the PNG to write.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    names = [f"Markov {order}" for order in markov_scores] + ["HyenaDNA"]
    scores = [*markov_scores.values(), model_score]
    colours = [BASELINE] * len(markov_scores) + [MODEL]
    if markov_scores:
        best = min(markov_scores, key=lambda order: markov_scores[order].perplexity)
        colours[list(markov_scores).index(best)] = BEST
    panels = [
        ("perplexity", "perplexity (bars start at guessing: 4)", _CHANCE.perplexity, "{:.4f}"),
        ("accuracy", "accuracy (bars start at guessing: 25%)", _CHANCE.accuracy, "{:.2%}"),
    ]
    with png_figure(out, width=8.0, height=1.2 + 0.3 * len(scores)) as figure:
        for axes, (field, title, chance, form) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            values = np.array([getattr(score, field) for score in scores])
            reach = max(float(np.abs(values - chance).max()), 1e-3)
            direction = -1.0 if field == "perplexity" else 1.0
            axes.barh(range(len(scores)), values - chance, left=chance, color=colours, height=0.7)
            for row, value in enumerate(values):
                end = chance + direction * max(0.0, direction * (value - chance))
                text = axes.annotate(form.format(value), (end, row), (4, 0), textcoords="offset points", va="center")
                text.set(fontsize=LABEL_SIZE, fontweight="bold" if row == len(scores) - 1 else "normal")
            worst = chance - direction * max(0.0, float((direction * (chance - values)).max()))
            axes.set_xlim(worst, chance + direction * 1.3 * reach)
            axes.axvline(chance, color=RULE, linewidth=0.8)
            axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.tick_params(left=False, bottom=False, labelbottom=False)
            axes.set_yticks(range(len(scores)), names)
            axes.set_ylim(len(scores) - 0.5, -0.5)
    return Path(out)


def perplexity_by_position(
    position_ppl: Sequence[float] | np.ndarray, out: str | Path, baseline: float | None = None
) -> Path:
    """Draw perplexity against the position in the window, which shows how much context helps.

    A single position is noisy, so each point is a mean over a range. Ranges grow with the position.

    Args:
        position_ppl: float ``(positions,)``, perplexity over all windows at each scored position; NaN where none was
            scored.
        out: the PNG to write.
        baseline: perplexity of the best Markov model, drawn as a line.

    Raises:
        InputError: the array is not 1-d or has no finite value, or ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    values = np.asarray(position_ppl, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).any():
        raise InputError(f"{out}: nothing to plot, expected one perplexity a position, got shape {values.shape}")
    centres, smooth = _geometric_bins(values)
    with png_figure(out, width=8.0, height=4.0) as figure:
        axes = figure.subplots()
        axes.plot(centres, smooth, color=MODEL, linewidth=1.8, marker="o", markersize=3.5, clip_on=False)
        labels = [(float(smooth[-1]), "HyenaDNA", MODEL)]
        seen = [smooth]
        if baseline is not None:
            axes.axhline(baseline, color=BEST, linewidth=0.8, linestyle=DASHES)
            labels.append((baseline, f"best Markov: {baseline:.4f}", BEST))
            seen.append(np.array([baseline]))
        _show_all(axes, seen, 0.05)
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, max(len(values), 2))
        ticks = 2 ** np.arange(0, int(np.log2(len(values))) + 1)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("position in the window (bases of context)")
        axes.set_ylabel("perplexity")
        _label_right(figure, axes, labels)
    return Path(out)


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """float64 ``(n, 2)``: step and value of every row that has the key. A null, which stands for NaN, is left out."""
    rows = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
    return np.array(rows, dtype=np.float64)


def _show_all(axes: Axes, seen: Sequence[np.ndarray], margin: float) -> None:
    """Set the limits of the y axis to those of the values, with a margin as a fraction of their range."""
    low, high = np.concatenate(seen).min(), np.concatenate(seen).max()
    space = margin * (high - low) or 0.1
    axes.set_ylim(low - space, high + space)


def _smooth(perplexity: np.ndarray) -> np.ndarray:
    """Mean loss of about a twentieth of the run around each row, as perplexity."""
    rows = np.arange(len(perplexity))
    half = len(perplexity) // 40
    first, last = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(perplexity))
    total = np.concatenate([[0.0], np.cumsum(np.log(perplexity))])
    return np.exp((total[last] - total[first]) / (last - first))


def _geometric_bins(perplexity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss, as perplexity, over ranges that grow by about a fifth, each at the geometric mean of its ends."""
    count = len(perplexity)
    edges = np.unique(np.geomspace(1, count + 1, 2 + int(4 * np.log2(count))).round().astype(np.int64))
    centres, means = [], []
    for low, high in pairwise(edges.tolist()):
        nats = np.log(perplexity[low - 1 : high - 1])
        nats = nats[np.isfinite(nats)]
        if nats.size:
            centres.append((low * (high - 1)) ** 0.5)
            means.append(np.exp(nats.mean()))
    return np.array(centres), np.array(means)


def _token_axis(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Add an axis of tokens on top, if the log has them. Batches may grow, so the axis need not be linear in steps."""
    from matplotlib.ticker import MaxNLocator

    rows = _curve(metrics, "tokens")
    if not rows.size or rows[-1, 1] < 1:
        return
    steps, tokens = np.unique(np.concatenate([[(0.0, 0.0)], rows]), axis=0).T
    units = {1e9: "Gb", 1e6: "Mb", 1e3: "kb", 1.0: "b"}
    scale = next(scale for scale in units if tokens[-1] >= scale)
    ticks = np.array(MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0.0, tokens[-1] / scale))
    ticks = ticks[ticks <= tokens[-1] / scale]
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(ticks * scale, tokens, steps), [f"{tick:g}" for tick in ticks])
    top.set_xlabel(f"bases seen ({units[scale]})")
    top.spines["top"].set_visible(True)


def _label_right(figure: Figure, axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Put labels to the right of the axes at their heights. Labels that would overlap move apart and get a line."""
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    line = 1.25 * LABEL_SIZE / 72 * figure.dpi / axes.get_window_extent().height
    ordered = sorted(labels)
    heights = np.array([(value - low) / (high - low) for value, _, _ in ordered])
    places = _spread(heights, line)
    outside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for (_, text, colour), height, place in zip(ordered, heights, places, strict=True):
        axes.plot([1.0, 1.012, 1.028], [height, height, place], color=colour, linewidth=0.7, **outside)
        axes.text(1.034, place, text, color=colour, fontsize=LABEL_SIZE, va="center", **outside)


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """The places nearest to sorted ``heights`` (least squares) that are at least ``gap`` apart.

    After subtracting ``gap * index``, places must not decrease, so this is isotonic regression: neighbours that are
    out of order are merged into their mean until none are left.
    """
    groups: list[tuple[float, int]] = []
    for height in heights - gap * np.arange(len(heights)):
        groups.append((float(height), 1))
        while len(groups) > 1 and groups[-1][0] < groups[-2][0]:
            (mean_b, count_b), (mean_a, count_a) = groups.pop(), groups.pop()
            groups.append(((mean_a * count_a + mean_b * count_b) / (count_a + count_b), count_a + count_b))
    return np.repeat([mean for mean, _ in groups], [count for _, count in groups]) + gap * np.arange(len(heights))
