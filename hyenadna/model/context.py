"""Sequences that are split over processes: how a call says so, and what it cannot ask for then.

Every process holds some positions of each sequence. Only the mixers look at others. Norms, MLP, head and loss are
computed where a position is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hyena_kernels import HyenaOperator
from hyena_kernels.distributed import ContextShards, active_shards
from hyenadna.common.errors import InputError
from hyenadna.model import padding
from hyenadna.model.arguments import check_length
from hyenadna.model.packing import ALIASES

_NO_PACKING = "the sequences of a packed row cannot be split over processes; give each its own row"
_NO_CACHE = "a cache continues sequences that one process holds whole"

# Each may be None. What else it may be stands in _NEUTRAL.
_REFUSED = {
    **dict.fromkeys(("cu_seqlens", *ALIASES), _NO_PACKING),
    **dict.fromkeys(("cache", "past_key_values", "use_cache"), _NO_CACHE),
    "position_ids": "the positions of a process follow from its shards; leave them out",
}
_NEUTRAL = {"use_cache": False}


def is_parallel(layers: nn.ModuleList) -> bool:
    """Whether ``context_parallel`` has been called on these blocks."""
    return any(getattr(getattr(layer, "mixer", None), "context", None) is not None for layer in layers)


def find_shards(context: ContextShards | None, layers: nn.ModuleList) -> ContextShards | None:
    """How the sequences of a call are split, or None where this process holds them whole.

    Args:
        context: the argument of ``forward``. Without it, the block of ``sequence_shards`` around the call counts, for
            models that were made context parallel.
        layers: the blocks of the model.

    Raises:
        InputError: ``context`` is something else; nothing says how the sequences of a context-parallel model are
            split; or a mixer is none of this package.
    """
    if context is not None and not isinstance(context, ContextShards):
        raise InputError(f"context must be a hyena_kernels.distributed.ContextShards, got {type(context).__name__}")
    shards = context
    if shards is None:
        if not is_parallel(layers):
            return None
        shards = active_shards()
        if shards is None:
            raise InputError(
                "context: the model was made context parallel, and nothing says how this call's sequences are split; "
                "give context, or call the model in a block of sequence_shards"
            )
    if shards.size > 1:
        for i, layer in enumerate(layers):
            mixer = getattr(layer, "mixer", None)
            if not isinstance(mixer, HyenaOperator):
                raise InputError(
                    f"context: layer {i} has a {type(mixer).__name__} for a mixer, which cannot compute sequences that "
                    "are split over processes"
                )
            if mixer.bidirectional:
                raise InputError(
                    "context: the model is bidirectional, and takes no sequences that are split over processes: give "
                    "each process whole ones"
                )
    return shards


def shards_of_call(
    context: ContextShards | None,
    layers: nn.ModuleList,
    first: Tensor | None,
    longest: int,
    **given: Any,
) -> ContextShards | None:
    """As :func:`find_shards`, and the call asks for nothing that split sequences cannot have.

    It talks to no other process. Whether all make the same call is compared by the first mixer.

    Args:
        context: see :func:`find_shards`.
        layers: see :func:`find_shards`.
        first: the input of this process, ``(B, L_r)`` or ``(B, L_r, D)``.
        longest: the longest sequence that the model takes.
        given: the other arguments of the call by name.

    Raises:
        InputError: as :func:`find_shards`; the sequences are too long; the input has not as many positions as the
            shards of this process; or an argument needs whole sequences.
    """
    shards = find_shards(context, layers)
    if shards is None:
        return None
    check_length(shards.total, longest)
    # An input of another rank is left to the model's own check.
    if first is not None and first.dim() > 1 and first.shape[1] != shards.length:
        raise InputError(
            f"context: process {shards.rank} of {shards.size} holds {shards.length} of {shards.total} positions, and "
            f"its input has {first.shape[1]}"
        )
    if shards.size == 1:
        return shards
    for name, reason in _REFUSED.items():
        value = given.get(name)
        if value is not None and value is not _NEUTRAL.get(name):
            raise InputError(f"{name}: {reason}")
    mask = given.get("attention_mask")
    if mask is not None and first is not None and first.dim() > 1:
        padding.require(
            padding.real_positions(mask, first.shape[:2], first.device),
            "attention_mask: sequences that are split over processes have no pads on the left; pads on the right need "
            "no mask: leave it out",
        )
    return shards


def check_loss(shards: ContextShards | None, labels: Any, items: Any, *, shifts: bool) -> None:
    """Raise InputError if the loss of one process would need the positions of others.

    Args:
        shards: how the sequences are split; None where they are not.
        labels: those of the call, or None.
        items: ``num_items_in_batch`` of the call, or None.
        shifts: whether ``labels`` are yet to be shifted by one position.
    """
    if shards is None or shards.size == 1 or labels is None:
        return
    if shifts:
        raise InputError(
            "labels: a process does not hold the token after its last position; give shift_labels with "
            "num_items_in_batch, or call next_token_loss with targets"
        )
    if items is None:
        raise InputError(
            "num_items_in_batch: a process counts only the labels of its own positions; give the number of all "
            "processes"
        )


def refuse(context: ContextShards | None, layers: nn.ModuleList, what: str) -> None:
    """Raise InputError if the sequences of a call are split over several processes.

    Args:
        context: the argument of the call.
        layers: the blocks of the model.
        what: what cannot be done then, as the beginning of the message.
    """
    shards = find_shards(context, layers)
    if shards is not None and shards.size > 1:
        raise InputError(f"{what}: the sequences are split over {shards.size} processes, and it needs them whole")
