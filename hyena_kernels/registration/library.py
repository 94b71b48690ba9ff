"""The operator library ``hyena_kernels::`` and the definition of its ops.

An op takes a fixed number of arguments. It has a schema, a fake, an autograd formula and one Python function that calls
the chosen backend. The choice is made inside the op. So a compiled graph has no guard on length or device for it. All
ops are functional but those of :func:`define_update`, which have no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hyena_kernels import backend as _backend
from hyena_kernels.common.gradients import gradients_like, only_needed
from hyena_kernels.registration import eager

LIBRARY = torch.library.Library("hyena_kernels", "DEF")

# torch.is_autocast_enabled raises for these. The question is asked once here, because torch.compile cannot trace it in
# torch 2.11.
_WITHOUT_AUTOCAST = tuple(
    device_type for device_type in ("meta", "lazy", "vulkan") if not torch.amp.is_autocast_available(device_type)
)


def define_op(
    name: str,
    arguments: str,
    inputs_type: type[Any],
    fake: Callable[..., Tensor],
    *,
    gradient: str = "dy",
    gradients: Callable[[Sequence[Tensor | None], Sequence[bool]], tuple[Tensor, ...]] = gradients_like,
) -> Callable[..., Any]:
    """Define ``hyena_kernels::<name>_fwd`` and its derivative ``<name>_bwd``.

    The ops take flat arguments. Backends and ``fake`` take the tensors as one ``inputs``, as
    :mod:`hyena_kernels.backends` describes.

    Args:
        name: name of the op without its direction, such as ``"fftconv"``.
        arguments: its arguments in torch's schema language: the fields of ``inputs_type``, then options such as
            ``"bool causal"``. The requested backend is added as the last one.
        inputs_type: the op's class in :mod:`hyena_kernels.common.inputs`.
        fake: called as ``fake(inputs, *options)``: a tensor with the shape, dtype and strides of the result.
        gradient: what the schema of ``<name>_bwd`` calls the gradient of the result.
        gradients: called as ``gradients(inputs, needs)``: tensors with the shapes, dtypes and strides of what
            ``<name>_bwd`` returns.

    Returns:
        ``<name>_fwd``, to be called with all its arguments by position. Only the tensors are saved for backward.
    """
    count = len(inputs_type._fields)

    def group_forward(args: Sequence[Any]) -> tuple[Any, ...]:
        return inputs_type._make(args[:count]), *args[count:]

    def group_backward(args: Sequence[Any]) -> tuple[Any, ...]:
        tensors = inputs_type._make(args[1 : count + 1])
        needs = [needed and tensor is not None for needed, tensor in zip(args[-1], tensors, strict=True)]
        return args[0], tensors, *args[count + 1 : -1], needs

    def forward_fake(*args: Any) -> Tensor:
        return fake(*group_forward(args[:-1]))

    def backward_fake(*args: Any) -> tuple[Tensor, ...]:
        return gradients(args[1 : count + 1], args[-2])

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *ctx.options, ctx.backend = inputs[count:]
        ctx.save_for_backward(*inputs[:count])

    def derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[:count])
        grads = backward(grad, *ctx.saved_tensors, *ctx.options, needs, ctx.backend)
        return *only_needed(grads, needs), *(None for _ in ctx.options), None

    returns = ", ".join(["Tensor"] * count)
    schema = f"(Tensor {gradient}, {arguments}, bool[] needs, str backend) -> ({returns})"
    backward = _define(f"{name}_bwd", schema, group_backward, backward_fake, _no_derivative(name), _save_nothing)
    schema = f"({arguments}, str backend) -> Tensor"
    return _define(f"{name}_fwd", schema, group_forward, forward_fake, derivative, save)


def define(
    name: str,
    arguments: str,
    inputs_type: type[Any],
    fake: Callable[..., Any],
    *,
    gradients: int = 0,
    results: int = 1,
    derivative: tuple[Callable[..., Any], Callable[..., None]] | None = None,
) -> Callable[..., Any]:
    """Define ``hyena_kernels::<name>``, one direction of an op that :func:`define_op` does not fit.

    Such an op has several results, or its backward pass takes something else than the inputs. Its file defines
    ``<op>_bwd`` first, and then ``<op>_fwd`` with a derivative that calls the former.

    Args:
        name: name of the op with its direction, such as ``"add_layer_norm_fwd"``.
        arguments: its arguments in torch's schema language: ``gradients`` gradients of results, the fields of
            ``inputs_type``, then options. The first is a tensor, which is always present. The requested backend is
            added as the last one.
        inputs_type: a class of :mod:`hyena_kernels.common.inputs`. Backends and ``fake`` take its fields as one object.
        fake: called as a backend: ``fake(*gradients, inputs, *options)``, with results of the right shapes, dtypes and
            strides.
        gradients: how many gradients of results the arguments begin with.
        results: number of results. The op returns a tensor if it is 1, else a tuple.
        derivative: the functions ``backward`` and ``setup_context`` of ``torch.library.register_autograd``. A forward
            pass needs them. ``setup_context`` may save results. If it calls ``ctx.set_materialize_grads(False)``, the
            gradient of an unused result is None. Without them the op's own derivative raises.

    Returns:
        The op, to be called with all its arguments by position.
    """
    end = gradients + len(inputs_type._fields)

    def group(args: Sequence[Any]) -> tuple[Any, ...]:
        return *args[:gradients], inputs_type._make(args[gradients:end]), *args[end:]

    def fake_op(*args: Any) -> Any:
        return fake(*group(args[:-1]))

    returns = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    formula, save = derivative or (_no_derivative(name.removesuffix("_bwd")), _save_nothing)
    return _define(name, f"({arguments}, str backend) -> {returns}", group, fake_op, formula, save)


def define_update(
    name: str, arguments: str, inputs_type: type[Any], fake: Callable[..., Tensor], *, writes: Sequence[str]
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Define ``hyena_kernels::<name>``, which changes some of its arguments and returns one new tensor.

    It is for inference: a call is refused if autograd would record it, under ``torch.func``, and with dual tensors.

    Args:
        name: name of the op, such as ``"hyena_mixer_step"``.
        arguments: its arguments as those of :func:`define_op`. What it changes is marked, such as
            ``"Tensor(a!) short_state"``.
        inputs_type: the op's class in :mod:`hyena_kernels.common.inputs`.
        fake: called as ``fake(inputs, *options)``: a tensor with the shape, dtype and strides of the result.
        writes: the fields of ``inputs_type`` that it changes.

    Returns:
        The op, to be called with all its arguments by position; and what may be called instead of it where
        :func:`.eager.plain` is known to hold for the arguments.
    """
    count = len(inputs_type._fields)
    places = [inputs_type._fields.index(field) for field in writes]

    def group(args: Sequence[Any]) -> tuple[Any, ...]:
        return inputs_type._make(args[:count]), *args[count:]

    choose = _chooser(name, group)

    def update(*args: Any) -> Tensor:
        _refuse_gradients(name, args)
        result: Tensor = choose(*args)
        # Kernels write past autograd, which would not notice that a tensor it has saved is another one now.
        torch.autograd.graph.increment_version([args[place] for place in places])
        return result

    def checked_fake(*args: Any) -> Tensor:
        _refuse_gradients(name, args)
        _refuse_tangents(name, args)
        return fake(*group(args[:-1]))

    LIBRARY.define(f"{name}({arguments}, str backend) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, update, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyena_kernels::{name}", checked_fake, lib=LIBRARY)
    op = getattr(torch.ops.hyena_kernels, name).default

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return op(*args)
        if eager.plain(args):
            return update(*args)
        if torch._C._are_functorch_transforms_active():
            raise NotImplementedError(
                f"hyena_kernels::{name} writes to an argument: transforms of torch.func refuse it"
            )
        return op(*args)

    return call, update


def _refuse_gradients(name: str, args: Sequence[Any]) -> None:
    """Raise if autograd would have to record a call of an op without a derivative."""
    if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        raise RuntimeError(
            f"{name} has no derivative, and an argument requires grad: call it under torch.no_grad(), or detach it"
        )


def _chooser(name: str, group: Callable[[Sequence[Any]], tuple[Any, ...]]) -> Callable[..., Any]:
    """The function of all the arguments of an op that runs it on the backend that its last argument asks for."""

    def choose(*args: Any) -> Any:
        _refuse_tangents(name, args)
        *arguments, requested = args
        run = _backend.implementation(name, arguments, requested)
        device_type = arguments[0].device.type
        try:
            # Entering the context costs as much as some of the kernels.
            if device_type in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device_type):
                return run(*group(arguments))
            # Autocast would compute the matrix products of an implementation in half precision.
            with torch.autocast(device_type, enabled=False):
                return run(*group(arguments))
        except Exception as error:
            _backend.pass_over(name, arguments, requested, run, error)
        # A backend that cannot launch its kernels has not written to its arguments: the next one finds them unchanged.
        return choose(*args)

    return choose


def _define(
    name: str,
    schema: str,
    group: Callable[[Sequence[Any]], tuple[Any, ...]],
    fake: Callable[..., Any],
    formula: Callable[..., Any],
    save: Callable[..., None],
) -> Callable[..., Any]:
    """Define ``hyena_kernels::<name>`` and return it.

    Args:
        name: op name, such as ``"fftconv_fwd"``.
        schema: arguments and results in torch's schema language; the last argument is ``str backend``.
        group: from the arguments without the backend to those of a backend's function.
        fake: the op on fake tensors.
        formula: from ``ctx`` and the gradients of the results to the gradients of the arguments.
        save: saves for ``formula``, as the ``setup_context`` of ``torch.library.register_autograd``.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))

    choose = _chooser(name, group)

    def checked_fake(*args: Any) -> Any:
        _refuse_tangents(name, args)
        return fake(*args)

    LIBRARY.impl(name, choose, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyena_kernels::{name}", checked_fake, lib=LIBRARY)
    torch.library.register_autograd(f"hyena_kernels::{name}", formula, setup_context=save, lib=LIBRARY)
    return _entrance(name, getattr(torch.ops.hyena_kernels, name).default, choose, formula, save)


def _no_derivative(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"hyena_kernels::{name}_bwd has no derivative: the ops can be differentiated once. For second derivatives "
            f"use hyena_kernels.testing.reference_{name}, the same op in plain PyTorch"
        )

    return backward


def _no_tangent(name: str) -> NotImplementedError:
    op = name.removesuffix("_fwd").removesuffix("_bwd")
    return NotImplementedError(
        f"hyena_kernels::{name} has no derivative in forward mode (jvp, jacfwd, dual tensors). For it use "
        f"hyena_kernels.testing.reference_{op}, the same op in plain PyTorch"
    )


def _refuse_tangents(name: str, args: Sequence[Any]) -> None:
    """Raise if an argument is a dual tensor: torch would give a result without a tangent, and no error."""
    if forward_ad._current_level < 0:
        return
    try:
        dual = any(isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None for arg in args)
    except RuntimeError:
        # torch.func.linearize traces dual tensors in a way in which they cannot be unpacked.
        dual = True
    if dual:
        raise _no_tangent(name)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _entrance(
    name: str,
    op: Callable[..., Any],
    choose: Callable[..., Any],
    formula: Callable[..., Any],
    save: Callable[..., None],
) -> Callable[..., Any]:
    """``op`` for eager callers: it bypasses the dispatcher for plain calls, and has a derivative under ``torch.func``.

    ``torch.func.grad`` refuses the derivative that ``torch.library.register_autograd`` makes, because that has no
    setup_context (pytorch issue 170834). It accepts an ``autograd.Function`` around the same op and the same formula.
    """

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _no_tangent(name)

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        # One call for each entry, as torch's own rule has it. But that one warns, and fails on traced tensors.
        def entry(i: int) -> Any:
            pairs = zip(args, in_dims, strict=True)
            return call(*(arg.select(dim, i) if isinstance(dim, int) else arg for arg, dim in pairs))

        entries = [entry(i) for i in range(info.batch_size)]
        if isinstance(entries[0], Tensor):
            return torch.stack(entries), 0
        stacked = tuple(torch.stack(results) for results in zip(*entries, strict=True))
        return stacked, (0,) * len(stacked)

    functions = {"forward": op, "setup_context": save, "backward": formula, "jvp": jvp, "vmap": vmap}
    methods = {method: staticmethod(function) for method, function in functions.items()}
    transformed: Any = type("Transformed", (torch.autograd.Function,), methods)

    # With a setup_context, torch would inspect the signature at every call.
    def forward(ctx: Any, *args: Any) -> Any:
        result = choose(*args)
        save(ctx, args, result)
        return result

    methods = {"forward": staticmethod(forward), "backward": staticmethod(formula), "jvp": staticmethod(jvp)}
    # The name is what tools print for the node of a graph.
    recorded: Any = type(op._opname, (torch.autograd.Function,), methods)  # type: ignore[attr-defined]

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if eager.plain(args):
            return recorded.apply(*args) if eager.recorded(args) else choose(*args)
        return transformed.apply(*args) if torch._C._are_functorch_transforms_active() else op(*args)

    return call


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype to which autocast takes a tensor. None without autocast, and for a tensor of float64."""
    device_type = tensor.device.type
    if device_type in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device_type):
        return None
    return None if tensor.dtype == torch.float64 else torch.get_autocast_dtype(device_type)


def to_autocast(signal: Tensor) -> Tensor:
    """A signal in the dtype of autocast. It is unchanged without autocast, and if it is float64.

    Filters and biases keep their dtype, because the transforms are computed in float32 or better.
    """
    dtype = autocast_dtype(signal)
    return signal if dtype is None else signal.to(dtype)
