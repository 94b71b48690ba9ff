"""``SegmentPlan``: where the sequences of a packed row begin, how long they are, and in which order ops take them.

A packed row holds S sequences of any lengths one after the other, without padding. ``cu_seqlens`` names their
boundaries, as flash-attn, Transformer Engine and transformers' ``DataCollatorWithFlattening`` have it: sequence ``s``
is ``[cu_seqlens[s], cu_seqlens[s + 1])``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SegmentPlan:
    """The segments of a packed row, made once a batch and shared by all layers.

    The ops need the lengths on the host. So making a plan copies ``cu_seqlens`` from its device once, and nothing after
    that copies anything. Under ``torch.compile`` make the plan outside of the compiled function and pass it in: a graph
    then serves every batch, whatever its lengths.

    Args:
        cu_seqlens: ``(S + 1,)`` boundaries, int32 or int64, on any device: 0 first, then strictly ascending up to the
            number of positions T of the packed row.

    Attributes:
        lengths: the lengths of the S segments, in their order.
        starts: the first position of each.
        total: number of positions T of the packed row.
        longest: greatest length.
        cu_seqlens: the boundaries as int64, on the device of the argument.
        rows: ``(2, S)`` starts and lengths, int64 on that device, longest segment first. Segments of one length keep
            their order. Ops take the segments in this order.
        host_rows: the same numbers on the CPU.

    Raises:
        TypeError: ``cu_seqlens`` is not a tensor of int32 or int64.
        ValueError: ``cu_seqlens`` is not as described above. The message has the values.
        RuntimeError: a function that is being compiled makes the plan.

    Example:
        >>> import torch
        >>> from hyena_kernels import SegmentPlan
        >>> plan = SegmentPlan(torch.tensor([0, 3, 10, 12]))
        >>> plan.lengths, plan.starts, plan.total, plan.longest
        ((3, 7, 2), (0, 3, 10), 12, 7)
        >>> plan.rows.tolist()
        [[3, 0, 10], [7, 3, 2]]
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    total: int
    longest: int
    cu_seqlens: Tensor
    rows: Tensor
    host_rows: Tensor

    def __init__(self, cu_seqlens: Tensor) -> None:
        if torch.compiler.is_compiling():
            raise _unreadable("torch.compile")
        _check_integers("cu_seqlens", cu_seqlens)
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
            raise ValueError(
                f"SegmentPlan: cu_seqlens has shape {tuple(cu_seqlens.shape)}, expected (S + 1,) boundaries of S ≥ 1 "
                "segments"
            )
        own = cu_seqlens.detach().to(torch.int64, copy=True).contiguous()
        host = own.cpu()
        try:
            bounds = host.tolist()
        except RuntimeError as error:
            # vmap and fake tensors have no values.
            raise _unreadable("a transform of torch") from error
        starts, lengths = host[:-1], host.diff()
        if bounds[0] != 0:
            raise ValueError(f"SegmentPlan: cu_seqlens begins with {bounds[0]}, expected 0")
        if (lengths <= 0).any():
            s = int((lengths <= 0).nonzero()[0])
            raise ValueError(
                f"SegmentPlan: segment {s} has no positions, cu_seqlens[{s}] = {bounds[s]} and cu_seqlens[{s + 1}] = "
                f"{bounds[s + 1]}: boundaries must be strictly ascending, so leave empty segments out"
            )
        order = torch.argsort(lengths, descending=True, stable=True)
        self.lengths = tuple(lengths.tolist())
        self.starts = tuple(bounds[:-1])
        self.total = bounds[-1]
        self.longest = max(self.lengths)
        self.host_rows = torch.stack((starts, lengths))[:, order].contiguous()
        self._place(own, own.device)

    def _place(self, cu_seqlens: Tensor, device: torch.device) -> None:
        self.cu_seqlens = cu_seqlens.to(device)
        self.rows = self.host_rows.to(device)

    @classmethod
    def from_position_ids(cls, position_ids: Tensor) -> SegmentPlan:
        """The plan of a packed row from the position of every token in its segment.

        Args:
            position_ids: ``(T,)`` or ``(1, T)`` int32 or int64: 0, 1, 2, … in each segment, and 0 again where the next
                one begins, as transformers' ``DataCollatorWithFlattening`` gives them.

        Raises:
            TypeError: they are not a tensor of int32 or int64.
            ValueError: they have another shape, or do not count from 0 in every segment.

        Example:
            >>> import torch
            >>> from hyena_kernels import SegmentPlan
            >>> SegmentPlan.from_position_ids(torch.tensor([[0, 1, 2, 0, 1, 0]])).lengths
            (3, 2, 1)
        """
        _check_integers("position_ids", position_ids)
        shape = tuple(position_ids.shape)
        if len(shape) not in (1, 2) or shape[:-1] not in ((), (1,)) or shape[-1] < 1:
            raise ValueError(f"SegmentPlan: position_ids has shape {shape}, expected (T,) or (1, T) with T ≥ 1")
        ids = position_ids.detach().flatten().to("cpu", torch.int64)
        at = torch.arange(ids.shape[0])
        begins = ids == 0
        begins[0] = True
        starts = begins.nonzero().flatten()
        expected = at - starts[begins.cumsum(0) - 1]
        if not torch.equal(ids, expected):
            t = int((ids != expected).nonzero()[0])
            raise ValueError(
                f"SegmentPlan: position_ids[{t}] is {int(ids[t])}, expected {int(expected[t])}"
                f"{' or 0' if t else ''}: they count from 0 in every segment"
            )
        bounds = torch.cat((starts, torch.tensor([ids.shape[0]])))
        return cls(bounds).to(position_ids.device)

    def to(self, device: torch.device | str) -> SegmentPlan:
        """The same plan with its tensors on ``device``: this one if they are there."""
        device = torch.device(device)
        if device == self.cu_seqlens.device:
            return self
        moved = object.__new__(SegmentPlan)
        moved.__dict__.update(self.__dict__)
        moved._place(self.cu_seqlens, device)
        return moved

    def spread(self, packed: Tensor, gap: int) -> tuple[Tensor, Tensor]:
        """A packed row with ``gap`` zeros between neighbouring segments, so that a short filter cannot look across.

        Args:
            packed: ``(…, T)`` on the plan's device.
            gap: number of zeros.

        Returns:
            ``(…, T + (S - 1) gap)``, and the place ``(T,)`` of every position in it.
        """
        at = torch.arange(packed.shape[-1], device=packed.device)
        place = at + gap * torch.searchsorted(self.cu_seqlens[1:], at, right=True)
        length = packed.shape[-1] + (self.cu_seqlens.shape[0] - 2) * gap
        return packed.new_zeros((*packed.shape[:-1], length)).index_copy(-1, place, packed), place

    def __repr__(self) -> str:
        return f"SegmentPlan({len(self.lengths)} segments of {self.total} positions, longest {self.longest})"


def _check_integers(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.int32, torch.int64):
        found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"SegmentPlan: {name} must be a tensor of int32 or int64, got {found}")


def _unreadable(who: str) -> RuntimeError:
    return RuntimeError(
        f"SegmentPlan: {who} cannot read the values of cu_seqlens: make SegmentPlan(cu_seqlens) outside of the "
        "transformed function and pass it in its place"
    )


def plan_of(
    op: str, cu_seqlens: Tensor | SegmentPlan, max_seqlen: int | None, signal: Tensor, axis: int
) -> SegmentPlan:
    """The plan of a packed signal, on its device.

    Args:
        op: name of the op, for messages.
        cu_seqlens: the boundaries or their plan.
        max_seqlen: None, or a length that no segment exceeds.
        signal: the packed signal.
        axis: its axis of T positions.

    Raises:
        TypeError: ``cu_seqlens`` is neither a tensor of int32 or int64 nor a plan.
        ValueError: the segments do not cover the signal, or one is longer than ``max_seqlen``.
    """
    plan = cu_seqlens if isinstance(cu_seqlens, SegmentPlan) else SegmentPlan(cu_seqlens)
    if plan.total != signal.shape[axis]:
        raise ValueError(
            f"{op}: cu_seqlens ends at {plan.total}, expected the number of positions T = {signal.shape[axis]} of a "
            f"signal of shape {tuple(signal.shape)}"
        )
    if max_seqlen is not None and plan.longest > max_seqlen:
        raise ValueError(f"{op}: max_seqlen is {max_seqlen}, and the longest segment has {plan.longest} positions")
    return plan.to(signal.device)
