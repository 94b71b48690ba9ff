from __future__ import annotations

import pytest

from hyenadna.common import progress
from hyenadna.common.progress import StepBar


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still at the last of these."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    return now


@pytest.mark.parametrize("alone", [True, False])
def test_a_line_every_half_minute_where_there_is_no_terminal(
    seconds: list[float], capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    with StepBar("seed 0", 1000, initial=100, alone=alone) as bar:
        for step in range(1, 71):
            seconds.append(float(step))
            bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "seed 0: step 130 of 1,000, 00:30 so far, about 14:30 left",
        "seed 0: step 160 of 1,000, 01:00 so far, about 14:00 left",
    ]


def test_nothing_is_written_where_nobody_asks(seconds: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with StepBar("pretrain", 10, progress=False) as bar:
        seconds.append(100.0)
        bar.update()
    assert capsys.readouterr() == ("", "")
