"""The C++/CUDA extension of the distribution; everything else is in pyproject.toml.

``HYENA_SKIP_EXT=1`` asks for no extension, ``HYENA_FORCE_CUDA=1`` for the CUDA extension or an error.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def extensions() -> tuple[list[Extension], dict[str, type]]:
    """Return the extensions to build and the commands that build them."""
    if os.environ.get("HYENA_SKIP_EXT", "0") not in ("", "0"):
        return [], {}
    try:
        from torch.utils import cpp_extension
    except ImportError:
        return [], {}
    build = runpy.run_path(str(ROOT / "hyena_kernels" / "_build.py"))
    sources = [str(path.relative_to(ROOT)) for path in build["cpu_sources"]()]
    cpu = cpp_extension.CppExtension(
        "hyena_kernels._C", sources, extra_compile_args={"cxx": build["cxx_flags"]()}, py_limited_api=True
    )
    return [cpu], {"build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)}


modules, commands = extensions()
setup(ext_modules=modules, cmdclass=commands)
