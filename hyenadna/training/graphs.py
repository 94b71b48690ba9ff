"""A training step as one CUDA graph: loss, backward pass, clipping and AdamW in a single launch.

A short sequence leaves a GPU waiting for Python, which takes longer to launch each kernel than the kernel takes to run.
A graph holds all launches of a step and repeats them at once. It repeats them on the same memory, so the batch is
copied to one place, and nothing in the step may depend on a value that Python reads.

Source: PyTorch's notes on CUDA graphs, "Whole-network capture".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hyenadna.baselines.loading import LanguageModel
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.device import autocast as precision_of
from hyenadna.model.layers import HyenaDNABackbone, HyenaDNABlock, Recomputation
from hyenadna.model.loss import next_token_loss

# What AdamW reads from a group when it is captured. A graph keeps the values of that moment.
_CAPTURED = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class GraphError(InputError):
    """A training step that no CUDA graph can hold. The message is one line: what is in the way, and what to do."""


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    *,
    clip: float,
    accumulate: int = 1,
    autocast: str = "auto",
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Update the weights once. Python reads no value of any tensor, so that a CUDA graph can hold all of it.

    Args:
        model: a causal language model; its parameters change.
        optimizer: its state changes, and the learning rate is what its groups say.
        batch: token ids of any integer dtype, ``(B, L+1)``, on the model's device.
        clip: greatest norm of the gradient.
        accumulate: micro-batches that the batch is cut into. The loss is the mean over the whole batch.
        autocast: precision of the matrix products, as :func:`hyenadna.model.device.autocast` takes it.
        scaler: scaler of the loss for float16. It reads values, so no graph can hold it.

    Returns:
        ``(2,)``: the mean loss in nats, and the norm of the gradient before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    batch = batch.to(torch.long)
    inputs, targets = batch[:, :-1], batch[:, 1:]
    count = ((targets != PAD_ID) & (targets != N_ID)).sum().clamp(min=1)
    losses = []
    for ids, wanted in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
        loss = _summed_loss(model, ids, wanted, autocast) / count
        (loss if scaler is None else scaler.scale(loss)).backward()
        losses.append(loss.detach())
    norm = update_weights(model, optimizer, clip=clip, scaler=scaler)
    total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    return torch.stack([total, norm.to(total)])


def update_weights(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float, scaler: torch.amp.GradScaler | None
) -> Tensor:
    """The end of a training step: clip the gradients, and let the optimizer use them.

    Args:
        model: the model, with its gradients.
        optimizer: its optimizer.
        clip: greatest norm of the gradient.
        scaler: scaler of the loss for float16.

    Returns:
        The norm of the gradient before clipping.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return norm


def _summed_loss(model: nn.Module, ids: Tensor, targets: Tensor, autocast: str) -> Tensor:
    with precision_of(autocast, ids.device):
        if isinstance(model, LanguageModel):
            return model.next_token_loss(ids, targets, ignored=(PAD_ID, N_ID))
        return next_token_loss(model(ids).logits, targets)


class GraphedStep:
    """A captured training step, as :func:`make_graphed_step` returns it.

    Attributes:
        shape: shape of the batches, ``(B, L+1)``.
        dtype: dtype of the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Tensor,
        launch: Callable[[], None],
        result: Tensor,
    ) -> None:
        self.shape, self.dtype = batch.shape, batch.dtype
        self._model, self._optimizer = model, optimizer
        self._batch, self._launch, self._result = batch, launch, result
        # Listed once: to walk through the modules takes longer than all else that a call does in Python.
        self._parameters = list(model.parameters())
        self._backbones = [module for module in model.modules() if isinstance(module, HyenaDNABackbone)]
        self._state = optimizer.state
        self._captured = self._settings()

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once.

        Args:
            batch: token ids ``(B, L+1)`` on any device, of the shape and dtype that the step was captured for.

        Returns:
            The mean loss in nats, and the norm of the gradient before clipping: scalars on the device. They are copies,
            so later calls leave them as they are.

        Raises:
            GraphError: the batch has another shape or dtype, or the model or the optimizer is no longer what was
                captured.
        """
        loss, norm = self.replay(batch).clone().unbind()
        return loss, norm

    def replay(self, batch: Tensor) -> Tensor:
        """As a call, but the loss and the norm come as one tensor ``(2,)``, which the next call overwrites."""
        if batch.shape != self.shape or batch.dtype != self.dtype:
            raise GraphError(
                f"a batch {tuple(batch.shape)} of {_name(batch.dtype)} for a step that was captured for "
                f"{tuple(self.shape)} of {_name(self.dtype)}: a graph holds one shape and dtype; call "
                "make_graphed_step for each"
            )
        self._check_captured()
        with torch.no_grad():
            self._batch.copy_(batch, non_blocking=True)
        self._launch()
        return self._result

    def _settings(self) -> dict[str, Any]:
        """What the graph has taken over from Python, to be compared at every call."""
        groups = self._optimizer.param_groups
        return {
            "the memory of the parameters": [parameter.data_ptr() for parameter in self._parameters],
            "requires_grad of the parameters": [parameter.requires_grad for parameter in self._parameters],
            "train() or eval() of the model": self._model.training,
            # A graph reads the samples where they were. So a block with the same tensor, filled anew, may go on.
            "the block of dropout_by_position": [
                None if given is None else (given.seed, given.samples.data_ptr())
                for given in (backbone.dropped_by_position for backbone in self._backbones)
            ],
            "a setting in the groups of the optimizer": [
                [_identity(group[key]) for key in _CAPTURED] for group in groups
            ],
            "the number of parameters of the optimizer": [len(group["params"]) for group in groups],
        }

    def _check_captured(self) -> None:
        settings = self._settings()
        if settings == self._captured and self._optimizer.state is self._state:
            return
        changed = [name for name, value in settings.items() if value != self._captured[name]]
        if self._optimizer.state is not self._state:
            changed.append("the state of the optimizer, as by load_state_dict")
        raise GraphError(
            f"{', '.join(changed)} changed after the step was captured, and the graph would go on with the old: call "
            "make_graphed_step again, or, for the learning rate, fill its tensor (group['lr'].fill_(lr))"
        )


def make_graphed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    example_batch: Tensor,
    *,
    clip: float = 1.0,
    accumulate: int = 1,
    autocast: str = "auto",
) -> GraphedStep:
    """Capture loss, backward pass, clipping and AdamW as one CUDA graph.

    The step runs twice here to prepare libraries and memory, and once to be captured. Afterwards the weights, the
    optimizer's state and the random numbers are those of before; moments that AdamW had not made yet exist as zeros.
    Dropout draws new numbers at every call. The gradients of a call stay in ``parameter.grad``, clipped. The graph
    keeps the memory of a whole step for as long as it exists.

    Args:
        model: a model whose call with ids ``(B, L)`` returns ``logits``, such as ``HyenaDNAForCausalLM``, on a CUDA
            device.
        optimizer: ``torch.optim.AdamW`` with ``capturable=True`` and a learning rate that is a tensor on the device.
            Set the rate between calls with ``group["lr"].fill_(lr)``; torch's schedulers do so too.
        example_batch: token ids ``(B, L+1)`` of any integer dtype on the model's device. Its values do not matter.
        clip: greatest norm of the gradient.
        accumulate: micro-batches that a batch is cut into, all in the one graph.
        autocast: ``"auto"`` and ``"bfloat16"`` compute matrix products in bfloat16, ``"off"`` in the weights' dtype.

    Returns:
        A function of a batch, on any device, that returns the loss and the norm of the gradient before clipping.

    Raises:
        GraphError: a graph cannot hold the step, and the message says what is in the way: the device, the optimizer,
            float16, which needs a scaler, hooks, dropout in checkpointed blocks, an operation that waits for the
            device, or too little memory. A batch of another shape is refused at the call.
        InputError: the batch holds no ids ``(B, L+1)``, an argument is out of range, or the model refuses the ids.

    Example:
        >>> lr = torch.tensor(6e-4, device="cuda")  # doctest: +SKIP
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=lr, capturable=True, fused=True)  # doctest: +SKIP
        >>> step = hyenadna.make_graphed_step(model, optimizer, batches[0])  # doctest: +SKIP
        >>> for batch in batches:  # doctest: +SKIP
        ...     loss, norm = step(batch)
    """
    device = _check_model(model)
    _check_optimizer(optimizer, model, device)
    _check_batch(example_batch, device, clip, accumulate)
    if autocast == "float16":
        raise GraphError(
            "autocast float16 needs a scaler of the loss, and Python reads whether its gradients are finite: take "
            "bfloat16 or off, or train op by op"
        )
    if torch.is_autocast_enabled(device.type):
        raise GraphError(
            "called inside torch.autocast, whose copies of the weights would be captured instead of the weights: "
            "leave its block, and pass `autocast`"
        )
    batch = example_batch.detach().clone()
    step = partial(training_step, model, optimizer, batch, clip=clip, accumulate=accumulate, autocast=autocast)
    with _kept(model, optimizer, device), _checkpoints_without_random_state(model):
        launch, result = _capture(step, device)
    return GraphedStep(model, optimizer, batch, launch, result)


def _check_model(model: nn.Module) -> torch.device:
    """The CUDA device of the whole model."""
    if isinstance(config := getattr(model, "config", None), HyenaDNAConfig) and config.bidirectional:
        raise GraphError("the model is bidirectional, and the step predicts the next token, which it sees")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if not tensors:
        raise GraphError("the model has no parameters")
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if type(tensor) not in (nn.Parameter, Tensor):
            raise GraphError(f"{name} is a {type(tensor).__name__}: only whole tensors on one device can be captured")
        if not _is_cuda(tensor) or tensor.device != device:
            raise GraphError(
                f"{name} is on {tensor.device}: a CUDA graph needs the whole model on one CUDA device; move it there "
                "with model.to('cuda'), before the optimizer is made"
            )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise GraphError("DistributedDataParallel sums gradients in hooks of its own: train op by op")
    for name, module in model.named_modules():
        # transformers has one on the embedding of a checkpointed model, which asks for gradients and computes nothing.
        hooks = [hook for kind in _HOOKS for hook in getattr(module, kind).values()]
        if any(getattr(hook, "__module__", "").partition(".")[0] != "transformers" for hook in hooks):
            raise GraphError(
                f"{name or 'the model'} has hooks, which would run while the step is captured and never again: remove "
                "them, or train op by op"
            )
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise GraphError(
                f"{name} has a hook on its gradient, which would run while the step is captured and never again: "
                "remove it, or train op by op"
            )
    return device


def _check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, device: torch.device) -> None:
    advice = (
        "take torch.optim.AdamW(parameters, lr=torch.tensor(lr, device='cuda'), capturable=True), also with fused=True"
    )
    if not isinstance(optimizer, torch.optim.AdamW):
        raise GraphError(f"the optimizer is a {type(optimizer).__name__}: {advice}")
    for group in optimizer.param_groups:
        if not group["capturable"]:
            raise GraphError(f"the optimizer is not capturable: {advice}")
        if group["differentiable"]:
            raise GraphError(f"the optimizer is differentiable: {advice}")
        lr = group["lr"]
        if not isinstance(lr, Tensor) or lr.device != device:
            found = f"a tensor on {lr.device}" if isinstance(lr, Tensor) else f"the number {lr:g}"
            raise GraphError(f"the learning rate is {found}, which the graph would keep for ever: {advice}")
    optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in optimized:
            raise GraphError(
                f"{name} is not among the parameters of the optimizer, so that its gradient would grow from call to "
                "call: add it, or freeze it with requires_grad_(False)"
            )
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise GraphError(
            "the optimizer has hooks, which would run while the step is captured and never again: remove them, or "
            "train op by op"
        )


def _check_batch(batch: Tensor, device: torch.device, clip: float, accumulate: int) -> None:
    if batch.dim() != 2 or batch.shape[0] < 1 or batch.shape[1] < 2:
        raise InputError(f"the batch must be token ids (B, L+1) with L of at least 1, got shape {tuple(batch.shape)}")
    if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
        raise InputError(f"the batch must be token ids, which are integers, got {_name(batch.dtype)}")
    if batch.device != device:
        raise GraphError(f"the batch is on {batch.device}, and the model on {device}: move the batch there")
    if not clip > 0:
        raise InputError(f"clip {clip}: must be above 0")
    if not 1 <= accumulate <= batch.shape[0]:
        raise InputError(f"accumulate {accumulate}: must be from 1 to the {batch.shape[0]} rows of the batch")


@contextmanager
def _kept(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Take back what training steps in the block change: weights, buffers, the optimizer's state, random numbers."""
    tensors = list(chain(model.parameters(), model.buffers()))
    values = [tensor.detach().clone() for tensor in tensors]
    state = {
        parameter: {key: value.clone() for key, value in kept.items()} for parameter, kept in optimizer.state.items()
    }
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
                for parameter, made in optimizer.state.items():
                    for key, value in made.items():
                        # In place, because the graph holds these tensors. AdamW itself begins with zeros.
                        value.copy_(state[parameter][key]) if parameter in state else value.zero_()


@contextmanager
def _checkpoints_without_random_state(model: nn.Module) -> Iterator[None]:
    """Let checkpointed modules keep no state of the random numbers, which cannot be read during a capture.

    Raises:
        GraphError: dropout is at work in such a module, so that the state is needed.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    for name, module in model.named_modules():
        if not (getattr(module, "gradient_checkpointing", False) and module.training):
            continue
        dropouts = (part for part in module.modules() if isinstance(part, nn.modules.dropout._DropoutNd))
        if any(dropout.training and dropout.p > 0 for dropout in dropouts):
            raise GraphError(
                f"{name} has dropout and is checkpointed: a capture cannot keep the random numbers for the second "
                "forward pass; set its dropout to 0, or turn off checkpointing"
            )
        if isinstance(module, HyenaDNABlock) and module.recomputation is not None:
            if _is_torchs(module.recomputation.function):
                changed.append((module, "recomputation", module.recomputation))
        # Other functions have their own arguments.
        elif _is_torchs(module._gradient_checkpointing_func):
            changed.append((module, "_gradient_checkpointing_func", module._gradient_checkpointing_func))
    try:
        for module, attribute, before in changed:
            if isinstance(before, Recomputation):
                function = partial(before.function, preserve_rng_state=False)
                setattr(module, attribute, before._replace(function=function, rng_is_given=True))
            else:
                setattr(module, attribute, partial(before, preserve_rng_state=False))
        yield
    finally:
        for module, attribute, before in changed:
            setattr(module, attribute, before)


def _is_torchs(function: Any) -> bool:
    """Whether a function of checkpointing is PyTorch's, perhaps with some arguments given."""
    while isinstance(function, partial):
        function = function.func
    return function is checkpoint


def _capture(step: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Warm up and capture a step. Returns what launches it, and the tensor that each launch fills."""
    try:
        with torch.cuda.device(device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            _warm_up(step, device)
            # A capture that fails leaves its own stream current.
            with torch.cuda.stream(torch.cuda.current_stream()):
                return _record(step)
    except torch.OutOfMemoryError as error:
        raise GraphError(
            f"the memory of {device} does not hold a step and its graph: take a smaller batch, raise `accumulate`, or "
            "train op by op"
        ) from error
    except InputError:
        raise
    except Exception as error:
        raise GraphError(
            f"the step cannot be captured: {_place(error)}: {_first_line(error)}; take out what reads values or makes "
            "tensors from Python's, or train op by op"
        ) from error


def _warm_up(step: Callable[[], Tensor], device: torch.device) -> None:
    """Run a step twice on a stream of its own: libraries and the optimizer set themselves up in the first.

    The second refuses to wait for the device, as a capture would, but it can name the operation.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step()
        _run_without_waits(step)
    torch.cuda.current_stream(device).wait_stream(stream)


def _record(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    graph = torch.cuda.CUDAGraph()
    # Other threads go on meanwhile: a DataLoader's pins memory, which a capture in "global" mode forbids.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        result = step()
    return graph.replay, result


class _LastOp(TorchDispatchMode):
    """Remembers the last operation that was called."""

    name = "nothing yet"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = str(function)
        return function(*args, **(kwargs or {}))


def _run_without_waits(step: Callable[[], Tensor]) -> None:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except (InputError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        raise GraphError(
            f"{_failing_op(step) or _place(error)} cannot be captured ({_first_line(error)}): take out what reads "
            "values or makes tensors from Python's, or train op by op"
        ) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _failing_op(step: Callable[[], Tensor]) -> str | None:
    """The operation that fails in a step. None if none does: a mode that listens may change how things are computed."""
    last = _LastOp()
    try:
        with last:
            step()
    except RuntimeError:
        return last.name
    return None


def _place(error: BaseException) -> str:
    """The innermost function in which an error, or the one that it followed, was raised."""
    while error.__context__ is not None:
        error = error.__context__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    code = trace.tb_frame.f_code
    return f"{code.co_name} in {Path(code.co_filename).name}, line {trace.tb_lineno}"


def _first_line(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _is_cuda(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _identity(value: Any) -> Any:
    """A value to compare: tensors, which change in place, by their memory."""
    return value.data_ptr() if isinstance(value, Tensor) else value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
