"""Synthetic mutations of cell lines, in the layout of DepMap, with a signal that is known.

    python examples/cancer/synthetic.py --fasta genome.fa --out synthetic --lines 40 --mutations 300 --motif TTAGGCAT

Writes ``mutations.csv`` and ``Model.csv`` for ``hyenadna mutate``. Places and kinds of mutations have one distribution
in both classes, A and B. An insertion of class A holds the motif, and one of class B holds its letters in another
order. So nothing but the inserted bases tells the classes apart. With ``--motif none`` nothing does.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# First: so hyenadna imports neither torch nor transformers, which would take seconds.
import hyenadna_command  # noqa: F401
from hyenadna.common.files import atomic_file
from hyenadna.common.vocab import BASES, LETTERS, N_ID
from hyenadna.data.genome import Genome, open_genome

CLASSES = ("A", "B")
MUTATION_COLUMNS = (
    "Chrom", "Pos", "Ref", "Alt", "AF", "DP", "RefCount", "AltCount", "GT", "PS", "VariantType", "VariantInfo",
    "HugoSymbol", "ModelID",
)  # fmt: skip
MODEL_COLUMNS = (
    "ModelID", "PatientID", "CellLineName", "OncotreeLineage", "OncotreePrimaryDisease", "OncotreeSubtype",
    "OncotreeCode", "Sex",
)  # fmt: skip
# Every tenth line is a second one of the patient before it.
_SECOND_LINE = 10
_LONGEST = 12
_MIXED_BASES = 8


def mutations(
    genome: Genome, rng: np.random.Generator, count: int, inserted: str, *, shuffled: bool, insertions: float
) -> Iterator[tuple[str, int, str, str, str]]:
    """Contig, position from 1, Ref, Alt and type of ``count`` mutations of one line, at places without N.

    Args:
        genome: the reference.
        rng: the source of chance.
        count: how many mutations.
        inserted: the motif in every insertion; empty for random bases.
        shuffled: put the letters of the motif into another order, a new one for each insertion.
        insertions: share of insertions. Of the others, 90 % replace one base, 4 % two, and 6 % delete 1 to 12.
    """
    lengths = np.array([contig.length for contig in genome.contigs])
    kinds, shares = ("INS", "SNP", "DNP", "DEL"), (1 - insertions) * np.array([0.0, 0.9, 0.04, 0.06])
    shares[0] = insertions
    while count:
        places = rng.choice(len(lengths), count, p=lengths / lengths.sum())
        firsts = rng.integers(lengths[places] - _LONGEST)
        chosen = rng.choice(len(kinds), count, p=shares)
        for place, first, kind, size in zip(places, firsts, chosen, rng.integers(2, _LONGEST + 2, count), strict=True):
            contig = genome.contigs[place].name
            there = genome.tokens(contig, first, first + _LONGEST + 1)
            if (there == N_ID).any():
                continue
            count -= 1
            bases = "".join(map(LETTERS.__getitem__, there.tolist()))
            if kinds[kind] == "INS":
                ref, alt = bases[0], bases[0] + _insertion(rng, inserted, shuffled=shuffled)
            elif kinds[kind] == "DEL":
                ref, alt = bases[:size], bases[0]
            else:
                ref = bases[: 1 + (kinds[kind] == "DNP")]
                # Each base becomes one of the three others.
                steps = rng.integers(1, 4, len(ref)).tolist()
                alt = "".join(BASES[(BASES.index(base) + step) % 4] for base, step in zip(ref, steps, strict=True))
            yield contig, int(first) + 1, ref, alt, kinds[kind]


def _insertion(rng: np.random.Generator, motif: str, *, shuffled: bool) -> str:
    if not motif:
        return "".join(BASES[base] for base in rng.integers(0, 4, _MIXED_BASES).tolist())
    letters = motif
    while shuffled and letters == motif:
        letters = "".join(motif[place] for place in rng.permutation(len(motif)).tolist())
    return letters


def write(fasta: Path, out: Path, lines: int, mean: int, motif: str, insertions: float, seed: int) -> None:
    """Write ``mutations.csv`` and ``Model.csv`` into the folder ``out``.

    Args:
        fasta: the reference: a FASTA, or a folder of ``hyenadna prepare``.
        out: the folder. It is made if it does not exist.
        lines: lines of each class.
        mean: mutations of a line on average. A line has from 25 % fewer to 25 % more.
        motif: letters of the motif; empty for none.
        insertions: share of insertions.
        seed: seed of everything that is drawn.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with (
        open_genome(fasta, progress=False) as genome,
        atomic_file(out / "mutations.csv") as mutations_file,
        atomic_file(out / "Model.csv") as models_file,
        mutations_file.open("w", newline="", encoding="utf-8") as mutations_text,
        models_file.open("w", newline="", encoding="utf-8") as models_text,
    ):
        rows, models = csv.writer(mutations_text, lineterminator="\n"), csv.writer(models_text, lineterminator="\n")
        rows.writerow(MUTATION_COLUMNS)
        models.writerow(MODEL_COLUMNS)
        for number in range(lines * len(CLASSES)):
            name, place = CLASSES[number % len(CLASSES)], number // len(CLASSES)
            line = f"ACH-{990_000 + number:06d}"
            is_second = place % _SECOND_LINE == _SECOND_LINE - 1
            patient = f"PT-{number - is_second * len(CLASSES):06d}"
            models.writerow((line, patient, f"SYN{number}", name, f"Synthetic {name}", "", "", "Unknown"))
            count = int(rng.integers(mean * 3 // 4, mean * 5 // 4 + 1))
            drawn = mutations(genome, rng, count, motif, shuffled=name != CLASSES[0], insertions=insertions)
            for contig, pos, ref, alt, kind in drawn:
                rows.writerow((contig, pos, ref, alt, 0.5, 60, 30, 30, "0/1", "", kind, "", "", line))


def main() -> None:
    """Read the options and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, required=True, help="FASTA, or a folder of `hyenadna prepare`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--lines", type=int, default=40, help="lines of each class")
    parser.add_argument("--mutations", type=int, default=300, help="mutations of a line on average")
    parser.add_argument("--motif", default="TTAGGCAT", help="bases in each insertion of class A, or none")
    parser.add_argument("--insertions", type=float, default=0.5, help="share of insertions among the mutations")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    motif = "" if args.motif == "none" else args.motif.upper()
    if motif and (set(motif) - set(BASES) or len(set(motif)) < 2):
        parser.error("--motif must hold two or more different letters of ACGT, or be none")
    write(args.fasta, args.out, args.lines, args.mutations, motif, args.insertions, args.seed)


if __name__ == "__main__":
    main()
