"""The map of a saturation mutagenesis: a column for each base of a region, a row for each base in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyenadna.drawing.style import LABEL_SIZE, TITLE_SIZE, png_figure

# The bases of a longer region would overlap.
_MOST_LETTERS = 200
_WIDEST = 24.0
# Grey is not on the scale from red over white to blue.
_NO_COLOUR = "#b0b0b0"


def mutagenesis_map(effects: np.ndarray, reference: str, region: str, out: str | Path, *, rows: Sequence[str]) -> Path:
    """Draw the change of the log-likelihood for every substitution, red where it falls and blue where it rises.

    Args:
        effects: float ``(4, L)``, in nats. NaN, which stands for no score, is a grey cell with a cross.
        reference: the L bases of the region. Their cells are grey, with a dot: white would look like no change.
        region: its name, below the map.
        out: the PNG to write.
        rows: the bases of the rows.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    is_reference = np.array([[base == row for base in reference] for row in rows])
    unscored = np.isnan(effects) & ~is_reference
    reach = float(np.abs(effects[~is_reference & ~unscored]).max(initial=0.0)) or 1.0
    shown = np.ma.masked_array(effects, is_reference | unscored)
    length = len(reference)
    with png_figure(out, width=min(max(6.0, 1.5 + 0.11 * length), _WIDEST), height=2.7) as figure:
        axes = figure.subplots()
        axes.set_facecolor(_NO_COLOUR)
        image = axes.imshow(shown, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        size = min(5.0, 600.0 / length)
        for cells, mark, label in ((is_reference, "o", "the genome's own base"), (unscored, "x", "no score")):
            if cells.any():
                y, x = np.nonzero(cells)
                axes.plot(x, y, mark, color="black", markersize=size, markeredgewidth=size / 5, label=label)
        axes.set_yticks(range(len(rows)), list(rows))
        if length <= _MOST_LETTERS:
            axes.set_xticks(range(length), list(reference), fontsize=6.0)
            axes.tick_params(axis="x", length=0)
            axes.set_xlabel(region)
        else:
            step = 10 ** int(np.log10(length) - 0.5)
            places = range(step, length + 1, step)
            axes.set_xticks([place - 1 for place in places], [f"{place:,}" for place in places])
            axes.set_xlabel(f"{region}, position in it")
        axes.set(xlim=(-0.5, length - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_title("change of the log-likelihood when a base is replaced", loc="left", fontsize=TITLE_SIZE)
        figure.colorbar(image, ax=axes, label="nats")
        figure.legend(loc="outside lower left", ncols=2, fontsize=LABEL_SIZE, markerscale=4.0 / size, numpoints=1)
    return Path(out)
