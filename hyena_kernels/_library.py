"""The operator library ``hyena_kernels::`` and how one of its ops is registered.

Every op is functional and of fixed arity, and has a schema, a fake, an autograd formula and one Python chooser
that hands the call to the backend it names. The choice is made inside the op, so that a compiled graph holds no
guard on length or device for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hyena_kernels import backend as _backend

LIBRARY = torch.library.Library("hyena_kernels", "DEF")


def define(name: str, schema: str, fake: Callable[..., Any]) -> Any:
    """Define ``hyena_kernels::<name>``; the last argument of ``schema`` must be ``str backend``.

    Args:
        name: op name, such as ``"fftconv_fwd"``.
        schema: arguments and results in torch's schema language, without the name.
        fake: the same call on fake tensors: shapes, dtypes and strides of the results.

    Returns:
        The callable ``torch.ops.hyena_kernels.<name>``.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))

    def choose(*args: Any) -> Any:
        first, requested = args[0], args[-1]
        run = _backend.implementation(name, first.device, requested)
        # Autocast would turn the matrix products inside an implementation into half precision ones.
        with torch.autocast(first.device.type, enabled=False):
            return run(*args[:-1])

    LIBRARY.impl(name, choose, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyena_kernels::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.hyena_kernels, name)


def no_double_backward(name: str) -> None:
    """Make a second derivative through ``<name>`` raise instead of losing gradients in silence."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"hyena_kernels::{name} has no second derivative; for one, use the plain PyTorch reference of the op "
            "in hyena_kernels.testing"
        )

    torch.library.register_autograd(f"hyena_kernels::{name}", backward, lib=LIBRARY)


def to_autocast(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Signals as autocast wants them: its dtype in place of another 16- or 32-bit one; unchanged without autocast.

    Filters and biases are not signals: they keep their dtype, for the transforms are computed in float32 or better.
    """
    device_type = next(tensor for tensor in tensors if tensor is not None).device.type
    if not torch.is_autocast_enabled(device_type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device_type)
    return [
        tensor.to(dtype) if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
        for tensor in tensors
    ]
