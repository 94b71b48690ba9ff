"""Measure errors of the CUDA convolution and of plain PyTorch against float64, without a GPU.

    python tests/hyena_kernels/backends/cuda/emulated_accuracy.py --lengths 1024 32768 1048576

The kernels are compiled for the CPU, as in test_emulation.py. The inputs are one row of one channel with both gates and
a skip. ``dD`` is left out, because it is a single number. The oracle is plain PyTorch in float64.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch
from test_emulation import Emulation, compile_library

from hyena_kernels import _build, fftconv
from hyena_kernels.backends import extension
from hyena_kernels.testing import fftconv_inputs, reference_fftconv, relative_error, value_and_gradients

NAMES = ("y", "du", "dk", "dpre_gate", "dpost_gate")


def cells(length: int, dtype: torch.dtype) -> list[str]:
    """Relative L2 errors by result: of ours, then of plain PyTorch."""
    inputs = fftconv_inputs(1, 1, length, dtype=dtype)
    dy = torch.randn(1, 1, length, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = value_and_gradients(fftconv, inputs, dy, backend="cuda")
    plain = value_and_gradients(reference_fftconv, inputs, dy)
    wide = {name: None if tensor is None else tensor.double() for name, tensor in inputs.items()}
    exact = value_and_gradients(fftconv, wide, dy.double(), backend="torch")
    return [
        " / ".join(f"{relative_error(result[name], exact[name]):.2e}" for result in (ours, plain)) for name in NAMES
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1 << 10, 1 << 15, 1 << 20])
    lengths = parser.parse_args().lengths
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(extension, "obstacles", return_value=[]),
    ):
        Emulation(compile_library(Path(folder), _build.cuda_sources()))
        print(f"| L | dtype | {' | '.join(NAMES)} |\n|---|---|{'---|' * len(NAMES)}")
        for length in lengths:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                name = str(dtype).removeprefix("torch.")
                print(f"| {length:,} | {name} | {' | '.join(cells(length, dtype))} |", flush=True)


if __name__ == "__main__":
    main()
