from __future__ import annotations

import pytest

from hyenadna.common.errors import InputError
from hyenadna.common.launch import Launch, check_processes

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_the_place_of_a_process_is_in_the_variables_of_torchrun() -> None:
    assert Launch.of(TORCHRUN) == Launch(rank=3, size=4, local_rank=1, grouped=True)
    for name in ("RANK", "MASTER_PORT"):
        assert Launch.of({**TORCHRUN, name: ""}) == Launch()


def test_a_verb_that_divides_its_work_needs_torchrun() -> None:
    check_processes("embed", divides=True, environment=TORCHRUN)
    with pytest.raises(InputError, match=r"hyenadna embed runs in one process, and WORLD_SIZE is 4"):
        check_processes("embed", environment={**TORCHRUN, "RANK": "0"})
    with pytest.raises(InputError, match=r"PMI_SIZE is 2 without them: start it with `torchrun --nproc-per-node 2 -m"):
        check_processes("embed", divides=True, environment={"PMI_SIZE": "2"})


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2"),
        ({"RANK": "1"}, "RANK is 1"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE is 4"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "PMI_SIZE is 2"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS is 2"),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, ""),
        # A batch script with several tasks in which nothing is started by srun.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ""),
        ({"WORLD_SIZE": "", "PMI_SIZE": "1"}, ""),
        ({}, ""),
    ],
)
def test_launchers_of_several_processes_are_refused(environment: dict[str, str], told: str) -> None:
    if not told:
        check_processes("embed", environment=environment)
        return
    with pytest.raises(InputError, match=f"hyenadna embed runs in one process, and {told}: every process would do"):
        check_processes("embed", environment=environment)


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(SystemExit) as ended:
        check_processes("embed", environment={"WORLD_SIZE": "2", "RANK": "1"})
    assert (ended.value.code, len(waits)) == (2, 1)
