"""The pages that are made from the code, and the links of all pages; ``make docs`` builds the site itself."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from hyenadna.cli.main import VERBS
from hyenadna.finetuning.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("bench", "csrc", "docs", "examples", "hyena_kernels", "hyenadna", "tests")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_of_a_verb_has_its_options_and_examples(hooks: ModuleType, verb: str) -> None:
    page = hooks._cli_pages()[f"cli/{verb}.md"]
    parser = hooks.parser_of([verb])
    options = [action for action in parser._actions if action.dest not in ("help", "print_config")]
    for action in options:
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction):
            assert f"| `{(action.option_strings or [action.dest])[0]}` |" in page
    assert f"```sh\nhyenadna {verb}" in page


def test_the_defaults_and_types_of_options_are_shown(hooks: ModuleType) -> None:
    page = hooks._cli_pages()["cli/pretrain.md"]
    assert "| `--genome` | `Path` | **required** |" in page
    assert "| `--lr` | `float` | `0.0006` | Peak learning rate. |" in page


def test_every_preset_is_in_the_table(hooks: ModuleType) -> None:
    page = hooks._cli_pages()["cli/presets.md"]
    for preset_name, preset in PRESETS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{preset_name}` |")]
        assert f" | {preset.size} | " in row
        assert f"lr {preset.options['lr']:.4g}" in page
        assert all(f"{value:.4g}" in row for value in preset.published.values())
        for text in (preset.source, *(note[1:] for note in preset.notes), preset.data):
            assert text in page


def test_every_room_has_a_page(hooks: ModuleType) -> None:
    pages = hooks._api_pages()
    for room in (path.parent.name for path in (ROOT / "hyenadna").glob("*/__init__.py")):
        assert f"api/hyenadna.{room}.md" in pages
    assert "::: hyenadna.data.genome\n" in pages["api/hyenadna.data.md"]


def test_the_published_tables_stand_on_their_page(hooks: ModuleType) -> None:
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    assert text.count(hooks.TABLES) == 1
    made = text.replace(hooks.TABLES, hooks.published_tables())
    assert made.count("\n### ") == 16
    assert "| **81.73** | **86.26** | **86.64** | **88.46** | **82.89** | **84.71** | **83.05** |" in made
    assert "| splice-donor | f1_macro | 98.4 | 98.1 | 97.3 | 96.5 |" in made


def test_a_wide_command_is_folded_and_stays_the_same(hooks: ModuleType) -> None:
    line = "hyenadna finetune --data promoters.tsv --sequence_column seq --model run/model --out tuned --epochs 3"
    folded = hooks.folded(line)
    assert all(len(part) <= hooks.WIDTH for part in folded.splitlines())
    assert " ".join(folded.replace("\\\n", " ").split()) == line
    assert hooks.folded("make demo   # trains") == "make demo   # trains"
    assert hooks.folded(f"make demo   # {80 * 'a'}\nmake test  # b") == f"# {80 * 'a'}\nmake demo\n# b\nmake test"


def test_links_of_the_repository_become_links_of_the_site(hooks: ModuleType) -> None:
    assert hooks.site_links("[a](docs/kernels.md#x) [b](CONTRIBUTING.md)", "index.md") == (
        "[a](kernels.md#x) [b](contributing.md)"
    )
    assert hooks.site_links("[a](../../examples/yeast/README.md)", "tutorials/genome.md") == "[a](../examples/yeast.md)"
    assert hooks.site_links("![a](genes.png)", "examples/yeast.md") == "![a](genes.png)"
    assert hooks.site_links("[a](https://example.org/x.md)", "index.md") == "[a](https://example.org/x.md)"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        made = path.parent in (ROOT / "docs" / "cli", ROOT / "docs" / "api")
        assert made or path.exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=name)
def test_files_that_a_page_names_are_in_the_repository(page: Path) -> None:
    """Paths from the top, and names of sources wherever they are; ``*`` and ``<op>`` stand for anything."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\s]+)`", text):
        pattern = re.sub(r"<\w+>", "*", span).rstrip("/")
        if re.match(rf"({'|'.join(FOLDERS)})/", span):
            assert list(ROOT.glob(pattern)), span
        elif re.fullmatch(r"[\w*]+\.(py|h|inl|cpp|cu|cuh)", span):
            assert any(list((ROOT / folder).rglob(pattern)) for folder in FOLDERS) or (ROOT / span).is_file(), span
