"""Progress of long work: a bar on a terminal, or lines of text where no bar can be drawn."""

from __future__ import annotations

import sys
import time

from tqdm.auto import tqdm

_SECONDS = 30.0


def bar(
    name: str, total: float | None, unit: str, *, initial: float = 0, progress: bool = True, unit_scale: bool = False
) -> tqdm:  # type: ignore[type-arg]
    """A progress bar on a terminal; nothing anywhere else.

    Args:
        name: the words before the bar.
        total: units of the whole work, if that is known.
        unit: what is counted.
        initial: units that were done before.
        progress: show the bar at all.
        unit_scale: shorten large numbers to k, M and G.
    """
    disable = None if progress else True
    # The delay keeps a bar from standing above the message when the input is refused at once.
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit_scale,
        desc=name,
        disable=disable,
        dynamic_ncols=True,
        delay=0.2,
    )


class StepBar(tqdm):  # type: ignore[type-arg]
    """A bar of training steps on a terminal; elsewhere a line on stderr about every 30 seconds.

    Args:
        name: name of the run; each line begins with it.
        total: steps of the run.
        initial: steps that were done before.
        progress: show anything at all.
        alone: no other run draws a bar at the same time. Otherwise all runs write lines.
    """

    def __init__(self, name: str, total: int, *, initial: int = 0, progress: bool = True, alone: bool = True) -> None:
        disable = None if progress and alone else True
        super().__init__(total=total, initial=initial, unit="step", desc=name, disable=disable, dynamic_ncols=True)
        self._name, self._total = name, total
        self._writes = bool(progress and self.disable)
        self._step = self._first = initial
        self._started = self._written = time.monotonic()

    def update(self, n: float | None = 1) -> bool | None:
        """Count ``n`` steps."""
        drawn = super().update(n)
        self._step += int(n or 0)
        now = time.monotonic()
        if self._writes and now - self._written >= _SECONDS:
            self._written = now
            spent = now - self._started
            left = spent / (self._step - self._first) * (self._total - self._step)
            # One write, so that lines of parallel jobs do not mix.
            sys.stderr.write(
                f"{self._name}: step {self._step:,} of {self._total:,}, {tqdm.format_interval(spent)} so far, about "
                f"{tqdm.format_interval(left)} left\n"
            )
            sys.stderr.flush()
        return drawn
