from __future__ import annotations

import dataclasses
import io
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAModel
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import read_metrics
from hyenadna.common.vocab import N_ID, NUCLEOTIDE_IDS, PAD_ID
from hyenadna.data.genome import prepare
from hyenadna.data.windows import TrainWindows
from hyenadna.pretraining import train
from hyenadna.pretraining.train import LoopState, PretrainConfig, make_model, pretrain
from hyenadna.training.optim import parameter_groups
from hyenadna.training.run_dir import RunFolder

NO_WARMUP: dict[str, Any] = {"warmup_length": None, "warmup_length_steps": 1000}


@pytest.fixture
def tiny(tiny_config: Callable[..., PretrainConfig], tmp_path: Path) -> PretrainConfig:
    return tiny_config(tmp_path / "run")


def step(model: HyenaDNAForCausalLM, batch: torch.Tensor, config: PretrainConfig) -> tuple[float, float, list[Any]]:
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss, norm = train.optimizer_step(LoopState(model, optimizer, scaler), batch, config)
    return loss, norm, [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulation_changes_nothing(tiny: PretrainConfig, accumulate: int) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16, embed_dropout=0.0)).double()
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batch = torch.randint(7, 11, (5, 13), dtype=torch.uint8)
    # Micro-batches of unequal counts of targets: a mean of their means would be another loss.
    batch[0, 2:] = N_ID
    batch[1, 5:9] = PAD_ID
    whole = step(model, batch, dataclasses.replace(tiny, accumulate=1, clip=0.01))
    model.load_state_dict(weights)
    parts = step(model, batch, dataclasses.replace(tiny, accumulate=accumulate, clip=0.01))
    assert parts[0] == pytest.approx(whole[0], rel=1e-14)
    assert parts[1] == pytest.approx(whole[1], rel=1e-12)
    for a, b in zip(parts[2], whole[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    model.load_state_dict(weights)
    model.eval()
    with torch.no_grad():
        log_p = model(batch[:, :-1].long()).logits.log_softmax(-1)
    targets = batch[:, 1:].long()
    nats = -log_p.gather(2, targets[..., None])[..., 0]
    assert whole[0] == pytest.approx(float(nats[targets < N_ID][targets[targets < N_ID] > 6].mean()), rel=1e-12)


def test_a_batch_of_nothing_but_n_moves_no_weight_by_its_gradient(tiny: PretrainConfig) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16))
    loss, norm, _ = step(model, torch.full((2, 9), N_ID, dtype=torch.uint8), tiny)
    assert (loss, norm) == (0.0, 0.0)


@pytest.mark.parametrize("n_to_pad", [True, False])
def test_windows_with_n_train_on_the_rest(
    tiny: PretrainConfig, n_to_pad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    forward = HyenaDNAModel.forward

    def record(self: HyenaDNAModel, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(input_ids)
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(HyenaDNAModel, "forward", record)
    monkeypatch.setattr(TrainWindows, "__getitem__", lambda self, key: torch.from_numpy(ids[key[0] % 2]))
    ids = np.full((2, 33), NUCLEOTIDE_IDS["A"], dtype=np.uint8)
    ids[0, 4:] = PAD_ID if n_to_pad else N_ID
    result = pretrain(
        dataclasses.replace(tiny, n_to_pad=n_to_pad, steps=2, **NO_WARMUP, eval_every=0),
        progress=False,
    )
    assert result.steps == 2
    assert {int(i) for i in torch.cat([batch.unique() for batch in seen[:2]])} == {7, PAD_ID if n_to_pad else N_ID}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "`steps` 0: must be at least 1"),
        ({"workers": -1}, "`workers` -1: must be at least 0"),
        ({"threads": 0}, "`threads` 0: must be at least 1"),
        ({"threads": 10**9}, "`threads` 1000000000: must be at least 1 and below 1024"),
        ({"workers": 10**9}, "`workers` 1000000000: must be at least 0 and below 256"),
        ({"batch_size": 10**9}, "`batch_size` 1000000000: must be at least 1 and below"),
        ({"batch_size": 10**6, "length": 10**4}, "`batch_size` 1000000: with `length` 10000 a step has more than"),
        ({"warmup_length": None}, "`warmup_length_steps` 4: has no effect without `warmup_length`; leave it out"),
        ({"valid_fraction": 0.1}, "`valid_fraction` 0.1: has no effect without splits by fraction"),
        ({"valid_fraction": math.nan, "valid_contigs": []}, "`valid_fraction` nan: must be at least 0 and below 1"),
        ({"eval_length": 0}, "`eval_length` 0: must be at least 1"),
        ({"accumulate": 5}, "`accumulate` 5: exceeds `batch_size` 4"),
        ({"lr": 0.0}, "`lr` 0.0: must be above 0"),
        ({"lr": math.nan}, "`lr` nan: must be above 0"),
        ({"lr": math.inf}, "`lr` inf: must be above 0"),
        ({"lr_warmup": 1.5}, "`lr_warmup` 1.5: must be from 0 to 1"),
        ({"weight_decay": -1.0}, "`weight_decay` -1.0: must be at least 0"),
        ({"beta2": 1.0}, "`beta2` 1.0: must be at least 0 and below 1"),
        ({"clip": 0.0}, "`clip` 0.0: must be above 0"),
        ({"embed_dropout": 1.0}, "`embed_dropout` 1.0: must be at least 0 and below 1"),
        ({"seed": 1 << 64}, f"`seed` {1 << 64}: must be at least 0 and below {1 << 63}"),
        ({"autocast": "int8"}, "`autocast` int8: choose auto, off, bfloat16 or float16"),
        (
            {"bed": Path("x.bed")},
            "give the held-out parts by `bed`, or by `valid_contigs` and `test_contigs`, but not by both",
        ),
        (
            {"valid_contigs": []},
            "nothing is held out for validation: name `valid_contigs`, or rows with valid in the BED",
        ),
        ({"valid_contigs": ["z"]}, "unknown contig 'z'; the genome has 3: a, b, c"),
        ({"device": "tpu9"}, "`device` tpu9: torch has no such device; choose auto, cpu or cuda"),
        ({"device": "meta"}, "`device` meta: only CPUs and CUDA devices are supported; choose auto, cpu or cuda"),
        ({"warmup_length": 33}, "start length 33 of the warm-up is not within 1 to the window length 32"),
        ({"size": "huge"}, "no published size is called 'huge': choose one of tiny-1k,"),
        ({"length": 65}, "windows of 65 tokens: the model is made for 64; lower `length` and `eval_length`"),
        ({"eval_length": 65}, "windows of 65 tokens: the model is made for 64; lower `length` and `eval_length`"),
        ({"max_n_fraction": -1.0}, "`max_n_fraction` -1.0: must be from 0 to 1"),
        ({"model_fields": {"architectures": "x"}}, "`model_fields`: HyenaDNAConfig has no field architectures"),
        ({"model_fields": {"d_model": 16}}, "`model_fields`: d_model has an option of its own, which sets it too"),
        ({"model_fields": {"embed_dropout": 0.5}}, "`model_fields`: embed_dropout has an option of its own, which"),
        (
            {"model_fields": {"hyena_filter_dropout": 0.5}},
            "`model_fields` {'hyena_filter_dropout': 0.5}: make no model (HyenaFilter: dropout=0.5 is not supported",
        ),
        ({"model_fields": {"widht": 3}}, "`model_fields`: HyenaDNAConfig has no field widht"),
        (
            {"model_fields": {"hyena_dropout": 5.0}},
            "config: hyena_dropout must be a finite number from 0 to 1, got 5.0",
        ),
        (
            {"init_from": Path("owner/name")},
            "`init_from` owner/name: has the shape of its own model; leave out `d_model`, `max_seq_len`",
        ),
        (
            {"init_from": Path("owner/name"), "d_model": None, "max_seq_len": None, "size": "tiny-16k"},
            "`init_from` owner/name: has the shape of its own model; leave out `size`",
        ),
    ],
)
def test_refuses_what_makes_no_run_and_writes_nothing(
    tiny: PretrainConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        pretrain(dataclasses.replace(tiny, **change), progress=False)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not tiny.out.exists()


def test_an_absent_cuda_device_is_refused(tiny: PretrainConfig) -> None:
    with pytest.raises(InputError, match="`device` cuda:99: torch sees "):
        pretrain(dataclasses.replace(tiny, device="cuda:99"), progress=False)


def test_goes_on_from_a_checkpoint_in_full_precision(tiny: PretrainConfig, tmp_path: Path) -> None:
    start = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=64)).bfloat16()
    start.save_pretrained(tmp_path / "start")
    config = dataclasses.replace(tiny, init_from=tmp_path / "start", d_model=None, max_seq_len=None, embed_dropout=0.25)
    model = make_model(config)
    assert model.dtype == torch.float32
    assert model.config.embed_dropout == 0.25
    torch.testing.assert_close(model.lm_head.weight, start.lm_head.weight.float(), rtol=0, atol=0)
    result = pretrain(dataclasses.replace(config, steps=1, eval_every=0), progress=False)
    assert HyenaDNAForCausalLM.from_pretrained(result.model).config.d_model == 8


def test_model_fields_reach_the_model(tiny: PretrainConfig) -> None:
    model = make_model(dataclasses.replace(tiny, model_fields={"filter_order": 8, "n_layer": 3}))
    assert (model.config.filter_order, model.config.n_layer, model.config.d_inner) == (8, 3, 64)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_loss_perplexity_speed_and_time_left(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    pretrain(dataclasses.replace(tiny, steps=3, eval_every=2))
    last = sys.stderr.getvalue().split("\r")[-1]  # type: ignore[attr-defined]
    row = [row for row in read_metrics(tiny.out / "metrics.jsonl") if "loss" in row][-1]
    assert f"loss {row['loss']:.4f}, perplexity {row['perplexity']:.4f}" in last
    assert "tokens/s" in last
    assert "3/3" in last
    assert "<00:00" in last
    assert [line.split(" perplexity")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step 2: validation",
        "step 3: final validation",
    ]


def test_says_nothing_if_asked_to(tiny: PretrainConfig, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain(dataclasses.replace(tiny, steps=2, eval_every=1), progress=False)
    assert capfd.readouterr() == ("", "")


def test_tensorboard_gets_the_metrics_where_it_is_installed(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, float, int]] = []
    opened: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            opened.append((folder, purge_step))

        def __enter__(self) -> SummaryWriter:
            return self

        def __exit__(self, *error: object) -> None:
            opened.append("closed")

        def add_scalar(self, key: str, value: float, step: int) -> None:
            shown.append((key, value, step))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    pretrain(dataclasses.replace(tiny, steps=2, eval_every=0), progress=False)
    assert opened == [(str(tiny.out / "tensorboard"), 1), "closed"]
    logged = read_metrics(tiny.out / "metrics.jsonl")
    assert shown == [(k, v, row["step"]) for row in logged for k, v in row.items() if k != "step"]


def test_runs_outside_the_main_thread(tiny: PretrainConfig) -> None:
    done: list[int] = []
    short = dataclasses.replace(tiny, steps=2, eval_every=0)
    thread = threading.Thread(target=lambda: done.append(pretrain(short, progress=False).steps))
    thread.start()
    thread.join()
    assert done == [2]


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(tiny: PretrainConfig) -> None:
    with pytest.raises(InputError, match=r"step \d+: the loss is (nan|inf), .*; lower `lr`"):
        pretrain(
            dataclasses.replace(tiny, lr=1e30, checkpoint_every=1, **NO_WARMUP),
            progress=False,
        )
    for checkpoint in RunFolder(tiny.out).checkpoints():
        weights = HyenaDNAForCausalLM.from_pretrained(checkpoint).state_dict()
        assert all(tensor.isfinite().all() for tensor in weights.values())
    text = (tiny.out / "metrics.jsonl").read_text() if (tiny.out / "metrics.jsonl").exists() else ""
    assert "NaN" not in text


def test_a_gradient_that_is_no_number_is_not_saved(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = train.optimizer_step
    monkeypatch.setattr(train, "optimizer_step", lambda *args: (step(*args)[0], float("nan")))
    with pytest.raises(InputError, match="the gradient's norm nan"):
        pretrain(dataclasses.replace(tiny, checkpoint_every=1), progress=False)
    assert sorted(path.name for path in tiny.out.iterdir()) == ["config.yaml", "splits.bed"]


def test_too_little_gpu_memory_is_one_line(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB")

    monkeypatch.setattr(HyenaDNAModel, "forward", exhausted)
    with pytest.raises(InputError) as caught:
        pretrain(tiny, progress=False)
    assert str(caught.value) == (
        "4 windows of 16 tokens do not fit into the memory of cpu: raise `accumulate`, or turn on "
        "`gradient_checkpointing`"
    )


def test_an_error_of_a_worker_is_the_one_line_it_was() -> None:
    def loader() -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        try:
            raise InputError("no window: raise max_n_fraction")
        except InputError:
            ExceptionWrapper(sys.exc_info(), "in DataLoader worker process 0").reraise()

    batches = train.one_line_errors(loader())  # type: ignore[arg-type]
    next(batches)
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "no window: raise max_n_fraction"


def test_learns_a_repeat(tmp_path: Path) -> None:
    unit = "ACGTTGCAGTC"
    (tmp_path / "g.fa").write_text(f">a\n{unit * 300}\n>b\n{unit * 30}\n")
    prepare(tmp_path / "g.fa", tmp_path / "genome", progress=False)
    result = pretrain(
        PretrainConfig(
            genome=tmp_path / "genome",
            out=tmp_path / "run",
            valid_contigs=["b"],
            reverse_complement=False,
            d_model=32,
            max_seq_len=32,
            embed_dropout=0.0,
            length=32,
            batch_size=4,
            steps=60,
            lr=1e-2,
            eval_every=0,
            log_every=60,
            device="cpu",
        ),
        progress=False,
    )
    # Four nucleotides at random cost 1.386 nats. The first few of a window cannot be told from the phase alone.
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["loss"] < 0.2
    assert result.valid.score.perplexity < 1.2
    assert result.valid.score.accuracy > 0.95
