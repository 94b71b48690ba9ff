"""``fftconv`` against its definition in float64, for values, gradients, gates, dtypes and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hyena_kernels import fftconv
from hyena_kernels.testing import Inputs, check, fftconv_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_products_need_not_fit, assert_refused, assert_same

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("fftconv")]

# (L, B, D): some hundred elements for every result, so that an error is no matter of chance.
SIZES = [(1, 64, 64), (2, 64, 64), (3, 64, 32), (7, 32, 32), (64, 8, 32), (100, 4, 32), (1000, 2, 16), (1023, 2, 16)]
LONG = [(4097, 1, 16), (65537, 1, 1)]


LENGTHS_AND_TAPS = [
    pytest.param(length, taps, batch, channels, id=f"L={length} K={taps}")
    for length, batch, channels in SIZES + LONG
    for taps in sorted({1, min(3, length), length})
]


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(("length", "taps", "batch", "channels"), LENGTHS_AND_TAPS)
def test_equals_the_direct_convolution(length: int, taps: int, batch: int, channels: int, causal: bool) -> None:
    # The gradients of the direct convolution at the greatest length are computed once, below.
    check("fftconv", fftconv_inputs(batch, channels, length, taps), causal=causal, gradients=length < 5000)


def test_gradients_at_a_large_prime_length() -> None:
    check("fftconv", fftconv_inputs(1, 1, 65537, pre_gate=False, skip=False))


TWO_SIDED = [
    pytest.param(length, taps, batch, channels, id=f"L={length} K={taps}")
    for length, batch, channels in SIZES
    if length != 1000
    for taps in sorted({length + 1, 2 * length - 2, 2 * length - 1})
    if length < taps < 2 * length
]


@pytest.mark.parametrize(("length", "taps", "batch", "channels"), TWO_SIDED)
def test_every_lag_of_a_two_sided_filter(length: int, taps: int, batch: int, channels: int) -> None:
    check("fftconv", fftconv_inputs(batch, channels, length, taps), causal=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_lag_in_every_dtype(dtype: torch.dtype) -> None:
    check("fftconv", fftconv_inputs(2, 32, 61, 121, dtype=dtype), causal=False)


def drawn(
    length: int, taps: int, *, rows: tuple[int, ...] = (16,), k_rev: int = 0, **others: tuple[int, ...]
) -> Inputs:
    """Arguments of 3 samples and 16 channels. ``k_rev`` is its number of taps, and ``others`` are shapes."""
    sizes = {"u": (3, 16, length), "k": (*rows, taps), **({"k_rev": (*rows, k_rev)} if k_rev else {}), **others}
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(size, dtype=torch.float64, generator=generator) * (taps**-0.5 if "k" in name else 1)
        for name, size in sizes.items()
    }


SAMPLES = (3, 16)
FORMS: dict[str, tuple[Inputs, dict[str, bool]]] = {
    "k_rev": (drawn(37, 37, k_rev=37, D=(16,)), {}),
    "k_rev shorter": (drawn(37, 37, k_rev=5, D=(16, 1), pre_gate=(3, 16, 37)), {}),
    "k_rev longer": (drawn(37, 1, k_rev=30), {}),
    "k_rev of one tap": (drawn(37, 1, k_rev=1), {}),
    "cut": (drawn(37, 46, D=(16, 1)), {"truncate": True}),
    "cut two-sided, even": (drawn(37, 74), {"truncate": True, "causal": False}),
    "cut two-sided, odd": (drawn(37, 91), {"truncate": True, "causal": False}),
    "cut both": (drawn(37, 74, k_rev=38), {"truncate": True}),
    "nothing to cut": (drawn(37, 20), {"truncate": True}),
    "gates of channels and samples": (drawn(37, 37, D=(16, 1), pre_gate=(1, 16, 1), post_gate=(3, 1, 37)), {}),
    "gates of fewer dimensions": (drawn(37, 37, pre_gate=(37,), post_gate=(16, 37)), {"causal": False}),
    "filters of samples": (drawn(37, 37, rows=SAMPLES, D=(16,), pre_gate=(3, 16, 37), post_gate=(1, 16, 1)), {}),
    "filters of samples, two-sided": (drawn(37, 73, rows=SAMPLES, post_gate=(16, 37)), {"causal": False}),
    "filters of samples, k_rev": (
        drawn(37, 37, rows=SAMPLES, k_rev=11, D=(16, 1), pre_gate=(37,), post_gate=(3, 1, 37)),
        {},
    ),
    "filters of samples, cut": (drawn(37, 40, rows=SAMPLES), {"truncate": True}),
}


EVERY_DTYPE = ("k_rev shorter", "gates of channels and samples", "filters of samples, k_rev")


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *((form, torch.float32) for form in FORMS),
        *((form, dtype) for form in EVERY_DTYPE for dtype in (torch.float16, torch.bfloat16, torch.float64)),
    ],
    ids=str,
)
def test_forms_of_the_arguments(form: str, dtype: torch.dtype) -> None:
    inputs, options = FORMS[form]
    wide = torch.promote_types(dtype, torch.float32)
    signals = ("u", "pre_gate", "post_gate")
    cast = {name: tensor.to(dtype if name in signals else wide) for name, tensor in inputs.items()}
    check("fftconv", cast, **options)


SMALL_FORMS = {
    "k_rev": {"u": (2, 2, 5), "k": (2, 5), "k_rev": (2, 3), "D": (2, 1)},
    "gates": {"u": (2, 2, 5), "k": (2, 5), "pre_gate": (1, 2, 1), "post_gate": (5,)},
    "filters of samples": {"u": (2, 2, 5), "k": (2, 2, 7), "k_rev": (2, 2, 5), "D": (2,), "post_gate": (2, 1, 5)},
}


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_derivatives_of_the_forms(form: str) -> None:
    inputs = {name: torch.randn(size, dtype=torch.float64) for name, size in SMALL_FORMS[form].items()}

    def function(*tensors: Tensor) -> Tensor:
        return fftconv(**dict(zip(inputs, tensors, strict=True)), truncate=True)

    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in inputs.values()])


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_forms_under_torch_func(form: str) -> None:
    one, other = ({name: torch.randn(size) for name, size in SMALL_FORMS[form].items()} for _ in range(2))
    stacks = {name: torch.stack([one[name], other[name]], dim=-1) for name in one}
    together = torch.vmap(lambda tensors: fftconv(**tensors, truncate=True), in_dims=-1)(stacks)
    expected = torch.stack([fftconv(**tensors, truncate=True) for tensors in (one, other)])
    torch.testing.assert_close(together, expected, rtol=1e-6, atol=1e-6)
    found = torch.func.grad(lambda tensors: fftconv(**tensors, truncate=True).square().sum())(one)
    plain = value_and_gradients(lambda **tensors: fftconv(**tensors, truncate=True).square().sum(), one, torch.ones(()))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[f"d{name}"], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_one_compilation_of_all_forms_serves_every_length() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fftconv, backend=counter, fullgraph=True, dynamic=True)
    for length in (33, 47):
        sizes = {"u": (2, 3, length), "k": (2, 3, length + 4), "k_rev": (2, 3, length - 2), "D": (3, 1)}
        sizes |= {"pre_gate": (1, 3, 1), "post_gate": (2, 1, length)}
        inputs = {name: torch.randn(size) for name, size in sizes.items()}
        expected = value_and_gradients(fftconv, inputs, truncate=True)
        assert_same(value_and_gradients(compiled, inputs, truncate=True), expected)
    assert counter.frame_count == 1


def test_forms_under_autocast() -> None:
    inputs, options = FORMS["filters of samples, k_rev"]
    inputs = {name: tensor.float() for name, tensor in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y = fftconv(**inputs, **options)
    signals = ("u", "pre_gate", "post_gate")
    cast = {name: tensor.bfloat16() if name in signals else tensor for name, tensor in inputs.items()}
    assert torch.equal(y, fftconv(**cast, **options))


def test_two_filters_are_two_calls() -> None:
    """Values and gradients; the tap of lag 0 counts twice."""
    inputs, _ = FORMS["k_rev shorter"]
    dy = torch.randn(3, 16, 37, dtype=torch.float64)

    def two_calls(u: Tensor, k: Tensor, k_rev: Tensor, D: Tensor, pre_gate: Tensor) -> Tensor:
        return fftconv(u, k, D, pre_gate=pre_gate) + fftconv((pre_gate * u).flip(-1), k_rev).flip(-1)

    expected = value_and_gradients(two_calls, inputs, dy)
    for name, value in value_and_gradients(fftconv, inputs, dy).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_two_filters_of_different_dtypes() -> None:
    """The filter of both is in the wider dtype, and each gradient in its own."""
    inputs, _ = FORMS["k_rev"]
    mixed = {name: tensor.float() if name == "k" else tensor for name, tensor in inputs.items()}
    wide = {name: tensor.double() for name, tensor in mixed.items()}
    dy = torch.randn(3, 16, 37, dtype=torch.float64)
    expected = value_and_gradients(fftconv, wide, dy)
    for name, value in value_and_gradients(fftconv, mixed, dy).items():
        assert value.dtype == (torch.float32 if name == "dk" else torch.float64)
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=0, atol=0)


def test_taps_that_reach_no_output_have_no_gradient() -> None:
    u, k = torch.randn(2, 3, 9), torch.randn(3, 30)
    dy = torch.randn(2, 3, 9)
    for causal, kept in ((True, slice(0, 9)), (False, slice(6, 23))):
        results = value_and_gradients(fftconv, {"u": u, "k": k}, dy, causal=causal, truncate=True)
        cut = value_and_gradients(fftconv, {"u": u, "k": k[:, kept]}, dy, causal=causal)
        inside = results["dk"][:, kept]
        assert torch.equal(results["y"], cut["y"])
        assert torch.equal(inside, cut["dk"])
        assert results["dk"].count_nonzero() == inside.count_nonzero() == inside.numel()


def test_filters_of_samples_copy_nothing_that_is_contiguous() -> None:
    """The op reads the tensors of the caller, in any order of the channels' and the positions' strides."""
    inputs = {"u": torch.randn(2, 3, 8), "k": torch.randn(2, 3, 8), "pre_gate": torch.randn(2, 3, 16)[..., ::2]}
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = fftconv(**{name: tensor.requires_grad_() for name, tensor in inputs.items()})
    assert set(saved) == {tensor.data_ptr() for tensor in inputs.values()}
    assert y.is_contiguous()
    # A batch of every other sample has no such view.
    turned = {name: tensor.detach().transpose(0, 1).contiguous().transpose(0, 1) for name, tensor in inputs.items()}
    assert torch.equal(fftconv(**turned), y)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
def test_filters_that_share_memory(causal: bool) -> None:
    """One filter for all channels, and channels that are windows of one sequence: both gradients are summed."""
    u = torch.randn(2, 3, 8, dtype=torch.float64)
    one = torch.randn(8, dtype=torch.float64)
    dy = torch.randn(2, 3, 8, dtype=torch.float64)
    for share in (lambda k: k.expand(3, 8), lambda k: k.unfold(0, 6, 1)):
        shared = value_and_gradients(lambda u, k: fftconv(u, share(k), causal=causal), {"u": u, "k": one}, dy)  # noqa: B023
        own = value_and_gradients(fftconv, {"u": u, "k": share(one).contiguous()}, dy, causal=causal)
        torch.testing.assert_close(shared["y"], own["y"], rtol=1e-12, atol=1e-12)
        leaf = one.clone().requires_grad_()
        share(leaf).backward(own["dk"])
        torch.testing.assert_close(shared["dk"], leaf.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_forms_without_samples_or_channels(batch: int, channels: int) -> None:
    inputs = {"u": torch.randn(batch, channels, 8), "k": torch.randn(batch, channels, 9)}
    inputs |= {
        "k_rev": torch.randn(batch, channels, 3),
        "D": torch.randn(channels, 1),
        "pre_gate": torch.randn(1, 1, 8),
    }
    results = value_and_gradients(fftconv, inputs, torch.zeros(()), truncate=True)
    for name, tensor in inputs.items():
        assert torch.equal(results[f"d{name}"], torch.zeros_like(tensor)), name


@pytest.mark.parametrize("taps", [1, 2, 3, 6, 9, 10])
def test_two_sided_is_the_same_of_numpy(taps: int) -> None:
    u = torch.randn(1, 2, 10, dtype=torch.float64)
    k = torch.randn(2, taps, dtype=torch.float64)
    expected = [np.convolve(u[0, channel], k[channel], "same") for channel in range(2)]
    np.testing.assert_allclose(fftconv(u, k, causal=False)[0], expected, rtol=0, atol=1e-14)


def test_by_hand() -> None:
    u, k, D, pre_gate, post_gate = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([[[1, 2, 3]]], [[1, 10, 100]], [7], [[[1, 0.5, 2]]], [[[3, 1, -1]]])
    )
    expected = {
        "causal": (fftconv(u, k), [1, 12, 123]),
        "two-sided": (fftconv(u, k, causal=False), [12, 123, 230]),
        "skip": (fftconv(u, k, D), [8, 26, 144]),
        # pre_gate * u is 1, 1, 6; its convolution 1, 11, 116; with the skip 8, 18, 158.
        "gates": (fftconv(u, k, D, pre_gate=pre_gate, post_gate=post_gate), [24, 18, -158]),
        # Lag 0 has 1 + 10, lag -1 has 100: 11 1 + 100 2, then 11 2 + 10 1 + 100 3, 11 3 + 10 2 + 100 1.
        "two filters": (fftconv(u, k, k_rev=k[:, 1:]), [211, 332, 153]),
        # The taps of lags -2 … 2 are 1, 2, 3, 4, 5.
        "every lag": (fftconv(u, torch.arange(1.0, 6.0, dtype=torch.float64)[None], causal=False), [10, 16, 22]),
    }
    for name, (y, values) in expected.items():
        np.testing.assert_allclose(y.flatten(), values, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "no skip"])
@pytest.mark.parametrize("gates", ["none", "pre", "post", "both"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_gates_and_skip(dtype: torch.dtype, gates: str, skip: bool) -> None:
    options = {"pre_gate": gates in ("pre", "both"), "post_gate": gates in ("post", "both"), "skip": skip}
    for filter_dtype in {dtype, torch.float32}:
        check("fftconv", fftconv_inputs(2, 32, 100, dtype=dtype, filter_dtype=filter_dtype, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_accumulate_in_float32(dtype: torch.dtype) -> None:
    """16-bit signals cost one rounding of the result. The transforms add no error in that dtype."""
    inputs = fftconv_inputs(1, 4, 1000, dtype=dtype, filter_dtype=dtype)
    wide = {name: tensor.float() for name, tensor in inputs.items()}
    difference = (fftconv(**inputs).float() - fftconv(**wide)).abs()
    assert (difference <= fftconv(**wide).abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).tiny).all()


def test_sums_beyond_the_range_of_float16_on_the_way_are_no_matter() -> None:
    u = torch.full((1, 1, 64), 300.0, dtype=torch.float16)
    k = torch.full((1, 64), 300.0, dtype=torch.float16)
    gate = torch.full_like(u, 1e-3)
    y = fftconv(u, k, post_gate=gate)
    expected = 90_000 * torch.arange(1, 65) * gate[0, 0].float()
    torch.testing.assert_close(y[0, 0].float(), expected, rtol=torch.finfo(torch.float16).eps, atol=0)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
def test_nan_stays_in_its_row(causal: bool) -> None:
    inputs = fftconv_inputs(3, 5, 50)
    dy = torch.randn(3, 5, 50)
    clean = value_and_gradients(fftconv, inputs, dy, causal=causal)
    poisoned = {name: tensor.clone() for name, tensor in inputs.items()}
    poisoned["u"][1, 2, 20] = float("nan")
    results = value_and_gradients(fftconv, poisoned, dy, causal=causal)
    for name, value in results.items():
        rows = value.isnan()
        # What has a batch is hit in one row, what is summed over the batch in one channel.
        hit = (1, 2) if value.dim() == 3 else (2,)
        rows[hit] = False
        assert not rows.any(), name
        kept = torch.ones_like(rows)
        kept[hit] = False
        assert torch.equal(value[kept], clean[name][kept]), name
    assert results["y"][1, 2].isnan().any()
    assert results["dk"][2].isnan().any()


def test_gradient_of_a_filter_is_summed_over_the_batch() -> None:
    inputs = fftconv_inputs(4, 3, 40, dtype=torch.float64)
    dy = torch.randn(4, 3, 40, dtype=torch.float64)
    whole = value_and_gradients(fftconv, inputs, dy)
    parts = [
        value_and_gradients(fftconv, {n: t[b : b + 1] if t.dim() == 3 else t for n, t in inputs.items()}, dy[b : b + 1])
        for b in range(4)
    ]
    for name in ("dk", "dD"):
        torch.testing.assert_close(whole[name], sum(part[name] for part in parts), rtol=1e-12, atol=1e-13)


U, K = torch.zeros(2, 3, 8), torch.zeros(3, 8)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "u rank": ({"u": U[0]}, ValueError, "fftconv: u has shape (3, 8), expected (B, D, L)"),
    "k rank": ({"k": K[0]}, ValueError, "fftconv: k has shape (8,), expected (D, K) or (B, D, K)"),
    "channels": ({"k": K[:2]}, ValueError, "u (B, D, L) has shape (2, 3, 8) and k (D, K) (2, 8): both need the same D"),
    "K above L": (
        {"k": torch.zeros(3, 9)},
        ValueError,
        "(2, 3, 8) and k (D, K) (3, 9): K can be at most L. truncate=True cuts the taps that reach no output",
    ),
    "K above 2L - 1": (
        {"k": torch.zeros(3, 16), "causal": False},
        ValueError,
        "and k (D, K) (3, 16): K can be at most 2L-1 with causal=False. truncate=True cuts the taps that reach no",
    ),
    "K of 0": ({"k": K[:, :0]}, ValueError, "(2, 3, 8) and k (D, K) (3, 0): both need the same D, L ≥ 1 and K ≥ 1"),
    "K of 0 cut": ({"k": K[:, :0], "truncate": True}, ValueError, "(2, 3, 8) and k (D, K) (3, 0)"),
    "L of 0": ({"u": U[..., :0], "k": K[:, :0]}, ValueError, "has shape (2, 3, 0)"),
    "L of 0 cut": ({"u": U[..., :0], "truncate": True}, ValueError, "has shape (2, 3, 0)"),
    "samples": (
        {"k": K.expand(3, 3, 8)},
        ValueError,
        "u (B, D, L) has shape (2, 3, 8) and k (B, D, K) (3, 3, 8): both need the same B and D",
    ),
    "k_rev and two-sided": (
        {"k_rev": K, "causal": False},
        ValueError,
        "fftconv: k_rev and causal=False exclude each other: k_rev makes a causal k two-sided",
    ),
    "k_rev above L": (
        {"k_rev": torch.zeros(3, 9)},
        ValueError,
        "and k_rev (D, K) (3, 9): K can be at most L. truncate=True cuts",
    ),
    "k_rev of samples": (
        {"k_rev": K.expand(2, 3, 8)},
        ValueError,
        "k has shape (3, 8) and k_rev (2, 3, 8): both must be (D, K), or both (B, D, K)",
    ),
    "k_rev dtype": (
        {"k_rev": K.double()},
        TypeError,
        "fftconv: k_rev (3, 8) has dtype torch.float64, expected float32",
    ),
    "k_rev number": ({"k_rev": 1}, TypeError, "fftconv: k_rev must be a tensor of shape (D, K) or (B, D, K), got int"),
    "k_rev device": ({"k_rev": K.to("meta")}, ValueError, "k_rev (3, 8) on meta"),
    "D shape": ({"D": torch.zeros(2)}, ValueError, "fftconv: D has shape (2,), expected (D,) = (3,) or (D, 1)"),
    "D rank": ({"D": torch.zeros(1, 3)}, ValueError, "fftconv: D has shape (1, 3), expected (D,) = (3,) or (D, 1)"),
    "D number": ({"D": 1.0}, TypeError, "fftconv: D must be a tensor of shape (D,) or (D, 1), got float"),
    "gate shape": (
        {"pre_gate": U[:, :2]},
        ValueError,
        "fftconv: pre_gate has shape (2, 2, 8), expected one that broadcasts to (B, D, L) = (2, 3, 8)",
    ),
    "gate rank": (
        {"post_gate": U[None]},
        ValueError,
        "fftconv: post_gate has shape (1, 2, 3, 8), expected one that broadcasts to (B, D, L)",
    ),
    "gate dtype": (
        {"post_gate": U.half()},
        TypeError,
        "fftconv: post_gate (2, 3, 8) has dtype torch.float16, expected the signal's torch.float32",
    ),
    "u integer": (
        {"u": U.long()},
        TypeError,
        "fftconv: u (2, 3, 8) has dtype torch.int64, expected float16, bfloat16,",
    ),
    "u complex": ({"u": U + 0j}, TypeError, "fftconv: u (2, 3, 8) has dtype torch.complex64"),
    "u array": ({"u": U.numpy()}, TypeError, "fftconv: u must be a tensor of shape (B, D, L), got ndarray"),
    "k dtype": (
        {"k": K.double()},
        TypeError,
        "fftconv: k (3, 8) has dtype torch.float64, expected float32 or the signal's torch.float32",
    ),
    "D dtype": ({"D": torch.zeros(3).half()}, TypeError, "fftconv: D (3,) has dtype torch.float16"),
    "device": (
        {"k": K.to("meta")},
        ValueError,
        "fftconv: all tensors must be on one device, got u (2, 3, 8) on cpu, k (3, 8) on meta",
    ),
    "gate device": ({"pre_gate": U.to("meta")}, ValueError, "pre_gate (2, 3, 8) on meta"),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
    "u sparse": ({"u": U.to_sparse()}, TypeError, "fftconv: u (2, 3, 8) has layout torch.sparse_coo, expected a dense"),
    "causal": ({"causal": "no"}, TypeError, "fftconv: causal must be True or False, got 'no'"),
    "truncate": ({"truncate": 1}, TypeError, "fftconv: truncate must be True or False, got 1"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(fftconv, error, message, **{"u": U, "k": K, **change})


def test_dtypes_are_checked_after_autocast() -> None:
    """A filter or gate in the dtype of autocast fits a signal that autocast will cast."""
    inputs: dict[str, Tensor] = fftconv_inputs(1, 2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = fftconv(inputs["u"], inputs["k"].bfloat16(), pre_gate=inputs["pre_gate"].bfloat16())
    assert y.dtype == torch.bfloat16


@pytest.mark.slow
def test_gradients_are_within_budget_at_every_small_length() -> None:
    """A skip has few elements, so its error is not averaged: it has to be summed directly."""
    for length in range(1, 131):
        for dtype in (torch.float32, torch.bfloat16):
            check("fftconv", fftconv_inputs(2, 8, length, seed=length, dtype=dtype))
        check("fftconv", fftconv_inputs(2, 8, length, seed=length), causal=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_need_not_fit_the_dtype(dtype: torch.dtype) -> None:
    assert_products_need_not_fit("fftconv", dtype)
