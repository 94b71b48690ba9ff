"""What the compiled extension is built from, and how. setup.py reads it without the package: no torch at import.

The two libraries use torch's stable C interface and nothing of Python's, so they are plain shared libraries: one
command a source file and one to link, the same for ``pip install`` and for :func:`hyena_kernels.build_ext`. What
``torch.utils.cpp_extension`` adds is of no use to them (headers of Python, the C++ interface of one torch version), and
it stands in the way of a CUDA library compiled beside a torch without CUDA or on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

CSRC = _PACKAGE / "csrc" if (_PACKAGE / "csrc" / "cpu").is_dir() else _PACKAGE.parent / "csrc"
"""The C++ and CUDA sources. They lie in an installed package, and beside the package in a checkout."""

LIBRARIES = {"cpp": "_C.abi3.so", "cuda": "_cuda.abi3.so"}
"""File name of the library of each compiled backend."""

REPORT = "_build_report.json"
"""File beside the libraries: by backend, why its library was not built."""

MIN_TORCH = (2, 10)
"""The oldest torch whose stable interface the libraries use; every newer one loads them."""

MIN_COMPILER = {"GCC": 9, "Clang": 11}
"""The oldest compilers that are tried: C++17 with conversions between vector types."""

TORCH_TARGET_VERSION = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"
"""The same as the macro of that name wants it."""

CUDA_ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""Compute capabilities that the CUDA library is compiled for, as far as nvcc knows them."""

CXX_FLAGS = ["-O3", "-std=c++17", "-Wall", "-Wextra", "-Wno-psabi", "-fvisibility=hidden", "-fno-math-errno"]

NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


class BuildError(RuntimeError):
    """A library could not be compiled; one line. ``log`` is all that the compiler said."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.log = log


def cpu_sources() -> list[Path]:
    """Sources of ``_C``."""
    return sorted((CSRC / "cpu").glob("*.cpp"))


def cuda_sources() -> list[Path]:
    """Sources of ``_cuda``."""
    return sorted((CSRC / "cuda").glob("*.cu"))


def cxx_flags() -> list[str]:
    """Flags of the C++ compiler for ``_C``."""
    return [*CXX_FLAGS, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]


def nvcc_flags() -> list[str]:
    """Flags of nvcc for ``_cuda``, without those that name architectures."""
    return [*NVCC_FLAGS, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]


def switched_on(variable: str) -> bool:
    """Whether an environment variable such as ``HYENA_SKIP_EXT`` is set to anything but 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def source_hash() -> str:
    """Hash of everything that the libraries are compiled from, this file with its flags included."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(path for path in CSRC.rglob("*") if path.is_file())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> str:
    """What a command prints.

    Raises:
        BuildError: it cannot be started or fails; the first line that says error is the reason.
    """
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        said = next((line for line in lines if re.search(r"\berror\b|No space left", line)), "".join(lines[-1:]))
        reason = said or f"exit status {done.returncode}"
        raise BuildError(f"{Path(command[0]).name} failed: {reason[:300]}", f"{shlex.join(command)}\n{output}")
    return output


def _cxx() -> list[str]:
    """The C++ compiler as the start of a command: ``CXX``, else the first of the usual names that is installed."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    return [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]


def _cxx_obstacle() -> str | None:
    command = _cxx()
    if shutil.which(command[0]) is None:
        return f"no C++ compiler was found: {command[0]} is not installed"
    try:
        macros = dict(re.findall(r"^#define (\w+) (.*)$", _run([*command, "-dM", "-E", "-x", "c++", os.devnull]), re.M))
    except BuildError as error:
        return str(error)
    name, major = ("Clang", "__clang_major__") if "__clang__" in macros else ("GCC", "__GNUC__")
    if int(macros.get(major, 0)) < MIN_COMPILER[name]:
        return f"{command[0]} is {name} {macros.get(major, 'of an unknown version')}, {MIN_COMPILER[name]} is needed"
    return None


def _nvcc() -> Path | None:
    """The nvcc of ``CUDA_HOME`` or ``CUDA_PATH``, else the one on the path or in /usr/local/cuda."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            return Path(os.environ[variable], "bin", "nvcc")
    place = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    return place if place.exists() else None


def _cuda_obstacle() -> str | None:
    if not cuda_sources():
        return "this version has no CUDA sources"
    import torch

    if torch.version.hip is not None:
        return f"torch {torch.__version__} is built for ROCm"
    forced = switched_on("HYENA_FORCE_CUDA")
    if torch.version.cuda is None and not forced:
        return f"torch {torch.__version__} is built without CUDA (HYENA_FORCE_CUDA=1 compiles all the same)"
    nvcc = _nvcc()
    if nvcc is None:
        return "no nvcc was found: CUDA_HOME is not set, and nvcc is not on the path"
    if not nvcc.exists():
        return f"CUDA_HOME names {nvcc.parents[1]}, where there is no bin/nvcc"
    try:
        release = re.search(r"release (\d+)\.(\d+)", _run([str(nvcc), "--version"]))
        architecture_flags(nvcc)
    except BuildError as error:
        return str(error)
    if release is None:
        return f"{nvcc} does not tell its version"
    if torch.version.cuda is not None and release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1]}.{release[2]}, and torch {torch.__version__} of CUDA {torch.version.cuda}"
    return None


def obstacle(backend: str) -> str | None:
    """Why the library of a backend cannot be compiled here, as far as can be told without compiling; None if it may be.

    Runs the compilers for their versions, and imports torch.
    """
    if sys.platform == "win32":
        return "it is not compiled on Windows so far"
    # A torch that is there and broken raises what it likes.
    try:
        import torch
    except ModuleNotFoundError:
        return (
            "torch was not there to compile against (pip builds in isolation from what is installed, "
            "unless it is given --no-build-isolation)"
        )
    except Exception as error:
        return f"torch cannot be imported: {' '.join(str(error).split())[:300]}"
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < MIN_TORCH:
        return f"torch {'.'.join(map(str, MIN_TORCH))} or newer is needed, and {torch.__version__} is installed"
    return _cxx_obstacle() or (_cuda_obstacle() if backend == "cuda" else None)


def architecture_flags(nvcc: Path) -> list[str]:
    """The ``-gencode`` flags for ``TORCH_CUDA_ARCH_LIST``, else for what ``nvcc`` knows of :data:`CUDA_ARCHS`.

    Raises:
        BuildError: the list is not of numbers such as ``8.0``, ``9.0a`` or ``12.0+PTX``, or nothing is left of it.
    """
    asked = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,"))
    if asked == [""]:
        known = _run([str(nvcc), "--list-gpu-arch"]).split()
        asked = [arch for arch in CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in known]
        if not asked:
            raise BuildError(f"nvcc compiles for none of the compute capabilities {', '.join(CUDA_ARCHS)}")
        # Newer GPUs than the newest one compile the intermediate code when they first load it.
        asked[-1] += "+PTX"
    flags = []
    for arch in asked:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST holds {arch!r}: name capabilities as in '8.0;9.0+PTX'")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _jobs() -> int:
    """How many compilers run at a time: ``MAX_JOBS``, else the processors that this process may use."""
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(commands: Iterable[list[str]], verbose: bool) -> None:
    """Run commands side by side; the first that fails keeps the rest from being started."""

    def run(command: list[str]) -> None:
        if verbose:
            print(shlex.join(command), flush=True)
        output = _run(command)
        if verbose and output:
            print(output, end="", flush=True)

    with ThreadPoolExecutor(_jobs()) as pool:
        try:
            for result in [pool.submit(run, command) for command in commands]:
                result.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _commands(backend: str) -> tuple[list[Path], list[str], list[str], list[str]]:
    """Sources of a library; how to begin the command that compiles one; how to begin and end the one that links all."""
    import torch

    torch_folder = Path(torch.__file__).parent
    includes = ["-isystem", str(torch_folder / "include")]
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    if backend == "cuda":
        nvcc = _nvcc()
        assert nvcc is not None, "obstacle() has found it"
        flags = [*nvcc_flags(), *architecture_flags(nvcc)]
        if torch.version.cuda is None:
            # Compiled all the same, for another machine's torch: what only that one has may be absent here.
            flags.append("-DHYENA_TORCH_WITHOUT_CUDA")
        # What torch has for CUDA is found through libtorch, which names it where there is some. The runtime is linked
        # into the library: a torch without CUDA has none to share.
        linking = [str(nvcc), "-shared", "-cudart=static", "-Xlinker", "--no-as-needed"]
        return cuda_sources(), [str(nvcc), *flags, *includes], linking, [*libraries, "-ltorch"]
    users_flags, users_links = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    # A symbol that nothing defines is an error here and now; macOS looks up those of torch when it loads the library.
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-Wl,-z,defs"]
    return (
        cpu_sources(),
        [*_cxx(), *cxx_flags(), "-fPIC", *users_flags, *includes],
        [*_cxx(), "-shared", *undefined, *users_flags],
        [*libraries, *users_links],
    )


def compile_library(backend: str, folder: Path, *, verbose: bool = False) -> Path:
    """Compile the library of a backend into ``folder``, where it appears whole or not at all.

    ``CXX``, ``CXXFLAGS`` and ``LDFLAGS`` are those of the environment; so are ``MAX_JOBS`` and, for CUDA, ``CUDA_HOME``
    and ``TORCH_CUDA_ARCH_LIST``.

    Args:
        backend: ``"cpp"`` or ``"cuda"``, one for which :func:`obstacle` knows none.
        folder: made if it does not exist.
        verbose: print the commands and what they print.

    Raises:
        BuildError: a compiler failed, or files cannot be written.
    """
    sources, compiling, linking, libraries = _commands(backend)
    library = folder / LIBRARIES[backend]
    partial = folder / f".{library.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            objects = {source: str(Path(scratch, f"{source.name}.o")) for source in sources}
            _run_all(([*compiling, "-c", str(source), "-o", place] for source, place in objects.items()), verbose)
            _run_all([[*linking, *objects.values(), "-o", str(partial), *libraries]], verbose)
        os.replace(partial, library)
    except OSError as error:
        raise BuildError(f"{library.name} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return library
