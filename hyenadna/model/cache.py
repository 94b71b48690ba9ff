"""``HyenaCache``: what a HyenaDNA model remembers between tokens, so that a new token is cheap.

A Hyena layer has no keys and values. Its long convolution reads all earlier positions through one filter as long as the
sequence. Computing that anew for every token is what makes generation without a cache slow. The cache keeps instead,
for each layer:

- ``short``: the last projections, which the short convolution of the next token reads.
- ``u``: the input of the long convolution at every token since the prompt.
- ``future``: for every token to come, what is already known of its long convolution.

The prompt is read once, in one forward pass over ``P + G`` positions in place of ``P``: its transform gives the outputs
of the prompt, and what the prompt adds to the G outputs to come. These are the start of ``future``. The prompt itself
is then forgotten, so memory grows with the tokens to come and not with the prompt (FutureFill, arXiv 2410.03766).

A new token adds up the tokens of its own block of ``window`` positions directly. All earlier tokens are in ``future``:
whenever a block is finished, a tile of the last U tokens is convolved with the filter and added to the next U places,
where U is the largest power of two that divides the number of tokens so far. All layers' tiles are one call (Flash
Inference, arXiv 2410.12982). ``hyena_kernels.online_conv`` has the argument why each pair is counted once. So a token
costs O(log² G) a channel in the convolution. Dense layers see one position.

Rows of a batch may have prompts of different lengths. Row ``r`` has its first new token at its own position ``P_r``,
and all rows are at the same step ``t``. Since ``future`` counts from there, nothing else depends on the length.

The result is that of the whole sequence up to rounding. Weights are not to be changed while a cache is in use: its
filters are those of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.generation import utils as of_generation
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from hyena_kernels import HyenaOperator
from hyena_kernels.modules import Tiles, is_plain
from hyenadna.common.errors import InputError
from hyenadna.model.arguments import check_length
from hyenadna.model.config import HyenaDNAConfig
from hyenadna.model.layers import HyenaDNABackbone, HyenaDNABlock

WINDOW = 64
"""Tokens that a step adds up directly at most. On a CPU a sequence of 32,768 takes longest at 16 and 128."""

NAME = "cache" if "cache" in of_generation.ALL_CACHE_NAMES else "past_key_values"
"""What transformers' ``generate`` calls a cache. The first releases of transformers 5 have the second name."""


@dataclass
class HyenaDNAOutput(BaseModelOutput):
    """As ``BaseModelOutput``, with the cache."""

    cache: HyenaCache | None = None

    @property
    def past_key_values(self) -> HyenaCache | None:
        """The cache, under its older name."""
        return self.cache


@dataclass
class HyenaDNACausalLMOutput(CausalLMOutput):
    """As ``CausalLMOutput``, with the cache."""

    cache: HyenaCache | None = None

    @property
    def past_key_values(self) -> HyenaCache | None:
        """The cache, under its older name."""
        return self.cache


class CacheState(NamedTuple):
    """What a cache holds once it has a prompt. The tensors are written in place."""

    u: Tensor
    """Inputs of the long convolutions, ``(n_layer, N - 1, B, D, G)``; float32, or float64 of a float64 model."""
    future: Tensor
    """Of the same shape and dtype: what earlier positions add to the outputs to come."""
    short: Tensor
    """Last projections of each row, the oldest first: ``(n_layer, B, (N + 1) D, Ks - 1)`` of their dtype."""
    taps: Tensor
    """The filters, with the skip weights added to lag 0: ``(n_layer, N - 1, D, G)`` of the dtype of ``u``."""
    lengths: Tensor
    """Real positions of each prompt, int64 ``(B,)``."""
    tiles: Tiles
    """The spectra of the filters."""


class _Sizes(NamedTuple):
    layers: int
    recurrences: int
    channels: int
    short_taps: int
    longest: int

    @classmethod
    def of_config(cls, config: HyenaDNAConfig) -> _Sizes:
        return cls(
            config.n_layer, config.hyena_order - 1, config.d_model, config.short_filter_order, config.longest_input
        )


class HyenaCache(Cache):
    """State of a HyenaDNA model between tokens: filled by the first call of the model, moved on by the next ones.

    ``model.generate`` makes one by itself. In a loop of your own::

        cache = HyenaCache(model, batch=1, horizon=100)
        logits = model(prompt, cache=cache).logits[:, -1:]
        for _ in range(100):
            logits = model(logits.argmax(-1), cache=cache).logits

    The first call takes the prompts: any batch of ``batch`` rows, padded on either side with an ``attention_mask``. The
    next calls take the new tokens ``(B, n)`` alone. Each is a step, also if n is above 1. There are no gradients.

    Memory, in numbers of 4 bytes (8 for a float64 model), with N the ``hyena_order``, Ks the ``short_filter_order``, W
    the window and G the horizon::

        n_layer (N - 1) D (2 B G + G + sum of 2 (U + 1) over U = W, 2 W, 4 W … < G, U ≤ 65,536)

    ``nbytes`` and :meth:`bytes_needed` also count the short convolutions' state, and 8 bytes a row. The sum is of
    spectra, which are made on first use; it is at most about 4 G.

    Args:
        model: ``HyenaDNAForCausalLM`` or ``HyenaDNAModel``; what holds one, such as a model of peft, will do. It is not
            kept.
        batch: rows B.
        horizon: tokens G that may follow the prompt, at least 1. ``generate`` feeds ``max_new_tokens - 1`` to the
            model. Above what is left of ``max_seq_len`` behind the longest prompt it is cut to that.
        window: tokens that a step adds up directly at most, a power of two. It changes speed and rounding.

    Attributes:
        state: the tensors; None before the prompt.
        step: tokens t since the prompt.
        window: as given.

    Raises:
        InputError: a number is impossible, or the model has parts that a cache cannot honour: see :func:`refusal`.

    Pickling and ``copy.deepcopy`` keep the whole state; a copy goes on independently.
    """

    is_compileable = False
    is_croppable = False
    is_sliding = [False]  # noqa: RUF012
    is_linear = [False]  # noqa: RUF012

    def __init__(self, model: nn.Module, batch: int, horizon: int, window: int = WINDOW) -> None:
        for name, value in (("batch", batch), ("horizon", horizon)):
            if value < 1:
                raise InputError(f"HyenaCache: {name} must be at least 1, got {value}")
        self._start(model, window, batch, horizon)

    def _start(self, model: nn.Module, window: int, batch: int | None, horizon: int | None) -> None:
        super().__init__(layers=[])
        if window < 1 or window & (window - 1):
            raise InputError(f"HyenaCache: window must be a power of two, got {window}")
        backbone = next((each for each in model.modules() if isinstance(each, HyenaDNABackbone)), None)
        if backbone is None:
            raise InputError(f"HyenaCache: {type(model).__name__} is not a HyenaDNA model")
        if any(getattr(getattr(layer, "mixer", None), "bidirectional", False) for layer in backbone.layers):
            raise InputError(
                "HyenaCache: the model is bidirectional, and has no cache: a new token changes the states of all others"
            )
        if reason := refusal(backbone):
            raise InputError(f"HyenaCache: {reason}; generate with use_cache=False")
        first: Any = backbone.layers[0]
        self._sizes = _sizes_of(first.mixer, len(backbone.layers))
        self.window = window
        self._batch, self._asked = batch, horizon
        self._of_generate: int | None = None
        self._clear()

    @classmethod
    def for_generate(cls, model: nn.Module, max_length: int) -> HyenaCache:
        """A cache whose rows and horizon are known at the first step of ``generate``: see :meth:`take_prompt`."""
        made = cls.__new__(cls)
        made._start(model, WINDOW, None, None)
        made._of_generate = max_length
        return made

    def take_prompt(self, width: int) -> None:
        """Tell a cache of :meth:`for_generate` how many of ``max_length`` ids are the prompt."""
        if self._of_generate is not None and self._asked is None:
            # The last token is not given to the model.
            self._asked = max(self._of_generate - width - 1, 0)

    def _clear(self) -> None:
        self.step = 0
        self.interrupted = False
        self.columns = 0
        self.longest = 0
        self.state: CacheState | None = None

    def __repr__(self) -> str:
        return (
            f"HyenaCache(layers={self._sizes.layers}, batch={self._batch}, horizon={self.horizon}, "
            f"window={self.window}, length={self.get_seq_length()})"
        )

    def __len__(self) -> int:
        return self._sizes.layers

    def __bool__(self) -> bool:
        return True

    @property
    def is_initialized(self) -> bool:
        """Whether there was a prompt."""
        return self.state is not None

    @property
    def horizon(self) -> int | None:
        """Tokens that may follow the prompt; None if ``generate`` has not said yet."""
        return self._asked if self.state is None else self.state.taps.shape[-1]

    @property
    def batch_size(self) -> int:
        """Rows, or -1 if ``generate`` has not said yet."""
        return -1 if self._batch is None else self._batch

    @property
    def max_seq_len(self) -> int:
        """Most positions of an input of the model."""
        return self._sizes.longest

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that the cache holds now."""
        if self.state is None:
            return 0
        *tensors, tiles = self.state
        return sum(tensor.nbytes for tensor in (*tensors, *tiles.spectra.values()))

    @staticmethod
    def bytes_needed(
        config: HyenaDNAConfig,
        batch: int,
        horizon: int,
        window: int = WINDOW,
        dtype: torch.dtype = torch.float32,
    ) -> int:
        """``nbytes`` after ``horizon`` steps.

        Args:
            config: of the model.
            batch: rows.
            horizon: tokens after the prompt.
            window: as of the class.
            dtype: of the projections: float64, float32, or 16 bits.
        """
        sizes = _Sizes.of_config(config)
        wide = 8 if dtype == torch.float64 else 4
        spectra = sum(2 * (size + 1) for size in Tiles.sizes(horizon, window))
        far = sizes.recurrences * sizes.channels * (2 * batch * horizon + horizon + spectra) * wide
        near = batch * (sizes.recurrences + 2) * sizes.channels * (sizes.short_taps - 1) * dtype.itemsize
        return sizes.layers * (far + near) + 8 * batch

    # What transformers asks of a cache.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions so far, pads among them: those of the longest prompt and the tokens after it."""
        return self.columns + self.step

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Positions that there may be; -1 before the prompt."""
        return -1 if self.state is None else self.columns + self.state.taps.shape[-1]

    def get_max_cache_shape(self, layer_idx: int | None = None) -> int:
        """As :meth:`get_max_length`, which the first releases of transformers 5 call so."""
        return self.get_max_length(layer_idx)

    @property
    def max_cache_len(self) -> int:
        """As :meth:`get_max_length`: peft asks for this name."""
        return self.get_max_length()

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Positions that ``query_length`` new ones see, and where they begin."""
        width = query_length if isinstance(query_length, int) else len(query_length)
        return self.get_seq_length() + width, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether there was a prompt."""
        return self.is_initialized

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: there are no keys and values.

        Raises:
            InputError: always.
        """
        raise InputError("HyenaCache: a long convolution has no keys and values to update")

    def crop(self, *args: Any) -> None:
        """Refused: tokens cannot be taken back. ``copy.deepcopy`` keeps a state to return to.

        Raises:
            InputError: always.
        """
        raise InputError(
            "HyenaCache: tokens cannot be taken back out of it, so assisted generation is not supported; keep "
            "copy.deepcopy(cache) to return to"
        )

    def reset(self) -> None:
        """Forget the prompt and all tokens. Rows and horizon stay as they were asked for."""
        self._clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each row the state of the row that ``beam_idx (B,)`` names."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, copies side by side."""
        if self._batch is not None:
            self.batch_select_indices(torch.arange(self._batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows that ``indices`` names, in that order. It may be a mask ``(B,)`` of bools."""
        rows = torch.arange(self.batch_size)[indices.cpu()] if indices.dtype == torch.bool else indices
        count = rows.numel()
        if self.state is not None:
            u, future, t = self.state.u, self.state.future, self.step
            with torch.inference_mode(False), torch.no_grad():
                rows = rows.to(u.device, copy=True)
                if count == u.shape[2]:
                    # What lies before t in one, and behind it in the other, is not read any more.
                    u[..., :t] = u[..., :t].index_select(2, rows)
                    future[..., t:] = future[..., t:].index_select(2, rows)
                else:
                    u, future = u.index_select(2, rows), future.index_select(2, rows)
                short, lengths = self.state.short.index_select(1, rows), self.state.lengths.index_select(0, rows)
            self.state = self.state._replace(u=u, future=future, short=short, lengths=lengths)
        self._batch = count

    def activate_past_recording(self) -> None:
        """Refused, as :meth:`crop` is.

        Raises:
            InputError: always.
        """
        self.crop()

    # What the model asks of it.

    def allocate(self, lengths: Tensor, columns: int, wide: torch.dtype, narrow: torch.dtype) -> CacheState:
        """Make room, once the prompts are known.

        Args:
            lengths: int64 ``(B,)``, real positions of each prompt.
            columns: positions of the longest row, pads among them.
            wide: dtype of the convolutions.
            narrow: dtype of the projections.

        Raises:
            InputError: there are not ``batch`` rows.
        """
        n_layer, recurrences, channels, short_taps, longest = self._sizes
        batch = lengths.shape[0]
        if self._batch not in (None, batch):
            raise InputError(f"HyenaCache: it was made for batch {self._batch}, and the prompts have {batch} rows")
        if self._asked is None:
            raise InputError("HyenaCache: a cache of generate has no use outside of it; give HyenaCache a horizon")
        self.longest = int(lengths.max())
        horizon = max(min(self._asked, longest - self.longest), 0)
        width = (recurrences + 2) * channels
        # Not tensors of inference mode: a later call may be outside of it.
        with torch.inference_mode(False):
            # Zeros where a step writes later: a tile never multiplies what was never written.
            u = torch.zeros((n_layer, recurrences, batch, channels, horizon), dtype=wide, device=lengths.device)
            taps = u.new_zeros((n_layer, recurrences, channels, horizon))
            short = torch.zeros((n_layer, batch, width, short_taps - 1), dtype=narrow, device=lengths.device)
            self.state = CacheState(u, torch.zeros_like(u), short, taps, lengths.clone(), Tiles(taps, self.window))
        self._batch, self.columns = batch, columns
        return self.state

    def check_room(self, new: int) -> None:
        """Raise InputError unless ``new`` more tokens may follow."""
        if self.interrupted:
            raise InputError("HyenaCache: a step before has failed half-way; reset() it and give the prompt again")
        horizon, after = self.horizon or 0, self.step + new
        check_length(self.longest + after, self.max_seq_len)
        if after > horizon:
            raise InputError(
                f"HyenaCache: {after} tokens after the prompt are more than its horizon of {horizon}; make it with a "
                "larger horizon (generate needs max_new_tokens - 1), or lower max_new_tokens"
            )


def refusal(backbone: HyenaDNABackbone) -> str | None:
    """Why a model cannot decode with a cache, or None if it can.

    A cache walks through the layers itself, and calls in_proj, out_proj, the MLP, norms, the filter and the embedding
    as modules: adapters and hooks there work. It does not call the backbone, its blocks, their mixers and short
    filters. So these must be the package's own, without hooks. Dropout must not be at work in the mixer or behind the
    embedding.
    """
    if not is_plain(backbone, HyenaDNABackbone):
        return "the backbone is of another class, or has hooks"
    if not _is_idle(backbone.embed_dropout):
        return "the dropout of the embedding is at work: call model.eval()"
    sizes = set()
    for i, block in enumerate(backbone.layers):
        if not isinstance(block, HyenaDNABlock) or not is_plain(block, HyenaDNABlock):
            return f"layer {i} is of another class, as after torch.compile, or has hooks"
        mixer = block.mixer
        if not is_plain(mixer, HyenaOperator):
            return f"the mixer of layer {i} is of another class, or has hooks"
        if not is_plain(mixer.short_filter, nn.Conv1d):
            return f"the short filter of layer {i} is of another class, or has hooks or an adapter"
        if not _is_idle(mixer.dropout):
            return f"the dropout of layer {i} is at work: call model.eval()"
        sizes.add(_sizes_of(mixer, 0))
    return "its layers are not alike" if len(sizes) > 1 else None


def _sizes_of(mixer: HyenaOperator, layers: int) -> _Sizes:
    return _Sizes(layers, mixer.order - 1, mixer.d_model, mixer.short_filter.weight.shape[2], mixer.longest)


def _is_idle(dropout: Any) -> bool:
    return is_plain(dropout, nn.Dropout) and not (dropout.training and dropout.p > 0)


def chosen(cache: Any, past_key_values: Any, use_cache: bool | None) -> HyenaCache | None:
    """The cache among the arguments of ``forward``, or None.

    Raises:
        InputError: it is no ``HyenaCache``, there are two, or ``use_cache`` says something else.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise InputError("give one of cache and past_key_values: they are two names of one argument")
    name, given = ("past_key_values", past_key_values) if cache is None else ("cache", cache)
    if given is None:
        if use_cache:
            raise InputError(
                "use_cache: the model keeps no keys and values, and forward makes no cache by itself; give "
                "cache=HyenaCache(model, batch, horizon), or call generate"
            )
        return None
    if not isinstance(given, HyenaCache):
        raise InputError(
            f"{name}: the model keeps no keys and values, but a HyenaCache, and got a {type(given).__name__}; make a "
            "HyenaCache(model, batch, horizon), and train a prompt with prompt tuning in place of prefix tuning"
        )
    if use_cache is False:
        raise InputError(f"{name}: is given, and use_cache is False; leave out one of them")
    return given
