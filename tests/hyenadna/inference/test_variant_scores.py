"""500 variants of yeast: whatever their spelling, strand and neighbourhood, one score or a note."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyenadna.common.vocab import BYTE_TO_ID, LETTERS, reverse_complement
from hyenadna.data.genome import prepare
from hyenadna.data.variant_files import open_variants
from hyenadna.inference.config import ScoreConfig
from hyenadna.inference.score import score

bcftools = pytest.importorskip("pysam.bcftools")

# A few contigs of yeast: the whole genome takes longer to prepare than the variants to score.
CONTIGS = ("chrI", "chrIII", "chrVI")
WINDOW = 128
RUN = 1000
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def bases(shared: Path) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    with gzip.open(shared / "data" / "sacCer3.fa.gz", "rt") as file:
        for line in file:
            if line.startswith(">"):
                name = line[1:].strip()
                found[name] = []
            else:
                found[name].append(line.strip().upper())
    return {name: "".join(found[name]) for name in CONTIGS}


@pytest.fixture(scope="module")
def records(shared: Path) -> list[list[str]]:
    """500 variants of these contigs, at most 250 of them indels. ID is their number, and INFO is empty."""
    file = open_variants(shared / "data" / "sacCer3_sample_variants.vcf.gz")
    kinds: dict[bool, list[list[str]]] = {True: [], False: []}
    for record in file.read():
        if record.contig in CONTIGS and not set("".join((record.ref, *record.alts))) - set("ACGT"):
            kinds[any(len(alt) != len(record.ref) for alt in record.alts)].append([*record.fields[:7], "."])
    chosen = kinds[True][:250]
    chosen += kinds[False][:: len(kinds[False]) // (500 - len(chosen))][: 500 - len(chosen)]
    chosen.sort(key=lambda fields: (CONTIGS.index(fields[0]), int(fields[1])))
    assert len(chosen) == 500
    return [[*fields[:2], str(number), *fields[3:]] for number, fields in enumerate(chosen)]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.2, n_layer=2, max_seq_len=WINDOW + 2)


def write_genome(place: Path, bases: dict[str, str]) -> Path:
    fasta = place.with_suffix(".fa")
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in bases.items()))
    return prepare(fasta, place, progress=False).folder


def write_vcf(path: Path, bases: dict[str, str], records: list[list[str]]) -> Path:
    header = "##fileformat=VCFv4.2\n" + "".join(
        f"##contig=<ID={name},length={len(text)}>\n" for name, text in bases.items()
    )
    names = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    path.write_text(header + names + "".join("\t".join(fields) + "\n" for fields in records))
    return path


def read_rows(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def by_id(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["ID"], []).append(row)
    return found


def turned_text(text: str) -> str:
    ids = BYTE_TO_ID[np.frombuffer(text.encode(), np.uint8)]
    return "".join(LETTERS[i] for i in reverse_complement(ids).tolist())


def turned_records(records: list[list[str]], bases: dict[str, str]) -> list[list[str]]:
    """The records on the other strand. Every allele has its anchor behind it there."""
    turned = []
    for contig, position, name, ref, alts, *others in records:
        start = len(bases[contig]) - (int(position) - 1) - len(ref) + 1
        turned_alts = ",".join(turned_text(alt) for alt in alts.split(","))
        turned.append([contig, str(start), name, turned_text(ref), turned_alts, *others])
    return sorted(turned, key=lambda fields: (CONTIGS.index(fields[0]), int(fields[1])))


def normalized(path: Path, fasta: Path, *options: str) -> list[list[str]]:
    """The records as bcftools norm writes them: left-aligned, without common ends."""
    out = path.with_suffix(".norm.vcf")
    bcftools.norm("-f", str(fasta), *options, "-o", str(out), str(path), catch_stdout=False)
    return [list(record.fields) for record in open_variants(out).read()]


def padded(records: list[list[str]], bases: dict[str, str]) -> list[list[str]]:
    """The records with bases on both sides, and a further allele, which changes the base before the others."""
    found = []
    for contig, position, name, ref, alts, *others in records:
        start = int(position) - 1
        first, last = max(0, start - 3), min(len(bases[contig]), start + len(ref) + 4)
        before, behind = bases[contig][first:start], bases[contig][start + len(ref) : last]
        more = {"A": "C", "C": "G", "G": "T", "T": "A"}[before[:1] or ref[0]]
        all_alts = [before + alt + behind for alt in alts.split(",")]
        all_alts.append(f"{more}{(before + ref + behind)[1:]}")
        found.append([contig, str(first + 1), name, before + ref + behind, ",".join(all_alts), *others])
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, str], records: list[list[str]]) -> Path:
    folder = tmp_path_factory.mktemp("yeast")
    write_genome(folder / "genome", bases)
    write_genome(folder / "turned", {name: turned_text(text) for name, text in bases.items()})
    write_vcf(folder / "v.vcf", bases, records)
    return folder


@pytest.fixture(scope="module")
def config(place: Path, model: Path) -> ScoreConfig:
    return ScoreConfig(
        model=model, vcf=place / "v.vcf", genome=place / "genome", out=place / "o.tsv", window=WINDOW, device="cpu"
    )


def scored(config: ScoreConfig, **changes: Any) -> Rows:
    config = replace(config, **changes)
    score(config, progress=False)
    return read_rows(config.out)


@pytest.fixture(scope="module")
def as_they_are(config: ScoreConfig) -> Callable[..., Rows]:
    """The scores of the records as the file has them, by mode and strands. Several tests compare with them."""
    return cache(lambda mode, strands: scored(config, mode=mode, strands=strands))


def largest_difference(rows: Rows, others: dict[str, Rows]) -> float:
    """Of the scores of each allele; its notes must agree. Alleles keep their order within a record."""
    largest, rows_of = 0.0, by_id(rows)
    for name, found in others.items():
        for row, other in zip(rows_of[name], found, strict=False):
            assert row["note"] == other["note"]
            if row["score"]:
                largest = max(largest, abs(float(row["score"]) - float(other["score"])))
    return largest


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["likelihood", "site"])
def test_every_spelling_has_one_score(
    config: ScoreConfig,
    place: Path,
    bases: dict[str, str],
    records: list[list[str]],
    as_they_are: Callable[..., Rows],
    mode: str,
) -> None:
    rows = as_they_are(mode, "forward")
    assert sum(bool(row["score"]) for row in rows) > 490
    there = {name: turned_text(text) for name, text in bases.items()}
    backwards = write_vcf(place / "b.vcf", there, turned_records(records, bases))
    wide = padded(records, bases)
    spellings = {
        "left": normalized(config.vcf, place / "genome.fa"),
        "right": turned_records(normalized(backwards, place / "turned.fa"), there),
        "padded": wide,
        "split": normalized(write_vcf(place / "w.vcf", bases, wide), place / "genome.fa", "-m", "-both", "-N"),
    }
    moved = 0
    for name, spelt in spellings.items():
        changed = {tuple(fields[:5]) for fields in spelt} - {tuple(fields[:5]) for fields in records}
        moved += len(changed)
        # A record that is written as before is scored as before.
        numbers = {number for _, _, number, *_ in changed}
        found = [fields for fields in spelt if fields[2] in numbers]
        others = by_id(scored(config, mode=mode, vcf=write_vcf(place / f"{name}.vcf", bases, found)))
        if name == "split":
            # Sorting by position may put the added allele first.
            others = {key: [row for row in group if not is_added(row, wide)] for key, group in others.items()}
        difference = largest_difference(rows, others)
        print(f"{mode}: {name}: {len(changed)} records differ in text; largest difference {difference}")
        assert difference == 0
    assert moved > 500


def is_added(row: dict[str, str], wide: list[list[str]]) -> bool:
    """True for the allele that `padded` adds: a change of its first base."""
    record = wide[int(row["ID"])]
    return row["POS"] == record[1] and len(row["REF"]) == len(row["ALT"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["likelihood", "site", "embedding"])
def test_both_strands_give_the_same_digits(
    config: ScoreConfig,
    place: Path,
    bases: dict[str, str],
    records: list[list[str]],
    as_they_are: Callable[..., Rows],
    mode: str,
) -> None:
    there = {name: turned_text(text) for name, text in bases.items()}
    backwards = write_vcf(place / "b.vcf", there, turned_records(records, bases))
    rows = by_id(as_they_are(mode, "both"))
    others = by_id(scored(config, mode=mode, strands="both", vcf=backwards, genome=place / "turned"))
    names = [name for name in next(iter(rows.values()))[0] if name.islower()]
    assert len(names) > 1
    for name, found in rows.items():
        for row, other in zip(found, others[name], strict=True):
            assert [row[column] for column in names] == [other[column] for column in names]


@pytest.mark.slow
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_a_run_of_n_beside_a_variant_changes_no_score_without_a_note(
    config: ScoreConfig,
    place: Path,
    bases: dict[str, str],
    records: list[list[str]],
    as_they_are: Callable[..., Rows],
    strands: str,
) -> None:
    planted = {name: list(text) for name, text in bases.items()}
    for number, (contig, position, _, ref, *_) in enumerate(records[5::10]):
        start, distance = int(position) - 1, 1 + 7 * (number % 12)
        first = start + len(ref) + distance if number % 2 else max(0, start - distance - RUN)
        planted[contig][first : first + RUN] = "N" * len(planted[contig][first : first + RUN])
    genome = write_genome(place / f"planted-{strands}", {name: "".join(text) for name, text in planted.items()})
    rows = as_they_are("likelihood", strands)
    others = scored(config, strands=strands, genome=genome, ref_mismatch="note")
    assert len(rows) == len(others)
    counts = {"equal": 0, "noted": 0, "without": 0}
    changes = []
    for row, other in zip(rows, others, strict=True):
        assert (row["POS"], row["ALT"]) == (other["POS"], other["ALT"])
        assert other["score"] or other["note"]
        if row["score"] != other["score"]:
            assert other["note"], f"{row['#CHROM']}:{row['POS']}: {row['score']}, {other['score']}"
        if not other["note"]:
            counts["equal"] += 1
        elif other["score"]:
            counts["noted"] += 1
            changes.append(abs(float(row["score"]) - float(other["score"])))
        else:
            counts["without"] += 1
    print(f"{strands}: {counts}; scores with a note change by at most {max(changes):.2f} nats")
    assert counts["noted"] >= 40
    assert counts["equal"] > 250
