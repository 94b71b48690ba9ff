"""The study of mutations: yardsticks, metrics, the tree, and a whole run."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hyenadna.common.errors import InputError
from hyenadna.enbed import evolve as study
from hyenadna.enbed.candidate_scores import METRICS, estimates, hits, resample
from hyenadna.enbed.commonest import Mutation, commonest, copies, mutations
from hyenadna.enbed.evolve import CANDIDATES_FILE, TREE_FILE, TREE_PICTURE, evolve
from hyenadna.enbed.evolve_config import EvolveConfig
from hyenadna.enbed.evolve_page import describe
from hyenadna.enbed.neighbours import look_at_neighbours
from hyenadna.enbed.newick import parse
from hyenadna.enbed.pairs import PAIRS_FILE, PairRow, mutate_pairs
from hyenadna.enbed.pairs_config import PairsConfig
from hyenadna.enbed.scrambled import ScrambledPairs
from hyenadna.enbed.seq2seq import Candidate, Pair, generate, make_model
from hyenadna.enbed.tree import levenshtein_distances, neighbour_joining

SMALL = {"num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "num_heads": 1, "d_kv": 8, "d_ff": 8}


# Metrics


@pytest.mark.parametrize(("one", "other", "distance"), [("ACGT", "AGT", 1), ("", "ACG", 3), ("ACGT", "TGCA", 4)])
def test_levenshtein_distances_are_those_of_dynamic_programming(one: str, other: str, distance: int) -> None:
    assert int(hits([[one]], [other]).distance[0]) == distance
    assert levenshtein_distances([one, other]).tolist() == [[0, distance], [distance, 0]]


def test_copies_of_a_hand_made_table() -> None:
    pairs = [("ACGT", "ACGT"), ("AAAA", "AAAA"), ("ACGT", "ACTT"), ("ACGTAC", "ACC")]
    found = hits([[parent] for parent, _ in pairs], [child for _, child in pairs])
    assert found.distance.tolist() == [0, 0, 1, 3]
    assert found.metrics() == {"top1": 0.5, "top5": 0.5, "mean_distance": 1.0, "median_distance": 0.5}


def test_equal_candidates_count_once_and_only_five_count() -> None:
    texts = ["A", "A", "C", "G", "T", "AA", "CC"]
    found = hits([texts, texts, []], ["AA", "CC", "A"])
    assert found.top5.tolist() == [True, False, False]
    assert found.distance.tolist() == [1, 2, 1]


def test_intervals_hold_the_value_and_equal_seeds_draw_equal_pairs() -> None:
    rng = np.random.default_rng(0)
    children = ["".join(rng.choice([*"ACGT"], 4)) for _ in range(80)]
    found = hits([[child if rng.random() < 0.5 else "AAAA"] for child in children], children)
    drawn = resample(found, 200, 1)
    for name, (value, low, high) in estimates(found, drawn).items():
        assert low <= value <= high, name
    assert all(np.array_equal(drawn[name], resample(found, 200, 1)[name]) for name in METRICS)
    width = np.subtract(*np.quantile(drawn["top1"], [0.975, 0.025]))
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 80), rel=0.25)


# Yardsticks


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ("ACGT", "ACGT", ""),
        ("ACGT", "ATGC", "C1T T3C"),
        ("ACGT", "AGT", "C1-"),
        ("ACGT", "ACCGT", "-2C"),
        ("ACGTACGT", "CGTACGTA", "A0- -8A"),
    ],
)
def test_mutations_are_the_fewest_edits(parent: str, child: str, expected: str) -> None:
    assert " ".join(map(str, mutations(parent, child))) == expected


def test_the_commonest_mutation_is_by_place_and_change() -> None:
    pairs = [("ACGT", "ATGT"), ("ACGT", "ATGC"), ("ACGT", "ACGC"), ("ACGT", "CCGT"), ("ACGT", "ACGT")]
    known = commonest(pairs)
    # Of equal counts the smaller place comes first.
    assert [(str(mutation), number) for mutation, number in known] == [("C1T", 2), ("T3C", 2), ("A0C", 1)]
    assert copies("ACGT", known, 5) == ["ACGT", "ATGT", "ACGC", "CCGT"]
    assert copies("AGGT", known, 2) == ["AGGT", "AGGC"]
    assert copies("GGGG", known, 5) == ["GGGG"]
    assert Mutation(9, "", "A").apply("ACGT") is None


# The tree


def test_neighbour_joining_finds_an_additive_tree() -> None:
    # ((a:2,b:3):1,(c:4,d:5):1) and e:6 at the middle.
    arms, names = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6}, "abcde"
    side = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 0}

    def distance(one: str, other: str) -> float:
        if one == other:
            return 0.0
        inner = 0 if side[one] == side[other] else (side[one] > 0) + (side[other] > 0)
        return arms[one] + arms[other] + inner

    root = neighbour_joining(names, np.array([[distance(one, other) for other in names] for one in names]))
    depths: dict[str, dict[str, float]] = {}

    def below(node: Any) -> dict[str, float]:
        if not node.children:
            return {node.name: node.length}
        parts = [below(child) for child in node.children]
        for part in parts:
            for other in parts:
                for one in part if part is not other else ():
                    depths.setdefault(one, {}).update({name: part[one] + far for name, far in other.items()})
        return {name: far + node.length for part in parts for name, far in part.items()}

    below(root)
    for one in names:
        assert depths[one] == {other: pytest.approx(distance(one, other)) for other in names if other != one}
    clades = [{leaf.name for leaf in node.leaves()} for node in root.walk()]
    # The root may lie on any branch.
    assert {"a", "b"} in clades or {"c", "d", "e"} in clades
    assert {"c", "d"} in clades or {"a", "b", "e"} in clades


# Scrambled pairs


def test_scrambled_pairs_keep_their_mutations() -> None:
    pairs = [Pair("ACGT" * 8, "ACGT" * 7 + "ACTT"), Pair("AC", "A")]
    examples = ScrambledPairs(pairs, 1.0, 400, 0)
    assert examples[:] == ScrambledPairs(pairs, 1.0, 400, 0)[:]
    for place in range(0, 400, 2):
        source, target = examples[place]
        assert (source[30], target[30]) == ("G", "T")
        assert source[:30] + source[31] == target[:30] + target[31]
    assert len({examples[place].source for place in range(0, 400, 2)}) > 180
    assert {examples[place] for place in range(1, 400, 2)} == {pairs[1]}
    assert {*ScrambledPairs(pairs, 0.0, 9, 0)} == {*pairs}
    share = np.mean([examples != pairs[0] for examples in ScrambledPairs(pairs[:1], 0.5, 1000, 1)])
    # A scrambled pair rarely stays as it was.
    assert 0.42 < share < 0.56


def test_heads_of_a_new_model_look_at_neighbours() -> None:
    model = make_model(None, "enbed-tiny", seed=0, max_seq_len=30, num_layers=4, local_radius=9).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    look_at_neighbours(model)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    # Two in the encoder, because its layers have two radii.
    assert len(changed) == 3
    assert all(name.endswith(".relative_attention_bias.weight") for name in changed)
    for name in changed:
        moved = (model.state_dict()[name] - before[name]).nonzero().tolist()
        assert moved == [[head + name.startswith("encoder"), head] for head in range(4)]
    ids = torch.randint(68, 72, (1, 20))
    with torch.no_grad():
        attention = model(ids, labels=ids, output_attentions=True).decoder_attentions[0][0]
    for head in range(4):
        assert attention[head, 10:].argmax(-1).tolist() == [place - head for place in range(10, 20)]


# A whole run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs of 12 bases."""
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    mutate_pairs(PairsConfig(out, simulate=60, length=12, spots=2))
    return out


def options(pairs: Path, out: Path, **changes: Any) -> EvolveConfig:
    known = {"model_fields": SMALL, "steps": 3, "batch_size": 8, "lr": 1e-2, "eval_every": 0, "resamples": 100,
             "tree_pairs": 4, "device": "cpu"}  # fmt: skip
    return EvolveConfig(out, pairs, **(known | changes))


@pytest.fixture(scope="module")
def ran(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and its results."""
    out = tmp_path_factory.mktemp("evolve") / "out"
    return out, evolve(options(pairs, out), progress=False)


@pytest.mark.slow
def test_a_run_has_every_row_and_file(ran: tuple[Path, dict[str, Any]]) -> None:
    out, results = ran
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    methods = ["model", "copy parent", "copy + commonest mutation"]
    assert [row["method"] for row in results["table"] if row["pairs"] == "differing"] == methods
    for row in results["table"]:
        assert row["top5"][0] >= row["top1"][0]
        if row["pairs"] != "all" and row["method"] == "copy parent":
            assert row["top1"][0] == 0
            assert "nearer_than_copy" not in row
    assert (out / TREE_PICTURE).stat().st_size > 1000
    page = (out / "report.html").read_text()
    for text in ("copy + commonest mutation", "0.636", "worse than copying", "Differing test pairs"):
        assert text in page
    told = describe(results, out)
    assert "All test pairs" in told
    assert all(method in told for method in methods)


@pytest.mark.slow
def test_candidates_are_five_bases_texts_sorted_by_score(pairs: Path, ran: tuple[Path, dict[str, Any]]) -> None:
    out, results = ran
    with (pairs / PAIRS_FILE).open() as file:
        test = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "test"]
    with (out / CANDIDATES_FILE).open() as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    for pair in test:
        own = [row for row in rows if row["child_id"] == pair["child_id"]]
        scores = [float(row["score"]) for row in own]
        assert [int(row["rank"]) for row in own] == [*range(1, len(own) + 1)]
        assert scores == sorted(scores, reverse=True)
        assert len({row["candidate"] for row in own}) == len(own) == 5
        assert all({*row["candidate"]} <= {*"ACGT"} for row in own)
    found = np.mean([int(row["is_child"]) for row in rows if row["rank"] == "1"])
    assert results["table"][0]["top1"][0] == pytest.approx(found)


@pytest.mark.slow
def test_the_tree_has_a_leaf_for_each_sequence(ran: tuple[Path, dict[str, Any]]) -> None:
    names = [leaf.name for leaf in parse((ran[0] / TREE_FILE).read_text()).leaves()]
    assert len(names) == len({*names})
    assert sum(name.endswith(" as generated") for name in names) == 4
    assert sum(name.endswith(" as parent") for name in names) <= 4


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(
    pairs: Path, ran: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = ran
    with pytest.raises(InputError, match="already holds a run"):
        evolve(options(pairs, out), progress=False)
    monkeypatch.setattr("hyenadna.enbed.training.optimizer_step", None)
    again = evolve(options(pairs, out, tree_pairs=0), resume=True, progress=False)
    assert again["table"] == results["table"]
    with pytest.raises(InputError, match="lr"):
        evolve(options(pairs, out, lr=0.5), resume=True, progress=False)
    table = pairs / PAIRS_FILE
    text = table.read_text()
    table.write_text(text.replace("\ttrain\n", "\tvalid\n", 1))
    with pytest.raises(InputError, match=r"started on other data \(pairs\)"):
        evolve(options(pairs, out), resume=True, progress=False)
    table.write_text(text)


def test_the_least_noisy_candidate_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noise = {"A": 0.9, "C": 0.1, "G": 0.5}

    def noise_probability(folder: Path, texts: Sequence[str], device: torch.device, **kwargs: Any) -> np.ndarray:
        return np.array([noise[text] for text in texts])

    monkeypatch.setattr(study, "noise_probability", noise_probability)
    config = EvolveConfig(tmp_path / "out", tmp_path, noise_model=tmp_path, resamples=100)
    found = [[Candidate("A", -1.0), Candidate("G", -2.0), Candidate("C", -3.0)]]
    ranked = study._rank(config, found, torch.device("cpu"))
    assert [one.candidate.text for one in ranked[0]] == ["C", "G", "A"]
    assert [one.noise for one in ranked[0]] == [0.1, 0.5, 0.9]
    rows = [PairRow("p", "T", "c", "A", "test")]
    table = study._table(config, rows, set(), {"T": ranked[0]}, [])
    own = {row["method"]: row["top1"][0] for row in table if row["pairs"] == "all"}
    assert own["model"] == 0
    assert own["model, by beam score"] == 1


def test_five_beams_give_five_candidates() -> None:
    model = make_model(None, "enbed-tiny", seed=0, max_seq_len=9, **SMALL).eval()
    found = generate(model, ["ACGT", "TTGACA"], beams=5, candidates=5, most=6, alphabet="ACGT", progress=False)
    for own in found:
        assert len({one.text for one in own}) == 5
        assert [one.score for one in own] == sorted((one.score for one in own), reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 6}, "`candidates` 6: must be at most `beams`, 5"),
        ({"size": "enbed-huge"}, "`size` enbed-huge: no ENBED has this size"),
        ({"model_fields": {"max_seq_len": 3}}, "max_seq_len comes from the pairs"),
        ({"model": Path("nowhere"), "model_fields": {}}, "nowhere"),
        ({"model": Path("nowhere")}, "has the shape of its own model"),
        ({"noise_model": Path("nowhere")}, "nowhere"),
        ({"autocast": "float16"}, "take bfloat16"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    pairs: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        evolve(options(pairs, tmp_path / "out", **changes), progress=False)
    assert "\n" not in str(caught.value)


def test_the_example_fits(pairs: Path, tmp_path: Path) -> None:
    example = yaml.safe_load((Path(__file__).parents[3] / "examples" / "enbed" / "evolve.yaml").read_text())
    config = EvolveConfig(tmp_path / "out", pairs, **example)
    config.check()
    fields = {"max_seq_len": 65, **config.model_fields}
    assert make_model(None, config.size, seed=0, **fields).config.num_heads == 8


def test_without_a_differing_test_pair_there_is_nothing_to_study(tmp_path: Path) -> None:
    rows = [PairRow("r", "AC", split, "AC", split) for split in ("train", "valid", "test")]
    table = tmp_path / "pairs.tsv"
    table.write_text("\n".join("\t".join(row) for row in [PairRow._fields, *rows]) + "\n")
    with pytest.raises(InputError, match=r"pairs.tsv: no test pair differs, so there is no mutation to predict"):
        evolve(options(table, tmp_path / "out"), progress=False)
    table.write_text("\n".join("\t".join(row) for row in [PairRow._fields, *rows[:2]]) + "\n")
    with pytest.raises(InputError, match=r"pairs.tsv: the split test has no pair of 2"):
        evolve(options(table, tmp_path / "out"), progress=False)
