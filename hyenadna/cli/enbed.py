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


def _report_attention(config: Any, heads: Any) -> str:
    return str(load("hyenadna.enbed.attention:describe")(config, heads))


def _report_pairs(config: Any, report: dict[str, Any]) -> str:
    return load("hyenadna.enbed.pairs:describe")(report, config.out)


def _report_evolve(config: Any, results: dict[str, Any]) -> str:
    return load("hyenadna.enbed.evolve_page:describe")(results, config.out)


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
    Verb(
        "enbed attention",
        "Show what each head of the encoder looks at. The folder --out receives a picture of each layer, the weights "
        "and a table of the heads.",
        "hyenadna enbed attention --model run/model --sequence ACGTACGTTTGACA --out heads\n"
        "  hyenadna enbed attention --model run/model --fasta gene.fa --layers '[1, 6]' --out heads",
        "hyenadna.enbed.attention_config:AttentionConfig",
        "hyenadna.enbed.attention:attention",
        _report_attention,
    ),
    Verb(
        "enbed mutate-pairs",
        "Make a table of parents and children, split by clades or by date. They are from a table, from a tree with "
        "ancestral sequences, or from a synthetic phylogeny. The folder --out receives pairs.tsv and report.json.",
        "hyenadna enbed mutate-pairs --simulate 2000 --out pairs\n"
        "  hyenadna enbed mutate-pairs --newick tree.nwk --states states.txt --tips tips.fa --start 329 --end 828 "
        "--out pairs\n"
        "  hyenadna enbed mutate-pairs --table pairs.csv --split date --out pairs",
        "hyenadna.enbed.pairs_config:PairsConfig",
        "hyenadna.enbed.pairs:mutate_pairs",
        _report_pairs,
    ),
    Verb(
        "enbed evolve",
        "Train a model to write the child of a parent, and compare it with copies of the parent. The folder --out "
        "receives checkpoints, model/, results.json, candidates.tsv, a tree and report.html.",
        "hyenadna enbed evolve --simulate 2000 --out evolved\n"
        "  hyenadna enbed evolve --pairs pairs --model run/model --noise_model noise/model --out evolved",
        "hyenadna.enbed.evolve_config:EvolveConfig",
        "hyenadna.enbed.evolve:evolve",
        _report_evolve,
        resumes=True,
    ),
)
ENBED = {verb.name.removeprefix("enbed "): verb for verb in VERBS}
