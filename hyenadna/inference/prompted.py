"""Classify with a language model: after a trained prompt, or after demonstrations in its context.

The model reads a prefix, the sequence and ``[SEP]``. Each class has a letter. The answer is the class whose letter is
the likeliest next token. Source: section 4.3 of Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import NUCLEOTIDE_IDS, PAD_ID, SEP_ID
from hyenadna.model.modeling import HyenaDNAForCausalLM

LETTERS = "ACGTN"
PROMPT_FILE = "prompt.safetensors"


class PromptedClassifier(nn.Module):
    """A language model that answers with a letter. A subclass defines the prefix.

    Args:
        lm: the language model.
        classes: number of classes, at most that of the letters.
        letters: the letters of the classes in their order, different ones of ``ACGTN``.

    Raises:
        InputError: there are more classes than letters.
    """

    def __init__(self, lm: HyenaDNAForCausalLM, classes: int, *, letters: str = LETTERS) -> None:
        super().__init__()
        if classes > len(letters):
            raise InputError(f"{classes} classes are too many: a prompt has a letter for {len(letters)}, {letters}")
        self.lm = lm
        self.letters = [NUCLEOTIDE_IDS[letter] for letter in letters[:classes]]

    def prefix(self) -> Tensor:
        """Embeddings ``(P, D)`` of the prefix, the same for every sequence of a batch."""
        raise NotImplementedError

    def prefix_for(self, input_ids: Tensor) -> Tensor:
        """The prefix of a batch ``(B, L)``."""
        return self.prefix()

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        labels: Any = self.lm.config.id2label
        return [str(labels[i]) for i in range(len(self.letters))]

    @property
    def max_length(self) -> int:
        """Length in bases of the longest sequence that fits behind the prefix."""
        return self.lm.config.max_seq_len - len(self.prefix()) - 1

    def forward(self, input_ids: Tensor) -> SequenceClassifierOutput:
        """Logits of the classes.

        Args:
            input_ids: ``(B, L)``, padded on the right with [PAD].

        Returns:
            ``logits (B, classes)``.

        Raises:
            InputError: prefix, sequence and ``[SEP]`` together are longer than the model takes.
        """
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        position = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        ends = (position * (input_ids != PAD_ID)).amax(dim=1)
        ids = F.pad(input_ids, (0, 1), value=PAD_ID)
        ids[rows, ends] = SEP_ID
        prefix = self.prefix_for(input_ids)
        embedded = self.lm.embeddings(ids)
        context = torch.cat([prefix.expand(len(ids), -1, -1).to(embedded.dtype), embedded], dim=1)
        hidden = self.lm.hyena(inputs_embeds=context).last_hidden_state
        logits = self.lm.lm_head(hidden[rows, len(prefix) + ends])[:, self.letters]
        return SequenceClassifierOutput(logits=logits)


class SoftPrompt(PromptedClassifier):
    """Trainable vectors before a frozen model.

    Args:
        lm: the language model; its parameters are frozen.
        classes: number of classes.
        tokens: number of vectors. They start as the embeddings of random bases.
        dropout: dropout on the vectors in training. All sequences of a batch have the same.
        letters: see :class:`PromptedClassifier`.
    """

    def __init__(
        self, lm: HyenaDNAForCausalLM, classes: int, tokens: int, *, dropout: float = 0.0, letters: str = LETTERS
    ) -> None:
        super().__init__(lm, classes, letters=letters)
        self.dropout = dropout
        lm.requires_grad_(False)
        bases = torch.randint(NUCLEOTIDE_IDS["A"], NUCLEOTIDE_IDS["T"] + 1, (tokens,))
        self.prompt = nn.Parameter(lm.embeddings.word_embeddings.weight.detach().cpu()[bases].float().clone())

    def prefix(self) -> Tensor:
        """The trained vectors, ``(tokens, D)``."""
        return F.dropout(self.prompt, self.dropout, self.training)

    @classmethod
    def load(cls, folder: Path) -> SoftPrompt:
        """A saved classifier, in ``eval()``. Demonstrations were saved as vectors too.

        Raises:
            InputError: the folder holds no checkpoint of a language model.
        """
        lm = HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = cls(lm, lm.config.num_labels, 0)
        saved = load_file(folder / PROMPT_FILE)
        model.prompt = nn.Parameter(saved["prompt"], requires_grad=False)
        # Before classes could have other letters, none were saved.
        model.letters = saved["letters"].tolist() if "letters" in saved else model.letters
        return model.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the prompt. The frozen model stays in ``eval()``: its dropout would only add noise."""
        super().train(mode)
        self.lm.eval()
        return self


class FewShot(PromptedClassifier):
    """Demonstrations in the context: training sequences, each with ``[SEP]``, its letter and ``[SEP]``.

    In training every batch has other demonstrations, and never a sequence that it asks for: the answer could be copied.
    In ``eval()`` they depend on ``seed`` alone, so that all batches of a split are scored with the same context.

    Args:
        lm: the language model. All of it is trained.
        classes: number of classes.
        sequences: token ids ``(L,)`` of each training sequence.
        labels: int ``(n,)``, the class of each.
        shots: demonstrations of each class.
        seed: seed of the demonstrations.
        letters: see :class:`PromptedClassifier`.
    """

    def __init__(
        self,
        lm: HyenaDNAForCausalLM,
        classes: int,
        sequences: Sequence[np.ndarray],
        labels: np.ndarray,
        shots: int,
        seed: int,
        *,
        letters: str = LETTERS,
    ) -> None:
        super().__init__(lm, classes, letters=letters)
        self.sequences = sequences
        self.shots = shots
        self.seed = seed
        self._rows = [np.flatnonzero(labels == i) for i in range(classes)]
        self._rng = np.random.default_rng(seed)

    def prefix(self) -> Tensor:
        """Embeddings ``(P, D)`` of the demonstrations in random order. P is 0 without shots."""
        return self._drawn(())

    def prefix_for(self, input_ids: Tensor) -> Tensor:
        """As :meth:`prefix`, in training without sequences that hold one of the batch, which may have been cropped."""
        if not self.training:
            return self.prefix()
        rows = input_ids.cpu().numpy().astype(np.uint8)
        return self._drawn([ids for row in rows if (ids := row.tobytes().rstrip(bytes([PAD_ID])))])

    def _drawn(self, asked: Sequence[bytes]) -> Tensor:
        """Demonstrations that hold none of these sequences, embedded."""
        rng = self._rng if self.training else np.random.default_rng(self.seed)
        chosen = [
            (row, letter)
            for rows, letter in zip(self._rows, self.letters, strict=True)
            for row in self._demonstrations(rows, rng, asked)
        ]
        ids: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        for i in rng.permutation(len(chosen)):
            row, letter = chosen[i]
            ids += [self._context(row), np.array([SEP_ID, letter, SEP_ID])]
        return self.lm.embeddings(torch.from_numpy(np.concatenate(ids)).to(self.lm.device))

    def _demonstrations(self, rows: np.ndarray, rng: np.random.Generator, asked: Sequence[bytes]) -> list[int]:
        """``shots`` of these rows at random, or fewer if there are no more without the sequences ``asked``."""
        if not asked:
            return [int(row) for row in rng.choice(rows, min(self.shots, len(rows)), replace=False)]
        found: list[int] = []
        for row in rng.permutation(rows).tolist():
            if len(found) == self.shots:
                break
            ids = self._context(row).astype(np.uint8).tobytes()
            if not any(one in ids for one in asked):
                found.append(row)
        return found

    def _context(self, row: int) -> np.ndarray:
        """The ids of a training sequence as the model sees them, int64."""
        bases = self.sequences[row].astype(np.int64)
        return np.where(bases == NUCLEOTIDE_IDS["N"], PAD_ID, bases)
