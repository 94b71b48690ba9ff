"""``HyenaOperator``, drop-in for the class of HyenaDNA, on the fused ops. ``HyenaFilter`` has a file of its own.

Arguments, state_dict keys and results are those of ``standalone_hyenadna.py`` of the HyenaDNA repository. The further
arguments of its training code are accepted by name, and either work or raise NotImplementedError. The default ``shift``
of the window is 0.05 in the standalone file and 0.0 in the training code. A checkpoint does not say which one it was
trained with. Here the default is 0.05.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyena_kernels import backend as _backend
from hyena_kernels.bidirectional import (
    Bidirectional,
    ahead,
    centred_short_conv,
    check_kind,
    delayed,
    delayed_each,
    two_sided,
)
from hyena_kernels.common.taps import MAX_TAPS
from hyena_kernels.far_field import node_backend
from hyena_kernels.far_field_conv import far_field_conv
from hyena_kernels.far_field_plan import Plan
from hyena_kernels.fftconv import fftconv
from hyena_kernels.fftconv_varlen import fftconv_varlen
from hyena_kernels.filter import HyenaFilter
from hyena_kernels.filter_cache import Filters, kept_or_new
from hyena_kernels.filter_layers import (
    ExponentialModulation,
    Sin,
    SineNetwork,
    is_plain,
    refuse,
)
from hyena_kernels.long_conv import LongConv, check_route, forget_if_trained, route_plan, setting
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.mixer_far import hyena_mixer_far
from hyena_kernels.mixer_varlen import hyena_mixer_varlen
from hyena_kernels.positions import PositionalEmbedding
from hyena_kernels.registration import checks
from hyena_kernels.segments import SegmentPlan, plan_of
from hyena_kernels.short_conv import short_conv

if TYPE_CHECKING:
    from hyena_kernels.distributed.shards import ContextSettings, ContextShards

# The classes of the filter have been in this file, and pickles of whole models name them here.
__all__ = ["ExponentialModulation", "HyenaFilter", "HyenaOperator", "PositionalEmbedding", "Sin", "SineNetwork"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "id": nn.Identity,
    "identity": nn.Identity,
    "linear": nn.Identity,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class HyenaOperator(nn.Module):
    """The Hyena operator, ``(B, L, D) → (B, L, D)``: in_proj, short convolution, gated long convolutions, out_proj.

    Drop-in for the class of the same name in HyenaDNA: same arguments, same state_dict keys. A call computes the
    filters, unless it is given those of :meth:`filters`. In a block of :func:`cache_filters`, inference keeps them.

    Args:
        d_model: width D of input and output.
        l_max: longest sequence; the filters depend on it (see :class:`HyenaFilter`).
        order: depth of the recurrence, at least 2.
        filter_order: width of the filter network.
        dropout: dropout before each long convolution, in training.
        filter_dropout: must be 0. The original accepts it without using it.
        filter_length: number of taps of the long filters, at most ``l_max``: a partial convolution, in which an output
            sees that many positions for each long convolution. Sequences may then be longer than ``l_max``. None uses
            all taps. The original has no such argument.
        short_filter_order: taps of the short convolution, 1 to 8.
        bidirectional: False is causal. True is a two-sided operator: each long convolution has filters of the positions
            before and behind, and the short one is centred. The last layer of the filter network has twice the outputs;
            names and other shapes of parameters are those of the causal operator. ``"published"`` is what the code of
            HyenaDNA computes for ``bidirectional=True``: the causal long filters delayed by L // 2 around a circle of
            2 L, and a causal short convolution. Weights fit one of the three kinds only.
        activation: applied before out_proj: "id", "gelu", "relu", "silu", "tanh" or "sigmoid".
        return_state: return ``(y, None)``, as the training code does.
        num_heads, inner_factor, num_blocks: must be 1.
        outer_mixing, post_order_ffn, jit_filter: must be False.
        fused_bias_fc, local_order: accepted and without effect on results.
        _name_: "hyena", as in the published configurations.
        filter_cls: must be "hyena-filter".
        backend: backend of every op of this module; None takes the first that can run.
        long_conv: route of the long convolutions. ``"fft"`` computes all taps and transforms. ``"far_field"`` takes
            near taps and nodes of the network (:func:`hyena_kernels.implicit_conv`) and never makes the long filter. It
            raises where that is not possible or not exact enough. ``"auto"`` takes this route where it is faster and as
            good (:mod:`hyena_kernels.long_conv`). ``HYENA_LONG_CONV`` has the word of operators with ``"auto"``.
        **filter_args: arguments of :class:`HyenaFilter`.

    Raises:
        TypeError: an argument has an unknown name.
        ValueError: ``order`` is below 2, ``l_max`` below 1, ``short_filter_order`` outside 1 … 8, ``filter_length``
            outside 1 … ``l_max``, or ``activation``, ``backend``, ``bidirectional`` or ``long_conv`` unknown. In
            forward: L exceeds ``l_max`` without a ``filter_length``, the input is not ``(B, L, D)``, or ``real`` does
            not fit.
        NotImplementedError: an argument has a value that is not supported; or a bidirectional operator gets a
            ``filter_length`` or ``return_state``, packed sequences, or sequences in shards.
        FarFieldError: ``long_conv`` is ``"far_field"``, and a call cannot take it.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), algorithm 3; Nguyen et al., "HyenaDNA", 2023
    (arXiv 2306.15794). Partial convolutions: Fu et al., "FlashFFTConv", 2023 (arXiv 2311.05908), section 3.3. With
    order above 2 the filters are ordered as in ``standalone_hyenadna.py``: order outer, channel inner.
    """

    context: ContextSettings | None = None
    """Set by :func:`hyena_kernels.distributed.context_parallel`: calls take shards of sequences."""

    bidirectional: Bidirectional = False
    """As the argument. Pickles of before it have causal operators."""

    long_conv: LongConv = "auto"
    """As the argument. It may be set at any time. Pickles of before it have ``"auto"``."""

    def __init__(
        self,
        d_model: int,
        l_max: int,
        order: int = 2,
        filter_order: int = 64,
        dropout: float = 0.0,
        filter_dropout: float = 0.0,
        *,
        num_heads: int = 1,
        inner_factor: int = 1,
        num_blocks: int = 1,
        fused_bias_fc: bool = False,
        outer_mixing: bool = False,
        filter_cls: str = "hyena-filter",
        post_order_ffn: bool = False,
        jit_filter: bool = False,
        short_filter_order: int = 3,
        activation: str = "id",
        return_state: bool = False,
        backend: str | None = None,
        _name_: str = "hyena",
        local_order: int | None = None,
        filter_length: int | None = None,
        bidirectional: Bidirectional = False,
        long_conv: LongConv = "auto",
        **filter_args: Any,
    ) -> None:
        super().__init__()
        check_kind("HyenaOperator", bidirectional)
        check_route("HyenaOperator", long_conv)
        if order < 2:
            raise ValueError(f"HyenaOperator: order must be at least 2, got {order}")
        if not 1 <= short_filter_order <= MAX_TAPS:
            raise ValueError(f"HyenaOperator: short_filter_order must be 1 to {MAX_TAPS}, got {short_filter_order}")
        if filter_length is not None and not 1 <= filter_length <= l_max:
            raise ValueError(f"HyenaOperator: filter_length must be 1 to l_max = {l_max}, got {filter_length}")
        if backend is not None:
            _backend.requested(backend)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"HyenaOperator: unknown activation {activation!r}: choose one of {sorted(_ACTIVATIONS)}")
        refuse("HyenaOperator", num_heads=(num_heads, 1), inner_factor=(inner_factor, 1), num_blocks=(num_blocks, 1))
        refuse("HyenaOperator", outer_mixing=(outer_mixing, False), post_order_ffn=(post_order_ffn, False))
        refuse("HyenaOperator", jit_filter=(jit_filter, False), filter_cls=(filter_cls, "hyena-filter"))
        refuse("HyenaOperator", _name_=(_name_, "hyena"))
        if bidirectional:
            if filter_length is not None:
                raise NotImplementedError(
                    "HyenaOperator: a bidirectional operator takes no filter_length: leave it out"
                )
            if return_state:
                raise NotImplementedError(
                    "HyenaOperator: a bidirectional operator has no state: leave return_state out"
                )
        self.d_model = d_model
        self.l_max = l_max
        self.filter_length = filter_length
        self.bidirectional = bidirectional
        self.long_conv = long_conv
        self.order = order
        self.return_state = return_state
        self.backend = backend
        width = d_model * (order + 1)
        self.dropout = nn.Dropout(dropout)
        self.activation = _ACTIVATIONS[activation]()
        self.in_proj = nn.Linear(d_model, width)
        self.out_proj = nn.Linear(d_model, d_model)
        self.short_filter = nn.Conv1d(width, width, short_filter_order, padding=short_filter_order - 1, groups=width)
        self.filter_fn = HyenaFilter(
            d_model * (order - 1),
            order=filter_order,
            seq_len=l_max,
            dropout=filter_dropout,
            bidirectional=bidirectional,
            **filter_args,
        )

    @property
    def d_output(self) -> int:
        """Width of the output."""
        return self.d_model

    def forward(
        self,
        u: Tensor,
        *args: Any,
        cu_seqlens: Tensor | SegmentPlan | None = None,
        filters: Filters | None = None,
        shards: ContextShards | None = None,
        real: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """``u (B, L, D)`` with L ≤ l_max → ``(B, L, D)``, or ``((B, L, D), None)`` with ``return_state``.

        With a ``filter_length``, L may be larger.

        With ``cu_seqlens``, u is one row ``(1, T, D)`` of packed sequences, each of at most l_max positions. Every
        sequence gets what it would get alone. A :class:`SegmentPlan` in its place is made once for all layers.

        ``filters`` are those that :meth:`filters` returns for L, or for the longest packed sequence or more. With them
        this call computes none of its own.

        With ``shards``, u is ``(B, L_r, D)``: the positions of this process of a sequence that is split over the
        processes of a group, and so is the result. l_max holds for the whole sequence. The call is a collective, and
        gradients are to be summed over the group (:mod:`hyena_kernels.distributed`).

        ``real``, bool ``(B, L)``, is for bidirectional operators. It is False at pads, which count as zeros for every
        convolution, whatever they hold: a row gets what its real positions get alone, up to rounding. With
        ``"published"``, a row's length is the number of its real positions. Every row then has filters of its own,
        ``(B, D, 2 L - 1)``, and real positions have to be neighbours.
        """
        # Other arguments are accepted and unused, as in the original. Boundaries would then be lost without a word.
        if any(isinstance(arg, SegmentPlan) for arg in args) or any(name.startswith("cu_seq") for name in kwargs):
            raise TypeError("HyenaOperator: pass boundaries of packed sequences by the name cu_seqlens")
        checks.rank("HyenaOperator", "input", u, "(B, L, D)")
        if u.shape[2] != self.d_model:
            raise ValueError(
                f"HyenaOperator: input has shape {tuple(u.shape)}, expected (B, L, D) with D = {self.d_model}"
            )
        if shards is not None or self.context is not None:
            shards = self._shards(u, shards)
            if shards.size > 1:
                y = self._mixed_over_processes(u, shards, cu_seqlens, filters)
                return self._projected(y)
        if cu_seqlens is not None and self.bidirectional:
            raise NotImplementedError(
                "HyenaOperator: a bidirectional operator takes no packed sequences (cu_seqlens): give each its own "
                "row, and mark its pads by real="
            )
        if real is not None:
            self._check_real(real, u)
            # What pads hold must not reach the gradient of in_proj either.
            u = u.masked_fill(~real[..., None], 0)
        plan = None if cu_seqlens is None else self._plan(u, cu_seqlens)
        L = u.shape[1] if plan is None else plan.longest
        if not 1 <= L <= self.longest:
            longest = "its length L is" if plan is None else f"its longest segment has {L} positions, which is"
            raise ValueError(
                f"HyenaOperator: input (B, L, D) has shape {tuple(u.shape)}: {longest} outside 1 … {self.l_max}, "
                "the l_max that this operator was made for; with a filter_length it takes longer ones"
            )
        if filters is not None:
            self._check_filters(filters, L, at_least=plan is not None)
        x = self.in_proj(u)
        far = self.far_field_plan(L, x.dtype, given=filters is not None, packed=plan is not None)
        if far is not None:
            return self._projected(self._by_far_field(x, L, far))
        k, D = self.filters(L) if filters is None else filters
        if self.bidirectional:
            return self._projected(self._both_ways(x, k, D, real))
        if self._mixes_at_once():
            weight, bias = self.short_filter.weight.squeeze(1), self.short_filter.bias
            if plan is None:
                y = hyena_mixer(x, weight, bias, k, D, backend=self.backend)
            else:
                y = hyena_mixer_varlen(x[0], weight, bias, k, D, cu_seqlens=plan, backend=self.backend)[None]
        else:
            y = self._recurrence_by_steps(x, k, D, plan)
        return self._projected(y)

    def _mixes_at_once(self) -> bool:
        """Whether one op computes everything between the projections: no dropout, and a plain short filter."""
        drops = self.dropout.p > 0 and self.dropout.training
        return is_plain(self.short_filter, nn.Conv1d) and is_plain(self.dropout, nn.Dropout) and not drops

    def far_field_plan(self, L: int, dtype: torch.dtype, *, given: bool = False, packed: bool = False) -> Plan | None:
        """The blocks and nodes with which the long convolutions of L positions run now, or None for the exact route.

        A call of :meth:`forward` asks this once. Who computes the operator's parts apart asks it once too, and takes
        the same answer for backward.

        Args:
            L: number of positions.
            dtype: of the signals, after autocast.
            given: whether the caller has filters of :meth:`filters`, which have all taps.
            packed: whether there are several sequences in one row.

        Raises:
            FarFieldError: the far field was asked for by name and cannot be taken.
        """
        wanted = setting(self.long_conv)
        if not torch.compiler.is_compiling():
            forget_if_trained(self.filter_fn)
        if wanted == "fft" or (wanted == "auto" and (given or torch.compiler.is_compiling())):
            return None
        obstacle = None
        name = _backend.requested(self.backend)
        if given:
            obstacle = "filters with all taps are given"
        elif packed:
            obstacle = "packed sequences (cu_seqlens) take all taps"
        elif self.bidirectional:
            obstacle = "a bidirectional operator takes all taps"
        elif self.taps(L) < L:
            obstacle = f"filter_length={self.filter_length} makes the filters short"
        elif type(self.filter_fn) is not HyenaFilter:
            if wanted == "auto":
                return None
            obstacle = f"filter_fn is a {type(self.filter_fn).__name__}"
        elif name != _backend.AUTO and not _backend.has("hyena_mixer_far_fwd", name):
            obstacle = f"backend {name!r} has no kernels for it"
        return route_plan(self.filter_fn, L, dtype, wanted=wanted, obstacle=obstacle)

    def far_field_filters(self, L: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor | None]:
        """The filters of L positions for :func:`hyena_kernels.hyena_mixer_far`, by a plan of :meth:`far_field_plan`.

        Returns:
            Near taps ``(order - 1, D, h)``, nodes ``(order - 1, D, 2 p - 1, ⌈L / h⌉ - 1)`` and skip ``(order - 1, D)``,
            or None in its place with ``bias=False``. In a block of :func:`cache_filters` inference keeps them, so they
            are not to be written into.
        """
        backend = node_backend(self.backend, self.filter_fn.bias.device)
        found = kept_or_new(self.filter_fn, (L, backend, plan), lambda: self.filter_fn.far_field(L, plan, backend))
        near, nodes, D = found
        parts = (self.order - 1, self.d_model)
        return near.unflatten(0, parts), nodes.unflatten(0, parts), None if D is None else D.view(parts)

    def _by_far_field(self, x: Tensor, L: int, plan: Plan) -> Tensor:
        """The recurrence, from the projections ``(B, L, (N+1) D)`` to ``(B, L, D)``."""
        near, nodes, D = self.far_field_filters(L, plan)
        if self._mixes_at_once():
            weight, bias = self.short_filter.weight.squeeze(1), self.short_filter.bias
            return hyena_mixer_far(x, weight, bias, near, nodes, D, backend=self.backend)
        *gates, v = self._short_convolution(x.transpose(1, 2)).contiguous().split(self.d_model, dim=1)
        for o in range(self.order - 1):
            v = self.dropout(v * gates[self.order - 1 - o])
            v = far_field_conv(v, near[o], nodes[o], None if D is None else D[o], backend=self.backend)
        return (v * gates[0]).transpose(1, 2)

    def _projected(self, y: Tensor) -> Any:
        y = self.out_proj(self.activation(y))
        return (y, None) if self.return_state else y

    @property
    def longest(self) -> int:
        """Most positions of an input: ``l_max``, or with a ``filter_length`` any number."""
        return self.l_max if self.filter_length is None else sys.maxsize

    def taps(self, L: int) -> int:
        """Number of taps of the long filters for L positions: L, or the ``filter_length`` if that is less.

        Two-sided filters have 2 L - 1, of the lags -(L-1) … L-1.
        """
        if self.bidirectional is True:
            return 2 * L - 1
        return L if self.filter_length is None else min(L, self.filter_length)

    def filters(self, L: int) -> Filters:
        """The filters of L positions, which :meth:`forward` computes unless it is given some.

        Calls that share them compute them once, and their gradients sum. With activation checkpointing, filters from
        outside the checkpointed region are not computed again in backward. They are not to be written into.

        Args:
            L: number of positions, 1 to ``l_max``. With a ``filter_length`` it may be larger.

        Returns:
            Filters ``(order - 1, D, K)`` with K = L, or ``filter_length`` if that is less, and skip
            ``(order - 1, D)``, or None in its place with ``bias=False``. Both are float32, or float64 in a float64
            model. Two-sided filters have K = 2 L - 1 taps, of the lags -(L-1) … L-1. Those of ``"published"`` are not
            delayed yet.

        Raises:
            ValueError: L is outside 1 … ``l_max``.
            TypeError: a parameter of the filters has 16 bits, or a hook on ``filter_fn`` has replaced its result.

        Example:
            >>> import torch
            >>> from hyena_kernels import HyenaOperator
            >>> layer, u = HyenaOperator(8, 100), torch.randn(1, 100, 8)
            >>> torch.equal(layer(u, filters=layer.filters(100)), layer(u))
            True
        """
        K = self.taps(L)
        # Two-sided filters are made of two of L taps each.
        made = L if self.bidirectional else K
        k, D = kept_or_new(self.filter_fn, (made, self.backend), lambda: self._new_filters(made))
        return k.view(self.order - 1, self.d_model, K), None if D is None else D.view(self.order - 1, self.d_model)

    def _new_filters(self, K: int, **part: Any) -> Filters:
        found = self.filter_fn(None, K, backend=self.backend, **part)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "HyenaOperator: filter_fn(None, L) has to return two tensors, filters (D, L) and skip (D,), got "
                f"{type(found).__name__}: a hook or a wrapper has replaced its result"
            )
        k, D = found
        return (two_sided(k), D) if self.bidirectional is True else (k, D)

    def _shards(self, u: Tensor, shards: ContextShards | None) -> ContextShards:
        """The shards of a call, checked as far as one process can do that."""
        # Imported here, because models of one process need nothing of it.
        from hyena_kernels.distributed.shards import active_shards

        shards = active_shards() if shards is None else shards
        if shards is None:
            raise ValueError(
                "HyenaOperator: context_parallel has set a context, and the call has no shards: pass shards=, or call "
                "it within sequence_shards(shards), backward included"
            )
        if self.context is not None and self.context.group_name != shards.group_name:
            raise ValueError(
                f"HyenaOperator: the shards are of the group {shards.group_name!r} and the context is of "
                f"{self.context.group_name!r}: make both with the same group"
            )
        if not 1 <= shards.total <= self.longest:
            raise ValueError(
                f"HyenaOperator: the shards {shards.lengths} have {shards.total} positions, which is outside 1 … "
                f"{self.l_max}, the l_max that this operator was made for; with a filter_length it takes longer ones"
            )
        if shards.size == 1 and u.shape[1] != shards.total:
            raise ValueError(
                f"HyenaOperator: input (B, L, D) has shape {tuple(u.shape)}, expected the {shards.total} positions of "
                "the shards"
            )
        return shards

    def _mixed_over_processes(
        self, u: Tensor, shards: ContextShards, cu_seqlens: Any, filters: Filters | None
    ) -> Tensor:
        """The input of out_proj for this process's positions."""
        from hyena_kernels.distributed.mixer import hyena_mixer_cp
        from hyena_kernels.distributed.shards import ContextSettings

        what = None
        if setting(self.long_conv) == "far_field":
            what = "long_conv='far_field': leave it at 'auto'"
        elif self.bidirectional:
            what = "a bidirectional operator: give it whole sequences"
        elif cu_seqlens is not None:
            what = "packed sequences (cu_seqlens): pad them, or pack them without shards"
        elif filters is not None:
            what = "given filters: leave them out, and each process computes those of its channels"
        elif self.dropout.p > 0 and self.dropout.training:
            what = f"dropout={self.dropout.p} in training: make the operator with dropout=0"
        elif not is_plain(self.dropout, nn.Dropout):
            what = "another module in place of its dropout: put nn.Dropout back"
        elif not is_plain(self.short_filter, nn.Conv1d):
            what = "a wrapped short_filter, such as an adapter's: merge the adapter first"
        if what is not None:
            raise NotImplementedError(f"HyenaOperator: a sequence in shards does not go with {what}")
        settings = ContextSettings(shards.group_name) if self.context is None else self.context
        return hyena_mixer_cp(
            self.in_proj(u),
            self.short_filter.weight.squeeze(1),
            self.short_filter.bias,
            lambda own: self._filters_of(own, shards, settings.filters),
            shards=shards,
            order=self.order,
            chunks=settings.chunks,
            wire=settings.wire,
            backend=self.backend,
        )

    def _filters_of(self, own: slice, shards: ContextShards, by: str) -> Filters:
        """The filters of some channels, ``(order - 1, D_r, K)``, and their skip ``(order - 1, D_r)``."""
        steps, K = self.order - 1, self.taps(shards.total)
        count = own.stop - own.start
        if by == "channels":
            rows = [slice(o * self.d_model + own.start, o * self.d_model + own.stop) for o in range(steps)]
            k, D = self._new_filters(K, channels=rows)
            return k.view(steps, count, K), None if D is None else D.view(steps, count)
        from hyena_kernels.distributed.exchange import all_to_all
        from hyena_kernels.distributed.shards import parts

        lengths = parts(K, shards.size)
        start = sum(lengths[: shards.rank])
        k, D = self._new_filters(K, positions=slice(start, start + lengths[shards.rank]))
        k = all_to_all(k.reshape(steps, self.d_model, -1), lengths, shards.channel_counts(self.d_model), shards)
        return k, None if D is None else D.view(steps, self.d_model)[:, own]

    def _plan(self, u: Tensor, cu_seqlens: Tensor | SegmentPlan) -> SegmentPlan:
        if u.shape[0] != 1:
            raise ValueError(
                f"HyenaOperator: input has shape {tuple(u.shape)}: with cu_seqlens it is one packed row (1, T, D)"
            )
        return plan_of("HyenaOperator", cu_seqlens, None, u, 1)

    def _check_filters(self, filters: Any, L: int, *, at_least: bool) -> None:
        if not isinstance(filters, tuple) or len(filters) != 2:
            raise TypeError(
                "HyenaOperator: filters must be two tensors, as HyenaOperator.filters(L) returns them, got "
                f"{type(filters).__name__}"
            )
        expected, K = (self.order - 1, self.d_model), self.taps(L)
        if at_least and isinstance(filters[0], Tensor) and filters[0].dim() == 3:
            # A packed sequence takes the taps that it needs.
            K = max(K, filters[0].shape[2])
        for name, tensor, shape in (("k", filters[0], (*expected, K)), ("D", filters[1], expected)):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"HyenaOperator: filters: {name} has shape {tuple(tensor.shape)}, expected {shape} for an input of "
                    f"length {L}: take them from HyenaOperator.filters({L})"
                )

    def _check_real(self, real: Any, u: Tensor) -> None:
        if not self.bidirectional:
            raise ValueError("HyenaOperator: real= is for a bidirectional operator; pads of a causal one go behind")
        if not isinstance(real, Tensor) or real.dtype != torch.bool or real.shape != u.shape[:2]:
            found = f"{tuple(real.shape)} {real.dtype}" if isinstance(real, Tensor) else type(real).__name__
            raise ValueError(f"HyenaOperator: real is {found}, expected bool (B, L) = {tuple(u.shape[:2])}")

    def _both_ways(self, x: Tensor, k: Tensor, D: Tensor | None, real: Tensor | None) -> Tensor:
        """The recurrence of a bidirectional operator, from the projections ``(B, L, (N+1) D)`` to ``(B, L, D)``."""
        # Filled, not multiplied: 0 times a NaN or an infinity at a pad is a NaN.
        pads = None if real is None else ~real[..., None]
        x = x if pads is None else x.masked_fill(pads, 0)
        # Contiguous, because the order of memory decides what a seed of dropout drops.
        *gates, v = self._short_convolution(x.transpose(1, 2)).contiguous().split(self.d_model, dim=1)
        steps = self.order - 1
        for o in range(steps):
            gate: Tensor | None = gates[steps - o]
            v = v if pads is None else v.masked_fill(pads.transpose(1, 2), 0)
            if not is_plain(self.dropout, nn.Dropout) or (self.dropout.p > 0 and self.dropout.training):
                v, gate = self.dropout(v * gate), None
            v = fftconv(
                v,
                self._lags(k[o], real),
                None if D is None else D[o],
                pre_gate=gate,
                post_gate=gates[0] if o == steps - 1 else None,
                causal=False,
                backend=self.backend,
            )
        return v.transpose(1, 2)

    def _lags(self, k: Tensor, real: Tensor | None) -> Tensor:
        """The taps of lags -(L-1) … L-1, of the filters ``(D, K)`` of :meth:`filters`."""
        if self.bidirectional is True:
            return k
        return delayed(k) if real is None else delayed_each(k, real.sum(dim=1))

    def _recurrence_by_steps(self, x: Tensor, k: Tensor, D: Tensor | None, plan: SegmentPlan | None) -> Tensor:
        """The recurrence of hyena_mixer op by op, for dropout or a wrapped short filter."""
        x = x.transpose(1, 2)
        if plan is None:
            p = self._short_convolution(x)
        elif is_plain(self.short_filter, nn.Conv1d):
            spread, place = plan.spread(x, self.short_filter.kernel_size[0] - 1)
            p = self._short_convolution(spread).index_select(2, place)
        else:
            # One call a segment, because a wrapped filter may do anything with the length of its input.
            p = torch.cat([self._short_convolution(part) for part in x.split(plan.lengths, dim=2)], dim=2)
        # Contiguous, because the order of memory decides what a seed of dropout drops.
        *gates, v = p.contiguous().split(self.d_model, dim=1)
        for o in range(self.order - 1):
            v = self.dropout(v * gates[self.order - 1 - o])
            skip = None if D is None else D[o]
            if plan is None:
                v = fftconv(v, k[o], skip, backend=self.backend)
            else:
                v = fftconv_varlen(v[0], k[o], skip, cu_seqlens=plan, backend=self.backend)[None]
        return (v * gates[0]).transpose(1, 2)

    def _short_convolution(self, x: Tensor) -> Tensor:
        """The short filter on ``(B, width, L)``, centred in a two-sided operator."""
        if is_plain(self.short_filter, nn.Conv1d):
            convolve = centred_short_conv if self.bidirectional is True else short_conv
            return convolve(x, self.short_filter.weight.squeeze(1), self.short_filter.bias, backend=self.backend)
        filtered: Tensor = self.short_filter(x)
        # The module pads on both sides by as much as a causal one needs on the left.
        first = ahead(self.short_filter.kernel_size[0]) if self.bidirectional is True else 0
        return filtered[..., first : first + x.shape[2]]
