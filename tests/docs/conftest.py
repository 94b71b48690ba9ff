"""What the pages name, in small: a genome, an annotation, checkpoints, a run. Made once for all pages."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.data.genome import prepare
from hyenadna.model.convert import convert
from hyenadna.model.sizes import PUBLISHED_SIZES

ROOT = Path(__file__).resolve().parents[2]
CONTIGS = {"chrI": 4000, "chrX": 1500, "chrXIV": 1500, "chrXV": 1500, "chrXVI": 1500, "chrM": 600}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that a page may name as given."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    bases = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in CONTIGS.items()}
    fasta = "".join(
        f">{name}\n" + "".join(f"{text[i : i + 60]}\n" for i in range(0, len(text), 60)) for name, text in bases.items()
    )
    for name in ("genome.fa.gz", "sacCer3.fa.gz"):
        (folder / name).write_bytes(gzip.compress(fasta.encode()))
    prepare(folder / "genome.fa.gz", folder / "genome", progress=False)

    # A gene of 550 bases every 600, and room for a window between genes in the end.
    rows = []
    for name, size in CONTIGS.items():
        for number, start in enumerate(range(210, size - 1100, 600)):
            end, strand = start + 550, "+-"[number % 2]
            kind = ("tRNA", "snoRNA")[number % 2]
            rows.append(
                f'{name}\tensGene\ttranscript\t{start}\t{end}\t.\t{strand}\t.\tgene_id "{name}.{number}"; '
                f'transcript_id "{name}.{number}_{kind}";\n'
            )
            rows.append(f'{name}\tensGene\texon\t{start}\t{end}\t.\t{strand}\t.\tgene_id "{name}.{number}";\n')
        rows.append(f'{name}\tensGene\ttranscript\t{size - 5}\t{size}\t.\t+\t.\tgene_id "{name}.end";\n')
    (folder / "sacCer3.ensGene.gtf.gz").write_bytes(gzip.compress("".join(rows).encode()))

    genes = [row.replace("transcript", "gene").replace(";", '; gene_biotype "lncRNA";') for row in rows]
    (folder / "Homo_sapiens.GRCh38.110.gtf.gz").write_bytes(gzip.compress("".join(genes).encode()))

    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n"
    places = range(1, 1500)
    records = [f"chrX\t{p}\t.\t{bases['chrX'][p - 1]}\t{'A' if bases['chrX'][p - 1] != 'A' else 'C'}\n" for p in places]
    (folder / "variants.vcf.gz").write_bytes(gzip.compress((header + "".join(records)).encode()))

    for split in ("train", "test"):
        for label, letters in (("negative", "AT"), ("positive", "CG")):
            place = folder / "human_nontata_promoters" / split / label
            place.mkdir(parents=True)
            for number in range(20):
                (place / f"{number}.txt").write_text("".join(rng.choice(list(letters), 251)))

    torch.manual_seed(0)
    longest = PUBLISHED_SIZES["tiny-1k"]["max_seq_len"]
    model = HyenaDNAForCausalLM(
        HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=longest, tie_word_embeddings=True)
    )
    for place in ("run/model", "runs/yeast/model", "hyenadna-tiny-1k-seqlen-hf"):
        model.save_pretrained(folder / place)
        DNATokenizer(model_max_length=longest).save_pretrained(folder / place)
    convert(folder / "run/model", folder / "hyenadna-tiny-1k-seqlen", to="original")
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "perplexity": 4.0}\n{"step": 2, "perplexity": 3.9}\n')
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(folder / "genome", folder / "yeast")
    for name, kind in (("before.json", "amd-epyc"), ("after.json", "amd-epyc"), ("my/suite.json", "amd-epyc")):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "bench" / "results" / kind / "suite.json", folder / name)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], Path]:
    """Makes a current folder with the inputs but those that the page makes itself."""

    def make(made: set[str]) -> Path:
        for path in inputs.iterdir():
            if path.name not in made:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make
