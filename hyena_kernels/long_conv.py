"""Which route the long convolutions of an operator take: all taps and transforms, or near field and far field.

``long_conv`` of an operator is one of :data:`ROUTES`. ``"auto"`` takes the far field where it is faster and as good.
``"fft"`` never takes it. ``"far_field"`` always does, or raises :class:`~hyena_kernels.errors.FarFieldError`. The
environment variable ``HYENA_LONG_CONV`` has the word of operators that say ``"auto"``.

The error is measured for all lengths from a power of two to the next, or to the filters' ``seq_len``. So signals of
many lengths need few measurements. At inference there is one for each state of the parameters. In training some lags
are measured in every forward pass, and where the error has grown too large, a finer plan or the exact route runs from
there on. What is known of a filter stands outside of its module: copies and pickles carry nothing.

On a GPU nothing waits for a measurement in training: it is read one forward pass later.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from hyena_kernels import backend as _backend, far_field_plan as plans
from hyena_kernels.errors import FarFieldError
from hyena_kernels.far_field_plan import Plan
from hyena_kernels.filter_cache import replacements, tensor_states

if TYPE_CHECKING:
    from hyena_kernels.filter import HyenaFilter

log = logging.getLogger("hyena_kernels")

LongConv = Literal["auto", "fft", "far_field"]
ROUTES: tuple[str, ...] = get_args(LongConv)

MIN_LENGTH = {"cpu": 1 << 15}
"""Positions from which ``"auto"`` tries the far field, by device type. Other devices take it by name alone: on a GPU
its kernels have not been timed yet."""

# Lags that one forward pass of training measures: one for so many positions, and at least and at most so many.
_POSITIONS_PER_SAMPLE, _FEWEST_SAMPLES, _MOST_SAMPLES = 1 << 13, 32, 128

_environment = os.environ.get("HYENA_LONG_CONV") or "auto"


def check_route(owner: str, route: Any) -> None:
    """Raise ValueError unless ``route`` is one of :data:`ROUTES`."""
    if route not in ROUTES:
        raise ValueError(f"{owner}: long_conv={route!r} is unknown: choose one of {', '.join(map(repr, ROUTES))}")


def setting(route: str) -> str:
    """What ``long_conv`` asks for: its own word, or that of ``HYENA_LONG_CONV`` if it says ``"auto"``.

    Raises:
        ValueError: the variable has another word.
    """
    if route != "auto":
        return route
    check_route("the environment variable HYENA_LONG_CONV", _environment)
    return _environment


class _Known:
    """What is known of the filters of one module for the lengths of one measurement and one dtype of signals."""

    def __init__(self) -> None:
        self.states: Any = None
        """Of what the plan was measured with, or None after training."""
        self.alive: list[Tensor] = []
        """The tensors of ``states``. While they live, no other tensor can take their address."""
        self.replacements = 0
        """How often weights had been loaded or moved when the plan was measured."""
        self.plan: Plan | None = None
        self.decided = False
        self.error = float("nan")
        """The last error that was measured."""
        self.pending: tuple[Any, Tensor] | None = None
        """An event of a GPU, and the number that is there after it."""


_Key = tuple[int, torch.dtype, torch.device]
_known: weakref.WeakKeyDictionary[nn.Module, OrderedDict[_Key, _Known]] = weakref.WeakKeyDictionary()
# What is known of the lengths of the last calls of one module.
_MOST_KNOWN = 64
_lock = threading.Lock()
_generator = torch.Generator()
_decisions: OrderedDict[tuple[int, str], str] = OrderedDict()
_announced: set[tuple[int, str, str]] = set()


def _new_lock_in_child() -> None:
    """The parent may have been forked while a thread held the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)


def _decided(length: int, dtype: torch.dtype, text: str, *, level: int = logging.INFO, always: bool = False) -> None:
    """Log a decision, each wording once for a length, and keep it for :func:`describe`."""
    name = str(dtype).removeprefix("torch.")
    _decisions[length, name] = text
    _decisions.move_to_end((length, name))
    while len(_decisions) > 8:
        _decisions.popitem(last=False)
    kind = text.partition(":")[0]
    if always or (length, name, kind) not in _announced:
        _announced.add((length, name, kind))
        log.log(level, "long convolutions of up to %s positions in %s: %s", f"{length:,}", name, text)


def _shortest(longest: int) -> int:
    """The fewest positions for which an error is measured together with that of ``longest``."""
    return (1 << (longest - 1).bit_length()) // 2 + 1


def forget_if_trained(filters: nn.Module) -> None:
    """In a call with gradients: let nothing that was measured before count for inference, at any length.

    A fused optimizer changes parameters without a trace.
    """
    if torch.is_grad_enabled():
        with _lock:
            for known in _known.get(filters, {}).values():
                known.states, known.alive = None, []


def route_plan(
    filters: HyenaFilter, length: int, dtype: torch.dtype, *, wanted: str, obstacle: str | None
) -> Plan | None:
    """The plan that filters of ``length`` taps take now, or None for the exact route.

    Args:
        filters: the module.
        length: number of positions.
        dtype: of the signals.
        wanted: what :func:`setting` returns.
        obstacle: why the caller cannot take the far field, or None if it can.

    Raises:
        FarFieldError: ``wanted`` is ``"far_field"``, and it cannot be taken, or its error is above the tolerance.
    """
    if wanted == "fft":
        return None
    by_name = wanted == "far_field"
    refusal = "long_conv='far_field' was asked for, and cannot be taken: "
    if obstacle is not None and by_name:
        raise FarFieldError(refusal + obstacle)
    device = filters.bias.device
    # A length that is traced is a tensor, which would be recorded.
    if not by_name and torch._C._get_tracing_state() is not None:
        return None
    longest = 1 << (length - 1).bit_length()
    if length <= filters.seq_len:
        longest = min(longest, filters.seq_len)
    long_enough = length >= MIN_LENGTH.get(device.type, length + 1)
    if obstacle is None:
        obstacle = _obstacle(filters, length, dtype, device, by_name)
    if obstacle is not None:
        if by_name:
            raise FarFieldError(refusal + obstacle)
        if long_enough:
            with _lock:
                _decided(longest, dtype, f"the exact route: {obstacle}")
        return None
    if not by_name and not long_enough:
        return None
    with _lock:
        of_module = _known.setdefault(filters, OrderedDict())
        key = (longest, dtype, device)
        known = of_module.setdefault(key, _Known())
        of_module.move_to_end(key)
        if len(of_module) > _MOST_KNOWN:
            of_module.popitem(last=False)
        _decide(filters, known, longest, dtype, by_name)
        if by_name and known.plan is None:
            raise FarFieldError(
                f"long_conv='far_field' was asked for, and the filters are too rough for it at {length:,} positions: "
                f"the error of the best plan is {known.error:.1e} of their root mean square, and "
                f"{plans.TOLERANCES[dtype]:.0e} is allowed for {dtype}. long_conv='auto' takes the exact route then"
            )
        return known.plan


def _obstacle(filters: HyenaFilter, length: int, dtype: torch.dtype, device: torch.device, by_name: bool) -> str | None:
    """Why these filters cannot take the far field, or None if they can. Cheap reasons first."""
    if torch.compiler.is_compiling():
        return "torch.compile and torch.export cannot measure the error of a plan"
    if dtype == torch.float64 and not by_name:
        return "signals of float64 take the exact route"
    if dtype not in plans.TOLERANCES:
        return f"signals have dtype {dtype}"
    if device.type not in ("cpu", "cuda"):
        return f"there is no float64 for nodes on {device.type}"
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return "a transform of torch.func or a dispatch mode is active"
    if torch._C._get_tracing_state() is not None:
        return "the model is traced"
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is captured"
    if length > filters.seq_len:
        return f"the filters were made for {filters.seq_len:,} positions"
    return filters.far_field_obstacle()


def _decide(filters: HyenaFilter, known: _Known, length: int, dtype: torch.dtype, by_name: bool) -> None:
    # Recomputation under activation checkpointing must take the route of the forward pass before it.
    if known.decided and torch._C._current_graph_task_id() != -1:
        return
    states, alive = tensor_states(filters)
    if states is not None:
        # The window has two settings that are no tensors.
        states = (states, filters.modulation.modulate, filters.modulation.shift)
    if known.decided and states is not None and states == known.states:
        return
    # Nothing tells whether a training step that follows changes the parameters.
    known.states, known.alive = states, alive
    tolerance = plans.TOLERANCES[dtype]
    if known.decided and states is None and known.replacements == replacements(filters):
        # Training does not come back from the exact route: filters do not become smoother.
        if known.plan is None:
            return
        error = _checked(filters, known, length)
        if error is None or error <= tolerance:
            return
        before = known.plan
        what = _plan(filters, known, length, dtype, by_name)
        _decided(
            length,
            dtype,
            f"the filters have become too rough for blocks of {before.h} with {before.p} nodes: the error is "
            f"{error:.1e} of their root mean square, {tolerance:.0e} is allowed, {what} from now on",
            level=logging.WARNING,
            always=True,
        )
        return
    what = _plan(filters, known, length, dtype, by_name)
    _decided(
        length,
        dtype,
        f"{what}: the error of the {'far field' if known.plan else 'best far field'} is {known.error:.1e} of the "
        f"filters' root mean square, {tolerance:.0e} is allowed",
    )


def _plan(filters: HyenaFilter, known: _Known, length: int, dtype: torch.dtype, by_name: bool) -> str:
    """Take the cheapest plan that holds the tolerance, or none. Returns the route in words."""
    tolerance = plans.TOLERANCES[dtype]
    known.plan, known.decided, known.pending = None, True, None
    known.replacements = replacements(filters)
    best = float("inf")
    found = plans.measured(filters.network(), length, dtype, _generator, any_cost=by_name, shortest=_shortest(length))
    for plan, error in found:
        # A NaN is no error below the tolerance.
        if error <= tolerance:
            known.plan, known.error = plan, error
            return f"blocks of {plan.h} with {plan.p} nodes"
        best = min(best, error)
    known.error = best
    return "the exact route"


def _checked(filters: HyenaFilter, known: _Known, length: int) -> float | None:
    """The error of the plan at some lags with the parameters of now, or None while a GPU has no answer yet."""
    assert known.plan is not None
    samples = min(max(length // _POSITIONS_PER_SAMPLE, _FEWEST_SAMPLES), _MOST_SAMPLES)
    device = filters.bias.device
    if device.type != "cuda":
        return plans.measured_error(
            filters.network(),
            known.plan,
            length,
            samples=samples,
            generator=_generator,
            shortest=_shortest(length),
        )
    answer = None
    if known.pending is not None:
        event, number = known.pending
        if not event.query():
            return None
        answer = float(number)
    sample = plans.draw(known.plan, length, samples, _generator)
    number = torch.empty((), dtype=torch.float64, pin_memory=True)
    error = plans.error_at(filters.network(), known.plan, length, sample, _shortest(length))
    number.copy_(error, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    known.pending = event, number
    return answer


def describe() -> list[str]:
    """Lines for :func:`hyena_kernels.backend.describe`: the setting, where it begins, and the last decisions."""
    try:
        word = setting("auto")
    except ValueError as error:
        return ["", f"long convolutions: {error}"]
    begins = ", ".join(f"{length:,} positions on {device}" for device, length in MIN_LENGTH.items())
    lines = ["", f"long convolutions: long_conv={word!r}; auto tries the far field from {begins}, elsewhere by name"]
    lines += [f"  up to {length:,} positions in {name}: {text}" for (length, name), text in _decisions.items()]
    return lines


_backend.add_note(describe)
