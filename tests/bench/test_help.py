from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bench.common import machine
from bench.kernels import long_context, operator_vs_published


@pytest.mark.parametrize("module", [long_context, machine, operator_vs_published], ids=lambda m: m.__name__)
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
