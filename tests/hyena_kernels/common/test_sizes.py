"""Transform sizes, slices and spectra of the plain PyTorch backend."""

from __future__ import annotations

import pytest
import torch

from hyena_kernels.backends.torch import fft
from hyena_kernels.common import sizes

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def is_smooth(size: int) -> bool:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 15, 16, 17, 64, 100, 1000, 1023, 4097, 65537])
def test_fft_size_is_the_smallest_even_smooth_one_without_wrap(length: int, causal: bool) -> None:
    for taps in {1, min(2, length), min(3, length), length}:
        tap = sizes.centre(taps, causal)
        size = sizes.fft_size(length, taps, tap)
        # Lags between any two positions of which one is kept by the filter must differ modulo the size.
        needed = max(length + taps - 1 - tap, length + tap)
        assert size % 2 == 0
        assert is_smooth(size)
        assert size >= needed
        assert not any(is_smooth(smaller) for smaller in range(max(needed, 2) + needed % 2, size, 2))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "taps"), [(1, 1), (2, 2), (5, 1), (5, 3), (5, 4), (5, 5), (8, 8)])
def test_nothing_wraps_at_this_size(length: int, taps: int, causal: bool) -> None:
    """For every unit impulse and a filter of ones, the circular convolution equals the linear one."""
    tap = sizes.centre(taps, causal)
    size = sizes.fft_size(length, taps, tap)
    spectrum = fft.filter_spectrum(torch.ones(1, taps), None, size, tap, torch.float64)
    y = torch.fft.irfft(torch.fft.rfft(torch.eye(length, dtype=torch.float64), n=size) * spectrum, n=size)[:, :length]
    lag = torch.arange(length)[None] - torch.arange(length)[:, None]
    assert torch.equal(y.round(decimals=12), ((lag >= -tap) & (lag < taps - tap)).double())


@pytest.mark.parametrize(("taps", "causal", "expected"), [(1, False, 0), (2, False, 0), (3, False, 1), (4, False, 1)])
def test_centre_of_a_two_sided_filter(taps: int, causal: bool, expected: int) -> None:
    assert sizes.centre(taps, causal) == expected


def test_centre_of_a_causal_filter_is_its_first_tap() -> None:
    assert sizes.centre(9, True) == 0


@pytest.mark.parametrize(("total", "step"), [(0, 3), (1, 3), (3, 3), (7, 3), (9, 3)])
def test_slices_cover_everything_once(total: int, step: int) -> None:
    covered = [index for part in sizes.slices(total, step) for index in range(total)[part]]
    assert covered == list(range(total))
    assert all(part.stop - part.start <= step for part in sizes.slices(total, step))


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 1000])
def test_tile_keeps_to_the_scratch(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", rows * 100 + 99)
    batch_step, channel_step = sizes.tile(4, 6, 100, torch.device("cpu"))
    assert 1 <= batch_step <= 4
    assert 1 <= channel_step <= 6
    assert batch_step * channel_step <= rows
    # Whole batches first: the spectrum of a filter is computed once for all rows of a channel.
    assert batch_step == min(4, rows)


def test_tile_is_one_row_where_the_scratch_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SCRATCH_BYTES, "cpu", 10)
    assert sizes.tile(4, 6, 100, torch.device("cpu")) == (1, 1)


def test_tile_of_nothing_can_be_stepped_over() -> None:
    assert sizes.tile(0, 6, 100, torch.device("cpu"))[0] >= 1
    assert sizes.tile(4, 0, 100, torch.device("cpu"))[1] >= 1


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_accumulator_is_float32_or_wider(first: torch.dtype, second: torch.dtype) -> None:
    expected = torch.float64 if torch.float64 in (first, second) else torch.float32
    assert sizes.accumulator(torch.zeros(1, dtype=first), None, torch.zeros(1, dtype=second)) == expected


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("taps", "tap"), [(1, 0), (4, 0), (4, 1), (5, 2), (5, 4)])
def test_filter_gradient_is_the_transpose_of_filter_spectrum(taps: int, tap: int, skip: bool) -> None:
    """For real filters ``k`` and half spectra ``S`` of real signals: ``<spectrum(k), S> = <k, gradient(S)>``."""
    size = 12
    k = torch.randn(3, taps, dtype=torch.float64)
    D = torch.randn(3, dtype=torch.float64) if skip else None
    other = torch.fft.rfft(torch.randn(3, size, dtype=torch.float64))
    spectrum = fft.filter_spectrum(k, D, size, tap, torch.float64)
    gradient = fft.filter_gradient(other, size, tap, taps)
    assert gradient.shape == k.shape
    inner = torch.fft.irfft(spectrum.conj() * other, n=size)[:, 0].sum()
    expected = (k * gradient).sum() + (0 if D is None else (D * gradient[:, tap]).sum())
    torch.testing.assert_close(inner, expected, rtol=1e-13, atol=0)
