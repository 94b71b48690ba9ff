"""``python -m hyena_kernels``: what is installed, which backends run here, and why the others do not."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hyena_kernels._build import BuildError
from hyena_kernels.backend import describe
from hyena_kernels.backends.extension import build_ext


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; exits with 2 if the extension cannot be compiled."""
    parser = argparse.ArgumentParser(
        prog="python -m hyena_kernels",
        description="Tell what is installed, which backend runs each op here, and why the others do not.",
        epilog="example: python -m hyena_kernels --build --verbose",
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help="first compile the libraries of the C++/CUDA extension that the installation lacks, into the user's cache "
        "(HYENA_CACHE, by default ~/.cache/hyena_kernels)",
    )
    parser.add_argument("--verbose", action="store_true", help="with --build: show the compilers' commands and output")
    options = parser.parse_args(argv)
    if options.verbose and not options.build:
        parser.error("--verbose needs --build")
    if options.build:
        try:
            build_ext(verbose=options.verbose)
        except BuildError as error:
            parser.exit(2, f"error: {error}\n")
    print(describe())
    return 0


def run() -> int:
    """:func:`main` in a process of its own. Returns 141, as after SIGPIPE, if nobody reads the output to its end."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    raise SystemExit(run())
