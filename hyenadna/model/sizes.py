"""The seven published sizes by name."""

from __future__ import annotations

from typing import Any, Protocol

from hyenadna.common.errors import InputError

PUBLISHED_SIZES: dict[str, dict[str, int]] = {
    "tiny-1k": {"d_model": 128, "n_layer": 2, "max_seq_len": 1026},
    "tiny-1k-d256": {"d_model": 256, "n_layer": 2, "max_seq_len": 1026},
    "tiny-16k": {"d_model": 128, "n_layer": 2, "max_seq_len": 16386},
    "small-32k": {"d_model": 256, "n_layer": 4, "max_seq_len": 32770},
    "medium-160k": {"d_model": 256, "n_layer": 8, "max_seq_len": 160002},
    "medium-450k": {"d_model": 256, "n_layer": 8, "max_seq_len": 450002},
    "large-1m": {"d_model": 256, "n_layer": 8, "max_seq_len": 1000002},
}

PUBLISHED_NAMES: dict[str, str] = {
    "tiny-1k-seqlen": "tiny-1k",
    "tiny-1k-seqlen-d256": "tiny-1k-d256",
    "tiny-16k-seqlen-d128": "tiny-16k",
    "small-32k-seqlen": "small-32k",
    "medium-160k-seqlen": "medium-160k",
    "medium-450k-seqlen": "medium-450k",
    "large-1m-seqlen": "large-1m",
}
"""Names of the checkpoints ``LongSafari/hyenadna-*``, without prefix, and their short form here."""


def short_name(name: str) -> str:
    """The name in ``PUBLISHED_SIZES`` of a short or a published name, with or without prefix and ``-hf``.

    Raises:
        InputError: no published size has this name; the message lists them.
    """
    bare = name.removeprefix("LongSafari/").removeprefix("hyenadna-").removesuffix("-hf")
    bare = PUBLISHED_NAMES.get(bare, bare)
    if bare not in PUBLISHED_SIZES:
        raise InputError(f"no published size is called {name!r}: choose one of {', '.join(PUBLISHED_SIZES)}")
    return bare


def size_for(bases: int) -> str | None:
    """The first published size that takes so many bases; None if none does."""
    return next((name for name, fields in PUBLISHED_SIZES.items() if fields["max_seq_len"] >= bases), None)


def checkpoint_name(size: str) -> str:
    """The published checkpoint of a size, as the Hugging Face Hub calls it."""
    names = {short: name for name, short in PUBLISHED_NAMES.items()}
    return f"LongSafari/hyenadna-{names[size]}-hf"


class Shape(Protocol):
    """Options that name the shape of a new model."""

    size: str
    d_model: int | None
    n_layer: int | None
    max_seq_len: int | None
    model_fields: dict[str, Any]


def shape_fields(options: Shape) -> dict[str, Any]:
    """The fields of ``HyenaDNAConfig`` that options of their own set in place of a published size's."""
    values = {name: getattr(options, name) for name in ("d_model", "n_layer", "max_seq_len")}
    return {name: value for name, value in values.items() if value is not None}
