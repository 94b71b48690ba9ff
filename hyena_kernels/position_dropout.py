"""``position_dropout``: dropout whose mask follows from seed, sample, position and channel alone.

``torch.nn.functional.dropout`` draws its mask from the state of a generator. So the mask of an element depends on how
many elements were drawn before it: on the batch, its order, the number of processes and the device. Here it is a
function of what the element is, and no state is kept: backward computes the mask again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import position_dropout as torch_position_dropout
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common import philox
from hyena_kernels.common.inputs import PositionDropoutInputs
from hyena_kernels.registration import checks, library

_OP = "position_dropout"
BACKENDS = ("triton", "cpp", "torch")
"""The backends that have the op."""

# The op is linear, and its derivative is the op itself.
_MODULE = "hyena_kernels.backends.{}.position_dropout:forward"
_backend.register(_OP, "torch", torch_position_dropout.forward)
_backend.register(_OP, "cpp", _MODULE.format("cpp"))
_backend.register(_OP, "triton", _MODULE.format("triton"), triton_support.position_dropout)


def _fake(inputs: PositionDropoutInputs, p: float, seed: int, offset: int) -> Tensor:
    return torch.empty_like(inputs.x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, samples, *ctx.options = inputs
    ctx.save_for_backward(samples)


def _derivative(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (samples,) = ctx.saved_tensors
    dx: Tensor = _position_dropout(dy, samples, *ctx.options)
    return dx, None, None, None, None, None


_position_dropout = library.define(
    _OP,
    "Tensor x, Tensor samples, float p, SymInt seed, SymInt offset",
    PositionDropoutInputs,
    _fake,
    derivative=(_derivative, _save),
)


def position_dropout(
    x: Tensor, p: float, *, seed: int, samples: Tensor, offset: int = 0, backend: str | None = None
) -> Tensor:
    """Zero elements of ``x`` with probability ``p``, and divide the others by ``1 - p``.

    Element ``(b, l, d)`` is dropped if word ``d mod 4`` of a Philox block is below ``p`` 2^32. The key of the block is
    ``seed``. Its counter is ``(d // 4, offset + l, samples[b] mod 2^32, samples[b] // 2^32)``. So the bits of the mask
    do not depend on backend, device, dtype, number of threads, or the other rows and positions of ``x``. Rows,
    positions (with their ``offset``) and leading channels of a batch get what they get in the whole.

    Computed in float32, or in float64 if ``x`` is float64, and rounded once. A dropped element is 0, whatever it was.
    Autocast has no effect. Differentiable any number of times in ``x``. Nothing but ``samples`` is saved for backward.

    Args:
        x: ``(B, L, D)``; float16, bfloat16, float32 or float64; any strides.
        p: probability, from 0 to 1. It is rounded to a multiple of 2^-32.
        seed: 64 bits: from -2^63 to 2^64 - 1. Seeds that differ by 2^64 are the same.
        samples: ``(B,)`` int64, the number of each row's sample, on the device of ``x`` or on the CPU. A row whose
            sample has been seen before, under the same seed, gets the same mask.
        offset: position of the first column of ``x`` in its sample. The last position is below 2^32.
        backend: ``"triton"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, L, D)``, contiguous, of ``x``'s dtype. Always a new tensor.

    Raises:
        TypeError: ``x`` is not a dense tensor of a dtype named above, ``samples`` is no int64 tensor, or ``seed`` or
            ``offset`` is no whole number.
        ValueError: a shape, ``p``, ``seed`` or a position is out of range, ``samples`` is on a third device, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox 4x32-10), and Srivastava et al.,
    "Dropout", 2014.
    """
    checks.rank(_OP, "x", x, "(B, L, D)")
    checks.integers(_OP, "samples", samples, "(B,)")
    if samples.dtype != torch.int64:
        raise TypeError(f"{_OP}: samples {tuple(samples.shape)} has dtype {samples.dtype}, expected torch.int64")
    if samples.shape != x.shape[:1]:
        raise ValueError(
            f"{_OP}: samples has shape {tuple(samples.shape)}, expected (B,) = ({x.shape[0]},): one for each row of x"
        )
    if samples.device != x.device:
        if samples.device.type != "cpu":
            checks.same_device(_OP, x=x, samples=samples)
        samples = samples.to(x.device, non_blocking=True)
    if not 0 <= p <= 1:
        raise ValueError(f"{_OP}: p is {p}, expected a probability from 0 to 1")
    seed, offset = _number("seed", seed), _number("offset", offset)
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"{_OP}: seed is {seed}, expected 64 bits: from -2^63 to 2^64 - 1")
    if offset < 0 or offset + x.shape[1] > philox.POSITIONS:
        raise ValueError(
            f"{_OP}: x {tuple(x.shape)} begins at position {offset}, expected positions from 0 to 2^32 - 1"
        )
    if seed >= 1 << 63:
        seed -= 1 << 64
    requested = _backend.requested(backend, BACKENDS)
    result: Tensor = _position_dropout(x, samples, float(p), seed, offset, requested)
    return result


def _number(name: str, value: Any) -> int:
    # torch.compile would compile again for each number that goes through operator.index.
    if type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{_OP}: {name} must be a whole number, got {type(value).__name__}") from None


# See the end of fftconv.py.
position_dropout.position_dropout = position_dropout  # type: ignore[attr-defined]
