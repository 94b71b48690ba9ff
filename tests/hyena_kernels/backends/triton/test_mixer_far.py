"""``hyena_mixer_far`` in Triton against float64, in the interpreter. Its kernels have their own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hyena_kernels import BackendError, hyena_mixer_far, use_backend
from hyena_kernels.backends.triton import far_field_conv, mixer, mixer_far
from hyena_kernels.common.inputs import FarMixerInputs
from hyena_kernels.testing import check, hyena_mixer_far_inputs


@pytest.fixture(autouse=True)
def triton_backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, as those of the tests of both kinds of kernels."""
    for name in far_field_conv.CONFIGS:
        monkeypatch.setitem(far_field_conv.CONFIGS, name, far_field_conv.Config(16, 16))
    for name in mixer.CONFIGS:
        monkeypatch.setitem(mixer.CONFIGS, name, (64, 32, 4))


@pytest.mark.slow
def test_everything_together() -> None:
    check("hyena_mixer_far", hyena_mixer_far_inputs(1, 100, 2, h=32, p=2))


@pytest.mark.slow
@pytest.mark.usefixtures("nan_empty")
def test_order_three_in_slices_of_strided_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixer, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(mixer, "SLICE_STEP", 3)
    inputs = hyena_mixer_far_inputs(1, 60, 4, order=3, h=32, p=2, spare=1, dtype=torch.bfloat16)
    storage = torch.full((2, 121, 33), float("nan"), dtype=torch.bfloat16)
    inputs["x"] = storage[1:, 1::2, 1::2].copy_(inputs["x"])
    for name in ("near", "nodes"):
        inputs[name] = inputs[name].movedim(1, -1).contiguous().movedim(-1, 1)
    check("hyena_mixer_far", inputs)


@pytest.mark.slow
def test_backward_gives_what_is_needed_and_nothing_else() -> None:
    inputs = FarMixerInputs(*hyena_mixer_far_inputs(1, 40, 1, h=32, p=2).values())
    dy = torch.randn(1, 40, 1)
    full = mixer_far.backward(dy, inputs, [True] * 6)
    for wanted in ((), (0,), (3,), (4, 5), (1, 2)):
        needs = [index in wanted for index in range(6)]
        for grad, expected, needed in zip(mixer_far.backward(dy, inputs, needs), full, needs, strict=True):
            assert torch.equal(grad, expected) if needed else grad.shape == (0,), needs


def test_what_the_kernels_cannot_run_is_refused() -> None:
    for options, reason in (({"h": 16}, "takes blocks h"), ({"dtype": torch.float64}, "has no float64 kernels")):
        with pytest.raises(BackendError, match=reason):
            hyena_mixer_far(**hyena_mixer_far_inputs(1, 40, 2, **{"h": 32, "p": 2} | options))
