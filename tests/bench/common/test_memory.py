"""bench.common.memory: a fresh process, and a stand-in for CUDA's allocator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.common.memory import peak_cuda_bytes, peak_rss


def allocate(mebibytes: int) -> Callable[[], object]:
    """A function that fills new memory."""
    return lambda: torch.ones(mebibytes << 18)


def test_memory_of_a_fresh_process_grows_by_what_a_call_allocates() -> None:
    before, after = peak_rss(allocate, 256)
    assert 0.9 < (after - before) / (256 << 20) < 1.2


def test_cuda_memory_is_the_peak_beyond_what_was_allocated_before(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: order.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("empty"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 100)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: order.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 130)
    assert peak_cuda_bytes(lambda: order.append("call"), torch.device("cpu")) == 30
    assert order == ["synchronize", "empty", "reset", "call", "synchronize"]
