"""``HyenaDNAConfig``: the keys of the published ``-hf`` configurations."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

import torch
from transformers import PretrainedConfig

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import MOST_BASES, PAD_ID, VOCAB, kmer_vocab_size
from hyenadna.model.sizes import PUBLISHED_SIZES, Shape, shape_fields, short_name

logger = logging.getLogger(__name__)

Model = TypeVar("Model")

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


@dataclass(frozen=True)
class Whole:
    """An integer in a range. The upper limits are far above every model that a machine can hold."""

    least: int
    most: int

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return None
        return f"must be an integer from {self.least} to {self.most:,}, got {value!r}"


@dataclass(frozen=True)
class WholeOrNone(Whole):
    """As :class:`Whole`, or None."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        return None if value is None else super().problem(value)


@dataclass(frozen=True)
class Real:
    """A finite number in a range."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        inside = _is_number(value) and math.isfinite(value) and self.least <= value <= self.most
        if inside and not (self.above and value == self.least):
            return None
        limit = ""
        if math.isfinite(self.most):
            limit = f" from {self.least:g} to {self.most:g}"
        elif math.isfinite(self.least):
            limit = f" above {self.least:g}" if self.above else f" of at least {self.least:g}"
        return f"must be a finite number{limit}, got {value!r}"


@dataclass(frozen=True)
class OneOf:
    """One of these values, of the same type."""

    values: tuple[Any, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if any(type(value) is type(known) and value == known for known in self.values):
            return None
        names = [repr(known) for known in self.values]
        return f"must be {', '.join(names[:-1])} or {names[-1]}, got {value!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_RATE = Real(0.0, 1.0)
_YES_OR_NO = OneOf((True, False))
Rule = Whole | Real | OneOf
"""What a field must be: ``problem`` says what is wrong with a value, or None."""

_RULES: dict[str, Rule] = {
    "d_model": Whole(1, 1 << 20),
    "n_layer": Whole(1, 10_000),
    "d_inner": Whole(1, 1 << 24),
    "vocab_size": Whole(1, 1 << 24),
    "pad_vocab_size_multiple": Whole(1, 1 << 20),
    "max_seq_len": Whole(1, 1 << 30),
    "modulation_shift": Real(),
    "hyena_order": Whole(2, 1000),
    "short_filter_order": Whole(1, 8),
    "filter_length": WholeOrNone(1, 1 << 30),
    "filter_order": Whole(1, 1 << 20),
    "emb_dim": Whole(3, 1 << 20),
    "num_inner_mlps": Whole(0, 1000),
    "activation_freq": Real(),
    "train_freq": _YES_OR_NO,
    "use_bias": _YES_OR_NO,
    "hyena_dropout": _RATE,
    "hyena_filter_dropout": _RATE,
    "embed_dropout": _RATE,
    "layer_norm_epsilon": Real(0.0, above=True),
    "initializer_range": Real(0.0),
    "tie_word_embeddings": _YES_OR_NO,
    "pooling": OneOf(("mean", "last", "first")),
    "train_length": WholeOrNone(1, 1 << 30),
    "train_keep": OneOf(("start", "middle", "end")),
    "bidirectional": OneOf((False, True, "published")),
    "long_conv": OneOf(("auto", "fft", "far_field")),
    "kmer": WholeOrNone(1, MOST_BASES),
    "kmer_stride": Whole(1, MOST_BASES),
}


class DNAConfig(PretrainedConfig):
    """What the configurations of all models here share: fields are checked, and those of other models refused."""

    rules: ClassVar[Mapping[str, Rule]] = {}

    def check(self) -> None:
        """Raise InputError if a field has the wrong type or an impossible value."""
        for name, rule in self.rules.items():
            if problem := rule.problem(getattr(self, name)):
                raise InputError(f"config: {name} {problem}")

    def require_causal(self, where: str = "config") -> None:
        """Raise InputError if the model cannot predict the next base. For everything that does.

        Args:
            where: the beginning of the message, such as the checkpoint.
        """

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and columns of the logits."""
        raise NotImplementedError

    @property
    def longest_input(self) -> int:
        """Most positions of an input."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but overrides are checked as fields are, and the content must be of this model.

        Raises:
            InputError: ``config_dict`` describes another type of model, or a field has an impossible value.
        """
        if (found := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise InputError(f"config: model_type is {found!r}, and this is a model of type {cls.model_type!r}")
        content = dict(config_dict)
        if "num_labels" in kwargs or "id2label" in kwargs:
            # The names of other labels would win over the number.
            content.pop("id2label", None)
            content.pop("label2id", None)
        fields = cls.__init__.__annotations__
        overrides = {key: kwargs.pop(key) for key in [*kwargs] if key in fields or key in ("id2label", "label2id")}
        made = super().from_dict(content | overrides, **kwargs)
        # transformers sets what goes by another name, such as hidden_size, once the configuration is made.
        (made[0] if isinstance(made, tuple) else made).check()
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in transformers. The error names the folder.

        Raises:
            InputError: as :meth:`from_dict`, or the file holds no JSON object.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except InputError as error:
            raise InputError(f"{pretrained_model_name_or_path}: {error}") from error

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers.

        Raises:
            InputError: the file holds JSON, but no object.
        """
        try:
            content, others = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (TypeError, AttributeError) as error:
            raise InputError(f"config: expected a JSON object ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f"config: expected a JSON object, got {content!r:.40}")
        return content, others


class HyenaDNAConfig(DNAConfig):
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
        bos_token_id: id that begins a sequence, for transformers; None, as the model needs none.
        eos_token_id: id, or ids, at which generation stops; None, as a window of a genome has no end.
        use_cache: accepted for transformers' sake. ``generate`` has a cache unless its own ``use_cache`` is False.
        tie_word_embeddings: whether the head of the language model shares the embedding's matrix.
        pooling: how ``HyenaDNAForSequenceClassification`` pools the positions: "mean", "last" or "first".
        filter_length: taps of the long filters, at most ``max_seq_len``: an argument of ``HyenaOperator``. With it,
            inputs may be longer than ``max_seq_len``: each layer then sees the last ``filter_length`` positions.
        train_length: bases to which fine-tuning cut longer sequences, or None. ``hyenadna predict`` cuts to them too;
            the model itself does not.
        train_keep: what it kept of them: "start", "middle" or "end".
        bidirectional: True lets every position see all others, by two-sided convolutions. ``"published"`` is what the
            original's code computes for this key: causal filters delayed by half the length, around a circle. Arguments
            of ``HyenaOperator``. Such a model is no language model: it classifies and embeds.
        long_conv: route of the long convolutions: "fft", "far_field", or "auto", which takes the far field where it is
            faster and as good. An argument of ``HyenaOperator``. It changes results by rounding only. ``generate``
            takes all taps. ``HYENA_LONG_CONV`` in the environment has the word of models with "auto".
        kmer: bases of a token, 1 to 8, in place of single bases: see :mod:`hyenadna.model.kmers`. ``vocab_size`` then
            follows from it. Such a model is no language model: it classifies and embeds.
        kmer_stride: bases from the start of a word to that of the next, at most ``kmer``.
        kwargs: arguments of ``transformers.PretrainedConfig``. Others are kept and named in a log line.

    Raises:
        InputError: a value has the wrong type, or is impossible for a model.

    Example:
        >>> from hyenadna import HyenaDNAConfig
        >>> HyenaDNAConfig.named("tiny-1k").d_model
        128
    """

    model_type = "hyenadna"
    rules = _RULES
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
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        use_cache: bool = False,
        tie_word_embeddings: bool = False,
        pooling: str = "mean",
        filter_length: int | None = None,
        train_length: int | None = None,
        train_keep: str = "middle",
        bidirectional: bool | Literal["published"] = False,
        long_conv: Literal["auto", "fft", "far_field"] = "auto",
        kmer: int | None = None,
        kmer_stride: int = 1,
        **kwargs: Any,
    ) -> None:
        check_common(kwargs)
        # It names code files of the published folder. A folder saved by this package does not have them.
        kwargs.pop("auto_map", None)
        kwargs.pop("num_attention_heads", None)
        super().__init__(**kwargs)
        base = PretrainedConfig()
        unknown = sorted(key for key in kwargs if key in self.__dict__ and not hasattr(base, key))
        if unknown:
            _warn_once(f"config keys without effect here: {', '.join(unknown)}")
        self.d_model = d_model
        self.n_layer = n_layer
        # A width of the wrong type is refused below.
        self.d_inner = 4 * d_model if d_inner is None and isinstance(d_model, int) else d_inner
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
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.use_cache = use_cache
        self.tie_word_embeddings = tie_word_embeddings
        self.pooling = pooling
        self.filter_length = filter_length
        self.train_length = train_length
        self.train_keep = train_keep
        self.bidirectional = bidirectional
        self.long_conv = long_conv
        self.kmer = kmer
        self.kmer_stride = kmer_stride
        if isinstance(kmer, int) and vocab_size == len(VOCAB):
            self.vocab_size = kmer_vocab_size(kmer)
        # The model has no attention, but peft's prompt tuning asks every configuration for this number.
        self.num_attention_heads = 1
        self.check()

    def check(self) -> None:
        """Raise InputError if a field has the wrong type or an impossible value."""
        super().check()
        if self.filter_length is not None and self.filter_length > self.max_seq_len:
            raise InputError(
                f"config: filter_length must be at most max_seq_len = {self.max_seq_len}, got {self.filter_length}"
            )
        if self.bidirectional and self.filter_length is not None:
            raise InputError(
                f"config: bidirectional {self.bidirectional!r} takes no filter_length, got {self.filter_length}: leave "
                "one of them out"
            )
        if self.bidirectional and self.pooling == "last":
            raise InputError(
                "config: pooling 'last' takes the position that has seen all others, which a bidirectional model does "
                "not have: set pooling to 'mean' or 'first'"
            )
        if self.kmer_stride > (self.kmer or 1):
            raise InputError(f"config: kmer_stride {self.kmer_stride} leaves bases out: kmer is {self.kmer}")
        if self.kmer is not None and self.vocab_size != kmer_vocab_size(self.kmer):
            raise InputError(
                f"config: vocab_size is {self.vocab_size}, and words of {self.kmer} bases need "
                f"{kmer_vocab_size(self.kmer)}"
            )
        if self.emb_dim % 2 == 0:
            raise InputError(f"config: emb_dim must be odd (time, cosines and sines), got {self.emb_dim}")
        ids = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        tokens = [("pad_token_id", self.pad_token_id), ("bos_token_id", self.bos_token_id)]
        for name, token in (*tokens, *(("eos_token_id", token) for token in ids)):
            is_optional = token is None and name != "pad_token_id"
            if not is_optional and (problem := Whole(0, self.padded_vocab_size - 1).problem(token)):
                raise InputError(f"config: {name} {problem}: the embedding has {self.padded_vocab_size} rows")

    def require_causal(self, where: str = "config") -> None:
        """Raise InputError if the model is bidirectional, or reads words of bases."""
        if self.bidirectional:
            raise InputError(
                f"{where}: bidirectional is {self.bidirectional!r}, and such a model sees the token that it is to "
                "predict: it has no loss of a language model, no score and no generation; classify with it, or embed"
            )
        if self.kmer is not None:
            raise InputError(
                f"{where}: kmer is {self.kmer}, and a language model here predicts bases: a word shares bases with the "
                "one before, so that its perplexity compares with no other; classify with it, or embed"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and columns of the logits: ``vocab_size`` rounded up to a multiple, here 16."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @property
    def longest_input(self) -> int:
        """Most positions of an input: ``max_seq_len``, or with a ``filter_length`` any number."""
        return self.max_seq_len if self.filter_length is None else sys.maxsize

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
            InputError: a required key is missing, a value is impossible, or the file asks for another architecture.
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
            for field, key in known.items():
                if key in found:
                    if (problem := _RULES[field].problem(found[key])) and (field, found[key]) != ("d_inner", None):
                        raise InputError(f"config.json: {prefix}{key} {problem}")
                    fields[field] = found[key]
            for key, value in found.items():
                if key in fixed and value != fixed[key]:
                    raise InputError(
                        f"config.json asks for {prefix}{key} = {value!r}; only {fixed[key]!r} is supported"
                    )
            unknown += [prefix + key for key in found if key not in {*known.values(), *fixed, *ignored}]
        if unknown:
            _warn_once(f"config.json keys without effect here: {', '.join(sorted(unknown))}")
        return cls(**{**fields, **overrides})

    def to_original(self) -> dict[str, Any]:
        """The content of the original's ``config.json``. The original reads ``layer.shift`` too.

        Raises:
            InputError: the model is bidirectional. The original's key means the published kind alone, and its weights
                are refused here (:meth:`from_original`).
        """
        if self.bidirectional:
            raise InputError("config: a bidirectional model has no form of the original: keep the folder as it is")
        top: dict[str, Any] = {key: getattr(self, field) for field, key in _ORIGINAL_TOP.items()}
        layer = {key: getattr(self, field) for field, key in _ORIGINAL_LAYER.items()}
        return top | {
            "resid_dropout": 0.0,
            "residual_in_fp32": True,
            "return_hidden_state": True,
            "layer": {"_name_": "hyena", "modulate": True, "lr_pos_emb": 0.0, **layer},
        }


def new_model(kind: Callable[[HyenaDNAConfig], Model], options: Shape, **fields: Any) -> Model:
    """A model with random weights in the shape that options name.

    Args:
        kind: class of the model.
        options: a published size, and the fields in place of its own.
        fields: further fields of :class:`HyenaDNAConfig`, which have options of their own.

    Raises:
        InputError: there is no such size; ``model_fields`` has a name that is no field, or one that an option sets
            too; or no model can have these fields.
    """
    known = HyenaDNAConfig.__init__.__annotations__.keys() - {"kwargs", "return"}
    if unknown := sorted(map(str, options.model_fields.keys() - known)):
        raise InputError(f"`model_fields`: HyenaDNAConfig has no field {', '.join(unknown)}")
    given = shape_fields(options) | fields
    if twice := sorted(options.model_fields.keys() & given.keys()):
        raise InputError(f"`model_fields`: {', '.join(twice)} has an option of its own, which sets it too")
    try:
        return kind(HyenaDNAConfig.named(options.size, **given | options.model_fields))
    except (TypeError, ValueError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"`model_fields` {options.model_fields}: make no model ({error})") from error


def check_common(kwargs: Mapping[str, Any]) -> None:
    """Check the fields of every configuration of transformers, which would fail with a traceback, or not at all."""
    labels, names = kwargs.get("num_labels"), kwargs.get("id2label")
    if labels is not None and (problem := Whole(1, 1 << 24).problem(labels)):
        raise InputError(f"config: num_labels {problem}")
    if names is not None:
        numbered = isinstance(names, Mapping) and {str(key) for key in names} == {str(i) for i in range(len(names))}
        if not numbered or not names:
            raise InputError(f"config: id2label must name the labels 0, 1, …, got {names!r}")
        if labels is not None and labels != len(names):
            raise InputError(f"config: num_labels is {labels}, and id2label has {len(names)} names")
    kinds = (None, "regression", "single_label_classification", "multi_label_classification")
    if problem := OneOf(kinds).problem(kwargs.get("problem_type")):
        raise InputError(f"config: problem_type {problem}")
    for key in ("return_dict", "output_hidden_states", "output_attentions", "is_encoder_decoder"):
        if problem := OneOf((None, True, False)).problem(kwargs.get(key)):
            raise InputError(f"config: {key} {problem}")
    if kwargs.get("is_encoder_decoder"):
        raise InputError("config: is_encoder_decoder is true, and this model has no encoder")
    for key in ("dtype", "torch_dtype"):
        dtype = kwargs.get(key)
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
            raise InputError(f"config: {key} must be a floating-point dtype such as 'float32', got {dtype!r}")


@cache
def _warn_once(text: str) -> None:
    """Log a warning, and not again: a configuration is read several times while a model is loaded."""
    logger.warning("%s", text)
