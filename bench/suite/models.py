"""The 2-layer model of the headline. Hyena and Transformer differ only in the mixer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class _Block(nn.Module):
    """Layer norm, mixer, residual, layer norm, MLP of four times the width, residual."""

    def __init__(self, mixer: nn.Module, width: int) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(width), mixer, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``, the residual."""
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TwoLayerModel(nn.Module):
    """A language model of two blocks (Nguyen et al. 2023, section 4.1 and appendix: width 128, checkpointing).

    Args:
        mixer: function that makes the mixer of a block.
        width: D.
        vocabulary: V, number of tokens.
        checkpointed: whether backward computes each block again.
    """

    def __init__(self, mixer: Callable[[], nn.Module], width: int, vocabulary: int, *, checkpointed: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(_Block(mixer(), width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.checkpointed = checkpointed

    def forward(self, ids: Tensor) -> Tensor:
        """``ids (B, L)`` → logits ``(B, L, V)``."""
        x = self.embedding(ids)
        again = self.checkpointed and torch.is_grad_enabled()
        for block in self.blocks:
            # There is no dropout, and a CUDA graph cannot keep the state of a generator.
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if again else block(x)
        return self.head(self.norm(x))
