"""Registers, stack, shared memory and occupancy of every kernel configuration, compiled ahead of time without a GPU.

    python -m hyena_kernels.testing.resources.triton --arch 80 90 100 --out resources.md
    python -m hyena_kernels.testing.resources.triton --arch 80 90 100 --check

Triton's cache on disk is used as at run time: a configuration that has not changed since it was last compiled costs
nothing. A process in which ``TRITON_INTERPRET=1`` is set cannot do this: its kernels are Python functions.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, WARP, Resources, occupancy

KERNEL_MODULES = tuple(
    f"hyena_kernels.testing.resources.triton_cases.{name}"
    for name in ("fftconv", "short_conv", "mixer", "implicit_filter")
)
"""Modules with a function ``aot_cases()``."""

WORKERS = 2


@dataclass(frozen=True)
class Case:
    """One configuration of one kernel.

    Args:
        name: how the table calls it; unique among all cases.
        kernel: the ``@triton.jit`` function.
        signature: type of every argument of the kernel: ``"*fp32"``, ``"*bf16"``, ``"i32"``, ``"i64"``, ``"fp32"`` …
            or ``"constexpr"``. Pointers are taken as aligned to 16 bytes, as torch allocates. ``"i32:16"`` is an
            integer that the launch will find to be a multiple of 16.
        constexprs: values of the ``"constexpr"`` arguments; None stands for an absent tensor, 1 for a unit stride that
            the launch specialises on.
        num_warps: warps in a block.
        num_stages: depth of the pipelined loops.
        maxnreg: bound on the registers of a thread, if there is one.
        absent: architectures on which no launch takes this configuration.
        milder: another case takes more registers in the same way; ``--quick`` leaves this one out.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None
    absent: tuple[int, ...] = ()
    milder: bool = False


def compile_case(case: Case, arch: int) -> Resources:
    """Compile one configuration for one architecture, or take it from Triton's cache.

    Raises:
        ValueError: the kernel is an interpreted one, or the signature and the kernel's arguments differ.
    """
    _check(case)
    signature = {name: case.signature[name] for name in case.kernel.arg_names}
    multiples_of_16 = {
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*") or kind.endswith(":16")
    }
    types = {name: kind.removesuffix(":16") for name, kind in signature.items()}
    source = ASTSource(case.kernel, types, case.constexprs, multiples_of_16)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    if case.maxnreg is not None:
        options["maxnreg"] = case.maxnreg
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, WARP), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    shared, threads = compiled.metadata.shared, WARP * compiled.metadata.num_warps
    return Resources(arch, registers, stack, shared, threads, occupancy(arch, registers, threads, shared))


def _check(case: Case) -> None:
    if not isinstance(case.kernel, triton.JITFunction):
        raise ValueError(
            f"{case.name}: the kernel is a {type(case.kernel).__name__} and cannot be compiled: unset TRITON_INTERPRET"
        )
    different = set(case.kernel.arg_names) ^ case.signature.keys()
    if different:
        raise ValueError(f"{case.name}: in the signature or among the kernel's arguments only: {sorted(different)}")
    different = {name for name, kind in case.signature.items() if kind == "constexpr"} ^ case.constexprs.keys()
    if different:
        raise ValueError(f"{case.name}: a constexpr without a value, or a value without one: {sorted(different)}")


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory, a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump -res-usage printed no registers: {text!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def aot_cases(modules: Iterable[str] = KERNEL_MODULES) -> list[Case]:
    """The cases of these modules, in their order.

    Raises:
        ValueError: two cases have one name.
    """
    cases = [case for name in modules for case in importlib.import_module(name).aot_cases()]
    names = [case.name for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"several cases are called {', '.join(repeated)}")
    return cases


Measured = dict[tuple[str, int], Resources]
"""Resources by the name of the case and the architecture."""

_cases: Sequence[Case] = ()


def _receive(cases: Sequence[Case]) -> None:
    global _cases
    _cases = cases


def _compile_in_worker(index: int, arch: int) -> tuple[Resources, float]:
    start = time.perf_counter()
    return compile_case(_cases[index], arch), time.perf_counter() - start


def measure(cases: Sequence[Case], archs: Sequence[int]) -> tuple[Measured, list[str]]:
    """Compile every case for every architecture in worker processes, with a line on stderr for each.

    Args:
        cases: what to compile.
        archs: for which of :data:`ARCHITECTURES`.

    Returns:
        the resources, and a line for each fault found and each compilation that failed.
    """
    measured: Measured = {}
    faults: list[str] = []
    # Forked workers have the kernels already: they need neither import torch again nor pickle what cannot be pickled.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, context, _receive, (cases,)) as pool:
        jobs = {
            pool.submit(_compile_in_worker, index, arch): (case.name, arch)
            for index, case in enumerate(cases)
            for arch in archs
            if arch not in case.absent
        }
        for done, job in enumerate(as_completed(jobs), start=1):
            name, arch = jobs[job]
            label = f"{name} sm_{arch}"
            # Whatever a compiler raises, the other cases are still worth knowing.
            try:
                resources, seconds = job.result()
            except Exception as error:
                faults.append(f"{label}: {type(error).__name__}: {error}")
                text = "failed"
            else:
                measured[name, arch] = resources
                faults += [f"{label}: {fault}" for fault in resources.faults()]
                text = f"{_describe(resources)}, {seconds:.1f} s"
            print(f"[{done:>{len(str(len(jobs)))}}/{len(jobs)}] {label}: {text}", file=sys.stderr, flush=True)
    return measured, faults


def _describe(resources: Resources) -> str:
    return (
        f"{resources.registers} registers, {resources.stack_bytes} bytes of stack, "
        f"{resources.shared_bytes / 1024:g} KB shared, {resources.occupancy:.0%} occupancy"
    )


def table(cases: Sequence[Case], archs: Sequence[int], measured: Measured) -> str:
    """A Markdown document with one row for each case and one column for each architecture."""
    command = f"python -m hyena_kernels.testing.resources.triton --arch {' '.join(map(str, archs))}"
    lines = [
        "# Resources of the Triton kernels",
        "",
        f"Made by `{command} --out FILE`, which compiles ahead of time, with Triton {triton.__version__}. Each cell:",
        "registers a thread / bytes of stack a thread (spills) / shared memory a block / occupancy of an SM.",
        "Not taken: the table of that device class has another entry.",
        "",
        f"| configuration | threads | {' | '.join(f'sm_{arch}' for arch in archs)} |",
        f"|---|---|{'---|' * len(archs)}",
    ]
    for case in cases:
        row = [measured.get((case.name, arch)) for arch in archs]
        cells = [
            f"{cell.registers} / {cell.stack_bytes} / {cell.shared_bytes / 1024:g} KB / {cell.occupancy:.0%}"
            if cell is not None
            else "not taken"
            for cell in row
        ]
        lines.append(f"| {case.name} | {WARP * case.num_warps} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 on a fault, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m hyena_kernels.testing.resources.triton",
        description="Compile every kernel configuration ahead of time and report registers, stack, shared memory and "
        "occupancy. Ends with 1 if a configuration spills, or takes more shared memory than a block can have.",
        epilog="example: python -m hyena_kernels.testing.resources.triton --arch 80 90 100 --out resources.md",
    )
    parser.add_argument(
        "--arch",
        nargs="+",
        type=int,
        choices=ARCHITECTURES,
        default=[80, 90, 100],
        help="compute capabilities times ten (default: 80 90 100)",
    )
    parser.add_argument(
        "--module",
        nargs="+",
        metavar="NAME",
        default=KERNEL_MODULES,
        help="modules with a function aot_cases() (default: every kernel module)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out cases of which others take more registers in the same way"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--out", type=Path, metavar="FILE", help="write the table here instead of printing it")
    output.add_argument("--check", action="store_true", help="make no table")
    options = parser.parse_args(arguments)
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled: unset it")
    if options.out is not None and not options.out.parent.is_dir():
        parser.error(f"there is no folder {options.out.parent} to write {options.out.name} into")
    try:
        cases = [case for case in aot_cases(options.module) if not (options.quick and case.milder)]
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(str(error))
    measured, faults = measure(cases, options.arch)
    if faults:
        print(f"{len(faults)} faults:", *faults, sep="\n  ", file=sys.stderr)
        return 1
    if options.check:
        print(f"{len(measured)} compilations of {len(cases)} cases: no spills, shared memory within the limits")
        return 0
    text = table(cases, options.arch, measured)
    if options.out is None:
        print(text, end="")
        return 0
    try:
        _write(options.out, text)
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
