"""The command line and the Markdown table that the reports of the Triton and the CUDA kernels share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, Resources

Table = dict[str, dict[int, Resources | None]]
"""Resources by the name of a kernel and the architecture. None or no entry: no launch uses the kernel there."""


@dataclass(frozen=True)
class Report:
    """A report of one kind of kernels.

    Args:
        kernels: ``"Triton"`` or ``"CUDA"``.
        module: the module that is run for it.
        compiler: what compiles the kernels, with its version if that is known.
        archs: the default architectures.
    """

    kernels: str
    module: str
    compiler: str
    archs: tuple[int, ...]

    def parser(self) -> argparse.ArgumentParser:
        """The command line, to which a caller may add options."""
        archs = " ".join(map(str, self.archs))
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=f"Compile every {self.kernels} kernel ahead of time and report registers, stack, shared memory "
            "and occupancy as a Markdown table. Exits with 1 if a kernel spills registers, or takes more shared memory "
            "than a block can have.",
            epilog=f"example: python -m {self.module} --arch {archs} --out resources.md",
        )
        parser.add_argument(
            "--arch",
            nargs="+",
            type=int,
            choices=ARCHITECTURES,
            default=list(self.archs),
            help=f"compute capabilities times ten (default: {archs})",
        )
        output = parser.add_mutually_exclusive_group()
        output.add_argument("--out", type=Path, metavar="FILE", help="write the table here instead of printing it")
        output.add_argument("--check", action="store_true", help="make no table")
        return parser

    def parse(self, parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The options. Ends the process with 2 if the folder of ``--out`` does not exist."""
        options = parser.parse_args(arguments)
        if options.out is not None and not options.out.parent.is_dir():
            parser.error(f"there is no folder {options.out.parent} to write {options.out.name} into")
        return options

    def finish(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, table: Table, faults: Sequence[str]
    ) -> int:
        """Print the faults, or print or write the table.

        Returns:
            The exit code: 1 if there are faults, else 0.
        """
        if faults:
            print(f"{len(faults)} faults:", *faults, sep="\n  ", file=sys.stderr)
            return 1
        if options.check:
            compiled = sum(resources is not None for row in table.values() for resources in row.values())
            print(f"{compiled} compilations of {len(table)} kernels: no spills, shared memory within the limits")
        elif options.out is None:
            print(self.markdown(table, options.arch), end="")
        else:
            try:
                _write(options.out, self.markdown(table, options.arch))
            except OSError as error:
                parser.error(f"cannot write {options.out}: {error}")
        return 0

    def markdown(self, table: Table, archs: Sequence[int]) -> str:
        """A document with one row for each kernel and one column for each architecture."""
        command = f"python -m {self.module} --arch {' '.join(map(str, archs))}"
        lines = [
            f"# Resources of the {self.kernels} kernels",
            "",
            f"Made by `{command} --out FILE`, which compiles ahead of time with {self.compiler}. Each cell:",
            "registers a thread / bytes of stack a thread (spills) / shared memory a block / occupancy of an SM.",
            "Not taken: no launch uses the kernel there.",
            "",
            f"| kernel | threads | {' | '.join(f'sm_{arch}' for arch in archs)} |",
            f"|---|---|{'---|' * len(archs)}",
        ]
        for name, row in table.items():
            threads = next((resources.threads for resources in row.values() if resources is not None), "")
            lines.append(f"| {name} | {threads} | {' | '.join(_cell(row.get(arch)) for arch in archs)} |")
        return "\n".join(lines) + "\n"


def _cell(resources: Resources | None) -> str:
    if resources is None:
        return "not taken"
    shared = f"{resources.shared_bytes / 1024:.3g} KB"
    return f"{resources.registers} / {resources.stack_bytes} / {shared} / {resources.occupancy:.0%}"


def faults(table: Table) -> list[str]:
    """A line for each kernel that spills, and for each block that takes more shared memory than it can have."""
    return [
        f"{name} sm_{arch}: {fault}"
        for name, row in table.items()
        for arch, resources in row.items()
        if resources is not None
        for fault in resources.faults()
    ]


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all. A link stays, and its target is replaced; a pipe is written to."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
