"""``implicit_filter`` against plain PyTorch, float64 and the module that the published code runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import HyenaFilter, implicit_filter
from hyena_kernels.testing import check, implicit_filter_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_refused

pytestmark = [pytest.mark.usefixtures("each_backend"), pytest.mark.op("implicit_filter")]


# 2048 positions are one slice: lengths below, at and above it, and beyond several.
@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 7, 100, 2048, 2049, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_error_is_within_budget(length: int, dtype: torch.dtype) -> None:
    # At one or seven positions t has as many gradients, and the error of so few numbers is chance (docs/LOG.md): in
    # float64 gradcheck, in test_library.py, has to do for them.
    frozen = ("z", "t") if length <= 7 and dtype == torch.float64 else ()
    check("implicit_filter", implicit_filter_inputs(128, length, dtype=dtype), frozen=frozen, shift=0.05)


@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
@pytest.mark.parametrize(("features", "width", "layers"), [(3, 16, 2), (5, 64, 0), (9, 32, 1), (5, 8, 5)])
def test_shapes_of_the_network(features: int, width: int, layers: int, window: bool) -> None:
    check(
        "implicit_filter",
        implicit_filter_inputs(32, 300, features=features, width=width, layers=layers, window=window),
    )


@pytest.mark.parametrize("shift", [0.0, 0.05, -1.0])
def test_shift_is_what_the_window_tends_to(shift: float) -> None:
    inputs = implicit_filter_inputs(3, 10, width=8, dtype=torch.float64)
    plain = implicit_filter(**{**inputs, "t": None, "deltas": None})
    window = torch.exp(-inputs["t"] * inputs["deltas"].abs()[:, None]) + shift
    torch.testing.assert_close(implicit_filter(**inputs, shift=shift), plain * window, rtol=1e-13, atol=1e-14)


def test_equals_the_modules_of_hyena_filter() -> None:
    """The published code applies the modules of HyenaFilter one after the other."""
    module = HyenaFilter(6, emb_dim=5, order=16, seq_len=40, w=10.0, shift=0.05).double()
    z, t = module.pos_emb(33)
    expected = module.modulation(t, module.implicit_filter(z))[0].t()
    torch.testing.assert_close(module.kernel(33), expected, rtol=1e-12, atol=1e-13)


def test_nan_stays_with_its_position() -> None:
    inputs = implicit_filter_inputs(4, 50, width=8)
    dk = torch.randn(4, 50)
    clean = value_and_gradients(implicit_filter, inputs, dk)
    inputs["z"][20, 1] = float("nan")
    results = value_and_gradients(implicit_filter, inputs, dk)
    others = torch.arange(50) != 20
    for name, value, expected in (
        ("y", results["y"].t(), clean["y"].t()),
        ("dz", results["dz"], clean["dz"]),
        ("dt", results["dt"], clean["dt"]),
    ):
        assert torch.equal(value[others], expected[others]), name
        assert value[20].isnan().all(), name


def test_gradient_of_a_decay_rate_has_its_sign() -> None:
    inputs = implicit_filter_inputs(4, 50, width=8, dtype=torch.float64)
    dk = torch.randn(4, 50, dtype=torch.float64)
    negative = value_and_gradients(implicit_filter, inputs, dk)
    inputs["deltas"] = -inputs["deltas"]
    positive = value_and_gradients(implicit_filter, inputs, dk)
    assert torch.equal(negative["y"], positive["y"])
    assert torch.equal(negative["ddeltas"], -positive["ddeltas"])
    assert negative["ddeltas"].abs().min() > 0


def test_peak_memory_does_not_grow_with_positions_times_width() -> None:
    """No tensor of all positions times the width exists. It would be 32 times as large as the result."""
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor))
            return result

    inputs = implicit_filter_inputs(2, 40_000, width=64)
    with Sizes():
        value_and_gradients(implicit_filter, inputs, torch.ones(()))
    assert max(sizes) <= 5 * 40_000


GIVEN = implicit_filter_inputs(3, 8, features=5, width=4, layers=2)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "z rank": ({"z": torch.zeros(8)}, ValueError, "implicit_filter: z has shape (8,), expected (L, E)"),
    "L of 0": ({"z": torch.zeros(0, 5)}, ValueError, "implicit_filter: z (L, E) has shape (0, 5), expected L ≥ 1"),
    "freq": ({"freq": torch.zeros(5)}, ValueError, "implicit_filter: freq has shape (5,), expected (H,) = (4,)"),
    "w_in": (
        {"w_in": torch.zeros(4, 3)},
        ValueError,
        "implicit_filter: w_in has shape (4, 3), expected (H, E) = (4, 5)",
    ),
    "b_in": ({"b_in": torch.zeros(4, 1)}, ValueError, "implicit_filter: b_in has shape (4, 1), expected (H,)"),
    "w_hidden": (
        {"w_hidden": torch.zeros(2, 4, 5)},
        ValueError,
        "implicit_filter: w_hidden has shape (2, 4, 5), expected (M, H, H) = (2, 4, 4)",
    ),
    "b_hidden": (
        {"b_hidden": torch.zeros(1, 4)},
        ValueError,
        "implicit_filter: b_hidden has shape (1, 4), expected (M, H) = (2, 4)",
    ),
    "w_out": ({"w_out": torch.zeros(3)}, ValueError, "implicit_filter: w_out has shape (3,), expected (D, H)"),
    "t": ({"t": torch.zeros(7)}, ValueError, "implicit_filter: t has shape (7,), expected (L,) = (8,)"),
    "deltas": ({"deltas": torch.zeros(2)}, ValueError, "implicit_filter: deltas has shape (2,), expected (D,) = (3,)"),
    "t alone": ({"deltas": None}, ValueError, "implicit_filter: the window needs both t and deltas: give both or"),
    "deltas alone": ({"t": None}, ValueError, "implicit_filter: the window needs both t and deltas: give both or"),
    "half": (
        {"w_in": torch.zeros(4, 5).half()},
        TypeError,
        "implicit_filter: w_in (4, 5) has dtype torch.float16 and z (8, 5) has torch.float32",
    ),
    "all half": (
        {name: tensor.bfloat16() for name, tensor in GIVEN.items()},
        TypeError,
        "implicit_filter: z (8, 5) has dtype torch.bfloat16",
    ),
    "mixed": (
        {"t": torch.zeros(8).double()},
        TypeError,
        "implicit_filter: t (8,) has dtype torch.float64 and z (8, 5)",
    ),
    "no tensor": ({"freq": 10.0}, TypeError, "implicit_filter: freq must be a tensor of shape (H,), got float"),
    "device": (
        {"freq": torch.zeros(4, device="meta")},
        ValueError,
        "implicit_filter: all tensors must be on one device, got z (8, 5) on cpu, freq (4,) on meta",
    ),
    "backend": ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses_with_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert_refused(implicit_filter, error, message, **{**GIVEN, **change})
