"""The table of launch configurations, and measuring at run time, which can replace it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hyena_kernels
from bench.kernels import tune_triton
from hyena_kernels import BackendError
from hyena_kernels.backends.triton import autotune, fftconv, passes, table
from hyena_kernels.backends.triton.autotune import Launch, Measurement
from hyena_kernels.backends.triton.plan import MAX_LENGTH, Plan, plan
from hyena_kernels.backends.triton.table import Config
from hyena_kernels.common.inputs import FftconvInputs
from hyena_kernels.testing import fftconv_inputs

CPU = torch.device("cpu")
CLASSES = (99, 164, 227)
KERNELS = [passes.row_forward, passes.row_backward, passes.columns_forward, passes.columns_inverse]
KERNELS += [passes.rows_forward, passes.rows_backward]


@pytest.fixture
def device_of_class(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.device]:
    """Make torch report a CUDA device with these properties."""

    def report(**properties: Any) -> torch.device:
        table._class_of.cache_clear()
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**properties))
        monkeypatch.setattr(table, "_class_of", table._class_of.__wrapped__)
        monkeypatch.setattr(table, "_is_hopper", table._is_hopper.__wrapped__)
        return torch.device("cuda", 0)

    return report


# cudaDeviceProp.sharedMemPerBlockOptin of an RTX 4090, an A100, an H100, and a device with less than any class.
@pytest.mark.parametrize(("shared", "expected"), [(101376, 99), (166912, 164), (232448, 227), (65536, 99)])
def test_class_is_that_of_the_shared_memory(
    shared: int, expected: int, device_of_class: Callable[..., torch.device]
) -> None:
    device = device_of_class(shared_memory_per_block_optin=shared, major=1, minor=0)
    assert table.device_class(device) == expected
    assert table.device_class(torch.device("cuda")) == expected


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), 164), ((8, 6), 99), ((9, 0), 227), ((12, 0), 99)])
def test_class_without_the_shared_memory_is_that_of_the_capability(
    capability: tuple[int, int], expected: int, device_of_class: Callable[..., torch.device]
) -> None:
    major, minor = capability
    assert table.device_class(device_of_class(major=major, minor=minor)) == expected


@pytest.mark.parametrize(("major", "several"), [(8, False), (9, True), (10, False)])
def test_rows_share_a_program_where_that_spills_no_registers(
    major: int, several: bool, device_of_class: Callable[..., torch.device]
) -> None:
    device = device_of_class(shared_memory_per_block_optin=1 << 17, major=major, minor=0)
    for kernel, points in table.SPILLING_SHARED:
        assert table.shares(kernel, points, device) is several
    assert table.shares("row_backward", 1024, device)
    assert table.shares("row_forward", 4096, device)
    call = fftconv._Call(8, 256, 4096, 4096, True, None, CPU)
    assert call.rows_per_program("row_forward") == 8
    assert call.rows_per_program("row_backward") == 1
    assert fftconv._Call(8, 256, 1000, 1000, True, None, CPU).rows_per_program("row_backward") == 8
    long = fftconv._Call(8, 1, 1 << 16, 1 << 16, True, None, CPU)
    assert long.plan.rows == 4096
    assert long.slice_sizes("rows_forward", 1 << 30, 1, 1)[0] == 8
    assert long.slice_sizes("rows_backward", 1 << 30, 2, 2)[0] == 1


def test_the_cpu_has_the_smallest_class() -> None:
    assert table.device_class(CPU) == 99


@pytest.mark.parametrize("shared", CLASSES)
def test_every_length_has_its_entries(shared: int) -> None:
    lengths = {size + more for bits in range(25) for size in (1 << bits, 3 << max(0, bits - 2)) for more in (-1, 0, 1)}
    for length in sorted(length for length in lengths if 1 <= length <= MAX_LENGTH):
        assert table.TABLES[shared].keys() >= set(table.keys(plan(length))), length
    expected = {(kernel, groups, points) for (kernel, groups), sizes in table.SIZES.items() for points in sizes}
    assert table.TABLES[shared].keys() == expected


@pytest.mark.parametrize("shared", CLASSES)
def test_entries_fit_the_kernels(shared: int) -> None:
    for (kernel, _, points), config in table.TABLES[shared].items():
        assert config.tile == 1 or kernel.startswith("columns")
        assert config.warps & (config.warps - 1) == 0 < config.warps <= 32
        assert config.tile & (config.tile - 1) == 0
        # A thread has whole digits of 8 values. With fewer, two threads would hold the same value.
        assert points * config.tile >= 256 * config.warps


def test_kernels_of_the_table_are_those_of_the_module() -> None:
    assert {kernel for kernel, _ in table.SIZES} == {kernel.__name__ for kernel in KERNELS}


def test_config_of_a_device(monkeypatch: pytest.MonkeyPatch, device_of_class: Callable[..., torch.device]) -> None:
    entry = Config(4, registers=96)
    monkeypatch.setitem(table.TABLES[227], ("row_forward", 1, 1024), entry)
    device = device_of_class(shared_memory_per_block_optin=232448)
    assert table.config("row_forward", 1, 1024, device) is entry
    assert entry.launch == {"num_warps": 4, "num_stages": 1, "maxnreg": 96}
    assert table.config("row_forward", 1, 1024, CPU) == Config(4)


def test_sizes_that_only_tests_use_follow_the_formula() -> None:
    assert table.config("rows_forward", 1, 16, CPU) == Config(1)
    assert table.config("columns_forward", 1, 128, CPU) == Config(16, tile=32)


def test_only_what_differs_from_the_formula_is_written_out() -> None:
    written = {99: table._TABLE_99, 164: table._TABLE_164, 227: table._TABLE_227}
    assert {shared: len(entries) for shared, entries in written.items()} == {99: 3, 164: 3, 227: 2}
    for shared, entries in written.items():
        for key, config in table.TABLES[shared].items():
            formula = table.formula(key[0], key[2])
            assert (config != formula) == (key in entries)
            assert config == entries.get(key, formula)


def test_a_missing_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table.TABLES[99], ("rows_backward", 1, 1024))
    message = (
        r"backend 'triton' .* has no entry for rows_backward of 1 × 1024 points .* 99 KB .*SIZES in .*triton/table\.py"
    )
    with pytest.raises(BackendError, match=message):
        hyena_kernels.fftconv(torch.zeros(1, 1, 16384), torch.zeros(1, 16384), backend="triton")
    assert "has no entry for rows_backward" in (table.obstacle(16384, CPU) or "")
    assert table.obstacle(8192, CPU) is None
    assert table.obstacle(32768, CPU) is None
    assert table.obstacle(MAX_LENGTH + 1, CPU) is None


def test_a_missing_entry_of_the_backward_plan_is_found_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.backward_plan(5000, CPU) == plan(8192)
    monkeypatch.delitem(table.TABLES[99], ("rows_backward", 1, 512))
    assert "has no entry for rows_backward of 1 × 512 points" in (table.obstacle(5000, CPU) or "")


def test_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.TORCH_FASTER, 99, ((1, 256), (4097, 6144)))
    chosen = {length: table.algorithm(length, CPU) for length in (1, 256, 257, 4096, 4097, 6144, 6145)}
    assert [length for length, name in chosen.items() if name == "torch"] == [1, 256, 4097, 6144]
    assert set(chosen.values()) == {"triton", "torch"}


@pytest.mark.slow
def test_table_and_autotune_import_without_triton() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\nfrom hyena_kernels.backends.triton import autotune, table\n"
        "print(table.config('row_forward', 1, 256, torch.device('cpu')).warps, autotune.enabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != autotune.VARIABLE}
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["1", "False"], done.stderr


# Measuring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("on", True), ("", False), ("0", False), (None, False)])
def test_off_unless_asked_for(text: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(autotune.VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(autotune.VARIABLE, text)
    assert autotune.enabled() is expected


@pytest.mark.parametrize(("kernel", "groups"), table.SIZES)
def test_candidates_are_valid(kernel: str, groups: int) -> None:
    for points in table.SIZES[kernel, groups]:
        found = autotune.candidates(kernel, points)
        assert len(set(found)) == len(found) >= 2
        for config in found:
            threads = 32 * config.warps
            assert points * config.tile // threads in (8, 16)
            assert threads <= 1024
            assert config.registers is None or threads * config.registers < 65536
            assert config.tile == 1 or kernel.startswith("columns")
        assert table.formula(kernel, points) in found


def test_arguments_changed_in_place_exist() -> None:
    names = {kernel.__name__: kernel.arg_names for kernel in KERNELS}
    for kernel, arguments in autotune._IN_PLACE.items():
        assert set(arguments) <= set(names[kernel])


@pytest.fixture
def tunable(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in KERNELS:
        monkeypatch.setattr(passes, kernel.__name__, autotune.Tunable(kernel))
    monkeypatch.setattr(autotune, "_chosen", {})


@pytest.mark.slow
@pytest.mark.usefixtures("tunable")
def test_any_tile_gives_the_same_bits() -> None:
    u, k, D, pre, post = fftconv_inputs(1, 1, 150, 90).values()
    grids = set()

    def other_tile(launch: Launch) -> Any:
        assert launch.key[1:] == (1, 16)
        configured = launch.with_config(Config(1, tile=4, registers=96))
        assert configured.constants["num_warps"] == 1
        assert configured.constants["maxnreg"] == 96
        if "C" in launch.constants:
            grids.add((launch.grid, configured.grid))
        return configured.run()

    expected = fftconv.forward(FftconvInputs(u, k, D, pre, post), True, plan=Plan(1, 16, 16))
    with autotune.handling(other_tile):
        assert torch.equal(fftconv.forward(FftconvInputs(u, k, D, pre, post), True, plan=Plan(1, 16, 16)), expected)
    assert grids == {((1,), (4,))}


class FakeKernel:
    """Adds 1 to its first argument."""

    arg_names = ("signal", "grad", "filter", "filter_grad")

    def __init__(self, name: str, spills: int = 0) -> None:
        self.__name__ = name
        self.spills = spills
        self.launched: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        def run(signal: torch.Tensor, *args: Any, **constants: Any) -> Any:
            signal += 1
            self.launched.append(constants)
            return SimpleNamespace(n_regs=10 * constants["num_warps"], n_spills=self.spills)

        return run


@pytest.mark.parametrize(("name", "expected"), [("rows_forward", 0), ("rows_backward", 0), ("row_forward", 3)])
def test_measuring_restores_what_a_kernel_changes_in_place(name: str, expected: int) -> None:
    signal = torch.zeros(4)
    launch = Launch(FakeKernel(name), (1,), (signal, signal.clone(), signal.clone(), None), {"num_warps": 1})
    with launch.unchanged():
        for _ in range(3):
            launch.run()
    assert torch.equal(signal, torch.full((4,), float(expected)))


def launch_of(kernel: Any, **constants: Any) -> Launch:
    return Launch(kernel, (64,), (torch.zeros(1),), {"N": 256, "num_warps": 1, "num_stages": 1, **constants})


def test_measured_is_the_weighted_sum_of_the_launches() -> None:
    launches = [(launch_of(FakeKernel("row_forward")), 3), (launch_of(FakeKernel("row_forward")), 1)]
    times = iter([2.0, 5.0])
    measured = autotune.measure(launches, Config(2), lambda function: next(times))
    assert measured == Measurement(Config(2), 11.0, registers=20)


def test_what_cannot_be_launched_is_left_out() -> None:
    from triton.runtime.errors import OutOfResources

    class Kernel:
        __name__ = "row_forward"
        arg_names = ()

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
            def run(*args: Any, **constants: Any) -> Any:
                raise OutOfResources(300_000, 232_448, "shared memory")

            return run

    measured = autotune.measure([(launch_of(Kernel()), 1)], Config(2), lambda function: 1.0)
    assert not measured.usable
    assert "shared memory" in measured.reason
    assert autotune.best(Config(2), [measured]) is None


def test_best_takes_what_is_faster_by_more_than_noise_and_does_not_spill() -> None:
    default, other, spilling = Config(4), Config(2), Config(8)
    slow = Measurement(default, 1.0)
    assert autotune.best(default, [slow, Measurement(other, 0.99), Measurement(spilling, 0.5, spills=4)]) == slow
    fast = Measurement(other, 0.9)
    assert autotune.best(default, [slow, fast]) == fast
    assert autotune.best(default, [Measurement(default, None), fast]) == fast


def test_first_launch_chooses_and_the_next_ones_follow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device_of_class: Callable[..., torch.device]
) -> None:
    device = device_of_class(shared_memory_per_block_optin=232448)
    monkeypatch.setattr(Launch, "device", property(lambda self: device))
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    measured = []

    def measure(launches: Any, config: Config) -> Measurement:
        measured.append(config)
        return Measurement(config, 0.1 if config == Config(2, registers=96) else 1.0)

    monkeypatch.setattr(autotune, "measure", measure)
    fake = FakeKernel("row_forward")
    kernel = autotune.Tunable(fake)
    arguments = {"N": 1024, "G": 1, "num_warps": 4, "num_stages": 1}
    capturing = True
    kernel[(8,)](torch.zeros(1), **arguments)
    assert not measured, "measured under the capture of a graph"
    assert fake.launched.pop() == arguments
    capturing = False
    with caplog.at_level("INFO", logger="hyena_kernels"):
        kernel[(8,)](torch.zeros(1), **arguments)
    count = len(measured)
    assert set(measured) == {Config(4), *autotune.candidates("row_forward", 1024)}
    assert "row_forward 1 × 1024" in caplog.text
    capturing = True
    kernel[(8,)](torch.zeros(1), **arguments)
    assert len(measured) == count
    assert [each["num_warps"] for each in fake.launched] == [2, 2]
    assert all(each["maxnreg"] == 96 for each in fake.launched)


def test_nothing_is_measured_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_chosen", {})
    kernel = FakeKernel("row_forward")
    autotune.Tunable(kernel)[(8,)](torch.zeros(1), N=1024, num_warps=4)
    assert kernel.launched == [{"N": 1024, "num_warps": 4}]
    assert autotune._chosen == {}


def test_install_reaches_every_kernel_once() -> None:
    module = SimpleNamespace(**{kernel.__name__: kernel for kernel in KERNELS}, other=1)
    autotune.install(module)
    autotune.install(module)
    for kernel in KERNELS:
        assert isinstance(getattr(module, kernel.__name__), autotune.Tunable)
        assert getattr(module, kernel.__name__).kernel is kernel
    assert module.other == 1


# bench.kernels.tune_triton, as far as it needs kernels ----------------------------------------------------------------


@pytest.mark.usefixtures("tunable")
def test_tuner_finds_every_launch_and_writes_what_is_fastest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    item = tune_triton.Work(100, 1, 1, tuple(table.keys(plan(100))))
    measured = []

    def measure(launches: list[tuple[Launch, int]], config: Config) -> Measurement:
        measured.append((launches[0][0].key, config, len(launches), launches[0][1]))
        return Measurement(config, 0.5 if config.registers == 128 else 1.0)

    monkeypatch.setattr(autotune, "measure", measure)
    out, path = tmp_path / "tune.json", tmp_path / "table.py"
    run = tune_triton._Run(out, CPU, 1000, 1)
    run.tune(item)
    assert {key for key, *_ in measured} == set(item.keys)
    assert all((count, weight) == (1, 1) for *_, count, weight in measured)
    assert len(measured) == sum(len(tune_triton.options_of(key, 99)) for key in item.keys)
    # A second run continues where this one ended.
    again = tune_triton._Run(out, CPU, 1000, 1)
    count = len(measured)
    again.tune(item)
    assert len(measured) == count
    path.write_text(Path(table.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    assert tune_triton.write_table(path, again.results, 99) == 2
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "registers=128" in ast.unparse(tree)
