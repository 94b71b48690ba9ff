"""Published probes of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hyenadna.common.errors import InputError
from hyenadna.published.figure import Figure
from hyenadna.published.tables import figures


@dataclass(frozen=True)
class ProbePreset:
    """A published probe.

    Attributes:
        classifier: the classifier of ``hyenadna.evaluation.probe`` that is compared with the published figures.
        metric: the metric that was published.
        published: the published figures of all models.
        options: fields of ``ProbeConfig``.
    """

    classifier: str
    metric: str
    published: tuple[Figure, ...]
    options: dict[str, Any] = field(default_factory=dict)


PROBE_PRESETS = {
    "biotypes": ProbePreset("trees", "f1_weighted", tuple(figures("biotypes")), {"top_classes": 10, "trees": 1000})
}
"""The probe of biotypes: whole genes of the 10 most frequent biotypes, by XGBoost with 1000 trees of depth 3 and a
learning rate of 0.1. How genes were divided into training and test is not published. Nguyen et al., "HyenaDNA", 2023
(arXiv 2306.15794), table 4.4."""


def probe_preset(name: str) -> ProbePreset:
    """The preset of that name.

    Raises:
        InputError: there is none. The message lists the presets.
    """
    if name not in PROBE_PRESETS:
        raise InputError(f"`preset` {name}: choose {' or '.join(PROBE_PRESETS)}")
    return PROBE_PRESETS[name]
