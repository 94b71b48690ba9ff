"""``linear_cross_entropy``: the loss of a linear head with few classes, without its logits in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from hyena_kernels import backend as _backend
from hyena_kernels.backends.torch import linear_cross_entropy as torch_linear_cross_entropy
from hyena_kernels.backends.triton import support as triton_support
from hyena_kernels.common.inputs import LinearCrossEntropyInputs
from hyena_kernels.registration import checks, library

_BACKENDS = ("triton", "torch")
_REDUCTIONS = ("mean", "sum", "none")

_backend.register_op(
    "linear_cross_entropy",
    torch_linear_cross_entropy,
    supports={"triton": triton_support.linear_cross_entropy},
    supports_backward={"triton": triton_support.linear_cross_entropy_backward},
    backends=_BACKENDS,
)


def _fake(inputs: LinearCrossEntropyInputs, ignore_index: int, label_smoothing: float, every_position: bool) -> Tensor:
    dtype = torch.promote_types(inputs.hidden.dtype, torch.float32)
    return inputs.hidden.new_empty(inputs.targets.shape if every_position else (), dtype=dtype)


_linear_cross_entropy_fwd = library.define_op(
    "linear_cross_entropy",
    "Tensor hidden, Tensor weight, Tensor targets, int ignore_index, float label_smoothing, bool every_position",
    LinearCrossEntropyInputs,
    _fake,
)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Cross entropy of the logits ``hidden @ weight.T``, as ``torch.nn.functional.cross_entropy`` defines it.

    The logits are in float32, or in float64 for float64 tensors. They are computed for some positions at a time, and
    again in backward, so the logits of all positions never exist. Autocast casts ``hidden`` and ``weight``, as it does
    for ``torch.nn.functional.linear``. Differentiable once in ``hidden`` and ``weight``. Two runs give the same bits.

    The targets are not shifted. For the next token of each position, give ``hidden[:, :-1]`` and ``ids[:, 1:]``; or all
    of ``hidden``, and targets that end in ``ignore_index``. The second spares a gradient of its own for the slice.

    Args:
        hidden: ``(…, D)``; float16, bfloat16, float32 or float64; any strides.
        weight: ``(V, D)`` of ``hidden``'s dtype. The Triton kernels take D ≤ 256 for V ≤ 16, and D ≤ 128 for
            V ≤ 32. Plain PyTorch takes any.
        targets: ``(…)`` integers of any width, from 0 to V - 1, or ``ignore_index``; any strides.
        ignore_index: a target that is left out. To leave out several ids, replace them by this one first.
        label_smoothing: ε from 0 to 1. The expected distribution is ``1 - ε`` at the target plus ``ε / V`` everywhere.
        reduction: ``"mean"`` over the targets that are not left out, which is NaN if there are none; ``"sum"``; or
            ``"none"``, the loss of each position, 0 where it is left out.
        backend: ``"triton"`` or ``"torch"``. None takes the fastest that can run.

    Returns:
        A scalar, or ``(…)`` for ``"none"``; float32, or float64 for float64 tensors. A target out of range makes it NaN
        with ``"triton"``. With ``"torch"`` it is an IndexError on a CPU and a device-side assert on a GPU.

    Raises:
        TypeError: ``targets`` are no integers, another tensor is not dense or not of a dtype named above, or ``hidden``
            and ``weight`` have different dtypes.
        ValueError: shapes do not fit together (the message gives them), ``label_smoothing`` is outside 0 to 1,
            ``reduction`` is unknown, the tensors are on several devices, or ``backend`` is not the name of a backend.
        IndexError: a target is out of range, see above.
        BackendError: ``backend`` cannot run here.

    Source: label smoothing as in Szegedy et al., "Rethinking the Inception Architecture", 2015 (arXiv 1512.00567),
    section 7.
    """
    op = "linear_cross_entropy"
    checks.floats(op, "hidden", hidden, "(…, D)")
    checks.rank(op, "weight", weight, "(V, D)")
    checks.integers(op, "targets", targets, "(…)")
    if (
        hidden.dim() != targets.dim() + 1
        or hidden.shape[:-1] != targets.shape
        or hidden.shape[-1] != weight.shape[1]
        or weight.shape[0] < 1
        or weight.shape[1] < 1
    ):
        raise ValueError(
            f"{op}: hidden (…, D) has shape {tuple(hidden.shape)}, weight (V, D) {tuple(weight.shape)} and targets (…) "
            f"{tuple(targets.shape)}: they must fit together, with V ≥ 1 and D ≥ 1"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing {label_smoothing} is outside 0 to 1")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op}: unknown reduction {reduction!r}: choose one of {', '.join(map(repr, _REDUCTIONS))}")
    checks.same_device(op, hidden=hidden, weight=weight, targets=targets)
    hidden, weight = library.to_autocast(hidden), library.to_autocast(weight)
    if hidden.dtype != weight.dtype:
        raise TypeError(
            f"{op}: hidden {tuple(hidden.shape)} has dtype {hidden.dtype} and weight {tuple(weight.shape)} has "
            f"{weight.dtype}: both must have the same"
        )
    result: Tensor = _linear_cross_entropy_fwd(
        hidden,
        weight,
        targets,
        ignore_index,
        float(label_smoothing),
        reduction == "none",
        _backend.requested(backend, _BACKENDS),
    )
    # In int64, because a narrower dtype would wrap ignore_index around.
    return result / (targets.long() != ignore_index).sum() if reduction == "mean" else result


# See the end of fftconv.py.
linear_cross_entropy.linear_cross_entropy = linear_cross_entropy  # type: ignore[attr-defined]
