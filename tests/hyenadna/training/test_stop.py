from __future__ import annotations

import os
import signal

import pytest

from hyenadna.training.stop import stop_between_steps


def test_a_second_sigint_stops_at_once() -> None:
    with stop_between_steps() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt, match="stopped within a step"):
            os.kill(os.getpid(), signal.SIGINT)
