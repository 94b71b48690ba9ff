"""Launches of compiled Triton kernels, with a driver that launches nothing.

This folder is for tests that compile. The tests in ``triton/`` interpret the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from triton import knobs, language as tl  # noqa: E402

from bench.kernels.launch_overhead import Launches, without_gpu  # noqa: E402
from hyena_kernels.backends.triton import launch as launching, support as triton_support  # noqa: E402
from hyena_kernels.backends.triton.launch import Constants, constants, launch  # noqa: E402

if triton_support.interpreting():
    pytest.skip("kernels are interpreted: unset TRITON_INTERPRET", allow_module_level=True)


@triton.jit(do_not_specialize=["free"])
def scale_kernel(x, gate, y, length, stride, free, factor, BLOCK: tl.constexpr, GATED: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at * stride, mask=at < length, other=0.0) * factor + free
    if GATED:
        value *= tl.load(gate + at, mask=at < length, other=0.0)
    tl.store(y + at, value, mask=at < length)


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launching, "_known", {})
    with without_gpu():
        yield
        for kernel in (scale_kernel, late_kernel):
            kernel.device_caches.clear()


def arguments(**changes: Any) -> tuple[Any, ...]:
    given = {"x": torch.zeros(64), "gate": None, "y": torch.zeros(64), "length": 48, "stride": 3, "free": 7}
    return tuple({**given, "factor": 0.5, **changes}.values())


PLAIN = {"BLOCK": 64, "GATED": False, "num_warps": 1}


def launched(how: Any, args: tuple[Any, ...], values: dict[str, Any], grid: tuple[int, ...] = (3,)) -> tuple[Any, ...]:
    """Grid, stream, function, metadata and arguments of a launch, with pointers in the place of tensors."""
    count = Launches.count
    if how is launch:
        launch(scale_kernel, grid, args, constants(**values))
    else:
        scale_kernel[grid](*args, **values)
    assert Launches.count == count + 1
    last = Launches.last
    return (*last[:6], *(arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in last[9:]))


def test_a_repeated_launch_is_the_one_that_triton_makes() -> None:
    args = arguments()
    expected = launched(None, args, PLAIN, (3, 2))
    assert expected[:3] == (3, 2, 1)
    for _ in range(3):
        assert launched(launch, args, PLAIN, (3, 2)) == expected
    assert len(launching._known) == 1
    # The compiled kernel does not depend on the grid, pointers or floats.
    other = arguments(factor=2.0)
    assert launched(launch, other, PLAIN, (5,)) == launched(None, other, PLAIN, (5,))
    assert len(launching._known) == 1


CHANGES: list[dict[str, Any]] = [
    {},
    {"length": 1},
    {"length": 64},
    {"length": 1 << 33},
    {"stride": 1},
    {"stride": 16},
    {"free": 16},
    {"free": 1 << 40},
    {"x": torch.zeros(64, dtype=torch.bfloat16)},
    {"x": torch.zeros(65)[1:]},
    {"y": torch.zeros(68)[4:]},
    {"gate": torch.zeros(64)},
    {"gate": torch.zeros(65)[1:]},
]


def test_a_launch_that_triton_compiles_separately_is_never_taken_for_another() -> None:
    functions = []
    # Twice: the launches that are known by then must not be mistaken for others.
    for _ in range(2):
        for change in CHANGES:
            for values in (PLAIN, {**PLAIN, "BLOCK": 128}, {**PLAIN, "num_warps": 2}):
                args = arguments(**change)
                values = {**values, "GATED": "gate" in change}
                ours = launched(launch, args, values)
                assert ours == launched(None, args, values), change
                functions.append(ours[4])
    # 48 and 64 are both multiples of 16. Addresses four floats apart are both aligned. Of `free` only the width counts.
    assert len(set(functions)) == 3 * (len(CHANGES) - 3)


@triton.jit(do_not_specialize=["t"])
def late_kernel(x, t, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(x + tl.arange(0, BLOCK), t)


def test_launches_with_other_late_integers_are_the_same_launch() -> None:
    x, own = torch.zeros(8), constants(BLOCK=8, num_warps=1)
    functions = []
    for t in (5, 1, 16, 7, (1 << 31) - 1, 1 << 31, 1 << 40):
        count = Launches.count
        launch(late_kernel, (1,), (x,), own, late=(t,))
        assert Launches.count == count + 1
        functions.append(Launches.last[4])
        # The first launch of its kind is Triton's own, with tensors in the place of pointers.
        assert Launches.last[-2:] == (t, 8)
    # Those that need 64 bits are another kernel.
    assert len(launching._known) == 2
    assert len(set(functions[:5])) == len(set(functions[5:])) == 1
    assert functions[0] != functions[5]


def test_hooks_of_triton_are_called() -> None:
    names: list[str] = []
    args = arguments()
    launched(launch, args, PLAIN)

    def hook(metadata: Any) -> None:
        names.append(metadata.get()["name"])

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        launch(scale_kernel, (1,), args, constants(**PLAIN))
        metadata, enter = Launches.last[6:8]
        enter(metadata)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    assert names == ["scale_kernel"]
    launch(scale_kernel, (1,), args, constants(**PLAIN))
    assert Launches.last[6:9] == (None, None, None)


def test_a_function_in_the_place_of_hooks_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments()
    launched(launch, args, PLAIN)

    def hook(metadata: Any) -> None:
        pass

    monkeypatch.setattr(knobs.runtime, "launch_enter_hook", hook)
    launch(scale_kernel, (1,), args, constants(**PLAIN))
    assert Launches.last[7] is hook


class Kernel:
    """A kernel that is not compiled, such as an interpreted or tunable one."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **values: setattr(self, "call", (grid, args, values))


def test_other_kernels_are_launched_as_they_are() -> None:
    kernel: Any = Kernel()
    launch(kernel, (4,), (1, 2), Constants(N=3, num_warps=2), late=(7,))
    assert kernel.call == ((4,), (1, 2, 7), {"N": 3, "num_warps": 2})
    assert not launching._known


def test_an_unknown_triton_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_direct", False)
    args = arguments()
    assert launched(launch, args, PLAIN) == launched(None, args, PLAIN)
    assert not launching._known


@pytest.mark.parametrize(
    ("version", "known"), [("3.4.0", False), ("3.5.1", True), ("3.6.0+git1", True), ("3.7.1", True), ("3.8.0", False)]
)
def test_known_versions(version: str, known: bool) -> None:
    assert launching._is_known(version) == known


def test_not_more_is_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "MAX_KEPT", 3)
    for length in range(10):
        args = arguments(length=length)
        assert launched(launch, args, PLAIN) == launched(None, args, PLAIN)
        assert len(launching._known) <= 3


def test_constants_are_one_object_for_the_same_values() -> None:
    assert constants(N=3, G=1) is constants(N=3, G=1)
    assert constants(N=3, G=1) is not constants(N=3, G=2)
