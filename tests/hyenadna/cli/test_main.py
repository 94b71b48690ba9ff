from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import hyenadna
from hyenadna import HyenaDNAForCausalLM
from hyenadna.cli import main as cli
from hyenadna.common.errors import InputError
from hyenadna.common.run_layout import plain, read_metrics
from hyenadna.inference import embed
from hyenadna.pretraining import train
from hyenadna.pretraining.train import PretrainConfig

ROOT = Path(__file__).resolve().parents[3]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line with these words, in this process."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def tiny(tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return tiny_config(tmp_path_factory.mktemp("cli") / "run", steps=3, eval_every=0, threads=1)


@pytest.fixture(scope="module")
def settings(tiny: PretrainConfig) -> Path:
    """The configuration of a run as a YAML file."""
    path = tiny.out.parent / "settings.yaml"
    path.write_text(yaml.safe_dump(plain(tiny)))
    return path


@pytest.fixture(scope="module")
def run(settings: Path, tiny: PretrainConfig) -> Path:
    """The folder of a finished run."""
    cli.main(["pretrain", "--config", str(settings)])
    return tiny.out


def test_the_whole_way(
    call: Callable[..., Outcome], tiny_fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = call("prepare", tiny_fasta, "--out", "genome")
    assert prepared == Outcome(
        0, "tiny.fa: 3 contigs, 5,440 nucleotides, 40 of them N (with 0 other IUPAC codes read as N)\n", ""
    )

    words = "--d_model 16 --max_seq_len 64 --length=32 --batch_size 4 --steps 2 --eval_every 0 --device cpu --lr 1e-3"
    trained = call("pretrain", "--genome", "genome", "--out", "run", "--valid_contigs", "b,c", *words.split())
    assert (trained.code, trained.err) == (0, "")
    last = trained.out.splitlines()[-1]
    assert last.startswith("2 steps in ")
    assert last.endswith("over 1,398 positions; model in run/model")

    words = "--genome genome --contigs c --exclude b --out result --markov_order 2 --device cpu"
    scored = call("evaluate", "--model", "run/model", *words.split())
    assert (scored.code, scored.err) == (0, "")
    row = json.loads(Path("result/evaluation.json").read_text())
    assert scored.out.splitlines() == [
        "             perplexity  accuracy  prior strength",
        *(
            f"Markov {k:<5} {v['perplexity']:>10.4f} {v['accuracy']:>9.4f} {v['prior_strength']:>15.4g}"
            for k, v in row["markov"].items()
        ),
        f"model        {row['perplexity']:>10.4f} {row['accuracy']:>9.4f}",
        "prior strengths fitted on a:3636-4040 of the training part, which then counts too",
        "499 positions; figures in result",
    ]
    assert list(row["markov"]) == ["0", "1", "2"]

    converted = call("convert", "run/model", "copy", "--to", "hf", "--modulation_shift", "0.0")
    assert converted == Outcome(0, "copy\n", "")
    copy, model = (HyenaDNAForCausalLM.from_pretrained(name) for name in ("copy", "run/model"))
    assert copy.config.modulation_shift == 0.0
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters(), strict=True))

    told = call("doctor")
    assert (told.code, told.err) == (0, "")
    assert "transformers " in told.out
    assert "tensorboard" in told.out


COMMANDS = [*cli.VERBS, *(f"{group} {kind}" for group, kinds in cli.GROUPS.items() for kind in kinds)]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_help_with_an_example(call: Callable[..., Outcome], verb: str) -> None:
    shown = call(*verb.split(), "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"usage: hyenadna {verb}")
    example = shown.out[shown.out.index("\nexample:\n") :]
    assert f"  hyenadna {verb}" in example


def test_every_option_of_a_configuration_is_told(call: Callable[..., Outcome]) -> None:
    told = " ".join(call("pretrain", "--help").out.split())
    assert "--lr LR Peak learning rate. (type: float, default: 0.0006)" in told
    assert "(required, type: Path)" in told
    assert "<class" not in told
    for name in vars(PretrainConfig(genome=Path(), out=Path())):
        assert f"--{name} " in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--resume"], True),
        (["--resume", "true"], True),
        (["--resume=false"], False),
        (["--resume", "--batch_size", "3"], True),
        ([], False),
    ],
)
@pytest.mark.parametrize(("verb", "module"), [("pretrain", train), ("embed", embed)])
def test_resume_is_a_flag_and_takes_a_value(
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tiny_genome: Path,
    tiny_fasta: Path,
    verb: str,
    module: Any,
    words: list[str],
    expected: bool,
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(module, verb, lambda config, **more: seen.append(more.get("resume", config)) or stop())
    source = ["--genome", tiny_genome] if verb == "pretrain" else ["--model", "owner/name", "--fasta", tiny_fasta]
    assert call(verb, "--out", "o.npz", *source, *words) == Outcome(2, "", "error: stop\n")
    assert getattr(seen[0], "resume", seen[0]) is expected


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(call: Callable[..., Outcome], words: list[str]) -> None:
    shown = call(*words)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("usage: hyenadna VERB")
    assert "example:" in shown.out
    for name in cli.VERBS:
        assert f"\n  {name} " in shown.out


def test_the_printed_configuration_can_be_given_back(
    call: Callable[..., Outcome], settings: Path, tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--steps", 7, "--valid_contigs", "b", "--model_fields", '{"filter_order": 8}')
    printed = call("pretrain", "--config", settings, *words, "--print_config")
    assert (printed.code, printed.err) == (0, "")
    (tmp_path / "again.yaml").write_text(printed.out)

    seen: list[PretrainConfig] = []
    monkeypatch.setattr(train, "pretrain", lambda config, resume: seen.append(config) or stop())
    assert call("pretrain", "--config", tmp_path / "again.yaml", "--seed=3").code == 2
    expected = {**plain(tiny), "steps": 7, "seed": 3, "valid_contigs": ["b"], "model_fields": {"filter_order": 8}}
    assert plain(seen[0]) == expected
    assert isinstance(seen[0].genome, Path)


def stop() -> Any:
    raise InputError("stop")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--valid_contigs", "a,b"], ["a", "b"]),
        (["--valid_contigs=a"], ["a"]),
        (["--valid_contigs", "[a, b]"], ["a", "b"]),
        (["--valid_contigs", "['a',\"b\"]"], ["a", "b"]),
        (["--valid_contigs=1,X,chr2"], ["1", "X", "chr2"]),
        (["--valid_contigs", "null,1e3"], ["null", "1e3"]),
        (["--valid_contigs", "[]"], []),
        ([], []),
    ],
)
def test_lists(
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tiny_genome: Path,
    words: list[str],
    expected: list[str],
) -> None:
    seen: list[PretrainConfig] = []
    monkeypatch.setattr(train, "pretrain", lambda config, resume: seen.append(config) or stop())
    assert call("pretrain", "--genome", tiny_genome, "--out", "o", *words) == Outcome(2, "", "error: stop\n")
    assert seen[0].valid_contigs == expected


def test_resume(call: Callable[..., Outcome], run: Path, settings: Path) -> None:
    again = call("pretrain", "--config", settings)
    assert again == Outcome(
        2, "", f"error: {run}: already holds a run; continue with --resume, or choose another --out\n"
    )
    other = call("pretrain", "--config", settings, "--resume", "--lr", "0.5")
    assert other.code == 2
    assert other.err.startswith(f"error: {run}: holds a run of another configuration (lr: 0.01 there, 0.5 now)")
    assert other.err.endswith(
        f": to continue it, pass --config {run / 'config.yaml'} and leave out --lr; or choose another --out\n"
    )
    assert other.err.count("\n") == 1
    weights, rows = (run / "model" / "model.safetensors").read_bytes(), read_metrics(run / "metrics.jsonl")
    resumed = call("pretrain", "--config", run / "config.yaml", "--resume", "--workers", "1")
    assert (resumed.code, resumed.err) == (0, "")
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert read_metrics(run / "metrics.jsonl") == rows


def test_tied_heads_go_into_the_original_format(call: Callable[..., Outcome], settings: Path, tmp_path: Path) -> None:
    words = ("--steps", 1, "--model_fields", '{"tie_word_embeddings": true}', "--out", tmp_path / "run")
    assert call("pretrain", "--config", settings, *words).code == 0
    out = tmp_path / "original"
    assert call("convert", tmp_path / "run" / "model", out, "--to", "original") == Outcome(0, f"{out}\n", "")


def test_the_folder_of_a_run_is_no_model(call: Callable[..., Outcome], run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.npz", "--device", "cpu")
    (tmp_path / "t.tsv").write_text("sequence\tlabel\n" + 20 * "ACGT\ta\nACGA\tb\n")
    (tmp_path / "f.fa").write_text(">a\nACGT\n")
    for words in (
        ("evaluate", "--genome", run, *out),
        ("predict", "--fasta", tmp_path / "f.fa", *out),
        ("score", "--fasta", tmp_path / "f.fa", *out),
        ("generate", "--prompt", "ACGT", *out),
        ("embed", "--fasta", tmp_path / "f.fa", *out),
        ("finetune", "--data", tmp_path / "t.tsv", *out),
    ):
        failed = call(*words, "--model", run)
        assert (failed.code, failed.out) == (2, "")
        assert failed.err.endswith(f"; did you mean {run / 'model'}?\n"), failed.err


def test_a_configuration_is_not_written_over(
    call: Callable[..., Outcome], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "s.fa").write_text(">a\nACGT\n")
    settings, link = tmp_path / "s.yaml", tmp_path / "link.yaml"
    settings.write_text(f"fasta: {tmp_path / 's.fa'}\nmodel: {tiny_checkpoint()}\n")
    link.symlink_to(settings)
    before = settings.read_bytes()
    for out in (settings, link):
        failed = call("score", "--config", settings, "--out", out)
        assert failed == Outcome(
            2, "", f"error: --config {settings}: is read, and would be written over; write to another place\n"
        )
    assert settings.read_bytes() == before


WRONG_PRETRAIN = [
    ([], "required and missing: --genome, --out (see hyenadna pretrain --help)"),
    (["--genome", "g"], "required and missing: --out (see hyenadna pretrain --help)"),
    (["--nope", "1"], "unrecognized arguments: --nope 1 (see hyenadna pretrain --help)"),
    (["extra"], "unrecognized arguments: extra (see hyenadna pretrain --help)"),
    (["--steps", "many"], "--steps: expected int, got many (see hyenadna pretrain --help)"),
    (["--steps", "1.5"], "--steps: expected int, got 1.5 (see hyenadna pretrain --help)"),
    (["--lr", "high"], "--lr: expected float, got high (see hyenadna pretrain --help)"),
    (
        ["--reverse_complement", "maybe"],
        "--reverse_complement: expected bool, got maybe (see hyenadna pretrain --help)",
    ),
    (["--threads", "all"], "--threads: expected int, got all (see hyenadna pretrain --help)"),
    (["--embed_dropout", "x"], "--embed_dropout: expected float, got x (see hyenadna pretrain --help)"),
    (["--model_fields", "[1"], "--model_fields: expected dict, got [1 (see hyenadna pretrain --help)"),
    (["--step", "3"], "unrecognized arguments: --step 3 (see hyenadna pretrain --help)"),
    (["--valid_contigs"], "argument --valid_contigs/--valid_contigs+: expected one argument (see hyenadna pretrain"),
    (["--config", "absent.yaml"], "--config absent.yaml: cannot be read (No such file or directory)"),
    (["--config", "."], "--config .: cannot be read (Is a directory)"),
    (["--config=broken.yaml"], "--config broken.yaml:2: not valid YAML (expected ',' or ']', but got ':')"),
    (["--config", "list.yaml"], "--config list.yaml: holds no options; a line is, for example, steps: 1000"),
    (["--config", "unknown.yaml"], "--config unknown.yaml: no option is called stepz"),
    (["--config", "twice.yaml"], "--config twice.yaml:3: not valid YAML (lr stands there twice)"),
    (["--config", "inside.yaml"], "--config inside.yaml:1: not valid YAML (a stands there twice)"),
    (["--config", "/dev/null"], "--config /dev/null: holds no options; a line is, for example, steps: 1000"),
    (["--config", "type.yaml"], "--steps: expected int, got many (see hyenadna pretrain --help)"),
    (["--genome", "absent"], "absent: no such folder; make it with `hyenadna prepare GENOME.fa --out absent`"),
    (["--steps", "0"], "--steps 0: must be at least 1"),
    (["--valid_contigs", "z"], "unknown contig 'z'; the genome has 3: a, b, c"),
    (["--length", "2000"], "windows of 2000 tokens: the model is made for 1026; lower --length and --eval_length, or"),
    (
        ["--bed", "wrong.bed"],
        "wrong.bed:1: end 9999 is beyond the end of contig 'a' (4040); is it another assembly's BED?",
    ),
    (["--bed", "absent.bed"], "absent.bed: no such file"),
    (["--size", "huge"], "no published size is called 'huge': choose one of tiny-1k,"),
    (["--init_from", "absent"], "no checkpoint at absent: no such file or folder"),
    (["--lr", "1e30", "--d_model", "8", "--length", "64", "--batch_size", "2"], "step 2: the loss is "),
]


@pytest.mark.parametrize(("words", "message"), WRONG_PRETRAIN, ids=[" ".join(words) for words, _ in WRONG_PRETRAIN])
def test_pretrain_refuses_bad_input_in_one_line(
    call: Callable[..., Outcome],
    tiny_genome: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("steps: [1, 2\nlr: }")
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("unknown.yaml").write_text("stepz: 3\n")
    Path("twice.yaml").write_text("lr: 0.1\nsteps: 2\nlr: 0.2\n")
    Path("inside.yaml").write_text("model_fields: {a: 1, 'a': 2}\n")
    Path("type.yaml").write_text("steps: many\n")
    Path("wrong.bed").write_text("a\t0\t9999\ttrain\n")
    before = sorted(tmp_path.iterdir())
    good = ["--out", "run", "--device", "cpu", "--eval_every", "0", "--max_n_fraction", "1", "--genome"]
    failed = call("pretrain", *([] if message.startswith("required") else [*good, str(tiny_genome)]), *words)
    assert (failed.code, failed.out) == (2, "")
    assert failed.err.startswith(f"error: {message}")
    assert failed.err.endswith("\n")
    assert failed.err.count("\n") == 1
    left = [path.name for path in sorted(tmp_path.iterdir()) if path not in before]
    # A run that was under way keeps what it was.
    assert left == (["run"] if message.startswith("step") else [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fly"],
            "unknown verb 'fly': choose one of prepare, pretrain, evaluate, ",
        ),
        (["prepare"], "required and missing: fasta, --out (see hyenadna prepare --help)"),
        (["prepare", "absent.fa", "--out", "x"], "absent.fa: no such file"),
        (["prepare", "protein.fa", "--out", "x"], "protein.fa:2: 'E' at position 2 of contig 'p' is not a nucleotide"),
        (["prepare", "empty.fa", "--out", "x"], "empty.fa: "),
        (["evaluate"], "required and missing: --model, --genome (see hyenadna evaluate --help)"),
        (["evaluate", "--model", "m", "--genome", "g"], "no checkpoint at m: no such file or folder"),
        (["evaluate", "--model", "a/b", "--genome", "g", "--contigs", "1"], "g: no such folder; make it with"),
        (["convert", "a"], "required and missing: dst (see hyenadna convert --help)"),
        (["convert", "absent", "x"], "no checkpoint at absent: no such file or folder"),
        (["convert", "a", "b", "--to", "onnx"], "argument --to: invalid choice: 'onnx' (choose from "),
        (["finetune", "--data", "d"], "required and missing: --out (see hyenadna finetune --help)"),
        (["finetune", "--data", "d", "--out", "x"], "--method full: needs a --model"),
        (["finetune", "--data", "d", "--out", "x", "--method", "best"], "--method best: choose full, frozen, lora, "),
        (["finetune", "--data", "d", "--out", "x", "--method", "scratch"], "d: no such file or folder"),
        (["finetune", "--data", ".", "--out", "x", "--method", "scratch", "--size", "huge"], "no published size is "),
        (["finetune", "--data", "d", "--out", "x", "--model", "m", "--seeds", "a"], "--seeds: "),
        (["predict", "--model", "m", "--out", "x"], "give one of --fasta and --table to predict"),
        (["score", "--model", "m", "--out", "x"], "give one of --fasta, --table and --vcf to score"),
        (["score", "--model", "m", "--out", "x", "--fasta", "absent.fa"], "no checkpoint at m: no such file or folder"),
        (["predict", "--model", "a/b", "--out", "x", "--fasta", "prepared"], "prepared: is a genome of `hyenadna prep"),
        (["generate", "--model", "a/b", "--out", "x", "--prompt_fasta", "prepared"], "prepared: is a genome of `hyen"),
        (["embed", "--model", "m", "--out", "x.npz"], "give one of --fasta, --bed and --table to embed"),
        (["plot", "fly"], "unknown kind 'fly': choose one of embeddings, training, results, mutagenesis"),
        (["plot", "embeddings", "--out", "x.png"], "required and missing: --embeddings (see hyenadna plot embeddings "),
        (
            ["plot", "embeddings", "--embeddings", "e.npz", "--out", "x.png"],
            "e.npz: no such file; hyenadna embed writes one",
        ),
        (["plot", "training", "--metrics", "m.jsonl", "--out", "x.png"], "m.jsonl: no such file; hyenadna pretrain"),
        (["plot", "results", "--out", "x.png", "--results", "1,b"], "1/results.json: no results of hyenadna finetune"),
        (["plot", "results", "--out", "x.png", "--results", "[b, c]"], "b/results.json: no results of hyenadna "),
        (
            ["generate", "--model", "m", "--out", "x"],
            "give one of --prompt and --prompt_fasta: the model has ",
        ),
        (["doctor", "now"], "unrecognized arguments: now (see hyenadna doctor --help)"),
    ],
)
def test_other_verbs_refuse_bad_input_in_one_line(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("protein.fa").write_text(">p\nMEEPQ\n")
    Path("empty.fa").write_text("")
    Path("prepared").mkdir()
    Path("prepared", "index.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    failed = call(*words)
    assert (failed.code, failed.out) == (2, "")
    assert failed.err.startswith(f"error: {message}")
    assert failed.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none_is_refused(call: Callable[..., Outcome], settings: Path, tmp_path: Path) -> None:
    failed = call("pretrain", "--config", settings, "--out", tmp_path / "run", "--device", "cuda")
    assert failed == Outcome(2, "", "error: --device cuda: torch sees no CUDA device here; choose cpu, or auto\n")
    assert not (tmp_path / "run").exists()


def test_evaluate_of_a_finished_run_refuses_what_it_cannot_do(
    call: Callable[..., Outcome], run: Path, tiny_genome: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "--model", run / "model", "--genome", tiny_genome, "--device", "cpu", "--out", tmp_path / "x")
    for more, message in (
        (["--contigs", "c", "--length", 65], f"--length 65: the model in {run / 'model'} is made for 64 tokens"),
        (["--contigs", "a,b,c"], "nothing is left for training: every contig is held out; leave at least one"),
    ):
        failed = call(*words, *more)
        assert (failed.code, failed.out) == (2, "")
        assert failed.err.startswith(f"error: {message}")
        assert failed.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("two\n  lines"), 2, "error: two lines"),
        (OSError(13, "Permission denied", "x"), 2, "error: [Errno 13] Permission denied: 'x'"),
        (
            ImportError("no", name="transformers"),
            2,
            "error: doctor needs transformers: pip install '.[dna]' in a checkout of hyena_kernels",
        ),
        (
            ImportError("no", name="sklearn.metrics"),
            2,
            "error: doctor needs sklearn.metrics: pip install '.[dna,tasks]' in a checkout of hyena_kernels",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("after step 3"), 130, "interrupted: after step 3"),
    ],
)
def test_what_stops_a_verb_is_one_line(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def verb(argv: object) -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", verb)
    assert call("doctor") == Outcome(code, "", f"{line}\n")


@pytest.mark.parametrize("error", [ImportError("no", name="hyenadna.missing"), RuntimeError("a bug")])
def test_a_bug_is_not_called_bad_input(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def verb(argv: object) -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", verb)
    with pytest.raises(type(error)):
        cli.main(["doctor"])


def python(*words: str, cwd: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, with this package on its path and one variable unset."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop(without, None)
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = python("-m", "hyenadna", "prepare", "absent.fa", "--out", str(tmp_path / "x"), cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: absent.fa: no such file\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_doctor_tells_what_is_missing(tmp_path: Path) -> None:
    """Of a package that is absent neither the module nor its metadata is found."""
    script = """
import sys
from importlib import metadata
packages = {"yaml": "PyYAML", "jsonargparse": "jsonargparse", "tqdm": "tqdm", "transformers": "transformers"}
for module in packages:
    sys.modules[module] = None
version = metadata.version
def absent(name):
    if name in packages.values():
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = absent
import hyenadna_command
from hyenadna.cli.main import main
main(["doctor"])
"""
    done = python("-c", script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {f"{name} not installed" for name in ("PyYAML", "jsonargparse", "tqdm", "transformers")} <= {*lines}
    assert {name for name in ("torch", "numpy") if any(line.startswith(f"{name} ") for line in lines)} == {
        "torch",
        "numpy",
    }
    assert any(line.startswith("umap-learn ") for line in lines)


# What a verb does before its work: processor seconds, and whether a module that takes seconds was imported.
MEASURE = """
import sys, time
import hyenadna_command
try:
    hyenadna_command.main()
finally:
    heavy = sorted({"torch", "transformers"} & {*sys.modules})
    print("\\n", time.process_time(), *heavy, file=sys.__stderr__)
"""
LIGHT = {
    "version": (0, ["--version"]),
    "list of verbs": (0, ["--help"]),
    **{f"{verb} --help": (0, [*verb.split(), "--help"]) for verb in COMMANDS},
    "prepare": (2, ["prepare", "absent", "--out", "x"]),
    "pretrain": (2, ["pretrain", "--genome", "absent", "--out", "x"]),
    "pretrain from a checkpoint": (2, ["pretrain", "--genome", "GENOME", "--init_from", "absent", "--out", "x"]),
    "evaluate": (2, ["evaluate", "--model", "owner/name", "--genome", "absent"]),
    "finetune": (2, ["finetune", "--data", "GENOME", "--model", "absent", "--out", "x"]),
    "predict": (2, ["predict", "--model", "owner/name", "--fasta", "absent", "--out", "x"]),
    "score": (2, ["score", "--model", "owner/name", "--vcf", "absent", "--genome", "GENOME", "--out", "x"]),
    "embed": (2, ["embed", "--model", "owner/name", "--table", "absent", "--out", "x.npz"]),
    "cancer": (2, ["cancer", "--data", "absent", "--settings", "[scratch]", "--out", "x"]),
    "generate": (2, ["generate", "--model", "absent", "--prompt", "A", "--out", "x"]),
    "plot embeddings": (2, ["plot", "embeddings", "--embeddings", "absent", "--out", "x.png"]),
    "plot training": (2, ["plot", "training", "--metrics", "absent", "--out", "x.png"]),
    "plot results": (2, ["plot", "results", "--results", "absent", "--out", "x.png"]),
    "plot mutagenesis": (
        2,
        ["plot", "mutagenesis", "--model", "absent", "--genome", "GENOME", "--region", "a:1-2", "--out", "x.png"],
    ),
    "mutate": (
        2,
        ["mutate", "--fasta", "GENOME", "--mutations", "absent", "--models", "absent", "--classes=a,b", "--out_dir=x"],
    ),
    "convert": (2, ["convert", "absent", "x"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LIGHT)
def test_help_and_a_missing_file_are_instant(case: str, tiny_genome: Path, tmp_path: Path) -> None:
    code, words = LIGHT[case]
    words = [str(tiny_genome) if word == "GENOME" else word for word in words]
    seconds: list[float] = []
    while not seconds or (min(seconds) > 0.7 and len(seconds) < 3):
        # Bytecode is kept, as it is for whoever installed the package.
        done = python("-c", MEASURE, *words, cwd=tmp_path, without="PYTHONDONTWRITEBYTECODE")
        assert done.returncode == code, done.stderr
        *message, measured = done.stderr.splitlines()
        time, *heavy = measured.split()
        assert heavy == []
        seconds.append(float(time))
    assert min(seconds) < 0.7, f"{seconds} s of processor time"
    if code:
        assert message[0].startswith("error: ")
        assert "absent" in message[0]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["--version", "-V", *(f"{verb} --version" for verb in cli.VERBS), "finetune -V"])
def test_version(call: Callable[..., Outcome], words: str) -> None:
    assert call(*words.split()) == Outcome(0, f"hyenadna {hyenadna.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "GENOME", "--out", "x"],
        ["pretrain", "--genome", "GENOME", "--out", "x", "--resume"],
        ["generate", "--model", "owner/name", "--prompt", "A", "--out", "x"],
        ["convert", "GENOME", "x"],
        ["mutate", "--fasta", "FASTA", "--mutations", "FASTA", "--models", "FASTA", "--classes=a,b", "--out_dir=x"],
        ["cancer", "--data", "GENOME", "--settings", "[scratch]", "--out", "x"],
    ],
    ids=lambda words: words[0],
)
def test_verbs_that_do_not_divide_their_work_run_in_one_process(
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tiny_genome: Path,
    tiny_fasta: Path,
    tmp_path: Path,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    places = {"GENOME": str(tiny_genome), "FASTA": str(tiny_fasta)}
    refused = call(*(places.get(word, word) for word in words))
    assert (refused.code, refused.out) == (2, "")
    verb = cli.VERBS[words[0]]
    divides = isinstance(verb, cli.Verb) and verb.divides
    reason = "finds the other processes by the variables of torchrun" if divides else "runs in one process"
    assert divides == (words[0] not in ("prepare", "generate", "convert", "mutate", "cancer"))
    assert refused.err.startswith(f"error: hyenadna {words[0]} {reason}, and WORLD_SIZE is 2")
    assert refused.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    # Help and the version write nothing.
    assert call(words[0], "--help").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--model", "owner/name", "--genome", "GENOME"],
        ["finetune", "--data", "GENOME", "--method", "scratch", "--out", "x"],
        ["score", "--model", "owner/name", "--fasta", "FASTA", "--out", "x"],
        ["embed", "--model", "owner/name", "--fasta", "FASTA", "--out", "x.npz"],
        ["predict", "--model", "owner/name", "--fasta", "FASTA", "--out", "x"],
    ],
    ids=lambda words: words[0],
)
def test_processes_that_do_not_find_each_other_are_refused(
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tiny_genome: Path,
    tiny_fasta: Path,
    tmp_path: Path,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    places = {"GENOME": str(tiny_genome), "FASTA": str(tiny_fasta)}
    refused = call(*(places.get(word, word) for word in words))
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(
        f"error: hyenadna {words[0]} finds the other processes by the variables of torchrun, and OMPI_COMM_WORLD_SIZE"
    )
    assert refused.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_time_that_processes_wait_is_above_zero(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, settings: Path
) -> None:
    # As torchrun sets them for a single process.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    for seconds in ("0", "-1"):
        told = f"error: --timeout {seconds}: must be a number of seconds above 0\n"
        assert call("pretrain", "--config", settings, "--timeout", seconds) == Outcome(2, "", told)


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 8 TiB"), torch.OutOfMemoryError("out of memory")])
def test_memory_that_is_too_small_is_one_line(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, settings: Path, error: Exception
) -> None:
    def fail(config: PretrainConfig, resume: bool) -> None:
        raise error

    monkeypatch.setattr(train, "pretrain", fail)
    told = f"error: pretrain: the memory is too small ({error}); lower --batch_size, or take shorter sequences\n"
    assert call("pretrain", "--config", settings) == Outcome(2, "", told)


def test_the_allocator_of_a_cpu_is_one_line_too(call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "doctor", lambda words: torch.empty(1 << 60, dtype=torch.uint8))
    failed = call("doctor")
    assert failed.code == 2
    assert failed.err.startswith("error: doctor: the memory is too small (")


WHOLE = """
import hyenadna
from transformers import AutoConfig
print(type(AutoConfig.for_model("hyenadna")).__name__, hyenadna.HyenaDNAConfig.__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [["hyenadna.py"], ["other.py", "-m", "hyenadna"]], ids=" ".join)
def test_a_script_of_any_name_gets_the_classes(words: list[str], tmp_path: Path) -> None:
    # The script's folder comes first on the path, where hyenadna.py would hide the package.
    (tmp_path / words[0]).write_text(f"import sys; sys.path.pop(0)\n{WHOLE}")
    done = python(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "HyenaDNAConfig HyenaDNAConfig\n"), done.stderr


def test_prepare_needs_neither_torch_nor_transformers(tiny_fasta: Path, tmp_path: Path) -> None:
    script = "import hyenadna_command, sys; hyenadna_command.main(); "
    script += "sys.exit(len({'torch', 'transformers'} & {*sys.modules}))"
    done = python("-c", script, "prepare", str(tiny_fasta), "--out", str(tmp_path / "genome"), cwd=tmp_path)
    assert (done.returncode, done.stdout[:18]) == (0, "tiny.fa: 3 contigs"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["--version"]], ids=str)
def test_output_that_is_cut_off_ends_in_silence(
    arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``hyenadna --help | head -1``, with a reader that is gone from the start."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hyenadna", *arguments]
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ""
    # argparse may have noticed first, and does not tell.
    assert done.returncode == 141 or "--help" in arguments
