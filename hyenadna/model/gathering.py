"""Weights that are sharded over processes, such as those of FSDP2, brought together on one of them to be saved."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, distributed as dist, nn


def mesh_of(values: Iterable[Any]) -> Any:
    """The mesh of processes that hold shards of these tensors: the largest of several, None where none is a shard.

    Args:
        values: parameters, or the values of a state dict.

    Returns:
        A ``torch.distributed.device_mesh.DeviceMesh``, or None.
    """
    # Who has a DTensor has imported its module.
    module = sys.modules.get("torch.distributed.tensor")
    if module is None:
        return None
    meshes = [value.device_mesh for value in values if isinstance(value, module.DTensor)]
    return max(meshes, key=lambda mesh: mesh.size(), default=None)


def gather(model: nn.Module, weights: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Whole tensors in place of shards, on the CPU. Every process of the mesh has to call it: it is collective.

    One tensor after the other, so that a device holds no more than one whole tensor beside its shards.

    Args:
        model: tells which names mean the same parameter. Those are one tensor in the result too.
        weights: a state dict, with the same names in the same order on all processes.
        keep: whether this process needs the result. Others give their shards and keep nothing.

    Returns:
        The state dict, in its order; empty without ``keep``. Tensors that are not sharded are those that were given.
    """
    names = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    gathered: dict[Any, Tensor | None] = {}
    found: dict[str, Any] = {}
    for name, value in weights.items():
        if mesh_of([value]) is None:
            found[name] = value
            continue
        key = names.get(name, name)
        if key not in gathered:
            gathered[key] = _whole(value, keep=keep)
        found[name] = gathered[key]
    return found if keep else {}


def _whole(shard: Any, *, keep: bool) -> Tensor | None:
    shard = shard.detach()
    kind = shard.device_mesh.device_type
    if shard.device.type != kind:
        # Shards that FSDP2 keeps on the CPU: NCCL moves only what is on its devices.
        shard = shard.to(kind)
    whole: Tensor = shard.full_tensor()
    return whole.cpu() if keep else None


def everywhere(value: Any, mesh: Any) -> dict[int, Any]:
    """The values of all processes of a mesh by global rank, in the order of ranks. No process returns before all call.

    Args:
        value: what this process tells the others; it is pickled.
        mesh: a ``torch.distributed.device_mesh.DeviceMesh`` of any number of dimensions.
    """
    found = {dist.get_rank(): value}
    for dimension in range(mesh.ndim):
        group = mesh.get_group(dimension)
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, found, group=group)
        found = {rank: told for part in parts for rank, told in part.items()}
    return dict(sorted(found.items()))
