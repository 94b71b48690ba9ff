"""``far_field_conv``: a long convolution whose filter is known by its first taps and by nodes, not by all of its taps.

``backends/torch/far_field.py`` has the mathematics, ``common/far_field.py`` the blocks and nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.cpp import support as cpp_support
from hyena_kernels.backends.torch import far_field_conv as torch_far_field_conv
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common import far_field
from hyena_kernels.common.inputs import FarFieldConvInputs
from hyena_kernels.registration import checks, gates, library

_backend.register_op(
    "far_field_conv",
    torch_far_field_conv,
    supports={"cpp": cpp_support.far_field_conv, "triton": triton_support.far_field_conv},
    supports_backward={
        "cpp": cpp_support.far_field_conv_backward,
        "triton": triton_support.far_field_conv_backward,
    },
    backends=("triton", "cpp", "torch"),
)


def _fake(inputs: FarFieldConvInputs) -> Tensor:
    return torch.empty_like(inputs.u, memory_format=torch.contiguous_format)


_far_field_conv_fwd = library.define_op(
    "far_field_conv",
    "Tensor u, Tensor near, Tensor nodes, Tensor? D, Tensor? pre_gate, Tensor? post_gate",
    FarFieldConvInputs,
    _fake,
)


def far_field_conv(
    u: Tensor,
    near: Tensor,
    nodes: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Gated causal convolution ``y = post_gate * ((pre_gate * u) ⋆ f + D * (pre_gate * u))`` with a smooth filter f.

    ``f`` is given by ``near``, its taps of lags 0 … h-1, and by ``nodes``, its values at 2 p - 1 lags for each distance
    of two blocks of h positions. The taps of two positions of one block are exact. All others are interpolated from the
    nodes by polynomials of degree p - 1 in either position. How good that is depends on how smooth ``f`` is, which this
    function cannot know.

    The convolution is linear in ``u``, ``near`` and ``nodes``, and differentiable once in every tensor. Computed in
    float32, or in float64 if ``u`` or ``near`` is float64. Autocast casts the signal and the gates only. Only the
    inputs are saved for backward. A NaN or an infinity spoils its whole row, and no other row.

    Args:
        u: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        near: ``(D, h)`` taps; float32, or float64 with a signal of float64. h ≥ p.
        nodes: ``(D, 2 p - 1, N)`` of ``near``'s dtype with p ≥ 2 and N ≥ ⌈L / h⌉ - 1: at ``[c, m + p - 1, d - 1]`` the
            value ``f_c(d h + m (h - 1) / (p - 1))`` for m = -(p-1) … p-1 and d = 1, 2, …
        D: ``(D,)`` or ``(D, 1)`` skip weight, added to the tap of lag 0; float32 or ``u``'s dtype.
        pre_gate: factor before the convolution, of any shape that broadcasts to ``(B, D, L)``; ``u``'s dtype.
        post_gate: factor after the convolution, as ``pre_gate``.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(B, D, L)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together (the message gives them), the tensors are on several devices, or
            ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Fong and Darve, "The black-box fast multipole method", J. Comput. Phys. 228 (2009), in one dimension.
    """
    checks.rank("far_field_conv", "u", u, "(B, D, L)")
    checks.rank("far_field_conv", "near", near, "(D, h)")
    checks.rank("far_field_conv", "nodes", nodes, "(D, 2p-1, N)")
    _, channels, length = u.shape
    h, p = far_field.settings_of(near, nodes)
    fits = near.shape[0] == nodes.shape[0] == channels and nodes.shape[1] % 2 == 1 and length >= 1
    if not fits or not 2 <= p <= h or nodes.shape[2] < far_field.block_count(length, h) - 1:
        raise ValueError(
            f"far_field_conv: u (B, D, L) has shape {tuple(u.shape)}, near (D, h) {tuple(near.shape)} and nodes "
            f"(D, 2p-1, N) {tuple(nodes.shape)}: all need the same D, L ≥ 1, 2 ≤ p ≤ h and N ≥ ⌈L/h⌉ - 1"
        )
    if D is not None:
        gates.check_skip("far_field_conv", D, u)
    for name, gate in (("pre_gate", pre_gate), ("post_gate", post_gate)):
        if gate is not None:
            gates.check_gate("far_field_conv", name, gate, u)
    checks.same_device("far_field_conv", u=u, near=near, nodes=nodes, D=D, pre_gate=pre_gate, post_gate=post_gate)
    u = library.to_autocast(u)
    checks.near_and_nodes("far_field_conv", near, nodes, u)
    if D is not None:
        checks.filter_dtype("far_field_conv", "D", D, u)
        D = D if D.dim() == 1 else D[:, 0]
    if pre_gate is not None:
        pre_gate = gates.like_signal("far_field_conv", "pre_gate", pre_gate, u)
    if post_gate is not None:
        post_gate = gates.like_signal("far_field_conv", "post_gate", post_gate, u)
    result: Tensor = _far_field_conv_fwd(u, near, nodes, D, pre_gate, post_gate, _backend.requested(backend))
    return result


# See the end of fftconv.py.
far_field_conv.far_field_conv = far_field_conv  # type: ignore[attr-defined]
