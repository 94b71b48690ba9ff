"""The rows of the study: which settings are trained on which windows, from which checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from hyenadna.cancer.study_config import LORA_ONLY, METHODS, SCRATCH_ONLY, CancerConfig, typed_options
from hyenadna.cancer.study_data import REFERENCE, StudyData
from hyenadna.common.errors import InputError
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.finetuning.presets import PRESETS
from hyenadna.model.config import HyenaDNAConfig


class Row(NamedTuple):
    """A row that is trained.

    Attributes:
        setting: a published setting or a method.
        inputs: "mutated" or "unmutated" windows.
        number: which folder of ``data``, from 0.
        config: the fine-tuning.
    """

    setting: str
    inputs: str
    number: int
    config: FinetuneConfig


def plan_rows(config: CancerConfig, data: list[StudyData], folder: Path) -> list[Row]:
    """The rows in their order: each setting on mutated windows and, behind it, the same on unmutated ones.

    Args:
        config: the options.
        data: the tables of each folder.
        folder: where the fine-tunings are written.

    Raises:
        InputError: a published setting has no windows of its length, or no checkpoint holds a row's windows.
    """
    rows = []
    options = typed_options(config.options)
    longest = {model: _max_seq_len(model) for model in config.model}
    for setting in config.settings:
        for number in _fitting(setting, config, data):
            model = None
            if _method(setting) != "scratch":
                model = _checkpoint(setting, data[number], longest)
            for inputs in ("mutated", "unmutated") if config.unmutated else ("mutated",):
                words = [setting, *([str(data[number].length)] if len(data) > 1 else [])]
                out = folder / "-".join([*words, *(["unmutated"] if inputs == "unmutated" else [])])
                tuned = FinetuneConfig(
                    data=data[number].folder,
                    out=out,
                    model=model,
                    method=setting if setting in METHODS else "full",  # type: ignore[arg-type]
                    preset=None if setting in METHODS else setting,
                    format="tables",
                    sequence_column=REFERENCE if inputs == "unmutated" else "sequence",
                    seeds=config.seeds,
                    jobs=config.jobs,
                    resume=config.resume,
                    device=config.device,
                    threads=config.threads,
                    **_own_options(setting, options, data[number], longest),
                )
                rows.append(Row(setting, inputs, number, tuned))
    return rows


def _method(setting: str) -> str:
    return setting if setting in METHODS else str(PRESETS[setting].options.get("method", "full"))


def _fitting(setting: str, config: CancerConfig, data: list[StudyData]) -> list[int]:
    """The folders that a setting is trained on."""
    if setting in METHODS:
        return list(range(len(data)))
    length = PRESETS[setting].bases
    found = [number for number, tables in enumerate(data) if tables.length == length]
    if not found:
        lengths = ", ".join(f"{folder} has {tables.length:,}" for folder, tables in zip(config.data, data, strict=True))
        raise InputError(
            f"`settings` {setting}: needs windows of {length:,} bases, and {lengths}: make them with hyenadna mutate "
            f"--length {length}, and add their folder to `data`"
        )
    return found


def _max_seq_len(model: Path) -> int:
    return int(HyenaDNAConfig.from_pretrained(model).max_seq_len)


def _checkpoint(setting: str, data: StudyData, longest: dict[Path, int]) -> Path:
    """The checkpoint for the shortest sequences that still holds the windows."""
    fitting = {model: most for model, most in longest.items() if most >= data.length}
    if not fitting:
        model, most = max(longest.items(), key=lambda item: item[1])
        raise InputError(
            f"`settings` {setting}: the windows of {data.folder} have {data.length:,} bases, and {model} is made for "
            f"{most:,}: give a `model` for longer sequences, or make shorter windows"
        )
    return min(fitting, key=lambda model: fitting[model])


def _own_options(setting: str, options: dict[str, Any], data: StudyData, longest: dict[Path, int]) -> dict[str, Any]:
    """The options of ``hyenadna finetune`` for a row: those that its method reads."""
    others = {*(SCRATCH_ONLY if setting != "scratch" else ()), *(LORA_ONLY if setting != "lora" else ())}
    found = {name: value for name, value in options.items() if name not in others}
    if setting == "scratch" and not found.keys() & {*SCRATCH_ONLY} and longest:
        found |= _shape(_checkpoint(setting, data, longest))
    return found


# Fields of a checkpoint that options of fine-tuning set, or that say nothing about the shape.
_NO_SHAPE = {
    "d_model", "n_layer", "max_seq_len", "pooling", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id",
    "use_cache", "tie_word_embeddings", "kwargs", "return",
}  # fmt: skip


def _shape(model: Path) -> dict[str, Any]:
    """Options that give new weights the shape of a checkpoint."""
    found, plain = HyenaDNAConfig.from_pretrained(model), HyenaDNAConfig()
    fields = {
        name: getattr(found, name)
        for name in HyenaDNAConfig.__init__.__annotations__.keys() - _NO_SHAPE
        if getattr(found, name) != getattr(plain, name)
    }
    shape = {name: getattr(found, name) for name in ("d_model", "n_layer", "max_seq_len")}
    return shape | {"model_fields": dict(sorted(fields.items()))}
