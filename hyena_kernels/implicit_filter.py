"""``implicit_filter``: long filters from a sine network of the position, under an exponential window."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.cuda import support as cuda_support
from hyena_kernels.backends.torch import implicit_filter as torch_implicit_filter
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import ImplicitFilterInputs
from hyena_kernels.registration import checks, library

_backend.register_op(
    "implicit_filter",
    torch_implicit_filter,
    supports={"triton": triton_support.implicit_filter, "cuda": cuda_support.implicit_filter},
    supports_backward={
        "triton": triton_support.implicit_filter_backward,
        "cuda": cuda_support.implicit_filter_backward,
    },
)


def _fake(inputs: ImplicitFilterInputs, shift: float) -> Tensor:
    return inputs.z.new_empty((inputs.w_out.shape[0], inputs.z.shape[0]))


_implicit_filter_fwd = library.define_op(
    "implicit_filter",
    "Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden, Tensor w_out, Tensor? t, "
    "Tensor? deltas, float shift",
    ImplicitFilterInputs,
    _fake,
    gradient="dk",
)


def implicit_filter(
    z: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    t: Tensor | None = None,
    deltas: Tensor | None = None,
    shift: float = 0.0,
    *,
    backend: str | None = None,
) -> Tensor:
    """Filters ``k[:, n] = (w_out @ h_n) * (exp(-t[n] |deltas|) + shift)`` with a sine network ``h_n`` of position n.

    The network is ``h = sin(freq * (w_in @ z[n] + b_in))``, then ``h = sin(freq * (w_hidden[i] @ h + b_hidden[i]))``
    for each hidden layer. Without ``t`` and ``deltas`` there is no window. Autocast has no effect: at least float32 is
    needed. Backward runs the network again. Differentiable once in every tensor.

    Args:
        z: ``(L, E)`` features of the positions. All tensors are float32, or all are float64.
        freq: ``(H,)`` frequencies of the sines, shared by all layers.
        w_in: ``(H, E)``.
        b_in: ``(H,)``.
        w_hidden: ``(M, H, H)``, M ≥ 0 hidden layers.
        b_hidden: ``(M, H)``.
        w_out: ``(D, H)``.
        t: ``(L,)`` time of the positions, or None.
        deltas: ``(D,)`` decay rates, or None.
        shift: limit of the window at late positions.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(D, L)`` filters, contiguous.

    Raises:
        TypeError: an argument is not a dense tensor, or dtypes differ or are not float32 or float64.
        ValueError: shapes do not fit together (the message gives them), only one of ``t`` and ``deltas`` is given, the
            tensors are on several devices, or ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.3 and appendix D; the filter of HyenaDNA
    (arXiv 2306.15794).
    """
    checks.rank("implicit_filter", "z", z, "(L, E)")
    checks.rank("implicit_filter", "w_out", w_out, "(D, H)")
    checks.rank("implicit_filter", "w_hidden", w_hidden, "(M, H, H)")
    if (t is None) != (deltas is None):
        raise ValueError("implicit_filter: the window needs both t and deltas: give both or neither")
    length, features = z.shape
    channels, width = w_out.shape
    layers = w_hidden.shape[0]
    if length < 1:
        raise ValueError(f"implicit_filter: z (L, E) has shape {tuple(z.shape)}, expected L ≥ 1")
    tensors = {
        "z": (z, (length, features), "(L, E)"),
        "freq": (freq, (width,), "(H,)"),
        "w_in": (w_in, (width, features), "(H, E)"),
        "b_in": (b_in, (width,), "(H,)"),
        "w_hidden": (w_hidden, (layers, width, width), "(M, H, H)"),
        "b_hidden": (b_hidden, (layers, width), "(M, H)"),
        "w_out": (w_out, (channels, width), "(D, H)"),
        "t": (t, (length,), "(L,)"),
        "deltas": (deltas, (channels,), "(D,)"),
    }
    for name, (tensor, expected, meaning) in tensors.items():
        if tensor is None:
            continue
        checks.shape("implicit_filter", name, tensor, expected, meaning)
        if tensor.dtype != z.dtype or tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"implicit_filter: {name} {tuple(tensor.shape)} has dtype {tensor.dtype} and z {tuple(z.shape)} has "
                f"{z.dtype}: all tensors must be float32, or all float64"
            )
    checks.same_device("implicit_filter", **{name: tensor for name, (tensor, _, _) in tensors.items()})
    result: Tensor = _implicit_filter_fwd(
        z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas, shift, _backend.requested(backend)
    )
    return result


# See the end of fftconv.py.
implicit_filter.implicit_filter = implicit_filter  # type: ignore[attr-defined]
