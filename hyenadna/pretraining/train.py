"""Pretraining by next-nucleotide prediction. The loop is :func:`pretrain`, to be read from top to bottom.

Source of the recipe: Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794), and its repository's configuration.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hyenadna.baselines.gpt import GPTForCausalLM
from hyenadna.baselines.loading import LanguageModel, load_language_model, new_gpt
from hyenadna.common.errors import InputError
from hyenadna.common.progress import StepBar
from hyenadna.common.run_layout import FINAL_KEY
from hyenadna.common.world import SharedError, world
from hyenadna.common.writers import one_writer
from hyenadna.data.genome import Genome
from hyenadna.data.intervals import Interval, read_bed, split_bed, split_contigs, split_fraction, write_bed
from hyenadna.data.windows import BatchSchedule, EvalWindows, Stage, TrainWindows, warmup_stages
from hyenadna.evaluation.evaluate import Evaluation, evaluate_windows
from hyenadna.model.config import new_model
from hyenadna.model.device import autocast, pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.model.tokenizer import bare_tokenizer
from hyenadna.parallel.layout import Layout
from hyenadna.pretraining.checkpoints import Checkpoints, WholeModel
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.pretraining.parallel import (
    Batch,
    RowsOfProcess,
    SharedSteps,
    agreed_batches,
    check_layout,
    choose_masks,
    shard_model,
)
from hyenadna.training.graphs import GraphedStep, GraphError, make_graphed_step, training_step
from hyenadna.training.logging import metrics_log
from hyenadna.training.optim import lr_scale, parameter_groups
from hyenadna.training.run_dir import RunFolder
from hyenadna.training.stop import leave_interrupts_to_parent, stop_between_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """The folder of the model, the final validation, and the steps and seconds of a run."""

    model: Path
    valid: Evaluation
    steps: int
    seconds: float


@dataclass
class LoopState:
    """Everything that a step changes. A checkpoint holds it, so that a resumed run computes the same bits.

    Attributes:
        model: the model, on its device.
        optimizer: AdamW.
        scaler: scaler of the loss, at work in float16 only.
        step: finished optimizer steps.
        tokens: targets seen so far, N and pads included.
        seconds: seconds spent in steps, without validation and saving.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    _logged: tuple[int, float] = (0, 0.0)

    @classmethod
    def start(cls, model: Any, config: Any, *, eps: float = 1e-8) -> LoopState:
        """The state before the first step.

        Args:
            model: the model, on its device.
            config: ``lr``, ``weight_decay``, ``beta1``, ``beta2`` and ``autocast``.
            eps: what AdamW adds to the root of the mean squared gradient.
        """
        groups = parameter_groups(model, config.weight_decay)
        betas = config.beta1, config.beta2
        optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps, **_adamw_of(model.device, config))
        scaler = torch.amp.GradScaler(model.device.type, enabled=config.autocast == "float16")
        return cls(model, optimizer, scaler)

    def state_dict(self) -> dict[str, Any]:
        """The state as ``torch.save`` takes it, without the weights, which have files of their own."""
        random = {"cpu": torch.get_rng_state()}
        if self.model.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.model.device)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, PyTorch's random state included.

        Without ``optimizer``, the optimizer has been restored before.
        """
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self._logged = self.tokens, self.seconds
        if "optimizer" in state:
            # The run may have begun on another kind of device, where AdamW is set up in another way.
            saved, own = state["optimizer"], self.optimizer.param_groups
            groups = [
                group | {key: mine[key] for key in ("lr", "capturable", "fused", "foreach")}
                for group, mine in zip(saved["param_groups"], own, strict=True)
            ]
            self.optimizer.load_state_dict(saved | {"param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if self.model.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.model.device)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def count(self, tokens: int, seconds: float) -> None:
        """Count a step on so many targets."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds

    def tokens_per_second(self) -> float:
        """The speed since the last call."""
        tokens, seconds = self._logged
        self._logged = self.tokens, self.seconds
        return (self.tokens - tokens) / max(self.seconds - seconds, 1e-9)


@without_transformers_bars()
@one_writer(inside=True, make_folders=True)
def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> PretrainResult:
    """Train a model, or continue training it.

    A run may be stopped at any step, by SIGKILL too, and resumed. On a CPU with the same number of threads it then ends
    with the same bits as one that was never stopped. SIGINT and SIGTERM end the current step, write a checkpoint and
    raise KeyboardInterrupt.

    The processes of a world train together, and all call this. The batches stay the same, and each process computes
    its rows of them, or its part of each window. So any number of processes may go on from a checkpoint. The results
    are equal but for rounding, and bit for bit with as many processes as before. The first process owns the folder. A
    signal to one of them stops all. Processes that torchrun has started again resume by themselves.

    Args:
        config: the data, the model and the training.
        resume: continue from the newest checkpoint in ``config.out``, or start if there is none yet.
        progress: show a progress bar.

    Raises:
        InputError: a configuration, genome, checkpoint or folder does not fit; the disk is full; GPU memory is too
            small; the loss is not finite; or the processes cannot divide the batches.
    """
    # Of several processes, all raise what one raises in a block `agreed`. What is in `first`, the first does for all.
    together = world()
    progress = progress and together.is_first

    # 1. Data: the splits, the windows to train on, and two sets of windows to validate on.
    with together.agreed():
        config.check()
        genome = Genome.open(config.genome, config.aliases)
        splits = read_splits(config, genome)
        device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    layout = Layout.make(device, config.context)
    with together.agreed():
        stages, windows = _training_windows(config, genome, splits["train"], layout)
        watch, valid = (
            EvalWindows(
                genome,
                splits["valid"],
                config.eval_length or config.length,
                n_to_pad=config.n_to_pad,
                max_windows=most,
                context=layout.context,
            )
            for most in (config.eval_windows, config.final_windows)
        )

    # 2. The model, new or from a checkpoint.
    folder = RunFolder(config.out)
    resume = together.first(lambda: resume or together.has_begun(config.out))
    newest = together.first(lambda: folder.checkpoints()[-1:] if resume else [])
    torch.manual_seed(config.seed)
    with together.agreed():
        model = make_model(config, *newest)
        check_layout(config, stages, model, layout)
    # Shorter windows, which end an interval, are not divided: the short convolution reads so many inputs before.
    watch.least_inputs = valid.least_inputs = max(1, getattr(model.config, "short_filter_order", 1) - 1)
    # Not earlier: a configuration that makes no model must leave no folder behind.
    checkpoint = together.first(lambda: _start(folder, config, resume))
    tokenizer = bare_tokenizer(model.config.max_seq_len)
    model.to(device)  # type: ignore[arg-type]
    if config.shard == "full" and together.size > 1:
        shard_model(model, layout)
    loop_state = LoopState.start(model, config)
    checkpoints = Checkpoints(folder, config, tokenizer)

    # 3. Resume: the state after the last checkpoint, and the metrics up to it.
    identity = {"genome": genome.fingerprint, "splits": hashlib.sha256(repr(splits).encode()).hexdigest()}
    before = None
    if checkpoint is not None:
        state = checkpoints.read(checkpoint)
        before = state.get("dropout_masks", "generator")
        with together.agreed():
            _check_same_data(config, state, identity)
        checkpoints.restore(checkpoint, model, loop_state.optimizer, state)
        loop_state.load_state_dict(state)
    masks = choose_masks(config, model, before)
    together.first(lambda: folder.rewind_metrics(loop_state.step))
    together.first(lambda: write_bed([interval for part in splits.values() for interval in part], folder.splits))
    if resume and progress:
        step = loop_state.step
        print(f"resuming after step {step}" if step else f"{config.out}: no checkpoint yet, starting at step 0")
        if before not in (None, masks):
            print(f"dropout: masks by {masks} from here on, and by {before} before")
    if masks == "position":
        # What is without it has the masks of a generator, as all runs had once.
        identity["dropout_masks"] = masks

    # 4. Steps. Each sets the learning rate, updates the weights, and logs, validates and saves if it is time to.
    schedule = BatchSchedule(
        [stage._replace(length=stage.length + 1) for stage in stages], loop_state.step, config.steps
    )
    own_batches = _batches(config, windows, schedule, layout, pin_memory=device.type == "cuda")
    warmup_steps = math.ceil(config.lr_warmup * config.steps)
    model.train()
    with (
        metrics_log(folder, loop_state.step) as log,
        StepBar("pretrain", config.steps, initial=loop_state.step, progress=progress) as bar,
    ):
        steps = _make_steps(loop_state, config, layout, masks, bar.write if progress else None)
        with stop_between_steps() as stop:
            for batch in agreed_batches(own_batches, schedule, layout, stop, checkpoints):
                started = time.perf_counter()
                lr = config.lr * lr_scale(loop_state.step, config.steps, warmup_steps, config.min_lr_factor)
                loop_state.set_lr(lr)
                loss, norm = steps(batch)
                loop_state.count(batch.tokens, time.perf_counter() - started)
                step = loop_state.step
                _check_finite(loss, norm, loop_state)
                bar.update()

                if step % config.log_every == 0 or step == config.steps:
                    row = {
                        "step": step,
                        "loss": loss,
                        "perplexity": math.exp(min(loss, 50.0)),
                        "lr": lr,
                        "grad_norm": norm,
                        "length": batch.length,
                        "tokens": loop_state.tokens,
                        "tokens_per_second": loop_state.tokens_per_second(),
                        "seconds": loop_state.seconds,
                    }
                    log(row)
                    bar.set_postfix_str(
                        f"loss {loss:.4f}, perplexity {row['perplexity']:.4f}, {row['tokens_per_second']:,.0f} tokens/s"
                    )

                if config.eval_every and step % config.eval_every == 0 and step < config.steps:
                    score = _validate(model, watch, config, layout, steps).score
                    log({"step": step, "valid_perplexity": score.perplexity, "valid_accuracy": score.accuracy})
                    if progress:
                        bar.write(f"step {step}: validation perplexity {score.perplexity:.4f}")

                # Read once: a signal between two reads would stop the run without a checkpoint.
                is_stopped = batch.stops or (together.size == 1 and stop.requested)
                if step % config.checkpoint_every == 0 or step == config.steps or is_stopped:
                    checkpoints.save(step, model, loop_state.optimizer, {**loop_state.state_dict(), **identity})
                if is_stopped and step < config.steps:
                    checkpoints.finish()
                    raise KeyboardInterrupt(f"stopped after step {step}; continue with `resume`")

        # 5. The finished model: validated on more windows, and saved with its tokenizer.
        checkpoints.finish()
        result = _validate(model, valid, config, layout, steps)
        step, score = loop_state.step, result.score
        row = {"step": step, "valid_perplexity": score.perplexity, "valid_accuracy": score.accuracy}
        log(row | {FINAL_KEY: score.perplexity})
        if progress:
            bar.write(f"step {step}: final validation perplexity {score.perplexity:.4f}")
    whole = WholeModel(model)
    together.first(lambda: folder.save_model(whole, tokenizer))
    return PretrainResult(folder.model, result, step, loop_state.seconds)


def _start(folder: RunFolder, config: PretrainConfig, resume: bool) -> Path | None:
    checkpoint = folder.start(config, resume=resume)
    world().begin(config.out)
    return checkpoint


def read_splits(config: PretrainConfig, genome: Genome) -> dict[str, list[Interval]]:
    """Training, validation and test intervals of a configuration.

    Raises:
        InputError: names, fractions or a BED do not fit the genome, or there is no validation interval.
    """
    if config.bed is not None:
        splits = split_bed(read_bed(config.bed, genome))
    elif config.valid_contigs or config.test_contigs:
        splits = split_contigs(genome, config.valid_contigs, config.test_contigs)
    else:
        splits = split_fraction(genome, config.valid_fraction, config.test_fraction)
    if not splits["valid"]:
        raise InputError("nothing is held out for validation: name `valid_contigs`, or rows with valid in the BED")
    return splits


def make_model(config: PretrainConfig, checkpoint: Path | None = None) -> LanguageModel:
    """The model of a configuration: from a checkpoint, from ``init_from``, or with random weights.

    Raises:
        InputError: the checkpoint cannot be loaded, the size is unknown, or windows are longer than the model takes.
    """
    dropout = {} if config.embed_dropout is None else {"embed_dropout": config.embed_dropout}
    source = checkpoint or config.init_from
    if source is not None:
        # A checkpoint in 16 bits would be trained in 16 bits.
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        model = load_language_model(source, dtype=dtype, **dropout)
        if isinstance(model, GPTForCausalLM) != (config.architecture == "gpt"):
            other = "hyena" if config.architecture == "gpt" else "gpt"
            raise InputError(f"`init_from` {source}: is a model of the `architecture` {other}")
    elif config.architecture == "gpt":
        model = new_gpt(GPTForCausalLM, config, **dropout)
    else:
        model = new_model(HyenaDNAForCausalLM, config, **dropout)
    longest = max(config.length, config.eval_length or 0)
    if longest > model.config.max_seq_len:
        raise InputError(
            f"windows of {longest} tokens: the model is made for {model.config.max_seq_len}; lower `length` and "
            "`eval_length`, or choose a model for longer sequences (`max_seq_len`, `size`)"
        )
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def optimizer_step(loop_state: LoopState, batch: Tensor, config: PretrainConfig) -> tuple[float, float]:
    """Update the weights once; the batch is computed in ``config.accumulate`` parts.

    Args:
        loop_state: the model, the optimizer and the scaler; all three change.
        batch: token ids of any integer dtype, ``(B, L+1)``, on any device.
        config: gives the number of parts, the precision and the greatest norm.

    Returns:
        The mean loss in nats, and the norm of the gradient before clipping.

    Raises:
        InputError: the memory of the device is too small.
    """
    device = loop_state.model.device
    scaler = loop_state.scaler if loop_state.scaler.is_enabled() else None
    try:
        result = training_step(
            loop_state.model,
            loop_state.optimizer,
            batch.to(device, non_blocking=True),
            clip=config.clip,
            accumulate=config.accumulate,
            autocast=config.autocast,
            scaler=scaler,
        )
    except torch.OutOfMemoryError as error:
        rows = len(batch.chunk(config.accumulate)[0])
        raise InputError(
            f"{rows} windows of {batch.shape[1] - 1} tokens do not fit into the memory of {device}: raise "
            "`accumulate`, or turn on `gradient_checkpointing`"
        ) from error
    # One transfer for both: each waits for the device.
    loss, norm = result.tolist()
    return loss, norm


class Steps:
    """The optimizer steps of a run: on a CUDA device as one CUDA graph, where one can hold them; else op by op.

    A shape is captured when it comes a second time in a row, so that a stage of the length warm-up has its own graph.
    The graph of the stage before is given up first. Both ways compute the same, so a run may be resumed in either.

    Args:
        loop_state: the model, the optimizer and the scaler.
        config: as for :func:`optimizer_step`.
        tell: prints a line about which way steps are computed, None to say nothing.
        shared: computes the steps instead, where there are several processes or masks by position.
    """

    def __init__(
        self,
        loop_state: LoopState,
        config: PretrainConfig,
        tell: Callable[[str], object] | None,
        shared: SharedSteps | None = None,
    ) -> None:
        self._loop_state, self._config, self._tell, self._shared = loop_state, config, tell, shared
        self._graph: GraphedStep | None = None
        self._shape: torch.Size | None = None
        self._captures = _has_graphs(loop_state.model.device)
        if self._captures and not isinstance(loop_state.model, HyenaDNAForCausalLM):
            self._go_on_without("a graph of a GPT has not been tried")
        elif self._captures and loop_state.scaler.is_enabled():
            self._go_on_without("float16 needs a scaler of the loss, whose values Python reads")
        elif self._captures and shared is not None:
            self._go_on_without("a graph holds neither several processes nor masks of dropout by position")

    def __call__(self, batch: Batch | Tensor) -> tuple[float, float]:
        """As :func:`optimizer_step`."""
        if isinstance(batch, Batch):
            if self._shared is not None:
                return self._shared(batch)
            batch = batch.ids
        if batch.shape != self._shape:
            self._graph, self._shape = None, batch.shape
        elif self._captures and self._graph is None:
            self._capture(batch)
        if self._graph is None:
            return optimizer_step(self._loop_state, batch, self._config)
        loss, norm = self._graph.replay(batch).tolist()
        return loss, norm

    def release(self) -> bool:
        """Give the memory of the graph back, and go on op by op. False if there is no graph."""
        if self._graph is None:
            return False
        self._go_on_without("the validation needs its memory")
        return True

    def _capture(self, batch: Tensor) -> None:
        model, config = self._loop_state.model, self._config
        try:
            self._graph = make_graphed_step(
                model,
                self._loop_state.optimizer,
                batch.to(model.device),
                clip=config.clip,
                accumulate=config.accumulate,
                autocast=config.autocast,
            )
        except GraphError as error:
            self._go_on_without(str(error))
        else:
            self._say(f"steps of {batch.shape[0]} windows of {batch.shape[1] - 1} tokens run as one CUDA graph")

    def _go_on_without(self, reason: str) -> None:
        self._graph, self._captures = None, False
        torch.cuda.empty_cache()
        self._say(f"steps run op by op, not as one CUDA graph: {reason}")

    def _say(self, message: str) -> None:
        logger.info(message)
        if self._tell is not None:
            self._tell(message)


def _make_steps(
    loop_state: LoopState, config: PretrainConfig, layout: Layout, masks: str, tell: Callable[[str], object] | None
) -> Steps:
    shared = None
    if world().size > 1 or masks == "position":
        by_position = masks == "position"
        parts = loop_state.model, loop_state.optimizer, loop_state.scaler
        shared = SharedSteps(*parts, config, layout, by_position=by_position)
    return Steps(loop_state, config, tell, shared)


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _adamw_of(device: torch.device, config: PretrainConfig) -> dict[str, Any]:
    """Arguments of AdamW that depend on the device."""
    if not _has_graphs(device) or config.autocast == "float16":
        return {"lr": config.lr}
    if world().size > 1:
        return {"lr": config.lr, "fused": True}
    # One kernel for all weights, which takes its rate from the device, so that a CUDA graph can hold it.
    return {"lr": torch.tensor(config.lr, device=device), "fused": True, "capturable": True}


def _training_windows(
    config: PretrainConfig, genome: Genome, intervals: list[Interval], layout: Layout
) -> tuple[Sequence[Stage], TrainWindows]:
    """The stages of the length warm-up, and the windows, of which every stage has at least one."""
    stages = warmup_stages(
        config.length, config.batch_size, start_length=config.warmup_length, steps_per_stage=config.warmup_length_steps
    )
    windows = TrainWindows(
        genome,
        intervals,
        seed=config.seed,
        max_n_fraction=config.max_n_fraction,
        reverse_complement=config.reverse_complement,
        n_to_pad=config.n_to_pad,
        context=layout.context,
    )
    for stage in stages:
        windows.check(stage.length + 1)
    return stages, windows


def _check_same_data(config: PretrainConfig, state: dict[str, Any], identity: dict[str, str]) -> None:
    if state["genome"] != identity["genome"]:
        raise InputError(f"{config.genome}: is not the genome that the run in {config.out} was started on")
    if state["splits"] != identity["splits"]:
        raise InputError(f"{config.bed}: does not hold the intervals that the run in {config.out} was started on")


def _batches(
    config: PretrainConfig, windows: TrainWindows, schedule: BatchSchedule, layout: Layout, *, pin_memory: bool
) -> Iterator[Tensor]:
    """This process's part of the batches of the steps that are left, ``(B, L+1)``."""
    loader = DataLoader(
        windows,
        batch_sampler=RowsOfProcess(schedule, *layout.data),
        num_workers=config.workers,
        worker_init_fn=leave_interrupts_to_parent,
        # The loader draws a seed for its workers. It must not come from the random state that dropout uses.
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    return one_line_errors(loader)


def one_line_errors(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The batches of a loader. An InputError in a worker process becomes the one line that it was there."""
    try:
        yield from loader
    except InputError as error:
        # Workers hand over their whole traceback as the message.
        line = str(error).rstrip().splitlines()[-1]
        raise InputError(line.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")) from error


def _check_finite(loss: float, norm: float, loop_state: LoopState) -> None:
    # A scaler finds its scale by trying, so its norm is infinite once in a while.
    if not math.isfinite(loss) or not (math.isfinite(norm) or loop_state.scaler.is_enabled()):
        # The same in all processes.
        raise SharedError(
            f"step {loop_state.step}: the loss is {loss:g}, the gradient's norm {norm:g}; lower `lr` or raise "
            "`lr_warmup`, and choose another `out`"
        )


def _validate(
    model: LanguageModel, windows: EvalWindows, config: PretrainConfig, layout: Layout, steps: Steps
) -> Evaluation:
    # As many tokens at a time as a training step has.
    tokens = config.length * config.batch_size // config.accumulate
    batch_size = max(1, tokens // (config.eval_length or config.length))
    with autocast(config.autocast, model.device):
        try:
            return evaluate_windows(model, windows, batch_size=batch_size, progress=False, layout=layout)
        except torch.OutOfMemoryError:
            # A graph keeps the memory of a whole step.
            if not steps.release():
                raise
        return evaluate_windows(model, windows, batch_size=batch_size, progress=False, layout=layout)
