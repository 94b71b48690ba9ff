"""``implicit_filter``: long filters from a sine network of the position, under an exponential window.

In reading order: forward, backward, registration, public function. Positions are processed in slices, transposed,
so that no tensor of all positions times the width of the network is ever made and the filter comes out as
``(D, L)``. Backward runs the network again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyena_kernels import _check, _cuda_support, _library, _torch_fft, _triton_support, backend as _backend

# Positions computed at a time: on a CPU the activations of a network of width 64 should stay in its own cache.
_POSITIONS = {"cpu": 2048}
_POSITIONS_ELSEWHERE = 1 << 18


def _position_slices(z: Tensor) -> Any:
    return _torch_fft.slices(z.shape[0], _POSITIONS.get(z.device.type, _POSITIONS_ELSEWHERE))


def _window(t: Tensor, deltas: Tensor, shift: float) -> Tensor:
    """``(D, L)`` window ``exp(-t |delta|) + shift``."""
    return torch.outer(deltas.abs().neg(), t).exp_().add_(shift)


def _forward(
    z: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    t: Tensor | None,
    deltas: Tensor | None,
    shift: float,
) -> Tensor:
    k = z.new_empty((w_out.shape[0], z.shape[0]))
    for rows in _position_slices(z):
        h = torch.addmm(b_in[:, None], w_in, z[rows].t()).mul_(freq[:, None]).sin_()
        for weight, bias in zip(w_hidden, b_hidden, strict=True):
            h = torch.addmm(bias[:, None], weight, h).mul_(freq[:, None]).sin_()
        part = w_out @ h
        if t is not None and deltas is not None:
            part.mul_(_window(t[rows], deltas, shift))
        k[:, rows] = part
    return k


def _backward(
    dk: Tensor,
    z: Tensor,
    freq: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_hidden: Tensor,
    b_hidden: Tensor,
    w_out: Tensor,
    t: Tensor | None,
    deltas: Tensor | None,
    shift: float,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    dz, dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, dt, ddeltas = grads = tuple(
        z.new_empty(0)
        if tensor is None or not needed
        else torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip((z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas), needs, strict=True)
    )
    for rows in _position_slices(z):
        # linear[i] is the network's i-th pre-activation without its frequency, sines[i] the input of its i-th layer.
        linear, sines = [torch.addmm(b_in[:, None], w_in, z[rows].t())], [z[rows].t()]
        for weight, bias in zip(w_hidden, b_hidden, strict=True):
            sines.append((linear[-1] * freq[:, None]).sin_())
            linear.append(torch.addmm(bias[:, None], weight, sines[-1]))
        sines.append((linear[-1] * freq[:, None]).sin_())

        dh = dk[:, rows]
        if t is not None and deltas is not None:
            decay = _window(t[rows], deltas, 0.0)
            if needs[7] or needs[8]:
                dexponent = (w_out @ sines[-1]).mul_(dh).mul_(decay)
                if needs[7]:
                    dt[rows] = -(deltas.abs() @ dexponent)
                if needs[8]:
                    ddeltas -= deltas.sign() * (dexponent @ t[rows])
            dh = decay.add_(shift).mul_(dh)
        if needs[6]:
            dw_out += dh @ sines[-1].t()
        dsine = w_out.t() @ dh
        for layer in reversed(range(len(linear))):
            dsine.mul_((linear[layer] * freq[:, None]).cos_())
            if needs[1]:
                dfreq += (dsine * linear[layer]).sum(dim=1)
            dlinear = dsine.mul_(freq[:, None])
            weight = w_hidden[layer - 1] if layer else w_in
            dweight, dbias = (dw_hidden, db_hidden) if layer else (dw_in, db_in)
            if needs[4 if layer else 2]:
                (dweight[layer - 1] if layer else dweight).addmm_(dlinear, sines[layer].t())
            if needs[5 if layer else 3]:
                (dbias[layer - 1] if layer else dbias).add_(dlinear.sum(dim=1))
            if layer:
                dsine = weight.t() @ dlinear
            elif needs[0]:
                dz[rows] = (weight.t() @ dlinear).t()
    return grads


_backend.register("implicit_filter_fwd", "torch", _forward)
_backend.register("implicit_filter_bwd", "torch", _backward)
_backend.register(
    "implicit_filter_fwd", "triton", "hyena_kernels.triton.implicit_filter:forward", _triton_support.implicit_filter
)
_backend.register(
    "implicit_filter_bwd",
    "triton",
    "hyena_kernels.triton.implicit_filter:backward",
    _triton_support.implicit_filter_backward,
)
_backend.register(
    "implicit_filter_fwd", "cuda", "hyena_kernels.extension.cuda.implicit_filter:forward", _cuda_support.implicit_filter
)
_backend.register(
    "implicit_filter_bwd",
    "cuda",
    "hyena_kernels.extension.cuda.implicit_filter:backward",
    _cuda_support.implicit_filter_backward,
)
_backend.register("implicit_filter_fwd", "cpp", "hyena_kernels.extension.implicit_filter:forward")
_backend.register("implicit_filter_bwd", "cpp", "hyena_kernels.extension.implicit_filter:backward")


def _forward_fake(z: Tensor, *inputs: Any) -> Tensor:
    w_out: Tensor = inputs[5]
    return z.new_empty((w_out.shape[0], z.shape[0]))


def _backward_fake(dk: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    *tensors, _, needs, _ = inputs
    return tuple(
        dk.new_empty(0)
        if tensor is None or not needed
        else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(tensors, needs, strict=True)
    )


_INPUTS = (
    "Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden, Tensor w_out, Tensor? t, "
    "Tensor? deltas, float shift"
)
_implicit_filter_bwd = _library.define(
    "implicit_filter_bwd",
    f"(Tensor dk, {_INPUTS}, bool[] needs, str backend) -> ({', '.join(['Tensor'] * 9)})",
    _backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.shift, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, dk: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:9])
    grads = _implicit_filter_bwd(dk, *ctx.saved_tensors, ctx.shift, needs, ctx.backend)
    return *(grad if needed else None for grad, needed in zip(grads, needs, strict=True)), None, None


_implicit_filter_fwd = _library.define(
    "implicit_filter_fwd",
    f"({_INPUTS}, str backend) -> Tensor",
    _forward_fake,
    backward=_autograd,
    setup_context=_setup_context,
)


def implicit_filter(
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
    *,
    backend: str | None = None,
) -> Tensor:
    """Filters ``k[:, n] = (w_out @ h_n) * (exp(-t[n] |deltas|) + shift)`` with a sine network ``h_n`` of position n.

    ``h = sin(freq * (w_in @ z[n] + b_in))``, then ``h = sin(freq * (w_hidden[i] @ h + b_hidden[i]))`` for each hidden
    layer. Without ``t`` and ``deltas`` there is no window. Never computed below float32 (autocast has no effect);
    backward runs the network again. Differentiable once in every tensor.

    Args:
        z: ``(L, E)`` features of the positions; float32 or float64, as all other tensors.
        freq: ``(H,)`` frequency of the sines, shared by all layers.
        w_in: ``(H, E)``.
        b_in: ``(H,)``.
        w_hidden: ``(M, H, H)``, M ≥ 0 hidden layers.
        b_hidden: ``(M, H)``.
        w_out: ``(D, H)``.
        t: ``(L,)`` time of the positions, or None.
        deltas: ``(D,)`` decay rates, or None.
        shift: what the window tends to.
        backend: ``"triton"``, ``"cuda"``, ``"cpp"`` or ``"torch"``; None takes the first that can run.

    Returns:
        ``(D, L)`` filters, contiguous.

    Raises:
        TypeError: an argument is no tensor, or dtypes differ or are below float32.
        ValueError: shapes do not fit (the message gives them), only one of ``t`` and ``deltas`` is given, tensors lie
            on several devices, or ``backend`` is no backend's name.
        BackendError: ``backend`` cannot run here.

    Source: Poli et al., "Hyena Hierarchy", 2023 (arXiv 2302.10866), section 3.3 and appendix D; the filter of HyenaDNA
    (arXiv 2306.15794).
    """
    _check.rank("implicit_filter", "z", z, "(L, E)")
    _check.rank("implicit_filter", "w_out", w_out, "(D, H)")
    _check.rank("implicit_filter", "w_hidden", w_hidden, "(M, H, H)")
    if (t is None) != (deltas is None):
        raise ValueError("implicit_filter: t and deltas make the window together: give both or neither")
    length, features = z.shape
    channels, width = w_out.shape
    layers = w_hidden.shape[0]
    if length < 1:
        raise ValueError(f"implicit_filter: z (L, E) has shape {tuple(z.shape)}, expected L ≥ 1")
    tensors = {
        "z": (z, (length, features), "(L, E)"),
        "freq": (freq, (width,), "(H,)"),
        "w_in": (w_in, (width, features), "(H, E)"),
        "b_in": (b_in, (width,), "(H,)"),
        "w_hidden": (w_hidden, (layers, width, width), "(M, H, H)"),
        "b_hidden": (b_hidden, (layers, width), "(M, H)"),
        "w_out": (w_out, (channels, width), "(D, H)"),
        "t": (t, (length,), "(L,)"),
        "deltas": (deltas, (channels,), "(D,)"),
    }
    for name, (tensor, expected, meaning) in tensors.items():
        if tensor is None:
            continue
        _check.shape("implicit_filter", name, tensor, expected, meaning)
        if tensor.dtype != z.dtype or tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"implicit_filter: {name} {tuple(tensor.shape)} has dtype {tensor.dtype} and z {tuple(z.shape)} has "
                f"{z.dtype}: all tensors must be float32, or all float64"
            )
    _check.same_device("implicit_filter", **{name: tensor for name, (tensor, _, _) in tensors.items()})
    result: Tensor = _implicit_filter_fwd(
        z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas, shift, _backend.requested(backend)
    )
    return result


# The package exports this function under the module's own name; see the end of fftconv.py.
implicit_filter.implicit_filter = implicit_filter  # type: ignore[attr-defined]
