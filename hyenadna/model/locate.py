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
ADAPTER_CONFIG = "adapter_config.json"
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ORIGINAL_WEIGHTS = "weights.ckpt"
DCP_FOLDER = "dcp"
"""Folder of a checkpoint that many processes wrote: see ``dcp.py``."""
LAYOUT_FILE = "layout.json"
"""In DCP_FOLDER, what torch's metadata do not say."""
_WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine: its format and its two files. ``weights_file`` may be the list of its shards."""

    format: Literal["hf", "original"]
    config_file: Path
    weights_file: Path


def find(
    path: str | os.PathLike[str],
    *,
    subfolder: str = "",
    variant: str | None = None,
    use_safetensors: bool | None = None,
) -> Source | None:
    """Find the checkpoint in a folder or at a weights file.

    Args:
        path: the folder or the file.
        subfolder: folder in ``path`` that holds the checkpoint.
        variant: as in transformers: ``"fp16"`` reads ``model.fp16.safetensors``.
        use_safetensors: as in transformers: True wants ``model.safetensors``, False ``pytorch_model.bin``.

    Returns:
        The checkpoint, or None if nothing is there and ``path`` has the form ``owner/name`` of the Hugging Face Hub.

    Raises:
        InputError: ``path``, or its parent folder, exists and holds no checkpoint of either format, or two of them.
    """
    place = Path(path).expanduser()
    if not place.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", os.fspath(path)) and not place.parent.is_dir():
        return None
    place = place / subfolder if subfolder else place
    if place.is_dir():
        config_file = place / CONFIG
        names = weights_names(variant, use_safetensors)
        found = [place / name for name in (*names, ORIGINAL_WEIGHTS) if (place / name).exists()]
        if variant is None:
            found += [file for file in sorted(place.glob("*.ckpt")) if file not in found]
        _refuse_two(place, names)
        if not found:
            # A run's folder was named in place of the model in it.
            hint = f"; did you mean {place / 'model'}?" if (place / "model" / CONFIG).is_file() else ""
            wanted = f"{names[0]} or {ORIGINAL_WEIGHTS}" if variant is None else names[0]
            raise InputError(f"{place} holds no weights: expected {wanted} in it{hint}")
    elif place.is_file():
        if place.suffix not in _WEIGHT_SUFFIXES and not is_index(place):
            raise InputError(f"{place} is not a checkpoint: expected a folder, or a file in {listed(_WEIGHT_SUFFIXES)}")
        config_file, found = place.parent / CONFIG, [place]
    else:
        raise InputError(f"no checkpoint at {place}: no such file or folder")
    if not config_file.is_file():
        raise InputError(f"{config_file} is missing: a checkpoint needs its configuration beside the weights")
    is_original = "layer" in read_json(config_file)
    weights = [file for file in found if (file.suffix in (".ckpt", ".pt", ".pth")) == is_original]
    if not weights:
        raise InputError(f"{config_file} and {found[0].name} belong to different formats")
    if not weights[0].is_file():
        raise InputError(f"{weights[0]} is a folder: expected a file of weights")
    return Source("original" if is_original else "hf", config_file, weights[0])


def weights_names(variant: str | None = None, use_safetensors: bool | None = None) -> list[str]:
    """Names that weights of the ``-hf`` format may have, by preference: each whole file, then its list of shards.

    Args:
        variant: see :func:`find`.
        use_safetensors: see :func:`find`.
    """
    names: list[str] = []
    for whole in HF_WEIGHTS:
        stem, suffix = whole.rsplit(".", 1)
        if use_safetensors is None or use_safetensors == (suffix == "safetensors"):
            named = f"{stem}.{variant}" if variant else stem
            names += [f"{named}.{suffix}", f"{stem}.{suffix}.index{f'.{variant}' if variant else ''}.json"]
    return names


def is_index(file: Path) -> bool:
    """Whether a file lists the shards of a checkpoint: ``model.safetensors.index.json``, with or without a variant."""
    return re.search(r"\.index(\.[^.]+)?\.json$", file.name) is not None


def shards(index: Path) -> list[Path]:
    """The files that a list of shards names.

    Raises:
        InputError: the list is damaged, or a file is missing.
    """
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{index}: expected a 'weight_map' from keys to files")
    files = [index.with_name(Path(name).name) for name in sorted(set(where.values()))]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing: {index.name} names it")
    return files


def _refuse_two(folder: Path, names: list[str]) -> None:
    """Raise InputError if a whole file and a list of shards are both there: nothing says which is the older."""
    for whole, index in zip(names[::2], names[1::2], strict=True):
        if (folder / whole).exists() and (folder / index).exists():
            raise InputError(
                f"{folder} holds {whole} and {index}, two sets of weights: remove the one that is out of date"
            )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, found a {type(content).__name__}")
    return content


def check_checkpoint(path: Path) -> None:
    """Raise InputError unless ``path`` can be loaded: a checkpoint, an adapter of peft, or a name on the Hub."""
    if not (path / ADAPTER_CONFIG).exists():
        find(path)


def refuse_adapter(path: str | os.PathLike[str]) -> None:
    """Raise InputError if ``path`` is an adapter of peft. Training and conversion need weights that hold its change."""
    if (Path(path).expanduser() / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"{path}: is an adapter of peft; merge it into its base first: save merge_and_unload() of "
            "peft.PeftModel.from_pretrained(base, adapter)"
        )


def check_convertible(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Raise InputError unless there is a checkpoint at ``src``, and nothing at ``dst`` or an empty folder."""
    refuse_adapter(src)
    if find(src) is None:
        raise InputError(f"no checkpoint at {src}: no such file or folder")
    target = Path(dst).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists: choose a folder that does not exist, or is empty")


Checkpoint = Annotated[Path, Input(check_checkpoint)]
"""A checkpoint on this machine, or a name on the Hugging Face Hub such as owner/name."""
