"""``hyenadna enbed attention``: what each head of the encoder looks at, as arrays and pictures.

Every byte divides a weight of 1 among its window and the global tokens, in one softmax. The encoder computes windows in
blocks, see ``LongT5TransientGlobalAttention`` in transformers. Here they become a row for each byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.data.fasta import read_records
from hyenadna.data.sequences import encode
from hyenadna.drawing.attention import draw_heads
from hyenadna.enbed.attention_config import AttentionConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification
from hyenadna.encoder_decoder.modeling import ENBEDEncoder
from hyenadna.encoder_decoder.tokens import as_text, base_ids

ARRAYS_FILE = "attention.npz"
HEADS_FILE = "heads.tsv"


class Maps(NamedTuple):
    """The weights of one layer.

    Attributes:
        layer: its number, from 1.
        local: float32 ``(H, L, 2 radius + 1)``: the weight of byte ``i + offset`` for byte ``i``, offsets from
            ``-radius`` to ``radius``. It is 0 outside the sequence.
        globals: float32 ``(H, L, G)``: the weight of each global token.
    """

    layer: int
    local: np.ndarray
    globals: np.ndarray


class Head(NamedTuple):
    """A line of ``heads.tsv``.

    Attributes:
        layer: number of the layer, from 1.
        head: number of the head, from 1.
        on_globals: the share of its weight that is on global tokens, as the mean over the bytes.
        distance: the mean distance in bytes to what it looks at in the window.
    """

    layer: int
    head: int
    on_globals: float
    distance: float


def attention_maps(encoder: ENBEDEncoder, ids: Tensor, layers: Sequence[int]) -> list[Maps]:
    """The attention of layers of the encoder, in evaluation mode.

    Args:
        encoder: the encoder of an ENBED.
        ids: int64 ``(L,)`` ids of bytes, without pads.
        layers: their numbers, from 1.

    Raises:
        InputError: the encoder has no such layer, or ``ids`` are none that it takes.
    """
    count = len(encoder.block)
    if wrong := [layer for layer in layers if not 1 <= layer <= count]:
        raise InputError(f"`layers` {wrong[0]}: the encoder has layers 1 to {count}")
    encoder.eval()
    with torch.no_grad():
        output = encoder(ids[None], output_attentions=True, return_dict=True)
    return [
        Maps(layer, *_unpacked(output.attentions[layer - 1][0], encoder.config.radius_of(layer - 1), len(ids)))
        for layer in layers
    ]


def _unpacked(blocks: Tensor, radius: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows and global tokens, from ``(blocks, H, radius + 1, 3 (radius + 1) + G)``.

    A block of bytes looks at itself and at both neighbours. Byte ``i`` of it has offset ``d`` in column
    ``radius + 1 + i + d``.
    """
    size = radius + 1
    rows = blocks.transpose(0, 1).flatten(1, 2)[:, :length].float()
    within = torch.arange(length) % size
    columns = size + within[:, None] + torch.arange(-radius, radius + 1)
    local = rows.gather(2, columns.expand(len(rows), -1, -1))
    return local.numpy(), rows[:, :, 3 * size :].numpy()


def heads_of(maps: Maps) -> list[Head]:
    """What each head of a layer looks at, in two numbers."""
    radius = maps.local.shape[2] // 2
    offsets = np.abs(np.arange(-radius, radius + 1))
    found = []
    for head, (local, on_globals) in enumerate(zip(maps.local, maps.globals, strict=True), start=1):
        distance = float((local * offsets).sum() / local.sum())
        found.append(Head(maps.layer, head, float(on_globals.sum(axis=1).mean()), distance))
    return found


def attention(config: AttentionConfig) -> list[Head]:
    """Write the maps of a sequence, their picture for each layer, and a line for each head.

    Returns:
        The heads, in the order of the layers.

    Raises:
        InputError: an option or a file is impossible; one line says which.
        ImportError: matplotlib is absent; the message names the extra.
    """
    config.check()
    name, bases = _sequence(config)
    ids = base_ids(bases)
    encoder = ENBEDForSequenceClassification.from_pretrained(config.model, dtype=torch.float32).encoder
    layers = config.layers or range(1, len(encoder.block) + 1)
    maps = attention_maps(encoder, torch.from_numpy(ids), layers)
    heads = [head for each in maps for head in heads_of(each)]
    block = encoder.config.global_block_size
    with atomic_dir(config.out) as draft:
        arrays = {f"layer{each.layer}_{part}": getattr(each, part) for each in maps for part in ("local", "globals")}
        starts = block * np.arange(maps[0].globals.shape[2])
        np.savez(draft / ARRAYS_FILE, sequence=np.array(as_text(ids)), global_starts=starts, **arrays)
        lines = [Head._fields, *((*map(str, head[:2]), f"{head[2]:.6f}", f"{head[3]:.3f}") for head in heads)]
        (draft / HEADS_FILE).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
        for each in maps:
            title = f"{name}: layer {each.layer} of {len(encoder.block)}"
            draw_heads(each.local, each.globals, draft / f"layer-{each.layer:02d}.png", title=title, block=block)
    return heads


def _sequence(config: AttentionConfig) -> tuple[str, np.ndarray]:
    """The name and the bases of the sequence."""
    if config.fasta is None:
        return "sequence", encode(config.sequence, "`sequence`")
    records = list(read_records(config.fasta))
    if len(records) != 1:
        raise InputError(f"{config.fasta}: holds {len(records)} sequences; give a FASTA with one")
    name, bases = records[0]
    if not len(bases):
        raise InputError(f"{config.fasta}: {name!r} is empty")
    return name, bases


def describe(config: AttentionConfig, heads: Sequence[Head]) -> str:
    """The lines of the heads, for the terminal."""
    lines = [f"{'layer':>5} {'head':>5} {'on global tokens':>17} {'mean distance in the window':>28}"]
    lines += [f"{head.layer:>5} {head.head:>5} {head.on_globals:>17.3f} {head.distance:>28.1f}" for head in heads]
    return "\n".join([*lines, f"pictures, {ARRAYS_FILE} and {HEADS_FILE} in {Path(config.out)}"])
