"""The operator library ``hyena_kernels::`` and how one of its ops is registered.

Every op is functional and of fixed arity, and has a schema, a fake, an autograd formula and one Python chooser
that hands the call to the backend it names. The choice is made inside the op, so that a compiled graph holds no
guard on length or device for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.registration import eager

LIBRARY = torch.library.Library("hyena_kernels", "DEF")

# Asking whether autocast is on for one of these raises. Asked here once and not by `to_autocast` at every call: what
# asks cannot be traced by every torch.compile (torch 2.11).
_WITHOUT_AUTOCAST = tuple(
    device_type for device_type in ("meta", "lazy", "vulkan") if not torch.amp.is_autocast_available(device_type)
)


def define(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    *,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Define ``hyena_kernels::<name>``; the last argument of ``schema`` must be ``str backend``.

    Args:
        name: op name, such as ``"fftconv_fwd"``.
        schema: arguments and results in torch's schema language, without the name.
        fake: the same call on fake tensors: shapes, dtypes and strides of the results.
        backward: from ``ctx`` and the gradients of the results to those of the arguments. Without one, a derivative of
            the op raises NotImplementedError instead of losing gradients in silence.
        setup_context: saves for ``backward``, as ``torch.library.register_autograd`` calls it.

    Returns:
        The op, to be called with all its arguments by position.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))

    def choose(*args: Any) -> Any:
        *arguments, requested = args
        run = _backend.implementation(name, arguments, requested)
        device_type = arguments[0].device.type
        try:
            # Entering the context costs as much as some of the kernels.
            if device_type in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device_type):
                return run(*arguments)
            # Autocast would turn the matrix products inside an implementation into half precision ones.
            with torch.autocast(device_type, enabled=False):
                return run(*arguments)
        except Exception as error:
            _backend.pass_over(name, arguments, requested, run, error)
        # Inputs are never written to: the next backend finds them as they were.
        return choose(*args)

    LIBRARY.impl(name, choose, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyena_kernels::{name}", fake, lib=LIBRARY)
    formula = backward or _no_derivative(name)
    save = setup_context or _save_nothing
    torch.library.register_autograd(f"hyena_kernels::{name}", formula, setup_context=save, lib=LIBRARY)
    return _entrance(getattr(torch.ops.hyena_kernels, name).default, choose, formula, save)


def _no_derivative(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"hyena_kernels::{name} has no derivative: the ops can be differentiated once. For second derivatives use "
            f"hyena_kernels.testing.reference_{name.removesuffix('_bwd')}, the same op in plain PyTorch"
        )

    return backward


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _entrance(
    op: Callable[..., Any], choose: Callable[..., Any], formula: Callable[..., Any], save: Callable[..., None]
) -> Callable[..., Any]:
    """``op`` for eager callers: past the dispatcher where it has nothing to do, and with its derivative anywhere.

    What ``torch.library.register_autograd`` makes has no setup_context of its own, and ``torch.func.grad`` refuses it
    (pytorch issue 170834); an ``autograd.Function`` around the same op and the same formula is accepted.
    """

    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(op)
        setup_context = staticmethod(save)
        backward = staticmethod(formula)

    # A setup_context of its own would have torch inspect the signature at every call.
    def forward(ctx: Any, *args: Any) -> Any:
        result = choose(*args)
        save(ctx, args, result)
        return result

    methods = {"forward": staticmethod(forward), "backward": staticmethod(formula)}
    # Named for what prints the nodes of a graph.
    recorded: Any = type(op._opname, (torch.autograd.Function,), methods)  # type: ignore[attr-defined]

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if eager.plain(args):
            return recorded.apply(*args) if eager.recorded(args) else choose(*args)
        return Transformed.apply(*args) if torch._C._are_functorch_transforms_active() else op(*args)

    return call


def to_autocast(signal: Tensor) -> Tensor:
    """A signal as autocast wants it: its dtype in place of another 16- or 32-bit one; unchanged without autocast.

    Filters and biases are not signals: they keep their dtype, for the transforms are computed in float32 or better.
    """
    device_type = signal.device.type
    if device_type in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device_type):
        return signal
    return signal if signal.dtype == torch.float64 else signal.to(torch.get_autocast_dtype(device_type))
