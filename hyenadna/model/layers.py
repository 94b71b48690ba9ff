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
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from hyena_kernels import HyenaOperator
from hyenadna.model import sliced
from hyenadna.model.config import HyenaDNAConfig

# Positions that the MLP takes at a time without gradients. Its hidden layer is four times as wide as the model: 4 GB
# for 1,000,000 positions of width 256.
_MLP_POSITIONS = 1 << 15
_MLP_POSITIONS_CUDA = 1 << 18

# Positions that it takes at a time on a CPU with gradients: a few MB of hidden layer. Backward recomputes them, which
# is cheaper than allocating fresh pages.
_MLP_POSITIONS_CPU = 1 << 11


class HyenaDNALayerNorm(nn.LayerNorm):
    """LayerNorm of the residual, which may have a wider dtype than the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (…, D)`` in its own dtype, and return it in the weights' dtype."""
        return sliced.normalised(x, self.weight, self.bias, self.eps)


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

    def forward(self, residual: Tensor, filters: sliced.Filters | None = None) -> Tensor:
        """``residual (B, L, D)`` to the same shape and dtype: ``x += mixer(norm1(x)); x += mlp(norm2(x))``.

        Args:
            residual: ``(B, L, D)``.
            filters: taps ``(order - 1, D, L)`` and skip ``(order - 1, D)`` or None, in place of the mixer's own.
        """
        graph = torch.is_grad_enabled()
        how = self.recomputation if graph and self.training and self.gradient_checkpointing else None
        if not graph or (how is not None and how.in_slices):
            cut = sliced.plan(self, residual, filters)
            if cut is not None:
                return sliced.run(self, residual, filters, cut)
        if how is None:
            return self._whole(residual, filters)
        # Keeping the state of random numbers costs a transfer on a GPU, and CUDA graphs refuse it.
        kept = how.rng_is_given or torch.compiler.is_compiling() or self._may_be_random()
        options = {} if kept else {"preserve_rng_state": False}
        result: Tensor = how.function(partial(self._whole, filters=filters), residual, **options)
        return result

    def has_own_layers(self) -> bool:
        """Whether norms and MLP are those of this file, with nothing attached."""
        norms = sliced.is_plain(self.norm1, HyenaDNALayerNorm) and sliced.is_plain(self.norm2, HyenaDNALayerNorm)
        return norms and sliced.is_plain(self.mlp, HyenaDNAMLP)

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

    def _whole(self, residual: Tensor, filters: sliced.Filters | None) -> Tensor:
        # A mixer of another class is called with its input alone.
        given = {} if filters is None else {"filters": filters}
        residual = residual + self.mixer(self.norm1(residual), **given)
        # What is exported without gradients may be called with them, and then nothing may be written to in place.
        if not torch.is_grad_enabled() and not self._mlp_has_hooks() and not _exporting():
            most = _MLP_POSITIONS_CUDA if residual.is_cuda else _MLP_POSITIONS
            for rows in residual.view(-1, residual.shape[-1]).split(most):
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
