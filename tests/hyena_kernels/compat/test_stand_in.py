"""``use_as`` puts a shim under the name of its library, and takes it out again."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest

from hyena_kernels import compat
from hyena_kernels.compat.stand_in import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_a_shim_can_be_imported_until_it_is_undone(name: str) -> None:
    before = dict(sys.modules)
    with compat.use_as(name):
        for suffix, names in MODULES[name].items():
            module = importlib.import_module(f"{name}{suffix}")
            assert importlib.util.find_spec(f"{name}{suffix}") is module.__spec__
            for each, function in names.items():
                assert getattr(module, each) is function
        with pytest.raises(ImportError):
            importlib.import_module(f"{name}.something_else")
    assert sys.modules == before


def test_imports_as_users_write_them() -> None:
    with compat.use_as("flashfftconv"):
        from flashfftconv import FlashFFTConv  # type: ignore[import-not-found]
    with compat.use_as("cudnn"):
        import cudnn  # type: ignore[import-not-found]
    with compat.use_as("subquadratic_ops_torch"):
        from subquadratic_ops_torch.causal_conv1d import causal_conv1d  # type: ignore[import-not-found]
    assert FlashFFTConv is compat.flashfftconv.FlashFFTConv
    assert cudnn.ops.fft_causal_conv1d is compat.cudnn.fft_causal_conv1d
    assert cudnn.ops.causal_conv1d is causal_conv1d is compat.cudnn.causal_conv1d


def test_can_be_undone_and_leaves_others_alone() -> None:
    stand_in = compat.use_as("flashfftconv")
    with pytest.raises(RuntimeError, match=r"flashfftconv is imported already .A stand-in by hyena_kernels.compat"):
        compat.use_as("flashfftconv")
    other = ModuleType("flashfftconv")
    sys.modules["flashfftconv"] = other
    stand_in.undo()
    assert sys.modules.pop("flashfftconv") is other


@pytest.mark.parametrize("loaded", ["causal_conv1d", "causal_conv1d.cpp_functions"])
def test_refuses_where_the_library_is_imported(loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ModuleType(loaded)
    real.__file__ = "/site-packages/causal_conv1d/__init__.py"
    monkeypatch.setitem(sys.modules, loaded, real)
    with pytest.raises(RuntimeError, match=rf"{loaded} is imported already \(/site-packages/.*\): call use_as"):
        compat.use_as("causal_conv1d")


def test_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no shim is called 'src.mm.hyena_utils'; there are flashfftconv, "):
        compat.use_as("src.mm.hyena_utils")
