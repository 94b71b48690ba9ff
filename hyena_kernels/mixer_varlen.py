"""``hyena_mixer_varlen``: the ``hyena_mixer`` of many sequences of any lengths, packed into one row.

Only the inputs are saved for backward. ``common/packed.py`` says how a backend without kernels of its own for packed
rows computes it by its ``hyena_mixer``.
"""

from __future__ import annotations

from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import mixer_varlen as torch_mixer_varlen
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import MixerVarlenInputs
from hyena_kernels.common.reasons import no_float64
from hyena_kernels.registration import checks, library
from hyena_kernels.segments import SegmentPlan, plan_of

_backend.register_op(
    "hyena_mixer_varlen", torch_mixer_varlen, supports={"triton": triton_support.varlen, "cuda": no_float64}
)


def _fake(inputs: MixerVarlenInputs) -> Tensor:
    return inputs.x.new_empty((inputs.x.shape[0], inputs.k.shape[1]))


_hyena_mixer_varlen_fwd = library.define_op(
    "hyena_mixer_varlen",
    "Tensor x, Tensor short_weight, Tensor? short_bias, Tensor k, Tensor? D, Tensor rows, Tensor host_rows",
    MixerVarlenInputs,
    _fake,
)


def hyena_mixer_varlen(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None = None,
    *,
    cu_seqlens: Tensor | SegmentPlan,
    max_seqlen: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """:func:`hyena_kernels.hyena_mixer` of every segment of a packed row, as if each were alone.

    Neither the short nor the long convolutions see beyond the start of a segment. What
    :func:`hyena_kernels.fftconv_varlen` says of bits, of NaN and of the order of sums holds here too. Dtypes, autocast
    and derivatives are as for :func:`hyena_kernels.hyena_mixer`.

    Args:
        x: ``(T, (N+1) d)``, the output of in_proj for the packed row; float16, bfloat16, float32 or float64; any
            strides.
        short_weight: ``((N+1) d, Ks)`` short filters with 1 ≤ Ks ≤ 8, in the tap order of ``torch.nn.Conv1d``; float32
            or ``x``'s dtype.
        short_bias: ``((N+1) d,)`` or None; float32 or ``x``'s dtype.
        k: ``(N-1, d, K)`` long filters with K ≥ 1, in the order of the recurrence; float32 or ``x``'s dtype. Those of
            the longest segment serve all. K may be larger or smaller, as for :func:`hyena_kernels.fftconv_varlen`.
        D: ``(N-1, d)`` skip weights or None; float32 or ``x``'s dtype.
        cu_seqlens: as for :func:`hyena_kernels.fftconv_varlen`.
        max_seqlen: as for :func:`hyena_kernels.fftconv_varlen`.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        ``(T, d)``, the input of out_proj; contiguous, of ``x``'s dtype.

    Raises:
        TypeError: an argument is not a dense tensor of a dtype named above.
        ValueError: shapes do not fit together, ``cu_seqlens`` is not as described, a segment is longer than
            ``max_seqlen``, the tensors are on several devices, or ``backend`` is not the name of a backend.
        BackendError: ``backend`` cannot run here.

    Source: as :func:`hyena_kernels.hyena_mixer` and :func:`hyena_kernels.fftconv_varlen`.
    """
    op = "hyena_mixer_varlen"
    checks.rank(op, "x", x, "(T, (N+1)d)")
    checks.rank(op, "short_weight", short_weight, "((N+1)d, Ks)")
    checks.rank(op, "k", k, "(N-1, d, K)")
    width = x.shape[1]
    if width != (k.shape[0] + 2) * k.shape[1] or k.shape[0] < 1 or k.shape[2] < 1:
        raise ValueError(
            f"{op}: x (T, (N+1)d) has shape {tuple(x.shape)} and k (N-1, d, K) {tuple(k.shape)}: the width of x must "
            "be (N+1)d, N ≥ 2, and K ≥ 1"
        )
    checks.mixer_filters(op, width, tuple(k.shape[:2]), short_weight, short_bias, D)
    filters = {"short_weight": short_weight, "short_bias": short_bias, "k": k, "D": D}
    checks.same_device(op, x=x, **filters)
    plan = plan_of(op, cu_seqlens, max_seqlen, x, 0)
    x = library.to_autocast(x)
    for name, tensor in filters.items():
        if tensor is not None:
            checks.filter_dtype(op, name, tensor, x)
    requested = _backend.requested(backend)
    result: Tensor = _hyena_mixer_varlen_fwd(x, short_weight, short_bias, k, D, plan.rows, plan.host_rows, requested)
    return result
