"""Options of ``hyenadna embed``, ``score``, ``predict`` and ``generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyenadna.common.choices import POOLINGS, SCORES
from hyenadna.common.errors import InputError


@dataclass
class EmbedConfig:
    """What to embed, with which model.

    Args:
        model: checkpoint, a folder or file of either published format.
        out: file to write, .npz or .parquet, with name, contig, start, end, label and embedding of each sequence.
        fasta: sequences, plain, gzip or bgzip.
        bed: intervals of --genome, in place of a FASTA; the fourth column is the label.
        genome: genome of the intervals, a folder of `hyenadna prepare` or a FASTA.
        table: table of sequences (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: column of the table that holds the sequence.
        label_column: column of the table that holds a label.
        pooling: mean over the bases, last base, or token for a vector of every base.
        window: windows that longer sequences are read in, together with --stride.
        stride: bases between the starts of the windows.
        random_weights: embed with the model's shape and new weights in place of its own, as a yardstick for a probe.
        n_to_pad: show N to the model as [PAD], as in pretraining.
        batch_size: windows at a time.
        part_size: sequences between two savings.
        resume: go on from the parts that a stopped run has left.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
        seed: of random weights.
    """

    model: Path
    out: Path
    fasta: Path | None = None
    bed: Path | None = None
    genome: Path | None = None
    table: Path | None = None
    sequence_column: str = "sequence"
    label_column: str | None = None
    pooling: str = "mean"
    window: int | None = None
    stride: int | None = None
    random_weights: bool = False
    n_to_pad: bool = True
    batch_size: int = 16
    part_size: int = 1024
    resume: bool = False
    device: str = "auto"
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for values that embed nothing."""
        if sum(source is not None for source in (self.fasta, self.bed, self.table)) != 1:
            raise InputError("give one of --fasta, --bed and --table to embed")
        if (self.bed is None) != (self.genome is None):
            raise InputError("--bed and --genome go together: intervals are cut from their genome")
        if self.label_column is not None and self.table is None:
            raise InputError("--label_column belongs to a --table; the label of a BED is its fourth column")
        if self.pooling not in POOLINGS:
            raise InputError(f"--pooling {self.pooling}: choose {', '.join(POOLINGS)}")
        for name in ("batch_size", "part_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least 1")


@dataclass
class ScoreConfig:
    """What to score, with which model.

    Args:
        model: checkpoint with the head of a language model, a folder or file of either published format.
        out: TSV to write; the input's columns are kept, scores are in nats.
        fasta: sequences to score, plain, gzip or bgzip.
        table: table of sequences to score (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: column of the table that holds the sequence.
        vcf: variants to score, plain, gzip or bgzip, in place of sequences.
        genome: genome of the variants, a folder of `hyenadna prepare` or a FASTA.
        mode: of variants. likelihood is the log-likelihood of the window with the alternative allele minus that of the
            reference; site the same over the changed bases alone; embedding the distance of the windows' mean states.
        strands: forward, or both for the mean of a sequence and its reverse complement.
        window: bases a model sees at once. Of variants, default 1024 or what the model takes; of sequences, windows
            that longer ones are read in, together with --stride.
        stride: bases between the starts of the windows of a long sequence.
        ref_mismatch: what to do where REF is not what the genome holds. note keeps the row without a score, skip leaves
            it out, fail stops at the first. More than 5% of such records always stop, before anything is scored.
        n_to_pad: show N to the model as [PAD], as in pretraining; N is never scored.
        batch_size: windows at a time; it changes no score.
        precision: float64, or float32, which is faster; on yeast windows of 1,024 it was off by at most 7e-5 nats.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    model: Path
    out: Path
    fasta: Path | None = None
    table: Path | None = None
    sequence_column: str = "sequence"
    vcf: Path | None = None
    genome: Path | None = None
    mode: str = "likelihood"
    strands: str = "forward"
    window: int | None = None
    stride: int | None = None
    ref_mismatch: str = "note"
    n_to_pad: bool = True
    batch_size: int = 16
    precision: str = "float64"
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that make no scoring."""
        if sum(source is not None for source in (self.fasta, self.table, self.vcf)) != 1:
            raise InputError("give one of --fasta, --table and --vcf to score")
        if (self.vcf is None) != (self.genome is None):
            raise InputError("--vcf and --genome go together: variants are scored within their genome")
        for name, choices in (
            ("mode", tuple(SCORES)),
            ("strands", ("forward", "both")),
            ("ref_mismatch", ("note", "skip", "fail")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} {getattr(self, name)}: choose {', '.join(choices)}")
        if self.batch_size < 1:
            raise InputError(f"--batch_size {self.batch_size}: must be at least 1")
        if self.vcf is not None and self.stride is not None:
            raise InputError("--stride belongs to long sequences: a variant has one window around it")
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a folder; choose a file")


@dataclass
class PredictConfig:
    """What to predict, with which model.

    Args:
        model: model folder that `hyenadna finetune` has written.
        out: TSV to write; the input's columns are kept.
        fasta: sequences, plain, gzip or bgzip.
        table: table of sequences (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: column of the table that holds the sequence.
        reverse_complement: average a sequence and its reverse complement.
        batch_size: sequences at a time.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    model: Path
    out: Path
    fasta: Path | None = None
    table: Path | None = None
    sequence_column: str = "sequence"
    reverse_complement: bool = False
    batch_size: int = 32
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that predict nothing."""
        if (self.fasta is None) == (self.table is None):
            raise InputError("give --fasta or --table to predict")
        if self.batch_size < 1:
            raise InputError(f"--batch_size {self.batch_size}: must be at least 1")
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a folder; choose a file")


@dataclass
class GenerateConfig:
    """What to go on from, how far, and how to sample.

    Args:
        model: checkpoint with the head of a language model, a folder or file of either published format.
        out: FASTA to write: each prompt with what was generated after it.
        prompt: bases to go on from, such as ACGT.
        prompt_fasta: FASTA with prompts, in place of --prompt.
        length: bases to generate.
        count: sequences for each prompt.
        temperature: of the sampling; 0 takes the likeliest base at every step.
        top_k: sample among so many likeliest tokens; 0 among all.
        top_p: sample among the likeliest tokens that have this share of the probability together.
        nucleotides_only: sample A, C, G and T alone. Without it N may come too, and [SEP] ends a sequence early.
        new_only: write what was generated without the prompt.
        seed: of the sampling; the same seed, prompts and batch size give the same sequences.
        batch_size: sequences at a time.
        precision: float32 or float64.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    model: Path
    out: Path
    prompt: str | None = None
    prompt_fasta: Path | None = None
    length: int = 100
    count: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    nucleotides_only: bool = True
    new_only: bool = False
    seed: int = 0
    batch_size: int = 16
    precision: str = "float32"
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that generate nothing."""
        if (self.prompt is None) == (self.prompt_fasta is None):
            raise InputError(
                "give --prompt or --prompt_fasta: a model without a start token needs a base to go on from"
            )
        for name, least in (("length", 1), ("count", 1), ("batch_size", 1), ("top_k", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature {self.temperature}: must be at least 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p {self.top_p}: must be above 0 and at most 1")
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a folder; choose a file")
