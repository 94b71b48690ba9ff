"""Compare the errors of the far field and of transforms against float64, for results and every gradient.

Filters are those of a network at its published initialisation, and of trained models. The exact result has the network
in float64 at the formula of every position, and transforms in float64. Signals are the same numbers in every dtype.

Rows with an exact filter have taps that were rounded once. So they err by the convolution alone, and rows without by
the network too. ``filter`` is the error of the taps, of a far field at one position of a block.

    python -m bench.kernels.far_field_errors
    python -m bench.kernels.far_field_errors --lengths 131072 --checkpoints yeast=run/model --out errors.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import json_io, machine
from hyena_kernels import HyenaFilter, far_field_conv, far_field_plan, fftconv, implicit_conv, implicit_filter
from hyena_kernels.common.features import features_at
from hyena_kernels.far_field import far_field_filter
from hyena_kernels.far_field_plan import Network, Plan
from hyena_kernels.positions import PositionalEmbedding
from hyena_kernels.testing import relative_error, value_and_gradients
from hyenadna import HyenaDNAForCausalLM

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIGNALS = ("u", "pre_gate", "post_gate")
PARAMETERS = Network._fields[:7]


def initial(length: int, channels: int) -> Network:
    """Filters of HyenaDNA's configuration before training, made for ``length``."""
    torch.manual_seed(0)
    filters = HyenaFilter(128, emb_dim=5, order=64, seq_len=length, lr_pos_emb=0.0, w=10.0)
    return some_channels(filters.network(), length, channels)


def trained(folder: Path, length: int, channels: int) -> Network:
    """Filters of the first layer of a model. If it was made for fewer positions, they are stretched to ``length``."""
    model: Any = HyenaDNAForCausalLM.from_pretrained(folder)
    return some_channels(model.hyena.backbone.layers[0].mixer.filter_fn.network(), length, channels)


def some_channels(network: Network, length: int, channels: int) -> Network:
    """Evenly spaced channels, for at least ``length`` positions."""
    which = torch.linspace(0, len(network.w_out) - 1, channels).long()
    rows: dict[str, Any] = {"w_out": network.w_out[which], "seq_len": max(network.seq_len, length)}
    if network.deltas is not None:
        rows["deltas"] = network.deltas[which]
    return network._replace(**rows)


def signals(channels: int, length: int) -> dict[str, Tensor]:
    """``u``, both gates, ``D`` and ``dy`` in float64, of numbers that every dtype has."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator).bfloat16()
        # float16 has fewer small numbers than bfloat16.
        return torch.where(values.abs() < 2**-10, 0.0, values.double())

    made = {name: draw(1, channels, length) for name in (*SIGNALS, "dy")}
    return {**made, "D": draw(channels)}


def positions(network: Network, length: int, dtype: torch.dtype) -> Tensor:
    """The features of all positions: by the formula in float64, or as models store them in float32."""
    features = network.w_in.shape[1]
    if dtype == torch.float64:
        return features_at(torch.arange(length, dtype=dtype), network.seq_len, features)
    return PositionalEmbedding(features, network.seq_len, 0.0).z[0, :length].detach()


def all_taps(z: Tensor, shift: float, backend: str, **parameters: Tensor) -> Tensor:
    """The filters at every position."""
    t = z[:, 0].contiguous() if "deltas" in parameters else None
    return implicit_filter(z, t=t, shift=shift, backend=backend, **parameters)


class Case:
    """Some filters and signals of one length, and their exact results."""

    def __init__(self, network: Network, length: int) -> None:
        self.network, self.length = network, length
        self.tensors = signals(len(network.w_out), length)
        self.dy = self.tensors.pop("dy")
        given = zip(PARAMETERS, network[:7], strict=True)
        self.parameters = {name: tensor.detach() for name, tensor in given if isinstance(tensor, Tensor)}
        self.made: dict[tuple[torch.dtype, str], Tensor] = {}
        self.exact_taps = self.taps(torch.float64, "torch")
        self.exact = self.transforms(torch.float64, "torch")

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Signals in a dtype, all else in the dtype of the arithmetic."""
        wide = torch.promote_types(dtype, torch.float32)
        cast = {name: each.to(dtype if name in SIGNALS else wide) for name, each in self.tensors.items()}
        return {**cast, **{name: each.to(wide) for name, each in self.parameters.items()}}

    def taps(self, dtype: torch.dtype, backend: str) -> Tensor:
        """The filters from a network in float32 or float64."""
        if (dtype, backend) not in self.made:
            self.made[dtype, backend] = self._taps(dtype, backend)
        return self.made[dtype, backend]

    def _taps(self, dtype: torch.dtype, backend: str) -> Tensor:
        parameters = {name: each.to(dtype) for name, each in self.parameters.items()}
        z = positions(self.network, self.length, dtype)
        return all_taps(z, self.network.shift, backend, **parameters)

    def transforms(self, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
        """Result and gradients with filters of all taps."""
        z = positions(self.network, self.length, torch.promote_types(dtype, torch.float32))

        def convolve(u: Tensor, pre_gate: Tensor, post_gate: Tensor, D: Tensor, **parameters: Tensor) -> Tensor:
            k = all_taps(z, self.network.shift, backend, **parameters)
            return fftconv(u, k, D, pre_gate=pre_gate, post_gate=post_gate, backend=backend)

        return value_and_gradients(convolve, self.inputs(dtype), self.dy)

    def exact_filter(self, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
        """Result and gradients of signals and skip with exact taps that are rounded once."""
        inputs = {name: each for name, each in self.inputs(dtype).items() if name not in self.parameters}
        k = self.exact_taps.to(torch.promote_types(dtype, torch.float32))
        return value_and_gradients(lambda **tensors: fftconv(k=k, backend=backend, **tensors), inputs, self.dy)

    def far_field(self, dtype: torch.dtype, backend: str, plan: Plan) -> dict[str, Tensor]:
        """Result and gradients with near taps and nodes."""

        def convolve(**tensors: Any) -> Tensor:
            settings: dict[str, Any] = {
                "shift": self.network.shift,
                "seq_len": self.network.seq_len,
                "backend": backend,
            }
            return implicit_conv(**tensors, **settings, h=plan.h, p=plan.p)

        return value_and_gradients(convolve, self.inputs(dtype), self.dy)

    def far_taps_error(self, dtype: torch.dtype, backend: str, plan: Plan) -> float:
        """The error of the far field of an impulse in the middle of the first block."""
        parameters: dict[str, Any] = self.parameters
        near, nodes = far_field_filter(
            **parameters,
            shift=self.network.shift,
            length=self.length,
            seq_len=self.network.seq_len,
            h=plan.h,
            p=plan.p,
            dtype=torch.promote_types(dtype, torch.float32),
        )
        place = plan.h // 2
        u = torch.zeros(1, len(near), self.length, dtype=near.dtype)
        u[..., place] = 1
        y = far_field_conv(u, near, nodes, backend=backend)
        return relative_error(y[0, :, place:], self.exact_taps[:, : self.length - place])

    def plan(self, dtype: torch.dtype) -> Plan | None:
        """The cheapest blocks and nodes that hold the tolerance of a dtype, whatever they cost."""
        tolerance = far_field_plan.TOLERANCES[dtype]
        found = far_field_plan.measured(
            self.network, self.length, dtype, torch.Generator().manual_seed(0), any_cost=True
        )
        return next((plan for plan, error in found if error <= tolerance), None)

    def errors(self, results: dict[str, Tensor]) -> dict[str, float]:
        """Relative L2 errors against the exact results."""
        return {name: relative_error(value, self.exact[name]) for name, value in results.items()}

    def rows(self, dtype: torch.dtype, backends: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
        """The errors of every route by its name."""
        wide = torch.promote_types(dtype, torch.float32)
        plan = self.plan(dtype)
        for backend in backends:
            if plan is not None:
                filters = {"filter": self.far_taps_error(dtype, backend, plan)}
                results = self.far_field(dtype, backend, plan)
                yield f"far field h={plan.h} p={plan.p}, {backend}", {**filters, **self.errors(results)}
            # In float64, plain PyTorch is what the others are held against.
            if (wide, backend) == (torch.float64, "torch"):
                continue
            filters = {"filter": relative_error(self.taps(wide, backend), self.exact_taps)}
            yield f"FFT, {backend}", {**filters, **self.errors(self.transforms(dtype, backend))}
            filters = {"filter": relative_error(self.exact_taps.to(wide), self.exact_taps)}
            yield f"FFT, exact filter, {backend}", {**filters, **self.errors(self.exact_filter(dtype, backend))}


COLUMNS = ("filter", "y", *(f"d{name}" for name in (*SIGNALS, "D", *PARAMETERS)))


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table. What a route does not have is empty."""
    cells = [f"{row['errors'][name]:.1e}" if name in row["errors"] else "" for name in COLUMNS]
    return f"| {row['filter']} | {row['length']} | {row['dtype']} | {row['route']} | {' | '.join(cells)} |"


def checkpoint(text: str) -> tuple[str, Path]:
    """``NAME=FOLDER``."""
    name, sign, folder = text.partition("=")
    if not (name and sign and Path(folder).is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER with a folder that exists")
    return name, Path(folder)


def main() -> None:
    """Print the table, and write it as JSON after every row."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kernels.far_field_errors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lengths = [1 << 17, 1 << 18, 1 << 20]
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=lengths, help="sequence lengths (default: 131072 262144 1048576)"
    )
    parser.add_argument("--channels", type=int, default=2, help="channels of each filter (default: 2)")
    parser.add_argument(
        "--checkpoints",
        type=checkpoint,
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="trained models, beside the filters at their initialisation (default: none)",
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="dtypes of the signals (default: all)"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=("torch", "cpp"), default=["torch", "cpp"], help="backends (default: both)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file, complete after every row (default: none)")
    options = parser.parse_args()
    filters: dict[str, Callable[[int], Network]] = {"initial": lambda length: initial(length, options.channels)}
    for name, folder in options.checkpoints:
        filters[name] = lambda length, folder=folder: trained(folder, length, options.channels)  # type: ignore[misc]
    record: dict[str, Any] = {**machine.describe("cpu"), "channels": options.channels, "rows": []}
    print(f"| filters | L | dtype | route | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 4)}")
    for length in options.lengths:
        for filters_name, make in filters.items():
            case = Case(make(length), length)
            for dtype in options.dtypes:
                for route, errors in case.rows(DTYPES[dtype], options.backends):
                    row = {"filter": filters_name, "length": length, "dtype": dtype, "route": route, "errors": errors}
                    print(line(row), flush=True)
                    record["rows"].append(row)
                    if options.out is not None:
                        json_io.write_json(options.out, record)


if __name__ == "__main__":
    main()
