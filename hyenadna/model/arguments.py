"""Keyword arguments of ``forward`` that transformers, its Trainer and peft may pass: accepted, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hyenadna.common.errors import InputError
from hyenadna.model.packing import ALIASES
from hyenadna.model.padding import require

_NO_CACHE = (
    "the model keeps no keys and values between calls; give the whole sequence, and train a prompt with prompt tuning "
    "in place of prefix tuning"
)
_NO_ATTENTION = "the model has no attention, so it has no attention weights or heads"

# Each may be None. What else it may be stands in _NEUTRAL.
_REFUSED = {
    "past_key_values": _NO_CACHE,
    "cache": _NO_CACHE,
    "cache_position": _NO_CACHE,
    "use_cache": _NO_CACHE,
    "output_attentions": _NO_ATTENTION,
    "head_mask": _NO_ATTENTION,
    "is_causal": "the model is causal, and has no other mode",
}
_NEUTRAL = {"use_cache": False, "output_attentions": False, "is_causal": True}


def check_arguments(model: Any, given: Mapping[str, Any], *accepted: str) -> None:
    """Check the keyword arguments of ``forward`` that it does not name.

    Args:
        model: the model, for its class name.
        given: the arguments.
        accepted: names of those that this ``forward`` reads.

    Raises:
        InputError: the model cannot honour an argument that transformers knows.
        TypeError: no model here knows an argument.
    """
    # The Trainer counts labels for every model, with or without a loss. Every model takes packed batches.
    for name, value in given.items():
        if name in accepted or name in ALIASES or name == "num_items_in_batch":
            continue
        if name == "token_type_ids":
            if isinstance(value, Tensor):
                require(value == 0, "token_type_ids must be 0: the model has one type of token; leave them out")
            continue
        if name not in _REFUSED:
            raise TypeError(f"{type(model).__name__}.forward() got an unexpected keyword argument {name!r}")
        if name == "is_causal" and model.config.bidirectional:
            if value:
                raise InputError("is_causal: the model is bidirectional, and has no other mode")
        elif value is not None and value is not _NEUTRAL.get(name):
            raise InputError(f"{name}: {_REFUSED[name]}")
    if model.config.output_attentions and given.get("output_attentions") is None:
        raise InputError(f"config.output_attentions: {_NO_ATTENTION}")


def check_length(length: int, longest: int) -> None:
    """Raise InputError if a sequence is longer than the model's ``max_seq_len``."""
    if length > longest:
        raise InputError(
            f"a sequence of {length} tokens is longer than this model's max_seq_len of {longest}: cut it into "
            f"windows of at most {longest}, load a checkpoint made for longer sequences, or load this one with a "
            f"filter_length of at most {longest}: each layer then sees that many positions"
        )
