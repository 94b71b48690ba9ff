"""A genome as one flat array of token ids. `prepare` writes it once from a FASTA; `Genome` maps it into memory."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.common.progress import bar
from hyenadna.data.contig_names import find, none_in, read_aliases
from hyenadna.data.fasta import read_pieces

FORMAT = "hyenadna-genome"
VERSION = 1
TOKENS_FILE = "tokens.u8"
INDEX_FILE = "index.json"

# A message lists at most this many names of contigs.
_MOST_LISTED = 30
_OTHER_NAMES = "a file of their other names goes into `aliases`"


@dataclass(frozen=True)
class Contig:
    """One sequence of a prepared genome.

    Attributes:
        name: its header in the FASTA, up to the first blank.
        length: number of nucleotides.
        offset: first position in the token array.
        n_count: positions that hold N.
        iupac_count: those of them that were another IUPAC ambiguity code in the FASTA.
    """

    name: str
    length: int
    offset: int
    n_count: int
    iupac_count: int


class Genome:
    """A prepared genome, memory-mapped read-only on first use.

    Worker processes may inherit or unpickle it. Each unpickled copy opens the map again; no handle is shared.

    Attributes:
        folder: the folder that `prepare` wrote.
        contigs: the contigs in the order of the FASTA.
        fingerprint: sha256 (hexadecimal) of the token array.
        source: base name of the FASTA.
        aliases: contigs by their other names, of alias files.
    """

    def __init__(
        self,
        folder: Path,
        contigs: list[Contig],
        fingerprint: str,
        source: str,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.contigs = contigs
        self.fingerprint = fingerprint
        self.source = source
        self.aliases = dict(aliases or {})
        self._by_name = {contig.name: contig for contig in contigs}
        self._array: np.ndarray | None = None

    def __enter__(self) -> Genome:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the mapped file back. Tokens that were read from it keep it mapped as long as they exist.

        Windows refuses to remove a file that is mapped. The next read opens the map again.
        """
        self._array = None

    @classmethod
    def open(cls, folder: str | Path, aliases: Path | None = None) -> Genome:
        """Open a folder that `prepare` wrote.

        Args:
            folder: the folder.
            aliases: file with other names of the contigs, beside those that `prepare` was given. See
                :func:`hyenadna.data.contig_names.read_aliases`.

        Raises:
            InputError: the folder does not exist, is not a prepared genome, is damaged, or has another version; or
                the alias file does not fit.
        """
        folder = Path(folder)
        index = _read_index(folder)
        try:
            contigs = [Contig(**entry) for entry in index["contigs"]]
            total, fingerprint, source = int(index["total"]), str(index["sha256"]), str(index["source"])
            known = dict(index.get("aliases", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / INDEX_FILE}: damaged index ({error!r}); prepare the genome again") from error
        tokens = folder / TOKENS_FILE
        size = tokens.stat().st_size if tokens.is_file() else 0
        if not size == total == sum(contig.length for contig in contigs):
            raise InputError(
                f"{tokens}: holds {size:,} tokens where {INDEX_FILE} says {total:,}; prepare the genome again"
            )
        if aliases is not None:
            known |= read_aliases(aliases, {contig.name: contig.length for contig in contigs})
        return cls(folder, contigs, fingerprint, source, known)

    @property
    def names(self) -> list[str]:
        """The names of the contigs, in the order of the FASTA."""
        return list(self._by_name)

    def __len__(self) -> int:
        """Number of nucleotides of all contigs together."""
        return sum(contig.length for contig in self.contigs)

    def resolve(self, name: str) -> str | None:
        """The contig's own name, from any of its names; None if there is no such contig, or several could be meant.

        See :func:`hyenadna.data.contig_names.find` for the order in which names are tried.
        """
        return find(name, self._by_name, self.aliases)

    def contig(self, name: str) -> Contig:
        """The contig of that name, see :meth:`resolve`.

        Raises:
            InputError: there is none. The message lists the names, or the nearest ones.
        """
        found = self.resolve(name)
        if found is None:
            raise InputError(f"unknown contig {name!r}; {self._name_hint(name)}")
        return self._by_name[found]

    def check_any(self, names: Iterable[str], where: object) -> None:
        """Raise InputError if the genome has none of the contigs that a file names. It lists names of both.

        Args:
            names: the contigs that the file names.
            where: the file, for the message.
        """
        different = list(dict.fromkeys(names))
        if different and all(self.resolve(name) is None for name in different):
            raise InputError(f"{where}: {none_in(different, self.names)}; {_OTHER_NAMES}")

    def tokens(self, contig: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """Token ids of the positions ``[start, end)`` of a contig, 0-based.

        Returns:
            uint8 (end - start,), a read-only view of the memory-mapped file.

        Raises:
            InputError: the contig is unknown, or the range is not within it.
        """
        found = self.contig(contig)
        end = found.length if end is None else end
        if not 0 <= start <= end <= found.length:
            raise InputError(f"{contig}:{start}-{end} is not within contig {contig!r} of length {found.length}")
        if self._array is None:
            self._array = np.asarray(np.memmap(self.folder / TOKENS_FILE, dtype=np.uint8, mode="r"))
        return self._array[found.offset + start : found.offset + end]

    def describe(self) -> str:
        """One line: source, number of contigs, length, N and IUPAC codes."""
        n_count = sum(contig.n_count for contig in self.contigs)
        iupac_count = sum(contig.iupac_count for contig in self.contigs)
        return (
            f"{self.source}: {len(self.contigs):,} contigs, {len(self):,} nucleotides, {n_count:,} of them N "
            f"(with {iupac_count:,} other IUPAC codes read as N)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def _name_hint(self, name: str) -> str:
        if len(self.names) <= _MOST_LISTED:
            return f"the genome has {len(self.names):,}: {', '.join(self.names)}; {_OTHER_NAMES}"
        near = difflib.get_close_matches(name, self.names, n=5)
        listed = f"the nearest are {', '.join(near)}" if near else f"{', '.join(self.names[:5])}, ..."
        return f"the genome has {len(self.names):,}: {listed}; {_OTHER_NAMES}"


def prepare(
    fasta: str | Path,
    out: str | Path,
    *,
    aliases: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Genome:
    """Tokenise a FASTA (plain, gzip or bgzip) once into a folder that `Genome.open` maps into memory.

    Lower case is read as upper case and U as T. Every other IUPAC ambiguity code becomes N and is counted. The file is
    streamed, so memory does not depend on the size of the genome. The folder appears under its name only when it is
    complete, and a failure leaves nothing behind.

    Args:
        fasta: the file to read. A contig's name is its header up to the first blank.
        out: the folder to write: ``tokens.u8`` (uint8 ids, contigs one after another) and ``index.json``.
        aliases: file with other names of the contigs, which are kept with the genome. See
            :func:`hyenadna.data.contig_names.read_aliases`.
        overwrite: replace ``out`` if it is a prepared genome already.
        progress: show a progress bar over the bytes of the file.

    Raises:
        InputError: ``fasta`` is missing, empty or damaged, is not a nucleotide FASTA, or holds a contig without name
            or sequence, or two contigs of one name; the alias file does not fit; or ``out`` exists already or cannot be
            written.
    """
    fasta, out = Path(fasta), Path(out)
    with atomic_dir(out) as draft:
        _check_target(out, overwrite)
        index = _write_tokens(fasta, draft / TOKENS_FILE, progress)
        if aliases is not None:
            lengths = {contig["name"]: contig["length"] for contig in index["contigs"]}
            index["aliases"] = read_aliases(Path(aliases), lengths)
        (draft / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return Genome.open(out)


@contextmanager
def open_genome(path: Path, aliases: Path | None = None, *, progress: bool = True) -> Iterator[Genome]:
    """Open a prepared genome, or a FASTA, which is tokenised into a temporary folder first.

    Args:
        path: the folder or the FASTA.
        aliases: file with other names of the contigs, see :meth:`Genome.open`.
        progress: show a progress bar over the bytes of a FASTA.

    Raises:
        InputError: ``path`` is neither of the two, or damaged; or the alias file does not fit.
    """
    if path.is_dir():
        with Genome.open(path, aliases) as genome:
            yield genome
        return
    # Windows cannot remove the folder while an exception's frames still hold tokens of the map.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=os.name == "nt") as folder,
        prepare(path, Path(folder) / "genome", aliases=aliases, progress=progress) as genome,
    ):
        yield genome


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; choose another folder")
    held = {entry.name for entry in out.iterdir()}
    if not held:
        return
    if INDEX_FILE not in held or held - {INDEX_FILE, TOKENS_FILE}:
        raise InputError(f"{out}: holds files that are not a prepared genome's; choose another folder")
    if not overwrite:
        raise InputError(
            f"{out}: holds a prepared genome already; replace it with `overwrite`, or choose another folder"
        )


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; make it with `hyenadna prepare GENOME.fa --out {folder}`")
    if not path.is_file():
        raise InputError(f"{folder}: not a prepared genome (no {INDEX_FILE}); make one with `hyenadna prepare`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged index (not JSON); prepare the genome again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{folder}: not a prepared genome ({INDEX_FILE} is another program's)")
    if index.get("version") != VERSION:
        raise InputError(
            f"{path}: format version {index.get('version')!r}, this program reads {VERSION}; prepare the genome again"
        )
    return index


def _write_tokens(fasta: Path, path: Path, progress: bool) -> dict[str, Any]:
    digest = hashlib.sha256()
    counts: dict[str, tuple[int, int, int]] = {}
    size = fasta.stat().st_size if fasta.is_file() else None
    with (
        bar(f"prepare {fasta.name}", size, "B", progress=progress, unit_scale=True) as shown,
        path.open("wb") as tokens,
    ):
        for piece in read_pieces(fasta, shown.update):
            tokens.write(piece.ids)
            digest.update(piece.ids)
            length, n_count, iupac_count = counts.get(piece.contig, (0, 0, 0))
            counts[piece.contig] = (length + len(piece.ids), n_count + piece.n_count, iupac_count + piece.iupac_count)
    offsets = accumulate((length for length, _, _ in counts.values()), initial=0)
    contigs = [
        Contig(name, length, offset, n_count, iupac_count)
        for (name, (length, n_count, iupac_count)), offset in zip(counts.items(), offsets, strict=False)
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": fasta.name,
        "total": sum(contig.length for contig in contigs),
        "sha256": digest.hexdigest(),
        "contigs": [asdict(contig) for contig in contigs],
    }
