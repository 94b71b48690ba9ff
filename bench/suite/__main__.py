"""Run the benchmark suite, or part of it, and write its JSON file.

    python -m bench.suite
    python -m bench.suite --seconds 120 --workload fftconv,hyena_mixer --json my/suite.json
    HYENA_BACKEND=cuda python -m bench.suite --cases targets

Each case is one implementation of a workload at one length. It is checked against float64 at that shape before it is
timed: an implementation that fails its check has no time. The file is complete after every case. The exit code is 0;
it is 1 if a check failed or hyena_kernels raised an error, and 2 on bad usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from bench.common.format import seconds_text
from bench.suite import options as suite_options
from bench.suite.options import Options
from bench.suite.suite import Outcome, Suite


def make_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of the suite."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suite_options.add_arguments(parser.add_argument)
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Options:
    """Parse the options; ends with code 2 and one line if they are wrong."""
    values = parser.parse_args(arguments)
    options = suite_options.read(lambda name: getattr(values, name.removeprefix("--").replace("-", "_")))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: leave --device out, or choose --device cpu")
    if not options.chosen():
        parser.error("no case matches --workload, --implementation, --min-length and --max-length")
    return options


def run(options: Options, *, spent: float = 0.0) -> int:
    """Measure the chosen cases and print a line for each.

    Args:
        options: options of the run.
        spent: seconds of the run's time that are already over.

    Returns:
        Number of cases that failed their check or in which hyena_kernels raised an error.
    """
    chosen = options.chosen()
    suite = Suite(options, chosen, spent=spent)
    failures = 0
    for number, case in enumerate(chosen, start=1):
        outcome = suite.outcome(case)
        failures += outcome.status in ("failed", "failed_check")
        print(f"[{number}/{len(chosen)}] {case}: {_words(outcome)}", flush=True)
    suite.finish()
    print("\n".join(filter(None, [options.missing(), str(options.json)])))
    return failures


def _words(outcome: Outcome) -> str:
    if outcome.status != "measured":
        return f"{outcome.status.replace('_', ' ')}: {outcome.reason}"
    return f"{seconds_text(outcome.median)}, {len(outcome.samples)} rounds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 if a case failed, 2 on bad usage."""
    start = time.monotonic()
    options = read_options(make_parser("python -m bench.suite", __doc__), arguments)
    return int(run(options, spent=time.monotonic() - start) > 0)


if __name__ == "__main__":
    sys.exit(main())
