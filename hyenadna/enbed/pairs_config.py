"""Options of ``hyenadna enbed mutate-pairs``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from hyenadna.common.errors import InputError
from hyenadna.common.options import AtLeast0, AtLeast1, InputFile, NewFolder, Options, Seed

HeldOut = Annotated[float, Gt(0), Lt(1)]
"""A share of the pairs that leaves something for the others."""


@dataclass
class PairsConfig(Options):
    """Where the pairs are from, and how they are split. Give --table, or --newick and its files, or --simulate.

    Args:
        out: Folder to write: pairs.tsv and report.json. It must not exist, or be empty.
        table: Pairs as CSV, TSV or Parquet with the columns parent_id, parent_sequence, child_id and child_sequence.
            Upper or lower case and underscores make no difference, so that the files of MutaGAN are read too.
        newick: Tree whose nodes all have names, such as RAxML's node-labelled tree. Each branch is a pair.
        states: Ancestral sequences of the inner nodes, a line each: name, blank, sequence.
        tips: Aligned sequences of the leaves, as FASTA or PHYLIP.
        start: First column of the alignment to take, from 0.
        end: One past the last column to take.
        simulate: Pairs of a synthetic phylogeny with hot spots of mutation, see hyenadna/enbed/phylogeny.py.
        length: Bases of a sequence of the synthetic phylogeny.
        spots: Hot spots of the synthetic phylogeny.
        differing_only: Leave out pairs of equal sequences.
        split: subtree holds out whole clades, drawn at random. date holds out the newest children. column takes the
            column `split` of --table, with the values train, valid and test.
        date_pattern: Regular expression whose first group is the date in an id. Dates are compared as text. A column
            `date` of --table, with the date of the child, goes before it.
        valid_fraction: Share of the pairs for validation, approximately: clades and dates are not divided.
        test_fraction: Share of the pairs for the test.
        seed: Seed of the clades that are drawn, and of the synthetic phylogeny.
    """

    out: NewFolder
    table: InputFile | None = None
    newick: InputFile | None = None
    states: InputFile | None = None
    tips: InputFile | None = None
    start: AtLeast0 | None = None
    end: AtLeast1 | None = None
    simulate: Annotated[int, Ge(10)] | None = None
    length: AtLeast1 = 64
    spots: AtLeast0 = 4
    differing_only: bool = False
    split: Literal["subtree", "date", "column"] = "subtree"
    date_pattern: str = r"/(\d{4})$"
    valid_fraction: HeldOut = 0.15
    test_fraction: HeldOut = 0.15
    seed: Seed = 0
    runtime = ("out",)

    def _check_together(self) -> None:
        sources = [name for name in ("table", "newick", "simulate") if getattr(self, name) is not None]
        if len(sources) != 1:
            given = " and ".join(f"`{name}`" for name in sources) or "none"
            raise InputError(f"pairs come from one of `table`, `newick` and `simulate`; given: {given}")
        if self.newick is None:
            self.refuse_unused(("states", "tips", "start", "end"), "a tree of `newick`")
        else:
            for name in ("states", "tips"):
                if getattr(self, name) is None:
                    raise InputError(f"`{name}`: a tree of `newick` needs the sequences of its nodes")
        if self.simulate is None:
            self.refuse_unused(("length", "spots"), "`simulate`")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InputError(f"`start` {self.start}: must be below `end` {self.end}; columns count from 0")
        if self.split == "column":
            if self.table is None:
                raise InputError("`split` column: needs a `table` with a column `split`")
            self.refuse_unused(("valid_fraction", "test_fraction"), "`split` subtree or date")
        elif self.valid_fraction + self.test_fraction >= 1:
            raise InputError(
                f"`valid_fraction` {self.valid_fraction:g} and `test_fraction` {self.test_fraction:g}: leave nothing "
                "to train on; lower them"
            )
        if self.split != "date":
            self.refuse_unused(("date_pattern",), "`split` date")
        self._check_pattern()

    def _check_pattern(self) -> None:
        try:
            groups = re.compile(self.date_pattern).groups
        except re.error as error:
            raise InputError(f"`date_pattern` {self.date_pattern}: is no regular expression ({error})") from error
        if not groups:
            raise InputError(f"`date_pattern` {self.date_pattern}: has no group; put the date in round brackets")
