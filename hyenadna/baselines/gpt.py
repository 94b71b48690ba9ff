"""The GPT-2 that HyenaDNA was compared with: transformers' model behind the interface of the models here.

Source: appendix A.3 of Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794): 2 layers of width 128 with 8 heads and 529 k
parameters. With 1,024 positions and 16 rows of tokens the model has 529,920. Each further position adds ``d_model``.
"""

# transformers declares its class attributes without ClassVar, and a subclass cannot add it.
# ruff: noqa: RUF012

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.auto import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.gpt2 import GPT2Config, GPT2Model
from transformers.utils.generic import can_return_tuple

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import PAD_ID, VOCAB
from hyenadna.model import checkpoint, padding
from hyenadna.model.config import DNAConfig, OneOf, Real, Rule, Whole, WholeOrNone, check_common
from hyenadna.model.heads import pool, real_positions, sequence_loss, token_loss
from hyenadna.model.loss import merge_ignored, next_token_loss, next_token_loss_of_states
from hyenadna.model.pretrained import DNAPreTrainedModel, check_labels, has_values

# What may be given to every model of transformers and changes nothing.
_NEUTRAL = {"use_cache": False, "output_attentions": False, "is_causal": True}
_NO_NAMES = ("return_dict", "num_items_in_batch")


class GPTConfig(DNAConfig):
    """Configuration of the GPT-2 baseline. Defaults are those of the published comparison.

    Args:
        d_model: width D.
        n_layer: number of blocks.
        n_head: attention heads. They divide ``d_model``.
        max_seq_len: longest input in tokens. Each position has an embedding of its own.
        vocab_size: rows of the embedding and columns of the logits, with rows of padding, as a HyenaDNA has.
        embed_dropout: dropout on the embedding. The paper names 0 to 0.2; 0.1 is HyenaDNA's.
        resid_dropout: dropout on what a layer adds.
        attention_dropout: dropout on the weights of the attention.
        layer_norm_epsilon: epsilon of all LayerNorms.
        initializer_range: standard deviation of new weights.
        pad_token_id: id of ``[PAD]``.
        pooling: how a sequence's positions are pooled: "mean", "last" or "first".
        train_length: bases to which fine-tuning cut longer sequences, or None, as in ``HyenaDNAConfig``.
        train_keep: what it kept of them: "start", "middle" or "end".
        kwargs: arguments of ``transformers.PretrainedConfig``.

    Raises:
        InputError: a value has the wrong type, or is impossible for a model.
    """

    model_type = "hyenadna-gpt2"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "max_seq_len",
    }
    rules: ClassVar[Mapping[str, Rule]] = {
        "d_model": Whole(1, 1 << 20),
        "n_layer": Whole(1, 10_000),
        "n_head": Whole(1, 1 << 20),
        "max_seq_len": Whole(1, 1 << 30),
        "vocab_size": Whole(len(VOCAB), 1 << 24),
        "embed_dropout": Real(0.0, 1.0),
        "resid_dropout": Real(0.0, 1.0),
        "attention_dropout": Real(0.0, 1.0),
        "layer_norm_epsilon": Real(0.0, above=True),
        "initializer_range": Real(0.0),
        "pooling": OneOf(("mean", "last", "first")),
        "train_length": WholeOrNone(1, 1 << 30),
        "train_keep": OneOf(("start", "middle", "end")),
    }

    def __init__(
        self,
        d_model: int = 128,
        n_layer: int = 2,
        n_head: int = 8,
        max_seq_len: int = 1024,
        vocab_size: int = 16,
        embed_dropout: float = 0.1,
        resid_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        pad_token_id: int = PAD_ID,
        pooling: str = "mean",
        train_length: int | None = None,
        train_keep: str = "middle",
        **kwargs: Any,
    ) -> None:
        check_common(kwargs)
        # The head is the embedding's matrix, as in GPT-2.
        kwargs["tie_word_embeddings"] = True
        super().__init__(**kwargs)
        self.d_model = d_model
        self.n_layer = n_layer
        self.n_head = n_head
        self.max_seq_len = max_seq_len
        self.vocab_size = vocab_size
        self.embed_dropout = embed_dropout
        self.resid_dropout = resid_dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.pad_token_id = pad_token_id
        self.pooling = pooling
        self.train_length = train_length
        self.train_keep = train_keep
        self.check()

    def check(self) -> None:
        """Raise InputError if a field has the wrong type or an impossible value."""
        super().check()
        if self.d_model % self.n_head:
            raise InputError(f"config: n_head {self.n_head} does not divide d_model {self.d_model}")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and columns of the logits."""
        return self.vocab_size

    @property
    def longest_input(self) -> int:
        """Most positions of an input: ``max_seq_len``."""
        return self.max_seq_len

    def to_gpt2(self, attention: str | None) -> GPT2Config:
        """The configuration of transformers' own model.

        Args:
            attention: its implementation, ``"sdpa"``, ``"flash_attention_2"`` or ``"eager"``; None lets it choose.
        """
        return GPT2Config(
            vocab_size=self.vocab_size,
            n_positions=self.max_seq_len,
            n_embd=self.d_model,
            n_layer=self.n_layer,
            n_head=self.n_head,
            embd_pdrop=self.embed_dropout,
            resid_pdrop=self.resid_dropout,
            attn_pdrop=self.attention_dropout,
            layer_norm_epsilon=self.layer_norm_epsilon,
            initializer_range=self.initializer_range,
            bos_token_id=None,
            eos_token_id=None,
            # With an id, transformers warns of [PAD] in an input. Here it also stands for N.
            pad_token_id=None,
            use_cache=False,
            attn_implementation=attention,
        )


class GPTPreTrainedModel(DNAPreTrainedModel):
    """Loading and saving of the GPT-2 models. ``attn_implementation`` is an argument of ``from_pretrained``."""

    config_class = GPTConfig
    config: GPTConfig
    base_model_prefix = "gpt"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    @classmethod
    def _of_files(cls, weights: dict[str, Tensor], config: DNAConfig) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in weights.items() if key != checkpoint.HEAD_KEY}

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Raise InputError for a keyword argument of ``forward`` that this baseline cannot honour."""
        for name, value in given.items():
            if name not in _NO_NAMES and value is not None and value is not _NEUTRAL.get(name):
                raise InputError(f"{name}: the GPT baseline does not take it; give whole sequences, one in each row")


class GPTModel(GPTPreTrainedModel):
    """The backbone without a head: token ids to hidden states.

    Example:
        >>> import torch
        >>> from hyenadna.baselines.gpt import GPTConfig, GPTModel
        >>> model = GPTModel(GPTConfig())
        >>> sum(parameter.numel() for parameter in model.parameters())
        529920
        >>> model(torch.tensor([[7, 8, 9, 10]])).last_hidden_state.shape
        torch.Size([1, 4, 128])
    """

    _keys_to_ignore_on_load_unexpected = [r"^score\."]

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.backbone = GPT2Model(config.to_gpt2(config._attn_implementation))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of the tokens."""
        return self.backbone.wte

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the embedding of the tokens."""
        self.backbone.wte = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Compute the hidden states of every position.

        Args:
            input_ids: ``(B, L)``, integers below ``vocab_size``, L ≤ max_seq_len.
            attention_mask: ``(B, L)``, 1 at real positions and 0 at pads. The model is causal, so pads on the right
                need no mask. A row with pads on the left gives the states of the same row without them.
            inputs_embeds: ``(B, L, D)`` in place of ``input_ids``.
            output_hidden_states: return all states.
            kwargs: ``return_dict``. Others only where they change nothing, as None does.

        Returns:
            ``last_hidden_state (B, L, D)`` after the final LayerNorm, and if requested ``hidden_states``.

        Raises:
            InputError: the model cannot take these shapes, dtypes or ids, a sequence exceeds max_seq_len, the mask has
                other values or pads inside a row, or there is another argument.
        """
        self.check_arguments(kwargs)
        shape, device = self._check_input(input_ids, inputs_embeds, any_length=True)
        if shape[1] > self.config.max_seq_len:
            raise InputError(
                f"a sequence of {shape[1]} tokens is longer than the {self.config.max_seq_len} positions of this GPT: "
                f"train one with a larger `max_seq_len` (each position adds {self.config.d_model} parameters), or cut "
                "the sequence"
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        rows = padding.row_order(attention_mask, shape, device, soft_prompt=inputs_embeds is not None)
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        if rows is not None:
            given = {name: None if value is None else rows.to_front(value) for name, value in given.items()}
        output = self.backbone(**given, use_cache=False, output_hidden_states=bool(output_hidden_states))
        last, states = output.last_hidden_state, output.hidden_states
        if rows is not None:
            last = rows.back(last)
            states = states and (*(rows.back(state) for state in states[:-1]), last)
        return BaseModelOutput(last_hidden_state=last, hidden_states=states)


class GPTForCausalLM(GPTPreTrainedModel):
    """Next-nucleotide language model. Its head is the matrix of the embedding.

    It has no ``generate``: it is a yardstick for training, likelihoods and classification.
    """

    _tied_weights_keys = {"lm_head.weight": "gpt.backbone.wte.weight"}

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.gpt = GPTModel(config)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Compute the logits of the next token at every position, and their loss.

        Args:
            input_ids: as in :meth:`GPTModel.forward`.
            attention_mask: as in :meth:`GPTModel.forward`.
            inputs_embeds: as in :meth:`GPTModel.forward`.
            labels: ``(B, L)``, the same ids as ``input_ids``; this method shifts them by one. -100 leaves a position
                out. A row with pads on the left has the loss of the same row with its pads on the right.
            output_hidden_states: as in :meth:`GPTModel.forward`.
            kwargs: as in :meth:`GPTModel.forward`; ``num_items_in_batch``, a divisor of the summed loss in place of
                its mean.

        Returns:
            ``logits (B, L, vocab_size)``; ``loss``, a scalar in float32 or better, if there are ``labels``;
            ``hidden_states`` if requested.

        Raises:
            InputError: as :meth:`GPTModel.forward`; labels have another shape; or, on the CPU, a label is neither a
                column of the logits nor -100.
        """
        self.check_arguments(kwargs)
        output = self.gpt(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(output.last_hidden_state)
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:2]:
                shape = tuple(logits.shape[:2])
                raise InputError(f"labels {tuple(labels.shape)} must have the shape of input_ids {shape}")
            check_labels(labels, logits.shape[2])
            rows = padding.row_order(attention_mask, logits.shape[:2], logits.device)
            moved, targets = (logits, labels) if rows is None else (rows.to_front(logits), rows.to_front(labels))
            targets = targets[:, 1:].to(logits.device, torch.long)
            total = next_token_loss(moved[:, :-1], targets, ignored=(-100,))
            items = kwargs.get("num_items_in_batch")
            loss = total / ((targets != -100).sum() if items is None else torch.as_tensor(items, device=total.device))
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)

    def next_token_loss(
        self, input_ids: Tensor, targets: Tensor, *, ignored: tuple[int, ...] = (-100,), context: Any = None
    ) -> Tensor:
        """Summed loss of the next token, for training: the logits of all positions never exist.

        Args:
            input_ids: ``(B, L)``.
            targets: ``(B, L)`` integers, the token after each position.
            ignored: ids that are never a target, at least one.
            context: None. Sequences that are split over processes are refused.

        Returns:
            A scalar in nats, in float32 or better; 0 if every target is ignored.

        Raises:
            InputError: as :meth:`GPTModel.forward`; targets have another shape; or, on the CPU, a target is neither a
                column of the logits nor ignored.
        """
        self.check_arguments({"context": context})
        if targets.shape != input_ids.shape or not ignored:
            raise InputError(
                f"targets {tuple(targets.shape)} must be (B, L), the token after each position, and `ignored` name at "
                "least one id"
            )
        targets = targets.long()
        if has_values(targets):
            check_labels(merge_ignored(targets, (-100, *ignored)), self.config.padded_vocab_size)
        hidden = self.gpt(input_ids, return_dict=True).last_hidden_state
        return next_token_loss_of_states(hidden, self.lm_head, targets.to(hidden.device), ignored=ignored)


class _GPTClassifier(GPTPreTrainedModel):
    """The backbone and a linear head, as those of HyenaDNA have."""

    _new_heads = ("score.",)

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.gpt = GPTModel(config)
        self.score = nn.Linear(config.d_model, config.num_labels or 1)
        self.post_init()


class GPTForSequenceClassification(_GPTClassifier):
    """One prediction for a sequence, with the pooling, the head and the loss of HyenaDNAForSequenceClassification."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Compute the logits ``(B, num_labels)`` of every sequence, and their loss if there are ``labels``.

        Arguments and errors are those of :meth:`GPTModel.forward` and, for ``labels``, of
        ``HyenaDNAForSequenceClassification.forward``. Real positions are pooled: those of the mask, or without one all
        but ``pad_token_id``.
        """
        self.check_arguments(kwargs)
        output = self.gpt(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        real = real_positions(self.config, input_ids, attention_mask, hidden)
        logits = self.score(pool(hidden, real, self.config.pooling))
        loss = None if labels is None else sequence_loss(self, logits, labels, kwargs)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


class GPTForTokenClassification(_GPTClassifier):
    """One prediction for every position: the head and the loss of HyenaDNAForTokenClassification."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Compute the logits ``(B, L, num_labels)`` of every position, and their loss if there are ``labels``.

        Arguments and errors are those of :meth:`GPTModel.forward`. ``labels`` are ``(B, L)`` class indices, and -100
        leaves a position out.
        """
        self.check_arguments(kwargs)
        output = self.gpt(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.score(output.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels, attention_mask, kwargs.get("num_items_in_batch"))
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


AutoConfig.register(GPTConfig.model_type, GPTConfig)
AutoModel.register(GPTConfig, GPTModel)
AutoModelForCausalLM.register(GPTConfig, GPTForCausalLM)
AutoModelForSequenceClassification.register(GPTConfig, GPTForSequenceClassification)
AutoModelForTokenClassification.register(GPTConfig, GPTForTokenClassification)
