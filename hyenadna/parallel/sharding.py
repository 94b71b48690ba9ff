"""HyenaDNA models whose parameters are shared out over the ranks of a mesh, by FSDP2 (``fully_shard``).

:func:`shard` does so in place, a block at a time. :func:`initialize` gives weights to a model that was made on the meta
device and sharded, the same on every number of ranks.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hyena_kernels import HyenaFilter
from hyena_kernels.modules import SharesPositions
from hyenadna.common.errors import InputError
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.layers import HyenaDNABlock
from hyenadna.model.pretrained import HyenaDNAPreTrainedModel


def shard(
    model: HyenaDNAPreTrainedModel,
    mesh: DeviceMesh,
    *,
    mp_policy: MixedPrecisionPolicy | None = None,
    reshard_after_forward: bool = True,
    gradients: Literal["mean", "sum"] = "mean",
) -> None:
    """Share out the parameters of a model over a mesh, in place: every block, and the rest with the root.

    Make the optimizer afterwards, of ``model.parameters()``. Every rank calls this with the same weights, or with a
    model on the meta device, which :func:`initialize` then fills.

    Args:
        model: any HyenaDNA model. Turn on checkpointing and compile blocks as for one process, before or after.
        mesh: one dimension. Flatten a mesh of several first, as in ``mesh["data", "context"]._flatten()``.
        mp_policy: None computes in the dtype of the parameters, float32, and under autocast as one process does. With a
            ``param_dtype`` of 16 bits, the filters stay in float32, as they do in ``model.bfloat16()``, and so does the
            residual between the blocks. Blocks with checkpointing are then computed whole, not in slices. An
            ``output_dtype`` is that of the model's result.
        reshard_after_forward: free the gathered parameters of a block after its forward pass, and gather them again in
            backward.
        gradients: ``"mean"`` divides the sum of all ranks' gradients by their number, as DDP and ``fully_shard`` do.
            ``"sum"`` leaves the sum, for a loss that is already divided by the count of all ranks.

    Raises:
        InputError: the mesh has several dimensions, the model is sharded already, or ``gradients`` is neither; or it is
            ``"sum"``, and torch is too old for it.
    """
    if mesh.ndim != 1:
        raise InputError(f"shard: the mesh has {mesh.ndim} dimensions; flatten it to one first")
    if gradients not in ("mean", "sum"):
        raise InputError(f'shard: gradients must be "mean" or "sum", got {gradients!r}')
    if gradients == "sum" and not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise InputError('shard: this version of torch has no sums of gradients; take "mean", or update torch')
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise InputError("shard: the model is sharded already")
    common: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": reshard_after_forward}
    narrow = mp_policy is not None and _is_narrow(mp_policy.param_dtype)
    policy = mp_policy or MixedPrecisionPolicy()
    # The residual is wider than the weights, and stays so between the blocks.
    of_blocks = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=not narrow)
    made: list[Any] = []
    for block in [module for module in model.modules() if isinstance(module, HyenaDNABlock)]:
        if narrow:
            filters = [module for module in block.modules() if isinstance(module, HyenaFilter)]
            made += [fully_shard(module, **common) for module in filters]
        made.append(fully_shard(block, **common, mp_policy=of_blocks))
    made.append(fully_shard(model, **common, mp_policy=policy))
    if gradients == "sum":
        for module in made:
            module.set_gradient_divide_factor(1.0)
            # Without it torch asks for a scaled sum, which gloo cannot do.
            module.set_force_sum_reduction_for_comms(True)


def initialize(model: HyenaDNAPreTrainedModel, device: torch.device | str, seed: int) -> None:
    """Give weights to a model that was made on the meta device, and put it on a device.

    They are those of ``type(model)(model.config)`` on the CPU after ``torch.manual_seed(seed)``, bit for bit and on
    every number of ranks. Rank 0 makes them on the CPU, and hands each parameter out in turn: no device ever holds more
    than its shards and one parameter. The random state of the process stays as it is.

    Args:
        model: a model made under ``torch.device("meta")``, then sharded by :func:`shard`; all ranks call this. A plain
            one gets its weights in each process by itself.
        device: where its shards go, such as ``"cuda:0"``.
        seed: the seed of the weights.

    Raises:
        InputError: the parameters are not those of ``type(model)(model.config)``, as after adding adapters; or they are
            not on the meta device.
    """
    config = copy.deepcopy(model.config)
    # The weights do not depend on it, and the positions of a long sequence take gigabytes.
    config.max_seq_len, config.filter_length = min(2, config.max_seq_len), None
    with torch.device("meta"):
        expected = {name: weight.shape for name, weight in type(model)(config).named_parameters()}
    if {name: weight.shape for name, weight in model.named_parameters()} != expected:
        raise InputError("initialize: the model has other parameters than its configuration makes")
    if not all(weight.is_meta for weight in model.parameters()):
        raise InputError("initialize: the model has weights already: make it under torch.device('meta')")
    for module in model.modules():
        if isinstance(module, SharesPositions):
            module.make_positions(device)
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    model.tie_weights()
    for module in model.modules():
        if isinstance(module, HyenaFilter):
            module.modulation.reset_buffers()
        elif isinstance(freq := module._buffers.get("freq"), Tensor):
            freq.fill_(config.activation_freq)
    meshes = [weight.device_mesh for weight in model.parameters() if isinstance(weight, DTensor)]
    weights = _weights(type(model), config, seed) if not meshes or meshes[0].get_local_rank() == 0 else {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(parameter, weights.pop(name, None))


def _weights(kind: type[HyenaDNAPreTrainedModel], config: HyenaDNAConfig, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return dict(kind(config).named_parameters())


def _fill(parameter: Tensor, weight: Tensor | None) -> None:
    """Copy a weight into a parameter, or the shards of the one that rank 0 has."""
    if not isinstance(parameter, DTensor):
        assert weight is not None
        parameter.copy_(weight)
        return
    own = parameter.to_local()
    whole = torch.empty(parameter.shape, dtype=own.dtype, device=own.device)
    if weight is not None:
        whole.copy_(weight)
    own.copy_(distribute_tensor(whole, parameter.device_mesh, parameter.placements).to_local())


def _is_narrow(dtype: torch.dtype | None) -> bool:
    return dtype is not None and dtype.is_floating_point and dtype.itemsize < 4
