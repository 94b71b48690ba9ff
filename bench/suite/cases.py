"""The cases of the suite, in the order of measuring. Cases that are compared with each other are neighbours."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bench.common.run_file import ATTENTION, CALLS, GRAPH, OURS

_WIDTH = 128
_ODD = 4999
"""A prime length."""
_LARGEST = 1_000_002
"""Length of the largest published model; not a power of two."""
_LENGTHS = {
    "cuda": {
        "headline": (*(1 << bits for bits in range(10, 21)), _LARGEST),
        "model": (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20),
        "operator": (1 << 10, 1 << 12, _ODD, 1 << 14, 1 << 16, 1 << 18, _LARGEST, 1 << 20),
        "op": (1 << 10, 1 << 12, _ODD, 1 << 14, 1 << 16, 1 << 18, _LARGEST, 1 << 20, 1 << 22),
    },
    "cpu": {
        "headline": tuple(1 << bits for bits in range(10, 16)),
        "model": (1 << 10, 1 << 12, 1 << 14),
        "operator": (1 << 10, _ODD, 1 << 14),
        "op": (1 << 10, _ODD, 1 << 14, 1 << 16),
    },
}
"""Lengths by device. The headline is the checkpointed 2-layer model."""
_PUBLISHED = {
    "cuda": ("tiny-1k", "tiny-1k-d256", "tiny-16k", "small-32k", "medium-160k", "medium-450k", "large-1m"),
    "cpu": ("tiny-1k", "tiny-1k-d256", "tiny-16k"),
}
"""Published configurations, each at its longest sequence."""
_TRAINED = {"cuda": (("tiny-1k", 64), ("medium-160k", 1)), "cpu": (("tiny-1k", 8),)}
"""Configurations and batch sizes of a training step."""
_COMPILED_LENGTHS = (1 << 12, 1 << 16, 1 << 20)
"""torch.compile compiles again at every length, for up to a minute."""
_MATH_UP_TO = 1 << 11
"""SDPA's math backend holds L² scores."""
_PLAIN_ATTENTION_UP_TO = 1 << 12
"""On a CPU, longer attention would take the time of everything else. The checkpointed model has it at all lengths."""
_ON_CPU = (OURS, "published", "sdpa_flash", "sdpa_math")
"""Implementations that run on a CPU by default. The others need a GPU or a minute to compile."""

_BOTH = ("forward", "both")
_GPU_TARGETS = ((1, 128), (4, 256))
_CPU_TARGETS = (
    (1, 256, 1024), (1, 256, 8192), (4, 64, 8192), (1, 128, 32768), (1, 16, 1 << 20), (1, 256, 1000), (1, 128, 4097),
    (1, 16, 65537),
)  # fmt: skip

_Shape = tuple[str, str, tuple[str, ...], int, int, int]
"""Workload, variant, directions, batch, width, length."""


@functools.cache
def published_sizes() -> tuple[dict[str, dict[str, int]], str | None]:
    """Sizes of the published configurations and None; without transformers, nothing and the reason."""
    # Imported on demand: it takes seconds.
    try:
        from hyenadna.model.sizes import PUBLISHED_SIZES
    except ImportError as error:
        return {}, f"hyenadna and training_step are left out: {error}"
    return PUBLISHED_SIZES, None


@dataclass(frozen=True)
class Case:
    """One measurement. The fields are fields of its record; docs/benchmarks.md describes them."""

    workload: str
    variant: str
    implementation: str
    direction: str
    batch: int
    width: int
    length: int
    launch: str = CALLS

    def __str__(self) -> str:
        shape = f"{self.batch}x{self.width}x{self.length}"
        launch = self.launch if self.is_graph else ""
        return "-".join(filter(None, (self.workload, self.variant, self.implementation, self.direction, shape, launch)))

    @property
    def comparison(self) -> tuple[str, str, str, int, int, int, str]:
        """The case without its implementation. Cases with the same comparison are timed in turns."""
        return self.workload, self.variant, self.direction, self.batch, self.width, self.length, self.launch

    @property
    def series(self) -> tuple[str, str, str, str, int, int, str]:
        """The case without its length."""
        return (
            self.workload, self.variant, self.implementation, self.direction, self.batch, self.width, self.launch,
        )  # fmt: skip

    @property
    def is_graph(self) -> bool:
        """Whether the whole call is one CUDA graph."""
        return self.launch == GRAPH

    @property
    def is_headline(self) -> bool:
        return (self.workload, self.variant) == ("two_layer_model", "checkpointed")

    @property
    def is_attention(self) -> bool:
        return self.implementation in ATTENTION


def _launches(workload: str, variant: str) -> tuple[str, ...]:
    """How a workload is launched. At short lengths the headline's time is Python's; a CUDA graph has none of it."""
    return (CALLS, GRAPH) if (workload, variant) == ("two_layer_model", "checkpointed") else (CALLS,)


def _implementations(workload: str, variant: str, direction: str, length: int, launch: str) -> tuple[str, ...]:
    """Implementations of a workload, ours first."""
    attention = tuple(name for name in ATTENTION if name != "sdpa_math")
    if launch == GRAPH:
        return (OURS, *(() if length == _LARGEST else attention))
    found: tuple[str, ...] = (OURS, "published")
    if workload == "short_conv":
        return (*found, "causal_conv1d")
    compiled = direction == "both" and variant != "plain" and length in _COMPILED_LENGTHS
    if compiled and workload in ("fftconv", "hyena_mixer", "hyena_operator", "two_layer_model"):
        found = (*found, "published_compiled")
    if workload == "fftconv":
        return (*found, "flashfftconv", "cudnn_fft_causal_conv1d")
    if workload != "two_layer_model" or length == _LARGEST:
        return found
    if variant == "checkpointed":
        return (*found, *attention)
    return (*found, "sdpa_flash", *(("sdpa_math",) if length <= _MATH_UP_TO else ()))


def _suite_shapes(device: str, workloads: Collection[str]) -> Iterator[_Shape]:
    lengths = _LENGTHS[device]
    for workload, variant, directions, kind in (
        ("two_layer_model", "checkpointed", ("both",), "headline"),
        ("two_layer_model", "plain", ("both",), "model"),
        ("fftconv", "gated", _BOTH, "op"),
        ("fftconv", "plain", _BOTH, "op"),
        ("short_conv", "", _BOTH, "op"),
        ("hyena_mixer", "", _BOTH, "op"),
        ("implicit_filter", "", _BOTH, "op"),
        ("hyena_operator", "", _BOTH, "operator"),
    ):
        for length in lengths[kind]:
            yield workload, variant, directions, 1, _WIDTH, length
    for workload, directions, configurations in (
        ("hyenadna", _BOTH, [(name, 1) for name in _PUBLISHED[device]]),
        ("training_step", ("both",), _TRAINED[device]),
    ):
        # The sizes come with transformers, which takes seconds to import.
        sizes = published_sizes()[0] if not workloads or workload in workloads else {}
        for name, batch in configurations if sizes else ():
            yield workload, name, directions, batch, sizes[name]["d_model"], sizes[name]["max_seq_len"]


def _target_shapes(device: str, workloads: Collection[str]) -> Iterator[_Shape]:
    """Shapes for which ``bench.kernels.targets`` has targets."""
    if device == "cuda":
        for batch, width in _GPU_TARGETS:
            for length in (*(1 << bits for bits in range(10, 21)), 3000, 5000, _LARGEST):
                yield "fftconv", "gated", _BOTH, batch, width, length
            for length in (1 << 15, 1 << 20):
                yield "implicit_filter", "", _BOTH, 1, width, length
                yield "hyena_operator", "", ("both",), batch, width, length
        return
    for batch, width, length in _CPU_TARGETS:
        yield "fftconv", "gated", _BOTH, batch, width, length
    yield "mixer_projection", "", _BOTH, 1, 256, 1 << 15
    for width, length in ((128, 4096), (256, 32768)):
        yield "implicit_filter", "", _BOTH, 1, width, length
    if published_sizes()[0] and (not workloads or "hyenadna" in workloads):
        yield "hyenadna", "small-32k", _BOTH, 1, 256, 1 << 15


def cases(
    device: str, named: Collection[str] = (), workloads: Collection[str] = (), *, targets: bool = False
) -> list[Case]:
    """All cases, shortest lengths first. Those that are CUDA graphs follow all others.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        named: only these implementations, on a CPU too; empty for the device's default.
        workloads: only these workloads; empty for all.
        targets: the shapes of ``bench.kernels.targets`` in place of the suite's.
    """

    def runs(case: Case) -> bool:
        if named:
            return case.implementation in named
        if targets and case.implementation == "published_compiled":
            return False
        if device == "cuda":
            return True
        too_long = case.is_attention and case.variant == "plain" and case.length > _PLAIN_ATTENTION_UP_TO
        return case.implementation in _ON_CPU and not too_long

    shapes = (_target_shapes if targets else _suite_shapes)(device, workloads)
    wanted = [shape for shape in shapes if not workloads or shape[0] in workloads]
    found = (
        Case(workload, variant, implementation, direction, batch, width, length, launch)
        for launch in (CALLS, GRAPH)
        for workload, variant, directions, batch, width, length in sorted(wanted, key=lambda shape: shape[-1])
        if launch in _launches(workload, variant)
        for direction in directions
        for implementation in _implementations(workload, variant, direction, length, launch)
    )
    return list(filter(runs, found))
