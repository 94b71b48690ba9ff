"""Open a file of variants: VCF, BCF or MAF, told apart by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyenadna.common.errors import InputError
from hyenadna.data import maf, vcf
from hyenadna.data.streams import read_bytes
from hyenadna.data.variants import VariantRecord

_BCF_MAGIC = b"BCF\x02"


@dataclass(frozen=True)
class VariantFile:
    """A file of variants that can be read several times.

    Attributes:
        path: the file.
        kind: its format.
        columns: names of the columns of its records.
        header: the lines before the names of the columns.
        read: reads the records from the start.
    """

    path: Path
    kind: Literal["VCF", "BCF", "MAF"]
    columns: tuple[str, ...]
    header: tuple[str, ...]
    read: Callable[[], Iterator[VariantRecord]]


def open_variants(path: Path) -> VariantFile:
    """Open a VCF (plain, gzip or bgzip), a BCF, or a MAF (plain, gzip or bgzip).

    Raises:
        InputError: the file is missing, damaged, or none of these.
        ImportError: it is a BCF and pysam is absent; the message names the extra.
    """
    start = next(read_bytes(path), b"")
    if not start.strip():
        raise InputError(f"{path}: is empty; give a VCF, BCF or MAF")
    if start.startswith(_BCF_MAGIC):
        header, columns = vcf.read_bcf_header(path)
        return VariantFile(path, "BCF", columns, header, lambda: vcf.read_bcf(path))
    before, names = list[str](), ""
    for _, line in vcf.lines(path):
        if line.startswith("#CHROM") or (line.strip() and not line.startswith("#")):
            names = line
            break
        before.append(line)
    columns = tuple(names.split("\t"))
    if names.startswith("#CHROM"):
        if columns[: len(vcf.COLUMNS)] != vcf.COLUMNS:
            raise InputError(
                f"{path}: its columns are not those of a VCF: expected {' '.join(vcf.COLUMNS)}, separated by tabs"
            )
        return VariantFile(path, "VCF", columns, tuple(before), lambda: vcf.read_vcf(path))
    if maf.is_header(columns):
        return VariantFile(path, "MAF", columns, tuple(before), lambda: maf.read_maf(path, columns))
    raise InputError(
        f"{path}: is not a VCF: no line begins with #CHROM; nor a MAF: its first line without # does not name "
        f"{', '.join(maf.NEEDED)} between tabs"
    )
