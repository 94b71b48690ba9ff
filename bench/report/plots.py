"""Figures of a run as SVG. The same run and matplotlib give the same bytes.

Colours are Okabe and Ito's. Every line also has its own dash and marker, so the figures are readable in grey.
Extrapolated values have hollow markers and dotted lines.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.common.format import bytes_text, length_text, seconds_text
from bench.common.run_file import IMPLEMENTATIONS, OURS, Run
from bench.report import curves
from bench.report.curves import Comparison, Fit

_PAPER_LENGTH, _PAPER_RATIO = 1 << 20, 160.0
"""Speed-up over FlashAttention in the HyenaDNA paper (arXiv 2306.15794): 2 layers, width 128, backward too."""

_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    # Names of shared shapes are hashes with this salt. The default salt is random.
    "svg.hashsalt": "hyena_kernels",
    # Text as outlines looks the same whatever fonts a machine has.
    "svg.fonttype": "path",
}
_DASHED, _DOTTED, _DASHDOT, _LONG = (0, (5, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2.5))
_LOOKS: dict[str, dict[str, Any]] = {
    OURS: {"color": "#0072B2", "linestyle": "-", "marker": "o", "linewidth": 2.2, "zorder": 5},
    "published": {"color": "#D55E00", "linestyle": _DASHED, "marker": "s"},
    "published_compiled": {"color": "#E69F00", "linestyle": _DASHDOT, "marker": "^"},
    "sdpa_flash": {"color": "#009E73", "linestyle": "-", "marker": "v", "linewidth": 1.0},
    "sdpa_cudnn": {"color": "#CC79A7", "linestyle": _LONG, "marker": "D"},
    "sdpa_efficient": {"color": "#56B4E9", "linestyle": _DASHED, "marker": "P"},
    "sdpa_math": {"color": "#777777", "linestyle": _DASHDOT, "marker": "X"},
    "flash_attn": {"color": "#000000", "linestyle": _LONG, "marker": "*"},
    "flash_attn_3": {"color": "#000000", "linestyle": _DASHED, "marker": "d"},
    "flash_attn_4": {"color": "#000000", "linestyle": _DASHDOT, "marker": "h"},
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#000000")
_MARKERS = "os^DvPX*"
_DASHES = ("-", _DASHED, _DASHDOT, _LONG)
_HOLLOW: dict[str, Any] = {"linestyle": _DOTTED, "markerfacecolor": "white", "linewidth": 1.0}


def matplotlib_of(svg: str) -> str | None:
    """Version of matplotlib that wrote an SVG. Other versions may place text slightly differently."""
    found = re.search(r"Matplotlib v([^\s,]+)", svg)
    return found.group(1) if found else None


def drawn(width: float, height: float, draw: Callable[[Figure], None]) -> str:
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        draw(figure)
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue().decode("utf-8")


def _lengths_axis(axes: Axes, lengths: Sequence[int]) -> None:
    low, high = min(lengths), max(lengths)
    powers = [1 << bits for bits in range(low.bit_length() - 1, high.bit_length() + 1)]
    every = 2 if len(powers) > 6 else 1
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.25, high * 1.25)
    # Every second power counted from 1K, so that 64K and 1M always have a tick.
    ticks = [
        power for power in powers if (power.bit_length() - 11) % every == 0 and low <= power * 1.2 and power <= high
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: length_text(round(value))))
    axes.set_xlabel("length L (tokens)")


def log_axis(axes: Axes, text: Callable[[float], str]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=20))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def whole(text: str) -> str:
    """``10 ms`` for ``10.0 ms``: ticks are round numbers."""
    return re.sub(r"\.0+(?=\D|$)", "", text)


def _implementations(found: Comparison) -> list[str]:
    return [
        implementation
        for implementation in IMPLEMENTATIONS
        if implementation in _LOOKS and found.measured(implementation)
    ]


def _extrapolations(found: Comparison) -> dict[str, tuple[Fit, list[tuple[int, float]]]]:
    """Fit and points of each extrapolated attention, starting with its last measured point."""
    lines: dict[str, tuple[Fit, list[tuple[int, float]]]] = {}
    for length in found.measured(OURS):
        against = curves.fastest_attention(found, length)
        if against is not None and against.fit is not None:
            start = against.fit.lengths[-1], against.fit.seconds
            lines.setdefault(against.implementation, (against.fit, [start]))[1].append((length, against.seconds))
    return lines


def headline(found: Comparison) -> str:
    """SVG of the headline: time against length with the crossover, and speed-up with the paper's point."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _draw_times(left, found)
        _draw_ratios(right, found)

    return drawn(9.4, 3.9, draw)


def _draw_times(axes: Axes, found: Comparison) -> None:
    for implementation in _implementations(found):
        measured = found.measured(implementation)
        times = [record["seconds"] for record in measured.values()]
        axes.plot(list(measured), times, label=IMPLEMENTATIONS[implementation], **_LOOKS[implementation])
    for implementation, (fit, points) in _extrapolations(found).items():
        look = {**_LOOKS[implementation], **_HOLLOW}
        label = f"{IMPLEMENTATIONS[implementation]}, extrapolated ∝ L^{fit.used:.2f}"
        axes.plot(*zip(*points, strict=True), label=label, markevery=range(1, len(points)), **look)
    _lengths_axis(axes, found.lengths)
    log_axis(axes, lambda value: whole(seconds_text(value)))
    place = curves.crossover(found)
    if place is not None:
        # The line stays below the legend.
        axes.axvline(place, ymax=0.45, color="#555555", linewidth=0.7, linestyle=_DOTTED, zorder=1)
        axes.annotate(
            f"faster than attention\nfrom L ≈ {float(f'{place:.2g}'):,.0f}",
            (place, 0.02), xycoords=axes.get_xaxis_transform(), xytext=(4, 0), textcoords="offset points",
            fontsize=8.0, color="#333333", va="bottom",
        )  # fmt: skip
    axes.set_title(f"Time, {curves.direction_name(found.direction)}")
    axes.legend(loc="upper left")
    # Room for the legend above the lines.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.45)


def _draw_ratios(axes: Axes, found: Comparison) -> None:
    lengths = [*found.lengths, _PAPER_LENGTH]
    against = curves.ratios(found)
    measured = {length: ratio for length, (ratio, each) in against.items() if each.fit is None}
    beyond = {length: ratio for length, (ratio, each) in against.items() if each.fit is not None}
    look = {**_LOOKS[OURS], "linewidth": 1.8}
    if measured:
        axes.plot(list(measured), list(measured.values()), label="over the fastest attention", **look)
    if beyond:
        points = {**({max(measured): measured[max(measured)]} if measured else {}), **beyond}
        start = len(points) - len(beyond)
        axes.plot(
            list(points), list(points.values()), label="the same, extrapolated", markevery=range(start, len(points)),
            **{**look, **_HOLLOW},
        )  # fmt: skip
    for implementation in ("published", "published_compiled"):
        ratio = curves.ratios_to(found, implementation)
        if ratio:
            axes.plot(
                list(ratio),
                list(ratio.values()),
                label=f"over {IMPLEMENTATIONS[implementation]}",
                **_LOOKS[implementation],
            )
    axes.plot(
        [_PAPER_LENGTH], [_PAPER_RATIO], linestyle="none", marker="*", markersize=11, color="#000000",
        label="the paper's 160× over FlashAttention\nat 1M (A100, unfused)", zorder=6,
    )  # fmt: skip
    axes.axhline(1.0, color="#999999", linewidth=0.8, zorder=1)
    _lengths_axis(axes, lengths)
    log_axis(axes, lambda value: f"{value:g}×")
    axes.set_title("Speed-up of hyena_kernels")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), high * (high / low) ** 0.5)
    axes.legend(loc="upper left")


def memory(found: Comparison) -> str | None:
    """SVG of the extra peak memory against length; None if no memory was measured."""
    lines = {
        implementation: {
            length: record["peak_bytes"]
            for length, record in found.measured(implementation).items()
            if record.get("peak_bytes")
        }
        for implementation in _implementations(found)
    }
    lines = {implementation: points for implementation, points in lines.items() if points}
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for implementation, points in lines.items():
            axes.plot(
                list(points), list(points.values()), label=IMPLEMENTATIONS[implementation], **_LOOKS[implementation]
            )
        _lengths_axis(axes, found.lengths)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_locator(LogLocator(base=4, numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: whole(bytes_text(value))))
        axes.set_title(f"Peak memory beyond weights and inputs, {curves.direction_name(found.direction)}")
        axes.legend(loc="upper left")

    return drawn(5.4, 3.7, draw)


def copy_fraction(run: Run) -> str | None:
    """SVG of each kernel's fraction of the copy rate against length; None if no bytes were counted."""
    lines: dict[str, dict[str, dict[int, float]]] = {}
    for found, entry, records in curves.ours(run):
        points = {record["length"]: curves.fraction_of_copy(run, record) for record in records}
        _add(lines, found, entry, points, found.workload in curves.KERNELS)
    return _two_panels(lines, "Counted bytes a second, of a copy's", lambda value: f"{100 * value:g}%", log=False)


def predicted(run: Run) -> str | None:
    """SVG of measured over predicted time against length; None if no time was predicted."""
    lines: dict[str, dict[str, dict[int, float]]] = {}
    for found, entry, records in curves.ours(run):
        points = {record["length"]: curves.over_predicted(record) for record in records}
        _add(lines, found, entry, points, True)
    return _two_panels(lines, "Measured over predicted time", lambda value: f"{value:g}×", log=True)


def _add(
    lines: dict[str, dict[str, dict[int, float]]],
    found: Comparison,
    entry: curves.Entry,
    points: Mapping[int, float | None],
    wanted: bool,
) -> None:
    """Add the line of a comparison to the lines of its direction, under a unique name."""
    known = {length: value for length, value in points.items() if value is not None}
    if not known or not wanted:
        return
    several = sum(implementation == OURS for implementation, _ in found.found) > 1
    name = f"{found.what} ({entry[1]})" if several else found.what
    taken = lines.setdefault(found.direction, {})
    if name in taken:
        name += f", B = {found.key[3]}, D = {found.key[4]}, {found.key[5]}"
    taken[name] = known


def series_look(index: int) -> dict[str, Any]:
    """Style of the line with this index. Colours repeat after eight, with other dashes and hollow markers."""
    turn, place = divmod(index, len(_COLOURS))
    look = {"color": _COLOURS[place], "marker": _MARKERS[place], "linestyle": _DASHES[(place + turn) % len(_DASHES)]}
    return {**look, **({"markerfacecolor": "white"} if turn % 2 else {})}


def _two_panels(
    lines: Mapping[str, Mapping[str, Mapping[int, float]]],
    title: str,
    text: Callable[[float], str],
    *,
    log: bool,
) -> str | None:
    if not lines:
        return None
    names = list(dict.fromkeys(name for of_direction in lines.values() for name in of_direction))
    looks = {name: series_look(index) for index, name in enumerate(names)}
    lengths = [length for of_direction in lines.values() for points in of_direction.values() for length in points]

    def draw(figure: Figure) -> None:
        directions = sorted(lines, key=["forward", "both"].index)
        panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, direction in zip(panels, directions, strict=True):
            for name, points in lines[direction].items():
                (handles[name],) = axes.plot(list(points), list(points.values()), **looks[name])
            _lengths_axis(axes, lengths)
            axes.set_title(curves.direction_name(direction))
            axes.axhline(1.0, color="#999999", linewidth=0.8, zorder=1)
            if log:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=20))
                axes.yaxis.set_minor_locator(NullLocator())
            else:
                axes.set_ylim(0, None)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
        panels[0].set_ylabel(title)
        figure.legend([handles[name] for name in names], names, loc="outside right upper")

    return drawn(9.4, 3.5 + 0.12 * max(0, len(names) - 14), draw)


def all_of(run: Run) -> dict[str, str]:
    """SVGs of a run by kind: ``headline``, ``memory``, ``share``, ``predicted``. Kinds without data are left out."""
    found = curves.headline(run)
    drawn = {
        "headline": None if found is None else headline(found),
        "memory": None if found is None else memory(found),
        "share": copy_fraction(run),
        "predicted": predicted(run),
    }
    return {kind: svg for kind, svg in drawn.items() if svg is not None}
