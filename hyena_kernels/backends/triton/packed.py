"""Long convolutions of packed rows, which the kernels read and write where they are.

Rows whose lengths take the same transform are a class, and a class is one group of launches. Its kernels find their
rows in arrays of starts and lengths, see :func:`.passes._place`. So nothing is gathered, no row is padded in memory,
and results go to their places. The class depends on a row's own length alone. For one filter, every row's result is
thus computed in the same way whatever else is packed with it.

A filter has as many taps as a row, or as the transform where the row is shorter: what taps beyond the row's length add
comes after its end. The gradients of filters are added class by class, the longest rows first. Within a class they are
added as :mod:`.fftconv` says. There are no atomics.

Predicted for ``hyena_mixer_varlen`` of 64 sequences, bfloat16, D = 128, order 2, float32 filters, at 4.3 TB/s. The
gather is that of :mod:`hyena_kernels.common.packed`. Where one pass is enough, a position and channel takes 28 bytes
forward and 66 backward in place, and 1.2 times as many with a gather, plus 39 and 66 for the gather itself:

    log-normal genes, 122,870 bp     forward   0.69 GB   0.16 ms    with a gather   1.41 GB   0.33 ms
                                     backward  1.64 GB   0.38 ms                    2.90 GB   0.67 ms
    60 to 500 bp, 17,411 bp          forward   0.06 GB   0.015 ms                   0.16 GB   0.038 ms
                                     backward  0.15 GB   0.035 ms                   0.33 GB   0.076 ms
    these and one of 16,384 bp       forward   0.23 GB   0.053 ms                   0.41 GB   0.095 ms
                                     backward  0.51 GB   0.12 ms                    0.81 GB   0.19 ms

None of this has run on a GPU so far.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hyena_kernels.backends.triton import fftconv
from hyena_kernels.backends.triton.fftconv import Gradients, Segments
from hyena_kernels.backends.triton.plan import Plan, plan as plan_for
from hyena_kernels.backends.triton.table import backward_plan
from hyena_kernels.common.inputs import FftconvInputs


class Packed:
    """The rows of a call.

    Args:
        rows: ``(2, S)`` int64 starts and lengths on the device, longest row first. The rows cover all positions.
        host_rows: the same numbers on the CPU.
    """

    def __init__(self, rows: Tensor, host_rows: Tensor) -> None:
        self.starts, self.lengths = rows.contiguous()
        self.host_lengths: list[int] = host_rows[1].tolist()

    def marks(self) -> Tensor:
        """``(T + 1,)`` uint8: 1 where a row starts or the last one ends, else 0."""
        # Every row ends where another starts, or at T.
        marks = torch.zeros(sum(self.host_lengths) + 1, dtype=torch.uint8, device=self.starts.device)
        return marks.index_fill_(0, self.starts, 1).index_fill_(0, self.starts + self.lengths, 1)

    def classes(self, plan_of: Callable[[int], Plan]) -> Iterator[tuple[Plan, int, Segments]]:
        """Each class with its plan and its longest length, from long rows to short ones.

        Args:
            plan_of: from a length to its plan. Longer rows have no smaller transforms.
        """
        lengths, first = self.host_lengths, 0
        while first < len(lengths):
            plan = plan_of(lengths[first])
            end = bisect_left(lengths, True, first, key=lambda length: plan_of(length) != plan)
            yield plan, lengths[first], Segments(self.starts[first:end], self.lengths[first:end], end - first)
            first = end


def forward_into(y: Tensor, inputs: FftconvInputs, packed: Packed) -> None:
    """Causal convolution of every row of ``(1, D, T)``, as :func:`.fftconv.forward_into`."""
    for plan, _, segments in packed.classes(plan_for):
        fftconv.forward_into(y, inputs._replace(k=inputs.k[:, : plan.size]), True, plan=plan, segments=segments)


def backward_into(grads: Gradients, dy: Tensor, inputs: FftconvInputs, packed: Packed) -> None:
    """Gradients of :func:`forward_into`, as :func:`.fftconv.backward_into`."""
    if grads.D is not None:
        fftconv.skip_gradient(grads.D, dy, inputs)
    if all(grad is None for grad in grads._replace(D=None)):
        return
    dk = grads.k
    total = None
    if dk is not None:
        total = dk.zero_() if dk.dtype == torch.float32 else torch.zeros_like(dk, dtype=torch.float32)
    for plan, longest, segments in packed.classes(lambda length: backward_plan(length, dy.device)):
        k = inputs.k[:, : plan.size]
        part = (
            None if total is None else torch.empty_like(k, dtype=torch.float32, memory_format=torch.contiguous_format)
        )
        wanted = grads._replace(k=part, D=None)
        fftconv.backward_into(wanted, dy, inputs._replace(k=k), True, plan=plan, segments=segments)
        if total is not None and part is not None:
            # Taps beyond the longest row have no gradient but rounding errors.
            total[:, :longest] += part[:, :longest]
    if dk is not None and total is not None and dk is not total:
        dk.copy_(total)
