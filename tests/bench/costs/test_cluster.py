"""Bytes, seconds and memory of bench.costs.cluster: by hand, against what was measured, and against each other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.costs import cluster
from bench.costs.cluster import RESULTS, Rates, Shape, Step, exchange_seconds, limits, predict, saved, sent

LARGE = Shape()
MILLION = 1 << 20


@pytest.fixture(scope="module")
def rates() -> Rates:
    return Rates.committed()


def test_bytes_of_signals_and_halo_by_hand() -> None:
    # Half of the positions of half of the channels go over, and come back; two positions of three projections besides.
    shape = Shape(width=32, batch=2, item=8)
    there = sent((300, 300), 0, shape, backward=False)
    assert (there.signals, there.halo, there.filters) == (2 * 2 * 16 * 300 * 8, 2 * 3 * 32 * 2 * 8, 0)
    assert sent((300, 300), 0, shape, backward=True).halo == sent((300, 300), 1, shape, backward=False).halo == 0
    # large-1m on 8 ranks in 16 bits, in one direction of one layer.
    lengths = (MILLION // 8,) * 8
    assert sent(lengths, 3, LARGE, backward=False).signals == 2 * 256 * MILLION // 8 * 2 * 7 // 8 == 117_440_512
    assert sent(lengths, 3, LARGE, backward=False, filters="sequence").filters == 117_440_512


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("lengths", [(5, 700), (301, 3, 96, 200), (2, 2, 2, 2, 9)])
def test_what_ranks_send_is_what_ranks_need(order: int, lengths: tuple[int, ...]) -> None:
    shape = Shape(width=7, batch=3, order=order)
    for filters in ("channels", "sequence"):
        both = [
            [sent(lengths, rank, shape, backward=backward, filters=filters) for rank in range(len(lengths))]
            for backward in (False, True)
        ]
        # Every rank gets the channels that it lacks of each position, and gives as much back.
        moved = sum(
            part * (7 - channels) for part, channels in zip(lengths, cluster.split(7, len(lengths)), strict=True)
        )
        for way in both:
            assert sum(each.signals for each in way) == order * 3 * moved * shape.item
            assert sum(each.halo for each in way) == (len(lengths) - 1) * 2 * (order + 1) * 7 * 3 * shape.item
        forward, backward = (sum(each.filters for each in way) for way in both)
        assert forward == backward
        assert (forward == 0) == (filters == "channels")


def test_one_rank_sends_nothing_and_keeps_less(rates: Rates) -> None:
    assert sent((100,), 0, LARGE, backward=False, filters="sequence").total == 0
    alone, shared = saved((1000,), 0, LARGE), saved((500, 500), 0, LARGE)
    assert alone.signals == 1000 * 5 * 256 * 2
    assert alone.rows == 0
    assert alone.filters == 1000 * 256 * 4
    assert shared.signals == 500 * 9 * 256 * 2
    assert shared.rows == 1000 * 128 * 2
    assert shared.filters == 1000 * 128 * 4
    step = predict(MILLION, 1, LARGE, rates)
    assert step.wire == step.sent.total == step.parts["all-reduce"] == 0
    assert step.seconds(True) == step.seconds() == sum(step.parts.values())


def test_measured_constants_are_those_of_the_files(rates: Rates) -> None:
    backends = json.loads((RESULTS / cluster.BACKENDS).read_text())
    mixer = next(line["ms"] for line in backends if line.get("op") == "hyena_mixer" and line["L"] == MILLION)
    assert rates.triton_forward == mixer["triton_fwd_call"] / mixer["cuda_fwd_call"]
    records = json.loads((RESULTS / cluster.SUITE).read_text())["records"]
    seconds = {
        (record["workload"], record["direction"], record["length"]): record["seconds"]
        for record in records
        if record["peer"] == "hyena_kernels" and record["variant"] in ("", "plain")
    }
    assert rates.mixer_forward_ms == 1e3 * seconds["hyena_mixer", "forward", MILLION]
    filters = (seconds["implicit_filter", direction, MILLION] for direction in ("forward", "both"))
    assert 1e3 * (-next(filters) + next(filters)) == pytest.approx(rates.filter_backward_ms)
    # A GPU cannot write faster than it copies.
    assert 0.2 * rates.copy_gb_s < rates.around_gb_s < rates.copy_gb_s
    for each in Rates.fields():
        source = each.metadata["source"]
        assert source is None or (RESULTS / source).is_file(), each.name


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("length", [1 << 18, 1_000_002, MILLION])
def test_one_gpu_is_predicted_as_it_was_measured(rates: Rates, length: int, again: bool) -> None:
    records = json.loads((RESULTS / cluster.SUITE).read_text())["records"]
    variant = "checkpointed" if again else "plain"
    measured = next(
        record
        for record in records
        if (record["workload"], record["variant"], record["peer"], record["length"])
        == ("two_layer_model", variant, "hyena_kernels", length)
    )
    step = predict(length, 1, Shape(128, 2), rates, recompute=again)
    assert step.seconds() == pytest.approx(measured["seconds"], rel=0.17)
    beyond = step.peak - step.memory["weights and AdamW"] - step.memory["positions"]
    assert beyond == pytest.approx(measured["peak_bytes"], rel=0.06)


def test_a_given_constant_replaces_a_measured_one(rates: Rates) -> None:
    slower = Rates.committed(network_gb_s=22.5, mixer_forward_ms=None)
    assert replace(slower, network_gb_s=45.0) == rates
    two = [exchange_seconds(1e9, 16, each) - each.latency_us / 1e6 for each in (slower, rates)]
    assert two[0] == pytest.approx(2 * two[1])
    # Within a node the network does not count. Beyond it, 8 of 15 parts leave the node.
    assert exchange_seconds(1e9, 8, slower) == exchange_seconds(1e9, 8, rates) == pytest.approx(1 / 350 + 2e-5)
    assert two[1] == pytest.approx(8 / 15 / 45)
    # Slower products leave less of the measured step to what is around them, so that the whole stays.
    step = predict(MILLION, 1, Shape(128, 2), Rates.committed(dense_tflop_s=200.0))
    assert step.seconds() == pytest.approx(predict(MILLION, 1, Shape(128, 2), rates).seconds())


def test_layouts(rates: Rates) -> None:
    steps = {gpus: predict(1 << 24, gpus, LARGE, rates) for gpus in (1, 2, 8, 64, 256)}
    alone = steps[1].seconds()
    efficiency = [alone / (gpus * step.seconds()) for gpus, step in steps.items()]
    assert efficiency == sorted(efficiency, reverse=True)
    assert efficiency[0] == 1
    assert all(step.seconds(True) <= step.seconds() for step in steps.values())
    assert steps[64].peak < steps[8].peak < steps[2].peak
    # Sliced evenly, each of 8 ranks has an eighth of all that is computed by position.
    for name in ("dense", "around"):
        assert steps[8].parts[name] == pytest.approx(steps[1].parts[name] / 8)
    # The faster way of making the filters is taken.
    ways = [predict(1 << 24, 8, LARGE, rates, filters=each) for each in ("channels", "sequence")]
    assert steps[8] == min(ways, key=Step.seconds)
    assert ways[0].sent.filters == 0
    assert ways[0].parts["filter"] > ways[1].parts["filter"]
    # 3 channels on 4 ranks: the first three have one each, so that a fourth helps with the rest alone.
    three, four = (predict(1 << 22, gpus, Shape(3, 1), rates, filters="channels") for gpus in (3, 4))
    assert four.parts["mixer"] == pytest.approx(three.parts["mixer"], rel=0.01)


@pytest.mark.parametrize(
    ("length", "kernels", "kernel"),
    [
        (2_621_440, "today", "cuda"),
        (2_621_441, "today", "triton"),
        (1 << 24, "today", "triton"),
        ((1 << 24) + 1, "today", "cufft"),
        (2_621_440, "blocks", "cuda"),
        (10**9, "blocks", "blocks"),
    ],
)
def test_kernels_by_length(rates: Rates, length: int, kernels: str, kernel: str) -> None:
    assert predict(length, 8, LARGE, rates, kernels=kernels).kernel == kernel


def test_what_is_in_the_way(rates: Rates) -> None:
    def found(length: int, gpus: int, **how: str) -> str:
        return "; ".join(limits(predict(length, gpus, LARGE, rates, **how), LARGE, rates))

    assert found(MILLION, 8) == ""
    assert "Python" in found(MILLION, 256)
    assert "CUDA C++" in found(1 << 24, 8)
    assert "Triton" not in found(1 << 24, 8)
    billion = found(10**9, 256)
    for word in ("Triton", "memory is too small", "2^31 elements", "features of all positions"):
        assert word in billion
    assert "features" not in found(10**9, 256, positions="own")
    assert "2^31 points" in found(1 << 30, 256)
    assert "2^31 points" not in billion
    alone = predict(MILLION, 8, LARGE, rates, positions="own").memory
    assert 8 * alone["positions"] == predict(MILLION, 8, LARGE, rates).memory["positions"] == 24 * MILLION


def test_what_cannot_be_predicted_is_refused(rates: Rates) -> None:
    with pytest.raises(ValueError, match="choose one of today, blocks"):
        predict(MILLION, 8, LARGE, rates, kernels="fast")
    with pytest.raises(ValueError, match="each needs 2 positions"):
        predict(9, 8, LARGE, rates)
    with pytest.raises(ValueError, match="order is 3"):
        predict(MILLION, 8, Shape(order=3), rates)
