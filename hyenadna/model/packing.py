"""Packed batches: several sequences in one row, one after another, which do not see each other.

Only the mixer, the pooling and the loss look at the borders. Everything else works on positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels import SegmentPlan
from hyenadna.common.errors import InputError
from hyenadna.model import padding
from hyenadna.model.padding import Shape, known, require

ALIASES = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx", "max_length_q", "max_length_k")
"""Arguments of ``forward`` that say where sequences begin, as transformers' flattening collator names them."""

_BORDERS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k")


def find_segments(
    given: Mapping[str, Any],
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    first: Tensor | None,
    longest: int,
) -> SegmentPlan | None:
    """The sequences of a packed row, or None where every row is one sequence.

    On a GPU this waits for queued work, unless it is given a plan. A program that is traced needs a plan.

    Args:
        given: ``cu_seqlens`` and those of :data:`ALIASES` that the caller has; None stands for an absent one.
        position_ids: ``(T,)`` or ``(1, T)``, which restart at 0 in each sequence. Or positions of rows that are not
            packed, see :func:`hyenadna.model.padding.check_positions`.
        attention_mask: ``(1, T)`` of ones, or None.
        first: the input of the model, ``(B, T)`` or ``(B, T, D)``.
        longest: the longest sequence that the model takes.

    Raises:
        InputError: the arguments do not fit the input or each other, there are pads or several rows, or a sequence is
            too long.
    """
    if first is None or first.dim() < 2:
        # The model's own check has the message.
        return None
    shape, device = first.shape[:2], first.device
    told = {name: given[name] for name in ("cu_seqlens", *ALIASES) if given.get(name) is not None}
    if not told:
        if position_ids is None:
            return None
        counts = padding.count_rows(position_ids, attention_mask, shape, device)
        # Several rows, and positions that cannot be looked at, are left to the check, which refuses or asserts.
        if known(counts) is not False or shape[0] != 1:
            padding.check_positions(position_ids, attention_mask, shape, device)
            return None
    if shape[0] != 1:
        raise InputError(
            f"{next(iter(told))}: a packed batch is one row (1, T), here ({shape[0]}, {shape[1]}): put all sequences "
            "into one row, or give each its own row, padded, without this argument"
        )
    plan, source = _plan(told, position_ids, shape, device)
    if plan.total != shape[1]:
        raise InputError(f"{source}: the sequences end at {plan.total}, and the row (1, T) at {shape[1]}")
    _check_agreement(plan, source, told, position_ids, shape, device)
    if attention_mask is not None:
        require(
            padding.real_positions(attention_mask, shape, device),
            "attention_mask: a packed row has no pads; leave the pads and the mask out",
        )
    if plan.longest > longest:
        raise InputError(
            f"{source}: a sequence of {plan.longest} tokens is longer than this model's max_seq_len of {longest}: cut "
            f"it into windows of at most {longest}, or load a checkpoint made for longer sequences"
        )
    # Not the length of a tuple: torch.compile would compile again for every number of sequences.
    return plan if plan.cu_seqlens.shape[0] > 2 else None


def _plan(
    told: Mapping[str, Any], position_ids: Tensor | None, shape: Shape, device: torch.device
) -> tuple[SegmentPlan, str]:
    """The plan, and the name of the argument that it is from."""
    source = next((name for name in (*_BORDERS, "seq_idx") if name in told), "position_ids")
    try:
        if source in _BORDERS:
            value = told[source]
            return (value if isinstance(value, SegmentPlan) else SegmentPlan(value)).to(device), source
        if source == "seq_idx":
            changes = _changes(_row(told[source], source, shape, device)).nonzero()[:, 0] + 1
            return SegmentPlan(F.pad(F.pad(changes, (1, 0)), (0, 1), value=shape[1])), source
        if position_ids is None:
            raise InputError(f"{next(iter(told))} needs cu_seq_lens_q, which says where the sequences begin")
        return SegmentPlan.from_position_ids(_row(position_ids, source, shape, device)[None]), source
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{source}: {error}") from error


def _check_agreement(
    plan: SegmentPlan,
    source: str,
    told: Mapping[str, Any],
    position_ids: Tensor | None,
    shape: Shape,
    device: torch.device,
) -> None:
    borders = plan.cu_seqlens
    for name, value in told.items():
        problem = f"{name} does not agree with {source}: both say where the sequences of a packed row begin"
        if name == source:
            continue
        if name in _BORDERS:
            other = value.cu_seqlens if isinstance(value, SegmentPlan) else torch.as_tensor(value)
            if other.shape != borders.shape:
                raise InputError(problem)
            require(other.to(device) == borders, problem)
        elif name == "seq_idx":
            require(_changes(_row(value, name, shape, device)) == _changes(segment_of(plan, shape[1])), problem)
        else:
            length = f"{name} {value}: the longest sequence of {source} has {plan.longest} tokens"
            require(torch.as_tensor(value) == plan.longest, length)
    if position_ids is not None:
        restarting = torch.arange(shape[1], device=device) - borders[segment_of(plan, shape[1])]
        require(
            _row(position_ids, "position_ids", shape, device) == restarting,
            "position_ids must count from 0 in each sequence of a packed row (1, T), or from 0 to L - 1 in each row"
            + ("" if source == "position_ids" else f", and agree with {source}"),
        )


def _row(values: Tensor, name: str, shape: Shape, device: torch.device) -> Tensor:
    if tuple(values.shape) not in ((shape[1],), (1, shape[1])):
        raise InputError(f"{name} {tuple(values.shape)} must be (1, T), here {tuple(shape)}")
    return values.to(device).reshape(-1)


def _changes(values: Tensor) -> Tensor:
    return values[1:] != values[:-1]


def segment_of(plan: SegmentPlan, length: int) -> Tensor:
    """The number of the sequence that each of the T positions belongs to, int64 ``(T,)``, from 0."""
    return torch.searchsorted(plan.cu_seqlens[1:], torch.arange(length, device=plan.cu_seqlens.device), right=True)


def without_first_tokens(targets: Tensor, plan: SegmentPlan) -> Tensor:
    """Targets, the token after each position, without the first token of a sequence: it follows another one.

    Args:
        targets: ``(1, T)`` or ``(1, T - 1)`` integers.
        plan: the sequences.

    Returns:
        int64, with -100 at the last position of every sequence but the last.
    """
    return targets.long().index_fill(1, plan.cu_seqlens[1:-1].to(targets.device) - 1, -100)


def pool_segments(hidden: Tensor, real: Tensor, how: str, plan: SegmentPlan) -> Tensor:
    """As :func:`hyenadna.model.heads.pool`, for each sequence of a packed row.

    Args:
        hidden: ``(1, T, D)``.
        real: bool ``(1, T)``, False at pads.
        how: ``"mean"``, ``"last"`` or ``"first"``.
        plan: the S sequences.

    Returns:
        ``(S, D)`` in the dtype of ``hidden``. Each row depends on its own sequence alone.
    """
    borders = plan.cu_seqlens.to(hidden.device)
    starts, ends = borders[:-1], borders[1:]
    states, real = hidden[0], real[0]
    length = states.shape[0]
    if how == "mean":
        before = F.pad(real.long().cumsum(0), (1, 0))
        counts = (before[ends] - before[starts]).clamp(min=1)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        owner = segment_of(plan, length)
        states = states * (real.to(wide) / counts[owner]).to(states.dtype)[:, None]
        if torch.compiler.is_compiling():
            # One graph for all lengths.
            return states.new_zeros((starts.shape[0], states.shape[1])).index_add(0, owner, states)
        # More exact than one scan over the row, and on a CPU it takes a fifth of the time of segment_reduce.
        return torch.stack([part.sum(dim=0) for part in states.split(plan.lengths)])
    position = torch.arange(length, device=hidden.device)
    if how == "last":
        seen = position.masked_fill(~real, -1).cummax(0).values[ends - 1]
        return states[torch.maximum(seen, starts)]
    to_come = position.masked_fill(~real, length).flip(0).cummin(0).values.flip(0)[starts]
    return states[torch.where(to_come < ends, to_come, starts)]


def refuse_packed(given: Mapping[str, Any]) -> None:
    """Raise InputError if arguments of ``generate`` pack several prompts into one row."""
    for name in ("cu_seqlens", *ALIASES):
        if given.get(name) is not None:
            raise InputError(
                f"{name}: several sequences in one row cannot be continued; give each prompt its own row, padded"
            )
