"""Every option of every verb reaches the computation.

One table for each verb has a line for each option. The line changes it in a tiny run, and says what must then differ,
or why nothing may. An option without a line fails ``test_every_option_has_a_line``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
from collections.abc import Callable
from pathlib import Path as P
from typing import Any

import numpy as np
import pytest
from tqdm.auto import tqdm

from hyenadna.cancer import mutate as mutating
from hyenadna.cli import main as cli, options as cli_options
from hyenadna.common import progress
from hyenadna.common.errors import InputError
from hyenadna.evaluation.evaluate import evaluate
from hyenadna.finetuning.train import finetune
from hyenadna.inference.embed import embed
from hyenadna.inference.generate import generate
from hyenadna.inference.predict import predict
from hyenadna.inference.score import score
from hyenadna.pretraining.train import pretrain
from tests.hyenadna.cli import enbed_lines
from tests.hyenadna.cli.lines import NO_DEVICE, PLACE, ROUNDING, SPEED, TRAINED, Line, keeps, reaches, refused
from tests.hyenadna.cli.option_runs import RUNS, TARGETS, Seen, make_world, new_folder, run

BASES: dict[str, dict[str, Any]] = {
    "prepare": {"fasta": P("genome.fa")},
    "pretrain": {
        "genome": P("genome"), "valid_contigs": ["b"], "test_contigs": ["c"], "max_n_fraction": 0.5, "d_model": 8,
        "n_layer": 2, "max_seq_len": 64, "model_fields": {"filter_order": 8}, "embed_dropout": 0.0, "length": 32,
        "batch_size": 4, "steps": 4, "lr": 1e-2, "lr_warmup": 0.5, "log_every": 1, "eval_every": 2,
        "eval_windows": 2, "final_windows": 3, "checkpoint_every": 1, "device": "cpu",
    },
    "evaluate": {
        "model": P("lm"), "genome": P("genome"), "contigs": ["b"], "length": 16, "markov_order": 1, "device": "cpu",
    },
    "finetune": {
        "data": P("table.tsv"), "model": P("lm"), "sequence_column": "seq", "label_columns": ["kind"], "epochs": 1,
        "batch_size": 16, "lr": 1e-2, "device": "cpu",
    },
    "cancer": {
        "data": [P("windows")], "model": [P("lm")], "settings": ["frozen"], "unmutated": False, "resamples": 100,
        "options": {"epochs": 1, "batch_size": 16, "lr": 1e-2}, "device": "cpu",
    },
    "predict": {"model": P("lm_classifier"), "fasta": P("sequences.fa"), "device": "cpu"},
    "score": {"model": P("lm"), "fasta": P("sequences.fa"), "device": "cpu"},
    "embed": {"model": P("lm"), "fasta": P("sequences.fa"), "device": "cpu"},
    "generate": {"model": P("lm"), "prompt": "ACGTAC", "length": 20, "count": 3, "device": "cpu"},
    "report": {},
    "plot embeddings": {"embeddings": P("embeddings.npz")},
    "plot training": {"metrics": P("metrics.jsonl")},
    "plot results": {"results": [P("one"), P("two")]},
    "plot mutagenesis": {
        "model": P("lm"), "genome": P("genome"), "region": "a:111-114", "window": 20, "device": "cpu",
    },
    "probe": {"embeddings": P("embeddings.npz"), "trees": 5, "folds": 2},
    "mutate": {
        "fasta": P("genome"), "mutations": P("cells.csv"), "models": P("lines.csv"), "classes": ["p", "q"],
        "length": 24, "more_than": "0", "train_lines": 2, "validation_lines": 0, "test_lines": 1,
    },
    "convert": {"src": P("tied_lm")},
}  # fmt: skip
"""Options of the run that each line is compared with."""

CONTIGS: dict[str, Any] = {"valid_contigs": [], "test_contigs": [], "steps": 1}
PART = CONTIGS | {"valid_contigs": ["b"]}
SCRATCH = {
    "method": "scratch", "model": None, "d_model": 8, "n_layer": 1, "max_seq_len": 64,
    "model_fields": {"filter_order": 8},
}  # fmt: skip
NO_TABLE = {"sequence_column": "sequence", "label_columns": ["label"]}
BOTH = NO_TABLE | {"data": P("both")}
SEA = NO_TABLE | {"data": P("sea"), "genome": P("hg.fa"), "task": "multilabel"}
SPECIES = NO_TABLE | {"data": P("species"), "length": 20, "species_windows": 20}
NO_SHAPE: dict[str, Any] = {"d_model": None, "n_layer": None, "max_seq_len": None, "model_fields": {}}
NO_HYENA: dict[str, Any] = {"model_fields": {}, "steps": 1}
FROM_LM = NO_SHAPE | {"steps": 2, "embed_dropout": None, "init_from": P("lm")}
FEW = {"method": "few-shot", "length": 8, "shots": 1, "eval_shots": [0, 1]}
IDLE = {"lr": 1e-9, "epochs": 3, "patience": 1}
TABLE = {"fasta": None, "table": P("table.tsv"), "sequence_column": "seq"}
BED = {"fasta": None, "bed": P("genes.bed"), "genome": P("genome")}
NAMES = {"aliases": P("names.txt")}
VCF = {"fasta": None, "vcf": P("genome.vcf"), "genome": P("genome"), "window": 24}
LONG = {"fasta": P("long.fa"), "window": 32, "stride": 8}
UMAP = {"method": "umap", "neighbors": [5], "min_dist": [0.1]}

LINES: dict[str, dict[str, Line]] = {
    "prepare": {
        "fasta": reaches("files", fasta=P("other_genome.fa")),
        "out": keeps(PLACE, out=P("prepared")),
        "aliases": reaches("files", base=NAMES, aliases=P("other_names.txt")),
        "overwrite": keeps("the folder holds a genome already", again=True, overwrite=True),
    },
    "pretrain": {
        "genome": reaches("rows", genome=P("other_genome")),
        "out": keeps(PLACE, out=P("pretrained")),
        "aliases": reaches("splits", base=CONTIGS | NAMES | {"valid_contigs": ["x"]}, aliases=P("other_names.txt")),
        "bed": reaches("splits", base={**CONTIGS, "bed": P("split.bed")}, bed=P("other_split.bed")),
        "valid_contigs": reaches("splits", base=PART, valid_contigs=["c"]),
        "test_contigs": reaches("splits", base=PART, test_contigs=["c"]),
        "valid_fraction": reaches("splits", base=CONTIGS, valid_fraction=0.2),
        "test_fraction": reaches("splits", base=CONTIGS, test_fraction=0.2),
        "max_n_fraction": reaches("rows", max_n_fraction=0.0),
        "reverse_complement": reaches("rows", reverse_complement=False),
        "n_to_pad": reaches("rows", n_to_pad=False),
        "architecture": reaches("config", base=NO_HYENA, architecture="gpt"),
        "size": reaches("config", base={"n_layer": None, "steps": 1}, size="small-32k"),
        "d_model": reaches("config", d_model=16),
        "n_layer": reaches("config", n_layer=1),
        "max_seq_len": reaches("config", max_seq_len=48),
        "embed_dropout": reaches("rows", embed_dropout=0.5),
        "model_fields": reaches("config", model_fields={"filter_order": 4}),
        "init_from": reaches("rows", base=FROM_LM, init_from=P("other_lm")),
        "gradient_checkpointing": keeps(SPEED, moves="calls", gradient_checkpointing=True),
        "length": reaches("calls", length=16),
        "batch_size": reaches("calls", batch_size=2),
        "accumulate": keeps(SPEED, moves="calls", close=TRAINED, accumulate=2),
        "warmup_length": reaches("calls", warmup_length=16, warmup_length_steps=2),
        "warmup_length_steps": reaches(
            "calls", base={"warmup_length": 16, "warmup_length_steps": 2}, warmup_length_steps=1
        ),
        "steps": reaches("rows", steps=3),
        "lr": reaches("lr", lr=2e-2),
        "min_lr_factor": reaches("lr", min_lr_factor=0.0),
        "lr_warmup": reaches("lr", lr_warmup=0.0),
        "weight_decay": reaches("weights", weight_decay=0.5),
        "beta1": reaches("weights", beta1=0.5),
        "beta2": reaches("weights", beta2=0.9),
        "clip": reaches("weights", clip=1e-3),
        "seed": reaches("rows", seed=1),
        "device": NO_DEVICE,
        "autocast": reaches("calls", autocast="bfloat16"),
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
        "workers": keeps(SPEED, moves="calls", workers=1),
        "log_every": reaches("rows", log_every=2),
        "eval_every": reaches("valid", eval_every=1),
        "eval_length": reaches("valid", eval_length=16),
        "eval_windows": reaches("valid", eval_windows=1),
        "final_windows": reaches("final", final_windows=1),
        "checkpoint_every": reaches("checkpoints", checkpoint_every=2),
        "keep": reaches("checkpoints", keep=3),
        "context": refused("`context` 2: needs 2 processes, and this is one", context=2),
        "shard": keeps("one process holds everything", shard="full"),
        "dropout_masks": reaches("rows", base={"embed_dropout": 0.5}, dropout_masks="position"),
        "checkpoint_format": keeps("the files of checkpoints alone", checkpoint_format="dcp"),
        "async_checkpoint": keeps(SPEED, base={"checkpoint_format": "dcp"}, async_checkpoint=True),
        "resume": keeps("only the steps that are missing", moves="calls", stop_after=5, resume=True),
    },
    "evaluate": {
        "model": reaches("result", model=P("other_lm")),
        "genome": reaches("result", genome=P("other_genome")),
        "out": keeps(PLACE, out=P("evaluated")),
        "contigs": reaches("result", contigs=["c"]),
        "exclude": reaches("result", exclude=["c"]),
        "aliases": reaches("result", base=NAMES | {"contigs": ["x"]}, aliases=P("other_names.txt")),
        "bed": reaches("result", base={"contigs": [], "bed": P("split.bed")}, bed=P("other_split.bed")),
        "split": reaches("result", base={"contigs": [], "bed": P("split.bed")}, split="valid"),
        "length": reaches("calls", length=24),
        "n_to_pad": reaches("result", base={"contigs": ["a"], "length": 32}, n_to_pad=False),
        "batch_size": keeps(SPEED, moves="calls", close=ROUNDING, batch_size=3),
        "max_windows": reaches("calls", max_windows=2),
        "markov_order": reaches("result", markov_order=2),
        "metrics": reaches("files", base={"metrics": P("metrics.jsonl")}, metrics=P("other_metrics.jsonl")),
        "device": NO_DEVICE,
    },
    "finetune": {
        "data": reaches("rows", data=P("other_table.tsv")),
        "out": keeps(PLACE, out=P("finetuned")),
        "model": reaches("rows", model=P("other_lm")),
        "method": reaches("rows", method="frozen"),
        "ablation": reaches("config", base=SCRATCH, ablation="bidirectional"),
        "architecture": reaches("config", base=SCRATCH | {"model_fields": {}}, architecture="enbed"),
        "unfreeze_every": reaches("rows", base={"epochs": 4}, unfreeze_every=1),
        "unfreeze_layers": reaches("rows", base={"epochs": 4, "unfreeze_every": 1}, unfreeze_layers=1),
        "task": reaches("config", base={"label_columns": ["rich"]}, task="regression"),
        "preset": reaches("results", preset="nt-H3"),
        "format": reaches("rows", base=BOTH | {"format": "fna"}, format="genomic-benchmarks"),
        "sequence_column": reaches("rows", sequence_column="other"),
        "label_columns": reaches("rows", label_columns=["poor"]),
        "split_column": reaches("results", split_column="part"),
        "genome": reaches("rows", base=SEA, genome=P("other_hg.fa")),
        "aliases": reaches(
            "rows", base=SEA | NAMES | {"genome": P("named_hg.fa")}, aliases=P("other_names.txt")
        ),
        "length": reaches("calls", length=12),
        "keep": reaches("rows", base={"length": 12}, keep="start"),
        "train_examples": reaches("results", train_examples=20),
        "species_windows": reaches("results", base=SPECIES, species_windows=30),
        "valid_fraction": reaches("results", base=BOTH, valid_fraction=0.4),
        "split_seed": reaches("rows", split_seed=1),
        "folds": reaches("runs", folds=2),
        "pooling": reaches("rows", pooling="last"),
        "epochs": reaches("rows", epochs=2),
        "patience": reaches("rows", base=IDLE, patience=2),
        "metric": reaches("rows", metric="mcc"),
        "batch_size": reaches("calls", batch_size=8),
        "accumulate": keeps(SPEED, moves="calls", close=TRAINED, accumulate=4),
        "pack_tokens": keeps(SPEED, moves="calls", close=TRAINED, pack_tokens=64),
        "lr": reaches("rows", lr=2e-2),
        "lr_schedule": reaches("weights", base={"epochs": 3}, lr_schedule="plateau"),
        "min_lr_factor": reaches("weights", min_lr_factor=0.9),
        "lr_warmup": reaches("rows", lr_warmup=0.9),
        "lr_warmup_steps": reaches("rows", lr_warmup_steps=3),
        "lr_steps": reaches("rows", base={"epochs": 3}, lr_steps=2),
        "weight_decay": reaches("weights", weight_decay=0.5),
        "clip": reaches("rows", clip=1e-6),
        "ema_decay": reaches("weights", ema_decay=0.9),
        "balanced": reaches("rows", balanced=True),
        "reverse_complement": reaches("rows", reverse_complement=True),
        "crop": reaches("rows", crop=4),
        "warmup_length": reaches("rows", warmup_length=6),
        "warmup_length_epochs": reaches("rows", base={"warmup_length": 6, "epochs": 2}, warmup_length_epochs=2),
        "lm_weight": reaches("rows", lm_weight=0.5),
        "lora_rank": reaches("rows", base={"method": "lora"}, lora_rank=2),
        "prompt_tokens": reaches("calls", base={"method": "soft-prompt"}, prompt_tokens=4),
        "prompt_dropout": reaches("rows", base={"method": "soft-prompt"}, prompt_dropout=0.5),
        "letters": reaches("rows", base={"method": "soft-prompt"}, letters="GT"),
        "shots": reaches("calls", base=FEW, shots=2),
        "eval_shots": reaches("results", base=FEW, eval_shots=[1]),
        "size": reaches("config", base=SCRATCH | {"n_layer": None}, size="small-32k"),
        "d_model": reaches("config", base=SCRATCH, d_model=16),
        "n_layer": reaches("config", base=SCRATCH, n_layer=2),
        "max_seq_len": reaches("config", base=SCRATCH, max_seq_len=48),
        "model_fields": reaches("config", base=SCRATCH, model_fields={"filter_order": 4}),
        "seeds": reaches("rows", seeds=[1]),
        "jobs": keeps(SPEED, moves="jobs", base={"seeds": [0, 1]}, jobs=2),
        "resume": keeps(
            "only the runs that are missing", moves="calls", base={"seeds": [0, 1]}, stop_after=14,
            resume=True,
        ),
        "baseline": reaches("results", baseline=True),
        "device": NO_DEVICE,
        "autocast": reaches("calls", autocast="bfloat16"),
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
    },
    "cancer": {
        "data": reaches("rows", data=[P("other_windows")]),
        "out": keeps(PLACE, out=P("studied")),
        "model": reaches("rows", model=[P("other_lm")]),
        "settings": reaches("rows", settings=["full"]),
        "options": reaches("weights", options={"epochs": 1, "batch_size": 16, "lr": 2e-2}),
        "unmutated": reaches("rows", unmutated=True),
        "shuffle_labels": reaches("weights", shuffle_labels=True),
        "seeds": reaches("weights", seeds=[1]),
        "resamples": reaches("intervals", resamples=101),
        "seed": reaches("intervals", seed=1),
        "jobs": keeps(SPEED, moves="jobs", base={"seeds": [0, 1]}, jobs=2),
        "resume": keeps(
            "only the rows that are missing", moves="calls", base={"unmutated": True}, stop_after=9, resume=True
        ),
        "device": NO_DEVICE,
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
    },
    "predict": {
        "model": reaches("rows", model=P("other_lm_classifier")),
        "out": keeps(PLACE, out=P("predicted.tsv")),
        "fasta": reaches("rows", fasta=P("other_sequences.fa")),
        "table": reaches("rows", base=TABLE, table=P("other_table.tsv")),
        "sequence_column": reaches("rows", base=TABLE, sequence_column="other"),
        "reverse_complement": reaches("rows", reverse_complement=True),
        "batch_size": keeps(SPEED, moves="calls", close=ROUNDING, batch_size=2),
        "device": NO_DEVICE,
    },
    "score": {
        "model": reaches("rows", model=P("other_lm")),
        "out": keeps(PLACE, out=P("scored.tsv")),
        "fasta": reaches("rows", fasta=P("other_sequences.fa")),
        "table": reaches("rows", base=TABLE, table=P("other_table.tsv")),
        "sequence_column": reaches("rows", base=TABLE, sequence_column="other"),
        "vcf": reaches("rows", base=VCF, vcf=P("other_genome.vcf"), genome=P("other_genome")),
        "genome": reaches("rows", base=VCF, genome=P("near_genome.fa")),
        "aliases": reaches("rows", base=VCF | NAMES | {"vcf": P("named.vcf")}, aliases=P("other_names.txt")),
        "mode": reaches("columns", base=VCF, mode="embedding"),
        "strands": reaches("rows", strands="both"),
        "window": reaches("rows", base=LONG, window=40),
        "stride": reaches("rows", base=LONG, stride=16),
        "ref_mismatch": reaches("rows", base=VCF, ref_mismatch="skip"),
        "n_to_pad": reaches("rows", n_to_pad=False),
        "batch_size": keeps(SPEED, moves="calls", close=1e-12, batch_size=2),
        "pack_tokens": keeps(SPEED, moves="calls", close=1e-12, pack_tokens=48),
        "precision": reaches("rows", precision="float32"),
        "out_format": reaches("columns", base=VCF | {"out": P("scored.vcf")}, out_format="tsv"),
        "part_size": keeps("the parts are joined", moves="calls", close=1e-12, part_size=1),
        "resume": keeps(
            "only the parts that are missing", moves="calls", base={"part_size": 1}, stop_after=5, resume=True
        ),
        "device": NO_DEVICE,
    },
    "embed": {
        "model": reaches("vectors", model=P("other_lm")),
        "out": keeps("the format alone", out=P("embedded.parquet")),
        "fasta": reaches("vectors", fasta=P("other_sequences.fa")),
        "bed": reaches("text", base=BED, bed=P("other_genes.bed")),
        "genome": reaches("vectors", base=BED, genome=P("other_genome")),
        "aliases": reaches("vectors", base=BED | NAMES | {"bed": P("named.bed")}, aliases=P("other_names.txt")),
        "table": reaches("vectors", base=TABLE, table=P("other_table.tsv")),
        "sequence_column": reaches("vectors", base=TABLE, sequence_column="other"),
        "label_column": reaches("text", base=TABLE, label_column="kind"),
        "position_columns": reaches("text", base=TABLE, position_columns=["kind", "rich", "length"]),
        "pooling": reaches("vectors", pooling="last"),
        "window": reaches("vectors", base=LONG, window=40),
        "stride": reaches("vectors", base=LONG, stride=16),
        "random_weights": reaches("vectors", random_weights=True),
        "n_to_pad": reaches("vectors", n_to_pad=False),
        "batch_size": keeps(SPEED, moves="calls", close=ROUNDING, batch_size=2),
        "pack_tokens": keeps(SPEED, moves="calls", close=ROUNDING, pack_tokens=48),
        "part_size": keeps("the parts are joined", moves="calls", close=ROUNDING, part_size=1),
        "resume": keeps(
            "only the parts that are missing", moves="calls", base={"part_size": 1}, stop_after=5, resume=True
        ),
        "device": NO_DEVICE,
        "seed": reaches("vectors", base={"random_weights": True}, seed=1),
    },
    "generate": {
        "model": reaches("fasta", model=P("other_lm")),
        "out": keeps(PLACE, out=P("generated.fa")),
        "prompt": reaches("fasta", prompt="TTACG"),
        "prompt_fasta": reaches(
            "fasta", base={"prompt": None, "prompt_fasta": P("prompts.fa")}, prompt_fasta=P("other_prompts.fa")
        ),
        "length": reaches("fasta", length=19),
        "count": reaches("fasta", count=2),
        "temperature": reaches("fasta", temperature=0.5),
        "top_k": reaches("fasta", top_k=2),
        "top_p": reaches("fasta", top_p=0.3),
        "nucleotides_only": reaches("fasta", nucleotides_only=False),
        "new_only": reaches("fasta", new_only=True),
        "seed": reaches("fasta", seed=1),
        "batch_size": keeps("each sequence has its own random numbers", moves="calls", batch_size=1),
        "use_cache": keeps("the cache is exact", moves="calls", use_cache=False),
        "precision": keeps("the same bases are drawn here", moves="calls", precision="float64"),
        "device": NO_DEVICE,
    },
    "plot embeddings": {
        "embeddings": reaches("png", embeddings=P("other_embeddings.npz")),
        "out": keeps(PLACE, out=P("embeddings.png")),
        "method": reaches("png", method="umap"),
        "colour": reaches("png", colour="contig"),
        "neighbors": reaches("png", base=UMAP, neighbors=[6]),
        "min_dist": reaches("png", base=UMAP, min_dist=[0.2]),
        "position_bins": reaches("png", base={"colour": "position"}, position_bins=3),
        "bin_width": reaches("png", base={"colour": "bin"}, bin_width=100),
        "top": reaches("png", top=1),
        "probe": reaches("line", probe=False),
        "probe_by_contig": reaches("line", probe_by_contig=True),
        "probe_by": reaches("line", probe_by=["contig"]),
        "probe_block": reaches("line", base={"probe_by": ["block"]}, probe_block=40),
        "random": reaches("line", random=P("random_embeddings.npz")),
        "seed": reaches("line", seed=1),
    },
    "report": {
        "out": keeps(PLACE, out=P("comparison")),
        "results": reaches("markdown", results=[P("with_preset")]),
    },
    "plot training": {
        "metrics": reaches("png", metrics=P("other_metrics.jsonl")),
        "out": keeps(PLACE, out=P("training.png")),
    },
    "plot results": {
        "results": reaches("png", results=[P("two")]),
        "out": keeps(PLACE, out=P("results.png")),
    },
    "plot mutagenesis": {
        "model": reaches("table", model=P("other_lm")),
        "genome": reaches("table", genome=P("other_genome")),
        "region": reaches("table", region="a:112-115"),
        "aliases": reaches("table", base=NAMES | {"region": "x:111-114"}, aliases=P("other_names.txt")),
        "out": keeps(PLACE, out=P("mutations.png")),
        "window": reaches("table", window=30),
        "batch_size": keeps(SPEED, moves="calls", close=1e-12, batch_size=4),
        "device": NO_DEVICE,
    },
    "probe": {
        "embeddings": reaches("scores", embeddings=P("other_embeddings.npz")),
        "out": keeps(PLACE, out=P("probe_folder")),
        "random": reaches("scores", random=P("random_embeddings.npz")),
        "preset": reaches("scores", preset="biotypes"),
        "classifiers": reaches("classifiers", classifiers=["trees"], base={"neighbours": 15}),
        "top_classes": reaches("classes", base={"embeddings": P("three.npz")}, top_classes=2),
        "trees": reaches("classifiers", base={"embeddings": P("three.npz")}, trees=50),
        "neighbours": reaches("classifiers", neighbours=3),
        "folds": reaches("scores", folds=3),
        "folds_by": reaches("scores", folds_by="contig"),
        "block": reaches("scores", base={"folds_by": "block"}, block=50),
        "seed": reaches("scores", seed=1),
    },
    "mutate": {
        "fasta": reaches("tables", fasta=P("near_genome.fa")),
        "mutations": reaches("tables", mutations=P("other_cells.csv")),
        "models": reaches("tables", models=P("other_lines.csv")),
        "classes": reaches("tables", classes=["p", "r"]),
        "out_dir": keeps(PLACE, out_dir=P("windows")),
        "aliases": reaches("tables", base=NAMES | {"mutations": P("named_cells.csv")}, aliases=P("other_names.txt")),
        "class_column": reaches("tables", class_column="kind"),
        "vcf_line": refused("`vcf_line` l1: has no effect, because ", vcf_line="l1"),
        "length": reaches("tables", length=20),
        "more_than": reaches("report", more_than="10"),
        "train_lines": reaches("tables", train_lines=3),
        "validation_lines": reaches("tables", validation_lines=1),
        "test_lines": reaches("tables", test_lines=2),
        "per_line": reaches("tables", per_line="2"),
        "reference": reaches("tables", reference=False),
        "format": reaches("files", format="parquet"),
        "workers": keeps(SPEED, moves="jobs", workers=2),
        "seed": reaches("tables", seed=1),
    },
    "convert": {
        "src": reaches("weights", src=P("other_lm")),
        "dst": keeps(PLACE, dst=P("converted")),
        "to": reaches("names", to="original"),
        "modulation_shift": reaches("config", modulation_shift=0.0),
    },
}  # fmt: skip
"""What each option does, by verb. A new option needs a line here."""

MORE: tuple[tuple[str, str, Line], ...] = (
    ("pretrain", "embed_dropout", reaches("rows", base=FROM_LM, embed_dropout=0.5)),
    ("pretrain", "eval_length", reaches("final", eval_length=16)),
    ("pretrain", "n_to_pad", reaches("valid", base={"valid_contigs": ["a"]}, n_to_pad=False)),
    ("pretrain", "autocast", reaches("calls", autocast="float16")),
    ("evaluate", "exclude", reaches("result", base={"markov_order": 3}, exclude=["a"])),
    ("evaluate", "markov_order", reaches("files", markov_order=-1)),
    ("finetune", "method", reaches("rows", base=SCRATCH, method="full", model=P("lm"), **NO_SHAPE)),
    ("finetune", "model", reaches("rows", base={"architecture": "enbed", "model": P("enbed_lm")},
                                  model=P("other_enbed"))),
    ("finetune", "unfreeze_every", reaches("rows", base={"architecture": "enbed", "model": P("enbed_lm"), "epochs": 4},
                                           unfreeze_every=1)),
    ("finetune", "task", reaches("config", base={"label_columns": ["rich", "poor"], "task": "multilabel"},
                                 task="regression")),
    ("finetune", "length", reaches("calls", base=SEA, length=24)),
    ("finetune", "length", reaches("calls", base=SPECIES, length=24)),
    ("finetune", "split_seed", reaches("rows", base=SPECIES, split_seed=1)),
    ("finetune", "valid_fraction", reaches("results", base={"folds": 2}, valid_fraction=0.4)),
    ("finetune", "pooling", reaches("rows", pooling="first")),
    ("finetune", "pooling", reaches("config", base=SCRATCH, pooling="first")),
    ("finetune", "seeds", reaches("calls", base=FEW, seeds=[1, 2])),
    ("finetune", "seeds", reaches("rows", base={"method": "soft-prompt"}, seeds=[1])),
    ("finetune", "lm_weight", reaches("rows", base=SCRATCH, lm_weight=0.5)),
    ("finetune", "ema_decay", reaches("weights", base={"method": "soft-prompt"}, ema_decay=0.9)),
    ("finetune", "reverse_complement", reaches("calls", reverse_complement=True)),
    ("finetune", "metric", reaches("rows", base={"label_columns": ["share"], "task": "regression"}, metric="mse")),
    ("finetune", "label_columns", reaches("rows", base={"task": "regression", "label_columns": ["share"]},
                                          label_columns=["rich"])),
    ("score", "mode", reaches("rows", base=VCF, mode="site")),
    ("score", "strands", reaches("rows", base=VCF, strands="both")),
    ("score", "strands", reaches("rows", base=VCF | {"mode": "site"}, strands="both")),
    ("score", "strands", reaches("rows", base=VCF | {"mode": "embedding"}, strands="both")),
    ("score", "window", reaches("rows", base=VCF, window=40)),
    ("score", "n_to_pad", reaches("rows", base=VCF | {"window": 48}, n_to_pad=False)),
    ("score", "n_to_pad", reaches("rows", base=VCF | {"window": 48, "mode": "embedding"}, n_to_pad=False)),
    ("score", "precision", reaches("rows", base=VCF, precision="float32")),
    ("score", "part_size", keeps("the parts are joined", moves="calls", close=1e-12, base=VCF, part_size=7)),
    ("score", "resume", keeps("only the parts that are missing", moves="calls", base=VCF | {"part_size": 7},
                              stop_after=9, resume=True)),
    ("score", "out_format", refused("`out` ", base=VCF, out_format="vcf")),
    ("score", "batch_size", keeps(SPEED, moves="calls", close=1e-12, base=VCF, batch_size=4)),
    ("score", "batch_size", keeps(SPEED, moves="calls", close=1e-12, base=VCF | {"mode": "embedding"}, batch_size=4)),
    ("score", "resume", keeps("only the parts that are missing", moves="calls",
                              base={"part_size": 1, "pack_tokens": 48}, stop_after=5, resume=True)),
    ("score", "pack_tokens", refused("`pack_tokens` is for sequences", base=VCF, pack_tokens=48)),
    ("score", "ref_mismatch", refused("genome.vcf", base=VCF, ref_mismatch="fail")),
    ("score", "genome", reaches("rows", base=VCF | {"mode": "embedding"}, genome=P("near_genome.fa"))),
    ("plot embeddings", "method", reaches("png", method="tsne")),
    ("plot embeddings", "colour", reaches("png", colour="bin")),
    ("plot embeddings", "position_bins", reaches("png", base={"colour": "bin"}, position_bins=3)),
    ("plot embeddings", "neighbors", reaches("png", base=UMAP | {"neighbors": [5, 6]}, neighbors=[5, 7])),
    ("embed", "pooling", reaches("vectors", pooling="token")),
    ("embed", "pack_tokens", keeps(SPEED, moves="calls", close=ROUNDING, base=LONG | {"pooling": "token"},
                                   pack_tokens=70)),
    ("finetune", "pack_tokens", refused("`pack_tokens` 64: has no effect without a head", base=FEW, pack_tokens=64)),
    ("embed", "n_to_pad", reaches("vectors", base={"pooling": "token"}, n_to_pad=False)),
    ("embed", "window", reaches("vectors", base=LONG | {"pooling": "token"}, window=40)),
    ("embed", "model", keeps("the shape alone counts", base={"random_weights": True}, model=P("other_lm"))),
    ("generate", "top_k", reaches("fasta", base={"count": 1}, top_k=1)),
    ("generate", "temperature", reaches("fasta", base={"count": 1}, temperature=0.0)),
)  # fmt: skip
"""Further lines, where an option goes another way with others."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "valid_fraction": 0.05, "test_fraction": 0.05, "max_n_fraction": 0.1, "reverse_complement": True,
        "n_to_pad": True, "architecture": "hyena", "size": "tiny-1k", "length": 1024, "batch_size": 256,
        "accumulate": 1, "warmup_length_steps": 1000, "steps": 10_000, "lr": 6e-4, "min_lr_factor": 0.1,
        "lr_warmup": 0.01,
        "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.999, "clip": 1.0, "device": "auto", "autocast": "auto",
        "log_every": 10, "eval_every": 500, "eval_windows": 256, "checkpoint_every": 500, "keep": 2,
        "context": 1, "shard": "none", "dropout_masks": "auto", "checkpoint_format": "auto",
    },
    "evaluate": {
        "out": P("evaluation"), "split": "test", "n_to_pad": True, "batch_size": 16, "markov_order": 24,
        "device": "auto",
    },
    "finetune": {
        "method": "full", "architecture": "hyena", "ablation": "none", "task": "classification", "format": "auto",
        "sequence_column": "sequence", "label_columns": ["label"], "keep": "middle", "species_windows": 1000,
        "valid_fraction": 0.1, "pooling": "mean", "epochs": 20, "patience": 5, "warmup_length_epochs": 1,
        "batch_size": 32, "accumulate": 1, "lr": 6e-4, "lr_schedule": "cosine", "min_lr_factor": 0.1, "lr_warmup": 0.05,
        "weight_decay": 0.1, "clip": 1.0, "lora_rank": 8, "prompt_tokens": 16, "letters": "ACGTN", "shots": 2,
        "eval_shots": [0, 2], "size": "tiny-1k",
        "seeds": [0], "jobs": 1, "device": "auto", "autocast": "auto",
    },
    "cancer": {
        "settings": ["full", "frozen", "scratch"], "unmutated": True, "seeds": [0], "resamples": 2000, "jobs": 1,
        "device": "auto",
    },
    "predict": {"sequence_column": "sequence", "batch_size": 32, "device": "auto"},
    "score": {
        "sequence_column": "sequence", "mode": "likelihood", "strands": "forward", "n_to_pad": True,
        "batch_size": 16, "precision": "float64", "part_size": 1024, "device": "auto",
    },
    "embed": {
        "sequence_column": "sequence", "pooling": "mean", "n_to_pad": True, "batch_size": 16, "part_size": 1024,
        "device": "auto",
    },
    "generate": {
        "length": 100, "count": 1, "temperature": 1.0, "top_p": 1.0, "nucleotides_only": True, "batch_size": 16,
        "use_cache": True, "precision": "float32", "device": "auto",
    },
    "plot embeddings": {
        "method": "pca", "colour": "label", "neighbors": [15], "min_dist": [0.1], "position_bins": 10, "probe": True,
        "probe_by": ["random"],
    },
    "plot mutagenesis": {"batch_size": 16, "device": "auto"},
    "probe": {
        "classifiers": ["neighbours", "logistic", "trees"], "trees": 1000, "neighbours": 15, "folds": 5,
        "folds_by": "random",
    },
    "mutate": {
        "length": 1024, "more_than": "median", "train_lines": 70, "validation_lines": 10, "test_lines": 20,
        "per_line": "min", "reference": True, "format": "tsv",
    },
}  # fmt: skip
"""Defaults, which recipes and papers rely on. Those that are not here are none, false, 0 or empty."""

BASES |= enbed_lines.BASES
LINES |= enbed_lines.LINES
DEFAULTS |= enbed_lines.DEFAULTS
RESUME = {"pretrain", "enbed pretrain", "enbed evolve"}
"""Verbs that resume by an argument of the function, which is no field."""

# They have no option.
BARE = {"doctor"}
# Figures, tables and parsers that take a second between them.
SLOW = {"plot embeddings"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> P:
    """The folder of all inputs."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.fixture(scope="module")
def base_run() -> Callable[[str, dict[str, Any]], Seen]:
    """Runs a verb with its base and the changes of a line to it, once for equal ones."""
    runs: dict[tuple[str, str], Seen] = {}

    def made(verb: str, changes: dict[str, Any]) -> Seen:
        key = verb, repr(sorted(changes.items()))
        if key not in runs:
            runs[key] = run(verb, BASES[verb] | changes)
        return runs[key]

    return made


@pytest.fixture(autouse=True)
def in_world(world: P, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def same(one: Any, two: Any, close: float) -> bool:
    """Whether two results are equal, numbers within ``close``."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key], close) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(same(a, b, close) for a, b in zip(one, two, strict=True))
    if close and isinstance(one, (float, np.ndarray)):
        return np.shape(one) == np.shape(two) and bool(np.allclose(one, two, rtol=close, atol=close, equal_nan=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return bool(one == two)


EACH = [(verb, name, line) for verb, lines in LINES.items() for name, line in lines.items()]
ALL = [
    pytest.param(*each, id=f"{each[0]}-{each[1]}", marks=pytest.mark.slow if each[0] in SLOW else ())
    for each in (*EACH, *MORE)
]


@pytest.mark.parametrize(("verb", "name", "line"), ALL)
def test_an_option_reaches_the_computation(
    verb: str, name: str, line: Line, base_run: Callable[[str, dict[str, Any]], Seen]
) -> None:
    assert name in line.change
    options = BASES[verb] | line.base | line.change
    if line.refused:
        with pytest.raises(InputError) as caught:
            run(verb, options)
        assert str(caught.value).startswith(line.refused)
        return
    before = base_run(verb, line.base)
    seen = run(verb, options, stop_after=line.stop_after, again=name if line.again or line.stop_after else "")
    assert before.keys() == seen.keys()
    moved = {key for key in seen if not same(before[key], seen[key], 0.0)}
    if line.moves:
        assert line.moves in moved
    if not line.why:
        assert moved - {*Seen.how}
        return
    changed = {key for key in seen if key not in Seen.how and not same(before[key], seen[key], line.close)}
    assert not changed, line.why


STOPPED = [pytest.param(*each, id=f"{each[0]}-{each[1]}") for each in (*EACH, *MORE) if each[2].stop_after]


@pytest.mark.parametrize(("verb", "name", "line"), STOPPED)
def test_a_stopped_run_is_refused_without_the_option(verb: str, name: str, line: Line) -> None:
    with pytest.raises(InputError):
        run(verb, BASES[verb] | line.base | {name: False}, stop_after=line.stop_after, again=name)


def test_a_genome_is_not_overwritten_without_the_option() -> None:
    with pytest.raises(SystemExit):
        run("prepare", BASES["prepare"] | {"overwrite": False}, again="overwrite")


BARS: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("pretrain", pretrain, {"steps": 2}),
    ("evaluate", evaluate, {}),
    ("finetune", finetune, {}),
    ("predict", predict, {"batch_size": 3}),
    ("score", score, {"part_size": 3}),
    ("score", score, VCF),
    ("embed", embed, {"part_size": 3}),
    ("generate", generate, {"batch_size": 2}),
    ("mutate", mutating.mutate, {}),
]


@pytest.mark.parametrize(("verb", "work", "changes"), BARS)
def test_a_bar_is_shown_and_reaches_its_total(
    verb: str, work: Callable[..., Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, disable: bool | None, **settings: Any) -> None:
            super().__init__(**settings, file=io.StringIO())
            self.is_shown = disable is None
            made.append(self)

    begin = progress.StepBar.__init__

    def noted(self: Any, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        self.is_shown = self._writes
        made.append(self)

    monkeypatch.setattr(mutating, "write_page", lambda folder, report: None)
    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(progress.StepBar, "__init__", noted)
    kind, _, name = RUNS[verb]
    work(kind(**{TARGETS.get(verb, "out"): new_folder() / name}, **BASES[verb] | changes))
    if steps := [bar for bar in made if isinstance(bar, progress.StepBar)]:
        # Training evaluates without a bar beside its own.
        assert not any(bar.is_shown for bar in made if not isinstance(bar, progress.StepBar))
        made = steps
    assert made
    assert all(bar.is_shown for bar in made)
    assert [getattr(bar, "_step", bar.n) for bar in made] == [bar.total for bar in made]


def parser_of(verb: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a verb makes."""
    made: list[argparse.ArgumentParser] = []
    make = cli_options.make_parser

    def noted(*args: Any) -> Any:
        made.append(make(*args))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(cli_options, "make_parser", noted)
        with pytest.raises(SystemExit):
            cli.main([*verb.split(), "--help"])
    return made[0]


KINDS = {f"{group} {kind}": verb for group, kinds in cli.GROUPS.items() for kind, verb in kinds.items()}
VERBS = [*(name for name in cli.VERBS if name not in cli.GROUPS), *KINDS]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in BARE])
def test_every_option_has_a_line(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert verb in LINES
    actions = {action.dest for action in parser_of(verb, monkeypatch)._actions}
    # The timeout is that of torchrun's processes alone.
    assert actions - {"help", "config", "print_config", "print_shtab", "timeout"} == LINES[verb].keys()
    kind = RUNS[verb][0]
    if kind is not dict:
        extra = {"resume"} if verb in RESUME else set()
        assert {field.name for field in dataclasses.fields(kind)} | extra == LINES[verb].keys()


CLASSES = [verb for verb in VERBS if verb in RUNS and RUNS[verb][0] is not dict]


@pytest.mark.parametrize("verb", CLASSES)
def test_defaults_stay(verb: str) -> None:
    kind = RUNS[verb][0]
    required = {field.name: None for field in dataclasses.fields(kind) if field.default is field.default_factory}
    made = kind(**required)
    assert {name: value for name, value in vars(made).items() if value} == DEFAULTS.get(verb, {})


@pytest.mark.parametrize("verb", CLASSES)
def test_the_command_line_passes_every_option_on(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """All options with the values of their lines at once. They need not go together, and nothing is run."""
    kind = RUNS[verb][0]
    values = BASES[verb].copy()
    for line in LINES[verb].values():
        values |= {name: value for name, value in line.change.items() if value is not None}
    values |= {TARGETS.get(verb, "out"): P("somewhere.png")}
    passed: list[Any] = []

    def noted(config: Any, **more: Any) -> None:
        passed.extend((config, more))

    entry: Any = KINDS.get(verb) or cli.VERBS[verb]
    module, _, work = entry.work.partition(":")
    monkeypatch.setattr(importlib.import_module(module), work, noted)
    monkeypatch.setattr(kind, "check", lambda self: None)
    entry._replace(report=lambda config, result: "")(
        [word for name, value in values.items() for word in (f"--{name}", as_word(value))]
    )
    resume = {"resume": values.pop("resume")} if verb in RESUME else {}
    assert passed == [kind(**values), resume]


def as_word(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {item}' for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
