"""How rough filters become in training: their band against steps, and the error of the far field by blocks and nodes.

Reads the checkpoints of runs of `hyenadna pretrain`, and draws them.

python -m bench.kernels.bands runs/long runs/short --out bands.json --picture bands.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import json_io
from hyena_kernels import HyenaOperator, far_field_plan as plans, implicit_filter
from hyena_kernels.common import far_field
from hyena_kernels.common.features import features_at
from hyena_kernels.far_field_plan import Network, Plan
from hyenadna import HyenaDNAForCausalLM

TAIL = 1e-8
"""Share of the energy that lies beyond the band."""

_LENGTHS = (1 << 17, 1 << 20)
_SAMPLED = 1 << 16
_CHANNELS = 32
_BLOCKS, _NODES = (16, 32, 64, 128, 256, 512), (4, 6, 8, 10)


def networks(folder: Path) -> list[Network]:
    """The filters of every layer of a checkpoint, for some channels, with no gradients."""
    model = HyenaDNAForCausalLM.from_pretrained(folder)
    return [few_channels(each) for each in networks_of(model)]


def networks_of(model: torch.nn.Module) -> list[Network]:
    """The filters of every layer of a model."""
    found = [each.filter_fn.network() for each in model.modules() if isinstance(each, HyenaOperator)]
    return [Network(*(x.detach() if isinstance(x, Tensor) else x for x in each)) for each in found]


def few_channels(network: Network) -> Network:
    """The same network with at most 32 of its channels."""
    step = max(1, len(network.w_out) // _CHANNELS)
    deltas = None if network.deltas is None else network.deltas[::step]
    return network._replace(w_out=network.w_out[::step].contiguous(), deltas=deltas)


def made_for(network: Network, length: int) -> Network:
    """The same function of time, read as if it were made for so many positions."""
    return network._replace(seq_len=length)


def band(network: Network) -> int:
    """Bins of the spectrum that hold all but 1e-8 of the energy, of the filter with the widest band.

    The spectrum is that of the filter under a Hann window. Without one it is that of the jump from the last tap to the
    first. Bins count periods in the whole length, so the band does not depend on how many positions are sampled.
    """
    lags = torch.arange(_SAMPLED, dtype=torch.float64)
    found = made_for(network, _SAMPLED)
    z = features_at(lags, _SAMPLED, network.w_in.shape[1])
    *tensors, deltas, shift, _ = found
    window = (None, None) if deltas is None else (z[:, 0].contiguous(), deltas.double())
    k = implicit_filter(z, *(tensor.double() for tensor in tensors), *window, shift)
    spectrum = torch.fft.rfft(k * torch.hann_window(_SAMPLED, dtype=torch.float64)).abs().square()
    beyond = spectrum.flip(1).cumsum(1).flip(1) / spectrum.sum(1, keepdim=True)
    return int((beyond > TAIL).sum(1).max())


def cheapest(network: Network, length: int, dtype: torch.dtype) -> dict[str, Any] | None:
    """The plan of a filter of so many positions, and its error; None where none holds the tolerance."""
    generator = torch.Generator().manual_seed(0)
    for plan, error in plans.measured(made_for(network, length), length, dtype, generator, any_cost=True):
        if error <= plans.TOLERANCES[dtype]:
            return {"h": plan.h, "p": plan.p, "error": error}
    return None


def measure(run: Path, most: int) -> list[dict[str, Any]]:
    """Bands and plans of up to ``most`` checkpoints of a run."""
    config = (run / "config.yaml").read_text(encoding="utf-8")
    settings = dict(line.split(": ", 1) for line in config.splitlines() if ": " in line)
    folders = sorted(run.glob("step-*"))
    step = max(1, -(-len(folders) // most))
    chosen = sorted({*folders[::step], *folders[-1:]})
    found = []
    for folder in chosen:
        layers = networks(folder)
        record: dict[str, Any] = {
            "run": run.name,
            "lr": float(settings["lr"]),
            "length": int(settings["length"]),
            "step": int(folder.name.removeprefix("step-")),
            "bands": [band(each) for each in layers],
        }
        for length in _LENGTHS:
            for dtype in (torch.float32, torch.bfloat16):
                name = f"{length} {str(dtype).removeprefix('torch.')}"
                # Of the roughest layer.
                roughest = max(layers, key=band)
                record[name] = cheapest(roughest, length, dtype)
        print(json.dumps(record), flush=True)
        found.append(record)
    return found


def errors(network: Network, length: int) -> dict[str, float]:
    """The measured error of every block and number of nodes, by ``"h,p"``."""
    read = made_for(network, length)
    return {
        f"{h},{p}": plans.measured_error(read, Plan(h, p), length, samples=256)
        for h in _BLOCKS
        for p in _NODES
        if p <= h
    }


def draw_bands(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Bands against steps, a line a run, with the band of a filter at L / 64 for two lengths."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for run in dict.fromkeys(record["run"] for record in records):
        own = [record for record in records if record["run"] == run]
        label = f"L = {own[0]['length']:,}, rate {own[0]['lr']:g}"
        axes.plot([max(each["step"], 1) for each in own], [max(each["bands"]) for each in own], "o-", ms=3, label=label)
    for length in _LENGTHS:
        axes.axhline(length / 64, ls="--", lw=1, color="0.5")
        axes.annotate(f"L / 64 at L = {length:,}", (1, length / 64), xytext=(0, 3), textcoords="offset points", size=8)
    axes.set(
        xscale="log", yscale="log", xlabel="steps of training", ylabel="band: bins that hold 1 - 1e-8 of the energy"
    )
    axes.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def draw_nodes(network: Network, path: Path) -> None:
    """A filter of few positions: its near taps, the nodes of each distance of blocks, and the error between them."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    length, plan = 1 << 15, Plan(128, 6)
    read = made_for(few_channels(network), length)
    channel = read._replace(w_out=read.w_out[:1], deltas=None if read.deltas is None else read.deltas[:1])

    def values(lags: Tensor) -> Tensor:
        *tensors, deltas, shift, seq_len = channel
        z = features_at(lags, seq_len, channel.w_in.shape[1])
        window = (None, None) if deltas is None else (z[:, 0].contiguous(), deltas.double())
        return implicit_filter(z, *(tensor.double() for tensor in tensors), *window, shift)[0]

    shown = 6 * plan.h
    lags = torch.arange(shown, dtype=torch.float64)
    nodes = far_field.node_lags(plan.h, plan.p, shown // plan.h)
    basis = far_field.basis(plan.h, plan.p)
    at_nodes = values(nodes.flatten()).view(nodes.shape)
    node = torch.arange(plan.p)
    pairs = node[:, None] - node + plan.p - 1
    figure, (top, below) = plt.subplots(2, 1, figsize=(7.2, 4.6), layout="constrained", sharex=True)
    top.plot(lags[plan.h :], values(lags)[plan.h :], color="0.6", lw=1, label="the filter")
    top.plot(lags[: plan.h], values(lags)[: plan.h], color="C3", lw=2, label=f"near: all {plan.h} taps of a block")
    top.plot(
        nodes.flatten(), at_nodes.flatten(), "o", ms=3, color="C0", label=f"far: {2 * plan.p - 1} nodes a distance"
    )
    top.legend(fontsize=8)
    top.set_ylabel("filter")
    for d in range(1, shown // plan.h):
        matrix = at_nodes[:, d - 1][pairs]
        errors = basis @ matrix @ basis.T - values(
            (d * plan.h + torch.arange(plan.h)[:, None] - torch.arange(plan.h)).double().flatten()
        ).view(plan.h, plan.h)
        places = d * plan.h + torch.arange(plan.h)[:, None] - torch.arange(plan.h)
        below.plot(places.flatten()[::17], errors.abs().flatten()[::17], ",", color=f"C{d - 1}")
    below.set(yscale="log", ylim=(1e-17, 1), xlabel="lag", ylabel="error of interpolation")
    for axes in (top, below):
        for d in range(1, shown // plan.h + 1):
            axes.axvline(d * plan.h, color="0.85", lw=0.8, zorder=0)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_errors(named: dict[str, dict[str, float]], path: Path) -> None:
    """The error by block, a line for each number of nodes, a panel for each network."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(named), figsize=(3.6 * len(named), 3.6), layout="constrained", sharey=True)
    for axes, (title, found) in zip(panels if len(named) > 1 else [panels], named.items(), strict=True):
        for p in _NODES:
            pairs = [(h, found[f"{h},{p}"]) for h in _BLOCKS if f"{h},{p}" in found]
            axes.plot(*zip(*pairs, strict=True), "o-", ms=3, label=f"p = {p}")
        for tolerance, name in ((1e-7, "float32"), (1e-5, "16 bits")):
            axes.axhline(tolerance, ls="--", lw=1, color="0.5")
            axes.annotate(name, (_BLOCKS[0], tolerance), xytext=(0, 2), textcoords="offset points", size=7)
        axes.set(xscale="log", yscale="log", xlabel="positions of a block h", title=title, ylim=(1e-15, 10))
        axes.set_xticks(_BLOCKS, [str(h) for h in _BLOCKS])
        axes.minorticks_off()
    first = panels[0] if len(named) > 1 else panels
    first.set_ylabel("largest error / rms of the filter")
    first.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.bands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of `hyenadna pretrain` with checkpoints")
    parser.add_argument("--checkpoints", type=int, default=12, help="most checkpoints of a run (default: %(default)s)")
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="models for --errors (default: none)")
    parser.add_argument("--errors", type=Path, metavar="FILE", help="picture of errors by (h, p) (default: none)")
    parser.add_argument("--nodes", type=Path, metavar="FILE", help="picture of the nodes of a filter (default: none)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="picture of bands against steps (default: none)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: none)")
    options = parser.parse_args(arguments)
    records = [record for run in options.runs for record in measure(run, options.checkpoints)]
    found: dict[str, Any] = {"tail": TAIL, "records": records, "errors": {}}
    for model in options.models:
        roughest = max(networks(model), key=band)
        for length in _LENGTHS:
            found["errors"][f"{model.name}, L = {length:,}"] = errors(roughest, length)
    if options.nodes is not None:
        draw_nodes(networks(options.models[0])[0], options.nodes)
    if options.picture is not None:
        draw_bands(records, options.picture)
    if options.errors is not None:
        draw_errors(found["errors"], options.errors)
    if options.out is not None:
        json_io.write_json(options.out, found)


if __name__ == "__main__":
    main()
