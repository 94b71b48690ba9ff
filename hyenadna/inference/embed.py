"""``hyenadna embed``: write sequence embeddings to a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
import torch

from hyenadna.baselines.loading import Backbone, load_backbone
from hyenadna.common.errors import InputError
from hyenadna.common.parts import tell_idle
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import settings
from hyenadna.common.world import world
from hyenadna.common.writers import one_writer
from hyenadna.data.sequences import Every, Last, Mean, check_windows
from hyenadna.data.sources import Record, Sequences, open_sequences
from hyenadna.inference.config import EmbedConfig
from hyenadna.inference.embeddings import Parts
from hyenadna.inference.hidden import hidden_states
from hyenadna.model.device import pick_device
from hyenadna.model.kmers import Kmers
from hyenadna.model.loading import without_transformers_bars

# Bases after which a part of a file ends: with --pooling token, 2 GB of vectors of width 128.
_PART_BASES = 1 << 22


@without_transformers_bars()
@one_writer()
def embed(config: EmbedConfig, *, progress: bool = True) -> int:
    """Embed the sequences that ``config`` names, and return their number.

    A stopped run leaves its finished parts in ``OUT.partial``, and can be resumed. Several processes share out the
    parts, see :func:`hyenadna.common.world.world`.

    Raises:
        InputError: a checkpoint, sequence, BED or option does not fit.
    """
    with world().agreed():
        config.check()
    progress = progress and world().is_first
    parts = Parts(config.out, settings(config), resume=config.resume)
    with ExitStack() as stack:
        with world().agreed():
            model = _load_model(config)
            sequences = stack.enter_context(
                open_sequences(
                    fasta=config.fasta,
                    table=config.table,
                    bed=config.bed,
                    genome=config.genome,
                    aliases=config.aliases,
                    sequence_column=config.sequence_column,
                    label_column=config.label_column,
                    position_columns=config.position_columns,
                    progress=progress,
                )
            )
        records = (record for record in sequences if len(record.ids))
        total = len(sequences) - len(sequences.empty)
        stack.enter_context(parts.keep(lambda: f"{parts.done():,} sequences" if parts.done() else ""))
        done = world().first(parts.done)
        if not done:
            _tell_idle(sequences, total, config.part_size)
        shown = stack.enter_context(bar("embed", total, "sequence", initial=done, progress=progress))

        def write(number: int, inputs: Iterable[Record]) -> int:
            if chunk := list(inputs):
                parts.add(number, len(chunk), _embed_part(model, chunk, config))
                shown.update(len(chunk))
            return len(chunk)

        parts.compute(lambda: _part(records, config.part_size), write, shown.update)
        world().first(parts.finish)
        return total


def _load_model(config: EmbedConfig) -> Backbone:
    device = pick_device(config.device)
    model = load_backbone(config.model, dtype=torch.float32)
    check_windows(config.window, config.stride, model.config.max_seq_len)
    if config.pooling == "token" and (kmers := Kmers.of(model.config)):
        raise InputError(
            f"`pooling` token: {config.model} reads words of {kmers.k} bases and has no vectors of bases; choose mean "
            "or last"
        )
    if getattr(model.config, "bidirectional", False) and config.pooling == "last":
        raise InputError(
            f"`pooling` last takes the base that has seen all others, and {config.model} is bidirectional: every base "
            "has; take mean"
        )
    if getattr(model.config, "bidirectional", False) and config.pack_tokens:
        raise InputError(
            f"`pack_tokens` {config.pack_tokens}: {config.model} is bidirectional and takes no packed rows; leave it "
            "out"
        )
    if config.random_weights:
        torch.manual_seed(config.seed)
        kind: Any = type(model)
        model = kind(model.config).eval()
    moved: Any = model
    return moved.to(device)


def _part(records: Iterator[Record], size: int) -> Iterator[Record]:
    """The next ``size`` records, or fewer that have _PART_BASES bases together. So a part fits into memory."""
    total = 0
    for record in islice(records, size):
        yield record
        total += len(record.ids)
        if total >= _PART_BASES:
            return


def _tell_idle(sequences: Sequences, total: int, size: int) -> None:
    """Tell of processes that have nothing to do. Parts are counted only where there may be too few."""
    if world().is_first and total <= size * (world().size - 1):
        records = (record for record in sequences if len(record.ids))
        count = sum(1 for _ in iter(lambda: sum(1 for _ in _part(records, size)), 0))
        tell_idle(count, "part", "lower part_size")


def _embed_part(model: Backbone, records: Sequence[Record], config: EmbedConfig) -> dict[str, np.ndarray]:
    """The columns of a part, with a row for each sequence or for each base."""
    states = hidden_states(
        model,
        ((record.where, record.ids) for record in records),
        batch_size=config.batch_size,
        pack_tokens=config.pack_tokens,
        window=config.window,
        stride=config.stride,
        n_to_pad=config.n_to_pad,
        collect={"mean": Mean, "last": Last, "token": Every}[config.pooling],
    )
    if config.pooling == "token":
        rows = np.repeat(np.arange(len(records)), [len(record.ids) for record in records])
        starts = np.concatenate([record.positions for record in records])
        ends = starts + 1
        vectors = np.concatenate(list(states))
    else:
        rows = np.arange(len(records))
        starts, ends = (np.array([getattr(record, side) for record in records]) for side in ("start", "end"))
        vectors = np.stack(list(states))
    text = {
        name: np.array([getattr(record, name) for record in records], dtype=np.str_)[rows]
        for name in ("name", "contig", "label")
    }
    return {
        **text,
        "start": starts.astype(np.int64),
        "end": ends.astype(np.int64),
        "embedding": vectors.astype(np.float32),
    }
