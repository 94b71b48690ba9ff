from __future__ import annotations

import math
import pickle
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hyenadna.common.errors import InputError
from hyenadna.common.vocab import BYTE_TO_ID, N_ID, PAD_ID, SEP_ID
from hyenadna.data import n_counts
from hyenadna.data.genome import TOKENS_FILE, Contig, Genome, prepare
from hyenadna.data.intervals import Interval, split_contigs
from hyenadna.data.windows import (
    BatchSchedule,
    EvalBatch,
    EvalWindows,
    Stage,
    TrainWindows,
    context_slice,
    reverse_complement,
    warmup_stages,
)

LENGTHS = {"a": 400, "b": 90, "c": 7}
WINDOW = 24


def encode(text: str) -> np.ndarray:
    return BYTE_TO_ID[np.frombuffer(text.encode(), np.uint8)]


def make_genome(folder: Path, contigs: dict[str, str]) -> Genome:
    fasta = folder / "g.fa"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items()))
    return prepare(fasta, folder / "g", progress=False)


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    rng = np.random.default_rng(0)
    contigs = {name: "".join(rng.choice(list("ACGT"), length)) for name, length in LENGTHS.items()}
    return make_genome(tmp_path_factory.mktemp("genome"), contigs)


def places(genome: Genome, intervals: list[Interval], length: int) -> dict[bytes, tuple[str, int]]:
    found = {
        genome.tokens(i.contig, start, start + length).tobytes(): (i.contig, start)
        for i in intervals
        for start in range(i.start, i.end - length + 1)
    }
    assert len(found) == sum(max(0, len(i) - length + 1) for i in intervals), "windows must be unique to be placed"
    return found


def batches(windows: TrainWindows, schedule: BatchSchedule, num_workers: int = 0) -> list[torch.Tensor]:
    return list(DataLoader(windows, batch_sampler=schedule, num_workers=num_workers))


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


INTERVALS = [Interval("a", 10, 60), Interval("c", 0, 7), Interval("a", 300, 400), Interval("b", 20, 20 + WINDOW)]


def test_reverse_complement() -> None:
    np.testing.assert_array_equal(reverse_complement(encode("AACGTN")), encode("NACGTT"))
    ids = np.stack([encode("ACCT"), encode("GGNA")])
    ids[0, 3] = SEP_ID
    expected = np.stack([encode("AGGT"), encode("TNCC")])
    expected[0, 0] = SEP_ID
    np.testing.assert_array_equal(reverse_complement(ids), expected)
    np.testing.assert_array_equal(reverse_complement(reverse_complement(ids)), ids)


def test_windows_lie_in_the_intervals_with_equal_probability(genome: Genome) -> None:
    where = places(genome, INTERVALS, WINDOW)
    counts: Counter[tuple[str, int]] = Counter()
    for seed in range(5):
        windows = TrainWindows(genome, INTERVALS, seed=seed)
        counts.update(where[windows[i, WINDOW].numpy().tobytes()] for i in range(40 * len(where)))
    assert set(counts) == set(where.values())
    expected = 5 * 40
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(where) - 1
    assert abs(chi_square - freedom) < 3 * math.sqrt(2 * freedom)


def test_window_is_a_function_of_seed_index_and_length(genome: Genome) -> None:
    def draw(windows: TrainWindows, keys: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {key: windows[key].numpy()[:WINDOW].tobytes() for key in keys}

    indices = [*range(20), 2**40]
    keys = [(index, length) for index in indices for length in (WINDOW, WINDOW + 1)]
    first = draw(TrainWindows(genome, INTERVALS, seed=1), keys)
    windows = TrainWindows(genome, INTERVALS, seed=1)
    assert draw(windows, keys[::-1]) == first
    assert draw(pickle.loads(pickle.dumps(windows)), keys) == first
    assert draw(TrainWindows(genome, INTERVALS, seed=2), keys) != first
    assert len({first[index, WINDOW] for index in indices}) > len(indices) / 2


def test_lengths_draw_independently(genome: Genome) -> None:
    whole = [Interval("a", 0, 400)]
    windows = TrainWindows(genome, whole, seed=1)
    short, long = (
        np.array([places(genome, whole, length)[windows[i, length].numpy().tobytes()][1] for i in range(100)])
        for length in (WINDOW, WINDOW + 1)
    )
    assert abs(np.corrcoef(short, long)[0, 1]) < 0.3


def test_reverse_complement_of_half_the_windows(genome: Genome) -> None:
    where = places(genome, INTERVALS, WINDOW)
    plain = TrainWindows(genome, INTERVALS, seed=1)
    both = TrainWindows(genome, INTERVALS, seed=1, reverse_complement=True)
    turned = 0
    for i in range(2000):
        forward, drawn = plain[i, WINDOW].numpy(), both[i, WINDOW].numpy()
        assert forward.tobytes() in where
        if not np.array_equal(forward, drawn):
            np.testing.assert_array_equal(drawn, reverse_complement(forward))
            turned += 1
    assert abs(turned - 1000) < 3 * math.sqrt(2000 / 4)


@pytest.fixture(scope="module")
def with_n(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    return make_genome(tmp_path_factory.mktemp("with_n"), {"a": "ACGT" * 25 + "N" * 300 + "ACGT" * 25, "n": "N" * 99})


@pytest.mark.parametrize("cap", [0.0, 0.1, 0.5, 1.0])
def test_cap_on_n(with_n: Genome, cap: float) -> None:
    windows = TrainWindows(with_n, split_contigs(with_n)["train"], seed=3, max_n_fraction=cap, n_to_pad=False)
    shares = [float((windows[i, 20] == N_ID).float().mean()) for i in range(1500)]
    assert max(shares) == pytest.approx(cap)


def test_n_becomes_pad(with_n: Genome) -> None:
    intervals = [Interval("a", 90, 120)]
    padded = TrainWindows(with_n, intervals, seed=3, max_n_fraction=1.0)
    plain = TrainWindows(with_n, intervals, seed=3, max_n_fraction=1.0, n_to_pad=False)
    for i in range(20):
        expected = plain[i, 20].numpy().copy()
        assert N_ID in expected
        expected[expected == N_ID] = PAD_ID
        np.testing.assert_array_equal(padded[i, 20].numpy(), expected)
    assert N_ID in with_n.tokens("a"), "the file keeps its N"


def test_only_n(with_n: Genome) -> None:
    windows = TrainWindows(with_n, [Interval("n", 0, 99)], seed=3)
    with pytest.raises(InputError, match="no window of length 20 with at most 10% N was found in 1000 draws"):
        windows.check(20)


def test_no_interval_is_long_enough(genome: Genome) -> None:
    windows = TrainWindows(genome, INTERVALS, seed=1)
    windows.check(100)
    message = r"length 101 fit into no training interval; the longest is a:300-400 \(100\)"
    with pytest.raises(InputError, match=message):
        windows.check(101)
    with pytest.raises(InputError, match="window length 0 is not positive"):
        windows.check(0)


@pytest.mark.parametrize(
    ("intervals", "cap", "message"),
    [([], 0.1, "no interval"), (INTERVALS, 1.5, "max_n_fraction 1.5"), (INTERVALS, float("nan"), "max_n_fraction nan")],
)
def test_bad_train_windows(genome: Genome, intervals: list[Interval], cap: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainWindows(genome, intervals, seed=1, max_n_fraction=cap)


def test_warmup_doubles_length_at_constant_tokens_per_step() -> None:
    assert warmup_stages(1024, 16) == [Stage(0, 1024, 16)]
    assert warmup_stages(1024, 16, start_length=1024, steps_per_stage=5) == [Stage(0, 1024, 16)]
    assert warmup_stages(1024, 16, start_length=256, steps_per_stage=5) == [
        Stage(0, 256, 64),
        Stage(5, 512, 32),
        Stage(10, 1024, 16),
    ]
    assert warmup_stages(1000, 3, start_length=300, steps_per_stage=2) == [
        Stage(0, 300, 10),
        Stage(2, 600, 5),
        Stage(4, 1000, 3),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0, "batch_size": 1}, "window length 0"),
        ({"length": 8, "batch_size": 0}, "batch size 0"),
        ({"length": 8, "batch_size": 1, "start_length": 9, "steps_per_stage": 1}, "start length 9"),
        ({"length": 8, "batch_size": 1, "start_length": 0, "steps_per_stage": 1}, "start length 0"),
        ({"length": 8, "batch_size": 1, "start_length": 4}, "at least 1 step per stage, not 0"),
    ],
)
def test_bad_warmup(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        warmup_stages(**arguments)


STAGES = warmup_stages(WINDOW, 2, start_length=6, steps_per_stage=3)


def test_schedule_numbers_samples_through() -> None:
    schedule = BatchSchedule(STAGES, 0, 9)
    keys = [key for batch in schedule for key in batch]
    assert [index for index, _ in keys] == list(range(3 * 8 + 3 * 4 + 3 * 2))
    assert [(len(batch), batch[0][1]) for batch in schedule] == [(8, 6)] * 3 + [(4, 12)] * 3 + [(2, 24)] * 3
    assert len(schedule) == 9
    for step in range(9):
        assert list(BatchSchedule(STAGES, step, 9)) == list(schedule)[step:]


@pytest.mark.parametrize(
    ("stages", "start", "end", "message"),
    [
        ([], 0, 1, "stages must begin at step 0"),
        ([(1, 8, 1)], 0, 1, "stages must begin at step 0"),
        ([(0, 8, 1), (0, 16, 1)], 0, 1, "stages must begin at step 0 and ascend"),
        ([(0, 8, 1)], 2, 1, "steps 2 to 1"),
        ([(0, 8, 1)], -1, 1, "steps -1 to 1"),
    ],
)
def test_bad_schedule(stages: list[tuple[int, int, int]], start: int, end: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BatchSchedule(stages, start, end)


def test_identical_batches_whatever_the_workers_and_the_start(genome: Genome) -> None:
    windows = TrainWindows(genome, INTERVALS, seed=5, reverse_complement=True)
    whole = batches(windows, BatchSchedule(STAGES, 0, 9))
    assert [tuple(batch.shape) for batch in whole[::3]] == [(8, 6), (4, 12), (2, 24)]
    for num_workers in (1, 2):
        assert_same(batches(windows, BatchSchedule(STAGES, 0, 9), num_workers), whole)
    for start, num_workers in [(1, 0), (4, 2), (8, 0)]:
        fresh = TrainWindows(genome, INTERVALS, seed=5, reverse_complement=True)
        assert_same(batches(fresh, BatchSchedule(STAGES, start, 9), num_workers), whole[start:])
    assert not torch.equal(batches(TrainWindows(genome, INTERVALS, seed=6), BatchSchedule(STAGES, 0, 1))[0], whole[0])


@pytest.mark.parametrize("length", [1, 5, 24, 99, 1000])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_position_but_the_first_is_predicted_once(genome: Genome, length: int, batch_size: int) -> None:
    tiling = EvalWindows(genome, [*INTERVALS, Interval("b", 0, 1)], length)
    targets: Counter[tuple[str, int]] = Counter()
    n_windows = 0
    spans = []
    for ids, windows in tiling.batches(batch_size):
        assert ids.dtype == torch.uint8
        assert len(ids) == len(windows) <= batch_size
        span = ids.shape[1] - 1
        assert 1 <= span <= length
        spans.append(span)
        for row, (contig, start) in zip(ids.numpy(), windows, strict=True):
            np.testing.assert_array_equal(row, genome.tokens(contig, start, start + span + 1))
            targets.update((contig, start + 1 + t) for t in range(span))
        n_windows += len(ids)
    assert targets == Counter((i.contig, p) for i in INTERVALS for p in range(i.start + 1, i.end))
    assert n_windows == len(tiling)
    assert sum(targets.values()) == tiling.n_targets
    assert spans == sorted(spans, reverse=True)


def test_eval_n_becomes_pad(with_n: Genome) -> None:
    (batch,) = EvalWindows(with_n, [Interval("a", 90, 120)], 29).batches(4)
    assert batch.ids.tolist() == [[*encode("GTACGTACGT").tolist(), *[PAD_ID] * 20]]
    (batch,) = EvalWindows(with_n, [Interval("a", 90, 120)], 29, n_to_pad=False).batches(4)
    assert batch.ids.tolist() == [encode("GTACGTACGT" + "N" * 20).tolist()]


def test_max_windows_are_evenly_spaced(genome: Genome) -> None:
    def starts(max_windows: int | None) -> list[int]:
        tiling = EvalWindows(genome, [Interval("a", 0, 400)], 10, max_windows=max_windows)
        return [start for batch in tiling.batches(7) for _, start in batch.windows]

    assert starts(None) == starts(40) == starts(1000) == list(range(0, 400, 10))
    assert starts(4) == [0, 100, 200, 300]
    assert starts(3) == [0, 130, 260]


def test_bad_eval_windows(genome: Genome) -> None:
    with pytest.raises(InputError, match="window length 0"):
        EvalWindows(genome, INTERVALS, 0)
    with pytest.raises(InputError, match="number of windows 0"):
        EvalWindows(genome, INTERVALS, 8, max_windows=0)
    with pytest.raises(InputError, match="hold no position to predict"):
        EvalWindows(genome, [Interval("a", 3, 4)], 8)
    with pytest.raises(InputError, match="batch size 0"):
        next(EvalWindows(genome, INTERVALS, 8).batches(0))


@pytest.fixture(scope="module")
def speckled(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    """N at 8 % of the positions of two contigs, and none in the third."""
    rng = np.random.default_rng(1)
    contigs = {
        name: "".join(rng.choice(list("ACGTN"), length, p=[(1 - share) / 4] * 4 + [share]))
        for name, length, share in [("a", 1500, 0.08), ("b", 300, 0.08), ("c", 400, 0.0)]
    }
    return make_genome(tmp_path_factory.mktemp("speckled"), contigs)


@pytest.mark.parametrize("total", [7, 8, 1000])
def test_slices_cover_the_inputs_as_array_split_does(total: int) -> None:
    for size in (1, 2, 3, 7):
        slices = [context_slice(total, rank, size) for rank in range(size)]
        expected = [(int(part[0]), len(part)) for part in np.array_split(np.arange(total), size)]
        assert slices == expected


@pytest.mark.parametrize(("turn", "n_to_pad"), [(False, True), (True, True), (True, False)])
def test_a_slice_holds_the_bits_of_the_whole_window(
    speckled: Genome, turn: bool, n_to_pad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(n_counts, "BLOCK", 64)
    # Half of the draws are rejected at this cap, so a wrong count would change the windows.
    options = {"seed": 3, "max_n_fraction": 0.08, "reverse_complement": turn, "n_to_pad": n_to_pad}
    intervals = [Interval("a", 5, 1490), Interval("b", 0, 300), Interval("c", 17, 400)]
    whole = TrainWindows(speckled, intervals, **options)
    for size in (2, 3, 40):
        parts = [TrainWindows(speckled, intervals, context=(rank, size), **options) for rank in range(size)]
        for key in [(index, length) for index in (0, 1, 2, 3, 2**40) for length in (41, 64, 101, 278)]:
            window = whole[key]
            end = 0
            for rank, part in enumerate(parts):
                first, inputs = context_slice(key[1] - 1, rank, size)
                assert first == end
                end = first + inputs
                assert torch.equal(part[key], window[first : end + 1])
            assert end == key[1] - 1


def test_slices_through_worker_processes(speckled: Genome) -> None:
    windows = TrainWindows(speckled, [Interval("a", 0, 1500)], seed=5, reverse_complement=True, context=(1, 2))
    assert len(pickle.dumps(windows)) < 5000
    schedule = BatchSchedule(warmup_stages(90, 2), 0, 3)
    assert_same(batches(windows, schedule, num_workers=1), batches(pickle.loads(pickle.dumps(windows)), schedule))


class CountsReads(Genome):
    """Notes the longest range that was read."""

    longest = 0

    def tokens(self, contig: str, start: int = 0, end: int | None = None) -> np.ndarray:
        ids = super().tokens(contig, start, end)
        self.longest = max(self.longest, len(ids))
        return ids


def test_no_process_reads_a_window_of_a_billion_tokens(tmp_path: Path) -> None:
    n_count, size = 300_000, 1 << 13
    inputs = 1 << 30
    # Holes of the file take no room. Only the contig with N is read to be counted.
    with (tmp_path / TOKENS_FILE).open("wb") as tokens:
        tokens.write(bytes([N_ID]) * n_count)
        tokens.truncate(1_000_000 + inputs + 500)
    contigs = [Contig("n", 1_000_000, 0, n_count, 0), Contig("long", inputs + 500, 1_000_000, 0, 0)]
    genome = CountsReads(tmp_path, contigs, "", "sparse")
    tracemalloc.start()
    windows = TrainWindows(
        genome, [Interval("n", 0, 1_000_000), Interval("long", 0, inputs + 500)], seed=1, context=(9, size),
        max_n_fraction=0.4,
    )  # fmt: skip
    assert {len(windows[index, 900_001]) for index in range(4)} == {900_000 // size + 2}
    assert genome.longest <= n_counts.BLOCK
    assert {len(windows[index, inputs + 1]) for index in range(4)} == {inputs // size + 1}
    (batch,) = EvalWindows(genome, [Interval("long", 0, inputs + 1)], inputs, context=(9, size)).batches(1)
    assert batch.ids.shape == (1, inputs // size + 1)
    assert genome.longest == inputs // size + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("n_to_pad", [True, False])
def test_eval_slices_are_those_of_the_whole_windows(speckled: Genome, n_to_pad: bool) -> None:
    # The last windows have 4, 9 and 1 inputs.
    intervals = [Interval("a", 10, 10 + 65 + 20), Interval("b", 0, 70), Interval("c", 7, 69)]
    plain = list(EvalWindows(speckled, intervals, 20, n_to_pad=n_to_pad).batches(3))
    assert [(batch.offset, batch.total, batch.is_whole) for batch in plain] == [
        (0, 20, True), (0, 20, True), (0, 20, True), (0, 20, True), (0, 9, True), (0, 4, True), (0, 1, True)
    ]  # fmt: skip
    for size, least in [(2, 2), (3, 2), (3, 3)]:
        options = {"n_to_pad": n_to_pad, "least_inputs": least}
        parts = [EvalWindows(speckled, intervals, 20, context=(rank, size), **options) for rank in range(size)]
        assert {part.n_targets for part in parts} == {sum(batch.total * len(batch.ids) for batch in plain)}
        for whole, *slices in zip(plain, *(part.batches(3) for part in parts), strict=True):
            assert all(batch.windows == whole.windows and batch.total == whole.total for batch in slices)
            assert {batch.is_whole for batch in slices} == {whole.total < size * least}
            if slices[0].is_whole:
                assert all(batch.offset == 0 and torch.equal(batch.ids, whole.ids) for batch in slices)
                continue
            assert [(b.offset, b.ids.shape[1] - 1) for b in slices] == [
                context_slice(whole.total, rank, size) for rank in range(size)
            ]
            assert torch.equal(torch.cat([b.ids[:, :-1] for b in slices], dim=1), whole.ids[:, :-1])
            assert torch.equal(torch.cat([b.ids[:, 1:] for b in slices], dim=1), whole.ids[:, 1:])


def test_an_eval_batch_unpacks_into_ids_and_windows() -> None:
    ids, windows = EvalBatch(torch.zeros(1, 3, dtype=torch.uint8), [("a", 5)], 0, 2)
    assert ids.shape == (1, 3)
    assert windows == [("a", 5)]


def test_bad_context(genome: Genome) -> None:
    for context in [(2, 2), (-1, 2), (0, 0)]:
        with pytest.raises(InputError, match=rf"rank {context[0]} of {context[1]} processes does not exist"):
            TrainWindows(genome, INTERVALS, seed=1, context=context)
        with pytest.raises(InputError, match=rf"rank {context[0]} of {context[1]} processes does not exist"):
            EvalWindows(genome, INTERVALS, 8, context=context)
    windows = TrainWindows(genome, INTERVALS, seed=1, context=(0, 8))
    windows.check(9)
    with pytest.raises(InputError, match="8 processes cannot divide windows of 7 inputs; lengthen the windows"):
        windows.check(8)
    with pytest.raises(InputError, match="8 processes cannot divide windows of 15 inputs, of which each needs 2"):
        EvalWindows(genome, INTERVALS, 15, context=(0, 8))
    with pytest.raises(InputError, match="least_inputs 0"):
        EvalWindows(genome, INTERVALS, 15, least_inputs=0)


def test_yeast_windows_are_drawn_fast(shared: Path, tmp_path: Path) -> None:
    genome = prepare(shared / "data" / "sacCer3.fa.gz", tmp_path / "yeast", progress=False)
    split = split_contigs(genome, valid=["chrXVI"], test=["chrM"])
    windows = TrainWindows(genome, split["train"], seed=1, reverse_complement=True)
    windows.check(512)
    times = []
    for _ in range(5):
        began = time.process_time()
        for i in range(600):
            windows[i, 512]
        times.append((time.process_time() - began) / 600)
    assert min(times) < 60e-6
    tiling = EvalWindows(genome, split["valid"], 1024)
    assert tiling.n_targets == genome.contig("chrXVI").length - 1
