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
import types
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from hyenadna.common.errors import InputError

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


OutputFile = Annotated[Path, Output(lambda path: "is a folder; choose a file" if path.is_dir() else "")]
"""A file to write. It may exist."""


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
    """Raise InputError unless there is a file."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")


def check_path(path: Path) -> None:
    """Raise InputError unless there is a file or a folder."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")


def made_by(verb: str) -> Input:
    """The rule of a file that a verb writes. Where none lies, the message names the verb."""

    def check(path: Path) -> None:
        if not path.exists():
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
