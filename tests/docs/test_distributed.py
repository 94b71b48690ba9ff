"""The script for Slurm and the example of two processes on the page about several GPUs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.ranks import run_ranks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"


def block(language: str, holds: str) -> str:
    """The only block of a language that holds a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if holds in text]
    return str(found)


def run_example(rank: int, text: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(text, "two.py", "exec"), {"__name__": "two"})
    return shown.getvalue()


def test_the_example_runs_in_two_processes() -> None:
    shown = run_ranks(2, run_example, block("python", "ContextShards"))
    assert "".join(shown) == block("text", "rank 0: positions")


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_the_slurm_script_starts_torchrun_on_every_machine(tmp_path: Path) -> None:
    for name, does in [("scontrol", "printf 'gpu07\\ngpu08\\n'"), ("srun", 'printf "%s\\n" "$@"')]:
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77"}
    environment = os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", block("sh", "#SBATCH")]
    words = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split("\n")
    given = dict(pairwise(words))
    assert given["--nnodes"] == "2"
    assert given["--rdzv-id"] == "77"
    assert given["--rdzv-endpoint"] == "gpu07:29500"
