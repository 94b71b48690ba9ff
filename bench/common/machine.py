"""Describe the machine of a measurement: device, driver, versions and commit.

python -m bench.common.machine     # print the name of the device's folder in bench/results
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from hyena_kernels._version import __version__

ROOT = Path(__file__).resolve().parents[2]

_QUERY = (
    "driver_version", "clocks.current.sm", "clocks.current.memory", "clocks.max.sm", "clocks.max.memory", "power.limit",
    "temperature.gpu",
)  # fmt: skip


def device_name(device: torch.device | str = "cuda") -> str:
    """Name of a CUDA device. For other devices, or without CUDA, the name of the processor."""
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(place)
    return _processor_name()


def _cpuinfo(field: str) -> str | None:
    """A field of the first processor in /proc/cpuinfo; None if it is not there."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)
    return None


def _processor_name() -> str:
    """Model of the processor without trademark signs and clock, or its architecture if the model is unknown."""
    name = _cpuinfo("model name")
    if name is None and sys.platform == "darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    name = re.sub(r"\((?:R|TM)\)|\bCPU\b|@.*", " ", name or "", flags=re.IGNORECASE)
    return " ".join(name.split()) or platform.processor() or platform.machine()


def folder_name(device: torch.device | str = "cuda") -> str:
    """Name of the device as a folder name, such as ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> str:
    """Commit of the checkout, with ``+changes`` if files changed. Without git, the value of ``HYENA_COMMIT``."""
    head = _output(["git", "rev-parse", "HEAD"])
    if head is None:
        return os.environ.get("HYENA_COMMIT", "unknown")
    return head + ("+changes" if _output(["git", "status", "--porcelain", "--untracked-files=no"]) else "")


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _program(path: str) -> str:
    """The started program: relative to the checkout, or only its name if it lies elsewhere."""
    program = Path(path or ".").resolve()
    if program.is_relative_to(ROOT) and ".venv" not in program.parts:
        path = program.relative_to(ROOT)
        return f"python -m {'.'.join(path.parent.parts)}" if path.name == "__main__.py" else path.as_posix()
    return f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name


def describe(device: torch.device | str = "cuda") -> dict[str, Any]:
    """Facts about the machine that affect times, for JSON. Clocks are in MHz, as they are now."""
    place = torch.device(device)
    facts: dict[str, Any] = {
        "device": device_name(place),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version("triton"),
        "hyena_kernels": __version__,
        "commit": commit(),
        "command": " ".join([_program(sys.argv[0]), *sys.argv[1:]]),
    }
    if place.type == "cpu":
        facts["processors"] = os.cpu_count()
        facts["instruction_set"] = torch.backends.cpu.get_cpu_capability()
        facts["clocks.current.cpu"] = _cpuinfo("cpu MHz")
    elif torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(place)
        facts["capability"] = f"{properties.major}.{properties.minor}"
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["processors"] = properties.multi_processor_count
        facts["l2_mib"] = properties.L2_cache_size / 2**20
        # nvidia-smi ignores CUDA_VISIBLE_DEVICES, so its indices are not torch's.
        uuid = str(getattr(properties, "uuid", ""))
        which = f"GPU-{uuid}" if uuid else "0"
        command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits", "-i", which]
        values = _output(command)
        if values is not None and values.count(",") == len(_QUERY) - 1:
            facts.update(zip(_QUERY, map(str.strip, values.split(",")), strict=True))
    return facts


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m bench.common.machine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(folder_name())


if __name__ == "__main__":
    main()
