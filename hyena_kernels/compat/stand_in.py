"""``use_as``: a shim under the import name of the library whose calls it has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, TracebackType
from typing import Any

from hyena_kernels.compat import causal_conv1d, cudnn, fla, flashfftconv, safari

_Names = dict[str, Callable[..., Any]]
_FLASHFFTCONV: _Names = {name: getattr(flashfftconv, name) for name in flashfftconv.__all__}
_CAUSAL: _Names = {name: getattr(causal_conv1d, name) for name in ("causal_conv1d_fn", "causal_conv1d_update")}
_FLA: _Names = {name: getattr(fla, name) for name in fla.__all__}
_FFT: _Names = {"fft_causal_conv1d": cudnn.fft_causal_conv1d}
_SHORT: _Names = {"causal_conv1d": cudnn.causal_conv1d}

MODULES: dict[str, dict[str, _Names]] = {
    "flashfftconv": {"": _FLASHFFTCONV},
    "causal_conv1d": {
        "": _CAUSAL,
        ".causal_conv1d_interface": _CAUSAL,
        ".causal_conv1d_varlen": {"causal_conv1d_varlen_states": causal_conv1d.causal_conv1d_varlen_states},
    },
    "src.ops.fftconv": {"": {name: getattr(safari, name) for name in safari.__all__}},
    "cudnn": {"": {}, ".ops": _FFT | _SHORT},
    "subquadratic_ops_torch": {"": {}, ".fft_causal_conv1d": _FFT, ".causal_conv1d": _SHORT},
    "fla": {"": {}, ".modules": _FLA, ".modules.conv": _FLA, ".modules.convolution": _FLA},
}
"""Import names, their modules, and what each module holds."""


class StandIn:
    """Modules in ``sys.modules`` that :func:`use_as` has put there. A context manager: its end takes them out again."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def undo(self) -> None:
        """Take the modules out of ``sys.modules``. What was imported from them before keeps working."""
        for name, module in self._modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def use_as(name: str) -> StandIn:
    """Let ``import NAME`` find the shim, in this process, until it is undone.

    Call it before the code that imports the library. The shim has the names of ``hyena_kernels.compat`` and no others;
    an import of another name raises ImportError.

        with hyena_kernels.compat.use_as("flashfftconv"):
            from flashfftconv import FlashFFTConv

    Args:
        name: the import name: ``"flashfftconv"``, ``"causal_conv1d"``, ``"src.ops.fftconv"`` (safari and hyena-dna),
            ``"cudnn"``, ``"subquadratic_ops_torch"`` or ``"fla"``.

    Returns:
        A context manager, whose end takes the shim out again, as does its method ``undo()``.

    Raises:
        ValueError: there is no shim of this name.
        RuntimeError: the name is imported already, from the library or from another shim.
    """
    if name not in MODULES:
        raise ValueError(f"use_as: no shim is called {name!r}; there are {', '.join(MODULES)}")
    for loaded, module in sys.modules.items():
        if loaded == name or loaded.startswith(f"{name}."):
            where = getattr(module, "__file__", None) or getattr(module, "__doc__", None)
            raise RuntimeError(f"use_as: {loaded} is imported already ({where}): call use_as({name!r}) before")
    made: dict[str, ModuleType] = {}
    for suffix, names in MODULES[name].items():
        module = ModuleType(f"{name}{suffix}", f"A stand-in by hyena_kernels.compat for {name}{suffix}.")
        # importlib.util.find_spec refuses a module without one.
        module.__spec__ = ModuleSpec(module.__name__, None, origin=__name__, is_package=True)
        module.__path__ = []
        module.__dict__.update(names)
        parent, _, child = module.__name__.rpartition(".")
        if parent in made:
            # A function of the same name is what `from parent import child` means.
            made[parent].__dict__.setdefault(child, module)
        made[module.__name__] = module
    sys.modules.update(made)
    return StandIn(made)
