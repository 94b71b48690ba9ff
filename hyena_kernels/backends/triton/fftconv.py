"""``fftconv`` in Triton: which kernels run, over which slices. ``passes.py`` has the kernels.

The transform is that of ``plan.py``, whose size P is L or a little more, for a weighted transform
needs no zero padding to 2L. Up to P = 6144 a program transforms rows on chip: inputs are read once, results written
once. Above, columns, rows and columns again take a pass each over a complex float32 scratch, for some channels at a
time.

Backward transforms the inputs again instead of keeping spectra. With ``F`` the weighted transform, ``x = pre_gate * u``
and ``g = post_gate * dy``: ``dx = F⁻¹(conj(F k) F g)`` and ``dk = F⁻¹(sum_b conj(F x) F g)``. The sum over the batch is
taken in one program, or over programs or launches in their order, never by atomics: results are bitwise reproducible.

Predicted at L = 2^20, D = 128, B = 1, bfloat16 signals and float32 filters, all gates, at 4.3 TB/s:

    forward     columns of signal and filter, rows, columns back      8.1 GB   1.9 ms
    backward    columns of x, g and the filter, rows, columns back   16.6 GB   3.9 ms

Less where the scratch of a slice stays in the L2 cache. None of this has been measured on a GPU so far.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from hyena_kernels.backends.triton import autotune, passes, table
from hyena_kernels.backends.triton.launch import Constants, launch
from hyena_kernels.backends.triton.plan import (
    RADIX,
    SCRATCH_BYTES,
    Plan,
    Tables,
    plan as plan_for,
    tables as tables_for,
)
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvInputs

if autotune.enabled():
    autotune.install(passes)

_MAX_ROWS = 8
"""Most rows that share a program and the filter's transform in it."""
_PROGRAMS = 256
"""Programs that occupy a large GPU: rows share a program only beyond them."""


class _Call:
    """A transform on one device: what the launches of a call have in common, and nothing that holds its tensors."""

    def __init__(
        self, batch: int, channels: int, length: int, taps: int, causal: bool, plan: Plan | None, device: torch.device
    ) -> None:
        self.batch, self.channels, self.length, self.taps = batch, channels, length, taps
        self.plan = plan_for(length) if plan is None else plan
        if self.plan.size < length:
            raise ValueError(f"fftconv: a transform of {self.plan.size} points is too short for L = {length}")
        self.device = device
        self.tables: Tables = tables_for(self.plan, device)
        self.shift = sizes.centre(taps, causal)
        # A launch is found again by its constants (`launch`), so each kind of launch has one object for all calls.
        self.constants = cache(self._constants)

    @staticmethod
    def of(u: Tensor, k: Tensor, causal: bool, plan: Plan | None) -> _Call:
        batch, channels, length = u.shape
        return _call(batch, channels, length, k.shape[1], causal, plan, u.device)

    def sizes(self, channels: int) -> tuple[int, int, int, int]:
        return channels, self.length, self.taps, self.shift

    def rows_per_program(self, kernel: str) -> int:
        if self.plan.groups > 1 or not table.shares(kernel, self.plan.rows, self.device):
            return 1
        limit = min(_MAX_ROWS, max(1, self.batch * self.channels // _PROGRAMS))
        return _greatest_divisor(self.batch, limit)

    def _constants(self, kernel: str, **others: Any) -> Constants:
        """Constants and options of a kernel, with ``others``."""
        plan = self.plan
        if kernel.startswith("row_"):
            config = table.config(kernel, plan.groups, plan.rows, self.device)
            own = {"CAUSAL": self.shift == 0, "N": plan.rows, "G": plan.groups}
        elif kernel.startswith("columns_"):
            config = table.config(kernel, plan.groups, plan.columns, self.device)
            # Signals have taps of no negative lag, whatever the filter has.
            causal = self.shift == 0 or not others["FILTER"]
            own = {"CAUSAL": causal, "N": plan.columns, "C": self.tile(kernel), "ROWS": plan.rows, "G": plan.groups}
        else:
            config = table.config(kernel, 1, plan.rows, self.device)
            own = {"COLUMNS": plan.groups * plan.columns, "N": plan.rows}
        return Constants(**others, **own, V=RADIX, **config.launch)

    def tile(self, kernel: str) -> int:
        """Columns of a program."""
        plan = self.plan
        return min(table.config(kernel, plan.groups, plan.columns, self.device).tile, plan.rows)

    def columns(self, kernel: str, rows: int, filter: bool) -> tuple[tuple[int], Constants]:
        """Grid and constants of a pass over the columns of ``rows`` rows."""
        constants = self.constants(kernel, FILTER=filter)
        return (rows * self.plan.rows // constants.values["C"],), constants

    def rows(self, kernel: str, channels: int, **others: Any) -> tuple[tuple[int], Constants]:
        """Grid and constants of a pass over the rows of the scratch."""
        return (channels * self.plan.groups * self.plan.columns,), self.constants(kernel, **others)

    def slice_sizes(self, kernel: str, scratch_bytes: int, fixed: int, each: int) -> tuple[int, int]:
        """How much of the batch and how many channels are taken at a time, the rows by ``kernel``.

        A channel takes ``fixed + each * batch`` rows of scratch. The part of the batch divides it.
        """
        row_bytes = 8 * self.plan.size
        most = _MAX_ROWS if table.shares(kernel, self.plan.rows, self.device) else 1
        batch = _greatest_divisor(self.batch, min(most, max(1, (scratch_bytes // row_bytes - fixed) // each)))
        return batch, min(self.channels, max(1, scratch_bytes // (row_bytes * (fixed + each * batch))))

    def scratch(self, rows: int) -> Tensor:
        return torch.empty((rows, 2, self.plan.size), dtype=torch.float32, device=self.device)


_call = lru_cache(maxsize=256)(_Call)


def _greatest_divisor(number: int, limit: int) -> int:
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def _part(tensor: Tensor | None, *slices: slice) -> Tensor | None:
    return None if tensor is None else tensor[slices]


def _strides(*tensors: Tensor | None) -> list[int]:
    return [stride for tensor in tensors for stride in ((0, 0, 0) if tensor is None else tensor.stride())]


def forward(
    inputs: FftconvInputs,
    causal: bool,
    *,
    plan: Plan | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> Tensor:
    """Op ``fftconv_fwd``; :func:`hyena_kernels.fftconv` describes its arguments and its result.

    Args:
        inputs: the op's tensors.
        causal: whether the filter has lags ≥ 0 only.
        plan: how to transform, by default the plan of L.
        scratch_bytes: bound of the scratch of several passes.
    """
    u, k, D, pre_gate, post_gate = inputs
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    if not y.numel():
        return y
    call = _Call.of(u, k, causal, plan)
    t = call.tables
    # The kernels step through D by ones.
    D = None if D is None else D.contiguous()
    with torch.cuda.device_of(u):
        if call.plan.columns == 1:
            rows = call.rows_per_program("row_forward")
            args = (
                u, pre_gate, post_gate, k, D, y, t.group, t.digit, t.weighted, *call.sizes(call.channels),
                *_strides(u, pre_gate, post_gate), *k.stride(), *y.stride(),
            )  # fmt: skip
            grid = (call.channels * call.batch // rows,)
            launch(passes.row_forward, grid, args, call.constants("row_forward", ROWS=rows))
            return y
        batch, step = call.slice_sizes("rows_forward", scratch_bytes, fixed=1, each=1)
        signal, filter = call.scratch(batch * step), call.scratch(step)
        for c in sizes.slices(call.channels, step):
            channels = len(range(*c.indices(call.channels)))
            _filter_in(call, k[c], _part(D, c), filter)
            for b in sizes.slices(call.batch, batch):
                _signal_in(call, u[b, c], _part(pre_gate, b, c), signal)
                grid, constants = call.rows("rows_forward", channels, BATCH=batch)
                launch(passes.rows_forward, grid, (signal, filter, t.plain, channels), constants)
                _signal_out(call, signal, (y[b, c], _part(post_gate, b, c)))
    return y


def _filter_in(call: _Call, k: Tensor, D: Tensor | None, scratch: Tensor) -> None:
    grid, constants = call.columns("columns_forward", k.shape[0], filter=True)
    t = call.tables
    args = (
        k, None, D, scratch, t.group, t.digit, t.weighted, t.lane, t.column, *call.sizes(k.shape[0]),
        0, *k.stride(), *_strides(None),
    )  # fmt: skip
    launch(passes.columns_forward, grid, args, constants)


def _signal_in(call: _Call, x: Tensor, gate: Tensor | None, scratch: Tensor) -> None:
    grid, constants = call.columns("columns_forward", x.shape[0] * x.shape[1], filter=False)
    t = call.tables
    args = (
        x, gate, None, scratch, t.group, t.digit, t.weighted, t.lane, t.column, *call.sizes(x.shape[1]),
        *_strides(x, gate),
    )  # fmt: skip
    launch(passes.columns_forward, grid, args, constants)


_Product = tuple[Tensor | None, Tensor | None]
"""A result that is wanted, or None, and the factor of the convolution in it, or None for 1."""


def _signal_out(call: _Call, scratch: Tensor, first: _Product, second: _Product = (None, None)) -> None:
    like = first[0] if second[0] is None else second[0]
    assert like is not None
    grid, constants = call.columns("columns_inverse", like.shape[0] * like.shape[1], filter=False)
    t = call.tables
    args = (
        scratch, *first, *second, t.group, t.digit, t.weighted, t.lane, t.column, *call.sizes(like.shape[1]),
        *_strides(*first, *second),
    )  # fmt: skip
    launch(passes.columns_inverse, grid, args, constants)


def _filter_out(call: _Call, scratch: Tensor, dk: Tensor) -> None:
    grid, constants = call.columns("columns_inverse", dk.shape[0], filter=True)
    t = call.tables
    args = (
        scratch, dk, None, None, None, t.group, t.digit, t.weighted, t.lane, t.column, *call.sizes(dk.shape[0]),
        0, *dk.stride(), *_strides(None, None, None),
    )  # fmt: skip
    launch(passes.columns_inverse, grid, args, constants)


def backward(
    dy: Tensor,
    inputs: FftconvInputs,
    causal: bool,
    needs: list[bool],
    *,
    plan: Plan | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[Tensor, ...]:
    """Op ``fftconv_bwd``: gradients of ``u``, ``k``, ``D``, ``pre_gate`` and ``post_gate``.

    Args:
        dy: ``(B, D, L)`` gradient of the result.
        inputs: as in :func:`forward`.
        causal: see there.
        needs: which of the five are wanted.
        plan: see there.
        scratch_bytes: see there.

    Returns:
        Contiguous tensors like the inputs; one of length 0 for each that is not wanted.
    """
    grads = gradients_like(inputs, needs)
    wanted = only_needed(grads, needs)
    backward_into(wanted, dy, inputs, causal, plan=plan, scratch_bytes=scratch_bytes)
    return grads


_Grads = tuple[Tensor | None, ...]
"""Gradients of ``u``, ``k``, ``D``, ``pre_gate`` and ``post_gate``, with None for each that is not wanted."""


def backward_into(
    grads: _Grads,
    dy: Tensor,
    inputs: FftconvInputs,
    causal: bool,
    *,
    plan: Plan | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> None:
    """As :func:`backward`, into those of the five contiguous ``grads`` that are not None.

    Args:
        grads: of ``u``, ``k``, ``D``, ``pre_gate`` and ``post_gate``.
        dy: see :func:`backward`.
        inputs: the five.
        causal: see :func:`backward`.
        plan: see :func:`forward`.
        scratch_bytes: see there.
    """
    u, k, D, _, _ = inputs
    if not u.numel():
        for tensor in grads[1:3]:
            if tensor is not None:
                tensor.zero_()
        return
    call = _Call.of(u, k, causal, table.backward_plan(u.shape[2], u.device) if plan is None else plan)
    skip = None if D is None else D.contiguous()
    run = _backward_one_pass if call.plan.columns == 1 else _backward_passes
    with torch.cuda.device_of(u):
        run(call, dy, inputs._replace(D=skip), grads, scratch_bytes)


def _backward_one_pass(call: _Call, dy: Tensor, inputs: FftconvInputs, grads: _Grads, scratch_bytes: int) -> None:
    u, k, D, pre, post = inputs
    du, dk, dD, dpre, dpost = grads
    if all(grad is None for grad in grads):
        return
    t = call.tables
    rows = call.rows_per_program("row_backward")
    chunks = call.batch // rows
    # One sum over the batch for each program; they are added afterwards, in an order that is always the same.
    step = max(1, scratch_bytes // (4 * call.taps * chunks)) if chunks > 1 else call.channels
    for c in sizes.slices(call.channels, step):
        channels = len(range(*c.indices(call.channels)))
        wanted = dk is not None or dD is not None
        sums = _sums(call, dk, c, chunks) if wanted else None
        signals = [_part(x, slice(None), c) for x in (dy, u, pre, post)]
        args = (
            *signals, k[c], _part(D, c), *(_part(x, slice(None), c) for x in (du, dpre, dpost)), sums,
            t.group, t.digit, t.weighted, *call.sizes(channels), call.channels, *_strides(*signals), *k.stride(),
        )  # fmt: skip
        launch(passes.row_backward, (channels * chunks,), args, call.constants("row_backward", ROWS=rows))
        if sums is not None:
            _filter_grads(call, sums.sum(dim=0) if chunks > 1 else sums[0], _part(dk, c), _part(dD, c))


def _sums(call: _Call, dk: Tensor | None, channels: slice, chunks: int) -> Tensor:
    """``(chunks, D, K)`` float32 for the filters' gradients: ``dk`` itself, if one sum of its dtype is enough."""
    if chunks == 1 and dk is not None and dk.dtype == torch.float32:
        return dk[channels][None]
    rows = len(range(*channels.indices(call.channels)))
    return torch.empty((chunks, rows, call.taps), dtype=torch.float32, device=call.device)


def _filter_grads(call: _Call, taps: Tensor, dk: Tensor | None, dD: Tensor | None) -> None:
    if dk is not None and dk.data_ptr() != taps.data_ptr():
        dk.copy_(taps)
    if dD is not None:
        dD.copy_(taps[:, call.shift])


def _backward_passes(call: _Call, dy: Tensor, inputs: FftconvInputs, grads: _Grads, scratch_bytes: int) -> None:
    u, k, D, pre, post = inputs
    du, dk, dD, dpre, dpost = grads
    wants_filter = dk is not None or dD is not None
    wants_signal = du is not None or dpre is not None
    if not (wants_filter or wants_signal or dpost is not None):
        return
    batch, step = call.slice_sizes("rows_backward", scratch_bytes, fixed=2, each=2)
    filter, filter_grad = call.scratch(step), call.scratch(step) if wants_filter else None
    signal, grad = call.scratch(batch * step), call.scratch(batch * step)
    for c in sizes.slices(call.channels, step):
        channels = len(range(*c.indices(call.channels)))
        if wants_signal or dpost is not None:
            _filter_in(call, k[c], _part(D, c), filter)
        for b in sizes.slices(call.batch, batch):
            if wants_filter or dpost is not None:
                _signal_in(call, u[b, c], _part(pre, b, c), signal)
            if wants_filter or wants_signal:
                _signal_in(call, dy[b, c], _part(post, b, c), grad)
            grid, constants = call.rows(
                "rows_backward", channels, BATCH=batch, SIGNAL=wants_signal, POST=dpost is not None, ADD=b.start > 0
            )
            args = signal, grad, filter, filter_grad, call.tables.plain, channels
            launch(passes.rows_backward, grid, args, constants)
            if wants_signal:
                _signal_out(call, grad, (_part(du, b, c), _part(pre, b, c)), (_part(dpre, b, c), u[b, c]))
            if dpost is not None:
                _signal_out(call, signal, (dpost[b, c], dy[b, c]))
        if filter_grad is not None:
            taps = _sums(call, dk, c, 1)[0]
            _filter_out(call, filter_grad, taps)
            _filter_grads(call, taps, _part(dk, c), _part(dD, c))
