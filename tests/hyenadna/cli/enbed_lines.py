"""The lines of the options of ``hyenadna enbed``, for ``test_every_option.py``."""

from __future__ import annotations

from pathlib import Path as P
from typing import Any

from tests.hyenadna.cli.lines import NO_DEVICE, PLACE, SPEED, TRAINED, Line, keeps, reaches, refused

SMALL = {
    "num_layers": 1, "num_decoder_layers": 1, "d_model": 8, "num_heads": 1, "d_kv": 8, "d_ff": 8, "local_radius": 4,
    "dropout_rate": 0.0,
}  # fmt: skip

# Dropout is an option there.
SMALL_EVOLVE = {name: value for name, value in SMALL.items() if name != "dropout_rate"}

BASES: dict[str, dict[str, Any]] = {
    "enbed pretrain": {
        "genomes": [P("genome")], "valid_contigs": ["b"], "test_contigs": ["c"], "model_fields": SMALL, "length": 24,
        "mean_span": 2.0, "batch_size": 4, "steps": 4, "lr": 1e-2, "lr_warmup": 0.5, "log_every": 1, "eval_every": 2,
        "eval_windows": 2, "final_windows": 3, "markov_orders": [1], "checkpoint_every": 1, "device": "cpu",
    },
    "enbed attention": {"model": P("enbed_lm"), "sequence": "ACGTACGGTACTTGACATGC"},
    "enbed mutate-pairs": {"simulate": 60, "length": 12, "spots": 2},
    "enbed evolve": {
        "pairs": P("pairs"), "model_fields": SMALL_EVOLVE, "steps": 4, "batch_size": 4, "lr": 1e-2, "lr_warmup": 0.5,
        "tree_pairs": 0, "resamples": 100, "eval_every": 2, "checkpoint_every": 1, "device": "cpu",
    },
    "enbed annotate": {
        "gtf": P("genes.gtf"), "genome": P("genome"), "valid_contigs": ["b"], "test_contigs": ["c"],
        "model_fields": SMALL, "steps": 4, "batch_size": 4, "lr": 1e-2, "beams": 2, "kmer": 2, "checkpoint_every": 1,
        "device": "cpu",
    },
    "enbed noise": {
        "model_fields": SMALL, "length": 24, "train_examples": 8, "valid_examples": 4, "test_examples": 6,
        "scales": [2.0], "divergence": [0.1], "kmer": 2, "epochs": 1, "batch_size": 4, "lr": 1e-2, "seeds": [0],
        "device": "cpu",
    },
}  # fmt: skip
"""Options of the run that each line is compared with."""

BY_FRACTION: dict[str, Any] = {"valid_contigs": [], "test_contigs": [], "steps": 1, "n_runs": "join"}

FROM_TABLE: dict[str, Any] = {"simulate": None, "length": 64, "spots": 4}
FROM_TREE = FROM_TABLE | {
    "newick": P("pairs/tree.nwk"), "states": P("pairs/states.txt"), "tips": P("pairs/tips.fa"),
}  # fmt: skip

ANNOTATED = {
    "gtf": None, "genome": None, "valid_contigs": [], "test_contigs": [], "table": P("annotated.tsv"),
}  # fmt: skip

LINES: dict[str, dict[str, Line]] = {
    "enbed pretrain": {
        "genomes": reaches("rows", genomes=[P("other_genome")]),
        "out": keeps(PLACE, out=P("enbed")),
        "valid_contigs": reaches("valid", base={"test_contigs": []}, valid_contigs=["c"]),
        "test_contigs": reaches("table", base={"valid_contigs": ["b"], "test_contigs": []}, test_contigs=["c"]),
        "valid_fraction": reaches("final", base=BY_FRACTION, valid_fraction=0.2),
        "test_fraction": reaches("table", base=BY_FRACTION, test_fraction=0.2),
        "n_runs": reaches("rows", n_runs="cut"),
        "reverse_complement": reaches("rows", reverse_complement=True),
        "size": reaches("config", base={"model_fields": {}, "steps": 1, "size": "enbed-tiny"}, size="enbed-small"),
        "model_fields": reaches("config", model_fields=SMALL | {"d_ff": 16}),
        "init_from": reaches("rows", base={"model_fields": {}, "init_from": P("enbed_lm")}, init_from=P("other_enbed")),
        "gradient_checkpointing": keeps(SPEED, moves="calls", gradient_checkpointing=True),
        "length": reaches("calls", length=16),
        "density": reaches("rows", density=0.3),
        "mean_span": reaches("rows", mean_span=1.0),
        "batch_size": reaches("calls", batch_size=2),
        "accumulate": keeps(SPEED, moves="calls", close=TRAINED, accumulate=2),
        "steps": reaches("rows", steps=3),
        "lr": reaches("lr", lr=2e-2),
        "min_lr_factor": reaches("lr", min_lr_factor=0.5),
        "lr_warmup": reaches("lr", lr_warmup=0.0),
        "weight_decay": reaches("weights", weight_decay=0.5),
        "beta1": reaches("weights", beta1=0.5),
        "beta2": reaches("weights", beta2=0.9),
        "eps": reaches("weights", eps=1e-2),
        "clip": reaches("weights", clip=1e-3),
        "seed": reaches("rows", seed=1),
        "device": NO_DEVICE,
        "autocast": reaches("calls", autocast="bfloat16"),
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
        "log_every": reaches("rows", log_every=2),
        "eval_every": reaches("valid", eval_every=1),
        "eval_windows": reaches("valid", eval_windows=1),
        "final_windows": reaches("table", final_windows=1),
        "markov_orders": reaches("table", markov_orders=[2]),
        "checkpoint_every": reaches("checkpoints", checkpoint_every=2),
        "keep": reaches("checkpoints", keep=3),
        "resume": keeps("only the steps that are missing", moves="calls", stop_after=3, resume=True),
    },
    "enbed attention": {
        "model": reaches("heads", model=P("other_enbed")),
        "out": keeps(PLACE, out=P("heads")),
        "sequence": reaches("heads", sequence="ACGTACGGTACTTGACATGG"),
        "fasta": reaches("heads", fasta=P("one.fa"), sequence=None),
        "layers": refused("`layers` 2: the encoder has layers 1 to 1", layers=[2]),
    },
    "enbed mutate-pairs": {
        "out": keeps(PLACE, out=P("made")),
        "table": reaches("rows", base=FROM_TABLE | {"table": P("pairs/pairs.tsv")}, table=P("other_pairs/pairs.tsv")),
        "newick": reaches("rows", base=FROM_TREE, newick=P("other_tree.nwk")),
        "states": reaches("rows", base=FROM_TREE, states=P("other_states.txt")),
        "tips": reaches("rows", base=FROM_TREE, tips=P("other_tips.fa")),
        "start": reaches("rows", base=FROM_TREE, start=2),
        "end": reaches("rows", base=FROM_TREE, end=8),
        "simulate": reaches("rows", simulate=50),
        "length": reaches("rows", length=16),
        "spots": reaches("rows", spots=1),
        "differing_only": reaches("rows", differing_only=True),
        "split": reaches("rows", split="date"),
        "date_pattern": reaches("rows", base={"split": "date"}, date_pattern="/0*([0-9]+)/"),
        "valid_fraction": reaches("rows", valid_fraction=0.3),
        "test_fraction": reaches("rows", test_fraction=0.3),
        "seed": reaches("rows", seed=1),
    },
    "enbed evolve": {
        "pairs": reaches("rows", pairs=P("other_pairs")),
        "simulate": reaches("rows", base={"pairs": None, "simulate": 60}, simulate=70),
        "out": keeps(PLACE, out=P("evolving")),
        "model": reaches("rows", base={"model_fields": {}, "model": P("enbed_lm")}, model=P("other_enbed")),
        "size": reaches("config", base={"model_fields": {}, "steps": 1, "size": "enbed-tiny"}, size="enbed-small"),
        "model_fields": reaches("config", model_fields=SMALL_EVOLVE | {"d_ff": 16}),
        "dropout": reaches("weights", dropout=0.5),
        "scramble": reaches("weights", scramble=0.0),
        "steps": reaches("rows", steps=3),
        "batch_size": reaches("weights", batch_size=2),
        "lr": reaches("weights", lr=2e-2),
        "lr_warmup": reaches("weights", lr_warmup=0.0),
        "beams": reaches("candidates", beams=40),
        "candidates": reaches("candidates", candidates=3),
        "noise_model": reaches("table", noise_model=P("noisy")),
        "tree_pairs": reaches("tree", tree_pairs=3),
        "resamples": reaches("table", resamples=150),
        "seed": reaches("rows", seed=1),
        "device": NO_DEVICE,
        "autocast": reaches("calls", autocast="bfloat16"),
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
        "eval_every": reaches("valid", eval_every=1),
        "checkpoint_every": reaches("checkpoints", checkpoint_every=2),
        "resume": keeps("only the steps that are missing", moves="calls", stop_after=3, resume=True),
    },
    "enbed annotate": {
        "out": keeps(PLACE, out=P("annotating")),
        "gtf": reaches("examples", gtf=P("other_genes.gtf")),
        "genome": reaches("examples", genome=P("other_genome")),
        "aliases": reaches(
            "examples",
            base={"aliases": P("names.txt"), "valid_contigs": ["a"], "test_contigs": ["x"]},
            aliases=P("other_names.txt"),
        ),
        "table": reaches("examples", base=ANNOTATED, table=P("other_annotated.tsv")),
        "attribute": reaches("examples", attribute="other_type"),
        "pattern": reaches("examples", base={"attribute": "other_type", "pattern": r"x_(.*)_"}, pattern=r"_(\d)"),
        "feature": reaches("examples", feature="transcript"),
        "cds": reaches("examples", cds=False),
        "length": reaches("examples", length=16),
        "most": reaches("examples", most=30),
        "long": reaches("examples", base={"most": 30}, long="skip"),
        "per_class": reaches("examples", per_class=2),
        "valid_contigs": reaches("examples", base={"valid_contigs": ["a"]}, valid_contigs=["b"]),
        "test_contigs": reaches("examples", base={"valid_contigs": ["b"]}, test_contigs=["a"]),
        "model": reaches("rows", base={"model_fields": {}, "model": P("enbed_lm")}, model=P("other_enbed")),
        "size": reaches("config", base={"model_fields": {}, "steps": 1}, size="enbed-small"),
        "model_fields": reaches("config", model_fields=SMALL | {"d_ff": 16}),
        "balanced": reaches("rows", balanced=True),
        "steps": reaches("rows", steps=3),
        "batch_size": reaches("calls", batch_size=2),
        "lr": reaches("weights", lr=2e-2),
        "beams": reaches("predictions", beams=30),
        "kmer": reaches("table", kmer=1),
        "checkpoint_every": reaches("checkpoints", checkpoint_every=2),
        "seed": reaches("rows", seed=1),
        "device": NO_DEVICE,
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
        "resume": keeps("only the steps that are missing", moves="calls", stop_after=3, resume=True),
    },
    "enbed noise": {
        "out": keeps(PLACE, out=P("noise")),
        "model": reaches("weights", base={"model_fields": {}, "model": P("enbed_lm")}, model=P("other_enbed")),
        "size": reaches("config", base={"model_fields": {}}, size="enbed-small"),
        "model_fields": reaches("config", model_fields=SMALL | {"d_ff": 16}),
        "fasta": reaches("sequences", fasta=P("named_hg.fa")),
        "motifs": reaches("sequences", motifs=["ACGTT"]),
        "length": reaches("sequences", length=30),
        "train_examples": reaches("sequences", train_examples=10),
        "valid_examples": reaches("sequences", valid_examples=6),
        "test_examples": reaches("sequences", test_examples=8),
        "insertion": reaches("sequences", insertion=0.1),
        "deletion": reaches("sequences", deletion=0.1),
        "mismatch": reaches("sequences", mismatch=0.1),
        "scales": reaches("sequences", scales=[4.0]),
        "divergence": reaches("sequences", divergence=[0.3]),
        "kmer": reaches("table", kmer=1),
        "epochs": reaches("rows", epochs=2),
        "batch_size": reaches("rows", batch_size=2),
        "lr": reaches("weights", lr=2e-2),
        "seed": reaches("sequences", seed=1),
        "seeds": reaches("weights", seeds=[1]),
        "jobs": keeps(SPEED, moves="jobs", base={"seeds": [0, 1]}, jobs=2),
        "resume": keeps(
            "only the rows that are missing", moves="calls", base={"scales": [2.0, 1.0]}, stop_after=8, resume=True
        ),
        "device": NO_DEVICE,
        "threads": keeps(SPEED, moves="calls", close=TRAINED, threads=2),
    },
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "enbed pretrain": {
        "valid_fraction": 0.05, "test_fraction": 0.05, "n_runs": "join", "size": "enbed-small", "length": 512,
        "density": 0.15, "mean_span": 20.0, "batch_size": 32, "accumulate": 1, "steps": 10_000, "lr": 1e-5,
        "lr_warmup": 0.05, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "clip": 1.0,
        "device": "auto", "autocast": "auto", "log_every": 10, "eval_every": 500, "eval_windows": 64,
        "markov_orders": [1, 2, 4, 6, 8, 10], "checkpoint_every": 500, "keep": 2,
    },
    "enbed mutate-pairs": {
        "length": 64, "spots": 4, "split": "subtree", "date_pattern": r"/(\d{4})$", "valid_fraction": 0.15,
        "test_fraction": 0.15,
    },
    "enbed evolve": {
        "size": "enbed-tiny", "scramble": 0.3, "steps": 2000, "batch_size": 32, "lr": 5e-3, "lr_warmup": 0.05,
        "beams": 5, "candidates": 5, "tree_pairs": 20, "resamples": 2000, "device": "auto", "autocast": "auto",
        "eval_every": 200, "checkpoint_every": 200,
    },
    "enbed annotate": {
        "attribute": "auto", "feature": "auto", "cds": True, "most": 512, "long": "middle", "per_class": 400,
        "size": "enbed-tiny", "steps": 600, "batch_size": 16, "lr": 3e-3, "beams": 5, "kmer": 4,
        "checkpoint_every": 200, "device": "auto",
    },
    "enbed noise": {
        "size": "enbed-tiny", "motifs": ["TTAGGG", "TTTAGGG", "TTAGG", "TG"], "length": 512, "train_examples": 320,
        "valid_examples": 100, "test_examples": 400, "insertion": 0.02, "deletion": 0.02, "mismatch": 0.02,
        "scales": [1.0, 0.25], "divergence": [0.0, 0.05], "kmer": 6, "epochs": 4, "batch_size": 4, "lr": 2e-3,
        "seeds": [0, 1, 2], "jobs": 1, "device": "auto",
    },
}  # fmt: skip
