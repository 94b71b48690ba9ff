"""bench.kernels.step_profile: where ops belong, and a whole step on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from bench.kernels import step_profile
from bench.kernels.step_profile import Event, events_of, kind_of

NODE = "autograd::engine::evaluate_function: "
ROWS = [(1, 4096, 128), (128,)]


@pytest.mark.parametrize(
    ("chain", "shapes", "kind"),
    [
        (["aten::mm"], [(4096, 128), (128, 512)], "GEMM"),
        (["aten::addmm", "aten::linear"], [(512,), (4096, 128), (128, 512)], "GEMM"),
        (["aten::mm"], [(16, 4096), (4096, 128)], "head, loss, embedding"),
        (["aten::mm", "hyena_kernels::implicit_filter_bwd"], [(64, 4096), (4096, 64)], "filter"),
        (["aten::copy_", "aten::_to_copy", "aten::to"], ROWS, "casts"),
        (["aten::copy_", "aten::_to_copy", "aten::to"], [(1, 4096, 16)], "head, loss, embedding"),
        (["aten::copy_", "aten::clone"], ROWS, "other"),
        (["aten::add"], ROWS, "adds"),
        (["aten::add_", "torch::autograd::AccumulateGrad"], ROWS, "adds"),
        (["aten::add_", "Optimizer.step#AdamW.step"], ROWS, "optimizer"),
        (["aten::fill_", "aten::native_layer_norm_backward"], ROWS, "norm"),
        (["hyena_kernels::add_layer_norm_fwd"], ROWS, "norm"),
        (["hyena_kernels_ext::hyena_mixer_fwd", "hyena_kernels::hyena_mixer_fwd"], ROWS, "mixer"),
        (["aten::_scaled_dot_product_flash_attention"], ROWS, "mixer"),
        (["aten::gelu_backward"], ROWS, "GELU"),
        (["aten::embedding_dense_backward"], ROWS, "head, loss, embedding"),
        # The gradient of a bias, and a sum elsewhere.
        (["aten::sum", "AddmmBackward0", f"{NODE}AddmmBackward0"], ROWS, "GEMM"),
        (["aten::sum", "MulBackward0", f"{NODE}MulBackward0"], ROWS, "other"),
        # A block that is computed again within a node of autograd.
        (["aten::add", f"{NODE}NativeLayerNormBackward0"], ROWS, "adds"),
        (["aten::gelu", f"{NODE}AddmmBackward0"], ROWS, "GELU"),
        (["aten::mul"], ROWS, "other"),
    ],
)
def test_ops_have_a_kind(chain: list[str], shapes: list[tuple[int, ...]], kind: str) -> None:
    assert kind_of(chain, shapes) == kind


def recorded(name: str, parent: object = None, **fields: object) -> SimpleNamespace:
    made = {"device_type": DeviceType.CPU, "cpu_parent": parent, "input_shapes": [[4, 128]], "kernels": []}
    made |= {"is_user_annotation": False, "self_cpu_time_total": 1.0}
    return SimpleNamespace(name=name, **{**made, **fields})


def test_kernels_belong_to_the_op_that_launched_them_and_none_is_lost() -> None:
    outer = recorded("hyena_kernels::hyena_mixer_fwd")
    kernel = SimpleNamespace(name="rows_kernel", duration=30.0)
    span = SimpleNamespace(elapsed_us=lambda: 25.0)
    on_device = {"device_type": DeviceType.CUDA, "time_range": span}
    found = events_of(
        [
            outer,
            recorded("aten::mm", outer, kernels=[kernel]),
            *(recorded("a kernel", **on_device) for _ in range(2)),
            recorded("Optimizer.step#AdamW.step", **{**on_device, "is_user_annotation": True}),
        ],
        on_gpu=True,
    )
    mixed = Event(("aten::mm", "hyena_kernels::hyena_mixer_fwd"), ((4, 128),), pytest.approx(30e-6), "rows_kernel")
    assert found[0] == mixed
    # 50 µs of kernels in all, of which 30 are known.
    assert found[1].chain == ("launched by no op",)
    assert found[1].seconds == pytest.approx(20e-6)
    kinds = step_profile.by_kind(found)
    assert kinds["mixer"] == {"aten::mm: rows_kernel": {"count": 1, "seconds": pytest.approx(30e-6)}}
    shown = step_profile.table(kinds, 80e-6, on_gpu=True)
    assert "| mixer | 0.030 | 60.0% | 1 | aten::mm: rows_kernel |" in shown
    assert "The GPU waits for 30.0 µs of it" in shown


@pytest.mark.slow
def test_a_step_on_a_cpu_is_divided_into_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        path = tmp_path / "profile.json"
        arguments = ["--device=cpu", "--length=64", "--dtype=bfloat16", f"--json={path}"]
        assert step_profile.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    made = json.loads(path.read_text(encoding="utf-8"))
    assert tuple(made["kinds"]) == step_profile.KINDS
    counts = {
        kind: {name: entry["count"] for name, entry in entries.items()} for kind, entries in made["kinds"].items()
    }
    assert all(counts.values())
    # Two blocks with two norms, twice by checkpointing, and the last; each once backward.
    norms = {name: count for name, count in counts["norm"].items() if name.startswith("hyena_kernels::")}
    assert norms == {
        "hyena_kernels::layer_norm_fwd": 5,
        "hyena_kernels::add_layer_norm_fwd": 4,
        "hyena_kernels::layer_norm_bwd": 3,
        "hyena_kernels::add_layer_norm_bwd": 2,
    }
    assert counts["GELU"]["aten::gelu"] == 4
    assert counts["GELU"]["aten::gelu_backward"] == 2
    # Four products in a block, forward twice. Only the head's are elsewhere.
    assert counts["GEMM"]["aten::addmm"] == 16
    assert counts["GEMM"]["aten::mm"] == 16
    head = counts["head, loss, embedding"]
    for op in ("embedding", "linear_cross_entropy"):
        assert head[f"hyena_kernels::{op}_fwd"] == head[f"hyena_kernels::{op}_bwd"] == 1
    assert counts["mixer"]["hyena_kernels::hyena_mixer_fwd"] == 4
    assert counts["filter"]["hyena_kernels::implicit_filter_bwd"] == 2
    assert counts["filter"]["hyena_kernels::implicit_filter_fwd"] == 2
    assert made["step_seconds"] > 0
    shown = capsys.readouterr().out
    assert shown.startswith("One step of the 2-layer model, L = 64, D = 128, bfloat16, ")
    assert "A step without the profiler takes " in shown


def test_a_wrong_length_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        step_profile.main(["--device=cpu", "--length=0"])
    assert ended.value.code == 2
    assert "--length 0: give a length of 1 or more" in capsys.readouterr().err
