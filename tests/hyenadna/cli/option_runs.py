"""Tiny runs of every verb, and what can be seen of them, for ``test_every_option.py``."""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hyena_kernels import HyenaOperator
from hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM, HyenaDNAForSequenceClassification
from hyenadna.cancer import mutate as mutating, study as study_module, study_page
from hyenadna.cancer.config import MutateConfig
from hyenadna.cancer.study import ROWS_FOLDER, study
from hyenadna.cancer.study_config import CancerConfig
from hyenadna.cancer.yardsticks import majority
from hyenadna.cli import main as cli, probe as probing
from hyenadna.cli.plot import draw_embeddings, draw_mutagenesis, draw_results, draw_training
from hyenadna.cli.plot_config import EmbeddingsPlot, MutagenesisPlot, ResultsPlot, TrainingPlot
from hyenadna.cli.probe import run_probe
from hyenadna.cli.probe_config import ProbeConfig
from hyenadna.common.run_layout import FINAL_KEY, read_metrics
from hyenadna.comparison.config import ReportConfig
from hyenadna.comparison.report import report
from hyenadna.data.genome import prepare
from hyenadna.drawing import figures
from hyenadna.enbed import attention as enbed_attention, newick, noise as enbed_noise, pretrain as enbed_pretraining
from hyenadna.enbed.attention_config import AttentionConfig
from hyenadna.enbed.evolve import evolve
from hyenadna.enbed.evolve_config import EvolveConfig
from hyenadna.enbed.noise_config import NoiseConfig
from hyenadna.enbed.pairs import mutate_pairs
from hyenadna.enbed.pairs_config import PairsConfig
from hyenadna.enbed.pretrain_config import PretrainConfig as EnbedPretrainConfig
from hyenadna.encoder_decoder.config import ENBEDConfig
from hyenadna.encoder_decoder.heads import ENBEDForSequenceClassification
from hyenadna.encoder_decoder.modeling import ENBEDEncoder, ENBEDForConditionalGeneration
from hyenadna.evaluation.config import EvaluateConfig
from hyenadna.evaluation.evaluate import evaluate
from hyenadna.finetuning import train as finetuning
from hyenadna.finetuning.config import FinetuneConfig
from hyenadna.inference.config import EmbedConfig, GenerateConfig, PredictConfig, ScoreConfig
from hyenadna.inference.embed import embed
from hyenadna.inference.embeddings import COLUMNS, Embeddings
from hyenadna.inference.generate import generate
from hyenadna.inference.predict import predict
from hyenadna.inference.score import score
from hyenadna.model import decoding
from hyenadna.pretraining.config import PretrainConfig
from hyenadna.pretraining.train import pretrain
from tests.hyenadna.cancer.study_tables import make_rows, write_tables
from tests.hyenadna.comparison.folders import put

# What is the same in two runs that compute the same.
_CLOCKS = {"seconds", "tokens_per_second"}


class Seen(dict[str, Any]):
    """What can be seen of a run, by name. ``how`` holds names that say how it was computed, and not what."""

    how = ("calls", "jobs")


@contextmanager
def watched(stop_after: int | None = None) -> Iterator[Seen]:
    """Note every call of a Hyena operator, and the processes that fine-tuning asks for.

    A call is noted by its shape, the dtypes of its input and weights, the mode, the threads, whether autocast is on,
    and the number of worker processes. ``stop_after`` raises KeyboardInterrupt after so many calls, as Ctrl-C does.
    """
    seen = Seen(calls=[], jobs=[])
    forward = HyenaOperator.forward

    # A cache takes the prompts past the operator's own forward.
    mix_prompt = decoding._mix_prompt

    def note(self: HyenaOperator, u: torch.Tensor) -> None:
        if stop_after is not None and len(seen["calls"]) >= stop_after:
            raise KeyboardInterrupt
        seen["calls"].append((
            *map(int, u.shape), str(u.dtype), str(self.in_proj.weight.dtype), self.training, torch.get_num_threads(),
            torch.is_autocast_enabled("cpu"), len(multiprocessing.active_children()),
        ))  # fmt: skip

    def noted(self: HyenaOperator, u: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        note(self, u)
        return forward(self, u, *args, **kwargs)

    encode = ENBEDEncoder.forward

    def noted_encoder(self: ENBEDEncoder, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if stop_after is not None and len(seen["calls"]) >= stop_after:
            raise KeyboardInterrupt
        seen["calls"].append((
            *map(int, input_ids.shape), self.training, torch.get_num_threads(), torch.is_autocast_enabled("cpu"),
            self.gradient_checkpointing,
        ))  # fmt: skip
        return encode(self, input_ids, *args, **kwargs)

    def noted_prompt(mixer: HyenaOperator, x: torch.Tensor, *args: Any) -> Any:
        note(mixer, x)
        return mix_prompt(mixer, x, *args)

    class Pool:
        """Runs in this process what fine-tuning sends to others."""

        def __init__(self, jobs: int, *args: Any, **kwargs: Any) -> None:
            seen["jobs"].append(jobs)

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(function(*args))
            return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HyenaOperator, "forward", noted)
        patch.setattr(decoding, "_mix_prompt", noted_prompt)
        patch.setattr(ENBEDEncoder, "forward", noted_encoder)
        for module in (finetuning, mutating):
            patch.setattr(module, "ProcessPoolExecutor", Pool)
        patch.setattr(mutating, "write_page", lambda folder, report: None)
        patch.setitem(sys.modules, "umap", _fake_umap())
        patch.setattr(finetuning, "draw_curves", _listed)
        patch.setattr(probing, "probe_figure", lambda *shown, **more: None)
        patch.setattr(study_page, "write_files", lambda results, folder: None)
        # The other yardsticks read nothing but the tables, and take most of the time of a tiny study.
        patch.setattr(study_module, "yardsticks", lambda data: iter([majority(data)]))
        patch.setattr(enbed_pretraining, "training_curves", _listed)
        patch.setattr(enbed_noise, "_write_page", lambda results, folder: None)
        patch.setattr(enbed_attention, "draw_heads", lambda *shown, **more: None)
        for name in ("training_curves", "evaluation_bars", "perplexity_by_position"):
            patch.setattr(figures, name, _listed)
        torch.set_num_threads(1)
        yield seen
        torch.set_num_threads(1)


def _listed(*arguments: Any) -> None:
    """Write what a figure is to show in place of the figure, which takes most of the time of a run."""
    (out,) = (value for value in arguments if isinstance(value, Path))
    out.write_text(repr([value for value in arguments if value is not out]))


def _fake_umap() -> types.ModuleType:
    """The import of the real one takes seconds. Points are a function of its arguments."""

    class UMAP:
        def __init__(
            self, n_neighbors: int, min_dist: float, random_state: int, n_jobs: int, precomputed_knn: Any = None
        ) -> None:
            self.at = np.array([n_neighbors + random_state, min_dist])

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, :2] * (1 + np.arange(len(vectors))[:, None] % 5) ** self.at

    module = types.ModuleType("umap")
    for name, value in {
        "UMAP": UMAP,
        "umap_": types.SimpleNamespace(nearest_neighbors=lambda found, *most, **more: (found, found, None)),
        "distances": types.SimpleNamespace(named_distances={"euclidean": "euclidean"}),
    }.items():
        setattr(module, name, value)
    return module


# The inputs


def make_world(folder: Path) -> None:
    """Write every input that a verb reads into ``folder``. Names in the tables of options are relative to it."""
    rng = np.random.default_rng(0)

    def bases(size: int, weights: Sequence[float] | None = None) -> str:
        return "".join(rng.choice(list("ACGT"), size, p=weights))

    for name in ("genome", "other_genome"):
        contigs = {"a": list(bases(900)), "b": list(bases(200)), "c": list(bases(150))}
        for start in range(40, 900, 60):
            contigs["a"][start : start + 4] = "NNNN"
        contigs["a"][500] = "R"
        text = "".join(f">{contig}\n{''.join(letters)}\n" for contig, letters in contigs.items())
        (folder / f"{name}.fa").write_text(text)
        prepare(folder / f"{name}.fa", folder / name, progress=False)
        _write_vcf(folder / f"{name}.vcf", "".join(contigs["a"]))
        # Another base between two variants.
        contigs["a"][18] = "A" if contigs["a"][18] != "A" else "C"
        (folder / f"near_{name}.fa").write_text(f">a\n{''.join(contigs['a'])}\n")
        if name == "genome":
            _write_cells(folder, rng, {contig: "".join(letters) for contig, letters in contigs.items()})
    for name, shift in (("split", 0), ("other_split", 40)):
        rows = [("a", 0, 500), ("b", shift, 160), ("c", 0, 120 - shift)]
        lines = (f"{c}\t{s}\t{e}\t{k}\n" for (c, s, e), k in zip(rows, ("train", "valid", "test"), strict=True))
        (folder / f"{name}.bed").write_text("".join(lines))
    for name, shift in (("genes", 0), ("other_genes", 7)):
        (folder / f"{name}.bed").write_text(
            "".join(f"a\t{s + shift}\t{s + shift + 30}\tg{s}\n" for s in (20, 90, 300)) + f"b\t{shift}\t40\tx\n"
        )

    # x and chr1 are other names of b or of c. The variant there has a REF that both have.
    (folder / "named.bed").write_text("x\t0\t40\tg\n")
    for name, contig in (("names", "b"), ("other_names", "c")):
        (folder / f"{name}.txt").write_text(f"# name\tother name\n{contig}\tx\tchr1\n")
    b, c = (("".join(contigs[contig])) for contig in "bc")
    start = next(i for i in range(30, 100) if b[i] == c[i])
    other = "ACGT"["ACGT".index(b[start]) - 1]
    (folder / "named.vcf").write_text(
        f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\nx\t{start + 1}\t.\t{b[start]}\t{other}\n"
    )

    for name in ("sequences", "other_sequences", "prompts", "other_prompts"):
        found = [bases(size) for size in ((12, 9) if "prompts" in name else (30, 41, 52, 24))]
        found[0] = found[0][:8] + "N" + found[0][9:]
        (folder / f"{name}.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(found)))
    (folder / "long.fa").write_text(f">long\n{bases(60)}N{bases(60)}\n")

    for name in ("table", "other_table"):
        lines = ["seq\tother\tkind\trich\tpoor\tshare\tpart\tlength"]
        for i in range(48):
            rich = i % 3 != 0
            text = bases(int(rng.integers(20, 30)), [0.1, 0.4, 0.4, 0.1] if rich else [0.4, 0.1, 0.1, 0.4])
            share = f"{(text.count('G') + text.count('C')) / len(text):.4f}"
            part = ("train", "train", "valid", "test")[i % 4]
            row = (text, bases(25), "rich" if rich else "poor", int(rich), int(i % 2), share, part, len(text))
            lines.append("\t".join(map(str, row)))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    # Both a folder of the Nucleotide Transformer and one of GenomicBenchmarks, with a test and no validation.
    both = folder / "both"
    for split in ("train", "test"):
        for kind in ("p", "q"):
            (both / split / kind).mkdir(parents=True)
            for i in range(8):
                (both / split / kind / f"{i}.txt").write_text(bases(20))
        (both / f"{split}.fna").write_text("".join(f">s{i}|{i % 2}\n{bases(20)}\n" for i in range(16)))
    sea = folder / "sea"
    sea.mkdir()
    for i, split in enumerate(("train", "val", "test")):
        rows = "".join(f"0,{60 * i + 8 * j},{60 * i + 8 * j + 30},{j % 2},{j // 2 % 2}\n" for j in range(8))
        (sea / f"{split}.csv").write_text(f"Chr_No,Start,End,y_0,y_1\n{rows}")
    for name in ("hg", "other_hg"):
        (folder / f"{name}.fa").write_text(f">chr1\n{bases(400)}\n")
    (folder / "named_hg.fa").write_text(f">b\n{bases(400)}\n>c\n{bases(400)}\n")
    for species in ("fly", "worm"):
        (folder / "species" / species).mkdir(parents=True)
        text = "".join(f">chr{number}\n{bases(60)}\n" for number in (1, 2, 5))
        (folder / "species" / species / "g.fa").write_text(text)

    for seed, name in enumerate(("windows", "other_windows")):
        write_tables(folder / name, make_rows(lines=(2, 2, 4), per_line=3, seed=seed))

    for seed, name in enumerate(("lm", "other_lm", "tied_lm")):
        torch.manual_seed(seed)
        fields = {"d_model": 8, "n_layer": 2, "filter_order": 8, "max_seq_len": 64, "embed_dropout": 0.0}
        kinds = {"": HyenaDNAForCausalLM, "_classifier": HyenaDNAForSequenceClassification}
        for end, kind in kinds.items():
            model = kind(HyenaDNAConfig(**fields, num_labels=2, tie_word_embeddings=name == "tied_lm"))
            for parameter in model.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
            model.save_pretrained(folder / f"{name}{end}")

    (folder / "one.fa").write_text(">one\nTTGACATGCA\n")
    for seed, name in enumerate(("enbed_lm", "other_enbed")):
        torch.manual_seed(seed)
        fields = {"num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "num_heads": 1, "d_kv": 8, "d_ff": 8}
        ENBEDForConditionalGeneration(ENBEDConfig(**fields, dropout_rate=0.0)).save_pretrained(folder / name)
    labels = {"id2label": {0: "clean", 1: "noisy"}, "label2id": {"clean": 0, "noisy": 1}}
    ENBEDForSequenceClassification(ENBEDConfig(**fields, **labels)).save_pretrained(folder / "noisy")

    for seed, name in enumerate(("pairs", "other_pairs")):
        mutate_pairs(PairsConfig(folder / name, simulate=60, length=12, spots=2, seed=seed))
    tree = newick.parse((folder / "pairs" / "tree.nwk").read_text())
    tree.children.reverse()
    (folder / "other_tree.nwk").write_text(newick.as_text(tree))
    for name in ("states.txt", "tips.fa"):
        lines = (folder / "pairs" / name).read_text().splitlines(keepends=True)
        lines[1] = lines[1].replace("A", "C").replace("G", "T")
        (folder / f"other_{name}").write_text("".join(lines))

    # Two contigs and two labels, each in part a direction of the vectors.
    for name in ("embeddings", "other_embeddings", "random_embeddings"):
        label, contig = np.array(["x", "y"] * 20), np.array(["a", "a", "b", "b", "c"] * 8)
        vectors = rng.normal(size=(40, 4)).astype(np.float32)
        vectors[:, 0] += label == "x"
        vectors[:, 1] += contig == "a"
        start = np.arange(40) * 10 + 3 * (name == "other_embeddings")
        columns = dict(zip(COLUMNS, (np.arange(40).astype(str), contig, start, start + 10, label), strict=True))
        np.savez(folder / f"{name}.npz", embedding=vectors, **columns)
    many = {name: np.concatenate([values] * 3) for name, values in columns.items()}
    many["label"] = np.array(["x", "y", "x", "y", "z"] * 24)
    np.savez(folder / "three.npz", embedding=rng.normal(size=(120, 4)).astype(np.float32), **many)
    for number, name in enumerate(("metrics", "other_metrics")):
        rows = [{"step": i, "perplexity": 4.0 - i / 10 - number} for i in range(1, 6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, name in enumerate(("one", "two")):
        (folder / name).mkdir()
        runs = [{"test": {"accuracy": 0.5 + (seed + number) / 10}} for seed in range(2)]
        (folder / name / "results.json").write_text(json.dumps({"metric": "accuracy", "examples": {}, "runs": runs}))
    put(folder / "with_preset", 0.9, preset="species-1k")


def _write_vcf(path: Path, text: str) -> None:
    """Variants of contig a: substitutions, a deletion, an insertion, and one record of another genome among them."""
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT"]
    for i, start in enumerate(range(10, 850, 15)):
        base = text[start]
        if base in "ACGT":
            other = "ACGT"["ACGT".index(base) - 1]
            ref = {1: text[start : start + 3], 4: other}.get(i, base)
            alt = {1: base, 2: f"{base}GG", 4: "ACGT"["ACGT".index(base) - 2]}.get(i, other)
            lines.append(f"a\t{start + 1}\t{i}\t{ref}\t{alt}")
    path.write_text("\n".join(lines) + "\n")


def _write_cells(folder: Path, rng: np.random.Generator, contigs: dict[str, str]) -> None:
    """Mutations of twelve lines in contig a, and in contig x, which is another name of b or c; and the lines."""
    both = [i for i, (b, c) in enumerate(zip(contigs["b"], contigs["c"], strict=False)) if b == c]
    # The base at 18 differs between two genomes.
    places = {"a": [i for i in range(900) if i != 18 and contigs["a"][i] in "ACGT"], "x": both}
    for name, contig in (("cells", "a"), ("other_cells", "a"), ("named_cells", "x")):
        rows = ["Chrom,Pos,Ref,Alt,ModelID"]
        for number in range(12):
            for place in rng.choice(places[contig], 8 + number, replace=False).tolist():
                base = contigs["a" if contig == "a" else "b"][place]
                rows.append(f"{contig},{place + 1},{base},{base}{base},l{number}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    for name, shift in (("lines", 0), ("other_lines", 1)):
        rows = [f"l{number},{'pqr'[(number + shift) % 3]},{'pq'[number // 6]}" for number in range(12)]
        (folder / f"{name}.csv").write_text("ModelID,OncotreeLineage,kind\n" + "\n".join(rows) + "\n")


# A run of each verb


_numbers = count()


def new_folder() -> Path:
    """An empty folder for one run."""
    folder = Path(f"out-{next(_numbers)}")
    folder.mkdir()
    return folder


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}


def _model_config(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "config.json").read_text()))


def _without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _CLOCKS}


def _pretrain(config: Any, seen: Seen, **more: Any) -> None:
    pretrain(config, progress=False, **more)
    rows = [_without_clocks(row) for row in read_metrics(config.out / "metrics.jsonl")]
    seen["rows"] = [row for row in rows if "loss" in row]
    seen["lr"] = [row["lr"] for row in seen["rows"]]
    seen["valid"] = [row for row in rows if "valid_perplexity" in row and FINAL_KEY not in row]
    seen["final"] = [row for row in rows if FINAL_KEY in row]
    seen["splits"] = (config.out / "splits.bed").read_text()
    seen["checkpoints"] = sorted(path.name for path in config.out.glob("step-*"))
    seen["config"] = _model_config(config.out / "model")
    seen["weights"] = _weights(config.out / "model")


def _attention(config: Any, seen: Seen) -> None:
    seen["heads"] = [list(head) for head in enbed_attention.attention(config)]
    seen["files"] = sorted(path.name for path in config.out.iterdir())


def _pretrain_enbed(config: Any, seen: Seen, **more: Any) -> None:
    results = enbed_pretraining.pretrain(config, progress=False, **more)
    seen["table"] = [results["data"], *results["table"]]
    _see_enbed_run(config.out, seen)


def _see_enbed_run(out: Path, seen: Seen) -> None:
    rows = [_without_clocks(row) for row in read_metrics(out / "metrics.jsonl")]
    seen["rows"] = [row for row in rows if "loss" in row]
    seen["lr"] = [row["lr"] for row in seen["rows"]]
    seen["valid"] = [row for row in rows if "valid_loss" in row and FINAL_KEY not in row]
    seen["final"] = [row for row in rows if FINAL_KEY in row]
    seen["checkpoints"] = sorted(path.name for path in out.glob("step-*"))
    seen["config"] = _model_config(out / "model")
    seen["weights"] = _weights(out / "model")


def _mutate_pairs(config: Any, seen: Seen) -> None:
    seen["counts"] = mutate_pairs(config)["splits"]
    seen["rows"] = (config.out / "pairs.tsv").read_text().splitlines()


def _evolve(config: Any, seen: Seen, **more: Any) -> None:
    seen["table"] = evolve(config, progress=False, **more)["table"]
    with (config.out / "candidates.tsv").open() as file:
        seen["candidates"] = [[_value(text) for text in row] for row in csv.reader(file, delimiter="\t")]
    seen["tree"] = [path.read_text() for path in config.out.glob("tree.nwk")]
    _see_enbed_run(config.out, seen)


def _noise(config: Any, seen: Seen) -> None:
    seen["table"] = enbed_noise.study(config, progress=False)["table"]
    seen["sequences"] = [path.read_bytes() for path in sorted(config.out.glob("*/noise.tsv"))]
    runs = sorted(config.out.glob("*/rows/*"))
    seen["rows"] = [json.loads(line) for run in runs for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen["config"] = _model_config(config.out / "model")
    seen["weights"] = [_weights(run / "model") for run in runs]


def _finetune(config: Any, seen: Seen) -> None:
    summary = finetuning.finetune(config, progress=False)
    # The others repeat the options as they were given.
    seen["results"] = {name: summary.get(name) for name in ("examples", "classes", "test", "baseline", "published")}
    seen["runs"] = [_without_clocks(run) for run in summary["runs"]]
    seen["rows"] = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    seen["config"] = _model_config(config.out / "model")
    seen["weights"] = _weights(config.out / "model")


def _study(config: Any, seen: Seen) -> None:
    results = study(config, progress=False)
    seen["rows"] = [(row["name"], row["inputs"], row["lines"]) for row in results["rows"]]
    seen["intervals"] = [row["sequence"]["auroc"] for row in results["rows"]]
    seen["weights"] = _weights(next((config.out / ROWS_FOLDER).iterdir()) / "model")


def _evaluate(config: Any, seen: Seen) -> None:
    result = evaluate(config, progress=False)
    seen["result"] = {name: value for name, value in result.items() if name not in ("model", "genome")}
    seen["files"] = {path.name: path.read_bytes() for path in config.out.iterdir() if path.suffix == ".png"}


def _table(work: Callable[..., Any]) -> Callable[[Any, Seen], None]:
    def run(config: Any, seen: Seen) -> None:
        work(config, progress=False)
        with config.out.open() as file:
            seen["columns"], *rows = csv.reader(file, delimiter="\t")
        seen["rows"] = [[_value(text) for text in row] for row in rows]

    return run


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _embed(config: Any, seen: Seen) -> None:
    embed(config, progress=False)
    found = Embeddings.read(config.out)
    seen["vectors"] = found.vectors
    seen["text"] = {name: getattr(found, name).tolist() for name in COLUMNS}


def _generate(config: Any, seen: Seen) -> None:
    generate(config, progress=False)
    seen["fasta"] = config.out.read_text()


def _figure(work: Callable[..., Any], **more: Any) -> Callable[[Any, Seen], None]:
    def run(config: Any, seen: Seen) -> None:
        # The line names the file.
        seen["line"] = work(config, **more).replace(str(config.out), "")
        seen["png"] = config.out.read_bytes()
        if (table := config.out.with_suffix(".tsv")).exists():
            seen["table"] = [[_value(text) for text in line.split("\t")] for line in table.read_text().splitlines()]

    return run


def _report(config: Any, seen: Seen) -> None:
    report(config)
    seen["markdown"] = (config.out / "report.md").read_text()


def _probe(config: Any, seen: Seen) -> None:
    result = run_probe(config, progress=False)
    seen["scores"] = {name: result.get(name) for name in ("test", "random", "published")}
    seen["classifiers"], seen["classes"] = result["classifiers"], result["classes"]


def _mutate(config: Any, seen: Seen, **more: Any) -> None:
    report = mutating.mutate(config, progress=False)
    seen["files"] = sorted(path.name for path in config.out_dir.iterdir())
    seen["tables"] = [path.read_bytes() for path in sorted(config.out_dir.glob("*.tsv"))]
    # The others are the names of the inputs.
    seen["report"] = {name: report[name] for name in ("more_than", "per_line", "classes", "lines")}


def _prepare(words: dict[str, Any], seen: Seen) -> None:
    _command("prepare", words, seen, ("fasta",))
    seen["files"] = {path.name: path.read_bytes() for path in words["out"].iterdir()}


def _convert(words: dict[str, Any], seen: Seen) -> None:
    _command("convert", words, seen, ("src", "dst"))
    seen["names"] = sorted(path.name for path in words["dst"].iterdir())
    seen["config"] = _model_config(words["dst"])
    seen["weights"] = _weights(words["dst"])


def _command(verb: str, words: dict[str, Any], seen: Seen, positional: tuple[str, ...]) -> None:
    """Run a verb without a class of options through the command line."""
    argv = [str(words[name]) for name in positional]
    for name, value in words.items():
        if name not in positional and value is not None and value is not False:
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    cli.main([verb, *argv])


RUNS: dict[str, tuple[Any, Callable[..., None], str]] = {
    "prepare": (dict, _prepare, "out"),
    "pretrain": (PretrainConfig, _pretrain, "run"),
    "enbed pretrain": (EnbedPretrainConfig, _pretrain_enbed, "run"),
    "enbed noise": (NoiseConfig, _noise, "noise"),
    "enbed attention": (AttentionConfig, _attention, "heads"),
    "enbed mutate-pairs": (PairsConfig, _mutate_pairs, "pairs"),
    "enbed evolve": (EvolveConfig, _evolve, "evolved"),
    "evaluate": (EvaluateConfig, _evaluate, "evaluation"),
    "cancer": (CancerConfig, _study, "study"),
    "finetune": (FinetuneConfig, _finetune, "tuned"),
    "predict": (PredictConfig, _table(predict), "p.tsv"),
    "score": (ScoreConfig, _table(score), "s.tsv"),
    "embed": (EmbedConfig, _embed, "e.npz"),
    "generate": (GenerateConfig, _generate, "g.fa"),
    "report": (ReportConfig, _report, "report"),
    "plot embeddings": (EmbeddingsPlot, _figure(draw_embeddings), "x.png"),
    "plot training": (TrainingPlot, _figure(draw_training), "x.png"),
    "plot results": (ResultsPlot, _figure(draw_results), "x.png"),
    "plot mutagenesis": (MutagenesisPlot, _figure(draw_mutagenesis, progress=False), "x.png"),
    "probe": (ProbeConfig, _probe, "probed"),
    "mutate": (MutateConfig, _mutate, "mutated"),
    "convert": (dict, _convert, "dst"),
}
"""Class of the options, what runs and notes, and the name of its output, by verb."""


TARGETS = {"convert": "dst", "mutate": "out_dir"}
"""The option that names the output. That of the other verbs is ``out``."""


def run(verb: str, options: dict[str, Any], *, stop_after: int | None = None, again: str = "") -> Seen:
    """Run a verb in the current folder, and return what is seen of it.

    Args:
        verb: the verb.
        options: its options; without its output a new one is chosen.
        stop_after: run it before, with the same output, and stop it after so many calls of a Hyena operator.
        again: option that the run before does not have.
    """
    kind, work, name = RUNS[verb]
    target = TARGETS.get(verb, "out")
    options = {target: new_folder() / name, **options}
    # What a run takes beside its class, such as resume of pretrain.
    fields = kind.__dataclass_fields__ if kind is not dict else options
    more = {key: options.pop(key) for key in [*options] if key not in fields}
    if stop_after is not None or again:
        before = {key: value for key, value in options.items() if key != again}
        try:
            with watched(stop_after) as earlier:
                work(kind(**before), earlier)
        except KeyboardInterrupt:
            assert stop_after is not None
        else:
            assert stop_after is None, "the run before was to be stopped, and was not"
    with watched() as seen:
        work(kind(**options), seen, **more)
    assert options[target].exists(), "the output is not where it was asked for"
    return seen
