"""Every option that names contigs takes any of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hyenadna.cli.plot import draw_mutagenesis
from hyenadna.cli.plot_config import MutagenesisPlot
from hyenadna.data.genome import Genome
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.evaluation.evaluate import _read_splits
from hyenadna.pretraining.train import PretrainConfig, read_splits


@pytest.fixture
def aliases(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("a\tNC_1\nb\tNC_2\nc\tNC_3\n")
    return path


@pytest.mark.parametrize("names", [["b", "c"], ["chrb", "chrc"], ["NC_2", "chrc"]])
def test_held_out_contigs(
    tiny_genome: Path, tiny_config: Callable[..., PretrainConfig], aliases: Path, tmp_path: Path, names: list[str]
) -> None:
    genome = Genome.open(tiny_genome, aliases)
    config = replace(tiny_config(tmp_path / "run"), bed=None, valid_contigs=names[:1], test_contigs=names[1:])
    found = {split: [i.contig for i in part] for split, part in read_splits(config, genome).items()}
    assert found == {"train": ["a"], "valid": ["b"], "test": ["c"]}
    evaluation = EvaluateConfig(tmp_path / "model", tiny_genome, contigs=names[:1], exclude=names[1:])
    train, _, held_out = _read_splits(evaluation, genome)
    assert ([i.contig for i in train], [i.contig for i in held_out]) == (["a"], ["b"])


def test_a_region(tiny_genome: Path, tiny_checkpoint: Callable[..., Path], aliases: Path, tmp_path: Path) -> None:
    config = MutagenesisPlot(
        tiny_checkpoint(), tiny_genome, "NC_2:11-13", tmp_path / "m.png", aliases=aliases, device="cpu"
    )
    draw_mutagenesis(config, progress=False)
    lines = (tmp_path / "m.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["b", "11"], ["b", "12"], ["b", "13"]]
