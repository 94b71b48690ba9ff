"""The loop that all trainings of an encoder-decoder share: :func:`fit`, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyenadna.common.errors import InputError
from hyenadna.common.options import Options
from hyenadna.common.progress import StepBar
from hyenadna.common.run_layout import FINAL_KEY, read_metrics
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.encoder_decoder.tokens import PAD, tokenizer
from hyenadna.model.device import autocast
from hyenadna.model.loading import without_transformers_bars
from hyenadna.pretraining.train import LoopState
from hyenadna.training.logging import metrics_log
from hyenadna.training.run_dir import RunFolder
from hyenadna.training.stop import stop_between_steps

IGNORED = -100
"""Label of pads."""


@dataclass(frozen=True)
class Training:
    """The optimizer and the steps. AdamW as published: betas 0.9 and 0.99, eps 1e-6, a linear schedule.

    The paper writes an eps of 10^6, which is read as 10^-6. It does not say the weight decay.
    """

    steps: int
    batch_size: int
    lr: float
    lr_warmup: float = 0.05
    min_lr_factor: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-6
    clip: float = 1.0
    accumulate: int = 1
    autocast: str = "auto"
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 200
    keep: int = 2
    seed: int = 0


class Batch(NamedTuple):
    """Inputs and targets of some sequences.

    Attributes:
        input_ids: int64 ``(B, L)`` ids of bytes, padded on the right.
        labels: int64 ``(B, T)`` ids of bytes, and ``IGNORED`` at pads.
    """

    input_ids: Tensor
    labels: Tensor


@without_transformers_bars()
def fit(
    make: Callable[[Path | None], ENBEDForConditionalGeneration],
    batch_of: Callable[[int], Batch],
    training: Training,
    config: Options,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    progress: bool = True,
    name: str = "train",
    validate: Callable[[ENBEDForConditionalGeneration], Mapping[str, float]] | None = None,
    identity: Mapping[str, str] | None = None,
) -> ENBEDForConditionalGeneration:
    """Train a model in the folder of a run, or go on with one.

    A run may be stopped at any step, by SIGKILL too, and resumed. On a CPU with the same number of threads it then ends
    with the same bits as one that was never stopped. SIGINT and SIGTERM end the current step, write a checkpoint and
    raise KeyboardInterrupt.

    Args:
        make: the model, new for None, or from the checkpoint of the run.
        batch_of: the batch of a step, from 0. It must depend on nothing else.
        training: the optimizer and the steps.
        config: the options, which a resumed run must have too.
        out: folder of the run: config.yaml, metrics.jsonl, checkpoints and, at the end, model/.
        device: where to train.
        resume: go on from the newest checkpoint, if there is one. A finished run is loaded.
        progress: show a bar.
        name: name of the run in messages.
        validate: metrics of the model, in ``eval()``, every ``eval_every`` steps and at the end. ``valid_loss`` is in
            nats.
        identity: what the data are. A resumed run must have the same.

    Returns:
        The trained model, in ``eval()``.

    Raises:
        InputError: the folder holds another run, the disk is full, the loss is not finite, or the data are others.
    """
    folder = RunFolder(out)
    newest = folder.checkpoints()[-1:] if resume else []
    torch.manual_seed(training.seed)
    # Before the folder: options that make no model must leave none behind.
    model = make(newest[0] if newest else None).to(device)
    checkpoint = folder.start(config, resume=resume)
    known = dict(identity or {})
    saved = None if checkpoint is None else folder.load_state(checkpoint)
    for key, value in known.items():
        if saved is not None and saved.get(key) != value:
            raise InputError(f"{out}: its run was started on other data ({key}); choose another `out`")
    if resume and folder.model.is_dir() and folder.metrics.is_file():
        rows = read_metrics(folder.metrics)
        if rows and FINAL_KEY in rows[-1] and rows[-1]["step"] == training.steps:
            return make(folder.model).to(device).eval()
    state = LoopState.start(model, training, eps=training.eps)
    if saved is not None:
        state.load_state_dict(saved)
    folder.rewind_metrics(state.step)
    if resume and progress:
        print(f"resuming after step {state.step}" if state.step else f"{out}: no checkpoint yet, starting at step 0")
    warmup = math.ceil(training.lr_warmup * training.steps)
    model.train()
    with (
        metrics_log(folder, state.step) as log,
        StepBar(name, training.steps, initial=state.step, progress=progress) as bar,
    ):

        def validated() -> dict[str, float]:
            if validate is None:
                return {}
            model.eval()
            with torch.no_grad(), autocast(training.autocast, device):
                found = dict(validate(model))
            model.train()
            if "valid_loss" in found:
                found["valid_perplexity"] = math.exp(min(found["valid_loss"], 50.0))
            return found

        with stop_between_steps() as stop:
            while state.step < training.steps:
                started = time.perf_counter()
                lr = training.lr * linear_scale(state.step, training.steps, warmup, training.min_lr_factor)
                state.set_lr(lr)
                batch = batch_of(state.step)
                loss, norm = optimizer_step(state, batch, training)
                state.count(int((batch.labels != IGNORED).sum()), time.perf_counter() - started)
                step = state.step
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise InputError(
                        f"{name}, step {step}: the loss is {loss:g}, the gradient's norm {norm:g}; lower `lr`, and "
                        "choose another `out`"
                    )
                bar.update()
                if step % training.log_every == 0 or step == training.steps:
                    row = {"step": step, "loss": loss, "perplexity": math.exp(min(loss, 50.0)), "lr": lr}
                    row |= {"grad_norm": norm, "tokens": state.tokens, "tokens_per_second": state.tokens_per_second()}
                    log(row | {"seconds": state.seconds})
                    bar.set_postfix_str(f"loss {loss:.4f}")
                if training.eval_every and step % training.eval_every == 0 and step < training.steps:
                    found = validated()
                    log({"step": step, **found})
                    if progress and found:
                        bar.write(f"step {step}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()))
                # Read once: a signal between two reads would stop the run without a checkpoint.
                is_stopped = stop.requested
                if step % training.checkpoint_every == 0 or step == training.steps or is_stopped:
                    content = {**state.state_dict(), **known}
                    folder.save(step, model, content, keep=training.keep, tokenizer=tokenizer())
                if is_stopped and step < training.steps:
                    raise KeyboardInterrupt(f"stopped after step {step}; continue with `resume`")
        found = validated()
        folder.save_model(model, tokenizer())
        log({"step": state.step, **found, FINAL_KEY: found.get("valid_perplexity", math.nan)})
    return model.eval()


def linear_scale(step: int, steps: int, warmup_steps: int, min_factor: float) -> float:
    """Factor on the peak learning rate: a linear warm-up, then a line down to ``min_factor`` at the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return 1.0 - (1.0 - min_factor) * min(1.0, progress)


def optimizer_step(state: LoopState, batch: Batch, training: Training) -> tuple[float, float]:
    """Update the weights once; the batch is computed in ``training.accumulate`` parts.

    Returns:
        The mean loss of the targets in nats, and the norm of the gradient before clipping.
    """
    model, device = state.model, state.model.device
    state.optimizer.zero_grad(set_to_none=True)
    targets = int((batch.labels != IGNORED).sum())
    loss = 0.0
    for ids, labels in zip(
        batch.input_ids.chunk(training.accumulate), batch.labels.chunk(training.accumulate), strict=True
    ):
        with autocast(training.autocast, device):
            part = model(ids.to(device), labels=labels.to(device)).loss
        part = part * (int((labels != IGNORED).sum()) / targets)
        part.backward()
        loss += float(part.detach())
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip))
    state.optimizer.step()
    return loss, norm


def padded(rows: list[Any], value: int = PAD) -> Tensor:
    """Rows of ids as int64 ``(B, L)``, padded on the right with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=value
    )
