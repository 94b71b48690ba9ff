"""A block as in StripedHyena, on plain PyTorch or on the ops of hyena_kernels, with the times of both.

StripedHyena's block is RMSNorm, a projection to three signals, a short depthwise convolution, a gate, a long
convolution with a skip, another gate, a projection, and a gated MLP behind a second RMSNorm. Its long filters are sums
of exponentials: ``h[t] = sum_s residues[s] * exp(decays[s] * t)``. The block is written from that description (Poli et
al., "StripedHyena", 2023), and not taken from its code.

Between the two projections nothing is left of PyTorch: `hyena_mixer` is the short convolution, both gates and the long
convolution. That is the whole change, see `StripedBlock.mix_fused`.

    python examples/striped_block/striped_block.py --length 8192
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyena_kernels import hyena_mixer


class StripedBlock(nn.Module):
    """``(B, L, D)`` to ``(B, L, D)``.

    Args:
        width: D.
        states: exponentials S in a filter.
        short: taps of the short convolution.
        fused: whether to compute with hyena_kernels.
    """

    def __init__(self, width: int, states: int = 8, short: int = 3, *, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.short = nn.Conv1d(3 * width, 3 * width, short, padding=short - 1, groups=3 * width)
        self.residues = nn.Parameter(torch.randn(width, states) / states)
        self.decays = nn.Parameter(-torch.logspace(-3, 0, states).repeat(width, 1))
        self.D = nn.Parameter(torch.randn(width))
        self.out = nn.Linear(width, width)
        self.gate, self.up, self.down = (
            nn.Linear(width, 2 * width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def filters(self, length: int) -> Tensor:
        """The long filters ``(D, L)``."""
        t = torch.arange(length, device=self.D.device, dtype=self.D.dtype)
        return torch.einsum("ds,dsl->dl", self.residues, torch.exp(self.decays[:, :, None] * t))

    def mix(self, z: Tensor, k: Tensor) -> Tensor:
        """From the projections ``(B, L, 3 D)`` to ``(B, L, D)`` with the long filters ``(D, L)``, in plain PyTorch."""
        length = z.shape[1]
        after, before, v = self.short(z.transpose(1, 2))[..., :length].chunk(3, dim=1)
        u = v * before
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + u * self.D[:, None]
        return (y * after).transpose(1, 2)

    def mix_fused(self, z: Tensor, k: Tensor) -> Tensor:
        """The same with hyena_kernels."""
        return hyena_mixer(z, self.short.weight[:, 0], self.short.bias, k[None], self.D[None])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` to the same."""
        z = self.projections(self.norm1(x))
        k = self.filters(x.shape[1])
        x = x + self.out(self.mix_fused(z, k) if self.fused else self.mix(z, k))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def pair(width: int, depth: int) -> tuple[nn.Module, nn.Module]:
    """Two models of the same weights: plain PyTorch, and hyena_kernels."""
    torch.manual_seed(0)
    plain = nn.Sequential(*(StripedBlock(width) for _ in range(depth)))
    fused = nn.Sequential(*(StripedBlock(width, fused=True) for _ in range(depth)))
    fused.load_state_dict(plain.state_dict())
    return plain, fused


def largest_difference(width: int = 16, depth: int = 2, length: int = 300) -> float:
    """The largest difference of the results and of all gradients, in float64."""
    plain, fused = (model.double() for model in pair(width, depth))
    x = torch.randn(2, length, width, dtype=torch.float64)
    found = []
    for model in (plain, fused):
        y = model(x)
        found.append((y.detach(), *torch.autograd.grad(y.square().mean(), list(model.parameters()))))
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def seconds(work: Callable[[], object], device: str) -> float:
    """Processor time on a CPU, wall time with a GPU."""
    clock = time.process_time
    if device != "cpu":
        clock = time.perf_counter
        torch.cuda.synchronize()
    began = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def compare(what: str, plain: Callable[[], Tensor], fused: Callable[[], Tensor], args: argparse.Namespace) -> None:
    """Time two functions in turns, without gradients and with a backward pass, and print the medians."""

    def forward(function: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            function()

    def step(function: Callable[[], Tensor]) -> None:
        function().square().mean().backward()

    for title, work in (("forward", forward), ("forward and backward", step)):
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(args.rounds + 1):
            for kept, function in zip(times, (plain, fused), strict=True):
                spent = seconds(partial(work, function), args.device)
                # The first turn warms up.
                if turn:
                    kept.append(spent)
        before, after = (median(kept) * 1000 for kept in times)
        print(
            f"{what}, {title}: {before:.1f} ms, with hyena_kernels {after:.1f} ms, {before / after:.2f} times as fast"
        )


def main() -> None:
    """Compare both models, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192, help="positions (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="width of the model (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=2, help="number of blocks (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the median counts (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"largest difference of results and gradients in float64: {largest_difference():.1e}")
    plain, fused = (model.to(args.device) for model in pair(args.width, args.depth))
    x = torch.randn(1, args.length, args.width, device=args.device)
    compare("model", *(partial(model, x) for model in (plain, fused)), args)
    z = torch.randn(1, args.length, 3 * args.width, device=args.device, requires_grad=True)
    k = plain[0].filters(args.length).detach().requires_grad_()
    compare("mixing alone", partial(plain[0].mix, z, k), partial(fused[0].mix_fused, z, k), args)


if __name__ == "__main__":
    main()
