"""What a verb of the command line is, and groups of verbs such as ``hyenadna plot KIND``."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from hyenadna.common.errors import InputError
from hyenadna.common.launch import Launch, check_processes
from hyenadna.common.streams import is_standard_output
from hyenadna.common.world import world


class Verb(NamedTuple):
    """A verb whose options are the fields of a dataclass. The dataclass and the work are named as ``module:name``.

    Attributes:
        name: words after ``hyenadna``.
        text: the first paragraph of its help. Its first sentence is the line in the list of verbs.
        example: command lines, the further ones indented by two spaces.
        config: the dataclass.
        work: the function that takes the options.
        report: the text to print, from the options and what the function returns.
        resumes: whether the function also takes ``resume``, which is not a field of the dataclass.
        divides: whether the function divides its work among the processes of torchrun.
        waits: whether these wait for each other as long as they live, because their parts take different times. Else
            there is the option --timeout.
    """

    name: str
    text: str
    example: str
    config: str
    work: str
    report: Callable[[Any, Any], str] = lambda config, result: result
    resumes: bool = False
    divides: bool = False
    waits: bool = False

    def parser(self) -> Any:
        """The parser of the options."""
        from hyenadna.cli.options import make_parser

        parser = make_parser(self.name, self.text, self.example, load(self.config))
        if self.resumes:
            text = "Resume from the newest checkpoint in --out, if there is one."
            parser.add_argument("--resume", type=bool, default=False, nargs="?", const=True, help=text)
        if self.divides and not self.waits:
            text = "Seconds that a process of torchrun waits for the others."
            parser.add_argument("--timeout", type=float, default=600.0, help=text)
        return parser

    def __call__(self, argv: Sequence[str]) -> None:
        """Read the options, do the work and print the report."""
        from hyenadna.cli.options import parse_config

        config, parsed = parse_config(self.parser(), load(self.config), argv)
        check_processes(self.name, divides=self.divides)
        more = {"resume": parsed.resume} if self.resumes else {}
        with self._together(config, parsed):
            result = load(self.work)(config, **more)
            if not world().is_first:
                return
        # Beside a result on standard output, the report would be a part of it.
        is_taken = any(is_standard_output(path) for path in config.written())
        print(self.report(config, result), file=sys.stderr if is_taken else sys.stdout)

    def _together(self, config: Any, parsed: Any) -> AbstractContextManager[Any]:
        """The block in which the processes of torchrun work together, if there are any."""
        if not (self.divides and Launch.of().grouped):
            return nullcontext()
        timeout = None if self.waits else parsed.timeout
        if timeout is not None and not 0 < timeout < math.inf:
            raise InputError(f"`timeout` {timeout:g}: must be a number of seconds above 0")
        from hyenadna.parallel.processes import start_world

        return start_world(config.device, timeout=timeout)


def summary(verb: Verb | Callable[[Sequence[str]], None]) -> str:
    """The line of a verb in the list of verbs."""
    text = verb.text if isinstance(verb, Verb) else str(verb.__doc__)
    return f"{text.split('. ')[0].removesuffix('.')}."


def load(name: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run_group(name: str, text: str, example: str, title: str, verbs: Mapping[str, Verb], argv: Sequence[str]) -> None:
    """Run one verb of a group: ``hyenadna NAME KIND …``. Without one, or with --help, show them.

    Args:
        name: word of the group.
        text: its help.
        example: command line.
        title: what the verbs are, above their list.
        verbs: by the word after that of the group.
        argv: the words after that of the group.

    Raises:
        InputError: there is no such verb.
    """
    from hyenadna.cli.options import make_parser

    if argv and argv[0] in verbs:
        verbs[argv[0]](argv[1:])
        return
    if argv and not argv[0].startswith("-"):
        raise InputError(f"unknown kind {argv[0]!r}: choose one of {', '.join(verbs)} (see hyenadna {name} --help)")
    parser = make_parser(name, text, example)
    kinds = parser.add_subcommands(required=False, title=title, metavar="KIND")
    for word, verb in verbs.items():
        kinds.add_subcommand(word, verb.parser(), help=summary(verb))
    parser.parse_args(list(argv) or ["--help"])
