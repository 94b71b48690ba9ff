"""The place of this process among those that a launcher such as torchrun has started, from its variables."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from hyenadna.common.errors import InputError

_SIZES = (
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
"""Variables that launchers set to the number of processes: torchrun and accelerate, Open MPI, MPICH, MVAPICH, srun.

SLURM_NTASKS is not among them. A batch script has it too, where a command is one process.
"""

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID", "PMIX_RANK")
"""Variables with the number of this process, from 0."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun and accelerate by which processes find each other."""

# What the processes after the first wait before they end. torchrun stops all when one ends, and the first has to speak.
_SECONDS = 5.0


class Launch(NamedTuple):
    """One process of several.

    Attributes:
        rank: its number among all, from 0.
        size: number of processes.
        local_rank: its number on this machine, from 0.
        grouped: whether torchrun's variables say how the processes find each other.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    grouped: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Launch:
        """The place of this process. Without torchrun's variables it is the only one.

        Args:
            environment: the variables. None is ``os.environ``.
        """
        given = os.environ if environment is None else environment
        if not all(given.get(name) for name in _TORCHRUN):
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        rank, size, local_rank = (_integer(given, name) for name in names)
        return cls(rank, size, local_rank, grouped=True)


def check_processes(verb: str, *, divides: bool = False, environment: Mapping[str, str] | None = None) -> None:
    """Raise InputError where a launcher has started several processes that a verb cannot divide its work among.

    Only the first process raises it. The others end silently with the same exit code, 2, so that one line is printed.

    Args:
        verb: words after ``hyenadna``, for the message.
        divides: whether the verb divides its work among the processes of torchrun. It still needs all of its variables.
        environment: the variables of the launcher. None is ``os.environ``.
    """
    given = os.environ if environment is None else environment
    if divides and Launch.of(given).grouped:
        return
    sizes = {name: _integer(given, name) for name in _SIZES}
    ranks = {name: _integer(given, name) for name in _RANKS}
    several = {name: size for name, size in sizes.items() if size > 1}
    if several and max(ranks.values()) > 0:
        let_first_speak()
        sys.exit(2)
    several = several or {name: number for name, number in ranks.items() if number > 0}
    if not several:
        return
    name, value = next(iter(several.items()))
    if divides:
        raise InputError(
            f"hyenadna {verb} finds the other processes by the variables of torchrun, and {name} is {value} without "
            f"them: start it with `torchrun --nproc-per-node {value} -m hyenadna {verb} …`, under srun too"
        )
    raise InputError(
        f"hyenadna {verb} runs in one process, and {name} is {value}: every process would do the same work and write "
        "the same files. Start it without torchrun, accelerate, srun or mpirun, or with one process"
    )


def let_first_speak() -> None:
    """Wait until the first process has had the time to print an error that all processes have."""
    time.sleep(_SECONDS)


def _integer(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0
