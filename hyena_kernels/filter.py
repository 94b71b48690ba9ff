"""``HyenaFilter``: implicit long filters, drop-in for the class of HyenaDNA, on the fused ops."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyena_kernels import backend as _backend
from hyena_kernels.bidirectional import Bidirectional, check_kind, delayed, two_sided
from hyena_kernels.far_field import far_field_filter
from hyena_kernels.far_field_plan import Network, Plan
from hyena_kernels.fftconv import fftconv
from hyena_kernels.filter_cache import Filters, KeptFilters
from hyena_kernels.filter_layers import (
    AtLeastFloat32,
    ExponentialModulation,
    Sin,
    SineNetwork,
    is_narrow,
    is_plain,
    refuse,
    wide_dtype,
)
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.positions import PositionalEmbedding

_MODULATION = frozenset(inspect.signature(ExponentialModulation).parameters) - {"d_model"}


class HyenaFilter(AtLeastFloat32, KeptFilters):
    """Implicit long filters: a sine network of the position under an exponential window.

    The filter depends on ``seq_len``, the l_max that it was made for. It does not depend on the requested length.

    All parameters and buffers stay in float32, or float64, in models of 16 bits. They do so under ``.bfloat16()``,
    ``.half()`` and ``.to(dtype)``, in another default dtype, and in ``load_state_dict(assign=True)``.

    Args:
        d_model: number of channels D.
        emb_dim: number of position features, odd and at least 3.
        order: width of the network.
        fused_fft_conv: accepted and without effect. The convolution is always fused.
        seq_len: number of positions.
        lr: learning rate of the network, kept in each parameter's ``_optim``. None leaves the optimizer's own.
        lr_pos_emb: learning rate of ``pos_emb.z``. 0 makes it a buffer, as in HyenaDNA.
        dropout: must be 0. The original accepts it without using it.
        w: initial value of the frequencies.
        wd: weight decay of the network, kept in each parameter's ``_optim``.
        bias: whether :meth:`forward` adds the skip.
        num_inner_mlps: number of hidden layers.
        normalized: must be False.
        linear_mixer: must be False.
        bidirectional: True makes two filters for each channel, of the positions before and behind: the last layer of
            the network has twice the outputs, and both sides share everything before it. The window is a function of
            the distance. ``"published"`` has the parameters of False, and delays the filter as the code of HyenaDNA
            does (:mod:`hyena_kernels.bidirectional`).
        train_freq: whether the frequencies are trained.
        channels: must be 1.
        **modulation: arguments of :class:`ExponentialModulation`.

    Raises:
        TypeError: an argument has an unknown name.
        ValueError: ``emb_dim`` is even or below 3, ``seq_len`` is below 1, or ``bidirectional`` is another value.
        NotImplementedError: an argument has a value that is not supported.
    """

    bidirectional: Bidirectional = False
    """As the argument. Pickles of before it have causal filters."""

    def __init__(
        self,
        d_model: int,
        emb_dim: int = 3,
        order: int = 16,
        fused_fft_conv: bool = False,
        seq_len: int = 1024,
        lr: float | None = 1e-3,
        lr_pos_emb: float | None = 1e-5,
        dropout: float = 0.0,
        w: float = 1.0,
        wd: float = 0.0,
        bias: bool = True,
        num_inner_mlps: int = 2,
        normalized: bool = False,
        linear_mixer: bool = False,
        bidirectional: Bidirectional = False,
        train_freq: bool = True,
        channels: int = 1,
        **modulation: Any,
    ) -> None:
        super().__init__()
        unknown = modulation.keys() - _MODULATION
        if unknown:
            raise TypeError(f"HyenaFilter: unexpected argument {min(unknown)!r}")
        if seq_len < 1:
            raise ValueError(f"HyenaFilter: seq_len, the l_max of an operator, must be at least 1, got {seq_len}")
        if emb_dim % 2 == 0 or emb_dim < 3:
            raise ValueError(f"HyenaFilter: emb_dim must be odd and at least 3 (time, cosine and sine), got {emb_dim}")
        refuse("HyenaFilter", dropout=(dropout, 0.0), normalized=(normalized, False), channels=(channels, 1))
        refuse("HyenaFilter", linear_mixer=(linear_mixer, False))
        check_kind("HyenaFilter", bidirectional)
        self.d_model = d_model
        self.bidirectional = bidirectional
        self.emb_dim = emb_dim
        self.seq_len = seq_len
        self.use_bias = bias
        self.bias = nn.Parameter(torch.randn(d_model, dtype=wide_dtype()))
        self.pos_emb = PositionalEmbedding(emb_dim, seq_len, lr_pos_emb)
        widths = (emb_dim, *[order] * (num_inner_mlps + 1), d_model * self.sides)
        self.implicit_filter = SineNetwork.of_widths(widths, w, train_freq)
        self.modulation = ExponentialModulation(d_model, **modulation)
        optim = {"weight_decay": wd} if lr is None else {"lr": lr, "weight_decay": wd}
        for parameter in self.implicit_filter.parameters():
            parameter._optim = dict(optim)  # type: ignore[attr-defined]

    @property
    def sides(self) -> int:
        """Filters of a channel that the network makes."""
        return 2 if self.bidirectional is True else 1

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        own = (value for key, value in state_dict.items() if key.startswith(prefix))
        if any(isinstance(value, Tensor) and is_narrow(value) for value in own):
            warnings.warn(
                "HyenaFilter: the weights that are loaded have 16 bits, which distort the filters; load weights that "
                "were saved in float32",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def reset_buffers(self) -> None:
        """Compute ``pos_emb.z``, ``pos_emb.t`` and ``modulation.deltas`` again, in place."""
        self.pos_emb.reset_buffers()
        self.modulation.reset_buffers()

    def is_plain(self) -> bool:
        """Whether no code but that of this package takes part in a call: no hook, wrapper, shard or other weights."""
        ours = self._has_own("filter") and self._has_own("kernel")
        plain = is_plain(self, HyenaFilter) and is_plain(self.pos_emb, PositionalEmbedding)
        return ours and plain and self._has_plain_layers()

    def filter_settings(self, L: int, backend: str | None, plan: Plan | None = None) -> Any:
        """What :meth:`forward`, or with a ``plan`` :meth:`far_field`, depends on besides tensors.

        None if code that is not ours takes part in it.
        """
        if not self.is_plain():
            return None
        return L, _backend.requested(backend), self.use_bias, self.modulation.modulate, self.modulation.shift, plan

    def far_field_obstacle(self) -> str | None:
        """Why near taps and nodes of the network are not this module's filters, or None if they are."""
        if self.bidirectional:
            return "the filters are two-sided"
        if not self.is_plain():
            return "the filters are not made by plain layers: a hook, an adapter, a shard or a subclass takes part"
        return self.pos_emb.differs()

    def far_field(self, L: int, plan: Plan, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Near taps ``(D, h)``, nodes ``(D, 2 p - 1, N)`` and skip ``(D,)`` for L positions.

        The counterpart of ``forward(None, L)``. They are float32, or float64 if the parameters are. The network runs in
        float64 at the formula's positions, not at the stored ones, which are rounded to float32.
        """
        network = self.network()
        near, nodes = far_field_filter(
            *network[:8], length=L, seq_len=self.seq_len, h=plan.h, p=plan.p, dtype=network.w_in.dtype, backend=backend
        )
        return near, nodes, self.bias.clone() if self.use_bias else None

    def network(self) -> Network:
        """The parameters of the filters, all of plain layers, as :mod:`hyena_kernels.far_field_plan` takes them."""
        layers: list[Any] = list(self.implicit_filter)
        first, act, *others = layers
        *hidden, last = others[::2]
        width = last.weight.shape[1]
        if hidden:
            w_hidden = torch.stack([layer.weight for layer in hidden])
            b_hidden = torch.stack([layer.bias for layer in hidden])
        else:
            w_hidden, b_hidden = first.weight.new_empty((0, width, width)), first.weight.new_empty((0, width))
        tensors = (act.freq.squeeze(0), first.weight, first.bias, w_hidden, b_hidden, last.weight)
        deltas = self.modulation.deltas.flatten() if self.modulation.modulate else None
        if any(map(is_narrow, (*tensors, self.bias))):
            self._refuse_narrow_tensors()
        return Network(*tensors, deltas, self.modulation.shift, self.seq_len)

    def _has_own(self, method: str) -> bool:
        """Whether a method is that of this class, not of a subclass or of one object."""
        return getattr(type(self), method) is getattr(HyenaFilter, method) and method not in self.__dict__

    def kernel(self, L: int, backend: str | None = None) -> Tensor:
        """The first L taps of the filters, ``(D, L)``, in float32, or in float64 if the parameters are float64.

        Two-sided ones are ``(2 D, L)``: first those of the positions before, then those of the positions behind. Those
        of ``"published"`` are not delayed yet.

        Raises:
            ValueError: L is below 1 or above ``seq_len``.
            TypeError: a parameter has 16 bits, as under a policy of mixed precision.
        """
        self._check_length(L)
        return self._fused_kernel(L, backend) if self._has_plain_layers() else self._kernel_by_layers(L)

    def _check_length(self, L: int) -> None:
        if not 1 <= L <= self.seq_len:
            raise ValueError(
                f"HyenaFilter: length {L} is outside 1 … {self.seq_len}, the seq_len this filter was made for"
            )

    def _has_plain_layers(self) -> bool:
        """Whether ``implicit_filter`` computes the same as the modules."""
        network, modulation = self.implicit_filter, self.modulation
        if not (is_plain(network, nn.Sequential) and is_plain(modulation, ExponentialModulation)):
            return False
        *layers, last = network
        if not layers or len(layers) % 2 or not is_plain(last, nn.Linear) or last.bias is not None:
            return False
        freq = getattr(layers[1], "freq", None)
        for linear, sine in zip(layers[::2], layers[1::2], strict=True):
            if not (is_plain(linear, nn.Linear) and is_plain(sine, Sin) and sine.freq is freq):
                return False
            # Replicas of nn.DataParallel have no entry.
            if linear._parameters.get("bias", freq) is None:
                return False
        return True

    def _part(self, L: int, backend: str | None, channels: Sequence[slice] | None, positions: slice) -> Tensor:
        """Some of the first L taps, for some channels: rows and columns of :meth:`kernel`, of which no others are made.

        All parameters take part, even if there are no channels or no positions.
        """
        if not (self._has_own("filter") and self._has_own("kernel") and self._has_plain_layers()):
            whole = self._whole(L, backend)[:, positions]
            return whole if channels is None else torch.cat([whole[rows] for rows in channels])
        self._check_length(L)
        # An op takes one channel and one position at least.
        one = slice(0, 1)
        no_channels = channels is not None and all(rows.start == rows.stop for rows in channels)
        no_positions = positions.start == positions.stop
        some = self._fused_kernel(L, backend, [one] if no_channels else channels, one if no_positions else positions)
        if no_channels or no_positions:
            return some[: 0 if no_channels else None, : 0 if no_positions else None]
        return some

    def _whole(self, L: int, backend: str | None) -> Tensor:
        """The taps as :meth:`kernel` has them, or :meth:`filter` if somebody has replaced that."""
        return self.kernel(L, backend) if self._has_own("filter") else self.filter(L)[0].t().contiguous()

    def _fused_kernel(
        self,
        L: int,
        backend: str | None,
        channels: Sequence[slice] | None = None,
        positions: slice | None = None,
    ) -> Tensor:
        layers: list[Any] = list(self.implicit_filter)
        first, act, *others = layers
        *hidden, last = others[::2]
        z, t = self.pos_emb(L)
        z, t, deltas = z.squeeze(0), t.flatten(), self.modulation.deltas.flatten()
        if self.sides > 1:
            # The same window on both sides.
            deltas = deltas.repeat(self.sides)
        weights, biases = [layer.weight for layer in hidden], [layer.bias for layer in hidden]
        w_in, b_in, freq, w_out = first.weight, first.bias, act.freq, last.weight
        if any(map(is_narrow, (w_in, b_in, freq, *weights, *biases, w_out, z, t, deltas, self.bias))):
            self._refuse_narrow_tensors()
        dtype = w_in.dtype
        if hidden:
            w_hidden, b_hidden = torch.stack(weights).to(dtype), torch.stack(biases).to(dtype)
        else:
            width = w_out.shape[1]
            w_hidden, b_hidden = w_in.new_empty((0, width, width)), w_in.new_empty((0, width))
        modulate = self.modulation.modulate
        # Nothing else is indexed: the gradient of an index takes two kernels, for zeros and a copy.
        if channels is not None:
            w_out, deltas = (torch.cat([tensor[rows] for rows in channels]) for tensor in (w_out, deltas))
        if positions is not None:
            z, t = z[positions], t[positions]
        return implicit_filter(
            z.to(dtype),
            freq.squeeze(0).to(dtype),
            w_in,
            b_in.to(dtype),
            w_hidden,
            b_hidden,
            w_out.to(dtype),
            t.to(dtype) if modulate else None,
            deltas.to(dtype) if modulate else None,
            self.modulation.shift,
            backend=backend,
        )

    def _kernel_by_layers(self, L: int) -> Tensor:
        """:meth:`kernel` by calling the modules, in the dtype of their parameters."""
        self._refuse_narrow_tensors()
        z, t = self.pos_emb(L)
        dtypes = [tensor.dtype for tensor in self.implicit_filter.parameters() if tensor.is_floating_point()]
        with torch.autocast(z.device.type, enabled=False):
            h = self.implicit_filter(z.to(dtypes[0]) if dtypes else z)
            h = h.to(torch.promote_types(h.dtype, torch.float32))
            sides = [self.modulation(t.to(h.dtype), side) for side in h.chunk(self.sides, dim=-1)]
            return torch.cat(sides, dim=-1)[0].t().contiguous()

    def _refuse_narrow_tensors(self) -> None:
        for name, tensor in itertools.chain(self.named_parameters(), self.named_buffers()):
            if is_narrow(tensor):
                raise TypeError(
                    f"HyenaFilter: {name} has dtype {tensor.dtype}, and filters need float32: a policy of mixed "
                    "precision such as MixedPrecisionPolicy(param_dtype=torch.bfloat16), or an assignment, has cast "
                    "it; give filters their own policy before the model's, fully_shard(operator.filter_fn, "
                    "mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32)), or call filter_fn.float()"
                )

    def filter(self, L: int, *args: Any, **kwargs: Any) -> Tensor:
        """The filters of :meth:`kernel` in the original's shape, ``(1, L, D)``, or ``(1, L, 2 D)``."""
        return self.kernel(L).t()[None]

    def forward(
        self,
        x: Tensor | None,
        L: int,
        k: Tensor | None = None,
        bias: Tensor | None = None,
        *args: Any,
        backend: str | None = None,
        channels: Sequence[slice] | None = None,
        positions: slice | None = None,
        **kwargs: Any,
    ) -> Tensor | Filters:
        """Convolve ``x (B, D, L)`` with ``k (D, L)``, by default this module's own filters and skip.

        Two-sided filters are ``k (2 D, L)``, as :meth:`kernel` has them.

        Without ``x``, return the filters ``(D, L)`` and the skip ``(D,)``, or None in its place if there is none. This
        is how :class:`HyenaOperator` gets them, so that hooks on this module run. ``channels``, slices of the D rows,
        and ``positions``, a slice of the L taps, ask for some of them only. The skip is then that of these channels.
        Of two-sided filters there are no parts.
        """
        if self.sides > 1 and (channels is not None or positions is not None):
            raise NotImplementedError("HyenaFilter: some channels or positions of two-sided filters are not supported")
        if x is None:
            if channels is None and positions is None:
                own = self._whole(L, backend)
            else:
                own = self._part(L, backend, channels, slice(0, L) if positions is None else positions)
            if not self.use_bias:
                return own, None
            # A copy, because FSDP frees the parameter after this call.
            return own, self.bias.clone() if channels is None else torch.cat([self.bias[rows] for rows in channels])
        k = self.kernel(L, backend) if k is None else k
        bias = self.bias if bias is None else bias
        skip = bias if self.use_bias else None
        if not self.bidirectional:
            return fftconv(x, k, skip, backend=backend)
        lags = two_sided(k) if self.bidirectional is True else delayed(k)
        return fftconv(x, lags, skip, causal=False, backend=backend)
