"""Inputs, references in plain PyTorch, float64 oracles and error budgets of the ops, for tests and benchmarks.

For every op of ``hyena_kernels`` there are two functions with the arguments of the op without ``backend``:

- ``<op>_inputs``: random arguments by name, as ``fftconv(**fftconv_inputs(2, 3, 64))`` takes them;
- ``reference_<op>``: the op as a user would write it, one PyTorch op after the other in the dtype of the inputs;
  differentiable any number of times.

The oracle of an op is its reference on float64 inputs; where the reference has an FFT, it is ``oracle_<op>``, which has
none. For float64 inputs of ``implicit_filter`` it is in long double. :func:`check` holds an op against both: its error
may be at most :func:`error_budget`. Nothing in the package imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyena_kernels.fftconv import fftconv
from hyena_kernels.implicit_filter import implicit_filter
from hyena_kernels.mixer import hyena_mixer
from hyena_kernels.short_conv import short_conv
from hyena_kernels.testing import long_double as _long_double

Inputs = dict[str, Tensor | None]
"""Arguments of an op by name, in the order of its signature; None for an optional one that is absent."""


class _Draw:
    """Random numbers drawn in float64 on the CPU, so that they agree in every dtype and on every device."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, dtype=torch.float64, generator=self.generator) * scale
        return values.to(device=self.device, dtype=dtype)

    def uniform(self, *shape: int, dtype: torch.dtype, bound: float) -> Tensor:
        values = torch.rand(shape, dtype=torch.float64, generator=self.generator) * (2 * bound) - bound
        return values.to(device=self.device, dtype=dtype)


def _filter_dtype(dtype: torch.dtype, filter_dtype: torch.dtype | None) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if filter_dtype is None else filter_dtype


def _accumulator(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def fftconv_inputs(
    batch: int,
    channels: int,
    length: int,
    taps: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    skip: bool = True,
    pre_gate: bool = True,
    post_gate: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``fftconv``, scaled so that results are of the order of 1.

    Args:
        batch: batch size B.
        channels: number of channels D.
        length: length L.
        taps: filter length K, by default L.
        dtype: of signal and gates.
        filter_dtype: of ``k`` and ``D``, by default float32, or float64 if ``dtype`` is.
        skip: whether ``D`` is given.
        pre_gate: whether it is given.
        post_gate: whether it is given.
        seed: of the random numbers.
        device: where the tensors are.

    Returns:
        ``u (B, D, L)``, ``k (D, K)``, ``D (D,)``, ``pre_gate (B, D, L)`` and ``post_gate (B, D, L)``.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    taps = length if taps is None else taps
    return {
        "u": draw.normal(batch, channels, length, dtype=dtype),
        "k": draw.normal(channels, taps, dtype=wide, scale=taps**-0.5),
        "D": draw.normal(channels, dtype=wide) if skip else None,
        "pre_gate": draw.normal(batch, channels, length, dtype=dtype) if pre_gate else None,
        "post_gate": draw.normal(batch, channels, length, dtype=dtype) if post_gate else None,
    }


def short_conv_inputs(
    batch: int,
    channels: int,
    length: int,
    taps: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``short_conv``: ``x (B, D, L)``, ``weight (D, K)`` and ``bias (D,)``.

    Args:
        batch: batch size B.
        channels: number of channels D.
        length: length L.
        taps: filter length K.
        dtype: of the signal.
        filter_dtype: of ``weight`` and ``bias``, by default float32, or float64 if ``dtype`` is.
        bias: whether it is given.
        seed: of the random numbers.
        device: where the tensors are.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    return {
        "x": draw.normal(batch, channels, length, dtype=dtype),
        "weight": draw.normal(channels, taps, dtype=wide, scale=taps**-0.5),
        "bias": draw.normal(channels, dtype=wide) if bias else None,
    }


def implicit_filter_inputs(
    channels: int,
    length: int,
    *,
    features: int = 5,
    width: int = 64,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    window: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Arguments of ``implicit_filter``: positions and decay rates as published, random weights, frequencies near 10.

    Args:
        channels: number of channels D.
        length: length L.
        features: number of features of a position E, odd.
        width: width of the network H.
        layers: number of hidden layers M.
        dtype: of all tensors, float32 or float64.
        window: whether ``t`` and ``deltas`` are given.
        seed: of the random numbers.
        device: where the tensors are.

    Returns:
        ``z (L, E)``, ``freq (H,)``, ``w_in (H, E)``, ``b_in (H,)``, ``w_hidden (M, H, H)``, ``b_hidden (M, H)``,
        ``w_out (D, H)``, ``t (L,)`` and ``deltas (D,)``.
    """
    draw = _Draw(seed, device)
    bands = (features - 1) // 2
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    phase = (2 * math.pi / length) * torch.outer(
        torch.arange(length, dtype=torch.float64), torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    )
    z = torch.cat((t[:, None], phase.cos(), -phase.sin()), dim=1)
    deltas = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels, dtype=torch.float64)
    return {
        "z": z.to(device=device, dtype=dtype),
        "freq": 10 + draw.normal(width, dtype=dtype),
        "w_in": draw.uniform(width, features, dtype=dtype, bound=features**-0.5),
        "b_in": draw.uniform(width, dtype=dtype, bound=features**-0.5),
        "w_hidden": draw.uniform(layers, width, width, dtype=dtype, bound=width**-0.5),
        "b_hidden": draw.uniform(layers, width, dtype=dtype, bound=width**-0.5),
        "w_out": draw.uniform(channels, width, dtype=dtype, bound=width**-0.5),
        "t": t.to(device=device, dtype=dtype) if window else None,
        "deltas": deltas.to(device=device, dtype=dtype) if window else None,
    }


def hyena_mixer_inputs(
    batch: int,
    length: int,
    channels: int,
    *,
    order: int = 2,
    taps: int | None = None,
    short_taps: int = 3,
    dtype: torch.dtype = torch.float32,
    filter_dtype: torch.dtype | None = None,
    bias: bool = True,
    skip: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Random arguments of ``hyena_mixer``.

    Args:
        batch: batch size B.
        length: length L.
        channels: width d of the operator.
        order: order N of the recurrence.
        taps: length K of the long filters, by default L.
        short_taps: length Ks of the short filters.
        dtype: of ``x``.
        filter_dtype: of all other tensors, by default float32, or float64 if ``dtype`` is.
        bias: whether ``short_bias`` is given.
        skip: whether ``D`` is given.
        seed: of the random numbers.
        device: where the tensors are.

    Returns:
        ``x (B, L, (N+1) d)``, ``short_weight ((N+1) d, Ks)``, ``short_bias ((N+1) d,)``, ``k (N-1, d, K)`` and
        ``D (N-1, d)``.
    """
    draw, wide = _Draw(seed, device), _filter_dtype(dtype, filter_dtype)
    taps = length if taps is None else taps
    return {
        "x": draw.normal(batch, length, (order + 1) * channels, dtype=dtype),
        "short_weight": draw.normal((order + 1) * channels, short_taps, dtype=wide, scale=short_taps**-0.5),
        "short_bias": draw.normal((order + 1) * channels, dtype=wide) if bias else None,
        "k": draw.normal(order - 1, channels, taps, dtype=wide, scale=taps**-0.5),
        "D": draw.normal(order - 1, channels, dtype=wide) if skip else None,
    }


def reference_fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """``fftconv`` as HyenaDNA publishes it: transforms of size 2L in float32, or float64 if an input has it.

    Products with gates are in ``u``'s dtype. Arguments, result and definition are those of
    :func:`hyena_kernels.fftconv`.
    """
    length, dtype = u.shape[-1], _accumulator(u, k)
    size = 2 * length
    first = 0 if causal else (k.shape[-1] - 1) // 2
    x = (u if pre_gate is None else pre_gate * u).to(dtype)
    spectrum = torch.fft.rfft(x, n=size) * torch.fft.rfft(k.to(dtype), n=size)
    y = torch.fft.irfft(spectrum, n=size)[..., first : first + length]
    if D is not None:
        y = y + D[:, None].to(dtype) * x
    y = y.to(u.dtype)
    return y if post_gate is None else post_gate * y


def reference_short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``short_conv`` with ``torch.nn.functional.conv1d`` in float32, or float64 if an input has it.

    Arguments, result and definition are those of :func:`hyena_kernels.short_conv`.
    """
    dtype = _accumulator(x, weight)
    padded = F.pad(x.to(dtype), (weight.shape[1] - 1, 0))
    offset = None if bias is None else bias.to(dtype)
    return F.conv1d(padded, weight[:, None].to(dtype), offset, groups=x.shape[1]).to(x.dtype)


def reference_implicit_filter(
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
) -> Tensor:
    """``implicit_filter`` with a tensor of all positions for each layer.

    Arguments, result and definition are those of :func:`hyena_kernels.implicit_filter`.
    """
    h = torch.sin(freq * F.linear(z, w_in, b_in))
    for weight, bias in zip(w_hidden, b_hidden, strict=True):
        h = torch.sin(freq * F.linear(h, weight, bias))
    k = F.linear(h, w_out)
    if t is not None and deltas is not None:
        k = k * (torch.exp(-t[:, None] * deltas.abs()) + shift)
    return k.t().contiguous()


def reference_hyena_mixer(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, k: Tensor, D: Tensor | None = None
) -> Tensor:
    """``hyena_mixer`` op by op, every result in ``x``'s dtype.

    Arguments, result and definition are those of :func:`hyena_kernels.hyena_mixer`.
    """
    return _recurrence(x, short_weight, short_bias, k, D, reference_fftconv)


def _recurrence(
    x: Tensor,
    short_weight: Tensor,
    short_bias: Tensor | None,
    k: Tensor,
    D: Tensor | None,
    long_conv: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    *gates, v = reference_short_conv(x.transpose(1, 2), short_weight, short_bias).split(k.shape[1], dim=1)
    for o, gate in enumerate(reversed(gates[1:])):
        v = long_conv(v * gate, k[o], None if D is None else D[o])
    return (v * gates[0]).transpose(1, 2).contiguous()


def direct_conv(x: Tensor, k: Tensor, *, causal: bool = True, block: int = 256) -> Tensor:
    """Convolution of every channel with its own filter in float64, by its definition, in O(L K) operations.

    ``y[t] = sum_j k[j] x[t - j + centre]`` with ``x`` zero outside its range and ``centre`` 0, or ``(K-1)//2`` if not
    causal. The sums are products of Toeplitz matrices with blocks of ``x``; differentiable.

    Args:
        x: ``(B, D, L)``.
        k: ``(D, K)`` with K ≤ L.
        causal: whether outputs see only earlier inputs.
        block: rows of the matrices; memory is proportional to it.

    Returns:
        ``(B, D, L)``, float64.
    """
    batch, channels, length = x.shape
    taps = k.shape[1]
    first = 0 if causal else (taps - 1) // 2
    rows = min(block, length + first)
    blocks = -(-(length + first) // rows)
    padded = F.pad(x.double(), (0, blocks * rows - length)).view(batch, channels, blocks, rows)
    columns = padded.flip(-1).permute(1, 3, 0, 2)
    lagged = F.pad(k.double(), (rows - 1, blocks * rows - taps))
    y = columns.new_zeros(columns.shape)
    for m in range(min(blocks, -(-(taps + rows - 1) // rows))):
        # toeplitz[a, c] = k[m rows + a - (rows - 1 - c)], and columns hold the block of x back to front.
        toeplitz = lagged[:, m * rows : m * rows + 2 * rows - 1].unfold(1, rows, 1)
        part = toeplitz @ columns[..., : blocks - m].reshape(channels, rows, -1)
        y[..., m:] += part.view(channels, rows, batch, blocks - m)
    return y.permute(2, 0, 3, 1).reshape(batch, channels, blocks * rows)[..., first : first + length]


def oracle_fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """:func:`reference_fftconv` with :func:`direct_conv`, for float64 inputs."""
    x = u if pre_gate is None else pre_gate * u
    y = direct_conv(x, k, causal=causal)
    if D is not None:
        y = y + D[:, None] * x
    return y if post_gate is None else post_gate * y


def oracle_hyena_mixer(
    x: Tensor, short_weight: Tensor, short_bias: Tensor | None, k: Tensor, D: Tensor | None = None
) -> Tensor:
    """:func:`reference_hyena_mixer` with :func:`direct_conv`, for float64 inputs."""
    return _recurrence(x, short_weight, short_bias, k, D, oracle_fftconv)


@dataclass(frozen=True)
class Op:
    """An op with its reference and its oracle, which is called with float64 inputs."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    exact: Callable[..., Tensor] | None = None
    """An oracle of more than float64, where the platform has one."""


OPS = {
    "fftconv": Op(fftconv, reference_fftconv, oracle_fftconv),
    "short_conv": Op(short_conv, reference_short_conv, reference_short_conv),
    "implicit_filter": Op(
        implicit_filter,
        reference_implicit_filter,
        reference_implicit_filter,
        _long_double.implicit_filter if _long_double.AVAILABLE else None,
    ),
    "hyena_mixer": Op(hyena_mixer, reference_hyena_mixer, oracle_hyena_mixer),
}
"""Every op by its public name."""


def value_and_gradients(
    function: Callable[..., Tensor],
    inputs: Mapping[str, Tensor | None],
    dy: Tensor | None = None,
    *,
    frozen: Collection[str] = (),
    **options: Any,
) -> dict[str, Tensor]:
    """Result of a function of tensors and the gradients of ``sum(dy * result)``.

    Args:
        function: called with ``inputs`` and ``options`` by name.
        inputs: tensors by name; they are neither copied nor changed, and keep their strides.
        dy: gradient of the result, cast to its dtype and broadcast to its shape; without one, none is computed.
        frozen: names of inputs that require none.
        options: further arguments.

    Returns:
        ``"y"``, and ``"d<name>"`` for every input that is given, not frozen and has a gradient.
    """
    leaves = {name: None if tensor is None else tensor.detach() for name, tensor in inputs.items()}
    if dy is None:
        with torch.no_grad():
            return {"y": function(**leaves, **options)}
    for name, leaf in leaves.items():
        if leaf is not None and name not in frozen:
            leaf.requires_grad_()
    y = function(**leaves, **options)
    y.backward(dy.to(y.dtype).expand_as(y))
    results = {"y": y.detach()}
    for name, leaf in leaves.items():
        if leaf is not None and leaf.grad is not None:
            results[f"d{name}"] = leaf.grad
    return results


def relative_error(value: Tensor, oracle: Tensor) -> float:
    """``‖value - oracle‖ / ‖oracle‖`` in float64; 0 where both are zero or empty, infinite where only the oracle is."""
    distance = torch.linalg.vector_norm(value.double() - oracle.double()).item()
    scale = torch.linalg.vector_norm(oracle.double()).item()
    return distance / scale if scale else (math.inf if distance else 0.0)


def error_budget(plain: Tensor, oracle: Tensor) -> float:
    """How far from the oracle an op may be: ``2 × (error of plain PyTorch + one rounding of the dtype)``.

    Args:
        plain: what plain PyTorch computes from the same inputs, in the dtype that the op returns.
        oracle: the same in float64.

    Returns:
        A bound for :func:`relative_error`. The band of one rounding is half the dtype's machine epsilon.
    """
    return 2 * (relative_error(plain, oracle) + torch.finfo(plain.dtype).eps / 2)


def check(
    op: str,
    inputs: Mapping[str, Tensor | None],
    *,
    function: Callable[..., Tensor] | None = None,
    gradients: bool = True,
    frozen: Collection[str] = (),
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Hold an op against its budget, for the result and for every gradient.

    An oracle in float64 cannot tell the error of plain PyTorch in float64 from its own. For float64 inputs the oracle
    is therefore one in long double, where the op and the platform have one; elsewhere the budget of a float64 result is
    that of the same inputs in float32, scaled by the ratio of the machine epsilons.

    Args:
        op: a name of :data:`OPS`.
        inputs: its tensors by name. Errors of a few elements are chance: take some hundred elements for each result.
        function: what is held against the budget, by default the op itself.
        gradients: whether gradients are checked.
        frozen: names of inputs that require none.
        options: further arguments of the op, such as ``causal``.

    Returns:
        (error, budget) of ``"y"`` and of every ``"d<name>"``.

    Raises:
        AssertionError: an error is above its budget, or a result differs in shape, dtype or presence from that of plain
            PyTorch; the message lists everything that is at fault.
    """
    known = OPS[op]
    dy = _output_gradient(known, inputs, options) if gradients else None

    def evaluate(each: Callable[..., Tensor], arguments: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        return value_and_gradients(each, arguments, dy, frozen=frozen, **options)

    ours = evaluate(function or known.function, inputs)
    float64 = any(value.dtype == torch.float64 for value in ours.values())
    exact = known.exact if float64 else None
    plain, oracle = evaluate(known.reference, inputs), evaluate(exact or known.oracle, _cast(inputs, torch.float64))
    # Plain PyTorch never touches an empty tensor, such as the weights of no hidden layers: it has no gradient there.
    ours = {name: value for name, value in ours.items() if name in plain or value.numel()}
    if ours.keys() != plain.keys():
        raise AssertionError(f"{op} gives {sorted(ours)}, plain PyTorch {sorted(plain)}")
    budgets = {name: error_budget(plain[name], oracle[name]) for name in ours}
    if float64 and exact is None:
        narrow = _cast(inputs, torch.float32)
        narrow_plain = evaluate(known.reference, narrow)
        narrow_oracle = evaluate(known.oracle, _cast(narrow, torch.float64))
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        for name, value in ours.items():
            if value.dtype == torch.float64:
                budgets[name] = error_budget(narrow_plain[name], narrow_oracle[name]) * ratio

    figures, faults = {}, []
    for name, value in ours.items():
        if value.shape != plain[name].shape or value.dtype != plain[name].dtype:
            faults.append(f"{name} is {_kind(value)}, expected {_kind(plain[name])}")
            continue
        figures[name] = relative_error(value, oracle[name]), budgets[name]
        # Written so that a NaN fails.
        if not figures[name][0] <= figures[name][1]:
            faults.append("{} has the relative error {:.3g}, above its budget of {:.3g}".format(name, *figures[name]))
    if faults:
        raise AssertionError(f"{op} on {', '.join(_given(inputs))}: " + "; ".join(faults))
    return figures


def _output_gradient(op: Op, inputs: Mapping[str, Tensor | None], options: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        y = op.reference(**inputs, **options)
    values = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Of the dtype that the result has in every evaluation, so that all of them get the same numbers.
    return values.float().to(device=y.device, dtype=y.dtype)


def _cast(inputs: Mapping[str, Tensor | None], dtype: torch.dtype) -> Inputs:
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _given(inputs: Mapping[str, Tensor | None]) -> Iterable[str]:
    return (f"{name} {_kind(tensor)}" for name, tensor in inputs.items() if tensor is not None)
