"""HyenaDNA on transformers: model, tokenizer, data, training and evaluation.

The public classes load on first use. In a Python session that happens at once, so that ``import hyenadna`` alone
makes ``AutoModelForCausalLM.from_pretrained(folder)`` and its siblings work; the command line waits until a verb
needs them, for torch and transformers take longer to import than ``hyenadna prepare`` takes for a small genome.
"""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyenadna.common.errors import InputError

if TYPE_CHECKING:
    from hyena_kernels import __version__
    from hyenadna.model.config import HyenaDNAConfig
    from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
    from hyenadna.model.modeling import HyenaDNAForCausalLM, HyenaDNAModel
    from hyenadna.model.tokenizer import DNATokenizer

__all__ = [
    "DNATokenizer",
    "HyenaDNAConfig",
    "HyenaDNAForCausalLM",
    "HyenaDNAForSequenceClassification",
    "HyenaDNAForTokenClassification",
    "HyenaDNAModel",
    "InputError",
    "__version__",
]

_CLASSES = {
    "hyenadna.model.config": ["HyenaDNAConfig"],
    "hyenadna.model.modeling": ["HyenaDNAForCausalLM", "HyenaDNAModel"],
    "hyenadna.model.heads": ["HyenaDNAForSequenceClassification", "HyenaDNAForTokenClassification"],
    "hyenadna.model.tokenizer": ["DNATokenizer"],
}


def _load() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"hyenadna needs transformers ({error}): pip install '.[dna]' in a checkout of hyena_kernels",
            name=error.name,
        ) from error
    for module, names in _CLASSES.items():
        for name in names:
            globals()[name] = getattr(importlib.import_module(module), name)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        return importlib.import_module("hyena_kernels").__version__
    _load()
    return globals()[name]


def _is_command_line() -> bool:
    return ("-m", "hyenadna") in pairwise(sys.orig_argv) or Path(sys.argv[0]).stem == "hyenadna"


if not _is_command_line():
    _load()
