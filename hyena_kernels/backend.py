"""Which implementation of an op runs, and why the others do not.

Four backends are known by name: ``"triton"`` (GPU kernels in Triton), ``"cuda"`` (the C++ extension on a GPU),
``"cpp"`` (the C++ extension on a CPU) and ``"torch"`` (plain PyTorch, everywhere, the reference semantics).
An op asks :func:`implementation` at every call. A request without a name takes the first of :data:`PREFERENCE` that can
run, or one that the :class:`Ranking` of the GPU puts before it. A request for a certain backend gets it or raises a
:class:`BackendError` with every reason. It never gets another one.

Triton runs on CUDA devices. With ``TRITON_INTERPRET=1``, set before the process starts, Triton interprets its kernels
in Python, on the CPU too. This is slow and meant for tests, and it only happens when ``"triton"`` is requested by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch

from hyena_kernels import _build
from hyena_kernels._version import __version__
from hyena_kernels.backends import extension
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.errors import BackendError

log = logging.getLogger("hyena_kernels")

BACKENDS = ("triton", "cuda", "cpp", "torch")
"""Every backend name, in the order in which :func:`describe` lists them."""

AUTO = "auto"
"""The ``backend`` argument of a registered op when no backend was requested."""

PREFERENCE = {"cuda": ("triton", "cuda", "torch"), "cpu": ("cpp", "torch")}
"""The fastest backends first, by device type. Other device types run ``"torch"``."""


@dataclass(frozen=True)
class Ranking:
    """Which backend goes first on GPUs of one kind.

    Args:
        first: the backend by op, without a direction. Other ops take the first of :data:`PREFERENCE`.
        basis: where this is from, in words that :func:`describe` prints.
    """

    first: Mapping[str, str]
    basis: str


_CONVOLUTIONS = {"fftconv": "cuda", "hyena_mixer": "cuda"}

UNMEASURED = Ranking(_CONVOLUTIONS, "not measured on this GPU: taken from an H200")
"""The ranking of a GPU whose compute capability is not in :data:`RANKINGS`."""

RANKINGS = {
    (8, 0): Ranking(_CONVOLUTIONS, "not measured on this GPU: taken from an H200 and the instructions of the kernels"),
    (9, 0): Ranking(_CONVOLUTIONS, "measured on an H200"),
}
"""Rankings by compute capability. docs/kernels.md has the measurement, and the reasons where there is none."""

Implementation = Callable[..., Any]
Supports = Callable[..., str | None]
Skipped = tuple[tuple[str, ...], ...]
"""Name and reasons of each backend that was passed over."""

# A string says where to import an implementation that has not been needed so far.
_implementations: dict[tuple[str, str], Implementation | str] = {}
_supports: dict[tuple[str, str], Supports] = {}
_broken: dict[str, str] = {}
# Why an op failed to compile or launch on an automatically chosen backend, by op, backend and device type.
_failed: dict[tuple[str, str, str], str] = {}
_forced: str | None = os.environ.get("HYENA_BACKEND") or None


class _OfThread(threading.local):
    """The innermost ``use_backend`` block of a thread. torch.compile can guard on it, but not on a context variable."""

    block: str | None = None


# What use_backend names in this context, "auto" for None. None outside of every block.
_block: ContextVar[str | None] = ContextVar("hyena_kernels.use_backend", default=None)
_of_thread = _OfThread()
# The blocks that are open in any context: for threads that Python has not started, such as those of autograd.
_open_blocks: list[str] = []
_announced: set[tuple[str, str, str, Skipped]] = set()
# What others add to describe().
_notes: list[Callable[[], list[str]]] = []
_warned = False

_MISSING = f"hyena_kernels {__version__} has no implementation for it"


def register(op: str, backend: str, function: Implementation | str, supports: Supports | None = None) -> None:
    """Make ``function`` the implementation of ``op`` on ``backend``.

    Args:
        op: name of the op, such as ``"fftconv_fwd"``.
        backend: one of :data:`BACKENDS`.
        function: called as :mod:`hyena_kernels.backends` describes. A string ``"package.module:attribute"`` says where
            to import it from on first use.
        supports: called before each call with the op's flat arguments, without the backend. It returns the reason why
            this backend cannot run with them, or None if it can. It must be cheap and need nothing but torch.
            :mod:`hyena_kernels.common.reasons` describes reasons.
    """
    _implementations[op, backend] = function
    if supports is None:
        _supports.pop((op, backend), None)
    else:
        _supports[op, backend] = supports


def register_op(
    op: str,
    plain: ModuleType,
    *,
    supports: Mapping[str, Supports],
    supports_backward: Mapping[str, Supports] | None = None,
    backends: Sequence[str] = BACKENDS,
    prefix: str = "",
) -> None:
    """Register ``<op>_fwd`` and ``<op>_bwd`` on every backend that has them. Each op file calls this once for each op.

    These backends have a module of the same name as ``plain``, with ``forward`` and ``backward``. It is imported on
    first use.

    Args:
        op: name of the op without its direction, such as ``"fftconv"``.
        plain: the module of the backend ``"torch"``.
        supports: the ``supports`` of :func:`register` by backend, for both directions.
        supports_backward: ``supports`` of the backward pass, if it is another one.
        backends: the backends that have the op.
        prefix: what precedes ``forward`` and ``backward`` in the names of the functions, for a second op of a module.
    """
    stem = plain.__name__.rpartition(".")[2]
    of_direction = {"forward": supports, "backward": supports_backward or supports}
    for direction, suffix in (("forward", "fwd"), ("backward", "bwd")):
        function = prefix + direction
        for name in backends:
            place = getattr(plain, function) if name == "torch" else f"hyena_kernels.backends.{name}.{stem}:{function}"
            register(f"{op}_{suffix}", name, place, of_direction[direction].get(name))


def add_note(lines: Callable[[], list[str]]) -> None:
    """Let :func:`describe` end with the lines that a function returns."""
    _notes.append(lines)


def has(op: str, backend: str) -> bool:
    """Whether a backend has an implementation of an op, such as ``"fftconv_fwd"``, whether or not it can run here."""
    return (op, backend) in _implementations


def _check_name(name: str, source: str = "") -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}{source}: choose one of {', '.join(map(repr, BACKENDS))}, or none")
    return name


def set_backend(name: str | None) -> None:
    """Force one backend for every op of this process. ``None`` makes the choice automatic again.

    This takes precedence over the environment variable ``HYENA_BACKEND``. A block of :func:`use_backend` takes
    precedence over both, and the ``backend`` argument of a call over all.

    Raises:
        ValueError: ``name`` is not the name of a backend.
    """
    global _forced
    _forced = None if name is None else _check_name(name)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Force one backend for the calls of a ``with`` block. ``None`` makes the choice automatic there.

    This holds for the current thread or asyncio task. Other threads are not affected, not even those that are started
    inside of the block. Backward runs on the backend that was forced in forward, wherever it is called.

    Raises:
        ValueError: ``name`` is not the name of a backend.
    """
    name = AUTO if name is None else _check_name(name)
    token = _block.set(name)
    _of_thread.block = name
    _open_blocks.append(name)
    try:
        yield
    finally:
        _open_blocks.remove(name)
        _block.reset(token)
        # Not what the thread had before: blocks of several asyncio tasks need not end in the order of their nesting.
        _of_thread.block = _block.get()


def requested(backend: str | None, among: Sequence[str] = BACKENDS) -> str:
    """The backend that is requested, else ``"auto"``.

    The call goes first, then :func:`use_backend`, :func:`set_backend` and ``HYENA_BACKEND``. These three are for many
    ops at once. One that the backend does not have is chosen automatically then.

    Args:
        backend: the backend that the call names, or None.
        among: the backends that have the op.

    Raises:
        ValueError: the name is not the name of a backend.
        BackendError: autograd computes a forward pass again in a thread of its own, as checkpointing on a GPU does, and
            open blocks of :func:`use_backend` name several backends.
    """
    if backend is not None:
        return _check_name(backend)
    block = _of_thread.block if torch.compiler.is_compiling() else _block.get()
    if block is None and _open_blocks and not torch.compiler.is_compiling():
        block = _block_of_autograd()
    if block is None:
        # A wrong name here comes from the environment. It is not checked at import, because an import should never
        # fail.
        block = AUTO if _forced is None else _check_name(_forced, " in the environment variable HYENA_BACKEND")
    return block if block in among else AUTO


def _block_of_autograd() -> str | None:
    """The open block of :func:`use_backend` in a thread that Python has not started. None in other threads."""
    if not isinstance(threading.current_thread(), threading._DummyThread):
        return None
    names = set(_open_blocks)
    if len(names) > 1:
        raise BackendError(
            f"use_backend blocks of several threads name {' and '.join(sorted(names))} while autograd computes a "
            "forward pass again: pass backend= to the call"
        )
    return names.pop() if names else None


def _obstacles(op: str, backend: str, device: torch.device) -> list[str]:
    """Every reason why ``backend`` cannot run ``op`` on ``device``, for any arguments. Nothing is imported."""
    if backend == "torch":
        return []
    found = []
    if backend == "triton":
        found += triton_support.obstacles(device)
    else:
        found += extension.obstacles(backend, device)
    if (op, backend) not in _implementations:
        found.append(_MISSING)
    return found


def _load(op: str, backend: str) -> str | None:
    """Import the implementation of ``op`` on ``backend``, if necessary. Returns the reason if that failed, or None."""
    place = _implementations[op, backend]
    if not isinstance(place, str):
        return None
    if place not in _broken:
        module, _, attribute = place.partition(":")
        # A broken installation of Triton may raise anything.
        try:
            _implementations[op, backend] = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            _broken[place] = f"failed to import {module}: {type(error).__name__}: {' '.join(str(error).split())}"
    return _broken.get(place)


def _refusals(
    op: str, backend: str, device: torch.device, args: Sequence[Any] | None = None
) -> tuple[list[str], list[str]]:
    """Every reason why ``backend`` cannot run ``op``, in two lists.

    The first has the reasons of the machine. The second has the reasons of the arguments or of a failed import. If
    there are none, the implementation is imported.
    """
    obstacles = _obstacles(op, backend, device)
    supports = None if args is None else _supports.get((op, backend))
    unsupported = None if args is None or supports is None else supports(*args)
    faults = [] if unsupported is None else [unsupported]
    if not obstacles and not faults:
        failure = _load(op, backend)
        if failure is not None:
            faults.append(failure)
    return obstacles, faults


def _reasons(op: str, backend: str, device: torch.device, args: Sequence[Any] | None = None) -> str:
    obstacles, faults = _refusals(op, backend, device, args)
    return "; ".join(obstacles + faults)


@cache
def _capability(index: int | None) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, None for the current one. None where torch sees no NVIDIA GPU."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(index)


def ranking(device: torch.device) -> Ranking:
    """The ranking of the backends on a CUDA device. After the first call this is two look-ups.

    Args:
        device: a CUDA device. Without an index it is the current one at the first call.
    """
    capability = _capability(device.index)
    return UNMEASURED if capability is None else RANKINGS.get(capability, UNMEASURED)


def _order(op: str, device: torch.device) -> tuple[str, ...]:
    """The backends of :data:`PREFERENCE`, with the one of the device's :class:`Ranking` first."""
    names = PREFERENCE.get(device.type, ())
    if device.type != "cuda":
        return names
    first = ranking(device).first.get(op.removesuffix("_fwd").removesuffix("_bwd"))
    return names if first not in names else (first, *(name for name in names if name != first))


def _slower(op: str, name: str, args: Sequence[Any]) -> str | None:
    """Why a backend is not chosen automatically for these arguments, although it can run. None if it may be."""
    support = {"triton": triton_support, "cuda": extension}.get(name)
    return None if support is None else support.slower(op, args)


def _fastest(op: str, device: torch.device, args: Sequence[Any] | None = None) -> tuple[str, Skipped, int]:
    """The first backend that can run ``op``, the backends before it, and the level at which to log the choice."""
    skipped: Skipped = ()
    level = logging.INFO
    for name in _order(op, device):
        obstacles, faults = _refusals(op, name, device, args)
        if (failure := _failed.get((op, name, device.type))) is not None:
            faults = [*faults, failure]
        if not obstacles and not faults:
            slower = None if args is None else _slower(op, name, args)
            if slower is None:
                return name, skipped, level
            obstacles = [slower]
        skipped = (*skipped, (name, *obstacles, *faults))
        if not obstacles:
            level = logging.WARNING
    return "torch", skipped, level


def _choose(op: str, device: torch.device, backend: str | None, args: Sequence[Any] | None = None) -> str:
    backend = requested(None) if backend is None else backend
    if backend != AUTO:
        reasons = _reasons(op, _check_name(backend), device, args)
        if reasons:
            raise BackendError(f"backend {backend!r} was asked for and cannot run {op}: {reasons}")
        return backend
    chosen, skipped, level = _fastest(op, device, args)
    choice = (op, device.type, chosen, skipped)
    if choice not in _announced:
        _announced.add(choice)
        others = "".join(f"; not on {name!r}: {'; '.join(reasons)}" for name, *reasons in skipped)
        log.log(level, "%s on %s runs on backend %r%s", op, device.type, chosen, others)
        _warn_of_missing_library(chosen, skipped)
    return chosen


def _warn_of_missing_library(chosen: str, skipped: Skipped) -> None:
    """Warn once a process where a compiled backend would run, had its library been built."""
    global _warned
    for name in (name for name, *_ in skipped if name in _build.LIBRARIES and not _warned):
        reason = extension.missing(name)
        if reason is not None:
            _warned = True
            log.warning(
                "hyena_kernels runs on the slower backend %r: the compiled extension for %r %s. "
                "`python -m hyena_kernels --build` compiles it once for this machine",
                chosen, name, reason,
            )  # fmt: skip


def resolve(op: str, device: torch.device, backend: str | None = None) -> str:
    """The name of the backend that runs ``op`` on ``device``, for arguments that it supports.

    Args:
        op: name of an op, such as ``"fftconv_fwd"``.
        device: device of the tensors.
        backend: one of :data:`BACKENDS`, or ``"auto"`` for the first that can run. None stands for the forced backend,
            or ``"auto"`` if none is forced.

    Raises:
        ValueError: ``backend`` is not the name of a backend.
        BackendError: ``backend`` names a backend that cannot run here.
    """
    return _choose(op, device, backend)


def implementation(op: str, args: Sequence[Any], backend: str | None = None) -> Implementation:
    """The function that runs ``op``; :mod:`hyena_kernels.backends` describes how it is called.

    A backend that does not support these arguments is passed over with one warning. If it was requested by name, this
    raises.

    Args:
        op: name of an op, such as ``"fftconv_fwd"``.
        args: the op's flat arguments without the backend. The first is a tensor.
        backend: as for :func:`resolve`.

    Raises:
        ValueError: ``backend`` is not the name of a backend.
        BackendError: ``backend`` names a backend that cannot run here, or cannot run with these arguments.
    """
    function = _implementations[op, _choose(op, args[0].device, backend, args)]
    assert callable(function), "choosing a backend imports it"
    return function


# Triton's driver raises a RuntimeError for errors that have their own class in torch.
_BEYOND_ANY_BACKEND = re.compile(
    r"Triton Error \[CUDA\]: .*(out of memory|illegal|misaligned|launch failure|launch timed out|assert|ECC|captur)"
)


def _capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured on the current stream of ``device``, whichever device is current."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def pass_over(op: str, args: Sequence[Any], backend: str | None, ran: Implementation, error: Exception) -> None:
    """Let another backend run ``op`` from now on, after Triton has failed to compile or launch it with ``args``.

    Triton compiles at the first call. It needs a C compiler, an assembler that knows the GPU and a writable folder.
    Only this call shows whether it has them. A backend that was requested by name is not passed over. Nor is an error
    that another backend would not avoid: too little memory, a fault of the device, or any error while a CUDA graph is
    captured.

    Args:
        op: as for :func:`implementation`.
        args: as for :func:`implementation`.
        backend: as for :func:`implementation`.
        ran: the function that failed. Several threads may fail at the same time, so :func:`implementation` may return
            another one by now.
        error: the error. It is raised again if the backend is not passed over.
    """
    device = args[0].device
    automatic = (requested(None) if backend is None else backend) == AUTO
    beyond = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", BackendError), BackendError)
    if not automatic or ran is not _implementations.get((op, "triton")):
        raise error
    if isinstance(error, beyond) or _BEYOND_ANY_BACKEND.search(str(error)) or _capturing(device):
        raise error
    _failed[op, "triton", device.type] = (
        f"failed to run here: {type(error).__name__}: {' '.join(str(error).split())[-500:]}"
    )


def _installed(module: str) -> str:
    try:
        return "installed" if importlib.util.find_spec(module) else "not installed"
    except (ImportError, ValueError):
        return "not installed"


def describe() -> str:
    """What is installed, which backend runs each op on each device here, and why the others do not run.

    Returns:
        Several lines of text, as ``python -m hyena_kernels`` prints them.
    """
    lines = [
        f"hyena_kernels {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        f"triton {_installed('triton')}",
        *extension.describe(),
    ]
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory = device.total_memory / 2**30
            basis = ranking(torch.device("cuda", index)).basis
            lines.append(f"cuda:{index} {device.name}, sm_{device.major}{device.minor}, {memory:.0f} GiB")
            lines.append(f"cuda:{index} order of the backends: {basis}")
    else:
        lines.append("no CUDA device is visible to torch")
    try:
        forced = requested(None)
    except ValueError as error:
        lines.append(f"every op raises: {error}")
        return "\n".join(lines)
    if forced == AUTO:
        lines.append("no backend is forced: each op takes the first that can run")
    else:
        lines.append(f"backend {forced!r} is forced (set_backend or HYENA_BACKEND)")
    if triton_support.interpreting():
        lines.append("TRITON_INTERPRET is set: triton interprets its kernels, on the CPU too where it is asked for")
    ops = sorted({op for op, _ in _implementations})
    for place in map(torch.device, devices):
        lines.append(f"\non {place}:")
        # A forced backend is tried again, even if it has failed before.
        failed = _failed if forced == AUTO else {}
        reasons = {
            (op, name): failed.get((op, name, place.type)) or _reasons(op, name, place) if own else _MISSING
            for op in ops
            for name in BACKENDS
            for own in ((op, name) in _implementations,)
        }
        for op in ops:
            runs = forced if (op, forced) in _implementations else _fastest(op, place)[0]
            lines.append(f"  {op:<24} {f'raises: {runs} {reasons[op, runs]}' if reasons[op, runs] else runs}")
        for name in BACKENDS:
            has = [op for op in ops if (op, name) in _implementations]
            for reason in dict.fromkeys(reasons[op, name] for op in ops):
                refused = [op for op in ops if reasons[op, name] == reason]
                scope = "not" if refused in (has, ops) else f"not for {', '.join(refused)}"
                if reason:
                    lines.append(f"  {name:<24} {scope}: {reason}")
    for note in _notes:
        lines += note()
    return "\n".join(lines)
