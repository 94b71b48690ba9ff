"""Runs the tests of flash-fft-conv and causal-conv1d on the shims of ``hyena_kernels.compat``, on the CPU.

    python tests/upstream/peers.py                                 # both, from GitHub
    python tests/upstream/peers.py causal-conv1d --checkouts ../   # from ../causal-conv1d
    python tests/upstream/peers.py flash-fft-conv --largest 500000 -- -k padded

Nothing of theirs is kept in the repository: checkouts stay in a cache folder. Tests with more elements than
``--largest`` are left out, and so is one that looks for races on a GPU. What cannot pass stands in ``REASONS``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hyenadna-upstream"
PEERS = {
    "flash-fft-conv": ("HazyResearch", ("tests/test_flashfftconv.py", "tests/test_conv1d.py"), 1_000_000),
    "causal-conv1d": ("Dao-AILab", ("tests/test_causal_conv1d.py",), 140_000),
}
"""Whose repository it is, its files of tests, and the elements of a signal that a CPU has the time for."""
FAILED = re.compile(r"^(?:FAILED|ERROR) \S*?::(\S+?)(?:\[\S*\])?(?: - (.*))?$")
SUMMARY = re.compile(r"^=* ?\d+ (?:passed|failed|deselected).* in [\d.]+s")

REASONS = {
    ("test_conv1d_", "RuntimeError: Input type (float) and bias type"): (
        "the reference is torch's Conv1d under autocast to float32, which a CPU does not have"
    ),
    ("test_conv1d_blh_bwd", "assert False"): (
        "the library's gradient of weights (K, D) has its values in the order (D, K), and the test reads them so"
    ),
}
"""Tests and errors, by how they begin, that are not the shims' fault, and why."""


class UnreachableError(Exception):
    """A repository cannot be fetched."""


def fetch(name: str, checkouts: Path | None) -> Path:
    """A checkout of a library.

    Raises:
        UnreachableError: there is none in ``checkouts``, or GitHub cannot be reached.
    """
    folder = (checkouts or CACHE) / name
    if folder.is_dir():
        return folder
    if checkouts is not None:
        raise UnreachableError(f"no folder {folder}")
    url = f"https://github.com/{PEERS[name][0]}/{name}"
    done = subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", url, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnreachableError(f"{url}: {done.stderr.strip()}")
    return folder


def run(name: str, folder: Path, largest: int, options: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Run the tests of one library.

    Returns:
        pytest's line of counts, and the name and the error of each test that failed.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--noconftest", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["-p", "no:cacheprovider", "-p", "peers_plugin", "--import-mode=importlib", "--disable-warnings"]
    command += ["--tb=line", *(str(folder / file) for file in PEERS[name][1]), *options]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "PYTHONPATH": path,
        "PEERS_CHECKOUT": str(folder),
        "PEERS_LARGEST": str(largest),
        # So that the line of an error is whole.
        "COLUMNS": "1000",
    }
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    counts = next((line.strip("= ") for line in reversed(lines) if SUMMARY.match(line)), "")
    if not counts:
        raise RuntimeError(f"{name}: no tests ran\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return counts, [(match[1], match[2] or "") for line in lines if (match := FAILED.match(line))]


def reason(test: str, error: str) -> str | None:
    """Why a test fails through no fault of the shims, or None."""
    starts = REASONS.items()
    return next((why for (name, text), why in starts if test.startswith(name) and error.startswith(text)), None)


def main() -> int:
    """Run the tests that the command line names, and print what failed.

    Returns:
        0 if nothing failed but what has a reason, 1 if something did, 3 if a checkout cannot be had.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(PEERS)}; both by default")
    parser.add_argument("--checkouts", type=Path, help="a folder with checkouts")
    parser.add_argument("--largest", type=int, help="elements of a signal, at most; each library has a default")
    arguments, options = parser.parse_known_args()
    chosen = [name for name in arguments.names if name in PEERS] or list(PEERS)
    options += [name for name in arguments.names if name not in PEERS]
    wrong = 0
    for name in chosen:
        try:
            folder = fetch(name, arguments.checkouts).resolve()
        except UnreachableError as error:
            print(f"{name}: {error}")
            return 3
        largest = PEERS[name][2] if arguments.largest is None else arguments.largest
        counts, failed = run(name, folder, largest, [each for each in options if each != "--"])
        print(f"{name}: {counts}")
        excused = Counter(why for test, error in failed if (why := reason(test, error)))
        for why, count in excused.items():
            print(f"  {count} not applicable: {why}")
        others = Counter((test, error) for test, error in failed if reason(test, error) is None)
        wrong += len(others)
        for (test, error), count in others.items():
            print(f"  {count} failed: {test}: {error}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
