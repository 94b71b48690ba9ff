"""Pages of the site that are not files of ``docs/``: made from the code, or kept elsewhere in the repository.

- The command line: a page for every verb, from the parser that the verb itself uses, and one of the presets.
- The published tables, in the place that `published.md` keeps for them.
- The API: a page for every room of the two packages; mkdocstrings fills it from the docstrings.
- README, CONTRIBUTING, CHANGELOG, the examples and the report of the benchmarks, with their pictures.

Links between files work in the repository and on the site: here they are rewritten for the site.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

if TYPE_CHECKING:
    from hyenadna.finetuning.presets import Preset

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/yeast/README.md": "examples/yeast.md",
    "examples/promoters/README.md": "examples/promoters.md",
    "examples/cancer/README.md": "examples/cancer.md",
    "examples/ablations/README.md": "examples/ablations.md",
    "examples/enbed/README.md": "examples/enbed.md",
    "examples/striped_block/README.md": "examples/striped_block.md",
    "bench/results/report/report.md": "results/report.md",
}
"""Files of the repository and where they are on the site."""
PICTURES = {f"examples/{name}": f"examples/{name}" for name in ("yeast", "promoters", "ablations", "enbed")} | {
    "bench/results/report": "results"
}
"""Folders whose pictures are on the site, and where."""
API = {
    # The functions have the names of their modules, which hides them from a list of the package's members.
    "hyena_kernels": (
        "hyena_kernels",
        "hyena_kernels.fftconv.fftconv",
        "hyena_kernels.fftconv_varlen.fftconv_varlen",
        "hyena_kernels.short_conv.short_conv",
        "hyena_kernels.implicit_filter.implicit_filter",
        "hyena_kernels.layer_norm.layer_norm",
        "hyena_kernels.position_dropout.position_dropout",
    ),
    "hyena_kernels.backend": ("hyena_kernels.backend",),
    "hyena_kernels.compat": (
        "hyena_kernels.compat",
        "hyena_kernels.compat.flashfftconv",
        "hyena_kernels.compat.causal_conv1d",
        "hyena_kernels.compat.safari",
        "hyena_kernels.compat.m2_bert",
        "hyena_kernels.compat.cudnn",
        "hyena_kernels.compat.fla",
    ),
    "hyena_kernels.distributed": ("hyena_kernels.distributed",),
    "hyena_kernels.testing": ("hyena_kernels.testing",),
    "hyenadna": ("hyenadna",),
}
"""What is on the pages of the public modules; the rooms of hyenadna follow by themselves."""

TABLES = "<!-- the published tables -->"
"""Where a page has the published tables."""

WIDTH = 78
"""Characters of a line of code that a page has room for."""

_SHELL = re.compile(r"^```sh\n.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>|<a )")
_TYPE = re.compile(
    r"^(?P<text>.*?)\s*\((?P<required>required)?(?:, )?(?:type: (?P<type>.*?))?(?:, )?(?:default: (?P<default>.*))?\)$",
    re.DOTALL,
)


def on_config(config: MkDocsConfig) -> None:
    """Put the generated pages into the navigation."""
    places = {"CLI reference": list(_cli_pages()), "API": list(_api_pages())}
    for entry in config.nav or []:
        for title in places.keys() & entry.keys():
            entry[title] = [{_nav_title(uri): uri} for uri in places[title]]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in ``docs/``."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    for source, uri in _pictures():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for uri, content in {**_cli_pages(), **_api_pages()}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages, and fold commands wider than a page."""
    text = site_links(markdown.replace(TABLES, published_tables()), page.file.src_uri)
    return _SHELL.sub(lambda block: folded(block[0]), text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out the roles of reStructuredText, which docstrings use to say what a name is."""
    return _ROLE.sub("", html)


def published_tables() -> str:
    """The published tables as Markdown, with a heading for each."""
    from hyenadna.comparison.enbed import study_tables
    from hyenadna.comparison.tables import grid, sections
    from hyenadna.drawing.report import markdown_table

    tables = [(section.title, grid(section)) for section in sections()]
    tables += [(table.title.partition(", ")[0].removesuffix(": as published"), table) for table in study_tables()]
    return "\n\n".join(f"### {title}\n\n{markdown_table(table)}" for title, table in tables)


def folded(block: str) -> str:
    """A block of commands in lines of at most ``WIDTH`` characters, as far as breaks before options can do that.

    If a line is too wide with the comment after it, every comment of the block goes above its command.
    """
    lines = [re.fullmatch(r"(?P<command>.*?)(?:\s{2,}(?P<comment># .*))?", line) for line in block.splitlines()]
    above = any(line["comment"] and len(line[0]) > WIDTH for line in lines if line)
    found = []
    for line in filter(None, lines):
        if not above:
            found.append(_broken(line[0]))
        else:
            found += ([line["comment"]] if line["comment"] else []) + [_broken(line["command"])]
    return "\n".join(found)


def _broken(line: str) -> str:
    if len(line) <= WIDTH:
        return line
    first, *rest = re.split(r" (?=--)", line)
    lines = [first]
    for word in rest:
        if len(f"{lines[-1]} {word} \\") <= WIDTH or not lines[-1].strip():
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {word}")
    return "\n".join(lines)


# Links ---------------------------------------------------------------------------------------------------------------


def site_links(markdown: str, uri: str) -> str:
    """The links of a page, as they are on the site. ``uri``: where the page is there."""
    source = {page: file for file, page in PAGES.items()}.get(uri, f"docs/{uri}")
    there = PAGES | dict(_pictures())

    def rewritten(match: re.Match[str]) -> str:
        target, rest = match.groups()
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        found = there.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return match[0] if found is None else posixpath.relpath(found, posixpath.dirname(uri) or ".") + rest

    return _LINK.sub(rewritten, markdown)


def _pictures() -> Iterator[tuple[str, str]]:
    for folder, place in PICTURES.items():
        for file in sorted((ROOT / folder).iterdir()):
            if file.suffix in (".png", ".svg"):
                yield f"{folder}/{file.name}", f"{place}/{file.name}"


# The command line ----------------------------------------------------------------------------------------------------


def _nav_title(uri: str) -> str:
    name = posixpath.basename(uri).removesuffix(".md")
    return "All verbs" if uri == "cli/index.md" else name


def _cli_pages() -> dict[str, str]:
    from hyenadna.cli.main import VERBS, summary

    rows = "".join(f"| [`hyenadna {verb}`]({verb}.md) | {summary(found)} |\n" for verb, found in VERBS.items())
    head = "# Command line\n\nMade from the parsers. `hyenadna VERB --help` prints the same.\n\n"
    index = f"{head}| verb | what it does |\n|---|---|\n{rows}"
    pages = {"cli/index.md": index} | {f"cli/{verb}.md": _verb_page(verb) for verb in VERBS}
    return pages | {"cli/presets.md": _presets_page()}


def _verb_page(verb: str) -> str:
    parser = parser_of([verb])
    return "\n".join(_sections(parser, f"hyenadna {verb}", 1))


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser that ``hyenadna WORDS --help`` uses."""
    from hyenadna.cli.main import main

    found: list[argparse.ArgumentParser] = []
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", lambda parser, file=None: found.append(parser)),
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        main([*words, "--help"])
    return found[0]


def _sections(parser: argparse.ArgumentParser, command: str, level: int) -> Iterator[str]:
    """Markdown of one parser, and of its sub-commands after it."""
    yield f"{'#' * level} {command}\n"
    yield f"{' '.join((parser.description or '').split())}\n"
    examples = [line.strip() for line in (parser.epilog or "").removeprefix("example:").splitlines() if line.strip()]
    if examples:
        yield "\n".join(["```sh", *examples, "```\n"])
    rows, children = [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = dict(action.choices)
        elif action.help != argparse.SUPPRESS and action.dest not in ("help", "print_config"):
            rows.append(_row(parser, action))
    if rows:
        yield "\n".join(["| option | values | default | meaning |", "|---|---|---|---|", *rows, ""])
    for name, child in children.items():
        yield from _sections(child, f"{command} {name}", level + 1)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    name = action.option_strings[0] if action.option_strings else action.dest
    text = parser._get_formatter()._expand_help(action)
    found = _TYPE.match(text)
    values = (found["type"] if found else None) or ""
    default = (found["default"] if found else None) or ""
    if action.choices:
        values = ", ".join(map(str, action.choices))
    elif isinstance(action, argparse._StoreTrueAction):
        values = "flag"
    cells = [f"`{name}`", _code(values), "**required**" if found and found["required"] else _code(default)]
    meaning = re.sub(r"([*_<>|])", r"\\\1", " ".join((found["text"] if found else text).split()))
    return "| " + " | ".join([*cells, f"{meaning[:1].upper()}{meaning[1:]}"]) + " |"


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`".replace("|", "or") if text else ""


def _presets_page() -> str:
    """The presets of ``hyenadna finetune``, family by family, with their sources, figures, choices and data."""
    from hyenadna.finetuning.presets import PRESETS

    families: dict[str, list[Preset]] = {}
    for preset in PRESETS.values():
        families.setdefault(preset.name.split("-")[0], []).append(preset)
    parts = [
        "# Presets\n",
        "Made from the code. `hyenadna finetune --preset NAME` takes the options of a published task. A value that is "
        "given wins, unless it is the option's default; `results.json` lists it among the `deviations`. The model is "
        "the one to take: the paper's, or the published one that comes nearest.\n",
    ]
    for found in families.values():
        parts += _family(found)
    return "\n".join(parts)


def _family(found: Sequence[Preset]) -> Iterator[str]:
    """Markdown of presets whose names begin alike. What they share stands above their table."""
    shared = {key: value for key, value in found[0].options.items() if all(p.options.get(key) == value for p in found)}
    yield f"## {posixpath.commonprefix([preset.name for preset in found]).removesuffix('-')}\n"
    yield f"Options of all: {_options(shared)}.\n"
    yield "| preset | decided by | published | model | further options |\n|---|---|---|---|---|"
    for preset in found:
        figures = ", ".join(f"{metric} {value:.4g}" for metric, value in preset.published.items()) or "none"
        own = {key: value for key, value in preset.options.items() if key not in shared}
        yield f"| `{preset.name}` | {preset.metric} | {figures} | {preset.size} | {_options(own)} |"
    yield ""
    for source, of in _told((preset.source, preset.name) for preset in found).items():
        yield f"- Source{_of(of, found)}: {source}."
    for note, of in _told((note, preset.name) for preset in found for note in preset.notes).items():
        yield f"- {note[:1].upper()}{note[1:]}{_of(of, found)}."
    for data, of in _told((preset.data, preset.name) for preset in found).items():
        yield f"- Data{_of(of, found)}: {data}."
    yield ""


def _told(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return found


def _of(names: Sequence[str], found: Sequence[Preset]) -> str:
    return "" if len(names) == len(found) else f" ({', '.join(names)})"


def _options(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in options.items())


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


# The API -------------------------------------------------------------------------------------------------------------


def _api_pages() -> dict[str, str]:
    pages = {f"api/{name}.md": _api_page(name, parts) for name, parts in API.items()}
    for room in sorted(path.parent for path in (ROOT / "hyenadna").glob("*/__init__.py")):
        name = f"hyenadna.{room.name}"
        modules = sorted(file.stem for file in room.glob("*.py") if not file.stem.startswith("_"))
        pages[f"api/{name}.md"] = _api_page(name, [f"{name}.{module}" for module in modules])
    return pages


def _api_page(name: str, parts: Sequence[str]) -> str:
    if name == parts[0]:
        # The module's own heading is the page's.
        first = f"::: {name}\n    options:\n      heading_level: 1\n"
        return "\n".join([first, *(f"::: {part}\n" for part in parts[1:])])
    return "\n".join([f"# {name}\n", *(f"::: {part}\n" for part in parts)])
