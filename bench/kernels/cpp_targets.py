"""The C++ kernels against the published op sequence in plain PyTorch: one thread, processor time, taking turns.

    python -m bench.kernels.cpp_targets                                  # everything, ten minutes
    python -m bench.kernels.cpp_targets --only fftconv project           # minutes
    HYENA_CPU_ISA=portable python -m bench.kernels.cpp_targets --only fftconv

Each figure is the median over rounds in which both are run one after the other in this process; a ratio is the median
of the rounds' ratios. Peak memory is that of a fresh process each. ``threads`` alone is of wall time: all processors
against one of them, of the C++ kernels. Results go to ``bench/results/`` under the
processor's name, in ``cpp_aims_<instruction set>_<comparison>.json`` each, unless ``--out`` names another folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines.published import PublishedBlock, published_fftconv
from bench.common import json_io as records, machine
from bench.common.memory import peak_rss
from hyena_kernels import fftconv, implicit_filter, use_backend
from hyena_kernels.testing import (
    fftconv_inputs,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    reference_implicit_filter,
    relative_error,
)

Record = dict[str, Any]
SHAPES = [(1, 256, 1024), (1, 256, 8192), (4, 64, 8192), (1, 128, 32768), (1, 16, 1 << 20), (1, 256, 1000),
          (1, 128, 4097), (1, 16, 65537)]  # fmt: skip
MODEL_LENGTH = 32768


def alternate(
    ours: Callable[[], object], plain: Callable[[], object], rounds: int, clock: Callable[[], float] = time.process_time
) -> Record:
    """Median milliseconds of both by the clock, and the median ratio."""

    def span(function: Callable[[], object], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            function()
        return 1000 * (clock() - start) / repeats

    plain()
    repeats = max(1, int(100 / max(span(ours, 1), 1e-3)))
    times = [(span(ours, repeats), span(plain, repeats)) for _ in range(rounds)]
    mine, theirs = (statistics.median(pair[i] for pair in times) for i in (0, 1))
    return {"cpp_ms": mine, "plain_ms": theirs, "ratio": statistics.median(b / a for a, b in times)}


def both_directions(
    name: str, shape: tuple[int, ...], ours: Callable[..., Any], plain: Callable[..., Any], leaves: list[Tensor],
    rounds: int,
) -> Record:  # fmt: skip
    """Forward without gradients, and forward with backward to every leaf, after a look at the results."""
    for leaf in leaves:
        leaf.requires_grad_()

    def forward(function: Callable[..., Any]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return function(*leaves)

        return run

    def outputs(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        result = function(*leaves)
        return result if isinstance(result, tuple) else (result,)

    expected = outputs(plain)
    gradients = [torch.randn_like(y) for y in expected]
    for y, reference in zip(outputs(ours), expected, strict=True):
        error = relative_error(y, reference.double())
        if not error < 1e-4:
            raise SystemExit(f"error: {name} {shape} differs from plain PyTorch by {error:.2e}: no time is given")
    del expected

    def step(function: Callable[..., Any]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(outputs(function), leaves, gradients)

    record: Record = {"op": name, "shape": list(shape)}
    record["forward"] = alternate(forward(ours), forward(plain), rounds)
    record["both"] = alternate(step(ours), step(plain), rounds)
    cells = [f"{what} {record[what]['cpp_ms']:.2f} ms, {record[what]['ratio']:.2f}×" for what in ("forward", "both")]
    print(f"{name} {shape}: {'  '.join(cells)}", flush=True)
    return record


def fftconv_records(rounds: int) -> list[Record]:
    """Gated ``fftconv`` against ``torch.fft`` of twice the length, gates and skip in ops of their own."""
    found = []
    for batch, channels, length in SHAPES:
        inputs = fftconv_inputs(batch, channels, length)
        found.append(
            both_directions(
                "fftconv",
                (batch, channels, length),
                lambda u, k, D, pre, post: fftconv(u, k, D, pre_gate=pre, post_gate=post, backend="cpp"),
                lambda u, k, D, pre, post: post * published_fftconv(pre * u, k, D),
                [tensor for tensor in inputs.values() if tensor is not None],
                rounds,
            )
        )
    return found


class _Project(torch.autograd.Function):
    """The first stage of the mixer as a differentiable function; in the mixer it is no op of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        from hyena_kernels.backends.cpp.mixer import project

        ctx.save_for_backward(x, weight, bias)
        return project(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        from hyena_kernels.backends.cpp.mixer import project_backward

        return project_backward(*grads, *ctx.saved_tensors)


def _plain_project(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    taps = weight.shape[1]
    p = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=taps - 1, groups=weight.shape[0])
    x0, x1, v = p[..., : x.shape[1]].chunk(3, dim=1)
    # What follows reads both channel-first.
    return v * x1, x0.contiguous()


def project_records(rounds: int) -> list[Record]:
    """Short convolution, split and gate, from channel-last to channel-first."""
    shape = (1, 32768, 256)
    inputs = hyena_mixer_inputs(*shape)
    leaves = [inputs[name] for name in ("x", "short_weight", "short_bias")]
    return [both_directions("short conv + split + gate", shape, _Project.apply, _plain_project, leaves, rounds)]


def filter_records(rounds: int) -> list[Record]:
    """``implicit_filter`` against its reference."""
    found = []
    for channels, length in ((128, 4096), (256, 32768)):
        inputs = implicit_filter_inputs(channels, length)
        found.append(
            both_directions(
                "implicit_filter",
                (channels, length),
                lambda *tensors: implicit_filter(*tensors, 0.05),
                lambda *tensors: reference_implicit_filter(*tensors, 0.05),
                list(inputs.values()),
                rounds,
            )
        )
    return found


def _model(published: bool) -> Any:
    """HyenaDNA small-32k with random weights, its blocks those of this library or the published op sequence."""
    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

    torch.manual_seed(0)
    # Dropout would draw other numbers in each.
    config = HyenaDNAConfig(d_model=256, n_layer=4, d_inner=1024, max_seq_len=MODEL_LENGTH + 2, embed_dropout=0.0)
    model = HyenaDNAForCausalLM(config)
    if published:
        backbone = model.hyena.backbone
        backbone.layers = nn.ModuleList(map(PublishedBlock, backbone.layers))
    return model


def _tokens() -> Tensor:
    return torch.randint(7, 11, (1, MODEL_LENGTH), generator=torch.Generator().manual_seed(0))


def model_step(published: bool) -> Callable[[], object]:
    """For a fresh process: one forward and backward pass of the model."""
    torch.set_num_threads(1)
    model, ids = _model(published), _tokens()
    return lambda: model(ids, labels=ids).loss.backward()


def _models() -> tuple[Any, Any, Tensor]:
    """Both models and their tokens, after a look at the results."""
    ours, plain, ids = _model(False), _model(True), _tokens()
    with torch.no_grad():
        error = relative_error(ours(ids).logits, plain(ids).logits.double())
    if not error < 1e-3:
        raise SystemExit(f"error: the models differ by {error:.2e}: no time is given")
    return ours, plain, ids


def _model_record(what: str, rounds: int, run: Callable[[Any, Tensor], Callable[[], object]]) -> list[Record]:
    ours, plain, ids = _models()
    record: Record = {"op": "HyenaDNA small-32k", "shape": [1, MODEL_LENGTH]}
    record[what] = alternate(run(ours, ids), run(plain, ids), rounds)
    print(f"{record['op']} L={MODEL_LENGTH}: {what} {record[what]['cpp_ms']:.0f} ms, {record[what]['ratio']:.2f}×")
    return [record]


def model_forward_records(rounds: int) -> list[Record]:
    """HyenaDNA small-32k, forward without gradients."""

    def forward(model: Any, ids: Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return model(ids).logits

        return run

    return _model_record("forward", rounds, forward)


def model_both_records(rounds: int) -> list[Record]:
    """HyenaDNA small-32k, forward + backward."""

    def step(model: Any, ids: Tensor) -> Callable[[], object]:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            model(ids, labels=ids).loss.backward()

        return run

    return _model_record("both", rounds, step)


def model_memory_records(_rounds: int) -> list[Record]:
    """Peak memory of forward + backward of HyenaDNA small-32k beyond imports and weights."""
    extra = {}
    for name, published in (("cpp", False), ("plain", True)):
        before, after = peak_rss(model_step, published)
        extra[name] = after - before
    share = extra["cpp"] / extra["plain"]
    print(f"HyenaDNA small-32k L={MODEL_LENGTH}: {extra['cpp'] >> 20} / {extra['plain'] >> 20} MiB = {share:.0%}")
    shape = [1, MODEL_LENGTH]
    return [{"op": "HyenaDNA small-32k", "shape": shape, "extra_bytes": extra, "extra_share": share}]


def _with_threads(count: int, function: Callable[[], object], gradients: bool) -> Callable[[], object]:
    def run() -> None:
        torch.set_num_threads(count)
        with torch.set_grad_enabled(gradients):
            function()

    return run


def threads_records(rounds: int) -> list[Record]:
    """The C++ kernels with a thread for each processor (``cpp_ms``) against one thread (``plain_ms``), wall time."""
    most = os.cpu_count() or 1
    leaves = [x.requires_grad_() for x in fftconv_inputs(1, 128, MODEL_LENGTH).values() if x is not None]
    model, ids = _model(False), _tokens()

    def conv() -> Tensor:
        u, k, D, pre, post = leaves
        return fftconv(u, k, D, pre_gate=pre, post_gate=post)

    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "fftconv (1, 128, 32768)": (conv, lambda: conv().square().mean().backward()),
        "HyenaDNA small-32k": (lambda: model(ids).logits, lambda: model(ids, labels=ids).loss.backward()),
    }
    found = []
    for name, functions in cases.items():
        record: Record = {"op": name, "processors": most}
        for what, function in zip(("forward", "both"), functions, strict=True):
            all_of_them, one = (_with_threads(count, function, what == "both") for count in (most, 1))
            record[what] = alternate(all_of_them, one, rounds, time.perf_counter)
        ratios = ", ".join(f"{what} {record[what]['ratio']:.2f}×" for what in ("forward", "both"))
        print(f"{name}, {most} threads: {ratios}", flush=True)
        found.append(record)
    torch.set_num_threads(1)
    return found


COMPARISONS = {
    "fftconv": fftconv_records,
    "project": project_records,
    "implicit_filter": filter_records,
    "model_forward": model_forward_records,
    "model_both": model_both_records,
    "model_memory": model_memory_records,
    "threads": threads_records,
}


def _instruction_set() -> str:
    """What ``HYENA_CPU_ISA`` asks for, else the widest that the processor has."""
    asked = os.environ.get("HYENA_CPU_ISA")
    return asked or {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "portable")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.cpp_targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    isa = _instruction_set()
    out = options.out or machine.ROOT / "bench" / "results" / machine.folder_name("cpu")
    for name in options.only:
        with use_backend(None if name.startswith("model") else "cpp"):
            found = COMPARISONS[name](options.rounds)
        threads = os.cpu_count() if name == "threads" else 1
        record = {**machine.describe("cpu"), "instruction_set": isa, "threads": threads, "rounds": options.rounds}
        records.write_json(out / f"cpp_aims_{isa}_{name}.json", record | {"records": found})


if __name__ == "__main__":
    main()
