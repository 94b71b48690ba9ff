"""That ``make sanitize`` can be run; what it finds is for that target, which takes minutes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyena_kernels import _build

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "sanitizers" / "run.py"


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_knows_it() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    assert "python tests/sanitizers/run.py\n" in output("make", "--dry-run", "sanitize")
    assert "make sanitize" in output("make", "help")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are run on Linux")
def test_it_can_be_asked() -> None:
    assert "address" in output(sys.executable, str(RUN), "--help")


def test_every_test_that_it_names_is_there() -> None:
    (named,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(RUN.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TESTS"
    )
    for test in named:
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_program_for_the_thread_sanitizer_follows_the_kernels() -> None:
    if _build.obstacle("cpp") is not None:
        pytest.skip(f"needs a C++ compiler: {_build.obstacle('cpp')}")
    folder = _build.CSRC / "cpu"
    source = str(RUN.with_name("threads.cpp"))
    output(*_build._cxx(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{folder}", source)
