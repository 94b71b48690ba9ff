from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch

from hyenadna import HyenaDNAModel
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import N_ID, PAD_ID, reverse_complement
from hyenadna.data.genome import Genome
from hyenadna.inference import embed as embed_module, embeddings
from hyenadna.inference.embed import EmbedConfig, embed
from hyenadna.inference.embeddings import Embeddings


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint()


@pytest.fixture
def config(folder: Path, tiny_genome: Path, tmp_path: Path) -> EmbedConfig:
    bed = tmp_path / "b.bed"
    lines = [f"b\t{i * 40}\t{i * 40 + 30 + i}\t{'odd' if i % 2 else 'even number'[:4]}\n" for i in range(11)]
    bed.write_text("".join(lines) + "a\t980\t1040\teven\n")
    return EmbedConfig(
        model=folder, out=tmp_path / "e.npz", bed=bed, genome=tiny_genome, batch_size=3, part_size=5, device="cpu"
    )


def states(folder: Path, ids: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(ids.astype(np.int64))[None]
    model = HyenaDNAModel.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.where(batch == N_ID, PAD_ID, batch)).last_hidden_state[0].numpy()


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("pooling", ["mean", "last", "token"])
def test_vectors_are_those_of_each_sequence_alone(
    config: EmbedConfig, folder: Path, tiny_genome: Path, pooling: str, ending: str
) -> None:
    config = replace(config, pooling=pooling, out=config.out.with_suffix(f".{ending}"))
    assert embed(config, progress=False) == 12
    found = Embeddings.read(config.out)
    genome = Genome.open(tiny_genome)
    row = 0
    for number in range(12):
        contig, start = ("a", 980) if number == 11 else ("b", 40 * number)
        end = 1040 if number == 11 else 40 * number + 30 + number
        whole = states(folder, genome.tokens(contig, start, end))
        label = "even" if number in (11, 0, 2, 4, 6, 8, 10) else "odd"
        expected = {"mean": whole.mean(0, keepdims=True), "last": whole[-1:], "token": whole}[pooling]
        rows = slice(row, row + len(expected))
        np.testing.assert_allclose(found.vectors[rows], expected, rtol=0, atol=2e-6)
        assert set(found.name[rows]) == {f"{contig}:{start}-{end}"}
        assert set(found.contig[rows]) == {contig}
        assert set(found.label[rows]) == {label}
        places = range(start, end) if pooling == "token" else [start]
        assert found.start[rows].tolist() == list(places)
        assert found.end[rows].tolist() == ([p + 1 for p in places] if pooling == "token" else [end])
        row += len(expected)
    assert row == len(found)
    assert found.vectors.dtype == np.float32
    assert sorted(p.name for p in config.out.parent.iterdir()) == ["b.bed", config.out.name]


def test_a_table_and_a_fasta(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("seq\tkind\nACGT\tx\nGATTACA\t\n")
    (tmp_path / "f.fa").write_text(">one\nACGT\n>two\nGATTACA\n")
    out = tmp_path / "t.npz"
    embed(
        EmbedConfig(
            model=folder, out=out, table=tmp_path / "t.tsv", sequence_column="seq", label_column="kind", device="cpu"
        ),
        progress=False,
    )
    table = Embeddings.read(out)
    assert table.label.tolist() == ["x", ""]
    embed(EmbedConfig(model=folder, out=out, fasta=tmp_path / "f.fa", device="cpu"), progress=False)
    fasta = Embeddings.read(out)
    assert np.array_equal(fasta.vectors, table.vectors)
    assert fasta.name.tolist() == ["one", "two"]
    assert fasta.end.tolist() == [4, 7]


def test_positions_of_a_table(folder: Path, tmp_path: Path) -> None:
    header = "sequence\tlabel\tcontig\tstart\tend\n"
    # The second has an insertion: its interval is shorter than it.
    (tmp_path / "t.tsv").write_text(f"{header}ACGT\tLung\tchr1\t8\t12\nGATTACA\tLymphoid\tchr2\t100\t104\n")
    config = EmbedConfig(
        model=folder, out=tmp_path / "t.npz", table=tmp_path / "t.tsv", label_column="label", device="cpu"
    )
    embed(config, progress=False)
    assert Embeddings.read(config.out).contig.tolist() == ["", ""]
    config.position_columns = ["contig", "start", "end"]
    embed(config, progress=False)
    found = Embeddings.read(config.out)
    assert found.contig.tolist() == ["chr1", "chr2"]
    assert (found.start.tolist(), found.end.tolist()) == ([8, 100], [12, 104])
    assert found.label.tolist() == ["Lung", "Lymphoid"]
    with pytest.raises(InputError, match="`position_columns` with `pooling` token: a base that was inserted"):
        embed(replace(config, pooling="token"), progress=False)
    with pytest.raises(InputError, match="`position_columns`: give three columns"):
        embed(replace(config, position_columns=["contig"]), progress=False)
    for bad in ("chr1\t5\t5", "NA\t1\t5", "chr1\t-1\t5", "chr1\t1.0\t5", "chr1\t\t5"):
        config.table.write_text(f"{header}ACGT\tLung\t{bad}\n")  # type: ignore[union-attr]
        with pytest.raises(InputError, match=r"t\.tsv: row 1: .* is no position: expected a contig, and a start"):
            embed(config, progress=False)


def test_long_sequences_need_windows(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ACGT"), 150))
    (tmp_path / "f.fa").write_text(f">short\nACGT\n>long\n{bases}\n")
    config = EmbedConfig(model=folder, out=tmp_path / "t.npz", fasta=tmp_path / "f.fa", part_size=1, device="cpu")
    with pytest.raises(
        InputError, match=r"long: 150 bases are longer .*; 1 sequences are finished and kept in .*partial"
    ):
        embed(config, progress=False)
    with pytest.raises(InputError, match=r"of a run with other options \(stride: None there, 20 now; window:"):
        embed(replace(config, window=60, stride=20, resume=True), progress=False)
    embed(replace(config, window=60, stride=20, out=tmp_path / "u.npz"), progress=False)
    ids = np.array(["ACGT".index(base) + 7 for base in bases], dtype=np.uint8)
    parts = [states(folder, ids[:60])]
    parts += [states(folder, ids[i : i + 60])[40:] for i in range(20, 101, 20)]
    np.testing.assert_allclose(
        Embeddings.read(tmp_path / "u.npz").vectors[1], np.concatenate(parts).mean(axis=0), atol=2e-6
    )


def test_a_stopped_run_goes_on_where_it_stopped(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(replace(config, out=config.out.with_name("whole.npz")), progress=False)
    original: Callable[..., Any] = embed_module._embed_part
    calls = []

    def stopping(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(embed_module, "_embed_part", stopping)
    with pytest.raises(
        KeyboardInterrupt, match=r"5 sequences are finished and kept in .*partial: the same command with `resume`"
    ):
        embed(config, progress=False)
    assert not config.out.exists()
    with pytest.raises(InputError, match="holds parts of a stopped run; continue it with `resume`"):
        embed(config, progress=False)
    calls = [1, 1]
    embed(replace(config, resume=True, batch_size=7), progress=False)
    assert len(calls) == 4
    whole, resumed = (Embeddings.read(config.out.with_name(name)) for name in ("whole.npz", "e.npz"))
    np.testing.assert_allclose(resumed.vectors, whole.vectors, atol=2e-6)
    assert np.array_equal(resumed.name, whole.name)


def test_random_weights_are_another_model_of_the_same_shape(config: EmbedConfig) -> None:
    embed(config, progress=False)
    own = Embeddings.read(config.out)
    found = []
    for seed in (0, 0, 1):
        embed(replace(config, random_weights=True, seed=seed), progress=False)
        found.append(Embeddings.read(config.out).vectors)
    assert found[0].shape == own.vectors.shape
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    assert not np.allclose(found[0], own.vectors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bed": None, "genome": None}, "give one of `fasta`, `bed` and `table` to embed"),
        ({"fasta": Path("x")}, "give one of `fasta`, `bed` and `table` to embed"),
        ({"genome": None}, "`bed` and `genome` go together"),
        ({"label_column": "x"}, "`label_column` needs a `table`"),
        ({"pooling": "max"}, "`pooling` max: choose mean, last or token"),
        ({"part_size": 0}, "`part_size` 0: must be at least 1"),
        ({"out": Path("x.csv")}, "`out` x.csv: must end in .npz or .parquet"),
        ({"out": Path("absent/x.npz")}, "absent/x.npz: cannot be written (no folder absent)"),
        ({"window": 32}, "`window` and `stride` go together"),
        ({"window": 100, "stride": 50}, "`window` 100: must be 2 to 64, the tokens"),
        ({"model": Path("absent")}, "no checkpoint at absent"),
        ({"bed": Path("absent.bed")}, "absent.bed: no such file"),
        ({"seed": 3}, "`seed` 3: has no effect without `random_weights`; leave it out"),
        ({"sequence_column": "seq"}, "`sequence_column` seq: has no effect without a `table`; leave it out"),
        ({"batch_size": 10**9}, "`batch_size` 1000000000: must be at least 1 and below"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(config: EmbedConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        embed(replace(config, **change), progress=False)
    assert str(caught.value).startswith(message)
    assert [p.name for p in config.out.parent.iterdir()] == ["b.bed"]


def test_what_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "y.npz", embedding=np.zeros((2, 2)))
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    np.savez(tmp_path / "z.npz", name=np.array([{}], dtype=object))
    for name, reason in (
        ("x.npz", "it is not a .npz"),
        ("y.npz", "name is not a file"),
        ("z.npz", "it holds Python objects"),
        ("x.parquet", ""),
    ):
        with pytest.raises(InputError) as caught:
            Embeddings.read(tmp_path / name)
        assert f"{name}: was not written by hyenadna embed" in str(caught.value)
        assert reason in str(caught.value)
        assert "allow_pickle" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        Embeddings.read(tmp_path / "absent.npz")


def test_a_full_disk_that_polars_tells_of(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise polars.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")

    monkeypatch.setattr(polars.DataFrame, "write_parquet", fail)
    out = config.out.with_suffix(".parquet")
    with pytest.raises(InputError, match=r"parquet: cannot be written \(No space left on device\); free some space"):
        embed(replace(config, out=out), progress=False)
    assert [path.name for path in out.parent.iterdir()] == ["b.bed"]


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_an_interval_of_the_reverse_strand(config: EmbedConfig, folder: Path, tiny_genome: Path, pooling: str) -> None:
    assert config.bed is not None
    config.bed.write_text("b\t40\t60\tx\t0\t-\nb\t40\t60\tx\t0\t+\n")
    embed(replace(config, pooling=pooling), progress=False)
    found = Embeddings.read(config.out)
    forward = Genome.open(tiny_genome).tokens("b", 40, 60)
    for rows, ids, places in (
        (slice(0, 20), reverse_complement(forward), range(59, 39, -1)),
        (slice(20, 40), forward, range(40, 60)),
    ):
        whole = states(folder, ids)
        if pooling == "token":
            np.testing.assert_allclose(found.vectors[rows], whole, rtol=0, atol=2e-6)
            assert found.start[rows].tolist() == list(places)
            assert found.end[rows].tolist() == [place + 1 for place in places]
        else:
            row = rows.start // 20
            np.testing.assert_allclose(found.vectors[row], whole.mean(axis=0), rtol=0, atol=2e-6)
            assert (found.start[row], found.end[row]) == (40, 60)
    assert set(found.name.tolist()) == {"b:40-60(-)", "b:40-60"}


def test_empty_records_are_left_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f.fa").write_text(">one\nACGT\n>none\n>one\nGATTACA\n>last\n")
    config = EmbedConfig(model=folder, out=tmp_path / "t.npz", fasta=tmp_path / "f.fa", part_size=1, device="cpu")
    assert embed(config, progress=False) == 2
    found = Embeddings.read(config.out)
    assert (found.name.tolist(), found.end.tolist()) == (["one", "one"], [4, 7])


@pytest.mark.parametrize("pooling", ["mean", "last", "token"])
def test_batches_and_parts_change_rounding_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 64, 65, 300, 7, 1000]
    rows = [f">s{i}\n{''.join(rng.choice(list('ACGT'), length))}\n" for i, length in enumerate(lengths)]
    (tmp_path / "f.fa").write_text("".join(rows))
    config = EmbedConfig(
        model=folder,
        out=tmp_path / "a.npz",
        fasta=tmp_path / "f.fa",
        pooling=pooling,
        window=64,
        stride=50,
        batch_size=1,
        device="cpu",
    )
    embed(config, progress=False)
    monkeypatch.setattr(embed_module, "_PART_BASES", 100)
    embed(replace(config, out=tmp_path / "b.npz", batch_size=5), progress=False)
    one, other = (Embeddings.read(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_allclose(one.vectors, other.vectors, rtol=0, atol=2e-6)
    assert one.name.tolist() == other.name.tolist()


def test_a_full_disk_at_the_end_keeps_the_parts(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = config.out.with_name("whole.npz")
    embed(replace(config, out=whole), progress=False)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "_join_npz", fail)
        with pytest.raises(
            InputError, match=r"No space left .*; 12 sequences are finished and kept in .*e\.npz\.partial"
        ):
            embed(config, progress=False)
    assert not config.out.exists()
    embed(replace(config, resume=True), progress=False)
    assert config.out.read_bytes() == whole.read_bytes()


def test_nothing_to_embed_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f.fa").write_text(">one\n>two\n")
    config = EmbedConfig(model=folder, out=tmp_path / "t.npz", fasta=tmp_path / "f.fa", device="cpu")
    with pytest.raises(InputError, match=r"f\.fa: none of its 2 records has a sequence"):
        embed(config, progress=False)
    assert not config.out.exists()


def test_states_that_are_not_finite_are_refused(config: EmbedConfig, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    # Finite weights, and an overflow behind them.
    model.hyena.backbone.ln_f.weight.data[:] = 3e38
    model.hyena.backbone.ln_f.bias.data[:] = 3e38
    model.save_pretrained(config.out.with_name("large"))
    with pytest.raises(InputError, match="the model's states are not finite"):
        embed(replace(config, model=config.out.with_name("large")), progress=False)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bed": None, "genome": None, "aliases": Path(__file__), "fasta": Path("x.fa")}, "`aliases` needs a `genome`"),
        ({"bed": None, "genome": None, "fasta": Path("genome")}, "is a genome of `hyenadna prepare`; give the FASTA"),
    ],
)
def test_a_genome_is_no_sequence(config: EmbedConfig, tiny_genome: Path, change: Any, message: str) -> None:
    change = {name: tiny_genome if value == Path("genome") else value for name, value in change.items()}
    with pytest.raises(InputError, match=message):
        embed(replace(config, **change), progress=False)
