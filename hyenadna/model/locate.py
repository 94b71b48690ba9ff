"""Finds a checkpoint and its format by the names of its files. Imports neither torch nor transformers.

``checkpoint.py`` describes the formats.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hyenadna.common.errors import InputError
from hyenadna.common.options import Input, listed

CONFIG = "config.json"
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ORIGINAL_WEIGHTS = "weights.ckpt"
_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine: its format and its two files."""

    format: Literal["hf", "original"]
    config_file: Path
    weights_file: Path


def find(path: str | os.PathLike[str]) -> Source | None:
    """Find the checkpoint in a folder or at a weights file.

    Returns:
        The checkpoint, or None if nothing is there and ``path`` has the form ``owner/name`` of the Hugging Face Hub.

    Raises:
        InputError: ``path``, or its parent folder, exists and holds no checkpoint of either format.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        config_file = place / CONFIG
        found = [place / name for name in (*HF_WEIGHTS, ORIGINAL_WEIGHTS) if (place / name).exists()]
        found += [file for file in sorted(place.glob("*.ckpt")) if file not in found]
        if not found:
            # A run's folder was named in place of the model in it.
            hint = f"; did you mean {place / 'model'}?" if (place / "model" / CONFIG).is_file() else ""
            raise InputError(f"{place} holds no weights: expected {HF_WEIGHTS[0]} or {ORIGINAL_WEIGHTS} in it{hint}")
    elif place.is_file():
        if place.suffix not in _WEIGHT_SUFFIXES:
            raise InputError(f"{place} is not a checkpoint: expected a folder, or a file in {listed(_WEIGHT_SUFFIXES)}")
        config_file, found = place.parent / CONFIG, [place]
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", os.fspath(path)) and not place.parent.is_dir():
        return None
    else:
        raise InputError(f"no checkpoint at {place}: no such file or folder")
    if not config_file.is_file():
        raise InputError(f"{config_file} is missing: a checkpoint needs its configuration beside the weights")
    is_original = "layer" in read_json(config_file)
    weights = [file for file in found if (file.suffix in (".ckpt", ".pt", ".pth")) == is_original]
    if not weights:
        raise InputError(f"{config_file} and {found[0].name} belong to different formats")
    return Source("original" if is_original else "hf", config_file, weights[0])


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, found a {type(content).__name__}")
    return content


def check_checkpoint(path: Path) -> None:
    """Raise InputError unless ``path`` can be loaded: a checkpoint, an adapter of peft, or a name on the Hub."""
    if not (path / "adapter_config.json").exists():
        find(path)


def check_convertible(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Raise InputError unless there is a checkpoint at ``src``, and nothing at ``dst`` or an empty folder."""
    if find(src) is None:
        raise InputError(f"no checkpoint at {src}: no such file or folder")
    target = Path(dst).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists: choose a folder that does not exist, or is empty")


Checkpoint = Annotated[Path, Input(check_checkpoint)]
"""A checkpoint on this machine, or a name on the Hugging Face Hub such as owner/name."""
