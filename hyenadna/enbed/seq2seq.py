"""Training on pairs of texts, and the texts that a model generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from hyenadna.common.errors import InputError
from hyenadna.common.options import Options
from hyenadna.common.progress import bar
from hyenadna.enbed.training import IGNORED, Batch, Training, fit, padded
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.encoder_decoder.tokens import EOS, PAD, as_text, text_ids


class Pair(NamedTuple):
    """A text, and the one that it should become."""

    source: str
    target: str


class Candidate(NamedTuple):
    """A generated text, and its score: the log-likelihood of the beam over the number of its tokens."""

    text: str
    score: float


def make_model(
    model: Path | str | None, size: str, *, seed: int, max_seq_len: int, **fields: Any
) -> ENBEDForConditionalGeneration:
    """A model from a checkpoint, or with random weights.

    Args:
        model: the checkpoint, or None.
        size: size of a model with random weights, see ``ENBED_SIZES``.
        seed: seed of random weights.
        max_seq_len: most bytes of an input. A checkpoint must take as many.
        fields: further fields of ``ENBEDConfig``, for random weights; for a checkpoint those of dropout alone.

    Raises:
        InputError: there is no such checkpoint or size, or the checkpoint is made for shorter inputs.
    """
    if model is None:
        torch.manual_seed(seed)
        return ENBEDForConditionalGeneration(ENBEDConfig.of_size(size, max_seq_len=max_seq_len, **fields))
    made: ENBEDForConditionalGeneration = ENBEDForConditionalGeneration.from_pretrained(
        model, dtype=torch.float32, **fields
    )
    if made.config.max_seq_len < max_seq_len:
        raise InputError(
            f"`model` {model}: is made for inputs of {made.config.max_seq_len:,} bytes, and one has {max_seq_len:,}"
        )
    return made


def pairs_batch(pairs: Sequence[Pair]) -> Batch:
    """Pairs as tensors. Both texts end with eos."""
    return Batch(
        padded([text_ids(pair.source) for pair in pairs]), padded([text_ids(pair.target) for pair in pairs], IGNORED)
    )


def order_of(count: int, seed: int) -> Callable[[int], int]:
    """The example at each place of a training: all once in random order, then all in another order, and so on."""
    kept: dict[int, np.ndarray] = {}

    def at(place: int) -> int:
        epoch, within = divmod(place, count)
        if epoch not in kept:
            kept.clear()
            kept[epoch] = np.random.default_rng((seed, epoch)).permutation(count)
        return int(kept[epoch][within])

    return at


def train_pairs(
    model: ENBEDForConditionalGeneration,
    train: Sequence[Pair],
    valid: Sequence[Pair],
    training: Training,
    config: Options,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    progress: bool = True,
    name: str = "train",
    identity: Mapping[str, str] | None = None,
) -> ENBEDForConditionalGeneration:
    """Train on pairs in the folder of a run, see :func:`hyenadna.enbed.training.fit`.

    Args:
        model: the model to start from. A resumed run takes the weights of its checkpoint.
        train: the pairs to train on, in another order each epoch.
        valid: pairs whose mean loss and share of right bytes, given the bytes before, are logged.
        training: the optimizer and the steps.
        config: the options, which a resumed run must have too.
        out: folder of the run.
        device: where to train.
        resume: go on from the newest checkpoint, if there is one. A finished run is loaded.
        progress: show a bar.
        name: name of the run in messages.
        identity: what the pairs are. A resumed run must have the same.

    Returns:
        The trained model, in ``eval()``.

    Raises:
        InputError: there is no pair, or as :func:`fit`.
    """
    if not train:
        raise InputError(f"{name}: there is no pair to train on")
    place = order_of(len(train), training.seed)

    def batch_of(step: int) -> Batch:
        first = step * training.batch_size
        return pairs_batch([train[place(at)] for at in range(first, first + training.batch_size)])

    def make(checkpoint: Path | None) -> ENBEDForConditionalGeneration:
        if checkpoint is None:
            return model
        dropout = model.config.dropout_rate
        loaded: ENBEDForConditionalGeneration = ENBEDForConditionalGeneration.from_pretrained(
            checkpoint, dropout_rate=dropout
        )
        return loaded

    def validate(trained: ENBEDForConditionalGeneration) -> dict[str, float]:
        return mean_loss(trained, valid, training.batch_size) if valid else {}

    return fit(
        make,
        batch_of,
        training,
        config,
        out,
        device=device,
        resume=resume,
        progress=progress,
        name=name,
        validate=validate,
        identity=identity,
    )


@torch.no_grad()
def mean_loss(model: ENBEDForConditionalGeneration, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    """The mean loss in nats of all target bytes, and the share that is predicted right, given the bytes before."""
    nats, right, count = 0.0, 0, 0
    for first in range(0, len(pairs), batch_size):
        batch = pairs_batch(pairs[first : first + batch_size])
        labels = batch.labels.to(model.device)
        logits = model(batch.input_ids.to(model.device), labels=labels).logits.float()
        nats += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"))
        right += int((logits.argmax(-1) == labels).sum())
        count += int((labels != IGNORED).sum())
    return {"valid_loss": nats / count, "valid_accuracy": right / count}


@torch.no_grad()
def generate(
    model: ENBEDForConditionalGeneration,
    sources: Sequence[str],
    *,
    beams: int,
    candidates: int,
    most: int,
    alphabet: str | None = None,
    batch_size: int = 16,
    progress: bool = True,
    name: str = "generate",
) -> list[list[Candidate]]:
    """Texts for each source, by beam search.

    Args:
        model: the model, in ``eval()``.
        sources: the texts to start from.
        beams: width of the search.
        candidates: texts of each source, at most ``beams``.
        most: most bytes of a text.
        alphabet: letters that a text may hold; None allows every byte. Sentinels are never allowed.
        batch_size: sources at a time.
        progress: show a bar.
        name: its name.

    Returns:
        For each source its candidates, the best first. Equal texts count once, so there may be fewer.

    Raises:
        InputError: more candidates than beams are asked for.
    """
    if not 1 <= candidates <= beams:
        raise InputError(f"`candidates` {candidates}: must be at least 1 and at most `beams` {beams}")
    letters = range(256) if alphabet is None else sorted({*alphabet.encode()})
    allowed = [EOS, *(byte + 3 for byte in letters)]
    found: list[list[Candidate]] = [[] for _ in sources]
    # Sources of similar length share a batch, so that few pads are needed.
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    with bar(name, len(sources), "sequence", progress=progress) as shown:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            ids = padded([text_ids(sources[row]) for row in rows]).to(model.device)
            output = model.generate(
                ids,
                attention_mask=(ids != PAD).long(),
                num_beams=beams,
                num_return_sequences=candidates,
                max_new_tokens=most + 1,
                do_sample=False,
                early_stopping=False,
                prefix_allowed_tokens_fn=lambda batch, prefix: allowed,
                return_dict_in_generate=True,
                output_scores=True,
            )
            # Without beams there are no scores of sequences.
            scores = output.sequences_scores.tolist() if beams > 1 else [0.0] * len(output.sequences)
            texts = [as_text(row) for row in output.sequences[:, 1:].cpu().numpy()]
            for place, (text, score) in enumerate(zip(texts, scores, strict=True)):
                kept = found[rows[place // candidates]]
                if text not in {candidate.text for candidate in kept}:
                    kept.append(Candidate(text, score))
            shown.update(len(rows))
    return [sorted(kept, key=lambda candidate: -candidate.score) for kept in found]
