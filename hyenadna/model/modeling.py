"""HyenaDNA as transformers classes: backbone and language model. The classifiers are in ``heads.py``."""

# transformers declares its class attributes without ClassVar, and a subclass cannot add it.
# ruff: noqa: RUF012

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from hyena_kernels import SegmentPlan, cache_filters
from hyena_kernels.distributed import ContextShards
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import SEP_ID
from hyenadna.model import checkpoint, context as split, decoding, packing, padding
from hyenadna.model.arguments import check_arguments
from hyenadna.model.cache import NAME, HyenaCache, HyenaDNACausalLMOutput, chosen, refusal
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.kmers import KmerTokenizer
from hyenadna.model.layers import HyenaDNABackbone
from hyenadna.model.loss import merge_ignored, next_token_loss_of_states
from hyenadna.model.pretrained import HyenaDNAPreTrainedModel, check_labels, has_values
from hyenadna.model.tokenizer import DNATokenizer, HyenaDNATokenizer

logger = logging.getLogger(__name__)

# What transformers' generate keeps for models with a cache.
_OF_GENERATION = {
    "cache", "cache_position", "is_first_iteration", "labels", "next_sequence_length", "past_key_values",
    "position_ids", "use_cache",
}  # fmt: skip


class HyenaDNAModel(HyenaDNAPreTrainedModel):
    """The backbone without a head: token ids to hidden states.

    Example:
        >>> import torch
        >>> from hyenadna import HyenaDNAConfig, HyenaDNAModel
        >>> model = HyenaDNAModel(HyenaDNAConfig.named("tiny-1k"))
        >>> model(torch.tensor([[7, 8, 9, 10]])).last_hidden_state.shape
        torch.Size([1, 4, 128])
    """

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^score\."]

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.backbone = HyenaDNABackbone(config)
        # The sines of one filter are one module. Saving keeps its first name, as the published files do.
        first = "backbone.layers.{}.mixer.filter_fn.implicit_filter.{}.freq"
        self._tied_weights_keys = {
            first.format(layer, sine): first.format(layer, 1)
            for layer in range(config.n_layer if config.train_freq else 0)
            for sine in range(3, 2 * config.num_inner_mlps + 2, 2)
        }
        self.register_load_state_dict_pre_hook(_repeat_tied)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of the tokens."""
        return self.backbone.embeddings.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the embedding of the tokens."""
        self.backbone.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        position_ids: Tensor | None = None,
        cache: HyenaCache | None = None,
        past_key_values: HyenaCache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        context: ContextShards | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Compute the hidden states of every position.

        Args:
            input_ids: ``(B, L)``, integers from 0 to 15, L ≤ max_seq_len. Ids 12 to 15 are rows that pad the
                embedding, not tokens. On a GPU an id out of range is no InputError: see ``hyena_kernels.embedding``.
            attention_mask: ``(B, L)`` of any dtype, 1 at real positions and 0 at pads. The model is causal, so pads on
                the right need no mask. A row with pads on the left gives the states of the same row without them; the
                original lets them change the result. Pads between real positions are refused. With
                ``inputs_embeds`` they may follow a soft prompt, as peft puts it in front of left-padded rows. Without a
                mask every position is real, [PAD] too: it also stands for N. A bidirectional model is other: pads on
                either side count as zeros in it, and without a mask the [PAD] ids at both ends of a row are pads.
            inputs_embeds: ``(B, L, D)`` in place of ``input_ids``.
            output_hidden_states: return all states.
            position_ids: not needed. They may count the columns, or the real positions of each row, from 0. In a single
                row they may restart at 0 where a packed sequence begins.
            cache: a :class:`HyenaCache`. An empty one is filled with the prompts that are given. With a filled one,
                give the new tokens alone; a mask may cover all positions so far or the new ones. Then there are no
                gradients, and L may be above max_seq_len as long as the real positions of a row are not.
            past_key_values: another name of ``cache``.
            use_cache: False is the same as no cache. True needs a ``cache``: this method makes none.
            cu_seqlens: where the sequences of a packed row ``(1, T)`` begin, and T at the end: integers ``(S+1,)``
                on any device, or a :class:`hyena_kernels.SegmentPlan`. Sequences do not see each other. Each is at most
                max_seq_len long, and T may be larger. A compiled model takes a plan.
            context: a :class:`hyena_kernels.distributed.ContextShards`: the sequences are split over processes, and
                the input holds the L positions of this one. Every process of the group has to call the model, with as
                many rows. All positions together are at most max_seq_len. Pads on the right need no mask. Without it, a
                block of ``sequence_shards`` counts for a model of ``context_parallel``.
            kwargs: ``return_dict``; ``cu_seq_lens_q``, ``cu_seq_lens_k``, ``max_length_q``, ``max_length_k`` and
                ``seq_idx (1, T)``, which say the same as ``cu_seqlens`` and must agree. What else transformers, its
                Trainer and peft may pass is refused, unless it changes nothing, as None does.

        Returns:
            ``last_hidden_state (B, L, D)`` after the final LayerNorm. If requested, also ``hidden_states``, a tuple of
            n_layer + 1 tensors ``(B, L, D)``: the embedding, the residual after each block but the last, and
            ``last_hidden_state``. States at pads are those of pads behind the row's real positions, on either side.
            With a cache they mean nothing, and the result has the ``cache``. With a ``context`` all are those of the
            positions of this process.

        Raises:
            InputError: the model cannot take these shapes, dtypes or ids, or a sequence exceeds max_seq_len; the mask
                has another shape, other values, or pads inside a row; a packed batch has several rows, pads, borders
                that do not fit, or a cache; or there is an argument that the model cannot honour: keys and values,
                attention weights. With a cache: the rows are not as many as its own, its horizon is used up, or the
                model has parts that it cannot honour, such as hooks on a block. With a ``context``: the input has
                another length than it says, or there are pads in a mask, positions, a packed row or a cache.
            TypeError: there is an argument that no model here knows.
        """
        check_arguments(self, kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        packed = {**kwargs, "cu_seqlens": cu_seqlens}
        if self.config.bidirectional:
            _refuse_in_bidirectional(cache=cache, past_key_values=past_key_values, use_cache=use_cache or None)
        given = inputs_embeds if input_ids is None else input_ids
        shards = split.shards_of_call(
            context,
            self.backbone.layers,
            given,
            self.config.longest_input,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **packed,
        )
        state = chosen(cache, past_key_values, use_cache)
        if state is not None:
            packing.refuse_packed(packed)
            shape, device = self._check_input(input_ids, inputs_embeds, any_length=True)
            inputs = input_ids, inputs_embeds, attention_mask, position_ids
            return decoding.run(self.backbone, state, *inputs, bool(output_hidden_states))
        segments = packing.find_segments(packed, position_ids, attention_mask, given, self.config.longest_input)
        # The shards were compared with the longest input, and with this one.
        any_length = segments is not None or shards is not None
        shape, device = self._check_input(input_ids, inputs_embeds, any_length=any_length)
        extra: dict[str, Any] = {} if shards is None else {"shards": shards}
        if segments is not None:
            if self.config.bidirectional:
                _refuse_in_bidirectional(cu_seqlens=segments)
            return self.backbone(input_ids, inputs_embeds, bool(output_hidden_states), segments, **extra)
        if self.config.bidirectional and attention_mask is None and input_ids is not None:
            attention_mask = padding.between_pads(input_ids, self.config.pad_token_id)
        rows = padding.row_order(attention_mask, shape, device, soft_prompt=inputs_embeds is not None)
        if self.config.bidirectional and attention_mask is not None:
            real = padding.real_positions(attention_mask, shape, device)
            if not padding.known(real):
                extra["real"] = real if rows is None else rows.to_front(real)
        if rows is None:
            return self.backbone(input_ids, inputs_embeds, bool(output_hidden_states), **extra)
        output = self.backbone(
            None if input_ids is None else rows.to_front(input_ids),
            None if inputs_embeds is None else rows.to_front(inputs_embeds),
            bool(output_hidden_states),
            **extra,
        )
        last = rows.back(output.last_hidden_state)
        states = output.hidden_states and (*(rows.back(state) for state in output.hidden_states[:-1]), last)
        return BaseModelOutput(last_hidden_state=last, hidden_states=states)


class HyenaDNAForCausalLM(HyenaDNAPreTrainedModel, GenerationMixin):
    """Next-nucleotide language model. Its configuration must not be bidirectional (InputError).

    Example:
        >>> import torch
        >>> from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
        >>> model = HyenaDNAForCausalLM(HyenaDNAConfig.named("tiny-1k"))
        >>> ids = torch.tensor([[7, 8, 9, 10]])
        >>> model(ids, labels=ids).logits.shape
        torch.Size([1, 4, 16])
    """

    _tied_weights_keys = {"lm_head.weight": checkpoint.EMBEDDING_KEY}
    # transformers asks this before assisted generation, which takes tokens back out of a cache.
    _is_stateful = True

    def __init__(self, config: HyenaDNAConfig) -> None:
        config.require_causal()
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        # The configuration's own field has never meant anything.
        self.generation_config.use_cache = True
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        position_ids: Tensor | None = None,
        cache: HyenaCache | None = None,
        past_key_values: HyenaCache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        context: ContextShards | None = None,
        **kwargs: Any,
    ) -> HyenaDNACausalLMOutput:
        """Compute the logits of the next token at every position, and their loss.

        Args:
            input_ids: as in :meth:`HyenaDNAModel.forward`.
            attention_mask: as in :meth:`HyenaDNAModel.forward`.
            inputs_embeds: as in :meth:`HyenaDNAModel.forward`.
            output_hidden_states: as in :meth:`HyenaDNAModel.forward`.
            labels: ``(B, L)``, the same ids as ``input_ids``; this method shifts them by one. -100 leaves a position
                out of the loss. With or without a mask, pads count unless they are -100, as in transformers' causal
                models. A row with pads on the left has the loss of the same row with its pads on the right, so its
                first real token is never a target. On a GPU a label out of range is a device-side assert. In a packed
                row the first token of a sequence is never a target, whatever its label.
            logits_to_keep: number of last positions that get logits, or their indices in a 1-D tensor; 0 is all. A
                packed row takes indices only, such as ``cu_seqlens[1:] - 1``.
            position_ids: as in :meth:`HyenaDNAModel.forward`.
            cache: as in :meth:`HyenaDNAModel.forward`; not with labels.
            past_key_values: another name of ``cache``.
            use_cache: as in :meth:`HyenaDNAModel.forward`.
            cu_seqlens: as in :meth:`HyenaDNAModel.forward`.
            context: as in :meth:`HyenaDNAModel.forward`. The loss is that of the positions of this process: give
                ``shift_labels`` and the ``num_items_in_batch`` of all processes, and the losses of all add up to that
                of the whole.
            kwargs: ``return_dict``; ``num_items_in_batch``, a divisor of the summed loss in place of its mean, for
                transformers' Trainer; ``shift_labels (B, L)``, the target of each position, in place of ``labels``.
                In a packed row the last position of a sequence has none if another sequence follows. Others as in
                :meth:`HyenaDNAModel.forward`.

        Returns:
            ``logits (B, L, 16)`` for 12 tokens and 4 rows of padding; ``loss``, a scalar in float32 or better, if there
            are ``labels``; ``hidden_states`` if requested; the ``cache``, if there is one, also as
            ``past_key_values``.

        Raises:
            InputError: as in :meth:`HyenaDNAModel.forward`; ``logits_to_keep`` is negative or comes with labels; labels
                come with a cache, have another shape; or, on the CPU, a label is neither an id from 0 to 15 nor -100.
            TypeError: there is an argument that no model here knows.
        """
        check_arguments(self, kwargs, "shift_labels")
        shift_labels = kwargs.get("shift_labels")
        has_loss = labels is not None or shift_labels is not None
        given = inputs_embeds if input_ids is None else input_ids
        packed = {**kwargs, "cu_seqlens": cu_seqlens}
        shards = split.shards_of_call(
            context,
            self.hyena.backbone.layers,
            given,
            self.config.longest_input,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **packed,
        )
        split.check_loss(shards, labels, None, shifts=True)
        split.check_loss(shards, shift_labels, kwargs.get("num_items_in_batch"), shifts=False)
        state = chosen(cache, past_key_values, use_cache)
        if has_loss and state is not None:
            raise InputError("labels have no use for a cache, which has no gradients: leave out one of them")
        segments = None
        if state is None:
            segments = packing.find_segments(packed, position_ids, attention_mask, given, self.config.longest_input)
        else:
            packing.refuse_packed(packed)
        rows = None
        if has_loss and given is not None and segments is None:
            # Before the model: on a GPU this waits for queued work.
            soft_prompt = inputs_embeds is not None
            rows = padding.row_order(attention_mask, given.shape[:2], given.device, soft_prompt=soft_prompt)
        output = self.hyena(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            position_ids=position_ids,
            cache=state,
            cu_seqlens=segments,
            context=shards,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            if isinstance(logits_to_keep, int) and logits_to_keep < 0:
                raise InputError(f"logits_to_keep {logits_to_keep}: must be at least 0, the number of last positions")
            if has_loss:
                raise InputError("labels need the logits of all positions: leave out logits_to_keep")
            if shards is not None and shards.size > 1 and isinstance(logits_to_keep, int):
                raise InputError(
                    f"logits_to_keep {logits_to_keep}: the last positions may be those of other processes; give "
                    "indices of positions of this one"
                )
            if segments is not None and isinstance(logits_to_keep, int):
                raise InputError(
                    f"logits_to_keep {logits_to_keep}: a packed row has no last positions; give indices, such as "
                    "cu_seqlens[1:] - 1 for the last of each sequence"
                )
            hidden = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        logits = self.lm_head(hidden)
        loss = None
        if has_loss:
            items = kwargs.get("num_items_in_batch")
            loss = self._next_token_loss(logits, labels, shift_labels, rows, segments, items)
        return HyenaDNACausalLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states, cache=state)

    def next_token_loss(
        self,
        input_ids: Tensor | None = None,
        targets: Tensor | None = None,
        *,
        ignored: tuple[int, ...] = (-100,),
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        context: ContextShards | None = None,
    ) -> Tensor:
        """Summed loss of the next token, for training: the logits of all positions never exist.

        A head that is not a plain linear layer, such as one with LoRA or hooks, is called and makes all logits.
        Wrappers of the model that act in ``forward``, such as DistributedDataParallel and peft's prompts, have no part
        in this method: with them call the model with ``labels``.

        Args:
            input_ids: as in :meth:`HyenaDNAModel.forward`.
            targets: ``(B, L)`` integers, the token after each position: ``ids[:, 1:]`` for the inputs ``ids[:, :-1]``.
                They are taken as they are. So in a packed row cut each sequence into inputs and targets before.
            ignored: ids that are never a target, at least one; any integers. Targets at pads should be among them.
            attention_mask: as in :meth:`HyenaDNAModel.forward`. It does not leave out targets.
            inputs_embeds: as in :meth:`HyenaDNAModel.forward`.
            position_ids: as in :meth:`HyenaDNAModel.forward`.
            cu_seqlens: as in :meth:`HyenaDNAModel.forward`, of the inputs.
            context: as in :meth:`HyenaDNAModel.forward`. The target of the last position here is the first token of
                the next process.

        Returns:
            A scalar in nats, in float32 or better; 0 if every target is ignored. Divide it by the number of targets
            that count for the mean. With a ``context`` it is the sum over the positions of this process. The gradients
            of all processes, too, add up to those of the whole.

        Raises:
            InputError: as in :meth:`HyenaDNAModel.forward`; there are no targets, or of another shape; nothing is
                ignored; or, on the CPU, a target is neither an id from 0 to 15 nor ignored.

        Example:
            >>> import torch
            >>> from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM
            >>> model = HyenaDNAForCausalLM(HyenaDNAConfig.named("tiny-1k"))
            >>> ids = torch.tensor([[7, 8, 9, 10]])
            >>> loss = model.next_token_loss(ids[:, :-1], ids[:, 1:]) / 3
        """
        given = inputs_embeds if input_ids is None else input_ids
        if targets is None or (given is not None and targets.shape != given.shape[:2]):
            found = "missing" if targets is None else tuple(targets.shape)
            raise InputError(f"targets {found}: must be (B, L), the token after each position of the input")
        if not ignored:
            raise InputError("ignored () must name at least one id that is never a target, such as -100")
        targets = targets.long()
        if has_values(targets):
            check_labels(merge_ignored(targets, (-100, *ignored)), self.config.padded_vocab_size)
        hidden = self.hyena(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            cu_seqlens=cu_seqlens,
            context=context,
            return_dict=True,
        ).last_hidden_state
        return next_token_loss_of_states(hidden, self.lm_head, targets.to(hidden.device), ignored=ignored)

    @staticmethod
    def _next_token_loss(
        logits: Tensor,
        labels: Tensor | None,
        shift_labels: Tensor | None,
        rows: padding.RowOrder | None,
        segments: SegmentPlan | None,
        num_items_in_batch: Any,
    ) -> Tensor:
        targets = labels if shift_labels is None else shift_labels
        assert targets is not None
        if targets.shape != logits.shape[:2]:
            name, shape = "labels" if shift_labels is None else "shift_labels", tuple(logits.shape[:2])
            raise InputError(f"{name} {tuple(targets.shape)} must have the shape of input_ids {shape}")
        check_labels(targets, logits.shape[2])
        if shift_labels is None:
            if rows is not None:
                logits, targets = rows.to_front(logits), rows.to_front(targets)
            logits, targets = logits[:, :-1], targets[:, 1:]
        if segments is not None:
            targets = packing.without_first_tokens(targets, segments)
        # transformers' causal loss would cast the logits of a float64 model to float32.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return fixed_cross_entropy(
            wide.flatten(0, 1), targets.to(wide.device, torch.long).flatten(), num_items_in_batch
        )

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Continue prompts, as transformers' ``generate`` does.

        A prompt may have pads on either side. They are moved to the left, so that each row ends in the last column; the
        width stays. A ``[SEP]`` at the end of a prompt is taken out: it closes the sequence that a tokenizer made, and
        bases are to follow. Where one is taken out, a log line says so once.

        Args:
            inputs: ids ``(B, L)``, also as ``input_ids``. Or give ``inputs_embeds (B, L, D)``, which are taken as they
                are; ids beside them are those that the result begins with.
            args: as in transformers.
            kwargs: as in transformers. ``attention_mask (B, L)`` is 1 at real positions and 0 at pads; without it the
                [PAD] ids at both ends of a row are pads. ``use_cache=False`` computes the whole sequence at every
                step; the result is the same up to rounding. A ``cache``, or ``past_key_values``, is a
                :class:`HyenaCache`: an empty one, or one of an earlier call and the whole sequence so far.

        Returns:
            ids ``(B, L + new)``, or what else ``return_dict_in_generate`` asks for.

        Raises:
            InputError: a prompt is empty; the mask, the positions or the cache are ones that
                :meth:`HyenaDNAModel.forward` refuses; contrastive search is asked for.
            ValueError: an argument is unknown, or asks for assisted generation.
        """
        settings = kwargs.get("generation_config") or (args[0] if args else None) or self.generation_config
        if kwargs.get("penalty_alpha", settings.penalty_alpha):
            raise InputError("penalty_alpha: contrastive search is not supported: it reads several continuations back")
        split.refuse(kwargs.pop("context", None), self.hyena.backbone.layers, "generate")
        ids = kwargs.get("input_ids") if inputs is None else inputs
        embedded, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        prompt = ids if embedded is None else embedded
        packing.refuse_packed(kwargs)
        if isinstance(prompt, Tensor) and prompt.dim() >= 2:
            # Without those of the caller, transformers counts the columns that this method has moved.
            padding.check_positions(kwargs.pop("position_ids", None), mask, prompt.shape[:2], prompt.device)
        if embedded is not None and ids is not None:
            kwargs["prompt_length"] = ids.shape[1]
        elif isinstance(ids, Tensor) and ids.dim() == 2 and ids.numel():
            tokens = {"pad": self.config.pad_token_id, "closing": SEP_ID}
            moved, mask, closed = padding.left_padded(ids, mask, **tokens)
            kwargs["attention_mask"] = mask
            kwargs["input_ids"], inputs = moved, None
            if closed:
                _say_once(
                    "generate: the [SEP] that the tokenizer put at the end of a prompt is left out, so that bases "
                    "follow bases; tokenize prompts with add_special_tokens=False to give them without it"
                )
        self._take_cache(kwargs, ids, kwargs.get("use_cache", settings.use_cache))
        with cache_filters(self):
            return super().generate(inputs, *args, **kwargs)

    @staticmethod
    def _take_cache(kwargs: dict[str, Any], ids: Tensor | None, use_cache: bool | None) -> None:
        """Put a cache among the arguments of ``generate`` under the name that transformers reads."""
        given = kwargs.pop("cache", None), kwargs.pop("past_key_values", None)
        state = chosen(*given, use_cache if given != (None, None) else None)
        if use_cache is False and kwargs.get("inputs_embeds") is not None:
            # transformers turns the cache on for them, whatever it is asked for.
            kwargs["recompute"] = True
        if state is None:
            return
        kwargs[NAME] = state
        seen = state.get_seq_length()
        if seen and (kwargs.get("inputs_embeds") is not None or ids is None or ids.shape[1] <= seen):
            raise InputError(
                f"HyenaCache: it has seen {seen} positions; to go on, give input_ids with all of them and the new ones"
            )

    # The base class looks different to mypy with other optional packages of transformers installed.
    def prepare_inputs_for_generation(  # type: ignore[override, unused-ignore]
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_length: int = 0,
        recompute: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give the model the prompt, and then the newest token. Without a cache it gets the whole sequence every time.

        Args:
            input_ids: ``(B, L)``, those generated so far and, if the prompt is ids, the prompt.
            inputs_embeds: ``(B, P, D)``, the prompt.
            attention_mask: ``(B, L)``, or ``(B, P + generated)``.
            prompt_length: ids of the prompt in ``input_ids`` that ``inputs_embeds`` stand for.
            recompute: whether there is no cache because the caller wants none.
            kwargs: arguments of ``forward``, and of transformers' ``generate`` about positions and caches.
        """
        # Positions were checked at the start, and the model needs none.
        kept = {key: value for key, value in kwargs.items() if key not in _OF_GENERATION}
        state = kwargs.get("cache", kwargs.get("past_key_values"))
        if state is not None:
            # peft puts its soft prompts in front of the first call alone. It looks for the cache under this name.
            kept["past_key_values"] = state
            state.take_prompt(input_ids.shape[1])
            before = 0 if inputs_embeds is None else inputs_embeds.shape[1] - prompt_length
            if state.is_initialized:
                new = max(before + input_ids.shape[1] - state.get_seq_length(), 1)
                return {"input_ids": input_ids[:, -new:], **kept}
        if inputs_embeds is not None:
            generated = self.get_input_embeddings()(input_ids[:, prompt_length:])
            embedded = torch.cat((inputs_embeds, generated.to(inputs_embeds.dtype)), dim=1)
            return {"inputs_embeds": embedded, "attention_mask": attention_mask, **kept}
        if attention_mask is not None and not kwargs.get("output_hidden_states") and state is None:
            # Columns of nothing but pads, such as the place of each row's [SEP].
            first = int(attention_mask.any(dim=0).to(torch.uint8).argmax())
            input_ids, attention_mask = input_ids[:, first:], attention_mask[:, first:]
        return {"input_ids": input_ids, "attention_mask": attention_mask, **kept}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    # The arguments after the second differ between versions of transformers.
    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Add a :class:`HyenaCache` to the arguments of the model, unless there is one or none is wanted."""
        # They were checked, and transformers would lengthen them at every step.
        model_kwargs.pop("position_ids", None)
        if generation_config.cache_implementation is not None:
            _say_once(f"generate: cache_implementation {generation_config.cache_implementation!r} is left out")
        if generation_config.prefill_chunk_size is not None:
            raise InputError("prefill_chunk_size: a cache takes the prompt at once; leave it out")
        wanted = generation_config.use_cache is not False and not model_kwargs.get("recompute")
        # A model that assists another one has to take tokens back.
        if not wanted or model_kwargs.get(NAME) is not None or generation_config.is_assistant:
            return
        if reason := refusal(self.hyena.backbone):
            _say_once(f"generate: every step computes the whole sequence, because a cache is not possible: {reason}")
            return
        model_kwargs[NAME] = HyenaCache.for_generate(self, generation_config.max_length)
        if generation_config.guidance_scale not in (None, 1):
            # What transformers keeps for the sequence without the prompt would be keys and values.
            generation_config.use_cache = False

    def _for_files(self, state_dict: dict[str, Any] | None) -> dict[str, Any] | None:
        """As the base class, and with a tied ``lm_head.weight`` too, as in the published files."""
        # With an adapter in the model, its weights alone are written.
        if not self.config.tie_word_embeddings or getattr(self, "_hf_peft_config_loaded", False):
            return state_dict
        weights = dict(state_dict or self.state_dict())
        weights[checkpoint.HEAD_KEY] = weights[checkpoint.EMBEDDING_KEY].clone()
        return weights


def _repeat_tied(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give every sine of a filter its frequencies, which files hold once. ``load_state_dict`` would miss the others."""
    for key, first in model._tied_weights_keys.items():  # type: ignore[union-attr, operator]
        if prefix + first in state_dict:
            state_dict.setdefault(prefix + key, state_dict[prefix + first])


def _refuse_in_bidirectional(**given: Any) -> None:
    """Raise InputError if a call asks for what only a causal model has."""
    for name, value in given.items():
        if value is not None:
            reason = (
                "takes no packed rows: give each sequence its own row, padded (`pack_tokens` 0)"
                if name == "cu_seqlens"
                else "has no cache: a new token changes the states of all others"
            )
            raise InputError(f"{name}: the model is bidirectional, and {reason}")


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


AutoConfig.register(HyenaDNAConfig.model_type, HyenaDNAConfig)
AutoModel.register(HyenaDNAConfig, HyenaDNAModel)
AutoModelForCausalLM.register(HyenaDNAConfig, HyenaDNAForCausalLM)
# The Trainer looks this name up to shift the labels of a smoothed loss, and pipelines to know their task.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[HyenaDNAConfig.model_type] = HyenaDNAForCausalLM.__name__
AutoTokenizer.register(HyenaDNAConfig, slow_tokenizer_class=KmerTokenizer, exist_ok=True)
# Published tokenizer folders name the first class, folders saved by this package the second.
AutoTokenizer.register(HyenaDNAConfig, slow_tokenizer_class=HyenaDNATokenizer, exist_ok=True)
AutoTokenizer.register(HyenaDNAConfig, slow_tokenizer_class=DNATokenizer, exist_ok=True)
