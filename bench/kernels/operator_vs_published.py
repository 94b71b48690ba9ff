"""Compare HyenaOperator with the published op sequence: times in turns in one process, peak memory in fresh processes.

python -m bench.kernels.operator_vs_published --batch 1 --length 32768 --width 128
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from bench.baselines.published import PublishedHyenaOperator
from bench.common.memory import peak_rss
from bench.common.timing import cpu_timer
from hyena_kernels import HyenaOperator


def setup(which: str, batch: int, length: int, width: int, threads: int) -> Callable[[], tuple[float, float]]:
    """A function that runs forward and backward once and returns the seconds of each."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    operator = HyenaOperator(width, length, emb_dim=5, w=10, lr_pos_emb=0.0)
    module = operator if which == "ours" else PublishedHyenaOperator(operator)
    x = torch.randn(batch, length, width, requires_grad=True)
    dy = torch.randn(batch, length, width)
    timer = cpu_timer()

    def run() -> tuple[float, float]:
        operator.zero_grad(set_to_none=True)
        x.grad = None
        y: list[torch.Tensor] = []
        return timer.time(lambda: y.append(module(x))), timer.time(lambda: y[0].backward(dy))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.operator_vs_published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default, what in (
        ("batch", 1, "sequences at a time"),
        ("length", 32768, "positions of a sequence"),
        ("width", 128, "channels"),
        ("rounds", 7, "rounds; each runs both in turns"),
        ("threads", 1, "CPU threads"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    args = parser.parse_args()
    shape = (args.batch, args.length, args.width, args.threads)
    ours, published = setup("ours", *shape), setup("published", *shape)
    ours(), published()
    times = [(ours(), published()) for _ in range(args.rounds)]
    print(
        f"HyenaOperator (B, L, D) = {shape[:3]}, {args.threads} thread(s), medians of {args.rounds} alternating rounds"
    )
    for name, pick in (("forward", lambda t: t[0]), ("backward", lambda t: t[1]), ("both", sum)):
        mine, theirs = (statistics.median(pick(pair[i]) for pair in times) for i in (0, 1))
        ratio = statistics.median(pick(b) / pick(a) for a, b in times)
        print(f"  {name:<9} ours {mine:.3f} s, published {theirs:.3f} s, ratio {ratio:.2f}")
    extra, whole = {}, {}
    for which in ("ours", "published"):
        before, after = peak_rss(setup, which, *shape)
        extra[which], whole[which] = after - before, after
    fraction = extra["ours"] / extra["published"]
    print(
        f"  peak memory beyond inputs and weights: ours {extra['ours'] / 2**20:.0f} MiB, published "
        f"{extra['published'] / 2**20:.0f} MiB, {fraction:.0%} (of the whole process, torch included: "
        f"{whole['ours'] / 2**20:.0f} and {whole['published'] / 2**20:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
