"""``hyenadna score``: score sequences by log-likelihood, and variants by how they change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, tee

import numpy as np

from hyenadna.common.choices import SCORES
from hyenadna.common.errors import InputError
from hyenadna.common.progress import bar
from hyenadna.common.vocab import reverse_complement
from hyenadna.common.writers import one_writer
from hyenadna.data import variants
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.sequences import check_windows, window_around
from hyenadna.data.sources import open_sequences
from hyenadna.data.tables import partial_table
from hyenadna.data.variants import MISMATCH, Variant
from hyenadna.inference.config import ScoreConfig
from hyenadna.inference.hidden import mean_states
from hyenadna.inference.likelihood import LogLikelihoodScorer, load_language_model

# If REF differs from the genome in more alleles, the VCF belongs to another assembly.
_MOST_MISMATCHES = 0.05


@dataclass(frozen=True)
class ScoreResult:
    """Number of rows, number of rows with a score, and how often each reason for a missing score occurred."""

    rows: int
    scored: int
    problems: dict[str, int]


@one_writer()
def score(config: ScoreConfig, *, progress: bool = True) -> ScoreResult:
    """Score the sequences or variants that ``config`` names, and write the TSV.

    Raises:
        InputError: a checkpoint, sequence, VCF, genome or option does not fit. Finished rows stay in ``OUT.partial``,
            which the message names.
    """
    config.check()
    return _score_sequences(config, progress) if config.vcf is None else _score_variants(config, progress)


def _score_sequences(config: ScoreConfig, progress: bool) -> ScoreResult:
    model = load_language_model(config.model, config.device, config.precision)
    check_windows(config.window, config.stride, model.config.max_seq_len)
    scorer = LogLikelihoodScorer(
        model, batch_size=config.batch_size, window=config.window, stride=config.stride, n_to_pad=config.n_to_pad
    )
    with open_sequences(
        fasta=config.fasta, table=config.table, sequence_column=config.sequence_column, progress=progress
    ) as sequences:
        records, again = tee(sequences)
        both = config.strands == "both"
        nats = scorer((record.where, ids) for record in again if len(record.ids) for ids in _strands(record.ids, both))
        added = ["bases", "log_likelihood", "per_base", "perplexity"]
        scored = done = 0
        with (
            partial_table(config.out, [*sequences.columns, *added]) as write,
            bar("score", len(sequences), "sequence", progress=progress) as shown,
        ):
            for record in records:
                found = list(islice(nats, 1 + both)) if len(record.ids) else [np.empty(0)]
                values = np.concatenate(found)
                count = int(np.isfinite(values).sum()) // (1 + both)
                total_nats = float(np.nansum(values)) / (1 + both) if count else None
                mean = total_nats / count if total_nats is not None else None
                perplexity = None if mean is None else float(np.exp(-mean))
                write([*record.fields.values(), count, total_nats, mean, perplexity])
                done += 1
                scored += bool(count)
                shown.update()
    return ScoreResult(done, scored, {"no base to score": done - scored} if done > scored else {})


def _score_variants(config: ScoreConfig, progress: bool) -> ScoreResult:
    assert config.vcf is not None
    assert config.genome is not None
    with open_genome(config.genome, config.aliases, progress=progress) as genome:
        columns = variants.read_header(config.vcf)
        total = _check_reference(config, genome)
        model = load_language_model(config.model, config.device, config.precision)
        size = window_around(config.window, model.config.max_seq_len)
        both = config.strands == "both"
        rows, again = tee(_fitting(variants.read_vcf(config.vcf, genome), size))
        inputs = (
            (f"{config.vcf}:{variant.line}", ids)
            for variant in again
            if not variant.problem
            for reverse in ((False, True) if both else (False,))
            for ids in variants.windows(variant, genome, size, reverse=reverse)
        )
        if config.mode == "embedding":
            outputs = mean_states(model, inputs, batch_size=config.batch_size, n_to_pad=config.n_to_pad)
        else:
            outputs = LogLikelihoodScorer(model, batch_size=config.batch_size, n_to_pad=config.n_to_pad)(inputs)
        names = SCORES[config.mode]
        done = scored = 0
        problems: Counter[str] = Counter()
        with (
            partial_table(config.out, [*columns, *names, "note"]) as write,
            bar("score", total, "variant", progress=progress) as shown,
        ):
            for variant in rows:
                shown.update()
                problem, values = variant.problem, None
                if not problem:
                    pair = list(islice(outputs, 2 + 2 * both))
                    values = _compare(config.mode, pair, variant, genome, size)
                    problem = "" if values is not None else "no base stands before it"
                if problem:
                    problems[problem] += 1
                if problem == MISMATCH and config.ref_mismatch == "skip":
                    continue
                write([*variant.fields, *(values or [None] * len(names)), problem])
                done += 1
                scored += not problem
    return ScoreResult(done, scored, dict(problems))


def _check_reference(config: ScoreConfig, genome: Genome) -> int:
    """Number of alleles. An InputError if the VCF belongs to another genome."""
    problems: Counter[str] = Counter()
    total = known = 0
    assert config.vcf is not None
    for variant in variants.read_vcf(config.vcf, genome):
        total += 1
        known += bool(variant.contig)
        problems[variant.problem] += 1
        if variant.problem == MISMATCH and config.ref_mismatch == "fail":
            raise InputError(
                f"{config.vcf}:{variant.line}: REF {variant.fields[3]} differs from {genome.source} at "
                f"{variant.contig}:{variant.start + 1}; wrong genome build? (`ref_mismatch` note scores the others)"
            )
    if not total:
        raise InputError(f"{config.vcf}: holds no variant")
    if not known:
        raise InputError(
            f"{config.vcf}: none of its contigs is in {genome.source}, which has {', '.join(genome.names[:5])}"
        )
    if problems[MISMATCH] > _MOST_MISMATCHES * known:
        raise InputError(
            f"{config.vcf}: REF differs from {genome.source} in {problems[MISMATCH]:,} of {known:,} alleles "
            f"({problems[MISMATCH] / known:.0%}): wrong genome build?"
        )
    return total


def _fitting(found: Iterable[Variant], size: int) -> Iterator[Variant]:
    """The variants. Those whose alleles leave no room for context in a window get a problem."""
    for variant in found:
        is_long = max(len(variant.ref), len(variant.alt)) > size // 2
        if is_long and not variant.problem:
            yield replace(variant, problem="an allele is longer than half the window")
        else:
            yield variant


def _compare(
    mode: str, outputs: list[np.ndarray], variant: Variant, genome: Genome, size: int
) -> tuple[float, ...] | None:
    """The values of a mode, from the outputs for reference and alternative on one or two strands."""
    pairs = list(zip(outputs[::2], outputs[1::2], strict=True))
    if mode == "embedding":
        norms = [float(np.linalg.norm(alt - ref)) for ref, alt in pairs]
        cosines = [1 - float(ref @ alt / np.linalg.norm(ref) / np.linalg.norm(alt)) for ref, alt in pairs]
        return float(np.mean(norms)), float(np.mean(cosines))
    if mode == "likelihood":
        before, after = (float(np.mean([np.nansum(pair[side]) for pair in pairs])) for side in (0, 1))
        return before, after, after - before
    count = max(len(variant.ref), len(variant.alt))
    scores = []
    for reverse, (ref, alt) in enumerate(pairs):
        reference, changed = variants.windows(variant, genome, size, reverse=bool(reverse))
        # In a repeat the first difference comes after the position in the record.
        differs = np.flatnonzero(reference != changed)
        if not differs.size or differs[0] == 0:
            return None
        site = slice(int(differs[0]), int(differs[0]) + count)
        scores.append(float(np.nansum(alt[site]) - np.nansum(ref[site])))
    return (float(np.mean(scores)),)


def _strands(ids: np.ndarray, both: bool) -> list[np.ndarray]:
    return [ids, reverse_complement(ids)] if both else [ids]
