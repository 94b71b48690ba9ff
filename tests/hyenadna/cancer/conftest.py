"""A reference, and a small study of it with lines of two classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hyenadna.cancer.config import MutateConfig
from hyenadna.data.genome import Genome, prepare


class Study(NamedTuple):
    """Paths of a study, and the letters of its contigs."""

    genome: Path
    mutations: Path
    models: Path
    contigs: dict[str, str]

    def config(self, out_dir: Path, **options: Any) -> MutateConfig:
        """Options of a small run."""
        chosen: dict[str, Any] = {
            "classes": ["A", "B"], "length": 40, "train_lines": 4, "validation_lines": 1, "test_lines": 2,
        }  # fmt: skip
        return MutateConfig(self.genome, self.mutations, self.models, out_dir=out_dir, **chosen | options)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Sixteen lines of each class with 14 to 44 mutations. In each, four lines are of two patients."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(3)
    contigs = {
        name: "".join(rng.choice(list("ACGT"), size)) for name, size in (("chr1", 3000), ("chr2", 1500), ("chr3", 30))
    }
    (folder / "reference.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    genome = prepare(folder / "reference.fa", folder / "reference", progress=False).folder
    rows, models = ["Chrom,Pos,Ref,Alt,VariantType,ModelID"], ["ModelID,PatientID,OncotreeLineage"]
    for number in range(32):
        name, place = f"ACH-{number}", number % 16
        models.append(f"{name},P{number // 2 * 2 if place >= 12 else number},{'AB'[number // 16]}")
        for contig, bases in contigs.items():
            for _ in range(2 if contig == "chr3" else 6 + place):
                pos, kind = int(rng.integers(1, len(bases) - 4)), rng.choice(["SNP", "INS", "DEL"], p=[0.6, 0.2, 0.2])
                ref = bases[pos - 1 : pos + 3] if kind == "DEL" else bases[pos - 1]
                added = "".join(rng.choice(list("ACGT"), 3))
                alt = {"SNP": "ACGT"["ACGT".index(ref[0]) - 1], "INS": ref + added, "DEL": ref[0]}[str(kind)]
                rows.append(f"{contig},{pos},{ref},{alt},{kind},{name}")
    (folder / "mutations.csv").write_text("\n".join(rows) + "\n")
    (folder / "Model.csv").write_text("\n".join(models) + "\n")
    return Study(genome, folder / "mutations.csv", folder / "Model.csv", contigs)


@pytest.fixture
def make_genome(tmp_path: Path) -> Callable[..., Genome]:
    """Makes a prepared genome of the named contigs."""

    def make(**contigs: str) -> Genome:
        fasta = tmp_path / "made.fa"
        fasta.write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
        return prepare(fasta, tmp_path / "made", overwrite=True, progress=False)

    return make
