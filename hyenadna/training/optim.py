"""The published optimizer recipe: parameter groups and learning-rate schedule.

Source: section 3.2 and appendix A.1 of Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794), and the training
configuration of its repository.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, with and without weight decay.

    Weights of Linear and convolution layers decay, also those that GPT-2 calls ``Conv1D``. Biases, LayerNorm, the
    embedding, and everything of the implicit filters (their network, frequencies and skip) do not.

    Args:
        model: the model. Parameters that need no gradient are left out.
        weight_decay: weight decay of the first group. The second has 0.

    Returns:
        Two groups, as ``torch.optim`` takes them.
    """
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    kinds = {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        weight = name.endswith("weight") and isinstance(kinds[name], nn.Linear | nn.Conv1d | Conv1D)
        (decays if weight and ".filter_fn." not in name else stays).append(parameter)
    return [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]


def lr_scale(step: int, steps: int, warmup_steps: int, min_factor: float) -> float:
    """Factor on the peak learning rate: a linear warm-up, then a cosine.

    Args:
        step: optimizer step, from 0.
        steps: steps of the run.
        warmup_steps: steps of the warm-up. The first step has 1/warmup_steps of the peak.
        min_factor: factor at the last step.

    Returns:
        A number from 0 to 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
