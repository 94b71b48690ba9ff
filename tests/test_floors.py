"""Which file may import which: floors, from the ground up, and no rings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "hyena_kernels": (
        ("_version", "errors"),
        ("_build",),
        ("common",),
        ("backends.extension",),
        ("backends.torch", "backends.triton", "backends.cpp", "backends.cuda", "backends"),
        ("backend",),
        ("registration",),
        ("segments",),
        (
            "fftconv",
            "short_conv",
            "implicit_filter",
            "mixer",
            "fftconv_varlen",
            "mixer_step",
            "mixer_varlen",
            "far_field_conv",
            "mixer_far",
            "far_field_plan",
            "layer_norm",
            "embedding",
            "linear_cross_entropy",
            "gelu",
            "position_dropout",
            "frequency_sparse",
        ),
        ("online_conv", "bidirectional", "far_field"),
        ("distributed.shards",),
        ("distributed.exchange",),
        ("distributed.short_conv",),
        ("distributed.mixer",),
        ("filter_cache", "step_graph"),
        ("filter_layers",),
        ("positions",),
        ("filter",),
        ("long_conv",),
        ("operator",),
        ("distributed",),
        ("modules",),
        ("",),
        ("testing", "compat", "__main__"),
    ),
    "hyenadna": (
        ("common",),
        ("published",),
        ("model",),
        ("encoder_decoder",),
        ("baselines",),
        ("data",),
        ("parallel",),
        ("drawing",),
        ("evaluation",),
        ("inference",),
        ("training",),
        ("pretraining", "finetuning"),
        ("cancer", "comparison", "enbed"),
        ("cli",),
        ("", "__main__"),
    ),
    "bench": (
        ("common",),
        ("baselines",),
        ("costs",),
        ("suite",),
        ("report",),
        ("kernels",),
        ("", "conftest", "test_suite"),
    ),
}
"""Rooms of each package by floor, the lowest first. Rooms on one floor do not import each other."""


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the three packages that a module imports, wherever in its file."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"), filename=str(MODULES[module]))
    return frozenset(name for name in _named(tree) if name in MODULES and name != module)


def _named(tree: ast.AST) -> Iterator[str]:
    """Names that a file imports, and texts such as ``"package.module:attribute"``, which may be imported later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value.partition(":")[0]


def place(module: str) -> tuple[str, int, str]:
    """Package, floor and room of a module."""
    package, _, rest = module.partition(".")
    fitting = [
        (len(room), floor, room)
        for floor, rooms in enumerate(FLOORS[package])
        for room in rooms
        if rest == room or (room and rest.startswith(f"{room}."))
    ]
    assert fitting, f"{module} is in no room: give it one in FLOORS"
    _, floor, room = max(fitting)
    return package, floor, room


def rings() -> list[list[str]]:
    """Modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for other in sorted(imports(module)):
            if other not in index:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], index[other])
        if lowest[module] == index[module]:
            ring = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for module in MODULES:
        if module not in index:
            visit(module)
    return found


def test_no_files_import_each_other_in_a_ring() -> None:
    assert rings() == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_from_its_own_room_and_the_floors_below(module: str) -> None:
    package, floor, room = place(module)
    for other in sorted(imports(module)):
        others_package, others_floor, others_room = place(other)
        if others_package == package:
            below = others_floor < floor or others_room == room
            assert below, f"{module} imports {other}, which is not below it"
        else:
            allowed = {"hyena_kernels": (), "hyenadna": ("hyena_kernels",), "bench": ("hyena_kernels", "hyenadna")}
            assert others_package in allowed[package], f"{module} imports {other}"
