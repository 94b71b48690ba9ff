"""The page of ``hyenadna enbed evolve``, and the lines that it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyenadna.drawing.report import Image, Table, write_report
from hyenadna.enbed.candidate_scores import METRICS

PUBLISHED = (
    ("Transformer with BPE", 0.320, 0.561, 30.6, 24.0),
    ("decoder only", 0.531, 0.721, 6.1, 4.0),
    ("ENBED", 0.769, 0.954, 2.3, 1.0),
)
"""Published rows: method, top-1, top-5, mean and median distance."""

PUBLISHED_NOTE = (
    "Published for 499 nucleotides of H3N2 hemagglutinin. Which pairs were tested on is not said. On the 3,152 pairs "
    "of the tree that the data are from, copying the parent scores 0.636, with a mean distance of 0.645 and a median "
    "of 0. So the published mean distance of 2.3 is worse than copying. No column here can be put beside ours."
)

_HEADS = ("top-1", "top-5", "mean distance", "median distance")


def write_page(folder: Path, results: Mapping[str, Any], picture: str | None) -> None:
    """Write ``report.html`` into a folder.

    Args:
        folder: the folder of the run.
        results: the contents of results.json.
        picture: name of the picture of the tree in the folder, or None.
    """
    data, settings = results["data"], results["settings"]
    tables = []
    for chosen in dict.fromkeys(row["pairs"] for row in results["table"]):
        rows = [row for row in results["table"] if row["pairs"] == chosen]
        cells = [
            [row["method"], *(_cell(row[name]) for name in METRICS), _cell(row.get("nearer_than_copy"))] for row in rows
        ]
        columns = ["", *_HEADS, "nearer than the copy"]
        tables.append(Table(f"{_TITLES[chosen]}: {rows[0]['count']:,}", columns, cells, note=_NOTES[chosen]))
    tables.append(
        Table(
            "Commonest mutations of training",
            ["mutation", "pairs"],
            results["commonest"],
            note="Base of the parent, position from 0, base of the child. Of equal counts the smaller position is "
            "first.",
        )
    )
    tables.append(Table("Published", ["", *_HEADS], [list(row) for row in PUBLISHED], note=PUBLISHED_NOTE))
    facts: dict[str, Any] = {"pairs": data["pairs"], "table": data["source"]}
    for split, found in data["splits"].items():
        facts[f"{split} pairs"] = f"{found['pairs']:,}, of which {found['differing']:,} differ"
        if "in_training" in found:
            facts[f"{split} pairs"] += f"; {found['in_training']:,} are pairs of training too"
    facts |= {
        "weights before the training": settings["model"] or f"random, {settings['size']}",
        "parameters": results["parameters"],
        "steps": settings["steps"],
        "candidates are ranked by": results["ranked_by"],
        "first candidates that copy the parent": f"{results['copied']:.1%} of the test pairs",
        "intervals": f"95%, {results['interval']['resamples']:,} resamples of test pairs. Pairs of one clade are "
        "alike, so the intervals are rather too narrow.",
    }
    caption = "Neighbour joining on Levenshtein distances: parents, true children and first candidates of test pairs."
    write_report(
        folder,
        title="Children of sequences, generated",
        summary=summary(results),
        facts=facts,
        tables=tables,
        images=[Image(folder / picture, caption)] if picture else [],
    )


def summary(results: Mapping[str, Any]) -> str:
    """The result in a sentence or two."""
    rows = {row["method"]: row for row in results["table"] if row["pairs"] == "differing"}
    less, low, high = rows["model"]["nearer_than_copy"]
    verdict = "nearer to the child than" if low > 0 else "farther from the child than" if high < 0 else "as near as"
    return (
        f"On differing pairs the first candidate is {verdict} a copy of the parent: {abs(less):.3f} edits "
        f"[{low:.3f}, {high:.3f}]. It is the child in {rows['model']['top1'][0]:.1%}, and one of five is in "
        f"{rows['model']['top5'][0]:.1%}."
    )


def describe(results: Mapping[str, Any], out: Path) -> str:
    """The lines that the command prints."""
    lines = []
    for chosen in dict.fromkeys(row["pairs"] for row in results["table"]):
        rows = [row for row in results["table"] if row["pairs"] == chosen]
        lines.append(f"{_TITLES[chosen]}: {rows[0]['count']:,}")
        lines.append(f"{'':<28}{'top-1':>8}{'top-5':>8}{'mean LD':>9}{'median LD':>11}")
        for row in rows:
            top1, top5, mean, median = (row[name][0] for name in METRICS)
            lines.append(f"  {row['method']:<26}{top1:>8.3f}{top5:>8.3f}{mean:>9.3f}{median:>11.1f}")
    return "\n".join([*lines, summary(results), f"report in {out / 'report.html'}"])


_TITLES = {
    "all": "All test pairs",
    "differing": "Differing test pairs",
    "differing, new": "Differing test pairs that are no pair of training",
}
_NOTES = {
    "all": "Value and 95% interval. Distances are Levenshtein distances of the first candidate to the true child. "
    "The five candidates of the copy are the parent, and the parent with each of the four commonest mutations of "
    "training that fit it.",
    "differing": "Pairs whose child is not its parent. Here a copy is never right, so look at the mean distance too.",
    "differing, new": "Without pairs whose parent and child are, letter by letter, those of a training pair.",
}


def _cell(values: list[float] | None) -> str:
    return "" if values is None else f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
