"""What the suite measures: each workload of each implementation, built once for its check, its time and its memory.

:func:`build` gives the function that is timed and the check of the same function at the same shape. A check holds a
result against float64: of an op on some channels, of the operator and the models with the published op sequence in
float64, of attention at some of its queries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.baselines import packages
from bench.baselines.attention import Attention, error_at_some_queries
from bench.baselines.packages import Unavailable
from bench.baselines.published import ExactFilter, PublishedBlock, published_fftconv
from bench.common.run_file import ATTENTION, OURS
from bench.suite.accuracy import errors_on_channels
from bench.suite.cases import Case
from bench.suite.models import TwoLayerModel
from hyena_kernels import HyenaOperator, backend
from hyena_kernels.testing import (
    OPS,
    error_budget,
    hyena_mixer_inputs,
    implicit_filter_inputs,
    relative_error,
    short_conv_inputs,
)

CHECKED_POINTS = 1 << 22
"""Points of a signal that are checked in float64: whole channels, at least one."""
GRADIENTS_UP_TO = 1 << 15
"""Length up to which the check of a model compares a gradient too."""
FILTER = {"emb_dim": 5, "w": 10, "lr_pos_emb": 0.0}
"""The filter of the published models."""
VOCABULARY = 16
OP_NAMES = ("fftconv", "short_conv", "hyena_mixer", "implicit_filter")
MODELS = ("two_layer_model", "hyenadna", "training_step")
LEARNING_RATE, WEIGHT_DECAY = 6e-4, 0.1
"""Of a training step: those of the published recipe."""


Shared = MutableMapping[str, Any]
"""What the implementations of a comparison have in common: inputs of an op, and what a model gives in float64."""


@dataclass(frozen=True)
class PreparedCase:
    """What :func:`build` gives.

    Args:
        run: one call of what is measured.
        check: (error, budget) of the result at this shape, the pair that is nearest to its budget or furthest above.
        backend: of ours.
    """

    run: Callable[[], object]
    check: Callable[[], tuple[float, float]]
    backend: str | None = None


def build(case: Case, device: torch.device, dtype: torch.dtype, shared: Shared | None = None) -> PreparedCase:
    """Inputs, weights and functions of a case.

    Args:
        case: which.
        device: where.
        dtype: of the signals; models and the operator have float32 weights and run under autocast to it.
        shared: filled by the first and used by every implementation of a comparison.

    Raises:
        Unavailable: the implementation has nothing that runs this.
        ImportError: a package is not installed.
    """
    torch.manual_seed(0)
    shared = {} if shared is None else shared
    return (_op if case.workload in OP_NAMES else _module)(case, device, dtype, shared)


def _worst(errors: dict[str, tuple[float, float]]) -> tuple[float, float]:
    # A NaN is above every budget.
    return max(errors.values(), key=lambda pair: pair[0] / pair[1] if pair[0] == pair[0] else float("inf"))


# Ops -----------------------------------------------------------------------------------------------------------------


def _inputs(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    """Inputs of an op by name, and a gradient of its result."""
    batch, width, length = case.batch, case.width, case.length

    def normal(*shape: int, like: torch.dtype = dtype, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, device=device).mul_(scale).to(like)

    if case.workload == "implicit_filter":
        return implicit_filter_inputs(width, length, device=device), normal(width, length, like=torch.float32)
    if case.workload == "hyena_mixer":
        return hyena_mixer_inputs(batch, length, width, dtype=dtype, device=device), normal(batch, length, width)
    if case.workload == "short_conv":
        return short_conv_inputs(batch, width, length, dtype=dtype, device=device), normal(batch, width, length)
    gated = case.variant == "gated"
    inputs = {
        "u": normal(batch, width, length),
        "k": normal(width, length, like=torch.float32, scale=length**-0.5),
        "D": normal(width, like=torch.float32),
        "pre_gate": normal(batch, width, length) if gated else None,
        "post_gate": normal(batch, width, length) if gated else None,
    }
    return inputs, normal(batch, width, length)


def _published_fftconv(u: Tensor, k: Tensor, D: Tensor, pre_gate: Tensor | None, post_gate: Tensor | None) -> Tensor:
    y = published_fftconv(u if pre_gate is None else u * pre_gate, k, D)
    return y if post_gate is None else y * post_gate


def _function(case: Case, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    """What an implementation has for an op, with the op's arguments."""
    if case.implementation == OURS:
        return OPS[case.workload].function
    if case.implementation in packages.ADAPTERS:
        workload, adapter = packages.ADAPTERS[case.implementation]
        if workload != case.workload:
            raise Unavailable(f"has no {case.workload}")
        if device.type != "cuda":
            raise Unavailable("runs on CUDA devices alone")
        return adapter(case.width, case.length, dtype, device)
    published: Callable[..., Tensor] = OPS[case.workload].reference
    if case.workload == "fftconv":
        published = _published_fftconv
    if case.implementation == "published":
        return published
    if case.implementation == "published_compiled":
        return packages.compiled(published)
    raise Unavailable(f"has no {case.workload}")


def _op(case: Case, device: torch.device, dtype: torch.dtype, shared: Shared) -> PreparedCase:
    function = _function(case, device, dtype)
    chosen = backend.resolve(f"{case.workload}_fwd", device) if case.implementation == OURS else None
    if "inputs" not in shared:
        shared["inputs"] = _inputs(case, device, dtype)
    inputs, dy = shared["inputs"]
    if case.implementation in packages.FILTERS_LIKE_SIGNALS:
        inputs = {**inputs, "k": inputs["k"].to(dtype)}
    # Positions and times are the same for every step, and no gradient of them is asked for.
    fixed = ("z", "t", "deltas")
    leaves = {
        name: tensor if tensor is None or name in fixed else tensor.detach().requires_grad_()
        for name, tensor in inputs.items()
    }
    wanted = [tensor for tensor in leaves.values() if tensor is not None and tensor.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return function(**leaves)

    def both() -> object:
        return torch.autograd.grad(function(**leaves), wanted, dy)

    def check() -> tuple[float, float]:
        count = max(1, min(case.width, 4, CHECKED_POINTS // (case.batch * case.length)))
        channels = sorted({index * (case.width - 1) // max(1, count - 1) for index in range(count)})
        plain = {name: None if tensor is None else tensor.detach() for name, tensor in inputs.items()}
        gradient = dy if case.direction == "both" else None
        return _worst(errors_on_channels(case.workload, plain, gradient, channels, function))

    return PreparedCase(forward if case.direction == "forward" else both, check, chosen)


# Operator and models -------------------------------------------------------------------------------------------------


def _autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _mixer(case: Case, *, implementation: str, length: int) -> Callable[[], torch.nn.Module]:
    """What makes one mixer of an implementation; all of them draw their weights alike."""

    def make() -> torch.nn.Module:
        if implementation in ATTENTION:
            return Attention(case.width, implementation)
        operator = HyenaOperator(case.width, length, **FILTER)
        if implementation == OURS:
            return operator
        return ExactFilter(operator)

    return make


class _Logits(torch.nn.Module):
    """The logits of a language model of transformers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """``ids (B, L)`` → ``(B, L, V)``."""
        return self.model(ids).logits


def _published_model(case: Case, implementation: str) -> torch.nn.Module:
    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

    model = HyenaDNAForCausalLM(HyenaDNAConfig.named(case.variant, max_seq_len=case.length, embed_dropout=0.0))
    if implementation != OURS:
        backbone = model.hyena.backbone
        backbone.layers = torch.nn.ModuleList(PublishedBlock(block, ExactFilter) for block in backbone.layers)
    return _Logits(model)


def _model(case: Case, implementation: str, device: torch.device) -> torch.nn.Module:
    """The module of an implementation, with the weights that every implementation has."""
    torch.manual_seed(0)
    if case.workload in ("hyenadna", "training_step"):
        return _published_model(case, implementation).to(device)
    make = _mixer(case, implementation=implementation, length=case.length)
    if case.workload == "hyena_operator":
        return make().to(device)
    return TwoLayerModel(make, case.width, VOCABULARY, checkpointed=case.variant == "checkpointed").to(device)


def _embedding(module: torch.nn.Module) -> Tensor:
    """The embedding of a model, whose gradient depends on everything."""
    return next(each.weight for each in module.modules() if isinstance(each, torch.nn.Embedding))


def _optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    from hyenadna.training.optim import parameter_groups

    return torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=LEARNING_RATE)


def _module(case: Case, device: torch.device, dtype: torch.dtype, shared: Shared) -> PreparedCase:
    is_model = case.workload in MODELS
    if case.implementation in ATTENTION and case.workload != "two_layer_model":
        raise Unavailable("attention stands in the 2-layer model alone")
    if case.implementation not in (OURS, "published", "published_compiled", *ATTENTION):
        raise Unavailable("has no operator and no model here")
    model = _model(case, case.implementation, device)
    called: Callable[..., Tensor] = packages.compiled(model) if case.implementation == "published_compiled" else model
    if is_model:
        x = torch.randint(VOCABULARY, (case.batch, case.length), device=device)
    else:
        x = torch.randn(case.batch, case.length, case.width, device=device)

    def loss_of(module: Callable[..., Tensor]) -> Tensor:
        with _autocast(device, dtype):
            y = module(x)
        if not is_model:
            return y.float().square().mean()
        return F.cross_entropy(y.float().flatten(0, 1), x.flatten())

    def forward() -> object:
        with torch.no_grad(), _autocast(device, dtype):
            return called(x)

    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def both() -> object:
        return torch.autograd.grad(loss_of(called), weights)

    optimizer = _optimizer(model) if case.workload == "training_step" else None

    def step() -> object:
        assert optimizer is not None
        loss = loss_of(called)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def results(module: torch.nn.Module, autocast: torch.dtype, function: Callable[..., Tensor]) -> dict[str, Tensor]:
        with torch.no_grad(), _autocast(device, autocast):
            found = {"y": function(x if is_model else x.to(next(module.parameters()).dtype))}
        if is_model and case.direction == "both" and case.length <= GRADIENTS_UP_TO:
            with _autocast(device, autocast):
                y = function(x)
            loss = F.cross_entropy(y.flatten(0, 1).to(torch.promote_types(y.dtype, torch.float32)), x.flatten())
            [found["dembedding"]] = torch.autograd.grad(loss, [_embedding(module)])
        return found

    def exact(wide: torch.dtype, autocast: torch.dtype) -> dict[str, Tensor]:
        module = _model(case, "exact", device).to(wide)
        return results(module, autocast, module)

    def check() -> tuple[float, float]:
        if case.implementation in ATTENTION:
            return error_at_some_queries(case.implementation, case.batch, case.width, case.length, device, dtype)
        if "oracle" not in shared:
            shared["oracle"] = exact(torch.float64, torch.float32)
            shared["plain"] = exact(torch.float32, dtype)
        oracle, plain = shared["oracle"], shared["plain"]
        return _worst(
            {
                name: (relative_error(value, oracle[name]), error_budget(plain[name].to(dtype), oracle[name]))
                for name, value in results(model, dtype, called).items()
            }
        )

    chosen = backend.resolve("hyena_mixer_fwd", device) if case.implementation == OURS else None
    run = step if optimizer is not None else forward if case.direction == "forward" else both
    return PreparedCase(run, check, chosen)
