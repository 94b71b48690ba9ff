"""Options of ``hyenadna evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hyenadna.common.choices import MAX_MARKOV_ORDER
from hyenadna.common.errors import InputError


@dataclass
class EvaluateConfig:
    """What to evaluate, and on which held-out part of which genome.

    Args:
        model: checkpoint, a folder or file of either published format, such as the model folder of a run.
        genome: folder that `hyenadna prepare` has written.
        out: folder for evaluation.json and the PNGs.
        contigs: held-out contigs to score on; default the held-out part of the run that the model lies in.
        exclude: further contigs that the Markov models are not fitted on, such as the validation contigs.
        bed: intervals with train, valid or test in the fourth column, in place of the two options above.
        split: split of the BED to score on; the Markov models are fitted on train.
        length: inputs in a window; default the model's own longest, at most 1024.
        n_to_pad: replace N by [PAD], as in training; N is never scored.
        batch_size: windows at a time.
        max_windows: score only so many windows, evenly spaced; default all.
        markov_order: greatest order of the Markov models, 0 to 12; -1 for none.
        metrics: metrics.jsonl of the training run, for the picture of its curves; default the one beside the model.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    model: Path
    genome: Path
    out: Path = Path("evaluation")
    contigs: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    bed: Path | None = None
    split: str = "test"
    length: int | None = None
    n_to_pad: bool = True
    batch_size: int = 16
    max_windows: int | None = None
    markov_order: int = 8
    metrics: Path | None = None
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that make no evaluation."""
        if self.bed is not None and (self.contigs or self.exclude):
            raise InputError("--bed says what is held out: leave out --contigs and --exclude, or the --bed")
        if self.split not in ("valid", "test"):
            raise InputError(f"--split {self.split}: choose valid or test")
        if self.batch_size < 1:
            raise InputError(f"--batch_size {self.batch_size}: must be at least 1")
        if not -1 <= self.markov_order <= MAX_MARKOV_ORDER:
            raise InputError(f"--markov_order {self.markov_order}: choose 0 to {MAX_MARKOV_ORDER}, or -1 for none")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"--out {self.out}: is a file; choose a folder")
