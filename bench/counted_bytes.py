"""Bytes that the Triton kernels read and write, as their launches count them: what time is predicted from."""

from __future__ import annotations

from hyena_kernels.triton.plan import Plan, plan as plan_for


def _rows_together(batch: int, channels: int, plan: Plan) -> int:
    """Rows that share a program and the filter's transform in it, in one pass."""
    limit = min(8, max(1, batch * channels // 256)) if plan.groups == 1 else 1
    return next(divisor for divisor in range(min(batch, limit), 0, -1) if batch % divisor == 0)


def fftconv_bytes(batch: int, channels: int, length: int, item: int) -> tuple[int, int]:
    """Bytes read and written by the gated forward pass, and by the backward pass with all gradients.

    Args:
        batch: batch size.
        channels: number of channels.
        length: length of signals and filters.
        item: bytes of an element of a signal; filters and scratch are float32.
    """
    plan = plan_for(length)
    signal, filter, scratch = item * length, 4 * length, 8 * plan.size
    if plan.columns == 1:
        programs = batch // _rows_together(batch, channels, plan)
        forward = batch * 4 * signal + programs * filter
        # dy, u and both gates in, three gradients out; the sums of the programs are written and added up.
        backward = batch * 7 * signal + programs * 2 * filter + (programs + 1 if programs > 1 else 1) * filter + filter
        return channels * forward, channels * backward
    into = 2 * signal + scratch
    forward = batch * into + filter + scratch
    forward += batch * 2 * scratch + scratch
    forward += batch * (scratch + 2 * signal)
    backward = 2 * batch * into + filter + scratch
    backward += batch * 4 * scratch + 2 * scratch
    # One inverse gives du and dpre, with pre_gate and u as factors; one gives dpost, with dy.
    backward += batch * (scratch + 4 * signal) + batch * (scratch + 2 * signal)
    backward += scratch + 3 * filter
    return channels * forward, channels * backward


def filter_bytes(channels: int, length: int, features: int = 5) -> int:
    """Bytes that making the filters has to read and write: features, times and filters in float32."""
    return 4 * length * (features + 1 + channels)


def operator_bytes(batch: int, channels: int, length: int, item: int) -> int:
    """Bytes of a forward and a backward pass of the operator: projections, mixer and long convolution, and filter.

    Weights, partial sums and the planes that the filter's backward pass keeps are left out.
    """
    row = batch * channels * length * item
    products = (1 + 3) + (1 + 1) + 2 * (3 + 1 + 1) + 2 * (1 + 1 + 1)
    mixer = (3 + 2) + (1 + 1) + (3 + 2) + (1 + 1) + (1 + 1 + 1) + (1 + 2 + 2)
    forward, backward = fftconv_bytes(batch, channels, length, item)
    # The mixer's convolutions have no gate in front.
    convolutions = forward + backward - 3 * row
    return (products + mixer) * row + convolutions + 2 * filter_bytes(channels, length)
