"""Runs transformers' and peft's own tests on the models of this package, and says what fails.

    python tests/upstream/run.py                       # both, with the installed versions
    python tests/upstream/run.py transformers -- -k save

Their tests come from the source distributions of the installed versions, and stay in a cache folder. transformers'
distribution lacks the tests of ``generate`` and of the exporters: they come from GitHub, or from a checkout, perhaps of
another version (``--transformers-tests``); the output names it. What cannot pass stands in ``exceptions.py`` with its
reason. Needs ``pip install parameterized``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from exceptions import EXCEPTIONS  # noqa: E402
from sources import ORIGIN, PACKAGES, UnreachableError, fetch  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hyenadna-upstream"
FAILED = re.compile(r"^(?:FAILED|ERROR|SUBFAILED.*?) ::(Test\w+::\S+)")
SUMMARY = re.compile(r"^\d+ (?:passed|failed).* in [\d.]+s")


def run(package: str, folder: Path, tree: Path, options: list[str]) -> tuple[str, list[str]]:
    """Run one suite.

    Args:
        package: ``"transformers"`` or ``"peft"``.
        folder: holds the package's ``tests``.
        tree: the checkout to test.
        options: further options of pytest.

    Returns:
        pytest's line of counts, and the names of the tests that failed.
    """
    # Neither this repository's settings nor its conftest belong to these tests. The Hub is not asked.
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--noconftest", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["-p", "no:cacheprovider", "--import-mode=importlib", "--disable-warnings", "--tb=short"]
    command += [str(HERE / f"{package}_suite.py"), *options]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{tree}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    counts = next((line for line in reversed(lines) if SUMMARY.match(line)), "")
    if not counts:
        raise RuntimeError(f"{package}: no tests ran\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    (folder / "output.txt").write_text(done.stdout, encoding="utf-8")
    return counts, sorted({match[1] for line in lines if (match := FAILED.match(line))})


def reason(test: str) -> str | None:
    """Why a test cannot pass, or None if it should."""
    return next((why for pattern, why in EXCEPTIONS.items() if fnmatchcase(test, pattern)), None)


def main() -> int:
    """Run the suites that the command line names, and print what failed.

    Returns:
        0 if nothing failed but exceptions, 1 if something did, 3 if the package index cannot be reached.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", default=[], help=f"of {', '.join(PACKAGES)}; both by default")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where downloads are kept")
    parser.add_argument("--tree", type=Path, default=HERE.parents[1], help="the checkout to test")
    parser.add_argument("--transformers-tests", type=Path, help="the tests folder of a checkout of transformers")
    arguments, options = parser.parse_known_args()
    chosen = [name for name in arguments.packages if name in PACKAGES] or PACKAGES
    options += [name for name in arguments.packages if name not in PACKAGES]
    wrong = 0
    for package in chosen:
        try:
            folder = fetch(package, arguments.cache, arguments.transformers_tests)
        except UnreachableError as error:
            print(f"{package}: {error}")
            return 3
        counts, failed = run(package, folder, arguments.tree.resolve(), [name for name in options if name != "--"])
        excused = {test: why for test in failed if (why := reason(test))}
        others = [test for test in failed if test not in excused]
        wrong += len(others)
        print(f"{package} {version(package)}: {counts}")
        if (folder / ORIGIN).exists():
            print(f"  tests of generate and export: those of transformers {(folder / ORIGIN).read_text()}")
        for why in dict.fromkeys(excused.values()):
            print(f"  {sum(found == why for found in excused.values())} exceptions: {why}")
        for test in others:
            print(f"  failed: {test}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
