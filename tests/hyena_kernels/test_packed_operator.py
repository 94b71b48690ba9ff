"""``HyenaOperator`` on a packed row: every sequence gets what it would get alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from hyena_kernels import HyenaOperator, SegmentPlan
from hyena_kernels.testing import relative_error, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused

D_MODEL, L_MAX = 6, 40
LENGTHS = [13, 1, 40, 2, 31]


class KeepsEverything(nn.Dropout):
    """A subclass, for which the operator goes step by step."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def operator(**options: Any) -> HyenaOperator:
    torch.manual_seed(0)
    module = HyenaOperator(D_MODEL, L_MAX, filter_order=16, **{"w": 10.0, **options}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def packed(lengths: list[int] = LENGTHS) -> tuple[Tensor, SegmentPlan]:
    u = torch.randn(1, sum(lengths), D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return u, SegmentPlan(torch.tensor([0, *lengths]).cumsum(0))


def results(module: HyenaOperator, plan: SegmentPlan, u: Tensor, *, alone: bool, **options: Any) -> dict[str, Tensor]:
    """Result and gradients of the packed row, or of one call a segment."""

    def function(u: Tensor, **parameters: Tensor) -> Tensor:
        if not alone:
            return torch.func.functional_call(module, parameters, (u,), {"cu_seqlens": plan, **options})
        parts = u.split(plan.lengths, dim=1)
        return torch.cat([torch.func.functional_call(module, parameters, (part,)) for part in parts], dim=1)

    dy = torch.randn(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(2))
    return value_and_gradients(function, {"u": u, **dict(module.named_parameters())}, dy)


def assert_like_alone(module: HyenaOperator, **options: Any) -> None:
    u, plan = packed()
    found, expected = (results(module, plan, u, alone=alone, **options) for alone in (False, True))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert relative_error(value, expected[name]) <= 1e-12, name


@pytest.mark.parametrize("options", [{}, {"order": 3, "short_filter_order": 4}, {"bias": False, "activation": "gelu"}])
def test_equals_one_call_a_sequence(options: dict[str, Any]) -> None:
    assert_like_alone(operator(**options))


@pytest.mark.parametrize("order", [2, 3])
def test_step_by_step_too(order: int) -> None:
    module = operator(order=order)
    module.dropout = KeepsEverything(0.5)
    assert_like_alone(module)


def test_a_wrapped_short_filter_sees_one_sequence_at_a_time() -> None:
    module = operator()
    seen = []
    module.short_filter.register_forward_hook(lambda layer, args, result: seen.append(args[0].shape[2]))
    u, plan = packed()
    module(u, cu_seqlens=plan)
    assert seen == LENGTHS
    assert_like_alone(module)


def test_dropout_drops() -> None:
    module = operator(dropout=0.5)
    u, plan = packed()
    kept = module.eval()(u, cu_seqlens=plan)
    assert not torch.allclose(module.train()(u, cu_seqlens=plan), kept)


@pytest.mark.parametrize("by_steps", [False, True])
def test_nan_stays_in_its_sequence(by_steps: bool) -> None:
    module = operator()
    if by_steps:
        module.dropout = KeepsEverything(0.5)
    u, plan = packed()
    clean = module(u, cu_seqlens=plan)
    u[:, 53] = float("nan")
    for s, (found, expected) in enumerate(
        zip(module(u, cu_seqlens=plan).split(LENGTHS, 1), clean.split(LENGTHS, 1), strict=True)
    ):
        assert found.isnan().any() if s == 2 else torch.equal(found, expected), s


def test_boundaries_and_plan_are_the_same() -> None:
    module = operator(return_state=True)
    u, plan = packed()
    y, state = module(u, cu_seqlens=torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32))
    assert state is None
    assert torch.equal(y, module(u, cu_seqlens=plan)[0])


def test_filters_of_the_longest_or_more_are_taken() -> None:
    module = operator()
    u, plan = packed([5, 20, 3])
    expected = module(u, cu_seqlens=plan)
    for L in (20, 33):
        assert torch.equal(module(u, cu_seqlens=plan, filters=module.filters(L)), expected)


U = torch.zeros(1, 50, D_MODEL)
K = torch.zeros(1, D_MODEL, 10), torch.zeros(1, D_MODEL)
REFUSED: dict[str, tuple[Tensor, dict[str, Any], type[Exception], str]] = {
    "batch": (
        U.expand(2, -1, -1),
        {"cu_seqlens": torch.tensor([0, 30, 50])},
        ValueError,
        "HyenaOperator: input has shape (2, 50, 6): with cu_seqlens it is one packed row (1, T, D)",
    ),
    "too long": (
        U,
        {"cu_seqlens": torch.tensor([0, 8, 50])},
        ValueError,
        "has shape (1, 50, 6): its longest segment has 42 positions, which is outside 1 … 40, the l_max",
    ),
    "end": (U, {"cu_seqlens": torch.tensor([0, 30])}, ValueError, "HyenaOperator: cu_seqlens ends at 30, expected the"),
    "empty": (U, {"cu_seqlens": torch.tensor([0, 0, 50])}, ValueError, "SegmentPlan: segment 0 has no positions"),
    "filters": (
        U,
        {"cu_seqlens": torch.tensor([0, 30, 50]), "filters": K},
        ValueError,
        "HyenaOperator: filters: k has shape (1, 6, 10), expected (1, 6, 30)",
    ),
}


@pytest.mark.parametrize(("u", "options", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(u: Tensor, options: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(HyenaOperator(D_MODEL, L_MAX, w=10.0), error, message, u=u, **options)


def test_boundaries_under_another_name_are_refused() -> None:
    module, (u, plan) = operator(), packed()
    for args, options in (((plan,), {}), ((), {"cu_seq_lens_q": plan.cu_seqlens})):
        with pytest.raises(TypeError, match="pass boundaries of packed sequences by the name cu_seqlens"):
            module(u, *args, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_step_by_step_compiles_once_for_all_packings() -> None:
    module = operator().requires_grad_(False)
    module.dropout = KeepsEverything(0.5)
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for lengths in ([13, 1, 40, 2], [20, 9], [7, 7, 31]):
        u, plan = packed(lengths)
        filters = module.filters(plan.longest)
        expected = module(u, cu_seqlens=plan)
        assert torch.equal(compiled(u, cu_seqlens=plan, filters=filters), expected)
        counts.append(counter.frame_count)
    # Dynamo may start over within the first call.
    assert counts[0] in (1, 2)
    assert set(counts) == {counts[0]}
