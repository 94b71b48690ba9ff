"""``hyenadna enbed attention``: windows and global tokens as a dense computation gives them, and the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyenadna.cli import main as cli
from hyenadna.enbed.attention import attention_maps, heads_of
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification
from hyenadna.encoder_decoder.modeling import ENBEDEncoder, ENBEDForConditionalGeneration

FIELDS: dict[str, Any] = {
    "num_layers": 3, "num_decoder_layers": 1, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2,
    "first_local_radius": 3, "first_local_layers": 1, "local_radius": 6, "global_block_size": 8, "max_seq_len": 64,
}  # fmt: skip
TINY = torch.finfo(torch.float32).tiny
"""Below, float32 has fewer bits, and ends in 0."""


@pytest.fixture(scope="module")
def encoder() -> ENBEDEncoder:
    torch.manual_seed(0)
    encoder: ENBEDEncoder = ENBEDForSequenceClassification(ENBEDConfig(**FIELDS)).encoder
    return encoder.double()


def letters(length: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.tensor([68, 70, 74, 87])[torch.randint(4, (length,), generator=rng)]


def dense(encoder: ENBEDEncoder, ids: Tensor, layer: int) -> tuple[Tensor, Tensor, float]:
    """The weights of a layer, ``(H, L, L)`` and ``(H, L, G)``, from its input and a mask of all pairs.

    Also how far weights of LongT5 may be from them, relative to them: it rounds scores and weights to float32.
    """
    attention: Any = encoder.block[layer].layer[0].TransientGlobalSelfAttention
    # Only the first layer of each radius has biases, and hands them on.
    stage = 0 if layer < encoder.config.first_local_layers else encoder.config.first_local_layers
    biases: Any = encoder.block[stage].layer[0].TransientGlobalSelfAttention
    taken: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda module, given: taken.append(given[0][0].double()))
    with torch.no_grad():
        encoder(ids[None])
    hook.remove()
    (x,) = taken
    length, block = len(ids), encoder.config.global_block_size
    count = length // block
    # Bytes that are left over join the last block.
    owner = (torch.arange(length) // block).clamp(max=max(count - 1, 0))
    sums = torch.zeros(count, x.shape[1], dtype=torch.float64)
    if count:
        sums.index_add_(0, owner, x)
    norm = attention.global_input_layer_norm
    sums = sums * torch.rsqrt(sums.square().mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight.double()

    def heads(module: Any, rows: Tensor) -> Tensor:
        return (
            (rows @ module.weight.double().T).view(-1, attention.n_heads, attention.key_value_proj_dim).transpose(0, 1)
        )

    def bias(table: Any, distances: Tensor) -> Tensor:
        buckets = attention._relative_position_bucket(
            distances, num_buckets=encoder.config.relative_attention_num_buckets,
            max_distance=encoder.config.relative_attention_max_distance,
        )  # fmt: skip
        return table.weight.double()[buckets].permute(2, 0, 1)

    place = torch.arange(length)
    offsets = place[None] - place[:, None]
    q, k = heads(attention.q, x), heads(attention.k, x)
    local = q @ k.transpose(1, 2) + bias(biases.relative_attention_bias, offsets)
    local = local.masked_fill(offsets.abs() > encoder.config.radius_of(layer), -torch.inf)
    sides = q @ heads(attention.k, sums).transpose(1, 2)
    sides = sides + bias(biases.global_relative_attention_bias, torch.arange(count)[None] - owner[:, None])
    scores = torch.cat([local, sides], dim=2).detach()
    weights = scores.softmax(dim=2)
    # Rounding a score s changes exp(s) by s eps / 2 of it, and the sum of all by no more. Four more roundings follow.
    error = float(scores[scores.isfinite()].abs().max() + 4) * torch.finfo(torch.float32).eps
    return weights[:, :, :length], weights[:, :, length:], error


def unpacked(local: np.ndarray) -> np.ndarray:
    """Windows ``(H, L, 2 radius + 1)`` as a matrix ``(H, L, L)``."""
    heads, length, width = local.shape
    wide = np.zeros((heads, length, length + width - 1))
    for byte in range(length):
        wide[:, byte, byte : byte + width] = local[:, byte]
    inside = slice(width // 2, width // 2 + length)
    outside = np.delete(wide, np.arange(inside.start, inside.stop), axis=2)
    assert not outside.any()
    return wide[:, :, inside]


# Shorter than a block, no multiple of it, of no window, and of all.
@pytest.mark.parametrize("length", [1, 5, 8, 37, 64])
def test_maps_are_those_of_a_dense_computation(encoder: ENBEDEncoder, length: int) -> None:
    ids = letters(length)
    maps = attention_maps(encoder, ids, [1, 2, 3])
    assert [each.layer for each in maps] == [1, 2, 3]
    for each, radius in zip(maps, (3, 6, 6), strict=True):
        assert each.local.shape == (2, length, 2 * radius + 1)
        assert each.globals.shape == (2, length, length // 8)
        sums = each.local.sum(axis=2) + each.globals.sum(axis=2)
        local, sides, error = dense(encoder, ids, each.layer - 1)
        np.testing.assert_allclose(sums, 1, rtol=error)
        np.testing.assert_allclose(unpacked(each.local), local, rtol=error, atol=TINY)
        np.testing.assert_allclose(each.globals, sides, rtol=error, atol=TINY)


def test_heads_are_told_in_two_numbers(encoder: ENBEDEncoder) -> None:
    (maps,) = attention_maps(encoder, letters(37), [2])
    for head in heads_of(maps):
        *found, error = dense(encoder, letters(37), 1)
        local, sides = (each[head.head - 1] for each in found)
        distance = (torch.arange(37)[None] - torch.arange(37)[:, None]).abs()
        assert head.on_globals == pytest.approx(float(sides.sum() / 37), rel=error)
        assert head.distance == pytest.approx(float((local * distance).sum() / local.sum()), rel=2 * error)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in (ENBEDForConditionalGeneration, ENBEDForSequenceClassification):
        torch.manual_seed(0)
        kind(ENBEDConfig(**FIELDS)).save_pretrained(folder / kind.__name__)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ENBEDForConditionalGeneration", "ENBEDForSequenceClassification"])
def test_the_command_writes_arrays_heads_and_pictures(
    checkpoints: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fasta = tmp_path / "heads", tmp_path / "one.fa"
    fasta.write_text(">gene\nACGTTGCAAC\nggtacn\n")
    words = ["--model", str(checkpoints / kind), "--fasta", str(fasta), "--layers", "[3, 1]", "--out", str(out)]
    cli.main(["enbed", "attention", *words])
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told[1:5]] == [["3", "1"], ["3", "2"], ["1", "1"], ["1", "2"]]
    assert sorted(path.name for path in out.iterdir()) == [
        "attention.npz", "heads.tsv", "layer-01.png", "layer-03.png",
    ]  # fmt: skip
    with np.load(out / "attention.npz") as arrays:
        assert arrays["sequence"] == "ACGTTGCAACGGTACN"
        assert arrays["global_starts"].tolist() == [0, 8]
        encoder = ENBEDForSequenceClassification.from_pretrained(checkpoints / kind).encoder
        ids = torch.tensor(list(b"ACGTTGCAACGGTACN")) + 3
        for maps in attention_maps(encoder, ids, [1, 3]):
            np.testing.assert_array_equal(arrays[f"layer{maps.layer}_local"], maps.local)
            np.testing.assert_array_equal(arrays[f"layer{maps.layer}_globals"], maps.globals)
    header, *rows = (out / "heads.tsv").read_text().splitlines()
    assert header == "layer\thead\ton_globals\tdistance"
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --sequence and --fasta"),
        (["--sequence", "ACGT", "--fasta", "two.fa"], "give one of --sequence and --fasta"),
        (["--sequence", "ACXT"], "--sequence: 'X' at position 3 is not a nucleotide code"),
        (["--sequence", ""], "--sequence: the sequence is empty"),
        (["--sequence", "ACGT", "--layers", "[4]"], "--layers 4: the encoder has layers 1 to 3"),
        (["--sequence", "ACGT", "--layers", "[0]"], "--layers 0: must be"),
        (["--sequence", "ACGT", "--layers", "[1, 1]"], "--layers [1, 1]: names a layer twice"),
        (["--sequence", 65 * "A"], "an input of 65 tokens is longer than the 64"),
        (["--fasta", "two.fa"], "two.fa: holds 2 sequences; give a FASTA with one"),
        (["--fasta", "none.fa"], "none.fa: no such file"),
    ],
)
def test_bad_input_is_one_line(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("two.fa").write_text(">a\nACGT\n>b\nAC\n")
    model = checkpoints / "ENBEDForConditionalGeneration"
    with pytest.raises(SystemExit) as ended:
        cli.main(["enbed", "attention", "--model", str(model), "--out", "out", *words])
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    (line,) = lines
    assert re.match(f"error: .*{re.escape(message)}", line)
    assert not Path("out").exists()
