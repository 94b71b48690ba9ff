"""Options of ``hyenadna plot``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hyenadna.common.errors import InputError

METHODS = ("pca", "umap")


COLOURS = ("label", "contig", "position")


@dataclass
class PlotConfig:
    """What to draw: one of embeddings, metrics, results, and region.

    Args:
        out: PNG to write.
        embeddings: file of `hyenadna embed`, for a map of its vectors.
        method: pca, or umap for one panel for each --neighbors and --min_dist.
        colour: label, contig, or position in bins along the contig.
        neighbors: neighbours that UMAP looks at.
        min_dist: least distances between UMAP's points.
        position_bins: bins of the colour by position.
        probe: say with the map how well nearest neighbours and logistic regression tell the colours apart.
        probe_by_contig: no contig in training and test of the probe at once.
        seed: of UMAP and of the probe's folds.
        metrics: metrics.jsonl of a pretraining run, for its curves.
        results: folders of `hyenadna finetune` on the same split, to compare what they reached.
        model: language model, for the map of a mutagenesis.
        genome: genome of the region, a folder of `hyenadna prepare` or a FASTA.
        region: such as chrI:1001-1080, 1-based with both ends, of which every base is changed in turn.
        window: bases around the region that the model reads; default 1024 or what it takes.
        batch_size: windows at a time.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    out: Path
    embeddings: Path | None = None
    method: str = "pca"
    colour: str = "label"
    neighbors: list[int] = field(default_factory=lambda: [15])
    min_dist: list[float] = field(default_factory=lambda: [0.1])
    position_bins: int = 10
    probe: bool = True
    probe_by_contig: bool = False
    seed: int = 0
    metrics: Path | None = None
    results: list[Path] = field(default_factory=list)
    model: Path | None = None
    genome: Path | None = None
    region: str | None = None
    window: int | None = None
    batch_size: int = 16
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that draw nothing."""
        if self.out.suffix.lower() != ".png":
            raise InputError(f"--out {self.out}: must end in .png")
        if sum(map(bool, (self.embeddings, self.metrics, self.results, self.region))) != 1:
            raise InputError("give one of --embeddings, --metrics, --results and --region to draw")
        if self.region is not None and (self.model is None or self.genome is None):
            raise InputError("--region needs the --model that scores it and the --genome that it lies in")
        if self.method not in METHODS:
            raise InputError(f"--method {self.method}: choose {' or '.join(METHODS)}")
        if self.colour not in COLOURS:
            raise InputError(f"--colour {self.colour}: choose {', '.join(COLOURS)}")
        if self.position_bins < 1 or self.batch_size < 1:
            raise InputError("--position_bins and --batch_size must be at least 1")
        if not self.neighbors or min(self.neighbors) < 2 or not self.min_dist or min(self.min_dist) < 0:
            raise InputError("--neighbors must be at least 2, --min_dist at least 0, one value of each or more")
