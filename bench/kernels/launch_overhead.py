"""Measure the processor time of a call on the Triton backend before its kernels run. Needs no GPU.

    python -m bench.kernels.launch_overhead --length 1024 32768
    python -m bench.kernels.launch_overhead --profile fftconv

Tensors are on the CPU, kernels are compiled for an H100, and the driver's launch does nothing. The rest is the work of
Python, torch's dispatcher and Triton. On a GPU the launch itself is added, and memory comes from another allocator.
The figures are the shortest of several rounds on one thread, in µs.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from bench.common.timing import best_seconds, cpu_timer
from hyena_kernels import HyenaOperator, use_backend
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.testing import (
    OPS,
    add_layer_norm_inputs,
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    layer_norm_inputs,
    short_conv_inputs,
)

_ARCHITECTURE = 90
_ROUNDS = 7


class Launches:
    """Replaces the launcher that Triton compiles for a kernel. Counts launches and launches nothing."""

    count = 0
    last: tuple[Any, ...] = ()
    """Grid, stream, function, metadata, hooks and arguments of the last launch."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *args: Any) -> None:
        Launches.count += 1
        Launches.last = args


@contextmanager
def without_gpu() -> Iterator[None]:
    """The Triton backend accepts CPU tensors and launches nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    functions = itertools.count(1)
    device = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", _ARCHITECTURE, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda index: 0,
        launcher_cls=Launches,
        utils=SimpleNamespace(
            load_binary=lambda *args: (object(), next(functions), 32, 0, 1024),
            get_device_properties=lambda index: {"max_shared_mem": 227 << 10},
        ),
    )
    before = driver._active
    driver.set_active(device)
    try:
        with mock.patch.object(triton_support, "obstacles", return_value=[]), use_backend("triton"):
            yield
    finally:
        driver._active = before


def _cases(length: int, channels: int) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    bf16 = {"dtype": torch.bfloat16}
    operator = HyenaOperator(channels, length, emb_dim=5).to(torch.bfloat16)
    return {
        "fftconv": (OPS["fftconv"].function, fftconv_inputs(1, channels, length, **bf16)),
        "short_conv": (OPS["short_conv"].function, short_conv_inputs(1, channels, length, **bf16)),
        "hyena_mixer": (OPS["hyena_mixer"].function, hyena_mixer_inputs(1, length, channels, **bf16)),
        "implicit_filter": (OPS["implicit_filter"].function, implicit_filter_inputs(channels, length)),
        "layer_norm": (OPS["layer_norm"].function, layer_norm_inputs(1, length, channels)),
        "add_layer_norm": (
            OPS["add_layer_norm"].function,
            add_layer_norm_inputs(1, length, channels, x_dtype=torch.bfloat16),
        ),
        "HyenaOperator": (operator, {"u": torch.randn(1, length, channels, dtype=torch.bfloat16)}),
    }


def _calls(function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    frozen = {"z", "t", "deltas"}
    leaves = {n: x if x is None or n in frozen else x.detach().requires_grad_() for n, x in inputs.items()}

    def forward() -> Any:
        with torch.no_grad():
            return function(**inputs)

    dy = torch.ones_like(forward())
    if isinstance(function, torch.nn.Module):
        wanted = [x for x in (*function.parameters(), *leaves.values()) if x.requires_grad]
    else:
        wanted = [x for x in leaves.values() if x is not None and x.requires_grad]

    def both() -> Any:
        return torch.autograd.grad(function(**leaves), wanted, dy)

    return {"forward": forward, "forward + backward": both}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.launch_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, nargs="+", default=[1024, 32768], help="lengths (default: %(default)s)")
    parser.add_argument(
        "--channels",
        type=int,
        default=16,
        help="channels (default: %(default)s): few, because torch computes the other ops on the CPU",
    )
    parser.add_argument("--repeats", type=int, default=300, help="calls per round (default: %(default)s)")
    parser.add_argument("--profile", metavar="OP", help="print a profile of this op (default: none)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with without_gpu():
        print("| op | L | | launches | µs |\n|---|---|---|---|---|")
        for length in options.length:
            for name, (function, inputs) in _cases(length, options.channels).items():
                if options.profile not in (None, name):
                    continue
                for form, call in _calls(function, inputs).items():
                    call()
                    before = Launches.count
                    call()
                    launches = Launches.count - before
                    spent = 1e6 * best_seconds(call, cpu_timer(), _ROUNDS, options.repeats)
                    print(f"| {name} | {length} | {form} | {launches} | {spent:.0f} |", flush=True)
                    if options.profile:
                        profile = cProfile.Profile()
                        profile.runcall(lambda call=call: [call() for _ in range(options.repeats)])
                        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
