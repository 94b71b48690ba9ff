"""``hyenadna VERB …``: a function for every verb.

A verb reads its options, checks them and its input files, and only then imports the work. So ``--help`` and a message
on a wrong path wait for neither torch nor transformers. Bad input is one line on stderr and exit code 2.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from hyenadna.common.errors import InputError


def prepare(argv: Sequence[str]) -> None:
    """Tokenise a FASTA once into a folder that training reads from."""
    from hyenadna.cli.options import make_parser
    from hyenadna.common.options import check_file

    parser = make_parser(
        "prepare",
        "Tokenise a FASTA (plain, gzip or bgzip) once, into a folder of memory-mapped tokens and an index. Lower case "
        "is read as upper case, IUPAC ambiguity codes become N and are counted.",
        "hyenadna prepare genome.fa.gz --out genome",
    )
    parser.add_argument("fasta", type=Path, help="FASTA with the genome.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write.")
    parser.add_argument("--overwrite", action="store_true", help="Replace a genome that the folder already holds.")
    args = parser.parse_args(list(argv))
    check_file(args.fasta)
    from hyenadna.data import genome

    made = genome.prepare(args.fasta, args.out, overwrite=args.overwrite)
    print(made.describe())


def pretrain(argv: Sequence[str]) -> None:
    """Train a language model on a prepared genome."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.pretraining.config import PretrainConfig

    parser = make_parser(
        "pretrain",
        "Train a HyenaDNA language model by next-nucleotide prediction. The folder --out receives config.yaml, "
        "splits.bed, metrics.jsonl, checkpoints and, at the end, model/.",
        "hyenadna pretrain --genome genome --out run --valid_contigs chrXIV,chrX --steps 20000 --d_model 128\n"
        "  hyenadna pretrain --config run/config.yaml --resume",
        PretrainConfig,
    )
    parser.add_argument(
        "--resume",
        type=bool,
        default=False,
        nargs="?",
        const=True,
        help="Resume from the newest checkpoint in --out, if there is one.",
    )
    config, parsed = parse_config(parser, PretrainConfig, argv)
    from hyenadna.pretraining import train

    result = train.pretrain(config, resume=parsed.resume)
    score = result.valid.score
    print(
        f"{result.steps:,} steps in {result.seconds:,.0f} s; validation perplexity {score.perplexity:.4f}, accuracy "
        f"{score.accuracy:.4f} over {score.count:,} positions; model in {result.model}"
    )


def evaluate(argv: Sequence[str]) -> None:
    """Score a model on held-out contigs, and compare it with Markov models."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.evaluation.config import EvaluateConfig

    parser = make_parser(
        "evaluate",
        "Measure perplexity and accuracy of a checkpoint on held-out contigs. Markov models of order 0 to 8, fitted on "
        "the other contigs and their reverse complement, are the baseline. Writes JSON and PNGs.",
        "hyenadna evaluate --model run/model --genome genome --contigs chrXIV --out evaluation",
        EvaluateConfig,
    )
    config, _ = parse_config(parser, EvaluateConfig, argv)
    from hyenadna.evaluation import evaluate as evaluation

    row = evaluation.evaluate(config)
    print(f"{'':<12} perplexity  accuracy")
    for order, score in row["markov"].items():
        print(f"Markov {order:<5} {score['perplexity']:>10.4f} {score['accuracy']:>9.4f}")
    print(f"{'model':<12} {row['perplexity']:>10.4f} {row['accuracy']:>9.4f}")
    print(f"{row['positions']:,} positions; figures in {config.out}")


def finetune(argv: Sequence[str]) -> None:
    """Train a model on labelled sequences."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.finetuning.config import FinetuneConfig

    parser = make_parser(
        "finetune",
        "Train on labelled sequences: classes, several labels, values, or a class for each base. Start from a "
        "checkpoint (all of it, the head alone, or LoRA) or from scratch. The test split is used once, at the end.",
        "hyenadna finetune --data promoters.tsv --sequence_column seq --model run/model --out tuned "
        "--seeds '[0, 1, 2]' --jobs 2\n"
        "  hyenadna finetune --data human_nontata_promoters --preset gb-nontata-promoters --model tiny-1k --out tuned",
        FinetuneConfig,
    )
    config, _ = parse_config(parser, FinetuneConfig, argv)
    from hyenadna.finetuning import train as tuning
    from hyenadna.finetuning.results import describe

    print(describe(tuning.finetune(config)))
    print(f"model, curves and results in {config.out}")


def predict(argv: Sequence[str]) -> None:
    """Predict classes, labels or values of new sequences with a fine-tuned model."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.inference.config import PredictConfig

    parser = make_parser(
        "predict",
        "Predict classes, labels or values of sequences (FASTA, table) with a model of hyenadna finetune. Writes a TSV "
        "with the input's columns first.",
        "hyenadna predict --model tuned/model --fasta new.fa --out predictions.tsv",
        PredictConfig,
    )
    config, _ = parse_config(parser, PredictConfig, argv)
    from hyenadna.inference import predict as prediction

    print(f"{prediction.predict(config):,} rows in {config.out}")


def score(argv: Sequence[str]) -> None:
    """Score sequences by log-likelihood, or variants by how they change it."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.inference.config import ScoreConfig

    parser = make_parser(
        "score",
        "Score sequences (FASTA, table) by their log-likelihood, or variants (VCF) by how they change it. A variant's "
        "score is over a window, at the site alone, or a distance of embeddings. Writes a TSV with the input's columns "
        "first.",
        "hyenadna score --model run/model --vcf variants.vcf.gz --genome genome --out effects.tsv\n"
        "  hyenadna score --model run/model --fasta genes.fa --window 1024 --stride 512 --out genes.tsv",
        ScoreConfig,
    )
    config, _ = parse_config(parser, ScoreConfig, argv)
    from hyenadna.inference import score as scoring

    result = scoring.score(config)
    print(f"{result.scored:,} of {result.rows:,} rows with a score in {config.out}")
    for problem, count in sorted(result.problems.items(), key=lambda item: -item[1]):
        print(f"{count:,} without: {problem}")


def embed(argv: Sequence[str]) -> None:
    """Write sequence embeddings to a file."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.inference.config import EmbedConfig

    parser = make_parser(
        "embed",
        "Embed sequences (FASTA, intervals of a genome, table): the mean of the last hidden states over the bases, the "
        "last one, or all. The input may be larger than memory. A stopped run resumes with --resume.",
        "hyenadna embed --model run/model --bed genes.bed --genome genome --out genes.npz\n"
        "  hyenadna embed --model run/model --fasta genes.fa --window 1024 --stride 512 --out genes.parquet",
        EmbedConfig,
    )
    config, _ = parse_config(parser, EmbedConfig, argv)
    from hyenadna.inference import embed as embedding

    print(f"{embedding.embed(config):,} sequences in {config.out}")


def plot(argv: Sequence[str]) -> None:
    """Draw embeddings, training curves, fine-tunings or a mutagenesis."""
    from hyenadna.cli import plot_config
    from hyenadna.cli.options import make_parser, parse_config

    parser = make_parser(
        "plot", "Draw a figure into a PNG.", "hyenadna plot training --metrics run/metrics.jsonl --out training.png"
    )
    kinds = parser.add_subcommands(required=False, title="kinds of figures", metavar="KIND")
    for name, texts in PLOTS.items():
        child = make_parser(f"plot {name}", texts.description, texts.example, getattr(plot_config, texts.options))
        kinds.add_subcommand(name, child, help=texts.summary)
        # add_subcommand gives it the usage of its parent.
        child.prog = f"hyenadna plot {name}"
        if argv[:1] == [name]:
            config, _ = parse_config(child, getattr(plot_config, texts.options), argv[1:])
            from hyenadna.cli import plot as figures

            print(getattr(figures, texts.draw)(config))
            return
    if argv and not argv[0].startswith("-"):
        raise InputError(f"unknown kind {argv[0]!r}: choose one of {', '.join(PLOTS)} (see hyenadna plot --help)")
    parser.parse_args(list(argv) or ["--help"])


class Plot(NamedTuple):
    """A kind of figure: texts of its help, its options in ``plot_config.py``, and its function in ``plot.py``."""

    summary: str
    description: str
    example: str
    options: str
    draw: str


PLOTS = {
    "embeddings": Plot(
        "a map of embeddings by PCA or UMAP",
        "Draw embeddings in two dimensions (PCA, UMAP), and print how well simple classifiers tell their labels apart.",
        "hyenadna plot embeddings --embeddings genes.npz --out genes.png\n"
        "  hyenadna plot embeddings --embeddings genes.npz --method umap --neighbors '[5, 15, 50]' "
        "--min_dist '[0.1, 0.5]' --out umap.png",
        "EmbeddingsPlot",
        "draw_embeddings",
    ),
    "training": Plot(
        "the curves of a pretraining run",
        "Draw the perplexity of a pretraining run in training and validation.",
        "hyenadna plot training --metrics run/metrics.jsonl --out training.png",
        "TrainingPlot",
        "draw_training",
    ),
    "results": Plot(
        "the test results of several fine-tunings",
        "Compare the test results of several fine-tunings of the same data and split, as a table and a figure.",
        "hyenadna plot results --results '[tuned, frozen, scratch]' --out methods.png",
        "ResultsPlot",
        "draw_results",
    ),
    "mutagenesis": Plot(
        "how every substitution in a region changes its likelihood",
        "Replace every base of a region by each of the others, and draw how the log-likelihood of the window changes.",
        "hyenadna plot mutagenesis --model run/model --genome genome --region chrI:1001-1080 --out mutations.png",
        "MutagenesisPlot",
        "draw_mutagenesis",
    ),
}


def generate(argv: Sequence[str]) -> None:
    """Sample continuations of a prompt."""
    from hyenadna.cli.options import make_parser, parse_config
    from hyenadna.inference.config import GenerateConfig

    parser = make_parser(
        "generate",
        "Sample continuations of a prompt base by base from a language model, and write them to a FASTA.",
        "hyenadna generate --model run/model --prompt_fasta prompts.fa --length 500 --top_p 0.95 --out new.fa",
        GenerateConfig,
    )
    config, _ = parse_config(parser, GenerateConfig, argv)
    from hyenadna.inference import generate as generation

    print(f"{generation.generate(config):,} sequences in {config.out}")


def convert(argv: Sequence[str]) -> None:
    """Convert a checkpoint between the two published formats."""
    from hyenadna.cli.options import make_parser
    from hyenadna.model.locate import check_convertible

    parser = make_parser(
        "convert",
        "Convert a checkpoint between the two published formats: hf (config.json and model.safetensors) and original "
        "(config.json and weights.ckpt). Code inside a pickle is never run.",
        "hyenadna convert hyenadna-tiny-1k-seqlen tiny-1k-hf --to hf",
    )
    parser.add_argument("src", type=str, help="Folder or file of either format.")
    parser.add_argument("dst", type=str, help="Folder to write.")
    parser.add_argument("--to", choices=("hf", "original"), default="hf", help="Format to write.")
    parser.add_argument(
        "--modulation_shift",
        type=float,
        default=None,
        help="Window shift that the weights were trained with, if the checkpoint does not name it: 0.05 for the "
        "published ones, 0.0 for those of the original training code.",
    )
    args = parser.parse_args(list(argv))
    check_convertible(args.src, args.dst)
    from hyenadna.model.convert import convert as convert_checkpoint
    from hyenadna.model.loading import without_transformers_bars

    overrides = {} if args.modulation_shift is None else {"modulation_shift": args.modulation_shift}
    with without_transformers_bars():
        print(convert_checkpoint(args.src, args.dst, to=args.to, **overrides))


def doctor(argv: Sequence[str]) -> None:
    """Show what is installed and which backend runs."""
    # The standard library only: doctor must run where packages are missing.
    import argparse
    from importlib import metadata

    parser = argparse.ArgumentParser(
        prog="hyenadna doctor",
        allow_abbrev=False,
        description="Show what is installed, which backend runs and why the others do not.",
        epilog="example:\n  hyenadna doctor",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if others := parser.parse_known_args(list(argv))[1]:
        _fail(f"unrecognized arguments: {' '.join(others)} (see hyenadna doctor --help)")
    try:
        from hyena_kernels.backend import describe

        print(describe())
    except ImportError as error:
        print(f"hyena_kernels cannot be imported: {error}")
    print()
    for name in _PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")


_PACKAGES = (
    "torch",
    "numpy",
    "transformers",
    "safetensors",
    "jsonargparse",
    "PyYAML",
    "tqdm",
    "matplotlib",
    "polars",
    "scikit-learn",
    "umap-learn",
    "peft",
    "tensorboard",
)

VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    verb.__name__: verb
    for verb in (prepare, pretrain, evaluate, finetune, predict, score, embed, generate, plot, convert, doctor)
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb; exit code 2 and one line on bad input, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv == ["--version"]:
        print(f"hyenadna {_version()}")
        return
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hyenadna VERB …\n\nSingle-nucleotide genomic language models.\n")
        for name, verb in VERBS.items():
            print(f"  {name:<10} {(verb.__doc__ or '').splitlines()[0]}")
        print("\nhyenadna VERB --help shows the options of a verb, hyenadna --version the version.\n")
        print("example:\n  hyenadna prepare genome.fa.gz --out genome")
        return
    try:
        if argv[0] not in VERBS:
            raise InputError(f"unknown verb {argv[0]!r}: choose one of {', '.join(VERBS)} (see hyenadna --help)")
        VERBS[argv[0]](argv[1:])
    except (InputError, OSError) as error:
        _fail(str(error))
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("", "hyenadna", "hyena_kernels"):
            raise
        from hyenadna.common.extras import EXTRAS

        missing = (error.name or "").split(".")[0]
        extras = ",".join(["dna", *([EXTRAS[missing]] if missing in EXTRAS else [])])
        _fail(f"{argv[0]} needs {error.name}: pip install '.[{extras}]' in a checkout of hyena_kernels")
    except KeyboardInterrupt as stopped:
        print(f"interrupted{f': {with_dashes(str(stopped))}' if str(stopped) else ''}", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    print(f"error: {with_dashes(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)


def with_dashes(message: str) -> str:
    """A message with the names in backquotes as options: the library writes `steps`, the command line --steps."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", r"--\1", message)


def _version() -> str:
    # Not by importing hyena_kernels, which imports torch.
    spec = importlib.util.find_spec("hyena_kernels")
    assert spec is not None
    assert spec.origin is not None
    return str(runpy.run_path(str(Path(spec.origin).with_name("_version.py")))["__version__"])


if __name__ == "__main__":
    main()
