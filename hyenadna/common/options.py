"""Rules for the fields of option classes, written beside each field, and the one function that checks them.

A field says what it takes in its type: ``Literal["mean", "last"]``, ``Annotated[int, Ge(1)]``, or ``InputFile`` for a
path that must exist. Rules between fields stay in the class's own ``check``.

pydantic would do the same. It takes as long to import as everything else that ``--help`` needs, and its errors fill
several lines.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterator
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


InputFile = Annotated[Path, Input(check_file)]
"""A file that must exist."""

InputPath = Annotated[Path, Input(check_path)]
"""A file or folder that must exist."""


def check_values(config: Any) -> None:
    """Check every field of a dataclass against the rules in its type. ``None`` passes where the type allows it.

    Raises:
        InputError: a value breaks a rule. The message names the field in backquotes, as all messages do; the command
            line shows it as an option.
    """
    for name, value, rules in _rules(config):
        if problem := _problem(value, rules):
            raise InputError(f"`{name}` {value}: {problem}")


def check_inputs(config: Any) -> None:
    """Check that every path to be read exists, in the order of the fields.

    Raises:
        InputError: one does not exist, or is of the wrong kind.
    """
    for _, value, rules in _rules(config):
        for rule in rules:
            if isinstance(rule, Input):
                rule.check(value)


def _rules(config: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    """Name, value and rules of every field that has a value, and of every entry of a list."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kinds = _alternatives(hints[field.name])
        entries = [(value, kinds)]
        if isinstance(value, list):
            entries = [(item, _alternatives(get_args(hints[field.name])[0])) for item in value]
        for item, alternatives in entries:
            if item is None and type(None) in alternatives:
                continue
            for kind in alternatives:
                if get_origin(kind) is Annotated:
                    yield field.name, item, list(kind.__metadata__)
                elif get_origin(kind) is Literal:
                    yield field.name, item, [kind]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; a tuple of the type itself where it is not one."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _problem(value: Any, rules: list[Any]) -> str:
    """What is wrong with a value, as the end of a message; empty if nothing is."""
    for rule in rules:
        if get_origin(rule) is Literal and value not in get_args(rule):
            return f"choose {listed(get_args(rule))}"
    bounds = [(rule, *_bound(rule)) for rule in rules if isinstance(rule, Ge | Gt | Le | Lt)]
    # Written so that NaN, which compares as False with everything, is refused.
    if all(holds(value) for _, holds, _ in bounds):
        return ""
    match [rule for rule, _, _ in bounds]:
        case [Ge(least), Le(most)]:
            return f"must be from {least} to {most}"
    return f"must be {' and '.join(text for _, _, text in bounds)}"


def _bound(rule: Ge | Gt | Le | Lt) -> tuple[Callable[[Any], bool], str]:
    """A bound as a test and in words."""
    limit: Any
    match rule:
        case Ge(limit):
            return lambda value: value >= limit, f"at least {limit}"
        case Gt(limit):
            return lambda value: value > limit, f"above {limit}"
        case Le(limit):
            return lambda value: value <= limit, f"at most {limit}"
        case Lt(limit):
            return lambda value: value < limit, "finite" if limit == math.inf else f"below {limit}"
    raise TypeError(rule)


def listed(choices: tuple[Any, ...]) -> str:
    """``"a, b or c"``."""
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def check_output_file(path: Path) -> None:
    """Raise InputError if the file to write is a folder."""
    if path.is_dir():
        raise InputError(f"`out` {path}: is a folder; choose a file")
