"""Measure the peak memory of a model over long sequences, in bytes a token: each length in a process of its own.

The slope between two lengths leaves out what does not grow, such as weights and PyTorch itself. On a CPU it is resident
memory, and on a GPU what PyTorch has allocated.

python -m bench.kernels.step_memory --size large-1m --lengths 65536,131072 --mode training
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from bench.common.memory import peak_cuda_bytes, peak_rss
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

MODES = {
    "training": "forward and backward with gradient checkpointing",
    "unsliced": "the same, with blocks that are computed whole",
    "stored": "forward and backward without checkpointing",
    "inference": "forward without gradients",
}


def prepare(
    fields: dict[str, Any], length: int, mode: str, device: str = "cpu", autocast: bool = False, threads: int = 1
) -> Callable[[], None]:
    """Make a model with random weights.

    Args:
        fields: fields of ``HyenaDNAConfig``.
        length: tokens of the one sequence.
        mode: one of ``MODES``.
        device: ``"cpu"`` or ``"cuda"``.
        autocast: whether in bfloat16.
        threads: threads of the CPU.

    Returns:
        What is to be measured.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    training = mode != "inference"
    model: Any = HyenaDNAForCausalLM(HyenaDNAConfig(**fields))
    model.to(device).train(training)
    if mode in ("training", "unsliced"):
        model.activation_checkpointing_enable({"slices": "auto" if mode == "training" else False})
    ids = torch.randint(7, 11, (1, length), device=device)

    def run() -> None:
        with torch.set_grad_enabled(training), torch.autocast(device, torch.bfloat16, enabled=autocast):
            output = model(ids, labels=ids if training else None)
        if training:
            output.loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
        else:
            assert torch.isfinite(output.logits).all()

    return run


def peak(fields: dict[str, Any], length: int, mode: str, autocast: bool = False, threads: int = 1) -> int:
    """Peak resident bytes of a process of its own, with all that is in it. Arguments as of :func:`prepare`."""
    return peak_rss(prepare, fields, length, mode, "cpu", autocast, threads)[1]


def _peak_on_gpu(fields: dict[str, Any], length: int, mode: str, autocast: bool) -> int:
    run = prepare(fields, length, mode, "cuda", autocast)
    return torch.cuda.memory_allocated() + peak_cuda_bytes(run, torch.device("cuda"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.step_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = "; ".join(f"{name}: {meaning}" for name, meaning in MODES.items())
    parser.add_argument("--size", default="large-1m", help="published configuration (default: %(default)s)")
    parser.add_argument("--lengths", default="65536,131072", help="tokens, from short to long (default: %(default)s)")
    parser.add_argument("--mode", default="training", choices=MODES, help=f"{modes} (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device (default: %(default)s)")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 (default: float32)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    args = parser.parse_args()
    fields = HyenaDNAConfig.named(args.size).to_dict()
    before = None
    for length in map(int, args.lengths.split(",")):
        if args.device == "cuda":
            found = _peak_on_gpu(fields, length, args.mode, args.autocast)
        else:
            found = peak(fields, length, args.mode, args.autocast, args.threads)
        line = f"{args.size}, {args.mode}, {length:,} tokens: peak {found / 1e9:.2f} GB"
        if before is not None:
            slope = (found - before[1]) / (length - before[0])
            million = (found + slope * (1_000_000 - length)) / 1e9
            line += f", {slope / 1000:.2f} KB for each further token: {million:.1f} GB at 1,000,000"
        print(line, flush=True)
        before = length, found


if __name__ == "__main__":
    main()
