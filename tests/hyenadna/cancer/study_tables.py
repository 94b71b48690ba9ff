"""Small tables as ``hyenadna mutate`` writes them, for the tests of the study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLUMNS = (
    "sequence", "label", "group", "patient", "contig", "start", "end", "anchor_pos", "anchor_in_sequence", "offset",
    "n_mutations", "n_dropped", "split", "reference",
)  # fmt: skip
SPLITS = ("train", "validation", "test")
LENGTH = 40
MOTIF = "GATTACA"


def make_rows(
    classes: tuple[str, ...] = ("Lung", "Lymphoid"),
    lines: tuple[int, int, int] = (4, 2, 3),
    per_line: int = 6,
    *,
    planted: float = 1.0,
    seed: int = 0,
) -> dict[str, list[dict[str, str]]]:
    """Rows by split. Every window has an insertion of seven bases, and the first class has MOTIF in a share of them."""
    rng = np.random.default_rng(seed)
    genome = "".join(rng.choice(list("ACGT"), 2000))
    found: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    number = 0
    for split, count in zip(SPLITS, lines, strict=True):
        for label in classes:
            for _ in range(count):
                number += 1
                for _ in range(per_line):
                    start, place = int(rng.integers(2000 - LENGTH)), int(rng.integers(8, LENGTH - 8))
                    reference = genome[start : start + LENGTH]
                    is_planted = label == classes[0] and rng.random() < planted
                    inserted = MOTIF if is_planted else "".join(rng.choice(list("ACGT"), len(MOTIF)))
                    values = (
                        (reference[:place] + inserted + reference[place:])[:LENGTH], label, f"L{number:03}",
                        f"P{number:03}", "chrI", start, start + LENGTH, start + place, place, place,
                        1 + number % 3, 0, split, reference,
                    )  # fmt: skip
                    found[split].append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return found


def write_tables(folder: Path, rows: dict[str, list[dict[str, str]]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write a table for each split, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        lines = ["\t".join(columns), *("\t".join(row[name] for name in columns) for row in found)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder
