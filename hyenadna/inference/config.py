"""Options of ``hyenadna embed``, ``score``, ``predict`` and ``generate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le

from hyenadna.common.choices import Pooling, Precision, ScoreMode
from hyenadna.common.errors import InputError
from hyenadna.common.options import (
    AtLeast0,
    AtLeast1,
    BatchSize,
    InputFile,
    NonNegative,
    Options,
    Output,
    OutputFile,
    Seed,
)
from hyenadna.common.streams import is_output_stream
from hyenadna.data.inputs import AnyGenome, InputFasta, check_aliases
from hyenadna.model.locate import Checkpoint

EmbeddingsFile = Annotated[
    Path, Output(lambda path: "" if path.suffix in (".npz", ".parquet") else "must end in .npz or .parquet")
]

_VCF_ENDINGS = (".vcf", ".vcf.gz")


@dataclass
class EmbedConfig(Options):
    """The model, the sequences to embed, and how.

    Args:
        model: Checkpoint: a folder or file of either published format.
        out: File to write, .npz or .parquet. It holds name, contig, start, end, label and embedding of each sequence.
        fasta: FASTA with the sequences: plain, gzip or bgzip.
        bed: Intervals of --genome, in place of a FASTA. The fourth column is the label.
        genome: Genome of the intervals: a folder of `hyenadna prepare`, or a FASTA.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        table: Table of sequences (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: Column of the table that holds the sequence.
        label_column: Column of the table that holds a label.
        position_columns: Columns of the table that hold the contig, the start (0-based) and the end (exclusive), such
            as contig,start,end in tables of `hyenadna mutate`. Without it a table has no positions.
        pooling: mean over the bases, the last base, or token for a vector of every base.
        window: Length of the windows that longer sequences are read in. It needs --stride.
        stride: Bases between the starts of two windows. It needs --window.
        random_weights: Embed with new random weights in the model's shape, as a baseline for a probe.
        n_to_pad: Show N to the model as [PAD], as in pretraining.
        batch_size: Windows at a time, padded to the longest.
        pack_tokens: Tokens of a row into which windows are packed one after another without pads, in place of
            --batch_size. It changes embeddings by rounding only, and saves time where lengths differ. 0 pads.
        part_size: Sequences between two saves. Each process of torchrun takes so many at a time.
        resume: Resume a stopped run from the parts that it has saved.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        seed: Seed of the random weights.
    """

    model: Checkpoint
    out: EmbeddingsFile
    fasta: InputFasta | None = None
    bed: InputFile | None = None
    genome: AnyGenome | None = None
    aliases: InputFile | None = None
    table: InputFile | None = None
    sequence_column: str = "sequence"
    label_column: str | None = None
    position_columns: list[str] = field(default_factory=list)
    pooling: Pooling = "mean"
    window: int | None = None
    stride: int | None = None
    random_weights: bool = False
    n_to_pad: bool = True
    batch_size: BatchSize = 16
    pack_tokens: AtLeast0 = 0
    part_size: AtLeast1 = 1024
    resume: bool = False
    device: str = "auto"
    seed: Seed = 0
    runtime = ("batch_size", "pack_tokens", "resume", "device", "out")

    def _check_together(self) -> None:
        if sum(source is not None for source in (self.fasta, self.bed, self.table)) != 1:
            raise InputError("give one of `fasta`, `bed` and `table` to embed")
        if (self.bed is None) != (self.genome is None):
            raise InputError("`bed` and `genome` go together: intervals are cut from their genome")
        check_aliases(self)
        if self.label_column is not None and self.table is None:
            raise InputError("`label_column` needs a `table`: the label of a BED is its fourth column")
        if self.table is None:
            self.refuse_unused(("sequence_column", "position_columns"), "a `table`")
        if len(self.position_columns) not in (0, 3):
            raise InputError("`position_columns`: give three columns, of the contig, the start and the end")
        if self.position_columns and self.pooling == "token":
            raise InputError(
                "`position_columns` with `pooling` token: a base that was inserted has no position; choose mean or last"
            )
        if not self.random_weights:
            self.refuse_unused(("seed",), "`random_weights`")


@dataclass
class ScoreConfig(Options):
    """The model, the sequences or variants to score, and how.

    Args:
        model: Checkpoint with the head of a language model: a folder or file of either published format.
        out: TSV to write. It keeps the input's columns; scores are in nats. With an ending of .vcf or .vcf.gz it is an
            annotated VCF.
        fasta: FASTA with the sequences to score: plain, gzip or bgzip.
        table: Table of sequences to score (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: Column of the table that holds the sequence.
        vcf: Variants to score, in place of sequences: a VCF or MAF, plain, gzip or bgzip, or a BCF.
        genome: Genome of the variants: a folder of `hyenadna prepare`, or a FASTA.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        mode: Score of a variant. likelihood is the log-likelihood of the window with the alternative allele minus that
            with the reference allele. site is the same, summed over the changed bases only. embedding is the distance
            between the mean states of the two windows.
        strands: forward only, or both for the mean of a sequence and its reverse complement.
        window: Bases that the model reads at once. For variants the default is 1024, or what the model takes. For
            sequences it is the length of the windows that longer ones are read in, and needs --stride.
        stride: Bases between the starts of two windows of a long sequence.
        ref_mismatch: Action where REF differs from the genome. note keeps the row without a score, skip leaves it out,
            fail stops at the first. Without this option it is note, but if more than 5% of 20 or more alleles differ,
            nothing is scored.
        n_to_pad: Show N to the model as [PAD], as in pretraining. N is never scored.
        batch_size: Windows at a time, padded to the longest. In float64 it changes no score.
        pack_tokens: Tokens of a row into which sequences, or their windows, are packed one after another without pads,
            in place of --batch_size. In float64 it changes no score, and it saves time where lengths differ. 0 pads.
        precision: float64, or float32, which is faster. On yeast windows of 1,024 bases it differed by at most 7e-5
            nats.
        out_format: tsv has a row for each allele. vcf has the records as they are, with the scores in INFO. The default
            goes by the ending of --out.
        part_size: Sequences or records between two saves. Each process of torchrun takes so many at a time.
        resume: Resume a stopped run from the parts that it has saved.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
    """

    model: Checkpoint
    out: OutputFile
    fasta: InputFasta | None = None
    table: InputFile | None = None
    sequence_column: str = "sequence"
    vcf: InputFile | None = None
    genome: AnyGenome | None = None
    aliases: InputFile | None = None
    mode: ScoreMode = "likelihood"
    strands: Literal["forward", "both"] = "forward"
    window: int | None = None
    stride: int | None = None
    ref_mismatch: Literal["note", "skip", "fail"] | None = None
    n_to_pad: bool = True
    batch_size: BatchSize = 16
    pack_tokens: AtLeast0 = 0
    precision: Precision = "float64"
    out_format: Literal["tsv", "vcf"] | None = None
    part_size: AtLeast1 = 1024
    resume: bool = False
    device: str = "auto"
    runtime = ("batch_size", "pack_tokens", "resume", "device", "out")

    @property
    def writes_vcf(self) -> bool:
        """True for an annotated VCF, False for a TSV."""
        return self.out_format == "vcf" or (self.out_format is None and self.out.name.endswith(_VCF_ENDINGS))

    def _check_together(self) -> None:
        if sum(source is not None for source in (self.fasta, self.table, self.vcf)) != 1:
            raise InputError("give one of `fasta`, `table` and `vcf` to score")
        if (self.vcf is None) != (self.genome is None):
            raise InputError("`vcf` and `genome` go together: variants are scored within their genome")
        check_aliases(self)
        if self.vcf is not None and self.pack_tokens:
            raise InputError("`pack_tokens` is for sequences: windows around variants have one length and no pads")
        if self.vcf is not None and self.stride is not None:
            raise InputError("`stride` is for long sequences: a variant has one window around it")
        if self.writes_vcf and self.vcf is None:
            raise InputError(f"`out` {self.out}: a VCF needs variants; the scores of sequences are a TSV")
        if self.out_format == "vcf" and not (self.out.name.endswith(_VCF_ENDINGS) or is_output_stream(self.out)):
            raise InputError(f"`out` {self.out}: must end in {' or '.join(_VCF_ENDINGS)} for `out_format` vcf")
        if not self.writes_vcf and self.out.suffix == ".gz":
            raise InputError(f"`out` {self.out}: a TSV is written as plain text; choose a name without .gz")
        if self.table is None:
            self.refuse_unused(("sequence_column",), "a `table`")
        if self.vcf is None:
            self.refuse_unused(("mode", "ref_mismatch"), "a `vcf`")


@dataclass
class PredictConfig(Options):
    """The fine-tuned model, and the sequences to predict.

    Args:
        model: Model folder that `hyenadna finetune` has written.
        out: TSV to write. It keeps the input's columns.
        fasta: FASTA with the sequences: plain, gzip or bgzip.
        table: Table of sequences (CSV, TSV, Parquet), in place of a FASTA.
        sequence_column: Column of the table that holds the sequence.
        reverse_complement: Average the predictions for a sequence and its reverse complement.
        batch_size: Sequences at a time.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
    """

    model: Checkpoint
    out: OutputFile
    fasta: InputFasta | None = None
    table: InputFile | None = None
    sequence_column: str = "sequence"
    reverse_complement: bool = False
    batch_size: BatchSize = 32
    device: str = "auto"

    def _check_together(self) -> None:
        if (self.fasta is None) == (self.table is None):
            raise InputError("give one of `fasta` and `table` to predict")
        if self.table is None:
            self.refuse_unused(("sequence_column",), "a `table`")


@dataclass
class GenerateConfig(Options):
    """The model, the prompts, and how to sample.

    Args:
        model: Checkpoint with the head of a language model: a folder or file of either published format.
        out: FASTA to write. It holds each prompt and the bases generated after it.
        prompt: Bases to continue, such as ACGT.
        prompt_fasta: FASTA with prompts, in place of --prompt.
        length: Bases to generate.
        count: Sequences for each prompt.
        temperature: Temperature of the sampling. 0 takes the likeliest base at every step.
        top_k: Sample among this many likeliest tokens. 0 samples among all.
        top_p: Sample among the likeliest tokens that together have this much of the probability.
        nucleotides_only: Sample A, C, G and T only. Without it the model may also write N, and [SEP] ends a sequence.
        new_only: Write only the generated bases, without the prompt.
        seed: Seed of the sampling. A sequence depends on it, on its prompt, on the place of the prompt in the file, and
            on its own number among --count. It does not depend on the batch size or on other prompts, but for
            rounding.
        batch_size: Sequences at a time. Prompts of different lengths may be among them.
        use_cache: Keep a cache, so that a new base costs little. Without it every step reads the whole sequence.
        precision: Precision of the model.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
    """

    model: Checkpoint
    out: OutputFile
    prompt: str | None = None
    prompt_fasta: InputFasta | None = None
    length: AtLeast1 = 100
    count: AtLeast1 = 1
    temperature: NonNegative = 1.0
    top_k: AtLeast0 = 0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    nucleotides_only: bool = True
    new_only: bool = False
    seed: Seed = 0
    batch_size: BatchSize = 16
    use_cache: bool = True
    precision: Precision = "float32"
    device: str = "auto"

    def _check_together(self) -> None:
        if (self.prompt is None) == (self.prompt_fasta is None):
            raise InputError(
                "give one of `prompt` and `prompt_fasta`: the model has no start token and needs a base to continue"
            )
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 1e6:
            raise InputError(f"`temperature` {self.temperature}: must be 0, or from 0.000001 to 1000000")
        if self.count > 1 and (self.temperature == 0 or self.top_k == 1):
            sharp = "`temperature` 0" if self.temperature == 0 else "`top_k` 1"
            raise InputError(
                f"`count` {self.count} with {sharp}: the likeliest continuation is one sequence, which would come "
                f"{self.count} times; give `count` 1, or sample with a higher {sharp.split()[0]}"
            )
