"""Options of ``hyenadna enbed noise``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from hyenadna.common.errors import InputError
from hyenadna.common.options import (
    AtLeast1,
    BatchSize,
    Fraction,
    NewFolder,
    Options,
    Positive,
    Seed,
    Threads,
)
from hyenadna.data.inputs import InputFasta
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.model.locate import Checkpoint

Scale = Annotated[float, Gt(0), Lt(1e6)]


@dataclass
class NoiseConfig(Options):
    """The sequences, the noise and the classifiers.

    Args:
        out: Folder for results.json, the tables of sequences, noise.png, report.html and the best classifier. It
            appears when all is finished. Until then OUT.partial holds what is.
        model: Checkpoint of `hyenadna enbed pretrain`. It is one row of the table, and random weights are another.
        size: Size of a model with random weights. With a `model` it has the shape of that.
        model_fields: Further fields of ENBEDConfig for random weights.
        fasta: Sequences to take windows of, in place of made telomeres.
        motifs: Repeats of the made telomeres. TG stands for the yeast's, T and one to three G in turn.
        length: Bases of a sequence, in both classes.
        train_examples: Sequences to train on, half of them noisy.
        valid_examples: Sequences for validation, half of them noisy.
        test_examples: Sequences for the test, half of them noisy.
        insertion: Probability that a base is inserted before a base.
        deletion: Probability that a base is deleted.
        mismatch: Probability that a base is replaced by another.
        scales: Noise rates of the study, as multiples of these three.
        divergence: Probability that a base of either class is replaced by another, as evolution does. A row for each.
        kmer: Bases of a word of the yardstick, logistic regression on counts of words.
        epochs: Passes over the training sequences.
        batch_size: Sequences of a step.
        lr: Peak learning rate.
        seed: Seed of the sequences and their noise.
        seeds: Seeds of the training, with one run for each.
        jobs: Runs at a time, see `hyenadna finetune`.
        resume: Run only what a stopped study with the same options has not finished.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        threads: CPU threads of all jobs together. The default is PyTorch's.
    """

    out: NewFolder
    model: Checkpoint | None = None
    size: str = "enbed-tiny"
    model_fields: dict[str, Any] = field(default_factory=dict)
    fasta: InputFasta | None = None
    motifs: list[str] = field(default_factory=lambda: ["TTAGGG", "TTTAGGG", "TTAGG", "TG"])
    length: Annotated[int, Ge(8), Le(1 << 20)] = 512
    train_examples: Annotated[int, Ge(4)] = 320
    valid_examples: Annotated[int, Ge(4)] = 100
    test_examples: Annotated[int, Ge(4)] = 400
    insertion: Fraction = 0.02
    deletion: Fraction = 0.02
    mismatch: Fraction = 0.02
    scales: list[Scale] = field(default_factory=lambda: [1.0, 0.25])
    divergence: list[Fraction] = field(default_factory=lambda: [0.0, 0.05])
    kmer: Annotated[int, Ge(1), Le(8)] = 6
    epochs: AtLeast1 = 4
    batch_size: BatchSize = 4
    lr: Positive = 2e-3
    seed: Seed = 0
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    jobs: AtLeast1 = 1
    resume: bool = False
    device: str = "auto"
    threads: Threads | None = None
    runtime = ("out", "resume", "jobs", "device", "threads")

    def _check_together(self) -> None:
        for name in ("scales", "divergence", "seeds", "motifs"):
            values = getattr(self, name)
            if not values:
                raise InputError(f"`{name}`: give at least one")
            # Folders are named after six digits of a number.
            if len({f"{value:g}" if isinstance(value, float) else value for value in values}) < len(values):
                raise InputError(f"`{name}` {values}: one is there twice")
        for scale in self.scales:
            total = scale * (self.insertion + self.deletion + self.mismatch)
            if not 0 < total <= 1:
                raise InputError(
                    f"`scales` {scale:g}: insertion, deletion and mismatch then add up to {total:g}; take a sum "
                    "above 0 and at most 1"
                )
            if scale * self.deletion > 0.5:
                raise InputError(f"`scales` {scale:g}: more than half of the bases would be deleted; lower `deletion`")
        for motif in self.motifs:
            if not motif or not {*motif} <= {*"ACGT"}:
                raise InputError(f"`motifs` {motif!r}: write a repeat of A, C, G and T")
        for name in ("train_examples", "valid_examples", "test_examples"):
            if getattr(self, name) % 2:
                raise InputError(f"`{name}` {getattr(self, name)}: must be even, as half of them are noisy")
        if self.fasta is not None:
            self.refuse_unused(("motifs",), "made telomeres (no `fasta`)")
        if self.model is None:
            enbed_fields(self.size)
        else:
            self.refuse_unused(("size", "model_fields"), "random weights alone (no `model`)")
