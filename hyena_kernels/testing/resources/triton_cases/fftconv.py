"""Configurations of ``fftconv`` for the resource test."""

from __future__ import annotations

from typing import Any

from hyena_kernels.backends.triton import passes, table
from hyena_kernels.backends.triton.fftconv import SKIP_CONSTANTS
from hyena_kernels.backends.triton.plan import MAX_LENGTH, RADIX, Plan, plan as plan_for
from hyena_kernels.testing.resources.occupancy import ARCHITECTURES
from hyena_kernels.testing.resources.triton_case import Case


def aot_cases() -> list[Case]:
    """Every kernel of every plan, in every configuration of the tables, with all gates and results.

    Signals are bfloat16, filters float32 and causal. Backward kernels take more registers, so they come with several
    rows in a program too.
    """
    cases: list[Case] = []
    classes = {99: (86, 89, 120), 164: (80,), 227: (90, 100)}

    def add(
        name: str,
        plan: Plan,
        points: int,
        form: str = "",
        only: tuple[int, ...] = tuple(ARCHITECTURES),
        milder: bool = False,
        **constants: Any,
    ) -> None:
        kernel = getattr(passes, name)
        groups = constants.get("G", 1)
        configs = {shared: table.TABLES[shared][name, groups, points] for shared in classes}
        for config in dict.fromkeys(configs.values()):
            spilling = {shared for shared, plans in table.SPILLING.items() if name == "row_backward" and plan in plans}
            taken = {shared for shared in classes if configs[shared] == config} - spilling
            tile = {"C": min(config.tile, plan.rows)} if name.startswith("columns") else {}
            values = {**constants, **tile}
            # Those of packed rows. fftconv_varlen.py has them.
            values |= {argument: None for argument in ("starts", "lengths", "count") if argument in kernel.arg_names}
            types = {argument: _type(argument, values) for argument in kernel.arg_names}
            unit = {argument: 1 for argument, kind in types.items() if kind == "constexpr" and argument not in values}
            label = f"{name} {groups} × {points}" + (f", {form}" if form else "")
            label += f", tile {config.tile}" if tile else ""
            label += "" if config.registers is None else f", at most {config.registers} registers"
            cases.append(
                Case(
                    label,
                    kernel,
                    types,
                    {**unit, **values},
                    config.warps,
                    num_stages=1,
                    maxnreg=config.registers,
                    milder=milder,
                    absent=tuple(
                        arch for arch in ARCHITECTURES if arch not in only or not any(arch in classes[c] for c in taken)
                    ),
                )
            )

    plans = sorted({plan_for(length) for length in _lengths()}, key=lambda plan: plan.size)
    first: dict[tuple[str, int, int], Plan] = {}
    for plan in plans:
        for name, groups, points in table.keys(plan):
            first.setdefault((name, groups, points), plan)
    # The other extreme, without gates and skip and with one result, and the passes of a filter.
    for plan in (Plan(1, 1, 256), Plan(3, 16, 256)):
        common: dict[str, Any] = {"G": plan.groups, "V": RADIX, "CAUSAL": False}
        if plan.columns == 1:
            row: dict[str, Any] = {"ROWS": 4, "N": plan.rows, "pre": None, "post": None, "skip": None, **common}
            add("row_forward", plan, plan.rows, "bare", **row)
            add("row_backward", plan, plan.rows, "bare", dpre=None, dpost=None, **{**row, "CAUSAL": True, "ROWS": 1})
            continue
        shape: dict[str, Any] = {"N": plan.columns, "ROWS": plan.rows, **common}
        absent: dict[str, Any] = {"f1": None, "o2": None, "f2": None}
        add("columns_forward", plan, plan.columns, "bare", FILTER=False, gate=None, skip=None, **shape)
        add("columns_forward", plan, plan.columns, "filter", FILTER=True, gate=None, **shape)
        add("columns_inverse", plan, plan.columns, "bare", FILTER=False, **absent, **shape)
        add("columns_inverse", plan, plan.columns, "filter", FILTER=True, **absent, **shape)
    for (name, groups, points), plan in first.items():
        common = {"G": groups, "V": RADIX, "N": points}
        if name.startswith("row_"):
            add(name, plan, points, ROWS=1, CAUSAL=True, **common)
            if name == "row_backward" and groups == 1:
                several = {"ROWS": 2, "CAUSAL": True, **common}
                add(name, plan, points, "several rows", _sharing(name, points), milder=points < 1024, **several)
        elif name.startswith("columns"):
            absent = {"skip": None} if name == "columns_forward" else {}
            add(name, plan, points, ROWS=plan.rows, FILTER=False, CAUSAL=True, **common, **absent)
        else:
            wanted: dict[str, Any] = {"SIGNAL": True, "POST": True, "ADD": True} if name == "rows_backward" else {}
            common = {"COLUMNS": plan.groups * plan.columns, "N": points, "V": RADIX, **wanted}
            add(name, plan, points, BATCH=1, **common)
            if name == "rows_backward":
                several = {"BATCH": 2, **common}
                add(name, plan, points, "several rows", _sharing(name, points), milder=points < 2048, **several)
    values = dict(SKIP_CONSTANTS.values)
    warps = values.pop("num_warps")
    types = {argument: _type(argument, values) for argument in passes.row_skip.arg_names}
    values |= {argument: 1 for argument, kind in types.items() if kind == "constexpr" and argument not in values}
    cases.append(Case("row_skip", passes.row_skip, types | {"dskip": "*fp64"}, values, warps))
    return cases


def _sharing(kernel: str, points: int) -> tuple[int, ...]:
    """Architectures on which several rows share a program of a kernel."""
    return (90,) if (kernel, points) in table.SPILLING_SHARED else tuple(ARCHITECTURES)


def _lengths() -> list[int]:
    return [length for bits in range(8, 25) for length in (1 << bits, 3 << (bits - 2)) if length <= MAX_LENGTH]


def _type(argument: str, constants: dict[str, Any]) -> str:
    if argument in constants or argument.endswith("_l"):
        return "constexpr"
    if argument in ("u", "pre", "post", "y", "dy", "du", "dpre", "dpost", "x", "gate", "o1", "f1", "o2", "f2"):
        return "*bf16"
    if argument in ("D", "L", "K", "shift", "spans", "out_D") or argument.endswith("_d"):
        return "i32"
    return "i64" if argument.endswith("_b") else "*fp32"
