"""Properties of a device that launches depend on."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

# Kernels that tests emulate on the CPU get the shared memory of an H100.
_EMULATED_SHARED_BYTES = 227 << 10
_EMULATED_PROCESSORS = 132


def shared_bytes(device: torch.device) -> int:
    """Largest shared memory of a block on ``device``, in bytes."""
    return _EMULATED_SHARED_BYTES if device.type == "cpu" else _limits(_known(device.index))[0]


def processors(device: torch.device) -> int:
    """Number of streaming multiprocessors of ``device``."""
    return _EMULATED_PROCESSORS if device.type == "cpu" else _limits(_known(device.index))[1]


def _known(index: int | None) -> int:
    return torch.cuda.current_device() if index is None else index


@cache
def _limits(index: int) -> tuple[int, int]:
    properties: Any = torch.cuda.get_device_properties(index)
    return properties.shared_memory_per_block_optin, properties.multi_processor_count
