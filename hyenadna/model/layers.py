"""The layers of HyenaDNA, from the embedding to the final norm.

The modules have the names of the published ``-hf`` checkpoints. The residual stream is float32 for weights of 16 or 32
bits, and float64 in a float64 model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from hyena_kernels import (
    HyenaFilter,
    HyenaOperator,
    SegmentPlan,
    add_layer_norm,
    embedding,
    layer_norm,
    position_dropout,
)
from hyena_kernels.distributed import ContextShards
from hyena_kernels.modules import Filters, SharesPositions, is_plain, one_set_of_positions
from hyenadna.common.errors import InputError
from hyenadna.model import sliced
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.mlp import add_mlp, can_add_mlp

# Positions that the MLP takes at a time without gradients. Its hidden layer is four times as wide as the model: 4 GB
# for 1,000,000 positions of width 256.
_MLP_POSITIONS = 1 << 15
_MLP_POSITIONS_CUDA = 1 << 18

# Positions that an MLP with adapters takes at a time on a CPU with gradients: a few MB of hidden layer. Backward
# recomputes them, which is cheaper than allocating fresh pages.
_MLP_POSITIONS_CPU = 1 << 11

# Bytes of filters, of all layers together, that a step with gradient checkpointing keeps for backward. Above it every
# layer computes its own again: memory is what checkpointing is for.
_FILTER_BYTES = 1 << 30
_FILTER_BYTES_CPU = 16 << 20


class HyenaDNALayerNorm(nn.LayerNorm):
    """LayerNorm of the residual, which may have a wider dtype than the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (…, D)`` in its own dtype, and return it in the weights' dtype."""
        return layer_norm(x, self.weight, self.bias, self.eps, dtype=self.weight.dtype)


class TokenEmbedding(nn.Embedding):
    """``nn.Embedding`` for few tokens: its backward pass does not sort the ids, which takes torch ten times as long."""

    def forward(self, input: Tensor) -> Tensor:
        """``input (…)`` of integers to ``(…, D)``."""
        options = self.padding_idx, self.max_norm, self.scale_grad_by_freq or None, self.sparse or None
        # Shards and quantised weights have a way of their own.
        if type(self.weight) not in (nn.Parameter, Tensor) or any(option is not None for option in options):
            return super().forward(input)
        return embedding(input, self.weight)


class HyenaDNAEmbeddings(nn.Module):
    """Embedding of the tokens. Positions have none."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.word_embeddings = TokenEmbedding(config.padded_vocab_size, config.d_model)

    def forward(self, input_ids: Tensor) -> Tensor:
        """``input_ids (B, L)`` to ``(B, L, D)``."""
        # Any integer dtype is allowed, such as the uint8 of a tokenised genome. nn.Embedding takes only two.
        embedded: Tensor = self.word_embeddings(input_ids.long())
        return embedded


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


class Recomputation(NamedTuple):
    """How a block computes its activations again in backward."""

    function: Callable[..., Any]
    """As ``torch.utils.checkpoint.checkpoint``, with the arguments of the caller."""
    rng_is_given: bool
    """Whether these arguments say what becomes of the state of random numbers."""
    in_slices: bool
    """Whether the block keeps its input alone, and is computed in slices where it is long."""


def directly(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Call ``function``. It stands where transformers calls a function of checkpointing: a block has its own."""
    return function(*args, **kwargs)


class HyenaDNABlock(GradientCheckpointingLayer):
    """Hyena operator and MLP, each behind a LayerNorm and added to the residual."""

    recomputation: Recomputation | None = None

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
            filter_length=config.filter_length,
            bidirectional=config.bidirectional,
            long_conv=config.long_conv,
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

    def forward(
        self,
        residual: Tensor,
        filters: Filters | None = None,
        segments: SegmentPlan | None = None,
        shards: ContextShards | None = None,
        real: Tensor | None = None,
    ) -> Tensor:
        """``residual (B, L, D)`` to the same shape and dtype: ``x += mixer(norm1(x)); x += mlp(norm2(x))``.

        Args:
            residual: ``(B, L, D)``.
            filters: taps ``(order - 1, D, L)`` and skip ``(order - 1, D)`` or None, in place of the mixer's own. With
                ``segments``, L is the length of the longest.
            segments: the sequences of a packed row, with B = 1.
            shards: how the sequences are split over processes. Then L is the number of positions here. They are an
                argument because backward, which may run in another thread, computes the block again.
            real: bool ``(B, L)``, False at pads, for a bidirectional mixer.
        """
        graph = torch.is_grad_enabled()
        how = self.recomputation if graph and self.training and self.gradient_checkpointing else None
        if not graph or (how is not None and how.in_slices):
            cut = sliced.plan(self, residual, filters, segments, shards)
            if cut is not None:
                return sliced.run(self, residual, filters, cut, segments)
        if how is None:
            return self._whole(residual, filters, segments, shards, real)
        # Keeping the state of random numbers costs a transfer on a GPU, and CUDA graphs refuse it.
        kept = how.rng_is_given or torch.compiler.is_compiling() or self._may_be_random()
        options = {} if kept else {"preserve_rng_state": False}
        result: Tensor = how.function(
            partial(self._whole, filters=filters, segments=segments, shards=shards, real=real), residual, **options
        )
        return result

    def has_own_layers(self) -> bool:
        """Whether norms and MLP are those of this file, with nothing attached."""
        norms = is_plain(self.norm1, HyenaDNALayerNorm) and is_plain(self.norm2, HyenaDNALayerNorm)
        return norms and is_plain(self.mlp, HyenaDNAMLP)

    def _may_be_random(self) -> bool:
        """Whether dropout is at work in this block, or code that is not known."""
        for module in self.modules():
            if isinstance(module, nn.Dropout) and module.p > 0 and module.training:
                return True
            if type(module).__module__.partition(".")[0] not in ("torch", "hyena_kernels", "hyenadna"):
                return True
            if module is not self and (module._forward_hooks or module._forward_pre_hooks):
                return True
        return False

    def _whole(
        self,
        residual: Tensor,
        filters: Filters | None,
        segments: SegmentPlan | None,
        shards: ContextShards | None,
        real: Tensor | None = None,
    ) -> Tensor:
        # A mixer of another class is called with its input alone, where that is all there is.
        given: dict[str, Any] = {} if filters is None else {"filters": filters}
        if segments is not None:
            given["cu_seqlens"] = segments
        # A single process has no need of a mixer that knows shards, unless that one asks for them.
        if shards is not None and (shards.size > 1 or getattr(self.mixer, "context", None) is not None):
            given["shards"] = shards
        if real is not None:
            given["real"] = real
        mixed = self.mixer(self._normed(self.norm1, residual), **given)
        # What is exported without gradients may be called with them, and then nothing may be written to in place.
        if not torch.is_grad_enabled() and not self._mlp_has_hooks() and not _exporting():
            residual = residual + mixed
            most = _MLP_POSITIONS_CUDA if residual.is_cuda else _MLP_POSITIONS
            for rows in residual.view(-1, residual.shape[-1]).split(most):
                rows += self.mlp(self._normed(self.norm2, rows))
            return residual
        norm2, fc1, fc2 = self.norm2, self.mlp.fc1, self.mlp.fc2
        if self.has_own_layers() and can_add_mlp(residual, mixed, norm2, fc1, fc2):
            return add_mlp(residual + mixed, norm2, fc1, fc2)
        recomputes = self._recomputes(residual)
        if self.has_own_layers() and not recomputes:
            h, residual = add_layer_norm(mixed, residual, norm2.weight, norm2.bias, norm2.eps)
            return residual + self.mlp(h)
        residual = residual + mixed
        if not recomputes:
            return self._add_mlp(residual)
        slices = residual.view(-1, residual.shape[-1]).split(_MLP_POSITIONS_CPU)
        return torch.cat([recomputed(self._add_mlp, rows, use_reentrant=False) for rows in slices]).view_as(residual)

    def _add_mlp(self, residual: Tensor) -> Tensor:
        return residual + self.mlp(self._normed(self.norm2, residual))

    def _normed(self, norm: nn.LayerNorm, residual: Tensor) -> Tensor:
        """The input of a matrix product: in the dtype of autocast, where there is one."""
        if not is_plain(norm, HyenaDNALayerNorm):
            normed: Tensor = norm(residual)
            return normed
        return layer_norm(residual, norm.weight, norm.bias, norm.eps)

    def _recomputes(self, residual: Tensor) -> bool:
        """Whether an MLP that is not plain, as with LoRA, is computed in slices, and recomputed in backward."""
        if residual.device.type != "cpu" or residual.numel() <= _MLP_POSITIONS_CPU * residual.shape[-1]:
            return False
        # No slices under torch.compile and torch.func, or with module hooks: they expect one call for all positions.
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return not self._mlp_has_hooks()

    def takes_filters(self) -> bool:
        """Whether backward computes this block again, with filters that were computed outside of it.

        Code that is not ours may expect the mixer to call its filter, so then it does. So it does in reentrant
        checkpointing, which would free the graph of the filters in the first of two backward passes.
        """
        how = self.recomputation
        if how is None or not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return False
        if not isinstance(how.function, partial) or how.function.func is not recomputed:
            return False
        if how.function.keywords.get("use_reentrant") is not False:
            return False
        if not (is_plain(self, HyenaDNABlock) and is_plain(self.mixer, HyenaOperator)):
            return False
        # It computes the filters of its own channels alone, even if the caller names no shards.
        if self.mixer.context is not None:
            return False
        filter_fn: Any = self.mixer.filter_fn  # Any: it may have been replaced.
        return isinstance(filter_fn, HyenaFilter) and filter_fn.is_plain()

    def _mlp_has_hooks(self) -> bool:
        """Whether some code listens to the MLP. Such code, as that of peft for mixed adapters, expects (B, L, D)."""
        modules = (self.norm2, *self.mlp.modules())
        return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


class _Dropout(torch.autograd.Function):
    """``F.dropout`` on a CPU, bit by bit. PyTorch keeps its mask in the dtype of the input there, and this in bytes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        """``x`` with a fraction p of its elements zero and the others divided by 1 - p."""
        kept = torch.empty_like(x).bernoulli_(1 - p)
        ctx.p = p
        ctx.save_for_backward(kept.bool())
        return x * kept.div_(1 - p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of ``x``."""
        (kept,) = ctx.saved_tensors
        return grad * kept.to(grad.dtype).div_(1 - ctx.p), None


class DroppedByPosition(NamedTuple):
    """What :func:`.dropout.dropout_by_position` gives a backbone: how its embedding drops in training."""

    seed: int
    samples: Tensor
    """``(B,)``: the number of each row."""
    others: tuple[tuple[str, Any], ...]
    """Every other dropout of the model, by name."""

    def __call__(self, residual: Tensor, dropout: nn.Dropout, offset: int) -> Tensor:
        """``residual (B, L, D)``, which begins at position ``offset``, with some elements zero."""
        for name, other in self.others:
            if other.training and other.p > 0:
                raise InputError(
                    f"dropout_by_position: {name} drops with p = {other.p} in training, which is not done by position: "
                    "set hyena_dropout and the dropout of adapters to 0"
                )
        if not is_plain(dropout, nn.Dropout):
            raise InputError(
                "dropout_by_position: embed_dropout of the model has hooks or is another module: leave it as it is"
            )
        if len(residual) != len(self.samples):
            raise InputError(
                f"dropout_by_position: the batch has {len(residual)} rows and samples {len(self.samples)} numbers: "
                "give one for each row"
            )
        if dropout.p == 0:
            return residual
        return position_dropout(residual, dropout.p, seed=self.seed, samples=self.samples, offset=offset)


class HyenaDNABackbone(SharesPositions):
    """Embedding, blocks, final LayerNorm. The blocks share the features of the positions."""

    dropped_by_position: DroppedByPosition | None = None

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.embeddings = HyenaDNAEmbeddings(config)
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        with one_set_of_positions():
            self.layers = nn.ModuleList(HyenaDNABlock(config) for _ in range(config.n_layer))
        self.ln_f = HyenaDNALayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool,
        segments: SegmentPlan | None = None,
        shards: ContextShards | None = None,
        real: Tensor | None = None,
    ) -> BaseModelOutput:
        """As :meth:`HyenaDNAModel.forward`, for inputs that it has checked.

        ``segments`` are those of a packed row. ``shards`` say how the sequences are split over processes. ``real``,
        bool ``(B, L)``, is False at the pads of a bidirectional model.
        """
        # Embedded here because a reference in the caller would keep 1 GB alive at 1,000,000 positions.
        residual = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        offset = 0 if shards is None else shards.offset
        residual = self._dropped(residual, offset).to(torch.promote_types(residual.dtype, torch.float32)).contiguous()
        states = [residual] if output_hidden_states else []
        length = residual.shape[1] if segments is None else segments.longest
        given: dict[str, Any] = {} if segments is None else {"segments": segments}
        if shards is not None:
            given["shards"] = shards
        if real is not None:
            given["real"] = real
        # Filters of all channels would be those of other processes too.
        whole = shards is None or shards.size == 1
        shared = self._layers_that_share(residual, segments) if whole else []
        for layer in self.layers:
            # Computed here, so that forward, recomputation and backward of a layer share them. One layer at a time, so
            # that backward frees the gradient of its filters before it reaches the layer below.
            if layer in shared and not self._takes_far_field(layer, length, residual, segments):
                residual = layer(residual, filters=layer.mixer.filters(length), **given)
            else:
                residual = layer(residual, **given)
            if output_hidden_states:
                states.append(residual)
        last = self.ln_f(residual)
        return BaseModelOutput(
            last_hidden_state=last, hidden_states=(*states[:-1], last) if output_hidden_states else None
        )

    @staticmethod
    def _takes_far_field(layer: HyenaDNABlock, length: int, residual: Tensor, segments: SegmentPlan | None) -> bool:
        """Whether a layer makes no filters with all taps, so that there is nothing to share."""
        dtype = sliced.compute_dtype(layer, residual.device.type)
        return layer.mixer.far_field_plan(length, dtype, packed=segments is not None) is not None

    def _dropped(self, residual: Tensor, offset: int = 0) -> Tensor:
        dropout = self.embed_dropout
        if self.dropped_by_position is not None and dropout.training:
            return self.dropped_by_position(residual, dropout, offset)
        recorded = torch.is_grad_enabled() and residual.requires_grad and type(residual) is Tensor
        if not (recorded and residual.device.type == "cpu" and dropout.training and 0 < dropout.p < 1):
            return dropout(residual)
        if torch.compiler.is_compiling() or not is_plain(dropout, nn.Dropout) or not sliced.runs_plainly():
            return dropout(residual)
        dropped: Tensor = _Dropout.apply(residual, dropout.p)
        return dropped

    def _layers_that_share(self, residual: Tensor, segments: SegmentPlan | None = None) -> list[HyenaDNABlock]:
        """The layers whose filters are computed before the layer, for its forward pass and its recomputation."""
        layers = [layer for layer in self.layers if isinstance(layer, HyenaDNABlock) and layer.takes_filters()]
        length = residual.shape[1] if segments is None else segments.longest
        size = sum(layer.mixer.filter_fn.bias.nbytes * layer.mixer.taps(length) for layer in layers)
        return layers if size <= (_FILTER_BYTES_CPU if residual.device.type == "cpu" else _FILTER_BYTES) else []
