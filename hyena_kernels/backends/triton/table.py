"""Launch configurations of the long convolution: tiles, warps and algorithm, by device class, kernel and size.

Devices fall into three classes by the shared memory of a block: 99 KB (compute capability 8.6, 8.9, 12.0), 164 KB (8.0)
and 227 KB (9.0, 10.0). Each class has a table, and an entry is found by kernel, groups and points. Entries follow
:func:`formula`. Only those that differ from it are written out below, and a comment above each table says where they
come from. ``python -m bench.kernels.tune_triton --write-table`` measures on the GPU at hand and rewrites its table.

``TORCH_FASTER`` holds the ranges of lengths at which plain PyTorch (cuFFT) was measured to be faster than the kernels.
It is empty for a class that has not been measured, or where the kernels always win.

Importing this module needs torch, but not Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from hyena_kernels.backends.triton.plan import MAX_LENGTH, Plan, plan as plan_for

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
"""Points that plans use, by kernel and groups. Only tests force other sizes; these follow the formula too."""


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
    """The default: a thread holds the eight values of a digit, and a tile of columns holds 4096 points."""
    tile = max(2, 4096 // points) if kernel.startswith("columns") else 1
    return Config(max(1, tile * points // 256), tile)


# Table for 99 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: these kernels would spill registers if they followed the formula.
_TABLE_99: dict[Key, Config] = {
    ("columns_forward", 3, 16): Config(8, tile=128),
    ("columns_forward", 3, 1024): Config(8, tile=4),
    ("rows_backward", 1, 2048): Config(8, registers=168),
}
_TORCH_FASTER_99: tuple[tuple[int, int], ...] = ()
# End of the table for 99 KB.

# Table for 164 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: these kernels would spill registers if they followed the formula.
_TABLE_164: dict[Key, Config] = {
    ("columns_forward", 3, 16): Config(8, tile=128),
    ("columns_forward", 3, 1024): Config(8, tile=4),
    ("rows_backward", 1, 2048): Config(8, registers=168),
}
_TORCH_FASTER_164: tuple[tuple[int, int], ...] = ()
# End of the table for 164 KB.

# Table for 227 KB, written by bench.kernels.tune_triton.
# Nothing in it has been measured: these kernels would spill registers if they followed the formula.
_TABLE_227: dict[Key, Config] = {
    ("columns_forward", 3, 16): Config(8, tile=128),
    ("columns_forward", 3, 1024): Config(8, tile=4),
}
_TORCH_FASTER_227: tuple[tuple[int, int], ...] = ()
# End of the table for 227 KB.

_FORMULA = {(kernel, groups, n): formula(kernel, n) for (kernel, groups), sizes in SIZES.items() for n in sizes}

TABLES: dict[int, dict[Key, Config]] = {
    99: _FORMULA | _TABLE_99,
    164: _FORMULA | _TABLE_164,
    227: _FORMULA | _TABLE_227,
}
"""All entries by device class, which is named by its shared memory in KB."""

SPILLING: dict[int, tuple[Plan, ...]] = {
    99: (Plan(3, 1, 256), Plan(3, 1, 2048)),
    164: (Plan(3, 1, 256), Plan(3, 1, 2048)),
    227: (),
}
"""Plans of one pass that backward does not take, by device class, because the kernel spills registers.

Compiled for 8.0 it spills up to 48 bytes a thread. Backward takes the next power of two instead; which of the two is
faster has not been measured.
"""

SPILLING_SHARED = frozenset({("row_backward", 2048), ("row_backward", 4096), ("rows_backward", 4096)})
"""Kernels and points that spill registers when several rows share a program and the filter's transform in it.

Compiled for 8.0 and 10.0 they spill up to 48 bytes a thread. Compiled for 9.0 none spills.
"""

TORCH_FASTER: dict[int, tuple[tuple[int, int], ...]] = {
    99: _TORCH_FASTER_99,
    164: _TORCH_FASTER_164,
    227: _TORCH_FASTER_227,
}
"""First and last length of every range in which plain PyTorch is faster, by device class."""

# For torch 2.6, which does not report the shared memory of a device.
_CLASS_OF_CAPABILITY = {(8, 0): 164, (8, 7): 164, (9, 0): 227, (10, 0): 227}


def device_class(device: torch.device) -> int:
    """Shared memory of a block in KB: 227, 164 or 99. Other devices than CUDA ones, as in the interpreter, have 99."""
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
    # The class is called after the 164 KB of an A100's multiprocessor; a block can have 163 of them.
    return next((size for size, least in ((227, 227), (164, 163)) if shared >= least << 10), 99)


def backward_plan(length: int, device: torch.device) -> Plan:
    """The plan for the backward pass of signals of ``length`` on a device."""
    plan = plan_for(length)
    return plan_for(4 * plan.rows) if plan in SPILLING[device_class(device)] else plan


def shares(kernel: str, points: int, device: torch.device) -> bool:
    """Whether several rows of ``points`` points may share a program of a kernel on a device."""
    return (kernel, points) not in SPILLING_SHARED or is_hopper(device)


def is_hopper(device: torch.device) -> bool:
    """Whether a device has compute capability 9.0."""
    return device.type == "cuda" and _is_hopper(_known(device.index))


@cache
def _is_hopper(index: int) -> bool:
    major: int = torch.cuda.get_device_properties(index).major
    return major == 9


def keys(plan: Plan) -> Iterator[Key]:
    """Keys of the entries that a plan uses."""
    if plan.columns == 1:
        yield from (("row_forward", plan.groups, plan.rows), ("row_backward", plan.groups, plan.rows))
        return
    yield from (("columns_forward", plan.groups, plan.columns), ("columns_inverse", plan.groups, plan.columns))
    yield from (("rows_forward", 1, plan.rows), ("rows_backward", 1, plan.rows))


def config(kernel: str, groups: int, points: int, device: torch.device) -> Config:
    """The launch configuration of a kernel for transforms of ``groups`` × ``points`` points on a device."""
    return TABLES[device_class(device)].get((kernel, groups, points)) or formula(kernel, points)


def obstacle(length: int, device: torch.device) -> str | None:
    """Why signals of ``length`` cannot be transformed on a device: the table lacks a size. None if it lacks none."""
    if not 1 <= length <= MAX_LENGTH:
        return None
    shared = device_class(device)
    for plan in dict.fromkeys((plan_for(length), backward_plan(length, device))):
        for kernel, groups, points in keys(plan):
            if (kernel, groups, points) not in TABLES[shared]:
                return (
                    f"has no entry for {kernel} of {groups} × {points} points in its table for devices with {shared} "
                    "KB of shared memory: add the size to SIZES in hyena_kernels/backends/triton/table.py, or take the "
                    "backend 'torch'"
                )
    return None


def algorithm(length: int, device: torch.device) -> str:
    """The faster backend for signals of ``length`` on a device, in any dtype: ``"triton"`` or ``"torch"``.

    Asked when a caller names no backend. ``"triton"`` where nothing has been measured.
    """
    ranges = TORCH_FASTER[device_class(device)]
    return "torch" if any(first <= length <= last for first, last in ranges) else "triton"
