"""The model: a LongT5 of transformers, whose encoder may have two radii.

With one radius it computes the same bits as transformers, and has the same files. With two, the first layer of the
second radius computes position biases of its own, as the first layer of a LongT5 does, and hands them on.
"""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import AutoModelForSeq2SeqLM
from transformers.models.longt5.modeling_longt5 import (
    LongT5Block,
    LongT5ForConditionalGeneration,
    LongT5PreTrainedModel,
    LongT5Stack,
)
from transformers.utils import logging as transformers_logging

from hyenadna.common.errors import InputError, WeightsError
from hyenadna.encoder_decoder.config import STOCK_TYPE, ENBEDConfig
from hyenadna.encoder_decoder.tokens import PAD
from hyenadna.model import checkpoint, locate, padding
from hyenadna.model.loading import without_transformers_bars


class _FirstOfRadius(LongT5Block):
    """The first layer of another radius. The biases of the layer before fit other windows, so it makes its own."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, position_bias: Tensor | None, *more: Any, **kw: Any
    ) -> Any:
        """As a block, without the biases that the layer before hands on."""
        return super().forward(hidden_states, attention_mask, None, *more, **kw)


class StockInit:
    """Random weights as LongT5 draws them.

    transformers takes a class from elsewhere for code that may not heed its flags. There it leaves out every module
    whose own weights are all initialised, which holds for a module without any. So the rules of LongT5 for attention
    and dense layers would never run, and their matrices would have a deviation of 1.
    """

    def _initialize_weights(self, module: nn.Module, *is_custom_code: bool) -> None:
        super()._initialize_weights(module)  # type: ignore[misc]


class ENBEDEncoder(StockInit, LongT5Stack):
    """The encoder, ``(B, L)`` ids to ``(B, L, d_model)``.

    Args:
        config: the configuration of the model.
    """

    config_class = ENBEDConfig

    def __init__(self, config: ENBEDConfig) -> None:
        config = copy.deepcopy(config)
        config.is_decoder, config.use_cache = False, False
        if config.boundary is None:
            config.local_radius = config.radius_of(0)
        super().__init__(config)
        if config.boundary is not None:
            first = copy.deepcopy(config)
            first.local_radius = config.first_local_radius
            for layer in range(config.boundary):
                self.block[layer] = LongT5Block(first, has_relative_attention_bias=layer == 0, layer_idx=layer)
            self.block[config.boundary] = _FirstOfRadius(
                config, has_relative_attention_bias=True, layer_idx=config.boundary
            )
            self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ``LongT5Stack.forward``. Without a mask, pads among the ids are left out.

        Raises:
            InputError: the ids are not ``(B, L)`` of the vocabulary, a sequence is longer than ``max_seq_len``, pads
                stand before a sequence, or the precision is float16.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is not None:
            _check(self.config, input_ids, given.shape)
        if input_ids is not None and attention_mask is None:
            attention_mask = (input_ids != PAD).long()
        if attention_mask is not None and given is not None:
            real = padding.real_positions(attention_mask, given.shape[:2], given.device)
            padding.require(
                (real[:, :-1] | ~real[:, 1:]).all(),
                "attention_mask: pads stand before a sequence, where they would move the borders of its global tokens; "
                "pad on the right",
            )
        half = self.dtype
        if torch.is_autocast_enabled(self.device.type):
            half = torch.get_autocast_dtype(self.device.type)
        if half == torch.float16:
            raise InputError("float16 has no number as low as LongT5's masks (-1e10): take bfloat16 or float32")
        return super().forward(
            input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask, inputs_embeds, **kwargs
        )


def _check(config: ENBEDConfig, input_ids: Tensor | None, shape: torch.Size) -> None:
    if len(shape) < 2 or 0 in shape[:2]:
        raise InputError(f"input_ids must be (B, L) and not empty, got shape {tuple(shape)}")
    if shape[1] > config.max_seq_len:
        raise InputError(
            f"an input of {shape[1]:,} tokens is longer than the {config.max_seq_len:,} that the model is made for "
            "(`max_seq_len`): cut it into windows"
        )
    if input_ids is None:
        return
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise InputError(f"input_ids must be integers, got {input_ids.dtype}")
    rows = config.padded_vocab_size
    padding.require(
        ((input_ids >= 0) & (input_ids < rows)).all(),
        f"input_ids hold an id that the embedding has not: it has {rows} rows, ids 0 to {rows - 1}",
    )


class Loads(StockInit):
    """Loading with errors of one line, and random weights, common to the models here."""

    _new_heads: tuple[str, ...] = ()

    @classmethod
    @without_transformers_bars()
    def from_pretrained(cls, path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, also from the files of a LongT5 with ``transient-global`` attention.

        Raises:
            InputError: there is no checkpoint, it is one of another model, or its weights do not fit.
        """
        if path is None or kwargs.get("config") is not None:
            return super().from_pretrained(path, *args, **kwargs)  # type: ignore[misc]
        source = locate.find(path) or checkpoint.download(str(path))
        content = locate.read_json(source.config_file)
        kind = content.get("model_type")
        if kind not in (ENBEDConfig.model_type, STOCK_TYPE):
            raise InputError(f"{path}: is a model of type {kind!r}, and no ENBED (model_type enbed or longt5)")
        fields = {*ENBEDConfig.__dataclass_fields__, "num_labels", "problem_type"}
        own = {name: kwargs.pop(name) for name in [*kwargs] if name in fields}
        if "num_labels" in own or "id2label" in own:
            content.pop("id2label", None)
            content.pop("label2id", None)
        if kind == STOCK_TYPE and "first_local_radius" not in content:
            # A LongT5 of transformers says nothing about a first radius.
            content["first_local_layers"] = 0
        content = {name: value for name, value in content.items() if name not in ("model_type", "architectures")}
        try:
            config = ENBEDConfig(**(content | own))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        with_info = kwargs.pop("output_loading_info", False)
        mismatch = kwargs.pop("ignore_mismatched_sizes", False)
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            made: Any = super().from_pretrained(  # type: ignore[misc]
                source.config_file.parent,
                *args,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=mismatch,
                **kwargs,
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise WeightsError(f"{path}: its weights cannot be loaded ({str(error).splitlines()[0]})") from error
        finally:
            transformers_logging.set_verbosity(level)
        model, info = made
        missing = sorted(key for key in info["missing_keys"] if not key.startswith(cls._new_heads or ("\0",)))
        if missing or info["unexpected_keys"]:
            what = "; ".join(
                f"{word}: {checkpoint.listed(keys)}"
                for word, keys in (("missing", missing), ("left over", sorted(info["unexpected_keys"])))
                if keys
            )
            raise WeightsError(f"{path}: weights do not fit the model ({what})")
        model.config.name_or_path = model.name_or_path = str(path)
        return (model, info) if with_info else model


class ENBEDForConditionalGeneration(Loads, LongT5ForConditionalGeneration):
    """The encoder and a causal decoder: for span corruption, annotation and the generation of mutations.

    Ids are those of ``hyenadna.encoder_decoder.tokens.tokenizer``. The head is the embedding, and the decoder's output
    is scaled by ``d_model ** -0.5`` before it (``tie_word_embeddings`` of T5).

    Example:
        >>> import torch
        >>> from hyenadna.encoder_decoder.config import ENBEDConfig
        >>> from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
        >>> model = ENBEDForConditionalGeneration(ENBEDConfig.of_size("enbed-tiny"))
        >>> model(torch.tensor([[68, 70, 74, 1]]), labels=torch.tensor([[68, 1]])).logits.shape
        torch.Size([1, 2, 384])
    """

    config_class = ENBEDConfig
    config: ENBEDConfig

    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        # The first releases of transformers 5 have only its older name.
        activation_checkpointing_enable = PreTrainedModel.gradient_checkpointing_enable

    def __init__(self, config: ENBEDConfig) -> None:
        # Not that of LongT5ForConditionalGeneration, which would make another encoder first.
        LongT5PreTrainedModel.__init__(self, config)
        self.model_dim = config.d_model
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = ENBEDEncoder(config)
        decoder = copy.deepcopy(config)
        decoder.is_decoder = True
        decoder.num_layers = cast(int, config.num_decoder_layers)
        self.decoder = LongT5Stack(decoder)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers. Without a mask, pads among the ids are left out, by the decoder too.

        Raises:
            InputError: as :meth:`ENBEDEncoder.forward`.
        """
        if input_ids is not None and attention_mask is None:
            attention_mask = (input_ids != PAD).long()
        if kwargs.get("labels") is not None:
            # transformers looks at them as one row.
            kwargs["labels"] = kwargs["labels"].contiguous()
        return super().forward(input_ids, attention_mask, *args, **kwargs)


AutoModelForSeq2SeqLM.register(ENBEDConfig, ENBEDForConditionalGeneration)
