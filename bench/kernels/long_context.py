"""Measure time and peak memory of one forward pass of a published configuration, random weights, over a long sequence.

python -m bench.kernels.long_context --size large-1m --length 1000000
"""

from __future__ import annotations

import argparse
import time

import torch

from bench.common.memory import peak_so_far
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.long_context",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="large-1m", help="published configuration (default: %(default)s)")
    parser.add_argument("--length", type=int, default=1_000_000, help="tokens of the sequence (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: as many as PyTorch takes)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(HyenaDNAConfig.named(args.size)).eval()
    ids = torch.randint(7, 11, (1, args.length))
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        logits = model(ids).logits
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert torch.isfinite(logits).all()
    peak = peak_so_far() / 2**30
    print(
        f"{args.size}, {args.length:,} tokens, {torch.get_num_threads()} threads: {wall:.0f} s wall, {cpu:.0f} s of "
        f"processor time, peak resident memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
