"""Options of ``hyenadna enbed pretrain``."""

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
    NonNegative,
    Options,
    Positive,
    Seed,
    Threads,
)
from hyenadna.common.run_layout import CONFIG_FILE
from hyenadna.data.inputs import AnyGenome
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.model.locate import check_checkpoint

BelowOne = Annotated[float, Ge(0), Lt(1)]
BetweenZeroAndOne = Annotated[float, Gt(0), Lt(1)]


@dataclass
class PretrainConfig(Options):
    """The data, the model and the training. Every field is an option and a key of the YAML file.

    Args:
        genomes: FASTAs, or folders of `hyenadna prepare`. Their records are read one after another.
        out: Folder of the run, for metrics, checkpoints, results.json and the model.
        valid_contigs: Contigs held out for validation.
        test_contigs: Contigs held out for the results, never used before the end. Without any, the results are those
            of validation.
        valid_fraction: Fraction of each contig's end that is held out for validation, if no contigs are named.
        test_fraction: Fraction of each contig's end that is held out for the test, if no contigs are named.
        n_runs: join leaves N out and joins what is beside it, and records too, as published. cut ends windows there.
        reverse_complement: Reverse complement half of the windows. The published training did not say.
        size: Size of the model: enbed-tiny, enbed-small, enbed-base or enbed-large.
        model_fields: Further fields of ENBEDConfig, such as d_model, first_local_layers or num_global_tokens.
        init_from: Checkpoint to continue training from, in place of random weights of the given size.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        length: Bytes of a window. The published length is 16,384.
        density: Share of the bytes that is masked.
        mean_span: Mean length of a masked span in bytes. There are 125 sentinels, so a window has at most 125 spans.
        batch_size: Windows per optimizer step.
        accumulate: Micro-batches that a batch is cut into to save memory.
        steps: Optimizer steps of the run.
        lr: Peak learning rate. It falls on a line to --min_lr_factor. The published one is 1e-5, for models of a
            billion weights; small ones need more.
        min_lr_factor: Learning rate at the end, as a factor of the peak.
        lr_warmup: Fraction of the steps with a linear warm-up.
        weight_decay: Weight decay of AdamW. It leaves out norms and embeddings.
        beta1: First beta of AdamW.
        beta2: Second beta of AdamW.
        eps: Epsilon of AdamW. The paper prints 10^6, which is read as 1e-6.
        clip: Greatest norm of the gradient.
        seed: Seed of the weights, the dropout, the windows and the masks.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        autocast: Precision of the matrix products: auto, off or bfloat16. auto is bfloat16 on a GPU and off on a CPU.
        threads: CPU threads. The default is PyTorch's.
        log_every: Steps between rows of metrics.jsonl.
        eval_every: Steps between validations. 0 validates at the end only.
        eval_windows: Validation windows during training, evenly spaced.
        final_windows: Windows of the results, evenly spaced. The default is all of them.
        markov_orders: Orders of the Markov models beside the results, up to 12. They see as many bases before a
            masked one.
        checkpoint_every: Steps between checkpoints.
        keep: Number of newest checkpoints to keep.
    """

    genomes: list[AnyGenome]
    out: Path
    valid_contigs: list[str] = field(default_factory=list)
    test_contigs: list[str] = field(default_factory=list)
    valid_fraction: BelowOne = 0.05
    test_fraction: BelowOne = 0.05
    n_runs: Literal["join", "cut"] = "join"
    reverse_complement: bool = False
    size: str = "enbed-small"
    model_fields: dict[str, Any] = field(default_factory=dict)
    init_from: Path | None = None
    gradient_checkpointing: bool = False
    length: Annotated[int, Ge(2)] = 512
    density: BetweenZeroAndOne = 0.15
    mean_span: Annotated[float, Ge(1)] = 20.0
    batch_size: BatchSize = 32
    accumulate: AtLeast1 = 1
    steps: AtLeast1 = 10_000
    lr: Positive = 1e-5
    min_lr_factor: Fraction = 0.0
    lr_warmup: Fraction = 0.05
    weight_decay: NonNegative = 0.01
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.99
    eps: Positive = 1e-6
    clip: Annotated[float, Gt(0)] = 1.0
    seed: Seed = 0
    device: str = "auto"
    autocast: Autocast = "auto"
    threads: Threads | None = None
    log_every: AtLeast1 = 10
    eval_every: AtLeast0 = 500
    eval_windows: AtLeast1 = 64
    final_windows: AtLeast1 | None = None
    markov_orders: list[Annotated[int, Ge(0), Lt(13)]] = field(default_factory=lambda: [1, 2, 4, 6, 8, 10])
    checkpoint_every: AtLeast1 = 500
    keep: AtLeast1 = 2

    runtime = (
        "out",
        "gradient_checkpointing",
        "device",
        "threads",
        "log_every",
        "checkpoint_every",
        "keep",
        "final_windows",
        "markov_orders",
    )

    def _check_together(self) -> None:
        if not self.genomes:
            raise InputError("`genomes`: give at least one FASTA or folder of `hyenadna prepare`")
        if self.valid_contigs or self.test_contigs:
            self.refuse_unused(("valid_fraction", "test_fraction"), "splits by fraction: the held-out parts are named")
        if self.accumulate > self.batch_size:
            raise InputError(f"`accumulate` {self.accumulate}: exceeds `batch_size` {self.batch_size}")
        if self.autocast == "float16":
            raise InputError("`autocast` float16: has no number as low as the masks of the attention; take bfloat16")
        if self.init_from is None:
            enbed_fields(self.size)
        elif self.model_fields or self.size != PretrainConfig.size:
            raise InputError(
                f"`init_from` {self.init_from}: has the shape of its own model; leave out `size` and `model_fields`"
            )

    def written(self) -> list[Path]:
        """The folder of the run."""
        return [self.out]

    def check(self) -> None:
        """Raise InputError if a value does not fit, or an input does not exist."""
        super().check()
        if self.init_from is not None and not (self.out / CONFIG_FILE).is_file():
            check_checkpoint(self.init_from)
