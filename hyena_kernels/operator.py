"""``HyenaOperator`` and ``HyenaFilter``: drop-in for the classes of HyenaDNA, on the fused ops.

Arguments, state_dict keys and results are those of ``standalone_hyenadna.py`` of the HyenaDNA repository. The further
arguments of its training code are accepted by name, and either work or raise NotImplementedError. The default ``shift``
of the window is 0.05 in the standalone file and 0.0 in the training code. A checkpoint does not say which one it was
trained with. Here the default is 0.05.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from hyena_kernels import backend as _backend
from hyena_kernels.common.taps import MAX_TAPS
from hyena_kernels.fftconv import fftconv
from hyena_kernels.filter_cache import Filters, KeptFilters, kept_or_new
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.registration import checks
from hyena_kernels.short_conv import short_conv

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


def _register(module: nn.Module, name: str, tensor: Tensor, lr: float | None) -> None:
    """Register a buffer if ``lr`` is 0, else a parameter whose ``_optim`` has this rate and no weight decay."""
    if lr == 0.0:
        module.register_buffer(name, tensor)
        return
    module.register_parameter(name, nn.Parameter(tensor))
    # Last: accelerate.init_empty_weights cannot register a parameter that has attributes.
    optim = {"weight_decay": 0.0} if lr is None else {"lr": lr, "weight_decay": 0.0}
    module.get_parameter(name)._optim = optim  # type: ignore[attr-defined]


def _refuse(owner: str, **arguments: tuple[Any, Any]) -> None:
    """Raise NotImplementedError if an argument ``name=(given, supported)`` does not have the supported value."""
    for name, (given, supported) in arguments.items():
        if given != supported:
            raise NotImplementedError(
                f"{owner}: {name}={given!r} is not supported; every published HyenaDNA checkpoint uses "
                f"{name}={supported!r}"
            )


class Sin(nn.Module):
    """``sin(freq * x)`` with ``freq (1, dim)``, trainable unless ``train_freq`` is False."""

    freq: Tensor

    def __init__(self, dim: int, w: float = 10.0, train_freq: bool = True) -> None:
        super().__init__()
        freq = torch.full((1, dim), float(w), dtype=_wide_dtype())
        if train_freq:
            self.freq = nn.Parameter(freq)
        else:
            self.register_buffer("freq", freq, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x (..., dim)`` → ``(..., dim)``."""
        return torch.sin(self.freq * x)


class _AtLeastFloat32(nn.Module):
    """A module whose tensors stay in float32 or wider under ``.half()``, ``.bfloat16()`` and ``.to(dtype)``.

    16 bits cannot distinguish the positions of a long sequence, and the network multiplies its weights' rounding errors
    by frequencies of 10 and more in every layer.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def apply(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device, torch.float32) if _is_narrow(moved) and not _is_narrow(tensor) else moved

        return super()._apply(apply, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # With assign=True the module would take tensors of 16 bits as they are.
        if local_metadata.get("assign_to_params_buffers", False):
            for key, tensor in state_dict.items():
                if key.startswith(prefix) and isinstance(tensor, Tensor) and _is_narrow(tensor):
                    state_dict[key] = tensor.detach().float()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _wide_dtype() -> torch.dtype:
    """The default dtype, but at least float32, for models made in bfloat16."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def _is_narrow(tensor: Tensor) -> bool:
    dtype = tensor.dtype
    return dtype.itemsize < 4 and dtype.is_floating_point


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a layer runs ``kind.forward`` on plain tensors and nothing else.

    What else there can be: a wrapper, a subclass, hooks such as those of LoRA and FSDP, a parametrization, or weights
    of another class, such as quantized ones.
    """
    if type(layer).forward is not kind.forward or "forward" in layer.__dict__:
        return False
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    # A loop, because every call of an operator asks for all layers of its filter.
    for tensor in layer._parameters.values():
        if tensor is not None and type(tensor) not in _PLAIN:
            return False
    return "parametrizations" not in layer._modules


# Fake and functional tensors stand for plain ones while a model is traced.
_PLAIN = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)


def _linspace(start: float, stop: float, steps: int) -> Tensor:
    """``torch.linspace`` in the default dtype, but at least in float32.

    The device is explicit: ``with torch.device("meta")`` does not work for ``torch.linspace`` after transformers has
    loaded a model. transformers replaces the function for a while, and torch remembers the replacement.
    """
    return torch.linspace(start, stop, steps, dtype=_wide_dtype(), device=torch.get_default_device())


class SineNetwork(_AtLeastFloat32, nn.Sequential):
    """Linear layers with a :class:`Sin` after each but the last. All sines share one ``freq``.

    Each sine has it under its own name, as in the published checkpoints. Moving the network and loading its weights
    keep it one tensor.
    """

    @classmethod
    def of_widths(cls, widths: Sequence[int], w: float, train_freq: bool) -> Self:
        """Make the network.

        Args:
            widths: number of features before and after each Linear layer.
            w: initial value of the frequencies.
            train_freq: whether ``freq`` is a parameter.
        """
        *pairs, last = itertools.pairwise(widths)
        layers: list[nn.Module] = []
        for before, after in pairs:
            layers += [nn.Linear(before, after, dtype=_wide_dtype()), Sin(after, w, train_freq)]
        network = cls(*layers, nn.Linear(*last, bias=False, dtype=_wide_dtype()))
        network.share_freq()
        return network

    def share_freq(self) -> None:
        """Give all sines the ``freq`` of the first, after something has set them one by one."""
        # Set past nn.Module: accelerate makes a new parameter of each that is registered.
        places = self._places_of_freq()
        for place in places[1:]:
            place["freq"] = places[0]["freq"]

    def _sines(self) -> dict[str, Sin]:
        return {name: layer for name, layer in self.named_children() if isinstance(layer, Sin)}

    def _places_of_freq(self) -> list[dict[str, Any]]:
        """The dictionaries of ``nn.Module`` that hold ``freq``, the first sine's first."""
        places = [place for sine in self._sines().values() for place in (sine._parameters, sine._buffers)]
        return [place for place in places if place.get("freq") is not None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # nn.Module would apply fn once for every name, and could make a new parameter for each.
        places = self._places_of_freq()
        shared = [place for place in places[1:] if place["freq"] is places[0]["freq"]]
        for place in shared:
            place["freq"] = None
        try:
            return super()._apply(fn, recurse)
        finally:
            for place in shared:
                place["freq"] = places[0]["freq"]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        *_, error_msgs = args
        keys = [f"{prefix}{name}.freq" for name, sine in self._sines().items() if "freq" in sine._parameters]
        given = [key for key in keys if key in state_dict]
        if given:
            # One name is enough. The module cannot hold several values.
            first = state_dict[given[0]]
            comparable = all(type(state_dict[key]) in _PLAIN and not state_dict[key].is_meta for key in given)
            differing = [key for key in given if comparable and not _equal(state_dict[key], first)]
            if differing:
                error_msgs.append(f"{differing[0]} differs from {given[0]}: the sines of one filter share one freq.")
            assigned = local_metadata.get("assign_to_params_buffers", False)
            if assigned and (_is_narrow(first) or not isinstance(first, nn.Parameter)):
                wide = first.detach().to(torch.promote_types(first.dtype, torch.float32))
                first = nn.Parameter(wide, self.get_parameter(given[0].removeprefix(prefix)).requires_grad)
            state_dict |= dict.fromkeys(keys, first)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool((one.to(other) == other).all()))


class PositionalEmbedding(_AtLeastFloat32):
    """Features of the positions ``0 … seq_len-1``: ``z (1, seq_len, emb_dim)`` and time ``t (1, seq_len, 1)``.

    Columns of ``z``: ``[t, cos(f w) …, -sin(f w) …]`` with ``t = linspace(0, 1, seq_len)``, ``w = 2πn / seq_len`` and
    ``(emb_dim - 1) / 2`` frequencies ``f = linspace(1e-4, bands - 1, bands)``.
    """

    z: Tensor
    t: Tensor

    def __init__(self, emb_dim: int, seq_len: int, lr_pos_emb: float | None = 1e-5) -> None:
        super().__init__()
        self.emb_dim = emb_dim
        self.seq_len = seq_len
        z, t = self._features()
        _register(self, "z", z, lr_pos_emb)
        _register(self, "t", t, 0.0)

    def _features(self) -> tuple[Tensor, Tensor]:
        # The published weights were trained with features computed in float32 and in this order of operations. The last
        # bits matter, because z is multiplied by frequencies of 10 and more before a sine.
        t = _linspace(0, 1, self.seq_len)[None, :, None]
        position = _linspace(0, self.seq_len - 1, self.seq_len)[None, :, None]
        w = 2 * math.pi * position / self.seq_len
        bands = (self.emb_dim - 1) // 2
        f = _linspace(1e-4, bands - 1, bands)[None, None]
        phase = torch.exp(-1j * f * w)
        return torch.cat((t, phase.real, phase.imag), dim=-1), t

    def reset_buffers(self) -> None:
        """Write the features into ``z`` and ``t``, for modules made on the meta device."""
        with torch.no_grad():
            for tensor, value in zip((self.z, self.t), self._features(), strict=True):
                tensor.copy_(value)

    def forward(self, L: int) -> tuple[Tensor, Tensor]:
        """Return ``z (1, L, emb_dim)`` and ``t (1, L, 1)`` of the first L positions."""
        return self.z[:, :L], self.t[:, :L]


class ExponentialModulation(_AtLeastFloat32):
    """The window ``exp(-t |deltas|) + shift``, with ``deltas (1, 1, d_model)`` evenly spaced between two decay rates.

    Args:
        d_model: number of channels.
        fast_decay_pct: fraction of ``seq_len`` after which the fastest channel has decayed to ``target``.
        slow_decay_pct: fraction of ``seq_len`` after which the slowest channel has decayed to ``target``.
        target: value to which a channel decays in that time.
        modulation_lr: learning rate of ``deltas``. 0 makes it a buffer.
        modulate: False leaves the filter without a window.
        shift: limit of the window at late positions.
    """

    deltas: Tensor

    def __init__(
        self,
        d_model: int,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        modulation_lr: float | None = 0.0,
        modulate: bool = True,
        shift: float = 0.05,
    ) -> None:
        super().__init__()
        self.modulate = modulate
        self.shift = shift
        self.decays = (math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct, d_model)
        _register(self, "deltas", _linspace(*self.decays)[None, None], modulation_lr)

    def reset_buffers(self) -> None:
        """Write the decay rates into ``deltas``, for modules made on the meta device."""
        with torch.no_grad():
            self.deltas.copy_(_linspace(*self.decays)[None, None])

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``t (1, L, 1)``, ``x (1, L, d_model)`` → ``(1, L, d_model)``."""
        return x * (torch.exp(-t * self.deltas.abs()) + self.shift) if self.modulate else x


_MODULATION = frozenset(inspect.signature(ExponentialModulation).parameters) - {"d_model"}


class HyenaFilter(_AtLeastFloat32, KeptFilters):
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
        bidirectional: must be False.
        train_freq: whether the frequencies are trained.
        channels: must be 1.
        **modulation: arguments of :class:`ExponentialModulation`.

    Raises:
        TypeError: an argument has an unknown name.
        ValueError: ``emb_dim`` is even or below 3, or ``seq_len`` is below 1.
        NotImplementedError: an argument has a value that is not supported.
    """

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
        bidirectional: bool = False,
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
        _refuse("HyenaFilter", dropout=(dropout, 0.0), normalized=(normalized, False), channels=(channels, 1))
        _refuse("HyenaFilter", linear_mixer=(linear_mixer, False))
        if bidirectional:
            raise NotImplementedError(
                "HyenaFilter: bidirectional=True is not supported: in the original it is the causal filter delayed by "
                "L/2 with wrap-around; for a two-sided convolution call hyena_kernels.fftconv(..., causal=False)"
            )
        self.d_model = d_model
        self.emb_dim = emb_dim
        self.seq_len = seq_len
        self.use_bias = bias
        self.bias = nn.Parameter(torch.randn(d_model, dtype=_wide_dtype()))
        self.pos_emb = PositionalEmbedding(emb_dim, seq_len, lr_pos_emb)
        widths = (emb_dim, *[order] * (num_inner_mlps + 1), d_model)
        self.implicit_filter = SineNetwork.of_widths(widths, w, train_freq)
        self.modulation = ExponentialModulation(d_model, **modulation)
        optim = {"weight_decay": wd} if lr is None else {"lr": lr, "weight_decay": wd}
        for parameter in self.implicit_filter.parameters():
            parameter._optim = dict(optim)  # type: ignore[attr-defined]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        own = (value for key, value in state_dict.items() if key.startswith(prefix))
        if any(isinstance(value, Tensor) and _is_narrow(value) for value in own):
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

    def filter_settings(self, L: int, backend: str | None) -> Any:
        """What :meth:`forward` depends on besides tensors, or None if code that is not ours takes part in it."""
        ours = self._has_own("filter") and self._has_own("kernel")
        plain = _is_plain(self, HyenaFilter) and _is_plain(self.pos_emb, PositionalEmbedding)
        if not (ours and plain and self._has_plain_layers()):
            return None
        return L, _backend.requested(backend), self.use_bias, self.modulation.modulate, self.modulation.shift

    def _has_own(self, method: str) -> bool:
        """Whether a method is that of this class, not of a subclass or of one object."""
        return getattr(type(self), method) is getattr(HyenaFilter, method) and method not in self.__dict__

    def kernel(self, L: int, backend: str | None = None) -> Tensor:
        """The first L taps of the filters, ``(D, L)``, in float32, or in float64 if the parameters are float64.

        Raises:
            ValueError: L is below 1 or above ``seq_len``.
            TypeError: a parameter has 16 bits, as under a policy of mixed precision.
        """
        if not 1 <= L <= self.seq_len:
            raise ValueError(
                f"HyenaFilter: length {L} is outside 1 … {self.seq_len}, the seq_len this filter was made for"
            )
        return self._fused_kernel(L, backend) if self._has_plain_layers() else self._kernel_by_layers(L)

    def _has_plain_layers(self) -> bool:
        """Whether ``implicit_filter`` computes the same as the modules."""
        network, modulation = self.implicit_filter, self.modulation
        if not (_is_plain(network, nn.Sequential) and _is_plain(modulation, ExponentialModulation)):
            return False
        *layers, last = network
        if not layers or len(layers) % 2 or not _is_plain(last, nn.Linear) or last.bias is not None:
            return False
        freq = getattr(layers[1], "freq", None)
        for linear, sine in zip(layers[::2], layers[1::2], strict=True):
            if not (_is_plain(linear, nn.Linear) and _is_plain(sine, Sin) and sine.freq is freq):
                return False
            # Replicas of nn.DataParallel have no entry.
            if linear._parameters.get("bias", freq) is None:
                return False
        return True

    def _fused_kernel(self, L: int, backend: str | None) -> Tensor:
        layers: list[Any] = list(self.implicit_filter)
        first, act, *others = layers
        *hidden, last = others[::2]
        z, t = self.pos_emb(L)
        deltas = self.modulation.deltas
        weights, biases = [layer.weight for layer in hidden], [layer.bias for layer in hidden]
        w_in, b_in, freq, w_out = first.weight, first.bias, act.freq, last.weight
        if any(map(_is_narrow, (w_in, b_in, freq, *weights, *biases, w_out, z, t, deltas, self.bias))):
            self._refuse_narrow_tensors()
        dtype = w_in.dtype
        if hidden:
            w_hidden, b_hidden = torch.stack(weights).to(dtype), torch.stack(biases).to(dtype)
        else:
            width = w_out.shape[1]
            w_hidden, b_hidden = w_in.new_empty((0, width, width)), w_in.new_empty((0, width))
        modulate = self.modulation.modulate
        # Nothing here is indexed: the gradient of an index takes two kernels, for zeros and a copy.
        return implicit_filter(
            z.squeeze(0).to(dtype),
            freq.squeeze(0).to(dtype),
            w_in,
            b_in.to(dtype),
            w_hidden,
            b_hidden,
            w_out.to(dtype),
            t.flatten().to(dtype) if modulate else None,
            deltas.flatten().to(dtype) if modulate else None,
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
            return self.modulation(t.to(h.dtype), h)[0].t().contiguous()

    def _refuse_narrow_tensors(self) -> None:
        for name, tensor in itertools.chain(self.named_parameters(), self.named_buffers()):
            if _is_narrow(tensor):
                raise TypeError(
                    f"HyenaFilter: {name} has dtype {tensor.dtype}, and filters need float32: a policy of mixed "
                    "precision such as MixedPrecisionPolicy(param_dtype=torch.bfloat16), or an assignment, has cast "
                    "it; give filters their own policy before the model's, fully_shard(operator.filter_fn, "
                    "mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32)), or call filter_fn.float()"
                )

    def filter(self, L: int, *args: Any, **kwargs: Any) -> Tensor:
        """The filters of :meth:`kernel` in the original's shape, ``(1, L, D)``."""
        return self.kernel(L).t()[None]

    def forward(
        self,
        x: Tensor | None,
        L: int,
        k: Tensor | None = None,
        bias: Tensor | None = None,
        *args: Any,
        backend: str | None = None,
        **kwargs: Any,
    ) -> Tensor | Filters:
        """Convolve ``x (B, D, L)`` with ``k (D, L)``, by default this module's own filters and skip.

        Without ``x``, return the filters ``(D, L)`` and the skip ``(D,)``, or None in its place if there is none. This
        is how :class:`HyenaOperator` gets them, so that hooks on this module run.
        """
        if x is None:
            own = self.kernel(L, backend) if self._has_own("filter") else self.filter(L)[0].t().contiguous()
            # A copy, because FSDP frees the parameter after this call.
            return own, self.bias.clone() if self.use_bias else None
        k = self.kernel(L, backend) if k is None else k
        bias = self.bias if bias is None else bias
        return fftconv(x, k, bias if self.use_bias else None, backend=backend)


class HyenaOperator(nn.Module):
    """The Hyena operator, ``(B, L, D) → (B, L, D)``: in_proj, short convolution, gated long convolutions, out_proj.

    Drop-in for the class of the same name in HyenaDNA: same arguments, same state_dict keys. Every call computes the
    filters. In a block of :func:`cache_filters`, inference keeps them.

    Args:
        d_model: width D of input and output.
        l_max: longest sequence; the filters depend on it (see :class:`HyenaFilter`).
        order: depth of the recurrence, at least 2.
        filter_order: width of the filter network.
        dropout: dropout before each long convolution, in training.
        filter_dropout: must be 0. The original accepts it without using it.
        short_filter_order: taps of the short convolution, 1 to 8.
        activation: applied before out_proj: "id", "gelu", "relu", "silu", "tanh" or "sigmoid".
        return_state: return ``(y, None)``, as the training code does.
        num_heads, inner_factor, num_blocks: must be 1.
        outer_mixing, post_order_ffn, jit_filter: must be False.
        fused_bias_fc, local_order: accepted and without effect on results.
        _name_: "hyena", as in the published configurations.
        filter_cls: must be "hyena-filter".
        backend: backend of every op of this module; None takes the first that can run.
        **filter_args: arguments of :class:`HyenaFilter`.

    Raises:
        TypeError: an argument has an unknown name.
        ValueError: ``order`` is below 2, ``l_max`` below 1, ``short_filter_order`` outside 1 … 8, or ``activation`` or
            ``backend`` unknown. In forward: L exceeds ``l_max`` or the input is not ``(B, L, D)``.
        NotImplementedError: an argument has a value that is not supported.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), algorithm 3; Nguyen et al., "HyenaDNA", 2023
    (arXiv 2306.15794). With order above 2 the filters are ordered as in ``standalone_hyenadna.py``: order outer,
    channel inner.
    """

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
        **filter_args: Any,
    ) -> None:
        super().__init__()
        if order < 2:
            raise ValueError(f"HyenaOperator: order must be at least 2, got {order}")
        if not 1 <= short_filter_order <= MAX_TAPS:
            raise ValueError(f"HyenaOperator: short_filter_order must be 1 to {MAX_TAPS}, got {short_filter_order}")
        if backend is not None:
            _backend.requested(backend)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"HyenaOperator: unknown activation {activation!r}: choose one of {sorted(_ACTIVATIONS)}")
        _refuse("HyenaOperator", num_heads=(num_heads, 1), inner_factor=(inner_factor, 1), num_blocks=(num_blocks, 1))
        _refuse("HyenaOperator", outer_mixing=(outer_mixing, False), post_order_ffn=(post_order_ffn, False))
        _refuse("HyenaOperator", jit_filter=(jit_filter, False), filter_cls=(filter_cls, "hyena-filter"))
        _refuse("HyenaOperator", _name_=(_name_, "hyena"))
        self.d_model = d_model
        self.l_max = l_max
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
            d_model * (order - 1), order=filter_order, seq_len=l_max, dropout=filter_dropout, **filter_args
        )

    @property
    def d_output(self) -> int:
        """Width of the output."""
        return self.d_model

    def forward(self, u: Tensor, *args: Any, **kwargs: Any) -> Any:
        """``u (B, L, D)`` with L ≤ l_max → ``(B, L, D)``, or ``((B, L, D), None)`` with ``return_state``."""
        checks.rank("HyenaOperator", "input", u, "(B, L, D)")
        if u.shape[2] != self.d_model:
            raise ValueError(
                f"HyenaOperator: input has shape {tuple(u.shape)}, expected (B, L, D) with D = {self.d_model}"
            )
        L = u.shape[1]
        if not 1 <= L <= self.l_max:
            raise ValueError(
                f"HyenaOperator: input (B, L, D) has shape {tuple(u.shape)}: its length L is outside 1 … {self.l_max}, "
                "the l_max that this operator was made for"
            )
        x = self.in_proj(u)
        k, D = self._filters(L)
        drops = self.dropout.p > 0 and self.dropout.training
        if _is_plain(self.short_filter, nn.Conv1d) and _is_plain(self.dropout, nn.Dropout) and not drops:
            weight = self.short_filter.weight.squeeze(1)
            y = hyena_mixer(x, weight, self.short_filter.bias, k, D, backend=self.backend)
        else:
            y = self._recurrence_by_steps(x, k, D)
        y = self.out_proj(self.activation(y))
        return (y, None) if self.return_state else y

    def _filters(self, L: int) -> Filters:
        """Filters ``(order - 1, D, L)`` and skip ``(order - 1, D)``, through the call of ``filter_fn``."""

        def compute() -> Filters:
            found = self.filter_fn(None, L, backend=self.backend)
            if not isinstance(found, tuple) or len(found) != 2:
                raise TypeError(
                    "HyenaOperator: filter_fn(None, L) has to return two tensors, filters (D, L) and skip (D,), got "
                    f"{type(found).__name__}: a hook or a wrapper has replaced its result"
                )
            return found

        k, D = kept_or_new(self.filter_fn, (L, self.backend), compute)
        return k.view(self.order - 1, self.d_model, L), None if D is None else D.view(self.order - 1, self.d_model)

    def _recurrence_by_steps(self, x: Tensor, k: Tensor, D: Tensor | None) -> Tensor:
        """The recurrence of hyena_mixer op by op, for dropout or a wrapped short filter."""
        if _is_plain(self.short_filter, nn.Conv1d):
            weight = self.short_filter.weight.squeeze(1)
            p = short_conv(x.transpose(1, 2), weight, self.short_filter.bias, backend=self.backend)
        else:
            p = self.short_filter(x.transpose(1, 2))[..., : x.shape[1]]
        *gates, v = p.split(self.d_model, dim=1)
        for o in range(self.order - 1):
            v = self.dropout(v * gates[self.order - 1 - o])
            v = fftconv(v, k[o], None if D is None else D[o], backend=self.backend)
        return (v * gates[0]).transpose(1, 2)
