"""Options of ``hyenadna enbed annotate``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from hyenadna.common.errors import InputError
from hyenadna.common.options import (
    AtLeast0,
    AtLeast1,
    BatchSize,
    InputFile,
    Options,
    Positive,
    Seed,
    Threads,
)
from hyenadna.data.inputs import AnyGenome
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.model.locate import Checkpoint

_OF_GTF = ("genome", "aliases", "attribute", "pattern", "feature", "cds", "length", "long", "per_class",
           "valid_contigs", "test_contigs")  # fmt: skip


@dataclass
class AnnotateConfig(Options):
    """The annotated sequences, the model and its training.

    Args:
        out: Folder of the run, for examples.tsv, checkpoints, predictions.tsv, results.json, confusion.png, report.html
            and the model.
        gtf: GTF with the genes, plain or gzip. It needs `genome`.
        genome: The genome of the GTF, a folder of `hyenadna prepare` or a FASTA.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        table: Examples in place of a GTF: a CSV or TSV with the columns sequence, target and split.
        attribute: Attribute of the GTF that holds the biotype. auto takes the first there is of gene_biotype,
            gene_type, transcript_biotype and transcript_type.
        pattern: Regular expression whose first group is the biotype within the attribute, such as _([A-Za-z]+)$ for
            transcript ids that end in _tRNA.
        feature: Rows of the GTF that are examples. auto takes gene, or transcript where there are no genes.
        cds: Take rows of the feature CDS as examples of their own, with the text CDS, in place of the rows whose
            biotype is protein_coding or mRNA.
        length: Bases of every sequence: windows around the middle of a row, with what lies beside it if it is shorter.
            So the length gives nothing away. The default keeps rows as long as they are.
        most: Most bases of a sequence.
        long: What becomes of longer ones: middle keeps the bases around their middle, skip leaves them out.
        per_class: Most examples of a biotype in each split, drawn at random. 0 takes all.
        valid_contigs: Contigs held out for validation.
        test_contigs: Contigs held out for the test.
        model: Checkpoint of `hyenadna enbed pretrain`. The default is random weights.
        size: Size of a model with random weights.
        model_fields: Further fields of ENBEDConfig for random weights.
        balanced: Show each biotype equally often in training.
        steps: Optimizer steps.
        batch_size: Sequences of a step.
        lr: Peak learning rate.
        beams: Width of the beam search that writes the texts.
        kmer: Bases of a word of the yardstick, logistic regression on counts of words.
        checkpoint_every: Steps between checkpoints.
        seed: Seed of the weights, the examples and their order.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        threads: CPU threads. The default is PyTorch's.
    """

    out: Path
    gtf: InputFile | None = None
    genome: AnyGenome | None = None
    aliases: InputFile | None = None
    table: InputFile | None = None
    attribute: str = "auto"
    pattern: str | None = None
    feature: str = "auto"
    cds: bool = True
    length: AtLeast1 | None = None
    most: Annotated[int, Ge(1), Le(16_384)] = 512
    long: Literal["middle", "skip"] = "middle"
    per_class: AtLeast0 = 400
    valid_contigs: list[str] = field(default_factory=list)
    test_contigs: list[str] = field(default_factory=list)
    model: Checkpoint | None = None
    size: str = "enbed-tiny"
    model_fields: dict[str, Any] = field(default_factory=dict)
    balanced: bool = False
    steps: AtLeast1 = 600
    batch_size: BatchSize = 16
    lr: Positive = 3e-3
    beams: AtLeast1 = 5
    kmer: Annotated[int, Gt(0), Le(8)] = 4
    checkpoint_every: AtLeast1 = 200
    seed: Seed = 0
    device: str = "auto"
    threads: Threads | None = None

    runtime = ("out", "device", "threads", "checkpoint_every")

    def _check_together(self) -> None:
        if (self.gtf is None) == (self.table is None):
            raise InputError("give either `gtf` or `table`, where the examples come from, and not both")
        if self.table is not None:
            self.refuse_unused(_OF_GTF, "`gtf`")
        else:
            if self.genome is None:
                raise InputError(f"`gtf` {self.gtf}: needs the `genome` that it annotates")
            for name in ("valid_contigs", "test_contigs"):
                if not getattr(self, name):
                    raise InputError(f"`{name}`: name at least one contig; neighbours on one contig would leak")
            if both := sorted({*self.valid_contigs} & {*self.test_contigs}):
                raise InputError(f"contig {both[0]!r} is both for validation and for test; choose one")
        if self.length is not None and self.length > self.most:
            raise InputError(f"`length` {self.length}: exceeds `most` {self.most}")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise InputError(f"`pattern` {self.pattern}: is no regular expression ({error})") from error
            if groups < 1:
                raise InputError(f"`pattern` {self.pattern}: has no group; put brackets around the biotype")
        if self.model is None:
            enbed_fields(self.size)
        else:
            self.refuse_unused(("size", "model_fields"), "random weights (no `model`)")

    def written(self) -> list[Path]:
        """The folder of the run."""
        return [self.out]
