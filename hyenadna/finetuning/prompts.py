"""Make the classifiers of the methods ``soft-prompt`` and ``few-shot``, and save them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.inference.prompted import PROMPT_FILE, FewShot, PromptedClassifier, SoftPrompt
from hyenadna.model.modeling import HyenaDNAForCausalLM
from hyenadna.model.sizes import checkpoint_name, size_for
from hyenadna.model.tokenizer import bare_tokenizer

if TYPE_CHECKING:
    from hyenadna.finetuning.config import FinetuneConfig
    from hyenadna.finetuning.data import Splits


def make_prompted(config: FinetuneConfig, data: Splits, seed: int) -> PromptedClassifier:
    """The classifier of ``config.method``, around the language model of ``config.model``.

    Args:
        config: the options of fine-tuning.
        data: the classes and the splits. Demonstrations come from the training split.
        seed: seed of the demonstrations.

    Raises:
        InputError: the checkpoint has no language model, there are more classes than letters, or the context is too
            long for the model.
    """
    lm = HyenaDNAForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    lm.config.id2label = dict(enumerate(data.names))
    lm.config.label2id = {name: i for i, name in enumerate(data.names)}
    lm.config.train_length, lm.config.train_keep = config.length, config.keep
    classes, max_length = len(data.names), data.max_length()
    if config.method == "soft-prompt":
        prefix, options = config.prompt_tokens, "`prompt_tokens`"
    else:
        # Each demonstration is a sequence, [SEP], its letter and [SEP].
        shots = max([config.shots, *config.eval_shots])
        prefix = shots * classes * (max_length + 3)
        options = "`shots` and `eval_shots`"
        fewest = int(np.bincount(np.asarray(data.train.labels), minlength=classes).min())
        if shots > fewest:
            raise InputError(f"{options}: {shots:,} demonstrations of each class, but one has {fewest:,} in training")
    room = lm.config.max_seq_len
    if (needed := prefix + max_length + 1) > room:
        longer = f", such as {checkpoint_name(size)}" if (size := size_for(needed)) else ""
        raise InputError(
            f"{options}: the context has {prefix:,} tokens, and {max_length:,} bases and [SEP] follow. The model is "
            f"made for {room:,} tokens: take fewer, shorter sequences (`length`), or a checkpoint for longer "
            f"ones{longer}"
        )
    if config.method == "soft-prompt":
        return SoftPrompt(lm, classes, config.prompt_tokens, dropout=config.prompt_dropout, letters=config.letters)
    labels = np.asarray(data.train.labels)
    return FewShot(lm, classes, data.train.sequences, labels, config.shots, seed, letters=config.letters)


def save_prompted(model: PromptedClassifier, folder: Path) -> None:
    """Write the language model, and ``prompt.safetensors`` with the prefix and the letters.

    ``prompt`` is float32 ``(P, D)``, ``letters`` int64 ``(classes,)``, the token of each class.

    The tokenizer beside them adds nothing: the classifier puts ``[SEP]`` behind a sequence itself.
    """
    model.lm.save_pretrained(folder)
    bare_tokenizer(model.lm.config.max_seq_len).save_pretrained(folder)
    with torch.no_grad():
        prompt = model.eval().prefix().float().cpu().contiguous()
    write_files({folder / PROMPT_FILE: save({"prompt": prompt, "letters": torch.tensor(model.letters)})})
