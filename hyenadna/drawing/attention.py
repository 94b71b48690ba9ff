"""The attention of a layer: what each head looks at in the window of a byte, and which global tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyenadna.drawing.style import LABEL_SIZE, png_figure

_COLUMNS = 4
_LEAST = 1e-4
"""The weight of the darkest colour."""
_OUTSIDE = "#dddddd"
_MOST_ROWS = 1024
"""Rows of a panel. More would be lost between the pixels."""


def draw_heads(local: np.ndarray, global_: np.ndarray, out: str | Path, *, title: str, block: int) -> None:
    """Draw a panel for the window of each head, and beside it one for the global tokens, if there are any.

    Colours mean the same in all panels: logarithms of the weights. What is outside the sequence stays grey.

    Args:
        local: ``(H, L, 2 radius + 1)`` weights by the offset from the byte.
        global_: ``(H, L, G)`` weights of the global tokens.
        out: the PNG to write.
        title: above the picture.
        block: bytes of a global token, for the label.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    count, length, width = local.shape
    radius, tokens = width // 2, global_.shape[2]
    norm = LogNorm(_LEAST, 1.0, clip=True)
    colours = colormaps["viridis"].with_extremes(bad=_OUTSIDE)
    place = np.arange(length)[:, None] + np.arange(-radius, radius + 1)
    is_outside = (place < 0) | (place >= length)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    widths = [2.0, 1.0] if tokens else [1.0]
    with png_figure(out, width=1.2 + 3.0 * columns, height=1.0 + 3.0 * rows) as figure:
        figure.suptitle(title)
        grid = figure.subplots(rows, len(widths) * columns, squeeze=False, width_ratios=widths * columns, sharey=True)
        panels = grid.ravel()
        for panel in panels[len(widths) * count :]:
            panel.set_axis_off()
        for head in range(count):
            own = panels[len(widths) * head : len(widths) * (head + 1)]
            extent = (-radius - 0.5, radius + 0.5, length, 0)
            inside = np.where(is_outside, np.nan, local[head])
            image = own[0].imshow(_fewer(inside), aspect="auto", norm=norm, cmap=colours, extent=extent)
            own[0].set_title(f"head {head + 1}", fontsize=LABEL_SIZE)
            own[0].set_xlabel("offset", fontsize=LABEL_SIZE)
            own[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
            if tokens:
                extent = (0, tokens, length, 0)
                own[1].imshow(_fewer(global_[head]), aspect="auto", norm=norm, cmap=colours, extent=extent)
                own[1].set_title(f"{100 * global_[head].sum() / length:.0f} % global", fontsize=LABEL_SIZE)
                own[1].set_xlabel(f"block of {block}", fontsize=LABEL_SIZE)
                own[1].xaxis.set_major_locator(MaxNLocator(2, integer=True))
        for line in grid:
            line[0].set_ylabel("byte", fontsize=LABEL_SIZE)
        figure.colorbar(image, ax=panels.tolist(), label="weight", fraction=0.03, pad=0.01)


def _fewer(weights: np.ndarray) -> np.ndarray:
    """Means of neighbouring rows, at most ``_MOST_ROWS``."""
    step = -(-len(weights) // _MOST_ROWS)
    starts = np.arange(0, len(weights), step)
    sums = np.add.reduceat(weights, starts, axis=0)
    return np.asarray(sums / np.diff([*starts, len(weights)])[:, None])
