"""The C++/CUDA extension of the distribution; everything else is in pyproject.toml.

``HYENA_SKIP_EXT=1`` asks for no extension, ``HYENA_FORCE_CUDA=1`` for the CUDA extension or an error.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup


def extensions() -> list[Extension]:
    """Return the extensions to build: none in this version, whose ops all run in plain PyTorch.

    Being asked for none (``HYENA_SKIP_EXT``) therefore changes nothing, and being asked for the CUDA one is an error.
    """
    if os.environ.get("HYENA_FORCE_CUDA", "0") not in ("", "0"):
        raise SystemExit(
            "error: HYENA_FORCE_CUDA is set, but this version of hyena-kernels has no CUDA sources to build: unset it"
        )
    return []


setup(ext_modules=extensions())
