"""Counts of bench.costs.roofline against tensors, hand counts and real models, and what follows from peak_rates."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.costs import costs, roofline
from bench.costs.costs import Cost, Model, Stage
from bench.costs.roofline import cost, predict, stage_seconds
from hyena_kernels.testing import fftconv_inputs, hyena_mixer_inputs, implicit_filter_inputs, short_conv_inputs
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

B, D, L = 2, 3, 40
SMALL: dict[str, Any] = {"batch": B, "width": D, "length": L, "itemsize": 4}


def nbytes(tensors: dict[str, Any], *names: str) -> int:
    return sum(tensors[name].nbytes for name in names)


@pytest.mark.parametrize(("variant", "gates"), [("plain", ()), ("gated", ("pre_gate", "post_gate"))])
def test_fftconv_counts_its_tensors(variant: str, gates: tuple[str, ...]) -> None:
    tensors = fftconv_inputs(B, D, L, L)
    forward = cost("fftconv", variant, "forward", **SMALL).bytes
    # The result is as large as u.
    assert forward == nbytes(tensors, "u", "u", "k", *gates)
    both = cost("fftconv", variant, "both", **SMALL).bytes
    # dy, u, k and the gates in, gradients of the last three out.
    assert both - forward == nbytes(tensors, "u", "u", "k", *gates) + nbytes(tensors, "u", "k", *gates)


def test_short_conv_counts_its_signals() -> None:
    tensors = short_conv_inputs(B, D, L)
    assert cost("short_conv", "", "forward", **SMALL).bytes == 2 * tensors["x"].nbytes
    assert cost("short_conv", "", "both", **SMALL).bytes == 5 * tensors["x"].nbytes


def test_implicit_filter_counts_its_tensors_and_products() -> None:
    tensors = implicit_filter_inputs(D, L)
    found = cost("implicit_filter", "", "forward", **SMALL)
    filters = 4 * D * L
    assert found.bytes == nbytes(tensors, "z", "t") + filters
    weights = tensors["w_in"].numel() + tensors["w_hidden"].numel() + tensors["w_out"].numel()
    (stage,) = found.stages
    assert stage.exact == 2 * L * weights
    assert cost("implicit_filter", "", "both", **SMALL).bytes == 2 * found.bytes


def test_mixer_counts_its_tensors() -> None:
    tensors = hyena_mixer_inputs(B, L, D)
    x, k, y = tensors["x"].nbytes, tensors["k"].nbytes, 4 * B * L * D
    assert cost("hyena_mixer", "", "forward", **SMALL).bytes == x + k + y
    assert cost("hyena_mixer", "", "both", **SMALL).bytes == (x + k + y) + (y + x + k + x + k)


def test_operator_is_its_parts() -> None:
    forward = cost("hyena_operator", "", "forward", **SMALL)
    weights = 4 * (3 * D * D + D * D)
    parts = [cost(name, "", "forward", **SMALL).bytes for name in ("hyena_mixer", "implicit_filter")]
    row = 4 * B * L * D
    assert forward.bytes == sum(parts) + (row + 3 * row) + (row + row) + weights
    products = sum(stage.products for stage in forward.stages)
    assert products == 2 * B * L * (3 * D * D + D * D)
    both = cost("hyena_operator", "", "both", **SMALL)
    assert sum(stage.products for stage in both.stages) == 3 * products


def test_launches_of_the_triton_kernels() -> None:
    million: dict[str, Any] = {"batch": 1, "width": 128, "length": 1 << 20, "itemsize": 2, "backend": "triton"}
    points = 128 << 20
    forward = cost("fftconv", "gated", "forward", **million).bytes
    # Columns of signal and filter in and out, rows, columns back, a point each.
    assert forward == points * ((4 + 8) + (4 + 8) + (16 + 8) + (8 + 2 + 2))
    both = cost("fftconv", "gated", "both", **million).bytes
    # The sum for the skip reads dy, u and the gates once more.
    assert both - forward == points * (2 * (4 + 8) + (4 + 8) + (24 + 24) + (8 + 4 + 4) + (8 + 2 + 2) + (8 + 4) + 8)
    # Without gates: u and dy transformed, one inverse each of du and dk.
    both = cost("fftconv", "plain", "both", **million).bytes
    forward = cost("fftconv", "plain", "forward", **million).bytes
    assert both - forward == points * (2 * (2 + 8) + (4 + 8) + (16 + 8) + (8 + 8) + (8 + 2) + (8 + 4) + 4)
    # docs/kernels/triton.md: project 1.88 GB and merge 0.54 GB, besides the convolution without its gate in front.
    mixer = cost("hyena_mixer", "", "forward", **million).bytes
    assert mixer == points * ((6 + 8) + (4 + 8) + (4 + 8) + (16 + 8) + (8 + 4 + 2) + 4)
    # Project again, transpose dy, the convolution with dy in 16 bits, and the gradients of gates and product.
    mixer = cost("hyena_mixer", "", "both", **million).bytes - mixer
    factors = 2 + 4 + 4
    backward = (factors + 16) + (4 + 8) + (24 + 24) + (8 + 4) + (8 + 4 + 2) + (8 + 4) + factors
    assert mixer == points * ((6 + 8) + 4 + backward + (8 + 12))
    # and 4.6 GB of the filter's backward pass: 13 planes of 64, the filters' gradient twice.
    filters = (
        cost("implicit_filter", "", "both", **million).bytes - cost("implicit_filter", "", "forward", **million).bytes
    )
    assert filters == 4 * (1 << 20) * (13 * 64 + 2 * (128 + 5 + 1))


def test_several_programs_of_one_pass_add_up_their_sums() -> None:
    # 4 rows of 1000 points of 2 channels: one program per row, because fewer would not fill a device.
    shape: dict[str, Any] = {"batch": 4, "width": 2, "length": 1000, "itemsize": 2, "backend": "triton"}
    forward, both = (cost("fftconv", "gated", direction, **shape).bytes for direction in ("forward", "both"))
    assert forward == 2 * 1000 * (4 * 4 * 2 + 4 * 4)
    assert both - forward == 2 * 1000 * (4 * 7 * 2 + 4 * 4 + 4 * 4 + (4 * 4 + 4) + 2 * 4 + 4 * 4 * 2)


@pytest.mark.parametrize(
    ("batch", "width", "programs"),
    # A program takes as many rows as divide the batch, at most 8, and at most one for each 256 signals.
    [(1, 4096, 1), (8, 32, 8), (8, 64, 4), (8, 256, 1), (16, 1024, 2), (6, 128, 2), (7, 128, 7), (7, 4096, 1)],
)
def test_rows_share_a_program_where_there_are_enough(batch: int, width: int, programs: int) -> None:
    found = cost("fftconv", "plain", "forward", batch=batch, width=width, length=1000, itemsize=2, backend="triton")
    assert found.bytes == width * 1000 * (batch * 2 * 2 + programs * 4)
    everywhere = cost("fftconv", "plain", "forward", batch=batch, width=width, length=1000, itemsize=2)
    assert everywhere.bytes == width * 1000 * (batch * 2 * 2 + 4)


def test_one_program_per_row_reads_its_filter_once() -> None:
    found = cost("fftconv", "gated", "forward", batch=3, width=1, length=3000, itemsize=4, backend="triton")
    assert found.bytes == 3 * (4 * 4 * 3000 + 4 * 3000)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the constant is in a file that imports triton")
def test_rows_of_the_filter_kernels() -> None:
    from hyena_kernels.backends.triton.implicit_filter import CHANNELS

    assert costs.FILTER_ROWS == CHANNELS


def test_a_transform_has_the_conventional_flops() -> None:
    (stage,) = cost("fftconv", "plain", "forward", batch=1, width=1, length=1024, itemsize=4).stages
    # Signal, filter, inverse; the product of two complex spectra.
    assert stage.vector == 3 * 5 * 1024 * 10 + 6 * 1024
    assert stage.products == stage.exact == 0


@pytest.mark.parametrize(("name", "order"), [("tiny-1k", 2), ("small-32k", 2), ("tiny-1k-d256", 3)])
def test_parameters_are_those_of_the_model(name: str, order: int) -> None:
    config = HyenaDNAConfig.named(name, hyena_order=order, n_layer=2)
    with torch.device("meta"):
        model = HyenaDNAForCausalLM(config)
    counts = Model(1, config.d_model, 8, 4, order, 2, False, roofline.OURS, False)
    assert config.padded_vocab_size == costs.VOCABULARY
    assert counts.parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_model_products_are_counted_from_its_linear_layers() -> None:
    config = HyenaDNAConfig.named("tiny-1k")
    model = HyenaDNAForCausalLM(config)
    linear = [module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    filters = {id(module) for layer in model.hyena.backbone.layers for module in layer.mixer.filter_fn.modules()}
    weights = sum(module.weight.numel() for module in linear if id(module) not in filters)
    forward = cost("hyenadna", "tiny-1k", "forward", batch=2, width=128, length=100, itemsize=4)
    assert sum(stage.products for stage in forward.stages) == 2 * 2 * 100 * weights
    both = cost("hyenadna", "tiny-1k", "both", batch=2, width=128, length=100, itemsize=4)
    assert sum(stage.products for stage in both.stages) == 3 * 2 * 2 * 100 * weights


def test_checkpointing_runs_the_blocks_once_more() -> None:
    shape: dict[str, Any] = {"batch": 1, "width": 128, "length": 4096, "itemsize": 2}
    plain, checkpointed = (cost("two_layer_model", name, "both", **shape) for name in ("plain", "checkpointed"))
    forward = cost("two_layer_model", "plain", "forward", **shape)
    # The embedding; the last norm with its cast, and the head.
    ends = sum(stage.bytes for stage in (forward.stages[0], *forward.stages[-3:]))
    assert checkpointed.bytes - plain.bytes == forward.bytes - ends
    assert cost("two_layer_model", "checkpointed", "forward", **shape) == forward


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("fused", [False, True])
def test_norms_and_additions_move_what_their_tensors_hold(itemsize: int, fused: bool) -> None:
    def per_element(direction: str) -> float:
        found = cost("two_layer_model", "plain", direction, fused_norm=fused, **{**SMALL, "itemsize": itemsize})
        names = ("LayerNorm", "residual")
        return sum(stage.bytes for stage in found.stages if any(name in stage.name for name in names)) / (B * D * L)

    wide = itemsize == 4
    if fused:
        # A block: norm, addition with norm, addition. Then the last norm.
        forward = 2 * ((4 + itemsize) + (8 + 2 * itemsize) + (8 + itemsize)) + (4 + itemsize)
        # The copy of the gradient for the branch; residual, dy and two gradients, and a copy; the same without one.
        backward = 2 * ((4 + itemsize) + (12 + 2 * itemsize) + (12 + itemsize)) + (8 + itemsize)
    else:
        # Five norms of 8 bytes, each with a cast of 6 under autocast; four additions.
        forward = 5 * (8 if wide else 8 + 6) + 4 * (8 + itemsize)
        backward = 5 * (12 if wide else 12 + 6) + 4 * (4 + itemsize + 12)
    assert per_element("forward") == forward
    assert per_element("both") == forward + backward


def test_training_step_adds_the_optimizer() -> None:
    shape: dict[str, Any] = {"batch": 1, "width": 128, "length": 1024, "itemsize": 4}
    step, both = (cost(name, "tiny-1k", "both", **shape) for name in ("training_step", "hyenadna"))
    parameters = sum(
        parameter.numel() for parameter in HyenaDNAForCausalLM(HyenaDNAConfig.named("tiny-1k")).parameters()
    )
    # Weight, gradient and two moments read; weight and moments written.
    assert step.bytes - both.bytes == 7 * 4 * parameters
    assert step.stages[:-1] == both.stages


def test_attention_computes_the_causal_half_of_the_scores() -> None:
    length, width = 6, 64
    pairs = int(torch.ones(length, length).tril().sum())
    forward = costs.attention(2, width, length, 4, False)
    assert forward.products == 2 * (2 * 2 * pairs * width)
    assert forward.bytes == 4 * torch.empty(2, length, width).nbytes
    backward = costs.attention(2, width, length, 4, True)
    assert backward.products == 5 * (2 * 2 * pairs * width)
    assert backward.bytes == 2 * forward.bytes
    scores = costs.attention(2, width, length, 4, False, scores=True)
    assert scores.bytes - forward.bytes == 6 * torch.empty(2, 1, length, length).nbytes


def test_transformer_of_the_same_width_and_depth() -> None:
    shape: dict[str, Any] = {"batch": 1, "width": 128, "length": 1 << 20, "itemsize": 2}
    transformer = cost("two_layer_model", "checkpointed", "both", implementation="sdpa_flash", **shape)
    ours = cost("two_layer_model", "checkpointed", "both", **shape)
    # The paper's count, 4 L² D a layer forward and half of it causal; 2.5 times that backward; forward twice.
    scores = 2 * (2 + 2 + 5) * (1 << 40) * 128
    assert sum(stage.products for stage in transformer.stages) == pytest.approx(scores, rel=0.01)
    assert ours.flops < transformer.flops / 100
    assert (
        cost("two_layer_model", "checkpointed", "both", implementation="sdpa_math", **shape).bytes
        > 100 * transformer.bytes
    )


def test_a_stage_takes_what_binds_it() -> None:
    peak_rates = {"copy_bytes_per_s": 10.0, "matmul_flops_per_s": 600.0, "float32_flops_per_s": 100.0}
    assert stage_seconds(Stage("bytes", 100, products=600, vector=100), peak_rates) == 10
    assert stage_seconds(Stage("products", 1, products=1200), peak_rates) == 2
    assert stage_seconds(Stage("vector", 1, vector=300), peak_rates) == 3
    # Three products in 16 bits are faster there than one in float32.
    assert stage_seconds(Stage("exact", 1, exact=800), peak_rates) == 4
    cost = Cost((Stage("a", 20), Stage("b", 1, products=1200)))
    assert predict(cost, peak_rates) == 4
    assert (cost.bytes, cost.flops) == (21, 1200)


def test_what_is_not_known_of_a_machine_takes_no_time() -> None:
    stage = Stage("all", 100, products=10**9, exact=10**9, vector=10**9)
    assert predict(Cost((stage,)), {"copy_bytes_per_s": 10.0, "matmul_flops_per_s": None}) == 10
    with pytest.raises(ValueError, match="copy_bytes_per_s"):
        predict(Cost((stage,)), {"copy_bytes_per_s": None})


def test_peak_rates_are_measured() -> None:
    found = roofline.measure_peak_rates("cpu", torch.float32)
    assert set(found) == {"copy_bytes_per_s", "matmul_flops_per_s", "float32_flops_per_s"}
    # Any machine that runs this copies more than 100 MB a second and less than 10 TB.
    assert 1e8 < found["copy_bytes_per_s"] < 1e13
    assert 1e8 < found["matmul_flops_per_s"] < 1e16
    assert found["matmul_flops_per_s"] == found["float32_flops_per_s"]


def test_the_matrix_rate_is_that_of_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied = []
    right = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        multiplied.append((a, b))
        return right(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    for dtype in (torch.float32, torch.bfloat16):
        roofline._product_rate("cpu", dtype, size=64, rounds=1)
        a, b = (each.float() for each in multiplied[-1])
        assert multiplied[-1][0].dtype == dtype
        for each in (a, b):
            assert 0.9 < each.std() < 1.1
        assert not torch.equal(a, b)


@pytest.mark.parametrize("workload", roofline.WORKLOADS)
@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("backend", ["triton", None])
@pytest.mark.parametrize("length", [1, 1000, 6145, 1_000_002, 1 << 22])
def test_every_workload_has_a_cost(workload: str, direction: str, backend: str | None, length: int) -> None:
    variant = {"fftconv": "gated", "two_layer_model": "checkpointed", "hyenadna": "large-1m"}.get(workload, "tiny-1k")
    found = cost(workload, variant, direction, batch=1, width=128, length=length, itemsize=2, backend=backend)
    assert found.bytes > 0
    assert all(stage.bytes > 0 and stage.flops >= 0 for stage in found.stages)
    floor = cost(workload, variant, direction, batch=1, width=128, length=length, itemsize=2)
    assert floor.bytes <= found.bytes
    assert math.isclose(sum(stage.flops for stage in found.stages), found.flops)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fft", "", "both"), "no workload is called 'fft'"),
        (("fftconv", "gated", "backward"), "choose forward or both"),
        (("fftconv", "", "both"), "choose gated or plain"),
        (("hyenadna", "huge", "both"), "no published configuration is called 'huge'"),
    ],
)
def test_unknown_arguments_are_errors(arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(*arguments, batch=1, width=8, length=8, itemsize=4)


def test_implementations_without_a_cost_are_errors() -> None:
    with pytest.raises(ValueError, match="the cost of 'published' is not known"):
        cost("fftconv", "gated", "both", implementation="published", **SMALL)
    with pytest.raises(ValueError, match="attention is part of models only"):
        cost("fftconv", "gated", "both", implementation="sdpa_flash", **SMALL)


def test_command_prints_the_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "suite.json"
    peak_rates = {"copy_bytes_per_s": 1e9, "matmul_flops_per_s": None}
    run.write_text(json.dumps({"format": 2, "peak_rates": peak_rates, "records": []}), encoding="utf-8")
    arguments = ["--workload", "fftconv", "--direction", "forward", "--width", "10", "--length", "100000"]
    assert roofline.main([*arguments, "--run", str(run)]) == 0
    # 10 channels of u, two gates, k and y: 20 MB, 20 ms.
    assert "| fftconv | 1 | 0.02 | " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        roofline.main([*arguments, "--run", str(tmp_path / "absent.json")])
    assert ended.value.code == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err
