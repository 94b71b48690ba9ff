"""HyenaOperator with ``filter_length``: fewer taps than positions, and sequences beyond l_max."""

from __future__ import annotations

import pytest
import torch

from hyena_kernels import HyenaOperator


def operators(order: int = 2, **options: object) -> tuple[HyenaOperator, HyenaOperator]:
    """The same weights with all taps and with 6."""
    torch.manual_seed(0)
    whole = HyenaOperator(4, 16, order=order, filter_order=8, **options).double()  # type: ignore[arg-type]
    partial = HyenaOperator(4, 16, order=order, filter_order=8, filter_length=6, **options).double()  # type: ignore[arg-type]
    partial.load_state_dict(whole.state_dict())
    return whole, partial


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("L", [1, 5, 6, 16])
def test_missing_taps_are_zeros(order: int, L: int, dropout: float) -> None:
    whole, partial = (layer.eval() for layer in operators(order, dropout=dropout))
    u = torch.randn(2, L, 4, dtype=torch.float64)
    k, D = whole.filters(L)
    cut = k * (torch.arange(L) < 6)
    torch.testing.assert_close(partial(u), whole(u, filters=(cut, D)), rtol=0, atol=1e-13)


def test_beyond_l_max_every_window_is_as_within() -> None:
    _, partial = operators()
    u = torch.randn(1, 50, 4, dtype=torch.float64)
    long = partial(u)
    # The short filter of 3 taps and the long one of 6 see 7 positions before the present one.
    for start in (0, 20, 34):
        torch.testing.assert_close(
            long[:, start + 7 : start + 16], partial(u[:, start : start + 16])[:, 7:], rtol=0, atol=1e-13
        )


def test_packed_sequences_may_exceed_l_max() -> None:
    _, partial = operators()
    u = torch.randn(1, 30, 4, dtype=torch.float64)
    packed = partial(u, cu_seqlens=torch.tensor([0, 9, 30]))
    torch.testing.assert_close(packed, torch.cat((partial(u[:, :9]), partial(u[:, 9:])), dim=1), rtol=0, atol=1e-13)


def test_filters_have_that_many_taps_and_others_are_refused() -> None:
    whole, partial = operators()
    assert partial.filters(40)[0].shape == (1, 4, 6)
    with pytest.raises(ValueError, match=r"filters: k has shape \(1, 4, 16\), expected \(1, 4, 6\)"):
        partial(torch.randn(1, 16, 4, dtype=torch.float64), filters=whole.filters(16))


@pytest.mark.parametrize("filter_length", [0, 17])
def test_impossible_lengths_are_refused(filter_length: int) -> None:
    with pytest.raises(ValueError, match="filter_length must be 1 to l_max = 16"):
        HyenaOperator(4, 16, filter_length=filter_length)
