"""``fftconv`` in Triton: which kernels run, over which slices. ``passes.py`` has the kernels.

``plan.py`` explains the transform. Its size P is L or a little more, because a weighted transform needs no zero padding
to 2L. A two-sided filter may have all 2L - 1 lags that reach an output: either side of it has at most P points.

Up to P = 6144 a program transforms rows on chip: it reads inputs once and writes results once. Longer signals take
three passes over a complex float32 scratch, for some channels at a time: columns, rows, and columns again.

Backward transforms the inputs again instead of keeping spectra. With ``F`` the weighted transform, ``x = pre_gate * u``
and ``g = post_gate * dy``: ``dx = F⁻¹(conj(F k) F g)`` and ``dk = F⁻¹(sum_b conj(F x) F g)``. The sum over the batch
is taken in one program, or over programs or launches in a fixed order. There are no atomics, so results are bitwise
reproducible.

Predicted at L = 2^20, D = 128, B = 1, bfloat16 signals and float32 filters, all gates, at 4.3 TB/s:

    forward     columns of signal and filter, rows, columns back      8.1 GB   1.9 ms
    backward    columns of x, g and the filter, rows, columns back   16.6 GB   3.9 ms

It takes less where the scratch of a slice stays in the L2 cache. None of this has been measured on a GPU so far.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyena_kernels.backends.triton import autotune, passes, table
from hyena_kernels.backends.triton.launch import Constants, constants, launch
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
"""Largest number of rows that share a program and the filter's transform in it."""
_PROGRAMS = 256
"""Programs that occupy a large GPU. Rows share a program only if there are more."""


SKIP_SPAN = 8192
"""Positions of a row of which a program sums the gradient of the skip, a multiple of the ``BLOCK`` below."""

SKIP_CONSTANTS = constants(SPAN=SKIP_SPAN, BLOCK=1024, num_warps=4)
"""Of the kernel that does this."""


class _Call:
    """A transform on one device: what all launches of a call share. It holds no tensor of the call itself."""

    def __init__(
        self, batch: int, channels: int, length: int, taps: int, causal: bool, plan: Plan | None, device: torch.device
    ) -> None:
        self.batch, self.channels, self.length, self.taps = batch, channels, length, taps
        self.plan = plan_for(length) if plan is None else plan
        if self.plan.size < length:
            raise ValueError(f"fftconv: a transform of {self.plan.size} points is too short for L = {length}")
        self.device = device
        self.tables: Tables = tables_for(self.plan, device)
        t = self.tables
        # Arguments of the kernels of one pass, and of those that transform columns.
        self.row_tables = t.group, t.digit, t.weighted
        self.column_tables = *self.row_tables, t.lane, t.column
        self.shift = sizes.centre(taps, causal)
        # `launch` looks a launch up by its constants, so each kind of launch keeps one object for all calls.
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
            # The signals have no negative lags, even if the filter has.
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

    def launch_columns(self, kernel: str, rows: int, args: tuple[Any, ...], *, filter: bool) -> None:
        """Launch a pass over the columns of ``rows`` rows."""
        constants = self.constants(kernel, FILTER=filter)
        launch(getattr(passes, kernel), (rows * self.plan.rows // constants.values["C"],), args, constants)

    def launch_rows(self, kernel: str, channels: int, args: tuple[Any, ...], **others: Any) -> None:
        """Launch a pass over the rows of the scratch."""
        grid = (channels * self.plan.groups * self.plan.columns,)
        launch(getattr(passes, kernel), grid, args, self.constants(kernel, **others))

    def slice_sizes(self, kernel: str, scratch_bytes: int, fixed: int, each: int) -> tuple[int, int]:
        """Batch entries and channels of a slice whose rows are transformed by ``kernel``.

        A channel takes ``fixed + each * batch`` rows of scratch. The batch is a multiple of a slice's batch entries.
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
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    forward_into(y, inputs, causal, plan=plan, scratch_bytes=scratch_bytes)
    return y


def forward_into(
    y: Tensor,
    inputs: FftconvInputs,
    causal: bool,
    *,
    plan: Plan | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> None:
    """As :func:`forward`, into ``y`` of any floating-point dtype. The dtypes of ``u`` and the gates may differ too."""
    u, k, D, pre_gate, post_gate = inputs
    if not y.numel():
        return
    call = _Call.of(u, k, causal, plan)
    # The kernels read D with a stride of 1.
    D = None if D is None else D.contiguous()
    with torch.cuda.device_of(u):
        if call.plan.columns == 1:
            rows = call.rows_per_program("row_forward")
            args = (
                u, pre_gate, post_gate, k, D, y, *call.row_tables, *call.sizes(call.channels),
                *_strides(u, pre_gate, post_gate), *k.stride(), *y.stride(),
            )  # fmt: skip
            grid = (call.channels * call.batch // rows,)
            launch(passes.row_forward, grid, args, call.constants("row_forward", ROWS=rows))
            return
        batch, step = call.slice_sizes("rows_forward", scratch_bytes, fixed=1, each=1)
        signal, filter = call.scratch(batch * step), call.scratch(step)
        for c in sizes.slices(call.channels, step):
            channels = len(range(*c.indices(call.channels)))
            _columns_forward(call, k[c], filter, skip=_part(D, c), filter=True)
            for b in sizes.slices(call.batch, batch):
                _columns_forward(call, u[b, c], signal, gate=_part(pre_gate, b, c))
                args = signal, filter, call.tables.plain, channels
                call.launch_rows("rows_forward", channels, args, BATCH=batch)
                _columns_inverse(call, signal, _Output(y[b, c], _part(post_gate, b, c)))


def _columns_forward(
    call: _Call,
    x: Tensor,
    scratch: Tensor,
    *,
    gate: Tensor | None = None,
    skip: Tensor | None = None,
    filter: bool = False,
) -> None:
    """First pass, to ``scratch``.

    Args:
        call: the transform.
        x: a signal ``(B, D, L)``, or a filter ``(D, K)``.
        scratch: ``(rows, 2, P)``.
        gate: ``(B, D, L)`` factor of a signal, or None.
        skip: ``(D,)`` to be added to the first taps of a filter, or None.
        filter: whether ``x`` is a filter.
    """
    shape = x.shape
    channels = shape[-2]
    rows, strides = (channels, (0, *x.stride())) if filter else (shape[0] * channels, x.stride())
    args = (
        x, gate, skip, scratch, *call.column_tables, *call.sizes(channels), *strides, *_strides(gate),
    )  # fmt: skip
    call.launch_columns("columns_forward", rows, args, filter=filter)


class _Output(NamedTuple):
    """A result of the last pass and the factor of the convolution in it. None: not wanted, and a factor of 1."""

    result: Tensor | None
    factor: Tensor | None = None


_NO_OUTPUT = _Output(None)


def _columns_inverse(
    call: _Call, scratch: Tensor, first: _Output, second: _Output = _NO_OUTPUT, *, filter: bool = False
) -> None:
    """Last pass, from ``scratch`` to up to two results ``(B, D, L)``, or to one filter's gradient ``(D, K)``."""
    like = first.result if second.result is None else second.result
    assert like is not None
    shape = like.shape
    channels = shape[-2]
    if filter:
        rows, strides = channels, [0, *like.stride(), *_strides(None, None, None)]
    else:
        rows, strides = shape[0] * channels, _strides(*first, *second)
    args = (scratch, *first, *second, *call.column_tables, *call.sizes(channels), *strides)
    call.launch_columns("columns_inverse", rows, args, filter=filter)


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
        causal: as in :func:`forward`.
        needs: which of the five gradients are wanted.
        plan: how to transform, by default :func:`.table.backward_plan` of L.
        scratch_bytes: as in :func:`forward`.

    Returns:
        Contiguous tensors like the inputs, of length 0 where not wanted.
    """
    grads = gradients_like(inputs, needs)
    wanted = Gradients(*only_needed(grads, needs))
    backward_into(wanted, dy, inputs, causal, plan=plan, scratch_bytes=scratch_bytes)
    return grads


class Gradients(NamedTuple):
    """Contiguous gradients that :func:`backward_into` writes, each like its input; None for those not wanted."""

    u: Tensor | None = None
    k: Tensor | None = None
    D: Tensor | None = None
    pre_gate: Tensor | None = None
    post_gate: Tensor | None = None


def backward_into(
    grads: Gradients,
    dy: Tensor,
    inputs: FftconvInputs,
    causal: bool,
    *,
    plan: Plan | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> None:
    """As :func:`backward`, with gradients that the caller has allocated.

    Args:
        grads: the gradients to write.
        dy: see :func:`backward`.
        inputs: see :func:`forward`.
        causal: see :func:`forward`.
        plan: see :func:`backward`.
        scratch_bytes: see :func:`forward`.
    """
    u, k, D, _, _ = inputs
    if not u.numel():
        for tensor in (grads.k, grads.D):
            if tensor is not None:
                tensor.zero_()
        return
    if grads.D is not None:
        with torch.cuda.device_of(u):
            _skip_gradient(grads.D, dy, inputs)
    if all(grad is None for grad in grads._replace(D=None)):
        return
    call = _Call.of(u, k, causal, table.backward_plan(u.shape[2], u.device) if plan is None else plan)
    skip = None if D is None else D.contiguous()
    run = _backward_one_pass if call.plan.columns == 1 else _backward_passes
    with torch.cuda.device_of(u):
        run(call, dy, inputs._replace(D=skip), grads, scratch_bytes)


def _skip_gradient(dD: Tensor, dy: Tensor, inputs: FftconvInputs) -> None:
    """Write the gradient of the skip from sums of spans in float64, which are added in the same order every time."""
    u, _, _, pre, post = inputs
    batch, channels, length = u.shape
    spans = -(-length // SKIP_SPAN)
    sums = torch.empty((batch, channels, spans), dtype=torch.float64, device=u.device)
    args = (dy, u, pre, post, sums, channels, length, spans, *_strides(dy, u, pre, post))
    launch(passes.row_skip, (sums.numel(),), args, SKIP_CONSTANTS)
    dD.copy_(sums.view(channels) if sums.numel() == channels else sums.sum(dim=(0, 2)))


def _backward_one_pass(call: _Call, dy: Tensor, inputs: FftconvInputs, grads: Gradients, scratch_bytes: int) -> None:
    du, dk, _, dpre, dpost = grads
    rows = call.rows_per_program("row_backward")
    chunks = call.batch // rows
    # Each program writes its own sum over its rows. These are added afterwards, always in the same order.
    step = max(1, scratch_bytes // (4 * call.taps * chunks)) if chunks > 1 else call.channels
    everything = slice(None)
    for c in sizes.slices(call.channels, step):
        channels = len(range(*c.indices(call.channels)))
        sums = None if dk is None else _sums(call, dk, c, chunks)
        u, k, D, pre, post = inputs.part(everything, c)
        args = (
            dy[:, c], u, pre, post, k, D, *(_part(grad, everything, c) for grad in (du, dpre, dpost)), sums,
            *call.row_tables, *call.sizes(channels), call.channels, *_strides(dy, u, pre, post), *k.stride(),
        )  # fmt: skip
        launch(passes.row_backward, (channels * chunks,), args, call.constants("row_backward", ROWS=rows))
        if dk is not None and sums is not None:
            _filter_gradient(dk[c], sums.sum(dim=0) if chunks > 1 else sums[0])


def _sums(call: _Call, dk: Tensor, channels: slice, chunks: int) -> Tensor:
    """``(chunks, D, K)`` float32 for the filters' gradients: ``dk`` itself if that is float32 and one sum is enough."""
    if chunks == 1 and dk.dtype == torch.float32:
        return dk[channels][None]
    rows = len(range(*channels.indices(call.channels)))
    return torch.empty((chunks, rows, call.taps), dtype=torch.float32, device=call.device)


def _filter_gradient(dk: Tensor, taps: Tensor) -> None:
    if dk.data_ptr() != taps.data_ptr():
        dk.copy_(taps)


def _backward_passes(call: _Call, dy: Tensor, inputs: FftconvInputs, grads: Gradients, scratch_bytes: int) -> None:
    u, k, D, pre, post = inputs
    du, dk, _, dpre, dpost = grads
    wants_filter = dk is not None
    wants_signal = du is not None or dpre is not None
    batch, step = call.slice_sizes("rows_backward", scratch_bytes, fixed=2, each=2)
    filter, filter_grad = call.scratch(step), call.scratch(step) if wants_filter else None
    signal, grad = call.scratch(batch * step), call.scratch(batch * step)
    for c in sizes.slices(call.channels, step):
        channels = len(range(*c.indices(call.channels)))
        if wants_signal or dpost is not None:
            _columns_forward(call, k[c], filter, skip=_part(D, c), filter=True)
        for b in sizes.slices(call.batch, batch):
            if wants_filter or dpost is not None:
                _columns_forward(call, u[b, c], signal, gate=_part(pre, b, c))
            if wants_filter or wants_signal:
                _columns_forward(call, dy[b, c], grad, gate=_part(post, b, c))
            args = signal, grad, filter, filter_grad, call.tables.plain, channels
            call.launch_rows(
                "rows_backward", channels, args,
                BATCH=batch, SIGNAL=wants_signal, POST=dpost is not None, ADD=b.start > 0,
            )  # fmt: skip
            if wants_signal:
                of_u = _Output(_part(du, b, c), _part(pre, b, c))
                of_pre = _Output(_part(dpre, b, c), u[b, c])
                _columns_inverse(call, grad, of_u, of_pre)
            if dpost is not None:
                _columns_inverse(call, signal, _Output(dpost[b, c], dy[b, c]))
        if dk is not None and filter_grad is not None:
            taps = _sums(call, dk, c, 1)[0]
            _columns_inverse(call, filter_grad, _Output(taps), filter=True)
            _filter_gradient(dk[c], taps)
