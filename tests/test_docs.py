"""The documentation is true: its Python examples are executed."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md") if ">>>" in page.read_text()))
def test_examples_of_a_page_give_what_they_say(page: str) -> None:
    """All of them, in order, as a reader would type them."""
    results = doctest.testfile(str(DOCS / page), module_relative=False)

    assert 0 == results.failed
    assert results.attempted > 0
