"""Options of ``hyenadna finetune``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from hyenadna.common.choices import METRICS, Autocast, Format, Keep, Task
from hyenadna.common.errors import InputError
from hyenadna.common.options import (
    AtLeast0,
    AtLeast1,
    BatchSize,
    Fraction,
    InputFile,
    InputPath,
    NewFolder,
    NonNegative,
    Options,
    Positive,
    Seed,
    Threads,
    check_path,
    listed,
)
from hyenadna.data.inputs import AnyGenome
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.finetuning.presets import preset
from hyenadna.model.locate import Checkpoint, refuse_adapter
from hyenadna.model.sizes import short_name

Method = Literal["full", "frozen", "lora", "scratch", "soft-prompt", "few-shot"]

Ablation = Literal["none", "scratch", "kmer", "bidirectional", "bidirectional-published", "gpt", "cnn"]

ABLATIONS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "kmer": {"kmer": 6},
    "bidirectional": {"bidirectional": True},
    "bidirectional-published": {"bidirectional": "published"},
    "gpt": {},
    "cnn": {},
}
"""Fields of ``HyenaDNAConfig`` that a row of the published ablations sets. All rows start from random weights."""

ENBED_SIZE = "enbed-small"
"""Size of an ENBED from random weights, if none is given."""

_CNN_OPTIONS = {"epochs": 10, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0}
"""Those of the Genomic Benchmarks, in place of a preset's, which are HyenaDNA's. 1e-3 is the default of its Adam."""

PROMPTED_METHODS = ("soft-prompt", "few-shot")
"""Methods in which a language model answers with a letter."""


@dataclass
class FinetuneConfig(Options):
    """The labelled data, the model and the training.

    Args:
        data: A table (CSV, TSV, Parquet), or a folder of tables (train.tsv, validation.tsv, test.tsv), of
            GenomicBenchmarks (train/CLASS/*.txt), of the Nucleotide Transformer (train.fna, test.fna), of DeepSEA's
            coordinates (*train*.csv) or of species.
        out: Folder for results.json, metrics.jsonl, training.png and the best model. It appears when all runs are
            finished. Until then OUT.partial holds the finished ones.
        model: Checkpoint to start from. Leave it out for --method scratch.
        method: full trains all weights, frozen the head alone, and lora adds low-rank adapters. scratch starts from
            random weights. soft-prompt trains vectors before a frozen language model, which answers with a letter.
            few-shot shows demonstrations in the context, and trains the model to use them.
        architecture: hyena, or enbed: a head on the encoder of an ENBED, which reads bytes. Its `model` is one of
            `hyenadna enbed pretrain`, or another LongT5 of bytes, and its methods are full, frozen, lora and scratch.
        ablation: Row of the published ablations in place of none. scratch, kmer (words of 6 bases), bidirectional
            (two-sided convolutions), bidirectional-published (as the original computes it), cnn (that of the Genomic
            Benchmarks) and gpt (a GPT-2 with 529,920 parameters) start from random weights. gpt with a `model`
            fine-tunes a GPT of `pretrain --architecture gpt`.
        unfreeze_every: Epochs after which one more layer is trained. The head alone is trained first, then the layers
            from the last one backwards, and in the end the embedding and all else. Frozen layers run without dropout.
            Patience and plateau count from the last stage on. 0 trains all from the start.
        unfreeze_layers: Layers that are ever unfrozen, from the last one. 0 unfreezes all of them and the rest.
        task: classification, multilabel (several outputs of 0 and 1), regression, or token (a letter for each base).
        preset: Published task, such as gb-nontata-promoters or nt-H3; any other word lists them all. Its
            hyperparameters, length and metric replace options that have their defaults, and its published figure is
            printed beside the result.
        format: Layout of the data. auto recognises it.
        sequence_column: Column of a table that holds the sequence.
        label_columns: Columns of a table that hold the labels.
        split_column: Column of a table with train, valid or test. Without it, and without splits in the data, 10% are
            drawn for validation and 20% for the test.
        genome: Genome of DeepSEA's coordinates, a folder of `hyenadna prepare` or a FASTA.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        length: Length of the windows of DeepSEA's coordinates and of species. Longer sequences of other data are cut to
            it. Without it a sequence that is too long for the model is an error.
        keep: What is kept of a longer sequence: its start, middle or end. Labels of bases are cut alike, and predict
            does the same with this model.
        species_windows: Windows of each species in training. Validation and test have a tenth as many each.
        valid_fraction: Fraction of the training examples held out for validation, if the data have no such split.
        train_examples: Training examples that are drawn, as evenly from the classes as there are some. 0 takes all.
            Demonstrations of few-shot still come from all.
        split_seed: Seed of all splits that are drawn. It is the same for every seed of the training.
        folds: Folds of a cross-validation over the training examples. Each fold is the test once. 0 is none.
        pooling: mean over the bases, or the last or first position.
        epochs: Greatest number of passes over the training examples.
        patience: Epochs without a better validation after which training stops.
        metric: Metric that decides on the best epoch: accuracy, mcc, f1_macro, f1_binary, auroc, auprc, pearson,
            spearman or mse, as the task allows. The default is accuracy, auroc for multilabel, pearson for regression.
        batch_size: Sequences of a step.
        accumulate: Micro-batches that a batch is cut into to save memory. The loss is the mean over the whole batch.
        pack_tokens: Tokens of a row into which the sequences of a step are packed one after another without pads. A
            step goes through its rows one by one, so a row bounds memory too. Each step trains on the same sequences
            as without packing, and its gradients differ by rounding, but dropout draws other numbers. 0 pads the
            sequences of a step to the longest.
        lr: Peak learning rate.
        lr_schedule: cosine falls to the end of the training. plateau stays at the peak, and falls to a tenth after each
            epoch that is not better on validation than the best.
        min_lr_factor: Lowest learning rate after the warm-up, as a factor of the peak.
        lr_warmup: Fraction of the steps with a linear warm-up.
        lr_warmup_steps: Steps of the warm-up, in place of that fraction. 0 takes the fraction.
        lr_steps: Steps after which the learning rate has come to its end, where it then stays. 0 is the whole training,
            all of whose epochs count, also those that patience saves.
        weight_decay: Weight decay. It leaves out biases, norms, the embedding and the implicit filters.
        clip: Greatest norm of the gradient.
        ema_decay: Decay of a moving average of the weights, such as 0.998. The average is validated, tested and saved
            in place of the weights. 0 is none.
        balanced: Draw every class equally often.
        reverse_complement: Train on half of the sequences as their reverse complement, and average both in prediction.
        crop: Most bases that training cuts from each end of a sequence. The number is drawn each time, so that the
            model cannot learn positions by heart. At least one base stays. Demonstrations of few-shot are not cut.
        warmup_length: Bases of each training sequence that the first epochs see, at a random place of it. The number
            doubles stage by stage, until it is that of the sequences.
        warmup_length_epochs: Epochs of each stage of this warm-up.
        lm_weight: Weight of the next-nucleotide loss that is added to the loss of the labels (0.5 in equation 5 of
            Radford et al. 2018). 0 is none. It uses the checkpoint's language head, or a new one that is not saved.
        lora_rank: Rank of the adapters of --method lora. A higher rank trains more weights.
        prompt_tokens: Number of vectors of --method soft-prompt, 2 to 32,768.
        prompt_dropout: Dropout on these vectors in training.
        letters: Letters with which soft-prompt and few-shot answer, one for each class in the order of their names.
            Further ones are not used.
        shots: Demonstrations of each class in training, with --method few-shot.
        eval_shots: Demonstrations of each class in the test, with one result for each number.
        size: Published size, with --method scratch: tiny-1k, tiny-1k-d256, tiny-16k, small-32k, medium-160k,
            medium-450k or large-1m. Of an ENBED: enbed-tiny, enbed-small, enbed-base or enbed-large, where tiny-1k
            stands for enbed-small.
        d_model: Width, in place of the size's.
        n_layer: Number of layers, in place of the size's. Of an ENBED, those of the encoder.
        max_seq_len: Longest sequence, in place of the size's.
        model_fields: Further fields of HyenaDNAConfig, such as short_filter_order or embed_dropout. Of an ENBED they
            are those of ENBEDConfig, such as local_radius or dropout_rate.
        seeds: Seeds of the training, with one run for each.
        jobs: Runs of seeds and folds at a time, each in a process of its own with its part of the threads. Small models
            gain little from a second thread and much from a second run. On a GPU the runs share it. The processes of
            torchrun share out the runs, and each has as many at a time.
        resume: Run only the seeds and folds that a stopped run with the same options has not finished.
        baseline: Compare with logistic regression on 5-mer counts and with the commonest class.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        autocast: Precision of the matrix products. auto is bfloat16 on a GPU and off on a CPU.
        threads: CPU threads of all jobs together. The default is PyTorch's.
    """

    data: InputPath
    out: NewFolder
    model: Checkpoint | None = None
    method: Method = "full"
    architecture: Literal["hyena", "enbed"] = "hyena"
    ablation: Ablation = "none"
    unfreeze_every: AtLeast0 = 0
    unfreeze_layers: AtLeast0 = 0
    task: Task = "classification"
    preset: str | None = None
    format: Format = "auto"
    sequence_column: str = "sequence"
    label_columns: list[str] = field(default_factory=lambda: ["label"])
    split_column: str | None = None
    genome: AnyGenome | None = None
    aliases: InputFile | None = None
    length: AtLeast1 | None = None
    keep: Keep = "middle"
    species_windows: AtLeast1 = 1000
    valid_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    train_examples: AtLeast0 = 0
    split_seed: Seed = 0
    folds: AtLeast0 = 0
    pooling: Literal["mean", "last", "first"] = "mean"
    epochs: AtLeast1 = 20
    patience: AtLeast1 = 5
    metric: str | None = None
    batch_size: BatchSize = 32
    accumulate: AtLeast1 = 1
    pack_tokens: AtLeast0 = 0
    lr: Positive = 6e-4
    lr_schedule: Literal["cosine", "plateau"] = "cosine"
    min_lr_factor: Fraction = 0.1
    lr_warmup: Fraction = 0.05
    lr_warmup_steps: AtLeast0 = 0
    lr_steps: AtLeast0 = 0
    weight_decay: NonNegative = 0.1
    clip: Annotated[float, Gt(0)] = 1.0
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    balanced: bool = False
    reverse_complement: bool = False
    crop: AtLeast0 = 0
    warmup_length: AtLeast1 | None = None
    warmup_length_epochs: AtLeast1 = 1
    lm_weight: NonNegative = 0.0
    lora_rank: AtLeast1 = 8
    prompt_tokens: Annotated[int, Ge(2), Le(32_768)] = 16
    prompt_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    letters: str = "ACGTN"
    shots: AtLeast0 = 2
    eval_shots: list[AtLeast0] = field(default_factory=lambda: [0, 2])
    size: str = "tiny-1k"
    d_model: AtLeast1 | None = None
    n_layer: AtLeast1 | None = None
    max_seq_len: AtLeast1 | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    seeds: list[Seed] = field(default_factory=lambda: [0])
    jobs: AtLeast1 = 1
    resume: bool = False
    baseline: bool = False
    device: str = "auto"
    autocast: Autocast = "auto"
    threads: Threads | None = None
    runtime = ("out", "resume", "jobs", "threads", "device", "accumulate", "pack_tokens")

    @property
    def chosen_metric(self) -> str:
        """The metric that decides on the best epoch."""
        return self.metric or METRICS[self.task][0]

    def check(self) -> None:
        """Raise InputError if a value, or one of the preset, does not fit, or an input does not exist."""
        applied = apply_preset(apply_ablation(apply_architecture(self)))
        if self.preset is not None:
            _check_data(self)
        Options.check(applied)
        if self.model is not None:
            refuse_adapter(self.model)

    def _check_together(self) -> None:
        if self.architecture == "enbed":
            self._check_enbed()
        self._check_ablation()
        if (self.method == "scratch") == (self.model is not None):
            raise InputError(f"`method` {self.method}: {'leave out' if self.model else 'needs a'} `model`")
        if self.metric is not None and self.metric not in METRICS[self.task]:
            raise InputError(f"`metric` {self.metric}: for `task` {self.task} choose {listed(METRICS[self.task])}")
        if self.folds == 1:
            raise InputError("`folds` 1: choose 0 for none, or at least 2")
        if self.lr_warmup_steps:
            self.refuse_unused(("lr_warmup",), "`lr_warmup_steps` 0")
        if self.lr_schedule == "plateau":
            self.refuse_unused(("lr_steps",), "`lr_schedule` cosine")
        if self.accumulate > self.batch_size:
            raise InputError(f"`accumulate` {self.accumulate}: exceeds `batch_size` {self.batch_size}")
        if self.pack_tokens:
            self.refuse_unused(("accumulate",), "`pack_tokens` 0: a packed row bounds memory")
        if self.length is None:
            self.refuse_unused(("keep",), "`length`")
        if not self.letters or len({*self.letters}) < len(self.letters) or not {*self.letters} <= {*"ACGTN"}:
            raise InputError(f"`letters` {self.letters!r}: give different ones of ACGTN")
        if self.lr_steps and self.lr_steps <= self.lr_warmup_steps:
            raise InputError(f"`lr_steps` {self.lr_steps}: must be above `lr_warmup_steps` {self.lr_warmup_steps}")
        for name in ("eval_shots", "seeds"):
            if not getattr(self, name):
                raise InputError(f"`{name}`: give at least one number")
        if len({*self.seeds}) < len(self.seeds):
            raise InputError(f"`seeds` {self.seeds}: a seed is there twice, and would count as two runs")
        if self.method in PROMPTED_METHODS and self.task != "classification":
            raise InputError(f"`method` {self.method} is for `task` classification")
        if self.method == "few-shot" and self.reverse_complement:
            raise InputError("`method` few-shot: its demonstrations have a strand; leave `reverse_complement` out")
        if self.lm_weight and self.method in ("frozen", *PROMPTED_METHODS):
            raise InputError(f"`method` {self.method}: `lm_weight` is for `method` full, lora and scratch")
        if not self.unfreeze_every:
            self.refuse_unused(("unfreeze_layers",), "`unfreeze_every`")
        elif self.method not in ("full", "scratch"):
            raise InputError(f"`method` {self.method}: `unfreeze_every` is for `method` full and scratch")
        for name in ("baseline", "balanced"):
            if getattr(self, name) and self.task != "classification":
                raise InputError(f"`{name}` is for `task` classification")
        if self.reverse_complement and self.task == "token":
            raise InputError("`reverse_complement`: the labels of bases have a strand; leave it out for `task` token")
        if self.crop and self.task == "token":
            raise InputError("`crop`: the labels of bases are not cut with them; leave it out for `task` token")
        if self.warmup_length is None:
            self.refuse_unused(("warmup_length_epochs",), "`warmup_length`")
        if self.task == "token":
            self.refuse_unused(("warmup_length",), "a label for the whole sequence")
        if self.method == "scratch":
            self._check_size()
        self._check_unused()

    def _check_ablation(self) -> None:
        """Raise InputError for options that the row of an ablation cannot honour."""
        row = f"`ablation` {self.ablation}"
        if self.ablation != "none" and self.ablation != "gpt" and self.method != "scratch":
            raise InputError(f"{row}: starts from random weights: leave out `method`, or take scratch")
        if self.ablation == "gpt":
            if self.method not in ("full", "frozen", "scratch"):
                raise InputError(f"{row}: `method` {self.method} is for a HyenaDNA; choose full or frozen")
            self.refuse_unused(("size", "pack_tokens"), "a HyenaDNA (`ablation` none)")
        if self.ablation == "cnn":
            if self.task == "token":
                raise InputError(f"{row}: has no classes of bases: choose another `task`")
            if self.lm_weight:
                raise InputError(f"{row}: predicts no next base: leave out `lm_weight`")
            self.refuse_unused(
                ("size", "d_model", "n_layer", "model_fields", "pooling", "pack_tokens", "unfreeze_every"),
                "a HyenaDNA (`ablation` none)",
            )
        if self.model_fields.get("kmer") is not None:
            what = "`model_fields` kmer" if self.ablation != "kmer" else row
            if self.task == "token":
                raise InputError(f"{what}: words of bases have no classes of bases: choose another `task`")
            if self.lm_weight:
                raise InputError(f"{what}: a word holds most bases of the next one: leave out `lm_weight`")

    def _check_enbed(self) -> None:
        """Raise InputError for options that an ENBED cannot honour."""
        if self.ablation != "none":
            raise InputError(f"`ablation` {self.ablation}: is of HyenaDNA, and `architecture` is enbed; leave it out")
        if self.method in PROMPTED_METHODS:
            raise InputError(
                f"`method` {self.method}: needs a model that predicts the next base, and `architecture` is enbed; "
                "choose full, frozen, lora or scratch"
            )
        if self.autocast == "float16":
            raise InputError("`autocast` float16: has no number as low as the masks of an ENBED; take bfloat16")
        self.refuse_unused(("pack_tokens", "lm_weight"), "a HyenaDNA (`architecture` hyena)")

    def _check_size(self) -> None:
        """Raise InputError if the architecture has no such size."""
        if self.architecture == "enbed":
            enbed_fields(self.size)
        elif self.size.startswith("enbed-"):
            raise InputError(f"`size` {self.size}: is a size of ENBED; add `architecture` enbed")
        else:
            short_name(self.size)

    def _check_unused(self) -> None:
        """Raise InputError for options that neither the method nor the task reads."""
        readers = {
            "scratch": ("size", "d_model", "n_layer", "max_seq_len", "model_fields"),
            "lora": ("lora_rank",),
            "soft-prompt": ("prompt_tokens", "prompt_dropout"),
            "few-shot": ("shots", "eval_shots"),
        }
        for method, names in readers.items():
            if self.method != method:
                self.refuse_unused(names, f"`method` {method}")
        if self.method in PROMPTED_METHODS:
            self.refuse_unused(
                ("pooling", "pack_tokens", "warmup_length"), "a head (`method` full, frozen, lora or scratch)"
            )
        else:
            self.refuse_unused(("letters",), "`method` soft-prompt or few-shot")
        if self.task == "token":
            self.refuse_unused(("pooling",), "a label for the whole sequence")


def _check_data(config: FinetuneConfig) -> None:
    """Raise InputError if the data of a preset are not there. The message says where they are from."""
    # It imports torch, which the help does without.
    from hyenadna.data.dataset import detect_format

    try:
        check_path(config.data)
        if config.format == "auto":
            detect_format(config.data)
    except InputError as error:
        name = str(config.preset)
        raise InputError(f"{error}; the data of `preset` {name} are {preset(name).data}") from error


def apply_architecture(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with the size of an ENBED from random weights, if the default of HyenaDNA stands there."""
    is_new = config.architecture == "enbed" and config.method == "scratch"
    return dataclasses.replace(config, size=ENBED_SIZE) if is_new and config.size == FinetuneConfig.size else config


def apply_ablation(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with what its row of the ablations means: the method and the fields of the model.

    Raises:
        InputError: the row and the options do not fit.
    """
    if config.ablation == "none":
        return config
    change: dict[str, Any] = {}
    if config.method == "full" and not (config.ablation == "gpt" and config.model is not None):
        change["method"] = "scratch"
    fields = ABLATIONS[config.ablation]
    for name, plain in (("bidirectional", False), ("kmer", None)):
        value = config.model_fields.get(name, fields.get(name, plain))
        # Words of another number of bases are still words.
        is_other_k = config.ablation == "kmer" and name == "kmer" and value is not None
        if config.ablation not in ("gpt", "cnn") and value != fields.get(name, plain) and not is_other_k:
            raise InputError(
                f"`model_fields` {name} {value}: `ablation` {config.ablation} sets {fields.get(name, plain)}; for "
                "another model take `method` scratch without `ablation`"
            )
    change["model_fields"] = fields | config.model_fields
    return dataclasses.replace(config, **change)


def apply_preset(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with its preset's options where it has the default.

    Raises:
        InputError: there is no such preset.
    """
    if config.preset is None:
        return config
    wanted = preset(config.preset)
    plain = FinetuneConfig(config.data, config.out)

    def is_given(name: str) -> bool:
        return getattr(config, name) != getattr(plain, name)

    method = config.method if is_given("method") else wanted.options.get("method", config.method)
    options = {"metric": wanted.metric, **wanted.options}
    ablation = config.ablation
    if ablation == "cnn":
        options |= _CNN_OPTIONS
    if method == "scratch" and ablation not in ("gpt", "cnn") and config.architecture == "hyena":
        options |= {"size": wanted.size, **wanted.shape}
    if method in PROMPTED_METHODS or ablation == "cnn":
        options = {name: value for name, value in options.items() if name not in ("pooling", "warmup_length")}
    chosen = {
        name: value
        for name, value in options.items()
        if not is_given(name) and not (name in _INSTEAD and is_given(_INSTEAD[name]))
    }
    if "accumulate" in chosen:
        chosen["accumulate"] = min(chosen["accumulate"], chosen.get("batch_size", config.batch_size))
    return dataclasses.replace(config, **chosen)


def changes(before: FinetuneConfig, after: FinetuneConfig) -> str:
    """The options that differ, with their values after."""
    names = (field.name for field in dataclasses.fields(after))
    found = (f"{name} {getattr(after, name)}" for name in names if getattr(after, name) != getattr(before, name))
    return ", ".join(found) or "nothing: every option was given"


_INSTEAD = {"lr_warmup_steps": "lr_warmup", "lr_steps": "lr_schedule", "accumulate": "pack_tokens"}
"""Options of a preset, and the option in whose place they are: given, it wins."""
