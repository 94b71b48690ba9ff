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

        def query(self) -> bool:
            return False

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


class Stream:
    """A stream of a GPU with a clock: launches cost the host time, and run after a hold of so many cycles."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.gpu = 0.0
        stream = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self) -> None:
                self.at = stream.gpu = max(stream.gpu, stream.host)

            def elapsed_time(self, other: Event) -> float:
                return 1e3 * (other.at - self.at)

            def query(self) -> bool:
                return self.at <= stream.host

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", self.sleep)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)

    def sleep(self, cycles: int) -> None:
        self.gpu = max(self.gpu, self.host) + cycles / 2e9

    def synchronize(self, *_: object) -> None:
        self.host = self.gpu = max(self.host, self.gpu)

    def launch(self, of_host: float, of_gpu: float) -> None:
        self.host += of_host
        self.gpu = max(self.gpu, self.host) + of_gpu


@pytest.mark.parametrize("cold", [False, True])
def test_launches_that_take_longer_than_the_hold_are_not_counted(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_FLUSH_BYTES", 64)
    stream = Stream(monkeypatch)
    timer = EventTimer(torch.device("cpu"), cold=cold)

    def run() -> None:
        for _ in range(10):
            stream.launch(0.001, 0.0001)

    # 10 ms of launches against a hold of 2 ms: without a longer hold this would be 9 to 10 ms.
    assert timer.time(run) == pytest.approx(0.001)
    # Warm, the call before the first event is queued under the same hold.
    assert timer.cycles[run] / 2e9 == pytest.approx(0.016 if cold else 0.032)
    before = stream.gpu
    assert timer.time(run) == pytest.approx(0.001)
    assert stream.gpu - before < 0.035
    # Others are not held for longer.
    before = stream.gpu
    assert timer.time(lambda: stream.launch(0.001, 0.5)) == pytest.approx(0.5)
    assert stream.gpu - before == pytest.approx(0.502 if cold else 1.002)


def test_launches_that_no_hold_covers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_FLUSH_BYTES", 64)
    stream = Stream(monkeypatch)
    timer = EventTimer(torch.device("cpu"), cold=True)

    def run() -> None:
        for _ in range(2):
            stream.launch(1.0, 0.25)

    with pytest.warns(RuntimeWarning, match="its time includes Python"):
        assert timer.time(run) == pytest.approx(2.25 - timing._LONGEST_HOLD_CYCLES / 2e9)


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
