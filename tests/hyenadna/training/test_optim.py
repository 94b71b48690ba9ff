from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.training.optim import lr_scale, parameter_groups

BLOCK_DECAYS = [
    "mixer.in_proj.weight",
    "mixer.out_proj.weight",
    "mixer.short_filter.weight",
    "mlp.fc1.weight",
    "mlp.fc2.weight",
]
BLOCK_STAYS = [
    "norm1.weight",
    "norm1.bias",
    "norm2.weight",
    "norm2.bias",
    "mixer.in_proj.bias",
    "mixer.out_proj.bias",
    "mixer.short_filter.bias",
    "mixer.filter_fn.bias",
    "mixer.filter_fn.implicit_filter.0.weight",
    "mixer.filter_fn.implicit_filter.0.bias",
    "mixer.filter_fn.implicit_filter.1.freq",
    "mixer.filter_fn.implicit_filter.2.weight",
    "mixer.filter_fn.implicit_filter.2.bias",
    "mixer.filter_fn.implicit_filter.4.weight",
    "mixer.filter_fn.implicit_filter.4.bias",
    "mixer.filter_fn.implicit_filter.6.weight",
    "mlp.fc1.bias",
    "mlp.fc2.bias",
]
BACKBONE = "hyena.backbone."
BACKBONE_STAYS = [f"{BACKBONE}embeddings.word_embeddings.weight", f"{BACKBONE}ln_f.weight", f"{BACKBONE}ln_f.bias"]


def blocks(names: list[str]) -> list[str]:
    return [f"{BACKBONE}layers.{layer}.{name}" for layer in range(2) for name in names]


def group_names(model: nn.Module, weight_decay: float = 0.1) -> list[tuple[float, list[str]]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        (group["weight_decay"], sorted(names[id(parameter)] for parameter in group["params"]))
        for group in parameter_groups(model, weight_decay)
    ]


@pytest.mark.parametrize("tied", [False, True])
def test_groups_hold_exactly_these_parameters(tied: bool) -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=2, max_seq_len=16, tie_word_embeddings=tied))
    head = [] if tied else ["lm_head.weight"]
    assert group_names(model) == [
        (0.1, sorted(blocks(BLOCK_DECAYS) + head)),
        (0.0, sorted(blocks(BLOCK_STAYS) + BACKBONE_STAYS)),
    ]


def test_a_frozen_parameter_is_left_out() -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16))
    model.hyena.requires_grad_(False)
    assert group_names(model, 0.3) == [(0.3, ["lm_head.weight"]), (0.0, [])]


def test_the_filter_does_not_decay_and_the_projections_do() -> None:
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, max_seq_len=16))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 0.95 if name == "lm_head.weight" or name.split("layers.0.")[-1] in BLOCK_DECAYS else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, rtol=1e-6, atol=0, msg=name)


def test_schedule_at_its_corners() -> None:
    # 101 steps, 10 of warm-up: the peak is step 9's and again step 10's, the middle of the cosine step 55's.
    factors = [lr_scale(step, 101, 10, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1, abs=1e-15)
    assert factors[4] == pytest.approx(0.5, abs=1e-15)
    assert factors[9] == 1.0
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55, abs=1e-12)
    assert factors[32] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 22 / 90)) / 2, abs=1e-12)
    assert factors[100] == pytest.approx(0.1, abs=1e-15)
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a > b for a, b in pairwise(factors[10:]))


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"),
    [(3, 0, [1.0, 0.5, 0.0]), (2, 2, [0.5, 1.0]), (1, 0, [1.0]), (1, 1, [1.0]), (2, 1, [1.0, 1.0])],
)
def test_schedule_of_short_runs(steps: int, warmup: int, expected: list[float]) -> None:
    assert [lr_scale(step, steps, warmup, 0.0) for step in range(steps)] == pytest.approx(expected)


def test_the_rate_stays_at_its_end_after_the_last_step() -> None:
    assert [lr_scale(step, 10, 2, 0.1) for step in (9, 10, 15)] == pytest.approx([0.1] * 3)
