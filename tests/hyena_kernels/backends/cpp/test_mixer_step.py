"""The C++ kernel of ``hyena_mixer_step``, beyond the tests of every backend in ``test_mixer_step.py``."""

from __future__ import annotations

import pytest

from hyena_kernels.testing import check, hyena_mixer_step_inputs

pytestmark = pytest.mark.usefixtures("cpp")


def test_sums_of_every_length() -> None:
    """No vector, whole vectors, and a last vector of which some lanes have been added before."""
    for t in range(64):
        check("hyena_mixer_step", hyena_mixer_step_inputs(2, 64, 33, t=t), gradients=False)


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 129])
def test_ends_of_tasks(channels: int) -> None:
    check("hyena_mixer_step", hyena_mixer_step_inputs(max(2, 200 // channels), 50, channels), gradients=False)
