"""The device that a model runs on, and its precision."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from hyenadna.common.errors import InputError
from hyenadna.common.world import world


def pick_device(name: str) -> torch.device:
    """The device of a name.

    In a world of several processes ``auto`` and ``cuda`` are the GPU with the number that this process has on its
    machine.

    Args:
        name: ``"auto"`` for a GPU if torch sees one, or a name of torch's such as ``"cpu"`` and ``"cuda:1"``.

    Raises:
        InputError: the device is neither a CPU nor a CUDA device, or torch does not see it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world().size > 1:
        name = f"cuda:{world().local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"`device` {name}: torch has no such device; choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"`device` {name}: only CPUs and CUDA devices are supported; choose auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"`device` {name}: torch sees no CUDA device here; choose cpu, or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"`device` {name}: torch sees {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return device


def autocast(name: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of ``"bfloat16"``, ``"float16"``, ``"off"``, or ``"auto"``: bfloat16 on a GPU, off on a CPU."""
    if name == "off" or (name == "auto" and device.type == "cpu"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.float16 if name == "float16" else torch.bfloat16)
