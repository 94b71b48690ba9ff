"""How the processes of a world divide batches: the rows of a batch, and each window along its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hyenadna.common.world import SharedError, world

if TYPE_CHECKING:
    from hyena_kernels.distributed import ContextShards


@dataclass(frozen=True)
class Layout:
    """The part of this process. The rows go over one dimension of a mesh, and the positions of each over the other.

    Attributes:
        data: number of this process among those that take different rows, and how many they are.
        context: number of this process among those that divide each window, and how many they are.
        mesh: the ``DeviceMesh`` of both dimensions, ``data`` and ``context``. None without a process group.
    """

    data: tuple[int, int] = (0, 1)
    context: tuple[int, int] = (0, 1)
    mesh: Any = None

    @classmethod
    def of_rows(cls) -> Layout:
        """Every process of the world takes whole rows."""
        return cls((world().rank, world().size))

    @classmethod
    def make(cls, device: torch.device, context: int) -> Layout:
        """Groups of ``context`` processes divide each window. All processes call this.

        Args:
            device: the device of this process.
            context: processes that divide a window. Ranks next to each other do, which are on one machine mostly.

        Raises:
            InputError: the number of processes is no multiple of ``context``.
        """
        rank, size = world().rank, world().size
        if size == 1 and context > 1:
            raise SharedError(
                f"`context` {context}: needs {context} processes, and this is one; start them with torchrun, or take 1"
            )
        if size % context:
            raise SharedError(
                f"`context` {context}: does not divide the {size} processes; choose a number that does, or start "
                f"{-(-size // context) * context} of them"
            )
        if size == 1:
            return cls()
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(device.type, (size // context, context), mesh_dim_names=("data", "context"))
        return cls((rank // context, size // context), (rank % context, context), mesh)

    def shards(self, total: int) -> ContextShards | None:
        """The positions of a window of ``total`` inputs over the processes that divide it; None if it is whole."""
        if self.context[1] == 1:
            return None
        from hyena_kernels.distributed import ContextShards

        return ContextShards.even(total, device_mesh=self.mesh["context"])
