"""Kinds of input paths that the options name. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hyenadna.common.options import Input, check_file
from hyenadna.data.genome import Genome


def check_genome(path: Path) -> None:
    """Raise InputError unless there is a file, or a folder of ``hyenadna prepare`` that can be opened."""
    if path.is_dir():
        Genome.open(path)
    else:
        check_file(path)


PreparedGenome = Annotated[Path, Input(Genome.open)]
"""A folder that ``hyenadna prepare`` has written."""

AnyGenome = Annotated[Path, Input(check_genome)]
"""A folder that ``hyenadna prepare`` has written, or a FASTA."""
