"""Resources of a block of a compiled kernel, and the number of blocks that an SM can hold. No torch, no Triton."""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32

_SUBPARTITIONS = 4
_REGISTER_UNIT = 256
_SHARED_UNIT = 128
_SHARED_RESERVED = 1024


@dataclass(frozen=True)
class Architecture:
    """Limits of a streaming multiprocessor (SM) and of one block on it; shared memory in bytes.

    Source: CUDA C++ Programming Guide, "Technical specifications per compute capability".
    """

    warps: int
    blocks: int
    shared: int
    shared_per_block: int
    registers: int = 1 << 16


ARCHITECTURES = {
    80: Architecture(warps=64, blocks=32, shared=164 << 10, shared_per_block=163 << 10),
    86: Architecture(warps=48, blocks=16, shared=100 << 10, shared_per_block=99 << 10),
    89: Architecture(warps=48, blocks=24, shared=100 << 10, shared_per_block=99 << 10),
    90: Architecture(warps=64, blocks=32, shared=228 << 10, shared_per_block=227 << 10),
    100: Architecture(warps=64, blocks=32, shared=228 << 10, shared_per_block=227 << 10),
    120: Architecture(warps=48, blocks=24, shared=100 << 10, shared_per_block=99 << 10),
}
"""By compute capability times ten, as in ``sm_80``."""


@dataclass(frozen=True)
class Resources:
    """Resources of one block of a compiled kernel.

    Args:
        arch: compute capability times ten.
        registers: 32-bit registers of a thread.
        stack_bytes: local memory of a thread, for spilled registers and arrays that are indexed at run time. 0 in a
            kernel that needs none.
        shared_bytes: shared memory of the block.
        threads: threads of the block.
        occupancy: resident warps, as a fraction of those that an SM can hold.
    """

    arch: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    threads: int
    occupancy: float

    def faults(self) -> list[str]:
        """A line for each spill or excess of shared memory."""
        limit = ARCHITECTURES[self.arch].shared_per_block
        faults = []
        if self.stack_bytes:
            faults.append(f"{self.stack_bytes} bytes of stack: registers spill")
        if self.shared_bytes > limit:
            faults.append(f"{self.shared_bytes} bytes of shared memory: a block can have {limit} on sm_{self.arch}")
        return faults


def occupancy(arch: int, registers: int, threads: int, shared_bytes: int) -> float:
    """Fraction of the warps of an SM that such blocks can occupy, as the CUDA occupancy calculator computes it.

    Args:
        arch: compute capability times ten, one of :data:`ARCHITECTURES`.
        registers: registers of a thread.
        threads: threads of a block.
        shared_bytes: shared memory of a block, without the KiB that the driver adds.
    """
    limits = ARCHITECTURES[arch]
    warps = -(-threads // WARP)
    registers_of_warp = _round_up(registers * WARP, _REGISTER_UNIT)
    resident_warps = _SUBPARTITIONS * (limits.registers // _SUBPARTITIONS // registers_of_warp)
    by_shared = limits.shared // _round_up(shared_bytes + _SHARED_RESERVED, _SHARED_UNIT)
    blocks = min(limits.blocks, limits.warps // warps, resident_warps // warps, by_shared)
    return blocks * warps / limits.warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
