"""The map of a saturation mutagenesis: a column for each base of a region, a row for each base in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyenadna.drawing.style import TITLE_SIZE, png_figure

# The bases of a longer region would overlap.
_MOST_LETTERS = 200


def mutagenesis_map(effects: np.ndarray, reference: str, region: str, out: str | Path, *, rows: Sequence[str]) -> Path:
    """Draw the change of the log-likelihood for every substitution, red where it falls and blue where it rises.

    Args:
        effects: float ``(4, L)``, in nats; NaN stays white.
        reference: the L bases of the region.
        region: its name, below the map.
        out: the PNG to write.
        rows: the bases of the rows.

    Raises:
        InputError: ``out`` cannot be written.
        ImportError: matplotlib is absent; the message names the extra.
    """
    reach = float(np.nanmax(np.abs(effects), initial=1e-9))
    with png_figure(out, width=max(6.0, 1.5 + 0.11 * len(reference)), height=2.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(effects, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(rows)), list(rows))
        if len(reference) <= _MOST_LETTERS:
            axes.set_xticks(range(len(reference)), list(reference), fontsize=6.0)
            axes.tick_params(axis="x", length=0)
        axes.set_xlabel(region)
        axes.set_title("change of the log-likelihood when a base is replaced", loc="left", fontsize=TITLE_SIZE)
        figure.colorbar(image, ax=axes, label="nats")
    return Path(out)
