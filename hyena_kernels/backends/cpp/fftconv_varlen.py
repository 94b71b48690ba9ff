"""``fftconv_varlen`` on the C++ kernels of ``csrc/cpu``, segment by segment in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyena_kernels.backends.cpp.schemas import ops
from hyena_kernels.common import sizes
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.common.inputs import FftconvVarlenInputs
from hyena_kernels.common.packed import Sums


def _parts(rows: Sequence[Tensor | None], start: int, length: int) -> list[Tensor | None]:
    return [None if row is None else row.narrow(2, start, length) for row in rows]


def forward(inputs: FftconvVarlenInputs) -> Tensor:
    """As ``hyena_kernels::fftconv_varlen_fwd``."""
    u, k, D, pre_gate, post_gate, _, host_rows = inputs
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    rows = [None if tensor is None else tensor[None] for tensor in (y, u, pre_gate, post_gate)]
    for start, length in zip(*host_rows.tolist(), strict=True):
        y_part, u_part, *gates = _parts(rows, start, length)
        ops.fftconv_fwd(y_part, u_part, k[:, :length], D, *gates, 0)
    return y


def backward(dy: Tensor, inputs: FftconvVarlenInputs, needs: list[bool]) -> tuple[Tensor, ...]:
    """As ``hyena_kernels::fftconv_varlen_bwd``."""
    u, k, D, pre_gate, post_gate, _, host_rows = inputs
    du, dk, dD, dpre, dpost, *_ = grads = gradients_like(inputs, needs)
    shared = Sums((dk, dD), needs[1:3], sizes.accumulator(u, k))
    k, D = shared.widened((k, D))
    own = only_needed((du, dpre, dpost), (needs[0], needs[3], needs[4]))
    rows = [None if tensor is None else tensor[None] for tensor in (*own, dy, u, pre_gate, post_gate)]
    for start, length in zip(*host_rows.tolist(), strict=True):
        du_part, dpre_part, dpost_part, dy_part, u_part, *gates = _parts(rows, start, length)
        k_part = k[:, :length]
        parts = gradients_like((k_part, D), needs[1:3])
        filters = only_needed(parts, needs[1:3])
        ops.fftconv_bwd(du_part, *filters, dpre_part, dpost_part, dy_part, u_part, k_part, D, *gates, 0)
        shared.add(parts)
    shared.write()
    return grads
