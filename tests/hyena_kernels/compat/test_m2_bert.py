"""``fftconv_ref`` of M2-BERT against the direct sum on a circle of ``2 L`` points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu, pad

from hyena_kernels.compat.flashfftconv import FlashFFTConv
from hyena_kernels.compat.m2_bert import fftconv_ref
from tests.hyena_kernels.compat.helpers import assert_means, normal, on_circle
from tests.hyena_kernels.helpers import assert_refused


def directly(
    u_variable: Tensor, k: Tensor, D_variable: Tensor, dropout_mask: Tensor | None, gelu: bool = True
) -> Tensor:
    out = on_circle(u_variable, k, 2 * u_variable.shape[-1]) + u_variable * D_variable
    out = exact_gelu(out) if gelu else out
    return out if dropout_mask is None else out * dropout_mask[..., None]


@pytest.mark.parametrize("taps", [5, 9, 12, 18])
def test_is_the_convolution_on_a_circle(taps: int) -> None:
    inputs = {"u_variable": normal(2, 3, 9), "k": normal(3, taps), "D_variable": normal(1, 3, 1)}
    assert_means(fftconv_ref, directly, inputs, dropout_mask=normal(2, 3, seed=1))
    assert_means(fftconv_ref, directly, inputs, dropout_mask=None, gelu=False)


def test_the_first_reverse_tap_is_one_position_ahead_and_that_of_k_rev_is_not() -> None:
    u, forward, reverse, skip = normal(1, 2, 7), normal(2, 7), normal(2, 7, seed=1), torch.zeros(2, 1)
    filters = pad(forward, (0, 7)) + pad(reverse.flip(-1), (7, 0))
    for ahead, arguments in ((1, {"k": filters}), (0, {"k": forward, "k_rev": reverse})):
        expected = torch.zeros_like(u)
        for t in range(7):
            for s in range(7):
                expected[..., t] += u[..., s] * forward[:, t - s] if t >= s else 0
                expected[..., t] += u[..., s] * reverse[:, s - t - ahead] if s >= t + ahead else 0
        found = fftconv_ref(u, D_variable=skip, dropout_mask=None, gelu=False, **arguments)
        torch.testing.assert_close(found, expected)


def test_blocks_and_the_fused_module() -> None:
    u, k, skip = normal(2, 3, 2, 6), normal(3, 12), normal(3, 1, 1)
    each = [directly(u[:, :, z], k, skip[:, :, 0], None) for z in range(2)]
    torch.testing.assert_close(fftconv_ref(u, k, skip, None), torch.stack(each, dim=2))
    u = normal(2, 3, 6, dtype=torch.bfloat16)
    k, skip = k.float(), normal(1, 3, 1, dtype=torch.float32)
    fused = fftconv_ref(u, k, skip, None, flashfft=FlashFFTConv(12, dtype=torch.bfloat16))
    plain = fftconv_ref(u, k, skip, None)
    assert fused.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, rtol=0.02, atol=0.04)


U, K, SKIP = torch.zeros(2, 4, 8), torch.zeros(4, 8), torch.zeros(1, 4, 1)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "skip": ({"D_variable": torch.zeros(4)}, "D has shape (4,), expected (H, 1) with H = 4"),
    "k_rev": ({"k_rev": K, "flashfft": FlashFFTConv(16)}, "flashfft ignores k_rev: put its taps into k"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], message: str) -> None:
    base = {"u_variable": U, "k": K, "D_variable": SKIP, "dropout_mask": None}
    assert_refused(fftconv_ref, ValueError, message, **base | change)
