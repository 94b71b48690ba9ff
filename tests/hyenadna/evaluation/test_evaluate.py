from __future__ import annotations

import json
import math
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.cli.main import _report_evaluation
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, NUCLEOTIDE_IDS, PAD_ID
from hyenadna.data.genome import Genome, prepare
from hyenadna.data.intervals import Interval
from hyenadna.data.windows import EvalWindows
from hyenadna.drawing import figures
from hyenadna.evaluation import backoff, markov
from hyenadna.evaluation.evaluate import EvaluateConfig, evaluate, evaluate_windows, fit_markov
from hyenadna.pretraining.train import PretrainConfig, pretrain

HELD_OUT = [Interval("a", 900, 1100), Interval("b", 3, 30)]
FILES = ["evaluation.json", "evaluation.png", "perplexity_by_position.png", "training.png"]


@pytest.fixture(scope="module")
def genome(tiny_genome: Path) -> Genome:
    return Genome.open(tiny_genome)


@pytest.fixture
def model() -> HyenaDNAForCausalLM:
    torch.manual_seed(0)
    config = HyenaDNAConfig(d_model=16, n_layer=1, max_seq_len=32, initializer_range=0.3)
    return HyenaDNAForCausalLM(config).double().train()


@pytest.fixture(scope="module")
def run(tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    config = tiny_config(tmp_path_factory.mktemp("run") / "run")
    return pretrain(config, progress=False).model.parent


@pytest.fixture
def config(run: Path, tiny_genome: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        model=run / "model",
        genome=tiny_genome,
        out=tmp_path / "evaluation",
        contigs=["c"],
        exclude=["b"],
        length=32,
        markov_order=3,
        device="cpu",
    )


def plainly(model: HyenaDNAForCausalLM, windows: EvalWindows) -> list[list[tuple[float, bool] | None]]:
    """(nats, hit) of every position of every window, one window at a time; None where the target is N."""
    model.eval()
    found = []
    for batch in windows.batches(1):
        ids = batch.ids[0].long()
        with torch.no_grad():
            log_p = model(ids[None, :-1]).logits[0].log_softmax(-1)
        found.append(
            [
                None if int(target) in (N_ID, PAD_ID) else (-float(row[target]), int(row.argmax()) == int(target))
                for row, target in zip(log_p, ids[1:], strict=True)
            ]
        )
    return found


@pytest.mark.parametrize("n_to_pad", [True, False])
def test_scores_equal_a_plain_computation(model: HyenaDNAForCausalLM, genome: Genome, n_to_pad: bool) -> None:
    windows = EvalWindows(genome, HELD_OUT, 32, n_to_pad=n_to_pad)
    result = evaluate_windows(model, windows, batch_size=3, progress=False)
    plain = plainly(model, windows)
    scored = [position for window in plain for position in window if position is not None]
    # 200 + 27 positions, the first of each interval unpredicted, 40 of them N.
    assert result.score.count == len(scored) == 199 + 26 - 40
    mean = math.fsum(nats for nats, _ in scored) / len(scored)
    assert result.score.perplexity == pytest.approx(math.exp(mean), rel=1e-12)
    assert result.score.accuracy == sum(hit for _, hit in scored) / len(scored)
    for index, nats in enumerate(result.position_nats):
        column = [window[index] for window in plain if index < len(window)]
        values = [position[0] for position in column if position is not None]
        assert nats == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
    assert len(result.position_nats) == 32


def test_positions_without_a_score_are_nan(model: HyenaDNAForCausalLM, genome: Genome) -> None:
    result = evaluate_windows(model, EvalWindows(genome, [Interval("a", 990, 1020)], 32), batch_size=1, progress=False)
    assert np.isnan(result.position_nats).tolist() == [False] * 9 + [True] * 20
    assert result.score.count == 9


def test_batch_size_changes_nothing(model: HyenaDNAForCausalLM, genome: Genome) -> None:
    windows = EvalWindows(genome, HELD_OUT, 20)
    scores = [evaluate_windows(model, windows, batch_size=n, progress=False).score for n in (1, 2, 100)]
    for score in scores[1:]:
        assert score.perplexity == pytest.approx(scores[0].perplexity, rel=1e-12)
        assert (score.accuracy, score.count) == (scores[0].accuracy, scores[0].count)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model: HyenaDNAForCausalLM, genome: Genome, training: bool) -> None:
    model.train(training)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    evaluate_windows(model, EvalWindows(genome, HELD_OUT, 20), batch_size=4, progress=False)
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(InputError, match="longer than this model's max_seq_len of 32"):
        evaluate_windows(model, EvalWindows(genome, HELD_OUT, 33), batch_size=4, progress=False)
    assert model.training is training


def test_nothing_but_n_is_refused(model: HyenaDNAForCausalLM, genome: Genome) -> None:
    only_n = EvalWindows(genome, [Interval("a", 1000, 1040)], 32)
    with pytest.raises(InputError, match="the held-out intervals hold only N; choose others"):
        evaluate_windows(model, only_n, batch_size=1, progress=False)


@pytest.mark.parametrize(("weight", "mean"), [(math.nan, "nan"), (1e30, r"\d.*e\+\d+")])
def test_a_model_that_has_diverged_is_refused(
    model: HyenaDNAForCausalLM, genome: Genome, weight: float, mean: str
) -> None:
    with torch.no_grad():
        model.lm_head.weight[NUCLEOTIDE_IDS["A"]] = weight
    with pytest.raises(InputError, match=f"mean loss on the held-out windows is {mean} nats: its weights are damaged"):
        evaluate_windows(model, EvalWindows(genome, HELD_OUT, 32), batch_size=4, progress=False)


def test_markov_models_are_scored_as_on_whole_contigs(genome: Genome) -> None:
    train = [Interval("a", 0, 4040)]
    windows = EvalWindows(genome, [Interval("b", 0, 900), Interval("c", 0, 500)], 5)
    found = fit_markov(genome, train, windows, 4, valid=[Interval("b", 100, 900)])
    assert (found.strengths_on, found.held_back, found.left_out) == ([Interval("b", 100, 900)], False, "")
    counts = markov.fit([genome.tokens("a")], 4).counts
    for order, score in found.scores().items():
        # Windows shorter than the order: without the bases before them the models would have less context.
        table = np.full((1, 4), 0.25)
        tables = [table]
        for strength, of_order in zip(score.prior_strengths.values(), counts, strict=False):
            prior = np.tile(table, (len(of_order) // len(table), 1))
            table = (of_order + strength * prior) / (of_order.sum(axis=1, keepdims=True) + strength)
            tables.append(table)
        nats, hits, count = 0.0, 0, 0
        for contig in ("b", "c"):
            bases = genome.tokens(contig).astype(int) - NUCLEOTIDE_IDS["A"]
            for position in range(1, len(bases)):
                context = bases[max(0, position - order) : position].tolist()
                while context and max(context) > 3:
                    context = context[1:]
                if bases[position] < 4:
                    row = tables[len(context) + 1][int("0" + "".join(map(str, context)), 4)]
                    nats -= math.log(row[bases[position]])
                    hits += int(row.argmax() == bases[position])
                    count += 1
        assert score.perplexity == pytest.approx(math.exp(nats / count), rel=1e-12)
        assert (score.accuracy, score.count) == (hits / count, count)


def test_markov_models_and_the_model_are_scored_on_the_same_positions(
    model: HyenaDNAForCausalLM, genome: Genome
) -> None:
    windows = EvalWindows(genome, [Interval("a", 900, 1100), Interval("b", 5, 895)], 32, max_windows=9)
    count = evaluate_windows(model, windows, batch_size=4, progress=False).score.count
    found = fit_markov(genome, [Interval("c", 0, 500)], windows, 20)
    assert {score.count for score in found.scores().values()} == {count}
    assert list(found.scores()) == [*range(13), 16, 20]
    assert count < 9 * 32


def test_a_tenth_of_the_training_part_is_held_back_for_strengths_and_counted_afterwards(genome: Genome) -> None:
    windows = EvalWindows(genome, [Interval("c", 0, 500)], 32)
    # The whole interval nearest to a tenth: 400 of 4,900.
    train = [Interval("a", 0, 3600), Interval("b", 0, 400), Interval("b", 400, 900)]
    found = fit_markov(genome, train, windows, 3)
    assert (found.strengths_on, found.held_back) == ([train[1]], True)
    rest = fit_markov(genome, [train[0], train[2]], windows, 3, valid=[train[1]])
    assert [s.prior_strengths for s in rest.scores().values()] == [s.prior_strengths for s in found.scores().values()]
    assert rest.scores()[3].perplexity != found.scores()[3].perplexity
    # None is near, so the end of each.
    found = fit_markov(genome, [Interval("a", 0, 4040), Interval("b", 0, 5)], windows, 3)
    assert (found.strengths_on, found.held_back) == ([Interval("a", 3636, 4040)], True)
    # Nothing to fit on.
    found = fit_markov(genome, [Interval("b", 0, 9)], windows, 1)
    assert (found.strengths_on, found.scores()[1].prior_strengths) == ([], {0: 1.0, 1: 1.0})


def test_parts_of_nothing_but_n_are_not_held_back(tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(f">a\n{'ACGGT' * 90}\n>gap\n{'N' * 50}\n>b\n{'ACGTC' * 9}\n")
    prepare(tmp_path / "g.fa", tmp_path / "g")
    genome = Genome.open(tmp_path / "g")
    train = [Interval("a", 0, 450), Interval("gap", 0, 50)]
    found = fit_markov(genome, train, EvalWindows(genome, [Interval("b", 0, 45)], 16), 2)
    assert found.strengths_on == [Interval("a", 405, 450)]
    assert found.scores()[2].count == 44


def test_orders_that_do_not_fit_are_left_out_and_told(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = backoff.plan
    monkeypatch.setattr(backoff, "plan", lambda order, positions, most: plan(order, positions, 0))
    row = evaluate(replace(config, markov_order=16), progress=False)
    assert list(row["markov"]) == ["0", "1", "2", "3", "4"]
    message = row["markov_strengths"]["left_out"]
    assert message.startswith("Markov models of order 5, 6, 7, 8, 9, 10, 11, 12, 16 are left out: they would need 0.")
    assert f"\n{message}\n" in reported(config, row)


def reported(config: EvaluateConfig, row: dict[str, Any]) -> str:
    """What the command prints."""
    return _report_evaluation(config, row) + "\n"


def check_png(path: Path) -> None:
    """Signature, chunks with right checksums, and as many pixels as the header promises."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, pixels, kinds = 8, b"", []
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + size]
        assert zlib.crc32(kind + content) == struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0]
        kinds.append(kind)
        pixels += content if kind == b"IDAT" else b""
        place += 12 + size
    assert kinds[-1] == b"IEND"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (depth, colour) == (8, 6)
    assert len(zlib.decompress(pixels)) == height * (1 + 4 * width)


def test_evaluation_is_written_complete(config: EvaluateConfig, genome: Genome) -> None:
    row = evaluate(config, progress=False)
    assert sorted(path.name for path in config.out.iterdir()) == FILES
    assert json.loads((config.out / "evaluation.json").read_text()) == row
    for name in FILES[1:]:
        check_png(config.out / name)

    windows = EvalWindows(genome, [Interval("c", 0, 500)], 32)
    model = HyenaDNAForCausalLM.from_pretrained(config.model)
    score = evaluate_windows(model, windows, batch_size=16, progress=False).score
    found = fit_markov(genome, [Interval("a", 0, 4040)], windows, 3)
    assert row == {
        "model": str(config.model),
        "genome": "tiny.fa",
        "held_out": ["c:0-500"],
        "length": 32,
        "windows": 16,
        "perplexity": score.perplexity,
        "accuracy": score.accuracy,
        "positions": 499,
        "markov": {
            str(order): vars(score) | {"prior_strengths": {str(k): s for k, s in score.prior_strengths.items()}}
            for order, score in found.scores().items()
        },
        "markov_strengths": {"fitted_on": ["a:3636-4040"], "held_back_from_training": True, "left_out": ""},
    }


def test_without_metrics_and_markov_models_there_are_fewer_figures(config: EvaluateConfig, tmp_path: Path) -> None:
    alone = shutil.copytree(config.model, tmp_path / "alone" / "model")
    row = evaluate(replace(config, model=alone, markov_order=-1, length=None), progress=False)
    assert row["markov"] == {}
    assert row["length"] == 64
    assert sorted(path.name for path in config.out.iterdir()) == ["evaluation.json", "perplexity_by_position.png"]


def test_figures_have_the_scores_of_the_models(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the best Markov model is that of the lowest perplexity."""
    drawn: dict[str, tuple[Any, ...]] = {}

    def noted(name: str) -> Callable[..., None]:
        def draw(*arguments: Any) -> None:
            drawn[name] = tuple(value for value in arguments if not isinstance(value, Path))
            next(value for value in arguments if isinstance(value, Path)).write_bytes(b"")

        return draw

    for name in ("perplexity_by_position", "evaluation_bars", "training_curves"):
        monkeypatch.setattr(figures, name, noted(name))
    row = evaluate(config, progress=False)
    perplexities = {int(order): score["perplexity"] for order, score in row["markov"].items()}
    assert drawn["perplexity_by_position"][1] == min(perplexities.values())
    # Over all positions the mean of the losses is the loss.
    assert drawn["perplexity_by_position"][0].shape == (32,)
    score, markov = drawn["evaluation_bars"]
    assert (score.perplexity, score.accuracy) == (row["perplexity"], row["accuracy"])
    assert {order: each.perplexity for order, each in markov.items()} == perplexities
    shown = drawn["training_curves"][1]
    assert set(shown) == {0, 3, min(perplexities, key=lambda order: perplexities[order])}
    assert shown.items() <= perplexities.items()
    assert len(drawn["training_curves"][0]) > 0


@pytest.mark.parametrize(("longest", "length"), [(64, 64), (2048, 1024)])
def test_windows_have_what_the_model_takes_at_most_1024(
    config: EvaluateConfig, tiny_checkpoint: Callable[..., Path], longest: int, length: int
) -> None:
    model = tiny_checkpoint(max_seq_len=longest)
    row = evaluate(replace(config, model=model, markov_order=-1, length=None, max_windows=1), progress=False)
    assert row["length"] == length


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_bed_says_what_is_held_out(config: EvaluateConfig, tmp_path: Path, split: str) -> None:
    bed = tmp_path / "split.bed"
    bed.write_text("a\t0\t2000\ttrain\nb\t100\t300\tvalid\nc\t0\t90\ttest\nc\t400\t490\ttest\n")
    row = evaluate(replace(config, contigs=[], exclude=[], bed=bed, split=split, max_windows=3), progress=False)
    expected = {"valid": (["b:100-300"], 3 * 32), "test": (["c:0-90", "c:400-490"], 32 + 32 + 25)}[split]
    assert row["held_out"] == expected[0]
    assert row["windows"] == 3
    # The validation part is fitted on, unless it is what is scored.
    fitted_on = {"valid": (["a:1800-2000"], True), "test": (["b:100-300"], False)}[split]
    assert tuple(row["markov_strengths"].values())[:2] == fitted_on
    assert {score["count"] for score in row["markov"].values()} == {row["positions"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bed": Path("x.bed")}, "give the held-out part by `bed`, or by `contigs` and `exclude`, but not by both"),
        ({"split": "train"}, "`split` train: choose valid or test"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        ({"markov_order": 25}, "`markov_order` 25: must be from -1 to 24"),
        ({"max_windows": 0}, "`max_windows` 0: must be at least 1"),
        ({"length": 0}, "`length` 0: must be at least 1"),
        ({"length": 65}, "`length` 65: the model in "),
        ({"contigs": ["z"]}, "unknown contig 'z'; the genome has 3: a, b, c"),
        ({"contigs": ["b"]}, "contig 'b' is both for validation and for test; choose one"),
        ({"contigs": ["a", "c"]}, "nothing is left for training: every contig is held out; leave at least one"),
        ({"genome": Path("absent")}, "absent: no such folder; make it with `hyenadna prepare"),
        ({"model": Path("absent")}, "no checkpoint at absent: no such file or folder"),
        ({"metrics": Path("absent.jsonl")}, "absent.jsonl: no such file; hyenadna pretrain writes one"),
        ({"out": Path(__file__)}, f"`out` {__file__}: is a file; choose a folder"),
        ({"device": "cuda:99"}, "`device` cuda:99: torch sees"),
        (
            {"split": "valid"},
            "`split` valid: has no effect without a BED: the named `contigs` are scored",
        ),
        ({"contigs": []}, "`exclude` ['b']: has no effect without `contigs`: the splits are those of"),
    ],
)
def test_refuses_bad_input_and_writes_nothing(config: EvaluateConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(replace(config, **change), progress=False)
    assert str(caught.value).startswith(message)
    assert not config.out.exists()


@pytest.mark.parametrize(("split", "held_out"), [("valid", "b:0-900"), ("test", "c:0-500")])
def test_a_model_is_scored_on_its_runs_held_out_part(config: EvaluateConfig, split: str, held_out: str) -> None:
    row = evaluate(replace(config, contigs=[], exclude=[], split=split, max_windows=2), progress=False)
    assert row["held_out"] == [held_out]


def test_a_model_without_a_run_needs_to_be_told(config: EvaluateConfig, tmp_path: Path) -> None:
    alone = shutil.copytree(config.model, tmp_path / "alone" / "model")
    with pytest.raises(InputError, match=r"nothing to score on: name the held-out `contigs`, or a `bed`"):
        evaluate(replace(config, model=alone, contigs=[]), progress=False)


def test_a_full_disk_leaves_nothing(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if ".evaluation.json." in self.name:
            write_bytes(self, data[:10])
            raise OSError(28, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"evaluation\.json: cannot be written \(No space left on device\)"):
        evaluate(config, progress=False)
    assert not config.out.exists()


def test_says_nothing_if_asked_to(config: EvaluateConfig, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(config, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_contig_with_nothing_but_n_is_refused(config: EvaluateConfig, tmp_path: Path) -> None:
    (tmp_path / "n.fa").write_text(f">a\n{'ACGT' * 50}\n>c\n{'N' * 50}\n")
    folder = prepare(tmp_path / "n.fa", tmp_path / "n", progress=False).folder
    with pytest.raises(InputError, match="hold only N"):
        evaluate(replace(config, genome=folder, exclude=[]), progress=False)
    assert not config.out.exists()


def test_a_bed_without_the_split_is_refused(config: EvaluateConfig, tmp_path: Path) -> None:
    (tmp_path / "s.bed").write_text("a\t0\t900\ttrain\nb\t0\t900\tvalid\n")
    with pytest.raises(InputError, match=r"s\.bed: no interval is of the split 'test'; choose another `split`"):
        evaluate(replace(config, contigs=[], exclude=[], bed=tmp_path / "s.bed"), progress=False)
    assert not config.out.exists()
