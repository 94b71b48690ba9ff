"""Classes told by a language model itself: after a trained prompt, or after demonstrations in its context.

The model reads what stands before, the sequence, and ``[SEP]``; the class is the likeliest next token among the letters
that spell the classes. Source: section 4.3 of Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.vocab import NUCLEOTIDE_IDS, PAD_ID, SEP_ID
from hyenadna.data.dataset import LabelledDataset
from hyenadna.model.modeling import HyenaDNAForCausalLM

LETTERS = "ACGTN"
PROMPT_FILE = "prompt.safetensors"


class PromptedClassifier(nn.Module):
    """A language model that answers with a letter; a subclass says what stands before the sequence.

    Args:
        lm: the language model.
        classes: number of classes, at most 5: each is a letter of ``ACGTN``.

    Raises:
        InputError: there are more classes than letters.
    """

    def __init__(self, lm: HyenaDNAForCausalLM, classes: int) -> None:
        super().__init__()
        if classes > len(LETTERS):
            raise InputError(f"{classes} classes have no letters: a prompt can tell {len(LETTERS)} apart, as {LETTERS}")
        self.lm = lm
        self.letters = [NUCLEOTIDE_IDS[letter] for letter in LETTERS[:classes]]

    def prefix(self) -> Tensor:
        """Embeddings ``(P, D)`` of what stands before every sequence of a batch."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Of the classes, in the order of the logits."""
        labels: Any = self.lm.config.id2label
        return [str(labels[i]) for i in range(len(self.letters))]

    @property
    def longest(self) -> int:
        """Bases of the longest sequence that there is room for."""
        return self.lm.config.max_seq_len - len(self.prefix()) - 1

    def forward(self, input_ids: Tensor) -> SequenceClassifierOutput:
        """Logits of the classes.

        Args:
            input_ids: ``(B, L)``, padded on the right with [PAD].

        Returns:
            ``logits (B, classes)``.

        Raises:
            InputError: prefix, sequence and ``[SEP]`` are together longer than the model takes.
        """
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        position = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        ends = (position * (input_ids != PAD_ID)).amax(dim=1)
        ids = F.pad(input_ids, (0, 1), value=PAD_ID)
        ids[rows, ends] = SEP_ID
        prefix = self.prefix()
        embedded = self.lm.embeddings(ids)
        whole = torch.cat([prefix.expand(len(ids), -1, -1).to(embedded.dtype), embedded], dim=1)
        hidden = self.lm.hyena(inputs_embeds=whole).last_hidden_state
        logits = self.lm.lm_head(hidden[rows, len(prefix) + ends])[:, self.letters]
        return SequenceClassifierOutput(logits=logits)


class SoftPrompt(PromptedClassifier):
    """Trainable vectors before a frozen model.

    Args:
        lm: the language model; its parameters are frozen.
        classes: number of classes.
        tokens: number of vectors; they start as embeddings of random bases.
    """

    def __init__(self, lm: HyenaDNAForCausalLM, classes: int, tokens: int) -> None:
        super().__init__(lm, classes)
        lm.requires_grad_(False)
        bases = torch.randint(NUCLEOTIDE_IDS["A"], NUCLEOTIDE_IDS["T"] + 1, (tokens,))
        self.prompt = nn.Parameter(lm.embeddings.word_embeddings.weight.detach().cpu()[bases].float().clone())

    def prefix(self) -> Tensor:
        """The trained vectors, ``(tokens, D)``."""
        return self.prompt

    @classmethod
    def load(cls, folder: Path) -> SoftPrompt:
        """What :func:`save_prompted` has written, in ``eval()``; demonstrations are vectors like any others then."""
        lm = HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = cls(lm, lm.config.num_labels, 0)
        model.prompt = nn.Parameter(load_file(folder / PROMPT_FILE)["prompt"], requires_grad=False)
        return model.eval()

    def train(self, mode: bool = True) -> Self:
        """The frozen model stays in ``eval()``: dropout would only blur what the prompt is to fit."""
        super().train(mode)
        self.lm.eval()
        return self


class FewShot(PromptedClassifier):
    """Demonstrations in the context: sequences of the training split, each with ``[SEP]``, its letter and ``[SEP]``.

    In training every batch has others; in ``eval()`` they are those of ``seed``, so that a score is of one context.

    Args:
        lm: the language model, trained as a whole.
        classes: number of classes.
        examples: the training split.
        shots: demonstrations of each class.
        seed: of the demonstrations.
    """

    def __init__(self, lm: HyenaDNAForCausalLM, classes: int, examples: LabelledDataset, shots: int, seed: int) -> None:
        super().__init__(lm, classes)
        self.examples = examples
        self.shots = shots
        self.seed = seed
        labels = np.asarray(examples.labels)
        self._rows = [np.flatnonzero(labels == i) for i in range(classes)]
        self._rng = np.random.default_rng(seed)

    def prefix(self) -> Tensor:
        """Embeddings of the demonstrations in a random order, ``(P, D)``; P is 0 without shots."""
        rng = self._rng if self.training else np.random.default_rng(self.seed)
        chosen = [
            (row, letter)
            for rows, letter in zip(self._rows, self.letters, strict=True)
            for row in rng.choice(rows, min(self.shots, len(rows)), replace=False)
        ]
        ids: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        for i in rng.permutation(len(chosen)):
            row, letter = chosen[i]
            bases = self.examples.sequences[row].astype(np.int64)
            bases = np.where(bases == NUCLEOTIDE_IDS["N"], PAD_ID, bases)
            ids += [bases, np.array([SEP_ID, letter, SEP_ID])]
        whole = torch.from_numpy(np.concatenate(ids)).to(self.lm.device)
        return self.lm.embeddings(whole)


def make_prompted(
    config: Any, names: list[str], examples: LabelledDataset, longest: int, seed: int
) -> PromptedClassifier:
    """The classifier of ``--method soft-prompt`` or ``few-shot``.

    Args:
        config: a ``FinetuneConfig``.
        names: of the classes.
        examples: the training split, from which demonstrations come.
        longest: bases of the longest sequence.
        seed: of the demonstrations.

    Raises:
        InputError: no checkpoint of a language model, more classes than letters, or a context that is too long.
    """
    classes = len(names)
    lm = HyenaDNAForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    lm.config.id2label, lm.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    if config.method == "soft-prompt":
        before, what = config.prompt_tokens, "--prompt_tokens"
    else:
        before = max([config.shots, *config.eval_shots]) * classes * (longest + 3)
        what = "--shots and --eval_shots"
    room = lm.config.max_seq_len
    if before + longest + 1 > room:
        raise InputError(
            f"{what}: {before:,} tokens, and {longest:,} bases and [SEP] after them, are more than the {room:,} that "
            "the model is made for: fewer of them, shorter sequences (--length), or a checkpoint made for longer ones"
        )
    if config.method == "soft-prompt":
        return SoftPrompt(lm, classes, config.prompt_tokens)
    return FewShot(lm, classes, examples, config.shots, seed)


def save_prompted(model: PromptedClassifier, folder: Path) -> None:
    """Write the language model, and what stands before as vectors: float32, ``prompt`` of ``prompt.safetensors``."""
    model.lm.save_pretrained(folder)
    with torch.no_grad():
        prompt = model.eval().prefix().float().cpu().contiguous()
    write_files({folder / PROMPT_FILE: save({"prompt": prompt})})
