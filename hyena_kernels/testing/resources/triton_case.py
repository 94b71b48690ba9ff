"""A configuration of a Triton kernel for the resource test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One configuration of one kernel.

    Args:
        name: its name in the table, unique among all cases.
        kernel: the ``@triton.jit`` function.
        signature: type of every argument of the kernel: ``"*fp32"``, ``"*bf16"``, ``"i32"``, ``"i64"``, ``"fp32"`` …
            or ``"constexpr"``. Pointers are aligned to 16 bytes, as torch allocates them. ``"i32:16"`` is an integer
            that is a multiple of 16 at the launch.
        constexprs: values of the ``"constexpr"`` arguments: None for an absent tensor, 1 for a unit stride, on which
            Triton specialises.
        num_warps: warps in a block.
        num_stages: depth of the pipelined loops.
        maxnreg: bound on the registers of a thread, or None.
        absent: architectures on which no launch uses this configuration.
        milder: whether ``--quick`` leaves it out, because a similar case takes more registers.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None
    absent: tuple[int, ...] = ()
    milder: bool = False
