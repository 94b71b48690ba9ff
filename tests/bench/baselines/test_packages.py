"""Adapters to other packages, tested with stand-ins, and the check of attention."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench.baselines import attention, packages
from bench.baselines.attention import error_at_some_queries
from bench.baselines.packages import Unavailable
from bench.suite.accuracy import errors_on_channels, faults
from bench.suite.cases import Case, cases
from bench.suite.workloads import build
from hyena_kernels.testing import fftconv_inputs, short_conv_inputs


def test_attention_that_sees_the_future_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error <= budget
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention, "function_of", lambda implementation: right)
    error, budget = error_at_some_queries("sdpa_math", 1, 64, 100, cpu, torch.float32)
    assert error > budget


def fake(monkeypatch: pytest.MonkeyPatch, module: str, **content: object) -> None:
    made = ModuleType(module)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, module, made)


def causal(u: Tensor, k: Tensor) -> Tensor:
    size = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u.float(), size) * torch.fft.rfft(k.float(), size), size)[..., : u.shape[-1]]


class FakeFlashFFTConv:
    def __init__(self, seqlen: int, dtype: torch.dtype) -> None:
        assert seqlen & (seqlen - 1) == 0
        self.seqlen, self.dtype = seqlen, dtype

    def to(self, device: torch.device) -> FakeFlashFFTConv:
        return self

    def __call__(self, u: Tensor, k: Tensor, *gates: Tensor) -> Tensor:
        assert u.dtype == self.dtype
        assert k.dtype == torch.float32
        assert u.shape[-1] == k.shape[-1]
        assert u.shape[-1] % 2 == 0
        assert 2 * u.shape[-1] <= self.seqlen
        before, after = gates or (1, 1)
        return (causal(u * before, k) * after).to(u.dtype)


@pytest.mark.parametrize("implementation", ["flashfftconv", "cudnn_fft_causal_conv1d"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("length", [256, 301])
def test_packages_for_long_convolutions_give_the_op(
    monkeypatch: pytest.MonkeyPatch, implementation: str, gated: bool, length: int
) -> None:
    fake(monkeypatch, "flashfftconv", FlashFFTConv=FakeFlashFFTConv)
    fake(monkeypatch, "cudnn")
    fake(monkeypatch, "cudnn.ops", fft_causal_conv1d=lambda x, weight: causal(x, weight).to(x.dtype))
    workload, adapter = packages.ADAPTERS[implementation]
    filters = torch.bfloat16 if implementation in packages.FILTERS_LIKE_SIGNALS else torch.float32
    inputs = fftconv_inputs(1, 16, length, dtype=torch.bfloat16, filter_dtype=filters, pre_gate=gated, post_gate=gated)
    function = adapter(16, length, torch.bfloat16, torch.device("cpu"))
    errors = errors_on_channels(workload, inputs, torch.ones(1, 16, length, dtype=torch.bfloat16), range(16), function)
    assert not faults(errors)


def test_a_package_for_short_convolutions_gives_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
        assert activation is None
        taps = weight.shape[1]
        y = torch.nn.functional.conv1d(x, weight.unsqueeze(1), bias, padding=taps - 1, groups=x.shape[1])
        return y[..., : x.shape[-1]]

    fake(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    workload, adapter = packages.ADAPTERS["causal_conv1d"]
    function = adapter(16, 100, torch.float32, torch.device("cpu"))
    assert not faults(errors_on_channels(workload, short_conv_inputs(1, 16, 100), None, range(16), function))


@pytest.mark.parametrize("implementation", ["flash_attn", "flash_attn_3", "flash_attn_4"])
def test_versions_of_flash_attn_take_heads_last(monkeypatch: pytest.MonkeyPatch, implementation: str) -> None:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> object:
        assert causal
        assert q.shape[-2:] == (1, 64)
        heads_first = (t.transpose(1, 2) for t in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)
        return y if implementation == "flash_attn" else (y, None)

    for module in ("flash_attn", "flash_attn_interface", "flash_attn.cute"):
        fake(monkeypatch, module, flash_attn_func=flash_attn_func)
    error, budget = error_at_some_queries(implementation, 1, 64, 100, torch.device("cpu"), torch.float32)
    assert error <= budget


@pytest.mark.parametrize("implementation", [*packages.ADAPTERS, "flash_attn_3"])
def test_a_package_that_is_missing_or_has_no_such_op_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    workload = packages.ADAPTERS.get(implementation, ("two_layer_model", None))[0]
    case = Case(workload, "plain", implementation, "both", 1, 64, 100)
    monkeypatch.setattr(
        packages, "ADAPTERS", {implementation: (workload, lambda *_: packages.imported("torch", "no_such_op"))}
    )
    if implementation == "flash_attn_3":
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
        with pytest.raises(ImportError, match="flash_attn_interface"):
            build(case, torch.device("cpu"), torch.float32)
        return
    with pytest.raises(Unavailable, match="runs on CUDA devices only"):
        build(case, torch.device("cpu"), torch.float32)
    with pytest.raises(ImportError, match=r"torch .* has no no_such_op"):
        build(case, torch.device("cuda"), torch.float32)


def test_flashfftconv_says_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "flashfftconv", FlashFFTConv=FakeFlashFFTConv)
    cpu = torch.device("cpu")
    for width, length, dtype, message in (
        (16, 64, torch.float32, "float16 and bfloat16"),
        (16, 1 << 22, torch.bfloat16, "4194304 points"),
        (8, 1 << 15, torch.bfloat16, "multiples of 16"),
    ):
        with pytest.raises(Unavailable, match=message):
            packages.flashfftconv(width, length, dtype, cpu)


def test_without_flash_attn_the_reason_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ImportError, match=r"flash_attn.*; install it with pip install .*hyena-kernels\[flash-attn\]"):
        attention.function_of("flash_attn")
    case = next(case for case in cases("cuda", workloads={"two_layer_model"}) if case.is_attention)
    assert case.implementation == "flash_attn"
