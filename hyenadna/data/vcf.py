"""Records of VCF and BCF, and the lines of an annotated VCF. Columns stay as they are, letter by letter."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.streams import regular_file
from hyenadna.data.streams import read_lines
from hyenadna.data.variants import VariantRecord

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT")
_FIXED = (*COLUMNS, "QUAL", "FILTER", "INFO")
_INFO = _FIXED.index("INFO")
_ALT = COLUMNS.index("ALT")
_PREFIX = "HYENADNA_"
# Attributes may stand in any order, and a quoted one may hold a comma.
_INFO_ID = re.compile(r'##INFO=<(?:\w+=(?:"(?:[^"\\]|\\.)*"|[^,">]*),)*ID=([^,>]+)')
# More digits than any contig needs, and few enough for int().
_MOST_DIGITS = 18
# What may not stand in a value of INFO (VCF 4.3, section 1.2), and white space, which VCF 4.2 forbids.
_ESCAPED = str.maketrans({"%": "%25", ";": "%3B", "=": "%3D", ",": "%2C", ":": "%3A", " ": "_"})


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers. Bytes that are not UTF-8 come back when they are written."""
    return read_lines(path, errors="surrogateescape")


def read_vcf(path: Path) -> Iterator[VariantRecord]:
    """Yield the records of a VCF in the order of the file.

    Raises:
        InputError: a record has no position or too few columns.
    """
    for number, line in lines(path):
        if not line.startswith("#") and line.strip():
            yield _record(line, f"{path}:{number}")


def read_bcf(path: Path) -> Iterator[VariantRecord]:
    """Yield the records of a BCF in the order of the file, as the columns of a VCF.

    Raises:
        InputError: the file is damaged.
        ImportError: pysam is absent.
    """
    with _open_bcf(path) as file:
        for number, record in enumerate(file, start=1):
            yield _record(str(record).rstrip("\n"), f"{path}: record {number}")


def read_bcf_header(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines before ``#CHROM``, and the names of the columns.

    Raises:
        InputError: the file is damaged.
        ImportError: pysam is absent.
    """
    with _open_bcf(path) as file:
        *header, names = str(file.header).splitlines()
    return tuple(header), tuple(names.split("\t"))


class Annotation:
    """Adds values to the INFO of records. Everything else in the file stays as it is.

    Args:
        header: the lines before ``#CHROM``.
        columns: the names of the columns.
        values: description of each floating-point value by its name. The key is ``HYENADNA_NAME``, or with a number
            behind it if the file has that key already.
        used: keys that records hold, whether the header names them or not.
    """

    def __init__(
        self, header: Sequence[str], columns: Sequence[str], values: Mapping[str, str], used: Collection[str] = ()
    ) -> None:
        taken = {found[1] for line in header if (found := _INFO_ID.match(line))} | set(used)
        number = ""
        while any(f"{_key(name)}{number}" in taken for name in (*values, "note")):
            number = str(int(number or 1) + 1)
        self._keys = [f"{_key(name)}{number}" for name in values]
        self._note = f"HYENADNA_NOTE{number}"
        ours = [
            f'##INFO=<ID={key},Number=A,Type=Float,Description="{text}">'
            for key, text in zip(self._keys, values.values(), strict=True)
        ]
        ours.append(
            f'##INFO=<ID={self._note},Number=A,Type=String,Description="hyenadna: why there is no score, or what '
            'makes it differ from that of a full window; blanks are underscores">'
        )
        names = "\t".join([*columns, *_FIXED[len(columns) :]])
        self.header = "".join(f"{line}\n" for line in (*header, *ours, names))

    def line(self, record: VariantRecord, values: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
        """The line of a record.

        Args:
            record: the record.
            values: the numbers of each allele, in the order of the constructor; empty for an allele without a score.
            notes: the note of each allele, or "".
        """
        added = []
        if any(values):
            columns = zip(*(numbers or ["."] * len(self._keys) for numbers in values), strict=True)
            added = [f"{key}={','.join(column)}" for key, column in zip(self._keys, columns, strict=True)]
        if any(notes):
            added.append(f"{self._note}={','.join(note.translate(_ESCAPED) or '.' for note in notes)}")
        fields = [*record.fields, *["."] * (_INFO + 1 - len(record.fields))]
        known = [] if fields[_INFO] in (".", "") else [fields[_INFO].removesuffix(";")]
        fields[_INFO] = ";".join([*known, *added]) or "."
        return "\t".join(fields) + "\n"


@contextmanager
def _open_bcf(path: Path) -> Iterator[Any]:
    """A BCF of pysam. Its errors are InputErrors, and htslib's own lines on stderr are silenced meanwhile."""
    pysam = require("pysam")
    before = pysam.set_verbosity(0)
    try:
        with pysam.VariantFile(str(regular_file(path))) as file:
            yield file
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as BCF ({error}); download or make it again") from error
    finally:
        pysam.set_verbosity(before)


def _record(line: str, where: str) -> VariantRecord:
    fields = tuple(line.split("\t"))
    if len(fields) < len(COLUMNS):
        raise InputError(f"{where}: is not a record of a VCF: expected {' '.join(COLUMNS)}, separated by tabs")
    contig, position, _, ref, alt = fields[: len(COLUMNS)]
    start = parse_position(position, "POS", where) - 1
    return VariantRecord(
        where, fields, contig, start, ref or ".", tuple(one or "." for one in alt.split(",")), alt_column=_ALT
    )


def parse_position(text: str, column: str, where: str) -> int:
    """A position as a number.

    Raises:
        InputError: it is not a whole number of 0 or more.
    """
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"{where}: {column} {text!r} is not a number")
    return int(text.lstrip("0")[:_MOST_DIGITS] or 0)


def own_keys(record: VariantRecord) -> Iterator[str]:
    """The keys in the INFO of a record that could be those of an `Annotation`."""
    if len(record.fields) > _INFO and _PREFIX in record.fields[_INFO]:
        for entry in record.fields[_INFO].split(";"):
            if (key := entry.partition("=")[0]).startswith(_PREFIX):
                yield key


def _key(name: str) -> str:
    return f"{_PREFIX}{name.upper()}"
