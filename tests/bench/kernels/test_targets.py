"""bench.kernels.targets on made-up runs, and a real one of one short case."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.common.run_file import OURS, read_run
from bench.kernels import targets, thread_scaling
from bench.suite import suite
from bench.suite.cases import Case, cases

GPU = {"name": "Made-up GPU", "capability": "9.0"}


def pair(made_up: SimpleNamespace, workload: str, length: int, ratio: float, **fields: Any) -> list[dict[str, Any]]:
    """Records of ours and of the published op sequence, whose time is ``ratio`` times ours."""
    place = {"workload": workload, "variant": "gated" if workload == "fftconv" else "", "length": length, **fields}
    ours = made_up.record(**{"seconds": 1e-3, **place})
    return [ours, made_up.record(**{**place, "implementation": "published", "seconds": 9.9, "ratio": ratio})]


def test_targets_are_compared_with_the_worst_record(made_up: SimpleNamespace, tmp_path: Path) -> None:
    records = [
        *pair(made_up, "fftconv", 1024, 4.5, direction="forward"),
        *pair(made_up, "fftconv", 1 << 20, 10.0, direction="forward", seconds=1.5e-3),
        *pair(made_up, "fftconv", 1 << 20, 10.0, direction="both", seconds=6e-3),
        made_up.record(workload="fftconv", variant="gated", length=2048, direction="forward", status="failed_check"),
        *pair(made_up, "hyena_operator", 1 << 20, 7.0, direction="both", peak_bytes=30),
    ]
    records[-1]["peak_bytes"] = 100
    path = made_up.write_run(tmp_path / "targets.json", records, machine=GPU)
    text = "\n".join(targets.lines(read_run(path)))
    assert "sequence, forward: at least 5.00×; NOT met, the worst of 2 is 4.50× at B = 1, D = 128, L = 1K" in text
    assert "sequence, forward + backward: at least 4.00×; met, the worst of 1 is 10.00×" in text
    assert "gated fftconv at L = 2^20, D = 128, forward: at most 2.000 ms; met, the worst of 1 is 1.500 ms" in text
    assert "gated fftconv at L = 2^20, D = 128, backward: at most 4.000 ms; NOT met, the worst of 1 is 4.500 ms" in text
    assert "FlashFFTConv, forward: at least 2.00×; not measured" in text
    assert "implicit_filter at L = 2^20, D = 128: at most 0.600 ms; not measured" in text
    assert "HyenaOperator against the published one, forward + backward: at least 6.00×; met" in text
    assert (
        "extra memory of HyenaOperator against the published one: at most 25%; NOT met, the worst of 1 is 30%" in text
    )
    assert "1 of 9 records have no time" in text


def test_a_cpu_has_targets_of_its_own(made_up: SimpleNamespace, tmp_path: Path) -> None:
    records = [
        *pair(made_up, "fftconv", 1000, 3.2, direction="forward"),
        *pair(made_up, "fftconv", 1024, 3.2, direction="forward"),
    ]
    text = "\n".join(targets.lines(read_run(made_up.write_run(tmp_path / "targets.json", records))))
    assert "gated fftconv, forward: at least 3.50×; NOT met, the worst of 1 is 3.20× at B = 1, D = 128, L = 1K" in text
    assert "gated fftconv at 1000, 4097 and 65537, forward: at least 3.00×; met" in text


@pytest.mark.parametrize(("device", "table"), [("cuda", targets._GPU), ("cpu", targets._CPU)])
def test_every_target_has_its_cases(device: str, table: tuple[targets._Target, ...]) -> None:
    found = cases(device, targets=True)
    for target in table:
        for implementation in (OURS, target.against):
            wanted = {"workload": target.workload, "direction": target.direction, "implementation": implementation}
            chosen = [case for case in found if (wanted | target.place).items() <= vars(case).items()]
            assert any(target.lengths(case.length) for case in chosen), target.what
    if device == "cuda":
        for length in (1024, 3000, 5000, 1_000_002, 1 << 20):
            for batch, width in ((1, 128), (4, 256)):
                assert Case("fftconv", "gated", OURS, "both", batch, width, length) in found
        assert Case("hyena_operator", "", OURS, "both", 4, 256, 1 << 20) in found


@pytest.mark.slow
def test_a_short_run_is_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "peak_rss", lambda *_: (0, 1))
    path = tmp_path / "run" / "targets.json"
    options = ["--device=cpu", f"--json={path}", f"--threads={torch.get_num_threads()}", "--max-length=1000"]
    assert targets.main([*options, "--workload=fftconv"]) == 0
    assert "gated fftconv at 1000, 4097 and 65537, forward: at least 3.00×;" in capsys.readouterr().out
    records = read_run(path).records
    assert [(each["batch"], each["width"], each["length"]) for each in records] == 4 * [(1, 256, 1000)]
    assert {each["status"] for each in records} == {"measured"}
    assert targets.main(["--from", str(path)]) == 0
    assert "3.00×;" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        targets.main(["--from", str(tmp_path / "absent.json")])
    assert ended.value.code == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err


def test_threads_are_compared_in_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    call = (lambda: seen.append(torch.get_num_threads()), lambda: None)
    monkeypatch.setattr(thread_scaling, "_workloads", lambda length: {"an op": call})
    monkeypatch.setattr(thread_scaling.os, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    (record,) = thread_scaling.measure(8, 2)
    assert seen == [2, 1, 2, 1, 2, 1]
    assert torch.get_num_threads() == before
    assert record["processors"] == 2
    assert {"all_ms", "one_ms", "ratio"} == set(record["forward"]) == set(record["both"])
    assert "an op, forward: 2 threads" in capsys.readouterr().out
