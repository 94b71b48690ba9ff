"""What importing the packages costs, needs and loads. test_floors.py checks which file may import which."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import hyena_kernels

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("triton", "transformers", "matplotlib")
OPS = (
    "fftconv",
    "short_conv",
    "implicit_filter",
    "mixer",
    "mixer_step",
    "layer_norm",
    "embedding",
    "linear_cross_entropy",
    "gelu",
    "position_dropout",
    "fftconv_varlen",
    "mixer_varlen",
    "far_field_conv",
    "mixer_far",
)

# As if some packages were not installed: find_spec returns None, so importing them raises ModuleNotFoundError. The
# libraries of the extension are not modules. They seem to be absent.
BLOCK = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path
blocked = ("triton", "transformers", "matplotlib")
class Blocking(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = any(name == root or name.startswith(root + ".") for root in blocked)
        return None if hidden else super().find_spec(name, path, target)
sys.meta_path[:] = [Blocking if finder is PathFinder else finder for finder in sys.meta_path]
exists = Path.exists
Path.exists = lambda path, **how: not path.name.endswith(".abi3.so") and exists(path, **how)
"""

# The function has the name of its module, so one import could replace what another has bound. All are tried twice.
PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import hyena_kernels
seconds = time.perf_counter() - start
new = sorted(set(sys.modules) - before)
loaded = sorted(torch.ops.loaded_libraries)

u, k = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[1.0, 10.0]])
results = []
for _ in range(2):
    from hyena_kernels import fftconv
    results.append(fftconv(u, k).flatten().tolist())
    from hyena_kernels.fftconv import fftconv
    results.append(fftconv(u, k).flatten().tolist())
    import hyena_kernels.fftconv as m
    results.append(m.fftconv(u, k).flatten().tolist())
    results.append(hyena_kernels.fftconv(u, k).flatten().tolist())
runs = hyena_kernels.backend.resolve("fftconv_fwd", u.device)
print(json.dumps({"seconds": seconds, "new": new, "loaded": loaded, "results": results, "runs": runs}))
"""


def run_probe(*, blocked: bool) -> dict[str, Any]:
    # As for a user: byte code is cached, and no backend is forced.
    unset = ("PYTHONDONTWRITEBYTECODE", "HYENA_BACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", (BLOCK if blocked else "") + PROBE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@cache
def probe(blocked: bool) -> dict[str, Any]:
    return run_probe(blocked=blocked)


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [False, True], ids=["as installed", "without optional packages"])
def test_every_way_of_importing_fftconv_works(blocked: bool) -> None:
    results = probe(blocked)["results"]
    assert len(results) == 8
    for result in results:
        assert result == pytest.approx([1.0, 12.0, 23.0], abs=1e-5)


@pytest.mark.parametrize("package", OPTIONAL)
def test_import_loads_no_optional_package(package: str) -> None:
    assert [name for name in probe(False)["new"] if name.split(".")[0] == package] == []


def test_import_loads_no_other_library_s_calls() -> None:
    assert [name for name in probe(False)["new"] if name.startswith("hyena_kernels.compat")] == []


def test_import_loads_nothing_of_many_processes() -> None:
    loaded = [name for name in probe(False)["new"] if name.startswith(("torch.distributed", "hyena_kernels.distr"))]
    assert loaded == []


def test_import_loads_no_library_and_nothing_that_builds_one() -> None:
    assert [name for name in probe(False)["loaded"] if "hyena" in name] == []
    builders = ("setuptools", "distutils", "torch.utils.cpp_extension")
    assert [name for name in probe(False)["new"] if name.startswith(builders)] == []


def test_everything_runs_without_the_extension() -> None:
    assert probe(True)["runs"] == "torch"


@pytest.mark.slow
def test_ops_and_the_operator_run_and_learn_without_optional_packages() -> None:
    script = """
import torch
import hyena_kernels
from hyena_kernels import HyenaOperator, fftconv, hyena_mixer, short_conv
u, k, w = torch.randn(2, 6, 10), torch.randn(2, 10), torch.randn(6, 3)
results = (fftconv(u[:, :2], k), short_conv(u, w), hyena_mixer(u.mT, w, None, k[None]))
shapes = [tuple(y.shape) for y in results]
operator = HyenaOperator(4, 16)
operator(torch.randn(2, 10, 4)).sum().backward()
learning = all(p.grad is not None and p.grad.isfinite().all() for p in operator.parameters())
used = sorted(name for name in blocked if name in sys.modules)
print(shapes, learning, used)
"""
    done = subprocess.run([sys.executable, "-c", BLOCK + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[(2, 2, 10), (2, 6, 10), (2, 10, 2)] True []\n", done.stderr


@pytest.mark.slow
def test_tests_of_hyena_kernels_run_without_transformers() -> None:
    script = """
import pytest
blocked += ("hyenadna",)
chosen = "equals_the_published_op_sequence or test_runs_on_the_meta_device or test_reset_buffers"
codes = [
    pytest.main(["-q", "-p", "no:cacheprovider", "--collect-only", "tests/hyena_kernels"]),
    pytest.main(["-q", "-p", "no:cacheprovider", "-k", chosen, "tests/hyena_kernels/test_operator.py"]),
]
print([int(code) for code in codes], "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", BLOCK + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[0, 0] False", done.stdout[-2000:] + done.stderr


def test_the_build_needs_nothing_but_python_to_be_read() -> None:
    roots = {module.split(".")[0] for module, _ in imports_of(ROOT / "hyena_kernels" / "_build.py", module_level=True)}
    assert roots <= sys.stdlib_module_names


def test_blocking_finder_blocks() -> None:
    script = (
        BLOCK + "import importlib.util as u; print([u.find_spec(n) for n in ('matplotlib', 'transformers', 'json')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[None, None, ModuleSpec(name='json'")


def test_import_takes_at_most_a_fifth_of_a_second_beyond_torch() -> None:
    times = [probe(False)["seconds"]]
    while min(times) > 0.2 and len(times) < 3:
        times.append(run_probe(blocked=False)["seconds"])
    assert min(times) <= 0.2, f"import hyena_kernels after import torch took {times} s"


def imports(tree: ast.AST, path: Path, *, module_level: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name) for each ``from module import name`` and (module, None) for each ``import module``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)
        elif not (module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, path, module_level=module_level)


def imports_of(path: Path, *, module_level: bool = False) -> list[tuple[str, str | None]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return list(imports(tree, path, module_level=module_level))


def files_of(package: str) -> list[Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths, f"no Python file under {package}/"
    return paths


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files_of("hyena_kernels"), ids=relative)
def test_hyena_kernels_imports_nothing_above_it(path: Path) -> None:
    above = [module for module, _ in imports_of(path) if module.split(".")[0] in ("hyenadna", "bench", "tests")]
    assert above == []


@pytest.mark.parametrize("path", files_of("hyena_kernels"), ids=relative)
def test_triton_is_imported_at_module_level_only_by_kernels(path: Path) -> None:
    kernels = ROOT / "hyena_kernels" / "backends" / "triton"
    resources = ROOT / "hyena_kernels" / "testing" / "resources"
    if kernels in path.parents or resources in path.parents:
        return
    roots = {module.split(".")[0] for module, _ in imports_of(path, module_level=True)}
    assert "triton" not in roots


@pytest.mark.parametrize("op", OPS)
def test_ops_import_only_torch_and_what_lies_below(op: str) -> None:
    for module, name in imports_of(ROOT / "hyena_kernels" / f"{op}.py", module_level=True):
        root = module.split(".")[0]
        if root != "hyena_kernels":
            assert root in {"torch", "numpy"} | sys.stdlib_module_names, f"{op}.py imports {module}"
            continue
        part = name if module == "hyena_kernels" else module.split(".")[1]
        below = {"backend", "backends", "common", "registration", "segments"}
        assert part in below, f"{op}.py imports hyena_kernels.{part}"


@pytest.mark.parametrize("path", files_of("hyena_kernels/compat"), ids=relative)
def test_compat_imports_only_public_names(path: Path) -> None:
    for module, name in imports_of(path):
        root, _, rest = module.partition(".")
        if root == "hyena_kernels" and not f"{rest}.".startswith("compat."):
            assert (module, name in hyena_kernels.__all__) == ("hyena_kernels", True), (
                f"{relative(path)}: {module}.{name}"
            )
        else:
            assert root in {"torch", "hyena_kernels"} | sys.stdlib_module_names, f"{relative(path)} imports {module}"


@pytest.mark.parametrize("path", files_of("hyenadna"), ids=relative)
def test_hyenadna_imports_only_public_names_of_hyena_kernels(path: Path) -> None:
    for module, name in imports_of(path):
        root = module.split(".")[0]
        assert root not in ("bench", "tests")
        if root == "hyena_kernels":
            public = ("hyena_kernels", "hyena_kernels.backend", "hyena_kernels.distributed", "hyena_kernels.modules")
            assert module in public, f"{relative(path)} imports {module}"
            if module == "hyena_kernels" and name is not None:
                assert name in hyena_kernels.__all__ or name == "backend", f"{relative(path)} imports {name}"
            is_public = not (name or "").startswith("_") or name == "__version__"
            assert is_public, f"{relative(path)} imports {module}.{name}"
