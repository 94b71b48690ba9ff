"""Records of a MAF, the mutation annotation format of TCGA and vcf2maf.

Source: "GDC MAF Format", docs.gdc.cancer.gov: positions count from 1, ``-`` is an empty allele, and an insertion stands
between Start_Position and End_Position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hyenadna.common.errors import InputError
from hyenadna.data.variants import UNSCORED_ALLELE, VariantRecord
from hyenadna.data.vcf import lines, parse_position

NEEDED = ("Chromosome", "Start_Position", "Reference_Allele", "Tumor_Seq_Allele2")
_EMPTY = "-"


def is_header(columns: Sequence[str]) -> bool:
    """True if these columns make a MAF. Older files write ``Start_position``."""
    return {name.lower() for name in NEEDED} <= {name.lower() for name in columns}


def read_maf(path: Path, columns: Sequence[str]) -> Iterator[VariantRecord]:
    """Yield the records in the order of the file, each with one alternative allele.

    This is Tumor_Seq_Allele2, or Tumor_Seq_Allele1 if the former is the reference. If both are other alleles, the
    record says that the first is not scored.

    Args:
        path: the file.
        columns: its columns.

    Raises:
        InputError: a record has no position or too few columns, or is not on the forward strand, which MAF requires.
    """
    places = {name.lower(): place for place, name in reversed(list(enumerate(columns)))}
    needed = [places[name.lower()] for name in NEEDED]
    started = False
    for number, line in lines(path):
        if line.startswith("#") or not line.strip():
            continue
        if not started:
            started = True
            continue
        where = f"{path}:{number}"
        fields = tuple(line.split("\t"))
        if len(fields) <= max(needed):
            raise InputError(f"{where}: is not a record of a MAF: it has {len(fields)} columns, separated by tabs")

        def value(name: str, default: str = "", fields: tuple[str, ...] = fields) -> str:
            place = places.get(name, len(fields))
            return fields[place] if place < len(fields) else default

        if value("strand", "+") not in ("+", "", "."):
            raise InputError(f"{where}: Strand is {value('strand')!r}: positions and alleles of a MAF are those of +")
        contig, position, ref, alt = (fields[place] for place in needed)
        first = value("tumor_seq_allele1", ref)
        if alt == ref:
            alt, first = first, ref
        remark = UNSCORED_ALLELE if first not in (ref, alt, "") else ""
        start = parse_position(position, columns[needed[1]], where)
        # The position of an insertion is that of the base before it.
        start -= ref != _EMPTY
        ref, alt = ("" if allele == _EMPTY else allele or "." for allele in (ref, alt))
        yield VariantRecord(where, fields, contig, start, ref, (alt,), remark=remark)
