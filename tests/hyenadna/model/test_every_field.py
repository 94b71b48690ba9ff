"""Every field of ``HyenaDNAConfig`` reaches the model, and has its published default."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification
from hyenadna.common.errors import InputError
from hyenadna.model.kmers import Kmers

BASE: dict[str, Any] = {"d_model": 8, "n_layer": 2, "filter_order": 8, "max_seq_len": 16, "embed_dropout": 0.0}

IDS = torch.tensor([[7, 8, 9, 10, 7, 11, 6, 8], [10, 9, 8, 7, 10, 7, 7, 4]])

# Another value of each field, and what must differ: the weights of a new model, its logits, its logits in training, the
# parameters that are trained, the logits of a classifier for a sequence with a [PAD], or what ``generate`` starts and
# stops with. There may also be no language model of it, but a classifier of other logits, or other words of bases.
FIELDS: dict[str, tuple[Any, str]] = {
    "d_model": (16, "weights"),
    "n_layer": (1, "weights"),
    "d_inner": (24, "weights"),
    "vocab_size": (17, "weights"),
    "pad_vocab_size_multiple": (3, "weights"),
    "max_seq_len": (32, "logits"),
    "modulation_shift": (0.0, "logits"),
    "hyena_order": (3, "weights"),
    "short_filter_order": (4, "weights"),
    "filter_order": (16, "weights"),
    "emb_dim": (3, "weights"),
    "num_inner_mlps": (1, "weights"),
    "activation_freq": (3.0, "logits"),
    "train_freq": (False, "trained"),
    "use_bias": (False, "logits"),
    "hyena_dropout": (0.5, "training"),
    "hyena_filter_dropout": (0.5, "refused"),
    "embed_dropout": (0.5, "training"),
    "layer_norm_epsilon": (0.1, "logits"),
    "initializer_range": (0.2, "weights"),
    "pad_token_id": (6, "pooled"),
    "bos_token_id": (1, "generation"),
    "eos_token_id": (1, "generation"),
    "use_cache": (True, "accepted"),
    "tie_word_embeddings": (True, "trained"),
    "pooling": ("last", "pooled"),
    "filter_length": (3, "logits"),
    "bidirectional": (True, "no language model"),
    # The same numbers by another way.
    "long_conv": ("far_field", "logits"),
    # They are for predict, which cuts.
    "train_length": (4, "accepted"),
    "train_keep": ("end", "accepted"),
    "kmer": (2, "no language model"),
    "kmer_stride": (2, "words"),
}

DEFAULTS = {
    "d_model": 128,
    "n_layer": 2,
    "d_inner": None,
    "vocab_size": 12,
    "pad_vocab_size_multiple": 8,
    "max_seq_len": 1026,
    "modulation_shift": 0.05,
    "hyena_order": 2,
    "short_filter_order": 3,
    "filter_order": 64,
    "emb_dim": 5,
    "num_inner_mlps": 2,
    "activation_freq": 10,
    "train_freq": True,
    "use_bias": True,
    "hyena_dropout": 0.0,
    "hyena_filter_dropout": 0.0,
    "embed_dropout": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "pad_token_id": 4,
    "bos_token_id": None,
    "eos_token_id": None,
    "use_cache": False,
    "tie_word_embeddings": False,
    "pooling": "mean",
    "filter_length": None,
    "bidirectional": False,
    "long_conv": "auto",
    "train_length": None,
    "train_keep": "middle",
    "kmer": None,
    "kmer_stride": 1,
}


def pooled(**changes: Any) -> torch.Tensor:
    """The logits of a new classifier."""
    torch.manual_seed(1)
    classifier = HyenaDNAForSequenceClassification(HyenaDNAConfig(**BASE | changes)).eval()
    with torch.no_grad():
        return classifier(IDS).logits


def seen(**changes: Any) -> dict[str, Any]:
    """What a model of a configuration does, from the same random state."""
    config = HyenaDNAConfig(**BASE | changes)
    torch.manual_seed(1)
    model = HyenaDNAForCausalLM(config)
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    # A new model is almost the same function of every base.
    for parameter in model.parameters():
        torch.manual_seed(parameter.numel())
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.manual_seed(2)
    with torch.no_grad():
        logits, training = model.eval()(IDS).logits, model.train()(IDS).logits
    return {
        "weights": weights,
        "logits": logits,
        "training": training,
        "pooled": pooled(**changes),
        "trained": {name for name, _ in model.named_parameters()},
        "generation": (model.generation_config.bos_token_id, model.generation_config.eos_token_id),
    }


def differ(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() != two.keys() or any(differ(one[name], two[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return not torch.equal(one, two)
    return bool(one != two)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_reaches_the_model(name: str) -> None:
    value, what = FIELDS[name]
    if what == "refused":
        with pytest.raises(NotImplementedError):
            seen(**{name: value})
        return
    if what == "words":
        assert Kmers.of(HyenaDNAConfig(**BASE, kmer=2, kmer_stride=value)) == Kmers(2, value)
        return
    if what == "no language model":
        with pytest.raises(InputError, match=name):
            seen(**{name: value})
        assert differ(pooled(), pooled(**{name: value}))
        return
    before, after = seen(), seen(**{name: value})
    # The model keeps nothing between calls, whatever transformers asks for.
    assert differ(before, after) == (what != "accepted")
    assert what == "accepted" or differ(before[what], after[what])
    # Dropout is for training, pooling for classifiers, and the ids for generation.
    same = {
        "training": ("weights", "logits", "pooled", "trained", "generation"),
        "pooled": ("weights", "logits", "training", "generation"),
        "generation": ("weights", "logits", "training", "pooled", "trained"),
    }
    for other in same.get(what, ()):
        assert not differ(before[other], after[other])


def test_every_field_has_a_line_and_its_default() -> None:
    parameters = inspect.signature(HyenaDNAConfig.__init__).parameters
    fields = {name: p.default for name, p in parameters.items() if name not in ("self", "kwargs")}
    assert fields.keys() == FIELDS.keys()
    assert fields == DEFAULTS
    config = HyenaDNAConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS | {"d_inner": 4 * 128}
