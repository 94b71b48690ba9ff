"""Reads mutations of many lines: tables of DepMap and MAF in any of their spellings, and VCF.

Tables are read by polars, the needed columns alone, so that 1.4 million rows take little memory.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hyenadna.cancer.lines import LINE_COLUMNS
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.streams import regular_file
from hyenadna.data.streams import check_text, read_bytes, read_chunks
from hyenadna.data.variant_files import VariantFile, open_variants

NOT_DEFAULT = "not of the line's default sequencing (IsDefaultEntryForModel)"
NO_LINE = "no line is named"
NOT_CARRIED = "no genotype holds the allele"

_LINES = (*LINE_COLUMNS, "Tumor_Sample_Barcode")
_DEFAULT = "IsDefaultEntryForModel"
_YES = ("yes", "true", "1")
_EMPTY = "-"
_BATCH = 1 << 16
_VCF_STARTS = (b"##fileformat=VCF", b"#CHROM", b"BCF\x02")
_FORMAT, _SAMPLES = 8, 9


@dataclass(frozen=True)
class Spelling:
    """Names of the columns of one kind of table, in lower case. The first of several that is there is read.

    Attributes:
        contig, pos, ref, alt, kind: the columns. That of the type of mutation may be missing.
        is_bare: ``-`` is an empty allele, and an insertion stands behind its position.
    """

    contig: str
    pos: str
    ref: str
    alt: tuple[str, ...]
    kind: tuple[str, ...]
    is_bare: bool


DEPMAP = Spelling("chrom", "pos", "ref", ("alt",), ("varianttype",), is_bare=False)
MAF = Spelling(
    "chromosome",
    "start_position",
    "reference_allele",
    ("tumor_seq_allele2", "alternate_allele", "tumor_allele", "tumor_seq_allele1"),
    ("variant_type",),
    is_bare=True,
)


@dataclass(frozen=True)
class Mutations:
    """The mutations of a file.

    Attributes:
        frame: a polars frame with a row for each mutation of a line: ``line``, ``contig``, ``pos`` (from 1), ``ref``
            and ``alt`` in upper case.
        is_bare: an empty allele is "", and an insertion stands behind its position, as in a MAF.
        rows: rows of the file; in a VCF, an allele of a sample is a row.
        skipped: rows that are not in the frame, by reason.
        other_kind: rows whose alleles have other lengths than the type of mutation beside them says.
    """

    frame: Any
    is_bare: bool
    rows: int
    skipped: dict[str, int] = field(default_factory=dict)
    other_kind: int = 0


def read_mutations(path: Path, vcf_line: str | None = None) -> Mutations:
    """Read a CSV, TSV or Parquet of DepMap or MAF, a VCF or a BCF. The content tells the kind.

    Of a table, only rows of a line's default sequencing count, where there is such a column. Of a VCF, an alternative
    allele counts for each sample whose genotype (GT) holds it, once or more, phased or not. Where there is no GT, it
    counts for every sample. FILTER and quality are not looked at.

    Args:
        path: the file; text may be gzip or bgzip.
        vcf_line: name of the line of a VCF with one sample or none.

    Raises:
        InputError: the file cannot be read, lacks a column, or holds no mutation; or a MAF is on the other strand.
        ImportError: polars, or pysam for a BCF, is absent; the message names the extra.
    """
    start = next(read_bytes(path), b"")
    if start.removeprefix(b"\xef\xbb\xbf").startswith(_VCF_STARTS):
        found = _read_vcf(open_variants(path), vcf_line)
    else:
        if vcf_line is not None:
            raise InputError(f"`vcf_line` {vcf_line}: has no effect, because {path} is a table that names its lines")
        with _plain(path, start) as plain:
            found = _read_table(path, plain, is_parquet=start.startswith(b"PAR1"))
    if not found.frame.height:
        reasons = "".join(f"; {count:,} rows: {reason}" for reason, count in found.skipped.items())
        raise InputError(f"{path}: holds no mutation of a line{reasons}")
    return found


@contextmanager
def _plain(path: Path, start: bytes) -> Iterator[Path]:
    """The file as polars reads it block by block: a copy where it is compressed, or begins with a byte-order mark."""
    file = regular_file(path)
    if start.startswith(b"PAR1"):
        yield file
        return
    check_text(path, start)
    with file.open("rb") as content:
        if content.read(3) == start[:3] != b"\xef\xbb\xbf":
            yield file
            return
    with tempfile.TemporaryDirectory(prefix="hyenadna-") as folder:
        copy = Path(folder) / "table"
        with copy.open("wb") as target:
            target.writelines(read_chunks(path))
        yield copy


def _read_table(path: Path, plain: Path, *, is_parquet: bool) -> Mutations:
    polars = require("polars")
    try:
        if is_parquet:
            table = polars.scan_parquet(plain)
        else:
            is_tsv = "\t" in _header(plain)
            if not is_tsv:
                _refuse_odd_quotes(path, plain)
            # In a tab-separated table a quotation mark is a letter like any other: notes hold single ones.
            table = polars.scan_csv(
                plain,
                separator="\t" if is_tsv else ",",
                quote_char=None if is_tsv else '"',
                comment_prefix="#",
                infer_schema=False,
            )
        return _select(path, table, table.collect_schema().names())
    except (polars.exceptions.PolarsError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        raise InputError(f"{path}: cannot be read as a table of mutations ({reason})") from error


def _refuse_odd_quotes(path: Path, plain: Path) -> None:
    """Raise InputError where a quotation mark opens and the line ends: the rows up to the next mark would be lost."""
    with plain.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.count(b'"') % 2 and not line.startswith(b"#"):
                raise InputError(f"{path}: line {number:,} holds a quotation mark without its partner; remove it")


def _header(plain: Path) -> str:
    with plain.open(encoding="utf-8", errors="replace") as file:
        return next((line for line in file if not line.startswith("#")), "")


def _select(path: Path, table: Any, names: Sequence[str]) -> Mutations:
    """The rows of a table that count."""
    polars = require("polars")
    by_name = {_bare(name).lower(): name for name in reversed(names)}
    spelling = next((one for one in (DEPMAP, MAF) if {one.contig, one.pos, one.ref} <= {*by_name}), None)
    alleles = [by_name[name] for name in spelling.alt if name in by_name] if spelling else []
    if spelling is None or not alleles:
        raise InputError(
            f"{path}: is no table of mutations: it needs the columns Chrom, Pos, Ref and Alt of DepMap, or Chromosome, "
            f"Start_Position, Reference_Allele and Tumor_Seq_Allele2 of a MAF; it has {', '.join(map(repr, names))}"
        )
    line = next((by_name[name.lower()] for name in _LINES if name.lower() in by_name), None)
    if line is None:
        raise InputError(f"{path}: no column names the line of a mutation, which is {', '.join(_LINES[:-1])} or "
                         f"{_LINES[-1]}")  # fmt: skip

    def text(name: str) -> Any:
        # Some programs put every field of a tab-separated table in quotation marks.
        return polars.col(name).cast(polars.String).fill_null("").str.strip_chars().str.strip_chars('"')

    ref = text(by_name[spelling.ref]).str.to_uppercase()
    alt = text(alleles[0]).str.to_uppercase()
    if spelling.is_bare and len(alleles) > 1:
        # Of two alleles of the tumour, the one that is not the reference.
        other = text(alleles[-1]).str.to_uppercase()
        alt = polars.when((alt == ref) | (alt == "")).then(other).otherwise(alt)
    kind = next((by_name[name] for name in spelling.kind if name in by_name), None)
    default = by_name.get(_DEFAULT.lower())
    strand = by_name.get("strand") if spelling.is_bare else None
    columns = [by_name[name] for name in (spelling.contig, spelling.pos, spelling.ref)]
    _refuse_twice(path, names, [*columns, *alleles, line, *([default] if default else [])])
    wanted = {
        "line": text(line),
        "contig": text(by_name[spelling.contig]),
        "pos_text": text(by_name[spelling.pos]),
        "ref": ref,
        "alt": alt,
        "kind": text(kind).str.to_lowercase() if kind else polars.lit(""),
        "default": text(default).str.to_lowercase().is_in(_YES) if default else polars.lit(True),
        "forward": text(strand).is_in(["+", "", "."]) if strand else polars.lit(True),
    }
    frame = (
        table.select(**wanted)
        # Blank lines are no rows.
        .filter(polars.any_horizontal(polars.col("line", "contig", "pos_text", "ref", "alt") != ""))
        .with_columns(pos=polars.col("pos_text").cast(polars.Int64, strict=False))
        .collect(engine="streaming")
    )
    _refuse_rows(path, frame, spelling, by_name)
    rows = frame.height
    skipped = {NOT_DEFAULT: frame.height - frame["default"].sum()}
    frame = frame.filter("default")
    skipped[NO_LINE] = frame.height - (frame["line"] != "").sum()
    frame = frame.filter(polars.col("line") != "").select("line", "contig", "pos", "ref", "alt", "kind")
    if spelling.is_bare:
        frame = frame.with_columns(polars.col("ref", "alt").replace(_EMPTY, ""))
    other_kind = frame.filter(_has_other_lengths()).height
    return Mutations(
        frame.drop("kind"), spelling.is_bare, rows, {why: n for why, n in skipped.items() if n}, other_kind
    )


def _bare(name: str) -> str:
    """The name of a column without spaces and quotation marks around it."""
    return name.strip().strip('"')


def _refuse_twice(path: Path, names: Sequence[str], used: Sequence[str]) -> None:
    """Raise InputError if a column that is read is there twice. Names of other case are other columns."""
    # Polars gives the second one another name.
    bare = [re.sub(r"_duplicated_\d+$", "", _bare(name)) for name in names]
    for name in used:
        if bare.count(_bare(name)) > 1:
            raise InputError(f"{path}: several columns are called {_bare(name)!r}; rename them")


def _refuse_rows(path: Path, frame: Any, spelling: Spelling, by_name: dict[str, str]) -> None:
    polars = require("polars")
    bad = frame.with_row_index("row", offset=1).filter(polars.col("pos").is_null() | ~polars.col("forward")).head(1)
    for row in bad.iter_rows(named=True):
        if row["pos"] is None:
            name = by_name[spelling.pos]
            raise InputError(f"{path}: row {row['row']:,}: {name} {row['pos_text']!r} is not a whole number")
        raise InputError(
            f"{path}: row {row['row']:,}: Strand is not +: positions and alleles of a MAF are those of the forward "
            "strand"
        )


def _has_other_lengths() -> Any:
    """Whether the alleles have other lengths than the type of mutation means. Unknown words are not compared."""
    polars = require("polars")
    ref, alt = (polars.col(name).str.len_bytes() for name in ("ref", "alt"))
    differs = polars.lit(False)
    for words, fits in (
        (("snp", "snv"), (ref == 1) & (alt == 1)),
        (("dnp",), (ref == 2) & (alt == 2)),
        (("tnp",), (ref == 3) & (alt == 3)),
        (("onp", "mnp", "mnv", "substitution"), ref == alt),
        (("ins", "insertion"), ref < alt),
        (("del", "deletion"), ref > alt),
        (("indel", "delins"), ref != alt),
    ):
        differs |= polars.col("kind").is_in(words) & ~fits
    return differs


def _read_vcf(file: VariantFile, vcf_line: str | None) -> Mutations:
    """A row for each alternative allele of each sample that carries it."""
    polars = require("polars")
    path, samples = file.path, file.columns[_SAMPLES:]
    if vcf_line is None and not samples:
        raise InputError(f"{path}: has no samples; name the line that its mutations are of with `vcf_line`")
    if vcf_line is not None and len(samples) > 1:
        raise InputError(f"`vcf_line` {vcf_line}: {path} has {len(samples)} samples, which are the lines; leave it out")
    lines = (vcf_line,) if vcf_line is not None else samples
    counts = {"rows": 0, "carried": 0}

    def rows() -> Iterator[tuple[str, str, int, str, str]]:
        for record in file.read():
            carried = _carried(record.fields, len(lines))
            for number, alt in enumerate(record.alts, start=1):
                for line, alleles in zip(lines, carried, strict=True):
                    counts["rows"] += 1
                    if alleles is None or str(number) in alleles:
                        counts["carried"] += 1
                        yield line, record.contig, record.start + 1, record.ref.upper(), alt.upper()

    kinds = {"line": polars.String, "contig": polars.String, "pos": polars.Int64, "ref": polars.String}
    schema = {**kinds, "alt": polars.String}
    all_rows, frames = rows(), [polars.DataFrame(schema=schema)]
    while batch := list(islice(all_rows, _BATCH)):
        frames.append(polars.DataFrame(batch, schema=schema, orient="row"))
    frame = polars.concat(frames)
    missing = counts["rows"] - counts["carried"]
    return Mutations(frame, False, counts["rows"], {NOT_CARRIED: missing} if missing else {})


def _carried(fields: Sequence[str], lines: int) -> list[set[str] | None]:
    """Numbers of the alleles in each sample's genotype; None where the record has no genotypes."""
    keys = fields[_FORMAT].split(":") if len(fields) > _FORMAT else []
    if "GT" not in keys:
        return [None] * lines
    place = keys.index("GT")
    samples = [sample.split(":") for sample in fields[_SAMPLES : _SAMPLES + lines]]
    genotypes = [sample[place] if place < len(sample) else "." for sample in samples]
    return [set(genotype.replace("|", "/").split("/")) for genotype in [*genotypes, *["."] * (lines - len(samples))]]
