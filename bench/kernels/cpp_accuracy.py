"""Compare the errors of the C++ kernels and of plain PyTorch against float64, for every op and dtype.

    python -m bench.kernels.cpp_accuracy
    HYENA_CPU_ISA=avx2 python -m bench.kernels.cpp_accuracy --lengths 1000 --out errors.json

Prints a Markdown table of relative L2 errors of whole results and gradients. The oracle is the op in plain PyTorch on
the same inputs in float64. Errors of float64 results are therefore only differences to it, except for
``implicit_filter``, whose oracle is then in long double.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from bench.common import json_io, machine
from hyena_kernels.testing import (
    OPS,
    Inputs,
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    relative_error,
    short_conv_inputs,
    value_and_gradients,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_INPUTS = {
    "fftconv": lambda length, dtype: fftconv_inputs(2, 8, length, dtype=dtype),
    "short_conv": lambda length, dtype: short_conv_inputs(2, 8, length, dtype=dtype),
    "hyena_mixer": lambda length, dtype: hyena_mixer_inputs(2, length, 8, dtype=dtype),
    "implicit_filter": lambda length, dtype: implicit_filter_inputs(8, length, dtype=dtype),
}


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def measure(op: str, length: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Errors of the C++ kernels and of plain PyTorch by result: ``"y"`` and every ``"d<name>"``."""
    inputs, known = _INPUTS[op](length, dtype), OPS[op]
    with torch.no_grad():
        shape = known.function(**inputs, backend="torch").shape
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = value_and_gradients(known.function, inputs, dy, backend="cpp")
    plain = value_and_gradients(known.reference, inputs, dy)
    if dtype == torch.float64 and known.exact is not None:
        exact = value_and_gradients(known.exact, inputs, dy)
    else:
        exact = value_and_gradients(known.function, _cast(inputs, torch.float64), dy.double(), backend="torch")
    return {
        name: {"cpp": relative_error(ours[name], exact[name]), "plain": relative_error(plain[name], exact[name])}
        for name in exact
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.cpp_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 1 << 15, 1 << 20], help="sequence lengths")
    parser.add_argument("--ops", nargs="+", choices=_INPUTS, default=list(_INPUTS), help="ops (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=_DTYPES, default=list(_DTYPES), help="dtypes (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file, complete after every line")
    options = parser.parse_args()
    record: dict[str, Any] = {**machine.describe("cpu"), "errors": []}
    print(
        "C++ / plain PyTorch, relative L2 error against float64: the result, and the gradient with the largest error\n"
    )
    print("| op | L | dtype | y | gradients |\n|---|---|---|---|---|")
    for op in options.ops:
        for length in options.lengths:
            for name in options.dtypes:
                # The network is computed in float32 or float64 only.
                if op == "implicit_filter" and _DTYPES[name].itemsize == 2:
                    continue
                found = measure(op, length, _DTYPES[name])
                worst = max((n for n in found if n != "y"), key=lambda n: found[n]["cpp"])
                cells = [f"{found[n]['cpp']:.2e} / {found[n]['plain']:.2e}" for n in ("y", worst)]
                print(f"| {op} | {length} | {name} | {cells[0]} | {worst} {cells[1]} |", flush=True)
                record["errors"].append({"op": op, "length": length, "dtype": name, **found})
                if options.out is not None:
                    json_io.write_json(options.out, record)


if __name__ == "__main__":
    main()
