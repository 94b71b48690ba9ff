"""The loss of next-token prediction that both kinds of training share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena_kernels import linear_cross_entropy
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.plain import is_plain_linear


def next_token_loss(logits: Tensor, targets: Tensor, *, ignored: tuple[int, ...] = (PAD_ID, N_ID)) -> Tensor:
    """Summed cross entropy in nats.

    Args:
        logits: ``(B, L, V)``, computed on in float32 or better.
        targets: int64 ``(B, L)``, the token after each position.
        ignored: ids that are never a target, at least one.

    Returns:
        A scalar in float32 or better; 0 if every target is ignored.
    """
    wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, merge_ignored(targets, ignored).flatten(), ignore_index=ignored[0], reduction="sum")


def next_token_loss_of_states(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, ignored: tuple[int, ...] = (PAD_ID, N_ID)
) -> Tensor:
    """As :func:`next_token_loss`, from hidden states and without the logits of all positions in memory.

    A head that is more than a linear layer, such as one with an adapter or hooks, is called and makes all logits.

    Args:
        hidden: ``(B, L, D)``.
        head: from hidden states to logits.
        targets: int64 ``(B, L)``, the token after each position.
        ignored: ids that are never a target, at least one.

    Returns:
        A scalar in float32 or better; 0 if every target is ignored.
    """
    if not is_plain_linear(head):
        return next_token_loss(head(hidden), targets, ignored=ignored)
    return linear_cross_entropy(
        hidden, head.weight, merge_ignored(targets, ignored), ignore_index=ignored[0], reduction="sum"
    )


def merge_ignored(targets: Tensor, ignored: tuple[int, ...]) -> Tensor:
    """Targets of a signed dtype, with the first of the ignored ids in place of the others."""
    first, *others = ignored
    for token in others:
        targets = targets.masked_fill(targets == token, first)
    return targets
