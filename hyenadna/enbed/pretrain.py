"""Pretraining by span corruption, and how well masked bases are predicted beside yardsticks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files
from hyenadna.common.run_layout import RESULTS_FILE, read_metrics
from hyenadna.common.vocab import BASES, NUCLEOTIDE_IDS, reverse_complement
from hyenadna.common.writers import one_writer
from hyenadna.drawing.figures import training_curves
from hyenadna.enbed.corpus import Text, open_corpus
from hyenadna.enbed.pretrain_config import PretrainConfig
from hyenadna.enbed.spans import corrupt, noise_counts, noise_mask
from hyenadna.enbed.training import IGNORED, Batch, Training, fit, padded
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.modeling import ENBEDForConditionalGeneration
from hyenadna.encoder_decoder.tokens import base_ids
from hyenadna.evaluation import markov
from hyenadna.model.device import autocast, pick_device
from hyenadna.training.run_dir import RunFolder

_BASE_BYTES = base_ids(np.array([NUCLEOTIDE_IDS[base] for base in BASES]))
"""Ids of the bytes A, C, G and T."""


@one_writer(inside=True, make_folders=True)
def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train a model by span corruption, or continue training it. See :func:`hyenadna.enbed.training.fit`.

    Args:
        config: the data, the model and the training.
        resume: continue from the newest checkpoint in ``config.out``, or start if there is none yet.
        progress: show a progress bar.

    Returns:
        The contents of results.json: the share of masked bases of the held-out part that each method predicts right.

    Raises:
        InputError: a configuration, genome, checkpoint or folder does not fit; the disk is full; or the loss is not
            finite.
    """
    config.check()
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    noise_counts(config.length, config.density, config.mean_span)
    with ExitStack() as stack:
        # 1. The texts: to train on, to watch, and for the results.
        corpus = open_corpus(
            stack,
            config.genomes,
            config.valid_contigs,
            config.test_contigs,
            config.valid_fraction,
            config.test_fraction,
        )
        cut = config.n_runs == "cut"
        texts = {name: corpus.text(name, config.length, cut=cut) for name in corpus.parts}
        for name in ("train", "valid"):
            if not len(texts[name]):
                raise InputError(f"`length` {config.length}: no stretch of the {name} part is as long; shorten it")
        if progress:
            for name, text in texts.items():
                if len(text):
                    out = f", {text.left_out:,} in stretches that are too short" if text.left_out else ""
                    print(f"{name}: {text.bases():,} bases, {len(text):,} windows{out}")
        watched = held_out_batches(texts["valid"], config, config.eval_windows)

        # 2. The training.
        training = Training(
            **{field.name: getattr(config, field.name) for field in dataclasses.fields(Training)},
        )
        model = fit(
            lambda checkpoint: make_model(config, checkpoint),
            TrainBatches(texts["train"], config),
            training,
            config,
            config.out,
            device=device,
            resume=resume,
            progress=progress,
            name="enbed pretrain",
            validate=lambda trained: _as_metrics(measure(trained, watched)),
            identity=corpus.identity,
        )

        # 3. The results on the held-out part, beside what needs no model.
        part = "test" if len(texts["test"]) else "valid"
        batches = held_out_batches(texts[part], config, config.final_windows)
        with autocast(config.autocast, device):
            found = measure(model, batches)
        table = [{"method": "model", "masked_accuracy": found["right"] / found["bases"]}]
        table += yardsticks(texts["train"], texts[part], config, config.final_windows)
    results = {
        "study": "enbed-pretrain",
        "data": f"{part}: {int(found['bases']):,} masked bases of {sum(len(b.input_ids) for b in batches):,} windows",
        "table": table,
        "loss": found["nats"] / found["targets"],
        "length": config.length,
        "parameters": model.num_parameters(),
        "model": str(RunFolder(config.out).model),
    }
    write_files({config.out / RESULTS_FILE: (json.dumps(results, indent=1) + "\n").encode()})
    training_curves(read_metrics(RunFolder(config.out).metrics), config.out / "training.png")
    return results


def make_model(config: PretrainConfig, checkpoint: Path | None) -> ENBEDForConditionalGeneration:
    """The model of a configuration: from a checkpoint, from ``init_from``, or with random weights.

    Raises:
        InputError: the checkpoint cannot be loaded, a field does not exist, or windows are longer than it takes.
    """
    source = checkpoint or config.init_from
    if source is not None:
        model = ENBEDForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    else:
        known = ENBEDConfig.__dataclass_fields__
        if unknown := sorted(map(str, config.model_fields.keys() - known)):
            raise InputError(f"`model_fields`: an ENBED has no field {', '.join(unknown)}")
        model = ENBEDForConditionalGeneration(ENBEDConfig.of_size(config.size, **config.model_fields))
    # The sentinels make up for less than they replace, and eos for one more.
    longest = config.length + 1
    if longest > model.config.max_seq_len:
        raise InputError(
            f"`length` {config.length}: the model is made for {model.config.max_seq_len:,} tokens with eos; shorten "
            "it, or raise max_seq_len in `model_fields`"
        )
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


class TrainBatches:
    """The batch of each step. It depends on the step and the seed alone, so a resumed run sees the same.

    Args:
        text: the text to train on.
        config: the options.
    """

    def __init__(self, text: Text, config: PretrainConfig) -> None:
        self._text, self._config = text, config
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self._shift = 0

    def __call__(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        config = self._config
        rng = np.random.default_rng((config.seed, 1, step))
        first = step * config.batch_size
        rows = []
        for place in range(first, first + config.batch_size):
            ids = self._window(place)
            if config.reverse_complement and rng.random() < 0.5:
                ids = reverse_complement(ids)
            rows.append(corrupt(base_ids(ids), noise_mask(len(ids), config.density, config.mean_span, rng)))
        return _batch(rows)

    def _window(self, place: int) -> np.ndarray:
        epoch, within = divmod(place, len(self._text))
        if epoch != self._epoch:
            rng = np.random.default_rng((self._config.seed, 0, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._text))
            self._shift = int(rng.integers(self._config.length))
        return self._text.window(int(self._order[within]), self._shift)


def _batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    return Batch(padded([source for source, _ in rows]), padded([target for _, target in rows], IGNORED))


def held_out_windows(text: Text, config: PretrainConfig, most: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids of the bases, and the masks, of evenly spaced windows. They are the same in every run with these options."""
    count = min(len(text), most or len(text))
    found = []
    for number in np.linspace(0, len(text) - 1, count).round().astype(int).tolist():
        ids = text.window(number)
        rng = np.random.default_rng((2, number))
        found.append((ids, noise_mask(len(ids), config.density, config.mean_span, rng)))
    return found


def held_out_batches(text: Text, config: PretrainConfig, most: int | None) -> list[Batch]:
    """Batches of :func:`held_out_windows`."""
    rows = [corrupt(base_ids(ids), mask) for ids, mask in held_out_windows(text, config, most)]
    size = max(1, config.batch_size // config.accumulate)
    return [_batch(rows[first : first + size]) for first in range(0, len(rows), size)]


@torch.no_grad()
def measure(model: ENBEDForConditionalGeneration, batches: Sequence[Batch]) -> dict[str, float]:
    """How well a model predicts targets, each given the true ones before it.

    Returns:
        ``nats``, the summed loss of all ``targets``, sentinels and eos included; and ``right``, how many of the
        ``bases`` among them have the largest logit of all bytes.
    """
    nats, targets, right, bases = 0.0, 0, 0, 0
    for batch in batches:
        labels = batch.labels.to(model.device)
        logits = model(batch.input_ids.to(model.device), labels=labels).logits.float()
        nats += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"))
        targets += int((labels != IGNORED).sum())
        is_base = torch.isin(labels, torch.from_numpy(_BASE_BYTES).to(labels.device))
        right += int(((logits.argmax(-1) == labels) & is_base).sum())
        bases += int(is_base.sum())
    return {"nats": nats, "targets": targets, "right": right, "bases": bases}


def _as_metrics(found: dict[str, float]) -> dict[str, float]:
    return {"valid_loss": found["nats"] / found["targets"], "valid_masked_accuracy": found["right"] / found["bases"]}


def yardsticks(train: Text, held_out: Text, config: PretrainConfig, most: int | None) -> list[dict[str, Any]]:
    """What needs no model: the commonest base, and Markov models that see the true bases before a masked one.

    They are fitted on both strands of the training part. Near the start of a window a model sees what there is.

    Returns:
        Rows of the table, with ``method`` and ``masked_accuracy``.
    """
    windows = held_out_windows(held_out, config, most)
    orders = sorted({0, *config.markov_orders})
    tables = markov.fit(train.segments(), orders[-1]).probabilities()
    best = [table.argmax(axis=1) for table in tables]
    digits = np.stack([ids for ids, _ in windows]).astype(np.int64) - NUCLEOTIDE_IDS["A"]
    masks = np.stack([mask for _, mask in windows])
    guesses: list[np.ndarray] = []
    context = np.zeros_like(digits)
    for order in range(orders[-1] + 1):
        if order:
            # The newest base is the last digit.
            context[:, order:] += digits[:, : digits.shape[1] - order] * 4 ** (order - 1)
        guess = best[order][context]
        if order:
            guess[:, :order] = guesses[-1][:, :order]
        guesses.append(guess)
    names = {order: f"Markov {order}" for order in orders} | {0: "majority"}
    return [
        {"method": names[order], "masked_accuracy": float((guesses[order] == digits)[masks].mean())} for order in orders
    ]
