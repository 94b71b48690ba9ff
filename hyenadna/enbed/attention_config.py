"""Options of ``hyenadna enbed attention``."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast1, NewFolder, Options
from hyenadna.data.inputs import InputFasta
from hyenadna.model.locate import Checkpoint


@dataclass
class AttentionConfig(Options):
    """The model, the sequence and the layers to draw.

    Args:
        model: Checkpoint of an ENBED, from `enbed pretrain` or fine-tuned.
        out: Folder for attention.npz, heads.tsv and a picture of each layer.
        sequence: Bases to look at, such as ACGT.
        fasta: FASTA with one sequence, in place of --sequence.
        layers: Layers of the encoder, from 1. The default is all of them.
    """

    model: Checkpoint
    out: NewFolder
    sequence: str | None = None
    fasta: InputFasta | None = None
    layers: list[AtLeast1] = field(default_factory=list)

    def _check_together(self) -> None:
        if (self.sequence is None) == (self.fasta is None):
            raise InputError("give one of `sequence` and `fasta`")
        if len({*self.layers}) < len(self.layers):
            raise InputError(f"`layers` {self.layers}: names a layer twice")
