"""Other names of a genome's contigs: with or without "chr", M for MT, and the names of an alias file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hyenadna.common.errors import InputError
from hyenadna.data.streams import read_lines

# A message lists at most this many names of a file or genome whose names do not fit together.
_MOST_LISTED = 5
_MITOCHONDRIA = ("M", "MT")
# Columns of NCBI's assembly report that name the sequence. The others hold names of molecules and assemblies.
_REPORT_COLUMNS = ("Sequence-Name", "GenBank-Accn", "RefSeq-Accn", "UCSC-style-name")
_REPORT_LENGTH = "Sequence-Length"
# What stands in an alias file where a sequence has no such name.
_NO_NAME = ("", "na", "<>")


def find(name: str, contigs: Mapping[str, object], aliases: Mapping[str, str]) -> str | None:
    """The contig that ``name`` stands for; None if there is none, or if it could be several.

    The exact name comes first, then the alias file. Then come the name with or without "chr", and M and MT, chrM and
    chrMT, which all name the mitochondrion.

    Args:
        name: any of its names.
        contigs: the contigs by their own names.
        aliases: names of contigs by their other names.
    """
    bare = name.removeprefix("chr")
    other_prefix = bare if bare != name else f"chr{name}"
    mitochondria = [f"{prefix}{m}" for m in _MITOCHONDRIA for prefix in ("", "chr")] if bare in _MITOCHONDRIA else []
    for group in ([name], [other_prefix], mitochondria):
        found = {one if one in contigs else aliases.get(one) for one in group} - {None}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def read_aliases(path: Path, lengths: Mapping[str, int]) -> dict[str, str]:
    """Read the other names of contigs from a table with a line for each sequence.

    It is a ``chromAlias.txt`` of UCSC, an ``assembly_report.txt`` of NCBI, or any file with the names of a sequence
    between tabs. Lines that begin with ``#`` are headers. The order of the columns makes no difference: the genome may
    use the names of any of them. A name that lines of several contigs hold is left out.

    Args:
        path: the file, plain or gzip.
        lengths: length of each contig by its own name.

    Returns:
        The contig's own name by each of its other names.

    Raises:
        InputError: the file is missing or damaged, has no line with two names, none of its names is a contig's, or a
            contig has another length in the assembly report.
    """
    rows = 0
    of_alias: dict[str, set[str]] = {}
    seen: list[str] = []
    for number, names, length in _rows(path):
        rows += len(names) > 1
        seen += names[:1] if len(seen) < _MOST_LISTED else []
        contigs = {name for name in names if name in lengths}
        contigs = contigs or {found for name in names if (found := find(name, lengths, {})) is not None}
        if len(contigs) == 1 and length not in (None, lengths[min(contigs)]):
            name = min(contigs)
            raise InputError(
                f"{path}:{number}: {name} has {length:,} bases there and {lengths[name]:,} in the genome; give the "
                "report of the genome's own assembly"
            )
        for name in names:
            of_alias.setdefault(name, set()).update(contigs)
    if not rows:
        raise InputError(
            f"{path}: is no file of aliases: expected the names of a sequence between tabs in each line, as in a "
            "chromAlias.txt of UCSC or an assembly_report.txt of NCBI"
        )
    if not any(of_alias.values()):
        raise InputError(f"{path}: {none_in(seen, lengths)}")
    return {name: min(contigs) for name, contigs in of_alias.items() if len(contigs) == 1 and name not in lengths}


def none_in(names: Iterable[str], contigs: Iterable[str]) -> str:
    """``"none of its contigs (1, 2, ...) is in the genome, which has chrI, chrII, ..."``: the end of a message."""
    return f"none of its contigs ({some(names)}) is in the genome, which has {some(contigs)}"


def some(names: Iterable[str]) -> str:
    """The first few different names, for a message."""
    different = list(dict.fromkeys(names))
    more = ", ..." if len(different) > _MOST_LISTED else ""
    return ", ".join(different[:_MOST_LISTED]) + more


def _rows(path: Path) -> Iterator[tuple[int, list[str], int | None]]:
    """Number of a line, the names in it, and the length of the sequence if the file states it."""
    columns: list[str] = []
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if line.startswith("#"):
            fields[0] = fields[0].lstrip("# ")
            if fields[0] == _REPORT_COLUMNS[0]:
                columns = fields
        elif columns:
            row = dict(zip(columns, fields, strict=False))
            length = row.get(_REPORT_LENGTH, "")
            yield (
                number,
                _names([row.get(name, "") for name in _REPORT_COLUMNS]),
                (int(length) if length.isdecimal() else None),
            )
        else:
            yield number, _names(fields), None


def _names(fields: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(field for field in fields if field not in _NO_NAME))
