"""Errors of the C++ kernels against float64 beside those of plain PyTorch, for every op and dtype, as a Markdown table.

    python -m bench.kernels.cpp_accuracy
    HYENA_CPU_ISA=avx2 python -m bench.kernels.cpp_accuracy --lengths 1000 --out errors.json

Values and gradients, in relative L2 norm over whole results. The oracle is the op in plain PyTorch on the same inputs
in float64; a float64 result can only be told apart from it, not from the truth, but for ``implicit_filter``, whose
oracle is in long double there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from bench.common import json_io as records, machine
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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
INPUTS = {
    "fftconv": lambda length, dtype: fftconv_inputs(2, 8, length, dtype=dtype),
    "short_conv": lambda length, dtype: short_conv_inputs(2, 8, length, dtype=dtype),
    "hyena_mixer": lambda length, dtype: hyena_mixer_inputs(2, length, 8, dtype=dtype),
    "implicit_filter": lambda length, dtype: implicit_filter_inputs(8, length, dtype=dtype),
}


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def measure(op: str, length: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Errors of the C++ kernels and of plain PyTorch by result: ``"y"`` and every ``"d<name>"``."""
    inputs, known = INPUTS[op](length, dtype), OPS[op]
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
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 1 << 15, 1 << 20])
    parser.add_argument("--ops", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, written after every line")
    options = parser.parse_args()
    record: dict[str, Any] = {**machine.describe("cpu"), "errors": []}
    print(
        "C++ / plain PyTorch, relative L2 error against float64: the result, and the gradient with the largest error\n"
    )
    print("| op | L | dtype | y | gradients |\n|---|---|---|---|---|")
    for op in options.ops:
        for length in options.lengths:
            for name in options.dtypes:
                # Networks of positions are computed in float32 or float64 only.
                if op == "implicit_filter" and DTYPES[name].itemsize == 2:
                    continue
                found = measure(op, length, DTYPES[name])
                worst = max((n for n in found if n != "y"), key=lambda n: found[n]["cpp"])
                cells = [f"{found[n]['cpp']:.2e} / {found[n]['plain']:.2e}" for n in ("y", worst)]
                print(f"| {op} | {length} | {name} | {cells[0]} | {worst} {cells[1]} |", flush=True)
                record["errors"].append({"op": op, "length": length, "dtype": name, **found})
                if options.out is not None:
                    records.write_json(options.out, record)


if __name__ == "__main__":
    main()
