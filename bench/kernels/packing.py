"""Time ``hyena_mixer_varlen`` on packed sequences of different lengths, against padding and against a loop.

    python -m bench.kernels.packing --sequences 64 --width 128

Three sets of sequences: genes of log-normal lengths up to 20,000 bp, promoters of 60 to 500 bp, and promoters with one
sequence of 16,384 bp among them. The padded batch holds every sequence with zeros up to the longest. The loop calls
``hyena_mixer`` for one sequence after the other. All ways give the same results, which is checked first. They take
turns on one thread, in float32. The figures are medians of the rounds, in ms of processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from bench.common.timing import Call, cpu_timer, in_turns
from hyena_kernels import SegmentPlan, hyena_mixer, hyena_mixer_varlen
from hyena_kernels.testing import hyena_mixer_varlen_inputs, relative_error

LOOP, PADDED, PACKED = "loop", "padded", "packed"


def sets(sequences: int) -> dict[str, list[int]]:
    """Lengths of the sequences of each set."""
    generator = torch.Generator().manual_seed(0)
    genes = (7.0 + 0.9 * torch.randn(sequences, generator=generator)).exp().clamp(60, 20_000)
    promoters = torch.randint(60, 501, (2, sequences), generator=generator).tolist()
    return {
        "log-normal genes": genes.long().tolist(),
        "60 to 500 bp": promoters[0],
        "one of 16 kb among short ones": [*promoters[1][1:], 16_384],
    }


def padded(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Packed rows ``(T, width)`` as ``(S, longest, width)`` with zeros behind every sequence."""
    return torch.nn.utils.rnn.pad_sequence(x.split(list(lengths)), batch_first=True)


def ways(lengths: Sequence[int], tensors: dict[str, Tensor], plan: SegmentPlan) -> dict[str, Callable[..., Tensor]]:
    """Each way as a function of its input, which gives what belongs to the sequences, ``(T, d)``."""
    rest = {name: tensor for name, tensor in tensors.items() if name not in ("x", "k")}
    k = tensors["k"]

    def loop(x: Tensor) -> Tensor:
        parts = x.split(list(lengths))
        return torch.cat([hyena_mixer(part[None], k=k[..., : len(part)], **rest)[0] for part in parts])

    return {
        PACKED: lambda x: hyena_mixer_varlen(x, k=k, cu_seqlens=plan, **rest),
        LOOP: loop,
        PADDED: lambda x: hyena_mixer(x, k=k, **rest),
    }


def _step(function: Callable[[Tensor], Tensor], x: Tensor, leaves: list[Tensor], gradients: bool) -> None:
    y = function(x)
    if gradients:
        torch.autograd.grad(y, leaves, torch.ones_like(y))


def compare(lengths: Sequence[int], width: int, rounds: int, gradients: bool) -> dict[str, float]:
    """Median processor time of each way in ms."""
    made = hyena_mixer_varlen_inputs(lengths, width)
    plan = SegmentPlan(made.pop("cu_seqlens"))
    tensors = {name: tensor.requires_grad_(gradients) for name, tensor in made.items()}
    inputs = dict.fromkeys((PACKED, LOOP), tensors["x"])
    inputs[PADDED] = padded(tensors["x"].detach(), lengths).requires_grad_(gradients)
    functions = ways(lengths, tensors, plan)
    with torch.no_grad():
        results = {name: function(inputs[name]) for name, function in functions.items()}
    results[PADDED] = torch.cat([y[:length] for y, length in zip(results[PADDED], lengths, strict=True)])
    for name, y in results.items():
        if relative_error(y, results[LOOP]) > 1e-5:
            raise SystemExit(f"packing: {name} and {LOOP} give different results, so their times say nothing")
    shared = [tensor for name, tensor in tensors.items() if name != "x"]
    calls: dict[str, Call] = {
        name: partial(_step, function, inputs[name], [inputs[name], *shared], gradients)
        for name, function in functions.items()
    }
    return {name: 1e3 * median(seconds) for name, seconds in in_turns(calls, cpu_timer(), rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", type=int, default=64, help="sequences of a set (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="width D (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| {options.sequences} sequences, D={options.width} | positions | padded/real | | {PADDED} | {LOOP} |", end=""
    )
    print(f" {PACKED} | {PADDED}/{PACKED} |\n|---|---|---|---|---|---|---|---|")
    for name, lengths in sets(options.sequences).items():
        ratio = len(lengths) * max(lengths) / sum(lengths)
        for gradients in (False, True):
            times = compare(lengths, options.width, options.rounds, gradients)
            figures = " | ".join(f"{times[way]:.3g}" for way in (PADDED, LOOP, PACKED))
            direction = "forward + backward" if gradients else "forward"
            faster = times[PADDED] / times[PACKED]
            print(f"| {name} | {sum(lengths)} | {ratio:.3g} | {direction} | {figures} | {faster:.3g} |", flush=True)


if __name__ == "__main__":
    main()
