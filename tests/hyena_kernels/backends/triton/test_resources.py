"""Kernels compiled ahead of time: their resources on a GPU, and the command that reports them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyena_kernels import backend
from hyena_kernels.testing.resources import triton as _resources
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, Resources, occupancy

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """Nothing here runs a kernel."""


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared_kb", "warps"),
    [
        (80, 32, 1024, 0, 64),  # nothing in the way
        (90, 64, 1024, 64, 32),  # registers: 65536 are one block
        (90, 65, 256, 0, 24),  # a warp gets registers by the 256: 72 a thread
        (80, 168, 128, 16.9, 12),  # a warp has all its registers in one quarter of an SM
        (80, 255, 1024, 0, 0),  # no block fits
        (80, 128, 256, 34.8, 16),
        (90, 16, 32, 12, 17),  # shared memory, with the driver's KiB for each block
        (80, 32, 128, 80, 8),  # two blocks of 81 KB in 164
        (80, 32, 128, 82, 4),
        (86, 32, 32, 0, 16),  # blocks
        (89, 32, 32, 0, 24),
        (120, 32, 64, 0, 48),  # 24 blocks of two warps
        (100, 255, 256, 227, 8),
    ],
)
def test_occupancy(arch: int, registers: int, threads: int, shared_kb: float, warps: int) -> None:
    share = occupancy(arch, registers, threads, int(shared_kb * 1024))
    assert share * ARCHITECTURES[arch].warps == warps


@pytest.mark.parametrize(
    ("arch", "limit_kb"), [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)], ids=str
)
def test_faults(arch: int, limit_kb: int) -> None:
    limit = limit_kb * 1024
    assert Resources(arch, 255, 0, limit, 128, 0.25).faults() == []
    assert Resources(arch, 255, 8, limit, 128, 0.25).faults() == ["8 bytes of stack: registers spill"]
    assert Resources(arch, 255, 0, limit + 1, 128, 0.25).faults() == [
        f"{limit + 1} bytes of shared memory: a block can have {limit} on sm_{arch}"
    ]


def test_every_launcher_is_in_a_module_with_cases() -> None:
    places = {place for (_, name), place in backend._implementations.items() if name == "triton"}
    modules = {place.partition(":")[0] if isinstance(place, str) else place.__module__ for place in places}
    ops = {name.rpartition(".")[2] for name in modules}
    assert ops == {name.rpartition(".")[2] for name in _resources.KERNEL_MODULES}


def resources(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "hyena_kernels.testing.resources.triton", *arguments]
    environment |= variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


KERNELS = """
import triton
import triton.language as tl
from hyena_kernels.testing.resources.triton_case import Case

@triton.jit
def scale(x, y, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i * stride, mask=i < n, other=0.0)
    tl.store(y + i, 2 * value, mask=i < n)

@triton.jit
def spill(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(y + i, value - tl.sum(value, 0))

@triton.jit
def wrong(x, y):
    tl.store(y, tl.load(no_such_name))
"""
SCALE = '{"x": "*fp32", "y": "*fp32", "n": "i32:16", "stride": "constexpr", "BLOCK": "constexpr"}'
VALUES = '{"BLOCK": 512, "stride": 1}'


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that subprocesses can import, in a folder with its own cache."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return "toy_kernels"


def write(folder: Path, *cases: str) -> None:
    listed = ", ".join(cases)
    (folder / "toy_kernels.py").write_text(f"{KERNELS}\n\ndef aot_cases():\n    return [{listed}]\n")


@pytest.mark.slow
def test_table_and_cache(toy: str, tmp_path: Path) -> None:
    write(tmp_path, f'Case("scale 512", scale, {SCALE}, {VALUES}, 4)', f'Case("one warp", scale, {SCALE}, {VALUES}, 1)')
    out = tmp_path / "table.md"
    first = resources("--module", toy, "--arch", "80", "90", "--out", str(out))
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert re.search(r"^\[4/4\] .* sm_\d+: \d+ registers, 0 bytes of stack, 0 KB shared, ", first.stderr, re.MULTILINE)
    text = out.read_text()
    assert "| kernel | threads | sm_80 | sm_90 |\n|---|---|---|---|\n| scale 512 | 128 | " in text
    registers, stack, shared, share = re.search(r"^\| one warp \| 32 \| (.*?) \|", text, re.MULTILINE)[1].split(" / ")
    # A thread has 16 of the 512 values, and addresses too, so it takes more than 16 registers.
    assert 16 < int(registers) <= 128
    assert (stack, shared, share) == ("0", "0 KB", "50%")

    compiled = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.cubin")}
    assert len(compiled) == 4
    second = resources("--module", toy, "--arch", "80", "90")
    assert second.returncode == 0, second.stderr
    assert second.stdout == text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.cubin")} == compiled


@pytest.mark.slow
def test_faults_end_with_1_and_leave_no_table(toy: str, tmp_path: Path) -> None:
    good = f'Case("good", scale, {SCALE}, {VALUES})'
    spill = 'Case("spill", spill, {"x": "*fp32", "y": "*fp32", "BLOCK": "constexpr"}, {"BLOCK": 16384}, 1)'
    write(
        tmp_path,
        spill,
        'Case("wrong", wrong, {"x": "*fp32", "y": "*fp32"})',
        'Case("few", spill, {"x": "*fp32", "y": "*fp32"})',
        f'Case("valueless", scale, {SCALE}, {{"BLOCK": 512}})',
        good,
    )
    out = tmp_path / "table.md"
    done = resources("--module", toy, "--arch", "80", "--out", str(out))
    assert done.returncode == 1, done.stderr
    assert not out.exists()
    progress, _, faults = done.stderr.partition("4 faults:\n")
    assert re.findall(r"^\[(\d)/5\] \w+ sm_80: ", progress, re.MULTILINE) == list("12345")
    assert re.search(r"^\[\d/5\] good sm_80: \d+ registers, 0 bytes of stack", progress, re.MULTILINE)
    assert re.search(r"^  spill sm_80: [1-9]\d* bytes of stack: registers spill$", faults, re.MULTILINE)
    assert re.search(r"^  wrong sm_80: \w+Error: .*", faults, re.MULTILINE)
    assert "no_such_name" in faults
    assert "  few sm_80: ValueError: few: in the signature or among the kernel's arguments only: ['BLOCK']\n" in faults
    assert "  valueless sm_80: ValueError: valueless: a constexpr without a value, or a value" in faults


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--module", "toy_kernels"], "several cases are called good"),
        (["--module", "no_such_module"], "No module named 'no_such_module'"),
        (["--out", "no_such_folder/table.md"], "there is no folder no_such_folder to write table.md into"),
        (["--arch", "75"], "invalid choice: 75"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = f'Case("good", scale, {SCALE}, {VALUES})'
    write(tmp_path, good, good)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delitem(sys.modules, "toy_kernels", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        _resources.main(arguments)
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        _resources.main([])
    assert "TRITON_INTERPRET is set, and interpreted kernels cannot be compiled" in capsys.readouterr().err


ARCHS = ("80", "90", "100")
OTHERS = ("embedding", "implicit_filter", "linear_cross_entropy", "mixer", "short_conv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "archs"),
    [*(("fftconv", (arch,)) for arch in ARCHS), *((op, ARCHS) for op in OTHERS)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_no_kernel_spills_or_takes_more_shared_memory_than_there_is(op: str, archs: tuple[str, ...]) -> None:
    module = f"hyena_kernels.testing.resources.triton_cases.{op}"
    assert module in _resources.KERNEL_MODULES
    done = resources("--module", module, "--arch", *archs, "--check", "--quick")
    assert done.returncode == 0, done.stderr


def test_the_compiled_modules_are_all_there_are() -> None:
    assert {name.rpartition(".")[2] for name in _resources.KERNEL_MODULES} == {"fftconv", *OTHERS}
