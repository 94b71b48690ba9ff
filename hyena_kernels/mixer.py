"""``hyena_mixer``: everything in the Hyena operator between in_proj and out_proj.

Backends read some channels at a time from the channel-last projections. They apply the short filters, the gates and the
long convolutions, and write the result channel-last. No temporary tensor is as large as the input.
"""

from __future__ import annotations

from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import mixer as torch_mixer
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import MixerInputs
from hyena_kernels.common.reasons import no_float64
from hyena_kernels.registration import checks, library

_backend.register_op("hyena_mixer", torch_mixer, supports={"triton": triton_support.hyena_mixer, "cuda": no_float64})


def _fake(inputs: MixerInputs) -> Tensor:
    x, k = inputs.x, inputs.k
    return x.new_empty((x.shape[0], x.shape[1], k.shape[1]))


_hyena_mixer_fwd = library.define_op(
    "hyena_mixer",
    "Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D",
    MixerInputs,
    _fake,
)


def hyena_mixer(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Short convolution, split, and recurrence of gates and long convolutions of a Hyena operator of order N.

    With ``p = short_conv(x)`` split along its channels into ``x_0 | x_1 | … | x_{N-1} | v``::

        for o in 0 … N-2:  v = k[o] ⋆ (v * x_{N-1-o}) + D[o] * (v * x_{N-1-o})
        y = v * x_0

    HyenaDNA uses order 2: ``y = x_0 * (k ⋆ (v * x_1) + D * (v * x_1))``. Convolutions are causal. Computed in float32,
    or in float64 if an input is float64. Only the inputs are saved for backward. Autocast casts ``x`` only.
    Differentiable once in every tensor.

    Args:
        x: ``(B, L, (N+1) d)``, the output of in_proj; float16, bfloat16, float32 or float64; any strides and L ≥ 1.
        short_weight: ``((N+1) d, Ks)`` short filters with 1 ≤ Ks ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32
            or ``x``'s dtype.
        short_bias: ``((N+1) d,)`` or None; float32 or ``x``'s dtype.
        k: ``(N-1, d, K)`` long filters with K ≤ L, in the order of the recurrence; float32 or ``x``'s dtype.
        D: ``(N-1, d)`` skip weights or None; float32 or ``x``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, L, d)``, the input of out_proj; contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), definition 3.1 and algorithm 3.
    """
    checks.rank("hyena_mixer", "x", x, "(B, L, (N+1)d)")
    checks.rank("hyena_mixer", "short_weight", short_weight, "((N+1)d, Ks)")
    checks.rank("hyena_mixer", "k", k, "(N-1, d, K)")
    width, length = x.shape[2], x.shape[1]
    if width != (k.shape[0] + 2) * k.shape[1] or k.shape[0] < 1 or length < 1 or not 1 <= k.shape[2] <= length:
        raise ValueError(
            f"hyena_mixer: x (B, L, (N+1)d) has shape {tuple(x.shape)} and k (N-1, d, K) {tuple(k.shape)}: "
            "the width of x must be (N+1)d, N ≥ 2, and 1 ≤ K ≤ L"
        )
    checks.mixer_filters("hyena_mixer", width, tuple(k.shape[:2]), short_weight, short_bias, D)
    filters = {"short_weight": short_weight, "short_bias": short_bias, "k": k, "D": D}
    checks.same_device("hyena_mixer", x=x, **filters)
    x = library.to_autocast(x)
    for name, tensor in filters.items():
        if tensor is not None:
            checks.filter_dtype("hyena_mixer", name, tensor, x)
    result: Tensor = _hyena_mixer_fwd(x, short_weight, short_bias, k, D, _backend.requested(backend))
    return result
