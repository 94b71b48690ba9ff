from __future__ import annotations

import numpy as np
import pytest

from hyenadna.common.errors import InputError
from hyenadna.enbed.spans import corrupt, joined, noise_counts, noise_mask
from hyenadna.encoder_decoder.tokens import EOS, FIRST_SENTINEL, text_ids, tokenizer


def letters(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([68, 70, 74, 87], length).astype(np.int64)


def test_counts_are_those_of_the_paper() -> None:
    assert noise_counts(512, 0.15, 20) == (77, 4)
    assert noise_counts(16_384, 0.15, 20) == (2458, 123)
    source, target = corrupt(ids := letters(512), noise_mask(512, 0.15, 20, np.random.default_rng(0)))
    assert (len(source), len(target)) == (440, 82)
    assert np.array_equal(joined(source, target), ids)


@pytest.mark.parametrize("length", [2, 3, 10, 37, 512, 2000])
@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 20.0), (0.5, 3.0), (0.9, 1.0), (0.001, 5.0)])
def test_a_sequence_comes_back_from_its_spans(length: int, density: float, mean_span: float) -> None:
    if length * min(density, 1 - density) / mean_span > 125:
        pytest.skip("more spans than sentinels")
    rng = np.random.default_rng(1)
    noise, spans = noise_counts(length, density, mean_span)
    for seed in range(5):
        ids = letters(length, seed)
        mask = noise_mask(length, density, mean_span, rng)
        assert int(mask.sum()) == noise
        # The first byte is never masked, and the last always is.
        assert not mask[0]
        assert mask[-1]
        source, target = corrupt(ids, mask)
        assert source[-1] == target[-1] == EOS
        assert len(source) == length - noise + spans + 1
        assert len(target) == noise + spans + 1
        for row in (source, target):
            sentinels = row[row >= FIRST_SENTINEL]
            assert sentinels.tolist() == list(range(FIRST_SENTINEL, FIRST_SENTINEL + spans))
        assert np.array_equal(joined(source, target), ids)


def test_an_example_by_hand() -> None:
    mask = np.array([0, 0, 1, 1, 0, 1], dtype=bool)
    source, target = corrupt(text_ids("ACGTAC", eos=False), mask)
    byt5 = tokenizer()
    assert byt5.decode(source) == "AC<extra_id_0>A<extra_id_1></s>"
    assert byt5.decode(target) == "<extra_id_0>GT<extra_id_1>C</s>"


def test_all_divisions_are_equally_likely() -> None:
    rng = np.random.default_rng(0)
    # Three masked bytes in two spans: 1 + 2 or 2 + 1.
    firsts = [int(np.argmin(mask[np.argmax(mask) :])) for mask in (noise_mask(9, 1 / 3, 1.5, rng) for _ in range(4000))]
    share = firsts.count(1) / len(firsts)
    assert set(firsts) == {1, 2}
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / len(firsts))


@pytest.mark.parametrize(
    ("length", "mean_span", "message"),
    [(16_384, 19.0, "takes 129 sentinels, and there are 125"), (1, 20.0, "too short")],
)
def test_what_does_not_fit_is_refused(length: int, mean_span: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        noise_counts(length, 0.15, mean_span)
