"""``OnlineConv`` against ``fftconv`` of the whole signal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import OnlineConv, fftconv, online_conv


def inputs(length: int, taps: int, dtype: torch.dtype = torch.float64, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    u, k, D = torch.randn(batch, 3, length), torch.randn(3, taps), torch.randn(3)
    return u.to(dtype), k.to(dtype), D.to(dtype)


def online(u: Tensor, conv: OnlineConv, prompt: int) -> Tensor:
    """Every output: of ``fill`` for the first ``prompt`` positions, then step by step."""
    found = [conv.fill(u[..., :prompt])] if prompt else []
    return torch.cat([*found, *(conv.step(u[..., t])[..., None] for t in range(prompt, u.shape[2]))], dim=2)


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("window", [1, 8, 64])
@pytest.mark.parametrize(
    ("prompt", "horizon", "taps"), [(0, 1, 1), (1, 2, 3), (3, 63, 66), (65, 64, 5), (0, 129, 129), (100, 300, 400)]
)
def test_is_the_convolution_of_the_whole_signal(prompt: int, horizon: int, taps: int, window: int) -> None:
    u, k, D = inputs(prompt + horizon, taps)
    expected = fftconv(u, k, D)
    found = online(u, OnlineConv(k, D, batch=2, horizon=horizon, window=window), prompt)
    assert (found - expected).abs().max() <= 1e-12


def test_large_tiles_are_computed_in_parts_and_their_spectra_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    u, k, _ = inputs(300, 300)
    monkeypatch.setattr(online_conv, "_TILE_BYTES", 512)
    monkeypatch.setattr(online_conv, "KEPT_TILE", 16)
    conv = OnlineConv(k, batch=2, horizon=300, window=4)
    assert (online(u, conv, 0) - fftconv(u, k)).abs().max() <= 1e-12
    assert list(conv._tiles.spectra) == online_conv.Tiles.sizes(300, 4) == [4, 8, 16]


@pytest.mark.parametrize("window", [1, 64])
def test_float32_is_as_exact_as_one_transform(window: int) -> None:
    """No drift: twice the error of one transform over all, and a rounding band."""
    u, k, D = inputs(1000, 1000, torch.float32)
    exact = fftconv(u.double(), k.double(), D.double())
    allowed = 2 * ((fftconv(u, k, D) - exact).abs().max() + torch.finfo(torch.float32).eps * exact.abs().max())
    found = online(u, OnlineConv(k, D, batch=2, horizon=500, window=window), 500)
    assert (found - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_signals_of_16_bits_are_rounded_once(dtype: torch.dtype) -> None:
    u, k, D = inputs(150, 150, torch.float32)
    u = u.to(dtype)
    found = online(u, OnlineConv(k, D, batch=2, horizon=100), 50)
    expected = fftconv(u.float(), k, D)
    assert found.dtype == dtype
    assert ((found.float() - expected).abs() <= torch.finfo(dtype).eps * expected.abs() + 1e-4).all()


def test_by_hand() -> None:
    conv = OnlineConv(
        torch.tensor([[1.0, 10.0, 100.0]]), torch.tensor([0.5]), batch=1, horizon=3, history=torch.tensor([[[1.0, 2]]])
    )
    assert [conv.step(torch.tensor([[value]])).item() for value in (3.0, 0.0, 0.0)] == [124.5, 230.0, 300.0]
    assert conv.steps == 3


def test_reset_forgets_everything() -> None:
    u, k, D = inputs(90, 90)
    conv = OnlineConv(k, D, batch=2, horizon=80, history=torch.full_like(u[..., :10], float("nan")), window=8)
    conv.step(u[..., 0])
    conv.reset()
    assert (online(u, conv, 10) - fftconv(u, k, D)).abs().max() <= 1e-12


def test_a_nan_stays_in_its_row_and_channel_and_behind_its_position() -> None:
    u, k, _ = inputs(100, 100)
    clean = online(u, OnlineConv(k, batch=2, horizon=100, window=8), 0)
    u[1, 2, 20] = float("nan")
    found = online(u, OnlineConv(k, batch=2, horizon=100, window=8), 0)
    assert torch.equal(found[0], clean[0])
    assert torch.equal(found[1, :2], clean[1, :2])
    assert torch.equal(found[1, 2, :20], clean[1, 2, :20])


def test_modes_around_a_call_change_nothing() -> None:
    u, k, D = inputs(40, 40, torch.float32)
    expected = online(u, OnlineConv(k, D, batch=2, horizon=30, window=4), 10)
    with torch.inference_mode():
        conv = OnlineConv(k, D, batch=2, horizon=30, window=4)
        first = online(u[..., :25], conv, 10)
    with torch.autocast("cpu", torch.bfloat16):
        second = torch.stack([conv.step(u[..., t]) for t in range(25, 40)], dim=2)
    assert torch.equal(torch.cat([first, second], dim=2), expected)
    copied = OnlineConv(k, D, batch=2, horizon=40, window=4)
    k.zero_()
    assert (online(u, copied, 0) - expected).abs().max() < 1e-5


def ready(**changes: Any) -> OnlineConv:
    given: dict[str, Any] = {"k": torch.randn(3, 5), "batch": 2, "horizon": 4}
    return OnlineConv(**given | changes)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: ready(k=torch.randn(3)), ValueError, r"k has shape \(3,\), expected \(D, K\)"),
        (lambda: ready(k=torch.randn(3, 0)), ValueError, "expected K ≥ 1"),
        (lambda: ready(k=torch.ones(3, 5, dtype=torch.long)), TypeError, "dtype torch.int64"),
        (lambda: ready(D=torch.randn(2)), ValueError, r"D has shape \(2,\)"),
        (lambda: ready(batch=0), ValueError, "batch is 0, expected at least 1"),
        (lambda: ready(horizon=0), ValueError, "horizon is 0, expected at least 1"),
        (lambda: ready(window=3), ValueError, "window is 3, expected a power of two"),
        (lambda: ready(k=torch.randn(3, 5, requires_grad=True)), RuntimeError, "k requires gradients"),
        (lambda: ready(history=torch.randn(2, 4, 7)), ValueError, r"u has shape \(2, 4, 7\)"),
        (lambda: ready().fill(torch.randn(2, 3, 0)), ValueError, "expected P ≥ 1"),
        (lambda: ready().step(torch.randn(3, 3)), ValueError, r"u_t has shape \(3, 3\), expected \(B, D\)"),
        (lambda: ready().step(torch.randn(2, 3).double()), TypeError, r"u_t is float64 and k is not"),
        (lambda: ready().step(torch.randn(2, 3, requires_grad=True)), RuntimeError, "u_t requires gradients"),
        (lambda: ready(history=torch.randn(2, 3, 1)).fill(torch.randn(2, 3, 1)), ValueError, "a history before"),
    ],
)
def test_what_cannot_be_honoured_is_refused(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_there_are_as_many_steps_as_were_asked_for() -> None:
    conv = ready()
    for _ in range(4):
        conv.step(torch.randn(2, 3))
    with pytest.raises(ValueError, match="all 4 steps of `horizon` are done: make one with a larger horizon"):
        conv.step(torch.randn(2, 3))
