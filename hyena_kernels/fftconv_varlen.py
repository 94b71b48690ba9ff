"""``fftconv_varlen``: the causal ``fftconv`` of many sequences of any lengths, packed into one row.

Only the inputs are saved for backward. ``common/packed.py`` says how a backend without kernels of its own for packed
rows computes it by its ``fftconv``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import fftconv_varlen as torch_fftconv_varlen
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import FftconvVarlenInputs
from hyena_kernels.registration import checks, library
from hyena_kernels.segments import SegmentPlan, plan_of

_backend.register_op("fftconv_varlen", torch_fftconv_varlen, supports={"triton": triton_support.varlen})


def _fake(inputs: FftconvVarlenInputs) -> Tensor:
    return torch.empty_like(inputs.u, memory_format=torch.contiguous_format)


_fftconv_varlen_fwd = library.define_op(
    "fftconv_varlen",
    "Tensor u, Tensor k, Tensor? D, Tensor? pre_gate, Tensor? post_gate, Tensor rows, Tensor host_rows",
    FftconvVarlenInputs,
    _fake,
)


def fftconv_varlen(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor | SegmentPlan,
    max_seqlen: int | None = None,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The causal :func:`hyena_kernels.fftconv` of every segment of a packed row, as if each were alone.

    Segments of any lengths stand in one row one after the other, without padding. In segment s, with
    ``x = pre_gate * u``::

        y[t] = post_gate[t] * (sum_j k[j] x[t - j] + D x[t])    for t - j ≥ cu_seqlens[s]

    The bits of a segment's result depend on the segment, on the filters and on the backend, but neither on the other
    segments nor on its place among them. A NaN or an infinity spoils its own segment. Gradients of ``k`` and ``D`` are
    sums over the segments, longest first. So two runs give the same bits.

    Dtypes, autocast and derivatives are as for :func:`hyena_kernels.fftconv`.

    Args:
        u: ``(D, T)`` packed signal; float16, bfloat16, float32 or float64; any strides.
        k: ``(D, K)`` filters, K ≥ 1; float32 or ``u``'s dtype. A segment takes as many taps as it has positions. Taps
            beyond the longest segment have no effect. With fewer, the filter ends after K taps.
        D: ``(D,)`` skip weight; float32 or ``u``'s dtype.
        cu_seqlens: ``(S + 1,)`` int32 or int64 boundaries: 0 first, strictly ascending, T last. The call copies them to
            the host. A :class:`hyena_kernels.SegmentPlan` in their place has done so once for all calls, and
            ``torch.compile`` needs one. On a GPU, make it there.
        max_seqlen: a bound of the lengths, which is checked. It has no other effect.
        pre_gate: ``(D, T)`` factor before the convolution; ``u``'s dtype.
        post_gate: ``(D, T)`` factor after the convolution; ``u``'s dtype.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(D, T)``, contiguous, of ``u``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together, ``cu_seqlens`` is not as described, a segment is longer than
            ``max_seqlen``, the tensors are on several devices, or ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: as :func:`hyena_kernels.fftconv`. ``cu_seqlens`` and ``max_seqlen`` are those of FlashAttention's
    ``flash_attn_varlen_func``.

    Example:
        >>> import torch
        >>> from hyena_kernels import fftconv_varlen
        >>> u, k = torch.tensor([[1.0, 2.0, 3.0, 1.0, 2.0]]), torch.tensor([[1.0, 10.0, 100.0]])
        >>> fftconv_varlen(u, k, cu_seqlens=torch.tensor([0, 3, 5])).round().tolist()
        [[1.0, 12.0, 123.0, 1.0, 12.0]]
    """
    op = "fftconv_varlen"
    checks.rank(op, "u", u, "(D, T)")
    checks.rank(op, "k", k, "(D, K)")
    channels = u.shape[0]
    if k.shape[0] != channels or k.shape[1] < 1:
        raise ValueError(
            f"{op}: u (D, T) has shape {tuple(u.shape)} and k (D, K) {tuple(k.shape)}: both need the same D, and K ≥ 1"
        )
    gates = {"pre_gate": pre_gate, "post_gate": post_gate}
    if D is not None:
        checks.shape(op, "D", D, (channels,), "(D,)")
    for name, gate in gates.items():
        if gate is not None:
            checks.shape(op, name, gate, tuple(u.shape), "(D, T)")
    checks.same_device(op, u=u, k=k, D=D, **gates)
    plan = plan_of(op, cu_seqlens, max_seqlen, u, 1)
    u = library.to_autocast(u)
    pre_gate, post_gate = (None if gate is None else library.to_autocast(gate) for gate in gates.values())
    for name, tensor in (("k", k), ("D", D)):
        if tensor is not None:
            checks.filter_dtype(op, name, tensor, u)
    for name, gate in (("pre_gate", pre_gate), ("post_gate", post_gate)):
        if gate is not None and gate.dtype != u.dtype:
            raise TypeError(f"{op}: {name} {tuple(gate.shape)} has dtype {gate.dtype}, expected the signal's {u.dtype}")
    requested = _backend.requested(backend)
    result: Tensor = _fftconv_varlen_fwd(u, k, D, pre_gate, post_gate, plan.rows, plan.host_rows, requested)
    return result


# See the end of fftconv.py.
fftconv_varlen.fftconv_varlen = fftconv_varlen  # type: ignore[attr-defined]
