"""The metadata of the distribution, and the results of building it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from hyena_kernels import _build
from hyena_kernels._version import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {requirement.name: requirement for requirement in parsed}


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HYENA_")}
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_runtime_dependencies_are_torch_and_numpy(project: dict[str, Any]) -> None:
    needed = requirements(project["dependencies"])
    assert sorted(needed) == ["numpy", "torch"]
    assert "2.6" in needed["torch"].specifier
    assert "2.5.1" not in needed["torch"].specifier


def test_python_versions(project: dict[str, Any]) -> None:
    assert project["requires-python"] == ">=3.11"
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert listed == ["3.11", "3.12", "3.13", "3.14"]


def test_extras(project: dict[str, Any]) -> None:
    extras = {name: requirements(lines) for name, lines in project["optional-dependencies"].items()}
    assert sorted(extras) == [
        "bcf",
        "bench",
        "dev",
        "dna",
        "docs",
        "enbed",
        "flash-attn",
        "logs",
        "peft",
        "tasks",
        "umap",
    ]
    assert "4.57.0" not in extras["dna"]["transformers"].specifier
    assert all("torch" not in extra for extra in extras.values())
    for tool in ("ruff", "mypy"):
        assert re.fullmatch(r"==[0-9.]+", str(extras["dev"][tool].specifier)), f"{tool} is not pinned"


def test_version_stands_in_one_place(project: dict[str, Any]) -> None:
    import hyena_kernels

    assert "version" in project["dynamic"]
    assert hyena_kernels.__version__ == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_installed_metadata_and_console_script() -> None:
    try:
        installed = importlib.metadata.distribution("hyena-kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("hyena-kernels is not installed, only importable")
    assert installed.version == __version__
    (script,) = installed.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("hyenadna", "hyenadna_command:main")
    assert callable(script.load())


# Stands in for the CPU kernels, which take a minute to compile. The library is handled in the same way.
TINY = 'extern "C" int hyena_tiny() { return 1; }\n'
METADATA = f"hyena_kernels-{__version__}.dist-info"
PURE = f"hyena_kernels-{__version__}-py3-none-any.whl"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the files that a build reads, with one tiny source. So a build leaves nothing in the checkout."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "hyenadna_command.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_report.json")
    for name in ("hyena_kernels", "hyenadna", "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    csrc = folder / "csrc"
    (csrc / "cpu").mkdir(parents=True)
    (csrc / "cpu" / "tiny.cpp").write_text(TINY, encoding="utf-8")
    (csrc / "cpu" / "tiny.h").write_text("", encoding="utf-8")
    return folder


def setup_py(source: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("running setup.py needs setuptools installed")
    return run([sys.executable, "setup.py", *arguments], source, **environment)


def build_wheel(source: Path, **environment: str) -> tuple[str, set[str], dict[str, str]]:
    """Name of the wheel, its files, and its reasons for libraries that were not built."""
    done = setup_py(source, "--quiet", "bdist_wheel", **environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        report = json.loads(archive.read("hyena_kernels/_build_report.json"))
        assert archive.read(f"{METADATA}/WHEEL").decode().count("Tag:") == 1
    wheel.unlink()
    return wheel.name, {name for name in names if not name.startswith(METADATA)}, report


def files_of(source: Path) -> set[str]:
    """The files of the two packages in every wheel."""
    paths = [path for package in ("hyena_kernels", "hyenadna") for path in (source / package).rglob("*")]
    modules = {
        str(path.relative_to(source))
        for path in paths
        if path.suffix == ".py" or path.name in ("py.typed", "report.html")
    }
    # Tools of the tests stay in the checkout.
    modules = {name for name in modules if not name.startswith("hyena_kernels/testing/resources/")}
    csrc = [path for path in (source / "csrc").rglob("*") if path.is_file()]
    return (
        modules
        | {"hyenadna_command.py"}
        | {str("hyena_kernels" / path.relative_to(source)) for path in csrc}
        | {"hyena_kernels/_build_report.json"}
    )


@pytest.fixture
def compiler() -> None:
    """Skip where nothing can be compiled."""
    reason = _build.obstacle("cpp")
    if reason is not None:
        pytest.skip(f"needs a C++ compiler: {reason}")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_wheel_with_the_library_is_for_this_platform_and_every_python(source: Path) -> None:
    name, files, report = build_wheel(source)
    assert re.fullmatch(rf"hyena_kernels-{re.escape(__version__)}-cp311-abi3-\w+\.whl", name)
    assert files == files_of(source) | {"hyena_kernels/_C.abi3.so"}
    assert {file.split("/")[0] for file in files} == {"hyena_kernels", "hyenadna", "hyenadna_command.py"}
    assert report == {"cuda": "this version has no CUDA sources"}

    # A later build in the same folder uses nothing of this one.
    name, files, report = build_wheel(source, CXX="/nowhere/c++")
    assert name == PURE
    assert files == files_of(source)
    assert report["cpp"] == "no C++ compiler was found: /nowhere/c++ is not installed"


def test_wheel_without_the_extension_is_pure_python(source: Path) -> None:
    skipped = "HYENA_SKIP_EXT was set when the package was built"
    assert build_wheel(source, HYENA_SKIP_EXT="1") == (PURE, files_of(source), {"cpp": skipped, "cuda": skipped})


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_wheel_of_sources_that_do_not_compile_is_pure_python(source: Path) -> None:
    (source / "csrc" / "cpu" / "tiny.cpp").write_text("#error not today\n", encoding="utf-8")
    name, files, report = build_wheel(source)
    assert (name, files) == (PURE, files_of(source))
    assert re.fullmatch(r".*\+\+ failed: .*tiny\.cpp:1.* error: .*not today.*", report["cpp"])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            "raise ModuleNotFoundError('No module named torch', name='torch')",
            "torch was not found when the package was built",
        ),
        ("__version__ = '2.6.0'", "torch 2.10 or newer is needed, but 2.6.0 is installed"),
        ("raise OSError('libcudart.so is missing')", "torch cannot be imported: libcudart.so is missing"),
    ],
    ids=["none", "old", "broken"],
)
def test_wheel_without_a_torch_to_compile_against_is_pure_python(
    source: Path, tmp_path: Path, module: str, reason: str
) -> None:
    (tmp_path / "torch.py").write_text(module, encoding="utf-8")
    name, files, report = build_wheel(source, PYTHONPATH=str(tmp_path))
    assert (name, files) == (PURE, files_of(source))
    assert report["cpp"].startswith(reason)
    assert report["cuda"].startswith(reason)


@pytest.mark.slow
def test_pip_builds_a_wheel_with_the_licence(source: Path, tmp_path: Path) -> None:
    missing = [module for module in ("pip", "setuptools") if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"building a wheel without network needs {', '.join(missing)} installed")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    done = run([*command, "--wheel-dir", str(tmp_path / "wheels"), str(source)], source, HYENA_SKIP_EXT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name == PURE
    assert f"{METADATA}/licenses/LICENSE" in zipfile.ZipFile(wheel).namelist()


def test_source_distribution_holds_the_sources_and_no_build(source: Path) -> None:
    (source / "hyena_kernels" / "_C.abi3.so").write_text("built in place", encoding="utf-8")
    (source / "hyena_kernels" / "_build_report.json").write_text("{}", encoding="utf-8")
    done = setup_py(source, "--quiet", "sdist", HYENA_SKIP_EXT="1")
    assert done.returncode == 0, done.stderr
    (archive,) = (source / "dist").iterdir()
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "csrc/cpu/tiny.cpp", "csrc/cpu/tiny.h"} <= names
    assert not {name for name in names if name.endswith((".so", ".json"))}


def sources_of(package: Path) -> list[str]:
    """The sources that a package compiles, relative to the folder of the package."""
    spec = importlib.util.spec_from_file_location("_build_of_the_package", package / "_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [str(path.relative_to(package.parent.resolve())) for path in module.cpu_sources()]


def test_sources_are_found_in_a_checkout_and_in_an_installed_package(source: Path, tmp_path: Path) -> None:
    done = setup_py(source, "--quiet", "build_py", "--build-lib", str(tmp_path / "installed"))
    assert done.returncode == 0, done.stderr
    assert sources_of(source / "hyena_kernels") == ["csrc/cpu/tiny.cpp"]
    assert sources_of(tmp_path / "installed" / "hyena_kernels") == ["hyena_kernels/csrc/cpu/tiny.cpp"]
    # Folders that another branch left behind hold no sources.
    (source / "hyena_kernels" / "csrc").mkdir()
    assert sources_of(source / "hyena_kernels") == ["csrc/cpu/tiny.cpp"]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_building_in_place_leaves_nothing_of_an_earlier_build(source: Path) -> None:
    library, report = (source / "hyena_kernels" / name for name in ("_C.abi3.so", "_build_report.json"))
    done = setup_py(source, "--quiet", "build_ext", "--inplace")
    assert done.returncode == 0, done.stderr
    assert library.exists()
    assert "cpp" not in json.loads(report.read_text(encoding="utf-8"))
    done = setup_py(source, "--quiet", "build_ext", "--inplace", HYENA_SKIP_EXT="1")
    assert done.returncode == 0, done.stderr
    assert "warning: hyena_kernels is built without _C.abi3.so: HYENA_SKIP_EXT was set" in done.stderr
    assert not library.exists()
    assert "HYENA_SKIP_EXT" in json.loads(report.read_text(encoding="utf-8"))["cpp"]


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Variables for a build like pip's isolated one: importing torch fails."""
    (tmp_path / "isolated").mkdir()
    absent = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "isolated" / "torch.py").write_text(absent, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path / "isolated")}


@pytest.mark.slow
def test_building_in_place_without_torch_keeps_the_library_of_the_same_sources(
    source: Path, without_torch: dict[str, str]
) -> None:
    library, report = (source / "hyena_kernels" / name for name in ("_C.abi3.so", "_build_report.json"))
    library.write_text("of an earlier build", encoding="utf-8")
    for _ in range(2):
        done = setup_py(source, "--quiet", "build_ext", "--inplace", **without_torch)
        assert done.returncode == 0, done.stderr
        assert "warning: hyena_kernels keeps the _C.abi3.so of an earlier build: torch was not found" in done.stderr
        assert library.read_text(encoding="utf-8") == "of an earlier build"
        told = json.loads(report.read_text(encoding="utf-8"))
        assert (told.keys(), told["sources"].keys()) == ({"cuda", "sources"}, {"cpp"})
    # A library of other sources could do anything.
    (source / "csrc" / "cpu" / "tiny.h").write_text("// changed", encoding="utf-8")
    done = setup_py(source, "--quiet", "build_ext", "--inplace", **without_torch)
    assert "warning: hyena_kernels is built without _C.abi3.so: torch was not found" in done.stderr
    assert not library.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_fails_leaves_the_library_of_the_same_sources(source: Path, tmp_path: Path) -> None:
    library = source / "hyena_kernels" / "_C.abi3.so"
    assert setup_py(source, "--quiet", "build_ext", "--inplace").returncode == 0
    before = library.read_bytes()
    compiler = fake_compiler(tmp_path / "g++", "exit 1")
    done = setup_py(source, "--quiet", "build_ext", "--inplace", CXX=str(compiler))
    assert "warning: hyena_kernels keeps the _C.abi3.so of an earlier build" in done.stderr
    assert library.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "this version has no CUDA sources"),
        ({"HYENA_SKIP_EXT": "1"}, "HYENA_SKIP_EXT was set when the package was built"),
        ({"CXX": "/nowhere/c++"}, "no C++ compiler was found: /nowhere/c++ is not installed"),
    ],
)
def test_forced_cuda_fails_with_one_line(source: Path, environment: dict[str, str], reason: str) -> None:
    done = setup_py(source, "--version", HYENA_FORCE_CUDA="1", **environment)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line == f"error: HYENA_FORCE_CUDA=1, and the CUDA library cannot be built: {reason}"


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_forced_cuda_fails_when_nvcc_does(source: Path, tmp_path: Path) -> None:
    (source / "csrc" / "cuda").mkdir()
    (source / "csrc" / "cuda" / "tiny.cu").write_text(TINY, encoding="utf-8")
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    major = (torch.version.cuda or "13").split(".")[0]
    nvcc.write_text(f"#!/bin/sh\necho release {major}.0 compute_80\n[ $# = 1 ] || exit 1\n", encoding="utf-8")
    nvcc.chmod(0o755)
    environment = {"CUDA_HOME": str(nvcc.parents[1]), "HYENA_FORCE_CUDA": "1"}
    assert setup_py(source, "--version", **environment).returncode == 0
    done = setup_py(source, "--quiet", "bdist_wheel", **environment)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(
        "error: HYENA_FORCE_CUDA=1, and the CUDA library cannot be built: nvcc failed: "
    )
    assert not list(source.glob("dist/*.whl"))


def fake_compiler(path: Path, body: str, version: int = 12) -> Path:
    """A script that claims to be a GCC, and runs ``body`` instead of compiling."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) echo "#define __GNUC__ {version}"; exit 0;; esac\n{body}\n')
    path.chmod(0o755)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the extension is not compiled on Windows yet")
@pytest.mark.parametrize(
    ("body", "version", "reason"),
    [
        ("exit 0", 7, "is GCC 7, but GCC 9 or newer is needed"),
        ("echo 'tiny.s: fatal error: No space left on device'; exit 1", 12, "fatal error: No space left on device"),
        ("kill -9 $$", 12, "failed: exit status -9"),
    ],
    ids=["old", "no disk", "killed"],
)
def test_wheel_by_a_bad_compiler_is_pure_python(
    source: Path, tmp_path: Path, body: str, version: int, reason: str
) -> None:
    compiler = fake_compiler(tmp_path / "g++", body, version)
    name, files, report = build_wheel(source, CXX=str(compiler))
    assert (name, files) == (PURE, files_of(source))
    assert report["cpp"].endswith(reason)


@pytest.mark.skipif(sys.platform == "win32", reason="the extension is not compiled on Windows yet")
def test_toolkit_of_another_major_version(source: Path, tmp_path: Path) -> None:
    (source / "csrc" / "cuda").mkdir()
    (source / "csrc" / "cuda" / "tiny.cu").write_text(TINY, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho release 12.8, V12.8.1 compute_80\n", encoding="utf-8")
    nvcc.chmod(0o755)
    (tmp_path / "torch.py").write_text(
        "__version__ = '2.13.0'\nclass version:\n    cuda, hip = '13.0', None\n", encoding="utf-8"
    )
    compiler = fake_compiler(tmp_path / "g++", "exit 1")
    environment = {"PYTHONPATH": str(tmp_path), "CUDA_HOME": str(tmp_path), "CXX": str(compiler)}
    reason = "nvcc is from CUDA 12.8, but torch 2.13.0 was built with CUDA 13.0"
    name, files, report = build_wheel(source, **environment)
    assert (name, files) == (PURE, files_of(source))
    assert "hyena_kernels/csrc/cuda/tiny.cu" in files
    assert report["cuda"] == reason
    done = setup_py(source, "--quiet", "bdist_wheel", HYENA_FORCE_CUDA="1", **environment)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        f"error: HYENA_FORCE_CUDA=1, and the CUDA library cannot be built: {reason}"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the extension is not compiled on Windows yet")
def test_an_interrupted_build_says_so_and_leaves_no_library(source: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("running setup.py needs setuptools installed")
    package = source / "hyena_kernels"
    (package / "_C.abi3.so").write_text("of an earlier build", encoding="utf-8")
    (package / "_build_report.json").write_text('{"sources": {"cpp": "others"}}', encoding="utf-8")
    # The build is killed while its compiler runs.
    compiler = fake_compiler(tmp_path / "g++", 'kill -9 "$PPID"')
    done = setup_py(source, "--quiet", "build_ext", "--inplace", CXX=str(compiler))
    assert done.returncode == -9
    assert not list(package.glob("*.so"))
    told = run([sys.executable, "-m", "hyena_kernels"], source, HYENA_CACHE=str(tmp_path / "cache"))
    assert "was not built: the build was interrupted" in told.stdout, told.stderr
