"""Build the workloads of the suite: one setup for the check, the time and the memory of a case.

:func:`build` returns the function that is timed, and its check at the same shape. A check compares with float64: an op
on some of its channels, the operator and the models with the published op sequence, attention at some of its queries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, MutableMapping
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
from bench.suite.accuracy import MIN_ELEMENTS, errors_on_channels
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

_CHECKED_POINTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Points of a signal that are checked in float64, as whole channels; at least four channels are."""
_GRADIENTS_UP_TO = 1 << 15
"""Longest sequence at which the check of the operator and of a model compares gradients too."""
_FILTER = {"emb_dim": 5, "w": 10, "lr_pos_emb": 0.0}
"""Arguments of the published filter."""
_VOCABULARY = 16
_MODELS = ("two_layer_model", "hyenadna", "training_step")
_LEARNING_RATE, _WEIGHT_DECAY = 6e-4, 0.1
"""The published recipe."""
OP_NAMES = ("fftconv", "short_conv", "hyena_mixer", "implicit_filter", "mixer_projection")


Shared = MutableMapping[str, Any]
"""Values that the implementations of a comparison share: inputs of an op, float64 results of a model."""


@dataclass(frozen=True)
class PreparedCase:
    """A case that is ready to be checked and timed.

    Args:
        run: one call of the function to measure.
        check: returns error and budget at this shape: of all results, the pair with the largest error over budget.
        backend: backend of hyena_kernels; None for other implementations.
    """

    run: Callable[[], object]
    check: Callable[[], tuple[float, float]]
    backend: str | None = None


def build(case: Case, device: torch.device, dtype: torch.dtype, shared: Shared | None = None) -> PreparedCase:
    """Make the inputs, weights and functions of a case.

    Args:
        case: the case.
        device: device of all tensors.
        dtype: dtype of the signals. Weights of the operator and the models are float32, under autocast to ``dtype``.
        shared: filled by the first implementation of a comparison and used by the others.

    Raises:
        Unavailable: the implementation does not support the case, or it is a CUDA graph on another device.
        ImportError: a package is not installed.
    """
    if case.is_graph and device.type != "cuda":
        raise Unavailable("is a CUDA graph, which needs a GPU")
    torch.manual_seed(0)
    shared = {} if shared is None else shared
    if case.workload == "mixer_projection":
        return _projection(case, device, dtype)
    return (_op if case.workload in OP_NAMES else _module)(case, device, dtype, shared)


def _worst(errors: dict[str, tuple[float, float]]) -> tuple[float, float]:
    # A NaN exceeds every budget.
    return max(errors.values(), key=lambda pair: pair[0] / pair[1] if pair[0] == pair[0] else float("inf"))


# Ops -----------------------------------------------------------------------------------------------------------------


def _inputs(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    """Inputs of an op by name, and a gradient for its result."""
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
    """The function of an implementation, with the arguments of the op."""
    if case.implementation == OURS:
        return OPS[case.workload].function
    if case.implementation in packages.ADAPTERS:
        workload, adapter = packages.ADAPTERS[case.implementation]
        if workload != case.workload:
            raise Unavailable(f"has no {case.workload}")
        if device.type != "cuda":
            raise Unavailable("runs on CUDA devices only")
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
    # Positions and decays are not trained.
    fixed = ("z", "t", "deltas")
    leaves = {
        name: tensor if tensor is None or name in fixed else tensor.detach().requires_grad_()
        for name, tensor in inputs.items()
    }
    run = _call(case, lambda: function(**leaves), leaves.values(), dy)

    def check() -> tuple[float, float]:
        count = min(case.width, max(4, _CHECKED_POINTS[device.type] // (case.batch * case.length)))
        channels = sorted({index * (case.width - 1) // max(1, count - 1) for index in range(count)})
        plain = {name: None if tensor is None else tensor.detach() for name, tensor in inputs.items()}
        gradient = dy if case.direction == "both" else None
        return _worst(errors_on_channels(case.workload, plain, gradient, channels, function))

    return PreparedCase(run, check, chosen)


def _call(
    case: Case, function: Callable[[], Any], leaves: Iterable[Tensor | None], dy: Tensor | tuple[Tensor, ...]
) -> Callable[[], object]:
    """The call of a case: forward without gradients, or forward and the gradients of all leaves that need them."""
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return function()

    return forward if case.direction == "forward" else lambda: torch.autograd.grad(function(), wanted, dy)


class _Projection(torch.autograd.Function):
    """The first stage of the C++ mixer with gradients: short convolution, split and gate. It is not an op."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        from hyena_kernels.backends.cpp.mixer import project

        ctx.save_for_backward(x, weight, bias)
        return project(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        from hyena_kernels.backends.cpp.mixer import project_backward

        return project_backward(*grads, *ctx.saved_tensors)


def _published_projection(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    taps = weight.shape[1]
    p = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=taps - 1, groups=weight.shape[0])
    x0, x1, v = p[..., : x.shape[1]].chunk(3, dim=1)
    # The stages after this one read both channel-first.
    return v * x1, x0.contiguous()


def _projection(case: Case, device: torch.device, dtype: torch.dtype) -> PreparedCase:
    ours = case.implementation == OURS
    if ours and backend.resolve("hyena_mixer_fwd", device) != "cpp":
        raise Unavailable("is a stage of the C++ kernels, which are not in use here")
    if not ours and case.implementation != "published":
        raise Unavailable("has no mixer_projection")
    function = _Projection.apply if ours else _published_projection
    inputs = hyena_mixer_inputs(case.batch, case.length, case.width, dtype=dtype)
    leaves = [inputs[name].requires_grad_() for name in ("x", "short_weight", "short_bias")]
    grads = tuple(torch.randn(case.batch, case.width, case.length).to(dtype) for _ in range(2))

    def results(called: Callable[..., tuple[Tensor, ...]], wide: torch.dtype) -> list[Tensor]:
        tensors = [leaf.detach().to(wide).requires_grad_() for leaf in leaves]
        y = called(*tensors)
        found = [each.detach() for each in y]
        if case.direction == "both":
            found += torch.autograd.grad(y, tensors, [grad.to(wide) for grad in grads])
        return found

    def check() -> tuple[float, float]:
        oracle = results(_published_projection, torch.float64)
        found, plain = (results(each, dtype) for each in (function, _published_projection))
        return _worst(
            {
                str(index): (relative_error(y, exact), error_budget(near, exact))
                for index, (y, near, exact) in enumerate(zip(found, plain, oracle, strict=True))
            }
        )

    return PreparedCase(_call(case, lambda: function(*leaves), leaves, grads), check, "cpp" if ours else None)


# Operator and models -------------------------------------------------------------------------------------------------


def _autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _mixer(case: Case, *, implementation: str, length: int) -> Callable[[], torch.nn.Module]:
    """A function that makes a mixer of an implementation. All of them draw the same weights."""

    def make() -> torch.nn.Module:
        if implementation in ATTENTION:
            return Attention(case.width, implementation)
        operator = HyenaOperator(case.width, length, **_FILTER)
        return operator if implementation == OURS else ExactFilter(operator)

    return make


class _Logits(torch.nn.Module):
    """A language model of transformers that returns its logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """``ids (B, L)`` → ``(B, L, V)``."""
        return self.model(ids).logits

    def loss(self, ids: Tensor) -> Tensor:
        """The mean cross entropy of the ids ``(B, L)`` at their own positions, in nats; without logits, as we train."""
        return self.model.next_token_loss(ids, ids) / ids.numel()


class _PublishedLogits(_Logits):
    """The same with the published loss, from the logits of all positions."""

    def loss(self, ids: Tensor) -> Tensor:
        """As the base class."""
        return F.cross_entropy(self(ids).float().flatten(0, 1), ids.flatten())


def _published_model(case: Case, implementation: str) -> torch.nn.Module:
    from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

    model = HyenaDNAForCausalLM(HyenaDNAConfig.named(case.variant, max_seq_len=case.length, embed_dropout=0.0))
    if implementation != OURS:
        backbone = model.hyena.backbone
        backbone.layers = torch.nn.ModuleList(PublishedBlock(block, ExactFilter) for block in backbone.layers)
    return _Logits(model) if implementation == OURS else _PublishedLogits(model)


def make_model(case: Case, implementation: str, device: torch.device) -> torch.nn.Module:
    """The module of an implementation. The weights are the same for all."""
    torch.manual_seed(0)
    if case.workload in ("hyenadna", "training_step"):
        return _published_model(case, implementation).to(device)
    make = _mixer(case, implementation=implementation, length=case.length)
    if case.workload == "hyena_operator":
        return make().to(device)
    return TwoLayerModel(make, case.width, _VOCABULARY, checkpointed=case.variant == "checkpointed").to(device)


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    from hyenadna.training.optim import parameter_groups

    return torch.optim.AdamW(parameter_groups(model, _WEIGHT_DECAY), lr=_LEARNING_RATE)


def _module(case: Case, device: torch.device, dtype: torch.dtype, shared: Shared) -> PreparedCase:
    is_model = case.workload in _MODELS
    if case.implementation in ATTENTION and case.workload != "two_layer_model":
        raise Unavailable("attention is part of the 2-layer model only")
    if case.implementation not in (OURS, "published", "published_compiled", *ATTENTION):
        raise Unavailable("has neither an operator nor a model")
    model = make_model(case, case.implementation, device)
    called: Callable[..., Tensor] = packages.compiled(model) if case.implementation == "published_compiled" else model
    if is_model:
        x = torch.randint(_VOCABULARY, (case.batch, case.length), device=device)
    else:
        x = torch.randn(case.batch, case.length, case.width, device=device)

    def loss_of(module: Callable[..., Tensor]) -> Tensor:
        with _autocast(device, dtype):
            if module is model and is_model:
                return model.loss(x)
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

    optimizer = make_optimizer(model) if case.workload == "training_step" else None

    def step() -> object:
        assert optimizer is not None
        loss = loss_of(called)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def results(module: torch.nn.Module, autocast: torch.dtype, function: Callable[..., Tensor]) -> dict[str, Tensor]:
        inputs = x if is_model else x.to(next(module.parameters()).dtype)
        with torch.no_grad(), _autocast(device, autocast):
            found = {"y": function(inputs)}
        if case.direction == "forward" or case.length > _GRADIENTS_UP_TO:
            return found
        with _autocast(device, autocast):
            y = function(inputs)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        if is_model:
            # The gradient of the embedding depends on every other gradient.
            leaves = [each.weight for each in module.modules() if isinstance(each, torch.nn.Embedding)]
            loss = F.cross_entropy(wide.flatten(0, 1), x.flatten())
        else:
            leaves = [weight for weight in module.parameters() if weight.numel() >= MIN_ELEMENTS]
            loss = wide.square().mean()
        return found | {f"d{index}": each for index, each in enumerate(torch.autograd.grad(loss, leaves))}

    def exact(wide: torch.dtype, autocast: torch.dtype) -> dict[str, Tensor]:
        module = make_model(case, "exact", device).to(wide)
        return results(module, autocast, module)

    def rounded(value: Tensor) -> Tensor:
        return value.to(dtype) if is_model else value

    def check() -> tuple[float, float]:
        if case.implementation in ATTENTION:
            return error_at_some_queries(case.implementation, case.batch, case.width, case.length, device, dtype)
        if "oracle" not in shared:
            shared["oracle"] = exact(torch.float64, torch.float32)
            shared["plain"] = exact(torch.float32, dtype)
        oracle, plain = shared["oracle"], shared["plain"]
        return _worst(
            {
                name: (relative_error(value, oracle[name]), error_budget(rounded(plain[name]), oracle[name]))
                for name, value in results(model, dtype, called).items()
            }
        )

    chosen = backend.resolve("hyena_mixer_fwd", device) if case.implementation == OURS else None
    run = step if optimizer is not None else forward if case.direction == "forward" else both
    return PreparedCase(run, check, chosen)
