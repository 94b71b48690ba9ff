"""Options of ``hyenadna pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from hyenadna.common.choices import Autocast
from hyenadna.common.errors import InputError
from hyenadna.common.options import (
    AtLeast0,
    AtLeast1,
    BatchSize,
    Fraction,
    InputFile,
    NonNegative,
    Options,
    Positive,
    Seed,
    Threads,
    Workers,
)
from hyenadna.common.run_layout import CONFIG_FILE, SPLITS_FILE
from hyenadna.common.world import world
from hyenadna.data.inputs import PreparedGenome
from hyenadna.model.locate import check_checkpoint, refuse_adapter
from hyenadna.model.sizes import short_name

BelowOne = Annotated[float, Ge(0), Lt(1)]

_MOST_TOKENS = 1 << 31


@dataclass
class PretrainConfig(Options):
    """The data, the model and the training. Every field is an option and a key of the YAML file.

    Args:
        genome: Folder that `hyenadna prepare` has written.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        out: Folder of the run, for metrics, checkpoints and the model.
        bed: Intervals to draw windows from, with train, valid or test in the fourth column. It takes the place of the
            next four options.
        valid_contigs: Contigs held out for validation.
        test_contigs: Contigs held out for the final test, never used in training.
        valid_fraction: Fraction of each contig's end that is held out for validation, if no contigs are named.
        test_fraction: Fraction of each contig's end that is held out for the test.
        max_n_fraction: Greatest fraction of N in a training window.
        reverse_complement: Reverse complement half of the windows.
        n_to_pad: Replace N by [PAD], as the published pretraining did. N is never a target.
        architecture: hyena, or gpt: the GPT-2 of the published comparison. That has 2 layers of width 128, 8 heads and
            1,024 positions, unless the next options say otherwise. It sees the same windows in the same order.
        size: Published size to start from: tiny-1k, tiny-1k-d256, tiny-16k, small-32k, medium-160k, medium-450k or
            large-1m.
        d_model: Width, in place of the size's.
        n_layer: Number of layers, in place of the size's.
        max_seq_len: Longest sequence that the model takes, in place of the size's. Its filters depend on it.
        embed_dropout: Dropout on the embedding, in place of the size's 0.1.
        model_fields: Further fields of HyenaDNAConfig, such as short_filter_order or activation_freq. Of a GPT they are
            n_head, resid_dropout and attention_dropout.
        init_from: Checkpoint to continue training from, in place of random weights of the given size.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        length: Tokens in a training window.
        batch_size: Windows per optimizer step.
        accumulate: Micro-batches that a batch is cut into to save memory. The loss is the mean over the whole batch.
        warmup_length: Window length that a sequence-length warm-up starts from. The length doubles stage by stage, and
            the tokens per step stay the same. The default is no such warm-up.
        warmup_length_steps: Optimizer steps of each stage of the sequence-length warm-up.
        steps: Optimizer steps of the run.
        lr: Peak learning rate.
        min_lr_factor: Learning rate at the end, as a factor of the peak.
        lr_warmup: Fraction of the steps with a linear learning-rate warm-up.
        weight_decay: Weight decay. It leaves out biases, norms, the embedding and the implicit filters.
        beta1: First beta of AdamW, the decay of the mean gradient.
        beta2: Second beta of AdamW, the decay of the mean squared gradient.
        clip: Greatest norm of the gradient.
        seed: Seed of the weights, the dropout and the windows.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        autocast: Precision of the matrix products. auto is bfloat16 on a GPU and off on a CPU.
        threads: CPU threads. The default is PyTorch's.
        workers: DataLoader worker processes. Their number does not change the batches.
        log_every: Steps between rows of metrics.jsonl.
        eval_every: Steps between validations. 0 validates at the end only.
        eval_length: Inputs in a validation window. The default is the length of a training window.
        eval_windows: Validation windows during training, evenly spaced.
        final_windows: Validation windows at the end, evenly spaced. The default is all of them.
        checkpoint_every: Steps between checkpoints.
        keep: Number of newest checkpoints to keep.
        context: Processes that divide each window along its length. The others take different windows.
        shard: What each process holds of the weights and the optimizer: none is all of them, full is its share.
        checkpoint_format: torch is written by the first process, dcp by all together. auto is dcp with `shard` full,
            and else torch. Any number of processes resumes from either.
        async_checkpoint: Go on training while a checkpoint of the format dcp is written.
        dropout_masks: What dropout is drawn from. generator is the random state of one process. position is the place
            of each element, the same in any number of processes. auto is generator in one process and position in
            several, and stays what the run began with.
    """

    genome: PreparedGenome
    out: Path
    aliases: InputFile | None = None
    bed: InputFile | None = None
    valid_contigs: list[str] = field(default_factory=list)
    test_contigs: list[str] = field(default_factory=list)
    valid_fraction: BelowOne = 0.05
    test_fraction: BelowOne = 0.05
    max_n_fraction: Fraction = 0.1
    reverse_complement: bool = True
    n_to_pad: bool = True
    architecture: Literal["hyena", "gpt"] = "hyena"
    size: str = "tiny-1k"
    d_model: AtLeast1 | None = None
    n_layer: AtLeast1 | None = None
    max_seq_len: AtLeast1 | None = None
    embed_dropout: BelowOne | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    init_from: Path | None = None
    gradient_checkpointing: bool = False
    length: AtLeast1 = 1024
    batch_size: BatchSize = 256
    accumulate: AtLeast1 = 1
    warmup_length: AtLeast1 | None = None
    warmup_length_steps: AtLeast1 = 1000
    steps: AtLeast1 = 10_000
    lr: Positive = 6e-4
    min_lr_factor: Fraction = 0.1
    lr_warmup: Fraction = 0.01
    weight_decay: NonNegative = 0.1
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    clip: Annotated[float, Gt(0)] = 1.0
    seed: Seed = 0
    device: str = "auto"
    autocast: Autocast = "auto"
    threads: Threads | None = None
    workers: Workers = 0
    log_every: AtLeast1 = 10
    eval_every: AtLeast0 = 500
    eval_length: AtLeast1 | None = None
    eval_windows: AtLeast1 = 256
    final_windows: AtLeast1 | None = None
    checkpoint_every: AtLeast1 = 500
    keep: AtLeast1 = 2
    context: AtLeast1 = 1
    shard: Literal["none", "full"] = "none"
    checkpoint_format: Literal["auto", "torch", "dcp"] = "auto"
    async_checkpoint: bool = False
    dropout_masks: Literal["auto", "generator", "position"] = "auto"

    runtime = (
        "out",
        "gradient_checkpointing",
        "device",
        "threads",
        "workers",
        "log_every",
        "checkpoint_every",
        "keep",
        "context",
        "shard",
        "checkpoint_format",
        "async_checkpoint",
        "dropout_masks",
    )

    @property
    def writes_together(self) -> bool:
        """Whether all processes write a checkpoint together."""
        return self.checkpoint_format == "dcp" or (self.checkpoint_format == "auto" and self.shard == "full")

    def _check_together(self) -> None:
        if self.bed is not None and (self.valid_contigs or self.test_contigs):
            raise InputError(
                "give the held-out parts by `bed`, or by `valid_contigs` and `test_contigs`, but not by both"
            )
        if self.bed is not None or self.valid_contigs or self.test_contigs:
            self.refuse_unused(("valid_fraction", "test_fraction"), "splits by fraction: the held-out parts are named")
        if self.warmup_length is None:
            self.refuse_unused(("warmup_length_steps",), "`warmup_length`")
        if self.length * self.batch_size > _MOST_TOKENS:
            raise InputError(
                f"`batch_size` {self.batch_size}: with `length` {self.length} a step has more than {_MOST_TOKENS:,} "
                "tokens; take fewer windows"
            )
        if self.shard == "full" and self.autocast == "float16":
            raise InputError(
                "`autocast` float16: its scaler would see the gradients of one process alone with `shard` full; take "
                "bfloat16"
            )
        if self.async_checkpoint and not self.writes_together:
            raise InputError("`async_checkpoint`: the format torch is written at once; choose `checkpoint_format` dcp")
        if self.architecture == "gpt":
            self._check_gpt()
        if self.accumulate > self.batch_size:
            raise InputError(f"`accumulate` {self.accumulate}: exceeds `batch_size` {self.batch_size}")
        given = [name for name in ("d_model", "n_layer", "max_seq_len", "model_fields") if getattr(self, name)]
        given += ["size"] if self.size != PretrainConfig.size else []
        if self.init_from is not None and given:
            names = ", ".join(f"`{name}`" for name in given)
            raise InputError(f"`init_from` {self.init_from}: has the shape of its own model; leave out {names}")
        if self.init_from is None:
            short_name(self.size)

    def _check_gpt(self) -> None:
        """Raise InputError for what a HyenaDNA alone has."""
        self.refuse_unused(("size", "context", "shard", "gradient_checkpointing"), "`architecture` hyena")
        if self.writes_together:
            raise InputError("`checkpoint_format` dcp: only a HyenaDNA is written by many processes; choose torch")
        if self.dropout_masks == "position":
            raise InputError("`dropout_masks` position: only a HyenaDNA has masks by position (`architecture` hyena)")
        others = [name for name in ("resid_dropout", "attention_dropout") if self.model_fields.get(name)]
        if world().size > 1 and (self.embed_dropout != 0 or others):
            raise InputError(
                "`architecture` gpt: several processes would draw other masks of dropout than one; set `embed_dropout` "
                "to 0, and no other"
            )

    def written(self) -> list[Path]:
        """The folder of the run, and the intervals in it."""
        return [self.out, self.out / SPLITS_FILE]

    def check(self) -> None:
        """Raise InputError if a value does not fit, or an input does not exist."""
        super().check()
        # A run that has begun resumes from its own checkpoints, and does not need the first one.
        if self.init_from is not None and not (self.out / CONFIG_FILE).is_file():
            check_checkpoint(self.init_from)
            refuse_adapter(self.init_from)
