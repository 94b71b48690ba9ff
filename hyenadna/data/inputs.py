"""Kinds of input paths that the options name. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from hyenadna.common.errors import InputError
from hyenadna.common.options import Input, check_file
from hyenadna.data.genome import INDEX_FILE, Genome


def check_genome(path: Path) -> None:
    """Raise InputError unless there is a file, or a folder of ``hyenadna prepare`` that can be opened."""
    if path.is_dir():
        Genome.open(path)
    else:
        check_file(path)


def check_aliases(options: Any) -> None:
    """Raise InputError if options have ``aliases`` but no ``genome`` whose contigs they name."""
    if options.aliases is not None and options.genome is None:
        raise InputError("`aliases` needs a `genome`: it holds other names of its contigs")


def check_fasta(path: Path) -> None:
    """Raise InputError unless there is a file."""
    if (path / INDEX_FILE).is_file():
        raise InputError(f"{path}: is a genome of `hyenadna prepare`; give the FASTA itself")
    check_file(path)


InputFasta = Annotated[Path, Input(check_fasta)]
"""A FASTA with sequences. It must be a file."""

PreparedGenome = Annotated[Path, Input(Genome.open)]
"""A folder that ``hyenadna prepare`` has written."""

AnyGenome = Annotated[Path, Input(check_genome)]
"""A folder that ``hyenadna prepare`` has written, or a FASTA."""
