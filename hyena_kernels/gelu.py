"""``gelu``: the activation of HyenaDNA's MLP, by the tanh formula.

The formula is in terms of one exponential in C++, and is PyTorch's own elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import gelu as torch_gelu
from hyena_kernels.common.inputs import GeluInputs
from hyena_kernels.registration import checks, library

BACKENDS = ("cpp", "torch")
"""The backends that have the op. On GPUs PyTorch's kernel already takes no longer than reading and writing memory."""

_backend.register_op("gelu", torch_gelu, supports={}, backends=BACKENDS)


def _fake(inputs: GeluInputs) -> Tensor:
    return torch.empty_like(inputs.x, memory_format=torch.contiguous_format)


_gelu_bwd = library.define("gelu_bwd", "Tensor dy, Tensor x", GeluInputs, lambda dy, inputs: _fake(inputs), gradients=1)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    x, ctx.backend = inputs
    ctx.save_for_backward(x)


def _derivative(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    return _gelu_bwd(dy, *ctx.saved_tensors, ctx.backend), None


_gelu_fwd = library.define("gelu_fwd", "Tensor x", GeluInputs, _fake, derivative=(_derivative, _save))


def gelu(x: Tensor, *, backend: str | None = None) -> Tensor:
    """``0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))``, computed in float32, or in float64 if ``x`` is float64.

    Autocast changes nothing. Differentiable once.

    Args:
        x: ``(…)``; float16, bfloat16, float32 or float64; any strides.
        backend: ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        A contiguous tensor of ``x``'s shape and dtype.

    Raises:
        TypeError: ``x`` is not a dense tensor of a dtype named above.
        ValueError: ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016 (arXiv 1606.08415), section 2.
    """
    checks.floats("gelu", "x", x, "(…)")
    result: Tensor = _gelu_fwd(x, _backend.requested(backend, BACKENDS))
    return result


# See the end of fftconv.py.
gelu.gelu = gelu  # type: ignore[attr-defined]
