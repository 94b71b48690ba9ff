"""Imports packages of the optional extras where they are used; an error names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

EXTRAS = {"polars": "tasks", "sklearn": "tasks", "scipy": "tasks", "peft": "peft", "accelerate": "peft", "umap": "umap"}
"""Extra of this distribution by top-level module; all other modules are in ``dna``."""


def require(module: str) -> Any:
    """Import a module of an extra.

    Raises:
        ImportError: the module is absent; the message names the extra.
    """
    root = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extras = ",".join(dict.fromkeys(("dna", EXTRAS.get(root, "dna"))))
        raise ImportError(
            f"this needs {root} ({error}): pip install '.[{extras}]' in a checkout of hyena_kernels",
            name=error.name or root,
        ) from error
