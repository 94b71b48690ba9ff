"""Reads checkpoints of ``torch.distributed.checkpoint``, and never runs code from them.

A checkpoint of training in many processes is a folder with ``config.json`` and ``dcp/``. In ``dcp/`` every rank has a
file, ``.metadata`` says where each tensor is, and ``layout.json`` which names share one tensor.
:mod:`hyenadna.parallel.checkpoints` writes it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors

from hyenadna.common.errors import InputError
from hyenadna.model.locate import DCP_METADATA, LAYOUT_FILE, read_json

MODEL_PREFIX = "model."

# What the metadata are made of, besides the names in torch that are dtypes and the like.
_ALLOWED = {
    "collections": {"OrderedDict"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """An unpickler of metadata that finds no other classes and functions."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if metadata may hold it."""
        if name in _ALLOWED.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which metadata of tensors do not hold")


class Reader(FileSystemReader):
    """As torch's, with an unpickler that runs no code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Where each tensor is."""
        return read_metadata(Path(self.path))


def read_metadata(folder: Path) -> Metadata:
    """The metadata of the folder ``dcp/``: names, shapes, dtypes and places of its tensors.

    Raises:
        OSError: the file cannot be read.
        pickle.UnpicklingError: it holds something else.
    """
    with (folder / DCP_METADATA).open("rb") as file:
        found = _Unpickler(file).load()
    if not isinstance(found, Metadata):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    return found


def tensors_in(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Shapes and dtypes of all tensors in a folder ``dcp/``, by name.

    Raises:
        OSError, pickle.UnpicklingError: as :func:`read_metadata`.
    """
    found = read_metadata(folder).state_dict_metadata
    return {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def names(folder: Path) -> list[str]:
    """The names of the model's weights in a folder ``dcp/``.

    Raises:
        InputError: it is damaged.
    """
    return list(_same(folder) | dict.fromkeys(_stored(folder)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The model's weights in a folder ``dcp/``, on the CPU.

    Raises:
        InputError: it is damaged.
    """
    found = _stored(folder)
    tensors: dict[str, Any] = {
        f"{MODEL_PREFIX}{name}": torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in found.items()
    }
    read(folder, tensors, no_dist=True)
    weights = {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in tensors.items()}
    # A copy, so that training one does not change the other.
    return weights | {name: weights[first].clone() for name, first in _same(folder).items()}


def read(folder: Path, tensors: dict[str, Any], *, no_dist: bool = False) -> None:
    """Fill tensors, plain or DTensors, from a folder ``dcp/`` by name. Without ``no_dist`` all ranks call this.

    Raises:
        InputError: it is damaged. The same on all ranks.
    """
    try:
        with of_one_process():
            load_tensors(tensors, storage_reader=Reader(folder), no_dist=no_dist)
    except CheckpointException as error:
        cause = first_cause(error)
        raise damaged(folder.parent, cause) from cause


def first_cause(error: CheckpointException) -> Exception:
    """The error of the first rank that had one."""
    found = error.failures[min(error.failures)][0]
    return found if isinstance(found, Exception) else RuntimeError(str(found))


@contextmanager
def of_one_process() -> Iterator[None]:
    """Without torch's warning that there is one process, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def damaged(folder: Path, error: BaseException) -> InputError:
    """The InputError for a checkpoint that cannot be read."""
    text = " ".join(str(error).split())
    return InputError(
        f"{folder}: is damaged ({type(error).__name__}: {text}); remove it to continue from an earlier checkpoint"
    )


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    """The model's tensors that a folder ``dcp/`` holds."""
    try:
        found = tensors_in(folder)
    except Exception as error:
        raise damaged(folder.parent, error) from error
    return {name.removeprefix(MODEL_PREFIX): entry for name, entry in found.items() if name.startswith(MODEL_PREFIX)}


def _same(folder: Path) -> dict[str, str]:
    """Names of tensors that the folder holds under another name."""
    try:
        same: dict[str, str] = read_json(folder / LAYOUT_FILE)["same"]
    except Exception as error:
        raise damaged(folder.parent, error) from error
    return same
