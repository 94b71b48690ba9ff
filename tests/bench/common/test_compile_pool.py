"""bench.common.compile_pool with functions that compile nothing."""

from __future__ import annotations

import operator
import time
from pathlib import Path

import pytest

from bench.common.compile_pool import CompilePool


def test_jobs_run_in_processes_and_their_errors_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = CompilePool(2)
    try:
        pool.run(Path.write_text, [(tmp_path / name, name) for name in "ab"], seconds=60)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
        pool.run(operator.truediv, [(1, 0), (2, 0), (1, 1)], seconds=60)
        assert capsys.readouterr().out == "  compiling ahead: ZeroDivisionError('division by zero')\n"
        start = time.monotonic()
        pool.run(time.sleep, [(60,)], seconds=0)
        assert time.monotonic() - start < 30
    finally:
        pool.close()


def test_one_process_compiles_nothing_ahead(tmp_path: Path) -> None:
    pool = CompilePool(1)
    pool.run(Path.write_text, [(tmp_path / "a", "a")], seconds=60)
    pool.close()
    assert not list(tmp_path.iterdir())
