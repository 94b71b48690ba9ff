"""``hyenadna embed``: what a model makes of sequences, as vectors in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import plain
from hyenadna.data.intervals import read_bed
from hyenadna.data.sequences import check_windows, encode, open_genome
from hyenadna.data.tables import read_table
from hyenadna.inference.config import EmbedConfig
from hyenadna.inference.embeddings import Parts
from hyenadna.inference.hidden import hidden_states
from hyenadna.model.device import pick_device
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.modeling import HyenaDNAModel


class _Item(NamedTuple):
    """One sequence and what is known of it."""

    where: str
    ids: np.ndarray
    name: str
    contig: str
    start: int
    end: int
    label: str


@without_transformers_bars()
def embed(config: EmbedConfig, *, progress: bool = True) -> int:
    """Embed as ``config`` says; returns the number of sequences.

    A run that was stopped leaves its parts in ``OUT.partial``, from which ``resume`` goes on.

    Raises:
        InputError: a checkpoint, sequence, BED or option that does not fit.
    """
    config.check()
    device = pick_device(config.device)
    model = HyenaDNAModel.from_pretrained(config.model, dtype=torch.float32)
    check_windows(config.window, config.stride, model.config.max_seq_len)
    if config.random_weights:
        torch.manual_seed(config.seed)
        model = HyenaDNAModel(model.config).eval()
    model.to(device)
    with ExitStack() as stack:
        total, items = _read(config, stack, progress)
        changing = ("batch_size", "resume", "device", "out")
        settings = {name: value for name, value in plain(config).items() if name not in changing}
        parts = Parts(config.out, settings, resume=config.resume)
        done = parts.done()
        items = islice(items, done, None)
        disable = None if progress else True
        bar = stack.enter_context(
            tqdm(total=total, initial=done, unit="sequence", desc="embed", disable=disable, dynamic_ncols=True)
        )
        try:
            while chunk := list(islice(items, config.part_size)):
                parts.add(len(chunk), _embed_part(model, chunk, config))
                bar.update(len(chunk))
        except (InputError, OSError) as error:
            if not (kept := parts.done()):
                parts.remove()
                raise
            raise InputError(f"{error}; the {kept:,} sequences before that are in {parts.folder}") from error
        except KeyboardInterrupt as stopped:
            if not (kept := parts.done()):
                parts.remove()
                raise KeyboardInterrupt("no part was finished, nothing is saved") from stopped
            raise KeyboardInterrupt(f"{kept:,} sequences are saved; go on with --resume") from stopped
        if not parts.files():
            raise InputError("there is no sequence to embed")
        parts.finish()
    return total


def _embed_part(model: HyenaDNAModel, items: Sequence[_Item], config: EmbedConfig) -> dict[str, np.ndarray]:
    """Columns of a part: a row for each sequence, or for each of its bases."""
    states = hidden_states(
        model,
        ((item.where, item.ids) for item in items),
        batch_size=config.batch_size,
        window=config.window,
        stride=config.stride,
        n_to_pad=config.n_to_pad,
    )
    if config.pooling == "token":
        rows = np.repeat(np.arange(len(items)), [len(item.ids) for item in items])
        starts = np.concatenate([item.start + np.arange(len(item.ids)) for item in items])
        ends = starts + 1
        vectors = np.concatenate(list(states))
    else:
        rows = np.arange(len(items))
        starts, ends = (np.array([getattr(item, side) for item in items]) for side in ("start", "end"))
        pooled = (s.mean(axis=0, dtype=np.float64) if config.pooling == "mean" else s[-1] for s in states)
        vectors = np.stack(list(pooled))
    text = {
        name: np.array([getattr(item, name) for item in items], dtype=np.str_)[rows]
        for name in ("name", "contig", "label")
    }
    return {
        **text,
        "start": starts.astype(np.int64),
        "end": ends.astype(np.int64),
        "embedding": vectors.astype(np.float32),
    }


def _read(config: EmbedConfig, stack: ExitStack, progress: bool) -> tuple[int, Iterator[_Item]]:
    if config.table is not None:
        labels = [config.label_column] if config.label_column else []
        columns = read_table(config.table, [config.sequence_column, *labels])
        sequences = columns[config.sequence_column]
        where = [f"{config.table}: row {number}" for number in range(1, len(sequences) + 1)]
        # All are looked at before the first is embedded.
        encoded = [encode(sequence, name) for sequence, name in zip(sequences, where, strict=True)]
        label = columns[config.label_column] if config.label_column else [None] * len(encoded)
        found = enumerate(zip(where, encoded, label, strict=True), start=1)
        return len(encoded), (
            _Item(place, ids, str(number), "", 0, len(ids), text or "") for number, (place, ids, text) in found
        )
    if config.bed is not None:
        assert config.genome is not None
        genome = stack.enter_context(open_genome(config.genome, progress=progress))
        intervals = read_bed(config.bed, genome)
        return len(intervals), (
            _Item(
                f"{config.bed}: {i.contig}:{i.start}-{i.end}",
                genome.tokens(i.contig, i.start, i.end),
                f"{i.contig}:{i.start}-{i.end}",
                i.contig,
                i.start,
                i.end,
                i.name or "",
            )
            for i in intervals
        )
    assert config.fasta is not None
    if config.fasta.is_dir():
        raise InputError(f"--fasta {config.fasta}: is a folder; give the FASTA")
    genome = stack.enter_context(open_genome(config.fasta, progress=progress))
    return len(genome.names), (
        _Item(f"{config.fasta}: {c.name}", genome.tokens(c.name), c.name, c.name, 0, c.length, "")
        for c in genome.contigs
    )
