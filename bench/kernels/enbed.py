"""Time and memory of the encoder of ENBED against full attention, on the CPU with one thread, by length.

Full attention is T5's encoder of the same shape. ENBED is measured with global tokens for every 16 bytes, as LongT5 has
them, and with a fixed number of them at the longest length. Time is processor time, in turns; memory is what one call
adds to the peak of a fresh process.

python -m bench.kernels.enbed --lengths 512 4096 16384 --layers 6 --out enbed.json
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.t5 import T5Config, T5EncoderModel

from bench.common import json_io, machine
from bench.common.memory import peak_rss, return_freed_memory
from bench.common.timing import cpu_timer, in_turns
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification
from hyenadna.encoder_decoder.tokens import text_ids

KINDS = ("block of 16", "fixed number", "full attention")
MODES = ("forward", "forward + backward")


def encoder(kind: str, size: str, layers: int, tokens: int, longest: int) -> Any:
    """An encoder with random weights and without dropout.

    Args:
        kind: one of ``KINDS``.
        size: the size of ENBED whose widths it has.
        layers: its layers. The first half has the first radius.
        tokens: global tokens of the longest sequence, for ``"fixed number"``.
        longest: bytes of that sequence.
    """
    torch.manual_seed(0)
    number = {"num_global_tokens": tokens} if kind == "fixed number" else {"global_block_size": 16}
    config = ENBEDConfig.of_size(
        size, num_layers=layers, first_local_layers=layers // 2, dropout_rate=0.0, max_seq_len=longest, **number
    )
    if kind != "full attention":
        return ENBEDForSequenceClassification(config).encoder.train()
    names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj", "dropout_rate")
    return T5EncoderModel(T5Config(**{name: getattr(config, name) for name in names})).train()


def prepare(kind: str, mode: str, length: int, size: str, layers: int, tokens: int, longest: int) -> Callable[[], None]:
    """What is to be measured. Arguments as of :func:`encoder`, and ``mode`` is one of ``MODES``."""
    torch.set_num_threads(1)
    return_freed_memory()
    model = encoder(kind, size, layers, tokens, longest)
    bases = np.random.default_rng(0).choice(list("ACGT"), length)
    ids = torch.from_numpy(text_ids("".join(bases), eos=False))[None]
    training = mode == "forward + backward"

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(training):
            hidden = model(ids, return_dict=True).last_hidden_state
        if training:
            hidden.square().mean().backward()
        assert torch.isfinite(hidden).all()

    return run


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of the values by length in logarithms, by least squares. None for fewer than two."""
    if len(lengths) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def free_bytes() -> int:
    """Memory that is free on this machine."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each kind, mode and length, with a reason in place of values where memory would not do."""
    shape = (options.size, options.layers, options.tokens, max(options.lengths))
    found: list[dict[str, Any]] = []
    before: dict[tuple[str, str], tuple[int, float]] = {}
    for length, mode in itertools.product(sorted(options.lengths), MODES):
        records = {kind: {"length": length, "mode": mode, "kind": kind} for kind in KINDS}
        calls = {}
        for kind, record in records.items():
            # It grows no faster than with the square of the length.
            shorter, peak = before.get((kind, mode), (length, 0.0))
            expected = peak * (length / shorter) ** 2
            limit = options.memory * 2**30 if options.memory else 0.75 * free_bytes()
            if expected > limit:
                reason = f"needs about {expected / 2**30:.1f} GiB, and {limit / 2**30:.1f} may be taken"
                record["left_out"] = reason
                print(f"{length:,}, {mode}, {kind}: left out: {reason}", flush=True)
                continue
            start, end = peak_rss(prepare, kind, mode, length, *shape)
            record["bytes"] = end - start
            before[kind, mode] = (length, float(end - start))
            calls[kind] = prepare(kind, mode, length, *shape)
        times = in_turns(calls, cpu_timer(), options.rounds)
        for kind, own in times.items():
            record = records[kind]
            record |= {"seconds": statistics.median(own), "rounds": own}
            print(
                f"{length:,}, {mode}, {kind}: {record['seconds']:.3f} s, {record['bytes'] / 2**20:,.0f} MiB", flush=True
            )
        found += records.values()
    return found


def growth(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exponents of each kind and mode: over all lengths, and over the last two."""
    found = []
    for kind, mode in itertools.product(KINDS, MODES):
        own = [r for r in records if (r["kind"], r["mode"]) == (kind, mode) and "left_out" not in r]
        line: dict[str, Any] = {"kind": kind, "mode": mode, "lengths": [r["length"] for r in own]}
        for what in ("seconds", "bytes"):
            line[what] = exponent(line["lengths"], [r[what] for r in own])
            line[f"{what}_of_last_two"] = exponent(line["lengths"][-2:], [r[what] for r in own][-2:])
        found.append(line)
        shown = ", ".join(f"{name} {line[name]:.2f}" for name in line if isinstance(line[name], float))
        print(f"{mode}, {kind}: exponents: {shown or 'too few lengths'}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.enbed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="enbed-small", help="size whose widths are taken (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder (default: %(default)s)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[512, 4096, 16_384], help="bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=64, help="global tokens at the longest length (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed calls, after another (default: %(default)s)")
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="leave out what needs more (default: 3/4 of what is free)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    load = os.getloadavg()
    records = measure(options)
    content = {
        **machine.describe("cpu"), "transformers": machine.version("transformers"), "size": options.size,
        "layers": options.layers, "tokens": options.tokens, "load": load, "growth": growth(records), "records": records,
    }  # fmt: skip
    if options.out is not None:
        json_io.write_json(options.out, content)


if __name__ == "__main__":
    main()
