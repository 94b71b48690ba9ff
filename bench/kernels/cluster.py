"""Predict a training step of one sequence of 1M to 1B tokens on 1 to 256 GPUs: seconds, bytes that cross, memory.

    python -m bench.kernels.cluster
    python -m bench.kernels.cluster --lengths 16777216 --gpus 1,8,64 --kernels blocks --network-gb-s 90
    python -m bench.kernels.cluster --page docs/simulation.md --picture docs/simulation.svg
    python -m bench.kernels.cluster --check

All of it is predicted. What one GPU takes was measured and is read from bench/results. The wire and the rate of matrix
products are assumed. Every constant is an option, and a table says where it is from.

With --check, 2 and 4 processes of gloo run operators and a model on this machine. The bytes that leave each, and those
that autograd keeps, are counted and held against the formulas.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.common.run_file import BadRun
from bench.costs.cluster import FILTERS, KERNELS, POSITIONS, Rates, Shape, predict
from bench.report import simulation

LENGTHS = "1048576,4194304,16777216,67108864,100000000,268435456,1000000000"
GPUS = "1,2,4,8,16,32,64,128,256"
PARTS = "1048576/1,1048576/8,16777216/8,16777216/64,100000000/64,100000000/128,1000000000/128,1000000000/256"


def _counts(text: str) -> list[int]:
    found = sorted({int(each) for each in text.replace("_", "").split(",")})
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: numbers go from 1")
    return found


def _pairs(text: str) -> list[tuple[int, int]]:
    found = [tuple(_counts(part)[0] for part in each.split("/")) for each in text.split(",")]
    if any(len(each) != 2 for each in found):
        raise argparse.ArgumentTypeError(f"{text}: give LENGTH/GPUS, separated by commas")
    return [(length, gpus) for length, gpus in found]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps a default on the line on which it is announced."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        kept = text.replace("(default: ", "(default:\0")
        return [line.replace("\0", " ") for line in super()._split_lines(kept, width)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.cluster",
        description=__doc__,
        formatter_class=_Formatter,
    )
    parser.add_argument("--lengths", type=_counts, default=LENGTHS, help="positions (default: %(default)s)")
    parser.add_argument("--gpus", type=_counts, default=GPUS, help="ranks of one sequence (default: %(default)s)")
    parser.add_argument(
        "--parts", type=_pairs, default=PARTS, help="LENGTH/GPUS in the table of parts (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=256, help="width of the model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the model (default: %(default)s)")
    for name, known, default in (
        ("kernels", KERNELS, "today"),
        ("filters", FILTERS, "best"),
        ("positions", POSITIONS, "whole"),
    ):
        meanings = "; ".join(f"{key}: {meaning}" for key, meaning in known.items())
        parser.add_argument(f"--{name}", choices=known, default=default, help=f"{meanings} (default: %(default)s)")
    parser.add_argument(
        "--blocks-kept", action="store_true", help="keep what blocks compute for backward (default: compute it again)"
    )
    measured, group = Rates.committed(), parser.add_argument_group("constants")
    for each in Rates.fields():
        source, unit = each.metadata["source"], each.metadata["unit"]
        origin = "assumed" if source is None else f"measured, {source}"
        group.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=float,
            metavar="X",
            help=f"{each.metadata['meaning']}, {unit}; {origin} (default: {getattr(measured, each.name):.4g})",
        )
    output = parser.add_argument_group("output")
    output.add_argument("--page", type=Path, help="fill the marked block of this page (default: print the tables)")
    output.add_argument("--picture", type=Path, help="write an SVG here (default: none)")
    output.add_argument("--check", action="store_true", help="count bytes of real processes (default: predict)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if a count differs from its formula, or 2 on bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check:
        # Imported on demand: it needs processes.
        from bench.kernels import cluster_check

        return cluster_check.report()
    try:
        rates = Rates.committed(**{each.name: getattr(options, each.name) for each in Rates.fields()})
        shape = Shape(options.width, options.layers)
        how = partial(
            predict,
            shape=shape,
            rates=rates,
            kernels=options.kernels,
            filters=options.filters,
            positions=options.positions,
            recompute=not options.blocks_kept,
        )
        # One GPU is what efficiency is against.
        steps = {length: {gpus: how(length, gpus) for gpus in sorted({1, *options.gpus})} for length in options.lengths}
        chosen = [how(*each) for each in options.parts]
        text = simulation.page(steps, chosen, shape, rates)
        if options.page is not None:
            options.page.write_text(simulation.filled(options.page.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            print(text)
        if options.picture is not None:
            options.picture.write_text(simulation.picture(steps, rates), encoding="utf-8")
    except (BadRun, LookupError, OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
