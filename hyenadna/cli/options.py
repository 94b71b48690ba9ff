"""Options of the command line: jsonargparse makes them from a dataclass, and bad input is one line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from hyenadna.common.errors import InputError
from hyenadna.common.options import listed
from hyenadna.common.streams import regular_file, same_file


class _Config(Protocol):
    def check(self) -> None: ...

    def written(self) -> list[Path]: ...


Config = TypeVar("Config", bound=_Config)


class _OptionParser(ArgumentParser):
    """Reports a wrong option in one line, as all other bad input, in place of the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and end with exit code 2."""
        line = " ".join(str(ex or message).split())
        if match := re.fullmatch(r"the following arguments are required: (.*)", line):
            options = {option for action in self._actions for option in action.option_strings}
            names = [f"--{name}" if f"--{name}" in options else name for name in match[1].split(", ")]
            line = f"required and missing: {', '.join(names)}"
        elif match := re.fullmatch(r"Parser key \"(.*?)\": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", line):
            choices = tuple(choice.strip("'") for choice in match[2].split(", "))
            line = f"--{match[1]} {match[3]}: choose {listed(choices)}"
        line = re.sub(r"^Parser key \"(.*?)\": ", r"--\1: ", line)
        line = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1, got ", line)
        line = re.sub(r"Does not .* Subtypes: \[<class '(\w+)'>, .* Given value: ", r"expected \1, got ", line)
        self.exit(2, f"error: {line} (see {self.prog} --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter, ArgumentParser().formatter_class):  # type: ignore[misc]
    """Types by their names: Path, not ``<class 'Path'>``, and no type where the choices are listed."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r"<class '(\w+)'>", r"\1", super()._expand_help(action))
        text = re.sub(r"type: (Optional\[(\w+)\]|(\w+) \| null)", r"type: \2\3", text)
        return re.sub(r"type: Literal\[.*?\], ", "", text).replace("default: null", "default: none")


def make_parser(verb: str, description: str, example: str, kind: type[Any] | None = None) -> _OptionParser:
    """The parser of one verb, with an example at the end of its help.

    Args:
        verb: words after ``hyenadna``.
        description: what the verb does.
        example: command lines, the further ones indented by two spaces.
        kind: dataclass whose fields are the options. ``--config`` reads them from YAML.
    """
    parser = _OptionParser(
        prog=f"hyenadna {verb}",
        allow_abbrev=False,
        description=textwrap.fill(description, 100),
        epilog=f"example:\n  {example}",
        formatter_class=_Formatter,
    )
    if kind is not None:
        parser.add_argument("--config", action="config", help="YAML file with values for the options below.")
        parser.add_class_arguments(kind)
        for action in parser._actions:
            if getattr(action, "_typehint", None) is bool:
                # A flag as well: --resume is --resume true.
                action.nargs, action.const = "?", True
            elif getattr(action, "_typehint", None) == list[Path]:
                action.metavar = "[PATH,...]"
        required = [action.option_strings[0] for action in parser._actions if getattr(action, "required", False)]
        needed = [f"{name} {name.removeprefix('--').upper()}" for name in required]
        parser.usage = " ".join([parser.prog, *needed, "[options]"])
    return parser


def parse_config(parser: _OptionParser, kind: type[Config], argv: Sequence[str]) -> tuple[Config, Any]:
    """Read the options of a dataclass from the command line and from YAML (``--config``), and check them.

    Args:
        parser: parser of the verb, made with ``kind``.
        kind: class of the options.
        argv: words after the verb.

    Returns:
        The checked options, and a namespace that also holds the parser's other options.

    Raises:
        InputError: a YAML file is missing, damaged or has unknown keys; an option has a wrong value; an input does not
            exist.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    lists = {f"--{field.name}" for field in fields if hints[field.name] in (list[str], list[Path])}
    words = list(_words(argv, {*lists, "--config"}))
    for before, word in zip(["", *words], words, strict=False):
        if before == "--config":
            _check_yaml(word, {action.dest for action in parser._actions})
    # The parser reads the files a second time.
    files = [word for before, word in zip(["", *words], words, strict=False) if before == "--config"]
    words = [
        str(_readable(word)) if before == "--config" else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    parsed = parser.parse_args(
        [_as_list(word) if before in lists else word for before, word in zip(["", *words], words, strict=False)]
    )
    values = {field.name: parsed[field.name] for field in fields}
    config = kind(**{name: _expanded(value) for name, value in values.items()})
    config.check()
    for file in files:
        if any(same_file(path, Path(file).expanduser()) for path in config.written()):
            raise InputError(f"--config {file}: is read, and would be written over; write to another place")
    return config, parsed


def _readable(file: str) -> Path:
    """A YAML file, or the copy of one that can be read only once."""
    return regular_file(Path(file).expanduser())


def _expanded(value: Any) -> Any:
    """A path, or a list with paths, with ``~`` replaced by the home folder."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return Path(value).expanduser() if isinstance(value, os.PathLike) else value


def _words(argv: Sequence[str], options: set[str]) -> Iterator[str]:
    """The words of the command line, with ``--option=value`` as two words if the option is one of ``options``."""
    for word in argv:
        option, equals, value = word.partition("=")
        yield from (option, value) if equals and option in options else (word,)


def _as_list(word: str) -> str:
    """``chr1,chr2`` or ``[chr1, chr2]`` as JSON, so that YAML does not read the contigs 1 and X as other types."""
    names = (name.strip().strip("'\"") for name in word.removeprefix("[").removesuffix("]").split(","))
    return json.dumps([name for name in names if name])


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping. YAML itself would take the last value."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping whose keys differ."""
        node = super().compose_mapping_node(anchor)
        keys = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.composer.ComposerError(None, None, f"{key.value} stands there twice", key.start_mark)
            keys.add(key.value)
        return node


def _check_yaml(file: str, options: set[str]) -> None:
    """Raise InputError unless the file holds options. The parser's own message would not name the file."""
    try:
        content = yaml.load(_readable(file).read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise InputError(f"--config {file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise InputError(f"--config {file}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {file}: holds no options; a line is, for example, steps: 1000")
    if unknown := sorted(str(key) for key in content.keys() - options):
        raise InputError(f"--config {file}: no option is called {', '.join(unknown)}")
