"""Published downstream tasks: options, models, sources, and what is not followed.

Sources: Nguyen et al., "HyenaDNA", 2023 (arXiv 2306.15794), with its appendix; the configurations of the HyenaDNA
repository; and the thesis "Foundation models for cancer genomics with HyenaDNA". Where they disagree, the notes of a
preset name the choice. The published figures are in :mod:`hyenadna.published.tables`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.published.tables import PAPER, THESIS, figures

MICRO_BATCH = 131_072
"""Most bases that presets put into a micro-batch, unless a single sequence has more."""


@dataclass(frozen=True)
class Preset:
    """A published task.

    Attributes:
        name: its name.
        metric: the metric of ``hyenadna.evaluation.metrics`` that decides on the best epoch.
        options: fields of ``FinetuneConfig``.
        source: where the options come from.
        size: the published size to take: the paper's, or the one that comes nearest to it.
        notes: choices, and what is not followed and why, a sentence or two each.
        data: where the data are, and which files go where.
        benchmark: its name in ``hyenadna.published.tables``; empty if no source gives figures.
        dataset: its name there.
        bases: length of the published sequences; None where they differ.
        shape: fields in place of those of ``size``, for the method scratch.
    """

    name: str
    metric: str
    options: Mapping[str, Any]
    source: str
    size: str
    notes: tuple[str, ...]
    data: str
    benchmark: str = ""
    dataset: str = ""
    bases: int | None = None
    shape: Mapping[str, int] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """The row of the published tables that the preset as it stands belongs to."""
        method = self.options.get("method", "full")
        return "pretrained" if method == "full" else str(method)

    @property
    def published(self) -> dict[str, float]:
        """The published values of the preset as it stands, from 0 to 1, by metric."""
        return self.published_of(self.row)

    def published_of(self, row: str) -> dict[str, float]:
        """The published values of a row of the tables, from 0 to 1, by metric; empty if there are none.

        The first table that has the row counts: tables of ablations come before comparisons with other models.
        """
        found = figures(self.benchmark, self.dataset, row)
        return {figure.metric: figure.value for figure in found if figure.source == found[0].source}


_REPOSITORY = "configs of the HyenaDNA repository"
_COMMON: dict[str, Any] = {
    "epochs": 100, "patience": 100, "lr": 6e-4, "weight_decay": 0.1, "lr_warmup": 0.01, "min_lr_factor": 0.1,
    "clip": 1.0, "batch_size": 128,
}  # fmt: skip
_TEST_IS_VALIDATION = (
    "not followed: the repository has no validation split and takes the best epoch of the test. Here a tenth of the "
    "training examples chooses the epoch, and the test is looked at once"
)
_PADS = "not followed: the repository pads on the left and averages over the pads too. Here pads have no part"
_LONGER = (
    "not followed: the repository keeps the start of a sequence that is longer than its max_length. Here it is an "
    "error without `length`; with it, `keep` start does the same"
)


def micro_batches(batch_size: int, bases: int) -> int:
    """Micro-batches of a batch of sequences, none of which has more than ``MICRO_BATCH`` bases or is a single one."""
    return min(batch_size, math.ceil(batch_size * bases / MICRO_BATCH))


def _genomic_benchmarks() -> Iterator[Preset]:
    for name, folder in (
        ("mouse-enhancers", "dummy_mouse_enhancers_ensembl"),
        ("coding-vs-intergenomic", "demo_coding_vs_intergenomic_seqs"),
        ("human-vs-worm", "demo_human_or_worm"),
        ("enhancers-cohn", "human_enhancers_cohn"),
        ("enhancers-ensembl", "human_enhancers_ensembl"),
        ("regulatory", "human_ensembl_regulatory"),
        ("nontata-promoters", "human_nontata_promoters"),
        ("ocr", "human_ocr_ensembl"),
    ):
        options, size, notes = _COMMON, "tiny-1k", [_TEST_IS_VALIDATION, _LONGER, _PADS]
        if name == "mouse-enhancers":
            # The median is 2,381 bases, and the paper's lengths end at 4,800.
            options, size = options | {"accumulate": micro_batches(128, 4800)}, "tiny-16k"
            notes.insert(
                0,
                "choice: tiny-16k, because half of the sequences have more than 2,381 bases and tiny-1k takes 1,024. "
                "It has as many parameters as the paper's 436 K",
            )
        yield Preset(
            name=f"gb-{name}",
            metric="accuracy",
            options=options,
            source=f"genomic_benchmark.yaml, {_REPOSITORY}",
            size=size,
            notes=tuple(notes),
            data=f"GenomicBenchmarks: pip install genomic-benchmarks, then download_dataset('{folder}', version=0, "
            "dest_path='.') of genomic_benchmarks.loc2seq; `data` is the folder with train/CLASS/*.txt and "
            "test/CLASS/*.txt",
            benchmark="genomic-benchmarks",
            dataset=name,
        )


def _nucleotide_transformer() -> Iterator[Preset]:
    names = {
        "mcc": "enhancer enhancer-types H3 H3K4me1 H3K4me2 H3K4me3 H3K9ac H3K14ac H3K36me3 H3K79me3 H4 H4ac",
        "f1_macro": "promoter-all promoter-non-tata promoter-tata splice-acceptor splice-donor splice-all",
    }
    for metric, words in names.items():
        for name in words.split():
            notes = [
                "choice: batch 128 and lr 6e-4 of the yaml. Appendix A.5 names ranges (256 to 1024, 2e-4 to 1e-3); the "
                "values of each dataset are only in a Docker image",
                "the paper has 90% for training and 10% for validation, as here. Whether it chose the epoch on them is "
                "not stated",
                _PADS,
            ]
            if name == "splice-all":
                notes.insert(0, "choice: the options of the others, because the repository does not have this dataset")
            yield Preset(
                name=f"nt-{name}",
                metric=metric,
                options=_COMMON,
                source=f"nucleotide_transformer.yaml, {_REPOSITORY}; {PAPER}, appendix A.5",
                size="tiny-1k-d256",
                notes=tuple(notes),
                data="the 18 tasks at huggingface.co/datasets/InstaDeepAI/nucleotide_transformer_downstream_tasks; "
                "`data` is the folder of one task with train.fna and test.fna",
                benchmark="nucleotide-transformer",
                dataset=name,
            )


def _chromatin() -> Iterator[Preset]:
    common = _COMMON | {"task": "multilabel", "batch_size": 64, "epochs": 50, "patience": 50}
    batch = (
        "choice: batch 64 and 50 epochs of the paper, where the yaml has batch 1000 and 100 epochs. The learning rate "
        "and its course are the yaml's"
    )
    data = (
        "the coordinates of DeepSEA, prepared as the README of the HyenaDNA repository says; `data` is the folder with "
        "train_hg19_coords_targets.csv, val_hg19_coords_targets.csv and test_hg19_coords_targets.csv, and `genome` "
        "hg19.fa"
    )
    source = f"{PAPER}, appendix A.8; chromatin_profile.yaml, {_REPOSITORY}"
    yield Preset(
        name="deepsea-1k",
        metric="auroc",
        options=common | {"length": 1000},
        source=source,
        size="tiny-1k-d256",
        notes=(
            batch,
            "choice: 1,000 bases, as DeepSEA. The yaml has 1,024",
            "not followed with a checkpoint: the paper's model has 8 layers of width 256, which no published one "
            "for 1,024 bases has. `method` scratch makes it so",
        ),
        data=data,
        benchmark="chromatin",
        dataset="1k",
        bases=1000,
        shape={"n_layer": 8},
    )
    yield Preset(
        name="deepsea-8k",
        metric="auroc",
        options=common | {"length": 8000, "pooling": "last", "accumulate": micro_batches(64, 8000)},
        source=source,
        size="small-32k",
        notes=(batch,),
        data=data,
        benchmark="chromatin",
        dataset="8k",
        bases=8000,
    )


def _species() -> Iterator[Preset]:
    for name, length, lr, size in (
        ("1k", 1024, 6e-5, "tiny-1k"),
        ("32k", 32_768, 3e-4, "small-32k"),
        ("250k", 250_000, 6e-5, "medium-450k"),
        ("450k", 450_000, 6e-4, "medium-450k"),
        ("1m", 1_000_000, 6e-5, "large-1m"),
    ):
        # The yaml: "use 256 < 64k seqs, use 128 > 64k seqs".
        batch = 256 if length < 65_536 else 128
        options: dict[str, Any] = {
            "length": length, "lr": lr, "batch_size": batch, "epochs": 200, "patience": 200,
            "accumulate": micro_batches(batch, length),
        }  # fmt: skip
        if length >= 250_000:
            options["pooling"] = "last"
        notes = [
            "choice: 200 epochs of the paper. The sample of the README has 150, and the yaml 100",
            "choice: the pooling of the paper, mean to 32,768 bases and last from 250,000. The README's sample has "
            "last",
            "choice: the first published model that takes the length, because the sources do not name one",
            "the test is on chromosomes 1, 3, 12 and 13, as published. The original has them for validation too; here "
            "chromosomes 5, 7, 9, 10 and 11 choose the epoch",
            "not followed: the original draws new windows in every epoch. Here `species_windows` of each species are "
            "drawn once, in proportion to the length of a chromosome and not one chromosome as often as another",
            "not followed: the original's windows near the end of every chromosome are N in part. Here only those of a "
            "chromosome shorter than `length` are padded with N, past its end, where a split has no longer one",
        ]
        if name == "450k":
            options["warmup_length"] = 1024
            notes.append(
                "choice: lengths that begin at 1,024 and double in every epoch, as the stages of "
                "species_seqlen_warmup_reload.yaml do. The paper has a warm-up of lengths here, without its stages"
            )
        if name == "1m":
            notes.insert(0, "choice: lr 6e-5 of the yaml, because appendix A.10 ends at 450,000 bases")
        yield Preset(
            name=f"species-{name}",
            metric="accuracy",
            options=_COMMON | options,
            source=f"{PAPER}, appendix A.10; species.yaml, {_REPOSITORY}",
            size=size,
            notes=tuple(notes),
            data="assembled chromosomes of human, lemur, mouse, pig and hippo, whose addresses are in the README of "
            "the HyenaDNA repository; `data` is the folder with human/chr1.fna, human/chr2.fna, ..., "
            "lemur/chr1.fna, and so on",
            benchmark="species",
            dataset=name,
            bases=length,
        )


def _cancer() -> Iterator[Preset]:
    common = {
        "epochs": 20, "patience": 20, "lr": 6e-4, "weight_decay": 0.1, "clip": 1.0, "lr_warmup_steps": 250,
        "lr_steps": 25_000, "min_lr_factor": 5.99e-5 / 6e-4,
    }  # fmt: skip
    notes = [
        "choice: 20 epochs, the fewest of the 20 to 200 of the thesis, and the mean over the bases, because it does "
        "not state the pooling",
        "not followed: the published accuracy is the best of the test. Here held-out lines of the training choose the "
        "epoch",
        "not followed: the thesis reads N as an unknown letter. Here N has a token, as in the published tokenizer",
        "the warm-up begins at 1/250 of the peak (2.4e-6, in the thesis 1e-6), and the cosine begins after it",
    ]
    for name, size, bases, options, more in (
        ("1k", "tiny-1k", 1024, {"batch_size": 8},
         ["choice: tiny-1k of width 128. The thesis says width 256 and 436 K parameters, which fit 128"]),
        ("32k", "small-32k", 32_768, {"batch_size": 2}, []),
        ("32k-scratch", "small-32k", 32_768, {"batch_size": 2, "method": "scratch"}, []),
        ("32k-frozen", "small-32k", 32_768, {"batch_size": 2, "method": "frozen"},
         ["no figure: the loss of the published run exploded"]),
    ):  # fmt: skip
        yield Preset(
            name=f"cancer-{name}",
            metric="accuracy",
            options=common | options,
            source=f"{THESIS}, Tables 3.4 and 3.5",
            size=size,
            notes=(*more, *notes),
            data="DepMap (depmap.org, OmicsSomaticMutations.csv and Model.csv) and the GRCh38 FASTA; `data` is the "
            f"folder that hyenadna mutate with --length {bases} makes of them",
            benchmark="cancer",
            dataset=name,
            bases=bases,
        )


def _prompts() -> Iterator[Preset]:
    data = (
        "a dataset of GenomicBenchmarks, see the presets gb-...; `data` is its folder with train/CLASS/*.txt and "
        "test/CLASS/*.txt"
    )
    no_figure = "no figure: the sources that were read give none in numbers"
    answer = "not followed: the original takes the likeliest of all tokens. Here it is the likeliest of the letters"
    soft = {
        "method": "soft-prompt", "epochs": 20, "patience": 2, "lr": 1e-3, "weight_decay": 0.0, "lr_warmup": 0.0,
        "lr_schedule": "plateau", "min_lr_factor": 0.0, "clip": 1.0, "batch_size": 16, "accumulate": 8,
        "ema_decay": 0.9, "reverse_complement": True, "prompt_tokens": 32, "prompt_dropout": 0.1,
    }  # fmt: skip
    soft_notes = (
        no_figure,
        "choice: 32 vectors, of the 2 to 32,768 of the source. They start as bases, there as small random numbers",
        "choice: the moving average at 0.9 of the configuration. The script has it commented out",
        "not followed: the original chooses the epoch and lowers the rate by the loss of the test split. Here the "
        "metric of the validation split decides",
        "not followed: demonstrations behind the vectors, which the original tries as well",
        _LONGER,
        answer,
    )
    few = {
        "method": "few-shot", "epochs": 1, "lr": 1e-4, "weight_decay": 0.0, "lr_warmup": 0.0, "min_lr_factor": 1.0,
        "clip": 1.0, "batch_size": 2, "train_examples": 256, "shots": 2, "eval_shots": [0, 2, 16, 32],
    }  # fmt: skip
    few_notes = (
        no_figure,
        "choice: 256 tuning samples (`train_examples`; the source has 2, 16, 64 and 256) and 2 demonstrations of each "
        "class in training (`shots`; 0, 2, 16 and 32)",
        "not followed: the original tests with as many demonstrations as it was trained with. Here one model is tested "
        "with each number of `eval_shots`",
        "not followed: the original learns the answers of the demonstrations too, and draws others for every sequence. "
        "Here the last answer alone is learnt, and a batch shares its demonstrations",
        _LONGER,
        answer,
    )
    # The letters of the repository's scripts: two classes answer A and N, the three of regulatory A, G and N.
    for ending, letters, classes in (("", "AN", "two"), ("-3", "AGN", "three")):
        for name, options, notes in (("soft-prompt", soft, soft_notes), ("few-shot", few, few_notes)):
            script = {"soft-prompt": "soft_prompting", "few-shot": "instruction_tuned"}[name]
            yield Preset(
                name=f"{name}{ending}",
                metric="accuracy",
                options=options | {"letters": letters},
                source=f"{script}_genomics.yaml, {_REPOSITORY}; {PAPER}, section 4.3",
                size="medium-160k",
                notes=(f"for {classes} classes, which answer {', '.join(letters)}", *notes),
                data=data,
            )


PRESETS: dict[str, Preset] = {
    found.name: found
    for presets in (_genomic_benchmarks, _nucleotide_transformer, _chromatin, _species, _cancer, _prompts)
    for found in presets()
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none. The message lists the presets.
    """
    if name not in PRESETS:
        raise InputError(f"`preset` {name}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
