"""``hyenadna VERB …``: the table of the verbs, and what runs one of them.

A verb reads its options, checks them and its input files, and only then imports the work. So ``--help`` and a message
on a wrong path wait for neither torch nor transformers. Bad input is one line on stderr and exit code 2.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hyenadna.cli.enbed import ENBED
from hyenadna.cli.verb import Verb, load, run_group, summary
from hyenadna.common.errors import InputError
from hyenadna.common.launch import Launch, check_processes, let_first_speak
from hyenadna.common.streams import copied_streams
from hyenadna.common.world import LostProcessError, SharedError


def prepare(argv: Sequence[str]) -> None:
    """Tokenise a FASTA once into a folder that training reads from."""
    from hyenadna.cli.options import make_parser
    from hyenadna.common.options import check_file

    parser = make_parser(
        "prepare",
        "Tokenise a FASTA (plain, gzip or bgzip) once, into a folder of memory-mapped tokens and an index. Lower case "
        "is read as upper case. IUPAC ambiguity codes become N and are counted.",
        "hyenadna prepare genome.fa.gz --out genome",
    )
    parser.add_argument("fasta", type=Path, help="FASTA with the genome.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write.")
    parser.add_argument(
        "--aliases",
        type=Path,
        help="Other names of the contigs, to keep with the genome: a chromAlias.txt of UCSC or an assembly_report.txt "
        "of NCBI.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace a genome that the folder already holds.")
    args = parser.parse_args(list(argv))
    check_processes("prepare")
    for file in (args.fasta, args.aliases):
        if file is not None:
            check_file(file)
    from hyenadna.data import genome

    made = genome.prepare(args.fasta, args.out, aliases=args.aliases, overwrite=args.overwrite)
    print(made.describe())


def plot(argv: Sequence[str]) -> None:
    """Draw embeddings, training curves, fine-tunings or a mutagenesis."""
    example = "hyenadna plot training --metrics run/metrics.jsonl --out training.png"
    run_group("plot", "Draw a figure into a PNG.", example, "kinds of figures", PLOTS, argv)


_PLOTS = (
    Verb(
        "plot embeddings",
        "Draw a map of embeddings by PCA or UMAP. Prints how well simple classifiers tell the labels apart.",
        "hyenadna plot embeddings --embeddings genes.npz --out genes.png\n"
        "  hyenadna plot embeddings --embeddings genes.npz --method umap --neighbors '[5, 15, 50]' "
        "--min_dist '[0.1, 0.5]' --out umap.png",
        "hyenadna.cli.plot_config:EmbeddingsPlot",
        "hyenadna.cli.plot:draw_embeddings",
    ),
    Verb(
        "plot training",
        "Draw the curves of a pretraining run. They are its perplexity in training and in validation.",
        "hyenadna plot training --metrics run/metrics.jsonl --out training.png",
        "hyenadna.cli.plot_config:TrainingPlot",
        "hyenadna.cli.plot:draw_training",
    ),
    Verb(
        "plot results",
        "Compare the test results of several fine-tunings. They must have the same data and split. Prints a table too.",
        "hyenadna plot results --results '[tuned, frozen, scratch]' --out methods.png",
        "hyenadna.cli.plot_config:ResultsPlot",
        "hyenadna.cli.plot:draw_results",
    ),
    Verb(
        "plot mutagenesis",
        "Draw how every substitution in a region changes its likelihood. Each base is replaced by each of the others.",
        "hyenadna plot mutagenesis --model run/model --genome genome --region chrI:1001-1080 --out mutations.png",
        "hyenadna.cli.plot_config:MutagenesisPlot",
        "hyenadna.cli.plot:draw_mutagenesis",
    ),
)
PLOTS = {verb.name.removeprefix("plot "): verb for verb in _PLOTS}


def enbed(argv: Sequence[str]) -> None:
    """Train and study ENBED, an encoder-decoder over bytes. Its kinds are span corruption and studies on it."""
    example = "hyenadna enbed pretrain --genomes genome --valid_contigs chrXVI --out run"
    text = (
        "Train and study ENBED, an encoder-decoder over bytes. A classifier is fine-tuned by hyenadna finetune "
        "--architecture enbed."
    )
    run_group("enbed", text, example, "kinds of work", ENBED, argv)


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
    check_processes("convert")
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
    for name in _PACKAGES.split():
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")


_PACKAGES = (
    "torch numpy transformers safetensors jsonargparse PyYAML tqdm matplotlib polars scikit-learn pysam umap-learn "
    "peft rapidfuzz tensorboard"
)


def _report_pretraining(config: Any, result: Any) -> str:
    score = result.valid.score
    return (
        f"{result.steps:,} steps in {result.seconds:,.0f} s; validation perplexity {score.perplexity:.4f}, accuracy "
        f"{score.accuracy:.4f} over {score.count:,} positions; model in {result.model}"
    )


def _report_evaluation(config: Any, row: dict[str, Any]) -> str:
    models = {f"Markov {order}": score for order, score in row["markov"].items()} | {"model": row}
    lines = [f"{'':<12} perplexity  accuracy" + "  prior strength" * bool(row["markov"])]
    for name, score in models.items():
        strength = f" {score['prior_strength']:>15.4g}" if "prior_strength" in score else ""
        lines.append(f"{name:<12} {score['perplexity']:>10.4f} {score['accuracy']:>9.4f}{strength}")
    if row["markov"]:
        fitted = row["markov_strengths"]
        part = " of the training part, which then counts too" * fitted["held_back_from_training"]
        lines.append(f"prior strengths fitted on {', '.join(fitted['fitted_on']) or 'nothing'}{part}")
        lines += [fitted["left_out"]] * bool(fitted["left_out"])
    return "\n".join([*lines, f"{row['positions']:,} positions; figures in {config.out}"])


def _report_scores(config: Any, result: Any) -> str:
    lines = [f"{result.scored:,} of {result.rows:,} rows with a score in {config.out}"]
    for word, counts in (("without", result.problems), ("with a note", result.remarks)):
        lines += [f"{count:,} {word}: {text}" for text, count in sorted(counts.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def _report_comparison(config: Any, found: Any) -> str:
    return str(load("hyenadna.comparison.report:describe")(config, found))


def _report_finetuning(config: Any, summary: dict[str, Any]) -> str:
    return f"{load('hyenadna.finetuning.results:describe')(summary)}\nmodel, curves and results in {config.out}"


def _report_cancer(config: Any, results: dict[str, Any]) -> str:
    return f"{load('hyenadna.cancer.study_page:describe')(results)}\npage, results and models in {config.out}"


_VERBS: tuple[Verb | Callable[[Sequence[str]], None], ...] = (
    prepare,
    Verb(
        "pretrain",
        "Train a language model on a prepared genome, by next-nucleotide prediction. The folder --out receives "
        "config.yaml, splits.bed, metrics.jsonl, checkpoints and, at the end, model/.",
        "hyenadna pretrain --genome genome --out run --valid_contigs chrXIV,chrX --steps 20000 --d_model 128\n"
        "  hyenadna pretrain --config run/config.yaml --resume",
        "hyenadna.pretraining.config:PretrainConfig",
        "hyenadna.pretraining.train:pretrain",
        _report_pretraining,
        resumes=True,
        divides=True,
    ),
    Verb(
        "evaluate",
        "Score a model on held-out contigs, and compare it with Markov models. They have orders up to 24, and "
        "count the other contigs and their reverse complement. Writes JSON and PNGs.",
        "hyenadna evaluate --model run/model --genome genome --contigs chrXIV --out evaluation",
        "hyenadna.evaluation.config:EvaluateConfig",
        "hyenadna.evaluation.evaluate:evaluate",
        _report_evaluation,
        divides=True,
        waits=True,
    ),
    Verb(
        "finetune",
        "Train a model on labelled sequences. The labels are classes, several labels, values, or a class for each "
        "base. Training starts from a checkpoint (all of it, the head alone, or LoRA) or from scratch. The test split "
        "is used once, at the end.",
        "hyenadna finetune --data promoters.tsv --sequence_column seq --model run/model --out tuned "
        "--seeds '[0, 1, 2]' --jobs 2\n"
        "  hyenadna finetune --data human_nontata_promoters --preset gb-nontata-promoters "
        "--model LongSafari/hyenadna-tiny-1k-seqlen-hf --out tuned",
        "hyenadna.finetuning.config:FinetuneConfig",
        "hyenadna.finetuning.train:finetune",
        _report_finetuning,
        divides=True,
        waits=True,
    ),
    Verb(
        "report",
        "Put the published tables beside the results in folders. Each published row is empty where nothing was run, or "
        "where the test split is another one. Writes Markdown, a page and pictures.",
        "hyenadna report --results '[runs]' --out comparison\n  hyenadna report --out published",
        "hyenadna.comparison.config:ReportConfig",
        "hyenadna.comparison.report:report",
        _report_comparison,
    ),
    Verb(
        "predict",
        "Predict classes, labels or values of new sequences with a fine-tuned model. Writes a TSV with the columns of "
        "the FASTA or table first.",
        "hyenadna predict --model tuned/model --fasta new.fa --out predictions.tsv",
        "hyenadna.inference.config:PredictConfig",
        "hyenadna.inference.predict:predict",
        lambda config, rows: f"{rows:,} rows in {config.out}",
        divides=True,
        waits=True,
    ),
    Verb(
        "score",
        "Score sequences by log-likelihood, or variants by how they change it. A variant's score is over a window, at "
        "the site alone, or a distance of embeddings. All spellings of a variant have one score. Writes a TSV with "
        "the columns of the input first, or an annotated VCF. A stopped run resumes with --resume.",
        "hyenadna score --model run/model --vcf variants.vcf.gz --genome genome --out effects.tsv\n"
        "  hyenadna score --model run/model --fasta genes.fa --window 1024 --stride 512 --out genes.tsv",
        "hyenadna.inference.config:ScoreConfig",
        "hyenadna.inference.score:score",
        _report_scores,
        divides=True,
        waits=True,
    ),
    Verb(
        "embed",
        "Write sequence embeddings to a file. They are the mean of the last hidden states over the bases, the last "
        "one, or all. The sequences come from a FASTA, a table or the intervals of a genome, and may exceed the "
        "memory. A stopped run resumes with --resume.",
        "hyenadna embed --model run/model --bed genes.bed --genome genome --out genes.npz\n"
        "  hyenadna embed --model run/model --fasta genes.fa --window 1024 --stride 512 --out genes.parquet",
        "hyenadna.inference.config:EmbedConfig",
        "hyenadna.inference.embed:embed",
        lambda config, count: f"{count:,} sequences in {config.out}",
        divides=True,
        waits=True,
    ),
    Verb(
        "generate",
        "Sample continuations of a prompt. They grow base by base from a language model. Writes a FASTA.",
        "hyenadna generate --model run/model --prompt_fasta prompts.fa --length 500 --top_p 0.95 --out new.fa",
        "hyenadna.inference.config:GenerateConfig",
        "hyenadna.inference.generate:generate",
        lambda config, count: f"{count:,} sequences in {config.out}",
    ),
    Verb(
        "mutate",
        "Put the mutations of cell lines into windows of the reference. Reads tables of DepMap, MAF or VCF, and writes "
        "tables with as many sequences of each line, split by line and patient, and a report.",
        "hyenadna mutate --fasta hg38.fa --mutations OmicsSomaticMutations.csv --models Model.csv "
        "--classes Lung,Lymphoid --out_dir lung_lymphoid",
        "hyenadna.cancer.config:MutateConfig",
        "hyenadna.cancer.mutate:mutate",
        lambda config, report: load("hyenadna.cancer.report:describe")(report, config.out_dir),
    ),
    Verb(
        "probe",
        "Tell how well simple classifiers predict the labels of embeddings. They are nearest neighbours, logistic "
        "regression and gradient-boosted trees, with weighted F1, macro F1 and accuracy by cross-validation. Writes "
        "JSON, a table and a picture.",
        "hyenadna probe --embeddings genes.npz --out probed\n"
        "  hyenadna probe --embeddings genes.npz --random random.npz --preset biotypes --out biotypes",
        "hyenadna.cli.probe_config:ProbeConfig",
        "hyenadna.cli.probe:run_probe",
        lambda config, summary: f"{load('hyenadna.cli.probe:describe_probe')(summary)}\nresults in {config.out}",
    ),
    Verb(
        "cancer",
        "Train cancer-type classifiers on the windows of hyenadna mutate, and compare them with yardsticks. Metrics "
        "are per sequence and per cell line, with intervals over lines. The yardsticks are the majority, the number "
        "of mutations, the position, 5-mers, and the same models on unmutated windows. Writes one page.",
        "hyenadna cancer --data windows --model run/model --out study --options '{epochs: 5, batch_size: 16}'\n"
        "  hyenadna cancer --data '[windows-1k, windows-32k]' --model '[tiny-1k, small-32k]' "
        "--settings '[cancer-1k, cancer-32k, cancer-32k-scratch, cancer-32k-frozen]' --out published",
        "hyenadna.cancer.study_config:CancerConfig",
        "hyenadna.cancer.study:study",
        _report_cancer,
    ),
    enbed,
    plot,
    convert,
    doctor,
)
_VERSION = ("--version", "-V")
GROUPS = {"enbed": ENBED, "plot": PLOTS}
"""Verbs that have kinds."""
VERBS = {verb.name if isinstance(verb, Verb) else verb.__name__: verb for verb in _VERBS}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb; exit code 2 and one line on bad input, 130 when interrupted, 141 if the output is cut off."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with _cut_off_output():
        _run(argv)


@contextmanager
def _cut_off_output() -> Iterator[None]:
    """End the process in silence, as after SIGPIPE, if nobody reads standard output to its end: ``| head -1``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        if not _is_cut_off():
            _fail(str(error))
        # Python flushes once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _is_cut_off() -> bool:
    """Whether nobody reads standard output any more, rather than another pipe."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    # With PYTHONUNBUFFERED nothing was left to flush.
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(argv: list[str]) -> None:
    # Also behind a verb, where no option takes such a value.
    if argv and (argv[0] in _VERSION or (argv[0] in VERBS and {*argv[1:]} & {*_VERSION})):
        print(f"hyenadna {_version()}")
        return
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hyenadna VERB …\n\nSingle-nucleotide genomic language models.\n")
        for name, verb in VERBS.items():
            print(f"  {name:<10} {summary(verb)}")
        print("\nhyenadna VERB --help shows the options of a verb, hyenadna --version the version.\n")
        print("example:\n  hyenadna prepare genome.fa.gz --out genome")
        return
    with one_line_errors(argv[0]):
        if argv[0] not in VERBS:
            raise InputError(f"unknown verb {argv[0]!r}: choose one of {', '.join(VERBS)} (see hyenadna --help)")
        VERBS[argv[0]](argv[1:])


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """End the process with one line: exit code 2 on bad input or a missing package, 130 when interrupted."""
    try:
        with copied_streams():
            yield
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        _fail_in_one_process(error)
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("", "hyenadna", "hyena_kernels"):
            raise
        from hyenadna.common.extras import how_to_install

        _fail(f"{command} needs {error.name}: {how_to_install(str(error.name))}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        reason = (str(error).splitlines() or [""])[0]
        _fail(f"{command}: the memory is too small ({reason}); lower `batch_size`, or take shorter sequences")
    except KeyboardInterrupt as stopped:
        if Launch.of().rank:
            # An interrupt reaches all processes. The first one tells it.
            sys.exit(130)
        print(f"interrupted{f': {_with_dashes(str(stopped))}' if str(stopped) else ''}", file=sys.stderr)
        sys.exit(130)


def _fail_in_one_process(error: Exception) -> NoReturn:
    """Tell an error once where several processes of torchrun have it."""
    rank = Launch.of().rank
    if rank and not isinstance(error, LostProcessError):
        # If the first process has the error too, it has told it by then, and torchrun ends this one.
        let_first_speak()
        if isinstance(error, SharedError):
            sys.exit(2)
        _fail(f"rank {rank}: {error}")
    _fail(str(error))


# torch has a class for it on GPUs only.
_OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)


def _fail(message: str) -> NoReturn:
    print(f"error: {_with_dashes(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)


def _with_dashes(message: str) -> str:
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
