"""``hyenadna enbed evolve``: a model that turns parents into children, beside copies of the parent."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.run_layout import RESULTS_FILE, plain
from hyenadna.common.vocab import BASES
from hyenadna.common.writers import one_writer
from hyenadna.data.tables import encoded, tsv_line
from hyenadna.drawing.cladogram import cladogram
from hyenadna.enbed import newick
from hyenadna.enbed.candidate_scores import LEVEL, estimates, hits, interval, resample
from hyenadna.enbed.commonest import commonest, copies
from hyenadna.enbed.evolve_config import EvolveConfig
from hyenadna.enbed.evolve_page import write_page
from hyenadna.enbed.neighbours import look_at_neighbours
from hyenadna.enbed.noise_scores import noise_probability
from hyenadna.enbed.pairs import PAIRS_FILE, PairRow, as_table, count, mutate_pairs, read_pairs
from hyenadna.enbed.pairs_config import PairsConfig
from hyenadna.enbed.scrambled import ScrambledPairs
from hyenadna.enbed.seq2seq import Candidate, Pair, generate, make_model, train_pairs
from hyenadna.enbed.training import Training
from hyenadna.enbed.tree import levenshtein_distances, neighbour_joining
from hyenadna.model.device import pick_device
from hyenadna.training.run_dir import RunFolder

CANDIDATES_FILE = "candidates.tsv"
TREE_FILE = "tree.nwk"
TREE_PICTURE = "tree.png"

TOP = 5
"""Candidates that may hold the child in the metric top5."""


class Ranked(NamedTuple):
    """A candidate, and its probability to be noisy, or None."""

    candidate: Candidate
    noise: float | None = None


@one_writer(inside=True, make_folders=True)
def evolve(config: EvolveConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train on pairs, generate children of the test's parents, and compare them with the true ones.

    Args:
        config: the pairs, the model and the training.
        resume: continue from the newest checkpoint in ``config.out``, or start if there is none yet. A finished
            training is not repeated.
        progress: show progress bars.

    Returns:
        The contents of results.json.

    Raises:
        InputError: pairs, checkpoints or options do not fit, no test pair differs, or the folder holds another run.
    """
    config.check()
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.noise_model is not None:
        # Before the training, so that a folder without such a classifier is refused at once.
        noise_probability(config.noise_model, [], device)
    # 1. The pairs.
    rows = _rows(config)
    splits = {split: [row for row in rows if row.split == split] for split in ("train", "valid", "test")}
    test = splits["test"]
    if all(row.parent_sequence == row.child_sequence for row in test):
        raise InputError(f"{config.pairs or 'the phylogeny'}: no test pair differs, so there is no mutation to predict")
    pairs = {split: [Pair(row.parent_sequence, row.child_sequence) for row in own] for split, own in splits.items()}
    longest = max(len(text) for own in pairs.values() for pair in own for text in pair)

    # 2. The model.
    fields = {"dropout_rate": config.dropout, **config.model_fields}
    # With eos.
    model = make_model(config.model, config.size, seed=config.seed, max_seq_len=longest + 1, **fields)
    if config.model is None:
        look_at_neighbours(model)
    model = train_pairs(
        model,
        ScrambledPairs(pairs["train"], config.scramble, config.steps * config.batch_size, config.seed),
        pairs["valid"],
        Training(
            steps=config.steps,
            batch_size=config.batch_size,
            lr=config.lr,
            lr_warmup=config.lr_warmup,
            autocast=config.autocast,
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            seed=config.seed,
        ),
        config,
        config.out,
        device=device,
        resume=resume,
        progress=progress,
        name="enbed evolve",
        identity={"pairs": hashlib.sha256(repr(rows).encode()).hexdigest()},
    )

    # 3. Its candidates, once for each parent.
    parents = list(dict.fromkeys(row.parent_sequence for row in test))
    found = generate(
        model,
        parents,
        beams=config.beams,
        candidates=config.candidates,
        most=longest,
        alphabet=BASES,
        batch_size=config.batch_size,
        progress=progress,
        name="candidates",
    )
    ranked = dict(zip(parents, _rank(config, found, device), strict=True))

    # 4. What they hit, and what copies of the parent hit.
    known = commonest(pairs["train"])
    results: dict[str, Any] = {
        "study": "enbed-evolve",
        "settings": plain(config),
        "data": {"source": str(config.pairs or f"synthetic phylogeny, seed {config.seed}"), **count(rows)},
        "interval": {"level": LEVEL, "resamples": config.resamples, "drawn": "test pairs"},
        "commonest": [[str(mutation), number] for mutation, number in known[:10]],
        "table": _table(config, test, {*pairs["train"]}, ranked, known),
        "copied": _share(ranked[row.parent_sequence][0].candidate.text == row.parent_sequence for row in test),
        "ranked_by": "beam score" if config.noise_model is None else "noise",
        "parameters": model.num_parameters(),
        "model": str(RunFolder(config.out).model),
    }
    if config.simulate is not None:
        write_files({config.out / PAIRS_FILE: as_table(rows)})
    write_files({config.out / CANDIDATES_FILE: encoded("".join(map(tsv_line, _candidate_rows(test, ranked))))})
    if config.tree_pairs:
        _draw_tree(config, test, ranked)
    write_page(config.out, results, TREE_PICTURE if config.tree_pairs else None)
    # Last, so that whoever finds it finds the others too.
    write_files({config.out / RESULTS_FILE: (json.dumps(results, indent=1) + "\n").encode()})
    return results


def _rows(config: EvolveConfig) -> list[PairRow]:
    """The pairs of a table, or of a synthetic phylogeny."""
    if config.pairs is not None:
        return read_pairs(config.pairs)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "pairs"
        mutate_pairs(PairsConfig(made, simulate=config.simulate, seed=config.seed))
        return read_pairs(made)


def _rank(config: EvolveConfig, found: Sequence[Sequence[Candidate]], device: torch.device) -> list[list[Ranked]]:
    """The candidates of each source in their order: the least noisy first, or else the best of the beams."""
    if config.noise_model is None:
        return [[Ranked(candidate) for candidate in own] for own in found]
    texts = list(dict.fromkeys(candidate.text for own in found for candidate in own if candidate.text))
    scores = noise_probability(config.noise_model, texts, device, batch_size=config.batch_size)
    # The empty text has no base to tell by.
    noise = {"": 1.0, **dict(zip(texts, map(float, scores), strict=True))}
    ranked = [[Ranked(candidate, noise[candidate.text]) for candidate in own] for own in found]
    return [sorted(own, key=lambda one: noise[one.candidate.text]) for own in ranked]


def _table(
    config: EvolveConfig,
    test: Sequence[PairRow],
    trained: set[Pair],
    ranked: dict[str, list[Ranked]],
    known: Sequence[Any],
) -> list[dict[str, Any]]:
    """A row for each method and choice of test pairs."""
    parents = [row.parent_sequence for row in test]
    children = [row.child_sequence for row in test]
    copied = [copies(parent, known, TOP) for parent in parents]
    # The same texts with the commonest mutation first. Where none fits, the parent alone is left.
    mutated = [[*texts[1:2], texts[0], *texts[2:]] for texts in copied]
    methods = {"model": [[one.candidate.text for one in ranked[parent]] for parent in parents]}
    if config.noise_model is not None:
        by_score = {
            parent: sorted(own, key=lambda one: -one.candidate.score) for parent, own in ranked.items()
        }  # fmt: skip
        methods["model, by beam score"] = [[one.candidate.text for one in by_score[parent]] for parent in parents]
    methods |= {"copy parent": copied, "copy + commonest mutation": mutated}
    measured = {name: hits(texts, children) for name, texts in methods.items()}
    differs = np.array([row.parent_sequence != row.child_sequence for row in test], dtype=bool)
    new = np.array([Pair(row.parent_sequence, row.child_sequence) not in trained for row in test], dtype=bool)
    table = []
    for chosen, mask in (("all", differs | True), ("differing", differs), ("differing, new", differs & new)):
        if not mask.any():
            continue
        own = {name: found.of(mask) for name, found in measured.items()}
        drawn = {name: resample(found, config.resamples, config.seed) for name, found in own.items()}
        copy_distance = drawn["copy parent"]["mean_distance"]
        for name, found in own.items():
            row = {"method": name, "pairs": chosen, "count": int(mask.sum()), **estimates(found, drawn[name])}
            if name != "copy parent":
                less = float(own["copy parent"].distance.mean() - found.distance.mean())
                row["nearer_than_copy"] = [less, *interval(copy_distance - drawn[name]["mean_distance"])]
            table.append(row)
    return table


def _share(values: Iterator[bool]) -> float:
    return float(np.mean([*values]))


def _candidate_rows(test: Sequence[PairRow], ranked: dict[str, list[Ranked]]) -> Iterator[list[object]]:
    """The rows of the table of candidates, the header first."""
    yield ["parent_id", "child_id", "rank", "candidate", "score", "noise", "distance", "is_child", "is_parent"]
    for row in test:
        own = ranked[row.parent_sequence]
        for rank, one in enumerate(own, start=1):
            text = one.candidate.text
            distance = int(hits([[text]], [row.child_sequence]).distance[0])
            yield [row.parent_id, row.child_id, rank, text, one.candidate.score, one.noise, distance,
                   int(text == row.child_sequence), int(text == row.parent_sequence)]  # fmt: skip


def _draw_tree(config: EvolveConfig, test: Sequence[PairRow], ranked: dict[str, list[Ranked]]) -> None:
    """Write a tree of parents, true children and first candidates of some test pairs, and its picture."""
    size = min(config.tree_pairs, len(test))
    chosen = sorted(np.random.default_rng(config.seed).choice(len(test), size=size, replace=False).tolist())
    leaves: dict[str, tuple[str, str]] = {}
    for row in (test[place] for place in chosen):
        # A node may be a child of one pair and the parent of another.
        leaves[f"{row.parent_id} as parent"] = ("parent", row.parent_sequence)
        leaves[row.child_id] = ("true child", row.child_sequence)
        leaves[f"{row.child_id} as generated"] = ("generated", ranked[row.parent_sequence][0].candidate.text)
    names, texts = list(leaves), [text for _, text in leaves.values()]
    root = neighbour_joining(names, levenshtein_distances(texts))
    write_files({config.out / TREE_FILE: encoded(newick.as_text(root) + "\n")})
    cladogram(root, {name: group for name, (group, _) in leaves.items()}, config.out / TREE_PICTURE, unit="edits")
