"""Converting checkpoints between the two published formats."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.model.checkpoint import hf_to_original
from hyenadna.model.locate import CONFIG, ORIGINAL_WEIGHTS, check_convertible
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.model.tokenizer import TOKENIZER_FILES


def convert(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], to: Literal["hf", "original"] = "hf", **overrides: Any
) -> Path:
    """Write a checkpoint to a new folder in the other published format, or in the same one.

    The weights stay identical, bit for bit, and a tokenizer beside them is copied. ``dst`` appears complete or not at
    all.

    The original's configuration has no window shift. From the original, the ``-hf`` folder gets the published weights'
    ``modulation_shift`` of 0.05, unless ``overrides`` give another; weights of the training code need 0.0. To the
    original, the value is written to ``layer.shift``.

    Args:
        src: folder or file of either format.
        dst: folder to make. It must not exist, or be empty.
        to: ``"hf"`` or ``"original"``.
        overrides: fields of ``HyenaDNAConfig``.

    Returns:
        ``dst``.

    Raises:
        InputError: ``src`` is not a valid checkpoint, ``dst`` is not empty, the disk is full, or the original format
            cannot hold the model because its head is not tied.
    """
    # Loading the model does more than rename keys: it checks every key and shape, and makes missing buffers.
    if to not in ("hf", "original"):
        raise InputError(f"convert: there is no format {to!r}: choose 'hf' or 'original'")
    check_convertible(src, dst)
    target = Path(dst).expanduser()
    model = HyenaDNAForCausalLM.from_pretrained(src, **overrides)
    place = Path(src).expanduser()
    beside = place if place.is_dir() else place.parent
    if to == "hf":
        with atomic_dir(target) as partial:
            model.save_pretrained(partial)
            _copy_tokenizer(beside, partial)
        return target
    renamed = hf_to_original(model.state_dict(), model.config.num_inner_mlps)
    with atomic_dir(target) as partial:
        _copy_tokenizer(beside, partial)
        # Through memory: torch's own zip writer reports a full disk as a RuntimeError.
        pickled = io.BytesIO()
        torch.save({"state_dict": renamed}, pickled)
        (partial / ORIGINAL_WEIGHTS).write_bytes(pickled.getbuffer())
        (partial / CONFIG).write_text(json.dumps(model.config.to_original(), indent=2) + "\n", encoding="utf-8")
    return target


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, which say what the model was trained with: bare bases, or bases and [SEP]."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
