"""``hyena_mixer_far``: ``hyena_mixer`` with filters that are known by near taps and nodes, as in ``far_field_conv``."""

from __future__ import annotations

from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.cpp import support as cpp_support
from hyena_kernels.backends.torch import mixer_far as torch_mixer_far
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common import far_field
from hyena_kernels.common.inputs import FarMixerInputs
from hyena_kernels.registration import checks, library

_backend.register_op(
    "hyena_mixer_far",
    torch_mixer_far,
    supports={"cpp": cpp_support.hyena_mixer_far, "triton": triton_support.hyena_mixer_far},
    supports_backward={
        "cpp": cpp_support.hyena_mixer_far_backward,
        "triton": triton_support.hyena_mixer_far_backward,
    },
    backends=("triton", "cpp", "torch"),
)


def _fake(inputs: FarMixerInputs) -> Tensor:
    x, near = inputs.x, inputs.near
    return x.new_empty((x.shape[0], x.shape[1], near.shape[1]))


_hyena_mixer_far_fwd = library.define_op(
    "hyena_mixer_far",
    "Tensor x, Tensor short_weight, Tensor? short_bias, Tensor near, Tensor nodes, Tensor? D",
    FarMixerInputs,
    _fake,
)


def hyena_mixer_far(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    near: Tensor,
    nodes: Tensor,
    D: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`hyena_kernels.hyena_mixer` with the filters of :func:`hyena_kernels.far_field_conv`.

    Same recurrence, same layout, same dtypes of ``x``; each long convolution is a :func:`far_field_conv`.
    Differentiable once in every tensor.

    Args:
        x: ``(B, L, (N+1) d)``, the output of in_proj; float16, bfloat16, float32 or float64; any strides and L ≥ 1.
        short_weight: ``((N+1) d, Ks)`` short filters with 1 ≤ Ks ≤ 8; float32 or ``x``'s dtype.
        short_bias: ``((N+1) d,)`` or None; float32 or ``x``'s dtype.
        near: ``(N-1, d, h)`` taps of lags 0 … h-1, in the order of the recurrence; float32, or float64 with an ``x`` of
            float64.
        nodes: ``(N-1, d, 2 p - 1, n)`` values at the nodes, of ``near``'s dtype, with 2 ≤ p ≤ h and n ≥ ⌈L / h⌉ - 1.
        D: ``(N-1, d)`` skip weights or None; float32 or ``x``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, L, d)``, the input of out_proj; contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), algorithm 3; Fong and Darve, "The black-box fast
    multipole method", J. Comput. Phys. 228 (2009).
    """
    checks.rank("hyena_mixer_far", "x", x, "(B, L, (N+1)d)")
    checks.rank("hyena_mixer_far", "short_weight", short_weight, "((N+1)d, Ks)")
    checks.rank("hyena_mixer_far", "near", near, "(N-1, d, h)")
    checks.rank("hyena_mixer_far", "nodes", nodes, "(N-1, d, 2p-1, n)")
    width, length = x.shape[2], x.shape[1]
    h, p = far_field.settings_of(near, nodes)
    fits = near.shape[:2] == nodes.shape[:2] and nodes.shape[2] % 2 == 1 and near.shape[0] >= 1 and length >= 1
    if (
        not fits
        or width != (near.shape[0] + 2) * near.shape[1]
        or not 2 <= p <= h
        or nodes.shape[3] < far_field.block_count(length, h) - 1
    ):
        raise ValueError(
            f"hyena_mixer_far: x (B, L, (N+1)d) has shape {tuple(x.shape)}, near (N-1, d, h) {tuple(near.shape)} and "
            f"nodes (N-1, d, 2p-1, n) {tuple(nodes.shape)}: the width of x must be (N+1)d with the d of both, N ≥ 2, "
            "2 ≤ p ≤ h and n ≥ ⌈L/h⌉ - 1"
        )
    checks.mixer_filters("hyena_mixer_far", width, tuple(near.shape[:2]), short_weight, short_bias, D)
    others = {"short_weight": short_weight, "short_bias": short_bias, "D": D}
    checks.same_device("hyena_mixer_far", x=x, near=near, nodes=nodes, **others)
    x = library.to_autocast(x)
    checks.near_and_nodes("hyena_mixer_far", near, nodes, x)
    for name, tensor in others.items():
        if tensor is not None:
            checks.filter_dtype("hyena_mixer_far", name, tensor, x)
    result: Tensor = _hyena_mixer_far_fwd(x, short_weight, short_bias, near, nodes, D, _backend.requested(backend))
    return result
