"""Fine-tuning on labelled sequences: configuration and loop.

The splits are made in ``finetune_data.py``, the tables and pictures of what was reached in ``finetune_results.py``.
"""

from __future__ import annotations

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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from hyenadna.common.choices import DEFAULT_METRIC
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.files import atomic_dir, write_files
from hyenadna.common.progress import StepBar
from hyenadna.common.run_layout import plain
from hyenadna.common.vocab import PAD_ID, reverse_complement
from hyenadna.data.labelled import Labelled
from hyenadna.data.sequences import to_tensor
from hyenadna.evaluation.metrics import NOT_FINITE, measure
from hyenadna.finetuning.config import _FREE, _PROMPTED, FinetuneConfig, apply_preset
from hyenadna.finetuning.data import Data, read_data
from hyenadna.finetuning.partial import FinishedRuns
from hyenadna.finetuning.results import RESULTS_FILE, as_lines, draw_curves, summarise
from hyenadna.inference.prompted import PromptedClassifier, make_prompted, save_prompted
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.device import autocast, pick_device
from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.model.tokenizer import DNATokenizer
from hyenadna.training.optim import learning_rate_factor, parameter_groups

_PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "token": None,
}


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
        with atomic_dir(config.out, merge=True) as draft:
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
