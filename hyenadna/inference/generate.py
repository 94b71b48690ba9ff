"""``hyenadna generate``: sample continuations of prompts, many at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hyena_kernels import cache_filters
from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.progress import bar
from hyenadna.common.vocab import BASES, LETTERS, NUCLEOTIDE_IDS, PAD_ID, SEP_ID
from hyenadna.common.writers import one_writer
from hyenadna.data.sequences import encode, to_tensor
from hyenadna.data.sources import open_sequences
from hyenadna.inference.config import GenerateConfig
from hyenadna.inference.likelihood import load_language_model
from hyenadna.model.cache import HyenaCache
from hyenadna.model.modeling import HyenaDNAForCausalLM

logger = logging.getLogger(__name__)

_LINE = 80

# Steps whose random numbers are drawn together.
_DRAWN = 64

# Bytes of a cache that are told.
_TOLD_BYTES = 1 << 30


class _CheckFinite(LogitsProcessor):
    """Refuses scores that are not numbers. The likeliest of them would be a base all the same."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Suppressed tokens have a score of -inf.
        if not bool(scores.amax(dim=-1).isfinite().all()):
            raise InputError("the model's logits are not finite: its weights are damaged; use another checkpoint")
        return scores


class _Draw(LogitsProcessor):
    """Makes the likeliest token a random one, with the probabilities that the scores stand for.

    The scores of a row get Gumbel noise from the row's own stream of random numbers. So a sequence does not depend on
    the others of its batch, nor on the device.

    Args:
        seeds: what names the stream of each row.
    """

    def __init__(self, seeds: list[tuple[int, ...]]) -> None:
        self._streams = [np.random.default_rng(seed) for seed in seeds]
        self._noise: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._noise:
            shape = (_DRAWN, scores.shape[1])
            drawn = np.stack([-np.log(stream.standard_exponential(shape)) for stream in self._streams], axis=1)
            self._noise = list(torch.from_numpy(drawn[::-1].copy()).to(scores.device, scores.dtype))
        return scores + self._noise.pop()


class _ShowSteps(StoppingCriteria):
    """Moves the progress bar at every step of generation. It never stops the generation."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.bar.update(input_ids.shape[0])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@one_writer()
def generate(config: GenerateConfig, *, progress: bool = True) -> int:
    """Generate the sequences that ``config`` asks for, write the FASTA, and return their number.

    Raises:
        InputError: a checkpoint, prompt or option does not fit, or a sequence is longer than the model takes.
    """
    config.check()
    prompts = list(_read_prompts(config, progress))
    model = load_language_model(config.model, config.device, config.precision)
    if not isinstance(model, HyenaDNAForCausalLM):
        raise InputError(f"{config.model}: is a GPT, which here does not generate; give a HyenaDNA")
    max_length = model.config.max_seq_len
    for name, ids in prompts:
        if len(ids) + config.length > max_length:
            raise InputError(
                f"{name}: {len(ids):,} bases and `length` {config.length:,} are more than the {max_length:,} that the "
                "model is made for: keep only the end of the prompt, lower `length`, or use a checkpoint made for "
                "longer sequences"
            )
    # Prompts of much the same length share a batch. Which ones do changes no sequence.
    items = [(prompt, copy) for prompt in range(len(prompts)) for copy in range(config.count)]
    items.sort(key=lambda item: len(prompts[item[0]][1]))
    batches = [items[first : first + config.batch_size] for first in range(0, len(items), config.batch_size)]
    _tell_memory(model, config, min(config.batch_size, len(items)))
    found: dict[tuple[int, int], str] = {}
    with cache_filters(model), bar("generate", len(items) * config.length, "base", progress=progress) as shown:
        for batch in batches:
            rows = _sample(model, [prompts[prompt][1] for prompt, _ in batch], batch, config, shown)
            found.update(zip(batch, map(_letters, rows), strict=True))
    lines = []
    for (prompt, copy), new in sorted(found.items()):
        name, ids = prompts[prompt]
        bases = new if config.new_only else _letters(ids.tolist()) + new
        lines.append(f">{name}_{copy + 1}\n")
        lines += [f"{bases[i : i + _LINE]}\n" for i in range(0, len(bases), _LINE)]
    write_files({config.out: "".join(lines).encode()})
    return len(items)


def _tell_memory(model: HyenaDNAForCausalLM, config: GenerateConfig, rows: int) -> None:
    """Say what the cache takes, where it is much. ``batch_size`` bounds it, and changes no sequence."""
    if not config.use_cache or config.length < 2:
        return
    needed = HyenaCache.bytes_needed(model.config, rows, config.length - 1, dtype=model.dtype)
    if needed > _TOLD_BYTES:
        logger.warning(
            "generate: the cache takes %.1f GB for %d sequences of %d new bases; a lower `batch_size` takes less",
            needed / 1e9,
            rows,
            config.length,
        )


def _letters(ids: list[int]) -> str:
    """Their letters; the [SEP] that ends a sequence and the pads behind it have none."""
    return "".join(LETTERS[i] for i in ids if i in LETTERS)


def _read_prompts(config: GenerateConfig, progress: bool) -> Iterator[tuple[str, np.ndarray]]:
    if config.prompt_fasta is None:
        yield "prompt", encode(config.prompt, "`prompt`")
        return
    with open_sequences(fasta=config.prompt_fasta, progress=progress) as sequences:
        if sequences.empty:
            raise InputError(f"{config.prompt_fasta}: {sequences.empty[0]!r} has no base to continue; remove it")
        yield from ((record.name, record.ids) for record in sequences)


def _sample(
    model: HyenaDNAForCausalLM,
    prompts: list[np.ndarray],
    items: list[tuple[int, int]],
    config: GenerateConfig,
    shown: Any,
) -> list[list[int]]:
    """Token ids of a continuation of each prompt ``(L,)``, without the prompt. The model sees N as [PAD].

    ``items`` are the number of each row's prompt and of its copy, which name its random numbers.
    """
    ids = to_tensor(prompts, model.device)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)
    allowed = {NUCLEOTIDE_IDS[base] for base in BASES} if config.nucleotides_only else {*LETTERS, SEP_ID}
    steps: list[LogitsProcessor] = [_CheckFinite()]
    if config.temperature > 0:
        steps.append(TemperatureLogitsWarper(float(config.temperature)))
        if config.top_k > 0:
            steps.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            steps.append(TopPLogitsWarper(config.top_p))
        steps.append(_Draw([(config.seed, *item) for item in items]))
    rows = model.generate(
        ids,
        attention_mask=(torch.arange(ids.shape[1], device=ids.device) < lengths).long(),
        max_new_tokens=config.length,
        suppress_tokens=sorted(set(range(model.config.padded_vocab_size)) - allowed),
        eos_token_id=None if config.nucleotides_only else SEP_ID,
        pad_token_id=PAD_ID,
        do_sample=False,
        use_cache=config.use_cache,
        logits_processor=LogitsProcessorList(steps),
        stopping_criteria=StoppingCriteriaList([_ShowSteps(shown)]),
    )
    found: list[list[int]] = rows[:, ids.shape[1] :].tolist()
    return found
