"""Sources, compilers and commands of the build, and its errors. The compilers here are small scripts."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch

from hyena_kernels import _build
from hyena_kernels._build import BuildError

VARIABLES = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the extension is not compiled on Windows yet")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "HYENA_SKIP_EXT", "HYENA_FORCE_CUDA"):
        monkeypatch.delenv(name, raising=False)


def script(path: Path, body: str) -> Path:
    """A program in Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def toolkit(folder: Path, release: str = "13.0", archs: str = "80 90 120") -> Path:
    """A CUDA_HOME whose nvcc tells its version and architectures, and compiles nothing."""
    script(
        folder / "bin" / "nvcc",
        f"""
if "--version" in sys.argv: print("Cuda compilation tools, release {release}, V{release}.1")
elif "--list-gpu-arch" in sys.argv: print(*("compute_" + a for a in {archs!r}.split()), sep="\\n")
else: open(sys.argv[sys.argv.index("-o") + 1], "w").write(" ".join(sys.argv))""",
    )
    return folder


@pytest.fixture
def cuda_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A torch for CUDA 13, and a CUDA source."""
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(_build, "cuda_sources", lambda: [tmp_path / "x.cu"])


@pytest.fixture
def one_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    source = tmp_path / "tiny.cpp"
    source.write_text("int tiny() { return 1; }\n", encoding="utf-8")
    monkeypatch.setattr(_build, "cpu_sources", lambda: [source])
    return source


def test_every_source_is_listed_and_shipped() -> None:
    listed = {*_build.cpu_sources(), *_build.cuda_sources()}
    assert listed == {path for path in _build.CSRC.rglob("*") if path.suffix in (".cpp", ".cu")}
    assert (_build.CSRC / "cpu" / "bindings.cpp") in listed


def test_flags_name_the_oldest_torch() -> None:
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in _build.CXX_FLAGS
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in _build.NVCC_FLAGS


def test_source_hash_follows_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(_build.CSRC, tmp_path / "csrc")
    monkeypatch.setattr(_build, "CSRC", tmp_path / "csrc")
    before = _build.source_hash()
    assert before == _build.source_hash()
    (tmp_path / "csrc" / "common" / "view.h").write_text("", encoding="utf-8")
    assert _build.source_hash() != before


@pytest.mark.parametrize(("value", "on"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_switches(monkeypatch: pytest.MonkeyPatch, value: str | None, on: bool) -> None:
    if value is not None:
        monkeypatch.setenv("HYENA_SKIP_EXT", value)
    assert _build.switched_on("HYENA_SKIP_EXT") is on


def test_a_torch_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert _build.obstacle("cpp") == "torch 2.10 or newer is needed, but 2.9.1+cpu is installed"


def test_a_build_without_torch_says_how_pip_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for backend in _build.LIBRARIES:
        reason = _build.obstacle(backend)
        assert reason is not None
        assert "torch was not found" in reason
        assert "--no-build-isolation" in reason


def test_a_broken_torch_is_an_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so:\\n cannot open')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    assert _build.obstacle("cpp") == "torch cannot be imported: libtorch.so: cannot open"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('#define __GNUC__ 7')", "CXX is GCC 7, but GCC 9 or newer is needed"),
        (
            "print('#define __clang__ 1\\n#define __GNUC__ 4\\n#define __clang_major__ 9')",
            "CXX is Clang 9, but Clang 11 or newer is needed",
        ),
        ("print('no macros')", "CXX is GCC of an unknown version, but GCC 9 or newer is needed"),
        ("sys.exit('cxx: error: licence expired')", "cxx failed: cxx: error: licence expired"),
    ],
)
def test_compilers_that_are_too_old_or_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, reason: str
) -> None:
    compiler = script(tmp_path / "cxx", body)
    monkeypatch.setenv("CXX", str(compiler))
    assert _build.obstacle("cpp") == reason.replace("CXX", str(compiler))


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _build.obstacle("cpp") == "no C++ compiler was found: c++ is not installed"
    monkeypatch.setenv("CXX", "/nowhere/g++ -m64")
    assert _build.obstacle("cpp") == "no C++ compiler was found: /nowhere/g++ is not installed"


def new_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path, otherwise: str = "") -> None:
    """A compiler that claims to be GCC 12, and runs ``otherwise`` instead of compiling."""
    body = f"if '-dM' in sys.argv: print('#define __GNUC__ 12')\nelse:\n    {otherwise or 'pass'}"
    monkeypatch.setenv("CXX", str(script(folder / "g++", body)))


@pytest.mark.usefixtures("cuda_torch")
def test_cuda_needs_a_toolkit_of_the_major_version_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    assert _build.obstacle("cuda") is None
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "old", "12.8")))
    expected = f"nvcc is from CUDA 12.8, but torch {torch.__version__} was built with CUDA 13.2"
    assert _build.obstacle("cuda") == expected
    # A version that differs from torch's cannot be forced.
    monkeypatch.setenv("HYENA_FORCE_CUDA", "1")
    assert _build.obstacle("cuda") == expected


@pytest.mark.usefixtures("cuda_torch")
def test_where_nvcc_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "empty"))
    assert _build.obstacle("cuda") == f"CUDA_HOME is {tmp_path / 'empty'}, which has no bin/nvcc"
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(_build.shutil, "which", lambda name: None)
    monkeypatch.setattr(_build, "_cxx_obstacle", lambda: None)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert _build.obstacle("cuda") == "no nvcc was found: CUDA_HOME is not set, and nvcc is not on the path"


@pytest.mark.usefixtures("cuda_torch")
def test_a_torch_without_cuda_is_passed_over_unless_forced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert re.search("is built without CUDA", _build.obstacle("cuda") or "")
    monkeypatch.setenv("HYENA_FORCE_CUDA", "1")
    assert _build.obstacle("cuda") is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert re.search("is built for ROCm", _build.obstacle("cuda") or "")
    monkeypatch.setattr(_build, "cuda_sources", lambda: [])
    assert _build.obstacle("cuda") == "this version has no CUDA sources"


@pytest.mark.usefixtures("cuda_torch")
def test_no_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    for name in ("is_available", "device_count", "get_device_capability", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: pytest.fail("the build looked for a GPU"))
    assert _build.obstacle("cuda") is None


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        (None, ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_120,code=sm_120",
                "arch=compute_120,code=compute_120"]),
        ("9.0", ["arch=compute_90,code=sm_90"]),
        ("8.0 9.0a;12.0+PTX", ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a",
                               "arch=compute_120,code=sm_120", "arch=compute_120,code=compute_120"]),
    ],
)  # fmt: skip
def test_architectures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None, flags: list[str]) -> None:
    if asked is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    nvcc = toolkit(tmp_path) / "bin" / "nvcc"
    assert _build.architecture_flags(nvcc) == [f"-gencode={flag}" for flag in flags]


def test_architectures_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = toolkit(tmp_path, archs="75") / "bin" / "nvcc"
    with pytest.raises(BuildError, match="supports none of the compute capabilities 8"):
        _build.architecture_flags(nvcc)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;Hopper")
    with pytest.raises(BuildError, match="TORCH_CUDA_ARCH_LIST contains 'Hopper'"):
        _build.architecture_flags(nvcc)


@pytest.mark.usefixtures("cuda_torch")
def test_cuda_is_compiled_with_nvcc_alone_and_needs_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda")))
    monkeypatch.setenv("CXXFLAGS", "-march=native")
    (command,) = _build.compile_library("cuda", tmp_path).read_text(encoding="utf-8").splitlines()
    assert command.startswith(f"{tmp_path}/cuda/bin/nvcc -shared -cudart=static ")
    assert "torch_python" not in command
    assert "-march=native" not in command


@pytest.mark.parametrize(("jobs", "expected"), [("3", 3), ("1", 1), ("0", None), ("many", None), ("", None)])
def test_max_jobs(monkeypatch: pytest.MonkeyPatch, jobs: str, expected: int | None) -> None:
    monkeypatch.setenv("MAX_JOBS", jobs)
    assert _build._jobs() == (expected or len(os.sched_getaffinity(0)))


def test_a_failure_keeps_the_rest_from_starting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAX_JOBS", "1")
    places = [tmp_path / str(number) for number in range(50)]
    slow = [["sh", "-c", f"sleep 0.1; touch '{place}'"] for place in places]
    with pytest.raises(BuildError, match=r"^false failed: exit status 1$"):
        _build._run_all([["false"], *slow], verbose=False)
    # The next ones may start before the failure is noticed.
    assert not places[-1].exists()


def test_verbose_shows_the_command_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BuildError):
        _build._run_all([["echo", "fine"], ["false", "--with flags"]], verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert {"echo fine", "fine", "false '--with flags'"} == set(lines)


def test_a_library_appears_whole(one_source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if _build.obstacle("cpp") is not None:
        pytest.skip(f"needs a C++ compiler: {_build.obstacle('cpp')}")
    folder = tmp_path / "made" / "here"
    library = _build.compile_library("cpp", folder, verbose=True)
    assert list(folder.iterdir()) == [library]
    assert library.name == "_C.abi3.so"
    assert library.read_bytes().startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe"))
    assert f"-c {one_source}" in capfd.readouterr().out


@pytest.mark.usefixtures("one_source")
@pytest.mark.parametrize(
    ("otherwise", "reason"),
    [
        (
            "print('In file included\\nx.cpp:1: fatal error: No space left on device\\nmore'); sys.exit(1)",
            "g++ failed: x.cpp:1: fatal error: No space left on device",
        ),
        ("print('x.cpp: note\\nstopped'); sys.exit(1)", "g++ failed: stopped"),
        ("import os; os.kill(os.getpid(), 9)", "g++ failed: exit status -9"),
        # It succeeds, but writes no library.
        ("pass", "_C.abi3.so cannot be written: [Errno 2] No such file"),
    ],
)
def test_a_build_that_fails_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, otherwise: str, reason: str
) -> None:
    new_compiler(monkeypatch, tmp_path, otherwise)
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "_C.abi3.so").write_text("before", encoding="utf-8")
    with pytest.raises(BuildError) as failure:
        _build.compile_library("cpp", folder)
    assert str(failure.value).startswith(reason)
    assert [path.read_text(encoding="utf-8") for path in folder.iterdir()] == ["before"]


@pytest.mark.usefixtures("one_source")
def test_the_log_of_a_failure_holds_command_and_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path, "print('all about it'); sys.exit(1)")
    with pytest.raises(BuildError) as failure:
        _build.compile_library("cpp", tmp_path / "package")
    assert "tiny.cpp -o " in failure.value.log
    assert "all about it" in failure.value.log


@pytest.mark.usefixtures("one_source")
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_compiler(monkeypatch, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BuildError, match=r"^_C\.abi3\.so cannot be written: "):
        _build.compile_library("cpp", tmp_path / "file" / "folder")
