"""The tensors of each op as one object, in the order of its schema."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FftconvInputs(NamedTuple):
    """Tensors of ``fftconv``, which :func:`hyena_kernels.fftconv` brings into these shapes.

    ``u (B, D, L)``, ``k (D, K)`` with K ≤ L, or K ≤ 2L - 1 if the convolution is two-sided, ``D (D,)`` and both gates
    ``(B, D, L)``. Strides are any, and 0 for a gate that broadcasts.
    """

    u: Tensor
    k: Tensor
    D: Tensor | None
    pre_gate: Tensor | None
    post_gate: Tensor | None

    def part(self, batch: slice, channels: slice) -> FftconvInputs:
        """Views of the same tensors: some batch entries, some channels."""
        u, k, D, pre_gate, post_gate = self
        return FftconvInputs(
            u[batch, channels],
            k[channels],
            None if D is None else D[channels],
            None if pre_gate is None else pre_gate[batch, channels],
            None if post_gate is None else post_gate[batch, channels],
        )


class ShortConvInputs(NamedTuple):
    """Tensors of ``short_conv``; shapes as in :func:`hyena_kernels.short_conv`."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    initial_state: Tensor | None = None


class ShortConvUpdate(NamedTuple):
    """Tensors of ``short_conv_update``; shapes as in :func:`hyena_kernels.short_conv_update`."""

    x: Tensor
    state: Tensor
    weight: Tensor
    bias: Tensor | None


class ImplicitFilterInputs(NamedTuple):
    """Tensors of ``implicit_filter``; shapes as in :func:`hyena_kernels.implicit_filter`."""

    z: Tensor
    freq: Tensor
    w_in: Tensor
    b_in: Tensor
    w_hidden: Tensor
    b_hidden: Tensor
    w_out: Tensor
    t: Tensor | None
    deltas: Tensor | None


class MixerInputs(NamedTuple):
    """Tensors of ``hyena_mixer``; shapes as in :func:`hyena_kernels.hyena_mixer`."""

    x: Tensor
    short_weight: Tensor
    short_bias: Tensor | None
    k: Tensor
    D: Tensor | None

    @property
    def filters(self) -> tuple[Tensor, ...]:
        """The tensors of the long filters, each with steps and channels first."""
        return (self.k,)

    def convolution(self, o: int, u: Tensor, channels: slice, gate: Tensor) -> FftconvInputs:
        """The ``fftconv`` of step ``o`` of the recurrence for some channels, with its signal and the gate after it."""
        return FftconvInputs(u, self.k[o, channels], None if self.D is None else self.D[o, channels], None, gate)


class MixerStepInputs(NamedTuple):
    """Tensors of ``hyena_mixer_step``; shapes as in :func:`hyena_kernels.hyena_mixer_step`."""

    x: Tensor
    short_state: Tensor
    short_weight: Tensor
    short_bias: Tensor | None
    u: Tensor
    future: Tensor
    taps: Tensor
    t: Tensor | None


class LayerNormInputs(NamedTuple):
    """Tensors of ``layer_norm``; shapes as in :func:`hyena_kernels.layer_norm`."""

    residual: Tensor
    weight: Tensor
    bias: Tensor


class AddLayerNormInputs(NamedTuple):
    """Tensors of ``add_layer_norm``; shapes as in :func:`hyena_kernels.add_layer_norm`."""

    x: Tensor
    residual: Tensor
    weight: Tensor
    bias: Tensor


class EmbeddingInputs(NamedTuple):
    """Tensors of ``embedding``; shapes as in :func:`hyena_kernels.embedding`."""

    ids: Tensor
    weight: Tensor


class LinearCrossEntropyInputs(NamedTuple):
    """Tensors of ``linear_cross_entropy``; shapes as in :func:`hyena_kernels.linear_cross_entropy`."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor


class GeluInputs(NamedTuple):
    """The tensor of ``gelu``; shape as in :func:`hyena_kernels.gelu`."""

    x: Tensor


class PositionDropoutInputs(NamedTuple):
    """Tensors of ``position_dropout``; shapes as in :func:`hyena_kernels.position_dropout`."""

    x: Tensor
    samples: Tensor


class FftconvVarlenInputs(NamedTuple):
    """Tensors of ``fftconv_varlen``; shapes as in :func:`hyena_kernels.fftconv_varlen`.

    ``rows (2, S)`` holds starts and lengths of the segments, the longest first, int64 on the device of ``u``.
    ``host_rows`` holds the same numbers on the CPU.
    """

    u: Tensor
    k: Tensor
    D: Tensor | None
    pre_gate: Tensor | None
    post_gate: Tensor | None
    rows: Tensor
    host_rows: Tensor


class MixerVarlenInputs(NamedTuple):
    """Tensors of ``hyena_mixer_varlen``; shapes as in :func:`hyena_kernels.hyena_mixer_varlen`.

    ``rows`` and ``host_rows`` are as those of :class:`FftconvVarlenInputs`.
    """

    x: Tensor
    short_weight: Tensor
    short_bias: Tensor | None
    k: Tensor
    D: Tensor | None
    rows: Tensor
    host_rows: Tensor


class FarFieldConvInputs(NamedTuple):
    """Tensors of ``far_field_conv``, which :func:`hyena_kernels.far_field_conv` brings into these shapes.

    ``u (B, D, L)``, ``near (D, h)``, ``nodes (D, 2 p - 1, N)`` with N at least the number of blocks less 1, ``D (D,)``
    and both gates ``(B, D, L)``. Strides are any, and 0 for a gate that broadcasts.
    """

    u: Tensor
    near: Tensor
    nodes: Tensor
    D: Tensor | None
    pre_gate: Tensor | None
    post_gate: Tensor | None


class FarMixerInputs(NamedTuple):
    """Tensors of ``hyena_mixer_far``; shapes as in :func:`hyena_kernels.hyena_mixer_far`."""

    x: Tensor
    short_weight: Tensor
    short_bias: Tensor | None
    near: Tensor
    nodes: Tensor
    D: Tensor | None

    @property
    def filters(self) -> tuple[Tensor, ...]:
        """The tensors of the long filters, each with steps and channels first."""
        return self.near, self.nodes

    def convolution(self, o: int, u: Tensor, channels: slice, gate: Tensor) -> FarFieldConvInputs:
        """The ``far_field_conv`` of step ``o`` of the recurrence, as :meth:`MixerInputs.convolution`."""
        D = None if self.D is None else self.D[o, channels]
        return FarFieldConvInputs(u, self.near[o, channels], self.nodes[o, channels], D, None, gate)
