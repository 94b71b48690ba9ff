"""Time ``position_dropout`` on a CPU, against PyTorch's dropout and the one of the model.

    python -m bench.kernels.position_dropout --batch 256 --length 1024 --width 128

``torch.nn.functional.dropout`` keeps its mask in the dtype of the input, and the model's keeps it in bytes. All take
turns on one thread. The figures are medians of the rounds, in ms of processor time.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common.timing import Call, cpu_timer, in_turns
from hyena_kernels import position_dropout
from hyenadna.model.layers import _Dropout

_BACKENDS = ("cpp", "torch")
_P = 0.1


def _calls(x: Tensor, gradients: bool) -> dict[str, Call]:
    """One call of each implementation, by name."""
    samples = torch.arange(x.shape[0])

    def call(name: str) -> None:
        if name == "F.dropout":
            y = F.dropout(x, _P)
        elif name == "the model's":
            y = _Dropout.apply(x, _P)
        else:
            y = position_dropout(x, _P, seed=1, samples=samples, backend=name)
        if gradients:
            torch.autograd.grad(y, x, x.detach())

    return {name: partial(call, name) for name in ("F.dropout", "the model's", *_BACKENDS)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.position_dropout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=256, help="rows (default: %(default)s)")
    parser.add_argument("--length", type=int, default=1024, help="positions of a row (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="channels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = options.batch, options.length, options.width
    print(f"| {' × '.join(map(str, shape))} | | F.dropout | the model's | {' | '.join(_BACKENDS)} |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for gradients in (False, True):
            x = torch.randn(shape, dtype=dtype).requires_grad_(gradients)
            times = in_turns(_calls(x, gradients), cpu_timer(), options.rounds)
            figures = " | ".join(f"{1e3 * median(seconds):.3g}" for seconds in times.values())
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {'forward + backward' if gradients else 'forward'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
