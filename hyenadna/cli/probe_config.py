"""Options of ``hyenadna probe``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast0, AtLeast1, NewFolder, Options, made_by
from hyenadna.evaluation.probe import Classifier
from hyenadna.evaluation.probe_presets import ProbePreset, probe_preset

FoldsBy = Literal["random", "contig", "block"]
"""How the folds of a probe are made."""


@dataclass
class ProbeConfig(Options):
    """The embeddings, and how to probe them.

    Args:
        embeddings: File of `hyenadna embed`. Sequences without a label have no part.
        out: Folder for results.json, probe.tsv and probe.png.
        random: Embeddings of the same sequences with `--random_weights`. Their figures stand beside the first.
        preset: Published probe: biotypes. Its options replace the defaults, and its published figures are printed
            beside the result.
        classifiers: neighbours, logistic and trees. The picture and the first figures are of the first one, or of the
            preset's.
        top_classes: Keep the sequences of so many of the most frequent labels. 0 keeps all.
        trees: Rounds of boosting. Each has a tree of depth 3 for every class.
        neighbours: Neighbours that vote.
        folds: Folds of the cross-validation.
        folds_by: random, or contig or block to keep a contig or a block of the genome on one side. By blocks, windows
            that overlap the test are left out of the training.
        block: Bases of a block. The default is ten times the median length of a window.
        seed: Seed of the folds and of the trees.
    """

    embeddings: Annotated[Path, made_by("embed")]
    out: NewFolder
    random: Annotated[Path, made_by("embed")] | None = None
    preset: str | None = None
    classifiers: list[Classifier] = field(default_factory=lambda: ["neighbours", "logistic", "trees"])
    top_classes: AtLeast0 = 0
    trees: AtLeast1 = 1000
    neighbours: AtLeast1 = 15
    folds: Annotated[int, Ge(2)] = 5
    folds_by: FoldsBy = "random"
    block: AtLeast1 | None = None
    seed: Annotated[int, Ge(0), Lt(1 << 32)] = 0

    def check(self) -> None:
        """Raise InputError if a value, or one of the preset, does not fit, or an input does not exist."""
        Options.check(self.with_preset())

    def _check_together(self) -> None:
        if not self.classifiers or len(set(self.classifiers)) < len(self.classifiers):
            raise InputError("`classifiers`: give at least one, and none twice")
        if self.top_classes == 1:
            raise InputError("`top_classes` 1: a probe needs at least two classes")
        for name in ("trees", "neighbours"):
            if name not in self.classifiers:
                self.refuse_unused((name,), f"`classifiers` {name}")
        if (chosen := self.chosen_preset) is not None and chosen.classifier not in self.classifiers:
            raise InputError(f"`preset` {self.preset}: its figures are of `classifiers` {chosen.classifier}")
        if self.folds_by != "block":
            self.refuse_unused(("block",), "`folds_by` block")

    @property
    def chosen_preset(self) -> ProbePreset | None:
        """The preset, if there is one."""
        return None if self.preset is None else probe_preset(self.preset)

    def with_preset(self) -> ProbeConfig:
        """The options, with those of the preset where they have the default."""
        chosen = self.chosen_preset
        if chosen is None:
            return self
        plain = ProbeConfig(self.embeddings, self.out)
        same = {name: value for name, value in chosen.options.items() if getattr(self, name) == getattr(plain, name)}
        return dataclasses.replace(self, **same)

    def deviations(self) -> dict[str, list[Any]]:
        """Options that differ from the preset's: the used value, and the preset's."""
        chosen = self.chosen_preset
        wanted = {} if chosen is None else chosen.options
        used = self.with_preset()
        return {name: [getattr(used, name), value] for name, value in wanted.items() if getattr(used, name) != value}
