from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyenadna import HyenaDNAForCausalLM
from hyenadna.common.errors import InputError
from hyenadna.common.vocab import LETTERS, N_ID, PAD_ID, reverse_complement
from hyenadna.data.genome import Genome
from hyenadna.data.sequences import encode
from hyenadna.data.variant_files import open_variants
from hyenadna.data.variants import MISMATCH, OUTSIDE, UNSCORED_ALLELE, alleles, justify, windows
from hyenadna.inference.likelihood import LogLikelihoodScorer
from hyenadna.inference.score import ScoreConfig, score

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(noise=0.2, n_layer=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> HyenaDNAForCausalLM:
    return HyenaDNAForCausalLM.from_pretrained(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def genome(tiny_genome: Path) -> Genome:
    return Genome.open(tiny_genome)


def letters(genome: Genome, contig: str, start: int, end: int) -> str:
    return "".join(LETTERS[i] for i in genome.tokens(contig, start, end).tolist())


def turn(text: str) -> str:
    """Reverse complement."""
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 1) % 4]


@pytest.fixture
def write_vcf(tmp_path: Path) -> Callable[..., Path]:
    def write(*records: tuple[str, int, str, str], name: str = "v.vcf") -> Path:
        lines = [f"{contig}\t{position}\tid\t{ref}\t{alt}\t.\tPASS\tX=1\n" for contig, position, ref, alt in records]
        path = tmp_path / name
        path.write_text(HEADER + "".join(lines))
        return path

    return write


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def nats(model: HyenaDNAForCausalLM, ids: np.ndarray) -> np.ndarray:
    """Log-probability of each base by the model alone."""
    batch = torch.from_numpy(ids.astype(np.int64))[None]
    logits = model(torch.where(batch == N_ID, PAD_ID, batch)).logits[0].log_softmax(-1)
    return np.array([np.nan, *(logits[i, batch[0, i + 1]].item() for i in range(len(ids) - 1))])


def test_likelihood_is_that_of_each_base_whatever_the_batch(model: HyenaDNAForCausalLM) -> None:
    sequences = [encode(text, "") for text in ("ACGTNACGATTA" * 4, "AC", "G", "TTTNGA", "GATTACA" * 9)]
    for size in (1, 2, 5):
        found = list(LogLikelihoodScorer(model, batch_size=size)(("x", ids) for ids in sequences))
        for ids, values in zip(sequences, found, strict=True):
            expected = nats(model, ids)
            expected[ids == N_ID] = np.nan
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_windows_of_a_long_sequence_have_their_overlap_as_context(model: HyenaDNAForCausalLM, genome: Genome) -> None:
    ids = genome.tokens("b", 0, 150)
    (found,) = LogLikelihoodScorer(model, window=60, stride=20)([("b", ids)])
    np.testing.assert_allclose(found[:60], nats(model, ids[:60]), atol=1e-12)
    np.testing.assert_allclose(found[60:80], nats(model, ids[20:80])[40:], atol=1e-12)
    np.testing.assert_allclose(found[-10:], nats(model, ids[100:])[-10:], atol=1e-12)
    with pytest.raises(InputError, match=r"b: 150 bases are longer than the 64"):
        list(LogLikelihoodScorer(model)([("b", ids)]))


def test_a_model_that_has_diverged_is_refused(folder: Path) -> None:
    broken = HyenaDNAForCausalLM.from_pretrained(folder)
    broken.lm_head.weight.data[7] = float("nan")
    with pytest.raises(InputError, match="likelihoods are not finite: its weights are damaged"):
        list(LogLikelihoodScorer(broken)([("x", encode("ACGT", ""))]))


def test_sequences_of_a_fasta(folder: Path, model: HyenaDNAForCausalLM, tmp_path: Path) -> None:
    (tmp_path / "s.fa").write_text(">one words\nACGTNACGT\n>two\nGATTACA\n>three\nA\n")
    config = ScoreConfig(model=folder, out=tmp_path / "out.tsv", fasta=tmp_path / "s.fa")
    result = score(config, progress=False)
    assert (result.rows, result.scored, result.problems) == (3, 2, {"no base to score": 1})
    one, two, three = rows(config.out)
    values = nats(model, encode("GATTACA", ""))[1:]
    assert two == {
        "name": "two",
        "bases": "6",
        "log_likelihood": f"{values.sum():.6f}",
        "per_base": f"{values.mean():.6f}",
        "perplexity": f"{np.exp(-values.mean()):.6f}",
    }
    assert (one["name"], one["bases"]) == ("one", "7")
    assert (three["bases"], three["per_base"], three["perplexity"]) == ("0", "", "")
    score(replace(config, out=tmp_path / "again.tsv", batch_size=1), progress=False)
    assert (tmp_path / "again.tsv").read_text() == config.out.read_text()


def test_a_table_keeps_its_columns_and_both_strands_agree(folder: Path, tmp_path: Path) -> None:
    forward = "ACGTTAGCATNGGA"
    backward = "".join(LETTERS[i] for i in reverse_complement(encode(forward, "")).tolist())
    (tmp_path / "t.csv").write_text(f"id,dna,colour\n1,{forward},red\n2,{backward},\n")
    config = ScoreConfig(
        model=folder, out=tmp_path / "out.tsv", table=tmp_path / "t.csv", sequence_column="dna", strands="both"
    )
    score(config, progress=False)
    one, two = rows(config.out)
    assert list(one)[:3] == ["id", "dna", "colour"]
    assert (two["id"], two["dna"], two["colour"]) == ("2", backward, "")
    # Not within a tolerance: the mean over both strands is of the same two numbers.
    assert one["log_likelihood"] == two["log_likelihood"]
    # 14 letters, without N and the first of each strand.
    assert one["bases"] == "12"
    assert float(one["per_base"]) == pytest.approx(float(one["log_likelihood"]) / 12, abs=1e-6)
    assert float(one["perplexity"]) == pytest.approx(np.exp(-float(one["log_likelihood"]) / 12), abs=1e-5)
    score(replace(config, strands="forward"), progress=False)
    one, two = rows(config.out)
    assert one["log_likelihood"] != two["log_likelihood"]


@pytest.mark.parametrize("mode", ["likelihood", "site", "embedding"])
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_variants(
    folder: Path, model: HyenaDNAForCausalLM, genome: Genome, write_vcf: Any, tmp_path: Path, mode: str, strands: str
) -> None:
    base = letters(genome, "b", 199, 200)
    pair = letters(genome, "b", 249, 251)
    records = [
        ("b", 200, base, other(base)),
        ("chrb", 250, pair, other(pair[0]) + other(pair[1])),
        ("b", 300, letters(genome, "b", 299, 303), letters(genome, "b", 299, 300)),
        ("b", 200, base, base + "GATTACA"),
        ("b", 200, base, "<DEL>"),
        ("b", 200, base, f"{other(base)},*"),
        ("z", 200, base, other(base)),
        ("b", 900, letters(genome, "b", 899, 900), "A" * 40),
    ]
    config = ScoreConfig(
        model=folder, out=tmp_path / "o.tsv", vcf=write_vcf(*records), genome=genome.folder, mode=mode, strands=strands
    )
    result = score(config, progress=False)
    found = rows(config.out)
    assert [row["note"] for row in found] == [
        *4 * [""],
        "symbolic allele",
        "",
        "symbolic allele",
        "the genome has no contig z",
        "an allele is longer than half the window",
    ]
    assert (result.rows, result.scored) == (9, 5)
    assert list(found[0])[:8] == HEADER.splitlines()[1].split("\t")
    assert found[5]["ALT"] == other(base)
    assert found[6]["ALT"] == "*"
    name = "distance" if mode == "embedding" else "score"
    assert found[0][name] == found[5][name] != found[1][name]
    assert found[4][name] == ""
    for size in (1, 3, 64):
        score(replace(config, out=tmp_path / "again.tsv", batch_size=size), progress=False)
        assert (tmp_path / "again.tsv").read_text() == config.out.read_text()

    (variant,) = alleles(next(iter(open_variants(config.vcf).read())), genome)
    cut = windows(variant, genome, 64)
    before, after = cut.reference, cut.changed
    if mode == "embedding" or strands == "both":
        return
    change = nats(model, after) - nats(model, before)
    site = int(np.flatnonzero(before != after)[0])
    expected = change[site] if mode == "site" else np.nansum(change)
    assert float(found[0]["score"]) == pytest.approx(expected, abs=1e-6)


def test_the_effect_on_both_strands_is_that_of_the_other_strand(
    folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path
) -> None:
    """The same variant in the reverse complement of its contig has the same score."""
    turned = tmp_path / "turned.fa"
    bases = turn(letters(genome, "b", 0, 899))
    straight = tmp_path / "straight.fa"
    straight.write_text(f">b\n{letters(genome, 'b', 0, 899)}\n")
    turned.write_text(f">b\n{bases}\n")
    base, three = letters(genome, "b", 449, 450), letters(genome, "b", 449, 452)
    config = ScoreConfig(
        model=folder,
        out=tmp_path / "o.tsv",
        vcf=write_vcf(("b", 450, base, other(base)), ("b", 450, three, base), ("b", 450, base, base + "GCA")),
        genome=straight,
        window=63,
        strands="both",
    )
    far = len(bases) + 1 - 450
    there = write_vcf(
        ("b", far, turn(base), turn(other(base))),
        ("b", far - 2, turn(three), turn(base)),
        ("b", far, turn(base), turn(base + "GCA")),
        name="turned.vcf",
    )
    for mode in ("likelihood", "site", "embedding"):
        score(replace(config, mode=mode), progress=False)
        score(replace(config, mode=mode, vcf=there, genome=turned, out=tmp_path / "t.tsv"), progress=False)
        names = list(rows(config.out)[0])[8:-1]
        for name in names:
            assert [row[name] for row in rows(config.out)] == [row[name] for row in rows(tmp_path / "t.tsv")]


def test_a_ref_that_differs(folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path) -> None:
    good = [("b", p, letters(genome, "b", p - 1, p), other(letters(genome, "b", p - 1, p))) for p in range(100, 130)]
    wrong = ("b", 300, other(letters(genome, "b", 299, 300)), letters(genome, "b", 299, 300))
    config = ScoreConfig(
        model=folder, out=tmp_path / "o.tsv", vcf=write_vcf(*good, wrong), genome=genome.folder, window=8
    )
    result = score(config, progress=False)
    assert (result.rows, result.scored, result.problems) == (31, 30, {"REF differs from the genome": 1})
    assert rows(config.out)[-1]["note"] == "REF differs from the genome"
    result = score(replace(config, ref_mismatch="skip"), progress=False)
    assert (result.rows, result.scored, result.problems) == (30, 30, {"REF differs from the genome": 1})
    config.out.unlink()
    with pytest.raises(InputError, match=r"v\.vcf:33: REF . differs from tiny\.fa at b:300; wrong genome build\?"):
        score(replace(config, ref_mismatch="fail"), progress=False)
    assert not config.out.exists()


def test_only_enough_mismatches_stop_a_run_and_only_if_nothing_was_chosen(
    folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path
) -> None:
    good = [("b", p, letters(genome, "b", p - 1, p), other(letters(genome, "b", p - 1, p))) for p in range(100, 130)]
    bad = [("b", p, other(letters(genome, "b", p - 1, p)), letters(genome, "b", p - 1, p)) for p in (300, 310)]
    bad.append(("b", 5000, "A", "C"))
    config = ScoreConfig(
        model=folder, out=tmp_path / "o.tsv", vcf=write_vcf(*good[:16], *bad), genome=genome.folder, window=8
    )
    # 3 of 19 are too few to tell.
    assert score(config, progress=False).scored == 16
    many = replace(config, vcf=write_vcf(*good[:17], *bad))
    with pytest.raises(InputError) as caught:
        score(many, progress=False)
    named = f"b:300 {bad[0][2]}, b:310 {bad[1][2]}, b:5000 {bad[2][2]}"
    assert f"REF differs from tiny.fa in 3 of 20 alleles (15%), such as {named}: wrong genome build?" in str(
        caught.value
    )
    assert "(`ref_mismatch` note scores the others)" in str(caught.value)
    result = score(replace(many, ref_mismatch="note"), progress=False)
    assert (result.rows, result.scored) == (20, 17)
    assert result.problems == {MISMATCH: 2, OUTSIDE: 1}
    result = score(replace(many, ref_mismatch="skip"), progress=False)
    assert (result.rows, result.scored, result.problems) == (17, 17, {MISMATCH: 2, OUTSIDE: 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fasta": Path("x"), "table": Path("y"), "vcf": None, "genome": None},
            "give one of `fasta`, `table` and `vcf`",
        ),
        ({"vcf": None, "genome": None}, "give one of `fasta`, `table` and `vcf`"),
        ({"genome": None}, "`vcf` and `genome` go together"),
        ({"mode": "x"}, "`mode` x: choose likelihood, site or embedding"),
        ({"strands": "x"}, "`strands` x: choose forward or both"),
        ({"ref_mismatch": "x"}, "`ref_mismatch` x: choose note, skip or fail"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        ({"stride": 2}, "`stride` is for long sequences"),
        ({"window": 65}, "`window` 65: must be 2 to 64, the tokens"),
        ({"precision": "float16"}, "`precision` float16: choose float32 or float64"),
        ({"model": Path("absent")}, "no checkpoint at absent"),
        ({"vcf": Path("absent.vcf")}, "absent.vcf: no such file"),
        ({"genome": Path("absent")}, "absent: no such file"),
        ({"sequence_column": "seq"}, "`sequence_column` seq: has no effect without a `table`"),
        (
            {"vcf": None, "genome": None, "fasta": Path("absent"), "mode": "site"},
            "`mode` site: has no effect without a `vcf`; leave it out",
        ),
        (
            {"vcf": None, "genome": None, "fasta": Path("absent"), "ref_mismatch": "fail"},
            "`ref_mismatch` fail: has no effect without a `vcf`; leave it out",
        ),
    ],
)
def test_bad_input_is_refused(
    folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    base = letters(genome, "b", 199, 200)
    path = write_vcf(("b", 200, base, other(base)))
    config = ScoreConfig(model=folder, out=tmp_path / "o.tsv", vcf=path, genome=genome.folder)
    with pytest.raises(InputError) as caught:
        score(replace(config, **change), progress=False)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; give a VCF, BCF or MAF"),
        ("b\t5\t.\tA\tC\n", "is not a VCF: no line begins with #CHROM; nor a MAF"),
        ("#CHROM\tPOS\n", "its columns are not those of a VCF"),
        (HEADER, "holds no variant"),
        (HEADER + "b\t5\t.\tA\n", ":3: is not a record of a VCF"),
        (HEADER + "b\tx\t.\tA\tC\n", ":3: POS 'x' is not a number"),
        (HEADER + "b\t²\t.\tA\tC\n", ":3: POS '²' is not a number"),
        (HEADER + "z\t5\t.\tA\tC\n", "none of its contigs (z) is in the genome, which has a, b, c"),
    ],
)
def test_what_is_no_vcf_is_refused(folder: Path, genome: Genome, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "v.vcf"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        score(ScoreConfig(model=folder, out=tmp_path / "o.tsv", vcf=path, genome=genome.folder), progress=False)
    assert message in str(caught.value)


def test_a_failure_on_the_way_keeps_the_finished_parts(folder: Path, tmp_path: Path) -> None:
    sequences = "".join(f">s{i}\nACGTACGT\n" for i in range(20)) + f">long\n{'A' * 100}\n"
    (tmp_path / "s.fa").write_text(sequences)
    config = ScoreConfig(model=folder, out=tmp_path / "o.tsv", fasta=tmp_path / "s.fa", batch_size=1, part_size=8)
    with pytest.raises(InputError, match=r"long: 100 bases are longer .*; 16 sequences are finished and kept in "):
        score(config, progress=False)
    assert not config.out.exists()
    assert (tmp_path / "o.tsv.partial").is_dir()
    with pytest.raises(InputError, match=r"long: 100 bases are longer [^;]*$"):
        score(replace(config, out=tmp_path / "p.tsv", part_size=50), progress=False)
    assert not (tmp_path / "p.tsv.partial").exists()
    assert score(replace(config, out=tmp_path / "p.tsv", window=32, stride=16), progress=False).scored == 21


@pytest.fixture
def config(folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path) -> Callable[..., ScoreConfig]:
    """Makes the options for some records, or for a file of variants."""

    def make(*records: tuple[str, int, str, str], **changes: Any) -> ScoreConfig:
        path = changes.pop("vcf", None) or write_vcf(*records)
        return replace(
            ScoreConfig(model=folder, out=tmp_path / "o.tsv", vcf=path, genome=genome.folder, window=64), **changes
        )

    return make


def scored(config: ScoreConfig) -> list[dict[str, str]]:
    score(config, progress=False)
    return rows(config.out)


def test_the_site_of_a_deletion_is_as_long_as_the_deletion(
    config: Any, model: HyenaDNAForCausalLM, genome: Genome
) -> None:
    gone = letters(genome, "b", 299, 304)
    (row,) = scored(config(("b", 300, gone, gone[0]), mode="site"))
    record = next(iter(open_variants(config(("b", 300, gone, gone[0])).vcf).read()))
    cut = windows(justify(alleles(record, genome)[0], genome), genome, 64)
    site = slice(cut.before, cut.before + cut.longest)
    assert cut.longest >= 4
    expected = nats(model, cut.changed)[site].sum() - nats(model, cut.reference)[site].sum()
    assert float(row["score"]) == pytest.approx(expected, abs=2e-6)
    (whole,) = scored(config(("b", 300, gone, gone[0])))
    change = np.nansum(nats(model, cut.changed)) - np.nansum(nats(model, cut.reference))
    assert float(whole["score"]) == pytest.approx(change, abs=2e-6)
    assert abs(change - expected) > 0.01
    (added,) = scored(config(("b", 300, gone[0], gone[0] + "GATTACA"), mode="site"))
    record = next(iter(open_variants(config(("b", 300, gone[0], gone[0] + "GATTACA")).vcf).read()))
    cut = windows(justify(alleles(record, genome)[0], genome), genome, 64)
    site = slice(cut.before, cut.before + cut.longest)
    expected = nats(model, cut.changed)[site].sum() - nats(model, cut.reference)[site].sum()
    assert float(added["score"]) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("mode", ["likelihood", "site", "embedding"])
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_at_the_ends_of_a_contig_there_is_a_note(
    config: Any, genome: Genome, tmp_path: Path, mode: str, strands: str
) -> None:
    first, last = letters(genome, "b", 0, 3), letters(genome, "b", 895, 900)
    (tmp_path / "one.fa").write_text(">b\nA\n")
    found = scored(
        config(
            ("b", 1, first[0], other(first[0])),
            ("b", 896, last, last[0]),
            ("b", 900, last[-1], last[-1] + "GATTACA"),
            ("b", 900, last[-1], other(last[-1])),
            ("b", 30, letters(genome, "b", 29, 30), other(letters(genome, "b", 29, 30))),
            mode=mode,
            strands=strands,
        )
    )
    name = "distance" if mode == "embedding" else "score"
    assert all(row["note"] for row in found)
    assert [row["note"] for row in found[1:3]] == 2 * ["too few bases stand behind it to compare"]
    assert [row[name] for row in found[1:3]] == ["", ""]
    if mode == "embedding":
        assert float(found[0][name]) > 0
    else:
        assert (found[0]["note"], found[0][name]) == ("no base stands before it", "")
    is_scored = mode == "embedding" or strands == "forward"
    assert bool(found[3][name]) == is_scored
    assert found[3]["note"] == (
        "score, but the contig ends within the window" if is_scored else "no base stands before it"
    )
    assert found[4]["note"] == "score, but the contig ends within the window"
    found = scored(
        config(("b", 1, "A", "C"), ("b", 1, "A", "AC"), mode=mode, strands=strands, genome=tmp_path / "one.fa")
    )
    assert [(row[name], row["note"]) for row in found] == 2 * [("", "too few bases stand behind it to compare")]


def test_n_is_shown_as_padding_unless_told_otherwise(
    config: Any, folder: Path, model: HyenaDNAForCausalLM, genome: Genome, tmp_path: Path
) -> None:
    base = letters(genome, "a", 1050, 1051)
    record = ("a", 1051, base, other(base))
    (masked,), (shown,) = (scored(config(record, n_to_pad=value)) for value in (True, False))
    assert masked["note"] == shown["note"] == "score, but N within the window"
    assert masked["score"] != shown["score"]
    (close,), (far,) = (scored(config(record, n_to_pad=value, mode="embedding")) for value in (True, False))
    assert close["distance"] != far["distance"]
    assert far["note"] == "score, but N within the window"
    (tmp_path / "s.fa").write_text(">s\nACGTNNACGATTA\n")
    both = [
        scored(ScoreConfig(model=folder, out=tmp_path / "s.tsv", fasta=tmp_path / "s.fa", n_to_pad=value))
        for value in (True, False)
    ]
    ids = encode("ACGTNNACGATTA", "")
    expected = nats(model, ids)
    assert float(both[0][0]["log_likelihood"]) == pytest.approx(np.nansum(expected[ids != N_ID]), abs=1e-6)
    assert both[0][0]["log_likelihood"] != both[1][0]["log_likelihood"]


def test_letters_that_are_no_base_get_a_note(config: Any, genome: Genome) -> None:
    base = letters(genome, "b", 199, 200)
    found = scored(
        config(
            *(("b", 200, base, alt) for alt in ("N", "R", base + "N", "<NON_REF>", ".", f"{base}[a:9[")),
            ("b", 200, "N", other(base)),
            ("a", 1010, "A", "C"),
            ("b", 0, "N", "A"),
            ("b", 200, base.lower(), other(base).lower()),
        )
    )
    assert [row["note"] for row in found] == [
        *3 * ["an allele holds N or another ambiguity code"],
        "symbolic allele",
        "no alternative allele",
        "symbolic allele",
        "an allele holds N or another ambiguity code",
        "the genome has N in place of REF",
        "POS 0 stands before the first base",
        "",
    ]
    assert [bool(row["score"]) for row in found] == [*9 * [False], True]


def test_unknown_bases_of_the_genome_are_no_mismatch(config: Any) -> None:
    result = score(config(*(("a", p, "A", "C") for p in range(1001, 1031)), ref_mismatch="fail"), progress=False)
    assert result.problems == {"the genome has N in place of REF": 30}


def test_the_columns_of_the_file_stay_as_they_are(config: Any, genome: Genome, tmp_path: Path) -> None:
    base, alt = letters(genome, "b", 199, 200), other(letters(genome, "b", 199, 200))
    path = tmp_path / "v.vcf"
    names = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "score", "note"]
    records = [
        ["b", "200", ".", base, alt, ".", ".", 'A="x, ""y""', "7", "mine"],
        ["b", "200", ".", base, alt, ".", "."],
        ["b", "200", ".", base, f"{alt},{alt}{alt}", ".", ".", "é", "", "", "more", "and more"],
    ]
    lines = ["##fileformat=VCFv4.2", "\t".join(names), *("\t".join(fields) for fields in records)]
    path.write_bytes("\r\n".join(lines).encode().replace("é".encode(), b"\xe9"))
    score(config(vcf=path), progress=False)
    header, *found = (line.split("\t") for line in config(vcf=path).out.read_bytes().decode("latin-1").splitlines())
    assert header == [
        *names,
        "column_11",
        "column_12",
        "ref_log_likelihood",
        "alt_log_likelihood",
        "hyenadna_score",
        "hyenadna_note",
    ]
    assert {len(fields) for fields in found} == {len(header)}
    assert found[0][:10] == records[0]
    assert found[1][:12] == [*records[1], *5 * [""]]
    assert found[2][:12] == [*records[2][:4], alt, *records[2][5:]]
    assert found[3][:12] == [*records[2][:4], alt + alt, *records[2][5:]]
    assert found[0][12:] == found[1][12:] == found[2][12:]
    assert float(found[0][14]) != 0
    (tmp_path / "t.csv").write_text('sequence,bases,per_base\nACGTACGT,"a ""b""",2\n')
    table = replace(config(vcf=path), vcf=None, genome=None, table=tmp_path / "t.csv", window=None)
    (row,) = scored(table)
    assert list(row) == [
        "sequence",
        "bases",
        "per_base",
        "hyenadna_bases",
        "log_likelihood",
        "hyenadna_per_base",
        "perplexity",
    ]
    assert (row["bases"], row["per_base"], row["hyenadna_bases"]) == ('a "b"', "2", "7")


@pytest.mark.parametrize("name", ["o.vcf", "o.vcf.gz"])
def test_an_annotated_vcf_is_the_file_and_its_scores(config: Any, genome: Genome, tmp_path: Path, name: str) -> None:
    if name.endswith("gz"):
        pytest.importorskip("pysam")
    base, alt = letters(genome, "b", 199, 200), other(letters(genome, "b", 199, 200))
    records = (("b", 200, base, f"{alt},<DEL>,{base}AC"), ("b", 200, base, "<INS>"), ("b", 700, "N", "."))
    table = scored(config(*records))
    made = config(*records, out=tmp_path / name)
    result = score(made, progress=False)
    data = made.out.read_bytes()
    text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
    # The empty block that ends a bgzip file.
    assert not name.endswith("gz") or data.endswith(bytes.fromhex("1b0003000000000000000000"))
    assert (result.rows, result.scored) == (5, 2)
    # What is removed again leaves the file as it was.
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("##INFO=<ID=HYENADNA_")]
    assert re.sub(r";HYENADNA_[^\t\n]*", "", "".join(lines)) == made.vcf.read_text()
    assert text.count("##INFO=<ID=HYENADNA_") == 4
    infos = [dict(pair.split("=") for pair in line.split("\t")[7].split(";")) for line in lines if line[0] != "#"]
    assert infos[0] == {
        "X": "1\n",
        **{
            f"HYENADNA_{column.upper()}": ",".join(row[column] or "." for row in table[:3])
            for column in ("ref_log_likelihood", "alt_log_likelihood", "score")
        },
        "HYENADNA_NOTE": ".,symbolic_allele,.\n",
    } | {"X": "1"}
    assert infos[1] == {"X": "1", "HYENADNA_NOTE": "symbolic_allele\n"}
    skipped = score(
        replace(
            made,
            vcf=config(*records, ("b", 300, other(letters(genome, "b", 299, 300)), "AC,<DEL>")).vcf,
            ref_mismatch="skip",
        ),
        progress=False,
    )
    assert (skipped.rows, skipped.problems["REF differs from the genome"]) == (5, 2)


def test_formats_that_do_not_fit_are_refused(config: Any, genome: Genome, tmp_path: Path) -> None:
    made = config(("b", 200, "A", "C"))
    (tmp_path / "m.maf").write_text("Chromosome\tStart_Position\tReference_Allele\tTumor_Seq_Allele2\nb\t5\tA\tC\n")
    for changes, message in (
        ({"out_format": "vcf"}, "must end in .vcf or .vcf.gz for `out_format` vcf"),
        ({"out": tmp_path / "o.tsv.gz"}, "a TSV is written as plain text; choose a name without .gz"),
        ({"out": tmp_path / "o.vcf", "vcf": tmp_path / "m.maf"}, "is a MAF, whose scores are written as TSV"),
        ({"out": tmp_path / "o.vcf", "vcf": None, "genome": None, "fasta": made.vcf}, "a VCF needs variants"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            score(replace(made, **changes), progress=False)
    assert scored(replace(made, out=tmp_path / "o.vcf", out_format="tsv", ref_mismatch="note"))


def test_a_maf_and_a_bcf_give_the_scores_of_the_vcf(config: Any, genome: Genome, tmp_path: Path) -> None:
    bcftools = pytest.importorskip("pysam.bcftools")
    base, four = letters(genome, "b", 199, 200), letters(genome, "b", 299, 303)
    records = (("b", 200, base, other(base)), ("b", 300, four, four[0]), ("b", 200, base, base + "GT"))
    expected = scored(config(*records))
    path = tmp_path / "m.maf"
    lines = [
        "#version 2.4",
        "Hugo_Symbol\tNCBI_Build\tChromosome\tStart_Position\tReference_Allele\tTumor_Seq_Allele1\tTumor_Seq_Allele2\tscore",
        f"X\thg\tchrb\t200\t{base}\t{base}\t{other(base)}\t5",
        f"Y\thg\tchrb\t301\t{four[1:]}\t{four[1:]}\t-\t",
        "Z\thg\tchrb\t200\t-\t-\tGT",
    ]
    path.write_text("\n".join(lines) + "\n")
    found = scored(config(vcf=path))
    assert [row["hyenadna_score"] for row in found] == [row["score"] for row in expected]
    assert [(row["Hugo_Symbol"], row["score"], row["note"]) for row in found] == [
        ("X", "5", ""),
        ("Y", "", ""),
        ("Z", "", ""),
    ]
    wrong = [f"W\thg19\tb\t{300 + i}\t{other(letters(genome, 'b', 299 + i, 300 + i))}\t\t-\t" for i in range(20)]
    path.write_text("\n".join(lines[:2] + wrong) + "\n")
    with pytest.raises(
        InputError, match=r"in 20 of 20 alleles .*: wrong genome build\? \(NCBI_Build is hg19; `ref_mis"
    ):
        score(config(vcf=path), progress=False)
    (tmp_path / "v.vcf").write_text(
        (tmp_path / "v.vcf")
        .read_text()
        .replace("#CHROM", '##contig=<ID=b>\n##INFO=<ID=X,Number=1,Type=Integer,Description="">\n#CHROM')
    )
    bcftools.view("-Ob", "-o", str(tmp_path / "v.bcf"), str(tmp_path / "v.vcf"), catch_stdout=False)
    assert scored(config(vcf=tmp_path / "v.bcf")) == expected
    made = config(vcf=tmp_path / "v.bcf", out=tmp_path / "o.vcf")
    score(made, progress=False)
    lines = made.out.read_text().splitlines()
    assert [re.search("HYENADNA_SCORE=([^;]*)", line)[1] for line in lines if line[0] != "#"] == [
        row["score"] for row in expected
    ]  # type: ignore[index]


def test_names_of_contigs(config: Any, genome: Genome, tmp_path: Path) -> None:
    bases = {
        "1": letters(genome, "b", 0, 200),
        "chr1": letters(genome, "b", 200, 400),
        "chrM": letters(genome, "b", 400, 600),
    }
    (tmp_path / "n.fa").write_text("".join(f">{name}\n{text}\n" for name, text in bases.items()))
    (tmp_path / "names.txt").write_text("# chromAlias\nNC_1.1\tchrM\n")
    records = [
        (name, 100, bases[contig][99], other(bases[contig][99]))
        for name, contig in (
            ("1", "1"),
            ("chr1", "chr1"),
            ("MT", "chrM"),
            ("M", "chrM"),
            ("chrMT", "chrM"),
            ("NC_1.1", "chrM"),
        )
    ]
    found = scored(config(*records, genome=tmp_path / "n.fa", aliases=tmp_path / "names.txt", ref_mismatch="fail"))
    assert [row["note"] for row in found] == 6 * [""]
    assert found[0]["score"] != found[1]["score"]
    assert len({row["score"] for row in found[2:]}) == 1
    (*_, row) = scored(config(*records, genome=tmp_path / "n.fa"))
    assert row["note"] == "the genome has no contig NC_1.1"


def test_names_in_a_fasta_may_repeat_and_records_be_empty(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "s.fa").write_text(">x 1\nACGTAC\n>x 2\nGGGACA\n>empty\n>y\nACGTAC\n")
    found = scored(ScoreConfig(model=folder, out=tmp_path / "o.tsv", fasta=tmp_path / "s.fa"))
    assert [(row["name"], row["bases"]) for row in found] == [("x", "5"), ("x", "5"), ("empty", "0"), ("y", "5")]
    assert found[0]["log_likelihood"] == found[3]["log_likelihood"] != found[1]["log_likelihood"]
    assert found[2]["log_likelihood"] == ""


@pytest.mark.parametrize("kind", ["sequences", "tsv", "vcf"])
def test_a_stopped_run_resumes_to_the_same_bytes(
    folder: Path, genome: Genome, write_vcf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bases = [(p, letters(genome, "b", p - 1, p)) for p in range(100, 117)]
    records = [("b", p, base, other(base) + ",<DEL>") for p, base in bases]
    (tmp_path / "s.fa").write_text("".join(f">s{p}\n{letters(genome, 'b', p, p + 20 + p % 9)}\n" for p, _ in bases))
    source: dict[str, Any] = {"vcf": write_vcf(*records), "genome": genome.folder}
    if kind == "sequences":
        source = {"fasta": tmp_path / "s.fa"}
    out = tmp_path / f"o.{'vcf' if kind == 'vcf' else 'tsv'}"
    config = ScoreConfig(model=folder, out=out, precision="float32", batch_size=3, part_size=4, window=None, **source)
    whole = score(config, progress=False)
    expected = out.read_bytes()
    out.unlink()

    real, calls = LogLikelihoodScorer._score, []

    def stop(self: LogLikelihoodScorer, rows: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(rows))
        if len(calls) > 5:
            raise KeyboardInterrupt
        return real(self, rows)

    monkeypatch.setattr(LogLikelihoodScorer, "_score", stop)
    with pytest.raises(KeyboardInterrupt, match=r"are finished and kept in .*: the same command with `resume`"):
        score(config, progress=False)
    assert not out.exists()
    finished = len(calls)
    monkeypatch.setattr(LogLikelihoodScorer, "_score", real)
    with pytest.raises(InputError, match="continue it with `resume`"):
        score(config, progress=False)
    with pytest.raises(InputError, match=r"other options \(strands: 'forward' there, 'both' now\)"):
        score(replace(config, strands="both", resume=True), progress=False)
    calls.clear()

    def count(self: LogLikelihoodScorer, rows: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(LogLikelihoodScorer, "_score", count)
    assert score(replace(config, resume=True), progress=False) == whole
    assert out.read_bytes() == expected
    # What was finished is not computed again.
    assert finished > 5
    assert sum(calls) <= (17 - 4) * (1 if kind == "sequences" else 2)
    assert not (tmp_path / f"{out.name}.partial").exists()


def test_a_third_allele_of_a_maf_is_told(config: Any, genome: Genome, tmp_path: Path) -> None:
    ref = letters(genome, "b", 99, 100)
    first, second = [base for base in "ACGT" if base != ref][:2]
    path = tmp_path / "third.maf"
    names = ("Chromosome", "Start_Position", "Reference_Allele", "Tumor_Seq_Allele1", "Tumor_Seq_Allele2")
    path.write_text("\t".join(names) + f"\nb\t100\t{ref}\t{first}\t{second}\nb\t100\t{ref}\t{ref}\t{second}\n")
    scoring = config(vcf=path)
    result = score(scoring, progress=False)
    third, plain = rows(scoring.out)
    assert UNSCORED_ALLELE in third["note"]
    assert UNSCORED_ALLELE not in plain["note"]
    assert third["score"] == plain["score"] != ""
    assert result.remarks[UNSCORED_ALLELE] == 1


def test_distances_are_those_of_the_mean_states(config: Any, model: HyenaDNAForCausalLM, genome: Genome) -> None:
    base = letters(genome, "b", 299, 300)
    scoring = config(("b", 300, base, other(base)), mode="embedding")
    (row,) = scored(scoring)
    record = next(iter(open_variants(scoring.vcf).read()))
    cut = windows(justify(alleles(record, genome)[0], genome), genome, 64)
    with torch.no_grad():
        ref, alt = (
            model.hyena(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0].mean(dim=0)
            for ids in (cut.reference, cut.changed)
        )
    cosine = float(torch.nn.functional.cosine_similarity(ref, alt, dim=0))
    assert float(row["distance"]) == pytest.approx(float((alt - ref).norm()), abs=1e-6)
    assert float(row["cosine_distance"]) == pytest.approx(1 - cosine, abs=1e-6)
    assert min(float(row["distance"]), float(row["cosine_distance"])) > 1e-5
