"""bench.report.report on made-up runs, and the committed report compared with the committed runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib
import pytest

from bench.common.format import bytes_text, length_text, seconds_text
from bench.common.machine import ROOT
from bench.common.run_file import BadRun, Run, read_run
from bench.report import curves, plots, report
from tests.bench.drawings import assert_same_drawing

README = ROOT / "README.md"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(tmp_path: Path, made_up: SimpleNamespace) -> Run:
    """The headline, a kernel, and an op whose check failed."""
    failed = made_up.record(
        workload="hyena_operator", variant="", status="failed_check", error=0.3, reason="y is wrong | by far"
    )
    records = [*made_up.headline_records(), *made_up.kernel_records(), failed]
    return read_run(made_up.write_run(tmp_path / "made-up-gpu" / "suite.json", records))


def cells(text: str, start: str) -> list[str]:
    """Cells of the first line of a table that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


# Committed -----------------------------------------------------------------------------------------------------------


def committed_runs() -> list[Run]:
    return [read_run(path) for path in report.committed()]


@pytest.mark.slow
def test_committed_report_is_what_the_committed_runs_give() -> None:
    """Byte for byte; plots to a millionth of a point, where this matplotlib is the one that wrote them."""
    runs = committed_runs()
    stored = {path.name: path.read_bytes() for path in report.OUT.glob("*")} if report.OUT.exists() else {}
    if not runs:
        assert not stored, "a report without runs"
        return
    made = report.report(runs)
    assert stored.keys() == made.keys(), "remove the folder and run: python -m bench.report --readme README.md"
    assert stored["report.md"] == made["report.md"].encode()
    others = set()
    for name in made.keys() - {"report.md"}:
        version = plots.matplotlib_of(stored[name].decode())
        assert version is not None, name
        if version == matplotlib.__version__:
            assert_same_drawing(stored[name].decode(), made[name])
        else:
            others.add(version)
    if others:
        pytest.skip(
            f"tables are equal; plots were drawn by matplotlib {', '.join(others)}, not {matplotlib.__version__}"
        )


def test_readme_has_the_headline_of_the_committed_runs() -> None:
    text = README.read_text(encoding="utf-8")
    block = report.readme_block(committed_runs(), report.OUT.relative_to(ROOT).as_posix())
    assert text == report.filled(text, block), "run: python -m bench.report --readme README.md"


@pytest.mark.parametrize(
    ("isa", "words"), [("avx512", "with AVX-512"), ("avx2", "with AVX2"), ("portable", "with the")]
)
def test_readme_has_the_ratios_of_the_committed_convolutions(isa: str, words: str) -> None:
    """Those at powers of two, of every machine."""
    files = list(report.RESULTS.glob(f"*/cpp_aims_{isa}_fftconv.json"))
    ratios = [
        record[direction]["ratio"]
        for file in files
        for record in json.loads(file.read_text())["records"]
        if record["shape"][2] & (record["shape"][2] - 1) == 0
        for direction in ("forward", "both")
    ]
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert re.search(
        rf"{min(ratios):.1f} to {max(ratios):.1f} times( as fast as the published op sequence)? {words}", text
    )


# Headline ------------------------------------------------------------------------------------------------------------


def test_headline_table(run: Run) -> None:
    text = report.section(run, [])
    measured = cells(text, "| 8K | 8.19 ms |")
    assert measured[2:6] == ["23.2 ms, SDPA flash", "2.83×", "41.0 ms", "5.00×"]
    assert measured[6:] == ["7.81 MiB", "15.6 MiB", "31.2 MiB"]
    assert "hyena_kernels is faster than the fastest attention from L ≈ 2,900 on." in text


def test_both_launches_of_the_headline_are_shown_and_told_apart(made_up: SimpleNamespace, tmp_path: Path) -> None:
    calls = made_up.headline_records()
    graphs = [
        made_up.record(length=1024, implementation=name, seconds=seconds, launch="graph", peak_bytes=None)
        for name, seconds in (("hyena_kernels", 1e-4), ("sdpa_cudnn", 3e-4))
    ]
    path = tmp_path / "suite.json"
    for machine, words in (({"capability": "9.0"}, "there. CUDA graphs were not measured.\n"), ({}, "there.\n")):
        alone = report.section(read_run(made_up.write_run(path, calls, machine=machine)), [])
        line = (
            "Both sides are called from Python, kernel by kernel. Each ratio is against the attention that is named in "
        )
        assert f"{line}its row, the fastest {words}" in alone
    assert "as a CUDA graph" not in alone
    run = read_run(made_up.write_run(path, [*calls, *graphs], machine={"capability": "9.0"}))
    found = curves.headline(run)
    assert found is not None
    assert found.launch == "calls"
    assert found.measured("hyena_kernels")[1024]["seconds"] > 1e-3
    text = report.section(run, [])
    assert "CUDA graphs were not measured." not in text
    title = "### The 2-layer model: two_layer_model checkpointed, forward + backward, B = 1, D = 128, bfloat16"
    before, _, after = text.partition(f"{title}, as a CUDA graph\n")
    assert cells(before.partition(title)[2], "| 1K |")[1:4] == ["1.02 ms", "362 µs, SDPA flash", "0.35×"]
    assert "Both sides replay one CUDA graph of forward and backward." in after
    assert cells(after, "| 1K |")[1:4] == ["100 µs", "300 µs, SDPA cuDNN", "3.00×"]
    block = report.readme_block([run], "report")
    assert "The same as CUDA graphs:\n\n| L |" in block
    assert "| 1K | 100 µs | 300 µs, SDPA cuDNN | 3.00× |" in block


def test_older_files_do_not_say_how_each_record_was_launched(made_up: SimpleNamespace, tmp_path: Path) -> None:
    records = [*made_up.headline_records()[:1], *made_up.kernel_records()[:1]]
    path = tmp_path / "suite.json"
    for settings, launches in (({"launch": "graph"}, ["calls", "graph"]), ({}, ["calls", "calls"])):
        found = read_run(made_up.write_run(path, records, settings=settings)).records
        assert [record["launch"] for record in found] == launches
    with pytest.raises(BadRun, match="launch is 'twice', not calls or graph"):
        read_run(made_up.write_run(path, [made_up.record(launch="twice")]))


def test_a_failed_check_of_the_published_implementation_is_explained(made_up: SimpleNamespace, tmp_path: Path) -> None:
    failed = [
        made_up.record(
            length=length,
            implementation="published",
            status="failed_check",
            error=error,
            error_budget=0.0202,
            reason="y",
        )
        for length, error in ((1024, 0.0722), (2048, 0.2312))
    ]
    ours = [made_up.record(length=length, seconds=1.0) for length in (1024, 2048)]
    run = read_run(made_up.write_run(tmp_path / "suite.json", [*ours, *failed]))
    line = "Published Hyena failed its check: its logits are off by 0.07 to 0.23, 0.02 is allowed."
    assert f"\n\n{line}\n\n" in report.section(run, [])
    assert f"\n\n{line}\n\n" in report.readme_block([run], "report")


def test_nothing_is_explained_where_no_check_failed(run: Run) -> None:
    assert "failed its check" not in report.section(run, [])


def test_attention_that_timed_out_is_extrapolated_and_never_printed_as_measured(run: Run) -> None:
    found = curves.headline(run)
    assert found is not None
    for length, record in found.measured("hyena_kernels").items():
        against = curves.fastest_attention(found, length)
        assert against is not None
        assert (against.record is None) == (against.fit is not None) == (length > 8192)
        assert against.seconds / record["seconds"] == pytest.approx(length / (2048 * 2**0.5))
    lines = report.headline_table(found)
    above = [line for line in lines if line.startswith(("| 16K", "| 32K"))]
    assert len(above) == 2
    for line in above:
        assert re.search(r"\| extrapolated ≈ [\d.]+ ms\\\*, SDPA flash \| ≈ [\d.]+×\\\* \|", line), line
    (note,) = [line for line in lines if line.startswith("\\*")]
    assert "above L = 8K" in note
    assert "as L to the power 2.00, fitted to L = 1K, 2K, 4K, 8K." in note
    below = [line for line in lines if line.startswith(("| 1K", "| 2K", "| 4K", "| 8K"))]
    assert not any("≈" in line for line in below)


def model(made_up: SimpleNamespace, tmp_path: Path, *attention: dict[str, Any]) -> curves.Comparison:
    """Ours at 1K to 16K, and these records."""
    ours = [made_up.record(length=1 << bits, seconds=1.0) for bits in range(10, 15)]
    found = curves.headline(read_run(made_up.write_run(tmp_path / "suite.json", [*ours, *attention])))
    assert found is not None
    return found


def flash(
    made_up: SimpleNamespace, length: int, seconds: float | None = None, status: str = "measured"
) -> dict[str, Any]:
    record: dict[str, Any] = made_up.record(implementation="sdpa_flash", length=length, seconds=seconds, status=status)
    return record


def test_nothing_steeper_than_quadratic_is_extrapolated(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = [flash(made_up, 1024, 1.0), flash(made_up, 2048, 8.0), flash(made_up, 4096, status="timed_out")]
    against = curves.fastest_attention(model(made_up, tmp_path, *rows), 8192)
    assert against is not None
    assert against.fit is not None
    assert against.fit.exponent == pytest.approx(3)
    assert against.seconds == pytest.approx(8.0 * 16)
    table = report.headline_table(model(made_up, tmp_path, *rows))
    assert "to the power 3.00, of which 2.00 is used, fitted to L = 1K, 2K." in table[-1]


@pytest.mark.parametrize("status", ["out_of_memory", "failed_check", "skipped"])
def test_what_did_not_stop_for_time_is_not_extrapolated(made_up: SimpleNamespace, tmp_path: Path, status: str) -> None:
    rows = [flash(made_up, 1024, 1.0), flash(made_up, 2048, 4.0), flash(made_up, 4096, status=status)]
    found = model(made_up, tmp_path, *rows)
    assert curves.fastest_attention(found, 4096) is None
    assert curves.fastest_attention(found, 8192) is None
    assert set(curves.ratios(found)) == {1024, 2048}
    line = next(line for line in report.headline_table(found) if line.startswith("| 4K"))
    word = {"out_of_memory": "out of memory", "failed_check": "check failed", "skipped": "-"}[status]
    assert line.startswith(f"| 4K | 1.00 s | {word} | - |")


@pytest.mark.parametrize("status", ["out_of_memory", "failed_check"])
def test_a_time_is_not_extrapolated_over_a_length_that_cannot_run(
    made_up: SimpleNamespace, tmp_path: Path, status: str
) -> None:
    """It ran out of time at one length, and cannot run at a longer one."""
    rows = [flash(made_up, 1024, 1.0), flash(made_up, 2048, 4.0), flash(made_up, 4096, status="timed_out")]
    found = model(made_up, tmp_path, *rows, flash(made_up, 8192, status=status))
    at_4k = curves.fastest_attention(found, 4096)
    assert at_4k is not None
    assert at_4k.seconds == pytest.approx(16.0)
    assert curves.fastest_attention(found, 8192) is None
    assert curves.fastest_attention(found, 16384) is None


def test_one_length_is_too_few_to_extrapolate(made_up: SimpleNamespace, tmp_path: Path) -> None:
    found = model(made_up, tmp_path, flash(made_up, 1024, 1.0), flash(made_up, 2048, status="timed_out"))
    assert curves.fastest_attention(found, 2048) is None
    assert "timed out" in "\n".join(report.headline_table(found))


def test_a_run_cut_off_before_attention_is_not_extrapolated(made_up: SimpleNamespace, tmp_path: Path) -> None:
    found = model(made_up, tmp_path, flash(made_up, 1024, 1.0), flash(made_up, 2048, 4.0))
    assert set(curves.ratios(found)) == {1024, 2048}


def test_ratios_are_to_the_fastest_attention_at_each_length(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = [flash(made_up, 1024, 2.0), flash(made_up, 2048, 2.0)]
    rows += [
        {**each, "implementation": "sdpa_cudnn", "seconds": seconds}
        for each, seconds in zip(rows, (3.0, 1.5), strict=True)
    ]
    ratios = curves.ratios(model(made_up, tmp_path, *rows))
    assert {length: (ratio, each.implementation) for length, (ratio, each) in ratios.items()} == {
        1024: (2.0, "sdpa_flash"),
        2048: (1.5, "sdpa_cudnn"),
    }


@pytest.mark.parametrize(
    ("times", "place", "line"),
    [
        ((0.5, 2.0, 4.0), 1024 * 2**0.5, "from L ≈ 1,400 on"),
        ((2.0, 3.0, 4.0), None, "at every measured length, 1K on"),
        ((0.1, 0.2, 0.5), None, "At L = 4K, the longest at which it was measured, attention is faster"),
        ((0.5, 2.0, 0.5), None, "At L = 4K, the longest at which it was measured, attention is faster"),
        ((), None, "No attention was measured"),
    ],
)  # fmt: skip
def test_crossover(
    made_up: SimpleNamespace, tmp_path: Path, times: tuple[float, ...], place: float | None, line: str
) -> None:
    rows = [flash(made_up, 1024 << index, seconds) for index, seconds in enumerate(times)]
    found = model(made_up, tmp_path, *rows)
    assert curves.crossover(found) == (None if place is None else pytest.approx(place))
    assert line in report._crossover_line(found)


def test_the_checkpointed_model_is_the_headline(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = [made_up.record(variant="plain", length=length) for length in (1024, 2048)]
    rows += [made_up.record(variant="plain", direction="forward"), made_up.record()]
    found = curves.headline(read_run(made_up.write_run(tmp_path / "suite.json", rows)))
    assert found is not None
    assert found.variant == "checkpointed"
    without = curves.headline(read_run(made_up.write_run(tmp_path / "suite.json", rows[:-1])))
    assert without is not None
    assert (without.variant, without.direction) == ("plain", "both")


# Tables --------------------------------------------------------------------------------------------------------------


def test_kernels_have_their_share_of_the_copy_bandwidth(run: Run) -> None:
    text = report.section(run, [])
    row = cells(text, "| fftconv gated, forward, B = 1, D = 128, bfloat16, triton | 1K | 2.00 ms | 1 |")
    # 1 GB in 2 ms of 1 TB/s.
    assert row[3:] == ["1", "500", "50%", "5000"]
    row = cells(text, "| fftconv gated, forward, B = 1, D = 128, bfloat16, triton | 1K | 2.00 ms | 1.00 ms |")
    assert row[-1] == "2.00"
    assert cells(text, "| 1K | 2.00 ms ± 10% |")[1] == "2.00 ms ± 10%"


def test_what_was_not_measured_has_its_reason(run: Run) -> None:
    text = report.section(run, []).split("### Not measured")[1]
    assert "- SDPA flash, **timed out**: over the budget of 1 s\n  - L = 16K, 32K: two_layer_model" in text
    assert "- FlashFFTConv, **skipped**: not importable\n  - all lengths: fftconv gated, forward, B = 1" in text
    assert "- hyena_kernels, **check failed**: y is wrong \\| by far\n" in text
    row = cells(text, "| hyena_operator, forward + backward")
    assert row[1:] == ["hyena_kernels", "3.00e-01", "4.00e-03", "1K"]


def test_no_time_is_printed_after_a_failed_check(made_up: SimpleNamespace, tmp_path: Path) -> None:
    wrong = made_up.record(status="failed_check", length=2048)
    # A file that has a time nevertheless.
    rows = [
        made_up.record(seconds=1.0),
        {**wrong, "seconds": 0.123},
        made_up.record(implementation="published", length=2048),
    ]
    text = report.section(read_run(made_up.write_run(tmp_path / "suite.json", rows)), [])
    assert "123 ms" not in text
    assert "| 2K | check failed | - | - |" in text
    assert "| 2K | check failed | 1.00 ms | - | - |" in text


def test_a_run_that_was_cut_off_says_so(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = made_up.headline_records()[:3]
    cut = read_run(made_up.write_run(tmp_path / "gpu" / "suite.json", rows, finished=None))
    assert "cut off: what follows are the 3 records" in report.section(cut, [])
    assert "2001-02-03, a run that was cut off:" in report.readme_block([cut], "pictures")


def test_several_backends_have_a_column_each_and_the_fastest_counts(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = [made_up.record(backend="torch", seconds=3.0), made_up.record(backend="cpp", seconds=1.0)]
    rows.append(made_up.record(implementation="published", seconds=6.0))
    run = read_run(made_up.write_run(tmp_path / "suite.json", rows))
    text = report.section(run, [])
    assert "| L | hyena_kernels (cpp) | hyena_kernels (torch) | published Hyena |" in text
    assert "| 1K | 1.00 s | 3.00 s | 6.00 s (6.00×) |" in text


def test_a_record_that_timed_out_without_a_backend_has_no_column_of_its_own(
    made_up: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [made_up.record(backend="cpp", seconds=1.0), made_up.record(length=2048, status="timed_out", reason="late")]
    rows.append(made_up.record(implementation="published", seconds=6.0))
    text = report.section(read_run(made_up.write_run(tmp_path / "suite.json", rows)), [])
    assert "None" not in text
    assert "| L | hyena_kernels | published Hyena |" in text
    assert "| 1K | 1.00 s | 6.00 s (6.00×) |" in text
    assert "| 2K | timed out | - |" in text
    assert "- hyena_kernels, **timed out**: late\n  - L = 2K: two_layer_model" in text
    # Nothing was measured: the implementation stays without a backend.
    alone = report.section(read_run(made_up.write_run(tmp_path / "suite.json", rows[1:])), [])
    assert "| L | hyena_kernels | published Hyena |" in alone


def test_ratios_are_those_of_rounds_where_the_run_has_them(made_up: SimpleNamespace, tmp_path: Path) -> None:
    rows = [made_up.record(seconds=1.0), flash(made_up, 1024, 3.0) | {"ratio": 2.5}]
    rows.append(made_up.record(implementation="published", seconds=6.0, ratio=5.5))
    found = curves.headline(read_run(made_up.write_run(tmp_path / "suite.json", rows)))
    assert found is not None
    assert curves.ratios(found)[1024][0] == 2.5
    assert curves.ratios_to(found, "published") == {1024: 5.5}
    # Which of two backends of ours they are of is not known.
    rows.append(made_up.record(backend="torch", seconds=2.0))
    found = curves.headline(read_run(made_up.write_run(tmp_path / "suite.json", rows)))
    assert found is not None
    assert curves.ratios_to(found, "published") == {1024: 6.0}


def test_every_table_is_rectangular(run: Run) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", report.report([run])["report.md"], re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (length_text(1024), "1K"),
        (length_text(1 << 20), "1M"),
        (length_text(4 << 20), "4M"),
        (length_text(1_000_002), "1,000,002"),
        (length_text(1536), "1,536"),
        (seconds_text(1.2345), "1.23 s"),
        (seconds_text(0.99999), "1.00 s"),
        (seconds_text(0.0123), "12.3 ms"),
        (seconds_text(123.4), "123 s"),
        (seconds_text(4.56e-6), "4.56 µs"),
        (bytes_text(1536 * 2**20), "1.50 GiB"),
        (bytes_text(100), "100 B"),
    ],
)
def test_figures_in_words(text: str, expected: str) -> None:
    assert text == expected


# Plots ---------------------------------------------------------------------------------------------------------------


def test_plots_are_the_same_bytes_each_time(run: Run) -> None:
    first, second = plots.all_of(run), plots.all_of(run)
    assert first == second
    assert first.keys() == {"headline", "memory", "share", "predicted"}
    for svg in first.values():
        assert plots.matplotlib_of(svg) == matplotlib.__version__
        assert "<dc:date>" not in svg


def texts_of(svg: str) -> list[str]:
    """Texts of a plot; matplotlib writes each as a comment before its outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_headline_plot_shows_the_crossing_the_paper_and_what_is_extrapolated(run: Run) -> None:
    texts = " ".join(texts_of(plots.all_of(run)["headline"]))
    for expected in ("from L ≈ 2,900", "SDPA flash, extrapolated ∝ L^2.00", "160×", "the same, extrapolated", "1M"):
        assert expected in texts


def test_plots_are_on_white(run: Run) -> None:
    for svg in plots.all_of(run).values():
        root = ElementTree.fromstring(svg)
        (patch,) = [group for group in root.iter(f"{SVG}g") if group.get("id") == "patch_1"]
        assert "fill: #ffffff" in str(patch[0].get("style"))


def test_lines_of_a_plot_differ_without_colour() -> None:
    looks = [(str(look["linestyle"]), look["marker"]) for look in plots._LOOKS.values()]
    assert len(set(looks)) == len(looks)
    series = [plots.series_look(index) for index in range(24)]
    assert len({(str(look["linestyle"]), look["marker"], look.get("markerfacecolor")) for look in series}) == 24


def test_only_what_there_are_figures_for_is_drawn(made_up: SimpleNamespace, tmp_path: Path) -> None:
    def drawn(records: list[dict[str, Any]], **fields: Any) -> set[str]:
        return set(plots.all_of(read_run(made_up.write_run(tmp_path / "suite.json", records, **fields))))

    assert drawn([]) == set()
    assert drawn([made_up.record()]) == {"headline"}
    assert drawn(made_up.kernel_records(), peak_rates={}) == {"predicted"}
    assert drawn([made_up.record(implementation="sdpa_flash")]) == set()


# Command -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_writes_the_report_and_fills_the_readme(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    out = tmp_path / "a folder" / "report"
    assert report.main([str(run.path), "--out", str(out), "--readme", str(readme)]) == 0
    assert "1 run(s), 4 plots" in capsys.readouterr().out
    files = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}
    assert files == report.report([run])
    for name in re.findall(r"\]\(([^)]+\.svg)\)", files["report.md"]):
        assert name in files
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert "**Made-up GPU**, two_layer_model checkpointed" in text
    assert "| 32K | 32.8 ms | extrapolated ≈ " in text
    assert "| 2K |" not in text, "a length that the README leaves out"
    (link,) = set(re.findall(r"\]\(([^)]+)\)", text))
    assert (tmp_path / unquote(link)).is_file()
    # A second time changes nothing.
    assert report.main([str(run.path), "--out", str(out), "--readme", str(readme)]) == 0
    assert readme.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text", ["", f"{report.BEGIN}", f"{report.END} {report.BEGIN}", 2 * f"{report.BEGIN}{report.END}"]
)
def test_a_readme_without_its_marks_is_an_error_and_nothing_is_written(
    run: Run, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    assert report.main([str(run.path), "--out", str(tmp_path / "out"), "--readme", str(readme)]) == 2
    assert "once each" in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_runs_of_one_name_are_an_error(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadRun, match="would both be made-up-gpu"):
        report.report([run, run])
    assert report.main([str(tmp_path / "absent.json"), "--out", str(tmp_path)]) == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err


def test_runs_on_gpus_come_first(made_up: SimpleNamespace, tmp_path: Path) -> None:
    gpu = {"name": "Made-up GPU", "capability": "9.0"}
    paths = [
        made_up.write_run(tmp_path / "a-cpu" / "suite.json", [made_up.record()], machine={"name": "Made-up CPU"}),
        made_up.write_run(tmp_path / "b-gpu" / "suite.json", [made_up.record()], machine=gpu),
    ]
    runs = [read_run(path) for path in paths]
    text = report.report(runs)["report.md"]
    assert text.index("## b-gpu") < text.index("## a-cpu")
    assert re.findall(r"^\*\*(.*)\*\*,", report.readme_block(runs, "pictures"), re.MULTILINE) == [
        "Made-up GPU",
        "Made-up CPU",
    ]


def test_without_a_run_there_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.main(["--out", str(tmp_path / "out")]) == 2
    assert "there is no run" in capsys.readouterr().err


def test_committed_runs_are_those_of_the_suite(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    (run.path.parent / "triton_aims.json").write_text(json.dumps({"lines": []}), encoding="utf-8")
    second = run.path.with_name("suite-two.json")
    second.write_text(run.path.read_text(encoding="utf-8"), encoding="utf-8")
    assert report.committed() == [second, run.path]
    assert [read_run(path).key for path in report.committed()] == ["made-up-gpu-suite-two", "made-up-gpu"]
