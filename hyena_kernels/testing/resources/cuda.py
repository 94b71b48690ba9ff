"""Registers, spills, shared memory and occupancy of every CUDA kernel, compiled by nvcc without a GPU.

    python -m hyena_kernels.testing.resources.cuda --arch 80 90
    python -m hyena_kernels.testing.resources.cuda --arch 80 90 --check

Needs nvcc of CUDA 12 or newer: on the PATH, in CUDA_HOME or in /usr/local/cuda. Nothing is written but to a temporary
folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hyena_kernels import _build
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, Resources, occupancy

# Threads of a block and the dynamic shared memory of each of its forms; those of fftconv's transforms are worked out
# from the template arguments of their plan, and those of patches from their form. Tests hold all of it against what is
# launched.
KERNELS = {
    "fftconv_weight_kernel": (256, {"": 0}),
    "fftconv_product_kernel": (256, {"": 0}),
    "fftconv_unweight_kernel": (256, {"": 0}),
    "short_conv_forward_kernel": (256, {"": 9344, "pair": 18688}),
    "short_conv_backward_kernel": (256, {"": 20736, "pair": 41472}),
    "transpose_kernel": (256, {"": 8320}),
    "filter_forward_kernel": (128, {"up to 64 wide": 49152, "up to 128 wide": 98304}),
    "filter_sine_kernel": (256, {"": 0}),
    "filter_sine_backward_kernel": (256, {"": 1024}),
    "filter_window_kernel": (256, {"": 0}),
}

_TRANSFORMS = ("fftconv_rows", "fftconv_inner", "fftconv_columns", "fftconv_uncolumns")
_PATCHES = ("short_conv_patches", "short_conv_patches_backward", "transpose_patches")
_FORMS = ("forward", "backward", "backward, several of the batch")


@dataclass(frozen=True)
class RowPlan:
    """Template arguments of a transform, as in ``csrc/cuda/row_plans.cuh``; of columns, ``rows`` is their number."""

    threads: int
    rows: int
    radices: tuple[int, ...]

    @property
    def points(self) -> int:
        """Number of points P."""
        points = 1
        for radix in self.radices:
            points *= radix
        return points

    def shared_bytes(self, spectra: int) -> int:
        """Two padded planes of floats for each row, and spectra in the registers' order."""
        last = self.radices[-1]
        plane = -(-(self.points + self.points // last) // 4) * 4
        values = -(-self.points // last // self.threads) * last
        return self.rows * (8 * plane + 8 * spectra * self.threads * values)

    @property
    def column_bytes(self) -> int:
        """Two padded planes of floats with the columns side by side; none for a single stage."""
        if len(self.radices) == 1:
            return 0
        return 8 * self.rows * (self.points + self.points // self.radices[-1])


@dataclass(frozen=True)
class PatchForm:
    """Template arguments of a kernel of ``csrc/cuda/short_conv_patches.cu``."""

    kernel: str
    dtype: str
    channels_last: bool
    pair: bool

    @property
    def name(self) -> str:
        """What the table calls it."""
        order = "channel-last" if self.channels_last else "channel-first"
        return f"{self.kernel}, {self.dtype}, {order}{', pair' if self.pair else ''}"

    @property
    def threads(self) -> int:
        """Of a block."""
        return 128 if self.kernel.endswith("backward") else 256

    @property
    def shared_bytes(self) -> int:
        """Weights and biases of two tiles of 32 channels; backward the sums of every thread too."""
        if self.kernel.startswith("transpose"):
            return 0
        taps = 2 * 32 * 5 * 4
        signals, channels = (2, 2) if self.pair else (1, 4 if self.channels_last else 1)
        return taps + (signals * channels * 5 * self.threads * 4 if self.kernel.endswith("backward") else 0)


@dataclass(frozen=True)
class Case:
    """A kernel in one of its forms: what the table calls it, and its shared memory."""

    name: str
    threads: int
    shared_bytes: int
    optional: bool = False
    """Whether launches do without this form where its shared memory does not fit."""


def find_nvcc() -> str | None:
    """The nvcc on the PATH, else that of CUDA_HOME or /usr/local/cuda; None if there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def cases(mangled: str) -> Iterator[Case]:
    """Every form of a kernel, by its mangled name."""
    kinds = "|".join(_TRANSFORMS)
    plan = re.search(rf"({kinds})_kernelI.*?(?:Row|Column)PlanILi(\d+)ELi(\d+)EJ((?:Li\d+E)+)E", mangled)
    if plan is not None:
        row = RowPlan(int(plan[2]), int(plan[3]), tuple(map(int, re.findall(r"Li(\d+)E", plan[4]))))
        name = f"{plan[1]} {row.points} = {' · '.join(map(str, row.radices))}"
        if "columns" in plan[1]:
            length = re.search(r"OfRows.*?EELi(\d+)E", mangled)
            name += f", rows of {length[1]}" if length is not None and length[1] != "0" else ""
            yield Case(name, row.threads * row.rows, row.column_bytes)
            return
        for spectra, form in enumerate(_FORMS):
            yield Case(f"{name}, {form}", row.threads * row.rows, row.shared_bytes(spectra), optional=spectra > 0)
        return
    arguments = re.search(rf"({'|'.join(_PATCHES)})_kernelI.*?DtypeE(\d)ELb(\d)ELb(\d)E", mangled)
    if arguments is not None:
        dtype = ("float16", "bfloat16", "float32")[int(arguments[2])]
        patch = PatchForm(arguments[1], dtype, arguments[3] == "1", arguments[4] == "1")
        yield Case(patch.name, patch.threads, patch.shared_bytes)
        return
    kernel = next(name for name in KERNELS if re.search(rf"{len(name)}{name}(?![a-z_])", mangled))
    real = {"If": " float", "Id": " double"}.get(mangled.partition(kernel)[2][:2], "")
    threads, forms = KERNELS[kernel]
    for form, shared in forms.items():
        yield Case(kernel.removesuffix("_kernel") + real + (f", {form}" if form else ""), threads, shared)


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<spill>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def compile_source(nvcc: str, source: Path, arch: int) -> list[tuple[Case, Resources]]:
    """Compile one source for one architecture, with the flags of the build, and read what ptxas says.

    Raises:
        RuntimeError: nvcc failed; the message has its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        gencode = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        command = [nvcc, *_build.NVCC_FLAGS, "-cubin", gencode, "-Xptxas", "-v", str(source)]
        command += ["-o", str(Path(folder) / "kernels.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"nvcc failed on {source.name} for sm_{arch}:\n{output[-4000:]}")
    measured = []
    for entry in _ENTRY.finditer(output):
        registers, stack = int(entry["registers"]), max(int(entry["stack"]), int(entry["spill"]))
        for case in cases(entry["name"]):
            share = occupancy(arch, registers, case.threads, case.shared_bytes)
            measured.append((case, Resources(arch, registers, stack, case.shared_bytes, case.threads, share)))
    return measured


def kernel_sources() -> list[Path]:
    """Every CUDA source but the bindings, which have no kernels and need torch's headers."""
    return [source for source in _build.cuda_sources() if source.name != "bindings.cu"]


def measure(archs: Sequence[int], workers: int = 2) -> dict[str, dict[int, Resources | None]]:
    """What every kernel takes, by its name and architecture; None where a form does not fit and is not launched.

    Raises:
        RuntimeError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("needs nvcc, which is neither on the PATH nor in CUDA_HOME/bin nor in /usr/local/cuda/bin")
    jobs = [(source, arch) for source in kernel_sources() for arch in archs]
    table: dict[str, dict[int, Resources | None]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for measured in pool.map(lambda job: compile_source(nvcc, *job), jobs):
            for case, resources in measured:
                absent = case.optional and case.shared_bytes > ARCHITECTURES[resources.arch].shared_per_block
                table.setdefault(case.name, {})[resources.arch] = None if absent else resources
    return table


def faults(table: dict[str, dict[int, Resources | None]]) -> list[str]:
    """A line for each spill, and for each block that wants more shared memory than there is."""
    return [
        f"{name} on sm_{arch}: {fault}"
        for name, row in table.items()
        for arch, resources in row.items()
        if resources is not None
        for fault in resources.faults()
    ]


def _order(name: str) -> tuple[str, int, str]:
    digits = re.search(r"\d+", name)
    return name.split()[0], int(digits[0]) if digits else 0, name


def markdown(table: dict[str, dict[int, Resources | None]], archs: Sequence[int]) -> str:
    """The table of ``docs/kernels.md``."""
    lines = [
        f"| kernel | threads | {' | '.join(f'sm_{arch}' for arch in archs)} |",
        "|---|---" + "|---" * len(archs) + "|",
    ]
    for name in sorted(table, key=_order):
        row = table[name]
        threads = next((str(resources.threads) for resources in row.values() if resources is not None), "")
        cells = [_cell(row[arch]) for arch in archs]
        lines.append(f"| {name} | {threads} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(resources: Resources | None) -> str:
    if resources is None:
        return "not taken"
    shared = f"{resources.shared_bytes / 1024:.3g} KB"
    return f"{resources.registers} / {resources.stack_bytes} / {shared} / {resources.occupancy:.0%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 on a fault, 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m hyena_kernels.testing.resources.cuda",
        description="Compile every CUDA kernel with nvcc and report registers, spills, shared memory and occupancy as "
        "a Markdown table. Ends with 1 if a kernel spills, or takes more shared memory than a block can have.",
        epilog="example: python -m hyena_kernels.testing.resources.cuda --arch 80 90",
    )
    parser.add_argument(
        "--arch",
        nargs="+",
        type=int,
        choices=ARCHITECTURES,
        default=[80, 90],
        help="compute capabilities times ten (default: 80 90)",
    )
    parser.add_argument("--check", action="store_true", help="print no table")
    options = parser.parse_args(arguments)
    try:
        table = measure(options.arch)
    except RuntimeError as error:
        parser.error(str(error))
    found = faults(table)
    if not options.check:
        print(markdown(table, options.arch), end="")
    if found:
        print(f"{len(found)} faults:", *found, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
