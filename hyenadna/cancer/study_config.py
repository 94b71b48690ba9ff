"""Options of ``hyenadna cancer``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Le

from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast1, InputPath, NewFolder, Options, Seed, Threads, listed
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.presets import PRESETS
from hyenadna.model.locate import Checkpoint

METHODS = ("full", "frozen", "lora", "scratch")
"""Settings that are methods of ``hyenadna finetune`` with the options of the command."""

PREFIX = "cancer-"
"""Beginning of the names of the published settings."""

SCRATCH_ONLY = ("size", "d_model", "n_layer", "max_seq_len", "model_fields")
LORA_ONLY = ("lora_rank",)
_OWN = (
    "data", "out", "model", "method", "task", "preset", "format", "sequence_column", "label_columns", "split_column",
    "genome", "aliases", "length", "species_windows", "valid_fraction", "split_seed", "folds", "prompt_tokens", "shots",
    "eval_shots", "seeds", "jobs", "resume", "baseline", "device", "threads",
)  # fmt: skip
"""Options of ``hyenadna finetune`` that this command sets itself, or that do not apply to it."""


@dataclass
class CancerConfig(Options):
    """The tables of windows, the rows of the study, and the intervals.

    Args:
        data: Folder of `hyenadna mutate`, or several whose windows have other lengths. A published setting takes the
            one of its own length, and every other setting takes each of them.
        out: Folder for results.json, lines.tsv, the figures, report.html and one folder of `hyenadna finetune` a row.
            It appears when all rows are finished. Until then OUT.partial holds the finished ones.
        model: Checkpoint to start from, or several. A row takes the one for the shortest sequences that still holds
            its windows.
        settings: Rows of the table. Each is a published setting (cancer-1k, cancer-32k, cancer-32k-scratch,
            cancer-32k-frozen), or full, frozen, lora or scratch with the hyperparameters of --options.
        options: Options of `hyenadna finetune` for every row, such as {epochs: 5, lr: 0.001}. size, d_model, n_layer,
            max_seq_len and model_fields go to scratch alone, which otherwise has the shape of the checkpoint.
        unmutated: Train each row a second time on the same windows without mutations. Whatever this control reaches
            comes from the positions alone.
        shuffle_labels: Give the lines of training and validation other labels, which say nothing about the true ones.
            The test keeps its labels. Accuracy must then be near chance, above or below it.
        seeds: Seeds of the training, with one run for each. Intervals and lines are those of the run with the best
            validation.
        resamples: Resamples of the lines for the intervals.
        seed: Seed of the resamples and of shuffled labels.
        jobs: Runs of seeds at a time, see `hyenadna finetune`.
        resume: Run only the rows that a stopped study with the same options has not finished.
        device: The device: cpu, cuda, cuda:1 and so on. auto takes a GPU if there is one.
        threads: CPU threads of all jobs together. The default is PyTorch's.
    """

    data: list[InputPath]
    out: NewFolder
    model: list[Checkpoint] = field(default_factory=list)
    settings: list[str] = field(default_factory=lambda: ["full", "frozen", "scratch"])
    options: dict[str, Any] = field(default_factory=dict)
    unmutated: bool = True
    shuffle_labels: bool = False
    seeds: list[Seed] = field(default_factory=lambda: [0])
    resamples: Annotated[int, Ge(100), Le(1_000_000)] = 2000
    seed: Seed = 0
    jobs: AtLeast1 = 1
    resume: bool = False
    device: str = "auto"
    threads: Threads | None = None
    runtime = ("out", "resume", "jobs", "threads", "device")

    def _check_together(self) -> None:
        for name in ("data", "settings", "seeds"):
            values = getattr(self, name)
            if not values:
                raise InputError(f"`{name}`: give at least one")
            if len({*map(str, values)}) < len(values):
                raise InputError(f"`{name}` {', '.join(map(str, values))}: one of them is there twice")
        for setting in self.settings:
            self._check_setting(setting)
        if own := sorted(name for name in self.options if name in _OWN):
            raise InputError(f"`options`: {', '.join(own)} cannot be set there: hyenadna cancer sets it or has no use")
        for method, names in (("scratch", SCRATCH_ONLY), ("lora", LORA_ONLY)):
            if method not in self.settings and (unused := [name for name in names if name in self.options]):
                raise InputError(f"`options`: {', '.join(unused)} has no effect without the setting {method}")
        FinetuneConfig(self.data[0], self.out, **typed_options(self.options)).check_values()

    def _check_setting(self, setting: str) -> None:
        published = tuple(name for name in PRESETS if name.startswith(PREFIX))
        if setting not in METHODS + published:
            raise InputError(f"`settings` {setting}: choose {listed(METHODS + published)}")
        method = setting if setting in METHODS else PRESETS[setting].options.get("method", "full")
        if method != "scratch" and not self.model:
            raise InputError(f"`settings` {setting}: needs a `model` to start from; without one take scratch")


def typed_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``hyenadna finetune`` with the types of its fields, as the command line reads them.

    Raises:
        InputError: there is no such option, or a value has another type.
    """
    known = {each.name for each in dataclasses.fields(FinetuneConfig)}
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"`options`: hyenadna finetune has no option {unknown[0]}")
    return {name: _typed(name, value) for name, value in options.items()}


def _typed(name: str, value: Any) -> Any:
    from jsonargparse import ArgumentError

    try:
        return _parser(name).parse_object({name: value})[name]
    except ArgumentError as error:
        raise InputError(f"`options`: {name} cannot be {value!r}, see hyenadna finetune --help") from error


@cache
def _parser(name: str) -> Any:
    """A parser of one option alone. One of all takes a tenth of a second."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=get_type_hints(FinetuneConfig)[name])
    return parser
