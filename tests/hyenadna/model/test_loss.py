from __future__ import annotations

import torch

from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.loss import next_token_loss


def test_loss_counts_neither_n_nor_pad() -> None:
    logits = torch.randn(2, 6, 16, dtype=torch.float64)
    targets = torch.tensor([[7, 8, N_ID, 10, PAD_ID, 9], [PAD_ID, N_ID, 7, 7, 8, N_ID]])
    by_hand = sum(
        -logits[row, column].log_softmax(-1)[targets[row, column]]
        for row in range(2)
        for column in range(6)
        if targets[row, column] not in (N_ID, PAD_ID)
    )
    torch.testing.assert_close(next_token_loss(logits, targets), by_hand, rtol=1e-14, atol=0)
    assert next_token_loss(logits.half(), targets).dtype == torch.float32
    assert next_token_loss(logits, torch.full((2, 6), N_ID)) == 0
    # N counts where only pads are ignored.
    nats = -logits[0, 2].log_softmax(-1)[N_ID]
    torch.testing.assert_close(next_token_loss(logits[:1, 2:3], targets[:1, 2:3], ignored=(PAD_ID,)), nats)
