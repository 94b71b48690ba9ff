"""``SegmentPlan``: what it holds, what it refuses, and where it may be."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import SegmentPlan
from hyena_kernels.common.sizes import class_length
from tests.hyena_kernels.helpers import assert_refused


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_by_hand(dtype: torch.dtype) -> None:
    plan = SegmentPlan(torch.tensor([0, 3, 10, 12, 15], dtype=dtype))
    assert (plan.lengths, plan.starts, plan.total, plan.longest) == ((3, 7, 2, 3), (0, 3, 10, 12), 15, 7)
    assert plan.cu_seqlens.tolist() == [0, 3, 10, 12, 15]
    assert plan.cu_seqlens.dtype == torch.int64
    # The longest first, and those of one length in their order.
    assert plan.rows.tolist() == plan.host_rows.tolist() == [[3, 0, 12, 10], [7, 3, 3, 2]]
    assert repr(plan) == "SegmentPlan(4 segments of 15 positions, longest 7)"


def test_boundaries_may_have_any_strides_and_stay_as_they_are() -> None:
    bounds = torch.tensor([0, -1, 4, -1, 6])[::2]
    plan = SegmentPlan(bounds)
    bounds += 1
    assert plan.lengths == (4, 2)
    assert plan.cu_seqlens.tolist() == [0, 4, 6]


@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_position_ids_restart_at_every_segment(shape: tuple[int, ...]) -> None:
    ids = torch.tensor([0, 1, 2, 0, 0, 1]).view(shape)
    assert SegmentPlan.from_position_ids(ids).cu_seqlens.tolist() == [0, 3, 4, 6]
    assert SegmentPlan.from_position_ids(torch.arange(6, dtype=torch.int32).view(shape)).lengths == (6,)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([0, 3], TypeError, "SegmentPlan: cu_seqlens must be a tensor of int32 or int64, got list"),
    "float": (torch.tensor([0.0, 3.0]), TypeError, "a tensor of int32 or int64, got torch.float32"),
    "rank": (torch.tensor([[0, 3]]), ValueError, "SegmentPlan: cu_seqlens has shape (1, 2), expected (S + 1,)"),
    "no segment": (torch.tensor([0]), ValueError, "cu_seqlens has shape (1,), expected (S + 1,) boundaries of S ≥ 1"),
    "start": (torch.tensor([1, 3]), ValueError, "SegmentPlan: cu_seqlens begins with 1, expected 0"),
    "empty": (
        torch.tensor([0, 3, 3, 5]),
        ValueError,
        "SegmentPlan: segment 1 has no positions, cu_seqlens[1] = 3 and cu_seqlens[2] = 3: boundaries must be strictly "
        "ascending, so leave empty segments out",
    ),
    "descending": (torch.tensor([0, 5, 3]), ValueError, "cu_seqlens[1] = 5 and cu_seqlens[2] = 3"),
}


@pytest.mark.parametrize(("bounds", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_other_boundaries(bounds: Any, error: type[Exception], message: str) -> None:
    assert_refused(SegmentPlan, error, message, cu_seqlens=bounds)


REFUSED_IDS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([0, 1], TypeError, "SegmentPlan: position_ids must be a tensor of int32 or int64, got list"),
    "batch": (
        torch.zeros(2, 3, dtype=torch.int64),
        ValueError,
        "position_ids has shape (2, 3), expected (T,) or (1, T",
    ),
    "none": (torch.zeros(0, dtype=torch.int64), ValueError, "position_ids has shape (0,)"),
    "start": (torch.tensor([1, 2]), ValueError, "SegmentPlan: position_ids[0] is 1, expected 0: they count from 0"),
    "jump": (torch.tensor([0, 1, 0, 2]), ValueError, "SegmentPlan: position_ids[3] is 2, expected 1 or 0: they count"),
}


@pytest.mark.parametrize(("ids", "error", "message"), REFUSED_IDS.values(), ids=list(REFUSED_IDS))
def test_refuses_other_position_ids(ids: Any, error: type[Exception], message: str) -> None:
    assert_refused(SegmentPlan.from_position_ids, error, message, position_ids=ids)


def test_moves_with_its_numbers() -> None:
    plan = SegmentPlan(torch.tensor([0, 3, 5]))
    assert plan.to("cpu") is plan
    moved = plan.to("meta")
    assert (moved.cu_seqlens.device.type, moved.rows.device.type, moved.host_rows.device.type) == (
        "meta",
        "meta",
        "cpu",
    )
    assert moved.lengths == plan.lengths
    for other in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert (other.lengths, other.rows.tolist()) == (plan.lengths, plan.rows.tolist())


def test_spread_puts_zeros_between_segments() -> None:
    plan = SegmentPlan(torch.tensor([0, 2, 3]))
    spread, place = plan.spread(torch.tensor([[1.0, 2.0, 3.0]]), 2)
    assert spread.tolist() == [[1.0, 2.0, 0.0, 0.0, 3.0]]
    assert place.tolist() == [0, 1, 4]


def test_class_lengths() -> None:
    lengths = [class_length(n) for n in range(1, 26)]
    assert lengths == [1, 2, 3, 4, 6, 6, 8, 8, *[12] * 4, *[16] * 4, *[24] * 8, 32]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_function_cannot_make_a_plan() -> None:
    def function(bounds: Tensor) -> Tensor:
        return SegmentPlan(bounds).rows + 1

    with pytest.raises(Exception, match=r"make SegmentPlan\(cu_seqlens\) outside"):
        torch.compile(function, backend="eager", fullgraph=True)(torch.tensor([0, 3]))
