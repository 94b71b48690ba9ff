"""Pretraining by next-nucleotide prediction: configuration and loop, to be read from top to bottom.

Source of the recipe: Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794), and its repository's configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hyenadna.common.errors import InputError
from hyenadna.common.progress import StepBar
from hyenadna.common.run_layout import FINAL_KEY
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import Interval, read_bed, split_bed, split_contigs, split_fraction, write_bed
from hyenadna.data.windows import BatchSchedule, EvalWindows, TrainWindows, warmup_stages
from hyenadna.evaluation.evaluate import Evaluation, evaluate_windows
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.device import autocast, pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.model.tokenizer import DNATokenizer
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.training.optim import learning_rate_factor, parameter_groups
from hyenadna.training.run_dir import RunFolder


@dataclass(frozen=True)
class PretrainResult:
    """What a run has reached: the folder of its model, the final validation, steps and seconds."""

    model: Path
    valid: Evaluation
    steps: int
    seconds: float


def read_splits(config: PretrainConfig, genome: Genome) -> dict[str, list[Interval]]:
    """Training, validation and test intervals of a configuration.

    Raises:
        InputError: names, fractions or a BED that do not fit the genome; no validation interval.
    """
    if config.bed is not None:
        splits = split_bed(read_bed(config.bed, genome))
    elif config.valid_contigs or config.test_contigs:
        splits = split_contigs(genome, config.valid_contigs, config.test_contigs)
    else:
        splits = split_fraction(genome, config.valid_fraction, config.test_fraction)
    if not splits["valid"]:
        raise InputError("nothing is held out for validation: name --valid_contigs, or rows with valid in the BED")
    return splits


def make_model(config: PretrainConfig, checkpoint: Path | None = None) -> HyenaDNAForCausalLM:
    """The model of a configuration: from a checkpoint, from ``init_from``, or with random weights.

    Raises:
        InputError: the checkpoint cannot be loaded, the size is unknown, or windows are longer than the model takes.
    """
    shape = {name: getattr(config, name) for name in ("d_model", "n_layer", "max_seq_len")}
    shape = {name: value for name, value in shape.items() if value is not None}
    if config.d_model is not None:
        shape["d_inner"] = 4 * config.d_model
    shape |= config.model_fields
    dropout = {} if config.embed_dropout is None else {"embed_dropout": config.embed_dropout}
    source = checkpoint or config.init_from
    if config.init_from is not None and shape:
        fixed = ", ".join(sorted(shape))
        raise InputError(f"--init_from {config.init_from}: says the model's shape; leave out {fixed}")
    if unknown := sorted(map(str, config.model_fields.keys() - HyenaDNAConfig().to_dict().keys())):
        raise InputError(f"--model_fields: HyenaDNAConfig has no field {', '.join(unknown)}")
    try:
        if source is not None:
            # A checkpoint in 16 bits would be trained in 16 bits.
            model = HyenaDNAForCausalLM.from_pretrained(source, dtype=torch.float32, **dropout)
        else:
            model = HyenaDNAForCausalLM(HyenaDNAConfig.named(config.size, **shape, **dropout))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--model_fields {config.model_fields}: make no model ({error})") from error
    longest = max(config.length, config.eval_length or 0)
    if longest > model.config.max_seq_len:
        raise InputError(
            f"windows of {longest} tokens: the model is made for {model.config.max_seq_len}; lower --length and "
            "--eval_length, or choose a model for longer sequences (--max_seq_len, --size)"
        )
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy in nats of ``logits (B, L, V)`` on ``targets (B, L)``; N and [PAD] are never a target."""
    wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    wanted = targets.masked_fill(targets == N_ID, PAD_ID).flatten()
    return F.cross_entropy(wide, wanted, ignore_index=PAD_ID, reduction="sum")


@without_transformers_bars()
def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> PretrainResult:
    """Train a model, or go on training it.

    On a CPU a run that was stopped at any step, by SIGKILL too, and resumed ends with the same bits as one that was
    never stopped, if both had the same number of threads. SIGINT and SIGTERM end the current step, write a checkpoint
    and raise KeyboardInterrupt.

    Args:
        config: what to do.
        resume: go on from the newest checkpoint in ``config.out``, or from the start if there is none yet.
        progress: show a progress bar.

    Raises:
        InputError: a configuration, genome, checkpoint or folder that does not fit, a full disk, too little GPU
            memory, or a loss that is no number.
    """
    config.check()
    genome = Genome.open(config.genome)
    splits = read_splits(config, genome)
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    stages = warmup_stages(
        config.length,
        config.batch_size,
        start_length=config.warmup_length,
        steps_per_stage=config.warmup_length_steps,
    )
    windows = TrainWindows(
        genome,
        splits["train"],
        seed=config.seed,
        max_n_fraction=config.max_n_fraction,
        reverse_complement=config.reverse_complement,
        n_to_pad=config.n_to_pad,
    )
    for stage in stages:
        windows.check(stage.length + 1)
    watch, valid = (
        EvalWindows(
            genome, splits["valid"], config.eval_length or config.length, n_to_pad=config.n_to_pad, max_windows=most
        )
        for most in (config.eval_windows, config.final_windows)
    )

    fingerprint = hashlib.sha256(repr(splits).encode()).hexdigest()
    folder = RunFolder(config.out)
    newest = folder.checkpoints()[-1:] if resume else []
    torch.manual_seed(config.seed)
    model = make_model(config, *newest)
    # Only now, so that a configuration that makes no model leaves no folder behind.
    checkpoint = folder.start(config, resume=resume)
    model.to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.lr, betas=(config.beta1, config.beta2)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.autocast == "float16")
    step, tokens, seconds = 0, 0, 0.0
    if checkpoint is not None:
        state = folder.load_state(checkpoint)
        if state["genome"] != genome.fingerprint:
            raise InputError(f"{config.genome}: is not the genome that the run in {config.out} was started on")
        if state["splits"] != fingerprint:
            raise InputError(f"{config.bed}: does not hold the intervals that the run in {config.out} was started on")
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        _set_random_state(state["random"], device)
    folder.rewind_metrics(step)
    write_bed([interval for part in splits.values() for interval in part], folder.splits)
    if resume and progress:
        print(f"going on after step {step}" if step else f"{config.out}: no checkpoint yet, starting at step 0")

    def save() -> None:
        folder.save(
            step,
            model,
            {
                "step": step,
                "tokens": tokens,
                "seconds": seconds,
                "genome": genome.fingerprint,
                "splits": fingerprint,
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "random": _random_state(device),
            },
            keep=config.keep,
        )

    def validate(windows: EvalWindows, *, final: bool) -> Evaluation:
        # As many tokens at a time as a training step has.
        batch_size = config.length * config.batch_size // config.accumulate // (config.eval_length or config.length)
        with autocast(config.autocast, device):
            result = evaluate_windows(model, windows, batch_size=max(1, batch_size), progress=False)
        score = result.score
        row = {"step": step, "valid_perplexity": score.perplexity, "valid_accuracy": score.accuracy}
        log(row | {FINAL_KEY: score.perplexity} if final else row)
        if progress:
            bar.write(f"step {step}: {'final ' if final else ''}validation perplexity {score.perplexity:.4f}")
        return result

    def log(row: dict[str, Any]) -> None:
        folder.log(row)
        show(row)

    loader = DataLoader(
        windows,
        batch_sampler=BatchSchedule([stage._replace(length=stage.length + 1) for stage in stages], step, config.steps),
        num_workers=config.workers,
        worker_init_fn=_leave_interrupts_to_parent,
        # The loader draws a seed for its workers, which must not come from the state that dropout goes on with.
        generator=torch.Generator(),
        pin_memory=device.type == "cuda",
    )
    logged_seconds, logged_tokens = seconds, tokens
    model.train()
    with (
        _tensorboard(config.out, step) as show,
        StepBar("pretrain", config.steps, initial=step, progress=progress) as bar,
    ):
        with _stop_between_steps() as stop:
            for batch in _batches(loader):
                started = time.perf_counter()
                factor = learning_rate_factor(
                    step, config.steps, math.ceil(config.lr_warmup * config.steps), config.min_lr_factor
                )
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * factor
                loss, norm = _optimizer_step(model, optimizer, scaler, batch, config, device)
                step += 1
                tokens += batch.shape[0] * (batch.shape[1] - 1)
                seconds += time.perf_counter() - started
                # With a scaler, a norm that is infinite once in a while is how it finds its scale.
                if not math.isfinite(loss) or not (math.isfinite(norm) or scaler.is_enabled()):
                    raise InputError(
                        f"step {step}: the loss is {loss:g}, the gradient's norm {norm:g}; lower --lr or raise "
                        "--lr_warmup, and choose another --out"
                    )
                bar.update()
                if step % config.log_every == 0 or step == config.steps:
                    row = {
                        "step": step,
                        "loss": loss,
                        "perplexity": math.exp(min(loss, 50.0)),
                        "lr": config.lr * factor,
                        "grad_norm": norm,
                        "length": batch.shape[1] - 1,
                        "tokens": tokens,
                        "tokens_per_second": (tokens - logged_tokens) / max(seconds - logged_seconds, 1e-9),
                        "seconds": seconds,
                    }
                    logged_seconds, logged_tokens = seconds, tokens
                    log(row)
                    bar.set_postfix_str(
                        f"loss {loss:.4f}, perplexity {row['perplexity']:.4f}, {row['tokens_per_second']:,.0f} tokens/s"
                    )
                if config.eval_every and step % config.eval_every == 0 and step < config.steps:
                    validate(watch, final=False)
                # Read once: a signal between two looks would stop the run with nothing saved.
                is_stopped = stop.requested
                if step % config.checkpoint_every == 0 or step == config.steps or is_stopped:
                    save()
                if is_stopped and step < config.steps:
                    raise KeyboardInterrupt(f"stopped after step {step}; go on with --resume")
        result = validate(valid, final=True)
    folder.save_model(model, DNATokenizer(model_max_length=model.config.max_seq_len))
    return PretrainResult(folder.model, result, step, seconds)


def _optimizer_step(
    model: HyenaDNAForCausalLM,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Tensor,
    config: PretrainConfig,
    device: torch.device,
) -> tuple[float, float]:
    """One step on ``batch (B, L+1)``; returns the mean loss in nats and the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    batch = batch.to(device, torch.long, non_blocking=True)
    inputs, targets = batch[:, :-1], batch[:, 1:]
    count = ((targets != PAD_ID) & (targets != N_ID)).sum().clamp(min=1)
    losses = []
    try:
        for ids, wanted in zip(inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True):
            with autocast(config.autocast, device):
                logits = model(ids).logits
            loss = next_token_loss(logits, wanted) / count
            scaler.scale(loss).backward()
            losses.append(loss.detach())
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{len(ids)} windows of {ids.shape[1]} tokens do not fit into the memory of {device}: raise --accumulate, "
            "or turn on --gradient_checkpointing"
        ) from error
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    scaler.step(optimizer)
    scaler.update()
    # One transfer for both: each waits for the device.
    loss, total_norm = torch.stack([torch.stack(losses).sum(), norm.to(losses[0])]).tolist()
    return loss, total_norm


def _batches(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The batches, with an InputError of a worker process as the one line that it was there."""
    try:
        yield from loader
    except InputError as error:
        # Workers hand over their whole traceback as the message.
        line = str(error).rstrip().splitlines()[-1]
        raise InputError(line.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")) from error


def _leave_interrupts_to_parent(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process: workers must live until the step is done and saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def _tensorboard(out: Path, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows rows of metrics in TensorBoard too, from after ``step`` on, where the package is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda row: None
        return
    with SummaryWriter(str(out / "tensorboard"), purge_step=step + 1) as writer:

        def show(row: dict[str, Any]) -> None:
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(key, value, row["step"])

        yield show


@dataclasses.dataclass
class _Stop:
    requested: bool = False


@contextlib.contextmanager
def _stop_between_steps() -> Iterator[_Stop]:
    """SIGINT and SIGTERM ask for a stop at the next step's end, where a checkpoint can be written.

    A second SIGINT stops at once.
    """
    stop = _Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped within a step; go on from the last checkpoint with --resume")
        stop.requested = True

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Signals can be handled in the main thread only; elsewhere whoever started the thread stops it.
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
