"""The documentation is true: its Python examples are executed."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_examples_of_the_packing_page_give_what_they_say() -> None:
    """All of them, in order, as a reader would type them."""
    results = doctest.testfile(str(DOCS / "packing.md"), module_relative=False)

    assert 0 == results.failed
    assert results.attempted > 0
