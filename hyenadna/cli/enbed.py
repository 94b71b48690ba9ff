"""The verbs ``hyenadna enbed KIND``."""

from __future__ import annotations

from typing import Any

from hyenadna.cli.verb import Verb


def _report_pretraining(config: Any, results: dict[str, Any]) -> str:
    lines = [f"{row['method']:<12} {row['masked_accuracy']:.4f}" for row in results["table"]]
    return "\n".join(["masked bases predicted right, with teacher forcing:", *lines, f"model in {results['model']}"])


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
)
ENBED = {verb.name.removeprefix("enbed "): verb for verb in VERBS}
