"""Make the model of a run, the parts of it that are trained, and save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyenadna.baselines.cnn import CNNConfig, CNNForSequenceClassification
from hyenadna.baselines.gpt import GPTConfig, GPTForSequenceClassification, GPTForTokenClassification
from hyenadna.baselines.loading import (
    load_language_model,
    load_sequence_classifier,
    load_token_classifier,
    model_type,
    new_enbed,
    new_gpt,
)
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.encoder_decoder.config import STOCK_TYPE, ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification, ENBEDForTokenClassification
from hyenadna.encoder_decoder.tokens import BYTES, VOCAB_SIZE, tokenizer
from hyenadna.finetuning.config import PROMPTED_METHODS
from hyenadna.finetuning.presets import preset
from hyenadna.finetuning.prompts import make_prompted, save_prompted
from hyenadna.inference.prompted import PromptedClassifier
from hyenadna.model.config import new_model
from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
from hyenadna.model.kmers import Kmers, KmerTokenizer
from hyenadna.model.sizes import PUBLISHED_SIZES, checkpoint_name, size_for
from hyenadna.model.tokenizer import bare_tokenizer
from hyenadna.model.words import words_of

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig
    from hyenadna.finetuning.data import Splits

_LORA_LAYERS = {
    "hyena": r".*\.(in_proj|out_proj|fc1|fc2|implicit_filter\.\d*[02468])",
    "enbed": r".*\.(q|k|v|o|wi|wi_0|wi_1|wo)",
}
"""Names of the layers that get adapters, by architecture."""

_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "token": None,
}


def make_model(config: FinetuneConfig, data: Splits, seed: int) -> tuple[Any, Any]:
    """The model of a run.

    Returns:
        The model that is saved in the end, and the module that is trained. They are the same object unless peft wraps
        the model.

    Raises:
        InputError: a checkpoint or a size that does not fit the data.
    """
    if config.method in PROMPTED_METHODS:
        prompted = make_prompted(config, data, seed)
        return prompted, prompted
    model = _make_classifier(config, data)
    if config.lm_weight:
        model.config.require_causal("`lm_weight`")
    if config.pack_tokens and getattr(model.config, "bidirectional", False):
        raise InputError(
            f"`pack_tokens` {config.pack_tokens}: a bidirectional model takes no packed rows; leave it out"
        )
    words = words_of(model.config)
    if isinstance(words, Kmers):
        _check_words(config, data, words)
    bases = data.max_length()
    longest = bases if words is None else words.count(bases)
    if longest > (most := model.config.max_seq_len):
        most = most if words is None else words.most_bases(most)
        raise InputError(
            f"a sequence of {bases:,} bases is longer than the {most:,} that the model is made "
            f"for: {_longer_model(config, longest)}, cut the sequences into overlapping windows, or keep a part of "
            "each (`length`, `keep`)"
        )
    return model, _with_lora(config, model) if config.method == "lora" else model


def _longer_model(config: FinetuneConfig, bases: int) -> str:
    """What to do for a model that takes so many bases."""
    if config.ablation in ("gpt", "cnn") or config.architecture == "enbed":
        return "train one with a larger `max_seq_len`"
    size, origin = size_for(bases), ""
    if config.preset is not None and PUBLISHED_SIZES[preset(config.preset).size]["max_seq_len"] >= bases:
        size, origin = preset(config.preset).size, f", that of `preset` {config.preset}"
    if config.method == "scratch":
        return "take a `size` for longer ones" + (f", such as {size}{origin}" if size else " by `max_seq_len`")
    return "use a checkpoint for longer ones" + (f", such as {checkpoint_name(size)}{origin}" if size else "")


def _check_words(config: FinetuneConfig, data: Splits, kmers: Kmers) -> None:
    """Raise InputError if words of bases do not suit the task, or a sequence may be shorter than one."""
    if config.task == "token" or config.lm_weight:
        raise InputError(
            f"the model reads words of {kmers.k} bases: it has neither classes of bases (`task` token) nor a next base "
            "(`lm_weight`)"
        )
    shortest = min(len(ids) for split in (data.train, data.valid, data.test) for ids in split.sequences)
    shortest = min(shortest, *(max(1, len(ids) - 2 * config.crop) for ids in data.train.sequences))
    shortest = min(shortest, config.warmup_length or shortest)
    if shortest < kmers.k:
        cuts = " and ".join(f"`{name}`" for name in ("crop", "warmup_length") if getattr(config, name))
        cut = f" after {cuts}" if cuts else ""
        raise InputError(
            f"{config.data}: a sequence has {shortest} bases{cut}, fewer than a word of {kmers.k}: leave such "
            "sequences out, or crop less"
        )


def _make_classifier(config: FinetuneConfig, data: Splits) -> Any:
    """A model with a head for the task: from the checkpoint, or from random weights for the method scratch."""
    is_token = config.task == "token"
    head: dict[str, Any] = {
        "num_labels": len(data.names),
        "id2label": dict(enumerate(data.names)),
        "label2id": {name: i for i, name in enumerate(data.names)},
        "problem_type": _PROBLEM_TYPES[config.task],
        "pooling": config.pooling,
        "train_length": config.length,
        "train_keep": config.keep,
    }
    if config.model is not None:
        kind = model_type(config.model)
        if kind == CNNConfig.model_type:
            raise InputError(f"`model` {config.model}: is a CNN, which fine-tuning always begins anew; leave it out")
        if (kind in (ENBEDConfig.model_type, STOCK_TYPE)) != (config.architecture == "enbed"):
            raise InputError(
                f"`model` {config.model}: is of type {kind}, and `architecture` is {config.architecture}; enbed goes "
                "with a model of `enbed pretrain` or another LongT5, hyena with all others"
            )
        if (kind == GPTConfig.model_type) != (config.ablation == "gpt"):
            raise InputError(
                f"`model` {config.model}: `ablation` gpt goes with a GPT of `pretrain --architecture gpt`, and with it "
                "alone"
            )
        load = load_token_classifier if is_token else load_sequence_classifier
        model: Any = load(config.model, dtype=torch.float32, ignore_mismatched_sizes=True, **head)
        if kind == STOCK_TYPE and model.config.vocab_size != VOCAB_SIZE:
            raise InputError(
                f"`model` {config.model}: has a vocabulary of {model.config.vocab_size:,}, and that of bytes has "
                f"{VOCAB_SIZE}: it was trained on other tokens; take a LongT5 of bytes"
            )
        return model
    if config.architecture == "enbed":
        return new_enbed(ENBEDForTokenClassification if is_token else ENBEDForSequenceClassification, config, **head)
    if config.ablation == "cnn":
        del head["pooling"]
        return CNNForSequenceClassification(CNNConfig(config.max_seq_len or data.max_length(), **head))
    if config.ablation == "gpt":
        return new_gpt(GPTForTokenClassification if is_token else GPTForSequenceClassification, config, **head)
    return new_model(HyenaDNAForTokenClassification if is_token else HyenaDNAForSequenceClassification, config, **head)


def _with_lora(config: FinetuneConfig, model: Any) -> Any:
    """The model with low-rank adapters on every Linear of the backbone, filters included. The head is trained whole.

    Of an ENBED these are the projections of attention and the dense layers behind it.
    """
    peft = require("peft")
    settings = peft.LoraConfig(
        task_type="TOKEN_CLS" if config.task == "token" else "SEQ_CLS",
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=_LORA_LAYERS[config.architecture],
        modules_to_save=["score"],
    )
    return peft.get_peft_model(model, settings)


def make_language_head(config: FinetuneConfig, model: Any) -> nn.Linear:
    """The head that predicts the next token for ``lm_weight``: the checkpoint's, or a new one without a checkpoint.

    Raises:
        InputError: the checkpoint has no such head.
    """
    if config.model is not None:
        try:
            head: nn.Linear = load_language_model(config.model, dtype=torch.float32).lm_head
        except InputError as error:
            raise InputError(f"`lm_weight` needs a checkpoint with the head of a language model: {error}") from error
        return head
    head = nn.Linear(model.config.d_model, model.config.padded_vocab_size, bias=False)
    nn.init.normal_(head.weight, std=model.config.initializer_range)
    return head


def save_model(model: Any, folder: Path) -> None:
    """Write a trained model, with its tokenizer."""
    if isinstance(model, PromptedClassifier):
        save_prompted(model, folder)
    else:
        model.save_pretrained(folder)
        _tokenizer_of(model.config).save_pretrained(folder)


def _tokenizer_of(config: Any) -> Any:
    words = words_of(config)
    if words is BYTES:
        return tokenizer()
    length = config.max_seq_len
    return KmerTokenizer(*words, model_max_length=length) if isinstance(words, Kmers) else bare_tokenizer(length)
