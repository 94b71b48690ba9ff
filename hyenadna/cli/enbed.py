"""The verbs ``hyenadna enbed KIND``."""

from __future__ import annotations

from typing import Any

from hyenadna.cli.verb import Verb, load


def _report_pretraining(config: Any, results: dict[str, Any]) -> str:
    lines = [f"{row['method']:<12} {row['masked_accuracy']:.4f}" for row in results["table"]]
    return "\n".join(["masked bases predicted right, with teacher forcing:", *lines, f"model in {results['model']}"])


def _report_attention(config: Any, heads: Any) -> str:
    return str(load("hyenadna.enbed.attention:describe")(config, heads))


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
        "enbed attention",
        "Show what each head of the encoder looks at. The folder --out receives a picture of each layer, the weights "
        "and a table of the heads.",
        "hyenadna enbed attention --model run/model --sequence ACGTACGTTTGACA --out heads\n"
        "  hyenadna enbed attention --model run/model --fasta gene.fa --layers '[1, 6]' --out heads",
        "hyenadna.enbed.attention_config:AttentionConfig",
        "hyenadna.enbed.attention:attention",
        _report_attention,
    ),
)
ENBED = {verb.name.removeprefix("enbed "): verb for verb in VERBS}
