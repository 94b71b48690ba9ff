"""``hyenadna embed``: write sequence embeddings to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from hyenadna.common.errors import InputError
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import settings
from hyenadna.common.writers import one_writer
from hyenadna.data.sequences import Every, Last, Mean, check_windows
from hyenadna.data.sources import Record, open_sequences
from hyenadna.inference.config import EmbedConfig
from hyenadna.inference.embeddings import Parts
from hyenadna.inference.hidden import hidden_states
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAModel

# Bases after which a part of a file ends: with --pooling token, 2 GB of vectors of width 128.
_PART_BASES = 1 << 22


@without_transformers_bars()
@one_writer()
def embed(config: EmbedConfig, *, progress: bool = True) -> int:
    """Embed the sequences that ``config`` names, and return their number.

    A stopped run leaves its finished parts in ``OUT.partial``, and can be resumed.

    Raises:
        InputError: a checkpoint, sequence, BED or option does not fit.
    """
    config.check()
    device = pick_device(config.device)
    model = HyenaDNAModel.from_pretrained(config.model, dtype=torch.float32)
    check_windows(config.window, config.stride, model.config.max_seq_len)
    if config.random_weights:
        torch.manual_seed(config.seed)
        model = HyenaDNAModel(model.config).eval()
    model.to(device)
    with open_sequences(
        fasta=config.fasta,
        table=config.table,
        bed=config.bed,
        genome=config.genome,
        aliases=config.aliases,
        sequence_column=config.sequence_column,
        label_column=config.label_column,
        progress=progress,
    ) as sequences:
        parts = Parts(config.out, settings(config), resume=config.resume)
        done = parts.done()
        records = islice((record for record in sequences if len(record.ids)), done, None)
        total = len(sequences) - len(sequences.empty)
        with (
            parts.keep(lambda: f"{parts.done():,} sequences" if parts.done() else ""),
            bar("embed", total, "sequence", initial=done, progress=progress) as shown,
        ):
            while chunk := list(islice(_up_to(records, _PART_BASES), config.part_size)):
                parts.add(len(chunk), _embed_part(model, chunk, config))
                shown.update(len(chunk))
            if not parts.files():
                raise InputError("there is no sequence to embed")
            parts.finish()
        return total


def _up_to(records: Iterator[Record], bases: int) -> Iterator[Record]:
    """The next records, until they have this many bases together. So a part fits into memory."""
    total = 0
    while total < bases and (record := next(records, None)) is not None:
        total += len(record.ids)
        yield record


def _embed_part(model: HyenaDNAModel, records: Sequence[Record], config: EmbedConfig) -> dict[str, np.ndarray]:
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
