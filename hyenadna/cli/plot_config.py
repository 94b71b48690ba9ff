"""Options of ``hyenadna plot embeddings``, ``training``, ``results`` and ``mutagenesis``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from hyenadna.cli.probe_config import FoldsBy
from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast1, BatchSize, InputFile, NonNegative, Options, Output, made_by, with_partial
from hyenadna.common.run_layout import RESULTS_FILE, MetricsFile
from hyenadna.data.inputs import AnyGenome
from hyenadna.model.locate import Checkpoint

PngFile = Annotated[Path, Output(lambda path: "" if path.suffix.lower() == ".png" else "must end in .png")]


@dataclass
class EmbeddingsPlot(Options):
    """The embeddings, and how to draw them.

    Args:
        embeddings: File of `hyenadna embed`.
        out: PNG to write.
        method: pca, tsne, or umap with one panel for each pair of --neighbors and --min_dist.
        colour: Colour by label, by contig, by position in bins along any contig, or by bin of each contig.
        neighbors: Numbers of neighbours that UMAP looks at.
        min_dist: Least distances between UMAP's points.
        position_bins: Bins of the colours by position and by bin.
        bin_width: Bases of a bin of the colour by bin, in place of --position_bins.
        top: Pick out so many of the most frequent classes, and draw the others in grey. The colour by bin picks out 5
            by default.
        probe: Print how well nearest neighbours and logistic regression tell the colours apart.
        probe_by_contig: Keep each contig in either the training or the test of the probe.
        probe_by: Kinds of the probe's folds, each with a line of its own: random, contig, and block, which keeps a
            block of the genome on one side. By blocks, windows that overlap the test are left out of its training.
        probe_block: Bases of a block. The default is ten times the median length of a window.
        random: Embeddings of the same sequences with `--random_weights`. Their figures stand beside the first.
        seed: Seed of UMAP and of the probe's folds.
    """

    embeddings: Annotated[Path, made_by("embed")]
    out: PngFile
    method: Literal["pca", "umap", "tsne"] = "pca"
    colour: Literal["label", "contig", "position", "bin"] = "label"
    neighbors: list[Annotated[int, Ge(2)]] = field(default_factory=lambda: [15])
    min_dist: list[NonNegative] = field(default_factory=lambda: [0.1])
    position_bins: AtLeast1 = 10
    bin_width: AtLeast1 | None = None
    top: Annotated[int, Ge(1), Le(20)] | None = None
    probe: bool = True
    probe_by_contig: bool = False
    probe_by: list[FoldsBy] = field(default_factory=lambda: ["random"])
    probe_block: AtLeast1 | None = None
    random: Annotated[Path, made_by("embed")] | None = None
    seed: Annotated[int, Ge(0), Lt(1 << 32)] = 0

    def _check_together(self) -> None:
        for name in ("neighbors", "min_dist"):
            if not getattr(self, name):
                raise InputError(f"`{name}`: give at least one number")
        if self.method != "umap":
            self.refuse_unused(("neighbors", "min_dist"), "`method` umap")
        if self.colour not in ("position", "bin"):
            self.refuse_unused(("position_bins",), "`colour` position")
        if self.colour != "bin":
            self.refuse_unused(("bin_width",), "`colour` bin")
        if self.colour == "position":
            self.refuse_unused(("top",), "another `colour`: positions are in order")
        if self.bin_width is not None and self.position_bins != 10:
            raise InputError("give one of `position_bins` and `bin_width`: the number of bins, or their width")
        if not self.probe:
            self.refuse_unused(("probe_by_contig", "probe_by", "probe_block", "random"), "`probe`")
        if not self.probe_by or len(set(self.probe_by)) < len(self.probe_by):
            raise InputError("`probe_by`: give at least one kind of folds, and none twice")
        if self.probe_by_contig and self.probe_by != ["random"]:
            raise InputError("give one of `probe_by_contig` and `probe_by`: the second takes contig as well")
        if "block" not in self.probe_by:
            self.refuse_unused(("probe_block",), "`probe_by` block")


@dataclass
class TrainingPlot(Options):
    """The training run to draw.

    Args:
        metrics: The metrics.jsonl of a pretraining run.
        out: PNG to write.
    """

    metrics: MetricsFile
    out: PngFile


@dataclass
class ResultsPlot(Options):
    """The fine-tunings to compare.

    Args:
        results: Folders of `hyenadna finetune` with the same split.
        out: PNG to write.
    """

    results: list[Path]
    out: PngFile

    def _check_together(self) -> None:
        if not self.results:
            raise InputError("`results`: give at least one folder")
        for folder in self.results:
            if not (folder / RESULTS_FILE).is_file():
                raise InputError(f"{folder / RESULTS_FILE}: no results of hyenadna finetune")


@dataclass
class MutagenesisPlot(Options):
    """The model, and the region in which it changes every base.

    Args:
        model: Checkpoint with the head of a language model: a folder or file of either published format.
        genome: Genome of the region: a folder of `hyenadna prepare`, or a FASTA.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        region: Region such as chrI:1001-1080, counted from 1 with both ends. Every base in it is changed in turn.
        out: PNG to write. A TSV of the same name holds the values.
        window: Bases around the region that the model reads. The default is 1024, or what the model takes.
        batch_size: Windows at a time.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
    """

    model: Checkpoint
    genome: AnyGenome
    region: str
    out: PngFile
    aliases: InputFile | None = None
    window: int | None = None
    batch_size: BatchSize = 16
    device: str = "auto"

    def _check_together(self) -> None:
        self.interval()

    def written(self) -> list[Path]:
        """The figure, and the table beside it."""
        return with_partial((self.out, self.out.with_suffix(".tsv")))

    def interval(self) -> tuple[str, int, int]:
        """Contig, start and end of the region: 0-based, the end excluded.

        Raises:
            InputError: the region is not written as chrI:1001-1080.
        """
        contig, _, positions = self.region.rpartition(":")
        first, _, last = positions.replace(",", "").partition("-")
        if not (contig and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise InputError(
                f"`region` {self.region}: expected a contig and its first and last position, counted from 1, such as "
                "chrI:1001-1080"
            )
        return contig, int(first) - 1, int(last)
