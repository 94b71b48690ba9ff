"""peft's own test classes with the models of this package. ``run.py`` runs it, with their tests importable."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import peft.utils.constants as targets
import pytest
import torch

from hyenadna import DNATokenizer, HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification


def _no_data(self: Any, *args: Any) -> None:
    pytest.skip("reads a data set of the Hub")


# Their helpers import these for tests of images and of datasets, none of which runs here.
for _name, _wanted in (("diffusers", "StableDiffusionPipeline"), ("datasets", "load_dataset")):
    if _name not in sys.modules:
        sys.modules[_name] = ModuleType(_name)
        sys.modules[_name].__spec__ = ModuleSpec(_name, None)
        setattr(sys.modules[_name], _wanted, type(_wanted, (), {"__init__": _no_data}))

from tests import test_decoder_models, test_seq_classifier  # noqa: E402

for _name in ("diffusers", "datasets"):
    if sys.modules[_name].__spec__ is None or sys.modules[_name].__spec__.loader is None:
        del sys.modules[_name]

# peft has a table of the layers that each method adapts, by the type of model.
LAYERS = ["in_proj", "out_proj", "fc1", "fc2"]
for _name, _table in list(vars(targets).items()):
    # One table holds functions in place of layers.
    if _name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(_table, dict) and "POSTPROCESS" not in _name:
        _table["hyenadna"] = ["fc2"] if "FEEDFORWARD" in _name else ["norm1"] if "LNTUNING" in _name else LAYERS

# Where it does not find the layers at model.layers, this method asks for them.
for _suite in (test_decoder_models, test_seq_classifier):
    for _config, _fields in _suite.ALL_CONFIGS:
        if _config.__name__ == "ShadowConfig":
            _fields["target_modules"] = r".*\.layers\.\d+$"

FOLDER = Path(tempfile.mkdtemp(prefix="hyenadna-upstream-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def _saved(kind: Any, name: str) -> str:
    folder = FOLDER / name
    kind(HyenaDNAConfig(d_model=32, max_seq_len=128, filter_order=32, num_labels=2)).save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)
    return str(folder)


def _with_model(cls: type, model: str) -> type:
    """``cls`` with ``model`` in the place of the models that its tests are parametrised over."""
    changed: dict[str, Any] = {}
    for name in dir(cls):
        test = getattr(cls, name)
        marks = getattr(test, "pytestmark", [])
        if name.startswith("test_") and any(mark.args[:1] == ("model_id",) for mark in marks):

            def copy(self: Any, *args: Any, _test: Any = test, **kwargs: Any) -> Any:
                return _test(self, *args, **kwargs)

            copy.__signature__ = __import__("inspect").signature(test)  # type: ignore[attr-defined]
            copy.__name__ = name
            copy.pytestmark = [  # type: ignore[attr-defined]
                pytest.mark.parametrize("model_id", [model], ids=[""]).mark if mark.args[:1] == ("model_id",) else mark
                for mark in marks
            ]
            changed[name] = copy
        elif name.startswith("test_"):
            # Tests of one named model of the Hub.
            changed[name] = None
    return type(cls.__name__, (cls,), changed)


def _on_the_left(mask: torch.Tensor) -> torch.Tensor:
    """A pad on the left in place of a hole in their masks. No batch of sequences has one, and the models refuse it."""
    return mask.sort(dim=1).values


class _Decoder(test_decoder_models.TestDecoderModels):
    def prepare_inputs_for_testing(self) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_testing()
        return inputs | {"attention_mask": _on_the_left(inputs["attention_mask"])}

    def _test_generate_half_prec(self, *args: Any) -> None:
        generate = HyenaDNAForCausalLM.generate

        def padded(model: Any, *args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
            return generate(model, *args, attention_mask=_on_the_left(attention_mask), **kwargs)

        with mock.patch.object(HyenaDNAForCausalLM, "generate", padded):
            super()._test_generate_half_prec(*args)


class _Classifier(test_seq_classifier.TestSequenceClassificationModels):
    def prepare_inputs_for_testing(self) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_testing()
        return inputs | {"attention_mask": _on_the_left(inputs["attention_mask"])}


TestDecoder = _with_model(_Decoder, _saved(HyenaDNAForCausalLM, "causal"))
TestClassifier = _with_model(_Classifier, _saved(HyenaDNAForSequenceClassification, "classes"))
