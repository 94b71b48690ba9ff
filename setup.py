"""The packages of the distribution and its compiled extension; everything else is in pyproject.toml.

Each library that this machine can compile is compiled. A library that it cannot compile is left out, and the package
keeps the reason, which ``python -m hyena_kernels`` prints. ``HYENA_SKIP_EXT=1`` compiles nothing. An installation in
place that cannot compile a library keeps the one of an earlier build of the same sources.
``HYENA_FORCE_CUDA=1`` builds the CUDA library or fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "hyena_kernels"
# Tools that only this project's own tests use.
NOT_SHIPPED = f"{PACKAGE}.testing.resources"
PACKAGES = find_packages(
    ROOT, include=[PACKAGE, f"{PACKAGE}.*", "hyenadna", "hyenadna.*"], exclude=[NOT_SHIPPED, f"{NOT_SHIPPED}.*"]
)
# csrc is installed inside the package: hyena_kernels.build_ext() compiles it where the wheel brought no libraries.
SOURCES = [f"{PACKAGE}.csrc.{folder.name}" for folder in sorted((ROOT / "csrc").iterdir()) if folder.is_dir()]

spec = importlib.util.spec_from_file_location("_build", ROOT / PACKAGE / "_build.py")
_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_build)

SKIP = _build.switched_on("HYENA_SKIP_EXT")
FORCE_CUDA = _build.switched_on("HYENA_FORCE_CUDA")


def obstacle(backend: str) -> str | None:
    """Why a library is not even tried, or None."""
    return "HYENA_SKIP_EXT was set when the package was built" if SKIP else _build.obstacle(backend)


def accept(backend: str, reason: str, *, kept: bool = False) -> None:
    """Continue without a new library, or end the build if the user demanded this one."""
    if backend == "cuda" and FORCE_CUDA:
        raise SystemExit(f"error: HYENA_FORCE_CUDA=1, and the CUDA library cannot be built: {reason}")
    library = _build.LIBRARIES[backend]
    told = f"keeps the {library} of an earlier build" if kept else f"is built without {library}"
    print(f"warning: {PACKAGE} {told}: {reason}", file=sys.stderr)


class BuildExt(build_ext):
    """Compiles the libraries into the package, and writes a file beside them that says why one is missing."""

    built: tuple[Path, ...] = ()

    def run(self) -> None:
        """Compile the libraries. Those of an earlier build are replaced, or removed unless they can be kept."""
        self.folder = ROOT / PACKAGE if self.inplace else Path(self.build_lib, PACKAGE)
        earlier = self.earlier()
        report: dict[str, object] = dict.fromkeys(_build.LIBRARIES, "the build was interrupted")
        self.record({**report, "sources": earlier})
        for backend, name in _build.LIBRARIES.items():
            if backend not in earlier:
                (self.folder / name).unlink(missing_ok=True)
        for backend, name in _build.LIBRARIES.items():
            reason = obstacle(backend)
            if reason is None:
                try:
                    self.built += (_build.compile_library(backend, self.folder, verbose=self.verbose > 0),)
                except _build.BuildError as error:
                    print(error.log, file=sys.stderr)
                    reason = str(error)
            if reason is None:
                del report[backend]
                earlier[backend] = _build.source_hash()
                continue
            accept(backend, reason, kept=backend in earlier)
            report[backend] = reason
            if backend in earlier:
                del report[backend]
                self.built += (self.folder / name,)
        # A wheel is complete. Only a library in place may meet later sources.
        self.record({**report, "sources": earlier} if self.inplace and earlier else report)
        if not self.built:
            # The package is pure Python now, so its wheel fits every platform.
            self.distribution.ext_modules = []

    def earlier(self) -> dict[str, str]:
        """The libraries that lie in place and are not of other sources, with the hash of these sources."""
        if not self.inplace or SKIP:
            return {}
        now, known = _build.source_hash(), {}
        # An interrupted installation may leave half a report.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known = json.loads((self.folder / _build.REPORT).read_text(encoding="utf-8")).get("sources", {})
        return {
            backend: now
            for backend, name in _build.LIBRARIES.items()
            if (self.folder / name).exists() and known.get(backend, now) == now
        }

    def record(self, report: dict[str, object]) -> None:
        """Write the reasons beside the libraries."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _build.REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    def get_outputs(self) -> list[str]:
        """Paths of the libraries in the build folder, also when they are built in place."""
        return [str(Path(self.build_lib, PACKAGE, path.name)) for path in self.built]

    def get_output_mapping(self) -> dict[str, str]:
        """The path of each library in the build folder, with its path in an editable installation."""
        return dict(zip(self.get_outputs(), map(str, self.built), strict=True)) if self.inplace else {}


class BdistWheel(bdist_wheel):
    """A wheel for this platform if it holds a library, else for every platform."""

    def run_command(self, command: str) -> None:
        """Choose the tag once it is known which libraries could be compiled."""
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()


if FORCE_CUDA and (unbuildable := obstacle("cuda")) is not None:
    accept("cuda", unbuildable)
# The libraries use nothing of Python, so one wheel fits every version. Free-threaded Pythons do not allow this tag.
stable = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp311"}
setup(
    packages=[*PACKAGES, *SOURCES],
    # Outside the packages: it says that the command line imports hyenadna.
    py_modules=["hyenadna_command"],
    package_dir={f"{PACKAGE}.csrc": "csrc"},
    package_data={
        PACKAGE: ["py.typed"],
        "hyenadna": ["py.typed", "drawing/report.html"],
        **{folder: ["*"] for folder in SOURCES},
    },
    ext_modules=[Extension(f"{PACKAGE}.{name.split('.')[0]}", []) for name in _build.LIBRARIES.values()],
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
    options={"bdist_wheel": stable},
)
