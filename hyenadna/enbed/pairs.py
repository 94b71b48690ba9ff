"""``hyenadna enbed mutate-pairs``: a table of parents and children, split by clades or by date; and its reader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import atomic_dir
from hyenadna.common.writers import one_writer
from hyenadna.data.tables import encoded, read_table, tsv_line
from hyenadna.enbed import newick
from hyenadna.enbed.ancestral import Branch, read_tree
from hyenadna.enbed.pair_splits import SPLITS, Phylogeny, by_date, by_subtree, dates_of
from hyenadna.enbed.pairs_config import PairsConfig
from hyenadna.enbed.phylogeny import simulate

PAIRS_FILE = "pairs.tsv"
REPORT_FILE = "report.json"

GAP = "a gap or an unknown base"
"""Why a pair is skipped."""
AMBIGUOUS = "an ambiguous base"
EMPTY = "an empty sequence"
EQUAL = "equal sequences"
NO_DATE = "no date"

_GAPS = frozenset("-.?NX")
_AMBIGUOUS = frozenset("RYSWKMBDHV")


class PairRow(NamedTuple):
    """A row of the table, in the order of its columns."""

    parent_id: str
    parent_sequence: str
    child_id: str
    child_sequence: str
    split: str


@one_writer(make_folders=True)
def mutate_pairs(config: PairsConfig) -> dict[str, Any]:
    """Write a table of pairs.

    Args:
        config: the options.

    Returns:
        What ``report.json`` holds.

    Raises:
        InputError: a file cannot be read or lacks something, letters are no bases, or a split is left without pairs.
    """
    config.check()
    files: dict[str, str] = {}
    given: list[str] | None = None
    if config.table is not None:
        source, (branches, given) = str(config.table), _read_branches(config.table, split=config.split == "column")
    elif config.newick is not None:
        assert config.states is not None
        assert config.tips is not None
        source = str(config.newick)
        branches = read_tree(config.newick, config.states, config.tips, config.start, config.end)
    else:
        assert config.simulate is not None
        source = f"synthetic phylogeny, seed {config.seed}"
        branches, files = _simulated(config)
    # 1. Which pairs count.
    skipped = Counter[str]()
    kept = []
    for branch in branches:
        reason = _problem(branch, source)
        if not reason and config.differing_only and branch.parent_sequence == branch.child_sequence:
            reason = EQUAL
        skipped[reason] += 1
        kept.append(not reason)
    # 2. Their splits. Clades are those of the whole tree, pairs that are skipped included.
    if given is None:
        splits = _splits(config, branches, kept, source)
        dateless = sum(keep and not split for keep, split in zip(kept, splits, strict=True))
        if dateless:
            skipped[NO_DATE] = dateless
    else:
        splits = given
    rows = [
        PairRow(branch.parent_id, branch.parent_sequence, branch.child_id, branch.child_sequence, split)
        for branch, keep, split in zip(branches, kept, splits, strict=True)
        if keep and split
    ]
    del skipped[""]
    _check_splits(rows, source, skipped)
    report = {
        "study": "enbed-mutate-pairs",
        "source": source,
        "split": config.split,
        "seed": config.seed,
        "read": len(branches),
        "skipped": dict(skipped.most_common()),
        **count(rows),
    }
    with atomic_dir(config.out) as draft:
        (draft / PAIRS_FILE).write_bytes(as_table(rows))
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
        (draft / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def as_table(rows: Sequence[PairRow]) -> bytes:
    """Pairs as a TSV, which :func:`read_pairs` reads."""
    return encoded(tsv_line(PairRow._fields) + "".join(map(tsv_line, rows)))


def read_pairs(path: Path) -> list[PairRow]:
    """The rows of a table that :func:`mutate_pairs` wrote, or of one like it.

    Args:
        path: the table, or the folder that holds it.

    Raises:
        InputError: the table cannot be read, lacks a column, or a value does not fit.
    """
    file = path / PAIRS_FILE if path.is_dir() else path
    branches, splits = _read_branches(file, split=True)
    rows = []
    for branch, split in zip(branches, splits or (), strict=True):
        if reason := _problem(branch, str(file)):
            raise InputError(
                f"{file}: the pair of {branch.parent_id!r} and {branch.child_id!r} has {reason}; make the table with "
                "hyenadna enbed mutate-pairs, which leaves such pairs out"
            )
        rows.append(PairRow(*branch[:4], split))
    _check_splits(rows, str(file), Counter())
    return rows


def count(rows: Sequence[PairRow]) -> dict[str, Any]:
    """Counts of pairs by split: all, differing, by Levenshtein distance, and those that are pairs of training too."""
    distance = require("rapidfuzz.distance.Levenshtein").distance
    trained = {(row.parent_sequence, row.child_sequence) for row in rows if row.split == "train"}
    found = {}
    for split in SPLITS:
        own = [row for row in rows if row.split == split]
        differing = [row for row in own if row.parent_sequence != row.child_sequence]
        distances = Counter(distance(row.parent_sequence, row.child_sequence) for row in own)
        found[split] = {"pairs": len(own), "differing": len(differing), "by_distance": dict(sorted(distances.items()))}
        if split != "train":
            found[split] |= {
                f"{name}in_training": sum((row.parent_sequence, row.child_sequence) in trained for row in some)
                for name, some in (("", own), ("differing_", differing))
            }
    lengths = [len(text) for row in rows for text in (row.parent_sequence, row.child_sequence)]
    return {"pairs": len(rows), "shortest": min(lengths), "longest": max(lengths), "splits": found}


def describe(report: dict[str, Any], out: Path) -> str:
    """The lines that the command prints."""
    lines = [f"{report['pairs']:,} pairs of {report['read']:,}, from {report['source']}; table in {out / PAIRS_FILE}"]
    lines += [f"{number:,} pairs left out: {reason}" for reason, number in report["skipped"].items()]
    for split, found in report["splits"].items():
        line = f"{split}: {found['pairs']:,} pairs, {found['differing']:,} of them differ"
        if split != "train":
            line += (
                f"; {found['in_training']:,} pairs ({found['differing_in_training']:,} differing ones) are, letter by "
                "letter, pairs of training too"
            )
        lines.append(line)
    return "\n".join(lines)


def _read_branches(path: Path, *, split: bool) -> tuple[list[Branch], list[str] | None]:
    """The rows of a table, and their splits if these are asked for."""
    table = read_table(path)
    columns: dict[str, str] = {}
    for name in table:
        plain = name.strip().lower().replace("_", "")
        if plain in columns:
            raise InputError(f"{path}: the columns {columns[plain]!r} and {name!r} mean the same; remove one")
        columns[plain] = name
    needed = [*PairRow._fields[:4], *(["split"] if split else [])]
    for name in needed:
        if name.replace("_", "") not in columns:
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(map(repr, table))}")
    values = [[value or "" for value in table[columns[name.replace("_", "")]]] for name in needed]
    dates = [value or "" for value in table[columns["date"]]] if "date" in columns else [""] * len(values[0])
    found = [
        Branch(parent, before.upper(), child, after.upper(), date)
        for parent, before, child, after, date in zip(*values[:4], dates, strict=True)
    ]
    for number, branch in enumerate(found, start=2):
        if not branch.parent_id or not branch.child_id:
            raise InputError(f"{path}: line {number}: lacks parent_id or child_id")
    return found, values[4] if split else None


def _simulated(config: PairsConfig) -> tuple[list[Branch], dict[str, str]]:
    """The branches of a synthetic phylogeny, and the files that ``newick``, ``states`` and ``tips`` would name."""
    assert config.simulate is not None
    found = simulate(config.simulate, config.length, config.spots, config.seed)
    branches, states, tips = [], [], []
    for node in found.tree.walk():
        letters = found.sequences[node.name]
        branches += [Branch(node.name, letters, one.name, found.sequences[one.name]) for one in node.children]
        if node.children:
            states.append(f"{node.name} {letters}\n")
        else:
            tips.append(f">{node.name}\n{letters}\n")
    files = {"tree.nwk": newick.as_text(found.tree) + "\n", "states.txt": "".join(states), "tips.fa": "".join(tips)}
    return branches, files


def _problem(branch: Branch, source: str) -> str:
    """Why a pair is left out, or "".

    Raises:
        InputError: a sequence holds what is no code of a nucleotide.
    """
    letters = {*branch.parent_sequence, *branch.child_sequence}
    if not branch.parent_sequence or not branch.child_sequence:
        return EMPTY
    if wrong := sorted(letters - _GAPS - _AMBIGUOUS - {*"ACGT"}):
        raise InputError(
            f"{source}: {wrong[0]!r} in the sequence of {branch.parent_id!r} or {branch.child_id!r} is no nucleotide; "
            "are these proteins? give DNA, with T and not U"
        )
    return GAP if letters & _GAPS else AMBIGUOUS if letters & _AMBIGUOUS else ""


def _splits(config: PairsConfig, branches: Sequence[Branch], kept: Sequence[bool], source: str) -> list[str]:
    tree = Phylogeny(((branch.parent_id, branch.child_id) for branch in branches), source)
    counts = {branch.child_id: keep for branch, keep in zip(branches, kept, strict=True)}
    shares = (config.valid_fraction, config.test_fraction)
    if config.split == "subtree":
        found = by_subtree(tree, counts, *shares, config.seed)
    else:
        dates = dates_of(tree.order, config.date_pattern)
        dates |= {branch.child_id: branch.date for branch in branches if branch.date}
        if not dates:
            raise InputError(
                f"{source}: no child has a date; give another `date_pattern`, a column `date`, or `split` subtree"
            )
        found = by_date(tree, counts, dates, *shares)
    return [found.get(branch.child_id, "") for branch in branches]


def _check_splits(rows: Sequence[PairRow], source: str, skipped: Counter[str]) -> None:
    counts = Counter(row.split for row in rows)
    if not rows:
        reasons = ", ".join(f"{number:,} with {reason}" for reason, number in skipped.items()) or "none was given"
        raise InputError(f"{source}: no pair is left ({reasons})")
    if unknown := sorted(counts.keys() - {*SPLITS}):
        raise InputError(f"{source}: a split is called {unknown[0]!r}; the names are train, valid and test")
    for split in SPLITS:
        if not counts[split]:
            raise InputError(
                f"{source}: the split {split} has no pair of {len(rows):,}; give more pairs, other fractions or "
                "another `seed`"
            )
