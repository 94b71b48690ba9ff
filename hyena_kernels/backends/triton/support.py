"""The devices and arguments that the Triton kernels support. Triton is not imported for it."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.backends.triton import table
from hyena_kernels.backends.triton.plan import MAX_LENGTH
from hyena_kernels.common import far_field, sizes
from hyena_kernels.common.reasons import (
    cuda_obstacle,
    joined,
    large_vocabulary,
    no_float64,
    sequence_length,
    too_wide,
)
from hyena_kernels.common.vocabulary import MAX_VOCABULARY, padded

MIN_CAPABILITY = (8, 0)
"""Compute capability of the oldest GPU that the kernels are made for, the A100."""

MIN_VERSION = (3, 5)
"""Oldest Triton that can compile the kernels."""

MAX_FILTER_WIDTH, MAX_FILTER_FEATURES = 128, 64
"""Largest width H of the network of an implicit filter, and most features E of a position."""

MAX_NORM_WIDTH = 4096
"""Largest width D of a row of a LayerNorm. A program holds whole rows in its registers."""

MAX_CLASSES, MAX_HEAD = 32, 4096
"""Most classes V of ``linear_cross_entropy``, and most weights V × D of its head, where V is rounded up to 16 or 32."""


BLOCK_SIZES = (32, 128)
"""Smallest and largest block h of ``far_field_conv``, a power of two."""

MAX_NODES, MAX_BLOCKS = 12, 8192
"""Most nodes p of a block of ``far_field_conv``, and most blocks. A program transforms a row over blocks at once."""

MAX_WINDOW = 128
"""Largest window of ``hyena_mixer_step``. A program holds the window of several rows in its registers."""


def interpreting() -> bool:
    """Whether ``TRITON_INTERPRET`` asks Triton to interpret its kernels, in any spelling that Triton accepts."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _installed() -> bool:
    # A stand-in module without a spec, as a test may use it, cannot compile kernels.
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _outdated() -> str | None:
    """Why the installed Triton cannot compile the kernels, or None if it can."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= MIN_VERSION:
        return None
    return f"needs triton {'.'.join(map(str, MIN_VERSION))} or newer, and {version} is installed"


def obstacles(device: torch.device) -> list[str]:
    """Every reason why the kernels cannot run on ``device``, for any shapes and dtypes."""
    found = []
    if device.type == "cuda":
        unfit = cuda_obstacle(device.index, MIN_CAPABILITY)
        if unfit is not None:
            found.append(unfit)
    elif device.type != "cpu" or not interpreting():
        found.append(f"runs on CUDA devices only, the tensors are on {device.type!r}")
    if not _installed():
        found.append("needs the package triton, which is not installed")
    elif (outdated := _outdated()) is not None:
        found.append(outdated)
    return found


def _transform_obstacle(length: int, device: torch.device) -> str | None:
    too_long = f"takes L up to 2^24 = {MAX_LENGTH}, the inputs are longer" if length > MAX_LENGTH else None
    return joined(too_long, table.obstacle(length, device))


def fftconv(signal: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``fftconv_fwd`` or ``fftconv_bwd``, or None if they can.

    The signal is ``u`` or ``dy``, ``(B, D, L)``.
    """
    return joined(no_float64(signal, *args), _transform_obstacle(signal.shape[2], signal.device))


def hyena_mixer(signal: Tensor, *args: Any) -> str | None:
    """As :func:`fftconv` for ``hyena_mixer``, with the signal ``x`` or ``dy`` of ``(B, L, channels)``."""
    return joined(no_float64(signal, *args), _transform_obstacle(signal.shape[1], signal.device))


def far_field_conv(u: Tensor, near: Tensor, nodes: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``far_field_conv_fwd``, or None if they can."""
    return joined(no_float64(u, near, nodes, *args), _block_obstacle(u.shape[2], near, nodes))


def far_field_conv_backward(dy: Tensor, u: Tensor, near: Tensor, nodes: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``far_field_conv_bwd``, or None if they can."""
    return far_field_conv(u, near, nodes, dy, *args)


def hyena_mixer_far(
    x: Tensor, weight: Tensor, bias: Tensor | None, near: Tensor, nodes: Tensor, *args: Any
) -> str | None:
    """As :func:`far_field_conv` for ``hyena_mixer_far_fwd``."""
    return joined(no_float64(x, weight, bias, near, nodes, *args), _block_obstacle(x.shape[1], near, nodes))


def hyena_mixer_far_backward(dy: Tensor, *args: Any) -> str | None:
    """As :func:`far_field_conv` for ``hyena_mixer_far_bwd``."""
    return hyena_mixer_far(*args, dy)


def _block_obstacle(length: int, near: Tensor, nodes: Tensor) -> str | None:
    h, p = far_field.settings_of(near, nodes)
    smallest, largest = BLOCK_SIZES
    fits = smallest <= h <= largest and h & (h - 1) == 0 and p <= MAX_NODES
    return joined(
        None
        if fits
        else f"takes blocks h of a power of two from {smallest} to {largest} with up to {MAX_NODES} nodes p, the "
        "inputs have others",
        f"takes up to {MAX_BLOCKS} blocks, the inputs have more"
        if far_field.block_count(length, h) > MAX_BLOCKS
        else None,
    )


def varlen(signal: Tensor, *args: Any) -> str | None:
    """As :func:`fftconv` for ``fftconv_varlen`` and ``hyena_mixer_varlen``, with a signal of any layout.

    ``args`` end with starts and lengths of the segments on the CPU, and with ``needs`` in a backward pass.
    """
    host_rows = args[-1] if isinstance(args[-1], Tensor) else args[-2]
    longest = sizes.class_length(int(host_rows[1, 0]))
    return joined(no_float64(signal, *args), _transform_obstacle(longest, signal.device))


def hyena_mixer_step(x: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``hyena_mixer_step``, or None if they can."""
    wide = f"takes windows of up to {MAX_WINDOW}, this one is larger" if args[-1] > MAX_WINDOW else None
    return joined(no_float64(x), wide)


def implicit_filter(z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``implicit_filter_fwd``, or None if they can."""
    return joined(no_float64(z, freq, *args), too_wide(z, freq, MAX_FILTER_WIDTH, MAX_FILTER_FEATURES))


def implicit_filter_backward(dk: Tensor, z: Tensor, freq: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``implicit_filter_bwd``, or None if they can."""
    return joined(no_float64(dk, z, freq, *args), too_wide(z, freq, MAX_FILTER_WIDTH, MAX_FILTER_FEATURES))


def layer_norm(signal: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``layer_norm`` or ``add_layer_norm``, or None if they can.

    They are those of a forward or a backward pass. The signal is ``(…, D)``.
    """
    wide = f"takes D up to {MAX_NORM_WIDTH}, the inputs are wider" if signal.shape[-1] > MAX_NORM_WIDTH else None
    float64 = "has no float64 kernels, and the result is to be float64" if torch.float64 in args[3:] else None
    return joined(no_float64(signal, *args) or float64, wide)


def embedding(ids: Tensor, weight: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``embedding_fwd``, or None if they can."""
    return joined(no_float64(ids, weight, *args), large_vocabulary(weight, MAX_VOCABULARY))


def embedding_backward(dy: Tensor, ids: Tensor, weight: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``embedding_bwd``, or None if they can."""
    return embedding(ids, weight, dy, *args)


def position_dropout(x: Tensor, *args: Any) -> str | None:
    """Why the kernel cannot run with these arguments of ``position_dropout``, or None if it can."""
    too_long = "takes L below 2^31, the input is longer" if x.shape[1] >= 1 << 31 else None
    return joined(no_float64(x), too_long)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``linear_cross_entropy_fwd``, or None if they can."""
    large = None
    if padded(weight.shape[0]) * weight.shape[1] > MAX_HEAD:
        large = f"takes heads of up to {MAX_HEAD} weights, with V rounded up to 16 or 32, the inputs have more"
    return joined(no_float64(hidden, weight, *args), large_vocabulary(weight, MAX_CLASSES), large)


def linear_cross_entropy_backward(dy: Tensor, hidden: Tensor, weight: Tensor, *args: Any) -> str | None:
    """Why the kernels cannot run with these arguments of ``linear_cross_entropy_bwd``, or None if they can."""
    return linear_cross_entropy(hidden, weight, dy, *args)


def slower(op: str, args: Sequence[Any]) -> str | None:
    """Why Triton is not chosen automatically for these arguments: plain PyTorch was faster. None if it may be."""
    length = sequence_length(op, args)
    if length is None or table.algorithm(length, args[0].device) != "torch":
        return None
    return "was measured to be slower at this length"
