from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from hyenadna.parallel.meeting import attempt_of

SIZE = 3


def attempt(store: dist.Store, ranks: list[int], seconds: float = 20) -> list[str]:
    """The names that processes find, which threads stand for."""
    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(lambda rank: attempt_of(store, rank, SIZE, timedelta(seconds=seconds)), ranks))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_each_attempt_has_a_name_of_its_own_on_one_store(order: list[int]) -> None:
    store = dist.HashStore()
    found = [attempt(store, order) for _ in range(3)]
    for names in found:
        assert len(set(names)) == 1
    assert len({names[0] for names in found}) == 3


@pytest.mark.parametrize("present", [[0, 1], [1, 2]])
def test_nobody_meets_those_of_an_attempt_before(present: list[int]) -> None:
    store = dist.HashStore()
    first = attempt(store, [0, 1, 2])[0]
    # One process has not been started yet. Its word of before is still there.
    with pytest.raises(RuntimeError, match=r"timed out: not all 3 processes have come within 0.3 s"):
        attempt(store, present, seconds=0.3)
    assert len({first, *attempt(store, [0, 1, 2])}) == 2
