"""Heads on the backbone: one prediction for a sequence, or one for every position."""

# transformers declares its class attributes without ClassVar, and a subclass cannot add it.
# ruff: noqa: RUF012

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.models.auto import AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils.generic import can_return_tuple

from hyena_kernels import SegmentPlan
from hyena_kernels.distributed import ContextShards
from hyenadna.common.errors import InputError
from hyenadna.model import context as split, packing, padding
from hyenadna.model.arguments import check_arguments
from hyenadna.model.config import DNAConfig, HyenaDNAConfig
from hyenadna.model.modeling import HyenaDNAModel
from hyenadna.model.pretrained import HyenaDNAPreTrainedModel, check_labels


def pool(hidden: Tensor, real: Tensor, how: str) -> Tensor:
    """Pool the positions of each sequence into one vector.

    Args:
        hidden: ``(B, L, D)``.
        real: bool ``(B, L)``, False at pads.
        how: ``"mean"`` over the real positions, or the ``"last"`` or ``"first"`` real one.

    Returns:
        ``(B, D)`` in the dtype of ``hidden``. A row without a real position gives 0 for the mean, and position 0
        otherwise.
    """
    if how == "mean":
        weights = real.to(torch.promote_types(hidden.dtype, torch.float32))
        weights = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1)).to(hidden.dtype)
        return torch.bmm(weights[:, None], hidden)[:, 0]
    position = torch.arange(real.shape[1], device=real.device)
    index = (position * real).argmax(dim=1) if how == "last" else real.to(torch.uint8).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def real_positions(
    config: DNAConfig, input_ids: Tensor | None, attention_mask: Tensor | None, hidden: Tensor
) -> Tensor:
    """Bool ``(B, L)``: from the mask if there is one, otherwise from the pads among the ids, otherwise all True."""
    if attention_mask is not None:
        return padding.real_positions(attention_mask, hidden.shape[:2], hidden.device)
    if input_ids is not None:
        return input_ids != config.pad_token_id
    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)


def sequence_loss(model: Any, logits: Tensor, labels: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The loss of a prediction for each sequence, as the configuration's ``problem_type`` says.

    Args:
        model: a model of transformers.
        logits: ``(B, num_labels)``.
        labels: see :meth:`HyenaDNAForSequenceClassification.forward`.
        given: further arguments of ``forward``, of which ``num_items_in_batch`` is read.

    Raises:
        InputError: on the CPU, a class index is neither a column of the logits nor -100.
    """
    kind = model.config.problem_type or (logits.shape[1] > 1 and "single_label_classification")
    if kind == "single_label_classification" and not labels.is_floating_point():
        check_labels(labels, logits.shape[1])
    extra = {"num_items_in_batch": given["num_items_in_batch"]} if "num_items_in_batch" in given else {}
    loss: Tensor = model.loss_function(labels=labels, pooled_logits=logits, config=model.config, **extra)
    return loss


def token_loss(logits: Tensor, labels: Tensor, attention_mask: Tensor | None, items: Any = None) -> Tensor:
    """The cross entropy of a prediction for each position, a scalar in float32 or better.

    Args:
        logits: ``(B, L, num_labels)``.
        labels: ``(B, L)`` class indices; -100 leaves a position out.
        attention_mask: ``(B, L)``. Positions where it is 0 are left out.
        items: a divisor of the summed loss in place of its mean.

    Raises:
        InputError: labels have another shape; or, on the CPU, one is neither a column of the logits nor -100.
    """
    if labels.shape != logits.shape[:2]:
        raise InputError(f"labels {tuple(labels.shape)} must be (B, L), here {tuple(logits.shape[:2])}")
    check_labels(labels, logits.shape[2])
    if attention_mask is not None:
        real = padding.real_positions(attention_mask, logits.shape[:2], logits.device)
        labels = labels.masked_fill(~real.to(labels.device), -100)
    wide = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels.flatten().to(logits.device, torch.long)
    loss = F.cross_entropy(wide, targets, reduction="mean" if items is None else "sum")
    return loss if items is None else loss / torch.as_tensor(items, device=loss.device)


class _HyenaDNAClassifier(HyenaDNAPreTrainedModel):
    """The backbone and a linear head."""

    _new_heads = ("score.",)
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.score = nn.Linear(config.d_model, config.num_labels or 1)
        self.post_init()


class HyenaDNAForSequenceClassification(_HyenaDNAClassifier):
    """One prediction for a sequence: positions pooled by ``config.pooling``, then a linear head.

    The mean and the last position use real positions only. The original's mean counts pads.

    Example:
        >>> import torch
        >>> from hyenadna import HyenaDNAConfig, HyenaDNAForSequenceClassification
        >>> config = HyenaDNAConfig(num_labels=2)
        >>> HyenaDNAForSequenceClassification(config)(torch.tensor([[7, 8, 9, 10]])).logits.shape
        torch.Size([1, 2])
    """

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Compute the logits of every sequence, and their loss.

        Args:
            input_ids: as in :meth:`HyenaDNAModel.forward`.
            attention_mask: as in :meth:`HyenaDNAModel.forward`; real positions are pooled. Without it, all positions
                but ``pad_token_id`` are pooled. With ``inputs_embeds``, all positions are.
            inputs_embeds: as in :meth:`HyenaDNAModel.forward`.
            output_hidden_states: as in :meth:`HyenaDNAModel.forward`.
            labels: ``(B,)`` class indices; ``(B, num_labels)`` floats of 0 and 1 for several labels at once; or
                ``(B,)`` or ``(B, num_labels)`` floats for regression. ``config.problem_type`` decides. Without it the
                rule of transformers holds: regression for one label, classes for integers, several labels for floats.
            position_ids: as in :meth:`HyenaDNAModel.forward`.
            cu_seqlens: as in :meth:`HyenaDNAModel.forward`. Each sequence of a packed row has its own prediction: B is
                the number of sequences in ``labels`` and ``logits``.
            kwargs: ``return_dict``, ``num_items_in_batch``. Others as in :meth:`HyenaDNAModel.forward`, but sequences
                that are split over processes, ``context``, are refused.

        Returns:
            ``logits (B, num_labels)``; ``loss`` if there are ``labels``; ``hidden_states`` if requested.

        Raises:
            InputError: as in :meth:`HyenaDNAModel.forward`; or, on the CPU, a class index is neither a column of the
                logits nor -100.
            TypeError: there is an argument that no model here knows.
        """
        split.refuse(kwargs.pop("context", None), self.hyena.backbone.layers, f"config.pooling {self.config.pooling!r}")
        check_arguments(self, kwargs)
        given = inputs_embeds if input_ids is None else input_ids
        packed = {**kwargs, "cu_seqlens": cu_seqlens}
        segments = packing.find_segments(packed, position_ids, attention_mask, given, self.config.longest_input)
        output = self.hyena(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            cu_seqlens=segments,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        real = real_positions(self.config, input_ids, attention_mask, hidden)
        how = self.config.pooling
        pooled = pool(hidden, real, how) if segments is None else packing.pool_segments(hidden, real, how, segments)
        logits = self.score(pooled)
        loss = None if labels is None else sequence_loss(self, logits, labels, kwargs)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


class HyenaDNAForTokenClassification(_HyenaDNAClassifier):
    """One prediction for every position: a linear head on the hidden states.

    The model is causal, unless its configuration is bidirectional: a prediction depends on its position and the
    positions left of it only.

    Example:
        >>> import torch
        >>> from hyenadna import HyenaDNAConfig, HyenaDNAForTokenClassification
        >>> config = HyenaDNAConfig(num_labels=3)
        >>> HyenaDNAForTokenClassification(config)(torch.tensor([[7, 8, 9, 10]])).logits.shape
        torch.Size([1, 4, 3])
    """

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        context: ContextShards | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Compute the logits of every position, and their loss.

        Args:
            input_ids: as in :meth:`HyenaDNAModel.forward`.
            attention_mask: as in :meth:`HyenaDNAModel.forward`. Positions where it is 0 are left out of the loss.
            inputs_embeds: as in :meth:`HyenaDNAModel.forward`.
            output_hidden_states: as in :meth:`HyenaDNAModel.forward`.
            labels: ``(B, L)`` class indices, not shifted. -100 leaves a position out of the loss.
            position_ids: as in :meth:`HyenaDNAModel.forward`.
            cu_seqlens: as in :meth:`HyenaDNAModel.forward`; predictions and labels stay ``(1, T)``.
            context: as in :meth:`HyenaDNAModel.forward`. The loss is that of the positions of this process, and needs
                the ``num_items_in_batch`` of all processes.
            kwargs: ``return_dict``; ``num_items_in_batch``, a divisor of the summed loss in place of its mean, for
                transformers' Trainer. Others as in :meth:`HyenaDNAModel.forward`.

        Returns:
            ``logits (B, L, num_labels)``; ``loss``, a scalar in float32 or better, if there are ``labels``;
            ``hidden_states`` if requested.

        Raises:
            InputError: as in :meth:`HyenaDNAModel.forward`; labels have another shape; or, on the CPU, a label is
                neither a column of the logits nor -100.
            TypeError: there is an argument that no model here knows.
        """
        check_arguments(self, kwargs)
        given = inputs_embeds if input_ids is None else input_ids
        packed = {**kwargs, "cu_seqlens": cu_seqlens}
        shards = split.shards_of_call(
            context,
            self.hyena.backbone.layers,
            given,
            self.config.longest_input,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **packed,
        )
        split.check_loss(shards, labels, kwargs.get("num_items_in_batch"), shifts=False)
        segments = packing.find_segments(packed, position_ids, attention_mask, given, self.config.longest_input)
        output = self.hyena(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            cu_seqlens=segments,
            context=shards,
            return_dict=True,
        )
        logits = self.score(output.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels, attention_mask, kwargs.get("num_items_in_batch"))
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


AutoModelForSequenceClassification.register(HyenaDNAConfig, HyenaDNAForSequenceClassification)
AutoModelForTokenClassification.register(HyenaDNAConfig, HyenaDNAForTokenClassification)
# Pipelines look up the names of the classes that fit their task.
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[HyenaDNAConfig.model_type] = HyenaDNAForSequenceClassification.__name__
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES[HyenaDNAConfig.model_type] = HyenaDNAForTokenClassification.__name__
