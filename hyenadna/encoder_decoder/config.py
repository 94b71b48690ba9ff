"""``ENBEDConfig``: a LongT5 whose first layers look less far than the others.

Source: Malusare et al., "Understanding the natural language of DNA using encoder-decoder foundation models with
byte-level precision", 2024 (arXiv 2311.02333), table 6 and the section on attention.
"""

from __future__ import annotations

from typing import Any

from transformers.models.auto import AutoConfig
from transformers.models.longt5 import LongT5Config

from hyenadna.common.errors import InputError
from hyenadna.encoder_decoder.sizes import enbed_fields
from hyenadna.encoder_decoder.tokens import BYTES, VOCAB_SIZE, Bytes

STOCK_TYPE = LongT5Config.model_type
"""The ``model_type`` of the models of transformers that are read and written here too."""


class ENBEDConfig(LongT5Config):
    """The fields of ``LongT5Config``, and these.

    A sequence is cut into blocks of ``global_block_size`` bytes, whose normalised sums are the global tokens. The size
    is fixed, and not their number: else the borders would move with the pads of a batch. It is a power of two, because
    LongT5 finds the borders by sums of ``1 / size`` in floating point, which only then are exact.

    Attributes:
        first_local_radius: bytes that each side of a byte sees in the first layers. 64 in the paper.
        first_local_layers: how many layers these are. 3 in the paper.
        local_radius: bytes that each side of a byte sees in the other layers. 128 in the paper.
        global_block_size: bytes of a global token, a power of two. The paper does not say how many there are.
        num_global_tokens: global tokens of a sequence of ``max_seq_len`` bytes, as the paper counts them. It sets
            ``global_block_size`` to the power of two that gives at most so many. None leaves that as it is.
        max_seq_len: most bytes of an input. Positions are relative, so weights do not depend on it.
        pooling: how a classifier makes one vector of a sequence: mean, last or first. The paper does not say.
        train_length: bases to which fine-tuning cut longer sequences, or None.
        train_keep: what it kept of them: start, middle or end.
    """

    model_type = "enbed"

    vocab_size: int = VOCAB_SIZE
    d_model: int = 256
    d_kv: int = 64
    d_ff: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = 3
    num_heads: int = 4
    local_radius: int = 128
    first_local_radius: int = 64
    first_local_layers: int = 3
    num_global_tokens: int | None = None
    max_seq_len: int = 16_384
    pooling: str = "mean"
    train_length: int | None = None
    train_keep: str = "middle"
    feed_forward_proj: str = "gated-gelu"
    encoder_attention_type: str = "transient-global"
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        """Set what other fields decide, and check all."""
        super().__post_init__(**kwargs)
        self.check()
        if self.num_global_tokens is not None:
            least = -(-self.max_seq_len // self.num_global_tokens)
            self.global_block_size = 1 << (least - 1).bit_length()

    @classmethod
    def of_size(cls, size: str, **fields: Any) -> ENBEDConfig:
        """A configuration of a size in ``ENBED_SIZES``, with other fields as given.

        Raises:
            InputError: no size has this name, or a field has an impossible value.
        """
        return cls(**(enbed_fields(size) | fields))

    def check(self) -> None:
        """Raise InputError if a field has an impossible value."""
        least = {"local_radius": 1, "first_local_radius": 1, "first_local_layers": 0, "max_seq_len": 1}
        least |= dict.fromkeys(("num_layers", "num_decoder_layers", "d_model", "d_kv", "d_ff", "num_heads"), 1)
        for name, bound in (least | {"global_block_size": 1, "num_global_tokens": 1, "train_length": 1}).items():
            value = getattr(self, name)
            if value is None and name in ("num_global_tokens", "train_length"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise InputError(f"config: {name} must be an integer of at least {bound}, got {value!r}")
        if self.global_block_size & (self.global_block_size - 1):
            raise InputError(
                f"config: global_block_size must be a power of two, got {self.global_block_size}: LongT5 finds other "
                "borders of blocks by sums that round"
            )
        if self.vocab_size < VOCAB_SIZE:
            raise InputError(f"config: vocab_size must be at least {VOCAB_SIZE}, got {self.vocab_size}")
        if self.encoder_attention_type != "transient-global":
            raise InputError(
                f"config: encoder_attention_type must be 'transient-global', got {self.encoder_attention_type!r}: for "
                "windows alone set a `global_block_size` above `max_seq_len`"
            )
        for name, known in (("pooling", ("mean", "last", "first")), ("train_keep", ("start", "middle", "end"))):
            if getattr(self, name) not in known:
                raise InputError(f"config: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def radius_of(self, layer: int) -> int:
        """Bytes that each side of a byte sees in a layer of the encoder."""
        return self.first_local_radius if layer < self.first_local_layers else self.local_radius

    @property
    def boundary(self) -> int | None:
        """The first layer of the second radius; None where all layers have one radius, as in transformers."""
        radii = [self.radius_of(layer) for layer in range(self.num_layers)]
        return None if len({*radii}) == 1 else self.first_local_layers

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size

    @property
    def longest_input(self) -> int:
        """Most bytes of an input: ``max_seq_len``."""
        return self.max_seq_len

    @property
    def words(self) -> Bytes:
        """What the model reads in place of ids of bases, see ``hyenadna.model.words``."""
        return BYTES

    @property
    def bidirectional(self) -> bool:
        """Whether a position sees what comes after it, as in ``HyenaDNAConfig``."""
        return True

    def require_causal(self, where: str = "config") -> None:
        """Raise InputError: an encoder sees what comes after a base."""
        raise InputError(f"{where}: an ENBED predicts masked bases and no next one; give a HyenaDNA or a GPT")

    def to_dict(self) -> dict[str, Any]:
        """As in transformers. A generating model with one radius is a LongT5, and its files say so."""
        content = super().to_dict()
        if self.boundary is None and (self.architectures or []) == ["ENBEDForConditionalGeneration"]:
            content |= {
                "model_type": STOCK_TYPE,
                "architectures": ["LongT5ForConditionalGeneration"],
                "local_radius": self.radius_of(0),
            }
        return content


AutoConfig.register(ENBEDConfig.model_type, ENBEDConfig)
