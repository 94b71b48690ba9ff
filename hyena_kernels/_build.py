"""How the compiled extension is built. setup.py loads this file without the package, so it imports no torch at first.

The two libraries use torch's stable C interface and nothing of Python's. They are plain shared libraries: one compiler
command per source file, and one command to link. ``pip install`` and :func:`hyena_kernels.build_ext` run the same ones.

``torch.utils.cpp_extension`` was tried and does not do the job (docs/LOG.md, 2026-11-30):

- Beside a torch without CUDA it finds no CUDA toolkit, and it links libraries that only a torch for CUDA has.
- Without a GPU it has no list of architectures.
- It needs ninja. It prints why a compiler failed, and the error does not say it. It waits forever after a killed build.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

CSRC = _PACKAGE / "csrc" if (_PACKAGE / "csrc" / "cpu").is_dir() else _PACKAGE.parent / "csrc"
"""The C++ and CUDA sources. They lie in an installed package, and beside the package in a checkout."""

LIBRARIES = {"cpp": "_C.abi3.so", "cuda": "_cuda.abi3.so"}
"""File name of the library of each compiled backend."""

REPORT = "_build_report.json"
"""File beside the libraries. For each backend without a library it has the reason."""

MIN_TORCH = (2, 10)
"""The oldest torch that the libraries run with. Every newer one loads them too."""

MIN_COMPILER = {"GCC": 9, "Clang": 11}
"""The oldest compilers that are used. They need C++17 and conversions between vector types."""

TORCH_TARGET_VERSION = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"
""":data:`MIN_TORCH` in the form of torch's macro of this name."""

CUDA_ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""Compute capabilities of the CUDA library. Those that nvcc does not know are left out."""

_COMMON_FLAGS = ["-O3", "-std=c++17", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]

CXX_FLAGS = [*_COMMON_FLAGS, "-Wall", "-Wextra", "-Wno-psabi", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
"""Flags of the C++ compiler for ``_C``."""

NVCC_FLAGS = [*_COMMON_FLAGS, "-Xcompiler", "-fPIC,-fvisibility=hidden"]
"""Flags of nvcc for ``_cuda``, without the architectures."""


class BuildError(RuntimeError):
    """A library could not be compiled, with the reason in one line. ``log`` is the compiler's whole output."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.log = log


def cpu_sources() -> list[Path]:
    """Sources of ``_C``."""
    return sorted((CSRC / "cpu").glob("*.cpp"))


def cuda_sources() -> list[Path]:
    """Sources of ``_cuda``."""
    return sorted((CSRC / "cuda").glob("*.cu"))


def switched_on(variable: str) -> bool:
    """Whether an environment variable such as ``HYENA_SKIP_EXT`` is set to anything but 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def source_hash() -> str:
    """Hash of all sources of the libraries, and of this file with its flags."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(path for path in CSRC.rglob("*") if path.is_file())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> str:
    """Run a command and return its output.

    Raises:
        BuildError: the command cannot be started, or it fails. The reason is its first line with the word "error".
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
    """The C++ compiler and its first arguments: ``CXX``, else the first of the usual names that is installed."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    return [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]


def _cxx_obstacle() -> str | None:
    """Why the C++ compiler cannot be used, or None."""
    command = _cxx()
    if shutil.which(command[0]) is None:
        return f"no C++ compiler was found: {command[0]} is not installed"
    try:
        macros = dict(re.findall(r"^#define (\w+) (.*)$", _run([*command, "-dM", "-E", "-x", "c++", os.devnull]), re.M))
    except BuildError as error:
        return str(error)
    name, major = ("Clang", "__clang_major__") if "__clang__" in macros else ("GCC", "__GNUC__")
    if int(macros.get(major, 0)) < MIN_COMPILER[name]:
        version = macros.get(major, "of an unknown version")
        return f"{command[0]} is {name} {version}, but {name} {MIN_COMPILER[name]} or newer is needed"
    return None


def _nvcc() -> Path | None:
    """The nvcc of ``CUDA_HOME`` or ``CUDA_PATH``, else the one on the path or in /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return Path(home, "bin", "nvcc")
    place = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    return place if place.exists() else None


def _cuda_obstacle() -> str | None:
    """Why nvcc cannot be used with the installed torch, or None."""
    if not cuda_sources():
        return "this version has no CUDA sources"
    import torch

    if torch.version.hip is not None:
        return f"torch {torch.__version__} is built for ROCm"
    forced = switched_on("HYENA_FORCE_CUDA")
    if torch.version.cuda is None and not forced:
        return f"torch {torch.__version__} is built without CUDA (HYENA_FORCE_CUDA=1 compiles it anyway)"
    nvcc = _nvcc()
    if nvcc is None:
        return "no nvcc was found: CUDA_HOME is not set, and nvcc is not on the path"
    if not nvcc.exists():
        return f"CUDA_HOME is {nvcc.parents[1]}, which has no bin/nvcc"
    try:
        release = re.search(r"release (\d+)\.(\d+)", _run([str(nvcc), "--version"]))
        architecture_flags(nvcc)
    except BuildError as error:
        return str(error)
    if release is None:
        return f"{nvcc} --version names no release"
    if torch.version.cuda is not None and release[1] != torch.version.cuda.split(".")[0]:
        found = f"nvcc is from CUDA {release[1]}.{release[2]}"
        return f"{found}, but torch {torch.__version__} was built with CUDA {torch.version.cuda}"
    return None


def obstacle(backend: str) -> str | None:
    """Why the library of a backend cannot be compiled here, or None if nothing is known against it.

    Imports torch and asks the compilers for their versions, but compiles nothing.
    """
    if sys.platform == "win32":
        return "the extension is not compiled on Windows yet"
    try:
        import torch
    except ModuleNotFoundError:
        return (
            "torch was not found when the package was built "
            "(pip builds without the installed packages unless it is given --no-build-isolation)"
        )
    except Exception as error:  # A broken torch may raise anything.
        return f"torch cannot be imported: {' '.join(str(error).split())[:300]}"
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < MIN_TORCH:
        return f"torch {'.'.join(map(str, MIN_TORCH))} or newer is needed, but {torch.__version__} is installed"
    return _cxx_obstacle() or (_cuda_obstacle() if backend == "cuda" else None)


def architecture_flags(nvcc: Path) -> list[str]:
    """The ``-gencode`` flags for ``TORCH_CUDA_ARCH_LIST``, else for every entry of :data:`CUDA_ARCHS` that nvcc knows.

    Raises:
        BuildError: an entry of the list is not of the form ``8.0``, ``9.0a`` or ``12.0+PTX``, or nvcc knows none.
    """
    asked = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,"))
    if asked == [""]:
        known = _run([str(nvcc), "--list-gpu-arch"]).split()
        asked = [arch for arch in CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in known]
        if not asked:
            raise BuildError(f"nvcc supports none of the compute capabilities {', '.join(CUDA_ARCHS)}")
        # GPUs newer than the last entry compile this intermediate code when they first load it.
        asked[-1] += "+PTX"
    flags = []
    for arch in asked:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST contains {arch!r}: write capabilities such as '8.0;9.0+PTX'")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _jobs() -> int:
    """How many compilers run at a time: ``MAX_JOBS``, else the number of processors that this process may use."""
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(commands: Sequence[list[str]], verbose: bool) -> None:
    """Run commands in parallel. After the first failure no further command starts."""

    def run(command: list[str]) -> None:
        if verbose:
            print(shlex.join(command), flush=True)
        output = _run(command)
        if verbose:
            print(output, end="", flush=True)

    with ThreadPoolExecutor(_jobs()) as pool:
        # The first error ends the loop of list(), and map() then cancels the commands that have not started.
        list(pool.map(run, commands))


def _commands(backend: str, scratch: str, library: Path) -> tuple[list[list[str]], list[str]]:
    """The commands that compile the sources of a library into ``scratch``, and the command that links them."""
    import torch

    torch_folder = Path(torch.__file__).parent
    includes = ["-isystem", str(torch_folder / "include")]
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    if backend == "cuda":
        nvcc = _nvcc()
        assert nvcc is not None, "obstacle() has found it"
        sources = cuda_sources()
        compiling = [str(nvcc), *NVCC_FLAGS, *architecture_flags(nvcc), *includes]
        if torch.version.cuda is None:
            # The library is for the torch of another machine. This one lacks the symbols for CUDA.
            compiling.append("-DHYENA_TORCH_WITHOUT_CUDA")
        # libtorch brings torch's CUDA libraries where it has them. The CUDA runtime is linked statically: a torch
        # without CUDA has none to share.
        linking = [str(nvcc), "-shared", "-cudart=static", "-Xlinker", "--no-as-needed"]
        libraries.append("-ltorch")
    else:
        users_flags, users_libraries = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
        sources = cpu_sources()
        compiling = [*_cxx(), *CXX_FLAGS, *users_flags, *includes]
        # An undefined symbol is an error now, not when the library is loaded. macOS finds those of torch only then.
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-Wl,-z,defs"]
        linking = [*_cxx(), "-shared", *undefined, *users_flags]
        libraries += users_libraries
    objects = [str(Path(scratch, f"{source.name}.o")) for source in sources]
    compile_all = [[*compiling, "-c", str(source), "-o", place] for source, place in zip(sources, objects, strict=True)]
    return compile_all, [*linking, *objects, "-o", str(library), *libraries]


def compile_library(backend: str, folder: Path, *, verbose: bool = False) -> Path:
    """Compile the library of a backend into ``folder``. It appears there complete or not at all.

    The environment may set ``CXX``, ``CXXFLAGS``, ``LDFLAGS`` and ``MAX_JOBS``, and for CUDA ``CUDA_HOME`` and
    ``TORCH_CUDA_ARCH_LIST``.

    Args:
        backend: ``"cpp"`` or ``"cuda"``; :func:`obstacle` must return None for it.
        folder: created if it does not exist.
        verbose: print the commands and their output.

    Raises:
        BuildError: a compiler failed, or a file cannot be written.
    """
    library = folder / LIBRARIES[backend]
    partial = folder / f".{library.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            compile_all, link = _commands(backend, scratch, partial)
            _run_all(compile_all, verbose)
            _run_all([link], verbose)
        os.replace(partial, library)
    except OSError as error:
        raise BuildError(f"{library.name} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return library
