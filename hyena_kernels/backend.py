"""Which implementation of an op runs, and why the others do not.

Four backends are known by name: ``"triton"`` (GPU kernels in Triton), ``"cuda"`` (the C++ extension on a GPU),
``"cpp"`` (the C++ extension on a CPU) and ``"torch"`` (plain PyTorch, everywhere, the reference semantics).
An op asks :func:`implementation` at every call. A request that names no backend takes the first of
:data:`PREFERENCE` that can run; a request that names one gets that one or a :class:`BackendError` with the reason,
never another one in silence.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hyena_kernels._version import __version__

log = logging.getLogger("hyena_kernels")

BACKENDS = ("triton", "cuda", "cpp", "torch")
"""Every backend name, in the order in which they are described."""

AUTO = "auto"
"""What an op's ``backend`` argument holds when nobody asked for a certain one."""

PREFERENCE = {"cuda": ("triton", "cuda", "torch"), "cpu": ("cpp", "torch")}
"""Fastest first, by device type; a device type that is not named here runs ``"torch"``."""

Implementation = Callable[..., Any]

_implementations: dict[tuple[str, str], Implementation] = {}
_forced: str | None = os.environ.get("HYENA_BACKEND") or None
_announced: set[tuple[str, str, str]] = set()


class BackendError(RuntimeError):
    """The backend that was asked for cannot run here; the message gives the reason."""


def register(op: str, backend: str, function: Implementation) -> None:
    """Make ``function`` the implementation of ``op`` on ``backend``. Each op file calls this for its own."""
    _implementations[op, backend] = function


def _check_name(name: str, source: str = "") -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}{source}: choose one of {', '.join(map(repr, BACKENDS))}, or none")
    return name


def set_backend(name: str | None) -> None:
    """Force one backend for every op of this process, or give the choice back with ``None``.

    Takes precedence over the environment variable ``HYENA_BACKEND``; the ``backend`` argument of a call takes
    precedence over both.

    Raises:
        ValueError: ``name`` is no backend.
    """
    global _forced
    _forced = None if name is None else _check_name(name)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Force one backend inside a ``with`` block, for the whole process (autograd runs in threads of its own).

    Raises:
        ValueError: ``name`` is no backend.
    """
    global _forced
    before = _forced
    set_backend(name)
    try:
        yield
    finally:
        _forced = before


def requested(backend: str | None) -> str:
    """The backend asked for by the call, :func:`set_backend` or ``HYENA_BACKEND``, in this order, else ``"auto"``.

    Raises:
        ValueError: the name is no backend.
    """
    if backend is not None:
        return _check_name(backend)
    # Only the environment can have brought a wrong name here: it is not checked at import, which should never fail.
    return AUTO if _forced is None else _check_name(_forced, " in the environment variable HYENA_BACKEND")


def unavailable(op: str, backend: str, device_type: str) -> str | None:
    """Why ``backend`` cannot run ``op`` on tensors of ``device_type``, or ``None`` if it can."""
    if backend == "torch":
        return None
    if backend in ("triton", "cuda") and device_type != "cuda":
        return f"runs on CUDA devices only, the tensors are on {device_type!r}"
    if backend == "cpp" and device_type != "cpu":
        return f"runs on the CPU only, the tensors are on {device_type!r}"
    if (op, backend) not in _implementations:
        return f"hyena_kernels {__version__} has no implementation for it"
    return None


def _fastest(op: str, device_type: str) -> str:
    candidates = PREFERENCE.get(device_type, ("torch",))
    return next(name for name in candidates if unavailable(op, name, device_type) is None)


def resolve(op: str, device: torch.device, backend: str | None = None) -> str:
    """The name of the backend that runs ``op`` on ``device``.

    Args:
        op: name of an op, such as ``"fftconv_fwd"``.
        device: where the tensors are.
        backend: one of :data:`BACKENDS`; ``"auto"`` for the first that can run; None for what is forced, else the same.

    Raises:
        ValueError: ``backend`` is no backend's name.
        BackendError: ``backend`` names a backend that cannot run here.
    """
    backend = requested(None) if backend is None else backend
    if backend != AUTO:
        reason = unavailable(op, _check_name(backend), device.type)
        if reason is not None:
            raise BackendError(f"backend {backend!r} was asked for and cannot run {op}: {reason}")
        return backend
    chosen = _fastest(op, device.type)
    if (op, device.type, chosen) not in _announced:
        _announced.add((op, device.type, chosen))
        log.info("%s on %s runs on backend %r", op, device.type, chosen)
    return chosen


def implementation(op: str, device: torch.device, backend: str | None = None) -> Implementation:
    """The function that runs ``op`` on ``device``; arguments and errors of :func:`resolve`."""
    return _implementations[op, resolve(op, device, backend)]


def _installed(module: str) -> str:
    try:
        return "installed" if importlib.util.find_spec(module) else "not installed"
    except ImportError:
        return "not installed"


def describe() -> str:
    """What is installed, which backend every op takes on every device here, and why the rest do not run.

    Returns:
        Several lines of text, as ``python -m hyena_kernels`` prints them.
    """
    lines = [
        f"hyena_kernels {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        f"triton {_installed('triton')}, C++ extension {_installed('hyena_kernels._C')}",
    ]
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory = device.total_memory / 2**30
            lines.append(f"cuda:{index} {device.name}, sm_{device.major}{device.minor}, {memory:.0f} GiB")
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
    ops = sorted({op for op, _ in _implementations})
    for device_type in devices:
        lines.append(f"\non {device_type}:")
        for op in ops:
            reason = None if forced == AUTO else unavailable(op, forced, device_type)
            runs = _fastest(op, device_type) if forced == AUTO else forced
            lines.append(f"  {op:<22} {runs if reason is None else f'raises: {forced} {reason}'}")
        for name in BACKENDS:
            reasons = {unavailable(op, name, device_type): op for op in ops}
            for reason, op in reasons.items():
                if reason is not None:
                    scope = "not" if len(reasons) == 1 else f"not for {op}"
                    lines.append(f"  {name:<22} {scope}: {reason}")
    return "\n".join(lines)
