"""Reads and writes the two published checkpoint formats, and never runs code from a checkpoint.

- ``-hf``: a folder with ``config.json`` and ``model.safetensors``; keys ``hyena.backbone.…`` and ``lm_head.weight``.
- original: a folder with ``config.json`` and ``weights.ckpt``, a PyTorch Lightning pickle; keys ``model.backbone.…``
  and ``model.lm_head.weight`` under ``state_dict``, the head tied to the embedding.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from hyenadna.common.errors import InputError
from hyenadna.model.locate import (
    CONFIG,
    ORIGINAL_WEIGHTS,
    Source,
    find,
    is_index,
    read_json,
    shards,
    weights_names,
)
from hyenadna.model.sizes import PUBLISHED_SIZES

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

EMBEDDING_KEY = "hyena.backbone.embeddings.word_embeddings.weight"
HEAD_KEY = "lm_head.weight"
_FREQ = re.compile(r"(.*\.implicit_filter\.)(\d+)(\.freq)")
# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into the names of weights.
_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_POSITIONS = re.compile(r"\.pos_emb\.[zt]$")
_LISTED = 10


def download(name: str, *, variant: str | None = None, use_safetensors: bool | None = None, **hub: Any) -> Source:
    """Download a checkpoint from the Hugging Face Hub, such as ``LongSafari/hyenadna-tiny-1k-seqlen-hf``.

    Args:
        name: repository of either format.
        variant: see :func:`hyenadna.model.locate.find`.
        use_safetensors: see :func:`hyenadna.model.locate.find`.
        hub: arguments named in ``HUB_ARGUMENTS``, as in transformers.

    Raises:
        OSError: the repository does not exist or cannot be reached; the message comes from transformers.
    """
    config_file = Path(str(cached_file(name, CONFIG, **hub)))
    if "layer" in read_json(config_file):
        return Source("original", config_file, Path(str(cached_file(name, ORIGINAL_WEIGHTS, **hub))))
    first, *others = weights_names(variant, use_safetensors)
    try:
        weights_file = Path(str(cached_file(name, first, **hub)))
    except OSError:
        found = _first_of(name, others, **hub)
        if found is None:
            raise
        weights_file = found
    if is_index(weights_file):
        for shard in sorted(set(read_json(weights_file).get("weight_map", {}).values())):
            cached_file(name, shard, **hub)
    return Source("hf", config_file, weights_file)


def _first_of(name: str, files: Iterable[str], **hub: Any) -> Path | None:
    for file in files:
        with suppress(OSError):
            return Path(str(cached_file(name, file, **hub)))
    return None


class _Stub:
    """Stands in for every class of a pickle that is not a tensor's. Takes any arguments and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}


def _unpickle(file: Path) -> Any:
    """``torch.load`` with the restricted unpickler, and a stub for every class that it refuses.

    PyTorch's ``weights_only`` unpickler calls only its own list of tensor functions. A checkpoint may name other
    classes: omegaconf objects in the published ones, anything in a hostile one. They are never imported, because each
    such name resolves to a stub. The old format without a zip archive gets no stubs and may hold tensors only.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:
        names = []
    stubs: list[Any] = [
        (_plain_dict if name in ("builtins.dict", "collections.defaultdict") else type("Stub", (_Stub,), {}), name)
        for name in names
    ]
    with torch.serialization.safe_globals(stubs), warnings.catch_warnings():
        # torch warns of another pickle protocol than its own. The file loads, or is refused below.
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True)


def load_original(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and configuration of a checkpoint in the original's format, unchanged.

    Args:
        path: the folder, or the ``.ckpt`` file with ``config.json`` beside it.

    Returns:
        ``state_dict`` (keys ``model.…``, tensors on the CPU) and the content of ``config.json``.

    Raises:
        InputError: there is no such checkpoint, or the restricted unpickler refuses its pickle.
    """
    source = find(path)
    if source is None or source.format != "original":
        raise InputError(
            f"{path} is not a checkpoint in the original's format ({CONFIG} with a 'layer', {ORIGINAL_WEIGHTS})"
        )
    return _pickled_weights(source.weights_file), read_json(source.config_file)


def _pickled_weights(file: Path) -> dict[str, Tensor]:
    _refuse_stand_in(file)
    try:
        content = _unpickle(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    except Exception as error:
        # A damaged or hostile pickle can make the unpickler fail in any way.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        detail = next((line for line in reason if "GLOBAL" in line or "global" in line), reason[0]).strip()
        raise InputError(f"{file}: refused, holds more than tensors ({detail})") from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        raise InputError(f"{file}: holds no state_dict")
    tensors = {key: value for key, value in weights.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{file}: its state_dict holds no tensors")
    return _unwrapped(file, tensors)


def _safetensors(file: Path) -> dict[str, Tensor]:
    _refuse_stand_in(file)
    with _readable(file):
        return _unwrapped(file, load_file(file))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error})") from error


def _refuse_stand_in(file: Path) -> None:
    """Raise InputError if a small text stands in the place of the weights."""
    try:
        with file.open("rb") as opened:
            head = opened.read(64).lstrip().lower()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{file}: is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{file}: is a web page, not the weights: download the file again")


def bare_name(key: str) -> str:
    """The name of a weight without the parts that wrappers such as ``torch.compile`` put into it."""
    return _WRAPPER.sub("", key)


def _unwrapped(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that they have without wrappers such as ``module.`` and ``_orig_mod.``."""
    bare = {bare_name(key): tensor for key, tensor in weights.items()}
    if len(bare) < len(weights):
        raise InputError(f"{file}: holds some weights twice, with and without the prefix of a wrapper")
    return bare


def original_to_hf(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an original ``state_dict`` to the keys of the ``-hf`` format.

    Metrics are dropped, and so are the copies of the ``freq`` that three sines share. The part ``.layer.`` of a key,
    left by training with checkpointing, is removed. A missing head becomes a copy of the embedding, to which the
    original ties it.

    Raises:
        InputError: the sines of one filter have different frequencies, which no original model has.
    """
    renamed: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if "torchmetrics" in key:
            continue
        bare = re.sub(r"\.(mixer|mlp)\.layer\.", r".\1.", key.removeprefix("model."))
        new_key = bare if bare == HEAD_KEY else f"hyena.{bare}"
        match = _FREQ.fullmatch(new_key)
        (copies if match and match[2] != "1" else renamed)[new_key] = tensor
    for key, tensor in copies.items():
        first = renamed.setdefault(_FREQ.sub(r"\g<1>1\g<3>", key), tensor)
        if not torch.equal(first, tensor):
            raise InputError(
                f"{key} differs from the filter's first freq: the sines of one filter share their frequency"
            )
    head = renamed.get(HEAD_KEY, renamed.get(EMBEDDING_KEY))
    if head is not None:
        # In the pickle a tied head shares the embedding's memory. Without a copy, training an untied model would change
        # both.
        renamed[HEAD_KEY] = head.clone()
    return renamed


def hf_to_original(weights: Mapping[str, Tensor], num_inner_mlps: int) -> dict[str, Tensor]:
    """Rename the keys of the ``-hf`` format to the keys of an original ``state_dict``.

    Raises:
        InputError: the head differs from the embedding, to which the original ties it.
    """
    if HEAD_KEY in weights and not torch.equal(weights[HEAD_KEY], weights[EMBEDDING_KEY]):
        raise InputError(
            "this model's output head differs from its embedding; the original's format ties the two and cannot hold "
            """it: train a model with hyenadna pretrain --model_fields '{"tie_word_embeddings": true}'"""
        )
    repeated = repeat_freq(weights, num_inner_mlps)
    return {f"model.{key.removeprefix('hyena.')}": tensor for key, tensor in repeated.items()}


def repeat_freq(weights: Mapping[str, Tensor], num_inner_mlps: int) -> dict[str, Tensor]:
    """Copy each filter's ``freq`` to the names of all sines that share it."""
    repeated: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        match = _FREQ.fullmatch(key)
        sines = range(1, 2 * num_inner_mlps + 2, 2)
        repeated |= {f"{match[1]}{i}{match[3]}": tensor for i in sines} if match else {key: tensor}
    return repeated


def positions_apart(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights, with memory of their own for the positions of every layer. The layers of a model share them."""
    apart: dict[str, Any] = {}
    seen: set[tuple[torch.device, int]] = set()
    for key, tensor in weights.items():
        if _POSITIONS.search(key) and isinstance(tensor, Tensor) and not tensor.is_meta:
            place = (tensor.device, tensor.data_ptr())
            apart[key] = tensor.clone() if place in seen else tensor
            seen.add(place)
        else:
            apart[key] = tensor
    return apart


def load_weights(source: Source) -> dict[str, Tensor]:
    """Read weights under the keys of the ``-hf`` format, on the CPU.

    Raises:
        InputError: a file is damaged or refused, or holds numbers that are not finite.
    """
    file = source.weights_file
    if source.format == "original":
        weights = original_to_hf(_pickled_weights(file))
    else:
        weights = {}
        for part in shards(file) if is_index(file) else [file]:
            weights |= _safetensors(part) if part.suffix == ".safetensors" else _pickled_weights(part)
    for key, tensor in weights.items():
        if not tensor.is_floating_point():
            raise InputError(f"{file}: {key} is {tensor.dtype}: weights are floating-point numbers")
        if not tensor.isfinite().all():
            raise InputError(f"{file}: {key} holds NaN or infinity: the training diverged, or the file is damaged")
    return weights


def weight_names(source: Source) -> list[str]:
    """The keys that :func:`load_weights` gives. Of safetensors files it reads no weights.

    Raises:
        InputError: as :func:`load_weights`.
    """
    parts = shards(source.weights_file) if is_index(source.weights_file) else [source.weights_file]
    if any(part.suffix != ".safetensors" for part in parts):
        return list(load_weights(source))
    names: list[str] = []
    for part in parts:
        _refuse_stand_in(part)
        with _readable(part), safe_open(part, framework="pt") as file:
            names += [bare_name(key) for key in file.keys()]  # noqa: SIM118 - it is no mapping
    return names


def listed(keys: Iterable[str]) -> str:
    """The first ten keys in order, and the number of the others."""
    ordered = sorted(keys)
    more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
    return ", ".join(ordered[:_LISTED]) + more


def published_size(shapes: Mapping[str, Iterable[int]]) -> str | None:
    """Name the published sizes whose weights have these shapes, by keys of the ``-hf`` format; None if no size fits."""
    if EMBEDDING_KEY not in shapes:
        return None
    width = [*shapes[EMBEDDING_KEY], None][1]
    depth = len({match[1] for key in shapes if (match := re.search(r"\.layers\.(\d+)\.", key))})
    length = next((list(shape)[1] for key, shape in shapes.items() if key.endswith("pos_emb.z")), None)
    names = [
        name
        for name, size in PUBLISHED_SIZES.items()
        if (size["d_model"], size["n_layer"]) == (width, depth) and length in (None, size["max_seq_len"])
    ]
    return " or ".join(names) or None
