"""bench.common.timing, with a stand-in for CUDA events."""

from __future__ import annotations

import pytest
import torch

from bench.common import timing
from bench.common.timing import EventTimer, Timer, best_seconds, cpu_timer, in_turns


def test_events_are_recorded_while_the_stream_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("event")

        def elapsed_time(self, other: Event) -> float:
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: order.append("wait"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: order.append("synchronize"))
    monkeypatch.setattr(timing, "_FLUSH_BYTES", 64)
    cpu = torch.device("cpu")
    cold, warm = (EventTimer(cpu, cold=cold) for cold in (True, False))
    cold.flush.fill_(1)
    assert cold.time(lambda: order.append("call")) == 0.25
    assert order == ["wait", "event", "call", "event", "synchronize"]
    assert not cold.flush.any()
    order.clear()
    assert warm.time(lambda: order.append("call")) == 0.25
    assert order == ["wait", "call", "event", "call", "event", "synchronize"]
    order.clear()
    plain = EventTimer(cpu, hold=False)
    assert plain.time(lambda: order.append("call"), repeats=2) == 0.125
    assert order == ["event", "call", "call", "event", "synchronize"]
    assert (cold.name, warm.name, plain.name) == ("CUDA events, cold L2", "CUDA events, warm L2", "CUDA events")


def test_functions_take_turns_after_one_call_of_each() -> None:
    now, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    functions = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 3.0)}
    timer = Timer("counted", lambda: now[0])
    assert in_turns(functions, timer, rounds=2, repeats=2) == {"a": [1.0, 1.0], "b": [3.0, 3.0]}
    assert "".join(order) == "ab" + 2 * "aabb"
    spans = iter([5.0, 4.0, 2.0, 3.0])
    assert best_seconds(lambda: call("", next(spans)), timer, rounds=3) == 2.0


def test_processor_time_is_for_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads, name in ((1, "process time"), (2, "wall")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert cpu_timer().name == name
        assert timing.timer_for(torch.device("cpu"), is_op=True, cold=True).name == name
