"""Fine-tuning on labelled sequences: configuration and loop.

The splits are made in ``finetune_data.py``, the tables and pictures of what was reached in ``finetune_results.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from hyenadna.checkpoint import whole_folder
from hyenadna.config import HyenaDNAConfig
from hyenadna.device import autocast, pick_device
from hyenadna.errors import InputError
from hyenadna.extras import require
from hyenadna.files import write_files
from hyenadna.finetune_data import Data, read_data
from hyenadna.finetune_partial import FinishedRuns
from hyenadna.finetune_results import RESULTS_FILE, as_lines, draw_curves, summarise
from hyenadna.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
from hyenadna.labelled import FORMATS, Labelled
from hyenadna.metrics import DEFAULT_METRIC, NAMES, NOT_FINITE, TASKS, measure
from hyenadna.model import HyenaDNAForCausalLM
from hyenadna.optim import learning_rate_factor, parameter_groups
from hyenadna.presets import preset
from hyenadna.progress import StepBar, without_transformers_bars
from hyenadna.prompting import PromptedClassifier, make_prompted, save_prompted
from hyenadna.run_folder import plain
from hyenadna.sequences import reverse_complement, to_tensor
from hyenadna.tokenizer import DNATokenizer
from hyenadna.vocab import PAD_ID

METHODS = ("full", "frozen", "lora", "scratch", "soft-prompt", "few-shot")
_PROMPTED = ("soft-prompt", "few-shot")
_PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "token": None,
}
# Options that say how the runs are carried out, and may change on --resume.
_FREE = ("out", "resume", "jobs", "threads", "device")


@dataclass
class FinetuneConfig:
    """What to train on which labels, and how.

    Args:
        data: a table (CSV, TSV, Parquet), a folder of GenomicBenchmarks (train/CLASS/*.txt), of the Nucleotide
            Transformer (train.fna, test.fna), of DeepSEA's coordinates (*train*.csv) or of species.
        out: folder for results.json, metrics.jsonl, training.png and the best model, at the end; until then the
            finished runs are in OUT.partial.
        model: checkpoint to start from; none for --method scratch.
        method: full, frozen (the head alone), lora, scratch, soft-prompt (vectors before a frozen language model, which
            answers with a letter), or few-shot (demonstrations in its context, the model trained to use them).
        task: classification, multilabel (several outputs of 0 and 1), regression, or token (a letter for each base).
        preset: published task, whose hyperparameters, length and metric take the place of the defaults; its figure
            is printed beside the result.
        format: of the data; auto goes by what is there, else one of table, genomic-benchmarks, fna, deepsea, species.
        sequence_column: of a table.
        label_columns: of a table.
        split_column: of a table, with train, valid or test. Without it, and without splits in the data, 10% are for
            validation and 20% for the test, drawn with split_seed.
        genome: of DeepSEA's coordinates.
        length: of windows of DeepSEA's coordinates and species; longer sequences of others are cut to their middle.
        species_windows: windows of each species in training.
        valid_fraction: share of the training examples held out for validation, where the data have no such split.
        split_seed: of all splits that are drawn; the same for every seed.
        folds: cross-validation over the training examples, each fold the test once; 0 for none.
        pooling: mean over the bases, last, or first.
        epochs: passes over the training examples, at most.
        patience: epochs without a better validation after which training stops.
        metric: that decides on the best epoch; default accuracy, auroc for multilabel, pearson for regression.
        batch_size: sequences at a time.
        lr: peak learning rate.
        min_lr_factor: learning rate at the end, as a factor of the peak.
        lr_warmup: share of the steps with a linear warm-up.
        weight_decay: of the weights that decay.
        clip: greatest norm of the gradient.
        ema_decay: of a moving average of the weights, such as 0.998, which is validated, tested and saved in place of
            the weights themselves; 0 for none.
        balanced: draw every class equally often.
        reverse_complement: show half of the sequences as their reverse complement, and average both in prediction.
        crop: bases at most that training cuts from each end of a sequence, another number every time, so that no place
            in it is learnt by heart; at least one base stays. Demonstrations of few-shot are not cut.
        lm_weight: of the loss of the next nucleotide of the training sequences, added to that of their labels (Radford
            et al. 2018, equation 5, where it is 0.5); 0 for none. It is read by the head of the checkpoint, or a new
            one, which is trained along and not kept.
        lora_rank: of --method lora.
        prompt_tokens: vectors of --method soft-prompt, 2 to 32,000.
        shots: demonstrations of each class in training, of --method few-shot.
        eval_shots: demonstrations of each class in the test, one result for each number.
        size: published size, of --method scratch.
        d_model: width, in place of the size's.
        n_layer: number of layers, in place of the size's.
        max_seq_len: longest sequence, in place of the size's.
        model_fields: further fields of HyenaDNAConfig, such as short_filter_order or embed_dropout.
        seeds: one run for each.
        jobs: runs of seeds and folds at a time, each in a process of its own with its share of the threads. Small
            models gain little from a second thread and much from a second run. On a GPU they share it.
        resume: go on with the seeds and folds that a stopped run, with the same options, has not finished.
        yardstick: compare with logistic regression on 5-mer counts and the commonest class.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
        autocast: auto is bfloat16 on a GPU and off on a CPU; or bfloat16, float16, off.
        threads: CPU threads of all jobs together; default PyTorch's.
    """

    data: Path
    out: Path
    model: Path | None = None
    method: str = "full"
    task: str = "classification"
    preset: str | None = None
    format: str = "auto"
    sequence_column: str = "sequence"
    label_columns: list[str] = field(default_factory=lambda: ["label"])
    split_column: str | None = None
    genome: Path | None = None
    length: int | None = None
    species_windows: int = 1000
    valid_fraction: float = 0.1
    split_seed: int = 0
    folds: int = 0
    pooling: str = "mean"
    epochs: int = 20
    patience: int = 5
    metric: str | None = None
    batch_size: int = 32
    lr: float = 6e-4
    min_lr_factor: float = 0.1
    lr_warmup: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    ema_decay: float = 0.0
    balanced: bool = False
    reverse_complement: bool = False
    crop: int = 0
    lm_weight: float = 0.0
    lora_rank: int = 8
    prompt_tokens: int = 16
    shots: int = 2
    eval_shots: list[int] = field(default_factory=lambda: [0, 2])
    size: str = "tiny-1k"
    d_model: int | None = None
    n_layer: int | None = None
    max_seq_len: int | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    jobs: int = 1
    resume: bool = False
    yardstick: bool = False
    device: str = "auto"
    autocast: str = "auto"
    threads: int | None = None

    def check(self) -> None:
        """Raise InputError for values that make no run."""
        for name, choices in (("method", METHODS), ("task", TASKS), ("format", FORMATS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} {getattr(self, name)}: choose {', '.join(choices)}")
        if (self.method == "scratch") == (self.model is not None):
            raise InputError(f"--method {self.method}: {'leave out' if self.model else 'needs a'} --model")
        if self.metric is not None and self.metric not in NAMES[self.task]:
            raise InputError(f"--metric {self.metric}: of {self.task} choose {', '.join(NAMES[self.task])}")
        for name, least in (
            ("epochs", 1), ("patience", 1), ("batch_size", 1), ("lora_rank", 1), ("species_windows", 1), ("folds", 0),
            ("jobs", 1), ("crop", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if self.method in _PROMPTED and (self.task != "classification" or self.reverse_complement):
            raise InputError(f"--method {self.method} is for --task classification, without --reverse_complement")
        if not 2 <= self.prompt_tokens <= 32_000:
            raise InputError(f"--prompt_tokens {self.prompt_tokens}: must be within 2 and 32000")
        if min([self.shots, *self.eval_shots]) < 0 or not self.eval_shots:
            raise InputError("--shots and --eval_shots must be at least 0, and of the latter at least one")
        if self.folds == 1:
            raise InputError("--folds 1: choose 0 for none, or at least 2")
        if not 0 < self.valid_fraction < 1:
            raise InputError(f"--valid_fraction {self.valid_fraction}: must be within 0 to 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"--ema_decay {self.ema_decay}: must be at least 0 and below 1")
        if not 0 <= self.lm_weight < math.inf:
            raise InputError(f"--lm_weight {self.lm_weight}: must be at least 0")
        if self.lm_weight and self.method in ("frozen", *_PROMPTED):
            raise InputError(f"--method {self.method}: --lm_weight is for --method full, lora and scratch")
        if not 0 < self.lr < math.inf:
            raise InputError(f"--lr {self.lr}: must be above 0")
        if not self.seeds or min(self.seeds) < 0:
            raise InputError("--seeds must be at least one, of 0 or more")
        if len({*self.seeds}) < len(self.seeds):
            raise InputError(f"--seeds {self.seeds}: one is there twice, which would count as a run of its own")
        if self.yardstick and self.task != "classification":
            raise InputError("--yardstick is for --task classification")
        if self.balanced and self.task != "classification":
            raise InputError("--balanced is for --task classification")
        if self.reverse_complement and self.task == "token":
            raise InputError("--reverse_complement: the labels of bases have a strand; leave it out for --task token")
        if self.crop and self.task == "token":
            raise InputError("--crop: the labels of bases are not cut with them; leave it out for --task token")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"--out {self.out}: exists already; choose a folder that does not exist, or is empty")


def apply_preset(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with its preset's options where it has the default.

    Raises:
        InputError: there is no such preset.
    """
    if config.preset is None:
        return config
    wanted = preset(config.preset)
    options = {"metric": wanted.metric, **wanted.options}
    plain = FinetuneConfig(config.data, config.out)
    same = {name: value for name, value in options.items() if getattr(config, name) == getattr(plain, name)}
    return dataclasses.replace(config, **same)


def make_model(config: FinetuneConfig, data: Data, seed: int) -> tuple[Any, Any]:
    """The model, and what is trained: the same, or peft's wrapper around it.

    Raises:
        InputError: a checkpoint or size that does not fit.
    """
    longest = max(len(ids) for split in (data.train, data.valid, data.test) for ids in split.sequences)
    if config.method in _PROMPTED:
        prompted = make_prompted(config, data.names, data.train, longest, seed)
        return prompted, prompted
    kind = HyenaDNAForTokenClassification if config.task == "token" else HyenaDNAForSequenceClassification
    labels: dict[str, Any] = {
        "num_labels": len(data.names),
        "id2label": dict(enumerate(data.names)),
        "label2id": {name: i for i, name in enumerate(data.names)},
        "problem_type": _PROBLEMS[config.task],
        "pooling": config.pooling,
    }
    if config.model is not None:
        model = kind.from_pretrained(config.model, dtype=torch.float32, ignore_mismatched_sizes=True, **labels)
    else:
        shape = {name: getattr(config, name) for name in ("d_model", "n_layer", "max_seq_len")}
        shape = {name: value for name, value in shape.items() if value is not None} | config.model_fields
        if config.d_model is not None:
            shape.setdefault("d_inner", 4 * config.d_model)
        model = kind(HyenaDNAConfig.named(config.size, **shape, **labels))
    if longest > model.config.max_seq_len:
        raise InputError(
            f"a sequence of {longest:,} bases is longer than the {model.config.max_seq_len:,} that the model is made "
            "for: cut them into overlapping windows or take their middle (--length), or use a checkpoint made for "
            "longer sequences"
        )
    if config.method == "frozen":
        for parameter in model.hyena.parameters():
            parameter.requires_grad_(False)
    if config.method != "lora":
        return model, model
    peft = require("peft")
    task = "TOKEN_CLS" if config.task == "token" else "SEQ_CLS"
    settings = peft.LoraConfig(
        task_type=task,
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        # Every Linear of the backbone, the filters' own among them; the head is trained whole.
        target_modules=r".*\.(in_proj|out_proj|fc1|fc2|implicit_filter\.\d*[02468])",
        modules_to_save=["score"],
    )
    return model, peft.get_peft_model(model, settings)


def targets(data: Labelled, rows: Sequence[int], task: str, device: torch.device) -> Tensor:
    """Labels of a batch: int64 ``(B,)``, float32 ``(B, outputs)``, or int64 ``(B, L)`` with -100 at pads."""
    if not isinstance(data.labels, list):
        return torch.from_numpy(data.labels[list(rows)]).to(device)
    found = [torch.from_numpy(data.labels[i]) for i in rows]
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-100).to(device)


def loss_of(logits: Tensor, labels: Tensor, task: str) -> Tensor:
    """Mean loss in float32: cross entropy, binary cross entropy, or squared error."""
    logits = logits.float()
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if task == "regression":
        return F.mse_loss(logits, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def make_language_head(config: FinetuneConfig, model: Any) -> nn.Linear:
    """The head that reads the next token for ``--lm_weight``: the checkpoint's, or a new one.

    Raises:
        InputError: the checkpoint has none.
    """
    if config.model is not None:
        try:
            head: nn.Linear = HyenaDNAForCausalLM.from_pretrained(config.model, dtype=torch.float32).lm_head
        except InputError as error:
            raise InputError(f"--lm_weight needs a checkpoint with the head of a language model: {error}") from error
        return head
    head = nn.Linear(model.config.d_model, model.config.padded_vocab_size, bias=False)
    nn.init.normal_(head.weight, std=model.config.initializer_range)
    return head


def next_token_loss(hidden: Tensor, ids: Tensor, head: nn.Linear) -> Tensor:
    """Mean cross entropy of the next token ``head(hidden)`` over all positions but pads: ``(B, L, D)``, ``(B, L)``."""
    following = ids[:, 1:].long()
    following = following.masked_fill(following == PAD_ID, -100)
    logits = head(hidden[:, :-1]).float().flatten(0, 1)
    return F.cross_entropy(logits, following.flatten(), reduction="sum") / (following != -100).sum().clamp(min=1)


def predict(model: Any, data: Labelled, config: FinetuneConfig, device: torch.device) -> np.ndarray:
    """Logits of every example, float32 ``(n, columns)``; for tokens, ``(all bases, columns)``."""
    order = sorted(range(len(data)), key=lambda i: -len(data.sequences[i]))
    found: list[np.ndarray | None] = [None] * len(data)
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(config.autocast, device):
        for first in range(0, len(order), config.batch_size):
            rows = order[first : first + config.batch_size]
            sequences = [data.sequences[i] for i in rows]
            logits = model(to_tensor(sequences, device)).logits.float()
            if config.reverse_complement:
                logits += model(to_tensor([reverse_complement(ids) for ids in sequences], device)).logits.float()
                logits /= 2
            for i, row in zip(rows, logits.cpu().numpy(), strict=True):
                found[i] = row[: len(data.sequences[i])] if config.task == "token" else row[None]
    model.train(was_training)
    return np.concatenate([row for row in found if row is not None])


def score(
    model: Any, data: Labelled, config: FinetuneConfig, device: torch.device
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Metrics over a whole split, and the reasons of those that are undefined."""
    labels = np.concatenate(data.labels) if isinstance(data.labels, list) else data.labels
    return measure(config.task, predict(model, data, config, device), labels)


def _batches(data: Labelled, config: FinetuneConfig, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of each batch of an epoch."""
    if config.balanced:
        labels = np.asarray(data.labels)
        weights = 1.0 / np.bincount(labels)[labels]
        order = rng.choice(len(data), len(data), p=weights / weights.sum())
    else:
        order = rng.permutation(len(data))
    yield from np.array_split(order, math.ceil(len(order) / config.batch_size))


def _cropped(ids: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """``ids`` without 0 to ``most`` bases at each end."""
    left, right = rng.integers(0, min(most, (len(ids) - 1) // 2), 2, endpoint=True)
    return ids[left : len(ids) - right]


def train(
    config: FinetuneConfig, data: Data, seed: int, device: torch.device, name: str, progress: bool
) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """One run: the model of its best epoch, a row for each epoch, and the metrics of the test split.

    Raises:
        InputError: the loss is no number, or the metric that decides has no value on the validation split.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    metric = config.metric or DEFAULT_METRIC[config.task]
    model, trained = make_model(config, data, seed)
    model.to(device)
    head = make_language_head(config, model).to(device) if config.lm_weight else None
    learnt = trained if head is None else nn.ModuleList([trained, head])
    optimizer = torch.optim.AdamW(parameter_groups(learnt, config.weight_decay), lr=config.lr)
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)) if config.ema_decay else None
    watched = trained if average is None else average.module
    steps = config.epochs * math.ceil(len(data.train) / config.batch_size)
    warmup = math.ceil(config.lr_warmup * steps)
    rows: list[dict[str, Any]] = []
    best, best_state, step, started = -math.inf, dict[str, Tensor](), 0, time.perf_counter()
    with StepBar(name, steps, progress=progress, alone=config.jobs == 1) as bar:
        for epoch in range(1, config.epochs + 1):
            trained.train()
            if config.method == "frozen":
                model.hyena.eval()
            losses, lm_losses = [], []
            for chosen in _batches(data.train, config, rng):
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * learning_rate_factor(step, steps, warmup, config.min_lr_factor)
                sequences = [data.train.sequences[i] for i in chosen]
                if config.reverse_complement:
                    turn = rng.random(len(sequences)) < 0.5
                    sequences = [reverse_complement(s) if t else s for s, t in zip(sequences, turn, strict=True)]
                if config.crop:
                    sequences = [_cropped(ids, config.crop, rng) for ids in sequences]
                ids = to_tensor(sequences, device)
                more = {"output_hidden_states": True} if config.lm_weight else {}
                with autocast(config.autocast, device):
                    output = trained(ids, **more)
                loss = loss_of(output.logits, targets(data.train, chosen.tolist(), config.task, device), config.task)
                losses.append(float(loss.detach()))
                if head is not None:
                    with autocast(config.autocast, device):
                        reading = next_token_loss(output.hidden_states[-1], ids, head)
                    lm_losses.append(float(reading.detach()))
                    loss = loss + config.lm_weight * reading
                if not math.isfinite(whole := float(loss.detach())):
                    raise InputError(f"{name}, step {step + 1}: the loss is {whole:g}; lower --lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learnt.parameters(), config.clip)
                optimizer.step()
                if average is not None:
                    average.update_parameters(trained)
                step += 1
                bar.update()
            values, reasons = score(watched, data.valid, config, device)
            value = values[metric]
            if value is None:
                way_out = "lower --lr" if reasons[metric] == NOT_FINITE else "choose another --metric"
                raise InputError(f"{metric} has no value on the validation split ({reasons[metric]}): {way_out}")
            signed = -value if metric == "mse" else value
            row = {"seed": seed, "epoch": epoch, "step": step, "loss": float(np.mean(losses))}
            if lm_losses:
                row["lm_loss"] = float(np.mean(lm_losses))
            rows.append({**row, f"valid_{metric}": value})
            if progress:
                line = f"{name}, epoch {epoch}: loss {row['loss']:.4f}, validation {metric} {value:.4f}\n"
                # In one piece, so that lines of jobs side by side do not run into each other.
                tqdm.write(line, file=sys.stderr, end="")
            if signed > best:
                best, best_epoch = signed, epoch
                best_state = {key: tensor.detach().clone() for key, tensor in watched.state_dict().items()}
            elif epoch - best_epoch >= config.patience:
                break
    trained.load_state_dict(best_state)
    result: dict[str, Any] = {
        "seed": seed,
        "best_epoch": best_epoch,
        "valid": -best if metric == "mse" else best,
        "seconds": time.perf_counter() - started,
    }
    if config.method == "few-shot":
        result["shots"] = {}
        for trained.shots in config.eval_shots:
            result["shots"][str(trained.shots)] = score(trained, data.test, config, device)[0]
        trained.shots = config.shots
    values, reasons = score(trained, data.test, config, device)
    if config.method == "lora":
        model = trained.merge_and_unload()
    return model, rows, result | {"test": values, "undefined": reasons}


class _Run(NamedTuple):
    """One of the runs of a configuration: its data, seed, fold (0 for none) and name."""

    data: Data
    seed: int
    fold: int
    name: str


_Outcome = tuple[Any, list[dict[str, Any]], dict[str, Any]]


def _start_worker(threads: int) -> None:
    # An interrupt at the terminal reaches every process: the first one tells of it, the others go without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)


@without_transformers_bars()
def _train_pickled(config: FinetuneConfig, run: _Run, device: torch.device, progress: bool) -> bytes:
    """As :func:`train`, in bytes: tensors themselves would be handed over as open files of a process that ends."""
    return pickle.dumps(train(config, run.data, run.seed, device, run.name, progress))


def _train_all(
    config: FinetuneConfig, runs: Mapping[int, _Run], jobs: int, device: torch.device, progress: bool
) -> Iterator[tuple[int, _Outcome]]:
    """The number of each run and what :func:`train` returns, as they end; ``jobs`` at a time share the threads."""
    if jobs == 1:
        for number, run in runs.items():
            yield number, train(config, run.data, run.seed, device, run.name, progress)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(threads,)
    )
    try:
        numbers = {pool.submit(_train_pickled, config, run, device, progress): number for number, run in runs.items()}
        for future in as_completed(list(numbers)):
            # Taken out, for a future keeps its result, a whole model.
            yield numbers.pop(future), pickle.loads(future.result())
    except BaseException as error:
        # What the other processes still train would be for nothing.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"a process of --jobs {config.jobs} ended before its run: out of memory (take fewer jobs, or a smaller "
                '--batch_size), or, from Python, a script without the guard if __name__ == "__main__"'
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@without_transformers_bars()
def finetune(config: FinetuneConfig, *, progress: bool = True) -> dict[str, Any]:
    """Fine-tune as ``config`` says; write the folder and return what results.json holds.

    With ``jobs`` above 1 the processes are spawned: a script that calls this needs the guard
    ``if __name__ == "__main__":``.

    Raises:
        InputError: data, a checkpoint or options that do not fit. The runs that were finished before it are kept in
            ``OUT.partial``, from which ``resume`` goes on.
    """
    config = apply_preset(config)
    config.check()
    metric = config.metric or DEFAULT_METRIC[config.task]
    settings = {name: value for name, value in plain(config).items() if name not in _FREE}
    kept = FinishedRuns(config.out, settings, resume=config.resume, lower_is_better=metric == "mse")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    folds = read_data(config)
    runs = [
        _Run(data, seed, fold if config.folds else 0, f"seed {seed}" + (f", fold {fold}" if config.folds else ""))
        for fold, data in enumerate(folds, start=1)
        for seed in config.seeds
    ]
    if kept.found and progress:
        print(f"{len(kept.found)} of {len(runs)} runs are finished, going on with the others")
    left = {number: run for number, run in enumerate(runs) if number not in kept.found}
    try:
        for number, (model, rows, result) in _train_all(config, left, min(config.jobs, len(runs)), device, progress):
            if fold := runs[number].fold:
                result["fold"] = fold
                rows = [{"fold": fold, **row} for row in rows]
            kept.add(number, partial(_save_model, model), rows, result)
        curves, results = map(list, zip(*(kept.found[number] for number in range(len(runs))), strict=True))
        summary = summarise(config, folds, results)
        with whole_folder(config.out) as draft:
            write_files(
                {
                    draft / RESULTS_FILE: (json.dumps(summary, indent=1) + "\n").encode(),
                    draft / "metrics.jsonl": as_lines(curves),
                }
            )
            draw_curves(curves, f"valid_{metric}", summary, draft / "training.png")
            shutil.copytree(kept.best_model(), draft / "model")
    except (InputError, OSError, KeyboardInterrupt) as error:
        kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError
        if not kept.found:
            kept.remove()
            raise kind(str(error) or "no run was finished, nothing is kept") from error
        reason = f"{error}; " if str(error) else ""
        raise kind(
            f"{reason}{len(kept.found)} of {len(runs)} runs are finished and kept in {kept.folder}: the same command "
            "with --resume goes on with the others"
        ) from error
    kept.remove()
    return summary


def _save_model(model: Any, folder: Path) -> None:
    if isinstance(model, PromptedClassifier):
        save_prompted(model, folder)
    else:
        model.save_pretrained(folder)
        DNATokenizer(model_max_length=model.config.max_seq_len).save_pretrained(folder)
