"""bench.report.compare on made-up runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.common.run_file import read_run
from bench.report import compare


@pytest.fixture
def files(tmp_path: Path, made_up: SimpleNamespace) -> tuple[Path, Path]:
    """The same run twice."""
    records = [*made_up.headline_records(), *made_up.kernel_records()]
    return made_up.write_run(tmp_path / "a.json", records), made_up.write_run(tmp_path / "b.json", records)


def change(path: Path, wanted: dict[str, object], changes: dict[str, object]) -> int:
    """Changes the records that have the wanted fields; how many."""
    content = json.loads(path.read_text(encoding="utf-8"))
    found = [record for record in content["records"] if wanted.items() <= record.items()]
    for record in found:
        record.update({name: value(record[name]) if callable(value) else value for name, value in changes.items()})
    path.write_text(json.dumps(content), encoding="utf-8")
    return len(found)


OURS_AT_4K = {"implementation": "hyena_kernels", "length": 4096}


def run(files: tuple[Path, Path], *options: str) -> int:
    return compare.main([*map(str, files), *options])


def test_equal_runs_are_no_worse(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files) == 0
    out = capsys.readouterr().out
    assert out.endswith("nothing is worse by more than 1.1×\n")
    assert "warning" not in out
    assert "slower" not in out


@pytest.mark.parametrize(("field", "what"), [("seconds", "time"), ("peak_bytes", "memory")])
def test_more_than_the_threshold_fails(
    files: tuple[Path, Path], field: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change(files[1], OURS_AT_4K, {field: lambda value: value * 1.3}) == 1
    assert run(files) == 1
    out = capsys.readouterr().out
    assert "slower or larger by more than 1.1×: 1\n" in out
    assert f"  1.30×  {what}" in out
    assert "hyena_kernels: two_layer_model checkpointed, forward + backward, B = 1, D = 128, L = 4K, bfloat16" in out
    assert out.endswith("\nworse\n")
    assert run(files, "--threshold", "1.31") == 0
    # The other way round it is an improvement.
    assert run((files[1], files[0])) == 0
    assert "faster or smaller by more than 1.1×: 1\n" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["failed_check", "timed_out", "out_of_memory"])
def test_what_is_no_longer_measured_fails(
    files: tuple[Path, Path], status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(files[1], OURS_AT_4K, {"status": status, "seconds": None, "reason": "made up"})
    assert run(files) == 1
    assert f"bfloat16: {status}, made up" in capsys.readouterr().out
    assert run((files[1], files[0])) == 0
    assert "measured in B but not in A: 1\n" in capsys.readouterr().out


def test_what_is_absent_or_skipped_is_said_and_fails_nothing(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    change(files[1], OURS_AT_4K, {"status": "skipped", "seconds": None})
    content = json.loads(files[1].read_text(encoding="utf-8"))
    content["records"] = [record for record in content["records"] if record["length"] != 8192]
    files[1].write_text(json.dumps(content), encoding="utf-8")
    assert run(files) == 0
    assert "absent, skipped or timed out in B, which does not count as worse: 2\n" in capsys.readouterr().out


def test_other_implementations_do_not_count_unless_asked_for(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    change(files[1], {"implementation": "published"}, {"seconds": lambda value: 3 * value})
    assert run(files) == 0
    # Six of the published operator and four each of two attentions.
    assert "times of 14 records of other implementations, B over A: median 1.000" in capsys.readouterr().out
    assert run(files, "--all-implementations") == 1


@pytest.mark.parametrize(("seconds", "bad"), [(100.0, 0), (600.0, 1), (900.0, 1)])
def test_what_a_run_of_fewer_seconds_had_no_time_for_is_not_lost(
    tmp_path: Path, made_up: SimpleNamespace, capsys: pytest.CaptureFixture[str], seconds: float, bad: int
) -> None:
    rows = [made_up.record(), made_up.record(length=2048)]
    timed_out = [rows[0], made_up.record(length=2048, status="timed_out")]
    a = made_up.write_run(tmp_path / "a.json", rows, settings={"seconds": 600.0, "threads": 1})
    b = made_up.write_run(tmp_path / "b.json", timed_out, settings={"seconds": seconds, "threads": 2})
    assert run((a, b)) == bad
    out = capsys.readouterr().out
    assert ("timed out in B, which does not count as worse: 1" in out) == (not bad)
    assert "warning: threads is 1 in A and 2 in B" in out


def test_another_backend_is_compared_and_said(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"workload": "fftconv", "implementation": "hyena_kernels", "direction": "both", "length": 2048}
    change(files[1], wanted, {"backend": "cuda", "seconds": lambda value: 2 * value})
    assert run(files) == 1
    out = capsys.readouterr().out
    assert "  2.00×  time" in out
    assert "the backend changed: 1\n  hyena_kernels: fftconv gated" in out
    assert "triton → cuda" in out


def test_several_backends_are_kept_apart(
    tmp_path: Path, made_up: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def two(first: float, second: float) -> list[dict[str, object]]:
        times = {"triton": first, "cuda": second}
        return [made_up.record(backend=backend, seconds=seconds) for backend, seconds in times.items()]

    a = made_up.write_run(tmp_path / "a.json", two(1.0, 2.0))
    b = made_up.write_run(tmp_path / "b.json", two(2.0, 1.0))
    assert run((a, b)) == 1
    out = capsys.readouterr().out
    assert "  2.00×  time    1.00 s → 2.00 s  hyena_kernels (triton)" in out
    assert "  0.50×  time    2.00 s → 1.00 s  hyena_kernels (cuda)" in out


def test_another_machine_is_warned_of(
    tmp_path: Path, files: tuple[Path, Path], made_up: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = {"name": "Other GPU", "device": "cuda", "torch": "0.1", "driver_version": "1.2"}
    other = made_up.write_run(tmp_path / "c.json", made_up.headline_records(), machine=machine)
    assert run((files[0], other)) == 0
    out = capsys.readouterr().out
    assert "warning: name is Made-up GPU in A and Other GPU in B" in out
    assert "warning: torch is 0.0 in A and 0.1 in B" in out
    assert "driver_version" not in out


def test_a_run_that_was_cut_off_can_be_compared(
    tmp_path: Path, files: tuple[Path, Path], made_up: SimpleNamespace
) -> None:
    cut = made_up.write_run(tmp_path / "c.json", made_up.headline_records()[:5], finished=None)
    assert run((files[0], cut)) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not JSON"),
        ("[]", "is not a run of the suite"),
        ('{"records": []}', "is not a run of the suite"),
        ('{"format": 3, "records": []}', "has format 3, and this version reads 1 and 2"),
        ('{"format": 1, "records": [3]}', "record 0: is not an object"),
        ('{"format": 1, "records": [{}]}', "record 0: workload is None, a text is needed"),
        ('{"format": 1, "machine": 1, "records": []}', "machine is not an object"),
        ('{"format": 1, "records": []}', "no measurement in common"),
    ],
)
def test_bad_input_ends_with_one_line(
    tmp_path: Path, files: tuple[Path, Path], content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content, encoding="utf-8")
    assert run((files[0], bad)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "bad.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"implementation": "somebody"}, "no implementation is called 'somebody'"),
        ({"status": "fine"}, "status is 'fine', not one of measured"),
        ({"seconds": 0.0}, "is measured, but seconds is 0.0"),
        ({"seconds": "1"}, "seconds is '1', a number or null is needed"),
        ({"length": 0}, "length is 0, a count is needed"),
        ({"width": True}, "width is True, a count is needed"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, made_up: SimpleNamespace, fields: dict[str, object], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    good = made_up.record()
    path = made_up.write_run(tmp_path / "bad.json", [good, {**good, **fields}])
    assert run((path, path)) == 2
    assert f"record 1: {message}" in capsys.readouterr().err


def test_names_of_format_1_are_read(tmp_path: Path, made_up: SimpleNamespace) -> None:
    records = [made_up.record(status=status) for status in ("measured", "failed_check", "timed_out")]
    new = json.loads(made_up.write_run(tmp_path / "new.json", records).read_text(encoding="utf-8"))
    old = {**new, "format": 1, "ceilings": new["peak_rates"], "records": []}
    del old["peak_rates"]
    for record, status in zip(new["records"], ("measured", "refused", "stopped"), strict=True):
        renamed = {**record, "peer": record["implementation"], "status": status}
        del renamed["implementation"]
        old["records"].append(renamed)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old), encoding="utf-8")
    assert replace(read_run(path), path=tmp_path / "new.json") == read_run(tmp_path / "new.json")


@pytest.mark.parametrize("threshold", ["1", "0.9", "nan", "x"])
def test_a_wrong_threshold_is_an_error(
    files: tuple[Path, Path], threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(files, "--threshold", threshold)
    assert ended.value.code == 2
    assert "--threshold" in capsys.readouterr().err
