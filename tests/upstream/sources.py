"""Fetches the test suites of the installed transformers and peft. Nothing of them is kept in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("transformers", "peft")

# Parts of transformers' suite that its source distribution lacks, by their place in the repository.
BESIDE = ("generation/test_utils.py", "exporters/test_export.py")
ORIGIN = "origin.txt"
REPOSITORY = "https://raw.githubusercontent.com/huggingface/transformers"


class UnreachableError(Exception):
    """The package index cannot be reached, or has no source distribution of this version."""


def fetch(package: str, cache: Path, beside: Path | None = None) -> Path:
    """A folder under ``cache`` that holds the package's ``tests``, importable as ``tests``.

    Args:
        package: one of ``PACKAGES``. The version is the installed one.
        cache: where downloads are kept.
        beside: the ``tests`` folder of a checkout of transformers, for what the source distribution lacks. Without it
            the files come from GitHub; what cannot be had from there is left out. The checkout may be of another
            version: ``ORIGIN``, beside ``tests``, names it.

    Raises:
        UnreachableError: the source distribution cannot be downloaded.
    """
    name = f"{package}-{version(package)}"
    folder = cache / name
    if not (folder / "tests").is_dir():
        _extract_tests(_sdist(package, name, cache), cache)
    if package == "transformers":
        _add_missing(folder / "tests", beside)
    return folder


def _sdist(package: str, name: str, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{name}.tar.gz"
    if not archive.exists():
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(cache)]
        command = [sys.executable, "-m", "pip", "download", *options, f"{package}=={version(package)}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not archive.exists():
            raise UnreachableError(f"{name}: no source distribution ({done.stderr.strip().splitlines()[-1:]})")
    return archive


def _extract_tests(archive: Path, cache: Path) -> None:
    with tarfile.open(archive) as content:
        members = [m for m in content.getmembers() if m.name.split("/")[1:2] == ["tests"]]
        content.extractall(cache, members=members, filter="data")


def _add_missing(tests: Path, beside: Path | None) -> None:
    """Complete ``tests``: packages, the sample text, and the files in ``BESIDE`` if they can be had."""
    texts: Mapping[str, str] = {
        "fixtures/sample_text.txt": "ACGTN\nGATTACA\n",
        "__init__.py": "",
        "generation/__init__.py": "",
        "exporters/__init__.py": "",
    }
    for place, text in texts.items():
        file = tests / place
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            file.write_text(text)
    for place in BESIDE:
        file = tests / place
        if file.exists() and beside is None:
            continue
        try:
            if beside is not None:
                file.write_bytes((beside / place).read_bytes())
                tests.with_name(ORIGIN).write_text(f"{_checked_out(beside)}, from a checkout")
            else:
                url = f"{REPOSITORY}/v{version('transformers')}/tests/{place}"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    file.write_bytes(answer.read())
                tests.with_name(ORIGIN).write_text(version("transformers"))
        except OSError as error:
            print(f"left out: {place} ({error})")


def _checked_out(tests: Path) -> str:
    """The version of the checkout of transformers that holds ``tests``."""
    file = tests.resolve().parent / "src" / "transformers" / "__init__.py"
    found = (
        re.search(r'^__version__ = "(.+)"', file.read_text(encoding="utf-8"), re.MULTILINE) if file.exists() else None
    )
    return found[1] if found else "an unknown version"
