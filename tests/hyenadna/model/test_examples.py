"""The examples in the docstrings of the public classes."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from hyenadna.model import config, heads, modeling, tokenizer


@pytest.mark.parametrize("module", [config, heads, modeling, tokenizer], ids=lambda module: module.__name__)
def test_examples_give_what_they_show(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0
