"""``hyenadna mutate``: tables of windows of the reference with the mutations of cell lines in them."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import yaml

from hyenadna.cancer import checks, edits, lines, tables
from hyenadna.cancer.config import MutateConfig
from hyenadna.cancer.edits import Edits, Mutation, Plan, Read
from hyenadna.cancer.lines import Line
from hyenadna.cancer.mutations import read_mutations
from hyenadna.cancer.report import Counts, write_page
from hyenadna.cancer.selection import Selection, select
from hyenadna.common.errors import InputError
from hyenadna.common.files import atomic_dir
from hyenadna.common.progress import bar
from hyenadna.common.run_layout import CONFIG_FILE, plain
from hyenadna.data.contig_names import some
from hyenadna.data.genome import Genome, open_genome

REPORT_FILE = "report.json"

# Bases that a process makes between two hand-overs.
_TASK_BASES = 1 << 22
# Tasks that wait for each process, so that finished sequences do not pile up.
_TASKS_AHEAD = 2


class Anchor(NamedTuple):
    """A mutation that a sequence is made for, and its contig."""

    contig: str
    mutation: Mutation


class LineMutations:
    """The mutations of a line in order, each change once, and those that can become a sequence.

    Args:
        line: the line.
        rows: contig, position, Ref and Alt of its mutations, in order.
        genome: the reference.
        length: bases of a sequence.
        seed: seed of the run.
    """

    def __init__(
        self, line: Line, rows: Iterable[tuple[str, int, str, str]], genome: Genome, length: int, seed: int
    ) -> None:
        self.line = line
        self.skipped = Counter[str]()
        contigs: dict[str, dict[edits.Edit, Mutation]] = {}
        for contig, pos, ref, alt in rows:
            one = Mutation(pos, ref, alt)
            if contigs.setdefault(contig, {}).setdefault(one.edit, one) is not one:
                # The same change with another base before it.
                self.skipped[checks.TWICE] += 1
        self.edits = {contig: Edits(found) for contig, found in contigs.items()}
        self.anchors = []
        for contig, found in contigs.items():
            size = genome.contig(contig).length
            for edit, mutation in found.items():
                # On any other contig there is room for every window, and every base that is brought is shown.
                if not edit.inserted or size < length + self.edits[contig].shrinkage:
                    plan = edits.plan_window(
                        mutation,
                        self.edits[contig],
                        edits.draw_offset(mutation, length, seed, line.name, contig),
                        length,
                        size,
                    )
                    if not isinstance(plan, Plan):
                        self.skipped[plan] += 1
                        continue
                self.anchors.append(Anchor(contig, mutation))

    def drawn(self, count: int, seed: int) -> list[Anchor]:
        """``count`` of the anchors, drawn at random, in the order of their places."""
        rank = sorted(
            range(len(self.anchors)),
            key=lambda place: edits.number(
                "mutation", seed, self.line.name, self.anchors[place].contig, *self.anchors[place].mutation
            ),
        )
        return [self.anchors[place] for place in sorted(rank[:count])]


class Task(NamedTuple):
    """Some sequences of one line."""

    line: Line
    split: str
    anchors: Sequence[Anchor]
    edits: dict[str, Edits]


class Made(NamedTuple):
    """The rows of a task as lines of a TSV, and what is counted of them."""

    text: bytes
    mutations: Counter[int]
    dropped: Counter[str]


class Maker:
    """Makes the rows of tasks.

    Args:
        genome: the reference.
        length: bases of a sequence.
        seed: seed of the run.
        reference: whether rows hold the window without mutations.
    """

    def __init__(self, genome: Genome, length: int, seed: int, *, reference: bool) -> None:
        self._genome, self._length, self._seed, self._reference = genome, length, seed, reference

    def __call__(self, task: Task) -> Made:
        """The rows of the anchors, in their order."""
        rows, mutations, dropped = list[tables.Row](), Counter[int](), Counter[str]()
        for contig, mutation in task.anchors:
            offset = edits.draw_offset(mutation, self._length, self._seed, task.line.name, contig)
            size = self._genome.contig(contig).length
            plan = edits.plan_window(mutation, task.edits[contig], offset, self._length, size)
            assert isinstance(plan, Plan), plan
            read = checks.reader(self._genome, contig)
            rows.append(_row(task, contig, mutation, offset, plan, read, reference=self._reference))
            mutations[plan.n_mutations] += 1
            dropped.update(overlapping=plan.n_overlapping, straddling=plan.n_straddling, cut=plan.n_cut)
        # Its pages would count as memory of this process until the end.
        self._genome.close()
        return Made(tables.lines(rows, reference=self._reference), mutations, dropped)


def _row(
    task: Task, contig: str, mutation: Mutation, offset: int, plan: Plan, read: Read, *, reference: bool
) -> tables.Row:
    return tables.Row(
        plan.sequence(read),
        task.line.label,
        task.line.name,
        task.line.patient,
        contig,
        plan.start,
        plan.end,
        mutation.pos,
        plan.anchor_in_sequence,
        offset,
        plan.n_mutations,
        plan.n_dropped,
        task.split,
        plan.reference(read) if reference else "",
    )


def mutate(config: MutateConfig, *, progress: bool = True) -> dict[str, Any]:
    """Make balanced tables of mutated windows.

    The folder appears when it is complete. A stopped run leaves nothing.

    Args:
        config: the options.
        progress: show progress bars.

    Returns:
        What ``report.json`` holds.

    Raises:
        InputError: an input is damaged or lacks a column, the reference is another build, a class is empty, there are
            fewer lines than asked for, or the folder cannot be written.
        ImportError: a package is absent; the message names the extra.
    """
    models = lines.read_models(config.models, config.class_column)
    wanted = lines.of_classes(config.models, models, config.classes)
    found = read_mutations(config.mutations, config.vcf_line)
    _check_known(config, found.frame["line"].unique(maintain_order=True).to_list(), models)
    with open_genome(config.fasta, config.aliases, progress=progress) as genome:
        checked = checks.check(config.mutations, found, genome, progress=progress)
        counts = Counts(config, found, checked, models, genome.describe())
        of_line = _by_line(checked.frame, wanted)

        def mutations_of(line: Line) -> LineMutations:
            return LineMutations(line, of_line(line.name), genome, config.length, config.seed)

        for line in wanted:
            mutations = mutations_of(line)
            counts.add_line(line, len(mutations.anchors), mutations.skipped)
        selection = select(config.models, wanted, counts.usable, config)
        counts.selection = selection
        with atomic_dir(config.out_dir) as draft:
            (draft / CONFIG_FILE).write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
            parquet = config.format == "parquet"
            total = len(selection.splits) * selection.per_line
            with (
                tables.open_tables(draft, reference=config.reference, parquet=parquet) as files,
                bar("mutate", total, "sequence", progress=progress) as shown,
            ):
                maker = Maker(genome, config.length, config.seed, reference=config.reference)
                tasks = _tasks(selection, mutations_of, config)
                for task, made in _in_processes(maker, tasks, config.workers):
                    files[task.split].write(made.text)
                    counts.add_made(task.line, task.split, made.mutations, made.dropped)
                    shown.update(len(task.anchors))
            report = counts.report()
            (draft / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            write_page(draft, report)
    return report


def _check_known(config: MutateConfig, names: Sequence[str], models: dict[str, Line]) -> None:
    if not any(name in models for name in names):
        raise InputError(
            f"{config.mutations}: none of its lines ({some(names)}) is in {config.models}, which has {some(models)}"
        )


def _by_line(frame: Any, wanted: Sequence[Line]) -> Callable[[str], Iterable[tuple[str, int, str, str]]]:
    """Gives the rows of a line, of a frame that is sorted by lines."""
    names = {line.name for line in wanted}
    runs = frame["line"].rle().struct.unnest()
    mutations = frame.select("contig", "pos", "ref", "alt")
    places, start = {}, 0
    for length, name in runs.iter_rows():
        if name in names:
            places[name] = (start, length)
        start += length

    def rows(name: str) -> Iterable[tuple[str, int, str, str]]:
        return mutations.slice(*places.get(name, (0, 0))).iter_rows()

    return rows


def _tasks(selection: Selection, mutations_of: Callable[[Line], LineMutations], config: MutateConfig) -> Iterator[Task]:
    size = max(1, _TASK_BASES // config.length)
    for line, split in selection.splits.items():
        mutations = mutations_of(line)
        drawn = mutations.drawn(selection.per_line, config.seed)
        for start in range(0, len(drawn), size):
            part = drawn[start : start + size]
            contigs = {anchor.contig for anchor in part}
            yield Task(line, split, part, {contig: mutations.edits[contig] for contig in contigs})


def _in_processes(maker: Maker, tasks: Iterator[Task], workers: int) -> Iterator[tuple[Task, Made]]:
    """The rows of all tasks in their order, from this process or from ``workers`` others."""
    if not workers:
        for task in tasks:
            yield task, maker(task)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[Task, Future[Made]]] = deque()
    try:
        with ProcessPoolExecutor(workers, context) as pool:
            try:
                for task in tasks:
                    waiting.append((task, pool.submit(maker, task)))
                    if len(waiting) > _TASKS_AHEAD * workers:
                        first, made = waiting.popleft()
                        yield first, made.result()
                while waiting:
                    first, made = waiting.popleft()
                    yield first, made.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise InputError(
            "`workers`: one of the processes ended without a result, perhaps because the memory is too small; take "
            "fewer, or 0"
        ) from error
