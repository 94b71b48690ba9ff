"""``implicit_conv``: the long convolution with an implicit filter, of which only near taps and nodes are ever computed.

An implicit filter is a smooth function of the lag. So it is not computed at L lags, but at the first h, and at
``(2 p - 1) (⌈L / h⌉ - 1)`` nodes. There is no filter ``(D, L)`` in either direction, and no gradient of one.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from hyena_kernels import backend as _backend, far_field_plan as plans
from hyena_kernels.common import far_field
from hyena_kernels.common.features import features_at
from hyena_kernels.errors import FarFieldError
from hyena_kernels.far_field_conv import far_field_conv
from hyena_kernels.far_field_plan import Network, Plan
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.registration import checks, library

_Network = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class FarFieldFilter(NamedTuple):
    """Filters as :func:`hyena_kernels.far_field_conv` takes them."""

    near: Tensor
    """``(D, h)`` taps of lags 0 … h-1."""

    nodes: Tensor
    """``(D, 2 p - 1, N)`` values at the nodes of blocks that are 1 … N apart."""


def node_backend(backend: str | None, device: torch.device) -> str | None:
    """The backend for the network at the nodes, where ``backend`` is asked for the convolution on a device.

    Nodes are computed in float64, which the kernels of GPUs do not have. Plain PyTorch takes them there.
    """
    runs = device.type == "cpu" and _backend.requested(backend) in ("cpp", _backend.AUTO)
    return backend if runs else "torch"


def far_field_filter(
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    deltas: Tensor | None = None,
    shift: float = 0.0,
    *,
    length: int,
    seq_len: int,
    h: int,
    p: int,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> FarFieldFilter:
    """Near taps and nodes of the filters of :func:`hyena_kernels.implicit_filter`, from the network's parameters.

    The positions have the features of HyenaDNA (:func:`~hyena_kernels.common.features.features_at`), and the window's
    time is the first of them. The network is computed in float64, whatever the dtype of its parameters: there are few
    nodes, and float32 would cost accuracy. Differentiable once in every tensor.

    Args:
        freq: ``(H,)``, as all parameters of :func:`hyena_kernels.implicit_filter`, float32 or float64.
        w_in: ``(H, E)`` with E odd and at least 3.
        b_in: ``(H,)``.
        w_hidden: ``(M, H, H)``.
        b_hidden: ``(M, H)``.
        w_out: ``(D, H)``.
        deltas: ``(D,)`` decay rates, or None for filters without a window.
        shift: limit of the window at late positions.
        length: positions L of the signals.
        seq_len: number of positions that the filter was made for. The time of lag n is ``n / (seq_len - 1)``.
        h: positions of a block.
        p: nodes of a block, 2 ≤ p ≤ h.
        dtype: of the result, float32 or float64.
        backend: of :func:`hyena_kernels.implicit_filter` in float64.

    Returns:
        Taps ``(D, h)`` and nodes ``(D, 2 p - 1, ⌈L / h⌉ - 1)``.

    Raises:
        TypeError, ValueError, BackendError: as :func:`hyena_kernels.implicit_filter`; ValueError also if ``length``,
            ``seq_len``, ``h``, ``p``, E or ``dtype`` is out of range.
    """
    if not 2 <= p <= h or length < 1 or seq_len < 1:
        raise ValueError(
            f"far_field_filter: expected 2 ≤ p ≤ h, length ≥ 1 and seq_len ≥ 1, got p={p}, h={h}, length={length} and "
            f"seq_len={seq_len}"
        )
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"far_field_filter: dtype must be torch.float32 or torch.float64, got {dtype}")
    tensors = {"freq": freq, "w_in": w_in, "b_in": b_in, "w_hidden": w_hidden, "b_hidden": b_hidden, "w_out": w_out}
    for name, tensor in {**tensors, "deltas": deltas}.items():
        if tensor is not None:
            checks.floats("far_field_filter", name, tensor, "of the network")
            if tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"far_field_filter: {name} {tuple(tensor.shape)} has dtype {tensor.dtype}, expected float32 or "
                    "float64"
                )
    checks.rank("far_field_filter", "w_in", w_in, "(H, E)")
    if w_in.shape[1] < 3 or w_in.shape[1] % 2 == 0:
        raise ValueError(
            f"far_field_filter: w_in (H, E) has shape {tuple(w_in.shape)}, expected an odd E of at least 3"
        )
    # Apple's GPUs have no float64, so the CPU computes the nodes for them.
    device, exact = w_in.device, far_field.exact_device(w_in.device)
    near = torch.arange(h, dtype=torch.float64, device=exact)
    nodes = far_field.node_lags(h, p, far_field.block_count(length, h), exact)
    z = features_at(torch.cat((near, nodes.flatten())), seq_len, w_in.shape[1])
    network = cast("_Network", tuple(tensor.to(exact, torch.float64) for tensor in tensors.values()))
    k = implicit_filter(
        z,
        *network,
        None if deltas is None else z[:, 0].contiguous(),
        None if deltas is None else deltas.to(exact, torch.float64),
        shift,
        backend=backend,
    )
    k = k.to(dtype).to(device)
    return FarFieldFilter(k[:, :h], k[:, h:].unflatten(1, nodes.shape))


def implicit_conv(
    u: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    D: Tensor | None = None,
    *,
    deltas: Tensor | None = None,
    shift: float = 0.0,
    seq_len: int | None = None,
    h: int | None = None,
    p: int | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Gated causal convolution with implicit filters, from the parameters of their network.

    What :func:`hyena_kernels.fftconv` computes with the filters of :func:`hyena_kernels.implicit_filter`, up to the
    error of interpolation from the nodes. Gates and skip are as there. Differentiable once in every tensor.

    Args:
        u: ``(B, D, L)`` signal; float16, bfloat16, float32 or float64; any strides and any L ≥ 1.
        freq: ``(H,)`` and the other parameters of the network as :func:`far_field_filter` takes them.
        w_in: ``(H, E)``.
        b_in: ``(H,)``.
        w_hidden: ``(M, H, H)``.
        b_hidden: ``(M, H)``.
        w_out: ``(D, H)``.
        D: ``(D,)`` or ``(D, 1)`` skip weight.
        deltas: ``(D,)`` decay rates of the window, or None for no window.
        shift: limit of the window at late positions.
        seq_len: number of positions that the filter was made for. None is L.
        h: positions of a block. With ``p`` it is an order: the error of interpolation is not measured. Without both,
            the cheapest plan is taken whose measured error is within the tolerance of ``u``'s dtype
            (:mod:`hyena_kernels.far_field_plan`). This takes some 20 ms, and it cannot be compiled.
        p: nodes of a block, 2 ≤ p ≤ h.
        pre_gate: factor before the convolution.
        post_gate: factor after the convolution.
        backend: backend of the convolution. None takes the fastest that can run. The network takes the same one if that
            has float64, else ``"torch"``.

    Returns:
        ``(B, D, L)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError, ValueError, BackendError: as :func:`far_field_filter` and :func:`hyena_kernels.far_field_conv`;
            ValueError also if only one of ``h`` and ``p`` is given.
        FarFieldError: no plan holds the tolerance. The message has the smallest error.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.3; Fong and Darve, "The black-box fast
    multipole method", J. Comput. Phys. 228 (2009).
    """
    if (h is None) != (p is None):
        raise ValueError(f"implicit_conv: give both h and p or neither, got h={h} and p={p}")
    length = u.shape[-1]
    seq_len = length if seq_len is None else seq_len
    if h is None or p is None:
        network = Network(freq, w_in, b_in, w_hidden, b_hidden, w_out, deltas, shift, seq_len)
        h, p = _measured_plan(network, length, library.to_autocast(u).dtype)
    near, nodes = far_field_filter(
        freq,
        w_in,
        b_in,
        w_hidden,
        b_hidden,
        w_out,
        deltas,
        shift,
        length=length,
        seq_len=seq_len,
        h=h,
        p=p,
        dtype=torch.float64 if u.dtype == torch.float64 else torch.float32,
        backend=node_backend(backend, w_in.device),
    )
    return far_field_conv(u, near, nodes, D, pre_gate=pre_gate, post_gate=post_gate, backend=backend)


def _measured_plan(network: Network, length: int, dtype: torch.dtype) -> Plan:
    generator, best = torch.Generator().manual_seed(0), float("inf")
    for plan, error in plans.measured(network, length, dtype, generator, any_cost=True):
        if error <= plans.TOLERANCES[dtype]:
            return plan
        best = min(best, error)
    raise FarFieldError(
        f"implicit_conv: the filters are too rough at {length:,} positions: the error of the best plan is {best:.1e} "
        f"of their root mean square, and {plans.TOLERANCES[dtype]:.0e} is allowed for {dtype}. fftconv takes any filter"
    )
