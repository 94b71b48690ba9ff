"""Tables and the picture of ``bench.costs.cluster``: Markdown and SVG. The same rates give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.common.format import length_text, seconds_text
from bench.common.run_file import OURS, read_run
from bench.costs.cluster import (
    MEASURED_LAYERS,
    MEASURED_LENGTH,
    MEASURED_WIDTH,
    RESULTS,
    SUITE,
    Rates,
    Shape,
    Step,
    limits,
    predict,
)
from bench.report import plots

BEGIN, END = "<!-- simulation:begin -->", "<!-- simulation:end -->"
EFFICIENT = 0.75
"""Efficiency up to which GPUs are added, in the table of layouts."""

ESTIMATE = {
    (MEASURED_LENGTH, 1): (0.55, 16),
    (MEASURED_LENGTH, 8): (0.086, 2),
    (1 << 24, 8): (1.48, 32),
    (1 << 24, 64): (0.44, 4),
    (10**8, 64): (2.9, 24),
    (10**8, 128): (1.5, 12),
    (10**9, 128): (15.3, 120),
    (10**9, 256): (7.7, 60),
}
"""Seconds and GB by length and GPUs, of large-1m, as they were estimated before the operator took shards."""

Steps = Mapping[int, Mapping[int, Step]]
"""Predicted steps by length and GPUs."""


def efficiency(steps: Steps, length: int, gpus: int, *, overlap: bool = False) -> float:
    """Of a step on several GPUs: that of one GPU, if it had the memory, over their time together."""
    of_length = steps[length]
    return of_length[1].seconds() / (gpus * of_length[gpus].seconds(overlap))


def fits(step: Step, rates: Rates) -> bool:
    """Whether a step's peak is within a GPU's memory."""
    return step.peak <= rates.memory_gb * 1e9


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def _number(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def constants(rates: Rates) -> str:
    """Table of what a prediction is made of, and where each value is from."""
    rows = []
    for each in Rates.fields():
        source = each.metadata["source"]
        rows.append(
            [
                f"`--{each.name.replace('_', '-')}`",
                f"{getattr(rates, each.name):.4g} {each.metadata['unit']}",
                each.metadata["meaning"],
                "**assumed**" if source is None else f"measured, `{source}`",
            ]
        )
    return _table(["option", "value", "what", "from"], rows, left=4)


def against_measured(rates: Rates, folder: Path = RESULTS) -> str:
    """Table of the steps that one GPU was measured with, and their predictions."""
    rows = []
    for record in read_run(folder / SUITE).records:
        known = record["workload"], record["implementation"], record["status"]
        if known != ("two_layer_model", OURS, "measured") or record["length"] < 1 << 18:
            continue
        again = record["variant"] == "checkpointed"
        shape = Shape(MEASURED_WIDTH, MEASURED_LAYERS)
        step = predict(record["length"], 1, shape, rates, recompute=again)
        # The measured peak is without weights and inputs.
        peak = step.peak - step.memory["weights and AdamW"] - step.memory["positions"]
        name = "computed again" if again else "kept"
        if again and record["length"] == MEASURED_LENGTH:
            name += " (gives a rate)"
        rows.append(
            [
                length_text(record["length"]),
                name,
                f"{1e3 * record['seconds']:.1f}",
                f"{1e3 * step.seconds():.1f}",
                f"{step.seconds() / record['seconds'] - 1:+.0%}",
                f"{record['peak_bytes'] / 1e9:.2f}",
                f"{peak / 1e9:.2f}",
                f"{peak / record['peak_bytes'] - 1:+.0%}",
            ]
        )
    head = ["L", "blocks", "measured ms", "predicted ms", "", "measured GB", "predicted GB", ""]
    return _table(head, rows, left=2)


def _matrix(steps: Steps, cell: Callable[[Step], str]) -> str:
    gpus = list(next(iter(steps.values())))
    rows = [[length_text(length), *(cell(step) for step in of.values())] for length, of in steps.items()]
    return _table(["L", *(f"{count} GPU{'s' * (count > 1)}" for count in gpus)], rows)


def seconds(steps: Steps, rates: Rates) -> str:
    """Seconds of a step by length and GPUs. In brackets: memory is too small. With a star: Python is the slower."""

    def cell(step: Step) -> str:
        text = _number(step.seconds()) + ("\\*" if step.seconds() == step.launches else "")
        return text if fits(step, rates) else f"({text})"

    return _matrix(steps, cell)


def memory(steps: Steps) -> str:
    """GB of a rank by length and GPUs."""
    return _matrix(steps, lambda step: _number(step.peak / 1e9))


def parts(steps: Sequence[Step]) -> str:
    """Table of some steps by kind of work."""
    names = list(steps[0].parts)
    rows = [
        [
            f"{length_text(step.length)} / {step.gpus}", step.kernel, step.filters,
            *(_number(step.parts[name]) for name in names), _number(step.seconds()), _number(step.seconds(True)),
            _number(step.sent.total / 1e6), _number(step.peak / 1e9),
        ]
        for step in steps
    ]  # fmt: skip
    return _table(
        ["L / GPUs", "kernels", "filters by", *names, "s", "s, overlapped", "MB sent a layer", "GB"], rows, left=3
    )


def layouts(steps: Steps, rates: Rates) -> str:
    """Table of the number of GPUs to choose for each length."""
    rows = []
    for length, of in steps.items():
        possible = [count for count, step in of.items() if fits(step, rates)]
        cells = [length_text(length), next(iter(of.values())).kernel]
        if possible:
            cheapest = min(possible, key=lambda count: count * of[count].seconds())
            step = of[cheapest]
            cells += [
                str(possible[0]),
                str(cheapest),
                _number(step.seconds()),
                f"{efficiency(steps, length, cheapest):.0%}",
            ]
        else:
            cells += ["none"] + ["-"] * 3
        for overlap in (False, True):
            enough = [count for count in of if efficiency(steps, length, count, overlap=overlap) >= EFFICIENT]
            cells.append(str(max(enough)))
        half = [count for count, step in of.items() if step.wire >= sum(step.parts.values()) / 2]
        cells.append(str(half[0]) if half else "-")
        rows.append(cells)
    head = [
        "L", "kernels", "fewest that fit", "fewest GPU seconds", "s", "efficiency",
        f"most at {EFFICIENT:.0%}", "the same, overlapped", "wire is half from",
    ]  # fmt: skip
    return _table(head, rows, left=2)


def against_estimate(rates: Rates) -> str:
    """Table of the estimated steps, with the kernels there are and with those that were assumed."""
    rows = []
    for (length, gpus), (estimated, gigabytes) in ESTIMATE.items():
        found = [predict(length, gpus, Shape(), rates, kernels=kernels) for kernels in ("today", "blocks")]
        times = [estimated, *(step.seconds() for step in found)]
        sizes = [gigabytes, *(step.peak / 1e9 for step in found)]
        rows.append([f"{length_text(length)} / {gpus}", *map(_number, times), *(f"{size:.0f}" for size in sizes)])
    head = ["L / GPUs", "estimated s", "today", "blocks", "estimated GB", "today", "blocks"]
    return _table(head, rows)


def what_breaks(steps: Steps, shape: Shape, rates: Rates) -> str:
    """List of what is in the way of each length, on the most GPUs."""
    lines: dict[str, list[str]] = {}
    for length, of in steps.items():
        for each in limits(of[max(of)], shape, rates):
            lines.setdefault(each, []).append(length_text(length))
    return "\n".join(f"- {', '.join(lengths)}: {what}" for what, lengths in lines.items())


def page(steps: Steps, chosen: Sequence[Step], shape: Shape, rates: Rates) -> str:
    """All tables under headings, as they stand on the page of the site."""
    sections = {
        "Seconds of a training step": seconds(steps, rates),
        "How many GPUs": layouts(steps, rates),
        "Where the time goes": parts(chosen),
        "Gigabytes of a rank": memory(steps),
        "What is in the way": what_breaks(steps, shape, rates),
        "One GPU: measured and predicted": against_measured(rates),
        "Estimated before": against_estimate(rates),
        "Constants": constants(rates),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items())


def filled(text: str, block: str) -> str:
    """A page with ``block`` between its marks.

    Raises:
        ValueError: the page does not have both marks once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}, once each: the text between them is replaced")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{rest.partition(END)[2]}"


# Picture -------------------------------------------------------------------------------------------------------------


def picture(steps: Steps, rates: Rates) -> str:
    """SVG of seconds and efficiency against GPUs, a line for each length. Hollow: the memory of a GPU is too small."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for index, (length, of) in enumerate(steps.items()):
            look, counts = plots.series_look(index), list(of)
            inside = [count for count in counts if fits(of[count], rates)]
            for axes, values in (
                (left, [of[count].seconds() for count in counts]),
                (right, [efficiency(steps, length, count) for count in counts]),
            ):
                axes.plot(counts, values, label=length_text(length), **{**look, "markerfacecolor": "white"})
                filled_in = [values[counts.index(count)] for count in inside]
                axes.plot(inside, filled_in, **{**look, "linestyle": "none"})
        plots.log_axis(left, lambda value: plots.whole(seconds_text(value)))
        left.set_title("Seconds of a training step, predicted")
        right.set_title("Efficiency against one GPU, predicted")
        right.axhline(EFFICIENT, color="#999999", linewidth=0.8, zorder=1)
        right.set_ylim(0, 1.1)
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        for axes in (left, right):
            _gpus_axis(axes, list(next(iter(steps.values()))))
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", title="length L")

    return plots.drawn(9.4, 3.7, draw)


def _gpus_axis(axes: Axes, counts: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value)}"))
    axes.set_xlabel("GPUs of one sequence")
