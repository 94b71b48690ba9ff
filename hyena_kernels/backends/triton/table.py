"""Tiles, warps and algorithm of the long convolution, by device class, kernel and size.

There is a table for each class of devices, by the shared memory that a block can have: 99 KB (compute capability 8.6,
8.9, 12.0), 164 KB (8.0) and 227 KB (9.0, 10.0). An entry is found by kernel, groups and points. The comment in front
of a table says where its entries come from: ``python -m bench.kernels.tune_triton --write-table`` measures them on the
GPU it runs on and writes them here. What no GPU of a class has measured follows :func:`formula`.

``TORCH_FASTER`` holds the ranges of lengths at which plain PyTorch, which is cuFFT there, has been measured to be
faster than the kernels. An empty range is a class of which nothing is known, or where the kernels win everywhere.

Importing this module needs torch alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from hyena_kernels.backends.triton.plan import MAX_LENGTH, Plan, plan as plan_for
from hyena_kernels.errors import BackendError

Key = tuple[str, int, int]
"""Kernel, groups and points."""

SIZES = {
    ("row_forward", 1): (256, 512, 1024, 2048, 4096),
    ("row_forward", 3): (256, 512, 1024, 2048),
    ("row_backward", 1): (256, 512, 1024, 2048, 4096),
    ("row_backward", 3): (256, 512, 1024, 2048),
    ("columns_forward", 1): (16, 256, 1024, 4096),
    ("columns_forward", 3): (16, 256, 1024),
    ("columns_inverse", 1): (16, 256, 1024, 4096),
    ("columns_inverse", 3): (16, 256, 1024),
    ("rows_forward", 1): (256, 512, 1024, 2048, 4096),
    ("rows_backward", 1): (256, 512, 1024, 2048, 4096),
}
"""Points for which every table has an entry, by kernel and groups. Tests force others, which follow the formula."""


@dataclass(frozen=True)
class Config:
    """How a kernel is launched."""

    warps: int
    tile: int = 1
    """Columns side by side in a program."""
    registers: int | None = None
    """Bound on the registers of a thread."""

    @property
    def launch(self) -> dict[str, Any]:
        """Options of the launch."""
        options: dict[str, Any] = {"num_warps": self.warps, "num_stages": 1}
        return options if self.registers is None else {**options, "maxnreg": self.registers}


def formula(kernel: str, points: int) -> Config:
    """One thread for the eight values of a digit, and tiles of 4096 points where columns are transformed."""
    tile = max(2, 4096 // points) if kernel.startswith("columns") else 1
    return Config(max(1, tile * points // 256), tile)


# Table for 99 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: it follows the formula but where a kernel would spill registers.
_TABLE_99: dict[Key, Config] = {
    ("row_forward", 1, 256): Config(1),
    ("row_forward", 1, 512): Config(2),
    ("row_forward", 1, 1024): Config(4),
    ("row_forward", 1, 2048): Config(8),
    ("row_forward", 1, 4096): Config(16),
    ("row_forward", 3, 256): Config(1),
    ("row_forward", 3, 512): Config(2),
    ("row_forward", 3, 1024): Config(4),
    ("row_forward", 3, 2048): Config(8),
    ("row_backward", 1, 256): Config(1),
    ("row_backward", 1, 512): Config(2),
    ("row_backward", 1, 1024): Config(4),
    ("row_backward", 1, 2048): Config(8),
    ("row_backward", 1, 4096): Config(16),
    ("row_backward", 3, 256): Config(1),
    ("row_backward", 3, 512): Config(2),
    ("row_backward", 3, 1024): Config(4),
    ("row_backward", 3, 2048): Config(8),
    ("columns_forward", 1, 16): Config(16, tile=256),
    ("columns_forward", 1, 256): Config(16, tile=16),
    ("columns_forward", 1, 1024): Config(16, tile=4),
    ("columns_forward", 1, 4096): Config(32, tile=2),
    ("columns_forward", 3, 16): Config(8, 128),
    ("columns_forward", 3, 256): Config(16, tile=16),
    ("columns_forward", 3, 1024): Config(8, 4),
    ("columns_inverse", 1, 16): Config(16, tile=256),
    ("columns_inverse", 1, 256): Config(16, tile=16),
    ("columns_inverse", 1, 1024): Config(16, tile=4),
    ("columns_inverse", 1, 4096): Config(32, tile=2),
    ("columns_inverse", 3, 16): Config(16, tile=256),
    ("columns_inverse", 3, 256): Config(16, tile=16),
    ("columns_inverse", 3, 1024): Config(16, tile=4),
    ("rows_forward", 1, 256): Config(1),
    ("rows_forward", 1, 512): Config(2),
    ("rows_forward", 1, 1024): Config(4),
    ("rows_forward", 1, 2048): Config(8),
    ("rows_forward", 1, 4096): Config(16),
    ("rows_backward", 1, 256): Config(1),
    ("rows_backward", 1, 512): Config(2),
    ("rows_backward", 1, 1024): Config(4),
    ("rows_backward", 1, 2048): Config(8, registers=168),
    ("rows_backward", 1, 4096): Config(16),
}
_TORCH_FASTER_99: tuple[tuple[int, int], ...] = ()
# End of the table for 99 KB.

# Table for 164 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: it follows the formula but where a kernel would spill registers.
_TABLE_164: dict[Key, Config] = {
    ("row_forward", 1, 256): Config(1),
    ("row_forward", 1, 512): Config(2),
    ("row_forward", 1, 1024): Config(4),
    ("row_forward", 1, 2048): Config(8),
    ("row_forward", 1, 4096): Config(16),
    ("row_forward", 3, 256): Config(1),
    ("row_forward", 3, 512): Config(2),
    ("row_forward", 3, 1024): Config(4),
    ("row_forward", 3, 2048): Config(8),
    ("row_backward", 1, 256): Config(1),
    ("row_backward", 1, 512): Config(2),
    ("row_backward", 1, 1024): Config(4),
    ("row_backward", 1, 2048): Config(8),
    ("row_backward", 1, 4096): Config(16),
    ("row_backward", 3, 256): Config(1),
    ("row_backward", 3, 512): Config(2),
    ("row_backward", 3, 1024): Config(4),
    ("row_backward", 3, 2048): Config(8),
    ("columns_forward", 1, 16): Config(16, tile=256),
    ("columns_forward", 1, 256): Config(16, tile=16),
    ("columns_forward", 1, 1024): Config(16, tile=4),
    ("columns_forward", 1, 4096): Config(32, tile=2),
    ("columns_forward", 3, 16): Config(8, 128),
    ("columns_forward", 3, 256): Config(16, tile=16),
    ("columns_forward", 3, 1024): Config(8, 4),
    ("columns_inverse", 1, 16): Config(16, tile=256),
    ("columns_inverse", 1, 256): Config(16, tile=16),
    ("columns_inverse", 1, 1024): Config(16, tile=4),
    ("columns_inverse", 1, 4096): Config(32, tile=2),
    ("columns_inverse", 3, 16): Config(16, tile=256),
    ("columns_inverse", 3, 256): Config(16, tile=16),
    ("columns_inverse", 3, 1024): Config(16, tile=4),
    ("rows_forward", 1, 256): Config(1),
    ("rows_forward", 1, 512): Config(2),
    ("rows_forward", 1, 1024): Config(4),
    ("rows_forward", 1, 2048): Config(8),
    ("rows_forward", 1, 4096): Config(16),
    ("rows_backward", 1, 256): Config(1),
    ("rows_backward", 1, 512): Config(2),
    ("rows_backward", 1, 1024): Config(4),
    ("rows_backward", 1, 2048): Config(8, registers=168),
    ("rows_backward", 1, 4096): Config(16),
}
_TORCH_FASTER_164: tuple[tuple[int, int], ...] = ()
# End of the table for 164 KB.

# Table for 227 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: it follows the formula but where a kernel would spill registers.
_TABLE_227: dict[Key, Config] = {
    ("row_forward", 1, 256): Config(1),
    ("row_forward", 1, 512): Config(2),
    ("row_forward", 1, 1024): Config(4),
    ("row_forward", 1, 2048): Config(8),
    ("row_forward", 1, 4096): Config(16),
    ("row_forward", 3, 256): Config(1),
    ("row_forward", 3, 512): Config(2),
    ("row_forward", 3, 1024): Config(4),
    ("row_forward", 3, 2048): Config(8),
    ("row_backward", 1, 256): Config(1),
    ("row_backward", 1, 512): Config(2),
    ("row_backward", 1, 1024): Config(4),
    ("row_backward", 1, 2048): Config(8),
    ("row_backward", 1, 4096): Config(16),
    ("row_backward", 3, 256): Config(1),
    ("row_backward", 3, 512): Config(2),
    ("row_backward", 3, 1024): Config(4),
    ("row_backward", 3, 2048): Config(8),
    ("columns_forward", 1, 16): Config(16, tile=256),
    ("columns_forward", 1, 256): Config(16, tile=16),
    ("columns_forward", 1, 1024): Config(16, tile=4),
    ("columns_forward", 1, 4096): Config(32, tile=2),
    ("columns_forward", 3, 16): Config(8, 128),
    ("columns_forward", 3, 256): Config(16, tile=16),
    ("columns_forward", 3, 1024): Config(8, 4),
    ("columns_inverse", 1, 16): Config(16, tile=256),
    ("columns_inverse", 1, 256): Config(16, tile=16),
    ("columns_inverse", 1, 1024): Config(16, tile=4),
    ("columns_inverse", 1, 4096): Config(32, tile=2),
    ("columns_inverse", 3, 16): Config(16, tile=256),
    ("columns_inverse", 3, 256): Config(16, tile=16),
    ("columns_inverse", 3, 1024): Config(16, tile=4),
    ("rows_forward", 1, 256): Config(1),
    ("rows_forward", 1, 512): Config(2),
    ("rows_forward", 1, 1024): Config(4),
    ("rows_forward", 1, 2048): Config(8),
    ("rows_forward", 1, 4096): Config(16),
    ("rows_backward", 1, 256): Config(1),
    ("rows_backward", 1, 512): Config(2),
    ("rows_backward", 1, 1024): Config(4),
    ("rows_backward", 1, 2048): Config(8),
    ("rows_backward", 1, 4096): Config(16),
}
_TORCH_FASTER_227: tuple[tuple[int, int], ...] = ()
# End of the table for 227 KB.

TABLES: dict[int, dict[Key, Config]] = {99: _TABLE_99, 164: _TABLE_164, 227: _TABLE_227}
"""By device class, its shared memory in KB."""

SPILLING: dict[int, tuple[Plan, ...]] = {
    99: (Plan(3, 1, 256), Plan(3, 1, 2048)),
    164: (Plan(3, 1, 256), Plan(3, 1, 2048)),
    227: (),
}
"""Plans of one pass that are not taken backward, because the kernel spills registers there: compiled for 8.0, up to 48
bytes a thread, which the transform of the next power of two may or may not be worth. No GPU has told yet."""

SPILLING_SHARED = frozenset({("row_backward", 2048), ("row_backward", 4096), ("rows_backward", 4096)})
"""Kernels and points of which several rows in a program, which share the filter's transform, spill registers: compiled
for 8.0 and 10.0, up to 48 bytes a thread. For 9.0 none does."""

TORCH_FASTER: dict[int, tuple[tuple[int, int], ...]] = {
    99: _TORCH_FASTER_99,
    164: _TORCH_FASTER_164,
    227: _TORCH_FASTER_227,
}
"""First and last length of every range in which plain PyTorch is faster, by device class."""

# For torch 2.6, which does not tell the shared memory of a device.
_CLASS_OF_CAPABILITY = {(8, 0): 164, (8, 7): 164, (9, 0): 227, (10, 0): 227}


def device_class(device: torch.device) -> int:
    """Shared memory of a block in KB: 227, 164 or 99, the last for what is no CUDA device, as in the interpreter."""
    if device.type != "cuda":
        return 99
    return _class_of(_known(device.index))


def _known(index: int | None) -> int:
    return torch.cuda.current_device() if index is None else index


@cache
def _class_of(index: int) -> int:
    properties: Any = torch.cuda.get_device_properties(index)
    if not hasattr(properties, "shared_memory_per_block_optin"):
        return _CLASS_OF_CAPABILITY.get((properties.major, properties.minor), 99)
    shared = properties.shared_memory_per_block_optin
    # A block of the A100 can have 163 of the 164 KB that give its class the name.
    return next((size for size, least in ((227, 227), (164, 163)) if shared >= least << 10), 99)


def backward_plan(length: int, device: torch.device) -> Plan:
    """How signals of ``length`` are transformed backward on a device."""
    plan = plan_for(length)
    return plan_for(4 * plan.rows) if plan in SPILLING[device_class(device)] else plan


def shares(kernel: str, points: int, device: torch.device) -> bool:
    """Whether several rows of so many points may share a program of a kernel on a device."""
    return (kernel, points) not in SPILLING_SHARED or (device.type == "cuda" and _is_hopper(_known(device.index)))


@cache
def _is_hopper(index: int) -> bool:
    major: int = torch.cuda.get_device_properties(index).major
    return major == 9


def keys(plan: Plan) -> Iterator[Key]:
    """The entries that transforms by a plan take."""
    if plan.columns == 1:
        yield from (("row_forward", plan.groups, plan.rows), ("row_backward", plan.groups, plan.rows))
        return
    yield from (("columns_forward", plan.groups, plan.columns), ("columns_inverse", plan.groups, plan.columns))
    yield from (("rows_forward", 1, plan.rows), ("rows_backward", 1, plan.rows))


def _missing(key: Key, shared: int) -> str | None:
    kernel, groups, points = key
    if key in TABLES[shared] or points not in SIZES.get((kernel, groups), ()):
        return None
    return (
        f"has no entry for {kernel} of {groups} × {points} points in its table for devices with {shared} KB of shared "
        "memory: measure one with `python -m bench.kernels.tune_triton --write-table`, or take the backend 'torch'"
    )


def config(kernel: str, groups: int, points: int, device: torch.device) -> Config:
    """The entry of a kernel for transforms of ``groups`` × ``points`` points on a device.

    Raises:
        BackendError: the table of the device's class lacks it. Points that no table has follow :func:`formula`.
    """
    shared = device_class(device)
    entry = TABLES[shared].get((kernel, groups, points))
    if entry is not None:
        return entry
    missing = _missing((kernel, groups, points), shared)
    if missing is not None:
        raise BackendError(f"backend 'triton' {missing}")
    return formula(kernel, points)


def obstacle(length: int, device: torch.device) -> str | None:
    """The reason why a signal of ``length`` cannot be transformed on a device: an entry that is missing; else None."""
    if not 1 <= length <= MAX_LENGTH:
        return None
    shared = device_class(device)
    plans = dict.fromkeys((plan_for(length), backward_plan(length, device)))
    reasons = (_missing(key, shared) for plan in plans for key in keys(plan))
    return next((reason for reason in reasons if reason is not None), None)


def algorithm(length: int, device: torch.device) -> str:
    """The faster one for signals of ``length`` on a device, whatever their dtype: ``"triton"`` or ``"torch"``.

    For a caller that names no backend; ``"triton"`` where nothing has been measured.
    """
    ranges = TORCH_FASTER[device_class(device)]
    return "torch" if any(first <= length <= last for first, last in ranges) else "triton"
