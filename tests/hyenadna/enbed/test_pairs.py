"""Tables of parents and children: from tables and trees, splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyenadna.common.errors import InputError
from hyenadna.enbed.pair_splits import Phylogeny, by_date, by_subtree, dates_of
from hyenadna.enbed.pairs import PAIRS_FILE, REPORT_FILE, PairRow, count, describe, mutate_pairs, read_pairs
from hyenadna.enbed.pairs_config import PairsConfig

TREE = "((a/2001:1,b/2002:1)x:1,(c/2003:1,d/2004:1)y:1)root;"
STATES = "root ACGTA\nx ACGTC\ny ACGTG\n"
TIPS = ">a/2001 tip\nACG\nTC\n>b/2002\nAC-TC\n>c/2003\nACGTT\n>d/2004\nACGTG\n"


def make(folder: Path, **changes: Any) -> tuple[dict[str, Any], list[PairRow]]:
    """The report and the rows of a run."""
    out = folder / f"out{len([*folder.glob('out*')])}"
    report = mutate_pairs(PairsConfig(out=out, **changes))
    assert json.loads((out / REPORT_FILE).read_text()) == json.loads(json.dumps(report))
    return report, read_pairs(out)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A tree with its two files, as options."""
    found = {}
    for name, text in (("newick", TREE), ("states", STATES), ("tips", TIPS)):
        found[name] = tmp_path / f"{name}.txt"
        found[name].write_text(text)
    return found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with the column names of MutaGAN: four clades of a root, each of five pairs."""
    lines = ["ParentID,ParentSequence,ChildID,ChildSequence,Date"]
    for clade in range(4):
        lines.append(f"root,ACGT,c{clade},acgt,{2000 + clade}")
        lines += [f"c{clade},ACGT,c{clade}_{leaf},ACG{'ACGT'[leaf]},{2000 + clade}" for leaf in range(4)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_tree_gives_the_columns_of_its_branches_without_gaps(tmp_path: Path, tree: dict[str, Any]) -> None:
    dates = {"split": "date", "valid_fraction": 0.3, "test_fraction": 0.15}
    report, rows = make(tmp_path, **tree, start=1, end=5, **dates)
    assert report["read"] == 6
    assert report["skipped"] == {"a gap or an unknown base": 1}
    # The inner nodes get the years of their earliest leaves.
    assert {row.child_id: row.split for row in rows} == {
        "d/2004": "test", "c/2003": "valid", "y": "valid", "a/2001": "train", "x": "train"
    }  # fmt: skip
    assert PairRow("y", "CGTG", "c/2003", "CGTT", "valid") in rows
    assert make(tmp_path, **tree, start=0, end=2, **dates)[0]["skipped"] == {}


def test_phylip_is_read_too(tmp_path: Path, tree: dict[str, Any]) -> None:
    dates = {"split": "date", "valid_fraction": 0.3, "test_fraction": 0.15}
    expected = make(tmp_path, **tree, **dates)[1]
    tree["tips"].write_text("4 5\na/2001 ACGTC\nb/2002 AC-TC\nc/2003  ACG TT\nd/2004 ACGTG\n")
    assert make(tmp_path, **tree, **dates)[1] == expected


def test_names_of_columns_are_read_in_any_case_and_bases_become_upper_case(tmp_path: Path, table: Path) -> None:
    report, rows = make(tmp_path, table=table, valid_fraction=0.25, test_fraction=0.25)
    assert report["pairs"] == 20 == len(rows)
    assert all(row.parent_sequence == "ACGT" for row in rows)
    assert report["shortest"] == report["longest"] == 4


def test_splits_by_subtree_hold_out_whole_clades(tmp_path: Path, table: Path) -> None:
    report, rows = make(tmp_path, table=table, valid_fraction=0.25, test_fraction=0.25)
    splits = {row.child_id[:2]: row.split for row in rows}
    assert all(row.split == splits[row.child_id[:2]] for row in rows)
    assert sorted(splits.values()) == ["test", "train", "train", "valid"]
    other = [make(tmp_path, table=table, valid_fraction=0.25, test_fraction=0.25, seed=seed)[1] for seed in (1, 2, 3)]
    assert any(found != rows for found in other)
    # Every pair of the test is one of training, letter by letter.
    assert report["splits"]["test"] == {
        "pairs": 5, "differing": 3, "by_distance": {0: 2, 1: 3}, "in_training": 5, "differing_in_training": 3
    }  # fmt: skip
    assert "5 pairs (3 differing ones) are" in describe(report, tmp_path)


def test_subtrees_come_near_to_their_shares() -> None:
    pairs = [(f"n{(child - 1) // 2}", f"n{child}") for child in range(1, 2001)]
    tree = Phylogeny(pairs, "here")
    kept = dict.fromkeys(tree.order, True)
    splits = by_subtree(tree, kept, 0.15, 0.15, 0)
    for split in ("valid", "test"):
        assert 295 <= sum(value == split for value in splits.values()) <= 300
    for parent, child in pairs:
        assert splits[child] == splits.get(parent, splits[child]) or splits[parent] == "train"


def test_splits_by_date_hold_out_the_newest(tmp_path: Path, table: Path) -> None:
    rows = make(tmp_path, table=table, split="date", valid_fraction=0.2, test_fraction=0.2)[1]
    assert {row.child_id[:2]: row.split for row in rows} == {
        "c0": "train", "c1": "train", "c2": "valid", "c3": "test"
    }  # fmt: skip


def test_nodes_without_a_date_get_the_earliest_below_them() -> None:
    tree = Phylogeny([("r", "x"), ("x", "a/2003"), ("x", "b/2001"), ("r", "lost")], "here")
    dates = dates_of(tree.order, r"/(\d{4})$")
    assert dates == {"a/2003": "2003", "b/2001": "2001"}
    splits = by_date(tree, dict.fromkeys(tree.order, True), dates, 0.3, 0.3)
    assert splits == {"a/2003": "test", "x": "valid", "b/2001": "valid"}


def test_a_column_of_splits_is_kept(tmp_path: Path, table: Path) -> None:
    first = make(tmp_path, table=table, valid_fraction=0.25, test_fraction=0.25)[1]
    again = make(tmp_path, table=tmp_path / "out0" / PAIRS_FILE, split="column")[1]
    assert again == first


def test_equal_pairs_can_be_left_out(tmp_path: Path, table: Path) -> None:
    report, rows = make(tmp_path, table=table, differing_only=True, valid_fraction=0.25, test_fraction=0.25)
    assert report["skipped"] == {"equal sequences": 8}
    assert len(rows) == 12
    assert all(row.parent_sequence != row.child_sequence for row in rows)


def test_files_of_a_simulation_give_the_same_pairs(tmp_path: Path) -> None:
    small = {"simulate": 60, "length": 20, "spots": 2}
    report, rows = make(tmp_path, **small)
    assert report["pairs"] == 60
    files = {"newick": "tree.nwk", "states": "states.txt", "tips": "tips.fa"}
    assert make(tmp_path, **{name: tmp_path / "out0" / file for name, file in files.items()})[1] == rows
    assert count(rows)["splits"] == report["splits"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": "root ACGTA\nx ACGTC\n"}, "newick.txt: node 'y' has no sequence in .*states.txt or .*tips.txt"),
        ({"states": "root ACGTA\nx ACGTC\ny ACGT\n"}, "'y' has 4 columns, and 'root' has 5; align them"),
        ({"states": "root\n"}, "states.txt: line 1: holds a name and no sequence"),
        ({"states": ""}, "states.txt: is empty"),
        ({"tips": TIPS + ">x\nACGTA\n"}, "tips.txt: 'x' is there twice, or in .*states.txt too"),
        ({"tips": TIPS.replace("ACGTT", "ACGEE")}, "'E' in the sequence of .* is no nucleotide; are these proteins"),
        ({"newick": TREE.replace(")x", ")")}, "newick.txt: a node has no name"),
        ({"newick": TREE.replace(")root", "root")}, "newick.txt: character"),
        ({"newick": TREE.replace("a/2001", "x")}, "two nodes are called 'x'"),
        ({"start": 3, "end": 3}, "`start` 3: must be below `end` 3"),
        ({"start": 2, "end": 9}, r"tips.txt: has 5 columns, and \[2, 9\) of `start` and `end` is no part"),
        ({"split": "date", "date_pattern": "[0-9]+"}, "`date_pattern` .*: has no group"),
        ({"split": "date", "date_pattern": "_([0-9]+)"}, "no child has a date"),
        ({"test_fraction": 0.01}, "the split test has no pair of 5; give more pairs"),
    ],
)
def test_what_a_tree_lacks_is_refused(
    tmp_path: Path, tree: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    for name in ("newick", "states", "tips"):
        if name in changes:
            tree[name].write_text(changes[name])
    more = {name: value for name, value in changes.items() if name not in tree}
    with pytest.raises(InputError, match=message) as caught:
        make(tmp_path, **tree, **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out0").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("parent_id\tparent_sequence\tchild_id\nr\tA\tc\n", "has no column 'child_sequence'; it has 'parent_id'"),
        ("parent_id\tParentID\tparent_sequence\tchild_id\tchild_sequence\nr\tr\tA\tc\tA\n", "mean the same"),
        ("parent_id\tparent_sequence\tchild_id\tchild_sequence\n\tA\tc\tA\n", "line 2: lacks parent_id or child_id"),
        ("parent_id\tparent_sequence\tchild_id\tchild_sequence\nr\tA\tc\tA\ns\tA\tc\tA\n", "'c' is the child of 'r'"),
        ("parent_id\tparent_sequence\tchild_id\tchild_sequence\nr\tA\ts\tA\ns\tA\tr\tA\n", "ancestor of itself"),
        ("parent_id\tparent_sequence\tchild_id\tchild_sequence\nr\tA\tc\t?\n", "no pair is left .*1 with a gap"),
        ("parent_id\tparent_sequence\tchild_id\tchild_sequence\nr\tA\tc\tR\n", "no pair is left .*ambiguous base"),
    ],
)
def test_what_a_table_lacks_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        make(tmp_path, table=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of `table`, `newick` and `simulate`; given: none"),
        ({"simulate": 20, "table": Path("x")}, "given: `table` and `simulate`"),
        ({"newick": Path("x")}, "`states`: a tree of `newick` needs"),
        ({"simulate": 20, "start": 1}, "`start` 1: has no effect without"),
        ({"table": Path("x"), "length": 9}, "`length` 9: has no effect without `simulate`"),
        ({"simulate": 20, "split": "column"}, "`split` column: needs a `table`"),
        ({"simulate": 20, "test_fraction": 0.9}, "leave nothing to train on"),
        ({"simulate": 20, "date_pattern": "(x)"}, r"`date_pattern` \(x\): has no effect"),
        ({"simulate": 20, "split": "date", "date_pattern": "("}, "is no regular expression"),
        ({"simulate": 20, "length": 9}, "`length` 9: has no room for 4 hot spots"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path, **options)


def test_a_table_for_a_study_holds_nothing_to_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    head = "\t".join(PairRow._fields)
    path.write_text(f"{head}\nr\tAC\ta\tA-\ttrain\n")
    with pytest.raises(InputError, match="the pair of 'r' and 'a' has a gap or an unknown base; make the table with"):
        read_pairs(tmp_path)
    path.write_text(f"{head}\nr\tAC\ta\tAC\ttraining\n")
    with pytest.raises(InputError, match="a split is called 'training'; the names are train, valid and test"):
        read_pairs(path)
