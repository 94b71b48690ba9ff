"""Generators of results: whatever happens to the model between two results is seen in the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hyena_kernels.filter_cache import _blocks
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
from hyenadna.inference.hidden import hidden_states
from hyenadna.inference.likelihood import LogLikelihoodScorer

Run = Callable[[HyenaDNAForCausalLM], Iterator[np.ndarray]]


def sequences() -> list[tuple[str, np.ndarray]]:
    drawn = np.random.default_rng(0).integers(7, 11, (40, 9), dtype=np.uint8)
    return [(str(row), ids) for row, ids in enumerate(drawn)]


RUNS: dict[str, Run] = {
    "hidden states": lambda model: hidden_states(model, sequences(), batch_size=1),
    "likelihoods": lambda model: LogLikelihoodScorer(model, batch_size=1)(sequences()),
}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return HyenaDNAForCausalLM(HyenaDNAConfig(d_model=8, n_layer=1, filter_order=8, max_seq_len=16)).double().eval()


def change(model: HyenaDNAForCausalLM) -> None:
    """Other filters, by a write that torch does not count."""
    for name, parameter in model.named_parameters():
        if "filter_fn" in name:
            parameter.data.mul_(2)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_new_weights_count_from_the_next_group_of_batches_on(run: Run, model: Any) -> None:
    results = run(model)
    next(results)
    change(model)
    *_, last = results
    *_, before = run(copy.deepcopy(model))
    assert np.array_equal(last, before, equal_nan=True)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_filters_are_kept_in_a_pause(run: Run, model: Any) -> None:
    ids = torch.tensor([[7, 8, 9, 10, 7, 8, 9, 10, 7]])
    results = run(model)
    next(results)
    assert not any(module in _blocks for module in model.modules())
    with torch.no_grad():
        model(ids)
        change(model)
        assert torch.equal(model(ids).logits, copy.deepcopy(model)(ids).logits)
    results.close()  # type: ignore[attr-defined]
