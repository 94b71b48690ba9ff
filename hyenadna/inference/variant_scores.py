"""Scores of variants: how an alternative allele changes the window around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import NamedTuple

import numpy as np

from hyenadna.baselines.loading import LanguageModel
from hyenadna.common.choices import ScoreMode
from hyenadna.data.genome import Genome
from hyenadna.data.variants import NO_CONTEXT, TOO_LONG, Variant, VariantRecord, Windows, alleles, justify, windows
from hyenadna.inference.hidden import mean_states
from hyenadna.inference.likelihood import LogLikelihoodScorer

_REMARK = "score, but "


class AlleleScore(NamedTuple):
    """The score of an alternative allele.

    Attributes:
        values: a number for each column of the mode; empty if there is no score.
        problem: why there is no score; "" if there is one.
        remarks: what makes the score differ from that of a full window without N.
    """

    values: tuple[float, ...]
    problem: str
    remarks: tuple[str, ...]

    @property
    def note(self) -> str:
        """The text of the column ``note``: the problem, or ``score, but`` and the remarks."""
        return self.problem or (f"{_REMARK}{'; '.join(self.remarks)}" if self.remarks else "")


@dataclass
class VariantScorer:
    """Scores the alleles of records.

    Attributes:
        model: a language model in ``eval()``.
        genome: the genome of the variants.
        mode: what is compared.
        size: bases in a window.
        both: average with the reverse complement.
        batch_size: windows at a time.
        n_to_pad: show N to the model as [PAD].
    """

    model: LanguageModel
    genome: Genome
    mode: ScoreMode
    size: int
    both: bool
    batch_size: int
    n_to_pad: bool

    def __call__(self, records: Iterable[VariantRecord]) -> Iterator[tuple[VariantRecord, list[AlleleScore]]]:
        """The records in order, each with the scores of its alternative alleles."""
        prepared, again = tee(
            (record, [self._cut(found) for found in alleles(record, self.genome)]) for record in records
        )
        inputs = (
            (record.where, ids)
            for record, cuts in again
            for problem, strands in cuts
            if not problem
            for strand in strands
            for ids in (strand.reference, strand.changed)
        )
        if self.mode == "embedding":
            outputs = mean_states(self.model, inputs, batch_size=self.batch_size, n_to_pad=self.n_to_pad)
        else:
            outputs = LogLikelihoodScorer(self.model, batch_size=self.batch_size, n_to_pad=self.n_to_pad)(inputs)
        for record, cuts in prepared:
            yield record, [self._score(problem, strands, outputs, record) for problem, strands in cuts]

    def _cut(self, variant: Variant) -> tuple[str, list[Windows]]:
        """Why the allele cannot be scored, and its windows on one strand or two."""
        if variant.problem:
            return variant.problem, []
        if max(len(variant.ref), len(variant.alt)) > self.size // 2:
            return TOO_LONG, []
        variant = justify(variant, self.genome, self.size)
        strands = [windows(variant, self.genome, self.size, reverse=turn) for turn in (False, True)[: 1 + self.both]]
        for strand in strands:
            if strand.problem:
                return strand.problem, []
            if not strand.before and self.mode != "embedding":
                return NO_CONTEXT, []
        return "", strands

    def _score(
        self, problem: str, strands: list[Windows], outputs: Iterator[np.ndarray], record: VariantRecord
    ) -> AlleleScore:
        if problem:
            return AlleleScore((), problem, ())
        found = [_compare(self.mode, strand, *islice(outputs, 2)) for strand in strands]
        remarks = [remark for strand in strands for remark in strand.remarks]
        if record.remark:
            remarks.append(record.remark)
        return AlleleScore(tuple(np.mean(found, axis=0).tolist()), "", tuple(dict.fromkeys(remarks)))


def _compare(mode: ScoreMode, strand: Windows, ref: np.ndarray, alt: np.ndarray) -> tuple[float, ...]:
    """The values of a mode, from the outputs for the reference and the alternative window."""
    if mode == "embedding":
        cosine = float(ref @ alt / np.linalg.norm(ref) / np.linalg.norm(alt))
        return float(np.linalg.norm(alt - ref)), 1 - cosine
    if mode == "likelihood":
        before, after = float(np.nansum(ref)), float(np.nansum(alt))
        return before, after, after - before
    return (_site(alt, strand) - _site(ref, strand),)


def _site(nats: np.ndarray, strand: Windows) -> float:
    """Sum over the place of the alleles: as many scored bases as the longer one has."""
    behind = nats[strand.before :]
    return float(behind[np.isfinite(behind)][: strand.longest].sum())
