"""The look of every figure: colours, fonts and dashes, for print and for readers who are colour-blind."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyenadna.common.extras import require
from hyenadna.common.files import write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
"""Okabe and Ito's colours: distinct for every common kind of colour blindness, and in grey."""

NONE = PALETTE[-1]
"""Grey, for what has no class, no score, or no colour of its own."""

MODEL, BEST, TRAIN = PALETTE[0], PALETTE[1], PALETTE[5]
BASELINE = "#767676"
RULE = "#555555"
DASHES = (0, (4, 3))
LABEL_SIZE = 9.0
TITLE_SIZE = 10.0

_DPI = 150
_SETTINGS: dict[str, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "xtick.labelsize": LABEL_SIZE,
    "ytick.labelsize": LABEL_SIZE,
    "legend.fontsize": LABEL_SIZE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
}


@contextmanager
def png_figure(out: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in our style, written to ``out`` as a PNG when the block ends well. It leaves pyplot's state alone.

    Args:
        out: the PNG to write.
        width: in inches.
        height: in inches.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    style = require("matplotlib.style")
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg
    with style.context(["default", _SETTINGS]):
        figure: Figure = require("matplotlib.figure").Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        canvas(figure)
        yield figure
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    write_files({Path(out): png.getvalue()})
