"""The README's commands and Python blocks on the uses of a pretrained model, run as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM, cli

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(heading: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block under a heading."""
    text = README.read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"no block under {heading!r}"
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with what the README's commands name, in small: a finished run's model."""
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=512))
    model.save_pretrained(tmp_path / "run" / "model")
    DNATokenizer(model_max_length=512).save_pretrained(tmp_path / "run" / "model")
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


@pytest.mark.parametrize("heading", ["With transformers and peft"])
def test_what_the_readme_shows_runs(run_section: Callable[[str], None], heading: str) -> None:
    run_section(heading)
