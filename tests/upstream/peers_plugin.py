"""A plugin of pytest: other libraries' tests of their GPU kernels, on the shims and on the CPU.

The tests name their device "cuda". Here that means the CPU, for tensors, modules, autocast and the default device. The
shims stand in for the compiled library. The library's own functions in plain PyTorch, which its tests compare with, are
read from the checkout in ``PEERS_CHECKOUT``.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from hyena_kernels import compat

CHECKOUT = Path(os.environ["PEERS_CHECKOUT"])
LARGEST = int(os.environ["PEERS_LARGEST"])
"""Elements of a test's signal, at most. Larger ones are deselected."""
CPU = torch.device("cpu")


def on_cpu(device: Any) -> Any:
    """A device, or something else; the CPU for any GPU."""
    named = isinstance(device, str) and device.partition(":")[0] == "cuda"
    return CPU if named or (isinstance(device, torch.device) and device.type == "cuda") else device


class CudaMeansCpu(TorchFunctionMode):
    """Calls of torch with the CPU in place of a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        changed = {name: on_cpu(value) for name, value in (kwargs or {}).items()}
        return func(*map(on_cpu, args), **changed)


def _redirect() -> None:
    """What the mode does not see: modules, autocast, the default device, streams."""
    to, autocast = torch.nn.Module.to, torch.autocast.__init__

    def module_to(self: Any, *args: Any, **kwargs: Any) -> Any:
        return to(self, *map(on_cpu, args), **{name: on_cpu(value) for name, value in kwargs.items()})

    def autocast_init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    torch.nn.Module.to = module_to  # type: ignore[method-assign]
    torch.autocast.__init__ = autocast_init  # type: ignore[method-assign]
    # A function for each: torch.compile takes no function under two names.
    torch.set_default_device = lambda device: None
    torch.cuda.synchronize = lambda: None
    torch.cuda.empty_cache = lambda: None
    # Marks of the tests ask this.
    torch.cuda.is_available = lambda: True


def _read(name: str, file: Path) -> ModuleType:
    """A file of the checkout as a module of another name."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stand_in() -> None:
    """The shims under the names of the libraries, and the references of causal-conv1d beside them."""
    compat.use_as("flashfftconv")
    folder = CHECKOUT / "causal_conv1d"
    if not folder.is_dir():
        return
    # Its references are in the files of the functions that need its compiled library.
    sys.modules["causal_conv1d"] = ModuleType("causal_conv1d")
    sys.modules["causal_conv1d.cpp_functions"] = made = ModuleType("causal_conv1d.cpp_functions")
    for name in ("fwd", "bwd", "update"):
        setattr(made, f"causal_conv1d_{name}_function", None)
    theirs = {name: _read(f"their_{name}", folder / f"causal_conv1d_{name}.py") for name in ("interface", "varlen")}
    del sys.modules["causal_conv1d"], sys.modules["causal_conv1d.cpp_functions"]
    compat.use_as("causal_conv1d")
    for name, module in theirs.items():
        ours = sys.modules[f"causal_conv1d.causal_conv1d_{name}"]
        ours.__dict__.update({key: value for key, value in vars(module).items() if key.endswith("_ref")})


def elements(test: str, params: Mapping[str, Any]) -> int:
    """Elements of the signal of a test, as its parameters say."""
    if "B" in params:
        return _limited(**{name: params[name] for name in ("B", "H", "seqlen")})
    if "l" in params:
        return math.prod(params[name] for name in ("b", "l")) * int(params.get("h", params.get("d", 1)))
    if test == "test_causal_conv1d_race_condition":
        # Ten thousand calls: it looks for races between the threads of a GPU.
        return sys.maxsize
    if "update" in test:
        return 64 * int(params["dim"]) * int(params["seqlen"])
    if "seqlen" in params:
        # Slices of a tensor with 4160 more channels.
        return 3 * (4160 + int(params["dim"])) * int(params["seqlen"])
    return 0


def _limited(B: int, H: int, seqlen: int) -> int:
    """The tests of FlashFFTConv take fewer samples and channels of long sequences."""
    most = {16384: (32, H), 32768: (16, H)}
    least = max(16, {131072: 384, 262144: 192, 524288: 96, 1048576: 48, 2097152: 32, 4194304: 16}.get(seqlen, H))
    batch, channels = most.get(seqlen, (4, least) if seqlen >= 65536 else (B, H))
    return min(B, batch) * min(H, channels) * seqlen


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is read."""
    _redirect()
    _stand_in()
    CudaMeansCpu().__enter__()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is too large."""
    kept, left = [], []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        (kept if elements(item.name.partition("[")[0], params) <= LARGEST else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """Some tests change the default dtype and leave it so."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
