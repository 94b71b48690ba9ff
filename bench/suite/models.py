"""The 2-layer model of the headline, with the Hyena operator or with attention.

The weights and the formula are the same but for the mixer. With our operator the model also runs our ops around it, as
``hyenadna`` does; with the others it runs PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hyena_kernels import HyenaOperator, add_layer_norm, embedding, layer_norm, linear_cross_entropy


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


class _FusedBlock(_Block):
    """The same with our norms. It is given the filters of its mixer, so that recomputation does not repeat them."""

    def forward(self, x: Tensor, *filters: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``, the residual."""
        y = layer_norm(x, self.norm1.weight, self.norm1.bias, self.norm1.eps)
        y = self.mixer(y, filters=filters)
        y, x = add_layer_norm(y, x, self.norm2.weight, self.norm2.bias, self.norm2.eps)
        return x + self.mlp(y)


class TwoLayerModel(nn.Module):
    """A language model of two blocks (Nguyen et al. 2023, section 4.1 and appendix: width 128, checkpointing).

    Args:
        mixer: function that makes the mixer of a block. With a ``HyenaOperator`` the rest of the model is ours too.
        width: D.
        vocabulary: V, number of tokens.
        checkpointed: whether backward computes each block again.
    """

    def __init__(self, mixer: Callable[[], nn.Module], width: int, vocabulary: int, *, checkpointed: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        mixers = (mixer() for _ in range(2))
        self.blocks = nn.ModuleList(
            (_FusedBlock if isinstance(each, HyenaOperator) else _Block)(each, width) for each in mixers
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.checkpointed = checkpointed

    def _states(self, ids: Tensor) -> Tensor:
        ours = isinstance(self.blocks[0], _FusedBlock)
        x = embedding(ids, self.embedding.weight) if ours else self.embedding(ids)
        again = self.checkpointed and torch.is_grad_enabled()
        for block in self.blocks:
            filters = block.mixer.filters(ids.shape[1]) if ours else ()
            if again:
                # There is no dropout, and a CUDA graph cannot keep the state of a generator.
                x = checkpoint(block, x, *filters, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, *filters)
        return layer_norm(x, self.norm.weight, self.norm.bias, self.norm.eps) if ours else self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """``ids (B, L)`` → logits ``(B, L, V)``."""
        return self.head(self._states(ids))

    def loss(self, ids: Tensor) -> Tensor:
        """The mean cross entropy of the ids ``(B, L)`` at their own positions, in nats."""
        if isinstance(self.blocks[0], _FusedBlock):
            return linear_cross_entropy(self._states(ids), self.head.weight, ids)
        return F.cross_entropy(self(ids).float().flatten(0, 1), ids.flatten())
