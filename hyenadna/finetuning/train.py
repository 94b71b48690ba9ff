"""Fine-tune on labelled sequences: the command, the runs side by side, and the loop of one run, in this order."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from hyena_kernels import SegmentPlan
from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.common.parts import tell_idle
from hyenadna.common.progress import StepBar
from hyenadna.common.run_layout import METRICS_FILE, MODEL_FOLDER, RESULTS_FILE, settings
from hyenadna.common.vocab import PAD_ID
from hyenadna.common.world import world
from hyenadna.common.writers import one_writer
from hyenadna.data.dataset import LabelledDataset
from hyenadna.data.sequences import batches
from hyenadna.evaluation.metrics import NOT_FINITE, measure
from hyenadna.finetuning.batches import IGNORED, augment, draw_examples, epoch_batches, parts
from hyenadna.finetuning.config import FinetuneConfig, apply_ablation, apply_architecture, apply_preset, changes
from hyenadna.finetuning.data import Splits, read_data
from hyenadna.finetuning.models import make_language_head, make_model
from hyenadna.finetuning.results import as_lines, draw_curves, summarise
from hyenadna.finetuning.runs import Run, RunFolders
from hyenadna.finetuning.unfreezing import Unfreezing
from hyenadna.inference.logits import batch_logits, packed_logits
from hyenadna.model.device import autocast, pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.loss import next_token_loss_of_states
from hyenadna.model.words import words_of
from hyenadna.training.optim import lr_scale, parameter_groups

_PLATEAU_FACTOR = 0.1
"""What ``lr_schedule`` plateau multiplies the learning rate with: the default of torch's ReduceLROnPlateau."""


@without_transformers_bars()
@one_writer(make_folders=True)
def finetune(config: FinetuneConfig, *, progress: bool = True) -> dict[str, Any]:
    """Fine-tune, write the folder ``config.out``, and return the contents of its results.json.

    Several processes share out the runs, see :func:`hyenadna.common.world.world`.

    With ``jobs`` above 1 each spawns further ones. A script that calls this then needs the guard
    ``if __name__ == "__main__":``.

    Raises:
        InputError: data, a checkpoint or options that do not fit. Finished runs are kept in ``OUT.partial``, and
            ``resume`` continues with the others.
    """
    # 1. The options, the data and the runs.
    with world().agreed():
        given = apply_ablation(apply_architecture(config))
        config = apply_preset(given)
        config.check()
    tells = progress and world().is_first
    if tells and config.preset is not None:
        print(f"preset {config.preset} sets {changes(given, config)}", file=sys.stderr)
    metric = config.chosen_metric
    folders = RunFolders(config.out, settings(config), resume=config.resume, lower_is_better=metric == "mse")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with world().agreed():
        device = pick_device(config.device)
        folds = read_data(config)
    if tells:
        for note in dict.fromkeys(note for data in folds for note in data.notes):
            print(f"warning: {note}", file=sys.stderr)
    runs = [
        Run(data, seed, fold if config.folds else 0)
        for fold, data in enumerate(folds, start=1)
        for seed in config.seeds
    ]

    def finished() -> str:
        count = sum(map(folders.is_finished, runs))
        return f"{count} of {len(runs)} runs" if count else ""

    if tells and finished():
        print(f"{finished()} are finished, continuing with the others")
    with folders.keep(finished):
        # 2. Train the runs that are not finished yet.
        _train_all(config, runs, folders, device, progress)
        # 3. Write the results of all runs, and the best model.
        summary = world().first(lambda: _write_results(config, folds, runs, folders))
    return summary


def _write_results(
    config: FinetuneConfig, folds: list[Splits], runs: Sequence[Run], folders: RunFolders
) -> dict[str, Any]:
    """Write the folder of the finished runs, and return the contents of its results.json."""
    folders.check_complete(runs)
    curves, results = map(list, zip(*map(folders.load, runs), strict=True))
    best_model = folders.keep_best_model(runs)
    summary = summarise(config, folds, results, json.loads((best_model / "config.json").read_text(encoding="utf-8")))
    with atomic_dir(config.out, merge=True) as draft:
        (draft / RESULTS_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        (draft / METRICS_FILE).write_bytes(as_lines(curves))
        draw_curves(curves, summary, draft / "training.png")
        shutil.copytree(best_model, draft / MODEL_FOLDER)
    folders.remove()
    return summary


# Runs, one after another or side by side


def _train_all(
    config: FinetuneConfig, runs: Sequence[Run], folders: RunFolders, device: torch.device, progress: bool
) -> None:
    """Train the unfinished ones of ``runs``. Each is saved in its folder when it ends.

    The processes of the world share them out. After an error in one, the others end when their current runs are saved.
    """
    folders.begin_together()
    places = world().first(lambda: folders.unfinished(runs))
    if places:
        tell_idle(len(places), "run", "each run is trained by one process")
    own = [runs[place] for place in places[world().rank :: world().size]]
    with world().agreed(), folders.stop_others():
        _train_own(config, own, runs, folders, device, progress)


def _train_own(
    config: FinetuneConfig,
    own: Sequence[Run],
    runs: Sequence[Run],
    folders: RunFolders,
    device: torch.device,
    progress: bool,
) -> None:
    """Train the runs of this process, ``config.jobs`` at a time."""
    jobs = min(config.jobs, len(own))
    if jobs <= 1:
        for run in own:
            if folders.others_stopped():
                return
            _train_and_save(config, run, folders, device, progress)
            folders.keep_best_model(runs)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads,)) as pool:
        try:
            futures = [pool.submit(_train_and_save, config, run, folders, device, progress) for run in own]
            for future in as_completed(futures):
                future.result()
                folders.keep_best_model(runs)
                if folders.others_stopped():
                    pool.shutdown(cancel_futures=True)
                    return
        except BaseException as error:
            # Nobody needs the runs that other processes still train.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, BrokenProcessPool):
                raise
            raise InputError(
                f"a process of `jobs` {config.jobs} ended before its run: out of memory (take fewer jobs, or a smaller "
                '`batch_size`), or a Python script without the guard if __name__ == "__main__"'
            ) from error


def _start_worker(threads: int) -> None:
    # An interrupt at the terminal reaches every process. The first one reports it, the others end silently.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)


@without_transformers_bars()
def _train_and_save(
    config: FinetuneConfig, run: Run, folders: RunFolders, device: torch.device, progress: bool
) -> None:
    model, epochs, result = train(config, run.data, run.seed, device, run.name, progress)
    if run.fold:
        result["fold"] = run.fold
        epochs = [{"fold": run.fold, **row} for row in epochs]
    folders.save(run, model, epochs, result)


# One run


def train(
    config: FinetuneConfig, data: Splits, seed: int, device: torch.device, name: str, progress: bool
) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """One run.

    Args:
        config: the options.
        data: the splits.
        seed: seed of the new weights, the order of the examples and the random changes to them.
        device: where to train.
        name: name of the run in messages.
        progress: show a bar, and a line for every epoch.

    Returns:
        The model with the weights of its best epoch, a row for each epoch, and the metrics of the test split.

    Raises:
        InputError: the loss is not finite, or the metric has no value on the validation split.
    """
    # 1. The model, the optimizer, and a moving average of the weights.
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, trained = make_model(config, data, seed)
    model.to(device)
    unfreezing = Unfreezing(config, trained)
    head = make_language_head(config, model).to(device) if config.lm_weight else None
    learnt = trained if head is None else nn.ModuleList([trained, head])
    optimizer = torch.optim.AdamW(parameter_groups(learnt, config.weight_decay), lr=config.lr)
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)) if config.ema_decay else None
    validated = trained if average is None else average.module
    words = words_of(getattr(model, "config", None))
    metric = config.chosen_metric
    best = BestEpoch(lower_is_better=metric == "mse")
    examples = draw_examples(data.train, config.train_examples, config.split_seed)
    total_steps = config.epochs * math.ceil(len(examples) / config.batch_size)
    warmup_steps = config.lr_warmup_steps or math.ceil(config.lr_warmup * total_steps)
    lr_steps = config.lr_steps or total_steps
    longest = max(map(len, examples.sequences))
    epochs: list[dict[str, Any]] = []
    step, plateau, started = 0, 1.0, time.perf_counter()

    with StepBar(name, total_steps, progress=progress, alone=config.jobs == 1 and world().size == 1) as bar:
        for epoch in range(1, config.epochs + 1):
            # 2. One pass over the training split.
            unfreezing.begin(epoch)
            losses: list[float] = []
            lm_losses: list[float] = []
            most, micro_batches = length_stage(config, epoch, longest)
            for rows in epoch_batches(examples, config.batch_size, rng, balanced=config.balanced):
                if config.lr_schedule == "cosine":
                    scale = lr_scale(step, lr_steps, warmup_steps, config.min_lr_factor)
                else:
                    scale = plateau * min(1.0, (step + 1) / max(1, warmup_steps))
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * scale
                sequences = [examples.sequences[row] for row in rows]
                sequences = augment(sequences, rng, both_strands=config.reverse_complement, crop=config.crop, most=most)
                optimizer.zero_grad(set_to_none=True)
                step_loss = step_lm_loss = 0.0
                for part in parts(
                    examples, rows, sequences, device, config.pack_tokens, words, accumulate=micro_batches
                ):
                    loss, lm_loss = batch_losses(config, trained, head, *part)
                    step_loss += float(loss.detach())
                    if lm_loss is not None:
                        step_lm_loss += float(lm_loss.detach())
                        loss = loss + config.lm_weight * lm_loss
                    if not math.isfinite(total := float(loss.detach())):
                        raise InputError(f"{name}, step {step + 1}: the loss is {total:g}; lower `lr`")
                    loss.backward()
                losses.append(step_loss)
                if head is not None:
                    lm_losses.append(step_lm_loss)
                torch.nn.utils.clip_grad_norm_(learnt.parameters(), config.clip)
                optimizer.step()
                if average is not None:
                    average.update_parameters(trained)
                step += 1
                bar.update()

            # 3. Validate, and keep the weights if they are the best so far.
            values, reasons = score(validated, data.valid, config, device)
            if (value := values.get(metric)) is None:
                reason = reasons.get(metric, "it is for the 919 outputs of DeepSEA")
                advice = "lower `lr`" if reason == NOT_FINITE else "choose another `metric`"
                raise InputError(f"{metric} has no value on the validation split ({reason}): {advice}")
            best.update(epoch, value, validated)
            if best.epoch != epoch and epoch >= unfreezing.last_start:
                plateau = max(_PLATEAU_FACTOR * plateau, config.min_lr_factor)
            row = {"seed": seed, "epoch": epoch, "step": step, "loss": float(np.mean(losses))}
            if config.warmup_length is not None:
                row["length"] = most or longest
            if config.unfreeze_every:
                row["stage"] = unfreezing.stage(epoch)
            if lm_losses:
                row["lm_loss"] = float(np.mean(lm_losses))
            epochs.append({**row, f"valid_{metric}": value})
            if progress:
                # One write for each line, so that the lines of processes side by side stay whole.
                line = f"{name}, epoch {epoch}: loss {row['loss']:.4f}, validation {metric} {value:.4f}\n"
                tqdm.write(line, file=sys.stderr, end="")
            if epoch - max(best.epoch, unfreezing.last_start - 1) >= config.patience:
                break

    # 4. Test the best epoch.
    trained.load_state_dict(best.weights)
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {"seed": seed, "best_epoch": best.epoch, "valid": best.value, "seconds": seconds}
    if config.method == "few-shot":
        result["shots"] = {}
        for shots in config.eval_shots:
            trained.shots = shots
            result["shots"][str(shots)] = score(trained, data.test, config, device)[0]
        trained.shots = config.shots
    result["test"], result["undefined"] = score(trained, data.test, config, device)
    made = trained.merge_and_unload() if config.method == "lora" else model
    result["parameters"] = sum(parameter.numel() for parameter in made.parameters())
    return made, epochs, result


def length_stage(config: FinetuneConfig, epoch: int, longest: int) -> tuple[int | None, int]:
    """What the warm-up of lengths makes of an epoch.

    Args:
        config: the options.
        epoch: its number, from 1.
        longest: bases of the longest training sequence.

    Returns:
        The greatest number of bases that training sees of a sequence, or None for all; and the number of micro-batches,
        as few as have no more bases than one of whole sequences.
    """
    if config.warmup_length is None:
        return None, config.accumulate
    most = config.warmup_length << ((epoch - 1) // config.warmup_length_epochs)
    if most >= longest:
        return None, config.accumulate
    return most, math.ceil(config.accumulate * most / longest)


class BestEpoch:
    """The best epoch so far.

    Args:
        lower_is_better: for the value on the validation split.

    Attributes:
        epoch: its number, from 1. The first of equal ones is the best.
        value: its value on the validation split.
        weights: a copy of its state dict.
    """

    def __init__(self, *, lower_is_better: bool) -> None:
        self._lower_is_better = lower_is_better
        self.epoch = 0
        self.value = math.inf if lower_is_better else -math.inf
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, value: float, model: nn.Module) -> None:
        """Copy the weights of ``model`` if ``value`` is better than the best."""
        if value < self.value if self._lower_is_better else value > self.value:
            self.epoch, self.value = epoch, value
            self.weights = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


# Losses


def batch_losses(
    config: FinetuneConfig,
    model: Any,
    head: nn.Linear | None,
    ids: Tensor,
    labels: Tensor,
    segments: SegmentPlan | None,
    share: float,
    lm_share: float,
) -> tuple[Tensor, Tensor | None]:
    """The part in a step's mean loss of the labels and, with a language ``head``, of the next token, both in float32.

    Args:
        config: the task and the precision.
        model: the module that is trained.
        head: see :func:`make_language_head`.
        ids: see :class:`hyenadna.finetuning.batches.Part`, as the others.
        labels: its labels.
        segments: the sequences of a packed row.
        share: what the mean loss of its labels is multiplied with.
        lm_share: what the mean loss of its next tokens is multiplied with.
    """
    options: dict[str, Any] = {} if head is None else {"output_hidden_states": True}
    if segments is not None:
        options["cu_seqlens"] = segments
    with autocast(config.autocast, ids.device):
        output = model(ids, **options)
    loss = share * label_loss(output.logits, labels, config.task)
    if head is None:
        return loss, None
    with autocast(config.autocast, ids.device):
        return loss, lm_share * mean_next_token_loss(output.hidden_states[-1], ids, head, segments)


def label_loss(logits: Tensor, labels: Tensor, task: str) -> Tensor:
    """Mean loss in float32: cross entropy, binary cross entropy, or squared error."""
    logits = logits.float()
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if task == "regression":
        return F.mse_loss(logits, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def mean_next_token_loss(hidden: Tensor, ids: Tensor, head: nn.Linear, segments: SegmentPlan | None = None) -> Tensor:
    """Mean cross entropy of the next token in nats, over all positions but pads.

    Args:
        hidden: the last hidden states, ``(B, L, D)``.
        ids: int64 ``(B, L)``, padded with [PAD].
        head: from hidden states to logits of tokens.
        segments: the sequences of a packed row. The first token of one follows no other.
    """
    # All positions, because the gradient of a slice would be a copy. The last one has no target.
    targets = F.pad(ids[:, 1:], (0, 1), value=PAD_ID)
    if segments is not None:
        targets[:, segments.cu_seqlens[1:] - 1] = PAD_ID
    total = next_token_loss_of_states(hidden, head, targets, ignored=(PAD_ID,))
    return total / (targets != PAD_ID).sum().clamp(min=1)


# Predictions


def predict(model: Any, dataset: LabelledDataset, config: FinetuneConfig, device: torch.device) -> np.ndarray:
    """Logits of every example, float32 ``(n, columns)``. For tokens, of every base, ``(all bases, columns)``."""
    # Sequences of similar length share a batch, so that few pads are needed.
    order = sorted(range(len(dataset)), key=lambda row: -len(dataset.sequences[row]))
    found: dict[int, np.ndarray] = {}
    was_training = model.training
    model.eval()
    with autocast(config.autocast, device):
        # Validation takes no more at a time than training.
        rows_at_once = -(-config.batch_size // config.accumulate)
        for places in batches([len(dataset.sequences[row]) for row in order], rows_at_once, config.pack_tokens):
            rows = order[places]
            sequences = [dataset.sequences[row] for row in rows]
            if config.pack_tokens:
                logits: Any = packed_logits(model, sequences, device, both_strands=config.reverse_complement)
            else:
                logits = batch_logits(model, sequences, device, both_strands=config.reverse_complement).cpu()
            found |= {row: values.numpy() for row, values in zip(rows, logits, strict=True)}
    model.train(was_training)
    if config.task == "token":
        return np.concatenate([found[row][: len(ids)] for row, ids in enumerate(dataset.sequences)])
    return np.stack([found[row] for row in range(len(dataset))])


def score(
    model: Any, dataset: LabelledDataset, config: FinetuneConfig, device: torch.device
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every metric of a split, None if undefined, and the reasons of those that are undefined."""
    labels = np.concatenate(dataset.labels) if isinstance(dataset.labels, list) else dataset.labels
    return measure(config.task, predict(model, dataset, config, device), labels)
