from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from bench.common import machine
from bench.kernels import (
    bands,
    cluster,
    enbed,
    far_field,
    far_field_errors,
    gpu,
    long_context,
    operator_vs_published,
    packed_commands,
    porting,
    sparse_filters,
    step_memory,
    step_profile,
    targets,
    thread_scaling,
    tune_triton,
    two_sided,
)
from bench.suite import __main__ as bench_suite


@pytest.mark.parametrize(
    "module",
    [
        bands,
        cluster,
        enbed,
        far_field,
        far_field_errors,
        long_context,
        machine,
        operator_vs_published,
        packed_commands,
        porting,
        sparse_filters,
        step_memory,
        step_profile,
        thread_scaling,
        two_sided,
    ],
    ids=lambda m: m.__name__,
)
def test_help_names_the_command_and_tells_every_option(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m {module.__name__} ")
    options = shown.partition("options:")[2]
    assert options.count("(default: ") == options.count("  --")


def test_the_name_of_the_device_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["machine.py"])
    machine.main()
    assert capsys.readouterr().out == f"{machine.folder_name()}\n"


@pytest.mark.parametrize(("module", "name"), [(bench_suite, "bench.suite"), (targets, "bench.kernels.targets")])
def test_help_of_the_suite_has_an_example_and_every_option(
    module: ModuleType, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m {name} ")
    assert f"\n    python -m {name}\n" in shown
    for option in ("--json", "--seconds", "--workload", "--implementation", "--l2", "--launch", "--processes"):
        assert f"\n  {option} " in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (tune_triton, []),
        (gpu, []),
        (step_profile, ["--device=cuda"]),
        (bench_suite, ["--device=cuda"]),
        (targets, ["--device=cuda"]),
    ],
    ids=lambda each: each.__name__ if isinstance(each, ModuleType) else "",
)
def test_without_a_gpu_there_is_one_clear_line(
    module: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    assert ended.value.code == 2
    assert "there is no CUDA device" in capsys.readouterr().err.splitlines()[-1]
