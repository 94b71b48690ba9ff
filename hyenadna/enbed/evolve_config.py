"""Options of ``hyenadna enbed evolve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from hyenadna.common.choices import Autocast
from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast0, AtLeast1, BatchSize, Fraction, InputPath, Options, Positive, Seed, Threads
from hyenadna.common.run_layout import CONFIG_FILE
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.model.locate import check_checkpoint


@dataclass
class EvolveConfig(Options):
    """The pairs, the model, its training, and how its candidates are ranked.

    Args:
        pairs: Folder of `hyenadna enbed mutate-pairs`, or a table with the same columns.
        simulate: Pairs of a synthetic phylogeny in place of `pairs`: those of `hyenadna enbed mutate-pairs --simulate`
            with its defaults and this seed. They are written to pairs.tsv.
        out: Folder of the run, for checkpoints, results.json, candidates.tsv, the tree and report.html.
        model: Checkpoint of `hyenadna enbed pretrain` to start from. The default are random weights.
        size: Size of a model with random weights: enbed-tiny, enbed-small, enbed-base or enbed-large.
        model_fields: Further fields of ENBEDConfig for random weights, such as d_model.
        dropout: Dropout of the training.
        scramble: Share of the training pairs in which some places that parent and child have in common get other
            bases, the same in both. Such pairs teach to copy, and what is around a place that mutates.
        steps: Optimizer steps of the training.
        batch_size: Pairs of a step, and pairs at a time when candidates are generated.
        lr: Peak learning rate. It falls on a line to 0.
        lr_warmup: Fraction of the steps with a linear warm-up.
        beams: Beams of the search.
        candidates: Candidates of each pair, at most as many as beams.
        noise_model: Checkpoint of the classifier of `hyenadna enbed noise`. The least noisy candidate is then the
            first. Without it the score of the beam decides.
        tree_pairs: Test pairs in the tree, drawn at random. 0 draws no tree.
        resamples: Resamples of the test pairs for the intervals.
        seed: Seed of the weights, the order of pairs, the resamples and the pairs of the tree.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        autocast: Precision of the matrix products in training: auto, off or bfloat16. auto is bfloat16 on a GPU and
            off on a CPU.
        threads: CPU threads. The default is PyTorch's.
        eval_every: Steps between validations. 0 validates at the end only.
        checkpoint_every: Steps between checkpoints.
    """

    out: Path
    pairs: InputPath | None = None
    simulate: Annotated[int, Ge(10)] | None = None
    model: Path | None = None
    size: str = "enbed-tiny"
    model_fields: dict[str, Any] = field(default_factory=dict)
    dropout: Annotated[float, Ge(0), Le(0.9)] = 0.0
    scramble: Fraction = 0.3
    steps: AtLeast1 = 2000
    batch_size: BatchSize = 32
    lr: Positive = 5e-3
    lr_warmup: Fraction = 0.05
    beams: Annotated[int, Ge(2), Le(64)] = 5
    candidates: Annotated[int, Ge(1), Le(64)] = 5
    noise_model: Path | None = None
    tree_pairs: Annotated[int, Ge(0), Le(500)] = 20
    resamples: Annotated[int, Ge(100), Le(100_000)] = 2000
    seed: Seed = 0
    device: str = "auto"
    autocast: Autocast = "auto"
    threads: Threads | None = None
    eval_every: AtLeast0 = 200
    checkpoint_every: AtLeast1 = 200

    runtime = (
        "out",
        "device",
        "threads",
        "checkpoint_every",
        "beams",
        "candidates",
        "noise_model",
        "tree_pairs",
        "resamples",
    )

    def _check_together(self) -> None:
        if (self.pairs is None) == (self.simulate is None):
            raise InputError("give either `pairs` or `simulate`, and not both: where the pairs come from")
        if self.candidates > self.beams:
            raise InputError(f"`candidates` {self.candidates}: must be at most `beams`, {self.beams}")
        if self.autocast == "float16":
            raise InputError("`autocast` float16: has no number as low as the masks of the attention; take bfloat16")
        if self.model is None:
            enbed_fields(self.size)
        elif self.model_fields or self.size != EvolveConfig.size:
            raise InputError(
                f"`model` {self.model}: has the shape of its own model; leave out `size` and `model_fields`"
            )
        if set(self.model_fields) & {"max_seq_len", "dropout_rate"}:
            raise InputError("`model_fields`: max_seq_len comes from the pairs, and dropout_rate from `dropout`")

    def written(self) -> list[Path]:
        """The folder of the run."""
        return [self.out]

    def check(self) -> None:
        """Raise InputError if a value does not fit, or an input does not exist."""
        super().check()
        if self.model is not None and not (self.out / CONFIG_FILE).is_file():
            check_checkpoint(self.model)
        if self.noise_model is not None:
            check_checkpoint(self.noise_model)
