"""Ops of packed rows by way of the ops of padded rows.

A group is what one call of the padded op takes. On a CPU it is one segment, which is a view of the packed row. On other
devices a call costs a launch, so a group is a class: segments whose lengths round up to the same class length, gathered
into rows of that length with zeros behind them. A causal convolution of such a row begins with that of the segment.
Class lengths are ``2^n`` and ``3 · 2^n``. A transform has such a size anyway, so the zeros cost it nothing.

The class length depends on the segment's own length alone. So does all that a row is computed from, whatever else is
in the batch. Only the gradients of filters are sums over segments. Groups add to them in order, longest segments first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like
from hyena_kernels.common.inputs import FftconvInputs, FftconvVarlenInputs, MixerInputs, MixerVarlenInputs

ONE_BY_ONE = {"cpu"}
"""Types of devices on which a group is one segment."""

Needs = list[bool]


class Segment:
    """A group of one segment: views of the packed row.

    Args:
        start: first position.
        length: number of positions, and of the rows of :meth:`take`.
    """

    def __init__(self, start: int, length: int) -> None:
        self.part = slice(start, start + length)
        self.length = self.longest = length

    def take(self, packed: Tensor, axis: int) -> Tensor:
        """The rows of a packed tensor, with a batch dimension in front. ``axis`` is its axis of positions."""
        return packed[(slice(None),) * axis + (self.part,)][None]

    def put(self, packed: Tensor, axis: int, rows: Tensor) -> None:
        """Write rows as :meth:`take` gives them into a packed tensor."""
        packed[(slice(None),) * axis + (self.part,)] = rows[0]


class Class:
    """A group of segments of one class: rows with zeros behind them.

    Args:
        source: ``(T_c,)`` their positions in the packed row, one segment after the other.
        place: ``(T_c,)`` where these go in the rows, one row after the other.
        count: number of rows.
        longest: length of the longest of them.
    """

    def __init__(self, source: Tensor, place: Tensor, count: int, longest: int) -> None:
        self.source = source
        self.place = place
        self.count = count
        self.longest = longest
        self.length = sizes.class_length(longest)

    def take(self, packed: Tensor, axis: int) -> Tensor:
        """As :meth:`Segment.take`."""
        shape = list(packed.shape)
        shape[axis] = self.count * self.length
        padded = packed.new_zeros(shape).index_copy_(axis, self.place, packed.index_select(axis, self.source))
        return padded.unflatten(axis, (self.count, self.length)).movedim(axis, 0)

    def put(self, packed: Tensor, axis: int, rows: Tensor) -> None:
        """As :meth:`Segment.put`."""
        flat = rows.movedim(0, axis).flatten(axis, axis + 1)
        packed.index_copy_(axis, self.source, flat.index_select(axis, self.place))


# The classes of a plan by its rows, as long as these live, and by the range of its segments. All layers share them.
_classes: MutableMapping[Tensor, dict[tuple[int, int], Class]] = WeakTensorKeyDictionary()


def _class(rows: Tensor, lengths: Sequence[int], first: int, end: int) -> Class:
    """The class of segments ``first … end - 1``, of the given lengths.

    Its indices are computed on the device of ``rows`` from what is there. Nothing waits for that.
    """
    kept = _classes.setdefault(rows, {})
    found = kept.get((first, end))
    if found is None:
        positions = sum(lengths)
        starts, counts = rows[:, first:end]
        row = torch.arange(end - first, device=rows.device).repeat_interleave(counts, output_size=positions)
        offset = torch.arange(positions, device=rows.device) - (counts.cumsum(0) - counts)[row]
        place = row * sizes.class_length(lengths[0]) + offset
        found = kept[first, end] = Class(starts[row] + offset, place, end - first, lengths[0])
    return found


def groups(rows: Tensor, host_rows: Tensor, position_bytes: int) -> Iterator[Segment | Class]:
    """Groups that hold every segment once, longest first.

    Args:
        rows: as in :class:`FftconvVarlenInputs`.
        host_rows: as there.
        position_bytes: bytes of all padded tensors at one position. A class is cut where its rows take more scratch
            than :mod:`hyena_kernels.common.sizes` allows.
    """
    starts, lengths = host_rows.tolist()
    if rows.device.type in ONE_BY_ONE:
        yield from map(Segment, starts, lengths)
        return
    scratch = sizes.SCRATCH_BYTES.get(rows.device.type, sizes.SCRATCH_BYTES_ELSEWHERE)
    first = 0
    while first < len(lengths):
        length = sizes.class_length(lengths[first])
        most = first + max(1, scratch // (position_bytes * length))
        end = first + 1
        while end < min(most, len(lengths)) and sizes.class_length(lengths[end]) == length:
            end += 1
        yield _class(rows, lengths[first:end], first, end)
        first = end


class Sums:
    """Gradients of tensors that all groups share, as sums over groups.

    Args:
        grads: where they go in the end.
        needs: which of them are needed.
        dtype: dtype of the sums.

    Attributes:
        sums: for each of them its sum, or None. They begin with zero.
    """

    def __init__(self, grads: Sequence[Tensor], needs: Sequence[bool], dtype: torch.dtype) -> None:
        self.grads = grads
        self.dtype = dtype
        self.sums = [
            torch.zeros_like(grad, dtype=dtype) if needed else None for grad, needed in zip(grads, needs, strict=True)
        ]

    def widened(self, tensors: Sequence[Tensor | None]) -> list[Any]:
        """The shared tensors in the dtype of the sums. A backend gives gradients in the dtype of its inputs."""
        return [None if tensor is None else tensor.to(self.dtype) for tensor in tensors]

    def add(self, parts: Sequence[Tensor], taps: int, k: int) -> None:
        """Add the gradients of one group.

        Args:
            parts: one for each sum.
            taps: how many taps of the long filters the group reaches. Their gradients are zero beyond, up to rounding.
            k: index of the long filters among them.
        """
        for index, (total, part) in enumerate(zip(self.sums, parts, strict=True)):
            if total is not None and index == k:
                part = part[..., :taps]
                total[..., : part.shape[-1]] += part
            elif total is not None:
                total += part

    def write(self) -> None:
        """Write the sums to their place."""
        for grad, total in zip(self.grads, self.sums, strict=True):
            if total is not None:
                grad.copy_(total)


def fftconv_forward(inputs: FftconvVarlenInputs, run: Callable[..., Tensor]) -> Tensor:
    """As ``hyena_kernels::fftconv_varlen_fwd``, by the ``forward`` of a backend's ``fftconv``."""
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    for group, part in _fftconv_parts(inputs, 2):
        group.put(y, 1, run(part, True))
    return y


def fftconv_backward(
    dy: Tensor, inputs: FftconvVarlenInputs, needs: Needs, run: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_varlen_bwd``, by the ``backward`` of a backend's ``fftconv``."""
    grads = gradients_like(inputs, needs)
    shared = Sums(grads[1:3], needs[1:3], sizes.accumulator(inputs.u, inputs.k))
    k, D = shared.widened(inputs[1:3])
    for group, part in _fftconv_parts(inputs._replace(k=k, D=D), 4):
        parts = run(group.take(dy, 1), part, True, needs[:5])
        for index in (0, 3, 4):
            if needs[index]:
                group.put(grads[index], 1, parts[index])
        shared.add(parts[1:3], group.longest, 0)
    shared.write()
    return grads


def _fftconv_parts(inputs: FftconvVarlenInputs, arrays: int) -> Iterator[tuple[Segment | Class, FftconvInputs]]:
    """Groups with what ``fftconv`` takes for them. So many padded arrays besides gates are alive at a time."""
    u, k, D, pre_gate, post_gate, rows, host_rows = inputs
    arrays += sum(gate is not None for gate in (pre_gate, post_gate))
    for group in groups(rows, host_rows, arrays * u.shape[0] * u.element_size()):
        gates = [None if gate is None else group.take(gate, 1) for gate in (pre_gate, post_gate)]
        yield group, FftconvInputs(group.take(u, 1), k[:, : group.length], D, *gates)


def mixer_forward(inputs: MixerVarlenInputs, run: Callable[..., Tensor]) -> Tensor:
    """As ``hyena_kernels::hyena_mixer_varlen_fwd``, by the ``forward`` of a backend's ``hyena_mixer``."""
    y = inputs.x.new_empty((inputs.x.shape[0], inputs.k.shape[1]))
    for group, part in _mixer_parts(inputs, 2):
        group.put(y, 0, run(part))
    return y


def mixer_backward(
    dy: Tensor, inputs: MixerVarlenInputs, needs: Needs, run: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::hyena_mixer_varlen_bwd``, by the ``backward`` of a backend's ``hyena_mixer``."""
    grads = gradients_like(inputs, needs)
    shared = Sums(grads[1:5], needs[1:5], sizes.accumulator(inputs.x, inputs.short_weight, inputs.k))
    weight, bias, k, D = shared.widened(inputs[1:5])
    for group, part in _mixer_parts(inputs._replace(short_weight=weight, short_bias=bias, k=k, D=D), 3):
        parts = run(group.take(dy, 0), part, needs[:5])
        if needs[0]:
            group.put(grads[0], 0, parts[0])
        shared.add(parts[1:5], group.longest, 2)
    shared.write()
    return grads


def _mixer_parts(inputs: MixerVarlenInputs, arrays: int) -> Iterator[tuple[Segment | Class, MixerInputs]]:
    """As :func:`_fftconv_parts` for ``hyena_mixer``."""
    x, weight, bias, k, D, rows, host_rows = inputs
    for group in groups(rows, host_rows, arrays * x.shape[1] * x.element_size()):
        yield group, MixerInputs(group.take(x, 0), weight, bias, k[..., : group.length], D)
