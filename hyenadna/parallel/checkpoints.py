"""Checkpoints that all ranks write and read together, with ``torch.distributed.checkpoint``.

A checkpoint is a folder with ``dcp/``, in which every rank has a file with its shards; ``meta.json``, the state that
the caller gives; and ``config.json`` of the model, so that ``from_pretrained`` loads the folder. It appears under its
name when it is complete. Weights and the optimizer's tensors have the names of the parameters, so that any number of
ranks can load it, sharded or not, and so can one process without a group.

Where there is a process group, all of its ranks call these functions together.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.distributed.tensor import DTensor, distribute_tensor

from hyenadna.common.errors import InputError
from hyenadna.common.files import draft_beside, put_dir, write_error
from hyenadna.common.world import SharedError
from hyenadna.model import dcp as files
from hyenadna.model.checkpoint import bare_name, listed
from hyenadna.model.locate import DCP_FOLDER, LAYOUT_FILE, read_json
from hyenadna.model.pretrained import DNAPreTrainedModel

META_FILE = "meta.json"

_OPTIMIZER_PREFIX = "optimizer."

# Of an optimizer's groups, what the device decides. The optimizer that loads keeps its own.
_OF_DEVICE = frozenset({"capturable", "foreach", "fused"})

Result = TypeVar("Result")


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a checkpoint of this kind."""
    return (folder / DCP_FOLDER).is_dir()


class Tokenizer(Protocol):
    """A tokenizer of transformers."""

    def save_pretrained(self, save_directory: str, /) -> Any:
        """Write its files into a folder."""


def save(
    folder: Path,
    model: DNAPreTrainedModel,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a checkpoint, whole or not at all. All ranks call this, and return when the folder is there.

    Args:
        folder: the folder, on a file system that all ranks share. An older one there is replaced.
        model: the model, bare: inside of DDP, or with ``fully_shard`` applied in place.
        optimizer: its optimizer.
        state: what else the training needs, as JSON values. That of rank 0 is kept.
        tokenizer: the model's tokenizer, for who loads the folder as a model.

    Raises:
        InputError: a rank cannot write: a full disk, no permission, a file system of its own. It is the same on all
            ranks, and what was at ``folder`` stays.
        TypeError: ``state`` holds something else than JSON values.
    """
    tensors, layout = _take_apart(model, optimizer)
    draft = _Draft(folder, lambda place: _describe(place, model, tokenizer, layout, state), None)
    draft.write(tensors)
    draft.finish()


def save_async(
    folder: Path,
    model: DNAPreTrainedModel,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
) -> Saving:
    """As :func:`save`, in the background: it returns when all tensors are copied to the memory of the host.

    The ranks that write speak to each other in a gloo group of their own, so that training goes on meanwhile. The
    folder appears when all ranks call ``wait()``.

    Returns:
        An object with ``done()``, of this rank alone, and ``wait()``, which all ranks call.

    Raises:
        InputError, TypeError: as :func:`save`. An error of the background reaches ``wait()``.
    """
    tensors, layout = _take_apart(model, optimizer)
    group = _new_group() if dist.is_initialized() else None
    draft = _Draft(folder, lambda place: _describe(place, model, tokenizer, layout, state), group)
    # Not dcp.async_save: Python waits for its thread at the end, which may wait for ranks that are no more.
    return Saving(draft, {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}, group)


class Saving:
    """A checkpoint that is being written in the background."""

    def __init__(self, draft: _Draft, tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
        self._draft, self._group = draft, group
        # A daemon, for which Python does not wait.
        self._thread = threading.Thread(target=draft.write, args=(tensors,), daemon=True, name="checkpoint")
        self._is_finished = False
        self._thread.start()

    def done(self) -> bool:
        """Whether this rank has written its part, or failed to. Until then :meth:`wait` waits for it."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Give the folder its name, and return when it is there. All ranks call this; a second call does nothing.

        Raises:
            InputError: as :func:`save`, the same on all ranks.
        """
        if self._is_finished:
            return
        self._is_finished = True
        self._thread.join()
        try:
            self._draft.finish()
        finally:
            if self._group is not None:
                dist.destroy_process_group(self._group)


def load(folder: Path, model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read a checkpoint into a model and its optimizer, both of which change. All ranks call this.

    Args:
        folder: the checkpoint, written by any number of ranks.
        model: the model, bare. Its parameters may be plain or sharded.
        optimizer: its optimizer, with the groups of the one that was saved. It keeps its own ``capturable``,
            ``foreach`` and ``fused``.

    Returns:
        The state that was saved.

    Raises:
        InputError: the checkpoint is damaged, or of another model or optimizer. It is the same on all ranks. The model
            may then have some of the weights.
    """
    state = read_state(folder)
    targets = _together(lambda: _Targets(folder, model, optimizer), None)
    _together(lambda: targets.read(folder), None)
    targets.apply(model, optimizer)
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """The state that was saved with a checkpoint. All ranks call this.

    Raises:
        InputError: it is damaged. The same on all ranks.
    """

    def read() -> dict[str, Any]:
        try:
            return read_json(folder / META_FILE)
        except InputError as error:
            raise files.damaged(folder, error) from error

    return _together(read, None)


def load_plain_optimizer_state(
    model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Give an optimizer the ``state_dict()`` of one that ran in one process, whole tensors by number.

    Args:
        model: the model, bare. Its parameters may be plain or sharded.
        optimizer: its optimizer, with the groups of the other. It keeps its own ``capturable``, ``foreach`` and
            ``fused``.
        state: what ``state_dict()`` gave, on every rank.

    Raises:
        InputError: it is the state of another optimizer.
    """
    own = _names_of(model, optimizer)
    found = [
        {"names": [own[position] for position in group["params"]], **_options(group)}
        if all(position < len(own) for position in group["params"])
        else {"names": []}
        for group in state["param_groups"]
    ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values: dict[str, dict[str, Any]] = {}
    _check_groups(found, model, optimizer, "the state")
    for position, entries in state["state"].items():
        parameter = parameters[position]
        values[own[position]] = {key: _shared_like(parameter, value) for key, value in entries.items()}
    _give(optimizer, own, found, values)


def plain_optimizer_state(model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The ``state_dict()`` that the optimizer has in one process, on the CPU. All ranks call this.

    Returns:
        The state on rank 0, an empty one on the others.
    """
    state = optimizer.state_dict()
    is_first = _rank(None) == 0
    whole: dict[Any, dict[str, Any]] = {}
    for position, entries in state["state"].items():
        whole[position] = {}
        for key, value in entries.items():
            # One tensor at a time, because each is gathered by all ranks.
            tensor = value.full_tensor() if isinstance(value, DTensor) else value
            if is_first:
                whole[position][key] = tensor.to("cpu", copy=True) if isinstance(tensor, Tensor) else tensor
    return {"state": whole, "param_groups": state["param_groups"]} if is_first else {}


class _File(io.FileIO):
    """A file that remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """As the base class."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class _Files(FileSystem):
    """As torch's. Its zip writer makes a RuntimeError without a reason of a full disk; here the reason stays."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """A file open for reading or writing."""
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        file = _File(path, "wb")
        try:
            with io.BufferedWriter(file) as stream:
                yield stream
        except Exception as error:
            if file.failure is None or file.failure is error:
                raise
            raise file.failure from error


class _Writer(FileSystemWriter):
    """As torch's, without the temporary name in what it writes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = _Files()

    def storage_meta(self) -> StorageMeta:
        """What the metadata say of the writing."""
        return StorageMeta(save_id=self.save_id)


class _Draft:
    """A checkpoint under a temporary name. Rank 0 makes the folder, and gives it its name or removes it."""

    def __init__(self, folder: Path, describe: Callable[[Path], None], group: dist.ProcessGroup | None) -> None:
        self._folder, self._group = folder, group
        self._failure: Exception | None = None
        self._draft: Path = _from_first(lambda: self._begin(describe), group)

    def _begin(self, describe: Callable[[Path], None]) -> Path:
        draft = draft_beside(self._folder.resolve())
        try:
            (draft / DCP_FOLDER).mkdir(parents=True)
            describe(draft)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError):
                raise write_error(self._folder, error) from error
            raise
        return draft

    def write(self, tensors: dict[str, Any]) -> None:
        """Write the tensors of this rank. A failure is kept for :meth:`finish`."""
        try:
            with nullcontext() if dist.is_initialized() else files.of_one_process():
                save_tensors(
                    tensors,
                    storage_writer=_Writer(self._draft / DCP_FOLDER),
                    process_group=self._group,
                    no_dist=not dist.is_initialized(),
                )
        except (CheckpointException, Exception) as error:
            failure = files.first_cause(error) if isinstance(error, CheckpointException) else error
            if isinstance(failure, OSError):
                self._failure = write_error(self._folder, failure)
                self._failure.__cause__ = failure
            else:
                self._failure = failure

    def finish(self) -> None:
        """Give the folder its name, or remove it and then raise the same error on all ranks."""
        told = _gather(_told(self._failure), self._group)

        def end() -> None:
            try:
                if not any(told):
                    self._put()
            finally:
                shutil.rmtree(self._draft, ignore_errors=True)

        _from_first(end, self._group)
        _raise_first(told, self._failure)

    def _put(self) -> None:
        place = self._draft / DCP_FOLDER
        try:
            for info in files.read_metadata(place).storage_data.values():
                if not (place / info.relative_path).is_file():
                    raise InputError(
                        f"{self._folder}: {info.relative_path} is missing there; the folder has to be on a file system "
                        "that all ranks share"
                    )
            put_dir(self._draft, self._folder.resolve())
        except OSError as error:
            raise write_error(self._folder, error) from error


def _describe(
    folder: Path,
    model: DNAPreTrainedModel,
    tokenizer: Tokenizer | None,
    layout: dict[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Write all of a checkpoint but its tensors."""
    (folder / META_FILE).write_text(json.dumps(dict(state)), encoding="utf-8")
    (folder / DCP_FOLDER / LAYOUT_FILE).write_text(json.dumps(layout), encoding="utf-8")
    model.config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


class _Targets:
    """The tensors of a model and an optimizer that a checkpoint is to be read into.

    Raises:
        InputError: the checkpoint does not fit.
    """

    def __init__(self, folder: Path, model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        place = folder / DCP_FOLDER
        try:
            stored = files.tensors_in(place)
            layout = read_json(place / LAYOUT_FILE)
            same, self._groups, values = layout["same"], layout["groups"], layout["optimizer"]
        except Exception as error:
            raise files.damaged(folder, error) from error
        tensors, own = _weights(model)
        saved = {name.removeprefix(files.MODEL_PREFIX) for name in stored if name.startswith(files.MODEL_PREFIX)}
        if differing := (saved | same.keys()) ^ (tensors.keys() | own.keys()):
            raise InputError(f"{folder}: holds the weights of another model: {listed(differing)}")
        self._names = _names_of(model, optimizer)
        _check_groups(self._groups, model, optimizer, str(folder))
        self.tensors: dict[str, Any] = {}
        self._buffers: dict[str, Tensor] = {}
        for name in [*tensors, *own]:
            tensor, key = tensors[own.get(name, name)], files.MODEL_PREFIX + same.get(name, name)
            if isinstance(tensor, nn.Parameter):
                self.tensors[key] = tensor.detach()
            else:
                self._buffers[name] = self.tensors.setdefault(key, torch.empty_like(tensor))
        self._values: dict[str, dict[str, Any]] = {}
        by_name = dict(zip(self._names, _parameters(optimizer), strict=True))
        for name, entry in values.items():
            kept = self._values[name] = dict(entry["values"])
            for item in entry["tensors"]:
                key = f"{_OPTIMIZER_PREFIX}{name}.{item}"
                kept[item] = self.tensors[key] = _empty(by_name[name], stored[key])
        for key, tensor in self.tensors.items():
            found = stored[key]
            if (tuple(found.size), found.properties.dtype) != (tuple(tensor.shape), tensor.dtype):
                raise InputError(
                    f"{folder}: {key} is {tuple(found.size)} in {found.properties.dtype} there, and "
                    f"{tuple(tensor.shape)} in {tensor.dtype} here"
                )

    def read(self, folder: Path) -> None:
        """Fill them."""
        files.read(folder / DCP_FOLDER, self.tensors, no_dist=not dist.is_initialized())

    def apply(self, model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        """Hand over what was not read in place: the buffers, which layers may share, and the optimizer's state."""
        model.load_state_dict(self._buffers, strict=False)
        _give(optimizer, self._names, self._groups, self._values)


def _take_apart(
    model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors by the names that they have in the checkpoint, and the rest of the optimizer as JSON values."""
    weights, same = _weights(model)
    tensors = {files.MODEL_PREFIX + name: tensor.detach() for name, tensor in weights.items()}
    names = _names_of(model, optimizer)
    values = {}
    for name, parameter in zip(names, _parameters(optimizer), strict=True):
        entries = optimizer.state.get(parameter, {})
        kept = {key: value.detach() for key, value in entries.items() if isinstance(value, Tensor)}
        tensors |= {f"{_OPTIMIZER_PREFIX}{name}.{key}": value for key, value in kept.items()}
        values[name] = {
            "tensors": list(kept),
            "values": {key: value for key, value in entries.items() if key not in kept},
        }
    rest = iter(names)
    groups = [{"names": [next(rest) for _ in group["params"]], **_options(group)} for group in optimizer.param_groups]
    return tensors, {"same": same, "groups": groups, "optimizer": values}


def _weights(model: DNAPreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of ``state_dict()``, each once, and for further names of the same tensor the first one."""
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[int, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        name = bare_name(key)
        if id(tensor) in first:
            same[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor
    return tensors, same


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _names_of(model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in its order."""
    names = {id(parameter): bare_name(name) for name, parameter in model.named_parameters()}
    parameters = _parameters(optimizer)
    if any(id(parameter) not in names for parameter in parameters):
        raise InputError("the optimizer has parameters that are not the model's: make it after sharding the model")
    return [names[id(parameter)] for parameter in parameters]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group, as JSON values."""
    return {
        key: value.item() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"
    }


def _check_groups(
    groups: list[dict[str, Any]], model: DNAPreTrainedModel, optimizer: torch.optim.Optimizer, source: str
) -> None:
    names = iter(_names_of(model, optimizer))
    own = [[next(names) for _ in group["params"]] for group in optimizer.param_groups]
    if [group["names"] for group in groups] != own:
        raise InputError(f"{source}: is of an optimizer with other groups of parameters")


def _give(
    optimizer: torch.optim.Optimizer,
    names: list[str],
    groups: list[dict[str, Any]],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Set the state of an optimizer and the settings of its groups."""
    made, start = [], 0
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        options = {
            key: torch.full_like(own[key], value) if isinstance(own.get(key), Tensor) else _as(own.get(key), value)
            for key, value in group.items()
            if key != "names"
        }
        kept = {key: own[key] for key in _OF_DEVICE & own.keys()}
        made.append(options | kept | {"params": list(range(start, start + len(own["params"])))})
        start += len(own["params"])
    state = {position: dict(values[name]) for position, name in enumerate(names) if values.get(name)}
    optimizer.load_state_dict({"state": state, "param_groups": made})


def _as(own: Any, value: Any) -> Any:
    """``value``, which JSON may have turned from a tuple into a list."""
    return tuple(value) if isinstance(own, tuple) else value


def _empty(parameter: Tensor, entry: Any) -> Tensor:
    """A tensor for a part of an optimizer's state: shared out as the parameter, if it has its shape."""
    dtype = entry.properties.dtype
    if entry.size == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=dtype)
    return torch.empty(entry.size, dtype=dtype)


def _shared_like(parameter: Tensor, value: Any) -> Any:
    """A copy of a whole tensor, shared out as a parameter if it has its shape."""
    if not isinstance(value, Tensor):
        return value
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        # The optimizer writes into what it is given.
        return value.clone()
    whole = value.to(parameter.to_local().device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def _new_group() -> dist.ProcessGroup:
    """A gloo group of all ranks, with the timeout of the default group."""
    default: Any = dist.group.WORLD
    backend = default._get_backend(default._device_types[0])
    return dist.new_group(backend="gloo", timeout=backend.options._timeout)


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if dist.is_initialized() else 0


def _together(work: Callable[[], Result], group: dist.ProcessGroup | None) -> Result:
    """Run the same on all ranks. If an InputError is raised on any, all raise the same SharedError.

    Its cause is an OSError with the number and text of the failing rank's, where it has one. Another error is raised as
    it is where it happened, and as a RuntimeError on the other ranks.
    """
    result, failure = _attempt(work)
    told = _gather(_told(failure), group)
    _raise_first(told, failure)
    return result  # type: ignore[return-value]


def _from_first(work: Callable[[], Result], group: dist.ProcessGroup | None) -> Result:
    """What rank 0 gets, on all ranks. If it fails, all raise as in :func:`_together`."""
    result, failure = _attempt(work) if _rank(group) == 0 else (None, None)
    told: list[Any] = [result, _told(failure)]
    if dist.is_initialized():
        dist.broadcast_object_list(told, src=0, group=group)
    _raise_first(told[1:], failure)
    return told[0]


def _gather(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """The value of every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _told(failure: Exception | None) -> tuple[bool, str, int | None, str] | None:
    """An error as the other ranks are told of it."""
    if failure is None:
        return None
    cause = failure.__cause__
    number, text = (cause.errno, cause.strerror or "") if isinstance(cause, OSError) else (None, "")
    message = str(failure) if isinstance(failure, InputError) else f"{type(failure).__name__}: {failure}"
    return isinstance(failure, InputError), message, number, text


def _raise_first(told: list[Any], own: Exception | None) -> None:
    for rank, entry in enumerate(told):
        if entry is None:
            continue
        is_input, message, number, text = entry
        if is_input:
            kind = SharedError if dist.is_initialized() else InputError
            raise kind(message) from (own if number is None else OSError(number, text))
        raise own if own is not None else RuntimeError(f"rank {rank}: {message}")
