"""Finds, loads and compiles the libraries of the extension, which the backends ``cpp`` and ``cuda`` run.

``pip install`` puts a library into the package. :func:`build_ext` puts it into a folder of the user's cache. The first
one that loads is used. :mod:`hyena_kernels.common.reasons` describes the reasons that functions here return.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hyena_kernels import _build
from hyena_kernels._build import MIN_TORCH, BuildError
from hyena_kernels._version import __version__
from hyena_kernels.common.reasons import cuda_obstacle, sequence_length

MIN_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPU that the CUDA kernels are compiled for, if the CUDA toolkit supports it."""

MAX_FAST_LENGTH = 2_621_440
"""Longest convolution on CUDA that ``csrc/cuda/fftconv_passes.cu`` transforms. Longer ones use cuFFT."""

_PACKAGE = Path(__file__).parents[1]
_DEVICES = {"cpp": ("the CPU", "cpu"), "cuda": ("CUDA devices", "cuda")}


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def cache_root() -> Path:
    """Where this user's compiled files are kept: ``HYENA_CACHE``, by default ``hyena_kernels`` in the user's cache.

    The user's cache is ``XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    root = os.environ.get("HYENA_CACHE")
    if not root:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        root = os.path.join(caches, "hyena_kernels")
    return Path(root).absolute()


@functools.cache
def cache_folder() -> Path:
    """Where :func:`build_ext` keeps the libraries of this version, its sources, this torch and this machine.

    It is a folder in :func:`cache_root`.
    """
    release = ".".join(map(str, _release()))
    cuda = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda}"
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return cache_root() / f"{__version__}-torch{release}-{cuda}-{machine}-{_build.source_hash()}"


def _places(backend: str) -> list[Path]:
    return [folder / _build.LIBRARIES[backend] for folder in (_PACKAGE, cache_folder())]


def _not_built(backend: str) -> str:
    """What the report of the last build says: of the build in the user's cache, else of the package's build."""
    for folder in (cache_folder(), _PACKAGE):
        # An interrupted installation may leave half a report.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            reason = json.loads((folder / _build.REPORT).read_text(encoding="utf-8")).get(backend)
            if reason is not None:
                return f"was not built: {reason}"
    return "was not built with this installation"


def _truncated(path: Path) -> bool:
    """Whether an ELF file ends before its last part, the table of sections. Loading it would crash the process."""
    with open(path, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return False
    (offset,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return path.stat().st_size < offset + size * count


@functools.cache
def _load(backend: str) -> tuple[Path | None, str]:
    """Load the first library of a backend that can be loaded. Returns its path, or None and the reason."""
    places = [path for path in _places(backend) if path.exists()]
    if not places:
        return (
            None,
            f"needs the compiled extension (hyena_kernels.build_ext() compiles it), which {_not_built(backend)}",
        )
    if _release() < MIN_TORCH:
        return None, f"needs torch {'.'.join(map(str, MIN_TORCH))} or newer, and {torch.__version__} is installed"
    failures = []
    for path in places:
        # A library for another torch needs symbols that this torch lacks. The loader names them.
        try:
            if _truncated(path):
                raise OSError("the file is incomplete")
            torch.ops.load_library(str(path))
            return path, ""
        except OSError as error:
            # The cause is the loader's own message, which torch replaces by a general one.
            failures.append(f"failed to load {path}: {' '.join(str(error.__cause__ or error).split())}")
    return None, "; ".join(failures)


def library(backend: str) -> Path | None:
    """Load the compiled library of a backend. Returns its path, or None if none can be loaded."""
    return _load(backend)[0]


def load_libraries() -> None:
    """Load every library that was built for the installed torch."""
    for backend in _build.LIBRARIES:
        library(backend)


def obstacles(backend: str, device: torch.device) -> list[str]:
    """Every reason why ``backend`` cannot run on ``device``, for any shapes and dtypes."""
    name, kind = _DEVICES[backend]
    if device.type != kind:
        return [f"runs on {name} only, the tensors are on {device.type!r}"]
    unfit = cuda_obstacle(device.index, MIN_CAPABILITY) if backend == "cuda" else None
    path, reason = _load(backend)
    return [*filter(None, [unfit]), *([reason] if path is None else [])]


def slower(op: str, args: Sequence[Any]) -> str | None:
    """Why CUDA is not chosen automatically for these arguments: cuFFT is not faster there. None if it may be."""
    length = sequence_length(op, args)
    if length is None or length <= MAX_FAST_LENGTH:
        return None
    return f"is for sequences of up to {MAX_FAST_LENGTH} positions"


def missing(backend: str) -> str | None:
    """Why no library of a backend was built, if this machine could have run one: it has a compiler, or a GPU.

    None if there is a library, even one that cannot be loaded.
    """
    if any(path.exists() for path in _places(backend)):
        return None
    usable = _build.obstacle(backend) is None or (
        backend == "cuda" and sys.platform != "win32" and cuda_obstacle(None, MIN_CAPABILITY) is None
    )
    return _not_built(backend) if usable else None


def describe() -> list[str]:
    """One line for each compiled backend: the path of its library, or why it has none."""
    lines = []
    for backend in _build.LIBRARIES:
        path, reason = _load(backend)
        lines.append(f"C++ extension: {backend} {reason if path is None else f'runs {path}'}")
    return lines


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes, such as the other ranks of a training run, from compiling at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_ext(verbose: bool = False) -> list[str]:
    """Compile the libraries of the C++/CUDA extension that the installation lacks, and load them.

    The CPU library needs a C++ compiler: GCC 9, Clang 11 or newer. The CUDA library needs an nvcc of the same major
    version as torch's CUDA. The sources are in the package. The libraries go into a folder of the user's cache
    (``HYENA_CACHE``, by default ``~/.cache/hyena_kernels``). Every later process with this version and this torch finds
    them there. ``python -m hyena_kernels --build`` does the same.

    Args:
        verbose: print the commands of the compilers and their output.

    Returns:
        The compiled backends that can run here: ``"cpp"``, ``"cuda"`` or both. The library of ``"cuda"`` may be
        compiled without a GPU, for another machine, and is not among them then.

    Raises:
        RuntimeError: neither backend can run. The message says why for each. If only one of them cannot,
            ``python -m hyena_kernels`` tells the reason.
    """
    failures = {}
    for backend in _build.LIBRARIES:
        if library(backend) is None and (reason := _compile(backend, verbose)) is not None:
            failures[backend] = reason
    unfit = cuda_obstacle(None, MIN_CAPABILITY)
    ready = [
        backend
        for backend in _build.LIBRARIES
        if library(backend) is not None and not (backend == "cuda" and unfit is not None)
    ]
    if failures:
        # describe() reads the reasons, in later processes too.
        with contextlib.suppress(OSError), _locked(cache_folder()):
            (cache_folder() / _build.REPORT).write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
        _load.cache_clear()
    if not ready:
        if unfit is not None:
            failures.setdefault("cuda", unfit)
        reasons = "; ".join(f"{backend!r}: {reason}" for backend, reason in failures.items())
        raise BuildError(f"no library of the compiled extension could be built: {reasons}")
    return ready


def _compile(backend: str, verbose: bool) -> str | None:
    """Compile a library into the cache and load it. Returns the reason if that fails, else None."""
    obstacle = _build.obstacle(backend)
    if obstacle is not None:
        return obstacle
    try:
        with _locked(cache_folder()):
            # Another process may have compiled it while this one waited for the lock.
            _load.cache_clear()
            if library(backend) is None:
                _build.compile_library(backend, cache_folder(), verbose=verbose)
                _load.cache_clear()
    except BuildError as error:
        if verbose:
            print(error.log)
        return str(error)
    except OSError as error:
        return f"the folder {cache_folder()} cannot be written (HYENA_CACHE names another): {error}"
    path, reason = _load(backend)
    return reason if path is None else None
