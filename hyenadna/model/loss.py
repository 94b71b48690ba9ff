"""The loss of next-token prediction that both kinds of training share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hyenadna.common.vocab import N_ID, PAD_ID


def next_token_loss(logits: Tensor, targets: Tensor, *, ignored: tuple[int, ...] = (PAD_ID, N_ID)) -> Tensor:
    """Summed cross entropy in nats.

    Args:
        logits: ``(B, L, V)``, computed on in float32 or better.
        targets: int64 ``(B, L)``, the token after each position.
        ignored: ids that are never a target.

    Returns:
        A scalar in float32 or better; 0 if every target is ignored.
    """
    wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    first, *others = ignored
    for token in others:
        targets = targets.masked_fill(targets == token, first)
    return F.cross_entropy(wide, targets.flatten(), ignore_index=first, reduction="sum")
