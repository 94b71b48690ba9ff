"""Annotated sequences of a GTF: the rows of genes or transcripts, their biotypes, and their bases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyenadna.common.choices import SPLITS
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import letters_of, reverse_complement
from hyenadna.data.genome import Genome
from hyenadna.data.streams import read_lines
from hyenadna.data.tables import read_table

ATTRIBUTES = ("gene_biotype", "gene_type", "transcript_biotype", "transcript_type")
"""Attributes that hold a biotype in GTFs of Ensembl and GENCODE."""
FEATURES = ("gene", "transcript")
CODING = ("protein_coding", "mRNA")
CDS = "CDS"
COLUMNS = ("sequence", "target", "contig", "start", "end", "strand", "gene_id", "split")
_ATTRIBUTE = re.compile(r'\s*(\S+)\s+"?([^";]*)"?\s*(?:;|$)')


class Row(NamedTuple):
    """A row of a GTF, with positions ``[start, end)`` from 0."""

    contig: str
    feature: str
    start: int
    end: int
    strand: str
    attributes: dict[str, str]


class Example(NamedTuple):
    """A sequence on its own strand, and the text that it should become. Positions are those of the GTF, from 1."""

    sequence: str
    target: str
    contig: str
    start: int
    end: int
    strand: str
    gene_id: str
    split: str


class Examples(NamedTuple):
    """Examples, and what was left out, in lines for people."""

    rows: list[Example]
    notes: list[str]

    def of(self, split: str) -> list[Example]:
        """Those of a split."""
        return [row for row in self.rows if row.split == split]


def read_gtf(path: Path, genome: Genome) -> list[Row]:
    """The rows of a GTF, plain or gzip.

    Raises:
        InputError: a row has fewer than nine columns, positions that are none, an unknown contig or strand, or ends
            beyond its contig.
    """
    found = []
    for number, line in read_lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        where, fields = f"{path}:{number}", line.rstrip("\n").split("\t")
        if len(fields) < 9:
            raise InputError(f"{where}: {len(fields)} columns where a GTF has 9, separated by tabs")
        if not (fields[3].isdigit() and fields[4].isdigit()):
            raise InputError(f"{where}: {fields[3]!r} and {fields[4]!r} are no positions, which count from 1")
        start, end = int(fields[3]) - 1, int(fields[4])
        name = genome.resolve(fields[0])
        if name is None:
            raise InputError(f"{where}: {_unknown(genome, fields[0])}")
        if not 0 <= start < end <= genome.contig(name).length:
            raise InputError(
                f"{where}: {start + 1}-{end} is not within contig {name!r} of {genome.contig(name).length:,} bases; is "
                "it another assembly's GTF?"
            )
        if fields[6] not in ("+", "-", "."):
            raise InputError(f"{where}: {fields[6]!r} in the seventh column is no strand; write +, - or .")
        attributes = dict(_ATTRIBUTE.findall(fields[8]))
        found.append(Row(name, fields[2], start, end, fields[6].replace(".", "+"), attributes))
    if not found:
        raise InputError(f"{path}: holds no row")
    return found


def _unknown(genome: Genome, name: str) -> str:
    try:
        genome.contig(name)
    except InputError as error:
        return str(error)
    return f"unknown contig {name!r}"


def examples_of_gtf(config: Any, genome: Genome) -> Examples:
    """The examples of a GTF: sequences on the strand of their gene, with biotypes as texts, divided by contig.

    Args:
        config: see :class:`hyenadna.enbed.annotate_config.AnnotateConfig`.
        genome: the genome of the GTF.

    Raises:
        InputError: the GTF has no biotypes, a contig is unknown, or a split has no example.
    """
    rows = read_gtf(config.gtf, genome)
    features = Counter(row.feature for row in rows)
    feature = config.feature
    if feature == "auto":
        feature = next((name for name in FEATURES if features[name]), FEATURES[0])
    if not features[feature]:
        raise InputError(f"{config.gtf}: has no rows of the feature {feature}; it has {', '.join(features)}")
    attribute = _attribute(config, [row for row in rows if row.feature == feature])
    splits = {genome.contig(name).name: "valid" for name in config.valid_contigs}
    for name in config.test_contigs:
        if splits.setdefault(genome.contig(name).name, "test") != "test":
            raise InputError(f"contig {name!r} is both for validation and for test; choose one")
    notes: Counter[str] = Counter()
    found: dict[str, list[Example]] = {name: [] for name in SPLITS}
    places: set[tuple[str, int, int, str, str]] = set()
    cut: set[tuple[str, int, int]] = set()
    for row in rows:
        is_cds = config.cds and row.feature == CDS
        if not is_cds and row.feature != feature:
            continue
        target: str | None = CDS if is_cds else row.attributes.get(attribute)
        if target is not None and not is_cds and config.pattern is not None:
            match = re.search(config.pattern, target)
            target = match[1] if match else None
        if not target:
            notes[f"rows of the feature {feature} without a biotype left out"] += 1
            continue
        if config.cds and target in CODING:
            continue
        start, end = row.start, row.end
        if config.length is not None:
            start = (row.start + row.end - config.length) // 2
            end = start + config.length
            if start < 0 or end > genome.contig(row.contig).length:
                notes["windows beyond the end of a contig left out"] += 1
                continue
        elif end - start > config.most:
            if config.long == "skip":
                notes[f"rows of more than {config.most:,} bases left out"] += 1
                continue
            start = (row.start + row.end - config.most) // 2
            end = start + config.most
            cut.add((row.contig, start + 1, end))
        # Transcripts of one gene share exons.
        if (place := (row.contig, start, end, row.strand, target)) in places:
            continue
        places.add(place)
        ids = genome.tokens(row.contig, start, end)
        text = letters_of(reverse_complement(ids) if row.strand == "-" else ids)
        split = splits.get(row.contig, "train")
        gene = row.attributes.get("gene_id", "")
        found[split].append(Example(text, target, row.contig, start + 1, end, row.strand, gene, split))
    if config.per_class:
        for name, part in found.items():
            found[name] = _at_most(part, config.per_class, config.seed)
    # Of the rows that are examples: a GTF has many more, of other transcripts and beyond `per_class`.
    if count := sum((row.contig, row.start, row.end) in cut for part in found.values() for row in part):
        notes[f"rows cut to the {config.most:,} bases in their middle"] = count
    return finished(found, notes, config.gtf)


def _attribute(config: Any, rows: Sequence[Row]) -> str:
    names = Counter(key for row in rows for key in row.attributes)
    chosen = config.attribute
    if chosen == "auto":
        chosen = next((name for name in ATTRIBUTES if names[name]), "")
    if not names[chosen]:
        wanted = config.attribute if config.attribute != "auto" else " or ".join(ATTRIBUTES[:2])
        raise InputError(
            f"{config.gtf}: its rows have no attribute {wanted}; they have {', '.join(names)}: name one with "
            "`attribute`, and the part of it that is the biotype with `pattern`"
        )
    return str(chosen)


def _at_most(rows: Sequence[Example], most: int, seed: int) -> list[Example]:
    by_class: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_class.setdefault(row.target, []).append(place)
    rng = np.random.default_rng(seed)
    chosen = [place for places in by_class.values() for place in rng.permutation(places)[:most].tolist()]
    return [rows[place] for place in sorted(chosen)]


def examples_of_table(path: Path, most: int) -> Examples:
    """The examples of a table with the columns sequence, target and split.

    Raises:
        InputError: a column is missing, a cell is empty, a sequence is too long, or a split has no example.
    """
    columns = read_table(path, ("sequence", "target", "split"))
    found: dict[str, list[Example]] = {name: [] for name in SPLITS}
    cells = zip(columns["sequence"], columns["target"], columns["split"], strict=True)
    for number, (sequence, target, split) in enumerate(cells, start=2):
        where = f"{path}:{number}"
        if not sequence or not target:
            raise InputError(f"{where}: {'the sequence' if not sequence else 'the target'} is empty")
        if split not in SPLITS:
            raise InputError(f"{where}: {split!r} in the column split; write {', '.join(SPLITS)}")
        if len(sequence) > most:
            raise InputError(f"{where}: a sequence of {len(sequence):,} bytes exceeds `most` {most:,}")
        known = [str(columns[name][number - 2] or "") if name in columns else "" for name in COLUMNS[2:7]]
        start, end = (int(text) if text.isdigit() else 0 for text in known[1:3])
        found[split].append(Example(sequence.upper(), target, known[0], start, end, known[3], known[4], split))
    return finished(found, Counter(), path)


def finished(found: Mapping[str, Sequence[Example]], notes: Mapping[str, int], source: Path) -> Examples:
    """Drop sequences that a later part holds too, so that none is in two, and check that every split has examples.

    Parts come in the order train, valid, test: the test keeps all of its sequences.

    Raises:
        InputError: a split has none, or there is one class alone.
    """
    lines = [f"{count:,} {text}" for text, count in notes.items()]
    parts: dict[str, list[Example]] = {}
    for name, later in (("train", ("valid", "test")), ("valid", ("test",)), ("test", ())):
        held = {row.sequence for other in later for row in found[other]}
        parts[name] = [row for row in found[name] if row.sequence not in held]
        if dropped := len(found[name]) - len(parts[name]):
            lines.append(f"{dropped:,} {name} examples left out, whose sequence is in {' or '.join(later)} too")
    train = parts["train"]
    for name, part in parts.items():
        if not part:
            raise InputError(f"{source}: the {name} part has no example; choose other contigs, or other rows")
    classes = Counter(row.target for row in train)
    if len(classes) < 2:
        raise InputError(f"{source}: all training examples have one biotype, {next(iter(classes))}")
    unseen = sorted({row.target for row in parts["test"]} - classes.keys())
    if unseen:
        lines.append(f"training has no example of {', '.join(unseen)}, which the test has")
    if few := [f"{name} {count}" for name, count in sorted(classes.items()) if count < 10]:
        lines.append(f"biotypes with fewer than 10 training examples: {', '.join(few)}")
    return Examples([row for name in SPLITS for row in parts[name]], lines)
