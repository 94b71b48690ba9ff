"""HyenaDNA and ENBED on transformers: models, tokenizers, data, training and evaluation.

``import hyenadna`` registers the classes with transformers, so ``AutoModelForCausalLM.from_pretrained(folder)`` and its
siblings work. Only the command line waits until a verb needs them, because importing torch and transformers takes
seconds.
"""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hyenadna.common.errors import InputError

if TYPE_CHECKING:
    from hyena_kernels import __version__
    from hyenadna.encoder_decoder.config import ENBEDConfig
    from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification, ENBEDForTokenClassification
    from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
    from hyenadna.model.cache import HyenaCache
    from hyenadna.model.config import HyenaDNAConfig
    from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
    from hyenadna.model.modeling import HyenaDNAForCausalLM, HyenaDNAModel
    from hyenadna.model.tokenizer import DNATokenizer
    from hyenadna.training.graphs import make_graphed_step

__all__ = [
    "DNATokenizer",
    "ENBEDConfig",
    "ENBEDForConditionalGeneration",
    "ENBEDForSequenceClassification",
    "ENBEDForTokenClassification",
    "HyenaCache",
    "HyenaDNAConfig",
    "HyenaDNAForCausalLM",
    "HyenaDNAForSequenceClassification",
    "HyenaDNAForTokenClassification",
    "HyenaDNAModel",
    "InputError",
    "__version__",
    "make_graphed_step",
]

_CLASSES = {
    "hyenadna.model.config": ["HyenaDNAConfig"],
    "hyenadna.model.cache": ["HyenaCache"],
    "hyenadna.model.modeling": ["HyenaDNAForCausalLM", "HyenaDNAModel"],
    "hyenadna.model.heads": ["HyenaDNAForSequenceClassification", "HyenaDNAForTokenClassification"],
    "hyenadna.model.tokenizer": ["DNATokenizer"],
    "hyenadna.training.graphs": ["make_graphed_step"],
    "hyenadna.encoder_decoder.config": ["ENBEDConfig"],
    "hyenadna.encoder_decoder.modeling": ["ENBEDForConditionalGeneration"],
    "hyenadna.encoder_decoder.heads": ["ENBEDForSequenceClassification", "ENBEDForTokenClassification"],
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
    """True for the command ``hyenadna`` and for ``python -m hyenadna``, whatever a script is called."""
    # sys.argv[0] is "-m" only while Python looks for the module to run.
    is_module = sys.argv[:1] == ["-m"] and ("-m", "hyenadna") in pairwise(sys.orig_argv)
    return is_module or "hyenadna_command" in sys.modules


if not _is_command_line():
    _load()
