"""``HyenaDNAConfig``: the keys of the published ``-hf`` configurations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PretrainedConfig

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import PAD_ID, VOCAB
from hyenadna.model.sizes import PUBLISHED_SIZES, short_name

logger = logging.getLogger(__name__)

# Field here, key at the top of the original's config.json.
_ORIGINAL_TOP = {
    "d_model": "d_model",
    "n_layer": "n_layer",
    "d_inner": "d_inner",
    "vocab_size": "vocab_size",
    "embed_dropout": "embed_dropout",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_vocab_size_multiple": "pad_vocab_size_multiple",
}
# Field here, key under "layer" there.
_ORIGINAL_LAYER = {
    "max_seq_len": "l_max",
    "hyena_order": "order",
    "filter_order": "filter_order",
    "emb_dim": "emb_dim",
    "short_filter_order": "short_filter_order",
    "num_inner_mlps": "num_inner_mlps",
    "activation_freq": "w",
    "train_freq": "train_freq",
    "hyena_dropout": "dropout",
    "hyena_filter_dropout": "filter_dropout",
    "use_bias": "bias",
    "modulation_shift": "shift",
}
# Keys that change the model. Other values than these ask for a model that is not supported here.
_ORIGINAL_TOP_FIXED = {"resid_dropout": 0.0, "attn_layer_idx": None, "max_position_embeddings": 0}
_ORIGINAL_LAYER_FIXED = {
    "_name_": "hyena",
    "modulate": True,
    "normalized": False,
    "bidirectional": False,
    "num_heads": 1,
    "inner_factor": 1,
    "num_blocks": 1,
    "outer_mixing": False,
    "post_order_ffn": False,
    "activation": "id",
}
# Keys that change how the original computes or trains, but not the result: fused kernels, checkpointing, learning
# rates. Its code never reads local_order.
_ORIGINAL_TOP_IGNORED = {
    "fused_mlp",
    "fused_dropout_add_ln",
    "checkpoint_mixer",
    "checkpoint_mlp",
    "residual_in_fp32",
    "return_hidden_state",
    "attn_cfg",
}
_ORIGINAL_LAYER_IGNORED = {"local_order", "lr", "wd", "lr_pos_emb", "d_model", "fused_fft_conv", "jit_filter"}


class HyenaDNAConfig(PretrainedConfig):
    """Configuration of a HyenaDNA model. Defaults are those of ``tiny-1k``.

    Args:
        d_model: width D.
        n_layer: number of blocks.
        d_inner: width of the MLP; 4 d_model if None.
        vocab_size: number of tokens, 12. The embedding and the logits have ``padded_vocab_size`` rows.
        pad_vocab_size_multiple: the number of rows is padded to a multiple of this.
        max_seq_len: longest input in tokens, special tokens included. The long filters are made for this length and
            cut to the length of the input. Another value gives another model, not the same with a longer context.
        modulation_shift: limit of the exponential window of the filters. No published configuration has this key: 0.05
            belongs to the ``-hf`` port and the original's standalone file, 0.0 to its training code.
        hyena_order, short_filter_order, filter_order, emb_dim, num_inner_mlps, activation_freq, train_freq,
            use_bias, hyena_dropout, hyena_filter_dropout: arguments of ``hyena_kernels.HyenaOperator``.
        embed_dropout: dropout on the embedding, the only one by default.
        layer_norm_epsilon: epsilon of all LayerNorms.
        initializer_range: standard deviation of new weights.
        pad_token_id: id of ``[PAD]``.
        tie_word_embeddings: whether the head of the language model shares the embedding's matrix.
        pooling: how ``HyenaDNAForSequenceClassification`` pools the positions: "mean", "last" or "first".
        kwargs: arguments of ``transformers.PretrainedConfig``. Others are kept and named in a log line.

    Raises:
        InputError: a value is impossible for a model.

    Example:
        >>> from hyenadna import HyenaDNAConfig
        >>> HyenaDNAConfig.named("tiny-1k").d_model
        128
    """

    model_type = "hyenadna"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "d_inner",
        "max_position_embeddings": "max_seq_len",
    }

    def __init__(
        self,
        d_model: int = 128,
        n_layer: int = 2,
        d_inner: int | None = None,
        vocab_size: int = len(VOCAB),
        pad_vocab_size_multiple: int = 8,
        max_seq_len: int = 1026,
        modulation_shift: float = 0.05,
        hyena_order: int = 2,
        short_filter_order: int = 3,
        filter_order: int = 64,
        emb_dim: int = 5,
        num_inner_mlps: int = 2,
        activation_freq: float = 10,
        train_freq: bool = True,
        use_bias: bool = True,
        hyena_dropout: float = 0.0,
        hyena_filter_dropout: float = 0.0,
        embed_dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        pad_token_id: int = PAD_ID,
        tie_word_embeddings: bool = False,
        pooling: str = "mean",
        **kwargs: Any,
    ) -> None:
        # It names code files of the published folder. A folder saved by this package does not have them.
        kwargs.pop("auto_map", None)
        kwargs.pop("num_attention_heads", None)
        super().__init__(**kwargs)
        base = PretrainedConfig()
        unknown = sorted(key for key in kwargs if key in self.__dict__ and not hasattr(base, key))
        if unknown:
            logger.warning("config keys without effect here: %s", ", ".join(unknown))
        self.d_model = d_model
        self.n_layer = n_layer
        self.d_inner = 4 * d_model if d_inner is None else d_inner
        self.vocab_size = vocab_size
        self.pad_vocab_size_multiple = pad_vocab_size_multiple
        self.max_seq_len = max_seq_len
        self.modulation_shift = modulation_shift
        self.hyena_order = hyena_order
        self.short_filter_order = short_filter_order
        self.filter_order = filter_order
        self.emb_dim = emb_dim
        self.num_inner_mlps = num_inner_mlps
        self.activation_freq = activation_freq
        self.train_freq = train_freq
        self.use_bias = use_bias
        self.hyena_dropout = hyena_dropout
        self.hyena_filter_dropout = hyena_filter_dropout
        self.embed_dropout = embed_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = tie_word_embeddings
        self.pooling = pooling
        # The model has no attention, but peft's prompt tuning asks every configuration for this number.
        self.num_attention_heads = 1
        self.check()

    def check(self) -> None:
        """Raise InputError if a field has an impossible value."""
        sizes = ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple", "max_seq_len")
        least = dict.fromkeys((*sizes, "filter_order", "short_filter_order"), 1)
        least |= {"hyena_order": 2, "emb_dim": 3, "num_inner_mlps": 0}
        for name, limit in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < limit:
                raise InputError(f"config: {name} must be an integer of at least {limit}, got {value!r}")
        if self.emb_dim % 2 == 0:
            raise InputError(f"config: emb_dim must be odd (time, cosines and sines), got {self.emb_dim}")
        if self.pooling not in ("mean", "last", "first"):
            raise InputError(f"config: pooling must be 'mean', 'last' or 'first', got {self.pooling!r}")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and columns of the logits: ``vocab_size`` rounded up to a multiple, here 16."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @classmethod
    def named(cls, name: str, **overrides: Any) -> HyenaDNAConfig:
        """The configuration of a published size: ``"tiny-1k"``, ``"large-1m"``, or ``"large-1m-seqlen"``.

        Raises:
            InputError: no published size has this name; the message lists them.
        """
        return cls(**{**PUBLISHED_SIZES[short_name(name)], **overrides})

    @classmethod
    def from_original(cls, original: Mapping[str, Any], **overrides: Any) -> HyenaDNAConfig:
        """Read the ``config.json`` of the original: ``{"d_model", "n_layer", …, "layer": {"l_max", …}}``.

        The file has no window shift. Without an override it becomes 0.05, the value of the published weights. Unknown
        keys are ignored and named in a log line.

        Raises:
            InputError: a required key is missing, or the file asks for another architecture.
        """
        layer = original.get("layer")
        if not isinstance(layer, Mapping) or "l_max" not in layer or "d_model" not in original:
            raise InputError("config.json is not the original's: it needs d_model, n_layer and layer.l_max")
        fields: dict[str, Any] = {}
        unknown: list[str] = []
        for prefix, found, known, fixed, ignored in (
            ("", original, _ORIGINAL_TOP, _ORIGINAL_TOP_FIXED, _ORIGINAL_TOP_IGNORED | {"layer"}),
            ("layer.", layer, _ORIGINAL_LAYER, _ORIGINAL_LAYER_FIXED, _ORIGINAL_LAYER_IGNORED),
        ):
            fields |= {field: found[key] for field, key in known.items() if key in found}
            for key, value in found.items():
                if key in fixed and value != fixed[key]:
                    raise InputError(
                        f"config.json asks for {prefix}{key} = {value!r}; only {fixed[key]!r} is supported"
                    )
            unknown += [prefix + key for key in found if key not in {*known.values(), *fixed, *ignored}]
        if unknown:
            logger.warning("config.json keys without effect here: %s", ", ".join(sorted(unknown)))
        return cls(**{**fields, **overrides})

    def to_original(self) -> dict[str, Any]:
        """The content of the original's ``config.json``. The original reads ``layer.shift`` too."""
        top: dict[str, Any] = {key: getattr(self, field) for field, key in _ORIGINAL_TOP.items()}
        layer = {key: getattr(self, field) for field, key in _ORIGINAL_LAYER.items()}
        return top | {
            "resid_dropout": 0.0,
            "residual_in_fp32": True,
            "return_hidden_state": True,
            "layer": {"_name_": "hyena", "modulate": True, "lr_pos_emb": 0.0, **layer},
        }
