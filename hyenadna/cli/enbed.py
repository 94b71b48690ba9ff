"""The verbs ``hyenadna enbed KIND``."""

from __future__ import annotations

from typing import Any

from hyenadna.cli.verb import Verb, load


def _report_pretraining(config: Any, results: dict[str, Any]) -> str:
    lines = [f"{row['method']:<12} {row['masked_accuracy']:.4f}" for row in results["table"]]
    return "\n".join(["masked bases predicted right, with teacher forcing:", *lines, f"model in {results['model']}"])


def _report_noise(config: Any, results: dict[str, Any]) -> str:
    return f"{load('hyenadna.enbed.noise:describe')(results)}\npage, results and models in {config.out}"


def _report_annotation(config: Any, results: dict[str, Any]) -> str:
    return f"{load('hyenadna.enbed.annotate:describe')(results)}\npage, results and model in {config.out}"


VERBS: tuple[Verb, ...] = (
    Verb(
        "enbed pretrain",
        "Train an ENBED on genomes, by predicting masked spans of bases. The folder --out receives config.yaml, "
        "metrics.jsonl, checkpoints, results.json with yardsticks, a picture and, at the end, model/.",
        "hyenadna enbed pretrain --genomes genome --valid_contigs chrXVI --size enbed-small --length 512 --out run\n"
        "  hyenadna enbed pretrain --config run/config.yaml --resume",
        "hyenadna.enbed.pretrain_config:PretrainConfig",
        "hyenadna.enbed.pretrain:pretrain",
        _report_pretraining,
        resumes=True,
    ),
    Verb(
        "enbed noise",
        "Tell sequences with insertions, deletions and mismatches from clean ones. Sequences are made telomeres, or "
        "windows of a FASTA. Classifiers start from a checkpoint and from nothing, beside logistic regression on "
        "words. Writes one page.",
        "hyenadna enbed noise --model run/model --out noise --jobs 2",
        "hyenadna.enbed.noise_config:NoiseConfig",
        "hyenadna.enbed.noise:study",
        _report_noise,
    ),
    Verb(
        "enbed annotate",
        "Train an ENBED to write the biotype of a sequence. Examples come from a GTF and its genome, held out by "
        "contig. Yardsticks are the commonest biotype, the length alone and words. Writes one page.",
        "hyenadna enbed annotate --gtf genes.gtf.gz --genome genome --valid_contigs chrXV --test_contigs chrXVI "
        "--out biotypes",
        "hyenadna.enbed.annotate_config:AnnotateConfig",
        "hyenadna.enbed.annotate:annotate",
        _report_annotation,
        resumes=True,
    ),
)
ENBED = {verb.name.removeprefix("enbed "): verb for verb in VERBS}
