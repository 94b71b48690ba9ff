"""Finding and refusing compiled libraries, ``build_ext`` and the command line."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hyena_kernels
from hyena_kernels import _build, backend
from hyena_kernels.__main__ import main
from hyena_kernels._build import BuildError
from hyena_kernels.backends import extension as support
from hyena_kernels.common.reasons import cuda_obstacle

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of a package without libraries and of an empty cache."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(support, "_PACKAGE", tmp_path / "package")
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    support.cache_folder.cache_clear()
    support._load.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    support.cache_folder.cache_clear()
    support._load.cache_clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the libraries that a fake loader loads. It refuses a file that contains ``bad``."""
    paths: list[Path] = []

    def load(name: str) -> None:
        if Path(name).read_text(encoding="utf-8") == "bad":
            raise OSError(f"Could not load this library: {name}") from OSError("undefined symbol:\n torch_next")
        paths.append(Path(name))

    monkeypatch.setattr(torch.ops, "load_library", load)
    return paths


def put(folder: Path, content: str = "good", name: str = "_C.abi3.so") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def reason() -> str:
    (only,) = support.obstacles("cpp", CPU)
    return only


def test_the_package_comes_before_the_cache(places: Path, loaded: list[Path]) -> None:
    cached = put(support.cache_folder())
    assert support.library("cpp") == cached
    support._load.cache_clear()
    packaged = put(places / "package")
    assert support.library("cpp") == packaged
    assert support.obstacles("cpp", CPU) == []
    assert support.describe()[0] == f"C++ extension: cpp runs {packaged}"
    assert loaded == [cached, packaged]


@pytest.mark.usefixtures("loaded")
def test_a_library_that_does_not_load_gives_way_to_the_next(places: Path) -> None:
    packaged = put(places / "package", "bad")
    assert reason() == f"failed to load {packaged}: undefined symbol: torch_next"
    assert support.library("cpp") is None
    support._load.cache_clear()
    cached = put(support.cache_folder())
    assert support.library("cpp") == cached


def test_a_torch_older_than_the_libraries_is_told_before_loading(
    monkeypatch: pytest.MonkeyPatch, places: Path, loaded: list[Path]
) -> None:
    put(places / "package")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert reason() == "needs torch 2.10 or newer, and 2.9.1 is installed"
    assert loaded == []


NOT_BUILT = "needs the compiled extension (hyena_kernels.build_ext() compiles it), which was not built"


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (None, " with this installation"),
        ("", " with this installation"),
        ('{"cpp": "no dis', " with this installation"),
        ("[]", " with this installation"),
        ('{"cuda": "no nvcc"}', " with this installation"),
        ('{"cpp": "no disk"}', ": no disk"),
    ],
)
def test_the_reason_of_the_build_is_told(places: Path, report: str | None, told: str) -> None:
    if report is not None:
        put(places / "package", report, _build.REPORT)
    assert reason() == NOT_BUILT + told
    assert support.describe()[0] == f"C++ extension: cpp {NOT_BUILT}{told}"


def test_cache_folder_tells_versions_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = support.cache_folder()
    assert first.parent == tmp_path / "cache"
    assert first.name.startswith(f"{hyena_kernels.__version__}-torch{'.'.join(torch.__version__.split('.')[:2])}-")
    assert first.name.endswith(_build.source_hash())
    for target, name, value in (
        (torch, "__version__", "2.99.0"),
        (torch.version, "cuda", "99.1"),
        (_build, "source_hash", lambda: "0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            support.cache_folder.cache_clear()
            assert support.cache_folder().parent == first.parent
            assert support.cache_folder() != first


def test_cache_folder_follows_the_usual_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HYENA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    support.cache_folder.cache_clear()
    assert support.cache_folder().parent == tmp_path / "xdg" / "hyena_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    support.cache_folder.cache_clear()
    assert support.cache_folder().parent == tmp_path / "home" / ".cache" / "hyena_kernels"


# Real libraries are loaded in another process, because a bad one may end it.
LOAD = """
import sys
from pathlib import Path
from hyena_kernels.backends import extension as support
for folder in map(Path, sys.argv[1:]):
    support._PACKAGE = folder
    support._load.cache_clear()
    print(*support._load("cpp"), flush=True)
"""


def load_in_a_process(*folders: Path) -> list[str]:
    command = [sys.executable, "-c", LOAD, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="cuts ELF files")
def test_bad_libraries_are_refused_and_do_no_harm(tmp_path: Path) -> None:
    if _build.obstacle("cpp") is not None:
        pytest.skip(f"needs a C++ compiler: {_build.obstacle('cpp')}")
    newer = put(tmp_path / "newer", 'extern "C" int aoti_of_2_99(); int call = aoti_of_2_99();', "newer.cpp")
    library = newer.with_name("_C.abi3.so")
    subprocess.run([*_build._cxx(), "-shared", "-fPIC", str(newer), "-o", str(library)], check=True)
    whole = library.read_bytes()
    folders = [newer.parent]
    for fraction in (0.0, 0.001, 0.1, 0.5, 0.99):
        folders.append(put(tmp_path / f"cut at {fraction}").parent)
        (folders[-1] / "_C.abi3.so").write_bytes(whole[: int(fraction * len(whole))])
    folders.append(
        put(tmp_path / "text", "not a library, and longer than the header of one would be, to be read").parent
    )

    told = load_in_a_process(*folders)
    assert len(told) == len(folders)
    for line, folder in zip(told, folders, strict=True):
        assert line.startswith(f"None failed to load {folder / '_C.abi3.so'}: "), line
    assert "undefined symbol: aoti_of_2_99" in told[0]
    assert told[3].endswith("the file is incomplete")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch, loaded: list[Path]) -> list[str]:
    """The backends that were compiled: cpp compiles to a good library, and cuda has an obstacle."""
    done: list[str] = []

    def compile_library(backend: str, folder: Path, *, verbose: bool = False) -> Path:
        done.append(backend)
        return put(folder, name=_build.LIBRARIES[backend])

    monkeypatch.setattr(_build, "obstacle", {"cpp": None, "cuda": "no nvcc was found"}.get)
    monkeypatch.setattr(_build, "compile_library", compile_library)
    return done


def test_build_ext_compiles_once_for_every_later_process(compiles: list[str]) -> None:
    assert reason().startswith(NOT_BUILT)
    assert hyena_kernels.build_ext() == ["cpp"]
    assert support.obstacles("cpp", CPU) == []
    assert support.library("cpp") == support.cache_folder() / "_C.abi3.so"
    support._load.cache_clear()
    assert hyena_kernels.build_ext() == ["cpp"]
    assert compiles == ["cpp"]


@pytest.mark.usefixtures("compiles")
def test_what_build_ext_could_not_compile_is_told_later() -> None:
    hyena_kernels.build_ext()
    support._load.cache_clear()
    assert support.describe()[1] == f"C++ extension: cuda {NOT_BUILT}: no nvcc was found"


def test_build_ext_leaves_alone_what_was_installed(places: Path, compiles: list[str]) -> None:
    put(places / "package")
    assert hyena_kernels.build_ext() == ["cpp"]
    assert compiles == []


def test_build_ext_raises_when_nothing_can_be_built(monkeypatch: pytest.MonkeyPatch, compiles: list[str]) -> None:
    def fail(backend: str, folder: Path, *, verbose: bool = False) -> Path:
        raise BuildError("g++ failed: no disk", "all that g++ said")

    monkeypatch.setattr(_build, "compile_library", fail)
    with pytest.raises(RuntimeError) as failure:
        hyena_kernels.build_ext()
    assert str(failure.value) == (
        "no library of the compiled extension could be built: 'cpp': g++ failed: no disk; 'cuda': no nvcc was found"
    )
    support._load.cache_clear()
    assert reason() == f"{NOT_BUILT}: g++ failed: no disk"
    # A later attempt that succeeds removes the reason.
    monkeypatch.setattr(
        _build, "compile_library", lambda backend, folder, verbose: put(folder, name=_build.LIBRARIES[backend])
    )
    assert hyena_kernels.build_ext() == ["cpp"]
    assert json.loads((support.cache_folder() / _build.REPORT).read_text()) == {"cuda": "no nvcc was found"}


@pytest.mark.usefixtures("compiles")
def test_build_ext_says_what_it_compiled_and_cannot_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _build, "compile_library", lambda backend, folder, verbose: put(folder, "bad", _build.LIBRARIES[backend])
    )
    with pytest.raises(RuntimeError, match=r"'cpp': failed to load .*: undefined symbol: torch_next"):
        hyena_kernels.build_ext()


@pytest.mark.usefixtures("compiles")
def test_build_ext_without_a_folder_to_write_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYENA_CACHE", str(put(tmp_path, "a file")))
    support.cache_folder.cache_clear()
    with pytest.raises(RuntimeError, match=r"the folder .* cannot be written \(HYENA_CACHE names another\)"):
        hyena_kernels.build_ext()


def slow_build(cache: str, log: str) -> None:
    def compile_library(backend: str, folder: Path, *, verbose: bool = False) -> Path:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{backend}\n")
        return put(folder, name=_build.LIBRARIES[backend])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYENA_CACHE", cache)
        patch.setattr(torch.ops, "load_library", lambda name: None)
        patch.setattr(_build, "obstacle", {"cpp": None, "cuda": "none"}.get)
        patch.setattr(_build, "compile_library", compile_library)
        support._load.cache_clear()
        assert hyena_kernels.build_ext() == ["cpp"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_processes_that_build_at_the_same_time_compile_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=slow_build, args=(str(tmp_path / "cache"), str(log))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text(encoding="utf-8") == "cpp\n"


def test_command_line_without_arguments_describes(capsys: pytest.CaptureFixture[str], compiles: list[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith(f"hyena_kernels {hyena_kernels.__version__}, ")
    assert compiles == []


def test_command_line_builds_and_describes(capsys: pytest.CaptureFixture[str], compiles: list[str]) -> None:
    assert main(["--build"]) == 0
    assert f"cpp runs {support.cache_folder() / '_C.abi3.so'}" in capsys.readouterr().out
    assert compiles == ["cpp"]


def test_command_line_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compiles: list[str]
) -> None:
    monkeypatch.setattr(_build, "obstacle", lambda backend: "no C++ compiler was found")
    with pytest.raises(SystemExit) as exit_:
        main(["--build"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no library of the compiled extension could be built: 'cpp': no C++ compiler")


def test_command_line_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "example: python -m hyena_kernels --build" in capsys.readouterr().out


def test_verbose_needs_build() -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--verbose"])
    assert exit_.value.code == 2


@pytest.mark.slow
def test_the_compiled_backend_runs_from_the_cache(places: Path) -> None:
    packaged = ROOT / "hyena_kernels" / "_C.abi3.so"
    if not packaged.exists():
        pytest.skip("needs the CPU library in the checkout: make venv")
    support.cache_folder().mkdir(parents=True)
    shutil.copy(packaged, support.cache_folder())
    assert load_in_a_process(places / "package") == [f"{support.cache_folder() / '_C.abi3.so'} "]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["describe", "help"])
def test_output_that_is_cut_off_ends_in_silence(arguments: list[str]) -> None:
    """As in ``python -m hyena_kernels | head -1``, with a reader that is gone from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hyena_kernels", *arguments]
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ""
    # argparse may have noticed first, and does not tell.
    assert done.returncode == 141 or "--help" in arguments


def test_build_ext_does_not_return_what_cannot_run_here(
    places: Path, loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places / "package")
    put(places / "package", name="_cuda.abi3.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda_obstacle.cache_clear()
    try:
        assert hyena_kernels.build_ext() == ["cpp"]
    finally:
        monkeypatch.undo()
        cuda_obstacle.cache_clear()


@pytest.mark.parametrize(("compiler", "told"), [(None, True), ("no compiler", False)], ids=["compiler", "none"])
def test_one_warning_where_the_extension_could_have_been_built(
    compiler: str | None, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_build, "obstacle", lambda backend: compiler)
    monkeypatch.setattr(backend, "_warned", False)
    monkeypatch.setattr(backend, "_forced", None)
    monkeypatch.setattr(backend, "_announced", set())
    x, weight = torch.ones(1, 1, 4), torch.ones(1, 2)
    with caplog.at_level(logging.WARNING, logger="hyena_kernels"):
        hyena_kernels.short_conv(x, weight, backend="torch")
        assert caplog.messages == []
        for _ in range(2):
            hyena_kernels.short_conv(x, weight)
            hyena_kernels.fftconv(x, weight)
    assert len(caplog.messages) == told
    if told:
        assert "'cpp' was not built with this installation. `python -m hyena_kernels --build`" in caplog.text
