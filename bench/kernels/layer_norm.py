"""Time ``layer_norm`` and ``add_layer_norm`` on a CPU, against PyTorch's ops with autograd and between backends.

    python -m bench.kernels.layer_norm --rows 8192 --width 256

PyTorch's ops are ``residual + x`` and ``torch.nn.functional.layer_norm``. All take turns on one thread, in float32. The
figures are medians of the rounds, in ms of processor time. At small sizes they show the overhead of calls.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common.timing import Call, cpu_timer, in_turns
from hyena_kernels import add_layer_norm, layer_norm
from hyena_kernels.testing import add_layer_norm_inputs, layer_norm_inputs

_BACKENDS = ("cpp", "torch")


def _torch_norm(residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return (F.layer_norm(residual, weight.shape, weight, bias),)


def _torch_add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    total = residual + x
    return F.layer_norm(total, weight.shape, weight, bias), total


def _calls(sums: bool, leaves: list[Tensor], gradients: bool) -> dict[str, Call]:
    """One call of each implementation, by name."""

    def call(name: str) -> None:
        if name == "PyTorch's ops":
            results = (_torch_add_norm if sums else _torch_norm)(*leaves)
        elif sums:
            results = add_layer_norm(*leaves, backend=name)
        else:
            results = (layer_norm(*leaves, backend=name),)
        if gradients:
            torch.autograd.grad(results, leaves, [leaves[0].detach()] * len(results))

    return {name: partial(call, name) for name in ("PyTorch's ops", *_BACKENDS)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.layer_norm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=8192, help="rows (default: %(default)s)")
    parser.add_argument("--width", type=int, default=256, help="elements of a row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| {options.rows} × {options.width} | | PyTorch's ops | {' | '.join(_BACKENDS)} |\n|---|---|---|---|---|")
    for sums, make in ((False, layer_norm_inputs), (True, add_layer_norm_inputs)):
        for gradients in (False, True):
            leaves = [tensor.requires_grad_(gradients) for tensor in make(options.rows, options.width).values()]
            times = in_turns(_calls(sums, leaves, gradients), cpu_timer(), options.rounds)
            figures = " | ".join(f"{1e3 * median(seconds):.3g}" for seconds in times.values())
            name = "add_layer_norm" if sums else "layer_norm"
            print(f"| {name} | {'forward + backward' if gradients else 'forward'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
