"""Imports packages of the optional extras where they are used; an error names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

EXTRAS = {
    "polars": "tasks",
    "sklearn": "tasks",
    "scipy": "tasks",
    "rapidfuzz": "enbed",
    "peft": "peft",
    "accelerate": "peft",
    "umap": "umap",
    "pysam": "bcf",
}
"""Extra of this distribution by top-level module; all other modules are in ``dna``."""


def how_to_install(module: str) -> str:
    """The command that installs a module of an extra."""
    extras = ",".join(dict.fromkeys(("dna", EXTRAS.get(module.split(".")[0], "dna"))))
    return f"pip install '.[{extras}]' in a checkout of hyena_kernels"


def require(module: str) -> Any:
    """Import a module of an extra.

    Raises:
        ImportError: the module is absent; the message names the extra.
    """
    root = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {root} ({error}): {how_to_install(root)}", name=error.name or root) from error
