"""The CNN of the Genomic Benchmarks: its layers, lengths and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hyenadna.baselines.cnn import CNNConfig, CNNForSequenceClassification
from hyenadna.baselines.loading import load_backbone, load_language_model, load_sequence_classifier
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID


@pytest.fixture
def model() -> CNNForSequenceClassification:
    torch.manual_seed(0)
    made = CNNForSequenceClassification(CNNConfig(max_seq_len=70, num_labels=2))
    # Statistics of its own.
    made.train()(torch.randint(7, 11, (8, 70)))
    return made.eval()


def test_it_has_the_layers_of_its_source(model: CNNForSequenceClassification) -> None:
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv1d)]
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in convolutions] == [
        (100, 16, (8,)),
        (16, 8, (8,)),
        (8, 4, (8,)),
    ]
    assert [type(layer) for layer in model.convolutions[0]] == [nn.Conv1d, nn.BatchNorm1d, nn.ReLU, nn.MaxPool1d]
    # 70 - 7 = 63, 31; 24, 12; 5, 2 places of 4 channels.
    assert (model.dense.in_features, model.dense.out_features, model.score.out_features) == (8, 512, 2)


def test_shorter_sequences_are_padded_with_zeros(model: CNNForSequenceClassification) -> None:
    ids = torch.randint(7, 11, (3, 40))
    longer = F.pad(ids, (0, 30), value=PAD_ID)
    left = F.pad(ids, (6, 0), value=7)
    mask = F.pad(torch.ones_like(ids), (6, 0))
    with torch.no_grad():
        wanted = model(ids).logits
        assert torch.equal(model(longer).logits, wanted)
        assert torch.equal(model(left, attention_mask=mask).logits, wanted)
        assert not torch.equal(model(left).logits, wanted)
    assert not model.embedding.weight[PAD_ID].any()


def test_a_folder_is_the_same_model_again(model: CNNForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = load_sequence_classifier(tmp_path)
    ids = torch.randint(7, 11, (3, 70))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    for load in (load_backbone, load_language_model):
        with pytest.raises(InputError, match="is a model of type hyenadna-cnn, which"):
            load(tmp_path)


def test_what_it_cannot_do_is_refused(model: CNNForSequenceClassification) -> None:
    with pytest.raises(InputError, match="71 bases is longer than the 70"):
        model(torch.full((1, 71), 7))
    with pytest.raises(InputError, match="the embedding has 12 rows"):
        model(torch.full((1, 70), N_ID + 1))
    with pytest.raises(InputError, match="output_hidden_states: the CNN"):
        model(torch.full((1, 70), 7), output_hidden_states=True)
    with pytest.raises(InputError, match="max_seq_len 56"):
        CNNConfig(max_seq_len=56)
    CNNConfig(max_seq_len=57)
