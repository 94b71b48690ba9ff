"""The C++ kernels of ``implicit_filter``, beyond the tests of every backend.

Those in ``tests/hyena_kernels/test_implicit_filter.py`` and ``test_library.py`` run on this backend too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyena_kernels import implicit_filter
from hyena_kernels.backends.cpp.implicit_filter import _SUMS_BYTES, _chunk
from hyena_kernels.testing import check, implicit_filter_inputs, value_and_gradients
from tests.hyena_kernels.helpers import assert_threads_do_not_matter

pytestmark = pytest.mark.usefixtures("cpp")


# A tile is 64 positions, a group of tiles 512, and a chunk at least one group.
@pytest.mark.parametrize("length", [63, 64, 65, 127, 511, 512, 513, 1025])
def test_lengths_at_the_edges_of_tiles(length: int) -> None:
    check("implicit_filter", implicit_filter_inputs(128, length), shift=0.05)
    check("implicit_filter", implicit_filter_inputs(128, length, dtype=torch.float64, seed=1), shift=0.05)


# Panels have 4, 6 or 8 rows and blocks of channels eight panels; vectors have 2 to 16 lanes. Narrower networks have
# gradients of so few elements that their error is chance.
@pytest.mark.parametrize(
    ("channels", "features", "width", "layers"), [(175, 3, 71, 2), (129, 17, 97, 1), (130, 5, 76, 0)]
)
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
def test_sizes_that_no_vector_divides(channels: int, features: int, width: int, layers: int, window: bool) -> None:
    network: dict[str, Any] = {"features": features, "width": width, "layers": layers, "window": window}
    check("implicit_filter", implicit_filter_inputs(channels, 200, **network))
    check("implicit_filter", implicit_filter_inputs(channels, 200, dtype=torch.float64, **network))


def test_sums_over_many_positions() -> None:
    check("implicit_filter", implicit_filter_inputs(4, 150_000, width=16, layers=1))


def test_chunks_bound_the_memory_of_sums() -> None:
    for length, parameters in ((1, 10), (512, 25_000), (1 << 20, 25_000), (1 << 20, 10_000_000)):
        chunks = -(-length // _chunk(length, parameters))
        assert chunks == 1 or chunks * parameters * 8 <= _SUMS_BYTES
    assert _chunk(4096, 25_000) == 512


SIZES_SCRIPT = """
import torch
from hyena_kernels.testing import check, implicit_filter_inputs
for dtype in (torch.float32, torch.float64):
    for channels, length, width, layers in ((133, 100, 64, 2), (140, 513, 84, 1), (141, 129, 97, 0)):
        for window in (True, False):
            inputs = implicit_filter_inputs(channels, length, width=width, layers=layers, window=window, dtype=dtype)
            check("implicit_filter", inputs, shift=0.05)
print("done")
"""


@pytest.mark.slow
def test_every_instruction_set(with_instruction_set: Callable[[str], str]) -> None:
    assert with_instruction_set(SIZES_SCRIPT) == "done\n"


def sines_of(z: Tensor, weight: float | None = None) -> Tensor:
    """``sin(z)`` by a network of one unit, or ``sin(weight sin(z))`` with a hidden layer."""
    one, zero = z.new_ones(1), z.new_zeros(1)
    hidden = z.new_zeros(0, 1, 1) if weight is None else torch.full_like(z[:1, None, None], weight)
    return implicit_filter(z[:, None], one, one[:, None], zero, hidden, 0 * hidden[:, :, 0], one[:, None])[0]


def constant_filter(t: Tensor) -> dict[str, Any]:
    """Arguments, except the window, of a filter that is 1 at every position of ``t``."""
    one = t.new_ones(1)
    return {
        "z": one.expand(len(t), 1),
        "freq": one,
        "w_in": one[:, None],
        "b_in": t.new_zeros(1),
        "w_hidden": t.new_zeros(0, 1, 1),
        "b_hidden": t.new_zeros(0, 1),
        "w_out": one[:, None] / sines_of(one)[0],
    }


ELEMENTARY_SCRIPT = """
import torch
from tests.hyena_kernels.backends.cpp.test_implicit_filter import elementary_errors
for dtype in (torch.float32, torch.float64):
    print(*elementary_errors(dtype))
"""


def elementary_errors(dtype: torch.dtype) -> tuple[float, float, float]:
    """Largest errors of sine and cosine, and relative error of the exponential."""
    worst = [0.0, 0.0, 0.0]
    phase = torch.linspace(-1.6, 1.6, 200_001, dtype=torch.float64).to(dtype)
    inner = sines_of(phase)
    for weight in (1.0, 30.0, 1000.0, 12_000.0, 1e5, 1e7):
        # The input layer and hidden layers are computed in different ways.
        for angle, value in (
            (phase * weight, sines_of(phase * weight)),
            (inner * weight, sines_of(phase, weight)),
        ):
            worst[0] = max(worst[0], (value.double() - angle.double().sin()).abs().max().item())
        leaf = (phase * weight).requires_grad_()
        (slope,) = torch.autograd.grad(sines_of(leaf).sum(), leaf)
        worst[1] = max(worst[1], (slope.double() - leaf.detach().double().cos()).abs().max().item())
    # Where results are normal numbers.
    limit = 87.0 if dtype == torch.float32 else 708.0
    t = torch.linspace(-limit, limit, 200_001, dtype=torch.float64).to(dtype)
    network = constant_filter(t)
    window = implicit_filter(**network, t=t, deltas=t.new_ones(1))[0].double() / implicit_filter(**network)[0].double()
    worst[2] = (window / (-t.double()).exp() - 1).abs().max().item()
    return worst[0], worst[1], worst[2]


@pytest.mark.slow
def test_elementary_functions_on_every_instruction_set(with_instruction_set: Callable[[str], str]) -> None:
    """In float32, against sines of exact pre-activations. In float64 the reference has an error too."""
    narrow, wide = (list(map(float, line.split())) for line in with_instruction_set(ELEMENTARY_SCRIPT).splitlines())
    assert max(narrow[:2]) < 2e-7
    assert narrow[2] < 2.5 * 2**-24
    assert max(wide[:2]) < 4e-16
    assert wide[2] < 4.5 * 2**-53


def test_windows_beyond_the_range_of_numbers() -> None:
    t = torch.tensor([0.0, 100.0, -88.5, 1e30, -1e30, float("inf"), float("-inf"), float("nan")])
    values = implicit_filter(**constant_filter(t), t=t, deltas=torch.ones(1))[0]
    torch.testing.assert_close(values, torch.exp(-t), rtol=1e-6, atol=2**-149, equal_nan=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_what_it_should(value: float) -> None:
    inputs: dict[str, Any] = {**implicit_filter_inputs(5, 70, width=9)}
    inputs["w_out"][3, 2] = value
    results = value_and_gradients(implicit_filter, inputs, torch.ones(()))
    others = torch.arange(5) != 3
    assert not results["y"][3].isfinite().any()
    assert results["y"][others].isfinite().all()
    assert results["ddeltas"][others].isfinite().all()
    assert results["dw_out"].isfinite().all()


def test_threads_do_not_matter() -> None:
    inputs = implicit_filter_inputs(20, 5000, width=24)
    assert_threads_do_not_matter(implicit_filter, inputs, torch.randn(20, 5000))


def test_each_gradient_alone_is_the_one_among_others() -> None:
    inputs = implicit_filter_inputs(50, 600, width=20)
    dk = torch.randn(50, 600)
    together = value_and_gradients(implicit_filter, inputs, dk)
    for name in inputs:
        alone = value_and_gradients(implicit_filter, inputs, dk, frozen=inputs.keys() - {name})
        assert torch.equal(alone[f"d{name}"], together[f"d{name}"]), name


def test_nothing_of_one_call_is_left_for_the_next() -> None:
    """Work arrays are kept between calls."""
    inputs: dict[str, Any] = {**implicit_filter_inputs(60, 300)}
    nan = {name: torch.full_like(tensor, float("nan")) for name, tensor in inputs.items()}
    value_and_gradients(implicit_filter, nan, torch.ones(()))
    results = value_and_gradients(implicit_filter, implicit_filter_inputs(3, 70, width=5), torch.ones(()))
    for name, result in results.items():
        assert result.isfinite().all(), name
