"""Comparison of drawings, for the tests of all pages that have some."""

from __future__ import annotations

import re

import numpy as np


def assert_same_drawing(stored: str, made: str) -> None:
    """Byte for byte but for a coordinate's last digit, which a logarithm of another processor may round otherwise."""
    one, other = (re.split(r"(-?\d+\.\d{6})", text) for text in (stored, made))
    assert one[::2] == other[::2]
    assert np.abs(np.array(one[1::2], float) - np.array(other[1::2], float)).max() < 1.5e-6
