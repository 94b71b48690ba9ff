"""``hyenadna generate``: sample continuations of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.progress import bar
from hyenadna.common.vocab import BASES, LETTERS, NUCLEOTIDE_IDS, PAD_ID, SEP_ID
from hyenadna.common.writers import one_writer
from hyenadna.data.sequences import encode
from hyenadna.data.sources import open_sequences
from hyenadna.inference.config import GenerateConfig
from hyenadna.inference.likelihood import load_language_model
from hyenadna.model.modeling import HyenaDNAForCausalLM

_LINE = 80


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
    max_length = model.config.max_seq_len
    for name, ids in prompts:
        if len(ids) + config.length > max_length:
            raise InputError(
                f"{name}: {len(ids):,} bases and `length` {config.length:,} are more than the {max_length:,} that the "
                "model is made for: keep only the end of the prompt, lower `length`, or use a checkpoint made for "
                "longer sequences"
            )
    torch.manual_seed(config.seed)
    lines = []
    total = len(prompts) * config.count * config.length
    with bar("generate", total, "base", progress=progress) as shown:
        for name, ids in prompts:
            number = 0
            for first in range(0, config.count, config.batch_size):
                for row in _sample(model, ids, min(config.batch_size, config.count - first), config, shown):
                    number += 1
                    bases = "".join(LETTERS[i] for i in row[len(ids) if config.new_only else 0 :] if i in LETTERS)
                    lines.append(f">{name}_{number}\n")
                    lines += [f"{bases[i : i + _LINE]}\n" for i in range(0, len(bases), _LINE)]
    write_files({config.out: "".join(lines).encode()})
    return len(prompts) * config.count


def _read_prompts(config: GenerateConfig, progress: bool) -> Iterator[tuple[str, np.ndarray]]:
    if config.prompt_fasta is None:
        yield "prompt", encode(config.prompt, "`prompt`")
        return
    with open_sequences(fasta=config.prompt_fasta, progress=progress) as sequences:
        if sequences.empty:
            raise InputError(f"{config.prompt_fasta}: {sequences.empty[0]!r} has no base to continue; remove it")
        yield from ((record.name, record.ids) for record in sequences)


def _sample(
    model: HyenaDNAForCausalLM, prompt: np.ndarray, count: int, config: GenerateConfig, shown: Any
) -> list[list[int]]:
    """Token ids of ``count`` continuations of ``prompt (L,)``, with the prompt."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None].to(model.device)
    banned = sorted(set(range(model.config.padded_vocab_size)) - {NUCLEOTIDE_IDS[base] for base in BASES})
    # The ids that pad the vocabulary are never tokens.
    padding = list(range(model.config.vocab_size, model.config.padded_vocab_size))
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    rows = model.generate(
        ids.expand(count, -1),
        attention_mask=torch.ones_like(ids).expand(count, -1),
        max_new_tokens=config.length,
        suppress_tokens=banned if config.nucleotides_only else padding,
        eos_token_id=None if config.nucleotides_only else SEP_ID,
        pad_token_id=PAD_ID,
        stopping_criteria=StoppingCriteriaList([_ShowSteps(shown)]),
        **sampling,
    )
    found: list[list[int]] = rows.tolist()
    return found
