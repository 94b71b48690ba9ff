"""Measure launch configurations at run time, with ``HYENA_AUTOTUNE=1``. Off by default.

The first launch of a kernel for a number of points measures every candidate on the arguments of that launch. It keeps
the fastest for the rest of the process and logs it. If two are close, the choice may differ from run to run, and with
it the last bits of results. ``bench.kernels.tune_triton`` measures the same candidates once for the table.

The environment is read when the kernels are imported. Nothing is measured while a CUDA graph is captured, or on devices
other than CUDA ones. Importing this module needs torch, but not Triton.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.backends.triton import table
from hyena_kernels.backends.triton.table import Config, Key

log = logging.getLogger("hyena_kernels")

VARIABLE = "HYENA_AUTOTUNE"

GAIN = 1.03
"""A candidate replaces the entry of the table if it is faster by this factor. Two runs of the same differ by less."""

MAX_WARPS = 32
_REGISTERS_OF_BLOCK = 1 << 16
_BOUNDS = (96, 128)
_TILE_POINTS = (2048, 4096, 8192)

# Tensors that a kernel changes in place. A second launch would change them again.
_IN_PLACE = {"rows_forward": ("signal",), "rows_backward": ("signal", "grad", "filter_grad")}


def enabled() -> bool:
    """Whether the environment asks for measuring."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "true", "on", "yes", "y")


def candidates(kernel: str, points: int) -> list[Config]:
    """Configurations worth measuring for a kernel. The entry of the table need not be among them.

    A thread has 8 or 16 values, so no value is held twice. Columns come in tiles of 2048 to 8192 points. Bounds on the
    registers of a thread let more blocks run at a time.
    """
    columns = kernel.startswith("columns")
    tiles = [size // points for size in _TILE_POINTS if size >= points] if columns else [1]
    found = []
    for tile in tiles:
        for values in (8, 16):
            warps = tile * points // (32 * values)
            if not 1 <= warps <= MAX_WARPS:
                continue
            bounds = [bound for bound in _BOUNDS if 32 * warps * bound < _REGISTERS_OF_BLOCK]
            found += [Config(warps, tile, bound) for bound in (None, *bounds)]
    return found


@dataclass(frozen=True)
class Launch:
    """A requested launch: ``kernel[grid](*args, **constants)``."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def key(self) -> Key:
        """Its entry in the table."""
        return self.kernel.__name__, self.constants.get("G", 1), self.constants["N"]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return next(arg.device for arg in self.args if isinstance(arg, Tensor))

    def with_config(self, config: Config) -> Launch:
        """The same work in another configuration."""
        constants = {**self.constants, **config.launch}
        if config.registers is None:
            constants.pop("maxnreg", None)
        grid = self.grid
        if "C" in constants:
            constants["C"] = min(config.tile, constants["ROWS"])
            grid = (grid[0] * self.constants["C"] // constants["C"], *grid[1:])
        return Launch(self.kernel, grid, self.args, constants)

    def run(self) -> Any:
        """Launch it, and return the compiled kernel."""
        return self.kernel[self.grid](*self.args, **self.constants)

    def compile(self) -> None:
        """Compile it into Triton's cache without launching it."""
        self.kernel.warmup(*self.args, grid=self.grid, **self.constants)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Restore the tensors that the kernel changes in place."""
        arguments = dict(zip(self.kernel.arg_names, self.args, strict=False))
        changed = [arguments[name] for name in _IN_PLACE.get(self.kernel.__name__, ())]
        saved = [(tensor, tensor.clone()) for tensor in changed if tensor is not None]
        try:
            yield
        finally:
            for tensor, copy in saved:
                tensor.copy_(copy)


@dataclass(frozen=True)
class Measurement:
    """Time of one configuration. ``ms`` is None, and ``reason`` says why, if it could not be compiled or launched."""

    config: Config
    ms: float | None
    registers: int = 0
    spills: int = 0
    """32-bit words of local memory that a thread takes."""
    reason: str = ""

    @property
    def usable(self) -> bool:
        """Whether it may become an entry of a table. A configuration that spills may not."""
        return self.ms is not None and not self.spills


def _milliseconds(function: Callable[[], object]) -> float:
    import triton.testing

    return float(triton.testing.do_bench(function, warmup=5, rep=40, return_mode="median"))


def measure(
    launches: Sequence[tuple[Launch, int]],
    config: Config,
    timer: Callable[[Callable[[], object]], float] = _milliseconds,
) -> Measurement:
    """The weighted sum of the times of some launches in a configuration. Each is made many times.

    Raises:
        RuntimeError: the device reports an error. After it the process cannot use the device.
    """
    # Triton has an exception for each thing that can be too large for a compiler or a device.
    from triton.errors import TritonError

    total, registers, spills = 0.0, 0, 0
    for launch, weight in launches:
        configured = launch.with_config(config)
        try:
            compiled = configured.run()
            total += weight * timer(configured.run)
        except TritonError as error:
            return Measurement(config, None, reason=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        registers = max(registers, getattr(compiled, "n_regs", 0) or 0)
        spills = max(spills, getattr(compiled, "n_spills", 0) or 0)
    return Measurement(config, total, registers, spills)


def best(default: Config, measurements: Sequence[Measurement]) -> Measurement | None:
    """The fastest usable one, or ``default`` if none is faster by :data:`GAIN`. None if nothing is usable."""
    usable = [each for each in measurements if each.usable]
    if not usable:
        return None
    fastest = min(usable, key=lambda each: each.ms or 0.0)
    present = next((each for each in usable if each.config == default), None)
    if present is None or (present.ms or 0.0) > GAIN * (fastest.ms or 0.0):
        return fastest
    return present


_chosen: dict[tuple[Key, torch.device], Config] = {}


def _tuned(launch: Launch) -> Any:
    device = launch.device
    if device.type != "cuda":
        return launch.run()
    place = launch.key, device
    if place not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return launch.run()
        _chosen[place] = _choose(launch)
    return launch.with_config(_chosen[place]).run()


def _choose(launch: Launch) -> Config:
    kernel, groups, points = launch.key
    default = table.config(kernel, groups, points, launch.device)
    with launch.unchanged():
        measured = [measure([(launch, 1)], config) for config in dict.fromkeys((default, *candidates(kernel, points)))]
    choice = best(default, measured)
    if choice is None:
        log.warning("%s=1: no configuration of %s %d × %d can be used", VARIABLE, kernel, groups, points)
        return default
    log.info(
        "%s=1: %s %d × %d on %s uses %s, %.4f ms; in the table %s", VARIABLE, kernel, groups, points, launch.device,
        choice.config, choice.ms, default,
    )  # fmt: skip
    return choice.config


_handler: Callable[[Launch], Any] = _tuned


@contextmanager
def handling(handler: Callable[[Launch], Any]) -> Iterator[None]:
    """Call ``handler`` in the place of every launch of a tunable kernel."""
    global _handler
    before = _handler
    _handler = handler
    try:
        yield
    finally:
        _handler = before


class Tunable:
    """A Triton kernel whose launches go to the handler, which measures them by default."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, **constants: Any) -> Any:
        return _handler(Launch(self.kernel, grid, args, constants))


def install(module: Any) -> None:
    """Replace every kernel of a module that has entries in the table by a :class:`Tunable`."""
    for name in {kernel for kernel, _ in table.SIZES}:
        kernel = getattr(module, name)
        if not isinstance(kernel, Tunable):
            setattr(module, name, Tunable(kernel))
