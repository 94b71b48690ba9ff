"""Measure what a cache saves in generation: seconds of the processor with it, and without it.

With the cache, all tokens are generated and measured. Without it, a token costs a forward pass over the sequence so
far. That is measured at several lengths and summed by the trapezoid rule, since the whole would take hours. It leaves
out the loop of transformers, which the cached figure has. The prompt is one base.

python -m bench.kernels.decoding --size tiny-1k --length 8192
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from hyenadna import HyenaCache, HyenaDNAConfig, HyenaDNAForCausalLM

SHARES = (1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Where the forward pass is measured, in parts of the whole length."""


def make_model(size: str, length: int) -> Any:
    """A model of a published shape with random weights, for sequences of ``length``."""
    torch.manual_seed(0)
    fields = HyenaDNAConfig.named(size).to_dict() | {"max_seq_len": length}
    return HyenaDNAForCausalLM(HyenaDNAConfig(**fields)).eval()


def clock(work: Callable[[], Any], device: str) -> float:
    """Seconds of the processor on a CPU, of the wall clock with a GPU."""
    if device == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def cached(model: Any, tokens: int, batch: int = 1) -> float:
    """Seconds that ``generate`` takes for ``tokens`` new tokens."""
    device = model.device
    prompt = torch.full((batch, 1), 7, device=device)
    model.generate(prompt, max_new_tokens=8, do_sample=False)
    return clock(lambda: model.generate(prompt, max_new_tokens=tokens, do_sample=False), device.type)


def recomputed(model: Any, length: int, batch: int = 1, repeats: int = 3) -> float:
    """Seconds of one token without a cache, the median of ``repeats``: a forward pass over ``length`` tokens."""
    ids = torch.randint(7, 11, (batch, length), device=model.device)
    with torch.no_grad():
        return median(clock(lambda: model(ids, logits_to_keep=1), model.device.type) for _ in range(repeats))


def integrated(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Sum over all lengths from 1 to the last of ``lengths``, by the trapezoid rule; constant before the first."""
    total = lengths[0] * seconds[0]
    for i in range(1, len(lengths)):
        total += (lengths[i] - lengths[i - 1]) * (seconds[i] + seconds[i - 1]) / 2
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.decoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="tiny-1k", help="published configuration (default: %(default)s)")
    parser.add_argument("--length", type=int, default=8192, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="sequences at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = make_model(args.size, args.length + 1).to(args.device)
    with_cache = cached(model, args.length, args.batch_size)
    needed = HyenaCache.bytes_needed(model.config, args.batch_size, args.length - 1)
    print(
        f"{args.size}, {args.length:,} tokens, batch {args.batch_size}, {args.device}: with a cache "
        f"{with_cache:.2f} s, {with_cache / args.length * 1e3:.3f} ms a token, cache {needed / 1e6:.1f} MB",
        flush=True,
    )
    lengths = sorted({max(round(args.length * share), 1) for share in SHARES})
    seconds = []
    for length in lengths:
        seconds.append(recomputed(model, length, args.batch_size))
        print(f"without a cache, one token behind {length:,}: {seconds[-1] * 1e3:.1f} ms", flush=True)
    without = integrated(lengths, seconds)
    print(f"without a cache {without:.0f} s for all, by the trapezoid rule: {without / with_cache:.0f} times as long")


if __name__ == "__main__":
    main()
