"""Compare the errors of the Triton kernels and of plain PyTorch against float64.

    TRITON_INTERPRET=1 python -m bench.kernels.triton_accuracy --lengths 1024 32768     # without a GPU, slowly
    TRITON_INTERPRET=1 python -m bench.kernels.triton_accuracy --op implicit_filter --lengths 1024
    python -m bench.kernels.triton_accuracy --device cuda

Values and gradients are compared. ``fftconv`` has one row of one channel, both gates and a skip; its ``dD`` is a single
number and left out. ``implicit_filter`` has 128 channels of the published float32 network. The oracle is the same op in
plain PyTorch on float64 inputs. In the interpreter a length of a million takes half an hour.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import triton

from bench.common import json_io
from bench.kernels.interpreter import as_on_a_gpu
from hyena_kernels import fftconv, implicit_filter
from hyena_kernels.testing import (
    Inputs,
    error_budget,
    fftconv_inputs,
    implicit_filter_inputs,
    reference_fftconv,
    reference_implicit_filter,
    relative_error,
    value_and_gradients,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _errors(ours: Inputs, plain: Inputs, exact: Inputs) -> dict[str, dict[str, float]]:
    return {
        name: {
            "triton": relative_error(ours[name], value),
            "plain": relative_error(plain[name], value),
            "budget": error_budget(plain[name], value),
        }
        for name, value in exact.items()
    }


def measure(length: int, dtype: torch.dtype, device: str) -> dict[str, dict[str, float]]:
    """Relative L2 errors of ours and of plain PyTorch, and the budget, by result of ``fftconv``."""
    inputs = fftconv_inputs(1, 1, length, dtype=dtype, device=device)
    dy = torch.randn(1, 1, length, generator=torch.Generator().manual_seed(1)).to(device)
    ours = value_and_gradients(fftconv, inputs, dy, backend="triton")
    plain = value_and_gradients(reference_fftconv, inputs, dy)
    wide = {name: None if x is None else x.double() for name, x in inputs.items()}
    exact = value_and_gradients(fftconv, wide, dy.to(dtype), backend="torch")
    return _errors(ours, plain, {name: value for name, value in exact.items() if name != "dD"})


def measure_filters(length: int, device: str) -> dict[str, dict[str, float]]:
    """The same for ``implicit_filter``."""
    inputs = implicit_filter_inputs(128, length, device=device)
    dy = torch.randn(128, length, generator=torch.Generator().manual_seed(1)).to(device)
    ours = value_and_gradients(implicit_filter, inputs, dy, shift=0.05, backend="triton")
    plain = value_and_gradients(reference_implicit_filter, inputs, dy, shift=0.05)
    wide = {name: None if x is None else x.double() for name, x in inputs.items()}
    exact = value_and_gradients(implicit_filter, wide, dy.double(), shift=0.05, backend="torch")
    return _errors(ours, plain, exact)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.triton_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--op", choices=("fftconv", "implicit_filter"), default="fftconv", help="op (default: %(default)s)"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1 << 10, 1 << 15, 1 << 20], help="sequence lengths")
    parser.add_argument(
        "--dtypes", nargs="+", choices=_DTYPES, default=list(_DTYPES), help="dtypes of fftconv (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (interpreted, TRITON_INTERPRET=1) or cuda")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file, complete after every line")
    options = parser.parse_args()
    filters = options.op == "implicit_filter"
    dtypes = ["float32"] if filters else options.dtypes
    names: Sequence[str] = ("y", "du", "dk", "dpre_gate", "dpost_gate")
    if filters:
        names = ("y", "dz", "dfreq", "dw_in", "db_in", "dw_hidden", "db_hidden", "dw_out", "dt", "ddeltas")
    print(f"triton / plain PyTorch, relative L2 error against float64, {options.device}")
    print(f"| L | dtype | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    record = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "Triton's interpreter on a CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "errors": [],
    }
    with as_on_a_gpu():
        for length in options.lengths:
            for name in dtypes:
                start = time.perf_counter()
                found = (
                    measure_filters(length, options.device)
                    if filters
                    else measure(length, _DTYPES[name], options.device)
                )
                cells = [f"{found[n]['triton']:.2e} / {found[n]['plain']:.2e}" for n in names]
                print(f"| {length} | {name} | {' | '.join(cells)} |", flush=True)
                seconds = round(time.perf_counter() - start, 1)
                record["errors"].append({"length": length, "dtype": name, "seconds": seconds, **found})
                if options.out is not None:
                    json_io.write_json(options.out, record)


if __name__ == "__main__":
    main()
