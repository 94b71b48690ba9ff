"""Options of the command line: jsonargparse, with bad input told in one line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser

from hyenadna.common.errors import InputError

Config = TypeVar("Config")


class OptionParser(ArgumentParser):
    """One line for a wrong option, as for all other bad input, in place of the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and end with exit code 2."""
        line = " ".join(str(ex or message).split())
        if match := re.fullmatch(r"the following arguments are required: (.*)", line):
            options = {option for action in self._actions for option in action.option_strings}
            names = [f"--{name}" if f"--{name}" in options else name for name in match[1].split(", ")]
            line = f"required and missing: {', '.join(names)}"
        line = re.sub(r"^Parser key \"(.*?)\": ", r"--\1: ", line)
        line = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1, got ", line)
        line = re.sub(r"Does not .* Subtypes: \[<class '(\w+)'>, .* Given value: ", r"expected \1, got ", line)
        self.exit(2, f"error: {line} (see {self.prog} --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter, ArgumentParser().formatter_class):  # type: ignore[misc]
    """Types by their names: Path, not ``<class 'Path'>``."""

    def _expand_help(self, action: argparse.Action) -> str:
        return re.sub(r"<class '(\w+)'>", r"\1", super()._expand_help(action))


def make_parser(verb: str, description: str, example: str) -> OptionParser:
    """The parser of one verb, with an example at the end of its help."""
    return OptionParser(
        prog=f"hyenadna {verb}",
        allow_abbrev=False,
        description=textwrap.fill(description, 100),
        epilog=f"example:\n  {example}",
        formatter_class=_Formatter,
    )


def parse_config(parser: OptionParser, kind: type[Config], argv: Sequence[str]) -> tuple[Config, Any]:
    """Options of a dataclass, from the command line and from YAML (``--config``), and the parser's other options.

    Raises:
        InputError: a YAML file that is missing or none, or has keys that are no options.
    """
    parser.add_argument("--config", action="config", help="YAML file with values for the options below.")
    parser.add_class_arguments(kind)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            # A flag as well: --resume is --resume true.
            action.nargs, action.const = "?", True
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    lists = {f"--{field.name}" for field in fields if field.type in ("list[str]", "list[Path]")}
    words = list(_words(argv, {*lists, "--config"}))
    for before, word in zip(["", *words], words, strict=False):
        if before == "--config":
            _check_yaml(Path(word), {action.dest for action in parser._actions})
    parsed = parser.parse_args(
        [_as_list(word) if before in lists else word for before, word in zip(["", *words], words, strict=False)]
    )
    values = {field.name: parsed[field.name] for field in fields}
    return kind(**{name: _expanded(value) for name, value in values.items()}), parsed


def _expanded(value: Any) -> Any:
    """A path, or a list with paths, with ``~`` as the folder that it stands for."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return Path(value).expanduser() if isinstance(value, os.PathLike) else value


def _words(argv: Sequence[str], options: set[str]) -> Iterator[str]:
    """The words of the command line, with ``--option=value`` as two where the option is one of ``options``."""
    for word in argv:
        option, equals, value = word.partition("=")
        yield from (option, value) if equals and option in options else (word,)


def _as_list(word: str) -> str:
    """``chr1,chr2`` or ``[chr1, chr2]`` as JSON, which keeps contigs called 1 or X from being read as anything else."""
    names = (name.strip().strip("'\"") for name in word.removeprefix("[").removesuffix("]").split(","))
    return json.dumps([name for name in names if name])


def _check_yaml(file: Path, options: set[str]) -> None:
    """Raise InputError unless the file holds options: the parser's own message would not name it."""
    try:
        content = yaml.safe_load(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise InputError(f"--config {file}{where}: is no YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {file}: holds no options; a line is, for example, steps: 1000")
    if unknown := sorted(str(key) for key in content.keys() - options):
        raise InputError(f"--config {file}: no option is called {', '.join(unknown)}")
