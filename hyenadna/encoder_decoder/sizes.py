"""Sizes of ENBED by name. Imports neither torch nor transformers."""

from __future__ import annotations

from typing import Any

from hyenadna.common.errors import InputError

ENBED_SIZES: dict[str, dict[str, Any]] = {
    "enbed-tiny": {"num_layers": 2, "num_decoder_layers": 1, "d_model": 64, "num_heads": 4, "d_kv": 16, "d_ff": 128},
    "enbed-small": {"num_layers": 6, "num_decoder_layers": 3, "d_model": 256, "num_heads": 4, "d_kv": 64, "d_ff": 512},
    "enbed-base": {"num_layers": 12, "num_decoder_layers": 6, "d_model": 768, "num_heads": 12, "d_ff": 2048},
    "enbed-large": {"num_layers": 24, "num_decoder_layers": 12, "d_model": 1536, "num_heads": 16, "d_ff": 3850},
}
"""Fields of ``ENBEDConfig``. The last is the row "ENBED" of the paper's table 6; the others keep its proportions.

The paper states 1.2 billion weights for that row. These shapes have 0.94 billion, and 36 layers of the encoder would
have 1.23.
"""


def enbed_fields(size: str) -> dict[str, Any]:
    """The fields of a size.

    Raises:
        InputError: no size has this name; the message lists them.
    """
    if size not in ENBED_SIZES:
        raise InputError(f"`size` {size}: no ENBED has this size; choose one of {', '.join(ENBED_SIZES)}")
    return dict(ENBED_SIZES[size])
