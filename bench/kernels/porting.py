"""Time the calls of ``hyena_kernels.compat`` on a CPU, and give their errors, beside those of plain PyTorch.

    python -m bench.kernels.porting --batch 1 --width 128 --length 4096

The libraries' kernels need a GPU. What they compare them with, or run without one, is plain PyTorch: transforms of
twice the length, or ``torch.nn.functional.conv1d``. Both take turns on one thread, in float32. Times are medians of the
rounds, in ms of processor time. Errors are relative to a direct sum in float64, over the first channels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common.timing import cpu_timer, in_turns
from hyena_kernels.compat import causal_conv1d, cudnn, fla, flashfftconv, m2_bert, safari
from hyena_kernels.testing import relative_error

_CHECKED = 2
"""Channels of which a direct sum is taken."""


@dataclass(frozen=True)
class _Call:
    """A call of a shim, the same in plain PyTorch, and its tensors. All functions take the tensors in this order."""

    name: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]


def _by_transforms(u: Tensor, k_f: Tensor, size: int) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(u, n=size) * k_f, n=size)[..., : u.shape[-1]]


def _on_a_circle(u: Tensor, k: Tensor, size: int) -> Tensor:
    """``y[t] = sum_s k[(t - s) mod size] u[s]``, for some positions at a time."""
    places = torch.arange(u.shape[-1])
    taps = F.pad(k, (0, size - k.shape[-1]))
    parts = [(part[:, None] - places) % size for part in places.split(128)]
    return torch.cat([torch.einsum("hts,bhs->bht", taps[:, part], u) for part in parts], dim=2)


def _reversed(k_rev: Tensor, size: int) -> Tensor:
    """The taps of ``rfft(k_rev).conj()`` on a circle."""
    return F.pad(k_rev, (0, size - k_rev.shape[-1])).flip(-1).roll(1, -1)


def _gated(u: Tensor, k: Tensor, pre: Tensor, post: Tensor) -> Tensor:
    return post * _by_transforms(u * pre, torch.fft.rfft(k, n=2 * u.shape[-1]), 2 * u.shape[-1])


def _two_sided(u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor) -> Tensor:
    size = 2 * u.shape[-1]
    k_f = torch.fft.rfft(k, n=size) + torch.fft.rfft(k_rev, n=size).conj()
    return F.gelu(_by_transforms(u, k_f, size) + u * D[:, None])


def _exact_two_sided(u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor) -> Tensor:
    size = 2 * u.shape[-1]
    taps = F.pad(k, (0, size - k.shape[-1])) + _reversed(k_rev, size)
    return F.gelu(_on_a_circle(u, taps, size) + u * D[:, None])


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels, taps = weight.shape
    return F.silu(F.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=channels)[..., : x.shape[-1]])


def calls(batch: int, width: int, length: int) -> list[_Call]:
    """Every call with random tensors."""
    torch.manual_seed(0)
    u, pre, post = torch.randn(3, batch, width, length).unbind(0)
    decay = torch.exp(-torch.arange(length) / length)
    k, k_rev = (torch.randn(2, width, length) * decay / length**0.5).unbind(0)
    D, weight = torch.randn(width), torch.randn(width, 4)
    size = 2 * length
    flash = flashfftconv.FlashFFTConv(size)
    circular = flashfftconv.FlashFFTConv(length)

    def m2(u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor) -> Tensor:
        return m2_bert.fftconv_ref(u, torch.cat([k, k_rev], dim=1), D[:, None], None, gelu=False)

    def plain_m2(u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor) -> Tensor:
        return _by_transforms(u, torch.fft.rfft(torch.cat([k, k_rev], dim=1), n=size), size) + u * D[:, None]

    def exact_m2(u: Tensor, k: Tensor, D: Tensor, k_rev: Tensor) -> Tensor:
        return _on_a_circle(u, torch.cat([k, k_rev], dim=1), size) + u * D[:, None]

    return [
        _Call(
            "FlashFFTConv, causal with gates",
            flash,
            _gated,
            lambda u, k, pre, post: post * _on_a_circle(u * pre, k, size),
            (u, k, pre, post),
        ),
        _Call(
            "FlashFFTConv, circular",
            circular,
            lambda u, k: _by_transforms(u, torch.fft.rfft(k, n=length), length),
            lambda u, k: _on_a_circle(u, k, length),
            (u, k),
        ),
        _Call(
            "safari fftconv_ref, k_rev and GELU",
            lambda u, k, D, k_rev: safari.fftconv_ref(u, k, D, None, k_rev=k_rev),
            _two_sided,
            _exact_two_sided,
            (u, k, D, k_rev),
        ),
        _Call("M2-BERT fftconv_ref, two-sided", m2, plain_m2, exact_m2, (u, k, D, k_rev)),
        _Call(
            "fla fft_conv",
            lambda u, k: fla.fft_conv(u, k, None, gelu=False),
            lambda u, k: _by_transforms(u, torch.fft.rfft(k, n=size), size) + u,
            lambda u, k: _on_a_circle(u, k, size) + u,
            (u, k),
        ),
        _Call(
            "cuDNN fft_causal_conv1d",
            cudnn.fft_causal_conv1d,
            lambda u, k: _by_transforms(u, torch.fft.rfft(k, n=size), size),
            lambda u, k: _on_a_circle(u, k, size),
            (u, k),
        ),
        _Call(
            "causal_conv1d_fn, 4 taps and SiLU",
            lambda x, weight, bias: causal_conv1d.causal_conv1d_fn(x, weight, bias, activation="silu"),
            _depthwise,
            _depthwise,
            (u, weight, D),
        ),
    ]


def _checked(call: _Call) -> tuple[float, float]:
    """Relative errors of the shim and of plain PyTorch, over the first channels."""
    few = [tensor[:, :_CHECKED] if tensor.dim() == 3 else tensor[:_CHECKED] for tensor in call.tensors]
    exact = call.exact(*(tensor.double() for tensor in few))
    return relative_error(call.ours(*few), exact), relative_error(call.plain(*few), exact)


def _run(function: Callable[..., Tensor], leaves: list[Tensor], dy: Tensor | None) -> None:
    y = function(*leaves)
    if dy is not None:
        torch.autograd.grad(y, leaves, dy)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.porting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="channels (default: %(default)s)")
    parser.add_argument("--length", type=int, default=4096, help="positions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (options.batch, options.width, options.length)
    print(f"(B, D, L) = {shape}, one thread, float32, medians of {options.rounds} rounds in ms of processor time")
    print("| call | forward | plain | ratio | with backward | plain | ratio | error | plain |\n" + "|---" * 9 + "|")
    for call in calls(*shape):
        cells = []
        for gradients in (False, True):
            leaves = [tensor.clone().requires_grad_(gradients) for tensor in call.tensors]
            dy = torch.randn_like(leaves[0]) if gradients else None
            functions = {"ours": call.ours, "plain": call.plain}
            turns = {name: partial(_run, function, leaves, dy) for name, function in functions.items()}
            times = in_turns(turns, cpu_timer(), options.rounds)
            ours, plain = (1e3 * median(times[name]) for name in ("ours", "plain"))
            ratio = median(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
            cells += [f"{ours:.3g}", f"{plain:.3g}", f"{ratio:.2f}"]
        cells += [f"{error:.1e}" for error in _checked(call)]
        print(f"| {call.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
