"""Packages of the optional extras: imported where used, and named with their extra where they are absent."""

from __future__ import annotations

import importlib
from typing import Any

EXTRAS = {"polars": "tasks", "sklearn": "tasks", "scipy": "tasks", "peft": "peft", "accelerate": "peft", "umap": "umap"}
"""Top-level module to the extra of this distribution that brings it; all others are in ``dna``."""


def require(module: str) -> Any:
    """Import a module of an extra.

    Raises:
        ImportError: it is absent; the message names the extra.
    """
    root = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRAS.get(root, "dna")
        raise ImportError(
            f"this needs {root} ({error}): pip install '.[dna,{extra}]' in a checkout of hyena_kernels",
            name=error.name or root,
        ) from error
