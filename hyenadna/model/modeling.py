"""HyenaDNA as transformers classes: backbone and language model. The classifiers are in ``heads.py``.

The modules have the names of the published ``-hf`` checkpoints. The residual stream is float32 for weights of 16 or 32
bits, and float64 in a float64 model.
"""

# transformers declares its class attributes without ClassVar, and a subclass cannot add it.
# ruff: noqa: RUF012

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, initialization as init
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from hyena_kernels import HyenaFilter, HyenaOperator, cache_filters
from hyenadna.common.errors import InputError, WeightsError
from hyenadna.common.files import atomic_dir
from hyenadna.common.vocab import SEP_ID
from hyenadna.model import adapters, checkpoint, locate, padding
from hyenadna.model.arguments import check_arguments
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.tokenizer import DNATokenizer, HyenaDNATokenizer

logger = logging.getLogger(__name__)

# What transformers' generate keeps for models with a cache.
_OF_GENERATION = {
    "cache", "cache_position", "is_first_iteration", "labels", "next_sequence_length", "past_key_values",
    "position_ids", "use_cache",
}  # fmt: skip

# Positions that the MLP takes at a time without gradients. Its hidden layer is four times as wide as the model: 4 GB
# for 1,000,000 positions of width 256.
_MLP_POSITIONS = 1 << 15

# Positions that it takes at a time on a CPU with gradients: a few MB of hidden layer. Backward recomputes them, which
# is cheaper than allocating fresh pages.
_MLP_POSITIONS_CPU = 1 << 11


# Settings of generation that are numbers above 0.
_POSITIVE = ("temperature", "top_p", "num_beams", "max_length", "max_new_tokens", "repetition_penalty")


class HyenaDNALayerNorm(nn.LayerNorm):
    """LayerNorm of the residual, which may have a wider dtype than the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (…, D)`` in its own dtype, and return it in the weights' dtype."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class HyenaDNAEmbeddings(nn.Module):
    """Embedding of the tokens. Positions have none."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.d_model)

    def forward(self, input_ids: Tensor) -> Tensor:
        """``input_ids (B, L)`` to ``(B, L, D)``."""
        # Any integer dtype is allowed, such as the uint8 of a tokenised genome. nn.Embedding takes only two.
        return self.word_embeddings(input_ids.long())


class HyenaDNAMLP(nn.Module):
    """Two Linear layers with a tanh GELU between them."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_inner)
        self.fc2 = nn.Linear(config.d_inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """``x (…, D)`` to ``(…, D)``, through ``(…, d_inner)``."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _exporting() -> bool:
    """Whether ``torch.export`` records this call. Torch before 2.7 tells only whether anything does."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(exporting())


class HyenaDNABlock(GradientCheckpointingLayer):
    """Hyena operator and MLP, each behind a LayerNorm and added to the residual."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.norm1 = HyenaDNALayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mixer = HyenaOperator(
            config.d_model,
            config.max_seq_len,
            order=config.hyena_order,
            filter_order=config.filter_order,
            dropout=config.hyena_dropout,
            filter_dropout=config.hyena_filter_dropout,
            short_filter_order=config.short_filter_order,
            emb_dim=config.emb_dim,
            num_inner_mlps=config.num_inner_mlps,
            w=config.activation_freq,
            train_freq=config.train_freq,
            bias=config.use_bias,
            shift=config.modulation_shift,
            lr=None,
            lr_pos_emb=0.0,
        )
        self.norm2 = HyenaDNALayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = HyenaDNAMLP(config)
        # For _init_weights, which sees one module at a time.
        self.mixer.out_proj.adds_to_residual = True  # type: ignore[assignment]
        self.mlp.fc2.adds_to_residual = True  # type: ignore[assignment]

    def forward(self, residual: Tensor) -> Tensor:
        """``residual (B, L, D)`` to the same shape and dtype: ``x += mixer(norm1(x)); x += mlp(norm2(x))``."""
        residual = residual + self.mixer(self.norm1(residual))
        # What is exported without gradients may be called with them, and then nothing may be written to in place.
        if not torch.is_grad_enabled() and not self._mlp_has_hooks() and not _exporting():
            for rows in residual.view(-1, residual.shape[-1]).split(_MLP_POSITIONS):
                rows += self.mlp(self.norm2(rows))
            return residual
        if not self._recomputes(residual):
            return self._add_mlp(residual)
        slices = residual.view(-1, residual.shape[-1]).split(_MLP_POSITIONS_CPU)
        return torch.cat([recomputed(self._add_mlp, rows, use_reentrant=False) for rows in slices]).view_as(residual)

    def _add_mlp(self, residual: Tensor) -> Tensor:
        return residual + self.mlp(self.norm2(residual))

    def _recomputes(self, residual: Tensor) -> bool:
        """Whether the MLP is computed in slices, and recomputed in backward."""
        if residual.device.type != "cpu" or residual.numel() <= _MLP_POSITIONS_CPU * residual.shape[-1]:
            return False
        # No slices under torch.compile and torch.func, or with module hooks: they expect one call for all positions.
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return not self._mlp_has_hooks()

    def _mlp_has_hooks(self) -> bool:
        """Whether some code listens to the MLP. Such code, as that of peft for mixed adapters, expects (B, L, D)."""
        modules = (self.norm2, *self.mlp.modules())
        return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


class HyenaDNABackbone(nn.Module):
    """Embedding, blocks, final LayerNorm."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.embeddings = HyenaDNAEmbeddings(config)
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.layers = nn.ModuleList(HyenaDNABlock(config) for _ in range(config.n_layer))
        self.ln_f = HyenaDNALayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, output_hidden_states: bool
    ) -> BaseModelOutput:
        """As :meth:`HyenaDNAModel.forward`, for inputs that it has checked."""
        # Embedded here because a reference in the caller would keep 1 GB alive at 1,000,000 positions.
        residual = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        residual = self.embed_dropout(residual).to(torch.promote_types(residual.dtype, torch.float32)).contiguous()
        states = [residual] if output_hidden_states else []
        for layer in self.layers:
            residual = layer(residual)
            if output_hidden_states:
                states.append(residual)
        last = self.ln_f(residual)
        return BaseModelOutput(
            last_hidden_state=last, hidden_states=(*states[:-1], last) if output_hidden_states else None
        )


class HyenaDNAPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving, common to all HyenaDNA models."""

    config_class = HyenaDNAConfig
    config: HyenaDNAConfig
    base_model_prefix = "hyena"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HyenaDNABlock"]
    # 16 bits are too few for sines of frequency 10 and more over up to 1,000,000 positions.
    _keep_in_fp32_modules_strict = ["filter_fn"]
    _keys_to_ignore_on_load_missing = [r"filter_fn\.pos_emb\.[zt]$", r"filter_fn\.modulation\.deltas$"]
    # Heads that a checkpoint may lack. They get new weights.
    _new_heads: tuple[str, ...] = ()

    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        # The first releases of transformers 5 have only its older name.
        activation_checkpointing_enable = PreTrainedModel.gradient_checkpointing_enable  # type: ignore[assignment]

    @property
    def embeddings(self) -> HyenaDNAEmbeddings:
        """The backbone's embeddings under the name that peft looks for. Otherwise it searches for vocab_size rows."""
        backbone: HyenaDNABackbone = self.base_model.backbone  # type: ignore[assignment]
        return backbone.embeddings

    def _init_weights(self, module: Any) -> None:
        """Initialise weights as the original does. transformers calls this for weights that were not loaded.

        Every Linear and the embedding get N(0, initializer_range) and zero bias. Layers that write into the residual
        are smaller by √(2 n_layer). The short convolution gets PyTorch's default, the skip N(0, 1), and the frequencies
        ``activation_freq``.
        """
        if isinstance(module, nn.Conv1d):
            module.reset_parameters()
            return
        super()._init_weights(module)
        if getattr(module, "adds_to_residual", False):
            std = self.config.initializer_range / math.sqrt(2 * self.config.n_layer)
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, HyenaFilter):
            init.normal_(module.bias)
        elif hasattr(module, "reset_buffers"):
            # from_pretrained makes modules on the meta device, so buffers that the checkpoint lacks are still empty.
            module.reset_buffers()
        elif hasattr(module, "freq"):
            init.constant_(module.freq, self.config.activation_freq)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As the base class. The sines of one filter share their frequency, whatever ``tie_word_embeddings`` says."""
        super().tie_weights(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, HyenaFilter):
                module.implicit_filter.share_freq()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint of either published format, or one from the Hugging Face Hub.

        Args:
            pretrained_model_name_or_path: a folder with ``config.json`` and ``model.safetensors``, whole or in shards
                (``-hf``), or ``weights.ckpt`` (original); one of these weights files, with ``config.json`` beside it;
                an adapter of peft, which is applied to the checkpoint that it names; or the name of a repository on
                the Hub.
            model_args: as in transformers.
            kwargs: fields of ``HyenaDNAConfig`` to override, such as ``modulation_shift=0.0``, and the arguments of
                ``transformers.PreTrainedModel.from_pretrained``, such as ``dtype``, ``device_map`` and ``variant``.

        Returns:
            The model in ``eval()`` mode.

        Raises:
            InputError: there is no checkpoint; keys are missing, left over or of another shape (they are listed, and
                the error is a ``RuntimeError`` too); a file is damaged or would run code; the adapter does not fit;
                or ``max_seq_len`` is overridden, by name or in a ``config``.
            ImportError: an adapter is to be loaded, and peft is not installed.
        """
        path = pretrained_model_name_or_path
        if path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(path, *model_args, **kwargs)
        if kwargs.get("gguf_file") is not None:
            raise InputError(f"{path}: gguf_file cannot be read; convert it to safetensors")
        base, adapter = adapters.split(path, kwargs)
        wanted = {key: kwargs.pop(key) for key in ("variant", "use_safetensors", "subfolder") if key in kwargs}
        source = locate.find(base, **wanted)
        if source is None:
            hub = {key: kwargs.pop(key) for key in checkpoint.HUB_ARGUMENTS if key in kwargs}
            source = checkpoint.download(str(base), **wanted, **hub)
        config, kwargs = _read_config(source, kwargs)
        with_info = kwargs.pop("output_loading_info", False)
        allow_mismatch = kwargs.pop("ignore_mismatched_sizes", False)
        weights = checkpoint.load_weights(source)
        if cls.can_generate() and any(key.startswith("score.") for key in weights):
            raise InputError(f"{base}: is fine-tuned and has no language head; use the model that it was tuned from")
        weights = _as_loaded(weights, config)
        if any(
            ".filter_fn." in key and tensor.is_floating_point() and tensor.itemsize < 4
            for key, tensor in weights.items()
        ):
            logger.warning(
                "%s: holds filters in 16 bits, which distort them; save weights in float32", source.weights_file
            )
        if mismatched := cls._mismatched(source, weights, config):
            allowed = {key for key, *_ in mismatched if allow_mismatch}
            _check_loaded(source, weights, set(), set(), [row for row in mismatched if row[0] not in allowed])
        with _without_load_report():
            loaded: Any = super().from_pretrained(
                None,
                *model_args,
                config=config,
                state_dict=weights,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        model, info = loaded
        new = {key for key in info["missing_keys"] if key.startswith(cls._new_heads)}
        _check_loaded(source, weights, set(info["missing_keys"]) - new, info["unexpected_keys"], ())
        model.config.name_or_path = model.name_or_path = str(base)
        if model.can_generate():
            model.generation_config = _generation_config(source, model)
        if adapter:
            with _without_load_report():
                info = adapters.apply(model, adapter)
            # A head that the adapter brings has another name now.
            new &= {name for name, _ in model.named_parameters()}
        if new:
            logger.warning("%s: new weights, to be trained before use: %s", path, checkpoint.listed(new))
        return (model, info) if with_info else model

    @classmethod
    def _mismatched(
        cls, source: locate.Source, weights: Mapping[str, Tensor], config: HyenaDNAConfig
    ) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Key, shape in the checkpoint and shape in the model of every weight where the two differ.

        The shapes are compared before the model is made, so that a wrong size asks for no memory.

        Raises:
            WeightsError: the number of layers differs.
        """
        layers = {int(match[1]) for key in weights if (match := re.search(r"\.layers\.(\d+)\.", key))}
        if layers and max(layers) + 1 != config.n_layer:
            raise WeightsError(
                f"{source.config_file}: n_layer is {config.n_layer}, and {source.weights_file.name} holds "
                f"{max(layers) + 1} layers"
            )
        with torch.device("meta"):
            expected = {_bare(key): (key, tuple(tensor.shape)) for key, tensor in cls(config).state_dict().items()}
        shapes = {_bare(key): tuple(tensor.shape) for key, tensor in weights.items()}
        found = [(*expected[bare], shape) for bare, shape in shapes.items() if bare in expected]
        return [(key, shape, wanted) for key, wanted, shape in found if shape != wanted]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write ``config.json`` and ``model.safetensors`` in the layout of the published ``-hf`` folders.

        Each file is whole: all are written beside ``save_directory`` first, and if that fails nothing there changes.
        Then they replace those of the same name one by one, so that a crash in between leaves new files among old
        ones. Weights that were there in other files, such as the shards of an earlier save, are removed; files of
        other kinds stay.

        Raises:
            InputError: the files cannot be written: a full disk, no permission.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed or kwargs.get("push_to_hub"):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        target = Path(save_directory)
        with atomic_dir(target, merge=True) as partial:
            super().save_pretrained(partial, *args, **kwargs)
            written = {file.name for file in partial.iterdir()}
        _remove_old_weights(target, written, kwargs.get("variant"))

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. ``config.padded_vocab_size`` follows, so that the model can be saved and loaded."""
        made = super().resize_token_embeddings(*args, **kwargs)
        if made.weight.shape[0] != self.config.padded_vocab_size:
            self.config.vocab_size = made.weight.shape[0]
            self.config.pad_vocab_size_multiple = 1
        return made

    def _check_input(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[tuple[int, int], torch.device]:
        """Shape ``(B, L)`` and device of the input.

        Raises:
            InputError: not exactly one input is given, or the model cannot take it.
        """
        if input_ids is not None and inputs_embeds is None:
            self._check_ids(input_ids)
            given = input_ids
        elif inputs_embeds is not None and input_ids is None:
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != self.config.d_model:
                width = self.config.d_model
                raise InputError(f"inputs_embeds must be (B, L, {width}), got shape {tuple(inputs_embeds.shape)}")
            given = inputs_embeds
        else:
            raise InputError("give either input_ids or inputs_embeds, and not both")
        batch, length = given.shape[:2]
        longest = self.config.max_seq_len
        if length > longest:
            raise InputError(
                f"a sequence of {length} tokens is longer than this model's max_seq_len of {longest}: cut it into "
                f"windows of at most {longest}, or load a checkpoint made for longer sequences"
            )
        return (batch, length), given.device

    def _check_ids(self, input_ids: Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise InputError(f"input_ids must be (B, L) and not empty, got shape {tuple(input_ids.shape)}")
        if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
            raise InputError(f"input_ids must be integers, got {input_ids.dtype}")
        # On a GPU the embedding's device-side assert reports bad ids.
        if has_values(input_ids):
            least, most = (int(bound) for bound in torch.aminmax(input_ids))
            rows = self.config.padded_vocab_size
            if least < 0 or most >= rows:
                wrong = most if most >= rows else least
                raise InputError(f"input_ids hold the id {wrong}: the embedding has {rows} rows, ids 0 to {rows - 1}")


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
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Compute the hidden states of every position.

        Args:
            input_ids: ``(B, L)``, integers from 0 to 15, L ≤ max_seq_len. Ids 12 to 15 are rows that pad the
                embedding, not tokens. On a GPU an id out of range is a device-side assert in place of an InputError.
            attention_mask: ``(B, L)`` of any dtype, 1 at real positions and 0 at pads. The model is causal, so pads on
                the right need no mask. A row with pads on the left gives the states of the same row without them; the
                original lets them change the result. Pads between real positions are refused. With
                ``inputs_embeds`` they may follow a soft prompt, as peft puts it in front of left-padded rows. Without a
                mask every position is real, [PAD] too: it also stands for N.
            inputs_embeds: ``(B, L, D)`` in place of ``input_ids``.
            output_hidden_states: return all states.
            position_ids: not needed. They may count the columns, or the real positions of each row, from 0.
            kwargs: ``return_dict``. What else transformers, its Trainer and peft may pass is refused, unless it changes
                nothing, as None and ``use_cache=False`` do.

        Returns:
            ``last_hidden_state (B, L, D)`` after the final LayerNorm. If requested, also ``hidden_states``, a tuple of
            n_layer + 1 tensors ``(B, L, D)``: the embedding, the residual after each block but the last, and
            ``last_hidden_state``. States at pads are those of pads behind the row's real positions, on either side.

        Raises:
            InputError: the model cannot take these shapes, dtypes or ids, or a sequence exceeds max_seq_len; the mask
                has another shape, other values, or pads inside a row; positions restart, as in packed batches; or
                there is an argument that the model cannot honour: a cache, attention weights.
            TypeError: there is an argument that no model here knows.
        """
        check_arguments(self, kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        shape, device = self._check_input(input_ids, inputs_embeds)
        padding.check_positions(position_ids, attention_mask, shape, device)
        rows = padding.row_order(attention_mask, shape, device, soft_prompt=inputs_embeds is not None)
        if rows is None:
            return self.backbone(input_ids, inputs_embeds, bool(output_hidden_states))
        output = self.backbone(
            None if input_ids is None else rows.to_front(input_ids),
            None if inputs_embeds is None else rows.to_front(inputs_embeds),
            bool(output_hidden_states),
        )
        last = rows.back(output.last_hidden_state)
        states = output.hidden_states and (*(rows.back(state) for state in output.hidden_states[:-1]), last)
        return BaseModelOutput(last_hidden_state=last, hidden_states=states)


class HyenaDNAForCausalLM(HyenaDNAPreTrainedModel, GenerationMixin):
    """Next-nucleotide language model.

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
        super().__init__(config)
        self.hyena = HyenaDNAModel(config)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
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
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Compute the logits of the next token at every position, and their loss.

        Args:
            input_ids: as in :meth:`HyenaDNAModel.forward`.
            attention_mask: as in :meth:`HyenaDNAModel.forward`.
            inputs_embeds: as in :meth:`HyenaDNAModel.forward`.
            output_hidden_states: as in :meth:`HyenaDNAModel.forward`.
            labels: ``(B, L)``, the same ids as ``input_ids``; this method shifts them by one. -100 leaves a position
                out of the loss. With or without a mask, pads count unless they are -100, as in transformers' causal
                models. A row with pads on the left has the loss of the same row with its pads on the right, so its
                first real token is never a target. On a GPU a label out of range is a device-side assert.
            logits_to_keep: number of last positions that get logits, or their indices in a 1-D tensor; 0 is all.
            position_ids: as in :meth:`HyenaDNAModel.forward`.
            kwargs: ``return_dict``; ``num_items_in_batch``, a divisor of the summed loss in place of its mean, for
                transformers' Trainer; ``shift_labels (B, L)``, the target of each position, in place of ``labels``.
                Others as in :meth:`HyenaDNAModel.forward`.

        Returns:
            ``logits (B, L, 16)`` for 12 tokens and 4 rows of padding; ``loss``, a scalar in float32 or better, if there
            are ``labels``; ``hidden_states`` if requested.

        Raises:
            InputError: as in :meth:`HyenaDNAModel.forward`; ``logits_to_keep`` is negative or comes with labels; labels
                have another shape; or, on the CPU, a label is neither an id from 0 to 15 nor -100.
            TypeError: there is an argument that no model here knows.
        """
        check_arguments(self, kwargs, "shift_labels")
        shift_labels = kwargs.get("shift_labels")
        has_loss = labels is not None or shift_labels is not None
        given = inputs_embeds if input_ids is None else input_ids
        rows = None
        if has_loss and given is not None:
            # Before the model: on a GPU this waits for queued work.
            soft_prompt = inputs_embeds is not None
            rows = padding.row_order(attention_mask, given.shape[:2], given.device, soft_prompt=soft_prompt)
        output = self.hyena(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            position_ids=position_ids,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            if isinstance(logits_to_keep, int) and logits_to_keep < 0:
                raise InputError(f"logits_to_keep {logits_to_keep}: must be at least 0, the number of last positions")
            if has_loss:
                raise InputError("labels need the logits of all positions: leave out logits_to_keep")
            hidden = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        logits = self.lm_head(hidden)
        loss = None
        if has_loss:
            loss = self._next_token_loss(logits, labels, shift_labels, rows, kwargs.get("num_items_in_batch"))
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)

    @staticmethod
    def _next_token_loss(
        logits: Tensor,
        labels: Tensor | None,
        shift_labels: Tensor | None,
        rows: padding.RowOrder | None,
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
                [PAD] ids at both ends of a row are pads.

        Returns:
            ids ``(B, L + new)``, or what else ``return_dict_in_generate`` asks for.

        Raises:
            InputError: a prompt is empty; the mask or the positions are ones that :meth:`HyenaDNAModel.forward`
                refuses.
            ValueError: an argument is unknown, or asks for assisted generation or a cache.
        """
        ids = kwargs.get("input_ids") if inputs is None else inputs
        embedded, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        prompt = ids if embedded is None else embedded
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
        with cache_filters(self):
            return super().generate(inputs, *args, **kwargs)

    # The base class looks different to mypy with other optional packages of transformers installed.
    def prepare_inputs_for_generation(  # type: ignore[override, unused-ignore]
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_length: int = 0,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give the model the whole sequence at every step: a long convolution has no cache of keys and values.

        Args:
            input_ids: ``(B, L)``, those generated so far and, if the prompt is ids, the prompt.
            inputs_embeds: ``(B, P, D)``, the prompt.
            attention_mask: ``(B, L)``, or ``(B, P + generated)``.
            prompt_length: ids of the prompt in ``input_ids`` that ``inputs_embeds`` stand for.
            kwargs: arguments of ``forward``, and of transformers' ``generate`` about positions and caches.
        """
        # Positions were checked at the start, and the model needs none.
        kept = {key: value for key, value in kwargs.items() if key not in _OF_GENERATION}
        if inputs_embeds is not None:
            generated = self.get_input_embeddings()(input_ids[:, prompt_length:])
            embedded = torch.cat((inputs_embeds, generated.to(inputs_embeds.dtype)), dim=1)
            return {"inputs_embeds": embedded, "attention_mask": attention_mask, **kept}
        if attention_mask is not None and not kwargs.get("output_hidden_states"):
            # Columns of nothing but pads, such as the place of each row's [SEP].
            first = int(attention_mask.any(dim=0).to(torch.uint8).argmax())
            input_ids, attention_mask = input_ids[:, first:], attention_mask[:, first:]
        return {"input_ids": input_ids, "attention_mask": attention_mask, **kept}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As the base class, but a tied ``lm_head.weight`` is written too, as in the published files."""
        # With an adapter in the model, its weights alone are written.
        if self.config.tie_word_embeddings and not getattr(self, "_hf_peft_config_loaded", False):
            weights = dict(kwargs.get("state_dict") or self.state_dict())
            weights[checkpoint.HEAD_KEY] = weights[checkpoint.EMBEDDING_KEY].clone()
            kwargs["state_dict"] = weights
        super().save_pretrained(save_directory, *args, **kwargs)


def _repeat_tied(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give every sine of a filter its frequencies, which files hold once. ``load_state_dict`` would miss the others."""
    for key, first in model._tied_weights_keys.items():  # type: ignore[union-attr, operator]
        if prefix + first in state_dict:
            state_dict.setdefault(prefix + key, state_dict[prefix + first])


def _stored_config(source: locate.Source) -> HyenaDNAConfig:
    content = locate.read_json(source.config_file)
    read: Any = HyenaDNAConfig.from_original if source.format == "original" else HyenaDNAConfig.from_dict
    try:
        made: HyenaDNAConfig = read(content)
    except InputError as error:
        text = str(error).removeprefix("config: ").removeprefix("config.json: ")
        raise InputError(f"{source.config_file}: {text}") from error
    return made


def _generation_config(source: locate.Source, model: Any) -> Any:
    """The checkpoint's own settings of ``generate``, or those that follow from its configuration.

    Raises:
        InputError: the file is damaged, or holds impossible values.
    """
    file = source.config_file.with_name("generation_config.json")
    if not file.exists():
        return model.generation_config
    content = locate.read_json(file)
    most = model.config.padded_vocab_size - 1
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        ids = content.get(name)
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not (type(token) is int and 0 <= token <= most):
                raise InputError(f"{file}: {name} must be an id from 0 to {most}, got {token!r}")
    for name in _POSITIVE:
        value = content.get(name)
        if value is not None and not (type(value) in (int, float) and value > 0):
            raise InputError(f"{file}: {name} must be a number above 0, got {value!r}")
    try:
        return GenerationConfig.from_pretrained(file.parent)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from error


def _remove_old_weights(folder: Path, written: set[str], variant: str | None) -> None:
    """Remove the weights of an earlier save that ``written`` does not replace: a whole file, shards and their list."""
    names = locate.weights_names(variant)
    if not written.intersection(names):
        return
    whole = [re.escape(name).replace(r"\.", r"(-\d{5}-of-\d{5})?\.", 1) for name in names[::2]]
    old = re.compile("|".join([*whole, *map(re.escape, names[1::2])]))
    for file in folder.iterdir():
        if old.fullmatch(file.name) and file.name not in written:
            file.unlink()


def _bare(key: str) -> str:
    return key.removeprefix("hyena.")


def _check_length(source: locate.Source, stored: HyenaDNAConfig, length: Any) -> None:
    """Raise InputError unless ``length`` is the checkpoint's own ``max_seq_len``."""
    if length != stored.max_seq_len:
        raise InputError(
            f"{source.config_file.parent}: max_seq_len is {stored.max_seq_len} and cannot be {length}: the filters are "
            "made for one length, and these weights belong to it; load a checkpoint made for longer sequences"
        )


def has_values(ids: Tensor) -> bool:
    """Whether the values of a tensor can be read now, and at no cost.

    They cannot while a graph is traced, under vmap and in a FakeTensor. On a GPU reading waits for all queued work.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch._C._functorch.is_functorch_wrapped_tensor(ids) or is_fake(ids) or get_proxy_mode() is not None)


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


def check_labels(labels: Tensor, columns: int) -> None:
    """Raise InputError if a label is neither a column of the logits nor -100, which the loss ignores."""
    if has_values(labels):
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= columns))]
        if wrong.numel():
            raise InputError(
                f"labels hold the id {int(wrong[0])}: the logits have {columns} columns, ids 0 to {columns - 1}, and "
                "-100 leaves a position out"
            )


def _read_config(source: locate.Source, kwargs: dict[str, Any]) -> tuple[HyenaDNAConfig, dict[str, Any]]:
    """The configuration of the model, and those of ``kwargs`` that do not belong to it.

    It is the one among ``kwargs``, or the stored one with the overrides among ``kwargs``.
    """
    given = kwargs.pop("config", None)
    stored = _stored_config(source)
    if isinstance(given, HyenaDNAConfig):
        # From transformers' Auto classes. Their overrides are already in it.
        _check_length(source, stored, given.max_seq_len)
        given.check()
        return given, kwargs
    if given is not None:
        raise InputError(f"config must be a HyenaDNAConfig, got {type(given).__name__}")
    _check_length(source, stored, kwargs.get("max_seq_len", stored.max_seq_len))
    # The dtype is an argument of the model. A configuration cannot hold "auto".
    dtypes = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
    config, unused = HyenaDNAConfig.from_dict(stored.to_dict(), return_unused_kwargs=True, **kwargs)
    return config, unused | dtypes


def _as_loaded(weights: dict[str, Tensor], config: HyenaDNAConfig) -> dict[str, Tensor]:
    """The weights as transformers expects them: a frequency for every sine, and no tied head.

    Raises:
        InputError: ``tie_word_embeddings`` is True and the head differs from the embedding.
    """
    weights = checkpoint.repeat_freq(weights, config.num_inner_mlps)
    if config.tie_word_embeddings:
        head, embedding = weights.pop(checkpoint.HEAD_KEY, None), weights.get(checkpoint.EMBEDDING_KEY)
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise InputError("tie_word_embeddings is true, but the checkpoint's head differs from its embedding")
    return weights


def _check_loaded(
    source: locate.Source, weights: dict[str, Tensor], missing: set[str], unexpected: set[str], mismatched: Any
) -> None:
    """Raise WeightsError unless the checkpoint had exactly the keys of the model, in the right shapes."""
    if not (missing or unexpected or mismatched):
        return
    problems = []
    if mismatched:
        key, found, expected = sorted(mismatched)[0]
        more = f" (and {len(mismatched) - 1} more keys differ)" if len(mismatched) > 1 else ""
        problems.append(f"{key} has shape {tuple(found)} where the configuration asks for {tuple(expected)}{more}")
    if missing:
        problems.append(f"{len(missing)} keys are missing: {checkpoint.listed(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} keys are unexpected: {checkpoint.listed(unexpected)}")
    size = checkpoint.published_size({key: tensor.shape for key, tensor in weights.items()})
    hint = f"; the weights have the size of {size}" if size else ""
    raise WeightsError(f"{source.weights_file} does not fit {source.config_file.name}: {'; '.join(problems)}{hint}")


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Hide transformers' table of missing and unexpected keys. Our own error has them in one line.

    The table of weights that were made anew, because the caller allowed other shapes, is shown.
    """

    def is_other(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message or "MISMATCH" in message

    theirs = logging.getLogger("transformers.modeling_utils")
    theirs.addFilter(is_other)
    try:
        yield
    finally:
        theirs.removeFilter(is_other)


AutoConfig.register(HyenaDNAConfig.model_type, HyenaDNAConfig)
AutoModel.register(HyenaDNAConfig, HyenaDNAModel)
AutoModelForCausalLM.register(HyenaDNAConfig, HyenaDNAForCausalLM)
# The Trainer looks this name up to shift the labels of a smoothed loss, and pipelines to know their task.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[HyenaDNAConfig.model_type] = HyenaDNAForCausalLM.__name__
# Published tokenizer folders name the first class, folders saved by this package the second.
AutoTokenizer.register(HyenaDNAConfig, slow_tokenizer_class=HyenaDNATokenizer, exist_ok=True)
AutoTokenizer.register(HyenaDNAConfig, slow_tokenizer_class=DNATokenizer, exist_ok=True)
