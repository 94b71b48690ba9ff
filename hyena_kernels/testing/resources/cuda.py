"""Registers, spills, shared memory and occupancy of every CUDA kernel, compiled by nvcc without a GPU.

    python -m hyena_kernels.testing.resources.cuda --arch 80 90 --out resources.md
    python -m hyena_kernels.testing.resources.cuda --arch 80 90 --check

    python -m hyena_kernels.testing.resources.cuda --arch 80 90 --check --changed

Needs nvcc of CUDA 12 or newer: on the PATH, in CUDA_HOME or in /usr/local/cuda. The results of all compilations are
kept in ``records/cuda.json``, which ``--record`` writes.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from hyena_kernels.backends.extension import cache_root
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, Resources, occupancy
from hyena_kernels.testing.resources.record import AGAIN, FOLDER, Record
from hyena_kernels.testing.resources.report import Report, Table, faults

REPORT = Report("CUDA", "hyena_kernels.testing.resources.cuda", "nvcc", (80, 90))

RECORD = FOLDER / "cuda.json"

Usage = dict[str, tuple[int, int]]
"""Registers and bytes of stack of a thread, by the mangled name of a kernel."""

# Threads of a block, and the bytes of dynamic shared memory of each form of the kernel. For the transforms of fftconv
# they follow from the template arguments of the plan, for patches from the form. Tests compare all with the launches.
KERNELS = {
    "fftconv_weight_kernel": (256, {"": 0}),
    "fftconv_product_kernel": (256, {"": 0}),
    "fftconv_unweight_kernel": (256, {"": 0}),
    "fftconv_skip_kernel": (256, {"": 2048}),
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
    """Template arguments of a transform, as in ``csrc/cuda/row_plans.cuh``. ``rows`` is the number of columns too."""

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
        """Two padded planes of floats for each row, and ``spectra`` spectra in the order of the registers."""
        last = self.radices[-1]
        plane = -(-(self.points + self.points // last) // 4) * 4
        values = -(-self.points // last // self.threads) * last
        return self.rows * (8 * plane + 8 * spectra * self.threads * values)

    @property
    def column_bytes(self) -> int:
        """Two padded planes of floats with the columns side by side. A single stage needs none."""
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
    inner: str = ""
    """Dtype of the result and its gradient, if it is another one."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        order = "channel-last" if self.channels_last else "channel-first"
        dtype = f"{self.dtype} to {self.inner}" if self.inner else self.dtype
        return f"{self.kernel}, {dtype}, {order}{', pair' if self.pair else ''}"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 if self.kernel.endswith("backward") else 256

    @property
    def shared_bytes(self) -> int:
        """Weights and biases of two tiles of 32 channels. Backward adds the sums of every thread."""
        if self.kernel.startswith("transpose"):
            return 0
        taps = 2 * 32 * 5 * 4
        signals, channels = (2, 2) if self.pair else (1, 4 if self.channels_last else 1)
        return taps + (signals * channels * 5 * self.threads * 4 if self.kernel.endswith("backward") else 0)


@dataclass(frozen=True)
class Case:
    """A kernel in one of its forms."""

    name: str
    threads: int
    shared_bytes: int
    optional: bool = False
    """Whether launches avoid this form where its shared memory does not fit."""


def find_nvcc() -> str | None:
    """The path of nvcc: from the PATH, else in CUDA_HOME or /usr/local/cuda. None if there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def cases(mangled: str) -> Iterator[Case]:
    """Every form of the kernel with a mangled name."""
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
    form = r"DtypeE(\d)ELb(\d)ELb(\d)ELS\w*?_(\d)E"
    arguments = re.search(rf"({'|'.join(_PATCHES)})_kernelI.*?{form}", mangled)
    if arguments is not None:
        dtype, inner = (("float16", "bfloat16", "float32")[int(arguments[place])] for place in (2, 5))
        inner = "" if inner == dtype else inner
        patch = PatchForm(arguments[1], dtype, arguments[3] == "1", arguments[4] == "1", inner)
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


# The name of an anonymous namespace, which contains a hash of the path.
_UNIQUE = re.compile(r"\d+_GLOBAL__N__[0-9a-f]{8}_\d+_\w+?_cu_[0-9a-f]{8}(?=\d)")


def compile_source(nvcc: str, source: Path, arch: int, record: Record | None = None) -> Usage:
    """Compile one source for one architecture with the flags of the build, and read the output of ptxas.

    Args:
        nvcc: the path of the compiler.
        source: the source.
        arch: the architecture.
        record: results of earlier compilations. What it has is not compiled, but for a sixteenth. The others are added.

    Raises:
        RuntimeError: nvcc failed, or gave another result than the one on record. The message says what.
    """
    flags = [*_build.NVCC_FLAGS, "-cubin", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"]
    key = _source_hash(nvcc, flags, source)
    label = f"{source.name} sm_{arch}"
    found = None if record is None else record.get(label, key)
    kept = None if found is None else {name: (registers, stack) for name, (registers, stack) in found.items()}
    if kept is not None and not key.startswith(AGAIN):
        return kept
    usage = {
        _UNIQUE.sub("", entry["name"]): (int(entry["registers"]), max(int(entry["stack"]), int(entry["spill"])))
        for entry in _ENTRY.finditer(_ptxas_output([nvcc, *flags], key, source, arch))
    }
    if kept is not None and usage != kept:
        raise RuntimeError(f"{label}: registers and stack are not those in {RECORD.name}: {usage}")
    if record is not None:
        record.put(label, key, usage)
    return usage


def _source_hash(nvcc: str, flags: Sequence[str], source: Path) -> str:
    """A hash of what decides the result: nvcc's version, the flags, the source and all headers."""
    folders = ("common", "cuda")
    headers = sorted(path for name in folders for path in (_build.CSRC / name).iterdir() if path.suffix != ".cu")
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=False).stdout
    decides = [version, repr(flags).encode(), *(path.read_bytes() for path in (source, *headers))]
    return hashlib.sha256(b"\0".join(decides)).hexdigest()


def _ptxas_output(command: Sequence[str], key: str, source: Path, arch: int) -> str:
    """The output of the compilers for one source and architecture, which is kept in the user's cache under ``key``."""
    kept = cache_root() / "ptxas" / key
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        done = subprocess.run([*command, str(source), "-o", cubin], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"nvcc failed on {source.name} for sm_{arch}:\n{output[-4000:]}")
    # If nothing can be written, the next call compiles again.
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}.{os.getpid()}")
        draft.write_text(output, encoding="utf-8")
        draft.replace(kept)
    return output


def kernel_sources() -> list[Path]:
    """All CUDA sources except the bindings, which have no kernels and need torch's headers."""
    return [source for source in _build.cuda_sources() if source.name != "bindings.cu"]


def measure(archs: Sequence[int], record: Record | None = None, workers: int = 2) -> Table:
    """Resources of every kernel in every form. None where a form does not fit and is not launched.

    Args:
        archs: the architectures, of :data:`.occupancy.ARCHITECTURES`.
        record: results of earlier compilations. What it has is not compiled, but for a sixteenth.
        workers: compilers at a time.

    Raises:
        RuntimeError: there is no nvcc, or it failed, or gave another result than the one on record.
    """
    table: Table = {}
    for (_, arch), usage in _usages(archs, record, workers).items():
        for mangled, (registers, stack) in usage.items():
            for case in cases(mangled):
                absent = case.optional and case.shared_bytes > ARCHITECTURES[arch].shared_per_block
                share = occupancy(arch, registers, case.threads, case.shared_bytes)
                resources = Resources(arch, registers, stack, case.shared_bytes, case.threads, share)
                table.setdefault(case.name, {})[arch] = None if absent else resources
    return {name: table[name] for name in sorted(table, key=_order)}


def _usages(archs: Sequence[int], record: Record | None, workers: int) -> dict[tuple[Path, int], Usage]:
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("needs nvcc, which is neither on the PATH nor in CUDA_HOME/bin nor in /usr/local/cuda/bin")
    jobs = [(source, arch) for source in kernel_sources() for arch in archs]
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(jobs, pool.map(lambda job: compile_source(nvcc, job[0], job[1], record), jobs), strict=True))


def _order(name: str) -> tuple[str, int, str]:
    digits = re.search(r"\d+", name)
    return name.split()[0], int(digits[0]) if digits else 0, name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 on a fault, 2 on bad usage."""
    parser = REPORT.parser()
    parser.add_argument(
        "--changed", action="store_true", help=f"compile what has changed since {RECORD.name} was written"
    )
    parser.add_argument("--record", action="store_true", help=f"compile everything, and write {RECORD.name}")
    options = REPORT.parse(parser, arguments)
    record = Record(RECORD) if options.changed else Record() if options.record else None
    try:
        table = measure(options.arch, record)
    except RuntimeError as error:
        parser.error(str(error))
    if options.record and record is not None:
        record.write(RECORD)
    return REPORT.finish(parser, options, table, faults(table))


if __name__ == "__main__":
    sys.exit(main())
