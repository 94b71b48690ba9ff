"""Rows of metrics, into the run's folder and into TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hyenadna.training.run_dir import RunFolder


@contextmanager
def metrics_log(folder: RunFolder, step: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a row to ``metrics.jsonl``, and shows it in TensorBoard if that is installed.

    Args:
        folder: folder of the run.
        step: last finished step. TensorBoard drops what a stopped run has shown after it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield folder.log
        return
    with SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1) as writer:

        def log(row: Mapping[str, Any]) -> None:
            folder.log(row)
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(key, value, row["step"])

        yield log
