"""Commands that read from pipes and write to them."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hyenadna.cli.main import main
from hyenadna.common.errors import InputError
from hyenadna.common.streams import copied_streams, regular_file
from hyenadna.data.streams import read_lines
from hyenadna.inference.embeddings import Embeddings

FASTA = ">x\nACGTTGCA\n>y\nGATTACA\n"


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.5)


@pytest.fixture
def pipe() -> Iterator[Callable[[str], str]]:
    """Makes what the shell puts in the place of ``<(command)``: the path of a pipe that holds a text."""
    opened: list[int] = []

    def make(text: str) -> str:
        read, write = os.pipe()
        os.write(write, text.encode())
        os.close(write)
        opened.append(read)
        return f"/dev/fd/{read}"

    yield make
    for number in opened:
        os.close(number)


def run(*words: object) -> None:
    main([str(word) for word in words])


def vcf(fasta: Path) -> str:
    base = fasta.read_text().split("\n")[1][99]
    return f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\na\t100\t.\t{base}\t{'A' if base != 'A' else 'C'}\n"


def test_a_score_from_a_pipe_to_standard_output(
    model: Path, tmp_path: Path, pipe: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.fa").write_text(FASTA)
    run("score", "--model", model, "--fasta", tmp_path / "s.fa", "--out", tmp_path / "o.tsv", "--device", "cpu")
    assert capfd.readouterr().out == f"2 of 2 rows with a score in {tmp_path / 'o.tsv'}\n"
    for out in ("-", "/dev/stdout"):
        run("score", "--model", model, "--fasta", pipe(FASTA), "--out", out, "--device", "cpu")
        found = capfd.readouterr()
        assert found.out == (tmp_path / "o.tsv").read_text()
        assert f"2 of 2 rows with a score in {out}\n" in found.err


def test_files_that_are_read_several_times(
    model: Path, tiny_fasta: Path, tiny_genome: Path, tmp_path: Path, pipe: Callable[[str], str]
) -> None:
    text = vcf(tiny_fasta)
    (tmp_path / "v.vcf").write_text(text)
    names = "NC_1\ta\nNC_2\tb\n"
    out = [tmp_path / "a.tsv", tmp_path / "b.tsv"]
    run("score", "--model", model, "--vcf", tmp_path / "v.vcf", "--genome", tiny_genome, "--out", out[0])
    more = ["--genome", pipe(tiny_fasta.read_text()), "--aliases", pipe(names), "--out", out[1]]
    run("score", "--model", model, "--vcf", pipe(text.replace("\na\t", "\nNC_1\t")), *more)
    assert out[0].read_text() == out[1].read_text().replace("NC_1", "a")


def test_standard_input(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.tsv").write_text("sequence\tlabel\nACGT\tx\nGGTTA\ty\n")
    for name, source in (("a.npz", str(tmp_path / "t.tsv")), ("b.npz", "-")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "t.tsv").read_bytes())))
        run("embed", "--model", model, "--table", source, "--label_column", "label", "--out", tmp_path / name)
    one, other = (Embeddings.read(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert np.array_equal(one.vectors, other.vectors)
    assert other.label.tolist() == ["x", "y"]


def test_prepare_and_a_configuration_from_pipes(
    model: Path, tiny_fasta: Path, tmp_path: Path, pipe: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    run("prepare", pipe(tiny_fasta.read_text()), "--out", tmp_path / "g")
    (tmp_path / "b.bed").write_text("a\t0\t10\n")
    config = f"model: {model}\nbed: {tmp_path / 'b.bed'}\ngenome: {tmp_path / 'g'}\nout: {tmp_path / 'e.npz'}\n"
    run("embed", "--config", pipe(config))
    assert len(Embeddings.read(tmp_path / "e.npz")) == 1
    assert "3 contigs" in capfd.readouterr().out


def test_one_pipe_is_one_input(model: Path, pipe: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("score", "--model", model, "--vcf", "-", "--genome", "/dev/stdin", "--out", "x.tsv")
    assert "read only once" in capfd.readouterr().err
    assert not Path("x.tsv").exists()


def test_copies_go_with_the_command(tmp_path: Path, pipe: Callable[[str], str]) -> None:
    path = Path(pipe("a\nb\n"))
    with pytest.raises(InputError, match="can be read only once; save what it gives to a file"):
        list(read_lines(path))
    with copied_streams():
        copy = regular_file(path)
        assert [list(read_lines(path)) for _ in range(2)] == [[(1, "a"), (2, "b")]] * 2
        assert copy.is_relative_to(tempfile.gettempdir())
    assert not copy.parent.exists()
