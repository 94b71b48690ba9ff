"""The small convolutional network of the Genomic Benchmarks.

Source: Grešová et al., "Genomic benchmarks", BMC Genomic Data 24, 25 (2023), and its repository: an embedding of width
100; three convolutions of 8 bases with 16, 8 and 4 channels, each with batch norm, ReLU and a maximum over pairs; two
dense layers, of 512 units and of the classes, with nothing between them. Two things differ here. There is an output for
each class, trained by cross entropy: the original has one output, and its loss takes a sigmoid twice. And N and pads
have a fixed embedding of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto import AutoConfig, AutoModelForSequenceClassification
from transformers.utils.generic import can_return_tuple

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import PAD_ID, VOCAB
from hyenadna.model import padding
from hyenadna.model.config import DNAConfig, OneOf, Rule, Whole, WholeOrNone, check_common
from hyenadna.model.heads import sequence_loss
from hyenadna.model.pretrained import DNAPreTrainedModel

_CHANNELS = (16, 8, 4)
_TAPS = 8
_COUNTER = "num_batches_tracked"


class CNNConfig(DNAConfig):
    """Configuration of the network.

    Args:
        max_seq_len: bases that the network reads. It is made for this length: the first dense layer has a weight for
            each place. Shorter sequences are padded on the right.
        d_model: width of the embedding.
        d_dense: units of the first dense layer.
        vocab_size: rows of the embedding.
        pad_token_id: id of ``[PAD]``, whose embedding is zero.
        train_length: bases to which fine-tuning cut longer sequences, or None, as in ``HyenaDNAConfig``.
        train_keep: what it kept of them: "start", "middle" or "end".
        kwargs: arguments of ``transformers.PretrainedConfig``.

    Raises:
        InputError: a value has the wrong type, or is impossible; the shortest length is 57.
    """

    model_type = "hyenadna-cnn"
    rules: ClassVar[Mapping[str, Rule]] = {
        "max_seq_len": Whole(1, 1 << 30),
        "d_model": Whole(1, 1 << 20),
        "d_dense": Whole(1, 1 << 20),
        "vocab_size": Whole(len(VOCAB), 1 << 24),
        "train_length": WholeOrNone(1, 1 << 30),
        "train_keep": OneOf(("start", "middle", "end")),
    }

    def __init__(
        self,
        max_seq_len: int = 200,
        d_model: int = 100,
        d_dense: int = 512,
        vocab_size: int = len(VOCAB),
        pad_token_id: int = PAD_ID,
        train_length: int | None = None,
        train_keep: str = "middle",
        **kwargs: Any,
    ) -> None:
        check_common(kwargs)
        super().__init__(**kwargs)
        self.max_seq_len = max_seq_len
        self.d_model = d_model
        self.d_dense = d_dense
        self.vocab_size = vocab_size
        self.pad_token_id = pad_token_id
        self.train_length = train_length
        self.train_keep = train_keep
        self.check()

    def check(self) -> None:
        """Raise InputError if a field has the wrong type or an impossible value."""
        super().check()
        if self.flat_size < 1:
            raise InputError(
                f"config: max_seq_len {self.max_seq_len}: three convolutions of {_TAPS} bases with maxima over pairs "
                "leave nothing of fewer than 57 bases; set a larger `max_seq_len`"
            )

    @property
    def flat_size(self) -> int:
        """Inputs of the first dense layer."""
        length = self.max_seq_len
        for _ in _CHANNELS:
            length = (length - _TAPS + 1) // 2
        return length * _CHANNELS[-1]

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size

    @property
    def longest_input(self) -> int:
        """Most positions of an input: ``max_seq_len``."""
        return self.max_seq_len


class CNNForSequenceClassification(DNAPreTrainedModel):
    """One prediction for a sequence.

    Example:
        >>> import torch
        >>> from hyenadna.baselines.cnn import CNNConfig, CNNForSequenceClassification
        >>> config = CNNConfig(max_seq_len=64, num_labels=2)
        >>> CNNForSequenceClassification(config).eval()(torch.tensor([[7, 8, 9, 10]])).logits.shape
        torch.Size([1, 2])
    """

    config_class = CNNConfig
    config: CNNConfig
    base_model_prefix = "cnn"
    # It counts batches in integers, and a momentum makes it needless.
    _keys_to_ignore_on_load_missing = [rf"{_COUNTER}$"]  # noqa: RUF012 - transformers declares it without ClassVar

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        widths = (config.d_model, *_CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv1d(before, after, _TAPS), nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(2))
            for before, after in zip(widths, _CHANNELS, strict=False)
        )
        self.dense = nn.Linear(config.flat_size, config.d_dense)
        self.score = nn.Linear(config.d_dense, config.num_labels or 1)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Initialise weights as PyTorch does, and so the original."""
        if isinstance(module, nn.BatchNorm1d):
            # Its own reset would forget the statistics of a checkpoint, which has no counter.
            super()._init_weights(module)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def _for_files(self, state_dict: dict[str, Any] | None) -> dict[str, Any]:
        weights = self.state_dict() if state_dict is None else state_dict
        return {key: tensor for key, tensor in weights.items() if not key.endswith(_COUNTER)}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Compute the logits of every sequence, and their loss.

        Args:
            input_ids: ``(B, L)``, integers below ``vocab_size``, L ≤ max_seq_len. The rest is padded.
            attention_mask: ``(B, L)``, 1 at real positions and 0 at pads, which stand on one side of a row.
            labels: as in ``HyenaDNAForSequenceClassification.forward``.
            kwargs: ``return_dict`` and ``num_items_in_batch``.

        Returns:
            ``logits (B, num_labels)``; ``loss`` if there are ``labels``.

        Raises:
            InputError: the ids are none as described, or there is another argument.
        """
        for name, value in kwargs.items():
            if name not in ("return_dict", "num_items_in_batch") and value is not None and value is not False:
                raise InputError(f"{name}: the CNN baseline does not take it: it has whole sequences and classes alone")
        shape, device = self._check_input(input_ids, None, any_length=True)
        assert input_ids is not None
        if shape[1] > self.config.max_seq_len:
            raise InputError(
                f"a sequence of {shape[1]} bases is longer than the {self.config.max_seq_len} that this CNN is made "
                "for: train one with a larger `max_seq_len`, or cut the sequence"
            )
        ids = input_ids
        if attention_mask is not None:
            ids = ids.masked_fill(~padding.real_positions(attention_mask, shape, device), self.config.pad_token_id)
            rows = padding.row_order(attention_mask, shape, device)
            ids = ids if rows is None else rows.to_front(ids)
        ids = F.pad(ids, (0, self.config.max_seq_len - shape[1]), value=self.config.pad_token_id)
        x = self.embedding(ids).transpose(1, 2)
        for convolution in self.convolutions:
            x = convolution(x)
        logits = self.score(self.dense(x.flatten(1)))
        loss = None if labels is None else sequence_loss(self, logits, labels, kwargs)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(CNNConfig.model_type, CNNConfig)
AutoModelForSequenceClassification.register(CNNConfig, CNNForSequenceClassification)
