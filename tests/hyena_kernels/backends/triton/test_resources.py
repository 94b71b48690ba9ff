"""Kernels compiled ahead of time: their resources on a GPU, and the command that reports them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyena_kernels import backend
from hyena_kernels.testing.resources import triton as _resources
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES, Resources, occupancy
from hyena_kernels.testing.resources.record import Record
from hyena_kernels.testing.resources.triton_case import Case
from hyena_kernels.testing.resources.triton_source import case_hash

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
        (["--record", "--quick"], "--record is for all kernels: without --quick, --changed and --module"),
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


def test_a_kernel_that_overflows_tensor_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(metadata=SimpleNamespace(tmem_size=576))
    monkeypatch.setattr(_resources, "_check", lambda case: None)
    monkeypatch.setattr(_resources, "ASTSource", lambda *args: None)
    monkeypatch.setattr(_resources.triton, "compile", lambda *args, **options: compiled)
    kernel = SimpleNamespace(arg_names=[])
    with pytest.raises(ValueError, match="wide: takes 576 columns of tensor memory, there are 512"):
        _resources.compile_case(Case("wide", kernel, {}), 100)


@pytest.mark.slow
def test_no_kernel_spills_or_takes_more_shared_memory_than_there_is() -> None:
    """What has changed since ``make resources`` is compiled, and a sixteenth of the rest."""
    done = resources("--arch", "80", "90", "100", "--check", "--changed")
    assert done.returncode == 0, done.stderr


def test_the_page_has_what_was_compiled() -> None:
    page = (ROOT / "docs" / "kernels" / "resources.md").read_text(encoding="utf-8")
    if f"Made with {_resources.REPORT.compiler}." not in page:
        pytest.skip(f"the page was made with another compiler than {_resources.REPORT.compiler}")
    record, archs = Record(_resources.RECORD), (80, 90, 100)
    table = {
        case.name: {arch: _resources.known(record, case, arch)[0] for arch in archs if arch not in case.absent}
        for case in _resources.aot_cases()
    }
    changed = [name for name, row in table.items() if None in row.values()]
    assert changed == [], "changed since `make resources`"
    rows = [line for line in _resources.REPORT.markdown(table, archs).splitlines() if line.startswith("| ")]
    assert [row for row in rows[1:] if row not in page.splitlines()] == []


HELPED = (
    KERNELS.replace("2 * value", "helper(value)").replace("import triton\n", "import math\nimport triton\n", 1)
    + """
FACTOR: tl.constexpr = 2
UNUSED: tl.constexpr = 2

@triton.constexpr_function
def power(n):
    return math.prod([n, n])

@triton.jit
def helper(value):
    return power(3) * FACTOR * value
"""
)


def toy_hash(folder: Path, number: int, old: str = "", new: str = "", arch: int = 90, **changes: Any) -> str:
    """The hash of the toy kernel, with one text replaced and some fields of its case."""
    assert old in HELPED
    text = HELPED.replace(old, new, 1) if old else HELPED
    path = folder / f"toy_kernels_{number}.py"
    path.write_text(f"{text}\n\ndef aot_cases():\n    return [Case('toy', scale, {SCALE}, {VALUES})]\n")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return case_hash(replace(module.aot_cases()[0], **changes), arch)


def test_a_result_is_kept_until_the_kernel_changes(tmp_path: Path) -> None:
    before = toy_hash(tmp_path, 0)
    same = [("@triton.jit\ndef scale", "# Moved.\n\n@triton.jit\ndef scale"), ("UNUSED: tl.constexpr = 2", "")]
    assert {toy_hash(tmp_path, 1 + number, *each) for number, each in enumerate(same)} == {before}
    texts = [
        ("other=0.0", "other=1.0"),
        ("FACTOR * value", "value * FACTOR"),
        ("FACTOR: tl.constexpr = 2", "FACTOR: tl.constexpr = 3"),
        ("[n, n]", "[n, n, n]"),
    ]
    fields = [{"num_warps": 8}, {"num_stages": 1}, {"maxnreg": 64}, {"constexprs": {"BLOCK": 256, "stride": 1}}]
    hashes = [toy_hash(tmp_path, 10 + number, *each) for number, each in enumerate(texts)]
    hashes += [toy_hash(tmp_path, 20 + number, **each) for number, each in enumerate([*fields, {"arch": 80}])]
    assert len({before, *hashes}) == 1 + len(hashes)


def test_what_has_no_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FACTOR: a dict in a kernel, of which there is no hash"):
        toy_hash(tmp_path, 0, "FACTOR: tl.constexpr = 2", "FACTOR = {}")


def test_only_what_has_changed_and_a_sixteenth_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, other = Resources(90, 32, 0, 0, 128, 1.0), Resources(90, 40, 0, 0, 128, 0.75)
    cases = [Case(name, None, {}) for name in ("kept", "again", "wrong", "changed")]
    keys = {"kept": "10", "again": "00", "wrong": "01", "changed": "12"}
    path, record = tmp_path / "record.json", Record()
    for name, key in (keys | {"changed": "11"}).items():
        record.put(f"{name} sm_90", key, [32, 0, 0, 128])
    record.write(path)
    monkeypatch.setattr(_resources, "case_hash", lambda case, arch: keys[case.name])
    monkeypatch.setattr(_resources, "compile_case", lambda case, arch: other if case.name == "wrong" else fine)
    table, faults = _resources.measure(cases, [90], Record(path))
    assert {name: row[90].registers for name, row in table.items()} == {
        "kept": 32, "again": 32, "wrong": 40, "changed": 32
    }  # fmt: skip
    assert len(faults) == 1
    assert faults[0].startswith("wrong sm_90: 40 registers")


def test_the_compiled_modules_are_all_there_are() -> None:
    assert {name.rpartition(".")[2] for name in _resources.KERNEL_MODULES} == {
        "embedding", "far_field_conv", "fftconv", "fftconv_varlen", "implicit_filter", "layer_norm",
        "linear_cross_entropy", "mixer", "mixer_far", "mixer_step", "mixer_varlen", "position_dropout", "short_conv",
    }  # fmt: skip
