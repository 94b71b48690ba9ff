"""What the suite measures, in the order in which it does: cases that are compared with each other stand together."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bench.common.run_file import ATTENTION, OURS

WIDTH = 128
ODD = 4999
"""A length without factors, and 1,000,002 of the largest published model: no power of two."""
LARGEST = 1_000_002
LENGTHS = {
    "cuda": {
        "headline": (*(1 << bits for bits in range(10, 21)), LARGEST),
        "model": (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20),
        "operator": (1 << 10, 1 << 12, ODD, 1 << 14, 1 << 16, 1 << 18, LARGEST, 1 << 20),
        "op": (1 << 10, 1 << 12, ODD, 1 << 14, 1 << 16, 1 << 18, LARGEST, 1 << 20, 1 << 22),
    },
    "cpu": {
        "headline": tuple(1 << bits for bits in range(10, 16)),
        "model": (1 << 10, 1 << 12, 1 << 14),
        "operator": (1 << 10, ODD, 1 << 14),
        "op": (1 << 10, ODD, 1 << 14, 1 << 16),
    },
}
"""By device; the headline is the checkpointed 2-layer model."""
PUBLISHED = {
    "cuda": ("tiny-1k", "tiny-1k-d256", "tiny-16k", "small-32k", "medium-160k", "medium-450k", "large-1m"),
    "cpu": ("tiny-1k", "tiny-1k-d256", "tiny-16k"),
}
"""Published configurations, each at the longest sequence that it takes."""
TRAINED = {"cuda": (("tiny-1k", 64), ("medium-160k", 1)), "cpu": (("tiny-1k", 8),)}
"""Configurations and batches of a training step."""
COMPILED_LENGTHS = (1 << 12, 1 << 16, 1 << 20)
"""torch.compile compiles at every length anew, for up to a minute."""
MATH_UP_TO = 1 << 11
"""SDPA's math backend holds L² scores."""


@functools.cache
def published_sizes() -> tuple[dict[str, dict[str, int]], str | None]:
    """Width and length of the published configurations, or none and the reason, where there is no transformers."""
    # Imported when they are asked for: it takes seconds.
    try:
        from hyenadna.model.sizes import PUBLISHED_SIZES
    except ImportError as error:
        return {}, f"hyenadna and training_step are left out: {error}"
    return PUBLISHED_SIZES, None


@dataclass(frozen=True)
class Case:
    """One measurement; the fields are those of a record, docs/benchmarks.md describes them."""

    workload: str
    variant: str
    peer: str
    direction: str
    batch: int
    width: int
    length: int

    def __str__(self) -> str:
        parts = (self.workload, self.variant, self.peer, self.direction, f"{self.batch}x{self.width}x{self.length}")
        return "-".join(filter(None, parts))

    @property
    def comparison(self) -> tuple[str, str, str, int, int, int]:
        """What is measured, without by whom: peers with the same are measured in alternation."""
        return self.workload, self.variant, self.direction, self.batch, self.width, self.length

    @property
    def series(self) -> tuple[str, str, str, str, int, int]:
        """The same at other lengths."""
        return self.workload, self.variant, self.peer, self.direction, self.batch, self.width

    @property
    def is_headline(self) -> bool:
        return (self.workload, self.variant) == ("two_layer_model", "checkpointed")

    @property
    def is_attention(self) -> bool:
        return self.peer in ATTENTION


def peers(workload: str, variant: str, direction: str, length: int) -> tuple[str, ...]:
    """Everyone who could run a workload, ours first."""
    ours: tuple[str, ...] = (OURS, "published")
    if workload == "short_conv":
        return (*ours, "causal_conv1d")
    compiled = direction == "both" and variant != "plain" and length in COMPILED_LENGTHS
    if compiled and workload in ("fftconv", "hyena_mixer", "hyena_operator", "two_layer_model"):
        ours = (*ours, "published_compiled")
    if workload == "fftconv":
        return (*ours, "flashfftconv", "cudnn_fft_causal_conv1d")
    if workload != "two_layer_model" or length == LARGEST:
        return ours
    if variant == "checkpointed":
        return (*ours, *(name for name in ATTENTION if name != "sdpa_math"))
    return (*ours, "sdpa_flash", *(("sdpa_math",) if length <= MATH_UP_TO else ()))


PLAIN_ATTENTION_UP_TO = 1 << 12
"""On a CPU: beyond, it takes the time of everything else, and the checkpointed model has it at all lengths."""
ON_CPU = (OURS, "published", "sdpa_flash", "sdpa_math")
"""Peers that run on a CPU without being asked for by name: the others need a GPU, or a minute to compile."""


def _shapes(device: str, workloads: Collection[str]) -> Iterator[tuple[str, str, tuple[str, ...], int, int, int]]:
    """Workload, variant, directions, batch, width and length of these workloads, or of all."""
    lengths = LENGTHS[device]

    def wanted(workload: str) -> bool:
        return not workloads or workload in workloads

    for workload, variant, directions, kind in (
        ("two_layer_model", "checkpointed", ("both",), "headline"),
        ("two_layer_model", "plain", ("both",), "model"),
        ("fftconv", "gated", ("forward", "both"), "op"),
        ("fftconv", "plain", ("forward", "both"), "op"),
        ("short_conv", "", ("forward", "both"), "op"),
        ("hyena_mixer", "", ("forward", "both"), "op"),
        ("implicit_filter", "", ("forward", "both"), "op"),
        ("hyena_operator", "", ("forward", "both"), "operator"),
    ):
        for length in lengths[kind] if wanted(workload) else ():
            yield workload, variant, directions, 1, WIDTH, length
    for workload, directions, configurations in (
        ("hyenadna", ("forward", "both"), [(name, 1) for name in PUBLISHED[device]]),
        ("training_step", ("both",), TRAINED[device]),
    ):
        sizes = published_sizes()[0] if wanted(workload) else {}
        for name, batch in configurations if sizes else ():
            yield workload, name, directions, batch, sizes[name]["d_model"], sizes[name]["max_seq_len"]


def cases(device: str, named: Collection[str] = (), workloads: Collection[str] = ()) -> list[Case]:
    """All of the suite, the shortest lengths first.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        named: peers that are asked for by name: they alone, on a CPU too.
        workloads: likewise.
    """

    def runs(case: Case) -> bool:
        if named:
            return case.peer in named
        if device == "cuda":
            return True
        too_long = case.is_attention and case.variant == "plain" and case.length > PLAIN_ATTENTION_UP_TO
        return case.peer in ON_CPU and not too_long

    shapes = sorted(_shapes(device, workloads), key=lambda shape: shape[-1])
    found = (
        Case(workload, variant, peer, direction, batch, width, length)
        for workload, variant, directions, batch, width, length in shapes
        for direction in directions
        for peer in peers(workload, variant, direction, length)
    )
    return list(filter(runs, found))
