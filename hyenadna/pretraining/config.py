"""Options of ``hyenadna pretrain``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError

# Fields that change how a run is carried out or watched, and not what it computes, may change on --resume.
_FREE: dict[str, Any] = {"free": True}


# Options by the least value that makes sense; None is always allowed.
_LEAST = {
    "length": 1,
    "batch_size": 1,
    "accumulate": 1,
    "warmup_length": 1,
    "warmup_length_steps": 1,
    "steps": 1,
    "seed": 0,
    "threads": 1,
    "workers": 0,
    "log_every": 1,
    "eval_every": 0,
    "eval_length": 1,
    "eval_windows": 1,
    "final_windows": 1,
    "checkpoint_every": 1,
    "keep": 1,
}


@dataclass
class PretrainConfig:
    """What to train on which data, and how. Every field is an option and a key of the YAML file.

    Args:
        genome: folder that `hyenadna prepare` has written.
        out: folder of the run, for metrics, checkpoints and the model.
        bed: intervals to draw windows from, with train, valid or test in the fourth column; in place of the four
            options below.
        valid_contigs: contigs held out for validation.
        test_contigs: contigs held out for the final test, never looked at in training.
        valid_fraction: share at each contig's end that is held out for validation, where no contigs are named.
        test_fraction: share at each contig's end that is held out for the test.
        max_n_fraction: greatest share of N in a training window.
        reverse_complement: reverse complement half of the windows.
        n_to_pad: replace N by [PAD], as the published pretraining did; N is never a target.
        size: published size to start from, such as tiny-1k or large-1m.
        d_model: width, in place of the size's.
        n_layer: number of layers, in place of the size's.
        max_seq_len: longest sequence the model is made for (its filters depend on it), in place of the size's.
        embed_dropout: dropout on the embedding, in place of the size's 0.1.
        model_fields: further fields of HyenaDNAConfig, such as short_filter_order or activation_freq.
        init_from: checkpoint to go on training from, in place of random weights of the given size.
        gradient_checkpointing: compute activations again in backward to save memory.
        length: tokens in a training window.
        batch_size: windows per optimizer step.
        accumulate: micro-batches that a batch is cut into to save memory; the loss is the mean over the whole batch.
        warmup_length: window length that a sequence-length warm-up starts from; it doubles stage by stage with
            tokens per step constant. Default no such warm-up.
        warmup_length_steps: optimizer steps of each stage of the sequence-length warm-up.
        steps: optimizer steps of the run.
        lr: peak learning rate.
        min_lr_factor: learning rate at the end, as a factor of the peak.
        lr_warmup: share of the steps with a linear learning-rate warm-up.
        weight_decay: of the weights that decay; biases, norms, embedding and implicit filters never do.
        beta1: of AdamW.
        beta2: of AdamW.
        clip: greatest norm of the gradient.
        seed: of the weights, the dropout and the windows.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
        autocast: auto is bfloat16 on a GPU and off on a CPU; or bfloat16, float16, off.
        threads: CPU threads; default PyTorch's.
        workers: processes that read windows; batches are the same with any number.
        log_every: steps between rows of metrics.jsonl.
        eval_every: steps between validations; 0 validates at the end only.
        eval_length: inputs in a validation window; default that of a training window.
        eval_windows: validation windows during training, evenly spaced.
        final_windows: validation windows at the end, evenly spaced; default all of them.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints kept.
    """

    genome: Path
    out: Path = field(metadata=_FREE)
    bed: Path | None = None
    valid_contigs: list[str] = field(default_factory=list)
    test_contigs: list[str] = field(default_factory=list)
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    max_n_fraction: float = 0.1
    reverse_complement: bool = True
    n_to_pad: bool = True
    size: str = "tiny-1k"
    d_model: int | None = None
    n_layer: int | None = None
    max_seq_len: int | None = None
    embed_dropout: float | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    init_from: Path | None = None
    gradient_checkpointing: bool = field(default=False, metadata=_FREE)
    length: int = 1024
    batch_size: int = 256
    accumulate: int = 1
    warmup_length: int | None = None
    warmup_length_steps: int = 1000
    steps: int = 10_000
    lr: float = 6e-4
    min_lr_factor: float = 0.1
    lr_warmup: float = 0.01
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    seed: int = 0
    device: str = field(default="auto", metadata=_FREE)
    autocast: str = "auto"
    threads: int | None = field(default=None, metadata=_FREE)
    workers: int = field(default=0, metadata=_FREE)
    log_every: int = field(default=10, metadata=_FREE)
    eval_every: int = 500
    eval_length: int | None = None
    eval_windows: int = 256
    final_windows: int | None = None
    checkpoint_every: int = field(default=500, metadata=_FREE)
    keep: int = field(default=2, metadata=_FREE)

    def check(self) -> None:
        """Raise InputError for values that make no run."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} {value}: must be at least {least}")
        for name, is_valid, rule in (
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("min_lr_factor", 0 <= self.min_lr_factor <= 1, "within 0 to 1"),
            ("lr_warmup", 0 <= self.lr_warmup <= 1, "within 0 to 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1"),
            ("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1"),
            ("clip", self.clip > 0, "above 0"),
            ("embed_dropout", self.embed_dropout is None or 0 <= self.embed_dropout < 1, "at least 0 and below 1"),
            ("seed", self.seed < 1 << 63, "below 2**63"),
        ):
            if not is_valid:
                raise InputError(f"--{name} {getattr(self, name)}: must be {rule}")
        if self.bed is not None and (self.valid_contigs or self.test_contigs):
            raise InputError("--bed says what is held out: leave out --valid_contigs and --test_contigs, or the --bed")
        if self.accumulate > self.batch_size:
            raise InputError(f"--accumulate {self.accumulate}: a batch of {self.batch_size} has not so many windows")
        if self.autocast not in ("auto", "off", "bfloat16", "float16"):
            raise InputError(f"--autocast {self.autocast}: choose auto, off, bfloat16 or float16")
