from __future__ import annotations

import numpy as np

from hyenadna.enbed.telomeres import YEAST, telomere, telomeres


def letters(ids: np.ndarray) -> str:
    return "".join("???????ACGTN"[i] for i in ids.tolist())


def test_telomeres_repeat_their_motif() -> None:
    rng = np.random.default_rng(0)
    both = {letters(telomere("TTAGGG", 12, rng)) for _ in range(200)}
    repeats = "TTAGGG" * 3
    turned = "CCCTAA" * 3
    assert both == {text[first : first + 12] for text in (repeats, turned) for first in range(6)}
    for _ in range(50):
        text = letters(telomere(YEAST, 30, rng))
        text = text if "G" in text else text[::-1].translate(str.maketrans("AC", "TG"))
        assert len(text) == 30
        assert all(1 <= len(part) <= 3 for part in text.split("T")[1:-1])


def test_motifs_take_turns() -> None:
    found = telomeres(["TTAGGG", "AC"], 5, 40, np.random.default_rng(0))
    assert [len(ids) for ids in found] == [40] * 5
    assert ["TTAGGG" in letters(ids) or "CCCTAA" in letters(ids) for ids in found] == [True, False] * 2 + [True]
    again = telomeres(["TTAGGG", "AC"], 5, 40, np.random.default_rng(0))
    assert [letters(ids) for ids in again] == [letters(ids) for ids in found]
