"""Options of ``hyenadna mutate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast0, AtLeast1, InputFile, NewFolder, Options, Seed, Workers
from hyenadna.data.inputs import AnyGenome

MEDIAN = "median"
SMALLEST = "min"

# A deletion shows only between two bases.
Length = Annotated[int, Ge(2)]


@dataclass
class MutateConfig(Options):
    """The mutations, the lines they are from, and which of them become sequences.

    Args:
        fasta: Reference: a FASTA (plain, gzip or bgzip), or a folder of `hyenadna prepare`.
        mutations: Mutations: a CSV of DepMap, a MAF, a VCF or a BCF.
        models: Table of the lines (CSV, TSV, Parquet): Model.csv of DepMap, or the older sample_info.csv.
        classes: Two or more values of --class_column. They are the labels.
        out_dir: Folder to write. It must not exist, or be empty.
        aliases: Other names of the reference's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        class_column: Column of --models with the class of a line. By default OncotreeLineage, or else lineage.
        vcf_line: Name of the line that a VCF without samples is of.
        length: Bases of a sequence.
        more_than: Take only lines with more mutations than this number, or than the median of the lines of all
            classes.
        train_lines: Lines of each class for training, with those for validation.
        validation_lines: Lines of each class that are taken from those for training, to choose an epoch on.
        test_lines: Lines of each class for testing.
        per_line: Sequences of each line. min is the smallest number of mutations of a line that is taken.
        reference: Add a column with the same window without mutations.
        format: Format of the tables, tsv or parquet.
        workers: Processes that make sequences; 0 makes them in the process itself. The tables are the same.
        seed: Seed of the lines, mutations and places in the window that are drawn.
    """

    fasta: AnyGenome
    mutations: InputFile
    models: InputFile
    classes: list[str]
    out_dir: NewFolder
    aliases: InputFile | None = None
    class_column: str | None = None
    vcf_line: str | None = None
    length: Length = 1024
    more_than: str = MEDIAN
    train_lines: AtLeast1 = 70
    validation_lines: AtLeast0 = 10
    test_lines: AtLeast0 = 20
    per_line: str = SMALLEST
    reference: bool = True
    format: Literal["tsv", "parquet"] = "tsv"
    workers: Workers = 0
    seed: Seed = 0
    runtime = ("workers", "out_dir")

    def threshold(self) -> float | None:
        """The number of `more_than`; None for the median."""
        return None if self.more_than == MEDIAN else float(self.more_than)

    def sequences(self) -> int | None:
        """The number of `per_line`; None for the smallest number of mutations."""
        return None if self.per_line == SMALLEST else int(self.per_line)

    def _check_together(self) -> None:
        if len(set(self.classes)) < 2:
            raise InputError(f"`classes` {','.join(self.classes)}: give two or more different classes")
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"`classes` {','.join(self.classes)}: a class stands there twice")
        try:
            is_number = self.more_than == MEDIAN or 0 <= float(self.more_than) < math.inf
        except ValueError:
            is_number = False
        if not is_number:
            raise InputError(f"`more_than` {self.more_than}: must be median, or a number of 0 or more")
        if self.per_line != SMALLEST and not (self.per_line.isdecimal() and int(self.per_line)):
            raise InputError(f"`per_line` {self.per_line}: must be min, or a number of 1 or more")
        if self.validation_lines >= self.train_lines:
            raise InputError(
                f"`validation_lines` {self.validation_lines}: are taken from the {self.train_lines} of `train_lines`, "
                "and must be fewer"
            )
