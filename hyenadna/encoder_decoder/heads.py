"""Heads on the encoder: one prediction for a sequence, or one for every byte."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.models.auto import AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.models.longt5.modeling_longt5 import LongT5PreTrainedModel

from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.modeling import ENBEDEncoder, Loads
from hyenadna.encoder_decoder.tokens import PAD
from hyenadna.model.heads import pool, real_positions, sequence_loss, token_loss


class _Classifier(Loads, LongT5PreTrainedModel):
    """The encoder and a linear head."""

    config_class = ENBEDConfig
    config: ENBEDConfig
    base_model_prefix = "encoder"
    _new_heads = ("score.",)
    _tied_weights_keys = {"encoder.embed_tokens.weight": "shared.weight"}  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: ENBEDConfig) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = ENBEDEncoder(config)
        self.score = nn.Linear(config.d_model, config.num_labels or 1)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.normal_(self.shared.weight, std=self.config.initializer_factor)
        elif module is self.score:
            # As transformers does for the classifiers of T5.
            nn.init.normal_(self.score.weight, std=self.config.initializer_factor * self.config.d_model**-0.5)

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of the bytes."""
        return self.shared

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        """Replace the embedding of the bytes."""
        self.shared = new_embeddings
        self.encoder.set_input_embeddings(new_embeddings)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
        if attention_mask is None:
            attention_mask = (input_ids != PAD).long()
        return self.encoder(input_ids, attention_mask, return_dict=True, **kwargs)


class ENBEDForSequenceClassification(_Classifier):
    """One prediction for a sequence: bytes pooled by ``config.pooling``, then a linear head.

    Example:
        >>> import torch
        >>> from hyenadna.encoder_decoder.config import ENBEDConfig
        >>> from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification
        >>> model = ENBEDForSequenceClassification(ENBEDConfig.of_size("enbed-tiny", num_labels=2))
        >>> model(torch.tensor([[68, 70, 74, 87]])).logits.shape
        torch.Size([1, 2])
    """

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Compute the logits of every sequence, and their loss.

        Args:
            input_ids: ``(B, L)`` ids of bytes, padded on the right.
            attention_mask: ``(B, L)``, 1 at real bytes. Without it, all but pads are real.
            labels: as in ``HyenaDNAForSequenceClassification.forward``.
            kwargs: ``output_hidden_states``, ``output_attentions`` and ``num_items_in_batch``.

        Returns:
            ``logits (B, num_labels)``; ``loss`` if there are ``labels``; states and attentions if requested.

        Raises:
            InputError: as ``ENBEDEncoder.forward``, or a class is no column of the logits.
        """
        given = {name: kwargs.pop(name) for name in ("num_items_in_batch",) if name in kwargs}
        kwargs.pop("return_dict", None)
        output = self._encode(input_ids, attention_mask, **kwargs)
        hidden = output.last_hidden_state
        real = real_positions(self.config, input_ids, attention_mask, hidden)
        logits = self.score(pool(hidden, real, self.config.pooling))
        loss = None if labels is None else sequence_loss(self, logits, labels, given)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ENBEDForTokenClassification(_Classifier):
    """One prediction for every byte: a linear head on the encoder's output.

    Example:
        >>> import torch
        >>> from hyenadna.encoder_decoder.config import ENBEDConfig
        >>> from hyenadna.encoder_decoder.heads import ENBEDForTokenClassification
        >>> model = ENBEDForTokenClassification(ENBEDConfig.of_size("enbed-tiny", num_labels=3))
        >>> model(torch.tensor([[68, 70, 74, 87]])).logits.shape
        torch.Size([1, 4, 3])
    """

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> TokenClassifierOutput:
        """Compute the logits of every byte, and their loss.

        Args:
            input_ids: ``(B, L)`` ids of bytes, padded on the right.
            attention_mask: ``(B, L)``, 1 at real bytes. The others are left out of the loss.
            labels: ``(B, L)`` class indices. -100 leaves a byte out of the loss.
            kwargs: ``output_hidden_states``, ``output_attentions`` and ``num_items_in_batch``.

        Returns:
            ``logits (B, L, num_labels)``; ``loss`` if there are ``labels``; states and attentions if requested.

        Raises:
            InputError: as ``ENBEDEncoder.forward``, or labels have another shape or no column.
        """
        items = kwargs.pop("num_items_in_batch", None)
        kwargs.pop("return_dict", None)
        output = self._encode(input_ids, attention_mask, **kwargs)
        logits = self.score(output.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels, attention_mask, items)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


AutoModelForSequenceClassification.register(ENBEDConfig, ENBEDForSequenceClassification)
AutoModelForTokenClassification.register(ENBEDConfig, ENBEDForTokenClassification)
