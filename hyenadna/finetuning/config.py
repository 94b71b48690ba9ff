"""Options of ``hyenadna finetune``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyenadna.common.choices import FORMATS, METRICS, TASKS
from hyenadna.common.errors import InputError
from hyenadna.finetuning.presets import preset

METHODS = ("full", "frozen", "lora", "scratch", "soft-prompt", "few-shot")


_PROMPTED = ("soft-prompt", "few-shot")


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
        if self.metric is not None and self.metric not in METRICS[self.task]:
            raise InputError(f"--metric {self.metric}: of {self.task} choose {', '.join(METRICS[self.task])}")
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
