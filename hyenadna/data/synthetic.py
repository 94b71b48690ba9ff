"""A synthetic genome in which context helps: for the demo, and for tests that must see a model learn.

It has five layers. A small model learns the first in a minute; the later ones take longer.

1. A Markov background of order 3. Markov baselines learn it too.
2. States that last for hundreds to thousands of bases and change the background. Isochores are poor or rich in GC.
   Coding blocks have a composition of period 3 on either strand. In helical blocks A/T rises and falls every 10.5
   bases. A hundred bases show the state, a few do not.
3. Tandem repeats, mostly of one period, which is longer than the context of any practical Markov model.
4. Motifs in two halves with a spacer of variable length, on either strand; and inverted repeats (stem-loops), whose
   second stem is the reverse complement of the first.
5. Long-range copies: 100 to 300 bases, repeated 200 to 900 bases later with a few mutations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyenadna.common.errors import InputError
from hyenadna.common.files import write_files

MIN_CONTIG = 10_000
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_LINE = 60
_ORDER = 3
_CHAINS = 256

_GC_SIGN = np.array([-1.0, 1.0, 1.0, -1.0])
_CODON_TINT = 0.6 * np.array([[0.9, -0.7, 0.6, -0.8], [0.3, 0.5, -0.9, 0.1], [-1.0, 0.7, -0.3, 0.6]])
_ISOCHORE_TINT = 0.4
_HELICAL_TINT = 0.6
# Two helical turns of 10.5 bases.
_HELICAL_STEPS = 21
# The plain state, three codon positions on each strand, the helical phases: once for each isochore.
_PLAIN, _CODING, _CODING_REVERSE, _HELICAL, _STATES = 0, 1, 4, 7, 7 + _HELICAL_STEPS
# Blocks: plain, coding on either strand, helical.
_BLOCK_FRACTIONS = (0.35, 0.2, 0.2, 0.25)
# (shortest, mean) length in bases.
_ISOCHORE_LENGTH = (500, 2000)
_BLOCK_LENGTH = (300, 900)

# A mutated base is drawn from all four, so a quarter of the mutations change nothing.
_MUTATION_RATE = 0.04
_KEPT_NATS, _CHANGED_NATS = -np.log(1 - 0.75 * _MUTATION_RATE), -np.log(0.25 * _MUTATION_RATE)
# One period is the most frequent, so that a single lag already helps.
_TANDEM_PERIODS = (12, 12, 12, 15, 18)
_N_MOTIFS = 4
_HALF_MOTIF = 8
# (shortest, longest), both included.
_TANDEM_UNITS = (5, 11)
_STEM = (12, 20)
_LOOP = (4, 10)
_SPACER = (12, 20)
_COPY = (100, 300)
_COPY_DISTANCE = (200, 900)

# Fraction of all bases that each kind of element covers, and its mean length in bases.
_COVER = {"tandem_repeat": (0.20, 108), "copy": (0.12, 200), "inverted_repeat": (0.05, 39), "motif": (0.05, 32)}
_LONGEST = 300


class Planted(NamedTuple):
    """One planted element, 0-based and half-open. ``name`` holds its period, source or the like for the BED."""

    contig: str
    start: int
    end: int
    kind: str
    name: str
    strand: str


@dataclass(frozen=True)
class SyntheticGenome:
    """A synthetic genome on disk, and how much of it can be predicted.

    Attributes:
        fasta: the sequence.
        bed: the planted elements.
        truth: these attributes as JSON.
        seed: seed of the generator.
        contigs: length of each contig.
        fractions: fraction of all bases that context predicts, by kind of element: every unit of a tandem repeat
            except the first, the second stem, the second half of a motif, and the copy.
        floor_perplexity: perplexity of the generator itself, which knows every hidden state and element. No model can
            be expected to go below it.
    """

    fasta: Path
    bed: Path
    truth: Path
    seed: int
    contigs: dict[str, int]
    fractions: dict[str, float]
    floor_perplexity: float


class _Law(NamedTuple):
    """The law of all contigs of a genome: ``probabilities (states, 64 contexts, 4)``, ``motifs (motif, half, 8)``."""

    probabilities: np.ndarray
    motifs: np.ndarray


def write_synthetic_genome(
    path: str | Path, *, seed: int = 0, length: int = 2_400_000, contigs: int = 8
) -> SyntheticGenome:
    """Write ``path`` (FASTA), and ``<stem>.planted.bed`` and ``<stem>.truth.json`` in the same folder.

    The contigs ``syn1`` to ``syn<contigs>`` follow one law and have equal length, so that any of them can be held out.
    Equal arguments give equal bytes. This takes a second or two.

    Args:
        path: the FASTA; its folder must exist.
        seed: seed of the law and the sequence.
        length: bases of all contigs together, rounded down to a multiple of ``contigs``.
        contigs: number of contigs.

    Raises:
        InputError: contigs are shorter than 10,000 bases, the seed is negative, or the folder does not exist.
    """
    path = Path(path)
    if seed < 0:
        raise InputError(f"synthetic genome: the seed must not be negative, got {seed}")
    if contigs < 1 or length // contigs < MIN_CONTIG:
        raise InputError(
            f"synthetic genome: {length} bases in {contigs} contigs: each contig needs at least {MIN_CONTIG} bases"
        )
    law_seed, *contig_seeds = np.random.SeedSequence(seed).spawn(contigs + 1)
    law = _draw_law(np.random.default_rng(law_seed))
    made = [
        _Planter(np.random.default_rng(child), law, f"syn{number}", length // contigs)
        for number, child in enumerate(contig_seeds, start=1)
    ]
    for contig in made:
        contig.plant()
    total = length // contigs * contigs
    genome = SyntheticGenome(
        fasta=path,
        bed=path.with_name(f"{path.stem}.planted.bed"),
        truth=path.with_name(f"{path.stem}.truth.json"),
        seed=seed,
        contigs={contig.name: len(contig.bases) for contig in made},
        fractions={kind: sum(contig.predictable[kind] for contig in made) / total for kind in _COVER},
        floor_perplexity=float(np.exp(sum(contig.nats.sum() for contig in made) / total)),
    )
    described = {key: value.name if isinstance(value, Path) else value for key, value in asdict(genome).items()}
    write_files(
        {
            genome.bed: _bed(made).encode(),
            genome.truth: (json.dumps(described, indent=2) + "\n").encode(),
            genome.fasta: b"".join(map(_fasta_record, made)),
        }
    )
    return genome


def _draw_law(rng: np.random.Generator) -> _Law:
    """Draw the motifs and, for each state, a log-linear background: each of the last three bases adds its weight."""
    weights = rng.normal(size=(_ORDER, 4, 4)) * np.array([0.15, 0.2, 0.25])[:, None, None]
    third, second, last = np.indices((4,) * _ORDER).reshape(_ORDER, -1)
    background = weights[0][third] + weights[1][second] + weights[2][last]
    angles = 2 * np.pi * np.arange(_HELICAL_STEPS) / _HELICAL_STEPS
    other_strand = _CODON_TINT[[0, 2, 1], ::-1]
    tints = np.concatenate(
        [np.zeros((1, 4)), _CODON_TINT, other_strand, -_HELICAL_TINT * np.cos(angles)[:, None] * _GC_SIGN]
    )
    isochores = _ISOCHORE_TINT * np.array([[-1.0], [1.0]]) * _GC_SIGN
    logits = (isochores[:, None] + tints).reshape(-1, 1, 4) + background
    probabilities = np.exp(logits)
    motifs = rng.integers(0, 4, size=(_N_MOTIFS, 2, _HALF_MOTIF), dtype=np.uint8)
    return _Law(probabilities / probabilities.sum(axis=-1, keepdims=True), motifs)


def _states(rng: np.random.Generator, size: int) -> np.ndarray:
    """The hidden state of every base: int ``(size,)``, an index into ``_Law.probabilities``."""
    isochore = _run_lengths(rng, size, *_ISOCHORE_LENGTH)
    isochore_of = np.repeat((np.arange(len(isochore)) + rng.integers(2)) % 2, isochore)
    block = _run_lengths(rng, size, *_BLOCK_LENGTH)
    kind = np.repeat(rng.choice(4, size=len(block), p=_BLOCK_FRACTIONS), block)
    index = np.arange(size)
    phase = np.repeat(rng.integers(0, 3 * _HELICAL_STEPS, size=len(block)), block)
    by_kind = [
        np.full(size, _PLAIN),
        _CODING + (index + phase) % 3,
        _CODING_REVERSE + (index + phase) % 3,
        _HELICAL + (2 * index + phase) % _HELICAL_STEPS,
    ]
    return isochore_of * _STATES + np.choose(kind, by_kind)


def _run_lengths(rng: np.random.Generator, size: int, shortest: int, mean: int) -> np.ndarray:
    """Lengths that sum to ``size``: ``shortest`` plus an exponential. The last ones are cut."""
    lengths = shortest + rng.exponential(mean - shortest, size=size // shortest + 1).astype(np.int64)
    return np.diff(np.minimum(np.cumsum(lengths), size), prepend=0)


def _background(rng: np.random.Generator, law: _Law, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bases, uint8 ``(size,)``, and the loss in nats of each for a model that knows the state.

    They are drawn as ``_CHAINS`` chains in parallel, so that one numpy step serves all chains, and then concatenated.
    """
    steps = -(-len(states) // _CHAINS)
    state_of = np.resize(states, (_CHAINS, steps)).T
    cumulative = np.cumsum(law.probabilities, axis=-1)[..., :3]
    uniform = rng.random((steps, _CHAINS, 1))
    bases = np.empty((steps, _CHAINS), dtype=np.uint8)
    contexts = np.empty((steps, _CHAINS), dtype=np.uint8)
    context = rng.integers(0, 4**_ORDER, size=_CHAINS)
    for step in range(steps):
        contexts[step] = context
        bases[step] = (uniform[step] > cumulative[state_of[step], context]).sum(axis=1)
        context = (4 * context + bases[step]) % 4**_ORDER
    nats = -np.log(law.probabilities[state_of, contexts, bases])
    return bases.T.ravel()[: len(states)], nats.T.ravel()[: len(states)]


class _Planter:
    """Plants elements into one contig from left to right, so that a copy repeats bases that no longer change."""

    def __init__(self, rng: np.random.Generator, law: _Law, name: str, size: int) -> None:
        self.rng, self.law, self.name = rng, law, name
        self.bases, self.nats = _background(rng, law, _states(rng, size))
        self.planted: list[Planted] = []
        self.predictable = dict.fromkeys(_COVER, 0)

    def plant(self) -> None:
        size = len(self.bases)
        covered = sum(fraction for fraction, _ in _COVER.values())
        frequency = np.array([fraction / length for fraction, length in _COVER.values()])
        mean_step = 1 / frequency.sum()
        draws = 2 * int(size / mean_step) + 1
        kinds = self.rng.choice(list(_COVER), size=draws, p=frequency / frequency.sum()).tolist()
        gaps = self.rng.exponential((1 - covered) * mean_step, size=draws).astype(np.int64).tolist()
        draw = {
            "tandem_repeat": self._tandem_repeat,
            "copy": self._copy,
            "inverted_repeat": self._inverted_repeat,
            "motif": self._motif,
        }
        start = _COPY_DISTANCE[1]
        for kind, gap in zip(kinds, gaps, strict=True):
            start += gap
            if start + _LONGEST > size:
                break
            length, predictable, note, strand = draw[kind](start)
            self.planted.append(Planted(self.name, start, start + length, kind, note, strand))
            self.predictable[kind] += predictable
            start += length

    def _tandem_repeat(self, start: int) -> tuple[int, int, str, str]:
        period = _TANDEM_PERIODS[self.rng.integers(len(_TANDEM_PERIODS))]
        length = period * self._between(_TANDEM_UNITS)
        self._write(start + period, np.resize(self.bases[start : start + period], length - period))
        return length, length - period, f"period={period}", "."

    def _copy(self, start: int) -> tuple[int, int, str, str]:
        length = self._between(_COPY)
        distance = self._between((max(length, _COPY_DISTANCE[0]), _COPY_DISTANCE[1]))
        source = start - distance
        self._write(start, self.bases[source : source + length])
        return length, length, f"source={source}", "+"

    def _inverted_repeat(self, start: int) -> tuple[int, int, str, str]:
        stem, loop = self._between(_STEM), self._between(_LOOP)
        self._write(start + stem + loop, _reverse_complement(self.bases[start : start + stem]))
        return 2 * stem + loop, stem, f"stem={stem}", "."

    def _motif(self, start: int) -> tuple[int, int, str, str]:
        number = int(self.rng.integers(_N_MOTIFS))
        first, second = self.law.motifs[number]
        strand = "+" if self.rng.random() < 0.5 else "-"
        if strand == "-":
            first, second = _reverse_complement(second), _reverse_complement(first)
        second_start = start + _HALF_MOTIF + self._between(_SPACER)
        self._write(start, first)
        self._write(second_start, second)
        return second_start + _HALF_MOTIF - start, _HALF_MOTIF, f"motif={number}", strand

    def _between(self, bounds: tuple[int, int]) -> int:
        return int(self.rng.integers(bounds[0], bounds[1] + 1))

    def _write(self, start: int, expected: np.ndarray) -> None:
        size = len(expected)
        redrawn = self.rng.random(size) < _MUTATION_RATE
        written = np.where(redrawn, self.rng.integers(0, 4, size=size, dtype=np.uint8), expected)
        self.bases[start : start + size] = written
        self.nats[start : start + size] = np.where(written == expected, _KEPT_NATS, _CHANGED_NATS)


def _reverse_complement(bases: np.ndarray) -> np.ndarray:
    return 3 - bases[::-1]


def _bed(contigs: list[_Planter]) -> str:
    rows = (row for contig in contigs for row in contig.planted)
    return "".join(f"{r.contig}\t{r.start}\t{r.end}\t{r.kind};{r.name}\t0\t{r.strand}\n" for r in rows)


def _fasta_record(contig: _Planter) -> bytes:
    letters = _LETTERS[contig.bases]
    whole = len(letters) - len(letters) % _LINE
    lines = np.full((whole // _LINE, _LINE + 1), ord("\n"), dtype=np.uint8)
    lines[:, :_LINE] = letters[:whole].reshape(-1, _LINE)
    rest = letters[whole:].tobytes()
    return b">" + contig.name.encode() + b"\n" + lines.tobytes() + (rest + b"\n" if rest else b"")
