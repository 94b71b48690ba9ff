"""Models with ``filter_length``: each layer sees that many positions, and sequences may be longer than max_seq_len."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hyenadna import HyenaCache, HyenaDNAConfig, HyenaDNAForCausalLM, InputError
from hyenadna.model import sliced
from hyenadna.model.sliced import Slices

FIELDS: dict[str, Any] = {"d_model": 8, "n_layer": 2, "max_seq_len": 32, "filter_length": 5, "embed_dropout": 0.0}


def model(**fields: Any) -> HyenaDNAForCausalLM:
    torch.manual_seed(0)
    return HyenaDNAForCausalLM(HyenaDNAConfig(**(FIELDS | fields))).double()


def ids(length: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(7, 11, (1, length))


def test_a_long_sequence_is_computed_as_its_windows() -> None:
    made, long = model().eval(), ids(70)
    # Two layers see (5 - 1 + 3 - 1) positions each before the present one.
    for start in (0, 38):
        window = made(long[:, start : start + 32]).logits[:, 12:]
        torch.testing.assert_close(made(long).logits[:, start + 12 : start + 32], window, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shared", [True, False])
def test_slices_give_the_same(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    monkeypatch.setattr("hyenadna.model.layers._FILTER_BYTES_CPU", (16 << 20) if shared else 0)
    made = model()
    whole = torch.autograd.grad(made(ids(40), labels=ids(40)).loss, list(made.parameters()))
    monkeypatch.setattr(sliced, "slices_of", lambda *_: Slices(3, 7))
    made.activation_checkpointing_enable()
    in_slices = torch.autograd.grad(made(ids(40), labels=ids(40)).loss, list(made.parameters()))
    for found, expected in zip(in_slices, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(ids(40)).logits, model().eval()(ids(40)).logits, rtol=0, atol=1e-13)


def test_a_cache_goes_on_beyond_max_seq_len() -> None:
    made, long = model().eval(), ids(50)
    cache = HyenaCache(made, batch=1, horizon=43, window=4)
    with torch.no_grad():
        steps = [made(long[:, :7], cache=cache).logits]
        steps += [made(long[:, t : t + 1], cache=cache).logits for t in range(7, 50)]
        torch.testing.assert_close(torch.cat(steps, dim=1), made(long).logits, rtol=0, atol=1e-13)


def test_a_saved_model_is_loaded_with_fewer_taps_and_keeps_them(tmp_path: Path) -> None:
    model(filter_length=None).save_pretrained(tmp_path / "whole")
    with pytest.raises(InputError, match="load this one with a filter_length of at most 32"):
        HyenaDNAForCausalLM.from_pretrained(tmp_path / "whole")(ids(33))
    partial = HyenaDNAForCausalLM.from_pretrained(tmp_path / "whole", filter_length=5)
    partial.save_pretrained(tmp_path / "partial")
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path / "partial").eval()
    torch.testing.assert_close(again(ids(33)).logits, model().eval()(ids(33)).logits)


def test_more_taps_than_positions_are_refused() -> None:
    with pytest.raises(InputError, match="filter_length must be at most max_seq_len = 32, got 33"):
        model(filter_length=33)
