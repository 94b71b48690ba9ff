"""Time ``hyena_mixer_step`` on a CPU, backend against backend, over the steps of a sequence.

    python -m bench.kernels.mixer_step --batch 1 4 16 64 --width 128 256

The backends take turns on one thread, in float32, order 2, with 3 short taps. The figures are medians of the rounds, in
µs of processor time a step, calls included. A round is one window of steps, so it has every length of a window once.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
from torch import Tensor

from bench.common.timing import cpu_timer, in_turns
from hyena_kernels import hyena_mixer_step
from hyena_kernels.testing import hyena_mixer_step_inputs

_BACKENDS = ("cpp", "torch")


def _steps(inputs: dict[str, Tensor | None], backend: str, window: int) -> None:
    for t in range(window):
        hyena_mixer_step(**inputs, t=t, window=window, backend=backend)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.mixer_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64], help="rows (default: 1 4 16 64)")
    parser.add_argument("--width", type=int, nargs="+", default=[128, 256], help="channels d (default: 128 256)")
    parser.add_argument("--horizon", type=int, default=1000, help="steps G of the states (default: %(default)s)")
    parser.add_argument("--window", type=int, default=64, help="window of a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="rounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| B × d | {' | '.join(_BACKENDS)} | ratio |\n|---|---|---|---|")
    for width in options.width:
        for batch in options.batch:
            calls = {}
            for backend in _BACKENDS:
                inputs = hyena_mixer_step_inputs(batch, options.horizon, width, t=0)
                del inputs["t"]
                calls[backend] = partial(_steps, inputs, backend, options.window)
            with torch.no_grad():
                times = in_turns(calls, cpu_timer(), options.rounds)
            ours, plain = (1e6 * median(seconds) / options.window for seconds in times.values())
            print(f"| {batch} × {width} | {ours:.3g} | {plain:.3g} | {plain / ours:.2g} |", flush=True)


if __name__ == "__main__":
    main()
