"""``OnlineConv``: a long causal convolution whose signal comes one position at a time.

The direct sum over all earlier positions would cost O(G) a step. Here each pair of an input ``s`` and a later output
``t`` is counted once, in one of three places:

- Inputs of the prompt: one convolution of the prompt over the G outputs to come (FutureFill). After that the prompt is
  forgotten.
- Inputs of the same block of ``window`` positions: a direct sum, at step ``t``.
- All others: a tile. When ``i`` steps are done and ``i`` is a multiple of the window, let U be the largest power of two
  that divides ``i``. The last U inputs are convolved with 2U taps, and added to the next U outputs (Flash Inference).

Such tiles cover every remaining pair: ``s`` and ``t`` are parted by exactly one such ``i``. A tile of U inputs costs a
transform of 2U points and comes every 2U steps, so a step costs O(log² G) a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hyena_kernels.fftconv import fftconv
from hyena_kernels.registration import checks

KEPT_TILE = 1 << 16
"""Tiles of more inputs than this are rare, and their spectra are large: they are computed when needed."""

# Bytes of u that one transform takes. A transform needs about six times as much.
_TILE_BYTES = 1 << 24


class Tiles:
    """Adds what finished blocks of an online convolution contribute to the outputs to come.

    Args:
        taps: ``(…, D, G)``, float32 or float64: the filters, with skip weights added to lag 0.
        window: positions of a block, a power of two.

    Attributes:
        spectra: the spectrum ``(…, D, U + 1)`` of the first 2U taps by U, made on first use.
    """

    def __init__(self, taps: Tensor, window: int) -> None:
        self.taps = taps
        self.window = window
        self.spectra: dict[int, Tensor] = {}

    def add(self, u: Tensor, future: Tensor, t: int) -> None:
        """Add the tile that ends before step ``t`` to the outputs from ``t`` on. At most steps there is none.

        Args:
            u: ``(…, B, D, G)``, the inputs of all steps before ``t``.
            future: ``(…, B, D, G)``, changed at ``t`` and after.
            t: a step, below G.
        """
        size = t & -t
        if t == 0 or size < self.window:
            return
        spectrum = self.spectra.get(size)
        if spectrum is None and size <= KEPT_TILE:
            spectrum = self.spectra[size] = self._spectrum(self.taps, size)
        ends = min(t + size, u.shape[-1])
        _add_tile(
            u[..., t - size : t].transpose(-3, -2),
            self.taps if spectrum is None else spectrum,
            future[..., t:ends].transpose(-3, -2),
            size,
        )

    @staticmethod
    def _spectrum(taps: Tensor, size: int) -> Tensor:
        # Not a tensor of inference mode: the same cache may be used outside of it later.
        with torch.inference_mode(False):
            return torch.fft.rfft(taps[..., : 2 * size], n=2 * size)

    @staticmethod
    def sizes(horizon: int, window: int) -> list[int]:
        """The sizes U of all tiles of ``horizon`` steps whose spectra are kept, in increasing order."""
        found = []
        while window < horizon and window <= KEPT_TILE:
            found.append(window)
            window *= 2
        return found


def _add_tile(u: Tensor, filters: Tensor, future: Tensor, size: int) -> None:
    """Add one tile: ``u (…, D, B, U)`` to ``future (…, D, B, ≤ U)``. ``filters`` are taps, or a complex spectrum."""
    nbytes = u.numel() * u.element_size()
    if nbytes > _TILE_BYTES and u.dim() > 3:
        for some_u, some_filters, some_future in zip(u, filters, future, strict=True):
            _add_tile(some_u, some_filters, some_future, size)
        return
    channels = max(u.shape[0] * _TILE_BYTES // max(nbytes, 1), 1)
    parts = (each.split(channels) for each in (u, filters, future))
    for some_u, some_filters, some_future in zip(*parts, strict=True):
        _convolve(some_u, some_filters, some_future, size)


def _convolve(u: Tensor, filters: Tensor, future: Tensor, size: int) -> None:
    # 2U points suffice: what wraps around falls on the first U outputs, which are dropped.
    spectrum = filters if filters.is_complex() else torch.fft.rfft(filters[..., : 2 * size], n=2 * size)
    found = torch.fft.irfft(torch.fft.rfft(u, n=2 * size).mul_(spectrum.unsqueeze(-2)), n=2 * size)
    future += found[..., size : size + future.shape[-1]]


class OnlineConv:
    """A causal long convolution, one position at a time: ``y[t] = sum_j k[j] u[t - j] + D u[t]``, channel by channel.

    For models with long filters, at inference. A step costs O(log² G) a channel, in place of O(t). The state does not
    grow with the prompt: it is ``(2 B + 1) D G`` numbers, and spectra of the filters with up to ``2 D G`` more.

    Computed in float32, or in float64 if ``k`` is float64. The error of a step does not grow with ``t`` by more than
    √log t, because no output is fed back here. A NaN or an infinity spoils later outputs of its row and channel only.

    Args:
        k: ``(D, K)`` filters, K ≥ 1; float16, bfloat16, float32 or float64. Lags from K on are 0.
        D: ``(D,)`` skip weight, added to the tap of lag 0, or None; a dtype of ``k``'s list.
        batch: rows B.
        horizon: steps G that there may be, at least 1.
        history: ``(B, D, P)``, what the signal was before the first step. The same as :meth:`fill`, whose result is
            not needed.
        window: positions that a step adds up directly at most, a power of two. It changes speed and rounding.

    Raises:
        TypeError: a tensor has a dtype that is not listed.
        ValueError: shapes do not fit together (the message gives them), ``batch`` or ``horizon`` is below 1, or
            ``window`` is no power of two.
        RuntimeError: a tensor requires gradients, and they are enabled: there is no derivative.

    Example:
        >>> import torch
        >>> from hyena_kernels import OnlineConv, fftconv
        >>> u, k = torch.randn(2, 4, 10), torch.randn(4, 10)
        >>> online = OnlineConv(k, batch=2, horizon=3)
        >>> y = [online.fill(u[..., :7])] + [online.step(u[..., t])[..., None] for t in (7, 8, 9)]
        >>> torch.allclose(torch.cat(y, dim=2), fftconv(u, k), atol=1e-5)
        True

    Source: Agarwal et al., "FutureFill", 2024 (arXiv 2410.03766), for the prompt; Oncescu et al., "Flash Inference",
    2024 (arXiv 2410.12982), for the tiles.
    """

    def __init__(
        self,
        k: Tensor,
        D: Tensor | None = None,
        *,
        batch: int,
        horizon: int,
        history: Tensor | None = None,
        window: int = 64,
    ) -> None:
        checks.rank("OnlineConv", "k", k, "(D, K)")
        if k.shape[1] < 1:
            raise ValueError(f"OnlineConv: k (D, K) has shape {tuple(k.shape)}: expected K ≥ 1")
        if D is not None:
            checks.shape("OnlineConv", "D", D, (k.shape[0],), "(D,)")
        checks.same_device("OnlineConv", k=k, D=D)
        for name, value in (("batch", batch), ("horizon", horizon)):
            if value < 1:
                raise ValueError(f"OnlineConv: {name} is {value}, expected at least 1")
        if window < 1 or window & (window - 1):
            raise ValueError(f"OnlineConv: window is {window}, expected a power of two")
        _refuse_gradients(k=k, D=D)
        self.batch = batch
        self.horizon = horizon
        self.window = window
        dtype = torch.promote_types(k.dtype, torch.float32)
        with torch.inference_mode(False), torch.no_grad():
            # Copies: whoever changes k afterwards does not change half of a convolution.
            self._k = k.to(dtype, copy=True)
            if D is not None:
                self._k[:, 0] += D
            taps = F.pad(self._k[:, :horizon], (0, max(horizon - k.shape[1], 0)))
            self._u = k.new_zeros((batch, k.shape[0], horizon), dtype=dtype)
            self._future = torch.zeros_like(self._u)
        self._tiles = Tiles(taps, window)
        self.reset()
        if history is not None:
            self.fill(history)

    @property
    def steps(self) -> int:
        """Steps done since the beginning, or since :meth:`reset`."""
        return self._t

    def reset(self) -> None:
        """Forget the signal: as if made anew, without a history."""
        self._t = 0
        self._filled = False
        # A NaN of the signal before would stay in what is multiplied with zero.
        self._u.zero_()
        self._future.zero_()

    def fill(self, u: Tensor) -> Tensor:
        """Take the signal before the first step, all positions at once.

        Args:
            u: ``(B, D, P)``, P ≥ 1; float16, bfloat16, float32, or float64 if ``k`` is.

        Returns:
            ``(B, D, P)``, the convolution at these positions, of ``u``'s dtype.

        Raises:
            TypeError: the dtype is another one.
            ValueError: the shape is another one, or there was a step or a call of this method before.
            RuntimeError: gradients are enabled, and ``u`` requires them.
        """
        checks.rank("OnlineConv.fill", "u", u, "(B, D, P)")
        if u.shape[2] < 1:
            raise ValueError(f"OnlineConv.fill: u (B, D, P) has shape {tuple(u.shape)}: expected P ≥ 1")
        self._check("fill", "u", u, (*self._u.shape[:2], u.shape[2]), "(B, D, P)")
        if self._filled or self._t:
            raise ValueError(
                "OnlineConv.fill: there was a step or a history before: take all of the signal at once, or reset() "
                "first"
            )
        length = u.shape[2] + self.horizon
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(u.device.type, enabled=False):
            y = fftconv(F.pad(u.to(self._k.dtype), (0, self.horizon)), self._k[:, :length])
            self._future.copy_(y[..., u.shape[2] :])
        self._filled = True
        return y[..., : u.shape[2]].to(u.dtype, memory_format=torch.contiguous_format)

    def step(self, u_t: Tensor) -> Tensor:
        """Take the signal at the next position.

        Args:
            u_t: ``(B, D)``; float16, bfloat16, float32, or float64 if ``k`` is.

        Returns:
            ``(B, D)``, the convolution at this position, of ``u_t``'s dtype.

        Raises:
            TypeError: the dtype is another one.
            ValueError: the shape is another one, or there were ``horizon`` steps before.
            RuntimeError: gradients are enabled, and ``u_t`` requires them.
        """
        self._check("step", "u_t", u_t, tuple(self._u.shape[:2]), "(B, D)")
        t = self._t
        if t == self.horizon:
            raise ValueError(f"OnlineConv.step: all {t} steps of `horizon` are done: make one with a larger horizon")
        with torch.no_grad():
            self._tiles.add(self._u, self._future, t)
            start = t - t % self.window
            self._u[..., t] = u_t
            recent = self._tiles.taps[:, : t - start + 1].flip(1)
            y = (self._u[..., start : t + 1] * recent).sum(dim=2).add_(self._future[..., t])
        self._t = t + 1
        return y.to(u_t.dtype)

    def _check(self, method: str, name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
        method = f"OnlineConv.{method}"
        checks.shape(method, name, tensor, expected, meaning)
        checks.same_device(method, **{name: tensor, "k": self._k})
        if tensor.dtype == torch.float64 != self._k.dtype:
            raise TypeError(f"{method}: {name} is float64 and k is not: make OnlineConv with k.double()")
        _refuse_gradients(**{name: tensor})


def _refuse_gradients(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f"OnlineConv: {name} requires gradients, and decoding has no derivative: call it under "
                "torch.no_grad(), and train with fftconv"
            )
