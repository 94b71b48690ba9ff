"""The training steps of many processes: what they agree on before a step, and the step itself.

Every process computes some rows of a batch, or a part of each, and the gradients are summed over all. The sum does not
depend on how the batch is divided, but for rounding. So a run may be resumed with another number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from hyenadna.baselines.loading import LanguageModel
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.common.world import SharedError, world
from hyenadna.data.windows import BatchSchedule, Stage, WindowKey
from hyenadna.model.device import autocast
from hyenadna.model.dropout import dropout_by_position
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.parallel.layout import Layout
from hyenadna.pretraining.checkpoints import Checkpoints
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.training.graphs import update_weights
from hyenadna.training.stop import Stop


class Batch(NamedTuple):
    """A batch of all processes, and the part of this one.

    Attributes:
        ids: token ids of this process, ``(rows, inputs + 1)``.
        samples: number in the run of each of its rows.
        targets: targets of all processes that count in the loss.
        rows: windows of all processes.
        length: inputs of a whole window.
        stops: whether any process has been asked to stop after this step.
    """

    ids: Tensor
    samples: list[int]
    targets: int
    rows: int
    length: int
    stops: bool

    @property
    def tokens(self) -> int:
        """Targets of all processes, N and pads included."""
        return self.rows * self.length


class RowsOfProcess(Sampler[list[WindowKey]]):
    """The keys of a schedule that one of several processes reads: every ``size``-th of a batch.

    Args:
        schedule: the keys of all processes.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, schedule: BatchSchedule, rank: int, size: int) -> None:
        self.schedule, self._rows = schedule, slice(rank, None, size)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.schedule)

    def __iter__(self) -> Iterator[list[WindowKey]]:
        """Yield the keys of each step in order."""
        return (keys[self._rows] for keys in self.schedule)


def check_layout(config: PretrainConfig, stages: Sequence[Stage], model: LanguageModel, layout: Layout) -> None:
    """Raise InputError if the processes cannot divide every batch of a run."""
    data, context = layout.data[1], layout.context[1]
    taps = getattr(model.config, "short_filter_order", 1)
    for stage in stages:
        if world().size > 1 and stage.batch_size < data * config.accumulate:
            of = f" in its stage of {stage.length} tokens" if len(stages) > 1 else ""
            raise InputError(
                f"`batch_size` {config.batch_size}: the run has {stage.batch_size} windows a step{of}, and {data} "
                f"processes with `accumulate` {config.accumulate} need {data * config.accumulate}; take more windows, "
                "fewer processes, a smaller `accumulate`, or a larger `context`"
            )
        if context > 1 and stage.length // context < taps - 1:
            raise InputError(
                f"`context` {context}: windows of {stage.length} tokens give a process fewer than the {taps - 1} that "
                "the short convolution reads of the process before; lower it, or lengthen the windows"
            )
    if world().size > 1 and config.dropout_masks == "generator" and model.config.embed_dropout:
        raise InputError(
            f"`dropout_masks` generator: {world().size} processes would draw other masks than one; choose position or "
            "auto"
        )
    if getattr(model.config, "hyena_dropout", 0.0) and (world().size > 1 or config.dropout_masks == "position"):
        raise InputError(
            "`model_fields` hyena_dropout: masks by position are those of the dropout on the embedding alone, and "
            "several processes need them; set it to 0, or train in one process with `dropout_masks` generator"
        )


def choose_masks(config: PretrainConfig, model: LanguageModel, saved: str | None) -> str:
    """Where the masks of dropout come from: ``generator``, the random state, or ``position``, the place of an element.

    Args:
        config: what is asked for.
        model: a model without dropout needs no masks, which counts as ``generator``.
        saved: what the checkpoint has that the run goes on from; None for a new run.

    Raises:
        InputError: several processes would go on with the masks of a generator.
    """
    if not model.config.embed_dropout:
        return "generator"
    if config.dropout_masks != "auto":
        return config.dropout_masks
    if saved == "generator" and world().size > 1:
        raise SharedError(
            f"{config.out}: the run takes its dropout from the generator of one process; to continue it in "
            f"{world().size} processes, pass `dropout_masks` position, which are other masks from there on"
        )
    return saved or ("position" if world().size > 1 else "generator")


def agreed_batches(
    own: Iterator[Tensor], schedule: BatchSchedule, layout: Layout, stop: Stop, checkpoints: Checkpoints
) -> Iterator[Batch]:
    """The batches of a run. Before each, all processes tell each other their counts and flags in one small message.

    A checkpoint that all have written in the background gets its name here.

    Args:
        own: the token ids of this process, a batch a step.
        schedule: the keys of all processes.
        layout: the part of this process.
        stop: whether this process has been asked to stop.
        checkpoints: those of the run.

    Raises:
        InputError: a process cannot read its part, or write its part of a checkpoint. All raise it.
    """
    rank, size = layout.data
    for keys in schedule:
        ids: Tensor | None = None
        failure: Exception | None = None
        try:
            ids = next(own)
        except (InputError, OSError) as error:
            failure = error
        count = 0 if ids is None else _count_targets(ids)
        count, asked, failed, written = world().sums(
            [count, stop.requested, failure is not None, checkpoints.is_written()]
        )
        if failed:
            with world().agreed():
                if failure is not None:
                    raise failure
        if written == world().size:
            checkpoints.finish()
        assert ids is not None
        samples = [index for index, _ in keys[rank::size]]
        length = keys[0][1] - 1
        yield Batch(ids, samples, count, len(keys), length, stops=asked > 0)


def _count_targets(ids: Tensor) -> int:
    targets = ids[:, 1:]
    return int(((targets != PAD_ID) & (targets != N_ID)).sum())


def shard_model(model: LanguageModel, layout: Layout) -> None:
    """Share out the parameters over all processes by FSDP2, in place."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    from hyenadna.parallel.sharding import shard

    assert isinstance(model, HyenaDNAForCausalLM)
    shard(model, layout.mesh["data", "context"]._flatten("ranks"))
    # FSDP2 gathers parameters around forward() alone.
    register_fsdp_forward_method(model, "next_token_loss")


class _Loss(nn.Module):
    """The loss as the forward pass of a module: DistributedDataParallel listens to that alone."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, shards: Any) -> Tensor:
        context = {} if shards is None else {"context": shards}
        return self.model.next_token_loss(ids, targets, ignored=(PAD_ID, N_ID), **context)


class SharedSteps:
    """Optimizer steps in many processes, or with masks of dropout by position in one.

    Args:
        model: the model of this process, perhaps sharded.
        optimizer: its optimizer.
        scaler: scaler of the loss, at work in float16 only.
        config: gives the number of parts, the precision and the greatest norm.
        layout: the part of this process.
        by_position: whether masks of dropout follow from sample, position and channel.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        config: PretrainConfig,
        layout: Layout,
        *,
        by_position: bool,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._scaler = scaler if scaler.is_enabled() else None
        self._config, self._layout, self._by_position = config, layout, by_position
        self._is_sharded = hasattr(model, "set_requires_gradient_sync")
        self._loss: nn.Module = _Loss(model)
        if world().size > 1 and not self._is_sharded:
            with warnings.catch_warnings():
                # torch is renaming the argument.
                warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
                self._loss = nn.parallel.DistributedDataParallel(self._loss, broadcast_buffers=False)

    def __call__(self, batch: Batch) -> tuple[float, float]:
        """Update the weights once.

        Returns:
            The mean loss of all processes in nats, and the norm of the gradient before clipping.

        Raises:
            InputError: the memory of the device is too small.
        """
        device = self._model.device
        try:
            return self._step(batch, device)
        except torch.OutOfMemoryError as error:
            rows = len(batch.samples[:: self._config.accumulate])
            raise InputError(
                f"{rows} windows of {batch.ids.shape[1] - 1} tokens do not fit into the memory of {device}: raise "
                "`accumulate`, or turn on `gradient_checkpointing`"
            ) from error

    def _step(self, batch: Batch, device: torch.device) -> tuple[float, float]:
        config = self._config
        self._optimizer.zero_grad(set_to_none=True)
        shards = self._layout.shards(batch.length)
        ids = batch.ids.to(device, non_blocking=True).long()
        samples = torch.tensor(batch.samples, dtype=torch.int64, device=device)
        parts = list(zip(ids.tensor_split(config.accumulate), samples.tensor_split(config.accumulate), strict=True))
        losses = []
        for number, (part, of) in enumerate(parts, start=1):
            with self._summed_after(is_last=number == len(parts)):
                with autocast(config.autocast, device), self._masks(of):
                    loss = self._loss(part[:, :-1], part[:, 1:], shards) / max(batch.targets, 1)
                losses.append(loss.detach())
                # The mean over processes is taken of the gradients, and what is wanted is their sum.
                loss = loss * world().size
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        norm = update_weights(self._model, self._optimizer, clip=config.clip, scaler=self._scaler)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # One transfer for both: each waits for the device.
        own, gradient = torch.stack([torch.stack(losses).double().sum(), norm.double()]).tolist()
        return world().sums([own])[0], gradient

    def _masks(self, samples: Tensor) -> AbstractContextManager[None]:
        if not self._by_position:
            return nullcontext()
        return dropout_by_position(self._model, self._config.seed, samples)

    def _summed_after(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Let gradients be summed over the processes after the last part of a batch only."""
        if self._is_sharded:
            self._model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        elif world().size > 1 and not is_last:
            return self._loss.no_sync()  # type: ignore[operator]
        return nullcontext()
