"""Adapters of peft: a folder that names its base checkpoint, and weights to put on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hyenadna.common.errors import InputError, WeightsError
from hyenadna.common.extras import require
from hyenadna.model.checkpoint import listed
from hyenadna.model.locate import ADAPTER_CONFIG, CONFIG, read_json


def split(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> tuple[str | os.PathLike[str], dict[str, Any]]:
    """The base checkpoint of ``path``, and the adapter that belongs on it.

    Args:
        path: a folder, a file, or a name on the Hub.
        kwargs: arguments of ``from_pretrained``. ``adapter_kwargs`` and ``adapter_name`` are taken out.

    Returns:
        The place of the base, and the arguments of ``load_adapter``; none if ``path`` is no adapter. From an Auto class
        ``path`` is the base already, and the adapter stands in ``adapter_kwargs``.

    Raises:
        InputError: the adapter's configuration is damaged, or names no base.
        ImportError: peft is not installed.
    """
    options = dict(kwargs.pop("adapter_kwargs", None) or {})
    name = kwargs.pop("adapter_name", None)
    place = options.pop("_adapter_model_path", None)
    file = Path(path).expanduser() / ADAPTER_CONFIG
    if place is None and not file.is_file():
        return path, {}
    require("peft")
    adapter = {"peft_model_id": str(path if place is None else place), "adapter_name": name, "adapter_kwargs": options}
    local = Path(adapter["peft_model_id"]).expanduser() / ADAPTER_CONFIG
    if local.is_file():
        _check_kind(local)
    if place is not None or (file.parent / CONFIG).is_file():
        return path, adapter
    base = read_json(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{file}: names no base_model_name_or_path; load the base, and the adapter with peft.PeftModel"
        )
    return base, adapter


def _check_kind(file: Path) -> None:
    """Raise InputError for kinds that become no part of the model: soft prompts need peft's own model around it."""
    from peft import PeftConfig

    try:
        kind = PeftConfig.from_pretrained(str(file.parent))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{file}: not a readable adapter ({' '.join(str(error).split())})") from error
    if kind.is_prompt_learning or kind.is_adaption_prompt:
        raise InputError(
            f"{file.parent}: is {kind.peft_type.value}, which needs peft's model around the base: load the base, then "
            "peft.PeftModel.from_pretrained(base, adapter)"
        )


def apply(model: Any, adapter: dict[str, Any]) -> Any:
    """Put an adapter into a model, in place.

    Args:
        model: the base.
        adapter: from :func:`split`.

    Returns:
        The loading info of transformers.

    Raises:
        WeightsError: weights are missing, left over or of another shape.
    """
    place = adapter["peft_model_id"]
    advice = "load the base, then peft.PeftModel.from_pretrained(base, adapter)"
    try:
        info = model.load_adapter(**adapter)
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise WeightsError(f"{place}: cannot be applied ({' '.join(str(error).split())}); {advice}") from error
    for what in ("missing", "unexpected", "mismatched"):
        if keys := getattr(info, f"{what}_keys"):
            names = [key if isinstance(key, str) else str(key[0]) for key in keys]
            raise WeightsError(
                f"{place}: does not fit the model: {len(names)} keys are {what}: {listed(names)}; {advice}"
            )
    return info.to_dict()
