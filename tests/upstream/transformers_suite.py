"""transformers' own test classes with the models of this package. ``run.py`` runs it, with their tests importable."""

from __future__ import annotations

import importlib
import sys
import tempfile
import unittest
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from transformers.models.auto import modeling_auto

from hyenadna import (
    DNATokenizer,
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAForTokenClassification,
    HyenaDNAModel,
)


def _stand_in(name: str, **content: Any) -> None:
    """A module in the place of one that the source distribution lacks."""
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module


# The arguments that every configuration takes, with values that are not the defaults.
_stand_in("tests.utils")
_stand_in(
    "tests.utils.test_configuration_utils",
    config_common_kwargs={
        "return_dict": False,
        "output_hidden_states": True,
        "dtype": "float16",
        "chunk_size_feed_forward": 3,
        "architectures": ["Any"],
        "id2label": {0: "exon"},
        "label2id": {"exon": "0"},
        "problem_type": "regression",
    },
)
for _name, _content in (
    ("tests.exporters.test_export", {"ExportTesterMixin": object, "ExportGenerateTesterMixin": object}),
    ("tests.generation.test_utils", {"GenerationTesterMixin": object}),
):
    try:
        importlib.import_module(_name)
    except ImportError:
        _stand_in(_name, **_content)

from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402
from tests.test_tokenization_common import TokenizerTesterMixin  # noqa: E402

# The suites look up by name which class has a loss, and of what kind.
for _table, _name in (
    (modeling_auto.MODEL_MAPPING_NAMES, "HyenaDNAModel"),
    (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "HyenaDNAForCausalLM"),
    (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "HyenaDNAForSequenceClassification"),
    (modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, "HyenaDNAForTokenClassification"),
):
    _table["hyenadna"] = _name


class HyenaDNAModelTester:
    """Small models and their inputs, in the form that the suites ask for."""

    batch_size = 3
    seq_length = 10
    hidden_size = 16
    num_hidden_layers = 2
    num_labels = 3
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> HyenaDNAConfig:
        """A configuration without dropout, as the suites compare outputs."""
        return HyenaDNAConfig(
            d_model=self.hidden_size,
            n_layer=self.num_hidden_layers,
            max_seq_len=128,
            filter_order=8,
            embed_dropout=0.0,
            num_labels=self.num_labels,
            # Some tests take 15 tokens away, or count the columns of the logits.
            vocab_size=32,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[HyenaDNAConfig, dict[str, Any]]:
        """Configuration, and ids of nucleotides with their mask."""
        ids = ids_tensor([self.batch_size, self.seq_length], 5) + 7
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class TestModels(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):  # type: ignore[misc]
    """All four classes."""

    all_model_classes = (
        HyenaDNAModel,
        HyenaDNAForCausalLM,
        HyenaDNAForSequenceClassification,
        HyenaDNAForTokenClassification,
    )
    has_attentions = False

    def setUp(self) -> None:
        """As in the suites of transformers' own models."""
        self.model_tester = HyenaDNAModelTester(self)
        self.config_tester = ConfigTester(self, config_class=HyenaDNAConfig, d_model=32)

    def test_config(self) -> None:
        """All checks of ``ConfigTester``."""
        self.config_tester.run_common_tests()

    def test_left_padding_compatibility(self) -> None:
        """Theirs, which skips models without attention."""
        if not hasattr(GenerationTesterMixin, "test_left_padding_compatibility"):
            self.skipTest("the tests of generate are left out")
        with mock.patch.object(self, "has_attentions", True):
            super().test_left_padding_compatibility()


class TestTokenizer(TokenizerTesterMixin, unittest.TestCase):  # type: ignore[misc]
    """The tokenizer, from a saved folder."""

    tokenizer_class = DNATokenizer
    test_slow_tokenizer = True
    test_rust_tokenizer = False
    test_sentencepiece = False
    test_tokenizer_from_extractor = False
    integration_expected_tokens = None

    @classmethod
    def setUpClass(cls) -> None:
        """Save a tokenizer with its model's configuration, as a published folder has it."""
        cls.folder = tempfile.TemporaryDirectory()
        DNATokenizer().save_pretrained(cls.folder.name)
        HyenaDNAConfig().save_pretrained(cls.folder.name)
        cls.from_pretrained_id = cls.folder.name
        super().setUpClass()
        HyenaDNAConfig().save_pretrained(cls.tmpdirname)

    @classmethod
    def tearDownClass(cls) -> None:
        """Remove both folders."""
        cls.folder.cleanup()
        super().tearDownClass()

    def get_input_output_texts(self, tokenizer: DNATokenizer) -> tuple[str, str]:
        """A sequence without blanks: a blank is no base."""
        return "ACGTNGATTACA", "ACGTNGATTACA"
