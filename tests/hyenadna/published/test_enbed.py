"""The published figures of ENBED: complete, on their own scales, and with the inconsistencies that are named."""

from __future__ import annotations

import numpy as np
import pytest

from hyenadna.published.enbed import (
    BENCHMARKS,
    COUNTED,
    DISTANCES,
    FIGURES,
    FINE_TUNING_NOTES,
    ROWS,
    SHAPE_NOTES,
    SHAPES,
    STUDIES,
)
from hyenadna.published.tables import figures

GB, NT = BENCHMARKS["genomic-benchmarks"], BENCHMARKS["nucleotide-transformer"]
BY_NAME = {study.name: study for study in STUDIES}


def test_figures_stand_under_the_names_of_their_datasets() -> None:
    assert {figure.row for figure in FIGURES} == set(ROWS)
    for ours, theirs in BENCHMARKS.items():
        known = {figure.dataset for figure in figures(ours)}
        found = {figure.dataset for figure in figures(theirs)}
        # The paper leaves out one task of the Nucleotide Transformer.
        assert known - found == ({"splice-all"} if theirs == NT else set())
        assert found <= known
    assert [f.value for f in figures(GB, "enhancers-cohn")] == [0.543, 0.712]
    assert [f.value for f in figures(NT, "splice-donor")] == [0.954, 0.958]


def test_hyenadna_has_another_scale_here_than_in_its_own_paper() -> None:
    assert {figure.metric for figure in figures(NT)} == {"accuracy"}
    for figure in figures(NT, row="hyenadna-by-enbed"):
        own = {f.metric: f.value for f in figures("nucleotide-transformer", figure.dataset, "pretrained")}
        assert set(own) <= {"mcc", "f1_macro"}
        if "mcc" in own and figure.dataset != "H4":
            assert figure.value - own["mcc"] > 0.03
    assert "H3 is 88.9 here, and 81.7" in FINE_TUNING_NOTES[NT]


def test_the_counts_of_best_tasks_do_not_agree() -> None:
    better = sum(
        figures(NT, dataset, "enbed-pretrained")[0].value > figures(NT, dataset, "hyenadna-by-enbed")[0].value
        for dataset in {figure.dataset for figure in figures(NT)}
    )
    best = {(f.dataset): f.value for f in figures(GB, row="enbed-pretrained")}
    others = {name: max(f.value for f in figures("genomic-benchmarks", name)) for name in best}
    assert (better, sum(best[name] > others[name] for name in best)) == (15, 6)
    for note in FINE_TUNING_NOTES.values():
        assert "22 of 25" in note
        assert "which is 21" in note
    assert len(best) + 17 == 25


def test_pretraining_of_the_benchmarks_is_worth_12_points() -> None:
    means = {row: 100 * np.mean([f.value for f in figures(GB, row=row)]) for row in ("enbed", "enbed-pretrained")}
    assert means == {"enbed": pytest.approx(77.08, abs=0.01), "enbed-pretrained": pytest.approx(89.16, abs=0.01)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("enbed-pretrain", ["10^6", "1e-6", "other lengths"]),
        ("enbed-noise", ["F1", "accuracy", "94 %", "TeloBase"]),
        ("enbed-annotate", ["nine biotypes", "ten", "macro", "weighted"]),
        ("enbed-evolve", ["H3N2", "H1.", "0.645", "worse", "not stated"]),
    ],
)
def test_every_study_names_what_the_paper_leaves_open(name: str, words: list[str]) -> None:
    study = BY_NAME[name]
    for word in words:
        assert word in " ".join(study.notes)
    for values in (*study.rows.values(), *study.counted.values()):
        assert set(values) <= ({""} if study.published_as else set(study.metrics))
        assert all(0 <= value <= 100 for value in values.values())
    assert study.rows["ENBED" if "ENBED" in study.rows else next(iter(study.rows))]


def test_copying_the_parent_beats_the_published_mean_distance() -> None:
    study = BY_NAME["enbed-evolve"]
    copy, differing = study.counted.values()
    enbed = study.rows["ENBED"]
    assert copy["mean_distance"] < enbed["mean_distance"]
    assert copy["top1"] == 63.6
    # A copy has distance 0 on the 2,004 equal pairs, so the two means are one fact. 1.77 is rounded to 0.005.
    assert copy["mean_distance"] == pytest.approx(differing["mean_distance"] * 1148 / 3152, abs=0.005)
    assert copy["top1"] == pytest.approx(100 * 2004 / 3152, abs=0.05)
    assert set(DISTANCES) < set(study.metrics)


def test_the_stated_size_is_not_that_of_the_stated_layers() -> None:
    from hyenadna.encoder_decoder.sizes import enbed_fields

    shape, shallow = SHAPES[:2]
    large = enbed_fields("enbed-large")
    assert (large["num_layers"], large["num_decoder_layers"], large["d_ff"]) == (
        shape.encoder,
        shape.decoder,
        shape.d_ff,
    )
    for row in (shape, shallow):
        assert all(count < 1000 for count in COUNTED[row.name])
    words = " ".join(SHAPE_NOTES)
    for word in ("1.2 billion", "36", "12 heads", "16 heads"):
        assert word in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "layers"), [("ENBED", (24, 12, 3850)), ("shallow", (12, 12, 3584)), ("", (36, 12, 3840))]
)
def test_weights_are_counted_with_longt5(row: str, layers: tuple[int, int, int]) -> None:
    import torch
    from transformers.models.longt5 import LongT5Config, LongT5ForConditionalGeneration

    encoder, decoder, d_ff = layers
    found = []
    for activation in ("relu", "gated-gelu"):
        config = LongT5Config(
            vocab_size=384, d_model=1536, d_kv=64, num_heads=16, d_ff=d_ff, num_layers=encoder,
            num_decoder_layers=decoder, feed_forward_proj=activation, encoder_attention_type="transient-global",
        )  # fmt: skip
        with torch.device("meta"):
            found.append(round(LongT5ForConditionalGeneration(config).num_parameters() / 1e6, 1))
    assert tuple(found) == COUNTED.get(row, (944.5, 1227.6))
