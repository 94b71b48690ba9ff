"""Registers, stack, shared memory and occupancy of the Triton kernels, compiled ahead of time without a GPU.

    python -m hyena_kernels.testing.resources.triton --arch 80 90 100 --out resources.md
    python -m hyena_kernels.testing.resources.triton --arch 80 90 100 --check --changed

The results of all compilations are kept in ``records/triton.json``, which ``--record`` writes. Triton's cache on disk
is used too, so a configuration is compiled again only after it has changed. A process in which ``TRITON_INTERPRET=1``
is set cannot do this: its kernels are Python functions.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hyena_kernels.testing.resources.occupancy import WARP, Resources, occupancy
from hyena_kernels.testing.resources.record import AGAIN, FOLDER, Record
from hyena_kernels.testing.resources.report import Report, Table
from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_source import case_hash

KERNEL_MODULES = tuple(
    f"hyena_kernels.testing.resources.triton_cases.{name}"
    for name in (
        *("fftconv", "fftconv_varlen", "short_conv", "mixer", "mixer_varlen", "mixer_step", "implicit_filter"),
        *("layer_norm", "embedding", "linear_cross_entropy", "position_dropout", "far_field_conv", "mixer_far"),
    )
)
"""Modules with a function ``aot_cases()``."""

RECORD = FOLDER / "triton.json"

WORKERS = 2

TENSOR_MEMORY = 512
"""Columns of the tensor memory of compute capability 10.0."""

REPORT = Report("Triton", "hyena_kernels.testing.resources.triton", f"Triton {triton.__version__}", (80, 90, 100))


def compile_case(case: Case, arch: int) -> Resources:
    """Compile one configuration for one architecture, or take it from Triton's cache.

    Raises:
        ValueError: the kernel is interpreted, the signature does not fit the kernel's arguments, or the kernel takes
            too much tensor memory. Triton compiles such a kernel to a trap.
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
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    if columns > TENSOR_MEMORY:
        raise ValueError(f"{case.name}: takes {columns} columns of tensor memory, there are {TENSOR_MEMORY}")
    registers, stack = _usage(compiled.asm["cubin"])
    return _resources(arch, registers, stack, compiled.metadata.shared, WARP * compiled.metadata.num_warps)


def _resources(arch: int, registers: int, stack: int, shared: int, threads: int) -> Resources:
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
    """Registers of a thread, and its bytes of local memory."""
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
        ValueError: two cases have the same name.
    """
    cases = [case for name in modules for case in importlib.import_module(name).aot_cases()]
    names = [case.name for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"several cases are called {', '.join(repeated)}")
    return cases


_cases: Sequence[Case] = ()


def _receive(cases: Sequence[Case]) -> None:
    global _cases
    _cases = cases


def _compile_in_worker(index: int, arch: int) -> tuple[Resources, float]:
    start = time.perf_counter()
    return compile_case(_cases[index], arch), time.perf_counter() - start


def measure(cases: Sequence[Case], archs: Sequence[int], record: Record | None = None) -> tuple[Table, list[str]]:
    """Compile every case for every architecture in worker processes. Each prints a line on stderr.

    Args:
        cases: the configurations.
        archs: the architectures, of :data:`.occupancy.ARCHITECTURES`.
        record: results of earlier compilations. What it has is not compiled, but for a sixteenth.

    Returns:
        The resources, and a line for each fault and each compilation that failed.
    """
    table: Table = {case.name: {} for case in cases}
    faults: list[str] = []
    jobs: dict[Future[tuple[Resources, float]], tuple[str, int, Resources | None]] = {}
    # Forked workers inherit the kernels: they neither import torch again nor need to pickle them.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, context, _receive, (cases,)) as pool:
        for index, case in enumerate(cases):
            for arch in archs:
                if arch in case.absent:
                    continue
                kept, again = (None, True) if record is None else known(record, case, arch)
                if kept is not None:
                    table[case.name][arch] = kept
                    faults += [f"{_label(case, arch)}: {fault}" for fault in kept.faults()]
                if again:
                    jobs[pool.submit(_compile_in_worker, index, arch)] = case.name, arch, kept
        for done, job in enumerate(as_completed(jobs), start=1):
            name, arch, kept = jobs[job]
            label = f"{name} sm_{arch}"
            # A compiler may raise anything, and the other cases are still of interest.
            try:
                resources, seconds = job.result()
            except Exception as error:
                faults.append(f"{label}: {type(error).__name__}: {error}")
                text = "failed"
            else:
                table[name][arch] = resources
                if kept is None:
                    faults += [f"{label}: {fault}" for fault in resources.faults()]
                elif resources != kept:
                    faults.append(f"{label}: {_describe(resources)}, and {RECORD.name} has {_describe(kept)}")
                text = f"{_describe(resources)}, {seconds:.1f} s"
            print(f"[{done:>{len(str(len(jobs)))}}/{len(jobs)}] {label}: {text}", file=sys.stderr, flush=True)
    return table, faults


def known(record: Record, case: Case, arch: int) -> tuple[Resources | None, bool]:
    """What an earlier compilation gave, or None if it was another kernel; and whether to compile."""
    key = case_hash(case, arch)
    found = record.get(_label(case, arch), key)
    return (None, True) if found is None else (_resources(arch, *found), key.startswith(AGAIN))


def _label(case: Case, arch: int) -> str:
    return f"{case.name} sm_{arch}"


def keep(cases: Sequence[Case], table: Table) -> Record:
    """The record of these results."""
    record = Record()
    for case in cases:
        for arch, made in table[case.name].items():
            assert made is not None
            values = [made.registers, made.stack_bytes, made.shared_bytes, made.threads]
            record.put(_label(case, arch), case_hash(case, arch), values)
    return record


def _describe(resources: Resources) -> str:
    return (
        f"{resources.registers} registers, {resources.stack_bytes} bytes of stack, "
        f"{resources.shared_bytes / 1024:g} KB shared, {resources.occupancy:.0%} occupancy"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 on a fault, 2 on bad usage."""
    parser = REPORT.parser()
    parser.add_argument(
        "--module",
        nargs="+",
        metavar="NAME",
        default=KERNEL_MODULES,
        help="modules with a function aot_cases() (default: every kernel module)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out cases that are similar to others which take more registers"
    )
    parser.add_argument(
        "--changed",
        action="store_true",
        help=f"compile what has changed since {RECORD.name} was written, and a sixteenth of the rest",
    )
    parser.add_argument("--record", action="store_true", help=f"compile everything, and write {RECORD.name}")
    options = REPORT.parse(parser, arguments)
    if options.record and (options.quick or options.changed or {*options.module} != {*KERNEL_MODULES}):
        parser.error("--record is for all kernels: without --quick, --changed and --module")
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled: unset it")
    try:
        cases = [case for case in aot_cases(options.module) if not (options.quick and case.milder)]
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(str(error))
    table, faults = measure(cases, options.arch, Record(RECORD) if options.changed else None)
    if options.record and not faults:
        keep(cases, table).write(RECORD)
    return REPORT.finish(parser, options, table, faults)


if __name__ == "__main__":
    sys.exit(main())
