from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks


def total(rank: int, value: int) -> tuple[int, str | None]:
    tensor = torch.tensor(rank + value)
    dist.all_reduce(tensor)
    return int(tensor), os.environ.get("GIVEN")


def fail(rank: int) -> None:
    if rank == 1:
        raise ValueError("of rank 1")
    dist.barrier()


def sleep(rank: int) -> None:
    time.sleep(60 * rank)


@pytest.mark.slow
def test_results_come_by_rank_and_failures_with_their_traceback() -> None:
    assert run_ranks(3, total, 10, environment={"GIVEN": "x"}) == [(33, "x")] * 3
    with pytest.raises(pytest.fail.Exception, match=r"(?s)fail, rank 1 of 2:.*ValueError: of rank 1"):
        run_ranks(2, fail)
    with pytest.raises(pytest.fail.Exception, match=r"ranks \[1\] have not ended after 1 s"):
        run_ranks(2, sleep, timeout=1, group=False)
