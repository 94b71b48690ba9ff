"""Where the compiled extension runs and why not elsewhere, told without importing what hands the ops to it.

A library lies in the package, where ``pip install`` puts it, or in a folder of the user's cache, where
:func:`build_ext` does. The first that loads serves. A reason is the end of a sentence that begins with the backend's
name; see ``triton/support.py``.
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

MIN_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPU that the CUDA kernels are compiled for, where the toolkit still does."""

MAX_FAST_LENGTH = 2_621_440
"""Longest convolution with transforms of our own on CUDA, as ``csrc/cuda/fftconv_passes.cu`` has them."""

_PACKAGE = Path(__file__).parents[1]
_DEVICES = {"cpp": ("the CPU", "cpu"), "cuda": ("CUDA devices", "cuda")}


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


@functools.cache
def cache_folder() -> Path:
    """Where :func:`build_ext` keeps what it compiles, for this version, its sources, this torch and this machine.

    In ``HYENA_CACHE``, else in ``hyena_kernels`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    root = os.environ.get("HYENA_CACHE")
    if not root:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        root = os.path.join(caches, "hyena_kernels")
    release = ".".join(map(str, _release()))
    cuda = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda}"
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return Path(root).absolute() / f"{__version__}-torch{release}-{cuda}-{machine}-{_build.source_hash()}"


def _places(backend: str) -> list[Path]:
    return [folder / _build.LIBRARIES[backend] for folder in (_PACKAGE, cache_folder())]


def _not_built(backend: str) -> str:
    """What the last build said, that of the user's cache or else that of the package."""
    for folder in (cache_folder(), _PACKAGE):
        # What an interrupted installation has left may be half a report.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            reason = json.loads((folder / _build.REPORT).read_text(encoding="utf-8")).get(backend)
            if reason is not None:
                return f"was not built: {reason}"
    return "was not built with this installation"


def _truncated(path: Path) -> bool:
    """Whether an ELF file ends before its last part, the table of sections: the loader maps it and dies of it."""
    with open(path, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return False
    (offset,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return path.stat().st_size < offset + size * count


@functools.cache
def _load(backend: str) -> tuple[Path | None, str]:
    """Load the first library of a backend that can be loaded: its place, else None and the reason."""
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
        # A library for another torch asks for symbols that this one lacks, and the loader says which.
        try:
            if _truncated(path):
                raise OSError("the file is incomplete")
            torch.ops.load_library(str(path))
            return path, ""
        except OSError as error:
            # torch hides what the loader says behind a sentence of its own.
            failures.append(f"failed to load {path}: {' '.join(str(error.__cause__ or error).split())}")
    return None, "; ".join(failures)


def library(backend: str) -> Path | None:
    """The compiled library that a backend runs, loaded by this call; None if there is none that can be loaded."""
    return _load(backend)[0]


@functools.cache
def _unfit(index: int | None) -> str | None:
    """Why the CUDA kernels cannot run on the device of this index (None: on the current one), or None if they can."""
    if torch.version.hip is not None:
        return f"is made for NVIDIA GPUs, and torch {torch.__version__} is built for ROCm"
    if not torch.cuda.is_available():
        return "runs on CUDA devices only, and torch sees none"
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        needed, has = (".".join(map(str, numbers)) for numbers in (MIN_CAPABILITY, capability))
        return f"needs compute capability {needed}, and {torch.cuda.get_device_name(index)} has {has}"
    return None


def load_libraries() -> None:
    """Load every library that was built and fits the installed torch."""
    for backend in _build.LIBRARIES:
        library(backend)


def obstacles(backend: str, device: torch.device) -> list[str]:
    """Every reason why ``backend`` cannot run on tensors of ``device``, whatever their shapes and dtypes."""
    name, kind = _DEVICES[backend]
    if device.type != kind:
        return [f"runs on {name} only, the tensors are on {device.type!r}"]
    unfit = _unfit(device.index) if backend == "cuda" else None
    path, reason = _load(backend)
    return [*filter(None, [unfit]), *([reason] if path is None else [])]


def slower(op: str, args: Sequence[Any]) -> str | None:
    """Why nobody who does not ask for CUDA should get it here: what it does with cuFFT is no faster; or None."""
    axis = {"fftconv": 2, "hyena_mixer": 1}.get(op.removesuffix("_fwd").removesuffix("_bwd"))
    if axis is None or args[0].shape[axis] <= MAX_FAST_LENGTH:
        return None
    return f"is for sequences of up to {MAX_FAST_LENGTH} positions"


def describe() -> list[str]:
    """A line for each compiled backend: the library that it runs, or why it has none."""
    lines = []
    for backend in _build.LIBRARIES:
        path, reason = _load(backend)
        lines.append(f"C++ extension: {backend} {reason if path is None else f'runs {path}'}")
    return lines


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes, such as those of one training run, from compiling the same at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_ext(verbose: bool = False) -> list[str]:
    """Compile the C++/CUDA extension for this user, where the installation brought none, and load it.

    What can be compiled here and does not load already is compiled, from the sources in the package: the CPU library
    with a C++ compiler (GCC 9, Clang 11 or newer), the one for CUDA with an nvcc of the major version of torch's CUDA.
    It is kept in a folder of the user's cache (``HYENA_CACHE``, else ``~/.cache/hyena_kernels``), where every later
    process with this version and this torch finds it. ``python -m hyena_kernels --build`` does the same.

    Args:
        verbose: print the compilers' commands and what they print.

    Returns:
        The compiled backends that can run now, of ``"cpp"`` and ``"cuda"``, at least one.

    Raises:
        RuntimeError: there is none; the message says why for each. One that cannot be compiled while the other runs is
            no error: ``python -m hyena_kernels`` tells why.
    """
    failures = {}
    for backend in _build.LIBRARIES:
        if library(backend) is None and (reason := _compile(backend, verbose)) is not None:
            failures[backend] = reason
    ready = [backend for backend in _build.LIBRARIES if library(backend) is not None]
    if failures:
        # For describe(), in later processes too.
        with contextlib.suppress(OSError), _locked(cache_folder()):
            (cache_folder() / _build.REPORT).write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
        _load.cache_clear()
    if not ready:
        reasons = "; ".join(f"{backend!r}: {reason}" for backend, reason in failures.items())
        raise BuildError(f"no library of the compiled extension could be built: {reasons}")
    return ready


def _compile(backend: str, verbose: bool) -> str | None:
    """Compile a library into the cache and load it; the reason why not, or None."""
    obstacle = _build.obstacle(backend)
    if obstacle is not None:
        return obstacle
    try:
        with _locked(cache_folder()):
            # Another process may have had the lock, and compiled it.
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
