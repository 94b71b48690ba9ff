"""Single-nucleotide tokenizer for transformers: one character, one token, through a 256-entry lookup table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import (
    BYTE_TO_ID,
    CASE_SENSITIVE_BYTE_TO_ID,
    CLS_ID,
    SEP_ID,
    SPECIAL_IDS,
    UNK_ID,
    VOCAB,
    letter_ids,
)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class DNATokenizer(PreTrainedTokenizer):
    """One token for each character.

    Soft-masked lower case reads as upper case, ``U`` as T, the IUPAC ambiguity codes as N, and all else as ``[UNK]``.
    By default ``[SEP]`` ends a sequence and no token precedes it, as in the later published revisions.
    ``add_special_tokens=False`` leaves it out. The tokenizers that ``hyenadna pretrain`` and ``finetune`` save beside
    their models add none, because these models are trained on bare bases: ``DNATokenizer.from_pretrained(folder)``.

    Args:
        case_sensitive: read lower case as ``[UNK]``, as upstream does.
        add_cls_token: wrap as ``[CLS] … [SEP]``, as the original's standalone file does.
        add_sep_token: end a sequence with ``[SEP]``.
        padding_side: ``"right"``, or ``"left"``, the original's choice. Models here need the mask for the second.
        kwargs: arguments of ``transformers.PreTrainedTokenizer``, among them ``model_max_length``.

    Raises:
        InputError: an argument of the wrong type, or ``[CLS]`` is to be added without ``[SEP]``.

    Example:
        >>> from hyenadna import DNATokenizer
        >>> print(*DNATokenizer()("acgtn")["input_ids"])
        7 8 9 10 11 1
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - transformers declares it without ClassVar

    def __init__(
        self,
        case_sensitive: bool = False,
        add_cls_token: bool = False,
        padding_side: str = "right",
        add_sep_token: bool = True,
        **kwargs: Any,
    ) -> None:
        switches = {"case_sensitive": case_sensitive, "add_cls_token": add_cls_token, "add_sep_token": add_sep_token}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise InputError(f"tokenizer: {name} must be true or false, got {value!r}")
        if add_cls_token and not add_sep_token:
            raise InputError("tokenizer: add_cls_token wraps a sequence as [CLS] … [SEP]: it needs add_sep_token")
        self.case_sensitive = case_sensitive
        self.add_cls_token = add_cls_token
        self.add_sep_token = add_sep_token
        self._byte_to_id = CASE_SENSITIVE_BYTE_TO_ID if case_sensitive else BYTE_TO_ID
        self._id_to_token = {token_id: token for token, token_id in VOCAB.items()}
        for name in ("cls", "sep", "bos", "mask", "pad", "unk"):
            kwargs.setdefault(f"{name}_token", f"[{name.upper()}]")
        kwargs.setdefault("eos_token", "[SEP]")
        kwargs.setdefault("extra_special_tokens", ["[RESERVED]"])
        kwargs["special_tokens_pattern"] = "cls_sep" if add_cls_token else "eos" if add_sep_token else "none"
        super().__init__(padding_side=padding_side, **switches, **kwargs)

    @property
    def vocab_size(self) -> int:
        """12: seven special tokens, four bases and N."""
        return len(VOCAB)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return VOCAB | self._added_tokens_encoder

    def encode_array(self, sequence: str | bytes) -> np.ndarray:
        """Ids of a bare sequence, uint8 ``(L,)``, without special tokens. It takes milliseconds for 1 Mb."""
        raw = sequence.encode("ascii", "replace") if isinstance(sequence, str) else sequence
        return self._byte_to_id[np.frombuffer(raw, dtype=np.uint8)]

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        if not kwargs.get("is_split_into_words"):
            text, text_pair = self._to_ids(text), self._to_ids(text_pair)
        return super()._encode_plus(text, text_pair, **kwargs)

    def _to_ids(self, text: Any) -> Any:
        """Convert strings to lists of ids through the table, without a Python call for each character.

        Text with a bracket may hold a special token, and an empty string has no ids. The base class handles both.
        """
        if isinstance(text, str):
            return text if not text or "[" in text else self.encode_array(text).tolist()
        if isinstance(text, (list, tuple)):
            return type(text)([self._to_ids(item) for item in text])
        return text

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        if token in SPECIAL_IDS:
            return SPECIAL_IDS[token]
        return int(self._byte_to_id[ord(token)]) if len(token) == 1 and token.isascii() else UNK_ID

    def _convert_id_to_token(self, index: int) -> str:
        return self._id_to_token.get(index, "[UNK]")

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join the tokens without spaces."""
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write ``tokenizer.json``. With it transformers tokenizes the same way without this package."""
        path = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + "tokenizer.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._tokenizer_json(), file, indent=2)
            file.write("\n")
        return (path,)

    def _tokenizer_json(self) -> dict[str, Any]:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

        spellings: dict[int, str] = {}
        for letter, token_id in letter_ids(self.case_sensitive).items():
            spellings[token_id] = spellings.get(token_id, "") + letter
        tokenizer = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Replace(Regex(f"[{letters}]"), self._id_to_token[i]) for i, letters in spellings.items()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
        before, after = "[CLS] " if self.add_cls_token else "", " [SEP]" if self.add_sep_token else ""
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{after}",
            pair=f"{before}$A{after} $B:1{f'{after}:1' if after else ''}",
            special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)],
        )
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_IDS])
        return json.loads(tokenizer.to_str())


def bare_tokenizer(max_length: int) -> DNATokenizer:
    """The tokenizer of models that ``pretrain`` and ``finetune`` make. It adds nothing, as in their training.

    Args:
        max_length: the longest sequence that the model takes.
    """
    return DNATokenizer(model_max_length=max_length, add_sep_token=False)


class HyenaDNATokenizer(DNATokenizer):
    """The name of the tokenizer in published folders, for ``AutoTokenizer``."""
