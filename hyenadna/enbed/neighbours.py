"""Position biases of a new model with which its heads begin by looking at neighbours."""

from __future__ import annotations

import torch

from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration

STRENGTH = 6.0
"""What is added to a bias. A softmax multiplies the weight of that place by exp(6), about 400."""


@torch.no_grad()
def look_at_neighbours(model: ENBEDForConditionalGeneration) -> None:
    """Let head h of every stack with position biases begin by looking h places back.

    To copy, a decoder has to find the place in the input that the last bytes of its output are at. Both sides need the
    few bytes before a place for that, which heads with random biases take long to find. In the encoder head h begins
    with the byte h + 1 places back. The decoder's input lags by one byte, so there it is h places. Heads
    beyond the distances that have a bucket of their own stay as they are.

    Args:
        model: a model with random weights. Training may change the biases as all other weights.
    """
    for stack, first in ((model.encoder, 1), (model.decoder, 0)):
        for name, module in stack.named_modules():
            if name.endswith(".relative_attention_bias"):
                weight = module.weight
                exact = weight.shape[0] // (4 if first else 2)
                for head in range(min(weight.shape[1], exact - first)):
                    weight[head + first, head] += STRENGTH
