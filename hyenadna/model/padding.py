"""Pads beside a sequence: what a mask says, and how rows with pads on the left are computed exactly.

In a causal model pads on the right change nothing. A row with pads on the left is moved to the left, computed with its
pads on the right, and moved back. A bidirectional model does the same, and tells its mixers where the pads are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from hyenadna.common.errors import InputError

Shape = torch.Size | tuple[int, int]


class RowOrder(NamedTuple):
    """Where the positions of each row go: real ones to the front, pads behind them.

    Attributes:
        order: int64 ``(B, L)``, the position that each place takes its value from.
        place: int64 ``(B, L)``, the place of each position: the inverse of ``order``.
    """

    order: Tensor
    place: Tensor

    def to_front(self, x: Tensor) -> Tensor:
        """Move real positions of ``x (B, L)`` or ``(B, L, D)`` to the front."""
        return _take(x, self.order)

    def back(self, x: Tensor) -> Tensor:
        """Undo :meth:`to_front`."""
        return _take(x, self.place)


def _take(x: Tensor, index: Tensor) -> Tensor:
    # Not take_along_dim: torch.export would fix B and L in it.
    index = index.to(x.device)
    return x.gather(1, index if x.dim() == 2 else index[..., None].expand(-1, -1, x.shape[2]))


def known(holds: Tensor) -> bool | None:
    """Whether all of a bool tensor is True; None if Python cannot look: a program is traced or captured.

    Under ``torch.func`` it looks at the whole batch.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return None
    if torch._C._len_torch_dispatch_stack():
        return None
    while torch._C._functorch.is_functorch_wrapped_tensor(holds):
        holds = torch._C._functorch.get_unwrapped(holds)
    if holds.is_meta or isinstance(holds, FakeTensor):
        return None
    if holds.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    return bool(holds.all())


def require(holds: Tensor, message: str) -> None:
    """Raise InputError unless all of ``holds`` is True. A traced program gets an assertion with the same message."""
    found = known(holds)
    if found is False:
        raise InputError(message)
    if found is None:
        torch._assert_async(holds.all(), message)


def real_positions(attention_mask: Tensor, shape: Shape, device: torch.device) -> Tensor:
    """Bool ``(B, L)``, True where a mask of any dtype is 1.

    Raises:
        InputError: the mask is not ``(B, L)``, or holds other values than 0 and 1.
    """
    if attention_mask.shape != shape:
        raise InputError(
            f"attention_mask {tuple(attention_mask.shape)} must be (B, L), here {tuple(shape)}: 1 at real positions, "
            "0 at pads"
        )
    mask = attention_mask.to(device)
    if mask.dtype == torch.bool:
        return mask
    real = mask == 1
    require(real | (mask == 0), "attention_mask must hold 1 at real positions and 0 at pads, and nothing else")
    return real


def between_pads(input_ids: Tensor, pad: int) -> Tensor:
    """Bool ``(B, L)``: False at the ``pad`` ids at both ends of a row. Those between other ids count as real."""
    filled = (input_ids != pad).to(torch.uint8)
    after_first = filled.cummax(dim=1).values
    before_last = filled.flip(1).cummax(dim=1).values.flip(1)
    return (after_first * before_last).bool()


def row_order(
    attention_mask: Tensor | None, shape: Shape, device: torch.device, *, soft_prompt: bool = False
) -> RowOrder | None:
    """The order in which rows are computed, or None if it is their own: no row has pads before real positions.

    On a GPU this waits for queued work. A program that is traced always gets an order, since its rows are unknown.

    Args:
        attention_mask: ``(B, L)`` of any dtype, 1 at real positions and 0 at pads, or None.
        shape: B and L of the input.
        device: device of the input.
        soft_prompt: whether real positions may also stand before the pads, equally many in each such row, as peft's
            prompt tuning puts them there.

    Raises:
        InputError: the mask has another shape or other values, or pads between real positions.
    """
    if attention_mask is None:
        return None
    real = real_positions(attention_mask, shape, device)
    if known(real):
        return None
    # Slices of L - 1 columns would keep torch.export from lengths of 2.
    starts = real & ~F.pad(real, (1, 0), value=True)[:, :-1]
    if known(~starts):
        return None
    runs = starts.sum(dim=1) + real[:, 0]
    one = runs <= 1
    if soft_prompt:
        two = (runs == 2) & real[:, 0]
        first = real.long().cumprod(dim=1).sum(dim=1)
        most = first.masked_fill(~two, 0).amax()
        one = one | (two & (first == most))
    require(
        one,
        "attention_mask has zeros between ones: pads stand before or after a sequence, not inside it; pad on the left "
        "for generation, and on the right otherwise",
    )
    order = torch.argsort(real.to(torch.uint8), dim=1, descending=True, stable=True)
    return RowOrder(order, torch.argsort(order, dim=1))


def count_rows(position_ids: Tensor, attention_mask: Tensor | None, shape: Shape, device: torch.device) -> Tensor:
    """Whether position ids count each row from 0, bool ``(B,)``: by column, or by real position as for left pads.

    Raises:
        InputError: the ids have another shape than the input, or the mask is none of pads.
    """
    ids = position_ids.to(device)
    if ids.dim() == 1:
        ids = ids[None]
    if ids.dim() != 2 or ids.shape[1] != shape[1] or ids.shape[0] not in (1, shape[0]):
        raise InputError(f"position_ids {tuple(position_ids.shape)} must be (B, L), here {tuple(shape)}")
    counts = (ids == torch.arange(shape[1], device=device)).all(dim=1)
    if attention_mask is not None:
        real = real_positions(attention_mask, shape, device)
        counts = counts | ((ids == real.long().cumsum(dim=1) - 1) | ~real).all(dim=1)
    return counts


def check_positions(
    position_ids: Tensor | None, attention_mask: Tensor | None, shape: Shape, device: torch.device
) -> None:
    """Raise InputError unless position ids count each row from 0, as :func:`count_rows` says.

    The model needs no positions. Ids that restart mean several sequences in a row, which only one row may hold, and
    which a traced program cannot find.
    """
    if position_ids is None:
        return
    require(
        count_rows(position_ids, attention_mask, shape, device),
        "position_ids must count from 0 to L - 1 in each row: ids that restart pack several sequences into one row; "
        "forward takes them in a batch of one row (1, T), and a compiled model takes cu_seqlens as a SegmentPlan",
    )


def left_padded(
    input_ids: Tensor, attention_mask: Tensor | None, *, pad: int, closing: int
) -> tuple[Tensor, Tensor, bool]:
    """Prompts as generation needs them: each ends in the last column, without the token that closes a sequence.

    Args:
        input_ids: ``(B, L)``, with pads on either side of each row.
        attention_mask: ``(B, L)``, 1 at real positions. Without it, pads are the ``pad`` ids at both ends of a row;
            those between other ids count as real, since [PAD] also stands for N.
        pad: id of ``[PAD]``.
        closing: id of ``[SEP]``, which a tokenizer puts at the end. One at the end of a row is taken out.

    Returns:
        The ids ``(B, L)`` of the same width, their int64 mask, and whether a closing token was taken out.

    Raises:
        InputError: a row has nothing to continue, or the mask is one that :func:`row_order` refuses.
    """
    batch, length = input_ids.shape
    column = torch.arange(length, device=input_ids.device)
    if attention_mask is None:
        filled = input_ids != pad
        first = filled.to(torch.uint8).argmax(dim=1)
        end = (filled * (column + 1)).amax(dim=1)
    else:
        row_order(attention_mask, (batch, length), input_ids.device)
        real = real_positions(attention_mask, (batch, length), input_ids.device)
        first = real.to(torch.uint8).argmax(dim=1)
        end = (real * (column + 1)).amax(dim=1)
    last = input_ids.gather(1, (end - 1).clamp(min=0)[:, None])[:, 0]
    closed = (end > first) & (last == closing)
    end = end - closed.to(end.dtype)
    if bool((end <= first).any()):
        row = int((end <= first).to(torch.uint8).argmax())
        raise InputError(
            f"row {row} of the prompts is empty: the model has no start token, and needs a base to continue"
        )
    source = column - (length - end)[:, None]
    mask = source >= first[:, None]
    ids = input_ids.gather(1, source.clamp(min=0)).masked_fill(~mask, pad)
    return ids, mask.long(), bool(closed.any())
