"""``hyenadna predict``: predict classes, labels or values of new sequences with a fine-tuned model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyenadna.baselines.loading import (
    SequenceClassifier,
    TokenClassifier,
    keep_filters,
    load_sequence_classifier,
    load_token_classifier,
)
from hyenadna.common.choices import Keep
from hyenadna.common.errors import InputError
from hyenadna.common.parts import tell_idle
from hyenadna.common.progress import bar
from hyenadna.common.world import world
from hyenadna.common.writers import one_writer
from hyenadna.data.sequences import kept
from hyenadna.data.sources import Record, open_sequences
from hyenadna.data.tables import added_columns, partial_table
from hyenadna.inference.config import PredictConfig
from hyenadna.inference.logits import batch_logits
from hyenadna.inference.prompted import PROMPT_FILE, PromptedClassifier, SoftPrompt
from hyenadna.model import adapters, checkpoint, locate
from hyenadna.model.device import pick_device
from hyenadna.model.kmers import Kmers
from hyenadna.model.loading import without_transformers_bars
from hyenadna.model.words import words_of


@without_transformers_bars()
@one_writer()
def predict(config: PredictConfig, *, progress: bool = True) -> int:
    """Predict the sequences that ``config`` names, write the TSV, and return the number of rows.

    For classes a row holds the likeliest class and the probability of each. For several labels it holds the
    probability of each, for values the values, and for classes of bases a letter for each base. They are blank for an
    empty sequence. Several processes share out the batches, see :func:`hyenadna.common.world.world`.

    Longer sequences than those of the training are cut as it cut its own, and a warning says how many.

    Raises:
        InputError: the checkpoint has no trained head, or a sequence is not DNA, or too long. Finished rows stay in
            ``OUT.partial``, which the message names.
    """
    progress = progress and world().is_first
    done = 0
    with ExitStack() as stack:
        with world().agreed():
            config.check()
            predictor = _Predictor(config)
            stack.enter_context(keep_filters(predictor.model))
            sequences = stack.enter_context(
                open_sequences(
                    fasta=config.fasta, table=config.table, sequence_column=config.sequence_column, progress=progress
                )
            )
        columns = [*sequences.columns, *added_columns(sequences.columns, predictor.columns)]
        with world().agreed():
            if world().is_first:
                write = stack.enter_context(partial_table(config.out, columns))
        shown = stack.enter_context(bar("predict", len(sequences), "sequence", progress=progress))
        tell_idle(-(-len(sequences) // config.batch_size), "batch", "lower batch_size")
        records = iter(sequences)
        cut = 0
        for _ in range(0, len(sequences), config.batch_size * world().size):
            # A batch for each process. All read all sequences, and the first one writes.
            with world().agreed():
                batches = [list(islice(records, config.batch_size)) for _ in range(world().size)]
                own = predictor.rows(batches[world().rank])
            found = world().gather(own)
            with world().agreed():
                if world().is_first:
                    for row in chain.from_iterable(found):
                        write(row)
            cut += sum(predictor.is_cut(record) for batch in batches for record in batch)
            count = sum(map(len, batches))
            done += count
            shown.update(count)
    if cut and progress:
        print(f"warning: {predictor.what_was_cut(cut)}", file=sys.stderr)
    return done


class _Predictor:
    """The rows of batches of sequences.

    Args:
        config: the model and its device.

    Attributes:
        model: the model.
        columns: names of the columns that follow those of the input.

    Raises:
        InputError: the checkpoint has no trained head, or the options do not fit it.
    """

    def __init__(self, config: PredictConfig) -> None:
        self.model = model = load_classifier(config.model)
        model.to(pick_device(config.device))  # type: ignore[arg-type]
        is_token = isinstance(model, TokenClassifier)
        trained: Any
        if isinstance(model, PromptedClassifier):
            self._names, self._max_length, self._problem = model.names, model.max_length, None
            self._device, trained = model.lm.device, model.lm.config
        else:
            labels: Any = model.config.id2label
            self._names = [str(labels[i]) for i in range(model.score.out_features)]
            self._max_length, self._problem = model.config.max_seq_len, model.config.problem_type
            self._device, trained = model.device, model.config
        self._is_token = is_token
        # The configurations of other models have these fields only where fine-tuning set them.
        self._length: int | None = getattr(trained, "train_length", None)
        self._keep: Keep = getattr(trained, "train_keep", "middle")
        words = words_of(getattr(model, "config", None))
        if words is not None:
            # The model counts words.
            self._max_length = words.most_bases(self._max_length)
        self._fewest = words.k if isinstance(words, Kmers) else 1
        self._both_strands = config.reverse_complement
        self._is_classes = not is_token and self._problem in (None, "single_label_classification")
        if is_token and max(map(len, self._names)) > 1:
            raise InputError(
                f"{config.model}: classes of bases must be single letters, and these are {', '.join(self._names)}"
            )
        if is_token and config.reverse_complement:
            raise InputError("`reverse_complement`: classes of bases belong to one strand; leave it out")
        self.columns = ["tokens"] if is_token else [*(["class"] if self._is_classes else []), *self._names]

    def is_cut(self, record: Record) -> bool:
        """Whether the sequence is longer than those of the training, which cut its own."""
        return self._length is not None and len(record.ids) > self._length

    def what_was_cut(self, count: int) -> str:
        """What happened to the sequences that are longer than those of the training."""
        return (
            f"{count:,} {'sequence was' if count == 1 else 'sequences were'} cut to the {self._keep} of "
            f"{self._length:,} bases, as in training"
        )

    def rows(self, batch: Sequence[Record]) -> list[list[object]]:
        """The row of each sequence, its own fields first.

        Raises:
            InputError: a sequence is too long.
        """
        for record in batch:
            if self._is_token and self.is_cut(record):
                raise InputError(
                    f"{record.where}: {len(record.ids):,} bases are longer than the {self._length:,} of the training; "
                    f"give windows of at most {self._length}, so that every base has a class"
                )
        batch = [record._replace(ids=record.ids[kept(len(record.ids), self._length, self._keep)]) for record in batch]
        for record in batch:
            if 0 < len(record.ids) < self._fewest:
                raise InputError(
                    f"{record.where}: {len(record.ids)} bases are shorter than the words of {self._fewest} that the "
                    "model reads; leave the sequence out"
                )
            if len(record.ids) > (most := self._max_length):
                raise InputError(
                    f"{record.where}: {len(record.ids):,} bases are longer than the {most:,} that the model is made "
                    f"for, and predict does not cut sequences: give windows of at most {most}, such as those of "
                    f"seqkit sliding -g -W {most} -s {max(1, most // 2)} of a FASTA"
                )
        ids = [record.ids for record in batch if len(record.ids)]
        logits = iter(batch_logits(self.model, ids, self._device, both_strands=self._both_strands).cpu() if ids else ())
        rows = []
        for record in batch:
            found: list[object] = [None] * len(self.columns)
            if len(record.ids):
                found = _fields(next(logits), self._names, self._problem, len(record.ids), self._is_classes)
            rows.append([*record.fields.values(), *found])
        return rows


Classifier = SequenceClassifier | TokenClassifier | PromptedClassifier


def load_classifier(path: Path) -> Classifier:
    """Load a fine-tuned checkpoint in ``eval()``, in the class that its configuration, prompt or adapter names.

    Raises:
        InputError: there is no checkpoint, or it has no head because it was never fine-tuned.
        ImportError: ``path`` is an adapter, and peft is not installed.
        OSError: the checkpoint is a name on the Hugging Face Hub, and cannot be downloaded.
    """
    # An adapter lies on a checkpoint elsewhere, and may bring the head.
    adapter_config = path / locate.ADAPTER_CONFIG
    adapter = locate.read_json(adapter_config) if adapter_config.is_file() else {}
    base = adapters.split(path, {})[0]
    source = locate.find(base) or checkpoint.download(str(base))
    if (path / PROMPT_FILE).is_file():
        return SoftPrompt.load(path)
    stored = locate.read_json(source.config_file)
    is_token = any(name.endswith("ForTokenClassification") for name in stored.get("architectures") or [])
    is_token = is_token or adapter.get("task_type") == "TOKEN_CLS"
    has_head = any(name.startswith("score.") for name in checkpoint.weight_names(source))
    if not has_head and "score" not in (adapter.get("modules_to_save") or []):
        raise InputError(f"{path}: has no trained head to predict with; make one with hyenadna finetune --model {path}")
    return (load_token_classifier if is_token else load_sequence_classifier)(path, dtype=torch.float32)


def _fields(logits: Tensor, names: list[str], problem: str | None, length: int, is_classes: bool) -> list[object]:
    if logits.dim() == 2:
        return ["".join(names[i] for i in logits[:length].argmax(dim=-1).tolist())]
    if is_classes:
        return [names[int(logits.argmax())], *logits.softmax(dim=-1).tolist()]
    if problem == "multi_label_classification":
        return list(logits.sigmoid().tolist())
    return list(logits.tolist())
