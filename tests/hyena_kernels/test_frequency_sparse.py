"""Filters with a masked spectrum, against transforms of the whole."""

from __future__ import annotations

import pytest
import torch

from hyena_kernels import fftconv
from hyena_kernels.frequency_sparse import frequency_sparse, low_pass


def filters(channels: int, taps: int) -> torch.Tensor:
    torch.manual_seed(taps)
    return torch.randn(channels, taps, dtype=torch.float64)


@pytest.mark.parametrize(("L", "K", "size"), [(1, 1, 2), (7, 7, 14), (10, 4, 32), (5, 12, 16)])
def test_masked_spectrum_is_what_the_filter_convolves_with(L: int, K: int, size: int) -> None:
    k, u = filters(3, K), torch.randn(2, 3, L, dtype=torch.float64)
    mask = torch.rand(3, size // 2 + 1, dtype=torch.float64)
    taps = frequency_sparse(k, mask, length=L, causal=False)
    expected = torch.fft.irfft(torch.fft.rfft(u, n=size) * torch.fft.rfft(k, n=size) * mask, n=size)[..., :L]
    lags = torch.arange(L)
    toeplitz = taps[:, (lags[:, None] - lags) + L - 1]
    torch.testing.assert_close(torch.einsum("dts,bds->bdt", toeplitz, u), expected, rtol=0, atol=1e-13)
    assert torch.equal(frequency_sparse(k, mask, length=L, causal=True), taps[:, L - 1 :])


def test_all_frequencies_give_the_filter_itself() -> None:
    k = filters(2, 9)
    taps = frequency_sparse(k, low_pass(20, keep=1.0), length=9, causal=True)
    torch.testing.assert_close(taps, k, rtol=0, atol=1e-14)


def test_causal_taps_see_no_future() -> None:
    k, u = filters(2, 16).float(), torch.randn(1, 2, 16)
    later = u.clone()
    later[..., 9:] = torch.nan
    taps = frequency_sparse(k, low_pass(32, keep=0.3), length=16, causal=True)
    toeplitz = [sum(taps[:, j] * later[..., t - j] for j in range(t + 1)) for t in range(9)]
    torch.testing.assert_close(fftconv(u, taps)[..., :9], torch.stack(toeplitz, dim=-1))


def test_gradients_reach_filter_and_mask() -> None:
    k = filters(2, 5).requires_grad_()
    mask = torch.rand(9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k, mask: frequency_sparse(k, mask, length=6, causal=False), (k, mask))


def test_low_pass_keeps_the_lowest() -> None:
    assert low_pass(8, keep=0.4).tolist() == [True, True, False, False, False]
    assert low_pass(8, keep=1e-9).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("k", "mask", "length", "error", "message"),
    [
        (filters(2, 5).half(), low_pass(16, keep=0.5), 5, TypeError, "has dtype torch.float16"),
        (filters(2, 5), torch.ones(9), 5, TypeError, "mask must be a tensor of bool or of k's torch.float64"),
        (filters(2, 5), torch.ones(3, 9, dtype=torch.bool), 5, ValueError, r"expected \(F,\) or \(D, F\) with D = 2"),
        (filters(2, 5), low_pass(8, keep=0.5), 5, ValueError, "signals of 1 to 4 positions, here 5"),
        (filters(2, 9), low_pass(8, keep=0.5), 4, ValueError, "filters of 1 to 8 taps, here 9"),
    ],
)
def test_what_does_not_fit_is_refused(
    k: torch.Tensor, mask: torch.Tensor, length: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        frequency_sparse(k, mask, length=length, causal=True)


@pytest.mark.parametrize(("size", "keep"), [(7, 0.5), (0, 0.5), (8, 0.0), (8, 1.5)])
def test_bad_masks_are_refused(size: int, keep: float) -> None:
    with pytest.raises(ValueError, match="low_pass"):
        low_pass(size, keep=keep)
