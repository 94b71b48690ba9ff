"""The README's commands and Python blocks on the uses of a pretrained model, run as they stand there."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM, cli
from hyenadna.genome import Genome

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(heading: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block under a heading."""
    text = README.read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"no block under {heading!r}"
    return found


@pytest.fixture
def workplace(tmp_path: Path, tiny_genome: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with what the README's commands name, in small."""
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=512))
    model.save_pretrained(tmp_path / "run" / "model")
    DNATokenizer(model_max_length=512).save_pretrained(tmp_path / "run" / "model")
    shutil.copytree(tiny_genome, tmp_path / "genome")
    genome = Genome.open(tiny_genome)
    decode = DNATokenizer().decode
    bases = {name: decode(genome.tokens(name).tolist()).replace(" ", "") for name in genome.names}
    (tmp_path / "genes.fa").write_text(f">g1\n{bases['b']}\n>g2\n{bases['c'][:300]}\n")
    rows = [f"{base * 12}\t{'01'[base in 'GC']}\n" for base in 30 * ("A", "C", "G", "T", "AT")]
    (tmp_path / "promoters.tsv").write_text("seq\tlabel\n" + "".join(rows))
    kinds = [f"{'bc'[i % 2]}\t{20 * i}\t{20 * i + 60}\t{('gene', 'intergenic')[i % 2]}\n" for i in range(20)]
    (tmp_path / "genes.bed").write_text("".join(kinds))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "perplexity": 4.0}\n{"step": 2, "perplexity": 3.9}\n')
    (tmp_path / "prompts.fa").write_text(">p1\nGATTACA\n>p2\nACGT\n")
    records = [f"b\t{p}\t.\t{bases['b'][p - 1]}\t{'C' if bases['b'][p - 1] == 'A' else 'A'}" for p in (100, 250, 400)]
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
