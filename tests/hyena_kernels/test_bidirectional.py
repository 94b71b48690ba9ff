"""Bidirectional operators: two-sided ones against direct sums, and the published kind against its definition."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call

from hyena_kernels import HyenaOperator, cache_filters, fftconv
from hyena_kernels.bidirectional import centred_short_conv, delayed, delayed_each, two_sided
from hyena_kernels.compat.safari import fftconv_ref
from hyena_kernels.distributed import ContextShards
from hyena_kernels.testing import OPS, Op, check, direct_conv, reference_fftconv, reference_short_conv
from tests.hyena_kernels.helpers import assert_refused, assert_same

D_MODEL, L_MAX = 6, 40
KINDS = [True, "published"]
LENGTHS = [1, 2, 7, 8, 33]


def operator(kind: Any = True, order: int = 2, **options: Any) -> HyenaOperator:
    torch.manual_seed(0)
    module = HyenaOperator(D_MODEL, L_MAX, order=order, filter_order=8, bidirectional=kind, **options).double()
    # Away from the values of a new module, at which some gradients are zero or alike.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def signal(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(length))


def matrix(lags: Tensor) -> Tensor:
    """``(D, L, L)`` of taps ``(D, 2L - 1)``: row t and column s hold the tap of lag t - s."""
    t = torch.arange((lags.shape[1] + 1) // 2)
    return lags[:, t[:, None] - t + len(t) - 1]


def direct(
    u: Tensor,
    weight: dict[str, Tensor],
    k: Tensor,
    D: Tensor | None,
    kind: Any,
    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """The operator in plain PyTorch, with another long convolution of signals and taps of lags."""
    x = F.linear(u, weight["in_proj.weight"], weight["in_proj.bias"]).transpose(1, 2)
    taps = weight["short_filter.weight"].squeeze(1)
    behind = (taps.shape[1] - 1) // 2 if kind is True else 0
    p = reference_short_conv(F.pad(x, (0, behind)), taps, weight["short_filter.bias"])[..., behind:]
    *gates, v = p.split(D_MODEL, dim=1)
    for o in range(len(k)):
        lags = k[o] if kind is True else delayed(k[o])
        v = convolve(v * gates[len(k) - o], lags, None if D is None else D[o])
    return F.linear((v * gates[0]).transpose(1, 2), weight["out_proj.weight"], weight["out_proj.bias"])


def by_matrix(x: Tensor, lags: Tensor, D: Tensor | None) -> Tensor:
    y = (matrix(lags) @ x[..., None])[..., 0]
    return y if D is None else y + D[:, None] * x


# Taps and lags


def test_the_published_kind_is_the_published_matrix_bit_for_bit() -> None:
    """The delay of the published code, as a matrix of outputs by inputs."""
    rows = ["00000876", "00000087", "00000008", "00000000", "10000000", "21000000", "32100000", "43210000"]
    expected = torch.tensor([[float(digit) for digit in row] for row in rows], dtype=torch.float64)
    k = torch.arange(1.0, 9.0, dtype=torch.float64)[None]
    assert torch.equal(matrix(delayed(k))[0], expected)
    unit = torch.eye(8, dtype=torch.float64)[:, None]
    assert torch.equal(fftconv(unit, delayed(k), causal=False)[:, 0].T.round(), expected)


@pytest.mark.parametrize("length", [*LENGTHS, 3])
def test_the_published_kind_is_the_call_of_the_published_code(length: int) -> None:
    """Which pads ``length // 2`` zeros in front, on a circle of 2 L: for odd lengths, too."""
    u, k, D = torch.randn(2, 3, length).double(), torch.randn(3, length).double(), torch.randn(3).double()
    y = by_matrix(u, delayed(k), D)
    padded = F.pad(u, (length // 2, length // 2))
    size = 2 * length
    circle = torch.fft.irfft(torch.fft.rfft(padded, n=size) * torch.fft.rfft(k, n=size), n=size)[..., :length]
    torch.testing.assert_close(y, circle + D[:, None] * u, rtol=0, atol=1e-13)
    torch.testing.assert_close(y, fftconv_ref(u, k, D, None, gelu=False, bidirectional=True), rtol=0, atol=1e-13)
    lengths = torch.tensor([length, 0, max(length - 2, 0)])
    for row, n in zip(delayed_each(k, lengths), lengths.tolist(), strict=True):
        whole = F.pad(delayed(k[:, :n]), (length - n, length - n)) if n else torch.zeros(3, size - 1)
        assert torch.equal(row, whole)


@pytest.mark.parametrize("length", LENGTHS)
def test_two_sided_taps_are_two_causal_calls(length: int) -> None:
    x, k, D = torch.randn(2, 3, length).double(), torch.randn(6, length).double(), torch.randn(3).double()
    before, behind = k[:3], k[3:] * (torch.arange(length) > 0)
    calls = fftconv(x, before, D) + fftconv(x.flip(2), behind).flip(2)
    torch.testing.assert_close(by_matrix(x, two_sided(k), D), calls, rtol=0, atol=1e-13)
    torch.testing.assert_close(fftconv(x, two_sided(k), D, causal=False), calls, rtol=0, atol=1e-13)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 8])
def test_the_short_convolution_is_centred(taps: int) -> None:
    """An even number of taps has one more before than behind, as a two-sided ``fftconv``."""
    x, weight, bias = torch.randn(2, 3, 5).double(), torch.randn(3, taps).double(), torch.randn(3).double()
    padded = F.pad(x, (taps // 2, (taps - 1) // 2))
    expected = F.conv1d(padded, weight[:, None], bias, groups=3)
    torch.testing.assert_close(centred_short_conv(x, weight, bias), expected, rtol=0, atol=1e-14)
    # conv1d has the taps in the order of a correlation.
    same = direct_conv(F.pad(x, (4, 4)), weight.flip(1), causal=False)[..., 4:-4] + bias[:, None]
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-14)
    module, u = operator(short_filter_order=taps), signal(9)
    y = module(u)
    # A wrapped filter is called as a module.
    wrapped: Any = nn.Sequential(module.short_filter)
    wrapped.kernel_size = (taps,)
    module.short_filter = wrapped
    torch.testing.assert_close(module(u), y, rtol=0, atol=1e-14)


# The operator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_direct_sums(length: int, order: int, kind: Any) -> None:
    module, u = operator(kind, order, bias=order != 3), signal(length)
    own: Any = module.filter_fn
    z, t = own.pos_emb(length)
    # The window is a function of the distance: the same decay rates on both sides.
    sides = own.implicit_filter(z)[0].t().chunk(own.sides)
    k = torch.cat([own.modulation(t, side.t()[None])[0].t() for side in sides])
    steps, D = order - 1, own.bias.view(order - 1, D_MODEL) if own.use_bias else None
    k = (two_sided(k) if kind is True else k).reshape(steps, D_MODEL, -1)
    expected = direct(u, dict(module.named_parameters()), k, D, kind, by_matrix)
    torch.testing.assert_close(module(u), expected, rtol=0, atol=1e-13)
    assert module.filters(length)[0].shape == (steps, D_MODEL, module.taps(length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_within_the_budget(kind: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    module = operator(kind, 3)
    weight = {name: tensor for name, tensor in module.named_parameters() if "filter_fn" not in name}

    def ours(u: Tensor, k: Tensor, D: Tensor, **given: Tensor) -> Tensor:
        named = {name: given[name.replace(".", "_")] for name in weight}
        return functional_call(module.to(u.dtype), named, (u,), {"filters": (k, D)})

    def plain(u: Tensor, k: Tensor, D: Tensor, **given: Tensor) -> Tensor:
        named = {name: given[name.replace(".", "_")] for name in weight}
        return direct(u, named, k, D, kind, lambda x, lags, skip: reference_fftconv(x, lags, skip, causal=False))

    def oracle(u: Tensor, k: Tensor, D: Tensor, **given: Tensor) -> Tensor:
        return direct(u, {name: given[name.replace(".", "_")] for name in weight}, k, D, kind, by_matrix)

    k, D = module.filters(33)
    inputs = {"u": signal(33, batch=3), **{name.replace(".", "_"): tensor for name, tensor in weight.items()}}
    inputs = {name: tensor.detach().to(dtype) for name, tensor in inputs.items()}
    wide = torch.promote_types(dtype, torch.float32)
    assert D is not None
    monkeypatch.setitem(OPS, "bidirectional", Op(ours, plain, oracle))
    check("bidirectional", {**inputs, "k": k.detach().to(wide), "D": D.detach().to(wide)})


@pytest.mark.parametrize("order", [2, 3])
def test_a_flipped_input_and_swapped_sides_give_the_flipped_output(order: int) -> None:
    module, u = operator(order=order), signal(17)
    other: Any = copy.deepcopy(module)
    with torch.no_grad():
        last = other.filter_fn.implicit_filter[-1].weight
        before, behind = last.clone().chunk(2)
        last.copy_(torch.cat((behind, before)))
        other.short_filter.weight.copy_(other.short_filter.weight.flip(2))
        # Lag 0 is that of the filters before, whose other taps change sides.
        k, D = module.filters(17)
        swapped, _ = other.filters(17)
    assert torch.equal(k.flip(2)[..., 17:], swapped[..., 17:])
    assert torch.equal(k.flip(2)[..., :16], swapped[..., :16])
    torch.testing.assert_close(other(u.flip(1), filters=(k.flip(2), D)), module(u).flip(1), rtol=0, atol=1e-13)


def test_every_input_changes_every_output() -> None:
    u = signal(9, batch=1)[0]

    def outputs_of_inputs(kind: Any) -> Tensor:
        """Whether output t depends on input s, ``(L, L)``."""
        module = operator(kind)
        jacobian = torch.autograd.functional.jacobian(lambda v: module(v[None])[0], u)
        sizes = jacobian.abs().amax(dim=(1, 3))
        # A transform leaves roundings in place of zeros.
        return sizes > 1e-12 * sizes.max()

    assert outputs_of_inputs(True).all()
    t = torch.arange(9)
    assert torch.equal(outputs_of_inputs(False), t[:, None] >= t)
    # Locally only the causal short filter of 3 taps, and the long one from half the length on.
    lag = t[:, None] - t
    seen = outputs_of_inputs("published")
    assert not seen[(lag < 0) & (lag > -4)].any()
    assert seen[(lag >= 4) | ((lag >= 0) & (lag <= 2))].all()
    assert seen[0, 6:].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True], ids=["", "pads"])
def test_gradcheck(kind: Any, masked: bool) -> None:
    torch.manual_seed(0)
    module = HyenaOperator(2, 8, order=3, filter_order=3, bidirectional=kind).double()
    real = torch.tensor([[True] * 4 + [False], [True] * 5]) if masked else None
    names = [name for name, _ in module.named_parameters()]

    def call(u: Tensor, *values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, values, strict=True)), (u,), {"real": real})

    u = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (u, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [2, 3])
def test_pads_change_nothing(order: int, kind: Any) -> None:
    """On either side, whatever they hold, in rows of several lengths: results and gradients."""
    module = operator(kind, order)
    starts, lengths = [0, 4, 9, 5], [13, 9, 4, 8]
    real = torch.zeros(4, 13, dtype=torch.bool)
    batch = torch.full((4, 13, D_MODEL), float("inf"), dtype=torch.float64)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        real[row, start : start + n] = True
        batch[row, start : start + n] = signal(n, batch=1)[0]
    y = module(batch, real=real)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        torch.testing.assert_close(y[row, start : start + n], module(signal(n, batch=1))[0], rtol=0, atol=1e-13)
    y[real].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters() if parameter.grad is not None)
    # No gradient is that of a pad.
    finite = batch.nan_to_num(posinf=3.0).requires_grad_()
    (gradient,) = torch.autograd.grad(module(finite, real=real)[real].square().sum(), finite)
    assert not gradient[~real].any()
    assert gradient[real].all()
    marked = module(signal(13), real=torch.ones(2, 13, dtype=torch.bool))
    # Rows of "published" have filters of their own, which another sum of the same products takes.
    torch.testing.assert_close(marked, module(signal(13)), rtol=0, atol=0 if kind is True else 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_causal_operator(kind: Any) -> None:
    """All but the last layer of the filter network, which has two sides."""
    causal, module = operator(False, 3), operator(kind, 3)
    shapes = [{name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (causal, module)]
    last = "filter_fn.implicit_filter.6.weight"
    assert shapes[0].pop(last) == (12, 8)
    assert shapes[1].pop(last) == ((24, 8) if kind is True else (12, 8))
    assert shapes[0] == shapes[1]
    again = operator(kind, 3)
    again.load_state_dict(module.state_dict())
    assert torch.equal(copy.deepcopy(module)(signal(9)), again(signal(9)))
    if kind is True:
        with pytest.raises(RuntimeError, match=r"size mismatch for filter_fn\.implicit_filter\.6\.weight"):
            module.load_state_dict(causal.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_shared_kept_and_computed_by_layers(kind: Any) -> None:
    module, u = operator(kind).eval(), signal(20)
    with torch.no_grad():
        y = module(u)
        assert torch.equal(module(u, filters=module.filters(20)), y)
        with cache_filters(module):
            assert torch.equal(module(u), y)
            assert module.filters(20)[0].data_ptr() == module.filters(20)[0].data_ptr()
            assert torch.equal(module(u), y)
        # A hook sends the filter through its modules.
        module.filter_fn.implicit_filter[0].register_forward_hook(lambda *_: None)
        torch.testing.assert_close(module(u), y, rtol=0, atol=1e-13)


def test_the_filter_module_convolves_by_itself() -> None:
    x = torch.randn(2, D_MODEL, 20, dtype=torch.float64)
    for kind in KINDS:
        own = operator(kind).filter_fn
        lags = two_sided(own.kernel(20)) if kind is True else delayed(own.kernel(20))
        torch.testing.assert_close(own(x, 20), by_matrix(x, lags, own.bias), rtol=0, atol=1e-13)
        assert own.filter(20).shape == (1, 20, own.sides * D_MODEL)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_drops_before_each_long_convolution(kind: Any) -> None:
    module, u = operator(kind, 3, dropout=0.5), signal(9)
    assert torch.equal(module.eval()(u), operator(kind, 3).eval()(u))
    torch.manual_seed(1)
    module.train()
    y = module(u)
    torch.manual_seed(1)
    assert torch.equal(module(u), y)
    assert not torch.equal(module(u), y)


@pytest.mark.usefixtures("nan_empty")
def test_every_element_is_written_and_two_runs_agree() -> None:
    module, u = operator(order=3), signal(33).transpose(0, 1).contiguous().transpose(0, 1)
    real = torch.arange(33) < torch.tensor([[33], [20]])

    def run() -> dict[str, Tensor]:
        module.zero_grad()
        y = module(u, real=real)
        y.square().sum().backward()
        return {"y": y.detach(), **{name: parameter.grad for name, parameter in module.named_parameters()}}

    first = {name: value.clone() for name, value in run().items()}
    assert all(value.isfinite().all() for value in first.values())
    assert_same(run(), first)


def test_autocast_keeps_the_filters_in_float32() -> None:
    module, u = operator().float(), signal(33).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(u)
    assert y.dtype == torch.bfloat16
    assert (y.float() - module(u)).norm() < 0.02 * module(u).norm()
    assert module.to(torch.bfloat16).filters(33)[0].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_once_for_all_lengths(kind: Any) -> None:
    torch._dynamo.reset()
    module, counter = operator(kind), CompileCounterWithBackend("eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for length in (20, 33, 7):
        real = torch.arange(length) < torch.tensor([[length], [length - 3]])
        torch.testing.assert_close(
            compiled(signal(length), real=real), module(signal(length), real=real), rtol=0, atol=1e-13
        )
        counts.add(counter.frame_count)
    assert len(counts) == 1


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_length": 4}, "HyenaOperator: a bidirectional operator takes no filter_length"),
        ({"return_state": True}, "HyenaOperator: a bidirectional operator has no state"),
    ],
)
def test_options_that_need_a_causal_operator(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        operator(kind, **options)


def test_calls_that_need_a_causal_operator() -> None:
    module, u = operator(), signal(9)
    packed = "takes no packed sequences (cu_seqlens)"
    assert_refused(module, NotImplementedError, packed, u=u[:1], cu_seqlens=torch.tensor([0, 4, 9]))
    shards = ContextShards([9])
    # One process is no context.
    assert torch.equal(module(u, shards=shards), module(u))
    shards.size = 2
    assert_refused(module, NotImplementedError, "does not go with a bidirectional operator", u=u, shards=shards)
    with pytest.raises(NotImplementedError, match="some channels or positions of two-sided filters"):
        module.filter_fn(None, 9, positions=slice(0, 4))
    assert_refused(operator(False), ValueError, "real= is for a bidirectional operator", u=u, real=u[..., 0] > 0)
    for real in (u[..., 0], u[:1, :, 0] > 0, [True]):
        assert_refused(module, ValueError, "expected bool (B, L) = (2, 9)", u=u, real=real)
