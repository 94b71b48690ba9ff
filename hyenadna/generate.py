"""``hyenadna generate``: sequences that go on from a prompt, sampled base by base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import StoppingCriteria, StoppingCriteriaList

from hyenadna.errors import InputError
from hyenadna.files import write_files
from hyenadna.likelihood import load_language_model
from hyenadna.model import HyenaDNAForCausalLM
from hyenadna.sequences import encode, open_genome
from hyenadna.vocab import NUCLEOTIDE_IDS, PAD_ID, SEP_ID

_BASES = {id_: base for base, id_ in NUCLEOTIDE_IDS.items()}
_LINE = 80


@dataclass
class GenerateConfig:
    """What to go on from, how far, and how to sample.

    Args:
        model: checkpoint with the head of a language model, a folder or file of either published format.
        out: FASTA to write: each prompt with what was generated after it.
        prompt: bases to go on from, such as ACGT.
        prompt_fasta: FASTA with prompts, in place of --prompt.
        length: bases to generate.
        count: sequences for each prompt.
        temperature: of the sampling; 0 takes the likeliest base at every step.
        top_k: sample among so many likeliest tokens; 0 among all.
        top_p: sample among the likeliest tokens that have this share of the probability together.
        nucleotides_only: sample A, C, G and T alone. Without it N may come too, and [SEP] ends a sequence early.
        new_only: write what was generated without the prompt.
        seed: of the sampling; the same seed, prompts and batch size give the same sequences.
        batch_size: sequences at a time.
        precision: float32 or float64.
        device: cpu, cuda, cuda:1 …; auto takes a GPU if there is one.
    """

    model: Path
    out: Path
    prompt: str | None = None
    prompt_fasta: Path | None = None
    length: int = 100
    count: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    nucleotides_only: bool = True
    new_only: bool = False
    seed: int = 0
    batch_size: int = 16
    precision: str = "float32"
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for values that generate nothing."""
        if (self.prompt is None) == (self.prompt_fasta is None):
            raise InputError(
                "give --prompt or --prompt_fasta: a model without a start token needs a base to go on from"
            )
        for name, least in (("length", 1), ("count", 1), ("batch_size", 1), ("top_k", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature {self.temperature}: must be at least 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p {self.top_p}: must be above 0 and at most 1")
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a folder; choose a file")


class _ShowSteps(StoppingCriteria):
    """Moves the bar by the sequences of a batch at every step; stops nothing."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.bar.update(input_ids.shape[0])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate(config: GenerateConfig, *, progress: bool = True) -> int:
    """Generate as ``config`` says and write the FASTA; returns the number of sequences.

    Raises:
        InputError: a checkpoint, prompt or option that does not fit, or more bases than the model takes.
    """
    config.check()
    prompts = list(_read_prompts(config, progress))
    model = load_language_model(config.model, config.device, config.precision)
    longest = model.config.max_seq_len
    for name, ids in prompts:
        if len(ids) + config.length > longest:
            raise InputError(
                f"{name}: {len(ids):,} bases and --length {config.length:,} are more than the {longest:,} that the "
                "model is made for: take the end of the prompt alone, lower --length, or use a checkpoint made for "
                "longer sequences"
            )
    torch.manual_seed(config.seed)
    lines = []
    disable = None if progress else True
    total = len(prompts) * config.count * config.length
    with tqdm(total=total, unit="base", desc="generate", disable=disable, dynamic_ncols=True, delay=0.2) as bar:
        for name, ids in prompts:
            number = 0
            for first in range(0, config.count, config.batch_size):
                for row in _sample(model, ids, min(config.batch_size, config.count - first), config, bar):
                    number += 1
                    bases = "".join(_BASES[i] for i in row[len(ids) if config.new_only else 0 :] if i in _BASES)
                    lines.append(f">{name}_{number}\n")
                    lines += [f"{bases[i : i + _LINE]}\n" for i in range(0, len(bases), _LINE)]
    write_files({config.out: "".join(lines).encode()})
    return len(prompts) * config.count


def _read_prompts(config: GenerateConfig, progress: bool) -> Iterator[tuple[str, np.ndarray]]:
    if config.prompt_fasta is None:
        yield "prompt", encode(config.prompt, "--prompt")
        return
    with open_genome(config.prompt_fasta, progress=progress) as genome:
        for name in genome.names:
            yield name, np.array(genome.tokens(name))


def _sample(
    model: HyenaDNAForCausalLM, prompt: np.ndarray, count: int, config: GenerateConfig, bar: Any
) -> list[list[int]]:
    """Token ids of ``count`` sequences that begin with ``prompt (L,)``."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None].to(model.device)
    banned = sorted(set(range(model.config.padded_vocab_size)) - {NUCLEOTIDE_IDS[base] for base in "ACGT"})
    # The rows that pad the vocabulary are no tokens, whatever is asked for.
    padding = list(range(model.config.vocab_size, model.config.padded_vocab_size))
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
    rows = model.generate(
        ids.expand(count, -1),
        attention_mask=torch.ones_like(ids).expand(count, -1),
        max_new_tokens=config.length,
        suppress_tokens=banned if config.nucleotides_only else padding,
        eos_token_id=None if config.nucleotides_only else SEP_ID,
        pad_token_id=PAD_ID,
        stopping_criteria=StoppingCriteriaList([_ShowSteps(bar)]),
        **sampling,
    )
    found: list[list[int]] = rows.tolist()
    return found
