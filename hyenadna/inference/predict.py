"""``hyenadna predict``: what a fine-tuned model says about new sequences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hyenadna.common.errors import InputError
from hyenadna.data.sequences import encode, open_genome, reverse_complement, to_tensor
from hyenadna.data.tables import partial_table, read_table
from hyenadna.inference.config import PredictConfig
from hyenadna.inference.prompted import PROMPT_FILE, PromptedClassifier, SoftPrompt
from hyenadna.model import checkpoint
from hyenadna.model.device import pick_device
from hyenadna.model.heads import HyenaDNAForSequenceClassification, HyenaDNAForTokenClassification
from hyenadna.model.loading import without_transformers_bars


@without_transformers_bars()
def predict(config: PredictConfig, *, progress: bool = True) -> int:
    """Predict as ``config`` says and write the TSV; returns the number of rows.

    Classes: the likeliest and the probability of each. Several labels: the probability of each. Values: themselves.
    Classes of bases: a letter for each base.

    Raises:
        InputError: a checkpoint without a trained head, a sequence that is empty, no DNA, or too long. Rows written
            before it stay in ``OUT.partial``, which the message names.
    """
    config.check()
    model = load_classifier(config.model)
    model.to(pick_device(config.device))  # type: ignore[arg-type]
    is_token = isinstance(model, HyenaDNAForTokenClassification)
    if isinstance(model, PromptedClassifier):
        names, longest, problem, device = model.names, model.max_length, None, model.lm.device
    else:
        labels: Any = model.config.id2label
        names = [str(labels[i]) for i in range(model.score.out_features)]
        longest, problem, device = model.config.max_seq_len, model.config.problem_type, model.device
    is_classes = not is_token and problem in (None, "single_label_classification")
    if is_token and max(map(len, names)) > 1:
        raise InputError(
            f"{config.model}: classes of bases must be letters to be written, these are {', '.join(names)}"
        )
    if is_token and config.reverse_complement:
        raise InputError("--reverse_complement: classes of bases have a strand; leave it out")
    added = ["tokens"] if is_token else [*(["class"] if is_classes else []), *names]
    if config.table is not None:
        columns = read_table(config.table, [config.sequence_column])
        header, total = list(columns), len(columns[config.sequence_column])
    else:
        header, total = ["name"], None
    done = 0
    disable = None if progress else True
    with (
        partial_table(config.out, [*header, *added]) as write,
        tqdm(total=total, unit="sequence", desc="predict", disable=disable, dynamic_ncols=True, delay=0.2) as bar,
    ):
        rows = _rows(config, columns if config.table is not None else {}, progress)
        while batch := list(islice(rows, config.batch_size)):
            for _, where, ids in batch:
                if len(ids) > longest:
                    raise InputError(
                        f"{where}: {len(ids):,} bases are longer than the {longest:,} that the model is made for, and "
                        f"predict takes sequences whole: give windows of at most {longest}, such as those of seqkit "
                        f"sliding -g -W {longest} -s {max(1, longest // 2)} of a FASTA"
                    )
            sequences = [ids for _, _, ids in batch]
            with torch.no_grad():
                logits = model(to_tensor(sequences, device)).logits.float()
                if config.reverse_complement:
                    turned = [reverse_complement(ids) for ids in sequences]
                    logits = (logits + model(to_tensor(turned, device)).logits.float()) / 2
            for (kept, _, ids), row in zip(batch, logits.cpu(), strict=True):
                write([*kept, *_fields(row, names, problem, len(ids), is_classes)])
                done += 1
            bar.update(len(batch))
    return done


Classifier = HyenaDNAForSequenceClassification | HyenaDNAForTokenClassification | PromptedClassifier


def load_classifier(path: Path) -> Classifier:
    """A fine-tuned checkpoint in ``eval()``, of the class that its configuration or its prompt names.

    Raises:
        InputError: there is none, or it has no head: it was never fine-tuned.
    """
    source = checkpoint.find(path)
    if source is None:
        raise InputError(f"no checkpoint at {path}: no such file or folder")
    if (path / PROMPT_FILE).is_file():
        return SoftPrompt.load(path)
    stored = checkpoint.read_json(source.config_file)
    is_token = HyenaDNAForTokenClassification.__name__ in (stored.get("architectures") or [])
    if not any(key.startswith("score.") for key in checkpoint.load_weights(source)):
        raise InputError(f"{path}: has no trained head to predict with; make one with hyenadna finetune --model {path}")
    kind: Any = HyenaDNAForTokenClassification if is_token else HyenaDNAForSequenceClassification
    model: HyenaDNAForSequenceClassification | HyenaDNAForTokenClassification = kind.from_pretrained(
        path, dtype=torch.float32
    )
    return model


def _rows(
    config: PredictConfig, columns: dict[str, list[str | None]], progress: bool
) -> Iterator[tuple[Any, str, Any]]:
    """The fields to keep, a name for messages, token ids."""
    if config.fasta is None:
        for number, kept in enumerate(zip(*columns.values(), strict=True), start=1):
            where = f"{config.table}: row {number}"
            yield kept, where, encode(columns[config.sequence_column][number - 1], where)
        return
    with open_genome(config.fasta, progress=progress) as genome:
        for name in genome.names:
            yield [name], f"{config.fasta}: {name}", genome.tokens(name)


def _fields(logits: Tensor, names: list[str], problem: str | None, length: int, is_classes: bool) -> list[object]:
    if logits.dim() == 2:
        return ["".join(names[i] for i in logits[:length].argmax(dim=-1).tolist())]
    if is_classes:
        chances = logits.softmax(dim=-1).tolist()
        return [names[int(logits.argmax())], *chances]
    if problem == "multi_label_classification":
        return list(logits.sigmoid().tolist())
    return list(logits.tolist())
