"""Converting checkpoints between the two published formats."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.model.checkpoint import hf_to_original
from hyenadna.model.locate import CONFIG, ORIGINAL_WEIGHTS, check_convertible
from hyenadna.model.modeling import HyenaDNAForCausalLM


def convert(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], to: Literal["hf", "original"] = "hf", **overrides: Any
) -> Path:
    """Write the checkpoint at ``src`` to a new folder ``dst`` in the other published format, or in the same one.

    The weights stay identical, bit for bit. The original's configuration has no window shift: converting from it,
    the ``-hf`` folder says ``modulation_shift: 0.05``, which fits the published weights, unless ``overrides`` say
    otherwise (``modulation_shift=0.0`` for weights of the training code); converting to it, the value goes into
    ``layer.shift``. ``dst`` appears complete or not at all.

    Args:
        src: folder or file of either format.
        dst: folder to make; it must not exist or be empty.
        to: ``"hf"`` or ``"original"``.
        overrides: fields of ``HyenaDNAConfig``.

    Returns:
        ``dst``.

    Raises:
        InputError: ``src`` is no valid checkpoint, ``dst`` holds something, the disk is full, or the model has no place
            in the format (a head that is not tied, in the original's).
    """
    # The model, not a renaming alone: it checks every key and shape, and makes buffers that a checkpoint lacks.
    if to not in ("hf", "original"):
        raise InputError(f"convert: there is no format {to!r}: choose 'hf' or 'original'")
    check_convertible(src, dst)
    target = Path(dst).expanduser()
    model = HyenaDNAForCausalLM.from_pretrained(src, **overrides)
    if to == "hf":
        model.save_pretrained(target)
        return target
    renamed = hf_to_original(model.state_dict(), model.config.num_inner_mlps)
    with atomic_dir(target) as partial:
        # Through memory, for torch's own zip writer reports a full disk as a RuntimeError.
        pickled = io.BytesIO()
        torch.save({"state_dict": renamed}, pickled)
        (partial / ORIGINAL_WEIGHTS).write_bytes(pickled.getbuffer())
        (partial / CONFIG).write_text(json.dumps(model.config.to_original(), indent=2) + "\n", encoding="utf-8")
    return target
