"""docs/reference matches the code: commands, options, operators, events, files, findings."""

from __future__ import annotations

import pytest

from docs.generate import REFERENCE, pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    """An argument that is renamed, a flag that goes, an event that changes: all of it shows here."""
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name], "run `python -m docs.generate`"


def test_every_argument_of_an_operator_is_explained() -> None:
    unexplained = [line for line in PAGES["operators.md"].splitlines() if line.startswith("| `") and "|  |" in line]
    assert unexplained == []
