"""Loading checkpoints without the progress bars of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """Switch off transformers' progress bars, which show "writing model shards" at every checkpoint.

    Works as a decorator too.
    """
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
