"""Context parallelism: sequences whose positions are split over processes.

Each process holds some positions of a sequence. For the long convolutions it gets all positions of some channels
instead, and gives them back. ``torch.distributed`` is used by calls only, so that importing this loads nothing of it.
"""

from hyena_kernels.distributed.context import context_parallel
from hyena_kernels.distributed.exchange import gather, halo, shard, to_channels, to_sequence
from hyena_kernels.distributed.mixer import hyena_mixer_cp
from hyena_kernels.distributed.shards import ContextShards, active_shards, sequence_shards

__all__ = [
    "ContextShards",
    "active_shards",
    "context_parallel",
    "gather",
    "halo",
    "hyena_mixer_cp",
    "sequence_shards",
    "shard",
    "to_channels",
    "to_sequence",
]
