"""The C++ kernels of ``layer_norm`` and ``add_layer_norm``, beyond the tests of every backend.

Those in ``tests/hyena_kernels/test_layer_norm.py`` and ``test_library.py`` run on this backend too.
"""

from __future__ import annotations

import pytest
import torch

from hyena_kernels.testing import OPS, add_layer_norm_inputs, check, value_and_gradients
from tests.hyena_kernels.helpers import assert_same, assert_threads_do_not_matter

pytestmark = pytest.mark.usefixtures("cpp")

add = OPS["add_layer_norm"].function


def test_threads_do_not_matter() -> None:
    # Twelve chunks, the last of them partly filled.
    assert_threads_do_not_matter(add, add_layer_norm_inputs(3, 1000, 70), torch.randn(3, 1000, 140))


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 257, 20_000])
def test_ends_of_chunks_and_of_their_sums(rows: int) -> None:
    check("add_layer_norm", add_layer_norm_inputs(rows, 20))


def test_strides_change_no_bit() -> None:
    inputs = add_layer_norm_inputs(4, 6, 33)
    dy = torch.randn(4, 6, 66)
    expected = value_and_gradients(add, inputs, dy)
    storage = torch.full((4, 6, 99), float("nan"))
    storage[..., 5:38] = inputs["x"]
    inputs["x"] = storage[..., 5:38]
    inputs["residual"] = inputs["residual"].movedim(2, 0).contiguous().movedim(0, 2)
    inputs["weight"] = torch.stack((inputs["weight"], inputs["weight"]), dim=1)[:, 0]
    assert_same(value_and_gradients(add, inputs, dy), expected)
