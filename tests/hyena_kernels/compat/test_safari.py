"""``fftconv_ref`` and ``fftconv_func`` of safari and hyena-dna against their formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu

from hyena_kernels.compat.safari import fftconv_func, fftconv_ref
from tests.hyena_kernels.compat.helpers import assert_means, assert_rounds_once, normal
from tests.hyena_kernels.helpers import assert_refused


def spectrum(k: Tensor, k_rev: Tensor | None, size: int) -> Tensor:
    """``rfft(k) + conj(rfft(k_rev))``, which cuts and pads to ``size``."""
    k_f = torch.fft.rfft(k, n=size)
    return k_f if k_rev is None else k_f + torch.fft.rfft(k_rev, n=size).conj()


def by_formula(
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None,
    gelu: bool = True,
    k_rev: Tensor | None = None,
    bidirectional: bool = False,
) -> Tensor:
    size, length = 2 * u.shape[-1], u.shape[-1]
    delayed = torch.nn.functional.pad(u, (length // 2,) * 2) if bidirectional else u
    k_f = spectrum(k, k_rev, size)
    k_f = k_f[:, None] if u.dim() > 3 else k_f
    out = torch.fft.irfft(torch.fft.rfft(delayed, n=size) * k_f, n=size)[..., :length] + u * D[..., None]
    out = exact_gelu(out) if gelu else out
    return out if dropout_mask is None else out * dropout_mask[..., None]


MASK = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]], dtype=torch.float64)
LENGTHS = {"K of L": 11, "K below L": 4, "K above L": 15, "K above 2 L": 30}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "k_rev"])
@pytest.mark.parametrize("taps", LENGTHS.values(), ids=list(LENGTHS))
def test_reference_call(taps: int, reverse: bool, bidirectional: bool) -> None:
    inputs = {"u": normal(2, 3, 11), "k": normal(3, taps), "D": normal(3)}
    inputs |= {"k_rev": normal(3, taps, seed=1)} if reverse else {}
    options = {"dropout_mask": None, "gelu": False, "bidirectional": bidirectional}
    assert_means(fftconv_ref, by_formula, inputs, **options)
    assert_means(fftconv_ref, by_formula, inputs, **options | {"gelu": True, "dropout_mask": MASK})


def test_blocks_and_other_shapes_of_filters_and_skips() -> None:
    """hyena-dna's operator has ``u (b, h, v, z, l)``, filters ``(v, l)`` and a skip ``(1, v, 1)``."""
    inputs = {"u": normal(2, 2, 3, 4, 6), "k": normal(3, 6), "D": normal(1, 3, 1)}
    assert_means(fftconv_ref, by_formula, inputs, dropout_mask=None)
    three = {"u": normal(2, 3, 6), "k": normal(1, 3, 6), "D": normal(1, 3)}
    assert_means(fftconv_ref, by_formula, three, dropout_mask=MASK)
    assert_means(fftconv_ref, by_formula, three | {"k": normal(2, 3, 6)}, dropout_mask=MASK, gelu=False)


@pytest.mark.parametrize("gelu", [True, False])
def test_reference_call_rounds_once_and_ignores_autocast(gelu: bool) -> None:
    inputs: dict[str, Any] = {"u": normal(2, 3, 40, dtype=torch.bfloat16)}
    inputs |= {"k": normal(3, 40, dtype=torch.float32), "D": normal(3, dtype=torch.float32)}
    with torch.autocast("cpu", torch.bfloat16):
        assert fftconv_ref(**inputs | {"u": inputs["u"].float()}, dropout_mask=None).dtype == torch.float32
        assert_rounds_once(fftconv_ref, by_formula, inputs, dropout_mask=None, gelu=gelu)


def fused_by_formula(
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None = None,
    gelu: bool = True,
    v: Tensor | None = None,
    head_dim: int = 1,
    q: Tensor | None = None,
    k_rev: Tensor | None = None,
) -> Tensor:
    length = u.shape[-1]
    size = 16
    while size < 2 * length:
        size *= 2
    ones = torch.ones_like(u)
    # Channel h * head_dim + d is number d of head h: (B, h, d, L).
    u, v, q = (each.unflatten(1, (-1, head_dim)) for each in (u, ones if v is None else v, ones if q is None else q))
    pairs = u[:, :, :, None] * v[:, :, None]
    signal_f = torch.fft.rfft(pairs, n=size) * spectrum(k, k_rev, size)[:, None, None]
    out = torch.fft.irfft(signal_f, n=size)[..., :length] + pairs * D[:, None, None, None]
    out = exact_gelu(out) if gelu else out
    out = (out * q[:, :, :, None]).sum(2).flatten(1, 2)
    return out if dropout_mask is None else out * dropout_mask[..., None]


@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "no gelu"])
@pytest.mark.parametrize("gates", [True, False], ids=["v and q", "no gates"])
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_fused_call(mask: Tensor | None, gates: bool, gelu: bool) -> None:
    inputs = {"u": normal(2, 3, 11), "k": normal(3, 11), "D": normal(3), "k_rev": normal(3, 11, seed=1)}
    inputs |= {"v": normal(2, 3, 11, seed=2), "q": normal(2, 3, 11, seed=3)} if gates else {}
    assert_means(fftconv_func, fused_by_formula, inputs, dropout_mask=mask, gelu=gelu)


@pytest.mark.parametrize("head_dim", [2, 3])
def test_heads_of_several_channels(head_dim: int) -> None:
    heads = 6 // head_dim
    inputs = {name: normal(2, 6, 5, seed=i) for i, name in enumerate(("u", "v", "q"))}
    inputs |= {"k": normal(heads, 5), "D": normal(heads), "k_rev": normal(heads, 5, seed=1)}
    for gelu in (True, False):
        assert_means(fftconv_func, fused_by_formula, inputs, head_dim=head_dim, gelu=gelu)


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9])
def test_long_filters_go_around_a_circle_of_a_power_of_two(length: int) -> None:
    inputs = {"u": normal(1, 2, length), "k": normal(2, 40), "D": normal(2), "k_rev": normal(2, 33)}
    assert_means(fftconv_func, fused_by_formula, inputs, gelu=False)


def test_dtype_and_layout_of_the_result() -> None:
    k, D = normal(3, 8, dtype=torch.float32), normal(3, dtype=torch.float32)
    for dtype, expected in ((torch.float32,) * 2, (torch.float16,) * 2, (torch.bfloat16,) * 2):
        u = normal(2, 3, 8, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert fftconv_func(u, k, D).dtype == expected
            forced = fftconv_func(u, k, D, force_fp16_output=True)
        assert forced.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float16)
    turned = fftconv_func(u, k, D, output_hbl_layout=True)
    assert turned.transpose(0, 1).is_contiguous()
    assert torch.equal(turned, fftconv_func(u, k, D))


U, K, SKIP = torch.zeros(2, 4, 8), torch.zeros(4, 8), torch.zeros(4)
ARGUMENTS = {"u": U, "k": K, "D": SKIP}
REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "skip": (fftconv_ref, {"D": torch.zeros(1)}, ValueError, "D has shape (1,), expected (H,) with H = 4"),
    "one sample": (fftconv_ref, {"u": U[0]}, ValueError, "u has shape (4, 8), expected (B, H, L) or (…, H, Z, L)"),
    "skip along positions": (
        fftconv_ref,
        {"u": torch.zeros(2, 4, 4, 8)},
        ValueError,
        "D has shape (4,), expected (H, 1) with H = 4",
    ),
    "mask and blocks": (
        fftconv_ref,
        {"u": torch.zeros(2, 4, 4, 8), "D": SKIP[:, None], "dropout_mask": torch.zeros(2, 4)},
        ValueError,
        "takes filters (H, K) and no dropout_mask",
    ),
    "fp16": (fftconv_func, {"fftfp16": True}, NotImplementedError, "fftfp16=True is not supported"),
    "mask and heads": (
        fftconv_func,
        {"head_dim": 2, "dropout_mask": torch.zeros(2, 4)},
        NotImplementedError,
        "dropout_mask is for head_dim=1, got head_dim=2",
    ),
    "one row": (fftconv_func, {"u": U[0]}, ValueError, "u has shape (4, 8), expected (B, H, L)"),
    "one gate": (fftconv_func, {"q": U}, ValueError, "v and q come together"),
    "heads without gates": (fftconv_func, {"head_dim": 2}, ValueError, "head_dim > 1 needs both"),
    "heads": (fftconv_func, {"head_dim": 3, "v": U, "q": U}, ValueError, "head_dim=3 does not divide the 4 channels"),
}


@pytest.mark.parametrize(("function", "change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(
    function: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    base = ARGUMENTS | ({"dropout_mask": None} if function is fftconv_ref else {})
    assert_refused(function, error, message, **base | change)
