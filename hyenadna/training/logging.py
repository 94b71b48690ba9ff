"""Rows of metrics, into the run's folder and into TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from hyenadna.common.world import world
from hyenadna.training.run_dir import RunFolder

Log = Callable[[Mapping[str, Any]], None]


@contextmanager
def metrics_log(folder: RunFolder, step: int) -> Iterator[Log]:
    """A function that writes a row to ``metrics.jsonl``, and shows it in TensorBoard if that is installed.

    The first process writes for all. Every process enters the block, and calls the function with the same rows.

    Args:
        folder: folder of the run.
        step: last finished step. TensorBoard drops what a stopped run has shown after it.

    Raises:
        InputError: a file cannot be written to. All processes raise it.
    """
    with ExitStack() as stack:
        own: list[Log] = []
        world().first(lambda: own.append(stack.enter_context(_own_log(folder, step))))
        yield lambda row: world().first(lambda: own[0](row))


@contextmanager
def _own_log(folder: RunFolder, step: int) -> Iterator[Log]:
    """As :func:`metrics_log`, for this process alone."""
    writers: Any = None
    with suppress(ImportError):
        from torch.utils import tensorboard as writers
    if writers is None:
        yield folder.log
        return
    with writers.SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1) as writer:

        def log(row: Mapping[str, Any]) -> None:
            folder.log(row)
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(key, value, row["step"])

        yield log
