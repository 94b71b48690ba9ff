"""What the distribution declares, and what building it gives."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

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
    assert sorted(extras) == ["dev", "dna", "logs"]
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
    assert (script.name, script.value) == ("hyenadna", "hyenadna.cli:main")
    assert callable(script.load())


def test_setup_with_the_extension_skipped() -> None:
    done = run([sys.executable, "setup.py", "--version"], ROOT, HYENA_SKIP_EXT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == __version__


def test_setup_refuses_cuda_without_sources() -> None:
    done = run([sys.executable, "setup.py", "--version"], ROOT, HYENA_FORCE_CUDA="1")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "HYENA_FORCE_CUDA" in line
    assert "no CUDA sources" in line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what a build reads, so that it leaves nothing in the checkout."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("hyena_kernels", "hyenadna", "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build_wheel(source: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    missing = [module for module in ("pip", "setuptools") if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"building a wheel without network needs {', '.join(missing)} installed")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    return run([*command, "--wheel-dir", str(out), str(source)], source, **environment)


def test_wheel_is_pure_python_and_holds_the_two_packages_alone(source: Path, tmp_path: Path) -> None:
    done = build_wheel(source, tmp_path / "wheels")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name == f"hyena_kernels-{__version__}-py3-none-any.whl"

    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"hyena_kernels-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"hyena_kernels", "hyenadna", metadata}
    assert f"{metadata}/licenses/LICENSE" in names
    expected = {
        str(path.relative_to(source))
        for package in ("hyena_kernels", "hyenadna")
        for path in (source / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert {name for name in names if not name.startswith(metadata)} == expected


def test_wheel_build_refuses_cuda_without_sources(source: Path, tmp_path: Path) -> None:
    done = build_wheel(source, tmp_path / "wheels", HYENA_FORCE_CUDA="1")
    assert done.returncode != 0
    assert "no CUDA sources" in done.stdout + done.stderr
    assert not list((tmp_path / "wheels").glob("*.whl"))
