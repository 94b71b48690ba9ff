"""The base of the option classes, and the rules that are written beside their fields.

A field says what it takes in its type: ``Literal["mean", "last"]``, ``Annotated[int, Ge(1)]``, or ``InputFile`` for a
path that must exist. Rules between fields stay in the class's own ``_check_together``.

pydantic would do the same. It takes as long to import as everything else that ``--help`` needs, and its errors fill
several lines.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import types
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from hyenadna.common.errors import InputError
from hyenadna.common.files import output_problem, partial_place
from hyenadna.common.streams import identity, is_input_stream, same_file

AtLeast0 = Annotated[int, Ge(0)]
"""An integer of 0 or more."""

AtLeast1 = Annotated[int, Ge(1)]
"""An integer of 1 or more."""

Fraction = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""

NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
"""A finite number of 0 or more."""

Positive = Annotated[float, Gt(0), Lt(math.inf)]
"""A finite number above 0."""


Seed = Annotated[int, Ge(0), Lt(1 << 63)]
"""A seed that numpy and torch take."""

Threads = Annotated[int, Ge(1), Lt(1 << 10)]
"""Threads of a process."""

Workers = Annotated[int, Ge(0), Lt(1 << 8)]
"""Processes that read data; 0 reads in the process itself."""

BatchSize = Annotated[int, Ge(1), Lt(1 << 20)]
"""Sequences or windows at a time."""


@dataclasses.dataclass(frozen=True)
class Output:
    """Marks a path that is written. ``problem`` says what is wrong with it, or is empty."""

    problem: Callable[[Path], str]


OutputFile = Annotated[Path, Output(output_problem)]
"""A file to write. It may exist. It may be a link, a pipe or a device, or ``-`` for standard output."""


def _new_folder(path: Path) -> str:
    is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    return "" if is_new else "exists already; choose a folder that does not exist, or is empty"


NewFolder = Annotated[Path, Output(_new_folder)]
"""A folder to write. It must not exist, or be empty."""


@dataclasses.dataclass(frozen=True)
class Input:
    """Marks a path that is read. ``check`` raises InputError where nothing fitting lies there."""

    check: Callable[[Path], object]


def check_file(path: Path) -> None:
    """Raise InputError unless there is a file, or a pipe or device. ``-`` is standard input."""
    if is_input_stream(path):
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")


def with_partial(outputs: Iterable[Path]) -> list[Path]:
    """Outputs, and what holds their parts until they are complete."""
    return [
        place for path in outputs for place in (path, partial_place(path), partial_place(Path(os.path.realpath(path))))
    ]


def check_path(path: Path) -> None:
    """Raise InputError unless there is a file or a folder."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")


def made_by(verb: str) -> Input:
    """The rule of a file that a verb writes. Where none lies, the message names the verb."""

    def check(path: Path) -> None:
        if not is_input_stream(path) and not path.exists():
            raise InputError(f"{path}: no such file; hyenadna {verb} writes one")
        check_file(path)

    return Input(check)


InputFile = Annotated[Path, Input(check_file)]
"""A file that must exist."""

InputPath = Annotated[Path, Input(check_path)]
"""A file or folder that must exist."""


class Options:
    """Base of the option classes, which are dataclasses."""

    # Without an annotation: jsonargparse would look it up in the module of the subclass.
    runtime = tuple[str, ...]()
    """Fields that change how a run is carried out, and not what it computes. A resumed run may change them."""

    def check(self) -> None:
        """Raise InputError if a value does not fit, or an input does not exist."""
        self.check_values()
        self._check_together()
        for _, value, rules in _rules(self):
            for rule in rules:
                if isinstance(rule, Input):
                    rule.check(value)
        self._check_paths()

    def written(self) -> list[Path]:
        """The files and folders that the work writes, or begins to write."""
        return with_partial(path for _, path, is_output in _paths(self) if is_output)

    def _check_paths(self) -> None:
        """Raise InputError if something would be written over an input, or if one stream is read as two inputs."""
        read = [(name, path) for name, path, is_output in _paths(self) if not is_output]
        for path in self.written():
            for name, source in read:
                if same_file(path, source):
                    raise InputError(
                        f"`{name}` {source}: is read, and would be written over as {path}; write to another place"
                    )
                if path.is_file() and source.is_dir() and source.resolve() in path.resolve().parents:
                    raise InputError(f"{path}: is a file of `{name}` {source}, which is read; write to another place")
        outputs: dict[object, str] = {}
        for name, path, is_output in _paths(self):
            before = outputs.setdefault(identity(path, is_input=False), name) if is_output else name
            if before != name and path != Path(os.devnull):
                raise InputError(f"`{name}` and `{before}` are both {path}; choose different places")
        streams: dict[object, str] = {}
        for name, path in read:
            if is_input_stream(path) and path != Path(os.devnull):
                before = streams.setdefault(identity(path, is_input=True), name)
                if before != name:
                    raise InputError(f"`{before}` and `{name}`: both are {path}, which can be read only once")

    def check_values(self) -> None:
        """Check every field against the rules in its type. ``None`` passes where the type allows it.

        Raises:
            InputError: a value breaks a rule. The message names the field in backquotes, as all messages do; the
                command line shows it as an option.
        """
        for name, value, rules in _rules(self):
            if problem := _problem(value, rules):
                raise InputError(f"`{name}` {value}: {problem}")

    def _check_together(self) -> None:
        """Raise InputError for values that do not go together."""

    def refuse_unused(self, names: Container[str], need: str) -> None:
        """Raise InputError if one of the fields has another value than its default, because nothing would read it.

        Args:
            names: the fields.
            need: what would read them, for the message, such as "`method` lora".
        """
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.name not in names:
                continue
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if (value := getattr(self, field.name)) != default:
                raise InputError(f"`{field.name}` {value}: has no effect without {need}; leave it out")


def _rules(options: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, value and rules of every field that has a value, and of every entry of a list."""
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        kind, values = hints[field.name], [getattr(options, field.name)]
        if isinstance(values[0], list):
            kind, values = get_args(kind)[0], values[0]
        alternatives = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        for value in values:
            if value is None and type(None) in alternatives:
                continue
            for one in alternatives:
                if get_origin(one) in (Annotated, Literal):
                    yield field.name, value, one.__metadata__ if get_origin(one) is Annotated else (one,)


def _paths(options: Any) -> Iterator[tuple[str, Path, bool]]:
    """Name and value of every path among the fields, and whether it is written."""
    written = {name for name, _, rules in _rules(options) if any(isinstance(rule, Output) for rule in rules)}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                yield field.name, path, field.name in written or field.name == "out"


_BOUNDS: dict[Any, tuple[Callable[[Any, Any], bool], str]] = {
    Ge: (operator.ge, "at least"),
    Gt: (operator.gt, "above"),
    Le: (operator.le, "at most"),
    Lt: (operator.lt, "below"),
}


def _problem(value: Any, rules: tuple[Any, ...]) -> str:
    """What is wrong with a value, as the end of a message; empty if nothing is."""
    for rule in rules:
        if isinstance(rule, Output) and (problem := rule.problem(value)):
            return problem
        if get_origin(rule) is Literal and value not in get_args(rule):
            return f"choose {listed(get_args(rule))}"
    limits = {type(rule): getattr(rule, type(rule).__name__.lower()) for rule in rules if type(rule) in _BOUNDS}
    # Written so that NaN, which compares as False with everything, is refused.
    if all(_BOUNDS[kind][0](value, limit) for kind, limit in limits.items()):
        return ""
    if list(limits) == [Ge, Le]:
        return f"must be from {limits[Ge]} to {limits[Le]}"
    words = ("finite" if limit == math.inf else f"{_BOUNDS[kind][1]} {limit}" for kind, limit in limits.items())
    return f"must be {' and '.join(words)}"


def listed(choices: tuple[Any, ...]) -> str:
    """``"a, b or c"``."""
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last
