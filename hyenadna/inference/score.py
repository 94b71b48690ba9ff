"""``hyenadna score``: score sequences by log-likelihood, and variants by how they change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyenadna.common.choices import SCORES
from hyenadna.common.errors import InputError
from hyenadna.common.extras import require
from hyenadna.common.parts import tell_idle
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import settings
from hyenadna.common.vocab import reverse_complement
from hyenadna.common.world import world
from hyenadna.common.writers import one_writer
from hyenadna.data.contig_names import some
from hyenadna.data.genome import Genome, open_genome
from hyenadna.data.sequences import check_windows, window_around
from hyenadna.data.sources import Record, open_sequences
from hyenadna.data.tables import TableParts, added_columns, tsv_line
from hyenadna.data.variant_files import VariantFile, open_variants
from hyenadna.data.variants import MISMATCH, MISMATCHES, VariantRecord, alleles
from hyenadna.data.vcf import Annotation, own_keys
from hyenadna.inference.config import ScoreConfig
from hyenadna.inference.likelihood import LogLikelihoodScorer, load_language_model
from hyenadna.inference.variant_scores import VariantScorer

# If REF differs from the genome in more alleles, the VCF belongs to another assembly. A few say nothing.
_MOST_MISMATCHES = 0.05
_FEWEST_COMPARED = 20
# A message names this many of the records that differ.
_MOST_NAMED = 3
_MOST_LETTERS = 12
# The column of a MAF that names its assembly.
_BUILD = "NCBI_Build"

_DESCRIPTIONS = {
    "ref_log_likelihood": "hyenadna: log-likelihood of the window with the reference allele, in nats",
    "alt_log_likelihood": "hyenadna: log-likelihood of the window with the alternative allele, in nats",
    "score": "hyenadna: log-likelihood with the alternative allele minus that with the reference allele, in nats",
    "distance": "hyenadna: Euclidean distance of the mean hidden states of the two windows",
    "cosine_distance": "hyenadna: cosine distance of the mean hidden states of the two windows",
}


@dataclass(frozen=True)
class ScoreResult:
    """What was scored.

    Attributes:
        rows: number of sequences or alleles in the output.
        scored: number of those with a score.
        problems: how often each reason for a missing score occurred.
        remarks: how often each remark on a score occurred.
    """

    rows: int
    scored: int
    problems: dict[str, int]
    remarks: dict[str, int] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What became of one sequence or allele: the reason for a missing score, the remarks, and whether it has a row."""

    problem: str
    remarks: Sequence[str] = ()
    is_written: bool = True


@one_writer()
def score(config: ScoreConfig, *, progress: bool = True) -> ScoreResult:
    """Score the sequences or variants that ``config`` names, and write the TSV or VCF.

    A stopped run leaves its finished parts in ``OUT.partial``, and can be resumed. Several processes share out the
    parts, see :func:`hyenadna.common.world.world`.

    Raises:
        InputError: a checkpoint, sequence, VCF, genome or option does not fit.
        ImportError: a package is absent; the message names the extra.
    """
    with world().agreed():
        config.check()
    progress = progress and world().is_first
    parts = TableParts(config.out, settings(config), resume=config.resume)
    make = _for_sequences if config.vcf is None else _for_variants
    with ExitStack() as stack:
        with world().agreed():
            task = make(config, stack, progress)
        return _carry_out(task, parts, config, progress)


class _Task(NamedTuple):
    """What is scored.

    Attributes:
        inputs: all inputs, from the first.
        total: how many these are.
        unit: what one is called.
        header: the lines before the first one's.
        lines: yields the text and the outcomes of each input.
    """

    inputs: Iterable[Any]
    total: int
    unit: str
    header: str
    lines: Callable[[Iterable[Any]], Iterator[tuple[str, list[Outcome]]]]


def _for_sequences(config: ScoreConfig, stack: ExitStack, progress: bool) -> _Task:
    model = load_language_model(config.model, config.device, config.precision)
    check_windows(config.window, config.stride, model.config.max_seq_len)
    scorer = LogLikelihoodScorer(
        model,
        batch_size=config.batch_size,
        pack_tokens=config.pack_tokens,
        window=config.window,
        stride=config.stride,
        n_to_pad=config.n_to_pad,
    )
    sequences = stack.enter_context(
        open_sequences(
            fasta=config.fasta, table=config.table, sequence_column=config.sequence_column, progress=progress
        )
    )

    def lines(records: Iterable[Record]) -> Iterator[tuple[str, list[Outcome]]]:
        for row, is_scored in _sequence_rows(records, scorer, config.strands == "both"):
            yield tsv_line(row), [Outcome("" if is_scored else "no base to score")]

    added = added_columns(sequences.columns, ["bases", "log_likelihood", "per_base", "perplexity"])
    return _Task(sequences, len(sequences), "sequence", tsv_line([*sequences.columns, *added]), lines)


def _sequence_rows(
    records: Iterable[Record], scorer: LogLikelihoodScorer, both: bool
) -> Iterator[tuple[list[object], bool]]:
    """The row of each sequence, and whether it has a score."""
    records, again = tee(records)
    nats = scorer((record.where, ids) for record in again if len(record.ids) for ids in _strands(record.ids, both))
    for record in records:
        values = np.concatenate(list(islice(nats, 1 + both))) if len(record.ids) else np.empty(0)
        count = int(np.isfinite(values).sum()) // (1 + both)
        # Without a base there is no sum: 0 would be the best of all.
        total_nats = float(np.nansum(values)) / (1 + both) if count else None
        mean = None if total_nats is None else total_nats / count
        perplexity = None if mean is None else float(np.exp(-mean))
        yield [*record.fields.values(), count, total_nats, mean, perplexity], bool(count)


def _strands(ids: np.ndarray, both: bool) -> list[np.ndarray]:
    return [ids, reverse_complement(ids)] if both else [ids]


def _for_variants(config: ScoreConfig, stack: ExitStack, progress: bool) -> _Task:
    assert config.vcf is not None
    assert config.genome is not None
    genome = stack.enter_context(open_genome(config.genome, config.aliases, progress=progress))
    file = open_variants(config.vcf)
    if config.writes_vcf and file.kind == "MAF":
        raise InputError(f"{config.vcf}: is a MAF, whose scores are written as TSV: choose another `out`")
    survey = _survey(config, file, genome)
    model = load_language_model(config.model, config.device, config.precision)
    scorer = VariantScorer(
        model,
        genome,
        config.mode,
        size=window_around(config.window, model.config.max_seq_len),
        both=config.strands == "both",
        batch_size=config.batch_size,
        n_to_pad=config.n_to_pad,
    )
    names = SCORES[config.mode]
    annotation = Annotation(file.header, file.columns, {name: _DESCRIPTIONS[name] for name in names}, survey.keys)
    columns = [*file.columns, *(f"column_{i + 1}" for i in range(len(file.columns), survey.columns))]
    header = tsv_line([*columns, *added_columns(columns, [*names, "note"])], quoted=False)

    def lines(records: Iterable[VariantRecord]) -> Iterator[tuple[str, list[Outcome]]]:
        for record, found in scorer(records):
            kept = [config.ref_mismatch != "skip" or one.problem not in MISMATCHES for one in found]
            texts = [[f"{value:.6f}" for value in one.values] for one in found]
            if config.writes_vcf:
                text = annotation.line(record, texts, [one.note for one in found]) if all(kept) else ""
            else:
                text = "".join(
                    tsv_line(
                        [
                            *record.row(place),
                            *[""] * (len(columns) - len(record.fields)),
                            *(values or [""] * len(names)),
                            one.note,
                        ],
                        quoted=False,
                    )
                    for place, (one, values) in enumerate(zip(found, texts, strict=True))
                    if kept[place]
                )
            yield text, [Outcome(one.problem, one.remarks, keep) for one, keep in zip(found, kept, strict=True)]

    first = annotation.header if config.writes_vcf else header
    return _Task(file.read(), survey.records, "record", first, lines)


def _carry_out(task: _Task, parts: TableParts, config: ScoreConfig, progress: bool) -> ScoreResult:
    """Write the parts that are not there yet, and join them.

    A part is computed by itself, so that its batches, and with them its last digits, are the same in a resumed run and
    for any number of processes.
    """
    left = iter(task.inputs)
    with parts.keep(lambda: f"{parts.done():,} {task.unit}s" if parts.done() else ""):
        done = world().first(parts.done)
        if not done:
            tell_idle(-(-task.total // config.part_size), "part", "lower part_size")
        with bar("score", task.total, task.unit, initial=done, progress=progress) as shown:

            def write(number: int, chunk: Iterable[Any]) -> int:
                texts, outcomes = [], list[Outcome]()
                for text, found in task.lines(chunk):
                    texts.append(text)
                    outcomes += found
                    shown.update()
                if texts:
                    parts.add(number, len(texts), "".join(texts), _counts(outcomes))
                return len(texts)

            parts.compute(lambda: islice(left, config.part_size), write, shown.update)
        return world().first(lambda: _finish(parts, task.header, config))


def _counts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "rows": sum(one.is_written for one in outcomes),
        "scored": sum(not one.problem for one in outcomes),
        "problems": Counter(one.problem for one in outcomes if one.problem),
        "remarks": Counter(remark for one in outcomes for remark in one.remarks),
    }


def _finish(parts: TableParts, header: str, config: ScoreConfig) -> ScoreResult:
    counts = parts.counts()
    problems, remarks = (
        sum((Counter(part[name]) for part in counts), Counter[str]()) for name in ("problems", "remarks")
    )
    parts.finish(header, _bgzip if config.writes_vcf and config.out.suffix == ".gz" else None)
    rows, scored = (sum(part[name] for part in counts) for name in ("rows", "scored"))
    return ScoreResult(rows, scored, dict(problems), dict(remarks))


def _bgzip(path: Path) -> Any:
    return require("pysam").BGZFile(str(path), "wb")


class _Survey(NamedTuple):
    """Number of records of a file, of columns in the widest one, and the keys of INFO that ours must not repeat."""

    records: int
    columns: int
    keys: set[str]


def _survey(config: ScoreConfig, file: VariantFile, genome: Genome) -> _Survey:
    """Read the whole file once. An InputError if it belongs to another genome."""
    records = columns = compared = differing = 0
    contigs: dict[str, None] = {}
    keys = set[str]()
    named: list[str] = []
    builds: dict[str, None] = {}
    build = file.columns.index(_BUILD) if _BUILD in file.columns else None
    for record in file.read():
        records += 1
        if build is not None and build < len(record.fields):
            builds[record.fields[build]] = None
        columns = max(columns, len(record.fields))
        contigs[record.contig] = None
        if config.writes_vcf:
            keys.update(own_keys(record))
        for found in alleles(record, genome):
            compared += bool(found.contig)
            if found.problem not in MISMATCHES:
                continue
            differing += 1
            place = f"{found.contig}:{record.start + 1}"
            if config.ref_mismatch == "fail":
                what = "differs from" if found.problem == MISMATCH else "is not within the contigs of"
                raise InputError(
                    f"{record.where}: REF {_shortened(record.ref)} {what} {genome.source} at {place}; wrong genome "
                    "build? (`ref_mismatch` note scores the others)"
                )
            if len(named) < _MOST_NAMED and (text := f"{place} {_shortened(record.ref)}") not in named:
                named.append(text)
    if not records:
        raise InputError(f"{file.path}: holds no variant")
    genome.check_any(contigs, file.path)
    if config.ref_mismatch is None and compared >= _FEWEST_COMPARED and differing > _MOST_MISMATCHES * compared:
        raise InputError(
            f"{file.path}: REF differs from {genome.source} in {differing:,} of {compared:,} alleles "
            f"({differing / compared:.0%}), such as {', '.join(named)}: wrong genome build? "
            f"({f'{_BUILD} is {some(builds)}; ' if builds else ''}`ref_mismatch` note scores the others)"
        )
    return _Survey(records, columns, keys)


def _shortened(allele: str) -> str:
    return allele if len(allele) <= _MOST_LETTERS else f"{allele[:_MOST_LETTERS]}..."
