"""The command ``hyenadna``, in a module outside the package.

Python imports a package before any module in it. This module comes first, so the package can tell that the command line
imports it, and leave torch and transformers to the verbs that need them.
"""

from __future__ import annotations


def main() -> None:
    """Run one verb of ``hyenadna``."""
    from hyenadna.cli.main import main as run

    run()
