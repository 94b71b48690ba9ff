"""Options of ``hyenadna evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from hyenadna.common.choices import MAX_MARKOV_ORDER
from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast1, BatchSize, InputFile, Options, Output
from hyenadna.common.run_layout import MetricsFile
from hyenadna.data.inputs import PreparedGenome
from hyenadna.model.locate import Checkpoint

OutputFolder = Annotated[
    Path, Output(lambda path: "is a file; choose a folder" if path.exists() and not path.is_dir() else "")
]


@dataclass
class EvaluateConfig(Options):
    """The model, and the held-out part of a genome that it is scored on.

    Args:
        model: Checkpoint: a folder or file of either published format, such as the model folder of a run.
        genome: Folder that `hyenadna prepare` has written.
        aliases: Other names of the genome's contigs: a chromAlias.txt of UCSC or an assembly_report.txt of NCBI.
        out: Folder for evaluation.json and the PNGs.
        contigs: Held-out contigs to score on. The default is the held-out part of the run that the model lies in.
        exclude: Further contigs that the Markov models must not see, such as the validation contigs.
        bed: Intervals with train, valid or test in the fourth column, in place of --contigs and --exclude.
        split: Split of the BED to score on. The Markov models are fitted on train.
        length: Inputs in a window. The default is the longest that the model takes, at most 1024.
        n_to_pad: Replace N by [PAD], as in training. N is never scored.
        batch_size: Windows at a time.
        max_windows: Score at most this many windows, evenly spaced. The default is all.
        markov_order: Greatest order of the Markov models, 0 to 24, or -1 for none. There are all to 12, 16, 20 and it.
        metrics: The metrics.jsonl of the training run, to draw its curves. The default is the one beside the model.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
    """

    model: Checkpoint
    genome: PreparedGenome
    out: OutputFolder = Path("evaluation")
    contigs: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    aliases: InputFile | None = None
    bed: InputFile | None = None
    split: Literal["valid", "test"] = "test"
    length: AtLeast1 | None = None
    n_to_pad: bool = True
    batch_size: BatchSize = 16
    max_windows: AtLeast1 | None = None
    markov_order: Annotated[int, Ge(-1), Le(MAX_MARKOV_ORDER)] = MAX_MARKOV_ORDER
    metrics: MetricsFile | None = None
    device: str = "auto"

    def _check_together(self) -> None:
        if self.bed is not None and (self.contigs or self.exclude):
            raise InputError("give the held-out part by `bed`, or by `contigs` and `exclude`, but not by both")
        if self.contigs:
            self.refuse_unused(("split",), "a BED: the named `contigs` are scored")
