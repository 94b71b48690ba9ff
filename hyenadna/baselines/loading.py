"""Loads models of every type, and makes those that HyenaDNA is compared with, in the place of one."""

from __future__ import annotations

import dataclasses
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from hyena_kernels import HyenaFilter, cache_filters
from hyenadna.baselines.cnn import CNNConfig, CNNForSequenceClassification
from hyenadna.baselines.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)
from hyenadna.common.errors import InputError
from hyenadna.encoder_decoder.config import STOCK_TYPE, ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification, ENBEDForTokenClassification
from hyenadna.model import adapters, checkpoint, locate
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
from hyenadna.model.modeling import HyenaDNAForCausalLM, HyenaDNAModel
from hyenadna.model.sizes import Shape, shape_fields

LanguageModel = HyenaDNAForCausalLM | GPTForCausalLM
"""What predicts the next token."""

Backbone = HyenaDNAModel | GPTModel | ENBEDForSequenceClassification
"""What has a vector for every position. Of an ENBED it is the encoder, in the class that can load it."""

SequenceClassifier = (
    HyenaDNAForSequenceClassification
    | GPTForSequenceClassification
    | CNNForSequenceClassification
    | ENBEDForSequenceClassification
)
TokenClassifier = HyenaDNAForTokenClassification | GPTForTokenClassification | ENBEDForTokenClassification

_ENBED: dict[str, Any] = {
    "backbone": ENBEDForSequenceClassification,
    "sequence": ENBEDForSequenceClassification,
    "token": ENBEDForTokenClassification,
}
_KINDS: dict[str, dict[str, Any]] = {
    HyenaDNAConfig.model_type: {
        "language model": HyenaDNAForCausalLM,
        "backbone": HyenaDNAModel,
        "sequence": HyenaDNAForSequenceClassification,
        "token": HyenaDNAForTokenClassification,
    },
    GPTConfig.model_type: {
        "language model": GPTForCausalLM,
        "backbone": GPTModel,
        "sequence": GPTForSequenceClassification,
        "token": GPTForTokenClassification,
    },
    CNNConfig.model_type: {"sequence": CNNForSequenceClassification},
    ENBEDConfig.model_type: _ENBED,
    STOCK_TYPE: _ENBED,
}
_WANTED = {
    "language model": "predicts no next base",
    "backbone": "has no vectors of positions",
    "token": "has no classes of bases",
}


def model_type(path: str | os.PathLike[str]) -> str:
    """The type of model of a checkpoint: ``"hyenadna"``, ``"hyenadna-gpt2"``, ``"hyenadna-cnn"`` or ``"enbed"``.

    An ENBED in the files of transformers is a ``"longt5"``.

    Raises:
        InputError: there is no checkpoint.
    """
    base = adapters.split(path, {})[0]
    source = locate.find(base) or checkpoint.download(str(base))
    return str(locate.read_json(source.config_file).get("model_type", HyenaDNAConfig.model_type))


def load_language_model(path: str | os.PathLike[str], **options: Any) -> LanguageModel:
    """Load a language model in ``eval()``: a HyenaDNA or a GPT.

    Args:
        path: the checkpoint.
        options: arguments of ``from_pretrained``.

    Raises:
        InputError: there is no such checkpoint, or it has no head of a language model.
    """
    model: LanguageModel = _kind(path, "language model").from_pretrained(path, **options)
    return model


def load_backbone(path: str | os.PathLike[str], **options: Any) -> Backbone:
    """Load what has a vector for every position, in ``eval()``. See :func:`load_language_model`."""
    model: Backbone = _kind(path, "backbone").from_pretrained(path, **options)
    return model


def load_sequence_classifier(path: str | os.PathLike[str], **options: Any) -> SequenceClassifier:
    """Load a classifier of sequences in ``eval()``. See :func:`load_language_model`."""
    model: SequenceClassifier = _kind(path, "sequence").from_pretrained(path, **options)
    return model


def load_token_classifier(path: str | os.PathLike[str], **options: Any) -> TokenClassifier:
    """Load a classifier of bases in ``eval()``. See :func:`load_language_model`."""
    model: TokenClassifier = _kind(path, "token").from_pretrained(path, **options)
    return model


def _kind(path: str | os.PathLike[str], what: str) -> Any:
    found = model_type(path)
    # A class of its own says what is wrong with another type of model.
    kinds = _KINDS.get(found, _KINDS[HyenaDNAConfig.model_type])
    if what not in kinds:
        raise InputError(f"{path}: is a model of type {found}, which {_WANTED[what]}; give a HyenaDNA or a GPT")
    return kinds[what]


def keep_filters(model: Any) -> AbstractContextManager[object]:
    """A block in which the filters of a model are kept between calls, see ``cache_filters``. A baseline has none."""
    has_filters = any(isinstance(module, HyenaFilter) for module in model.modules())
    return cache_filters(model) if has_filters else nullcontext()


def new_gpt(kind: Any, options: Shape, **fields: Any) -> Any:
    """A GPT-2 with random weights.

    Args:
        kind: class of the model.
        options: ``d_model``, ``n_layer``, ``max_seq_len`` and ``model_fields``. A published size has no part in it.
        fields: further fields of :class:`GPTConfig`, which have options of their own.

    Raises:
        InputError: ``model_fields`` has a name that is no field, or one that an option sets too; or no model can have
            these fields.
    """
    known = GPTConfig.__init__.__annotations__.keys() - {"kwargs", "return", "train_length", "train_keep"}
    if unknown := sorted(map(str, options.model_fields.keys() - known)):
        raise InputError(f"`model_fields`: a GPT has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    given = shape_fields(options) | fields
    if twice := sorted(options.model_fields.keys() & given.keys()):
        raise InputError(f"`model_fields`: {', '.join(twice)} has an option of its own, which sets it too")
    return kind(GPTConfig(**given | options.model_fields))


def new_enbed(kind: Any, options: Shape, **fields: Any) -> Any:
    """An ENBED with random weights.

    Args:
        kind: class of the model.
        options: a size of ``ENBED_SIZES``, and ``d_model``, ``n_layer`` (of the encoder), ``max_seq_len`` and
            ``model_fields`` in place of its own.
        fields: further fields of :class:`ENBEDConfig`, which have options of their own.

    Raises:
        InputError: ``model_fields`` has a name that is no field, or one that an option sets too; or no model can have
            these fields.
    """
    given = shape_fields(options) | fields
    if "n_layer" in given:
        given["num_layers"] = given.pop("n_layer")
    names = {field.name for field in dataclasses.fields(ENBEDConfig)}
    if unknown := sorted(map(str, options.model_fields.keys() - names)):
        raise InputError(f"`model_fields`: ENBEDConfig has no field {', '.join(unknown)}")
    if twice := sorted(options.model_fields.keys() & given.keys()):
        raise InputError(f"`model_fields`: {', '.join(twice)} has an option of its own, which sets it too")
    try:
        return kind(ENBEDConfig.of_size(options.size, **given | options.model_fields))
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`model_fields` {options.model_fields}: make no model ({reason})") from error
