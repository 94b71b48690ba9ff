"""The README's commands and Python blocks on the uses of a pretrained model, run as they stand there."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.cli import main as cli
from hyenadna.data.genome import prepare
from hyenadna.model.sizes import PUBLISHED_SIZES

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(heading: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block under a heading."""
    text = README.read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"no block under {heading!r}"
    return found


@pytest.fixture
def workplace(tmp_path: Path, tiny_fasta: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with what the README's commands name, in small; promoters and the model as long as published."""
    longest = PUBLISHED_SIZES["tiny-1k"]["max_seq_len"]
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=longest))
    model.save_pretrained(tmp_path / "run" / "model")
    DNATokenizer(model_max_length=longest).save_pretrained(tmp_path / "run" / "model")
    text = tiny_fasta.read_text()
    for name, chromosome in (("a", "chrI"), ("b", "chrXIV"), ("c", "chrX")):
        text = text.replace(f">{name}\n", f">{chromosome}\n")
    (tmp_path / "genome.fa").write_text(text)
    genome = prepare(tmp_path / "genome.fa", tmp_path / "genome", progress=False)
    decode = DNATokenizer().decode
    bases = {name: decode(genome.tokens(name).tolist()).replace(" ", "") for name in genome.names}
    (tmp_path / "genes.fa").write_text(f">g1\n{bases['chrXIV']}\n>g2\n{bases['chrX'][:300]}\n")
    rows = [f"{(base * 251)[:251]}\t{'01'[base in 'GC']}\n" for base in 30 * ("A", "C", "G", "T", "AT")]
    (tmp_path / "promoters.tsv").write_text("seq\tlabel\n" + "".join(rows))
    kinds = 10 * [("chrXIV", "gene"), ("chrX", "intergenic")]
    intervals = [f"{contig}\t{20 * i}\t{20 * i + 60}\t{kind}\n" for i, (contig, kind) in enumerate(kinds)]
    (tmp_path / "genes.bed").write_text("".join(intervals))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "perplexity": 4.0}\n{"step": 2, "perplexity": 3.9}\n')
    (tmp_path / "prompts.fa").write_text(">p1\nGATTACA\n>p2\nACGT\n")
    places = (100, 250, 400)
    there = [bases["chrXIV"][p - 1] for p in places]
    records = [f"chrXIV\t{p}\t.\t{base}\t{'A' if base != 'A' else 'C'}" for p, base in zip(places, there, strict=True)]
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n"
    (tmp_path / "variants.vcf.gz").write_bytes(gzip.compress((header + "\n".join(records) + "\n").encode()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_section(workplace: Path) -> Callable[[str], None]:
    def run(heading: str) -> None:
        for language, content in blocks(heading):
            if language == "python":
                exec(compile(content, heading, "exec"), {})
                continue
            for line in content.replace("\\\n", " ").splitlines():
                verb, *words = shlex.split(line, comments=True) or [""]
                assert verb in ("", "hyenadna"), line
                if verb:
                    cli.main(words)

    return run


@pytest.mark.parametrize(
    "heading",
    [
        "With transformers and peft",
        "Fine-tune on labelled sequences",
        "Score sequences and variants",
        "Embed, probe and plot",
        "Generate sequences",
    ],
)
def test_what_the_readme_shows_runs(run_section: Callable[[str], None], heading: str) -> None:
    run_section(heading)
